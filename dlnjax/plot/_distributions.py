"""Pictures of distributions over seeds."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from dlnjax.plot._flow import ranks
from dlnjax.plot._grid import require_axes
from dlnjax.plot._style import ink, new_axes


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
    chosen = [ranks(sol) for sol in sols.values()]
    for rank in chosen:
        require_axes(rank, ())
    values = [_at(rank, time) for rank in chosen]
    color, ax = ink(color, ax), new_axes(ax)
    places = np.arange(len(values))
    parts = ax.violinplot(values, places, widths=0.85, showextrema=False, side=side)
    for body in parts["bodies"]:  # pyright: ignore[reportAttributeAccessIssue, reportGeneralTypeIssues]
        body.set(facecolor=color, alpha=0.45, edgecolor=color, linewidth=0.4)
    shift = {"both": 0.0, "low": -0.08, "high": 0.08}[side]
    means = [v.mean() for v in values]
    errors = [2 * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else np.nan for v in values]
    ax.errorbar(places + shift, means, errors, fmt="o", color=color, markersize=2, lw=0.8)
    ax.set_xticks(places, [str(label) for label in sols])
    ax.set_ylabel("effective rank")
    return ax


def _at(rank, time: float | None):
    chosen = rank.isel(time=-1) if time is None else rank.sel(time=time, method="nearest")
    values = chosen.values.ravel()
    return values[np.isfinite(values)]
