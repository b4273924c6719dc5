"""What a drawing is made of: axes, marks and colours, as plain data that the script of the page draws."""

import math
from typing import Any, TypeAlias

import numpy as np

from dlnjax.plot._grid import colours as shades

Drawing: TypeAlias = dict[str, Any]
Mark: TypeAlias = dict[str, Any]

# Okabe and Ito's colours, as in the style of `dlnjax.plot`.
BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#999999"
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
# An axis over less than this ratio would have one or two powers of ten.
_FEW_DECADES = 50
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def drawing(title: str, x: dict[str, Any], y: dict[str, Any], marks: list[Mark], **more: Any) -> Drawing:
    """A picture with two axes. `more` may have `click`, what a click in it is for, and `note`, a line below it."""
    return {"title": title, "x": x, "y": y, "marks": marks, **more}


def linear(label: str, low: float, high: float, ticks: list[tuple[float, str]] | None = None) -> dict[str, Any]:
    """A linear axis, with about five ticks at round numbers."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return {
        "label": label,
        "kind": "linear",
        "low": low,
        "high": high,
        "ticks": _round_ticks(low, high) if ticks is None else ticks,
    }


def logarithmic(label: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis, with ticks at powers of ten, and at their double and fivefold where there is room."""
    return {"label": label, "kind": "log", "low": low, "high": high, "ticks": _powers(low, high)}


def from_zero(label: str, first: float, high: float) -> dict[str, Any]:
    """An axis that is linear up to `first` and logarithmic after it, so that it begins at 0."""
    ticks = [(0.0, "0"), *_powers(first, high)]
    return {"label": label, "kind": "symlog", "low": 0.0, "high": high, "first": first, "ticks": ticks}


def _round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    gap = next(power * k for k in (1, 2, 5, 10) if (high - low) / (power * k) <= 5.5)
    values = gap * np.arange(math.ceil(low / gap - 1e-9), math.floor(high / gap + 1e-9) + 1)
    return [(float(value), f"{value:.6g}".replace("-", "−")) for value in values + 0.0]


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if high / low < _FEW_DECADES:
        values = [m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [(value, f"{value:.6g}") for value in values if low <= value <= high]
    gap = max(1, -(-(last - first) // 5))
    return [(10.0**k, power_of_ten(k)) for k in range(first, last + 1, gap)]


def power_of_ten(k: int) -> str:
    return {0: "1", 1: "10"}.get(k, "10" + str(k).translate(_SUPERSCRIPTS))


def line(x: Any, y: Any, color: str, **more: Any) -> Mark:
    """A line through points, which is interrupted where y is NaN."""
    return {"kind": "line", "x": _numbers(x), "y": _numbers(y), "color": color, **more}


def band(x: Any, low: Any, high: Any, color: str) -> Mark:
    return {"kind": "band", "x": _numbers(x), "low": _numbers(low), "high": _numbers(high), "color": color}


def dots(x: Any, y: Any, color: str, **more: Any) -> Mark:
    """A dot at each point; `color` is one colour or a list of them."""
    return {"kind": "dots", "x": _numbers(x), "y": _numbers(y), "color": color, **more}


def rule(x: float, **more: Any) -> Mark:
    """A vertical line through the whole picture."""
    return {"kind": "rule", "x": float(x), **more}


def cells(colors: list[list[str]], texts: list[list[str]], **more: Any) -> Mark:
    """A table of coloured cells: cell (i, j) is 1 high and wide, with its centre at x = j, y = i."""
    return {"kind": "cells", "colors": colors, "texts": texts, **more}


def _numbers(values: Any) -> list[float | None]:
    """The numbers with five digits, and None for NaN and infinity, which JSON does not have."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, float).tolist()]


def by_index(n: int) -> list[str]:
    """A colour for each of `n` curves, from dark to light."""
    return [as_hex(rgb) for rgb in shades(n)]


def shade(values: np.ndarray, low: float, high: float) -> list[list[str]]:
    """The colour of each number between `low` and `high`, from dark to light; a NaN is almost white."""
    share = np.clip((values - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    scale = shades(101)
    return [["#f4f4f4" if math.isnan(s) else as_hex(scale[round(100 * s)]) for s in row] for row in share.tolist()]


def signed(values: np.ndarray, most: float) -> list[list[str]]:
    """The colour of each number from -`most` to `most`: orange below 0, white at 0, blue above."""
    white, ends = np.ones(3), {-1: _rgb(ORANGE), 1: _rgb(BLUE)}
    share = np.clip(np.nan_to_num(values) / (most or 1.0), -1.0, 1.0)
    mixed = lambda s: as_hex(white + abs(s) * (ends[1 if s >= 0 else -1] - white))
    return [[mixed(s) for s in row] for row in share.tolist()]


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)])


def as_hex(rgb: Any) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in rgb[:3])
