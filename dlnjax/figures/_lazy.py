"""Figure 5.5, beyond the thesis: from rich to lazy training by the imbalance of two layers alone."""

from typing import Any

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Imbalanced, MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._draws import normal, split, uniform
from dlnjax.figures._figure import Figure, mean, measured, Number, two_errors, vanishing, verdict
from dlnjax.figures._shapes import rank_of
from dlnjax.plot import new_figure

M, N, STD = 8, 6, 0.004
MODES = (3.0, 1.0)
SHARE = 0.7
# A network of the largest imbalance is lazy to within this share of the distance that it moves.
NEAR = 1e-3
TASKS = ("all", "some")
# At g = 0 the network is rich. The square root of the first other g is far below the singular values of the teacher.
IMBALANCES = (0.0, *np.geomspace(1e-3, 1e3, 13))
TIMES = np.append(0.0, np.geomspace(1e-4, 1e6, 120))


def kernel_change(before, after, g):
    """|K' - K| / |K| of the tangent kernels K = dphi dphi^T = W_2 W_2^T (x) I + I (x) W_1^T W_1 at two matrices."""

    def sides(x):
        u, sigma, vt = np.linalg.svd(x, full_matrices=False)
        f = np.sqrt(sigma**2 + np.asarray(g)[..., None] ** 2 / 4)
        half = np.asarray(g)[..., None] / 2
        return (u * (f - half)[..., None, :]) @ u.mT, (vt.mT * (f + half)[..., None, :]) @ vt

    def size(left, right):
        trace = lambda a: np.trace(a, axis1=-2, axis2=-1)
        square = lambda a: np.sum(a * a, axis=(-2, -1))
        (m, n) = left.shape[-1], right.shape[-1]
        return np.sqrt(n * square(left) + m * square(right) + 2 * trace(left) * trace(right))

    (left, right), (left2, right2) = sides(before), sides(after)
    return size(left2 - left, right2 - right) / size(left, right)


def exact(x0: Any, teacher: Any, g: float, t: Any):
    """X(t) of two layers with W_1 W_1^T - W_2^T W_2 = g I under E = |X - M|^2 / 2: Fukumizu 1998, Braun et al. 2022."""
    from scipy.linalg import expm

    m, n = x0.shape
    u, sigma, vt = np.linalg.svd(x0, full_matrices=False)
    f = np.sqrt(sigma**2 + g**2 / 4)
    # The smaller of f - g/2 and f + g/2 is taken from their product sigma^2.
    first = np.sqrt(f + g / 2)
    q0 = np.concatenate([vt.T * first, u * (sigma / first)])
    force = np.block([[g / 2 * np.eye(n), teacher.T], [teacher, -g / 2 * np.eye(m)]])
    # The time of the equation is that of the thesis, half of that of `gradient_flow`.
    zero, eye = np.zeros_like(force), np.eye(m + n)
    phi = expm(np.block([[2 * force * t / 2, t / 2 * eye], [zero, zero]]))[: m + n, m + n :]
    grown = expm(force * t / 2) @ q0
    return (grown @ np.linalg.solve(np.eye(len(sigma)) + q0.T @ phi @ q0, grown.T))[n:, :n]


def compute(key, seeds: int) -> xarray.Dataset:
    left_key, right_key, start_key, mask_key = split(key, 4)
    left, right = (
        np.linalg.qr(normal(frame_key, (seeds, size, len(MODES))))[0]
        for frame_key, size in ((left_key, M), (right_key, N))
    )
    teacher = (left * np.array(MODES)) @ right.mT
    x0 = STD * normal(start_key, (seeds, M, N))
    order = np.argsort(uniform(mask_key, (seeds, M * N)), axis=1).reshape(seeds, M, N)
    mask = np.stack([np.ones_like(order, bool), order < SHARE * M * N])
    shape = (len(TASKS), len(IMBALANCES), seeds)
    flat = lambda a: np.ascontiguousarray(np.broadcast_to(a, (*shape, *a.shape[3:]))).reshape(-1, *a.shape[3:])
    g = np.broadcast_to(np.reshape(IMBALANCES, (1, -1, 1)), shape)
    sol = sweep(
        MatrixCompletion(jax.device_put(flat(teacher[None, None])), flat(mask[:, None])),
        flat(x0[None, None]),
        depth=Imbalanced(g.ravel()),
        ts=TIMES,
        rtol=1e-7,
        stop=Steady(1e-5),
        observe=lambda p: p.matrix,
        # Flows of one imbalance take about as long. In larger chunks the fast ones would wait for the slow ones.
        chunk=seeds,
        progress=False,
    )
    x = np.asarray(sol.observed).reshape(*shape, len(TIMES), M, N)
    end = x[..., -1, :, :]
    seen_move = np.sqrt(np.sum(np.where(mask, teacher - x0, 0.0) ** 2, axis=(-2, -1)))
    # The saved state of each flow that is nearest to half of the distance from the teacher, and the exact one there.
    left_over = np.sqrt(np.sum((x[0] - teacher[:, None]) ** 2, axis=(-2, -1)))
    half = np.argmax(left_over < left_over[..., :1] / 2, axis=-1)
    at_half = np.take_along_axis(x[0], half[..., None, None, None], axis=-3)[..., 0, :, :]
    truth = np.array(
        [
            [exact(x0[k], teacher[k], g, float(TIMES[half[i, k]])) for k in range(seeds)]
            for i, g in enumerate(IMBALANCES)
        ]
    )
    rank = lambda a: rank_of(np.linalg.svd(a, compute_uv=False))
    cells, task_cells = ("imbalance", "seed"), ("task", "imbalance", "seed")
    lazy = np.where(mask[1], teacher, x0)
    return xarray.Dataset(
        {
            "kernel_change": (task_cells, kernel_change(x0, end, g)),
            "exact_kernel_change": (cells, kernel_change(x0, np.broadcast_to(teacher, end[0].shape), g[0])),
            "rank_at_half": (cells, rank(at_half)),
            "exact_rank_at_half": (cells, rank(truth)),
            "deviation": (cells, _size(at_half - truth) / _size(truth)),
            "rank": (task_cells, rank(end)),
            "moved": (task_cells, _size(end - x0) / seen_move[:, None]),
            "rank_when_lazy": ("seed", rank(lazy)),
            "rank_of_teacher": ("seed", rank(teacher)),
            "converged": (task_cells, np.asarray(sol.result == RESULTS.steady).reshape(shape)),
        },
        coords={"task": list(TASKS), "imbalance": list(IMBALANCES)},
        attrs={"energy": "1/2 sum over the entries seen of (X - M)_ij^2", "shape": f"{M} x {N}", "std": STD},
    )


def _size(a):
    return np.sqrt(np.sum(a * a, axis=(-2, -1)))


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.6)
    axes = figure.subplots(2, 2, sharex=True)
    seen, some = data.sel(task=TASKS[0]), data.sel(task=TASKS[1])
    panels = (
        (axes[0, 0], seen["kernel_change"], data["exact_kernel_change"], "relative change of the\ntangent kernel"),
        (axes[1, 0], data["rank_at_half"], data["exact_rank_at_half"], "effective rank\nhalf way"),
        (axes[0, 1], some["moved"], None, "distance moved\nover the least"),
        (axes[1, 1], some["rank"], None, "effective rank\nin the limit"),
    )
    for ax, values, truth, label in panels:
        ax.errorbar(data["imbalance"], values.mean("seed"), two_errors(values), color="C0", lw=1, label="flow")
        if truth is not None:
            ax.plot(data["imbalance"], truth.mean("seed"), "o", color="C1", mfc="none", markersize=4, label="exact")
        ax.set_ylabel(label)
    return _dressed(figure, axes, data)


def _dressed(figure: Drawing, axes, data: xarray.Dataset) -> Drawing:
    """The reference lines, titles and scales of the panels."""
    for ax in axes[1]:
        ax.axhline(float(data["rank_of_teacher"].mean()), color="0.5", lw=0.8, ls=":")
        ax.set_xlabel("imbalance $g$")
    lazy = float(data["rank_when_lazy"].mean())
    axes[1, 1].axhline(lazy, color="0.5", lw=0.8, ls="--")
    teacher = float(data["rank_of_teacher"].mean())
    for ax, height, label in (
        (axes[1, 0], teacher, "teacher"),
        (axes[1, 1], teacher, "teacher"),
        (axes[1, 1], lazy, "lazy limit"),
    ):
        ax.annotate(label, (0, height), (0, 2), textcoords="offset points", color="0.4", fontsize=7)
    axes[0, 1].axhline(1.0, color="0.5", lw=0.8, ls="--")
    axes[0, 0].set_xscale("symlog", linthresh=IMBALANCES[1], linscale=0.5)
    axes[0, 0].set(yscale="log", title="all entries seen", xlim=(-0.0003, 2 * IMBALANCES[-1]))
    axes[0, 0].set(xticks=(0, 0.1, 10, 1000), xticklabels=("0", "0.1", "10", "1000"))
    axes[0, 0].minorticks_off()
    axes[0, 1].set_title(f"{100 * SHARE:.0f} % seen")
    axes[0, 0].legend()
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    off = float(data["deviation"].max())
    rows = [vanishing("largest deviation from the exact solution, relative", off, 1e-4)]
    seen, some = data.sel(task=TASKS[0]), data.sel(task=TASKS[1])
    first, last = IMBALANCES[0], IMBALANCES[-1]
    # What is expected is computed from the same draws, and has no error of its own.
    for g in (first, last):
        at = lambda values, g=g: mean(values.sel(imbalance=g).values)
        change, known = (f"{at(data['exact_kernel_change'])[0]:.3g}", at(seen["kernel_change"]))
        rows.append(
            measured(f"all seen: relative change of the tangent kernel, g = {g:g}", known, change, expected_error=0.0)
        )
        half = f"{at(data['exact_rank_at_half'])[0]:.3g}"
        rows.append(
            measured(
                f"all seen: effective rank half way, g = {g:g}", at(data["rank_at_half"]), half, expected_error=0.0
            )
        )
        rows.append(measured(f"some seen: relative change of the tangent kernel, g = {g:g}", at(some["kernel_change"])))
        lazy = g == last
        rank = f"{mean(data['rank_when_lazy'].values)[0]:.3g}" if lazy else "nan"
        quantity = f"some seen: effective rank in the limit, g = {g:g}"
        rows.append(measured(quantity, at(some["rank"]), rank, expected_error=0.0))
        name, moved = f"some seen: distance moved over the least, g = {g:g}", at(some["moved"])
        rows.append(
            Number(name, "-", *moved, verdict(abs(moved[0] - 1) < NEAR), 1.0) if lazy else measured(name, moved)
        )
    rows.append(measured("share that converged, all cells", mean(data["converged"].values.ravel())))
    return rows


FIGURE = Figure(
    "5.5",
    "From rich to lazy by the imbalance of two layers (beyond the thesis)",
    10,
    compute,
    draw,
    numbers,
    text="Two layers with W_1 W_1^T - W_2^T W_2 = g I, from the same small X(0), against g. Left, all entries of "
    "a teacher of rank 2 are seen: a balanced network changes its tangent kernel many times over and learns one mode "
    "after the other, so that half way its rank is near one; a network of large g keeps its kernel, and learns both "
    "modes at once. The markers are the exact solution (Fukumizu 1998; Braun et al. 2022). Right, some entries are "
    "seen: the balanced network fills in the others and ends near the rank of the teacher, the lazy one moves the "
    "least that it can, leaves the unseen entries where they were, and ends at higher rank.",
    parameters="E = 1/2 sum over the entries seen of (X - M)_ij^2, M of 8 x 6 with sigma = 3 and 1, N = 2, X_ij ~ N(0, "
    "0.004^2) at the start, to |dE| <= 1e-5 or t = 1e6, 10 draws for each g; bars: 2 s.e.",
    counted="draws for each imbalance",
    source="the exact solution of two layers, or the limit of large g",
    look=4,
)
