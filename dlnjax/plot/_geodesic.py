"""Pictures of curves of matrices, geodesics among them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dlnjax._checks import as_count, require_known
from dlnjax._show import Shown
from dlnjax.plot._style import ink, new_axes


def _states(curve: Any, times) -> np.ndarray:
    if isinstance(curve, Shown):
        # A geodesic that did not arrive is refused here.
        curve._curves()
    evaluate = getattr(curve, "evaluate", curve)
    states = evaluate(times) if callable(evaluate) else evaluate
    require_known("a picture", states)
    states = np.asarray(states)
    if states.ndim != 3 or states.shape[-1] != states.shape[-2]:
        raise ValueError(f"curve must give matrices (times, d, d), got shape {states.shape}.")
    if not np.isfinite(states).all():
        raise ValueError("curve must be finite, got NaN or infinity along it.")
    return states


def ellipses(
    curve: Any,
    *,
    ax: Axes | None = None,
    count: int = 9,
    row: float = 0.0,
    color: str = "C0",
    linestyle: str = "-",
) -> Axes:
    """A curve of 2 x 2 matrices as the images of the unit circle under X(t), at times evenly spaced along the axis.

    **Arguments:** `curve`, a `GeodesicSolution`, a callable of times in [0, 1], or matrices `count 2 2`; `row`, the
    height at which the ellipses stand. The largest ellipse is 0.9 high.

    **Raises:** `ValueError` for matrices of another size.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([4.0, 1.0]))
        >>> ax = dln.plot.ellipses(dln.closed_form.diagonal(a, b, 3), count=5)
        >>> len(ax.lines)  # an outline and a first axis for each
        10
    """
    states = _states(curve, np.linspace(0, 1, as_count("count", count)))
    if states.shape[-1] != 2:
        raise ValueError(f"ellipses are for 2 x 2 matrices, got {states.shape[-1]} x {states.shape[-1]}.")
    color, ax, count = ink(color, ax), new_axes(ax), len(states)
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    largest = np.linalg.norm(states, 2, axis=(1, 2)).max()
    # All matrices may be zero, and are then points.
    size = 0.45 / largest if largest > 0 else 0.0
    for k, state in enumerate(states):
        x, y = size * state @ circle
        ax.plot(k + x, row + y, color=color, linestyle=linestyle, lw=0.9)
        # The image of the first axis shows a rotation, which the outline alone does not show.
        ax.plot([k, k + x[0]], [row, row + y[0]], color=color, lw=0.8, marker="o", markersize=2, markevery=[1])
    ax.set_aspect("equal")
    ticks = {"0": 0.0, "1/2": (count - 1) / 2, "1": count - 1.0} if count > 1 else {"0": 0.0}
    ax.set_xticks([*ticks.values()], [*ticks])
    ax.set_xlabel(r"$t$")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    return ax


def singular_value_curves(curve: Any, *, ax: Axes | None = None, color: str = "C0", label: str | None = None) -> Axes:
    """The singular values along a curve of matrices, on a logarithmic axis.

    **Arguments:** `curve`, as in `ellipses`, of any size; `label`, for a legend.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([4.0, 1.0]))
        >>> ax = dln.plot.singular_value_curves(dln.closed_form.diagonal(a, b, 3))
        >>> ax.get_yscale()
        'log'
    """
    states = _states(curve, np.linspace(0, 1, 101))
    color, ax = ink(color, ax), new_axes(ax)
    sigma = np.linalg.svd(states, compute_uv=False)
    # A value of zero has no place on a logarithmic axis. Matplotlib would put it at the lower edge, and draw a jump.
    sigma = np.where(sigma > 0, sigma, np.nan)
    lines = ax.semilogy(np.linspace(0, 1, len(sigma)), sigma, color=color, lw=1)
    lines[0].set_label(label)
    ax.set(xlabel=r"$t$", ylabel=r"singular values $\sigma_i$", xlim=(0, 1))
    return ax
