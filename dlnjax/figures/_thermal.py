"""Figure 5.10, beyond the thesis: the effective rank of the thermal state of weight decay, up to d = 200."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure as Drawing

from dlnjax import Noise, PerSeed, SpectralEnergy, SVD, sweep
from dlnjax.figures._brownian import lost_paths, sigma_at
from dlnjax.figures._draws import split
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, shown_depth, verdict
from dlnjax.figures._shapes import rank_of as effective_rank
from dlnjax.plot import new_figure

DEPTHS = (1.0, 2.0, 3.0, 10.0)
SIZES = (5, 10, 20, 50, 100, 200)
# The force is linear in y. In equilibrium the length of the step therefore changes the size of y a little, but no rank.
A, BETA, DT = 1.0, 1.0, 0.1
# The times at which a path in equilibrium is seen. The correlation of y^2 between the two is exp(-2).
TIMES = (0.0, 1.0)
# At this size paths are followed into the equilibrium from three starts.
RELAXED = 10
STARTS = ("exact draw", "isotropic", "near rank one")
TRACE = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)
# A size has as many paths as keep their number times d the same. A size that would have fewer than this is left out.
FEWEST = 5
# The number of draws of the exact law for each path, in equilibrium and on the way to it.
DRAWS, TRACED = 5, 20
# The limit is read off a line in 1/d through the sizes from this one on, or through the last two.
LARGE = 50
# The root mean square of the 33 distances of a depth in standard errors is near 1 where the law is right. The distances
# count for about 15 independent ones, as near times are correlated, and chance alone exceeds this number very rarely.
FARTHEST = 1.7


class WeightDecay(eqx.Module):
    """(a/2) y^2 with y = N sigma^(1/N), as a function of sigma."""

    depth: Float[Array, ""]

    def __call__(self, sigma: Float[Array, ""]) -> Float[Array, ""]:
        return A / 2 * (self.depth * sigma ** (1 / self.depth)) ** 2


def energies(depth: Float[np.ndarray, " n"]) -> PerSeed:
    """The energy of each path, at the depth of the path."""
    one = SpectralEnergy(WeightDecay(jnp.asarray(1.0)))
    return PerSeed(eqx.tree_at(lambda energy: energy.f.depth, one, jax.device_put(depth)))


def limit(depth: float) -> float:
    """The effective rank over d of the thermal state as d grows: y then has a quarter circle for its density."""
    from scipy.special import gamma, psi

    moment = 2**depth * gamma((depth + 1) / 2) / (np.sqrt(np.pi) * gamma(depth / 2 + 2))
    mean_log = np.log(2) + psi((depth + 1) / 2) / 2 - psi(depth / 2 + 2) / 2
    return float(moment * np.exp(-depth * mean_log))


def rank_of(y: Float[np.ndarray, "*n d"], depth: float) -> Float[np.ndarray, "*n"]:
    """The effective rank of sigma = (y/N)^N by NumPy."""
    share = (y / y.max(-1, keepdims=True)) ** depth
    share = share / share.sum(-1, keepdims=True)
    # A share of 0 would make 0 times infinity, and counts as 0.
    return np.exp(-np.sum(share * np.log(np.maximum(share, np.finfo(float).tiny)), axis=-1))


def followed(
    key, point: tuple, depth: Float[np.ndarray, " n"], ts, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The effective rank `n time` of a path from each (U, y, V^T), and whether each path has reached the last time."""
    u, y, vt = point
    sigma = np.stack([sigma_at(one, N) for one, N in zip(y, depth, strict=True)])
    sol = sweep(
        energies(depth),
        SVD(*map(jax.device_put, (u, sigma, vt.mT))),
        depth=depth,
        ts=ts,
        chunk=chunk,
        noise=Noise(key, BETA, DT),
        # The frames are not kept.
        observe=lambda point: jnp.zeros((), point.sigma.dtype),
        progress=False,
    )
    return effective_rank(sol.sigma), np.asarray(sol.result == "successful")


def thermal(rng: np.random.Generator, n: int, d: int):
    """n matrices with independent entries of variance 1/(a beta)."""
    return rng.standard_normal((n, d, d)) / np.sqrt(A * BETA)


def chunk_of(n: int) -> int:
    """A chunk of half of the paths from one start, of which there are n at each depth."""
    return len(DEPTHS) * n // 2


def in_equilibrium(key, rng: np.random.Generator, seeds: int):
    """(the data at all sizes, whether each path has reached the last time)."""
    counts = {d: seeds * SIZES[0] // d for d in SIZES if seeds * SIZES[0] // d >= FEWEST}
    rank, draws, finished = [], [], []
    for one, (d, n) in zip(split(key, len(counts)), counts.items(), strict=True):
        # The start of a path is itself a draw of the thermal state.
        point = np.linalg.svd(thermal(rng, len(DEPTHS) * n, d))
        # At d = `RELAXED` each step is saved, so that the program is that of the paths into the equilibrium.
        ts, chunk = (np.linspace(*TIMES, 11), chunk_of(n)) if d == RELAXED else (TIMES, None)
        seen, done = followed(one, point, np.repeat(DEPTHS, n), ts, chunk)
        rank.append(seen[:, [0, -1]].reshape(len(DEPTHS), n, len(TIMES)))
        finished.append(done)
        y = np.linalg.svd(thermal(rng, DRAWS * n, d), compute_uv=False)
        draws.append(np.stack([rank_of(y, depth) for depth in DEPTHS]))
    data = {
        "rank": (("depth", "path", "time"), np.concatenate(rank, 1), {"long_name": "effective rank from exact draws"}),
        "exact": (("depth", "draw"), np.concatenate(draws, 1), {"long_name": "effective rank of exact draws, NumPy"}),
        "d_of_path": ("path", np.repeat(list(counts), list(counts.values()))),
        "d_of_draw": ("draw", np.repeat(list(counts), [DRAWS * n for n in counts.values()])),
    }
    return data, np.concatenate(finished)


def relaxing(key, rng: np.random.Generator, n: int):
    """(the data of the paths into the equilibrium from each of `STARTS`, whether each has reached the last time)."""
    d, shape = RELAXED, (len(STARTS), len(DEPTHS), n)
    # Both starts that are not of the thermal state have about its mean square.
    isotropic, low = np.full(d, np.sqrt(d)), np.append(float(d), np.full(d - 1, 0.3))
    z0 = np.empty((*shape, d, d))
    z0[0] = thermal(rng, len(DEPTHS) * n, d).reshape(*shape[1:], d, d)
    z0[1], z0[2] = np.diag(isotropic), np.diag(low)
    point = np.linalg.svd(z0.reshape(-1, d, d))
    rank, done = followed(key, point, np.tile(np.repeat(DEPTHS, n), len(STARTS)), TRACE, chunk_of(n))
    exact = np.empty((2, len(STARTS), len(DEPTHS), len(TRACE)))
    for i, t in enumerate(TRACE):
        # The noise is flat in y: its law is that of the singular values of an Ornstein-Uhlenbeck process.
        spread = np.sqrt(1 - np.exp(-2 * A * t))
        for j, start in enumerate((None, isotropic, low)):
            old = thermal(rng, TRACED * n, d) if start is None else np.diag(start)
            y = np.linalg.svd(np.exp(-A * t) * old + spread * thermal(rng, TRACED * n, d), compute_uv=False)
            of_depths = np.array([rank_of(y, depth) for depth in DEPTHS])
            exact[0, j, :, i], exact[1, j, :, i] = of_depths.mean(1), of_depths.std(1, ddof=1)
    data = {
        "relaxing": (("start", "depth", "relaxing_path", "trace"), rank.reshape(*shape, len(TRACE))),
        "exact_mean": (("start", "depth", "trace"), exact[0], {"long_name": "mean over exact draws, NumPy"}),
        "exact_std": (("start", "depth", "trace"), exact[1], {"long_name": "standard deviation of exact draws"}),
    }
    return data, done


def compute(key, seeds: int) -> xarray.Dataset:
    draw_key, state_key, relaxing_key = split(key, 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(draw_key)))
    state, done = in_equilibrium(state_key, rng, seeds)
    traces, done_too = relaxing(relaxing_key, rng, max(seeds // 2, FEWEST))
    return xarray.Dataset(
        {**state, **traces, "finished": ("any_path", np.concatenate([done, done_too]))},
        coords={"depth": list(DEPTHS), "time": list(TIMES), "trace": list(TRACE), "start": list(STARTS)},
        attrs={"energy": "(a/2) sum y^2, y = N sigma^(1/N)", "a": A, "beta": BETA, "dt": DT},
    )


def sizes_of(data: xarray.Dataset) -> np.ndarray:
    return np.unique(data["d_of_path"].values)


def of_paths(data: xarray.Dataset, depth: float, d: int) -> np.ndarray:
    """The effective rank over d of each path at the last time."""
    return data["rank"].sel(depth=depth).isel(time=-1).values[data["d_of_path"].values == d] / d


def of_draws(data: xarray.Dataset, depth: float, d: int) -> np.ndarray:
    return data["exact"].sel(depth=depth).values[data["d_of_draw"].values == d] / d


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, traces = figure.subplots(1, 2)
    sizes = sizes_of(data)
    for depth, color, marker in zip(DEPTHS, ("C3", "C4", "C2", "C0"), "o^sD", strict=False):
        ax.plot((sizes[0], sizes[-1]), 2 * [limit(depth)], color=color, lw=0.9, ls="--")
        paths = np.array([mean(of_paths(data, depth, d)) for d in sizes]).T
        ax.errorbar(sizes, paths[0], 2 * paths[1], color=color, fmt=marker, markersize=4, lw=0.9)
        ax.plot(sizes, [of_draws(data, depth, d).mean() for d in sizes], color=color, lw=0.8)
        label = {"textcoords": "offset points", "va": "center", "color": color, "fontsize": 7}
        ax.annotate(f"$N = {shown_depth(depth)}$", (sizes[-1], limit(depth)), (8, 0), **label)
        for start, style in zip(STARTS, (":", "-", "-"), strict=True):
            one = data["exact_mean"].sel(depth=depth, start=start) / RELAXED
            traces.plot(data["trace"], one, color=color, lw=0.9, ls=style)
            seen = data["relaxing"].sel(depth=depth, start=start).mean("relaxing_path") / RELAXED
            fill = color if start == STARTS[0] else "none"
            traces.plot(data["trace"], seen, marker, color=color, mfc=fill, mew=0.8, markersize=3.2)
    ax.set(xscale="log", xticks=sizes, xticklabels=[str(d) for d in sizes], xlim=(4, 2.1 * sizes[-1]), ylim=(0, 0.9))
    ax.minorticks_off()
    ax.set(xlabel="$d$", ylabel="effective rank over $d$")
    ax.set_title(r"in equilibrium; lines: exact; dashed: $d \to \infty$")
    for place, text in (((0.2, 0.97), "from isotropic"), ((0.75, 0.29), "from near rank one")):
        traces.text(*place, text, color="0.3", fontsize=7)
    traces.set(xlabel="time $t$", ylabel="effective rank over $d$", ylim=(0, 1.05))
    traces.set_title(f"into equilibrium, $d = {RELAXED}$; lines: exact law")
    return lettered(figure)


def at_large(data: xarray.Dataset, depth: float) -> dict[int, tuple[float, float]]:
    """The mean effective rank over d at each large d, and its standard error.

    A large d has few paths. The standard deviation of the rank itself hardly depends on d there, and is taken from the
    paths of all large d.
    """
    sizes = sizes_of(data)
    seen = {d: of_paths(data, depth, d) for d in sizes if d >= min(LARGE, sizes[-2])}
    off = np.concatenate([d * (values - values.mean()) for d, values in seen.items()])
    deviation = np.sqrt(np.sum(off**2) / (len(off) - len(seen)))
    return {d: (values.mean(), deviation / (d * np.sqrt(len(values)))) for d, values in seen.items()}


def at_infinity(data: xarray.Dataset, depth: float) -> tuple[float, float]:
    """The effective rank over d at 1/d = 0, by least squares in 1/d through the large sizes, and its standard error."""
    large = at_large(data, depth)
    means, errors = np.array(list(large.values())).T
    design = np.stack([np.ones(len(large)), 1 / np.array(list(large))], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    line = covariance @ design.T @ (means / errors)
    return float(line[0]), float(np.sqrt(covariance[0, 0]))


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for depth in DEPTHS:
        name, expected = f"effective rank over d as d grows, N = {depth:g}", f"{limit(depth):.4f}"
        here, source = at_infinity(data, depth), "the quarter circle law"
        rows.append(measured(name, here, expected, source=source, expected_error=0.0))
    for depth in DEPTHS:
        small, *_, large = sizes_of(data)
        for d, here in ((small, mean(of_paths(data, depth, small))), (large, at_large(data, depth)[large])):
            expected, expected_error = mean(of_draws(data, depth, d))
            name = f"effective rank over d, d = {d}, N = {depth:g}"
            rows.append(measured(name, here, f"{expected:.4f}", expected_error=expected_error))
    for depth in DEPTHS:
        seen = data["rank"].sel(depth=depth)
        here = mean((seen.isel(time=-1) - seen.isel(time=0)).values)
        name = f"mean change of the effective rank since the exact draw, all d, N = {depth:g}"
        rows.append(Number(name, "-", *here, verdict(abs(here[0]) <= 3 * here[1]), 0.0))
    for depth in DEPTHS:
        # All paths from one matrix agree at the first time.
        later = data.sel(depth=depth).isel(trace=slice(1, None))
        n = data.sizes["relaxing_path"]
        # The standard deviation of the exact law serves the paths too: that of few skewed values is off now and then.
        error = later["exact_std"] * np.sqrt(1 / n + 1 / (TRACED * n))
        off = (later["relaxing"].mean("relaxing_path") - later["exact_mean"]) / error
        here = float(np.sqrt((off**2).mean()))
        name = f"into equilibrium: root mean square distance from the exact law, in standard errors, N = {depth:g}"
        rows.append(Number(name, "-", here, 0.0, verdict(here < FARTHEST), 1.0))
    return [*rows, lost_paths(data)]


FIGURE = Figure(
    "5.10",
    "The effective rank of the thermal state of weight decay, up to d = 200 (beyond the thesis)",
    200,
    compute,
    draw,
    numbers,
    text="Weight decay E = (a/2) sum y^2 with y = N sigma^(1/N) at temperature 1/beta. In equilibrium y are the "
    "singular values of a Gaussian matrix. (a) The effective rank over d of paths of the Langevin equation, which "
    "start from such a draw and are seen later (markers), of independent draws by NumPy (lines), and the limits for "
    "large d, 0.8050, 0.6065, 0.4711 and 0.1518 (dashed). The rank of the thermal state does not depend on a and beta. "
    "The rank falls with the depth, because sigma = (y/N)^N are the more unequal the larger N is. (b) Paths at "
    "d = 10 reach this equilibrium from an isotropic matrix and from a matrix near rank one, as the exact law says "
    "(lines). Paths that start in equilibrium stay there (dotted lines, filled markers).",
    parameters="E = (a/2) sum y^2, a = beta = 1, N = 1, 2, 3, 10, d = 5 to 200, steps of 0.1; at d = 5 there are 200 "
    "paths at each depth, at larger d fewer, and at least 5; bars: 2 s.e.",
    counted="paths at each depth at d = 5 (a larger d has fewer, and is left out where they would be less than 5)",
    source="draws of the exact law",
)
