"""Figure 5.9, beyond the thesis: completion at temperature, in equilibrium and where there is none."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixCompletion, Noise, sweep
from dlnjax.figures._brownian import lost_paths
from dlnjax.figures._draws import split
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, shown_depth
from dlnjax.plot import new_figure

DEPTHS = (2.0, 3.0)
BETAS = (1.0, 3.0, 10.0, 30.0, 100.0)
LINE = np.geomspace(BETAS[0], BETAS[-1], 13)
GAUGES = (False, True)
# The ridge holds the entries that are not seen. Without it the volume of the large matrices is infinite at depth 2.
RIDGE = 0.25
# A path starts from an exact draw, as it takes long from near the identity to the low ranks. The mean over the times at
# which it is seen has less chance in it.
DT, TIMES = 0.05, (0.0, 4.0, 6.0, 8.0, 10.0)
# At infinite depth there is no equilibrium. Paths start near the matrices of rank one, at this log sigma_2. Of sigma_1
# and the frame they have the density that it leaves, for log sigma_1 in this range.
DRIFTING, TRACE, LOG_SECOND, LOG_FIRST = 8.0, np.linspace(0.0, 60.0, 21), -10.0, (-2.0, 1.5)
# Their squares scatter, so that there are more of them.
DRIFTING_PATHS = 8
RETURNS = "Paths that come back to where sigma_2 matters wait near full rank, so that the rate is reached late."
# The number of points of a coordinate, and of an angle, in the quadrature.
POINTS, ANGLES = 120, 96
# The quadrature ends at this number of standard deviations of an entry that only the ridge holds.
WIDTHS = 6.0


class Ridged(eqx.Module):
    """Completion of the diagonal from ones, sum (X_kk - 1)^2, and the ridge (a/2) |X|^2."""

    completion: MatrixCompletion
    a: Float[Array, ""]

    def __call__(self, x):
        return self.completion(x) + self.a / 2 * jnp.sum(x**2)

    def gradient(self, x):
        return self.completion.gradient(x) + self.a * x


def energy(ridge: float = RIDGE) -> Ridged:
    return Ridged(MatrixCompletion.diagonal(2), jnp.asarray(ridge))


class Grid:
    """The density exp(-beta E) V, or exp(-beta E) V exp(S) with gauge noise, over the singular values.

    With X = R(a) diag(s_1, s_2) R(b)^T, rotations R and a sign of s_2 that is that of the determinant, E has the parts

        (1/2) (((s_1 + s_2) cos(a - b) - 2)^2 + ((s_1 - s_2) cos(a + b))^2) + (ridge/2) (s_1^2 + s_2^2),

    so that the integral over each angle is one of its own. The volume is that of y_k = N |s_k|^(1/N) and the angles
    times y_1^2 - y_2^2, and exp(2 S) is (s_1^2 - s_2^2)/(y_1^2 - y_2^2).
    """

    def __init__(self, first, second, beta: float, volume, ridge: float = RIDGE):
        self.first, self.second, self.beta = first, second, beta
        self.angles = (np.arange(ANGLES) + 0.5) * np.pi / ANGLES
        weight = volume * self.of_sum(first + second).mean(-1) * self.of_difference(first - second).mean(-1)
        weight = weight * np.exp(-beta * ridge / 2 * (first**2 + second**2))
        self.weight = weight / weight.sum()

    @classmethod
    def at(cls, depth: float, beta: float, gauge: bool, ridge: float = RIDGE) -> "Grid":
        """The density of the equilibrium at a finite depth."""
        top = depth * (1 + WIDTHS / np.sqrt(beta * ridge)) ** (1 / depth)
        y = (np.arange(POINTS) + 0.5) * top / POINTS
        one = (y / depth) ** depth
        first, second = np.meshgrid(one, np.concatenate([-one[::-1], one]), indexing="ij")
        gap = np.maximum(y[:, None] ** 2 - np.concatenate([y[::-1], y]) ** 2, 0.0)
        square = np.maximum(first**2 - second**2, 0.0)
        return cls(first, second, beta, np.sqrt(gap * square) if gauge else gap, ridge)

    @classmethod
    def of_rank_one(cls, gauge: bool) -> "Grid":
        """The density of log sigma_1 and the frame for one small sigma_2 at infinite depth."""
        y = np.linspace(*LOG_FIRST, POINTS)
        first, u = np.exp(y), y - LOG_SECOND
        return cls(first, np.full(POINTS, np.exp(LOG_SECOND)), DRIFTING, np.sqrt(u) * first if gauge else u)

    def of_sum(self, size):
        """The density of a - b at each angle in (0, pi), up to a factor."""
        return np.exp(-self.beta / 2 * (size[..., None] * np.cos(self.angles) - 2) ** 2)

    def of_difference(self, size):
        """The density of a + b at each angle in (0, pi), up to a factor."""
        return np.exp(-self.beta / 2 * (size[..., None] * np.cos(self.angles)) ** 2)

    def mean_rank(self) -> float:
        return float(np.sum(self.weight * rank_of(self.first, abs(self.second))))

    def draws(self, rng: np.random.Generator, n: int):
        """n matrices of this density, to the width of a cell."""
        cell = rng.choice(self.weight.size, n, p=self.weight.ravel())
        s1, s2 = self.first.ravel()[cell], self.second.ravel()[cell]

        def angle(density):
            at = np.argmax(np.cumsum(density, -1) > rng.random((n, 1)) * density.sum(-1, keepdims=True), axis=-1)
            return self.angles[at] * rng.choice([-1, 1], n)

        # The entries are sums and differences of (s_1 + s_2) exp(i (a - b)) and (s_1 - s_2) exp(i (a + b)).
        minus = (s1 + s2) * np.exp(1j * angle(self.of_sum(s1 + s2)))
        plus = (s1 - s2) * np.exp(1j * angle(self.of_difference(s1 - s2)))
        entries = (minus.real + plus.real, plus.imag - minus.imag, plus.imag + minus.imag, minus.real - plus.real)
        return np.stack(entries, axis=-1).reshape(n, 2, 2) / 2


def rank_of(first, second):
    """The effective rank of two singular values."""
    share = first / (first + second)
    rest = np.maximum(1 - share, np.finfo(float).tiny)
    return np.exp(-share * np.log(share) - rest * np.log(rest))


def followed(starts, depth, beta: float, gauge: bool, key, ts):
    """(the singular values at the times, whether each path has reached the last one)."""
    noise = Noise(key, beta, DT, gauge)
    # The frames are not kept.
    seen = {"observe": lambda point: jnp.zeros((), point.sigma.dtype), "progress": False}
    sol = sweep(energy(), starts, depth=depth, ts=ts, noise=noise, **seen)
    return np.asarray(sol.sigma), np.asarray(sol.result == "successful")


def compute(key, seeds: int) -> xarray.Dataset:
    still_key, drift_key, draw_key = split(key, 3)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(draw_key)))
    rank, drift, finished = np.empty((len(GAUGES), len(BETAS), len(DEPTHS), seeds)), [], []
    exact = np.empty(rank.shape[:-1])
    for g, gauge in enumerate(GAUGES):
        for b, beta in enumerate(BETAS):
            grids = [Grid.at(depth, beta, gauge) for depth in DEPTHS]
            exact[g, b] = [grid.mean_rank() for grid in grids]
            starts = np.concatenate([grid.draws(rng, seeds) for grid in grids])
            one = jax.random.fold_in(still_key, g * len(BETAS) + b)
            sigma, done = followed(starts, np.repeat(DEPTHS, seeds), beta, gauge, one, TIMES)
            # The mean over the times of one path. Paths are independent, and times are not.
            rank[g, b] = rank_of(*np.moveaxis(sigma[:, 1:], -1, 0)).mean(1).reshape(len(DEPTHS), seeds)
            finished.append(done)
        starts = Grid.of_rank_one(gauge).draws(rng, DRIFTING_PATHS * seeds)
        sigma, done = followed(starts, np.inf, DRIFTING, gauge, jax.random.fold_in(drift_key, g), TRACE)
        drift.append(np.log(sigma[..., 0] / sigma[..., 1]) ** 2)
        finished.append(done)
    line = [[[Grid.at(depth, beta, gauge).mean_rank() for beta in LINE] for depth in DEPTHS] for gauge in GAUGES]
    return xarray.Dataset(
        {
            "rank": (("gauge", "beta", "depth", "path"), rank, {"long_name": "mean effective rank of a path"}),
            "exact": (("gauge", "beta", "depth"), exact, {"long_name": "mean effective rank by quadrature"}),
            "line": (("gauge", "depth", "line_beta"), np.array(line)),
            "drift": (("gauge", "drifting_path", "time"), np.stack(drift), {"long_name": "(log sigma_1/sigma_2)^2"}),
            "finished": ("any_path", np.concatenate(finished)),
        },
        coords={
            "gauge": [int(gauge) for gauge in GAUGES],
            "beta": list(BETAS),
            "depth": list(DEPTHS),
            "line_beta": LINE,
            "time": TRACE,
        },
        attrs={"energy": "sum (X_kk - 1)^2 + (ridge/2) |X|^2, d = 2", "ridge": RIDGE, "dt": DT},
    )


def rate(gauge: bool) -> float:
    """The rate at which the mean of u^2, u = log(sigma_1/sigma_2), grows while sigma_2 is far below sigma_1.

    No force is then left on log sigma_2, which is a Bessel process. The density of the volume grows as u, and with
    gauge noise as u sqrt(lambda_12), which is as sqrt(u).
    """
    return (3.0 if gauge else 4.0) / DRIFTING


def grown(data: xarray.Dataset, gauge: int) -> np.ndarray:
    """The rate of each path over all of the time."""
    one = data["drift"].sel(gauge=gauge)
    return ((one.isel(time=-1) - one.isel(time=0)) / float(data["time"][-1])).values


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, traces = figure.subplots(1, 2)
    for depth, color in zip(DEPTHS, ("C0", "C3"), strict=True):
        for gauge, style, marker in ((0, "-", "o"), (1, "--", "s")):
            one = {"depth": depth, "gauge": gauge}
            ax.plot(data["line_beta"], data["line"].sel(one), color=color, lw=0.9, ls=style)
            paths = np.array([mean(data["rank"].sel({**one, "beta": beta}).values) for beta in BETAS]).T
            fill = "none" if gauge else color
            label = f"$N = {shown_depth(depth)}$" + ", gauge noise" * gauge
            kind = {"fmt": marker, "color": color, "mfc": fill, "markersize": 4, "lw": 0.9}
            ax.errorbar(BETAS, paths[0], 2 * paths[1], label=label, **kind)
    ax.set(xscale="log", xlabel=r"inverse temperature $\beta$", ylabel="effective rank", ylim=(1, 2))
    ax.legend(loc="upper left")
    ax.set_title("in equilibrium; lines: quadrature")
    time = data["time"].values
    for gauge, style, marker, label in ((0, "-", "o", "without gauge noise"), (1, "--", "s", "with gauge noise")):
        one = data["drift"].sel(gauge=gauge)
        later = (one - one.isel(time=0)).values[:, 1::3]
        seen = np.array([mean(grown) for grown in later.T]).T
        fill = "none" if gauge else "C2"
        kind = {"fmt": marker, "color": "C2", "mfc": fill, "markersize": 4, "lw": 0.9}
        traces.errorbar(time[1::3] + 0.6 * gauge, seen[0], 2 * seen[1], label=label, **kind)
        traces.plot(time, rate(bool(gauge)) * time, color="black", lw=0.9, ls=style)
    traces.set(xlabel="time $t$", ylabel=r"growth of mean $(\log\,\sigma_1/\sigma_2)^2$")
    traces.legend(loc="upper left")
    traces.set_title(rf"no equilibrium: $N = \infty$, $\beta = {DRIFTING:g}$")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for gauge, name in ((0, ""), (1, ", gauge noise")):
        for depth in DEPTHS:
            for beta in BETAS:
                one = {"gauge": gauge, "depth": depth, "beta": beta}
                exact = f"{float(data['exact'].sel(one)):.4f}"
                quantity = f"effective rank in equilibrium, N = {depth:g}, beta = {beta:g}{name}"
                rows.append(measured(quantity, mean(data["rank"].sel(one).values), exact, expected_error=0.0))
    for gauge, name in ((0, ""), (1, ", gauge noise")):
        quantity = f"N = inf: rate of growth of the mean of (log sigma_1/sigma_2)^2{name}"
        here, exact = mean(grown(data, gauge)), rate(bool(gauge))
        rows.append(measured(quantity, here, exact, note=RETURNS, expected_error=0.0))
    return [*rows, lost_paths(data)]


FIGURE = Figure(
    "5.9",
    "Completion at temperature: the effective rank in equilibrium, and a drift without one (beyond the thesis)",
    60,
    compute,
    draw,
    numbers,
    text="Completion of a 2 x 2 matrix from its diagonal of ones, with a weak ridge, at temperature 1/beta. (a) The "
    "mean effective rank in equilibrium: paths of the Langevin equation, which start from exact draws and are seen "
    "later (markers), and a quadrature of the density exp(-beta E) V, with gauge noise times exp(S) (lines). The "
    "minimum of E is a multiple of the identity, of rank 2. Noise lowers the rank, and the more so in deeper networks. "
    "Gauge noise raises it in part. (b) Infinite depth, where there is no equilibrium: nearly singular matrices "
    "have an infinite volume, and no energy that is bounded near them keeps the paths away. The ratio of the singular "
    "values grows for ever. While sigma_2 is far below sigma_1 the mean square of its logarithm grows as that of a "
    "Bessel process, at the rate 4/beta, or 3/beta with gauge noise (lines). Paths that come back wait near full rank.",
    parameters="E = sum (X_kk - 1)^2 + (1/8) |X|^2, d = 2, N = 2, 3, steps of 0.05, 60 paths at each beta, depth "
    "and gauge, each seen at 4 times from t = 4 on; N = inf: 480 paths from near rank one, beta = 8",
    source="a quadrature of the density, or the Bessel process",
    counted="paths at each beta, depth and gauge",
)
