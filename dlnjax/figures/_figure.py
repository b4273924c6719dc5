"""The parts of a figure of the report, and the statistics that its numbers are made by."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure as Drawing

if TYPE_CHECKING:
    import xarray

NAN = math.nan
_SAMPLED = "The expected value is sampled too: the two agree within three standard errors of their difference."


class Number(NamedTuple):
    """One row of the table: what the thesis says, and what came out here.

    `expected` is the same number from an independent computation, where there is one; `note` explains a deviation from
    it, or from the thesis, of more than three standard errors.
    """

    quantity: str
    thesis: str
    here: float
    standard_error: float
    verdict: str
    expected: float = NAN
    note: str = ""


class Figure(NamedTuple):
    """A figure: `compute(key, seeds)` its data, `draw` it from them alone, and the `numbers` that they hold.

    `text` says in two or three sentences what it shows; `parameters` in one line with what it was made, and
    `counted` what the `seeds` are.
    """

    name: str
    title: str
    seeds: int
    compute: Callable[[PRNGKeyArray, int], "xarray.Dataset"]
    draw: Callable[["xarray.Dataset"], Drawing]
    numbers: Callable[["xarray.Dataset"], list[Number]]
    text: str = ""
    parameters: str = ""
    counted: str = "random starts for each ensemble"


def mean(values) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def share(values) -> tuple[float, float]:
    """The share of seeds for which a value is true, and its standard error.

    The error uses Laplace's rule of succession. The usual formula gives 1 with an error of 0 if all of n are true.
    """

    values = np.asarray(values, dtype=bool)
    likely = (values.sum() + 1) / (len(values) + 2)
    return float(values.mean()), float(np.sqrt(likely * (1 - likely) / len(values)))


def median(values) -> tuple[float, float]:
    """The median over seeds, and its standard error by the bootstrap."""
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(values, (400, len(values)))
    return float(np.median(values)), float(np.median(draws, axis=1).std())


def two_errors(values: "xarray.DataArray") -> "xarray.DataArray":
    """Two standard errors of the mean over seeds."""
    return 2 * values.std("seed", ddof=1) / np.sqrt(values.sizes["seed"])


def shown_depth(depth: float) -> str:
    """A depth in the mathematical notation of matplotlib."""
    return r"\infty" if math.isinf(depth) else f"{depth:g}"


def verdict(agrees: bool, otherwise: str = "disagrees") -> str:
    return "agrees" if agrees else otherwise


def half_digit(expected: float) -> float:
    """Half of the last decimal that a number is given to: 0.05 for 1.3."""
    exponent = Decimal(str(expected)).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


def measured(quantity: str, here: tuple[float, float], expected: float = NAN, thesis: str = "-", note: str = ""):
    """A row judged by what was `expected`: a sampled value too, of about as many draws, and rounded to its last digit.

    **Arguments:** `here`, the value and its standard error; `note`, kept where they are further apart than that.
    """
    value, error = here
    if math.isnan(expected):
        return Number(quantity, thesis, value, error, "measured", note=note)
    off, rounding = abs(value - expected), half_digit(expected)
    agrees = bool(off <= 3 * math.sqrt(2) * error + rounding)
    sentence = (note or _SAMPLED * agrees) if off > 3 * error + rounding else ""
    word = verdict(agrees, "explained" if note and math.isfinite(value) else "disagrees")
    return Number(quantity, thesis, value, error, word, expected, sentence)
