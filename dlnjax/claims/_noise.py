"""Beyond the thesis: the statements on noise, an open problem of its section 5.1.

The law of the paths of the library is compared with exact laws, which NumPy draws. The error of a statement is the
number of standard errors by which the two differ, and a statement holds within four: chance alone is farther off in
one of 16,000 comparisons, where it passes three in one of 370, and each check makes about ten of them.

The tampered versions are other simulations of the same equation, each with one mistake.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.stats import ks_2samp, norm

from dlnjax import Noise, SpectralEnergy, sweep
from dlnjax._tree import positive
from dlnjax.claims._claim import Claim
from dlnjax.claims._spectra import eigenvalues, generator, orthogonal

WHERE = "Beyond the thesis, B1: noise"
D, BETA, TIME = 3, 2.0, 0.4
# The law of y without an energy is exact for steps of any length.
STEP = 0.2
PATHS, DRAWS = 2000, 8000
# Paths into equilibrium have many more steps, and are fewer.
RESTING = 1000
# Euler's method has no exact law, and takes this number of steps where the library takes two.
EULER_STEPS = 40
# Weight decay is (RATE/2) sum y^2. At the time REST a start counts for exp(-RATE REST), less than chance does.
RATE, REST, REST_STEP = 1.0, 6.0, 0.1
# The steps for deep networks are written around isotropic matrices, and weight decay leaves those at finite depth.
DEEPEST = 10.0
# The largest number of standard errors by which a true statement is off, and the least by which a false one is.
WITHIN, APART = 4.0, 6.0


class Start(NamedTuple):
    """X_0 = U diag(sigma) V^T with two values that nearly meet, the depth, and the seed of the random numbers."""

    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    depth: float
    seed: int

    @property
    def x0(self) -> np.ndarray:
        return (self.u * self.sigma) @ self.v.T

    @property
    def shown(self) -> dict:
        return {"sigma": self.sigma, "depth": self.depth, "seed": self.seed}


def start(key, depth) -> Start:
    rng = generator(key)
    middle = rng.uniform(0.8, 1.1)
    sigma = np.array([rng.uniform(1.3, 1.8), middle + 1e-3, middle])
    return Start(orthogonal(rng, D), sigma, orthogonal(rng, D), float(depth), int(rng.integers(2**31)))


def coordinate(sigma, depth: float) -> np.ndarray:
    """y = N sigma^(1/N), or log sigma at infinite depth. A value that is lost to rounding counts as the least one."""
    sigma = np.maximum(sigma, np.finfo(float).tiny)
    return np.log(sigma) if np.isinf(depth) else depth * sigma ** (1 / depth)


class Ends(NamedTuple):
    """The last X of each path, and its singular values, which a decomposition of X would lose where they are small."""

    x: np.ndarray
    sigma: np.ndarray


# A simulation of paths from a start.
Simulation = Callable[[Start], Ends]


def simulated(at: Start, energy, noise: Noise, time: float, n: int) -> Ends:
    """n paths of the library."""
    starts = jnp.broadcast_to(jnp.asarray(at.x0), (n, D, D))
    sol = sweep(energy, starts, depth=at.depth, ts=[0.0, time], noise=noise, progress=False)
    return Ends(np.asarray(sol.x[:, -1]), np.asarray(sol.sigma[:, -1]))


def brownian(at: Start, beta=BETA) -> Ends:
    """The paths of the library without an energy."""
    return simulated(at, None, Noise(jax.random.key(at.seed), beta, STEP), TIME, PATHS)


def euler(at: Start, ito=1.0) -> Ends:
    """Euler's method in X, with `ito` times the drift (1/beta)(1 - 1/N) U Sigma^(1-2/N) V^T of Ito's form.

    From matrices that are not nearly singular, for a short time, it is as good as the number of paths can tell.
    """
    rng, h = np.random.default_rng(at.seed), TIME / EULER_STEPS
    x = np.broadcast_to(at.x0, (PATHS, D, D))
    for _ in range(EULER_STEPS):
        u, sigma, vt = np.linalg.svd(x)
        noise = np.sqrt(2 * h / BETA * unnormalised(sigma, at.depth)) * rng.standard_normal(x.shape)
        drift = h / BETA * (1 - 1 / at.depth) * sigma ** (1 - 2 / at.depth)
        x = x + u @ (noise + ito * drift[:, :, None] * np.eye(D)) @ vt
    return Ends(x, np.linalg.svd(x, compute_uv=False))


def unnormalised(sigma, depth) -> np.ndarray:
    """lambda_kl/N for many spectra, where NumPy's values are as good as distinct."""
    return eigenvalues(sigma, depth) / (1.0 if np.isinf(depth) else depth)


def euler_in_frame(at: Start) -> Ends:
    """Euler's method for y and for the rotations of the frame, whose rates are infinite where values meet."""
    rng, h = np.random.default_rng(at.seed), TIME / EULER_STEPS
    y = np.tile(coordinate(at.sigma, at.depth), (PATHS, 1))
    u, v = (np.broadcast_to(frame, (PATHS, D, D)) for frame in (at.u, at.v))
    far = ~np.eye(D, dtype=bool)
    for _ in range(EULER_STEPS):
        sigma = sigma_at(y, at.depth)
        lam, k, l = unnormalised(sigma, at.depth), sigma[:, :, None], sigma[:, None, :]
        minus, plus = y[:, :, None] - y[:, None, :], y[:, :, None] + y[:, None, :]
        repulsion = np.divide(1, minus, where=far, out=np.zeros_like(minus))
        repulsion += 0 if np.isinf(at.depth) else np.where(far, 1 / plus, 0.0)
        size = np.sqrt(2 * h / BETA)
        y = y + size * rng.standard_normal(y.shape) + h / BETA * repulsion.sum(-1)
        common, relative = (np.sqrt(lam) / np.where(far, gap, np.inf) for gap in (k - l, k + l))
        draws = np.triu(rng.standard_normal((2, PATHS, D, D)), 1)
        c, r = (size / 2**0.5 * abs(rate) * (z - z.mT) for rate, z in zip((common, relative), draws, strict=True))
        u, v = turned(u, c + r), turned(v, c - r)
    sigma = sigma_at(y, at.depth)
    return Ends((u * sigma[:, None, :]) @ v.mT, np.sort(sigma)[:, ::-1])


def turned(frame: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """The frame after a step of Euler's method for its rotation, made orthogonal again."""
    q, r = np.linalg.qr(frame + frame @ angles)
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None, :]


def sigma_at(y: np.ndarray, depth: float) -> np.ndarray:
    """The singular values at a coordinate. Of a negative y, which Euler's method reaches, the absolute value counts."""
    return np.exp(y) if np.isinf(depth) else (abs(y) / depth) ** depth


def gaussian(rng: np.random.Generator, centre, deviation: float, depth: float, n: int) -> np.ndarray:
    """n draws of the singular values of diag(centre) + deviation G, or of the eigenvalues of its symmetric part."""
    z = np.diag(centre) + deviation * rng.standard_normal((n, len(centre), len(centre)))
    return np.linalg.eigvalsh((z + z.mT) / 2)[:, ::-1] if np.isinf(depth) else np.linalg.svd(z, compute_uv=False)


def errors_of(p_values) -> float:
    """The standard errors of a normal variable that are as improbable as the least of several p-values."""
    p = np.clip(np.min(p_values) * np.size(p_values), np.finfo(float).tiny, 1.0)
    return float(norm.isf(p / 2))


def off_law(sigma: np.ndarray, exact: np.ndarray, depth: float) -> float:
    """By how many standard errors y of many paths differ from draws of a law, by Kolmogorov and Smirnov."""
    y = coordinate(sigma, depth)
    return errors_of([tuple(ks_2samp(a, b, method="asymp"))[1] for a, b in zip(y.T, exact.T, strict=True)])


def law_error(at: Start, simulate: Simulation = brownian) -> float:
    centre = coordinate(at.sigma, at.depth)
    exact = gaussian(np.random.default_rng(at.seed), centre, np.sqrt(2 * TIME / BETA), at.depth, DRAWS)
    return off_law(simulate(at).sigma, exact, at.depth)


MISTAKES: tuple[tuple[str, Simulation], ...] = (
    ("Euler's method without the drift of Ito", lambda at: euler(at, 0.0)),
    ("half the temperature", lambda at: brownian(at, 2 * BETA)),
    ("Euler's method for y and the rotations of the frame", euler_in_frame),
)

LAW = Claim(
    name="B1.1, the law without an energy",
    statement="y = N sigma^(1/N) of Brownian motion are the singular values of diag(y_0) + sqrt(2t/beta) G; at "
    "infinite depth log sigma are the eigenvalues of the symmetric part",
    where=WHERE,
    expected="holds",
    note="The error is in standard errors: Kolmogorov and Smirnov, 2000 paths against 8000 draws.",
    draw=start,
    printed=law_error,
    tampered=tuple((name, lambda at, f=simulate: law_error(at, f)) for name, simulate in MISTAKES),
    depths=(1.0, 2.0, 3.0, np.inf),
    draws=1,
    tolerance=WITHIN,
    floor=APART,
)


def means_error(at: Start, simulate: Simulation = brownian) -> float:
    """By how many standard errors the growth of sum y^2, and at infinite depth the mean of X, are off."""
    (x, sigma), infinite = simulate(at), np.isinf(at.depth)
    y = coordinate(sigma, at.depth)
    rate = (D * (D + 1) if infinite else 2 * D * D) / BETA
    grown = np.sum(y**2, axis=1) - np.sum(coordinate(at.sigma, at.depth) ** 2) - rate * TIME
    seen = [grown]
    if infinite:
        along = np.einsum("pij,ik,jk->kp", x, at.u, at.v)
        seen += list(along - np.exp(TIME / BETA) * at.sigma[:, None])
    z = [abs(values.mean()) / (values.std(ddof=1) / np.sqrt(len(values))) for values in seen]
    return errors_of(2 * norm.sf(z))


MEANS = Claim(
    name="B1.2, the means without an energy",
    statement="E sum y^2 grows by 2 t d^2/beta; at infinite depth E sum (log sigma)^2 grows by t d(d+1)/beta, and "
    "E X_t = e^(t/beta) X_0",
    where=WHERE,
    expected="holds",
    note="The error is in standard errors, over 2000 paths.",
    draw=start,
    printed=means_error,
    tampered=tuple((name, lambda at, f=simulate: means_error(at, f)) for name, simulate in MISTAKES),
    depths=(1.0, 2.0, 3.0, np.inf),
    draws=1,
    tolerance=WITHIN,
    floor=APART,
)


class Decay(eqx.Module):
    """(RATE/2) y^2 as a function of sigma, at the depth 1/`a`, or at infinite depth if `a` is 0."""

    a: Float[Array, ""]

    def __call__(self, sigma: Float[Array, ""]) -> Float[Array, ""]:
        finite = positive(self.a)
        y = jnp.where(self.a > 0, sigma**finite / finite, jnp.log(sigma))
        return RATE / 2 * y**2


def resting(at: Start, beta=BETA) -> Ends:
    """The paths of the library under weight decay, from a start that is not in equilibrium."""
    energy = SpectralEnergy(Decay(jnp.asarray(1 / at.depth)))
    return simulated(at, energy, Noise(jax.random.key(at.seed), beta, REST_STEP), REST, RESTING)


def stationary_error(at: Start, simulate: Simulation = resting, deviation=1.0) -> float:
    rng = np.random.default_rng(at.seed)
    exact = gaussian(rng, np.zeros(D), deviation / np.sqrt(RATE * BETA), at.depth, DRAWS)
    return off_law(simulate(at).sigma, exact, at.depth)


def near_rest(key, depth) -> Start:
    """A start whose y has the size that it has in equilibrium, at a depth that is not too large."""
    at = start(key, depth if np.isinf(depth) else min(depth, DEEPEST))
    return at._replace(sigma=sigma_at(at.sigma, at.depth))


def without_volume(at: Start) -> Ends:
    """Draws of the density exp(-beta E) in y, without the volume of the metric."""
    y = np.random.default_rng(at.seed).standard_normal((RESTING, D)) / np.sqrt(RATE * BETA)
    sigma = np.sort(sigma_at(y, at.depth))[:, ::-1]
    return Ends(sigma[:, :, None] * np.eye(D), sigma)


STATIONARY = Claim(
    name="B1.3, the stationary law of weight decay",
    statement="for E = (a/2) sum y^2 the stationary law of y is that of the singular values of a Gaussian matrix of "
    "variance 1/(a beta); at infinite depth that of the eigenvalues of its symmetric part",
    where=WHERE,
    expected="holds",
    note="The error is in standard errors: Kolmogorov and Smirnov, 1000 paths against 8000 draws.",
    draw=near_rest,
    printed=stationary_error,
    tampered=(
        ("half the temperature", lambda at: stationary_error(at, lambda at: resting(at, 2 * BETA))),
        ("without the volume of the metric", lambda at: stationary_error(at, without_volume)),
        ("variance 1/(2 a beta)", lambda at: stationary_error(at, deviation=0.5**0.5)),
    ),
    depths=(2.0, 3.0, np.inf),
    draws=1,
    tolerance=WITHIN,
    floor=APART,
)

CLAIMS: tuple[Claim, ...] = (LAW, MEANS, STATIONARY)
