"""Figure 5.1, beyond the thesis: the limiting effective rank over depth and size of the start."""

import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import RESULTS
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, mean, measured, Number, share, shown_depth, verdict
from dlnjax.figures._shapes import completion_flows, ENERGY, many_diagonal, rank_of
from dlnjax.plot import new_figure

D, HORIZON = 10, 1e4
DEPTHS = (1.0, 2.0, 2.5, 3.0, 5.0, 10.0, 30.0, np.inf)
STDS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


def compute(key, seeds: int) -> xarray.Dataset:
    shape = (len(STDS), len(DEPTHS), seeds)
    entries = normal_of_each(key, seeds, (D, D))
    starts = np.reshape(STDS, (-1, 1, 1, 1, 1)) * np.broadcast_to(entries, (*shape, D, D))
    depth = np.broadcast_to(np.reshape(DEPTHS, (-1, 1)), shape)
    sol = completion_flows(
        many_diagonal(depth.size, D),
        starts.reshape(-1, D, D),
        [0.0, 100.0, HORIZON],
        depth=depth.ravel(),
        gradient=1e-4,
    )
    cells = ("std", "depth", "seed")
    return xarray.Dataset(
        {
            "effective_rank": ((*cells, "time"), rank_of(sol.sigma).reshape(*shape, -1)),
            "converged": (
                cells,
                np.asarray(sol.result == RESULTS.steady).reshape(shape),
                {"long_name": "|dE| <= 1e-4"},
            ),
        },
        coords={"std": list(STDS), "depth": list(DEPTHS), "time": np.asarray(sol.ts)},
        attrs={"energy": ENERGY, "d": D, "start": "X_ij ~ N(0, std^2)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.2)
    ax = figure.subplots()
    limit = data["effective_rank"].isel(time=-1)
    middle = limit.mean("seed").values
    error = float(limit.std("seed", ddof=1).max()) / np.sqrt(data.sizes["seed"])
    image = ax.imshow(middle, origin="lower", aspect="auto", vmin=1, vmax=D)
    for (row, column), value in np.ndenumerate(middle):
        color = "white" if value < 0.6 * D else "black"
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=6, color=color)
    ax.set_xticks(range(data.sizes["depth"]), [f"${shown_depth(n)}$" for n in data["depth"].values])
    ax.set_yticks(range(data.sizes["std"]), [f"{std:g}" for std in data["std"].values])
    ax.set(xlabel=r"depth $N$", ylabel="standard deviation of the start's entries")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label="mean limiting effective rank")
    ax.set_title(rf"$d = {D}$, {data.sizes['seed']} starts each, s.e. at most {error:.2f}")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    limit = data["effective_rank"].isel(time=-1)
    rows = [
        measured(
            f"mean limiting effective rank, N = {depth:g}, std {std:g}", mean(limit.sel(depth=depth, std=std).values)
        )
        for depth in (1.0, 2.0, np.inf)
        for std in (1e-3, 0.1, 1.0)
    ]
    for quantity, fall in (
        ("fall from depth 2 to infinity, std 0.01", limit.sel(depth=2.0, std=0.01) - limit.sel(depth=np.inf, std=0.01)),
        (
            "fall from std 1 to 0.01, infinite depth",
            limit.sel(depth=np.inf, std=1.0) - limit.sel(depth=np.inf, std=0.01),
        ),
    ):
        value, error = mean(fall.values)
        rows.append(Number(quantity, "stronger for small starts", value, error, verdict(value > 3 * error)))
    rows.append(measured("share that converged, all cells", share(data["converged"].values.ravel())))
    return rows


FIGURE = Figure(
    "5.1",
    "Depth and small starts together make low rank (beyond the thesis)",
    30,
    compute,
    draw,
    numbers,
    text="The mean limiting effective rank for each depth (from 1, where the flow is that of the plain Euclidean "
    "gradient, to infinity) and each size of the start. Without depth nothing happens; from depth 2 on, small starts "
    "end at low rank, the lower the deeper. Depth need not be a whole number.",
    parameters="E of (4.21), d = 10, N = 1 .. infinity, X_ij ~ N(0, std^2), to |dE| <= 1e-4 or t = 1e4, 30 starts, the "
    "same for every N and, scaled, for every std",
)
