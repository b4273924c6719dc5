"""Figure 6.3, beyond the thesis: when depth couples blocks of which only the blocks themselves are seen."""

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._draws import normal
from dlnjax.figures._figure import Figure, lettered, measured, median, Number, share, shown_depth, verdict
from dlnjax.plot import new_figure

D = 4
# Two blocks of 2 x 2 are seen: the singular values of each. The ranks are 1 and 1, or 2 and 1.
CASES = {"ranks 1, 1": ((1.0, 0.0), (0.8, 0.0)), "ranks 2, 1": ((1.0, 0.7), (0.8, 0.0))}
ANGLES = ((0.4, 1.0), (1.1, -0.3))
MORE, FEWER = (1e-1, 1e-2, 1e-3, 1e-4), (1e-1, 1e-2, 1e-3)
SIZES: dict[float, tuple[float, ...]] = {2.0: MORE, 2.5: MORE, 3.0: MORE, np.inf: FEWER}
DEPTHS = tuple(SIZES)
HORIZON, REST = 1e7, 1e-6
COLORS, MARKERS = ("C3", "C2", "C1", "C0"), ("o", "D", "s", "^")


def blocks(values) -> np.ndarray:
    """The matrix of 4 x 4 whose two blocks have these singular values, in turned frames."""
    turn = lambda angle: np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    whole = np.zeros((D, D))
    for k, (sigma, (left, right)) in enumerate(zip(values, ANGLES, strict=True)):
        whole[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = turn(left) @ np.diag(sigma) @ turn(right).T
    return whole


def seen() -> np.ndarray:
    return np.kron(np.eye(2), np.ones((2, 2))) == 1


def limits(case: str, starts, depth, chunk: int):
    """(the limits of the flows, whether they are at rest)."""
    energy = MatrixCompletion(jax.device_put(blocks(CASES[case])), seen())
    options = {"ts": [0.0, HORIZON], "stop": Steady(REST), "chunk": chunk, "progress": False}
    sol = sweep(energy, starts, depth=np.broadcast_to(depth, len(starts)), **options)
    return np.asarray(sol.x)[:, -1], np.asarray(sol.result == RESULTS.steady)


def compute(key, seeds: int) -> xarray.Dataset:
    draws = normal(key, (seeds, D, D))
    rows = [(depth, size) for depth in DEPTHS for size in SIZES[depth]]
    starts = np.concatenate([size * draws for _, size in rows])
    depth = np.repeat([depth for depth, _ in rows], seeds)
    most = max(map(len, SIZES.values()))
    shape = (len(CASES), len(DEPTHS), most, seeds)
    x, rest, sizes = np.full((*shape, D, D), np.nan), np.full(shape, np.nan), np.full(shape[1:3], np.nan)
    for n, size in rows:
        sizes[DEPTHS.index(n), SIZES[n].index(size)] = size
    for c, case in enumerate(CASES):
        # Flows from one size take about as long. In larger chunks the fast ones would wait for the slow ones.
        found = limits(case, starts, depth, chunk=seeds)
        ends, steady = (values.reshape(len(rows), seeds, *values.shape[1:]) for values in found)
        for (n, size), end, at_rest in zip(rows, ends, steady, strict=True):
            at = c, DEPTHS.index(n), SIZES[n].index(size)
            x[at], rest[at] = end, at_rest
    cells = ("case", "depth", "k", "seed")
    return xarray.Dataset(
        {
            "x": ((*cells, "row", "column"), x, {"long_name": "limit"}),
            "at_rest": (cells, rest, {"long_name": f"|dE| <= {REST:g}"}),
            "size": (("depth", "k"), sizes),
        },
        coords={"case": list(CASES), "depth": list(DEPTHS)},
        attrs={"seen": "two blocks of 2 x 2 of a matrix of 4 x 4", "start": "size times N(0, 1)"},
    )


def singular_values(data: xarray.Dataset, case: str, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """(the sizes, the singular values of the limits, `size seed 4`)."""
    one = data.sel(case=case, depth=depth)
    there = np.isfinite(one["size"].values)
    return one["size"].values[there], np.linalg.svd(one["x"].values[there], compute_uv=False)


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    axes = figure.subplots(1, 2, sharey=True)
    for ax, case in zip(axes, CASES, strict=True):
        # The first singular value that a limit of the larger rank of one block does not have.
        which = int(case.split()[1][0])
        for depth, color, marker in zip(DEPTHS, COLORS, MARKERS, strict=True):
            sizes, sigma = singular_values(data, case, depth)
            low, middle, high = np.percentile(sigma[..., which], (10, 50, 90), axis=1)
            bars = np.stack([middle - low, high - middle])
            style = {"fmt": marker + "-", "color": color, "ms": 3, "lw": 0.8, "label": f"$N = {shown_depth(depth)}$"}
            ax.errorbar(sizes, middle, bars, **style)
        ax.set(xscale="log", yscale="log", xlabel="size of the start", title=f"blocks of {case}")
        ax.set_ylabel(rf"$\sigma_{which + 1}$ of the limit")
        ax.yaxis.set_tick_params(labelleft=True)
        ax.invert_xaxis()
    axes[0].legend(loc="lower left")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for case in CASES:
        first, second = (int(rank.strip(",")) for rank in case.split()[1:])
        for depth in DEPTHS:
            sizes, sigma = singular_values(data, case, depth)
            last, ratio = sigma[-1, :, first], np.median(sigma[-2, :, first]) / np.median(sigma[-1, :, first])
            quantity = f"{case}: median sigma_{first + 1} of the limit, size {sizes[-1]:g}, N = {depth:g}"
            rows.append(measured(quantity, median(last)))
            power = float(np.log(ratio) / np.log(sizes[-2] / sizes[-1]))
            stays = depth == 2
            # From a finite start a singular value falls by a power that comes to 1 as the start shrinks.
            agrees = abs(power) < 0.05 if stays else power > 0.5
            quantity = f"{case}: power of the size with which it falls, N = {depth:g}"
            rows.append(Number(quantity, "-", power, 0.0, verdict(bool(agrees))))
            if stays:
                name = f"{case}: median sigma_{first + second + 1} of the limit, size {sizes[-1]:g}, N = 2"
                rows.append(measured(name, median(sigma[-1, :, first + second])))
    known = data["at_rest"].values[np.isfinite(data["at_rest"].values)]
    rows.append(measured("share of flows at rest", share(known == 1)))
    return rows


FIGURE = Figure(
    "6.3",
    "When depth couples: the rank of limits where blocks are seen (beyond the thesis)",
    16,
    compute,
    draw,
    numbers,
    text="Of a matrix of 4 x 4 two blocks of 2 x 2 are seen. At depth 2 they do not act on each other, and the rank of "
    "the limit is the sum of theirs. Deeper, the first singular value beyond the larger rank falls with the start: the "
    "limit has the larger of both ranks. (a) Blocks of rank one. (b) Blocks of ranks two and one. Medians and 80 % of "
    "the starts.",
    parameters="singular values (1, 0) or (1, 0.7), and (0.8, 0); N = 2, 2.5, 3, infinity; X_ij ~ N(0, size^2), to "
    "|dE| <= 1e-6 or t = 1e7, 16 starts of each size",
    look=4,
)
