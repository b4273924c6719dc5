"""Figure 5.6, beyond the thesis: completion at real size, against alternating least squares and the nuclear norm."""

from typing import Any, NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float, Int
from matplotlib.figure import Figure as Drawing

from dlnjax import gradient_flow, MatrixCompletion, SVD
from dlnjax.figures._figure import Figure, measured, Number, shown_depth, verdict
from dlnjax.figures._shapes import rank_of
from dlnjax.plot import new_figure

# The size of MovieLens 100k, and the share of it that is seen. A smaller table has the same shape, and as many seen
# entries for each degree of freedom of its rank.
ROWS, COLUMNS, SEEN = 943, 1682, 0.05
RANK, NOISE, HELD = 10, 0.1, 0.1
CARRIED = (10, 50)
# (depth, frames of the start, its singular values, time of the end, line and colour of the picture). At infinite depth
# a flow from sigma_0 takes a time of order 1/sigma_0, and the longer it is, the stiffer. It starts from larger values.
FLOWS = (
    (2.0, "random", 0.1, 4.0, "-", "C1"),
    (3.0, "random", 0.1, 4.0, "--", "C2"),
    (np.inf, "observed", 2.0, 0.1, "-.", "C0"),
    (np.inf, "random", 1.0, 4.0, ":", "C0"),
)
RTOL, TIMES = 1e-3, np.append(0.0, np.geomspace(1 / 200, 1, 50))
# Ridges of alternating least squares, each from the result of the one before, and sweeps at each.
RIDGES, SWEEPS = (3.0, 1.0, 0.3, 0.1, 0.03), 5
# Penalties of the nuclear norm in units of the noise's spectral norm, steps at each, and the most values kept.
PENALTIES, STEPS, KEPT = (8.0, 4.0, 2.0, 1.0, 0.5), 40, 100


class Table(NamedTuple):
    """Entries that are seen: their rows, columns and values."""

    rows: Int[np.ndarray, " entries"]
    columns: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]
    shape: tuple[int, int]

    def matrix(self, values):
        """The sparse matrix with these values at the entries."""
        from scipy.sparse import csr_matrix

        return csr_matrix((values, (self.rows, self.columns)), shape=self.shape)

    def at(self, u, sigma, v) -> Float[np.ndarray, " entries"]:
        """X = U diag(sigma) V^T at the entries."""
        return np.einsum("er,er->e", (u * sigma)[self.rows], v[self.columns])

    def error(self, point) -> float:
        return float(np.sqrt(np.mean((self.at(*point) - self.values) ** 2)))


def ratings(rng: np.random.Generator, rows: int) -> tuple[Table, Table]:
    """A table of rank 10 whose entries have variance 1, seen with noise: (the seen part, the part held out)."""
    shape = m, n = rows, round(rows * COLUMNS / ROWS)
    freedom = lambda m, n: RANK * (m + n - RANK)
    seen = SEEN * ROWS * COLUMNS * freedom(m, n) / freedom(ROWS, COLUMNS)
    x = rng.normal(size=(m, RANK)) @ rng.normal(size=(RANK, n)) / np.sqrt(RANK)
    chosen = rng.permutation(m * n)[: min(round(seen / (1 - HELD)), m * n)]
    i, j = np.divmod(chosen, n)
    values = x[i, j] + NOISE * rng.normal(size=len(i))
    held = np.arange(len(i)) < HELD * len(i)
    seen, unseen = (Table(i[part], j[part], values[part], shape) for part in (~held, held))
    return seen, unseen


def alternating_least_squares(seen: Table, rank: int, rng: np.random.Generator):
    """The points on the path of ridges: each factor in turn is the ridge regression of the values on the other."""
    left, right = (rng.normal(size=(size, rank)) for size in seen.shape)
    for ridge in RIDGES:
        for _ in range(SWEEPS):
            left = _regressed(seen.rows, seen.columns, seen.values, right, ridge, seen.shape[0])
            right = _regressed(seen.columns, seen.rows, seen.values, left, ridge, seen.shape[1])
        (q, r), (p, s) = np.linalg.qr(left), np.linalg.qr(right)
        u, sigma, vt = np.linalg.svd(r @ s.T)
        yield q @ u, sigma, p @ vt.T


def _regressed(lines, crossing, values, other, ridge: float, count: int):
    order = np.argsort(lines, kind="stable")
    cuts = np.searchsorted(lines[order], np.arange(1, count))
    mine = np.zeros((count, other.shape[1]))
    for k, entries in enumerate(np.split(order, cuts)):
        a = other[crossing[entries]]
        mine[k] = np.linalg.solve(a.T @ a + ridge * np.eye(a.shape[1]), a.T @ values[entries])
    return mine


def least_nuclear_norm(seen: Table, rng: np.random.Generator):
    """The points on a path of penalties p: argmin of |X - values|^2 / 2 on the entries + p |X|_*, by soft-impute.

    A step replaces the unseen entries by those of X and lowers all singular values by p. Source: Mazumder, Hastie,
    Tibshirani 2010. The decomposition is one step of subspace iteration from the last one, and the extrapolation is
    that of Nesterov, without which five times as many steps do not suffice.
    """
    m, n = seen.shape
    kept = min(KEPT, m)
    u, sigma, v = np.zeros((m, kept)), np.zeros(kept), np.linalg.qr(rng.normal(size=(n, kept)))[0]
    residual = seen.values
    noise = NOISE * (np.sqrt(len(residual) / m) + np.sqrt(len(residual) / n))
    for penalty in noise * np.array(PENALTIES):
        before = u, sigma, v, residual
        for step in range(STEPS):
            # Y = X + push (X - X before), and the residual there, which is affine in Y.
            push = step / (step + 3)
            left = np.hstack([(1 + push) * u * sigma, -push * before[0] * before[1]])
            right = np.hstack([v, before[2]])
            sparse = seen.matrix((1 + push) * residual - push * before[3])
            before = u, sigma, v, residual
            q = np.linalg.qr(sparse @ v + left @ (right.T @ v))[0]
            v, all_sigma, turn = np.linalg.svd(sparse.T @ q + right @ (left.T @ q), full_matrices=False)
            u, sigma = q @ turn.T, np.maximum(all_sigma - penalty, 0.0)
            residual = seen.values - seen.at(u, sigma, v)
        yield u, sigma, v


def start(seen: Table, rank: int, frames: str, size: float, rng: np.random.Generator) -> SVD:
    """A small start, in random frames or in those of the largest singular values of the seen entries."""
    if frames == "observed":
        from scipy.sparse.linalg import svds

        decomposed: Any = svds(seen.matrix(seen.values), k=rank, v0=rng.normal(size=min(seen.shape)))
        u, _, vt = decomposed
        assert u is not None and vt is not None
        u, v = u[:, ::-1], vt[::-1].T
    else:
        u, v = (np.linalg.qr(rng.normal(size=(size, rank)))[0] for size in seen.shape)
    return SVD(*map(jax.device_put, (u, size * np.linspace(1, 0.9, rank), v)))


def compute(key, seeds: int) -> xarray.Dataset:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    seen, held = ratings(rng, seeds)
    energy, unseen = (MatrixCompletion.from_entries(*part) for part in (seen, held))
    shape = (len(CARRIED), len(FLOWS))
    error, rank = np.empty((2, *shape, len(TIMES)))
    for at in np.ndindex(shape):
        depth, frames, size, horizon, *_ = FLOWS[at[1]]
        x0, ts = start(seen, CARRIED[at[0]], frames, size, rng), horizon * TIMES
        sol = gradient_flow(energy, x0, depth=depth, ts=ts, rtol=RTOL, observe=unseen.error)
        error[at], rank[at] = sol.observed, rank_of(sol.sigma)
    paths = [[*alternating_least_squares(seen, rank, rng)] for rank in CARRIED] + [[*least_nuclear_norm(seen, rng)]]
    best = [min(path, key=held.error) for path in paths]
    methods = [f"alternating least squares, rank {rank}" for rank in CARRIED] + ["nuclear norm"]
    of_flow = ("carried", "flow", "time")
    return xarray.Dataset(
        {
            "error": (of_flow, error, {"long_name": "test error"}),
            "effective_rank": (of_flow, rank, {"long_name": "effective rank"}),
            "time_of_flow": (("flow", "time"), np.multiply.outer([flow[3] for flow in FLOWS], TIMES)),
            "error_of_method": ("method", [held.error(point) for point in best]),
            "rank_of_method": ("method", [float(rank_of(sigma)) for _, sigma, _ in best]),
        },
        coords={
            "carried": list(CARRIED),
            "flow": [f"N = {depth:g}, {frames} frames" for depth, frames, *_ in FLOWS],
            "time": ("time", TIMES, {"long_name": "time over that of the end"}),
            "method": methods,
        },
        attrs={
            "energy": "1/2 sum over the entries seen of (X_ij - value_ij)^2",
            "entries": len(seen.rows),
            "held_out": len(held.rows),
            "shape": f"{seen.shape[0]} x {seen.shape[1]}",
            "start": "small, in frames that are random or those of the entries seen",
        },
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.9)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, carried in enumerate(CARRIED):
        above, below = axes[:, column]
        for ax, name in ((above, "error"), (below, "effective_rank")):
            for k, (depth, frames, *_, ls, color) in enumerate(FLOWS):
                label = f"$N = {shown_depth(depth)}$" + (f", {frames} frames" if np.isinf(depth) else "")
                one = data.sel(carried=carried).isel(flow=k, time=slice(1, None))
                ax.plot(one["time_of_flow"], one[name], ls=ls, color=color, label=label)
            method = data[f"{name.removeprefix('effective_')}_of_method"].values
            for value, ls, label in (
                (method[column], (0, (4, 2)), "alternating least squares"),
                (method[-1], (0, (1, 1)), "nuclear norm"),
            ):
                ax.axhline(value, color="0.4", lw=0.8, ls=ls, zorder=0, label=label)
        above.set_title(f"rank {carried} carried")
        below.set_xlabel("time $t$")
    ticks = (0.1, 0.2, 0.5, 1.0)
    axes[0, 0].set(
        xscale="log", xlim=(0.01, 5), yscale="log", ylabel="test error", yticks=ticks, yticklabels=map(str, ticks)
    )
    axes[0, 0].minorticks_off()
    axes[1, 0].set_ylabel("effective rank")
    axes[1, 0].legend(loc="upper left", bbox_to_anchor=(-0.02, 1.02), fontsize=6, handlelength=2.4)
    return figure


_FROZEN = "At infinite depth the column and the row space never turn, and random ones hold nothing of the table."


def numbers(data: xarray.Dataset) -> list[Number]:
    held = int(data.attrs["held_out"])
    with_error = lambda value: (float(value), float(value) / np.sqrt(2 * held))
    least, _, nuclear = data["error_of_method"].values
    error, rows = data["error"], []
    for k, (depth, *_) in enumerate(FLOWS[:2]):
        end = with_error(error.sel(carried=CARRIED[0]).isel(flow=k, time=-1))
        quantity = f"test error at the end, N = {depth:g}, {CARRIED[0]} carried (expected: alternating least squares)"
        rows.append(measured(quantity, end, f"{least:.3g}"))
    for k, (depth, frames, *_) in enumerate(FLOWS[:3]):
        for carried in CARRIED:
            one = error.sel(carried=carried).isel(flow=k)
            name = f"N = {depth:g}, {frames} frames, {carried} carried"
            at = int(one.argmin("time"))
            rank = float(data["effective_rank"].sel(carried=carried).isel(flow=k, time=at))
            rows.append(measured(f"least test error on the way, {name}", with_error(one[at])))
            rows.append(measured(f"effective rank there, {name}", (rank, 0.0)))
    for carried in CARRIED:
        one = error.sel(carried=carried).isel(flow=3)
        learnt = float(1 - one.min() / one[0])
        quantity = f"part of the error that N = inf removes from random frames, {carried} carried"
        rows.append(Number(quantity, "-", learnt, 0.0, verdict(learnt < 0.1), note=_FROZEN))
    for name, here, rank in zip(
        data["method"].values, data["error_of_method"].values, data["rank_of_method"].values, strict=True
    ):
        rows.append(measured(f"test error, {name}", with_error(here)))
        rows.append(measured(f"effective rank, {name}", (float(rank), 0.0)))
    deep = float(error.sel(carried=CARRIED[1]).isel(flow=1).min())
    ratio = deep / nuclear
    quantity = f"least test error, N = 3, {CARRIED[1]} carried, over that of the nuclear norm"
    rows.append(Number(quantity, "-", ratio, ratio / np.sqrt(held), verdict(ratio < 1)))
    return rows


FIGURE = Figure(
    "5.6",
    "Completion at real size, against alternating least squares and the nuclear norm (beyond the thesis)",
    ROWS,
    compute,
    draw,
    numbers,
    text="Test error, the root mean square on entries held out, and effective rank in time, of a table of rank 10 with "
    "noise of 0.1. With rank 10 carried, depths 2 and 3 end where alternating least squares ends. With rank "
    "50, which the entries do not determine, depth 3 learns the ten modes first and the noise later: stopped in "
    "between, it is nearly as good without knowing the rank. Depth 2 is not, and neither are the nuclear norm and "
    "alternating least squares of rank 50, each with its best penalty. At infinite depth the column and row spaces "
    "never turn: random ones learn nothing, and those of the largest singular values of the entries seen hold a part "
    "of the table.",
    parameters="943 x 1682, 5 % of the entries seen and a ninth as many held out, N = 2, 3, infinity, all sigma about "
    "0.1 at the start (1, 2 at infinite depth), rtol 1e-3; a smaller table: as many entries for each degree of freedom",
    counted="rows of the table",
    source="alternating least squares",
)
