"""Beyond the thesis: the operator A_X at matrices of any shape and rank, and for layers that are not balanced.

The factors of a matrix of rank r have the hidden width r. They are made here in NumPy, with random frames between the
layers, and the sum over the layers is what each formula is compared with.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq

import dlnjax
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import eigenvalues, generator, off, orthogonal, richardson, spectrum

WHERE = "Beyond the thesis, B2: any shape, rank and imbalance"
WHOLE = (2.0, 3.0, 10.0)
# The library compiles once for each shape: 2 x 3, and what is padded to 3 x 3.
ROWS, COLUMNS = 2, 3
# The flow of the factors is integrated to RTOL, and the two forms agree to INTEGRATION.
RTOL, INTEGRATION = 1e-12, 1e-8


class Thin(NamedTuple):
    """X = U diag(sigma) V^T with thin frames, a matrix Z of its shape, the depth, and the imbalances g_p."""

    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    z: np.ndarray
    depth: float
    g: tuple[float, ...] = ()

    @property
    def x(self) -> np.ndarray:
        return (self.u * self.sigma) @ self.v.T

    @property
    def shown(self) -> dict:
        return {"x": self.x, "z": self.z, "depth": self.depth} | ({"g": self.g} if self.g else {})


def thin(key, depth, r=None) -> Thin:
    rng = generator(key)
    r = r or int(rng.integers(1, ROWS + 1))
    u, v = orthogonal(rng, ROWS)[:, :r], orthogonal(rng, COLUMNS)[:, :r]
    return Thin(u, spectrum(rng, r), v, rng.standard_normal((ROWS, COLUMNS)), math.inf if depth is None else depth)


def factors(at: Thin, squares: np.ndarray) -> list[np.ndarray]:
    """W_1, ..., W_N with product X, from the squared singular values of each layer, one in a row of `squares`."""
    rng, r = np.random.default_rng(0), len(at.sigma)
    frames = [at.v, *(orthogonal(rng, r) for _ in squares[1:]), at.u]
    return [
        (after * np.sqrt(s)) @ before.T for s, (before, after) in zip(squares, itertools.pairwise(frames), strict=True)
    ]


def over_layers(w: Sequence[np.ndarray], z: np.ndarray) -> np.ndarray:
    """The operator by the factors, (1/N) sum_p A_{p+1} A_{p+1}^T Z B_{p-1}^T B_{p-1}."""
    (m, n), total = z.shape, np.zeros_like(z)
    for p in range(len(w)):
        above, below = np.eye(m), np.eye(n)
        for factor in w[:p]:
            below = factor @ below
        for factor in reversed(w[p + 1 :]):
            above = above @ factor
        total = total + above @ above.T @ z @ below.T @ below
    return total / len(w)


def in_frames(at: Thin, kernel, nu, mu) -> np.ndarray:
    """U [lambda o (U^T Z V)] V^T + (I - U U^T) Z V diag(nu) V^T + U diag(mu) U^T Z (I - V V^T)."""
    u, v, z = at.u, at.v, at.z
    inside = u @ (kernel * (u.T @ z @ v)) @ v.T
    return inside + (z - u @ (u.T @ z)) @ (v * nu) @ v.T + (u * mu) @ u.T @ (z - z @ v @ v.T)


def by_library(at: Thin, kernel) -> np.ndarray:
    return np.asarray(dlnjax.metric_operator(jnp.asarray(at.x), jnp.asarray(at.z), kernel))


def off_library(at: Thin, kernel, expected) -> float:
    """The error of the library where X has full rank. At lower rank the entries of X do not say that it is lower."""
    return off(by_library(at, kernel), expected) if len(at.sigma) == ROWS else 0.0


def upstairs(at: Thin, depth: float) -> np.ndarray:
    """The operator by balanced factors of width r."""
    return over_layers(factors(at, np.tile(at.sigma ** (2 / depth), (int(depth), 1))), at.z)


def balanced(at: Thin, *, exponent=2.0, nu=1.0, mu=1.0) -> float:
    """The error of the formula in the frames and of the library, against balanced factors."""
    n, expected = at.depth, upstairs(at, at.depth)
    weight = at.sigma ** (2 - exponent / n) / n
    formula = in_frames(at, eigenvalues(at.sigma, n) / n, nu * weight, mu * weight)
    return max(off(formula, expected), off_library(at, n, expected))


BALANCED = Claim(
    name="B2.1, the operator at any shape and rank",
    statement="A_X(Z) = U [lambda o (U^T Z V)] V^T + (I - U U^T) Z V diag(nu) V^T + U diag(nu) U^T Z (I - V V^T), "
    "nu = sigma^(2-2/N)/N, for X = U diag(sigma) V^T of rank r",
    where=WHERE,
    expected="holds",
    note="The factors are balanced and have the hidden width r; lambda is (2.20)/N, and N is at least 2.",
    draw=thin,
    printed=balanced,
    tampered=(
        ("nothing leaves the column space", lambda at: balanced(at, nu=0.0)),
        ("nothing leaves the row space", lambda at: balanced(at, mu=0.0)),
        ("sigma^(2-1/N)/N", lambda at: balanced(at, exponent=1.0)),
    ),
    examples=(Thin(np.eye(2)[:, :1], np.array([2.0]), np.eye(3)[:, :1], np.ones((2, 3)), 2.0),),
    depths=WHOLE,
    whole=True,
)


def deepened(at: Thin) -> np.ndarray:
    """The limit of the operator by balanced factors, from N = 4, 8, ..., 256, extrapolated in 1/N."""
    return richardson([upstairs(at, n) for n in 2.0 ** np.arange(2, 9)])


def frozen(at: Thin, depth=math.inf, nu=0.0) -> float:
    """The error of the formula without what leaves, against the limit of the factors, and of the library."""
    expected = deepened(at)
    formula = in_frames(at, eigenvalues(at.sigma, math.inf), nu * at.sigma**2, nu * at.sigma**2)
    return max(off(formula, expected), off_library(at, depth, expected))


FROZEN = Claim(
    name="B2.2, the spaces freeze at infinite depth",
    statement="at N = inf, A_X(Z) = U [lambda o (U^T Z V)] V^T: the column and the row space never turn",
    where=WHERE,
    expected="holds",
    note="nu = sigma^(2-2/N)/N tends to 0. The other side is the limit of balanced factors.",
    draw=thin,
    printed=frozen,
    tampered=(
        ("A of depth 10", lambda at: frozen(at, 10.0)),
        ("nu = sigma^2", lambda at: frozen(at, nu=1.0)),
    ),
    examples=(
        Thin(np.eye(2), np.array([2.0, 1.0]), np.eye(3)[:, :2], np.ones((2, 3)), math.inf),
        Thin(np.eye(2)[:, :1], np.array([2.0]), np.eye(3)[:, :1], np.ones((2, 3)), math.inf),
    ),
    depths=NO_DEPTH,
)


def padded(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.zeros((COLUMNS - ROWS, COLUMNS))])


def wide(key, depth) -> Thin:
    return thin(key, depth, ROWS)


def embedded(at: Thin, *, turned=True, below=0.0) -> float:
    """The error of two statements: X with rows of zeros has the padded A_X(Z), and X^T has its transpose."""
    direct = by_library(at, at.depth)
    x, z = padded(at.x), padded(at.z)
    x[-1] = below
    larger = np.asarray(dlnjax.metric_operator(jnp.asarray(x), jnp.asarray(z), at.depth))
    across = np.asarray(dlnjax.metric_operator(jnp.asarray(x.T), jnp.asarray(z.T if turned else z), at.depth))
    return max(off(larger, padded(direct)), off(across, padded(direct).T))


EMBEDDED = Claim(
    name="B2.3, zero padding and transposing",
    statement="rows of zeros below X and Z are rows of zeros below A_X(Z), and A_{X^T}(Z^T) = A_X(Z)^T",
    where=WHERE,
    expected="holds",
    draw=wide,
    printed=embedded,
    tampered=(
        ("X^T with Z in place of Z^T", lambda at: embedded(at, turned=False)),
        ("rows of 1/10 below X", lambda at: embedded(at, below=0.1)),
    ),
)


def imbalances(key, n: int) -> tuple[float, ...]:
    """Some g_p of one sign, so that the layers from N to 1 are another network."""
    rng = generator(key)
    return tuple((rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 2, n)).tolist())


def two_layers(key, depth) -> Thin:
    """Rank 2, so that g of both signs has factors: g > 0 needs r <= n, and g < 0 needs r <= m."""
    return thin(key, depth, ROWS)._replace(depth=2.0, g=imbalances(key, 1))


def in_closed_form(at: Thin, *, quarter=0.25, side=0.5) -> float:
    """The error of the kernel of two layers and of the library, against the factors."""
    (g,) = at.g
    half = np.sqrt(at.sigma**2 + g**2 / 4)
    expected = over_layers(factors(at, np.stack([half + g / 2, half - g / 2])), at.z)
    f = np.sqrt(at.sigma**2 + quarter * g**2)
    formula = in_frames(at, (f[:, None] + f) / 2, (f + side * g) / 2, (f - side * g) / 2)
    return max(off(formula, expected), off(by_library(at, dlnjax.Imbalanced(g)), expected))


TWO_LAYERS = Claim(
    name="B2.4, two layers with an imbalance",
    statement="where W_1 W_1^T - W_2^T W_2 = g I, lambda_kl = (f_k + f_l)/2, nu = (f + g/2)/2 and mu = (f - g/2)/2, "
    "f = (sigma^2 + g^2/4)^(1/2)",
    where=WHERE,
    expected="holds",
    note="nu weighs what leaves the column space, mu what leaves the row space.",
    draw=two_layers,
    printed=in_closed_form,
    tampered=(
        ("f = (sigma^2 + g^2)^(1/2)", lambda at: in_closed_form(at, quarter=1.0)),
        ("nu and mu exchanged", lambda at: in_closed_form(at, side=-0.5)),
        ("balanced", lambda at: in_closed_form(at, quarter=0.0, side=0.0)),
    ),
    depths=NO_DEPTH,
)


def many_layers(key, depth) -> Thin:
    return thin(key, depth, ROWS)._replace(depth=3.0, g=imbalances(key, 2))


def squares_of(at: Thin, sign=1.0) -> np.ndarray:
    """The squares s_p^2 = a + c_p, c_p - c_{p+1} = `sign` g_p, where prod_p (a + c_p) = sigma^2."""
    c = sign * np.concatenate([[0.0], -np.cumsum(at.g)])
    a = [brentq(lambda a, s=s: np.prod(a + c) - s**2, -c.min(), -c.min() + s + s**2 + 10, xtol=1e-15) for s in at.sigma]
    return np.array(a) + c[:, None]


def by_sums(at: Thin, *, sign=1.0, order=1) -> float:
    """The error of the kernel of N layers and of the library, against the factors."""
    expected = over_layers(factors(at, squares_of(at)), at.z)
    s, n = squares_of(at, sign)[::order], len(at.g) + 1
    above, below = (lambda p: np.prod(s[p + 1 :], axis=0)), (lambda p: np.prod(s[:p], axis=0))
    kernel = sum(np.outer(above(p), below(p)) for p in range(n)) / n
    formula = in_frames(at, kernel, below(n - 1) / n, above(0) / n)
    return max(off(formula, expected), off(by_library(at, dlnjax.Imbalanced(at.g)), expected))


LAYERS = Claim(
    name="B2.5, N layers with imbalances",
    statement="where W_p W_p^T - W_{p+1}^T W_{p+1} = g_p I, lambda_kl = (1/N) sum_p prod_{q>p} s_q(k)^2 prod_{q<p} "
    "s_q(l)^2, nu = prod_{q<N} s_q^2/N and mu = prod_{q>1} s_q^2/N, with s_p^2 = a + c_p, c_p - c_{p+1} = g_p",
    where=WHERE,
    expected="holds",
    note="a(sigma) solves prod_p (a + c_p) = sigma^2.",
    draw=many_layers,
    printed=by_sums,
    tampered=(
        ("c_p - c_{p+1} = -g_p", lambda at: by_sums(at, sign=-1.0)),
        ("the layers from N to 1", lambda at: by_sums(at, order=-1)),
        ("balanced", lambda at: by_sums(at, sign=0.0)),
    ),
    depths=NO_DEPTH,
)


class Riccati(NamedTuple):
    """Two layers with W_2^T W_2 - W_1 W_1^T = l I, on their way to the target M."""

    w1: np.ndarray
    w2: np.ndarray
    target: np.ndarray
    l: float


def layers_to_target(key, depth) -> Riccati:
    at = two_layers(key, depth)
    (g,) = at.g
    half = np.sqrt(at.sigma**2 + g**2 / 4)
    w1, w2 = factors(at, np.stack([half + g / 2, half - g / 2]))
    return Riccati(w1, w2, at.z, -g)


TIME = 0.8


def by_riccati(at: Riccati, time: float, l: float, doubled=2.0) -> np.ndarray:
    """S(t) = Q Q^T, Phi by the exponential of a block matrix."""
    m, n = at.target.shape
    f = np.block([[-l / 2 * np.eye(n), at.target.T], [at.target, l / 2 * np.eye(m)]])
    q, zero = np.concatenate([at.w1.T, at.w2]), np.zeros_like(f)
    phi = expm(np.block([[doubled * f * time, time * np.eye(m + n)], [zero, zero]]))[: m + n, m + n :]
    moved = expm(f * time) @ q
    return moved @ np.linalg.solve(np.eye(q.shape[1]) + q.T @ phi @ q, moved.T)


def by_factors(at: Riccati, time: float) -> np.ndarray:
    """Q Q^T of the factors at a time of the thesis, by SciPy."""

    def velocity(t, flat):
        w1, w2 = flat[: at.w1.size].reshape(at.w1.shape), flat[at.w1.size :].reshape(at.w2.shape)
        de = w2 @ w1 - at.target
        return -np.concatenate([(w2.T @ de).ravel(), (de @ w1.T).ravel()])

    start = np.concatenate([at.w1.ravel(), at.w2.ravel()])
    end = solve_ivp(velocity, (0, time), start, method="DOP853", rtol=RTOL, atol=RTOL).y[:, -1]
    q = np.concatenate([end[: at.w1.size].reshape(at.w1.shape).T, end[at.w1.size :].reshape(at.w2.shape)])
    return q @ q.T


def solved(at: Riccati, *, sign=1.0, speed=1.0, doubled=2.0) -> float:
    """The error of the closed form and of the library, whose time is twice that of the thesis, against the factors."""
    expected, n = by_factors(at, TIME), at.target.shape[1]
    x = dlnjax.closed_form.two_layer(jnp.asarray(at.w1), jnp.asarray(at.w2), jnp.asarray(at.target), 2 * TIME).x
    formula = by_riccati(at, speed * TIME, sign * at.l, doubled)
    return max(off(formula, expected), off(np.asarray(x), expected[n:, :n]))


EXACT = Claim(
    name="B2.6, two layers to a target, exactly",
    statement="for E = |X - M|^2/2 and W_2^T W_2 - W_1 W_1^T = l I, Q = [W_1^T; W_2] has Q Q^T = e^(Ft) Q_0 "
    "[I + Q_0^T Phi Q_0]^(-1) Q_0^T e^(Ft), F = [[-l/2 I, M^T], [M, l/2 I]], Phi the integral of e^(2Fs) to t",
    where=WHERE,
    expected="holds",
    note="The time is the thesis's. The other side is the flow of the factors by DOP853, at rtol 1e-12.",
    draw=layers_to_target,
    printed=solved,
    tampered=(
        ("-l for l", lambda at: solved(at, sign=-1.0)),
        ("Phi the integral of e^(Fs)", lambda at: solved(at, doubled=1.0)),
        ("the time of dlnjax", lambda at: solved(at, speed=2.0)),
    ),
    depths=NO_DEPTH,
    tolerance=INTEGRATION,
)

CLAIMS: tuple[Claim, ...] = (BALANCED, FROZEN, EMBEDDED, TWO_LAYERS, LAYERS, EXACT)
