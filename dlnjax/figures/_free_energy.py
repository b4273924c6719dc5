"""Figure 6.4, beyond the thesis: the minimisers and the saddles of the free energy of completion."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing
from scipy.optimize import minimize

from dlnjax import FreeEnergy, MatrixCompletion, Steady, sweep
from dlnjax._compile import compiled
from dlnjax.figures._figure import Figure, lettered, measured, Number, share, shown_depth, verdict
from dlnjax.figures._free_energy_laws import (
    best_solution,
    deep_summit,
    entropy_of_pair,
    entropy_on_solutions,
    equilibrium,
    free_energy,
    last_beta,
    last_beta_of_one_negative,
    last_entry,
    minimiser,
    shallow_summit,
    summit,
    three_entries,
)
from dlnjax.figures._shapes import rank_of
from dlnjax.plot import new_figure

# The diagonal completion. At N = d = 2 the equilibria are no points but segments.
SEARCHED = {2: (3.0, np.inf), 3: (2.0, 3.0, np.inf), 5: (2.0, 3.0, np.inf)}
DEPTHS, BETAS = (2.0, 3.0, np.inf), (0.1, 1.0, 10.0)
NEWTON_STEPS, BATCH, SHARES = 60, 128, 4.0 ** -np.arange(6)
FOUND, FAR = 1e-9, 100.0
# The rate at which the flow leaves the isotropic saddle is measured at this size, from this far.
RATE_SIZE, NEAR = 3, 1e-6
# The three entries X_11 = a, X_12 = X_21 = 1.
ENTRIES = np.array([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
# The place of its maximum is compared with the leading order at this one.
SMALL_ENTRY, SMALL_ORDER = 0.05, 0.03
COOLED = 10.0 ** np.linspace(4.0, 0.5, 36)
FLOW_ENTRY, FLOW_BETA, HORIZON = 0.2, 200.0, 2e4
FLOW_SIZE, REST = 0.3, 1e-9
DEEPER = (3.0, 10.0, np.inf)
COLORS, MARKERS = {2.0: "C3", 3.0: "C4", 10.0: "C2", np.inf: "C0"}, ("s", "^", "D")


def newton(*completions) -> tuple[np.ndarray, ...]:
    """(the end of Newton's method for dF = 0, |dF| there, the eigenvalues of the Hessian), of n completions.

    Of some parts of each step the one with the least |dF| is taken. |dF| may end at a minimum of its own.

    **Arguments:** `x`, `labels` and `seen`, `n d d`; `depth` and `beta`, `n`.
    """
    n, found = len(completions[0]), []
    for first in range(0, n, BATCH):
        # The last batch is filled up with the last completion, so that all have one shape.
        rows = np.minimum(np.arange(first, first + BATCH), n - 1)
        found.append(_newton(*(jax.device_put(np.asarray(part)[rows]) for part in completions)))
    return tuple(np.concatenate(parts)[:n] for parts in zip(*found, strict=True))


@compiled
def _newton(x, labels, seen, depth, beta):
    d = x.shape[-1]

    def one(x, labels, seen, depth, beta):
        free = FreeEnergy(MatrixCompletion(labels, seen, weight=1.0), beta, depth)
        slope = lambda v: free.gradient(v.reshape(d, d)).ravel()

        def step(v, _):
            move = jnp.linalg.solve(jax.jacfwd(slope)(v), slope(v))
            tries = v - jnp.asarray([0.0, *SHARES])[:, None] * move
            size = jax.vmap(lambda v: jnp.linalg.norm(slope(v)))(tries)
            return tries[jnp.argmin(jnp.where(jnp.isfinite(size), size, jnp.inf))], None

        v, _ = jax.lax.scan(step, x.ravel(), None, length=NEWTON_STEPS)
        hessian = jax.jacfwd(slope)(v)
        spectrum = jnp.linalg.eigvalsh((hessian + hessian.T) / 2)
        return v.reshape(d, d), jnp.linalg.norm(slope(v)), spectrum

    return jax.vmap(one)(x, labels, seen, depth, beta)


def starts(rng: np.random.Generator, seeds: int, d: int) -> np.ndarray:
    """At d = 2 a grid of X_12 and X_21 for some diagonals, else random matrices, some of them near diagonal ones."""
    if d == 2:
        off, diagonal = np.linspace(-2.1, 2.1, 5), np.array([-1.5, -0.3, -1e-2, -1e-4, -1e-6, 0.5, 1.5])
        p, x, y, q = (one.ravel() for one in np.meshgrid(diagonal, off, off, diagonal, indexing="ij"))
        grid = np.stack([p, x, y, q], axis=-1).reshape(-1, 2, 2)
        return grid[:: max(1, len(grid) // (12 * seeds))]
    signs = np.where(np.arange(d) < rng.integers(d + 1, size=(seeds, 1)), -1.0, 1.0)
    # Negative entries of equilibria come down to 1e-6, and Newton's method finds them only from near.
    entries = np.where(signs < 0, -(10 ** rng.uniform(-6, 0.3, (seeds, 1))), rng.uniform(0.5, 1.5, (seeds, d)))
    off = 10 ** rng.uniform(-8, 0.3, (seeds, 1, 1)) * rng.standard_normal((seeds, d, d))
    return entries[:, None, :] * np.eye(d) + off


def searches(rng: np.random.Generator, seeds: int) -> dict:
    """What Newton's method finds at each size, depth and temperature: one row for each start."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("size", "depth", "beta", "found", "k", "off", "index")}
    for d, depths in SEARCHED.items():
        x0 = starts(rng, seeds, d)
        depth, beta, which = (one.ravel() for one in np.meshgrid(depths, BETAS, np.arange(len(x0)), indexing="ij"))
        eye = np.broadcast_to(np.eye(d), (len(which), d, d))
        x, slope, spectrum = newton(x0[which], eye, eye == 1, depth, beta)
        diagonal = np.diagonal(x, axis1=1, axis2=2)
        k = (diagonal < 0).sum(1)
        exact = np.full_like(diagonal, np.nan)
        for row in {(n, b, m) for n, b, m in zip(depth, beta, k, strict=True)}:
            at = (depth == row[0]) & (beta == row[1]) & (k == row[2])
            a, b = equilibrium(d, row[2], row[0], row[1])
            exact[at] = np.where(diagonal[at] < 0, -b, a)
        off = np.abs(x - exact[:, :, None] * np.eye(d)).max((1, 2))
        found = (slope < FOUND) & (np.linalg.norm(x, axis=(1, 2)) < FAR)
        values = np.full(len(x), d), depth, beta, found, k, off, (spectrum < 0).sum(1)
        for name, one in zip(rows, values, strict=True):
            rows[name].append(one)
    return {name: ("search", np.concatenate(parts)) for name, parts in rows.items()}


def descents(rng: np.random.Generator, seeds: int) -> np.ndarray:
    """|X| where SciPy's minimisations of the free energy at d = 3, beta = 1 end, `depth start`."""
    seen, x0 = np.eye(3) == 1, rng.standard_normal((seeds, 3, 3))
    ends = np.empty((len(DEPTHS), seeds))
    for k, depth in enumerate(DEPTHS):
        for j, x in enumerate(x0):
            f = lambda v, depth=depth: free_energy(v.reshape(3, 3), np.eye(3), seen, depth, 1.0)
            ends[k, j] = np.linalg.norm(minimize(f, x.ravel(), jac=True, method="BFGS").x)
    return ends


def rates() -> np.ndarray:
    """The rate at which the flow leaves the isotropic saddle, over the derived one, `depth beta`."""
    d = RATE_SIZE
    depth, beta = (one.ravel() for one in np.meshgrid(DEPTHS, BETAS, indexing="ij"))
    s = np.array([equilibrium(d, 0, *one)[0] for one in zip(depth, beta, strict=True)])
    turn = np.zeros((d, d))
    turn[0, 1], turn[1, 0] = 1.0, -1.0
    energy = FreeEnergy(MatrixCompletion.diagonal(d), beta, depth)
    x0 = s[:, None, None] * (np.eye(d) + NEAR * turn)
    options = {"ts": [0.0, 1.0], "rtol": 1e-10, "atol": 1e-14, "progress": False}
    x = np.asarray(sweep(energy, x0, depth=depth, **options).x)[:, -1]
    growth = np.log((x[:, 0, 1] - x[:, 1, 0]) / (2 * NEAR * s))
    exact = (d - 1) * (1 - 1 / depth) / (2 * beta * s ** (2 / depth))
    return (growth / exact).reshape(len(DEPTHS), len(BETAS))


def cooled() -> dict:
    """The minimisers of three entries, NaN where there is none, and what Newton's method of the library says of them.

    Each is followed from the maximum of the entropy on the solutions, from which it comes as beta falls from infinity.
    """
    shape = (len(DEEPER), len(ENTRIES), len(COOLED))
    x, last, least = np.full((*shape, 2, 2), np.nan), np.full(shape[:2], np.nan), np.full(shape, np.nan)
    for i, depth in enumerate(DEEPER):
        for j, a in enumerate(ENTRIES):
            now = best_solution(a, depth)
            for k, beta in enumerate(COOLED):
                found = minimiser(a, depth, beta, now)
                if np.isnan(found).any():
                    break
                x[i, j, k] = now = found
            else:
                continue
            last[i, j] = last_beta(a, depth, COOLED[k - 1], now) if k else np.nan
    there = np.isfinite(x[..., 0, 0])
    depth, a, beta = (one[there] for one in np.meshgrid(DEEPER, ENTRIES, COOLED, indexing="ij"))
    labels, seen = (np.stack(one) for one in zip(*map(three_entries, a), strict=True))
    ends = newton(x[there], labels, seen, depth, beta)
    least[there] = ends[2][:, 0]
    cells = ("deeper", "entry", "cooled")
    return {
        "x": ((*cells, "row", "column"), x, {"long_name": "minimiser of three entries"}),
        "least": (cells, least, {"long_name": "least eigenvalue of its Hessian"}),
        "last": (cells[:2], last, {"long_name": "least beta at which it exists"}),
        "moved": ((), float(np.abs(ends[0] - x[there]).max()), {"long_name": "how far Newton moves it"}),
    }


def flows(rng: np.random.Generator, seeds: int) -> np.ndarray:
    """The distance from the minimiser of three entries at which flows of negative determinant end, `depth start`."""
    labels, seen = three_entries(FLOW_ENTRY)
    x0 = FLOW_SIZE * rng.standard_normal((seeds, 2, 2))
    x0 = np.where(np.linalg.det(x0)[:, None, None] > 0, x0[:, ::-1], x0)
    goals = np.stack([minimiser(FLOW_ENTRY, depth, FLOW_BETA, best_solution(FLOW_ENTRY, depth)) for depth in DEEPER])
    depth, x0 = np.repeat(DEEPER, seeds), np.tile(x0, (len(DEEPER), 1, 1))
    energy = FreeEnergy(MatrixCompletion(labels, seen, weight=1.0), np.full(len(depth), FLOW_BETA), depth)
    # A flow that runs away gets stiff, and does not need to arrive. Some of each depth do, and take nearly all of the
    # time. All flows therefore run in one chunk.
    options = {"ts": [0.0, HORIZON], "stop": Steady(REST), "max_steps": 2000, "chunk": len(x0), "progress": False}
    x = np.asarray(sweep(energy, x0, depth=depth, **options).x)[:, -1]
    return np.linalg.norm(x.reshape(len(DEEPER), seeds, 2, 2) - goals[:, None], axis=(2, 3))


def compute(key, seeds: int) -> xarray.Dataset:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return xarray.Dataset(
        {
            **searches(rng, seeds),
            "scipy": (("n", "descent"), descents(rng, max(5, seeds // 5)), {"long_name": "|X| at the end, SciPy"}),
            "rate": (("n", "b"), rates(), {"long_name": "rate of leaving the isotropic saddle over the derived one"}),
            **cooled(),
            "flow": (("deeper", "start"), flows(rng, max(5, seeds // 5)), {"long_name": "distance from it"}),
        },
        coords={"n": list(DEPTHS), "b": list(BETAS), "entry": ENTRIES, "cooled": COOLED, "deeper": list(DEEPER)},
        attrs={"energy": "E - S/beta, E of (4.21), or three entries seen: X_11 = a, X_12 = X_21 = 1"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 5.0)
    (plane, saddles), (line, region) = figure.subplots(2, 2)
    _draw_plane(figure, plane)
    beta = np.geomspace(1e-2, 1e3, 60)
    for depth in DEPTHS:
        for k, style in ((1, "-"), (2, "--")):
            curve = [rank_at(3, k, depth, one) for one in beta]
            label = f"$N = {shown_depth(depth)}$" if k == 1 else None
            saddles.plot(beta, curve, style, color=COLORS[depth], lw=1.0, label=label)
    w = np.linspace(1.8, -0.6, 1200)
    for depth in (2.0, *DEEPER):
        values = entropy_on_solutions(w, FLOW_ENTRY, depth)
        line.plot(1 - w, values, color=COLORS[depth], lw=1.0, label=f"$N = {shown_depth(depth)}$")
        top = summit(FLOW_ENTRY, depth)
        line.plot(1 - top, entropy_on_solutions(top, FLOW_ENTRY, depth), "o", color=COLORS[depth], ms=4)
    for depth, marker in zip(DEEPER, MARKERS, strict=True):
        style = {"color": COLORS[depth], "ms": 3, "lw": 0.9, "label": f"$N = {shown_depth(depth)}$"}
        region.plot(ENTRIES, ENTRIES**2 * data["last"].sel(deeper=depth), marker + "-", **style)
        region.axvline(last_entry(depth), color=COLORS[depth], lw=0.8, ls=":")
    for k, style in ((1, "-"), (2, "--")):
        saddles.plot([], [], style, color="0.4", label=f"{k} negative")
    saddles.set(xscale="log", xlabel=r"$\beta$", ylabel="effective rank of the saddle", title="saddles, $d = 3$")
    saddles.legend(loc="lower left")
    line.axvline(1.0, color="0.6", lw=0.8)
    line.set(xlabel="$a X_{22}$", ylabel="entropy", title=f"$X_{{11}} = a = {FLOW_ENTRY:g}$, $X_{{12}} = X_{{21}} = 1$")
    line.legend()
    region.set(xlabel="$X_{11} = a$", ylabel=r"$a^2$ times the last $\beta$", ylim=(0, 2))
    region.set_title("a minimiser exists above the line")
    region.legend()
    return lettered(figure)


def _draw_plane(figure: Drawing, ax) -> None:
    grid = np.linspace(-2.5, 2.5, 201)
    x, y = np.meshgrid(grid, grid)
    sigma = np.linalg.svd(np.stack([np.ones_like(x), x, y, np.ones_like(x)], -1).reshape(-1, 2, 2), compute_uv=False)
    entropy = entropy_of_pair(sigma[:, 0], np.maximum(sigma[:, 1], 1e-12), np.inf).reshape(x.shape)
    shades = ax.contourf(x, y, entropy, levels=np.linspace(-1.2, 1.0, 12), extend="both", cmap="viridis")
    figure.colorbar(shades, ax=ax, label=r"entropy $S_\infty$", ticks=[-1, -0.5, 0, 0.5, 1])
    curve = np.geomspace(0.4, 2.5, 50)
    for sign in (1, -1):
        ax.plot(sign * curve, sign / curve, color="white", lw=0.8)
    ax.plot(0, 0, "X", color="C1", ms=6)
    ax.set(xlabel="$X_{12}$", ylabel="$X_{21}$", aspect="equal", title=r"diagonal of ones, $N = \infty$")


def rank_at(d: int, negative: int, depth: float, beta: float) -> float:
    """The effective rank of the saddle with so many negative entries, NaN where there is none."""
    entries = equilibrium(d, negative, depth, beta)
    return float(rank_of(np.repeat(entries, [d - negative, negative])))


def exists(d: int, k: int, depth: float, beta: float) -> bool:
    return not np.isnan(equilibrium(d, k, depth, beta)).all()


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = [*_of_diagonal(data), *_of_saddles()]
    off = float(np.abs(data["rate"].values - 1).max())
    name = f"largest relative error of the rate at which the flow leaves the isotropic saddle, d = {RATE_SIZE}"
    rows.append(Number(name, "-", off, 0.0, verdict(off < 1e-4), 0.0))
    for depth in DEPTHS:
        away = data["scipy"].sel(n=depth).values > FAR
        said = verdict(bool(away.all()))
        rows.append(Number(f"share of SciPy's descents beyond |X| = {FAR:g}, N = {depth:g}", "-", *share(away), said))
    return [*rows, *_of_three(data)]


def _of_diagonal(data: xarray.Dataset) -> list[Number]:
    rows, found = [], data["found"].values == 1
    for d, depths in SEARCHED.items():
        for depth in depths:
            here = (data["size"].values == d) & (data["depth"].values == depth)
            kinds = {one for one in zip(data["beta"].values[here & found], data["k"].values[here & found], strict=True)}
            all_kinds = sum(exists(d, k, depth, beta) for beta in BETAS for k in range(d + 1))
            name = f"d = {d}, N = {depth:g}: numbers of negative entries of equilibria found, all beta"
            rows.append(
                Number(name, "-", len(kinds), 0.0, verdict(len(kinds) == all_kinds, "fewer found"), float(all_kinds))
            )
            off = float(data["off"].values[here & found].max())
            name = f"d = {d}, N = {depth:g}: largest distance of what is found from the derived equilibria"
            rows.append(Number(name, "-", off, 0.0, verdict(off < 1e-6), 0.0))
            index = data["index"].values[here & found]
            name = f"d = {d}, N = {depth:g}: share of the equilibria found whose index is d(d-1)/2"
            right = index == d * (d - 1) // 2
            rows.append(Number(name, "-", float(right.mean()), 0.0, verdict(bool(right.all())), 1.0))
            rows.append(measured(f"d = {d}, N = {depth:g}: share of starts that end at one", share(found[here])))
    return rows


def _of_saddles() -> list[Number]:
    rows = []
    for depth in DEPTHS:
        for k in (1, 2):
            for beta in (0.1, 1.0, 10.0, 1000.0):
                if exists(3, k, depth, beta):
                    name = f"effective rank of the saddle, d = 3, {k} negative, N = {depth:g}, beta = {beta:g}"
                    rows.append(measured(name, (rank_at(3, k, depth, beta), 0.0)))
    for d in SEARCHED:
        low, high = 1e-3, 10.0
        for _ in range(40):
            middle = np.sqrt(low * high)
            low, high = (middle, high) if exists(d, 1, 2.0, middle) else (low, middle)
        exact = last_beta_of_one_negative(d)
        name = f"last beta with one negative entry, N = 2, d = {d}"
        rows.append(Number(name, "-", low, 0.0, verdict(abs(low / exact - 1) < 1e-3), exact))
    return rows


def _of_three(data: xarray.Dataset) -> list[Number]:
    rows = []
    for depth in (2.0, 2.5, 3.0, 5.0, 10.0, np.inf):
        name = f"three entries: largest a with a maximum of the entropy on the solutions, N = {depth:g}"
        rows.append(measured(name, (last_entry(depth), 0.0)))
    for depth in (3.0, 5.0, np.inf):
        exact = deep_summit(SMALL_ENTRY) if np.isinf(depth) else shallow_summit(SMALL_ENTRY, depth)
        det = summit(SMALL_ENTRY, depth)
        name = f"three entries: -det of that maximum, a = {SMALL_ENTRY:g}, N = {depth:g}"
        rows.append(Number(name, "-", det, 0.0, verdict(abs(det / exact - 1) < SMALL_ORDER), exact))
    for depth in DEEPER:
        for a, beta in zip(ENTRIES, data["last"].sel(deeper=depth).values, strict=True):
            value, exact = float(a**2 * beta), 2 * (1 - 1 / depth)
            name = f"three entries, N = {depth:g}: a^2 times the last beta with a minimiser, a = {a:g}"
            # At infinite depth the leading order is reached like 1/log(1/a) only.
            small = a == ENTRIES[0] and np.isfinite(depth)
            said = verdict(abs(value / exact - 1) < SMALL_ORDER) if small else "measured"
            rows.append(Number(name, "-", value, 0.0, said, exact if small else np.nan))
        x = data["x"].sel(deeper=depth).values[int(np.flatnonzero(ENTRIES == FLOW_ENTRY)[0])]
        sigma = np.linalg.svd(x[np.isfinite(x[:, 0, 0])], compute_uv=False)
        ranks = rank_of(sigma)
        name = f"three entries, a = {FLOW_ENTRY:g}, N = {depth:g}"
        for k, where in ((0, f"beta = {COOLED[0]:g}"), (-1, "the last beta")):
            rows.append(measured(f"{name}: effective rank of the minimiser, {where}", (float(ranks[k]), 0.0)))
        near = data["flow"].sel(deeper=depth).values < 1e-2
        rows.append(measured(f"{name}: share of flows of det < 0 that end there, beta = {FLOW_BETA:g}", share(near)))
    least = data["least"].values[np.isfinite(data["least"].values)]
    positive, moved = float((least > 0).mean()), float(data["moved"])
    name = "three entries: share of the minimisers whose Hessian is positive"
    rows.append(Number(name, "-", positive, 0.0, verdict(positive == 1.0), 1.0))
    name = "three entries: largest move of a minimiser by Newton's method of the library"
    rows.append(Number(name, "-", moved, 0.0, verdict(moved < 1e-6), 0.0))
    return rows


FIGURE = Figure(
    "6.4",
    "Minimisers and saddles of the free energy of completion (beyond the thesis)",
    100,
    compute,
    draw,
    numbers,
    text="(a) The entropy at infinite depth of the 2 x 2 matrices with ones on the diagonal, the solutions of (4.21): "
    "it has a saddle at the identity, falls to minus infinity at rank one (white) and grows without bound beyond. (b) "
    "The effective rank of the saddles of F for d = 3 with one or two negative entries. At N = 2 the saddle with one "
    "ends where it meets the singular matrices. (c) The entropy on the solutions where three entries are seen: a local "
    "maximum (dots) on one side of the solution of rank one (grey) is a local minimum of the free energy. (d) The "
    "least beta at which that minimiser exists; dotted: the entry beyond which there is none at any beta.",
    parameters="E - S_N/beta, N = 2, 3, infinity; the diagonal of d = 2, 3, 5 seen, beta = 0.1, 1, 10: Newton's method "
    "from 1225 points of a grid at d = 2 and from 100 random starts at d = 3 and 5; three entries of 2 x 2 seen, a, 1 "
    "and 1, a = 0.05 to 0.4, beta from 10000 down",
    counted="starts of Newton's method",
    source="the equilibria derived on the page",
)
