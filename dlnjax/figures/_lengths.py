"""Figure 5.11, beyond the thesis: how much longer the path of a flow is than the geodesic between its ends."""

import jax
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure as Drawing

from dlnjax import geodesic, MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, measured, median, Number, share, shown_depth, verdict
from dlnjax.figures._shapes import ENERGY
from dlnjax.plot import new_figure

D, REST = 3, 1e-5
DEPTHS = (1.0, 2.0, 3.0, 5.0, 10.0, np.inf)
STDS = (0.1, 1.0)
TIMES = np.append(0.0, np.geomspace(1e-3, 1e3, 600))
# The median ratio of 60 other starts from depth 2 on, whose lengths are the integral of the speed by SciPy, in X.
EXPECTED = {
    0.1: ("1.047", "1.102", "1.170", "1.205", "1.257"),
    1.0: ("1.027", "1.046", "1.066", "1.083", "1.099"),
}
# No path is shorter than the geodesic, up to the error of a length.
LEAST = 0.995


def distance(a: Float[Array, "d d"], b: Float[Array, "d d"], depth: float) -> float:
    """The distance of the ends of a flow, or NaN where no geodesic was found.

    At depth 1 it is the Euclidean distance, also where the line between the ends crosses singular matrices, as a flow
    does at this depth.
    """
    if depth == 1:
        return float(np.linalg.norm(np.asarray(a) - np.asarray(b)))
    line = geodesic(a, b, depth, throw=False)
    return float(line.length) if line.result == "successful" else np.nan


def compute(key, seeds: int) -> xarray.Dataset:
    shape = (len(STDS), len(DEPTHS), seeds)
    entries = normal_of_each(key, seeds, (D, D))
    starts = np.reshape(STDS, (-1, 1, 1, 1, 1)) * np.broadcast_to(entries, (*shape, D, D))
    depth = np.broadcast_to(np.reshape(DEPTHS, (-1, 1)), shape).ravel()
    flows = starts.reshape(-1, D, D)
    # Flows of one depth take about as long. In larger chunks the fast ones would wait for the slow ones.
    options = {"ts": TIMES, "stop": Steady(REST), "chunk": seeds, "progress": False}
    sol = sweep(MatrixCompletion.diagonal(D), flows, depth=depth, **options)
    pairs = jax.device_put((list(flows), list(np.asarray(sol.final.matrix))))
    ends = zip(*pairs, depth, strict=True)
    cells, units = ("std", "depth", "seed"), "in the metric with 1/N"
    return xarray.Dataset(
        {
            "length": (
                cells,
                np.asarray(sol.path_length)[:, -1].reshape(shape),
                {"long_name": f"length of the path, {units}"},
            ),
            "distance": (
                cells,
                np.array([distance(a, b, float(n)) for a, b, n in ends]).reshape(shape),
                {"long_name": f"geodesic distance of its ends, {units}"},
            ),
            "converged": (
                cells,
                np.asarray(sol.result == RESULTS.steady).reshape(shape),
                {"long_name": f"|dE| <= {REST:g}"},
            ),
        },
        coords={"std": list(STDS), "depth": list(DEPTHS)},
        attrs={"energy": ENERGY, "d": D, "start": "X_ij ~ N(0, std^2)"},
    )


def ratio(data: xarray.Dataset) -> xarray.DataArray:
    """The length over the distance, NaN for a flow that did not come to rest."""
    return (data["length"] / data["distance"]).where(data["converged"].astype(bool))


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    axes = figure.subplots(1, data.sizes["std"], sharey=True)
    place = np.arange(data.sizes["depth"])
    for ax, std in zip(axes, data["std"].values, strict=True):
        values = ratio(data).sel(std=std)
        ax.plot(place, values.values, color="0.7", lw=0.5, zorder=1)
        low, high = (values.quantile(q, "seed").values for q in (0.25, 0.75))
        ax.fill_between(place, low, high, color="C0", alpha=0.3, lw=0, zorder=2, label="middle half")
        ax.plot(place, values.median("seed").values, "o-", color="C0", markersize=3.5, zorder=3, label="median")
        ax.axhline(1.0, color="black", lw=0.8, ls="--", zorder=2, label="geodesic")
        ax.set_xticks(place, [f"${shown_depth(n)}$" for n in data["depth"].values])
        ax.set(xlabel=r"depth $N$")
        ax.set_title(f"$d = {D}$, start: std {std:g}")
    axes[0].set_ylabel("length of path / distance of ends")
    axes[-1].legend(loc="upper left", fontsize=6.5)
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    ratios = ratio(data)
    rows = []
    for std in data["std"].values:
        for depth, expected in zip(DEPTHS, ("1.000", *EXPECTED[float(std)]), strict=True):
            values = ratios.sel(std=std, depth=depth).values
            name = f"median of length over distance, N = {depth:g}, std {std:g}"
            here = median(values[np.isfinite(values)])
            # At depth 1 the flow is a straight line.
            rows.append(measured(name, here, expected, expected_error=0.0 if depth == 1 else None))
    least = float(ratios.min())
    rows.append(Number("least length over distance of all flows", "-", least, 0.0, verdict(least > LEAST), 1.0))
    for std in data["std"].values:
        grown = ratios.sel(std=std, depth=np.inf) > ratios.sel(std=std, depth=2.0)
        rows.append(
            measured(f"share of starts with a larger ratio at depth infinity than 2, std {std:g}", share(grown))
        )
    found, error = share(np.isfinite(ratios.values.ravel()))
    name = "share of flows at rest whose length and distance were both found"
    return [*rows, Number(name, "-", found, error, verdict(found > 0.98), 1.0)]


FIGURE = Figure(
    "5.11",
    "A flow takes a longer way than the geodesic, the more so in deeper networks (beyond the thesis)",
    40,
    compute,
    draw,
    numbers,
    text="The length of the path of a flow over the geodesic distance of its ends, both in the metric of its depth. "
    "Each grey line is one start at all depths. Blue: the median and the middle half of the starts. At depth 1 the "
    "path is the straight line. The deeper the network, the longer the way of the flow is in comparison, and more so "
    "from a small start, from which the singular values move one after the other.",
    parameters="E of (4.21), d = 3, N = 1 .. infinity, X_ij ~ N(0, std^2), to |dE| <= 1e-5 or t = 1000, 40 starts, the "
    "same for every N and, scaled, for every std",
    counted="random starts, the same for each ensemble",
    look=5,
)
