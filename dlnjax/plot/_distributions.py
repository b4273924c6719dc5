"""Pictures of distributions over seeds."""

from collections.abc import Mapping
from typing import Any, Literal, TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from dlnjax.plot._data import at_time, flows_of, results_of, say_failures
from dlnjax.plot._grid import require_axes
from dlnjax.plot._style import ink, new_axes

if TYPE_CHECKING:
    import xarray


def effective_rank_violins(
    sols: Mapping[Any, Any],
    *,
    time: float | None = None,
    ax: Axes | None = None,
    color: str = "C0",
    side: Literal["both", "low", "high"] = "both",
) -> Axes:
    """Effective rank (4.23) over a parameter: for each value a violin of the seeds, their mean and two standard errors.

    **Arguments:** `sols`, a mapping from values of the parameter to the `FlowSolution` of a sweep or its xarray form;
    `time`, of which the nearest saved time is drawn, by default the last; `side`, "low" or "high" for half violins, so
    that two calls can stand back to back.

    **Raises:** `ValueError` if `sols` is empty.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> options = dict(ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> sols = {depth: dln.sweep(energy, starts, depth=depth, **options) for depth in (2, 3)}
        >>> [label.get_text() for label in dln.plot.effective_rank_violins(sols).get_xticklabels()]
        ['2', '3']
    """
    if not isinstance(sols, Mapping):
        raise TypeError(f"sols must be a mapping such as {{0.1: sol, 1.0: other}}, got {type(sols).__name__}.")
    if not sols:
        raise ValueError("effective_rank_violins got no solutions: pass a mapping such as {0.1: sol, 1.0: other}.")
    chosen = [flows_of(sol, "effective_rank") for sol in sols.values()]
    for data in chosen:
        require_axes(data["effective_rank"], ())
    values = [_finite(at_time(data, "effective_rank", time)) for data in chosen]
    color, ax = ink(color, ax), new_axes(ax)
    places = np.arange(len(values))
    # A violin needs a number: where all seeds have failed, its place is empty.
    drawn = [k for k, v in enumerate(values) if len(v)]
    parts = ax.violinplot([values[k] for k in drawn], drawn, widths=0.85, showextrema=False, side=side) if drawn else {}
    for body in parts.get("bodies", ()):  # pyright: ignore[reportAttributeAccessIssue, reportGeneralTypeIssues]
        body.set(facecolor=color, alpha=0.45, edgecolor=color, linewidth=0.4)
    shift = {"both": 0.0, "low": -0.08, "high": 0.08}[side]
    means = [v.mean() if len(v) else np.nan for v in values]
    errors = [2 * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else np.nan for v in values]
    ax.errorbar(places + shift, means, errors, fmt="o", color=color, markersize=2, lw=0.8)
    ax.set_xticks(places, [str(label) for label in sols])
    ax.set_ylabel("effective rank")
    say_failures(ax, results_of(*chosen))
    return ax


def _finite(rank: "xarray.DataArray") -> np.ndarray:
    values = rank.values.ravel()
    return values[np.isfinite(values)]
