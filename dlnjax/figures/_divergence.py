"""Figure 6.2, beyond the thesis: the completion of Razin and Cohen (2020), where norms diverge, at every depth."""

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Imbalanced, MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._draws import normal
from dlnjax.figures._figure import Figure, lettered, measured, median, Number, share, shown_depth, verdict
from dlnjax.plot import new_figure

SIZE = 0.3
# The steps are limited by the fast modes, of rate X_11^(2-2/N): the deeper, the shorter the time that can be reached.
HORIZONS = {2.0: 1e5, 3.0: 1e4, 5.0: 3e3, np.inf: 1e3}
TIMES = 41
IMBALANCES = {2: 10.0 ** -np.arange(1, 16, 2), 3: 10.0 ** -np.arange(1, 3.6, 0.5)}
IMBALANCED_HORIZON = 1e5
COLORS, MARKERS = ("C3", "C1", "C2", "C0"), ("o", "s", "D", "^")
# The integral of db/sqrt(b (b + 1)(b + 2)) over b > 0: half of the length of the lemniscate.
LEMNISCATE = 2.6220575542921198


def seen() -> MatrixCompletion:
    """X_12 = X_21 = 1 and X_22 = 0 are seen, E = (1/2) sum of the squared errors."""
    return MatrixCompletion(jnp.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0, 1], [1, 1]], bool))


def law(depth, t):
    """E(t) to leading order for balanced layers and det X_0 > 0, and X_11 sqrt(2 E): see the page of the question."""
    if np.isinf(depth):
        return 1 / (2 * t), 2.0
    return 0.5 * ((2 + 2 / depth) * t) ** (-depth / (depth + 1)), 1.0


def compute(key, seeds: int) -> xarray.Dataset:
    starts = SIZE * normal(key, (seeds, 2, 2))
    # Exchanging the columns of those of negative determinant makes all determinants positive.
    starts = np.where(np.linalg.det(starts)[:, None, None] < 0, starts[:, :, ::-1], starts)
    flows = [
        sweep(seen(), starts, depth=np.full(seeds, depth), ts=_times(end), progress=False)
        for depth, end in HORIZONS.items()
    ]
    largest = max(map(len, IMBALANCES.values()))
    ends, rest, sizes = (np.full((2, largest, *rest), np.nan) for rest in ((seeds, 2, 2), (seeds,), ()))
    for k, (layers, imbalances) in enumerate(IMBALANCES.items()):
        g, many = np.repeat(imbalances, seeds), np.tile(starts, (len(imbalances), 1, 1))
        kernel = Imbalanced(g if layers == 2 else (g,) * (layers - 1))
        # Flows of one imbalance take about as long. In larger chunks the fast ones would wait for the slow ones.
        options = {"ts": [0.0, IMBALANCED_HORIZON], "stop": Steady(1e-7), "chunk": seeds, "progress": False}
        sol = sweep(seen(), many, depth=kernel, **options)
        ends[k, : len(imbalances)] = np.asarray(sol.x)[:, -1].reshape(-1, seeds, 2, 2)
        rest[k, : len(imbalances)] = np.asarray(sol.result == RESULTS.steady).reshape(-1, seeds)
        sizes[k, : len(imbalances)] = imbalances
    return xarray.Dataset(
        {
            "start": (("seed", "row", "column"), starts),
            "x": (("depth", "seed", "time", "row", "column"), np.stack([np.asarray(sol.x) for sol in flows])),
            "energy": (("depth", "seed", "time"), np.stack([np.asarray(sol.energy) for sol in flows])),
            "t": (("depth", "time"), np.stack([_times(end) for end in HORIZONS.values()])),
            "imbalance": (("layers", "k"), sizes, {"long_name": "g of all layers"}),
            "end": (("layers", "k", "seed", "row", "column"), ends, {"long_name": "limit of imbalanced layers"}),
            "at_rest": (("layers", "k", "seed"), rest, {"long_name": "|dE| <= 1e-7"}),
        },
        coords={"depth": list(HORIZONS), "layers": list(IMBALANCES)},
        attrs={"energy": "X_12 = X_21 = 1, X_22 = 0 are seen", "start": f"{SIZE} N(0, 1), det > 0"},
    )


def _times(end: float) -> np.ndarray:
    return np.append(0.0, np.geomspace(0.1, end, TIMES - 1))


def ends_of(data: xarray.Dataset, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """(the imbalances, |X_11| in the limit of each start)."""
    one = data.sel(layers=layers)
    there = np.isfinite(one["imbalance"].values)
    return one["imbalance"].values[there], np.abs(one["end"].values[there][..., 0, 0])


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    fall, bound, ends = figure.subplots(1, 3)
    for depth, color, marker in zip(HORIZONS, COLORS, MARKERS, strict=False):
        one, name = data.sel(depth=depth), f"$N = {shown_depth(depth)}$"
        t, energy = one["t"].values[1:], one["energy"].values[:, 1:]
        middle = np.median(energy, axis=0)
        fall.loglog(t[::4], middle[::4], marker, color=color, ms=3, label=name)
        fall.loglog(t, law(depth, t)[0], color=color, lw=0.7)
        error, entry = np.sqrt(2 * energy), np.abs(one["x"].values[:, 1:, 0, 0])
        near = error < 0.9
        bound.loglog(error[near], entry[near], marker, color=color, ms=1.5, alpha=0.5, mew=0)
    e = np.geomspace(5e-3, 0.9, 100)
    bound.loglog(e, (1 - e) ** 2 / e, color="black", lw=0.9, label=r"bound $(1 - e)^2/e$")
    bound.loglog(e, 2 / e, color="black", lw=0.9, ls=":", label="$2/e$")
    bound.set_ylim(0.1, 1e3)
    for layers, color, marker in zip(IMBALANCES, COLORS, MARKERS, strict=False):
        g, entry = ends_of(data, layers)
        low, middle, high = np.percentile(entry, (10, 50, 90), axis=1)
        bars = np.stack([middle - low, high - middle])
        ends.errorbar(g, middle, bars, fmt=marker, color=color, ms=3, lw=0.8, label=f"$N = {layers}$")
    g = np.geomspace(3e-4, 1e-1, 20)
    ends.loglog(g, (5 * LEMNISCATE) ** 0.6 * g**-0.3, color="C1", lw=0.7)
    g = np.geomspace(1e-15, 1e-1, 50)
    ends.loglog(g, 2 * np.sqrt(-np.log(g)), color="C3", lw=0.7)
    ends.invert_xaxis()
    fall.set(xlabel="time $t$ (1/N-normalised)", ylabel="$E$", title="balanced: the energy")
    bound.set(xlabel=r"error $e = \sqrt{2E}$", ylabel="$|X_{11}|$", title="balanced: the entry not seen")
    ends.set(xlabel="imbalance $g$", ylabel=r"$|X_{11}|$ in the limit", title="imbalanced: it is finite")
    for ax, where in ((fall, "lower left"), (bound, "lower left"), (ends, "lower right")):
        ax.minorticks_off()
        ax.legend(loc=where)
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    error = np.sqrt(2 * data["energy"].values)
    entry = np.abs(data["x"].values[..., 0, 0])
    least = float(np.min((entry * error / (1 - error) ** 2)[error < 0.9]))
    quantity = "least ratio of X_11 to its bound (1-e)^2/e, all depths, balanced"
    rows.append(Number(quantity, "-", least, 0.0, verdict(least >= 1 - 1e-9)))
    for depth in HORIZONS:
        one = data.sel(depth=depth).isel(time=-1)
        energy, product = law(depth, float(one["t"]))
        for what, values, exact in (
            (f"ratio of E at t = {float(one['t']):g} to its law, balanced", one["energy"].values / energy, 1.0),
            ("X_11 sqrt(2 E) there, balanced", np.abs(one["x"].values[:, 0, 0]) * np.sqrt(2 * one["energy"]), product),
        ):
            middle, spread = median(values)
            if np.isinf(depth) and exact == 2:
                rows.append(measured(f"{what}, N = {depth:g}", (middle, spread)))
            else:
                said = verdict(abs(middle / exact - 1) < 0.05)
                rows.append(Number(f"{what}, N = {depth:g}", "-", middle, spread, said, exact))
    # At infinite depth 1/sigma_2 - sigma_1 comes to a constant, by which sigma_2 keeps up with 1/X_11.
    sigma = np.linalg.svd(data["x"].sel(depth=np.inf).isel(time=slice(-6, None)).values, compute_uv=False)
    change = np.diff(1 / sigma[:, [0, -1], 1], axis=1) / np.diff(sigma[:, [0, -1], 0], axis=1)
    quantity = "ratio of the growth of 1/sigma_2 to that of sigma_1 at the end, balanced, N = inf"
    slope = median(change.ravel())
    rows.append(Number(quantity, "-", *slope, verdict(abs(slope[0] - 1) < 0.05), 1.0))
    for layers in IMBALANCES:
        g, ends = ends_of(data, layers)
        middle = np.median(ends, axis=1)
        rows.append(measured(f"X_11 in the limit, N = {layers}, g = {g[-1]:.0e}, median", median(ends[-1])))
        if layers == 2:
            height = middle**2 / 2 + np.log(middle)
            slope = float((height[-1] - height[-2]) / np.log(g[-2] / g[-1]))
            quantity = "growth of X_11^2/2 + log X_11 for each log of 1/g, N = 2"
        else:
            slope = float(np.log(middle[-1] / middle[-2]) / np.log(g[-2] / g[-1]))
            quantity = f"power of 1/g with which X_11 grows, N = {layers}"
        exact = 2.0 if layers == 2 else 0.3
        rows.append(Number(quantity, "-", slope, 0.0, verdict(abs(slope / exact - 1) < 0.1), exact))
    finite = data["at_rest"].values[np.isfinite(data["imbalance"].values)].ravel() == 1
    rows.append(measured("share of imbalanced flows at rest", share(finite)))
    negative = np.linalg.det(data["end"].values[np.isfinite(data["imbalance"].values)]) < 0
    rows.append(measured("share of them with a determinant that has changed its sign", share(negative.ravel())))
    return rows


FIGURE = Figure(
    "6.2",
    "Where norms diverge: the completion of Razin and Cohen at every depth (beyond the thesis)",
    24,
    compute,
    draw,
    numbers,
    text="X_12 = X_21 = 1 and X_22 = 0 are seen, det X_0 > 0. (a) The energy of balanced layers in time (medians), and "
    "the law of each depth (lines). (b) The entry that is not seen against the error, all starts, above the sharp "
    "bound. Finite depths meet it, and infinite depth tends to twice it. (c) With imbalance the determinant changes "
    "its sign, and the limit is finite: medians and 80 % of the starts, and the laws of small imbalance.",
    parameters="N = 2, 3, 5, infinity, 24 starts X_ij ~ N(0, 0.09); imbalance g, N = 2, 3, to |dE| <= 1e-7",
    source="the laws derived on the page",
)
