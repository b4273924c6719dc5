"""Figure 6.6, beyond the thesis: how far two layers end from the least nuclear norm, for measurements of 2 x 2."""

from typing import Any

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixSensing, PerSeed, Steady, SVD, sweep
from dlnjax.figures._figure import Figure, lettered, measured, median, Number, share, verdict
from dlnjax.plot import new_figure

# The family X_11 = a, X_12 = X_21 = 1, and the sizes of its starts.
ENTRIES, SIZES, SIGNS = 10.0 ** np.linspace(-1.0, 0.0, 5), (1e-2, 1e-8), (1, -1)
FAMILY_STARTS = 24
COUNTS, MOST = (1, 2, 3), 3
# The greedy path leaves 0, and a stop of rank one, by a step of this size.
NUDGE, HORIZON, REST = 1e-6, 1e5, 1e-7
SOLVED = 1e-10
OPTIONS: Any = {"depth": 2.0, "ts": [0.0, HORIZON], "stop": Steady(REST), "progress": False}
# Each generation of the search keeps the best, and moves copies of them by steps of random sizes.
SEARCHED, SEARCHES, GENERATIONS, POPULATION, KEPT, STEPS = 2, 4, 25, 200, 25, (-3.0, 0.0)
ANGLES = 2000
COLORS = ("C2", "C0", "C3")


def least_of_family(a):
    """(the least nuclear norm, that of the solution of rank one) where X_11 = a, 0 < a <= 1, and X_12 = X_21 = 1."""
    return 2.0 + 0 * a, a + 1 / a


def orthonormal(draws: np.ndarray) -> np.ndarray:
    """Orthonormal measurements `n m 2 2` that span the same as those drawn."""
    n, m = draws.shape[:2]
    q, _ = np.linalg.qr(draws.reshape(n, m, 4).mT)
    return q.mT.reshape(n, m, 2, 2)


def nuclear_norm(x: np.ndarray) -> np.ndarray:
    """That of matrices of 2 x 2, by their entries."""
    square = np.sum(x**2, axis=(-2, -1))
    det = x[..., 0, 0] * x[..., 1, 1] - x[..., 0, 1] * x[..., 1, 0]
    return np.sqrt(square + 2 * np.abs(det))


def least(measurements: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The least nuclear norm over <A_i, X> = y_i, for orthonormal A_i, m = 1, 2 or 3.

    For m up to 2 it is the dual maximum of <c, y> / |sum c_i A_i|_op over directions c. For m = 3 the solutions are a
    line, on which the norm is convex.
    """
    n, m = values.shape
    start = np.einsum("nmij,nm->nij", measurements, values)
    if m == 3:
        basis = np.concatenate([measurements.reshape(n, 3, 4), np.zeros((n, 1, 4))], axis=1)
        line = np.linalg.svd(basis)[2][:, -1].reshape(n, 2, 2)
        norm = lambda t: nuclear_norm(start + t[:, None, None] * line)
        return golden(norm, -2 * nuclear_norm(start), 2 * nuclear_norm(start))
    dual = lambda angle: -_dual(measurements, values, angle)
    angles = np.linspace(0.0, 2 * np.pi, ANGLES, endpoint=False)
    best = angles[np.argmin([dual(np.full(n, angle)) for angle in angles], axis=0)]
    return -golden(dual, best - 2 * np.pi / ANGLES, best + 2 * np.pi / ANGLES)


def _dual(measurements, values, angle):
    c = np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, : values.shape[1]]
    whole = np.einsum("nm,nmij->nij", c, measurements)
    square = np.sum(whole**2, axis=(-2, -1))
    det = np.linalg.det(whole)
    largest = (np.sqrt(square + 2 * abs(det)) + np.sqrt(np.maximum(square - 2 * abs(det), 0))) / 2
    return np.sum(c * values, axis=1) / np.maximum(largest, 1e-12)


def golden(f, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The least value of each convex function of one variable between two bounds."""
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        smaller = f(left) < f(right)
        low, high = np.where(smaller, low, left), np.where(smaller, right, high)
    return f((low + high) / 2)


def sensed(measurements: np.ndarray, values: np.ndarray) -> PerSeed:
    """The energy (1/2) sum (<A_i, X> - y_i)^2 of each of n systems, filled up to `MOST` measurements by zeros.

    All sweeps then have one shape.
    """
    missing = MOST - values.shape[1]
    measurements = np.pad(measurements, ((0, 0), (0, missing), (0, 0), (0, 0)))
    return PerSeed(MatrixSensing(*map(jax.device_put, (measurements, np.pad(values, ((0, 0), (0, missing)))))))


def greedy_limit(measurements: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the end of the greedy path, whether it is a solution): the limit of starts that shrink to 0 at two layers."""
    energy = sensed(measurements, values)
    u, _, vt = np.linalg.svd(np.einsum("nmij,nm->nij", measurements, values))
    sigma = np.full((len(values), 1), NUDGE)
    first = sweep(energy, SVD(*map(jax.device_put, (u[..., :1], sigma, vt.mT[..., :1]))), **OPTIONS)
    x, solved = np.array(first.x)[:, -1], np.asarray(first.energy)[:, -1] < SOLVED
    if not solved.all():
        # Where rank one does not suffice the path goes on along the top pair there. The others rest.
        error = np.einsum("nmij,nij->nm", measurements, x) - values
        u, _, vt = np.linalg.svd(-np.einsum("nmij,nm->nij", measurements, error))
        second = sweep(energy, x + NUDGE * u[..., :1] @ vt[:, :1], **OPTIONS)
        x = np.where(solved[:, None, None], x, np.asarray(second.x)[:, -1])
        solved = solved | (np.asarray(second.energy)[:, -1] < SOLVED)
    return x, solved


def ratios(points: np.ndarray, m: int) -> np.ndarray:
    """The nuclear norm of the greedy limit over the least, NaN where unsolved.

    A row of `points` has the entries of m measurements, which are made orthonormal, and m values.
    """
    measurements, values = orthonormal(points[:, : 4 * m].reshape(-1, m, 2, 2)), points[:, 4 * m :]
    values = values / np.linalg.norm(values, axis=1, keepdims=True)
    x, solved = greedy_limit(measurements, values)
    return np.where(solved, nuclear_norm(x) / least(measurements, values), np.nan)


def search(rng: np.random.Generator, generations: int, population: int) -> np.ndarray:
    """The largest ratio that one search finds for `SEARCHED` measurements, after each generation."""
    m = SEARCHED
    points = rng.standard_normal((population, 5 * m))
    found, history = np.nan_to_num(ratios(points, m)), []
    for _ in range(generations):
        best = np.argsort(-found)[:KEPT]
        parents, kept = points[best], found[best]
        size = 10 ** rng.uniform(*STEPS, (population, 1))
        points = parents[rng.integers(KEPT, size=population)] + size * rng.standard_normal((population, 5 * m))
        points, found = np.concatenate([parents, points]), np.concatenate([kept, np.nan_to_num(ratios(points, m))])
        history.append(found.max())
    return np.array(history)


def family(draws: np.ndarray) -> np.ndarray:
    """The limits `sign size entry seed` of the flow where X_11 = a, X_12 = X_21 = 1, by the sign of det X_0."""
    above = np.where(np.linalg.det(draws)[:, None, None] < 0, draws[:, :, ::-1], draws)
    draws = np.stack([above, above[:, :, ::-1]])
    shape = (len(SIGNS), len(SIZES), len(ENTRIES), draws.shape[1])
    starts = np.array(SIZES)[:, None, None, None, None] * draws[:, None, None]
    starts = np.broadcast_to(starts, (*shape, 2, 2)).reshape(-1, 2, 2)
    # The measurements are the entries (1, 1), (1, 2) and (2, 1).
    entries = np.broadcast_to(np.eye(4)[:3].reshape(3, 2, 2), (len(starts), 3, 2, 2))
    a = np.broadcast_to(ENTRIES[:, None], shape).ravel()
    sol = sweep(sensed(entries, np.stack([a, np.ones_like(a), np.ones_like(a)], axis=1)), starts, **OPTIONS)
    return np.asarray(sol.x)[:, -1].reshape(*shape, 2, 2)


def compute(key, seeds: int) -> xarray.Dataset:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    limits = family(rng.standard_normal((min(FAMILY_STARTS, max(seeds // 40, 5)), 2, 2)))
    found = [ratios(rng.standard_normal((seeds, 5 * m)), m) for m in COUNTS]
    # With few draws the searches are few, short and small too.
    searches, generations = min(SEARCHES, max(seeds // 250, 2)), min(GENERATIONS, max(seeds // 20, 5))
    population = min(POPULATION, max(seeds, KEPT))
    return xarray.Dataset(
        {
            "x": (("sign", "size", "entry", "start", "row", "column"), limits, {"long_name": "limit of the flow"}),
            "ratio": (("m", "draw"), np.stack(found), {"long_name": "nuclear norm of the limit over the least"}),
            "search": (
                ("run", "generation"),
                np.stack([search(rng, generations, population) for _ in range(searches)]),
                {"long_name": "largest ratio found"},
            ),
        },
        coords={
            "sign": list(SIGNS),
            "size": list(SIZES),
            "entry": ENTRIES,
            "m": list(COUNTS),
            "generation": population * np.arange(1, generations + 1),
        },
        attrs={"family": "X_11 = a, X_12 = X_21 = 1", "measurements": "random, orthonormal, of 2 x 2", "depth": 2.0},
    )


def of_family(data: xarray.Dataset, sign: int, size: float) -> np.ndarray:
    """The nuclear norm over the least, `entry start`."""
    return nuclear_norm(data["x"].sel(sign=sign, size=size).values) / least_of_family(data["entry"].values)[0][:, None]


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    entries, tails, searched = figure.subplots(1, 3)
    a = data["entry"].values
    for sign, marker in zip(SIGNS, "os", strict=True):
        for size, color in zip(SIZES, ("C1", "C0"), strict=True):
            label = rf"$\det X_0 {'>' if sign > 0 else '<'} 0$, size $10^{{{np.log10(size):.0f}}}$"
            middle = np.median(of_family(data, sign, size), axis=1)
            entries.loglog(a, middle, marker, color=color, ms=4, mfc=color if sign > 0 else "none", label=label)
    fine = np.geomspace(a[0], a[-1], 50)
    low, high = least_of_family(fine)
    entries.loglog(fine, high / low, color="black", lw=0.9, label="$(a + 1/a)/2$")
    for m, color in zip(COUNTS, COLORS, strict=True):
        if m == 1:
            continue
        excess = np.sort(data["ratio"].sel(m=m).values - 1)[::-1]
        excess = excess[np.isfinite(excess)]
        tails.loglog(excess, np.arange(1, len(excess) + 1) / len(excess), color=color, lw=1.0, label=f"$m = {m}$")
    tails.set_xlim(1e-4, 30)
    searched.plot(data["generation"], data["search"].T, color="C0", lw=1.0)
    entries.set(xlabel="$X_{11} = a$", ylabel="nuclear norm over the least", title="$X_{12} = X_{21} = 1$ and $a$ seen")
    tails.set(xlabel="relative gap", ylabel="share of draws above", title="random measurements")
    searched.set(xlabel="evaluations", ylabel="largest ratio found", title=f"{data.sizes['run']} searches, $m = 2$")
    entries.set_yticks([1, 2, 5], ["1", "2", "5"])
    for ax in (entries, tails):
        ax.minorticks_off()
        ax.legend(loc="upper right" if ax is entries else "lower left", fontsize=6)
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    low, high = least_of_family(data["entry"].values)
    for size in SIZES:
        near = np.abs(of_family(data, 1, size) / (high / low)[:, None] - 1) < 0.01
        name = f"share of starts of det > 0 that end at (a + 1/a)/2 times the least, within 1 %, size {size:g}"
        # A start that is not small may go far beyond this solution.
        said = "measured" if size > SIZES[-1] else verdict(bool(near.mean() > 0.8))
        rows.append(Number(name, "-", *share(near.ravel()), said))
        for k, sign in ((0, 1), (0, -1), (2, -1)):
            of_what = f"size {size:g}, det {'>' if sign > 0 else '<'} 0"
            name = f"a = {data['entry'].values[k]:.3g}: median ratio to the least, {of_what}"
            rows.append(measured(name, median(of_family(data, sign, size)[k])))
    for m in COUNTS:
        found = data["ratio"].sel(m=m).values
        known = found[np.isfinite(found)]
        rows.append(measured(f"m = {m}: share of draws whose path ends at a solution", share(np.isfinite(found))))
        least_ratio = float(known.min())
        rows.append(Number(f"m = {m}: least ratio", "-", least_ratio, 0.0, verdict(least_ratio > 1 - 1e-5)))
        if m == 1:
            rows.append(Number("m = 1: largest ratio", "-", float(known.max()), 0.0, verdict(known.max() < 1 + 1e-5)))
            continue
        rows.append(measured(f"m = {m}: share of draws with a gap above 1 %", share(known > 1.01)))
        rows.append(measured(f"m = {m}: share of draws with a gap above 10 %", share(known > 1.1)))
        rows.append(measured(f"m = {m}: largest ratio of the draws", (float(known.max()), 0.0)))
    ends = data["search"].isel(generation=-1).values
    rows.append(measured("m = 2: largest ratio that the searches find", (float(ends.max()), 0.0)))
    rows.append(measured("m = 2: largest ratio of the least lucky search", (float(ends.min()), 0.0)))
    return rows


FIGURE = Figure(
    "6.6",
    "How far two layers end from the least nuclear norm, by the number of measurements (beyond the thesis)",
    1000,
    compute,
    draw,
    numbers,
    text="Matrices of 2 x 2 at depth 2. (a) Three entries are seen, a, 1 and 1: starts of positive determinant end at "
    "the solution of rank one, whose nuclear norm is (a + 1/a)/2 times the least. (b) Random orthonormal "
    "measurements: the share of draws whose greedy path, the limit of starts that shrink to 0, ends at a relative gap "
    "above a number. (c) The largest ratio for two orthonormal measurements that each of four evolutionary searches "
    "finds.",
    parameters="N = 2; a = 0.1 to 1, 24 starts of each size and sign; m orthonormal measurements, 1000 draws each; "
    "four searches of 25 generations of 200",
    counted="draws of measurements (with fewer, the searches are fewer and smaller too)",
    source="the solution of rank one",
)
