"""The parts of a figure of the report, and the statistics from which its numbers are computed."""

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
# The tables show six digits of a value. A smaller standard error, relative to the value, is one of rounding.
SHOWN = 1e-6
BASES = {
    "exact value": "Neither number is sampled, so that there is no standard error: they agree to the last digit of the "
    "expected value, or within the bound that the code of the figure names. Proofs of statements are judged "
    "by dlnjax claims, and not here.",
    "statistics": "The number is a mean, a median or a share of random draws. It agrees if it is within three standard "
    "errors of the expected value; if that one is sampled too, within three of their difference.",
    "wording": "The thesis has a word or a claim and no number. The word is taken to mean a bound, which the code of "
    "the figure names.",
    "bound": "A test or a bound chosen beforehand, such as a p-value above 0.01 or no path lost.",
}


class Number(NamedTuple):
    """One row of the table: what the thesis says, and what was measured here.

    `expected` is the same number from an independent computation, or NaN if there is none. `note` explains a deviation
    of more than three standard errors from `expected` or from the thesis. `source` says where `expected` comes from, if
    this is not what the figure says for all its rows. `rounding` is by how much `expected` may be rounded, and
    `expected_error` is its standard error, 0 where it is not sampled.
    """

    quantity: str
    thesis: str
    here: float
    standard_error: float
    verdict: str
    expected: float = NAN
    note: str = ""
    source: str = ""
    rounding: float = 0.0
    expected_error: float = 0.0


class Figure(NamedTuple):
    """A figure. `compute(key, seeds)` makes its data, `draw` draws it from these alone, `numbers` reads its numbers
    off.

    `text` says in two or three sentences what the figure shows. `parameters` says in one line how the data were made,
    `counted` says what `seeds` counts, and `source` says where the expected values come from. `look` is the number of
    seeds for a quick look, where a tenth of them, and at least ten, would take long or show little.
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
    source: str = "an independent computation with other draws"
    look: int | None = None

    def size(self, quick: bool) -> int:
        """The usual number of seeds, of a quick look or of the whole figure."""
        fewer = max(10, self.seeds // 10) if self.look is None else self.look
        return min(self.seeds, fewer) if quick else self.seeds


def mean(values) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def share(values) -> tuple[float, float]:
    """The fraction of seeds for which a value is true, and its standard error.

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


def lettered(figure: Drawing) -> Drawing:
    """The drawing with a letter above each panel, by which its text names the panel."""
    panels = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    for ax, letter in zip(panels, "abcdefgh", strict=False):
        ax.set_title(f"({letter}) {ax.get_title()}".rstrip())
    return figure


def shown_depth(depth: float) -> str:
    """A depth in the mathematical notation of matplotlib."""
    return r"\infty" if math.isinf(depth) else f"{depth:g}"


def verdict(agrees: bool, otherwise: str = "disagrees") -> str:
    return "agrees" if agrees else otherwise


def vanishing(quantity: str, off: float, bound: float) -> Number:
    """A row for an error that is 0 but for rounding or the tolerance of a computation, which `bound` allows for."""
    return Number(quantity, "-", off, 0.0, verdict(off < bound), 0.0)


def half_digit(written: str) -> float:
    """Half a unit of the last decimal with which a number is written: 0.05 for 1.3, and 0.005 for 1.30."""
    exponent = Decimal(written).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


def is_sampled(value: float, error: float) -> bool:
    """Whether the standard error of a value is one of sampling, and not one of rounding."""
    return math.isfinite(error) and error > SHOWN * abs(value)


def off_by(n: Number) -> float:
    """The distance from the expected value in standard errors.

    It is NaN where this ratio has no meaning: where no value is expected, where the standard error is zero or one of
    rounding, and where the distance is within the rounding of the expected value.
    """
    off = n.here - n.expected
    if not (is_sampled(n.here, n.standard_error) and math.isfinite(off)):
        return NAN
    return NAN if abs(off) <= n.rounding and n.rounding > n.standard_error else off / n.standard_error


def basis(n: Number) -> str:
    """How the verdict on a number was found: a key of `BASES`, or "" if nothing is compared."""
    if n.verdict in ("measured", "not measured"):
        return ""
    if math.isnan(n.expected):
        return "bound" if n.thesis == "-" else "wording"
    if not is_sampled(n.here, n.standard_error):
        return "exact value"
    far = abs(n.here - n.expected) > 3 * math.hypot(n.standard_error, n.expected_error) + n.rounding
    return "bound" if far and n.verdict == "agrees" else "statistics"


def measured(
    quantity: str,
    here: tuple[float, float],
    expected: str | float = NAN,
    thesis: str = "-",
    note: str = "",
    *,
    source: str = "",
    expected_error: float | None = None,
) -> Number:
    """A row whose verdict comes from a comparison with `expected`, or is "measured" if that is NaN.

    The two may differ by three standard errors of their difference, and by half a unit of the last digit of `expected`
    where this is a text.

    **Arguments:** `here`, the value and its standard error; `expected`, as a text if it is rounded, for a number does
    not say to how many digits: "0.8050"; `note`, which explains a larger difference, and is left out
    if there is none; `source`, where `expected` comes from, if not from what the figure says; `expected_error`, the
    standard error of `expected`: 0 if it is exact, and by default that of the value here, for an `expected` that was
    sampled with about as many draws.
    """
    value, error = here
    written, expected = expected, float(expected)
    if math.isnan(expected):
        return Number(quantity, thesis, value, error, "measured", note=note, source=source)
    off, rounding = abs(value - expected), half_digit(written) if isinstance(written, str) else 0.0
    expected_error = error if expected_error is None else expected_error
    agrees = bool(off <= 3 * math.hypot(error, expected_error) + rounding)
    sentence = (note or _SAMPLED * agrees) if off > 3 * error + rounding else ""
    word = verdict(agrees, "explained" if note and math.isfinite(value) else "disagrees")
    return Number(quantity, thesis, value, error, word, expected, sentence, source, rounding, expected_error)
