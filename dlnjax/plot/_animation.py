"""Flows as moving pictures."""

from typing import Any

import numpy as np
from matplotlib.animation import FuncAnimation

from dlnjax.plot._flow import singular_values
from dlnjax.plot._style import new_figure, style

# The seconds that an animation takes, and the most pictures of a second.
_SECONDS, _RATE = 8.0, 20.0


def animate(sol: Any) -> FuncAnimation:
    """A flow as an animation, with one picture for each saved time: its singular values with a cursor, and X(t).

    `animate(sol).save("flow.gif")` writes it to a file, and `IPython.display.HTML(animate(sol).to_jshtml())` shows it
    in a notebook. Take times that are evenly spaced on the axis that is to be seen, such as `jnp.geomspace`.

    **Arguments:** `sol`, the `FlowSolution` of one flow.

    **Raises:** `TypeError` for what is no flow; `ValueError` for a sweep: choose a seed first, `sol[0]`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 1.0, 2.0, 20.0])
        >>> dln.plot.animate(sol).save("flow.gif")
        >>> Path("flow.gif").exists()
        True
    """
    if not (hasattr(sol, "ts") and hasattr(sol, "sigma")):
        raise TypeError(f"sol must be the FlowSolution of one flow, got {type(sol).__name__}.")
    if not hasattr(sol, "x"):
        raise ValueError("animate draws the states X(t), and a flow with observe keeps none: leave observe out.")
    times, x = np.asarray(sol.ts), np.asarray(sol.x)
    if x.ndim != 3:
        raise ValueError("animate draws one flow, got a sweep: choose a seed first, such as sol[0].")
    largest = float(np.nanmax(np.abs(x)))
    with style():
        figure = new_figure(6.8, 3.0)
        left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
        singular_values(sol, ax=left)
        cursor = left.axvline(times[0], color="black", lw=0.8)
        # Colours from minus to plus the largest entry, with white at 0.
        image = right.imshow(x[0], cmap="PuOr", vmin=-largest, vmax=largest)
        figure.colorbar(image, ax=right, label=r"$X_{ij}(t)$")
        right.set(xticks=[], yticks=[], xlabel="column", ylabel="row")
        title = right.set_title("")

    def show(k: int) -> tuple[Any, ...]:
        cursor.set_xdata([times[k]] * 2)
        image.set_data(x[k])
        title.set_text(f"$t$ = {times[k]:.3g}")
        return cursor, image, title

    pause = 1000 * max(_SECONDS / len(times), 1 / _RATE)
    return FuncAnimation(figure, show, frames=len(times), interval=pause, blit=False)
