"""Figure 5.2, beyond the thesis: networks of N layers, trained in discrete time, against the flow."""

import jax
import numpy as np
import optax
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import balanced_factors, MatrixCompletion, train
from dlnjax._compile import compiled
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, two_errors, verdict
from dlnjax.figures._shapes import completion_flows, ENERGY, many_diagonal
from dlnjax.plot import new_figure

D, TIME = 10, 2.0
# The numbers of steps of descent to the time TIME. The learning rate is TIME / (N steps).
STEPS = (100, 300, 1000, 3000)
DEPTHS, FLOW_DEPTHS = (2, 3, 10, 50), (2.0, 3.0, 10.0, 50.0, 200.0, 1000.0)
ENERGY_OF = MatrixCompletion.diagonal(D)


@compiled
def _trained(starts, depth: int, steps):
    """X after gradient descent on balanced factors of `starts`, at the time TIME of the 1/N-normalised flow."""
    optimizer = optax.sgd(TIME / (depth * steps))
    one = lambda x: train(ENERGY_OF, balanced_factors(x, depth), optimizer, steps, throw=False).x
    return jax.vmap(one)(starts)


def compute(key, seeds: int) -> xarray.Dataset:
    starts = D**-0.5 * normal_of_each(key, seeds, (D, D))
    depths = np.array([*FLOW_DEPTHS, np.inf])
    sol = completion_flows(
        many_diagonal(len(depths) * seeds, D),
        np.tile(starts, (len(depths), 1, 1)),
        [0.0, TIME / 2, TIME],
        depth=np.repeat(depths, seeds),
        gradient=1e-12,
        rtol=1e-10,
    )
    flows = np.asarray(sol.final.matrix).reshape(len(depths), seeds, D, D)
    networks = np.stack([[_trained(starts, depth, jax.device_put(steps)) for steps in STEPS] for depth in DEPTHS])
    distance = lambda a, b: np.linalg.norm(a - b, axis=(-2, -1)) / np.linalg.norm(b, axis=(-2, -1))
    return xarray.Dataset(
        {
            "error": (
                ("depth", "steps", "seed"),
                distance(networks, flows[: len(DEPTHS), None]),
                {"long_name": "|X_trained - X_flow| / |X_flow| at the same depth and time, Frobenius"},
            ),
            "network_to_infinity": (("depth", "seed"), distance(networks[:, -1], flows[-1])),
            "flow_to_infinity": (("flow_depth", "seed"), distance(flows[:-1], flows[-1])),
        },
        coords={"depth": list(DEPTHS), "flow_depth": list(FLOW_DEPTHS), "steps": list(STEPS)},
        attrs={"energy": ENERGY, "d": D, "start": "X_ij ~ N(0, 1/d), balanced factors", "time": TIME},
    )


def _bars(ax, x, values, color, **style):
    """Means with two standard errors, on logarithmic axes."""
    ax.errorbar(x, values.mean("seed"), two_errors(values), color=color, **style)


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, depths = figure.subplots(1, 2)
    size, place = TIME / data["steps"].values, 0.0
    for depth, color in zip(data["depth"].values, ("C3", "C4", "C2", "C0"), strict=False):
        error = data["error"].sel(depth=depth)
        _bars(ax, size, error, color, fmt="o-", lw=0.9)
        label = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 7, "color": color}
        # Each label is moved above the one before, so that labels of nearby curves do not cover each other.
        place = max(float(error.isel(steps=0).mean()), 1.45 * place)
        ax.annotate(f"$N = {depth}$", (size[0], place), **label)
    anchor = 0.25 * float(data["error"].isel(steps=-1).mean()) * size / size[-1]
    ax.plot(size, anchor, color="0.5", lw=0.8, ls="--")
    ax.text(size[2], 0.6 * anchor[2], "slope 1", color="0.4", va="top")
    ax.set(xscale="log", yscale="log", xlabel=r"step size $N\eta$, in time of the flow", ylabel="relative error of $X$")
    ax.set_xlim(right=2.2 * size[0])
    ax.set_title(rf"network against the flow of its depth, $t = {TIME:g}$")
    _bars(depths, data["flow_depth"], data["flow_to_infinity"], "C0", fmt="-", lw=0.9)
    _bars(depths, data["depth"], data["network_to_infinity"], "C1", fmt="o", markersize=4)
    ends = data["flow_depth"].values[[1, -1]]
    anchor = 0.4 * float(data["flow_to_infinity"].isel(flow_depth=-1).mean()) * ends[-1] / ends
    depths.plot(ends, anchor, color="0.5", lw=0.8, ls="--")
    depths.text(ends[0], 0.3 * anchor[0], "slope $-1$", color="0.4", va="top")
    depths.text(0.97, 0.88, "networks, smallest step", color="C1", ha="right", transform=depths.transAxes)
    depths.text(0.97, 0.76, "flow at depth $N$", color="C0", ha="right", transform=depths.transAxes)
    depths.set(xscale="log", yscale="log", xlabel=r"depth $N$", ylabel="relative distance")
    depths.set_title("both against the infinitely deep flow")
    return lettered(figure)


def _order(x, values) -> tuple[float, float]:
    """The mean over seeds of the exponent of a power law, and its standard error. **Arguments:** `values`, `x seed`."""
    return mean(np.polyfit(np.log(x), np.log(values), 1)[0])


def numbers(data: xarray.Dataset) -> list[Number]:
    fine = data.isel(steps=slice(1, None))
    higher = "A finite step adds a small term of second order, which the fitted exponent sees."
    rows = []
    for depth in DEPTHS:
        order = _order(TIME / fine["steps"].values, fine["error"].sel(depth=depth).values)
        verdict_ = verdict(abs(order[0] - 1) < 0.05)
        note = higher if abs(order[0] - 1) > 3 * order[1] else ""
        rows.append(Number(f"order of the error in the step size, N = {depth}", "-", *order, verdict_, 1.0, note))
    smallest = data["error"].isel(steps=-1)
    rows += [
        measured(f"relative error at step {TIME / STEPS[-1]:g}, N = {depth}", mean(smallest.sel(depth=depth).values))
        for depth in DEPTHS
    ]
    deepest = DEPTHS[-1]
    deep = data.sel(flow_depth=slice(50.0, None))
    order = _order(deep["flow_depth"].values, deep["flow_to_infinity"].values)
    note = "The next term of the expansion in 1/N is still felt at N = 50." if abs(order[0] + 1) > 3 * order[1] else ""
    rows.append(
        Number(
            "exponent in N of the distance to infinite depth",
            "limit of N",
            *order,
            verdict(abs(order[0] + 1) < 0.05),
            -1.0,
            note,
        )
    )
    rows.append(
        measured(
            f"relative distance of a trained network to infinite depth, N = {deepest}",
            mean(data["network_to_infinity"].sel(depth=deepest).values),
        )
    )
    return rows


FIGURE = Figure(
    "5.2",
    "Trained networks of N layers follow the flow, and with depth the infinitely deep one (beyond the thesis)",
    10,
    compute,
    draw,
    numbers,
    text="(a) Networks of N layers are trained by gradient descent from balanced factors, with learning rates eta, and "
    "compared with the flow of X at the same depth and time: the error falls with the step size N eta, to first "
    "order. (b) The distance of these networks, and of the flow at their depth, to the infinitely deep flow: it "
    "falls as 1/N, so that a network of 50 layers is within a few per cent of the limit.",
    parameters="E of (4.21), d = 10, N = 2, 3, 10, 50, X_ij ~ N(0, 1/d), optax.sgd, 100 to 3000 steps to t = 2 of "
    "the 1/N-normalised flow, 10 starts, the same for all; bars: 2 s.e.",
    source="first order in the step size and in 1/N",
)
