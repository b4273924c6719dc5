"""Figure 4.4: the effective rank falls most where about a quarter to a half of the entries are seen."""

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixCompletion, RESULTS
from dlnjax.figures._draws import normal_of_each, split, uniform
from dlnjax.figures._figure import Figure, mean, measured, Number, verdict
from dlnjax.figures._shapes import completion_flows, rank_of
from dlnjax.plot import effective_rank_violins, new_figure

D, HORIZON = 10, 300.0
EXPECTED = {1: "7.46", 5: "nan", 10: "5.68", 25: "5.15", 50: "5.36", 75: "5.95", 90: "6.33", 99: "nan"}


def compute(key, seeds: int) -> xarray.Dataset:
    labels_key, mask_key, start_key = split(key, 3)
    matrices = max(3, seeds // 5)
    labels = -2.0 + 4.0 * uniform(labels_key, (matrices, D, D))
    # A mask has exactly K entries, the first K in a random order, so that the masks of one label matrix are nested.
    order = np.asarray(jax.vmap(lambda k: jax.random.permutation(k, D * D))(jax.random.split(mask_key, matrices)))
    # Masks with many entries come first, as their flows are slow and `dealt_sweep` needs slow flows first.
    K = np.sort(list(EXPECTED))[::-1]
    mask = order.reshape(matrices, D, D) < K[:, None, None, None]
    starts = D**-0.5 * normal_of_each(start_key, seeds, (D, D))
    shape = (len(K), matrices, seeds)
    flat = lambda a: np.broadcast_to(a, (*shape, D, D)).reshape(-1, D, D)
    energy = MatrixCompletion(jax.device_put(flat(labels[:, None])), flat(mask[:, :, None]))
    # Four digits are enough for a mean over runs.
    sol = completion_flows(energy, flat(starts), [0.0, HORIZON / 3, HORIZON], gradient=1e-3, rtol=1e-4)
    of_run = lambda values: np.asarray(values).reshape(*shape, *np.shape(values)[1:])
    runs = ("K", "matrix", "run")
    data = xarray.Dataset(
        {
            "effective_rank": ((*runs, "time"), of_run(rank_of(sol.sigma))),
            "labels_rank": ("matrix", rank_of(np.linalg.svd(labels, compute_uv=False))),
            "converged": (runs, of_run(sol.result == RESULTS.steady), {"long_name": "|dE| <= 1e-3 by t = 300"}),
        },
        coords={"K": ("K", K, {"long_name": "entries seen"}), "time": np.asarray(sol.ts)},
        attrs={"energy": "(4.24), labels U[-2, 2] on K entries", "depth": "inf", "d": D, "start": "X_ij ~ N(0, 1/d)"},
    )
    return data.sortby("K")


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.0)
    ax = figure.subplots()
    # As in the thesis, a violin shows the distribution over label matrices of the mean over runs.
    means = data["effective_rank"].mean("run").rename(matrix="seed")
    groups = {f"{k}": means.sel(K=k).to_dataset() for k in data["K"].values}
    groups["labels"] = data["labels_rank"].rename(matrix="seed").expand_dims("time").to_dataset(name="effective_rank")
    effective_rank_violins(groups, ax=ax)
    # The points are side by side in the order of the label matrices, which are the same in every violin.
    aside = np.linspace(-0.12, 0.12, means.sizes["seed"])
    for place, group in enumerate(groups.values()):
        values = group["effective_rank"].isel(time=-1).values
        ax.plot(place + aside, values, "o", color="0.2", markersize=1.6, alpha=0.8, mew=0)
    ax.axvline(len(groups) - 1.5, color="0.8", lw=0.6)
    ax.axhline(_start(data).mean(), color="0.5", lw=0.8, ls=":")
    ax.text(2, _start(data).mean() + 0.08, "all starts", color="0.4", ha="center")
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.18 * (high - low), high)
    bottom = ax.get_xaxis_transform()
    for place, share in enumerate(data["converged"].mean(("run", "matrix")).values):
        ax.text(place, 0.03, f"{100 * share:.0f}", transform=bottom, ha="center", fontsize=7)
    ax.text(-0.4, 0.1, f"% at rest by $t = {HORIZON:.0f}$:", transform=bottom, fontsize=7)
    ax.set(xlabel=r"entries seen $K$, of 100", ylabel=f"mean effective rank of {data.sizes['run']} runs")
    ax.set_title(rf"$d = {D}$, $N = \infty$; {data.sizes['matrix']} label matrices; bars: 2 s.e.")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    end = data["effective_rank"].isel(time=-1).mean("run")
    converged = data["converged"].mean("run")
    rows = [
        measured(f"mean effective rank in the limit, K = {k}", mean(end.sel(K=k).values), expected)
        for k, expected in EXPECTED.items()
    ]
    rows.append(measured("effective rank of the labels alone", mean(data["labels_rank"].values), "8.0"))
    rows.append(measured("mean effective rank at the start", mean(_start(data))))
    for few, many in ((1, 25), (99, 25)):
        fall = mean((end.sel(K=few) - end.sel(K=many)).values)
        rows.append(Number(f"K = {few} above K = {many}", "U-shaped pattern", *fall, verdict(fall[0] > 3 * fall[1])))
    for k, expected in ((75, "nan"), (90, "0.87"), (99, "nan")):
        rows.append(measured(f"share at rest by t = 300, K = {k}", mean(converged.sel(K=k).values), expected))
    return rows


def _start(data: xarray.Dataset):
    return data["effective_rank"].isel(time=0, matrix=0, K=0).values


FIGURE = Figure(
    "4.4",
    "The effective rank falls most where a part of the entries is seen: a U shape",
    50,
    compute,
    draw,
    numbers,
    text="Each violin is the distribution, over label matrices, of the effective rank that 50 runs reach on average, "
    "with its mean and two standard errors, and with a point for each label matrix. With few entries seen, X hardly "
    "moves and keeps the rank of its start; with almost all seen it has to take that of the labels; in between it is "
    "free to choose, and chooses low rank. "
    "With nearly all entries seen the flow is slow, and not all runs are at rest by the time it is read.",
    parameters="E of (4.24), d = 10, N = infinity, labels U[-2, 2], random masks of K entries, X_ij ~ N(0, 1/d), to "
    "|dE| <= 1e-3 or t = 300, 10 label matrices, the same for every K, and 50 starts, the same for all",
)
