"""Section 3.4: straight lines upstairs, and which of them are geodesics downstairs."""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from dlnjax.claims import _chapter3_diagonal
from dlnjax.claims._attack import FAR, NEAR, worst
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._curves import first_variation, flat, function, length, sample, slope
from dlnjax.claims._factors import imbalance, product, xi
from dlnjax.claims._spectra import eigenvalues, generator, off, orthogonal, spectrum

WHOLE = (2.0, 3.0, 5.0)


class Line(NamedTuple):
    """What xi takes at the two ends of (3.66): Lambda, Lambda~, and Q_p, Q~_p for p = 0..N."""

    lam: np.ndarray
    lam_b: np.ndarray
    q: np.ndarray
    q_b: np.ndarray

    @property
    def turns(self):
        """Q~_p^T Q_p, (3.65)."""
        return np.swapaxes(self.q_b, -1, -2) @ self.q

    def at(self, t):
        return (1 - t) * xi(self.lam, self.q) + t * xi(self.lam_b, self.q_b)


def line(key, depth, turns=None) -> Line:
    """Q~_p such that Q~_p^T Q_p is `turns`, of the parity of p unless given."""
    rng = generator(key)
    d = 2 if turns else int(rng.integers(2, 4))
    q = np.array([orthogonal(rng, d) for _ in range(int(depth) + 1)])
    pair = [orthogonal(rng, d) for _ in range(2)]
    turned = turns(rng, len(q)) if turns else [pair[p % 2] for p in range(len(q))]
    return Line(spectrum(rng, d), spectrum(rng, d), q, np.array([a @ o.T for a, o in zip(q, turned, strict=True)]))


def never_balanced(at: Line) -> float:
    return max(imbalance(at.at(t)) for t in (0.2, 0.5, 0.9))


def opposed(at: Line) -> Line:
    """Q_{p+1} = -Q_{p-1} in place of (1)."""
    signs = np.array([(-1.0) ** (p // 2) for p in range(len(at.q))])
    return at._replace(q_b=at.q_b * signs[:, None, None])


def shuffled(at: Line) -> Line:
    """Q_{p+1} = Q_{p-1}^T."""
    turns = [o if p % 4 < 2 else o.T for p, o in enumerate(at.turns)]
    return at._replace(q_b=np.array([a @ o.T for a, o in zip(at.q, turns, strict=True)]))


SUFFICIENT = Claim(
    name="Lemma 3.4.1 (1)",
    statement="the line from xi(L, Q) to xi(L~, Q~) is balanced if Q~_{p+1}^T Q_{p+1} = Q~_{p-1}^T Q_{p-1} for all p",
    where="Section 3.4, (3.65)-(3.66), (3.69)-(3.71)",
    expected="holds",
    draw=line,
    printed=never_balanced,
    tampered=(
        ("if one is minus the other", lambda at: never_balanced(opposed(at))),
        ("if one is the transpose of the other", lambda at: never_balanced(shuffled(at))),
    ),
    depths=WHOLE,
    whole=True,
)


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def mixed(key, depth) -> Line:
    """Lines of one of three kinds: those of (1); any; those that satisfy (2), not (1): Q_0 = R^T, Q_1 = I, Q_2 = R."""
    kind = int(generator(key).integers(3))
    if kind == 0:
        return line(key, depth)
    if kind == 1:
        return line(key, depth, lambda rng, n: [orthogonal(rng, 2) for _ in range(n)])
    at = line(key, depth, lambda rng, n: [rotation(0.5) if p % 2 == 0 else np.eye(2) for p in range(n)])
    first = at.q[:1] @ rotation(0.5)
    return at._replace(lam_b=1.7 * at.lam, q_b=np.concatenate([first, at.q_b[1:]]))


def skew(at: Line, *, inverse=True, sign=1.0) -> float:
    """How far (Q_{p+1} - Q_{p-1}) M^T, (3.67)-(3.68), are from antisymmetric."""
    o, errors = at.turns, [0.0]
    for p in range(1, len(o) - 1):
        m = (o[p] * at.lam) / (at.lam_b[:, None] if inverse else 1.0)
        k = (o[p + 1] - o[p - 1]) @ m.T
        errors.append(float(np.max(np.abs(k + sign * k.T)) / np.max(np.abs(m))))
    return max(errors)


def equivalent(at: Line, **changed) -> float:
    """0 if the line is balanced and the condition satisfied, or neither."""
    return float((never_balanced(at) < 1e-10) != (skew(at, **changed) < 1e-10))


CHARACTERIZED = Claim(
    name="Lemma 3.4.1 (2)",
    statement="the line is balanced iff (Q_{p+1} - Q_{p-1}) M^T, M = L~^{-1} Q_p L, are skew symmetric",
    where="Section 3.4, (3.67)-(3.74)",
    expected="holds",
    note="Tried on lines of (1), on others that satisfy (2), and on lines that do not.",
    draw=mixed,
    printed=equivalent,
    tampered=(
        ("symmetric", lambda at: equivalent(at, sign=-1.0)),
        ("M = Q_p L", lambda at: equivalent(at, inverse=False)),
    ),
    depths=WHOLE,
    whole=True,
    draws=8,
)


def loses_rank(at: Line) -> float:
    """1 if a factor is singular somewhere on the line, 0 if not: the least singular value, by a search in t."""
    least = lambda t: float(np.min(np.linalg.svd(at.at(t), compute_uv=False)))
    grid = np.linspace(0, 1, 201)
    t = grid[int(np.argmin([least(t) for t in grid]))]
    bounds = (max(t - 0.01, 0.0), min(t + 0.01, 1.0))
    found = minimize_scalar(least, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return float(found.fun < 1e-8 * np.max(at.lam))


def through_zero(key, depth) -> Line:
    """A line of (1), to factors that are -Q_p L~ Q_{p-1}^T."""
    at = line(key, depth)
    return at._replace(q_b=at.q * ((-1.0) ** np.arange(len(at.q)))[:, None, None])


def one_turn(at: Line) -> Line:
    """The same ends but with Q~_p^T Q_p the same for all p."""
    return at._replace(q_b=at.q @ at.turns[0].T)


IDENTITIES = np.array([np.eye(2)] * 3)
RANK = Claim(
    name="Lemma 3.4.1, in M",
    statement="such a line lies in the manifold M of balanced factors of full rank",
    where="Section 3.4, proof of Lemma 3.4.1",
    expected="fails",
    note="Full rank can be lost: A = (I, I), B = (-I, -I). It is kept where Q~_p^T Q_p is the same for all p.",
    draw=through_zero,
    printed=loses_rank,
    instead=lambda at: loses_rank(one_turn(at)),
    tampered=(("where Q~_p^T Q_p has the parity of p", loses_rank),),
    examples=(Line(np.ones(2), np.ones(2), IDENTITIES, IDENTITIES * np.array([1, -1, 1])[:, None, None]),),
    depths=WHOLE,
    whole=True,
    draws=1,
)


class Ends(NamedTuple):
    """A = U Sigma V^T and B = U Q Sigma~ (V Q)^T."""

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
        """S_A and S_B: in the frame of A, so that A = U S_A V^T."""
        return np.diag(self.sigma), (self.q * self.sigma_b) @ self.q.T

    @property
    def commuting(self):
        return self._replace(q=np.eye(len(self.sigma)))


def ends(key, depth, d=None) -> Ends:
    rng = generator(key)
    d = d or int(rng.integers(2, 4))
    turn = lambda: orthogonal(rng, d)
    q = turn()
    while min(np.max(np.abs(q), axis=0)) > 0.95:  # almost a permutation: S_A and S_B would almost commute
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
    """xi(Sigma^(1/N), U, I, ..., I, `v`) and xi(Sigma~^(1/N), U~, Q, ..., Q, `v` of B) over A and B."""
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


def not_horizontal(at: Ends, w=None) -> float:
    """How far `w`, by default the line, is from W_{p+1}^T Z_{p+1} = Z_p W_p^T at A."""
    w_a, w_b = factors(at)
    z = (w_b if w is None else w) - w_a
    turned = np.swapaxes(w_a, -1, -2)
    size = np.max(np.abs(w_a)) * np.max(np.abs(z))
    return float(np.max(np.abs(turned[1:] @ z[1:] - z[:-1] @ turned[:-1])) / size)


def turned_back(at: Ends, sign=-1.0) -> float:
    """W_{p+1}^T Z_{p+1} - Z_p W_p^T at A, for every p, against [L, Q L~ Q^T]."""
    l, k = (function(s, lambda x: x ** (1 / at.depth)) for s in at.positive)
    w_a, w_b = factors(at)
    turned, z = np.swapaxes(w_a, -1, -2), w_b - w_a
    gaps = turned[1:] @ z[1:] - z[:-1] @ turned[:-1]
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
    """(3.76); at infinite depth, and where N is not whole, by the powers of U l(...)^N V^T that it simplifies to."""
    to, back = flat(at.depth)
    s_a, s_b = (function(s, to) for s in at.positive)
    return lambda t: at.u @ function((1 - t) * s_a + t * s_b, back) @ at.v.T


def in_factors(at: Ends, *, exponent=1.0, q_last=None) -> float:
    """The line is balanced and of full rank, and lies over (3.76) as printed, from A to B."""
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
    tampered=(("if A and B are positive definite", lambda at: first_variation(sample(printed_curve(at)), at.depth)),),
    examples=(BY_HAND,),
    draws=2,
    tolerance=1e-7,
)


def commuting_curve(at: Ends, exponent=1.0) -> float:
    """From A to B, and a geodesic."""
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


def mean(a, b):
    """A # B, (3.13)."""
    root, back = function(a, np.sqrt), function(a, lambda x: x**-0.5)
    return root @ function(back @ b @ back, np.sqrt) @ root


def wasserstein(a, b) -> float:
    """sqrt 2 times the distance of Bures and Wasserstein: that of g^2 between positive definite matrices."""
    root = function(a, np.sqrt)
    return math.sqrt(2 * float(np.trace(a + b) - 2 * np.trace(function(root @ b @ root, np.sqrt))))


def right_form(at: Ends, *, inverse=True):
    """((1-t) I + t M) S_A ((1-t) I + t M) in the frame of A, M = S_A^{-1} # S_B."""
    s_a, s_b = at.positive
    m, eye = mean(np.linalg.inv(s_a) if inverse else s_a, s_b), np.eye(len(s_a))
    mix = lambda t: (1 - t) * eye + t * m
    return lambda t: at.u @ mix(t) @ s_a @ mix(t) @ at.v.T


def of_length(at: Ends, curve) -> float:
    x = sample(curve)
    return max(off(x[0], at.a), off(x[-1], at.b), off(length(x, 2.0), wasserstein(*at.positive)))


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


def chord(at: Ends, exponent=1.0) -> float:
    """sqrt(N) |S_A^(1/N) - S_B^(1/N)|, at infinite depth |log S_A - log S_B|."""
    to, _ = flat(at.depth * exponent)
    size = float(np.linalg.norm(function(at.positive[0], to) - function(at.positive[1], to))) / exponent
    return size / (math.sqrt(at.depth) if math.isfinite(at.depth) else 1.0)


def beyond(at: Ends, factor=1.0) -> float:
    """How far the length of (3.76) is beyond the bound, and at N = 2 below the distance; negative within."""
    measured = length(sample(printed_curve(at)), at.depth)
    errors = [measured / (factor * chord(at)) - 1]
    if at.depth == 2:
        errors.append(wasserstein(*at.positive) / measured - 1)
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
    """N |dS^(1/N)(Z)|^2 against the metric of the kernel ((x - y)/(f(x) - f(y)))^2, f(x) = N x^(1/N) or log x."""
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
    """The least lambda_kl less the kernel, relative: 1 - (1/N) tanh(u/2) / tanh(u/2N), with u the log ratio."""
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
    SUFFICIENT,
    CHARACTERIZED,
    RANK,
    UPSTAIRS,
    GEODESIC,
    COMMUTING,
    DEPTH_TWO,
    BOUNDS,
    PULL_BACK,
    LAST_ARGUMENT,
    SPAN,
    *_chapter3_diagonal.CLAIMS,
)
