"""Theorem 3.4.2: ends A and B whose singular vectors differ by one common rotation."""

import math
from typing import NamedTuple

import numpy as np

from dlnjax.claims._attack import FAR, NEAR, worst
from dlnjax.claims._chapter3_wasserstein import mean, wasserstein
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._curves import first_variation, flat, function, length, sample, slope
from dlnjax.claims._factors import imbalance, product, twist, xi
from dlnjax.claims._spectra import eigenvalues, generator, off, orthogonal, spectrum

WHOLE = (2.0, 3.0, 5.0)


class Ends(NamedTuple):
    """The ends A = U Sigma V^T and B = U Q Sigma~ (V Q)^T."""

    sigma: np.ndarray
    sigma_b: np.ndarray
    u: np.ndarray
    v: np.ndarray
    q: np.ndarray
    depth: float

    @property
    def a(self):
        return (self.u * self.sigma) @ self.v.T

    @property
    def b(self):
        return (self.u @ self.q * self.sigma_b) @ (self.v @ self.q).T

    @property
    def shown(self):
        return {"A": self.a, "B": self.b, "depth": self.depth}

    @property
    def positive(self):
        """The positive factors S_A and S_B, in the frame of A, so that A = U S_A V^T and B = U S_B V^T."""
        return np.diag(self.sigma), (self.q * self.sigma_b) @ self.q.T

    @property
    def commuting(self):
        return self._replace(q=np.eye(len(self.sigma)))


def ends(key, depth) -> Ends:
    rng = generator(key)
    d = int(rng.integers(2, 4))
    turn = lambda: orthogonal(rng, d)
    q = turn()
    while min(np.max(np.abs(q), axis=0)) > 0.95:  # S_A and S_B almost commute where Q is almost a permutation
        q = turn()
    return Ends(spectrum(rng, d, 0.4, 1.2), spectrum(rng, d, 0.4, 1.2), turn(), turn(), q, depth)


HALF = math.sqrt(0.5)
BY_HAND = Ends(
    np.array([4.0, 1.0]),
    np.array([1.0, 4.0]),
    np.eye(2),
    np.eye(2),
    np.array([[HALF, HALF], [-HALF, HALF]]),
    2.0,
)


def with_last(at: Ends, v) -> float:
    """The error of A = phi(xi(Sigma^(1/N), U, I, ..., I, v(V))) and B = phi(xi(Sigma~^(1/N), U~, Q, ..., Q, v(V~)))."""
    n, eye = int(at.depth), np.eye(len(at.sigma))
    q_a = np.array([v(at.v), *[eye] * (n - 1), at.u])
    q_b = np.array([v(at.v @ at.q), *[at.q] * (n - 1), at.u @ at.q])
    over = lambda sigma, q: product(xi(sigma ** (1 / n), q))
    return max(off(over(at.sigma, q_a), at.a), off(over(at.sigma_b, q_b), at.b))


LAST_ARGUMENT = Claim(
    name="(3.79), (3.82)",
    statement="A = phi(xi(Sigma^(1/N), U, I, ..., I, V^T)), B = phi(xi(Sigma~^(1/N), U~, Q, ..., Q, V~^T))",
    where="Section 3.4, (3.79), (3.82)",
    expected="corrected",
    note="The last argument is V, and V~, not their transposes: xi transposes it.",
    draw=ends,
    printed=lambda at: with_last(at, lambda v: v.T),
    corrected=lambda at: with_last(at, lambda v: v),
    tampered=(("-V", lambda at: with_last(at, lambda v: -v)),),
    examples=(BY_HAND._replace(v=np.array([[0.0, -1.0], [1.0, 0.0]])),),
    depths=WHOLE,
    whole=True,
)


def factors(at: Ends) -> tuple[np.ndarray, np.ndarray]:
    """The factors of A and of B in the proof of Theorem 3.4.2."""
    n, eye = int(at.depth), np.eye(len(at.sigma))
    w_a = xi(at.sigma ** (1 / n), np.array([at.v, *[eye] * (n - 1), at.u]))
    w_b = xi(at.sigma_b ** (1 / n), np.array([at.v @ at.q, *[at.q] * (n - 1), at.u @ at.q]))
    return w_a, w_b


def not_horizontal(at: Ends) -> float:
    """The error of W_{p+1}^T Z_{p+1} = Z_p W_p^T at A for the direction Z of the line.

    It is 0 for a horizontal line.
    """
    w_a, w_b = factors(at)
    z = w_b - w_a
    return float(np.max(np.abs(twist(w_a, z))) / (np.max(np.abs(w_a)) * np.max(np.abs(z))))


def turned_back(at: Ends, sign=-1.0) -> float:
    """The error of W_{p+1}^T Z_{p+1} - Z_p W_p^T = [L, Q L~ Q^T] at A, for every p."""
    l, k = (function(s, lambda x: x ** (1 / at.depth)) for s in at.positive)
    w_a, w_b = factors(at)
    gaps = twist(w_a, w_b - w_a)
    return off(gaps, np.broadcast_to(l @ k + sign * k @ l, gaps.shape))


SPAN = Claim(
    name="(3.80)-(3.81)",
    statement="a vector is horizontal at A iff U alpha, alpha, ..., alpha V^T are its parts for one matrix alpha",
    where="Section 3.4, (3.80)-(3.81), (3.83)-(3.85)",
    expected="fails",
    note="The constants of Lemma 2.2.7 depend on s. With alpha = Q L~ Q^T the vector B solves (3.83)-(3.85), but "
    "W_{p+1}^T Z_{p+1} - Z_p W_p^T = [L, Q L~ Q^T] for the line: horizontal iff they commute.",
    draw=ends,
    printed=not_horizontal,
    instead=lambda at: max(turned_back(at), not_horizontal(at.commuting)),
    tampered=(("L Q L~ Q^T + Q L~ Q^T L", lambda at: turned_back(at, 1.0)),),
    examples=(BY_HAND,),
    depths=WHOLE,
    whole=True,
)


def printed_curve(at: Ends):
    """The curve (3.76), in the form U l(...)^N V^T, which has a meaning for every N, and at infinite depth too."""
    to, back = flat(at.depth)
    s_a, s_b = (function(s, to) for s in at.positive)
    return lambda t: at.u @ function((1 - t) * s_a + t * s_b, back) @ at.v.T


def in_factors(at: Ends, *, exponent=1.0, q_last=None) -> float:
    """The error of these statements: the line of factors is balanced and of full rank, its product is (3.76) as
    printed, and it joins A and B.
    """
    n, q = int(at.depth), at.q
    w_a, w_b = factors(at)
    u_b, v_b = at.u @ q, at.v @ (q if q_last is None else q_last(q))
    l_a, l_b = np.diag(at.sigma ** (exponent / n)), np.diag(at.sigma_b ** (exponent / n))
    errors = []
    for t in (0.0, 0.3, 0.5, 1.0):
        w = (1 - t) * w_a + t * w_b
        mix = lambda a, b, t=t: (1 - t) * a + t * b
        first, last = mix(at.u @ l_a, u_b @ l_b @ q.T), mix(l_a @ at.v.T, q @ l_b @ v_b.T)
        printed = first @ np.linalg.matrix_power(mix(l_a, q @ l_b @ q.T), n - 2) @ last
        rank = float(np.min(np.linalg.svd(w, compute_uv=False)) < 1e-9)
        errors += [imbalance(w), off(printed, product(w)), off(printed_curve(at)(t), product(w)), rank]
    return max(*errors, off(product(w_a), at.a), off(product(w_b), at.b))


UPSTAIRS = Claim(
    name="Theorem 3.4.2 (1)",
    statement="if U~ = U Q, V~ = V Q, there are A and B upstairs whose line is a geodesic of (M, iota)",
    where="Section 3.4, (3.75)-(3.78)",
    expected="holds",
    note="It lies over (3.76), which is U l(Sigma^(1/N), Q Sigma~^(1/N) Q^T)^N V^T.",
    draw=ends,
    printed=in_factors,
    tampered=(
        ("Sigma^(2/N)", lambda at: in_factors(at, exponent=2.0)),
        ("V~ = V Q^T", lambda at: in_factors(at, q_last=lambda q: q.T)),
    ),
    depths=WHOLE,
    whole=True,
)

GEODESIC = Claim(
    name="Theorem 3.4.2 (2)",
    statement="(3.76) is the geodesic in (M_d, g^N) between A and B",
    where="Section 3.4, (3.76)",
    expected="fails",
    note="Iff S_A and S_B commute: else the line upstairs is not horizontal. A = diag(4, 1) and B = [[5/2, 3/2], "
    "[3/2, 5/2]] at N = 2: length 1.377145 against the distance sqrt(20 - 2 sqrt 82) = 1.374493.",
    draw=ends,
    printed=lambda at: first_variation(sample(printed_curve(at)), at.depth),
    instead=lambda at: first_variation(sample(printed_curve(at.commuting)), at.depth),
    tampered=(
        (
            "if A and B are positive definite",
            lambda at: first_variation(sample(printed_curve(at._replace(v=at.u))), at.depth),
        ),
    ),
    examples=(BY_HAND,),
    draws=2,
    tolerance=1e-7,
)


def commuting_curve(at: Ends, exponent=1.0) -> float:
    """The error of the statement that the curve for commuting S_A and S_B joins A and B and is a geodesic."""
    x = sample(printed_curve(at.commuting._replace(depth=at.depth * exponent)))
    a, b = at.commuting.a, at.commuting.b
    return max(off(x[0], a), off(x[-1], b), first_variation(x, at.depth))


COMMUTING = Claim(
    name="Theorem 3.4.2 (2), S_A and S_B commuting",
    statement="((1-t) S_A^(1/N) + t S_B^(1/N))^N O is a geodesic where A = S_A O and B = S_B O and S_A S_B = S_B S_A",
    where="Section 3.4, (3.76)",
    expected="holds",
    note="For every N; at infinite depth exp((1-t) log S_A + t log S_B) O.",
    draw=ends,
    printed=commuting_curve,
    tampered=(("S^(1/2N)", lambda at: commuting_curve(at, 2.0)),),
    draws=2,
    tolerance=1e-7,
)


def right_form(at: Ends, *, inverse=True):
    """The geodesic for N = 2, ((1-t) I + t M) S_A ((1-t) I + t M) in the frame of A, with M = S_A^{-1} # S_B."""
    s_a, s_b = at.positive
    m, eye = mean(np.linalg.inv(s_a) if inverse else s_a, s_b), np.eye(len(s_a))
    mix = lambda t: (1 - t) * eye + t * m
    return lambda t: at.u @ mix(t) @ s_a @ mix(t) @ at.v.T


def of_length(at: Ends, curve) -> float:
    """The error of the statement that the curve joins A and B and is as long as the geodesic for N = 2.

    The length of the geodesic is known from Bures and Wasserstein, as g^2 = 2 g^BW.
    """
    x = sample(curve)
    distance = math.sqrt(2) * wasserstein(*at.positive)
    return max(off(x[0], at.a), off(x[-1], at.b), off(length(x, 2.0), distance))


DEPTH_TWO = Claim(
    name="Theorem 3.4.2 (2), N = 2",
    statement="at N = 2 the length of (3.76) is the distance",
    where="Section 3.4, (3.76), against Theorem 3.2.3",
    expected="fails",
    note="It is longer. The geodesic of A = S_A O, B = S_B O is ((1-t) I + t M) S_A ((1-t) I + t M) O, "
    "M = S_A^{-1} # S_B.",
    draw=lambda key, _: ends(key, 2.0),
    printed=lambda at: of_length(at, printed_curve(at)),
    instead=lambda at: max(of_length(at, right_form(at)), first_variation(sample(right_form(at)), 2.0)),
    tampered=(("M = S_A # S_B", lambda at: of_length(at, right_form(at, inverse=False))),),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
    draws=4,
    tolerance=1e-8,
)


def chord(at: Ends) -> float:
    """The upper bound sqrt(N) |S_A^(1/N) - S_B^(1/N)|, which is |log S_A - log S_B| at infinite depth."""
    to, _ = flat(at.depth)
    size = float(np.linalg.norm(function(at.positive[0], to) - function(at.positive[1], to)))
    return size / (math.sqrt(at.depth) if math.isfinite(at.depth) else 1.0)


def beyond(at: Ends, factor=1.0) -> float:
    """The relative excess of the length of (3.76) over the upper bound. It is negative if the bound holds.

    At N = 2 the lower bound, which is the distance, is checked too.
    """
    measured = length(sample(printed_curve(at)), at.depth)
    errors = [measured / (factor * chord(at)) - 1]
    if at.depth == 2:
        errors.append(math.sqrt(2) * wasserstein(*at.positive) / measured - 1)
    return max(errors)


BOUNDS = Claim(
    name="Theorem 3.4.2, bounds",
    statement="d(A, B) <= length of (3.76) <= sqrt(N) |S_A^(1/N) - S_B^(1/N)|_F",
    where="Section 3.4, (3.76)",
    expected="holds",
    note="What remains of (2): bounds from above. The second is the length of the line upstairs.",
    draw=ends,
    printed=beyond,
    tampered=(("0.7 sqrt(N)", lambda at: beyond(at, 0.7)),),
    examples=(BY_HAND,),
)


class Direction(NamedTuple):
    """A positive definite S = Q diag(sigma) Q^T, a symmetric Z and the depth."""

    q: np.ndarray
    sigma: np.ndarray
    z: np.ndarray
    depth: float


def direction(key, depth) -> Direction:
    rng = generator(key)
    z = rng.standard_normal((3, 3))
    return Direction(orthogonal(rng, 3), spectrum(rng, 3), z + z.T, depth)


def pulled_back(at: Direction, power=2.0) -> float:
    """The error of two statements about the kernel ((x - y)/(f(x) - f(y)))^2, with f(x) = N x^(1/N) or log x.

    Its metric is N |dS^(1/N)(Z)|^2, and the kernel is never above lambda_kl.
    """
    to, _ = flat(at.depth)
    s = (at.q * at.sigma) @ at.q.T
    step = 1e-2 * float(at.sigma.min() / np.linalg.norm(at.z, 2))
    moved = slope(lambda h: function(s + h * at.z, to), step)
    same = np.eye(3, dtype=bool)
    gap = lambda f: np.where(same, 1.0, f(at.sigma)[:, None] - f(at.sigma)[None, :])
    on_diagonal = at.sigma if math.isinf(at.depth) else at.sigma ** (1 - 1 / at.depth)
    kernel = np.where(same, on_diagonal[:, None], gap(lambda x: x) / gap(to)) ** power
    scale = at.depth if math.isfinite(at.depth) else 1.0
    above = np.max(kernel / (eigenvalues(at.sigma, at.depth) / scale)) - 1
    return max(off(np.sum((at.q.T @ at.z @ at.q) ** 2 / kernel), np.sum(moved**2)), above - 1e-12)


def kernel_below(key, depth):
    """An attack: the least relative difference of lambda_kl and the kernel, over the log-ratio u.

    This difference is 1 - (1/N) tanh(u/2) / tanh(u/2N).
    """
    tanh = lambda x, m: (1 - m.exp(-2 * x)) / (1 + m.exp(-2 * x))
    below = lambda u, m: tanh(u / (2 * depth), m) * depth if math.isfinite(depth) else u / 2
    found = worst(lambda x, m: 1 - tanh(x[0] / 2, m) / below(x[0], m), [(NEAR, FAR)], generator(key))
    return -found.room, {"log ratio": found.at[0], "depth": depth}


PULL_BACK = Claim(
    name="Theorem 3.4.2, what (3.76) is",
    statement="(3.76) is the geodesic of the metric N |dX^(1/N)|^2, of kernel (1/N)((x-y)/(x^(1/N) - y^(1/N)))^2",
    where="Section 3.4, (3.76)",
    expected="holds",
    note="On positive definite matrices; the kernel is never above lambda_kl.",
    draw=direction,
    printed=pulled_back,
    tampered=(("without the square", lambda at: pulled_back(at, 1.0)),),
    attack=kernel_below,
)

CLAIMS: tuple[Claim, ...] = (
    UPSTAIRS,
    GEODESIC,
    COMMUTING,
    DEPTH_TWO,
    BOUNDS,
    PULL_BACK,
    LAST_ARGUMENT,
    SPAN,
)
