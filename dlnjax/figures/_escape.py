"""Figure 4.1b: from a small start the largest singular value alone moves."""

import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import RESULTS
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, measured, median, Number, verdict
from dlnjax.figures._shapes import diagonal_flows, ENERGY, SIZE, TIMES, times
from dlnjax.plot import new_figure, singular_values

D, STD, HORIZON = 5, 1e-3, 1e5
EXPECTED = (
    ("0.0036", "5.03"),
    ("0.0025", "0.0043"),
    ("0.0017", "0.0017"),
    ("0.00098", "0.00089"),
    ("0.00023", "0.00023"),
)


def compute(key, seeds: int) -> xarray.Dataset:
    entries = normal_of_each(key, seeds, (SIZE, SIZE))
    many = diagonal_flows(entries, D, STD, times(1.0, HORIZON))
    # The example is the seed that takes the median time to come to rest. It is saved at more times than one sweep of
    # this shape has, so that several sweeps save different times.
    example = int(np.argsort(np.asarray(many.t_end))[seeds // 2])
    fine = np.linspace(0.0, 1.25 * float(many.t_end[example]), 3 * (TIMES - 1) + 1)
    parts = [np.append(0.0, fine[k::3]) for k in range(1, 4)]
    one = [np.asarray(diagonal_flows(entries[[example]], D, STD, ts).sigma)[0, :, :D] for ts in parts]
    sigma = np.concatenate([one[0][:1], np.stack([part[1:] for part in one], axis=1).reshape(-1, D)])
    ends = np.asarray(many.sigma)[..., :D]
    return xarray.Dataset(
        {
            "sigma": (("time", "mode"), sigma, {"long_name": "singular values of the example"}),
            "start": (("seed", "mode"), ends[:, 0], {"long_name": "sigma(0) of every seed"}),
            "end": (("seed", "mode"), ends[:, -1], {"long_name": "sigma at rest of every seed"}),
            "converged": ("seed", np.asarray(many.result == RESULTS.steady), {"long_name": "|dE| <= 1e-4"}),
        },
        coords={"time": ("time", fine, {"long_name": "time of the flow at infinite depth"})},
        attrs={"energy": ENERGY, "depth": "inf", "start": f"X_ij ~ N(0, {STD}^2)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, side = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    singular_values(data, ax=ax)
    for at, name in enumerate(("start", "end")):
        low, middle, high = np.percentile(data[name].values, (5, 50, 95), axis=0)
        places = at + 0.13 * (np.arange(D) - D // 2)
        bars = (places, middle, middle - low, high - middle)
        # The bar of a mode has the colour of its curve.
        for line, place, at_half, below, above in zip(ax.lines, *bars, strict=False):
            error = [[below], [above]]
            side.errorbar(place, at_half, error, fmt="o", color=line.get_color(), lw=0.9, markersize=3)
    side.set(xlim=(-0.5, 1.5), xticks=(0, 1), xticklabels=("$t = 0$", "at rest"))
    side.tick_params(labelleft=False)
    ax.set_title(rf"one start: $d = {D}$, $N = \infty$, std $10^{{-3}}$")
    side.set_title("all starts: 5, 50, 95 %")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    done = data["converged"].values
    start, end = data["start"].values[done], data["end"].values[done]
    rows = [
        measured(f"median sigma_{mode + 1} {where}", median(values[:, mode]), EXPECTED[mode][k])
        for k, (where, values) in enumerate((("at the start", start), ("at rest", end)))
        for mode in range(D)
    ]
    for mode in range(D):
        growth = median(end[:, mode] / start[:, mode])
        said, ok = ("moved the most", growth[0] > 100) if mode == 0 else ("lazy", 0.5 < growth[0] < 2)
        rows.append(Number(f"median growth of sigma_{mode + 1}, end over start", said, *growth, verdict(ok)))
    return rows


FIGURE = Figure(
    "4.1b",
    "From a small start the largest singular value alone moves",
    100,
    compute,
    draw,
    numbers,
    text="The singular values of one start in time: of the starts, the one that takes the median time to come to "
    "rest. The largest grows to d, the norm of the rank-one minimiser with all entries of modulus 1, the others stay "
    "of the size that they had. On the right, the bars hold the middle 90 % of all starts around the median, "
    "sigma_1 to sigma_5.",
    parameters="E of (4.21), d = 5, N = infinity, X_ij ~ N(0, 0.001^2), to |dE| <= 1e-4 or t = 1e5, 100 starts",
)
