"""Figure 6.5, beyond the thesis: why the effective rank of the limit grows like .55 d, and from which starts."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixCompletion, RESULTS, Steady, SVD, sweep
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, share, shown_depth
from dlnjax.figures._shapes import rank_of, sigma_of
from dlnjax.figures._slope_laws import derived, orthogonal_law
from dlnjax.figures._two_by_two import limit_at_depth_two
from dlnjax.plot import new_figure

DEPTHS = (2.0, 3.0, 10.0, np.inf)
LAWS = ("Gaussian", "uniform", "Student", "orthogonal")
# Gaussian starts of size TINY, at N = 2 alone.
SMALL, TINY = "small Gaussian", 1e-8
SIZES = (10, 20, 50, 100, 200, 400)
# At N = 2 the limit has a closed form, so that larger matrices cost little.
CLOSED = (400, 800)
# A law of starts has at least this number at each size. A size that would have fewer is left out.
FEWEST = 2
# At these sizes the flow is compared with that of the averaged diagonal.
AVERAGED = (20, 100)
HORIZON, REST = 1e4, 1e-4
LEVELS = (np.arange(SIZES[0]) + 0.5) / SIZES[0]
# The fitted lines begin at this size.
LINEAR = 20
COLORS, MARKERS = ("C3", "C4", "C2", "C0"), ("o", "s", "^", "D")


class AveragedDiagonal(eqx.Module):
    """d (Tr X/d - 1)^2: the energy (4.21) with the mean of the diagonal in place of each of its entries."""

    array_axes: ClassVar[dict[str, int]] = {}

    def __call__(self, x: Float[Array, "d d"]) -> Float[Array, ""]:
        return len(x) * (jnp.trace(x) / len(x) - 1) ** 2

    def gradient(self, x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return 2 * (jnp.trace(x) / len(x) - 1) * jnp.eye(len(x), dtype=x.dtype)

    def pullback(self, point: SVD) -> Float[Array, "d d"]:
        between = point.u.T @ point.v
        return 2 * (jnp.sum(jnp.diagonal(between) * point.sigma) / len(between) - 1) * between


def starts(law: str, rng: np.random.Generator, n: int, d: int) -> Float[np.ndarray, "n d d"]:
    """Matrices whose entries have the mean 0 and the variance 1/d."""
    if law == "orthogonal":
        q, r = np.linalg.qr(rng.standard_normal((n, d, d)))
        # With these signs the law is the uniform one.
        return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    draws = {
        "Gaussian": rng.standard_normal,
        "uniform": lambda shape: rng.uniform(-(3**0.5), 3**0.5, shape),
        # With three degrees of freedom the variance is 3, and the fourth moment is infinite.
        "Student": lambda shape: rng.standard_t(3, shape) / 3**0.5,
    }
    return draws[law]((n, d, d)) / d**0.5


def counts(seeds: int) -> dict[int, dict[str, int]]:
    """The number of starts of each law at each size: fewer at a large one, where the rank over d varies less."""
    whole = {d: seeds * SIZES[0] // d for d in SIZES}
    wanted = {d: {law: n if law == LAWS[0] else n // 2 for law in LAWS} for d, n in whole.items()}
    return {d: of_law for d, of_law in wanted.items() if min(of_law.values()) >= FEWEST}


def profile(sigma: np.ndarray) -> np.ndarray:
    """The singular values over their mean, at `LEVELS` of their index over d."""
    d = sigma.shape[-1]
    scaled = sigma / sigma.mean(-1, keepdims=True)
    return np.array([np.interp(LEVELS, (np.arange(d) + 0.5) / d, one) for one in scaled])


def limits(energy, x0: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the singular values of the limits, whether the flows are at rest)."""
    options = {"ts": [0.0, HORIZON], "stop": Steady(REST), "observe": sigma_of, "progress": False}
    sol = sweep(energy, x0, depth=depth, **options)
    return np.asarray(sol.sigma)[:, -1], np.asarray(sol.result == RESULTS.steady)


def singular_values(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x, compute_uv=False)


class Flows:
    """The flows so far, one in each row."""

    def __init__(self) -> None:
        self.rows: dict[str, list[np.ndarray]] = {}

    def add(self, law, depth: float, d: int, sigma: np.ndarray, rest: Any = True) -> None:
        """Add flows of one size: `law`, the name of the law of each, their limiting singular values, and their rest."""
        n = len(sigma)
        row = {"law": np.broadcast_to(law, n), "n": np.full(n, depth), "d": np.full(n, d), "end": rank_of(sigma)}
        row |= {"profile": profile(sigma), "at_rest": np.broadcast_to(rest, n)}
        for name, values in row.items():
            self.rows.setdefault(name, []).append(values)

    def variables(self) -> dict:
        whole = {name: np.concatenate(parts) for name, parts in self.rows.items()}
        # A file of this format has no variables of words.
        whole["law"] = np.array([(*LAWS, SMALL).index(law) for law in whole["law"]])
        return {name: (("flow", "level")[: values.ndim], values) for name, values in whole.items()}


def add_closed(flows: Flows, law: np.ndarray, d: int, x0: np.ndarray) -> None:
    """Add the limits at N = 2."""
    flows.add(law, 2.0, d, singular_values(limit_at_depth_two(x0)))
    flows.add(SMALL, 2.0, d, singular_values(limit_at_depth_two(TINY * x0[law == LAWS[0]])))


def compute(key, seeds: int) -> xarray.Dataset:
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    flows, averaged, deeper, sizes = Flows(), [], DEPTHS[1:], counts(seeds)
    for d, of_law in sizes.items():
        x0 = np.concatenate([starts(law, rng, n, d) for law, n in of_law.items()])
        law, n = np.repeat(LAWS, list(of_law.values())), len(x0)
        add_closed(flows, law, d, x0)
        depth, x0, law = np.repeat(deeper, n), np.tile(x0, (len(deeper), 1, 1)), np.tile(law, len(deeper))
        sigma, rest = limits(MatrixCompletion.diagonal(d), x0, depth)
        for each in deeper:
            flows.add(law[depth == each], each, d, sigma[depth == each], rest[depth == each])
        if d in AVERAGED:
            some = law == LAWS[0]
            others, _ = limits(AveragedDiagonal(), x0[some], depth[some])
            by = rank_of(others) - rank_of(sigma[some])
            averaged.append(np.stack([depth[some], np.full(some.sum(), d), by]))
    for d in CLOSED:
        if d not in sizes and d <= 10 * max(sizes):
            x0 = np.concatenate([starts(law, rng, 2 * FEWEST, d) for law in LAWS])
            add_closed(flows, np.repeat(LAWS, 2 * FEWEST), d, x0)
    n, d, by = np.concatenate(averaged, axis=1)
    return xarray.Dataset(
        {
            **flows.variables(),
            "averaged_n": ("averaged", n, {"long_name": "depth"}),
            "averaged_d": ("averaged", d),
            "averaged_by": ("averaged", by, {"long_name": "change of the effective rank, averaged diagonal"}),
        },
        coords={"level": LEVELS},
        attrs={"energy": "(4.21)", "laws": ", ".join((*LAWS, SMALL)), "start": "entries of mean 0 and variance 1/d"},
    )


def cell(data: xarray.Dataset, law: str, depth: float, name: str = "end") -> dict[int, np.ndarray]:
    """The effective ranks of the limits of a law at a depth, for each size."""
    chosen = (data["law"].values == (*LAWS, SMALL).index(law)) & (data["n"].values == depth)
    d, values = data["d"].values[chosen], data[name].values[chosen]
    return {int(one): values[d == one] for one in np.unique(d)}


def deviation(ranks: dict[int, np.ndarray]) -> float:
    """The standard deviation of the rank of one start. It hardly depends on d, and is taken from all large sizes."""
    off = np.concatenate([values - values.mean() for values in ranks.values()])
    return float(np.sqrt(np.sum(off**2) / (len(off) - len(ranks))))


def line(data: xarray.Dataset, law: str, depth: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(slope, intercept) of the rank against d by least squares from `LINEAR` on, each with its standard error."""
    ranks = cell(data, law, depth)
    large = {d: values for d, values in ranks.items() if d >= LINEAR}
    ranks = large if len(large) > 1 else ranks
    d = np.array(list(ranks))
    error = deviation(ranks) / np.sqrt([len(values) for values in ranks.values()])
    design = np.stack([d, np.ones(len(d))], axis=1) / error[:, None]
    covariance = np.linalg.inv(design.T @ design)
    slope, intercept = covariance @ design.T @ (np.array([values.mean() for values in ranks.values()]) / error)
    errors = np.sqrt(np.diag(covariance))
    return (float(slope), float(errors[0])), (float(intercept), float(errors[1]))


def local_slopes(data: xarray.Dataset, law: str, depth: float) -> dict[tuple[int, int], tuple[float, float]]:
    """The slope from each size to the next, and its standard error."""
    ranks = cell(data, law, depth)
    one, found = deviation(ranks), {}
    for small, large in zip(list(ranks), list(ranks)[1:], strict=False):
        low, high = ranks[small], ranks[large]
        error = one * np.sqrt(1 / len(low) + 1 / len(high))
        found[small, large] = float((high.mean() - low.mean()) / (large - small)), float(error / (large - small))
    return found


def profiles(data: xarray.Dataset, law: str, depth: float) -> dict[int, np.ndarray]:
    """The mean over starts of the singular values over their mean, `level`, for each size."""
    return {d: values.mean(0) for d, values in cell(data, law, depth, "profile").items()}


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 4.8)
    (ranks, local), (laws, spectra) = figure.subplots(2, 2)
    for depth, color, marker in zip(DEPTHS, COLORS, MARKERS, strict=True):
        name, seen = f"$N = {shown_depth(depth)}$", cell(data, LAWS[0], depth)
        d, one = np.array(list(seen)), deviation(seen)
        values = np.array([values.mean() for values in seen.values()])
        error = one / np.sqrt([len(values) for values in seen.values()])
        (slope, off), (intercept, _) = line(data, LAWS[0], depth)
        ranks.errorbar(1 / d, values / d, 2 * error / d, fmt=marker, color=color, ms=3, lw=0.8)
        ranks.annotate(name, (1.04 / SIZES[0], values[0] / d[0]), va="center", color=color, fontsize=7)
        span = np.array([0.0, 1 / SIZES[0]])
        ranks.plot(span, slope + intercept * span, color=color, lw=0.8)
        between = local_slopes(data, LAWS[0], depth)
        at = [np.sqrt(small * large) for small, large in between]
        middle, bars = np.array(list(between.values())).T
        local.axhspan(slope - 2 * off, slope + 2 * off, color=color, alpha=0.2, lw=0)
        local.errorbar(at, middle, 2 * bars, fmt=marker, color=color, ms=3, lw=0.8)
    ranks.set(
        xlim=(-0.003, 0.125),
        xlabel="$1/d$",
        ylabel="effective rank of the limit over $d$",
        title="Gaussian starts; lines: $c + a/d$",
    )
    local.set(xscale="log", xlabel="$d$", ylabel="local slope", title="slope from each $d$ to the next; bands: $c$")
    local.set_xticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
    local.minorticks_off()
    for k, law in enumerate(LAWS):
        place = np.arange(len(DEPTHS)) + 0.16 * (k - 1.5)
        found = np.array([line(data, law, depth)[0] for depth in DEPTHS]).T
        laws.errorbar(place, found[0], 2 * found[1], fmt=MARKERS[k], color=f"C{k}", ms=3, lw=0.8, label=law)
        known = np.array([derived(law, depth) for depth in DEPTHS])
        laws.plot(place, known, "_", color="black", ms=9, mew=0.8, label="derived" if law == LAWS[-1] else None)
    laws.set_xticks(range(len(DEPTHS)), [f"${shown_depth(depth)}$" for depth in DEPTHS])
    laws.set(xlabel="depth $N$", ylabel="slope $c$ as $d$ grows", title="other starts of the same variance")
    laws.legend(loc="lower left", fontsize=6)
    for depth, color, line_style in ((2.0, "C3", "--"), (np.inf, "C0", "-")):
        seen = profiles(data, LAWS[0], depth)
        sizes = sorted(seen)
        for d, marker in zip((sizes[0], sizes[len(sizes) // 2], sizes[-1]), "o^+", strict=True):
            label = f"$N = {shown_depth(depth)}$, $d = {d}$"
            spectra.plot(LEVELS, seen[d], marker, color=color, mfc="none", ms=4, mew=0.8, label=label)
        law = np.sort(orthogonal_law(depth))[::-1]
        place = (np.arange(len(law)) + 0.5) / len(law)
        name = f"orthogonal, $N = {shown_depth(depth)}$"
        spectra.plot(place, law / law.mean(), line_style, color="0.4", lw=0.9, label=f"{name}, derived")
        spectra.plot(LEVELS, list(profiles(data, LAWS[-1], depth).values())[-1], ".", color="0.4", ms=4)
    spectra.set(xlabel="index over $d$", ylabel=r"$\sigma_k$ over the mean", title="singular values of the limits")
    spectra.legend(fontsize=6)
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for law in (*LAWS, SMALL):
        for depth in DEPTHS if law in LAWS else DEPTHS[:1]:
            expected = derived(law, depth)
            # As a text it has four digits: the fluctuation of few starts may be small by chance.
            expected = expected if np.isnan(expected) else f"{expected:.4f}"
            name, slope = f"slope as d grows, {law}, N = {depth:g}", line(data, law, depth)[0]
            rows.append(measured(name, slope, expected, expected_error=0.0))
    for depth in DEPTHS:
        rows.append(measured(f"intercept, Gaussian, N = {depth:g}", line(data, LAWS[0], depth)[1]))
    for depth in DEPTHS:
        for (small, large), slope in local_slopes(data, LAWS[0], depth).items():
            rows.append(measured(f"slope from d = {small} to {large}, Gaussian, N = {depth:g}", slope))
    for d, values in cell(data, LAWS[0], np.inf).items():
        one = float(values.std(ddof=1) / d)
        name = f"standard deviation of r/d of one start, d = {d}, Gaussian, N = inf"
        rows.append(measured(name, (one, one / np.sqrt(2 * (len(values) - 1)))))
    for depth in DEPTHS[1:]:
        for d in np.unique(data["averaged_d"].values):
            which = (data["averaged_n"].values == depth) & (data["averaged_d"].values == d)
            name = f"fall of the effective rank with the averaged diagonal, d = {d:g}, N = {depth:g}"
            rows.append(measured(name, mean(-data["averaged_by"].values[which])))
    for depth in (2.0, np.inf):
        seen = profiles(data, LAWS[0], depth)
        *others, last = seen
        for d in others:
            off = float(np.abs(seen[d] - seen[last]).mean())
            name = f"mean distance of the spectrum at d = {d} from that at d = {last}, Gaussian, N = {depth:g}"
            rows.append(measured(name, (off, 0.0)))
    deeper = data["n"].values > 2
    rows.append(measured("share of flows at rest", share(data["at_rest"].values[deeper])))
    return rows


FIGURE = Figure(
    "6.5",
    "Why the effective rank of the limit grows linearly, and with which slope (beyond the thesis)",
    80,
    compute,
    draw,
    numbers,
    text="The diagonal completion from starts with entries of variance 1/d. (a) The effective rank over d against 1/d. "
    "The lines are fitted from d = 20 on, and meet the axis at the slope c as d grows. (b) The slope from each size to "
    "the next. (c) The slope c for four laws of starts, and where it is derived. (d) The singular values over their "
    "mean against their index over d: the sizes fall on one curve.",
    parameters="E of (4.21), N = 2 (closed form), 3, 10, infinity, entries of mean 0 and variance 1/d: Gaussian, "
    "uniform, Student with 3 degrees of freedom, orthogonal; to |dE| <= 1e-4 or t = 10000; d = 10 to 200 and up to 800 "
    "at N = 2; 80 Gaussian starts at d = 10 and 4 at d = 200, half as many of other laws; --seeds 160 adds d = 400",
    counted="Gaussian starts at d = 10",
    source="the law of large d, derived on the page",
)
