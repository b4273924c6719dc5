"""How a solution is shown: a line of text, a small picture in a notebook, and its first figure."""

import abc
import dataclasses
import html
from typing import Any, get_args, NamedTuple

import equinox as eqx
import jax
import numpy as np

from dlnjax._checks import is_concrete, require_known
from dlnjax._results import name_counts

# The label of an axis for the time of the 1/N-normalised flow.
FLOW_TIME = r"time $t$ (1/N-normalised flow)"
_WIDTH, _HEIGHT, _MODES, _POINTS, _SEEDS = 220.0, 64.0, 12, 120, 300


class Curves(NamedTuple):
    """The singular values along a solution, `sigma`, `[n] t d`, at the times `along`, `t`, with an axis `label`.

    `result` says which of them have failed, since their last states stand at all later times.
    """

    along: np.ndarray
    sigma: np.ndarray
    label: str
    result: Any = None

    @classmethod
    def of(cls, along: Any, sigma: Any, label: str, *, result: Any = None, held: bool = False) -> "Curves":
        """The curves from arrays with any leading axes, which become one axis `n`.

        With `held`, `along` counts the same steps for all, up to the last of each.
        """
        require_known("a picture", (along, sigma, result))
        along, sigma = np.asarray(along), np.asarray(sigma)
        if sigma.size == 0:
            raise ValueError("there are 0 seeds, and nothing to draw.")
        if along.shape[-1] < 2:
            raise ValueError("this solution holds a single state, and a curve needs two: save more of them.")
        flat = sigma.reshape(-1, *sigma.shape[-2:]) if sigma.ndim > 2 else sigma
        rows = along.reshape(-1, along.shape[-1])
        if not held and np.any(rows != rows[0]):
            raise ValueError(
                f"these {len(rows)} solutions have times of their own, and no common axis: draw each alone."
            )
        return cls(rows.max(axis=0), flat, label, result)


def failures(names: Any) -> str:
    """How many of the results with these names are failures, and of which kind; nothing if there are none."""
    names = np.asarray(names, str).ravel()
    failed = names[~np.isin(names, ["successful", "steady", "stopped"])]
    if len(names) == 1 or not len(failed):
        return "".join(failed)
    return f"{len(failed)} of {len(names)} failed: {name_counts(failed)}"


class Shown(eqx.Module):
    """A solution that can be shown. `_describe` returns its text, and `_curves` its curves if it has any."""

    @abc.abstractmethod
    def _describe(self) -> str: ...

    @abc.abstractmethod
    def _curves(self) -> Curves: ...

    def _title(self) -> str:
        """The depth, or nothing where the solution does not know it."""
        depth = getattr(self, "depth", "")
        if np.ndim(numbers := getattr(depth, "inverse_depth", 0.0)) and np.all(numbers == np.ravel(numbers)[0]):
            depth = jax.tree.map(lambda x: np.asarray(np.ravel(x)[0]), depth)
        return str(depth).replace("inf", r"$\infty$")

    def plot(self, *, ax: Any = None) -> Any:
        """The first figure of a solution: the singular values of one solution, or the effective ranks of many.

        **Arguments:** `ax`, matplotlib's axes to draw in; by default new ones, whose title is the depth.

        **Returns:** the axes. What else there is to draw is in `dlnjax.plot`.

        **Raises:** `ValueError` for a solution that holds a single state.
        """
        from dlnjax import plot

        many = self._curves().sigma.ndim == 3
        drawn = plot.effective_rank(self, ax=ax) if many else plot.singular_values(self, ax=ax)
        if ax is None:
            drawn.set_title(self._title())
        return drawn

    def __repr__(self) -> str:
        if not all(is_concrete(leaf) for leaf in jax.tree.leaves(self)):
            return f"{type(self).__name__}(traced)"
        return self._describe() if _has_values(self) else type(self).__name__

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        if not _has_values(self) or not all(map(is_concrete, jax.tree.leaves(self))):
            return text
        row = "display:flex;flex-wrap:wrap;gap:0 2em;align-items:center"
        try:
            return f'<div style="{row}">{text}{sparkline(self._curves())}</div>'
        except ValueError:
            return text


def _has_values(part: Any) -> bool:
    """Whether each leaf is an array and no field is missing. After `jax.eval_shape` or `eqx.filter` this is false."""
    if dataclasses.is_dataclass(part):
        fields = [(getattr(part, field.name), field.type) for field in dataclasses.fields(part)]
        return all(_has_values(value) or (value is None and _may_be_none(kind)) for value, kind in fields)
    leaves = jax.tree.leaves(part, is_leaf=lambda leaf: leaf is None)
    return all(isinstance(leaf, str) or eqx.is_array_like(leaf) for leaf in leaves)


def _may_be_none(kind: Any) -> bool:
    return kind is Any or type(None) in get_args(kind)


def singular_values_of(x: Any) -> np.ndarray:
    """The singular values of matrices `... d d`, or NaN for a matrix that is not finite."""
    require_known("a picture", x)
    x = np.asarray(x)
    finite = np.isfinite(x).all((-2, -1), keepdims=True)
    sigma = np.linalg.svd(np.where(finite, x, 0.0), compute_uv=False)
    return np.where(finite[..., 0], sigma, np.nan)


def sparkline(curves: Curves) -> str:
    """A small SVG of the singular values on a logarithmic scale, in the colour of the text around it."""
    # The saved states are drawn at equal distances, whatever their times are. Whoever chose the times has spread them.
    along, modes = (_spread(*pair) for pair in zip(curves.sigma.shape[-2:], (_POINTS, _MODES), strict=True))
    sigma, what = curves.sigma[..., along, :][..., modes], "singular values"
    if sigma.ndim == 3:
        n, some = len(sigma), _spread(len(sigma), _SEEDS)
        what = f"medians of the singular values of {len(some)}" + f" of {n}" * (len(some) < n)
        sigma = sigma[some]
    sigma = np.where(sigma > 0, sigma, np.nan)
    if len(along) < 2 or not np.isfinite(sigma).any():
        raise ValueError("there is nothing to draw")
    if sigma.ndim == 3:
        # Where no seed has a value there is no median, and nothing is drawn.
        sigma = np.ma.median(np.ma.masked_invalid(sigma), axis=0).filled(np.nan)
    low, high = np.log10(np.nanmin(sigma)), np.log10(np.nanmax(sigma))
    caption = f"{what}, {10**low:.2g} to {10**high:.2g}"
    x = along / along[-1] * _WIDTH
    y = _HEIGHT * (high - np.log10(sigma)) / max(high - low, 1e-3)
    lines = "".join(_line(x, y[:, k], 1 - 0.6 * k / len(modes)) for k in range(len(modes)))
    return (
        f'<figure style="margin:0"><svg width="{_WIDTH:.0f}" height="{_HEIGHT:.0f}" role="img" '
        f'viewBox="-2 -2 {_WIDTH + 4:.0f} {_HEIGHT + 4:.0f}" aria-label="{caption}" fill="none" stroke="currentColor" '
        f'stroke-width="1.2">{lines}</svg><figcaption style="font-size:smaller">{caption}</figcaption></figure>'
    )


def _spread(n: int, most: int) -> np.ndarray:
    """At most `most` of the indices 0, ..., n - 1, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))


def _line(x: Any, y: Any, opacity: float) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))
    return f'<polyline points="{points}" stroke-opacity="{opacity:.2f}"/>' if points else ""
