"""Section 3.2: the geometry of Bures and Wasserstein."""

import math
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm, logm, polar, solve_sylvester, sqrtm
from scipy.optimize import fsolve, minimize

from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._curves import first_variation, function, length, NODES, sample
from dlnjax.claims._spectra import as_matrix, derivative, generator, off, orthogonal, spectrum


class Definite(NamedTuple):
    """Positive definite A and B, and symmetric Y and P."""

    a: np.ndarray
    b: np.ndarray
    y: np.ndarray
    p: np.ndarray


def definite(key, _) -> Definite:
    rng = generator(key)
    d = rng.integers(2, 4)
    positive = lambda: (lambda q, s: (q * s) @ q.T)(orthogonal(rng, d), spectrum(rng, d))
    symmetric = lambda: (lambda m: (m + m.T) / 2)(rng.standard_normal((d, d)))
    return Definite(positive(), positive(), symmetric(), 0.3 * symmetric())


BY_HAND = Definite(
    np.diag([4.0, 1.0]),
    np.array([[2.5, 1.5], [1.5, 2.5]]),
    np.array([[1.0, 1.0], [1.0, 0.0]]),
    np.array([[0.0, 1.0], [1.0, 0.0]]),
)


def lyapunov(x, z):
    """The solution L of L X + X L = Z, (3.10)."""
    return solve_sylvester(x, x, z)


def half_metric(x, z1, z2):
    """The metric g^BW of (3.9)."""
    return np.trace(z1.T @ lyapunov(x, z2)) / 2


def least_lift(at: Definite, scale=1.0) -> float:
    """The error of (3.9), against the least |V|^2 with V W^T + W V^T = Z, where W W^T = A."""
    w = function(at.a, np.sqrt)
    units = np.eye(w.size).reshape(-1, *w.shape)
    push_w = np.array([(v @ w.T + w @ v.T).ravel() for v in units]).T
    v = np.linalg.lstsq(push_w, at.y.ravel(), rcond=None)[0]
    return off(scale * half_metric(at.a, at.y, at.y), v @ v)


HALF_METRIC = Claim(
    name="(3.9)",
    statement="g^BW(Z, Z) = Tr(Z^T L_X^{-1}(Z))/2 is the metric that W -> W W^T makes of the Frobenius metric",
    where="Section 3.2, (3.8)-(3.11)",
    expected="holds",
    draw=definite,
    printed=least_lift,
    tampered=(("without the 1/2", lambda at: least_lift(at, 2.0)),),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
)


def depth_two(at: Definite, factor: float) -> float:
    a = as_matrix(at.a, 2.0)
    return off(at.y.ravel() @ np.linalg.solve(a, at.y.ravel()), factor * half_metric(at.a, at.y, at.y))


DEPTH_TWO = Claim(
    name="(3.9) against (2.18)",
    statement="Bures-Wasserstein is the deep linear network of N = 2 with W_1 = W_2^T",
    where="Section 3.2, (3.8)-(3.9)",
    expected="holds",
    note="On positive definite matrices g^2 = 2 g^BW: upstairs |W_1|^2 + |W_2|^2 = 2 |W|^2.",
    draw=definite,
    printed=lambda at: depth_two(at, 2.0),
    tampered=(("g^2 = g^BW", lambda at: depth_two(at, 1.0)), ("g^2 = 4 g^BW", lambda at: depth_two(at, 4.0))),
    depths=NO_DEPTH,
)


def mean(a, b):
    """The geometric mean A # B of (3.13)."""
    root, back = function(a, np.sqrt), function(a, lambda x: x**-0.5)
    return root @ function(back @ b @ back, np.sqrt) @ root


def riccati(at: Definite, m=mean) -> float:
    """The error of two statements: M solves B = M A^{-1} M, and a search for a positive definite solution finds M."""
    found = m(at.a, at.b)
    inverse = np.linalg.inv(at.a)
    d = len(at.a)
    start = np.trace(at.b) * np.eye(d)
    other = fsolve(lambda f: (lambda x: x @ inverse @ x - at.b)(f.reshape(d, d)).ravel(), start.ravel(), xtol=1e-13)
    other = np.reshape(np.asarray(other), (d, d))
    assert np.all(np.linalg.eigvalsh((other + other.T) / 2) > 0)
    return max(off(found @ inverse @ found, at.b), off(found, other), off(found, found.T))


RICCATI = Claim(
    name="Lemma 3.2.2 (1)",
    statement="A # B is the unique positive definite solution M of B = M A^{-1} M",
    where="Section 3.2, (3.13)-(3.14)",
    expected="holds",
    draw=definite,
    printed=riccati,
    tampered=(
        ("B^(1/2) A^(1/2)", lambda at: riccati(at, lambda a, b: function(b, np.sqrt) @ function(a, np.sqrt))),
        ("(A + B)/2", lambda at: riccati(at, lambda a, b: (a + b) / 2)),
    ),
    depths=NO_DEPTH,
    tolerance=1e-8,
)


def roots(at: Definite, *, inverse=True, exchanged=False) -> float:
    m = mean(np.linalg.inv(at.a) if inverse else at.a, at.b)
    ab, ba = np.real(sqrtm(at.a @ at.b)), np.real(sqrtm(at.b @ at.a))
    if exchanged:
        ab, ba = ba, ab
    return max(off(at.a @ m, ab), off(m @ at.a, ba))


ROOTS = Claim(
    name="Lemma 3.2.2 (2)",
    statement="A (A^{-1} # B) = (A B)^(1/2) and (A^{-1} # B) A = (B A)^(1/2)",
    where="Section 3.2",
    expected="holds",
    draw=definite,
    printed=roots,
    tampered=(
        ("A # B", lambda at: roots(at, inverse=False)),
        ("(A B)^(1/2) and (B A)^(1/2) exchanged", lambda at: roots(at, exchanged=True)),
    ),
    depths=NO_DEPTH,
)


def differentiated(at: Definite, factor: float) -> float:
    """The error of factor Tr(L_X^{-1}(Y) H) as derivative of Tr(Y L_X^{-1}(Y))/2 in Y along H = P."""
    lagrangian = lambda y: np.trace(y.T @ (lyapunov(at.a, np.real(y)) + 1j * lyapunov(at.a, np.imag(y)))) / 2
    return off(np.imag(lagrangian(at.y + 1e-30j * at.p)) / 1e-30, factor * np.trace(lyapunov(at.a, at.y) @ at.p))


THIRD_LINE = Claim(
    name="(3.16)",
    statement="D_Y[L(X, Y)](H) = (g_X(H, Y) + g_X(Y, H))/2 = Tr(L_X^{-1}(Y) H)",
    where="Section 3.2, (3.16)",
    expected="corrected",
    note="The third line has no 1/2: g_X(H, Y) + g_X(Y, H), with the g^BW of (3.9). The last is right.",
    draw=definite,
    printed=lambda at: max(differentiated(at, 0.5), differentiated(at, 1.0)),
    corrected=lambda at: max(
        differentiated(at, 1.0),
        off(half_metric(at.a, at.p, at.y) + half_metric(at.a, at.y, at.p), np.trace(lyapunov(at.a, at.y) @ at.p)),
    ),
    tampered=(("Tr(L_X^{-1}(Y) H)/2", lambda at: differentiated(at, 0.5)),),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
)


def supremum(at: Definite, factor=1.0) -> float:
    """The error of factor Tr(P^2 X) in (3.17), against the supremum over Y of Tr(P Y) - L(X, Y), by a search."""
    d = len(at.a)
    upper = np.triu_indices(d)

    def as_symmetric(y):
        out = np.zeros((d, d))
        out[upper] = y
        return out + np.triu(out, 1).T

    value = lambda y: half_metric(at.a, as_symmetric(y), as_symmetric(y)) - np.trace(at.p @ as_symmetric(y))
    found = minimize(value, np.zeros(len(upper[0])), options={"gtol": 1e-8})
    return off(-found.fun, factor * np.trace(at.p @ at.p @ at.a))


HAMILTONIAN = Claim(
    name="(3.17)",
    statement="H(X, P) = Tr(P^2 X)",
    where="Section 3.2, (3.12), (3.17)",
    expected="holds",
    draw=definite,
    printed=supremum,
    tampered=(("Tr(P^2 X)/2", lambda at: supremum(at, 0.5)),),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
    tolerance=1e-6,
)


def equations(at: Definite, scale=1.0) -> float:
    """The error of (3.18), against the derivatives of H = Tr(P L_X(P))/2."""
    h = lambda x, p: np.trace(p @ (x @ p + p @ x)) / 2
    of_x, of_p = derivative(lambda x: h(x, at.p), at.a), derivative(lambda p: h(at.a, p), at.p)
    return max(off(at.a @ at.p + at.p @ at.a, of_p), off(-scale * at.p @ at.p, -of_x))


EQUATIONS = Claim(
    name="(3.18)",
    statement="X' = L_X(P), P' = -P^2",
    where="Section 3.2, (3.18), (3.23)",
    expected="holds",
    draw=definite,
    printed=equations,
    tampered=(("P' = +P^2", lambda at: equations(at, -1.0)), ("P' = -2 P^2", lambda at: equations(at, 2.0))),
    depths=NO_DEPTH,
)


def flowed(at: Definite):
    """X(1) and P(1) of the equations (3.18), integrated from A and P."""
    shape = at.a.shape

    def flow(_, state):
        x, p = state.reshape(2, *shape)
        return np.array([x @ p + p @ x, -p @ p]).ravel()

    start = np.array([at.a, at.p]).ravel()
    return solve_ivp(flow, (0, 1), start, rtol=1e-12, atol=1e-13, method="DOP853").y[:, -1].reshape(2, *shape)


def momentum(at: Definite, sign=1.0) -> float:
    """The error of (3.19)-(3.20) at t = 1, and of (3.21) integrated up to t = 1."""
    eye, p = np.eye(len(at.p)), flowed(at)[1]
    nodes, weights = np.polynomial.legendre.leggauss(30)
    ts = (1 + nodes) / 2
    integral = sum(w / 2 * np.linalg.solve(t * at.p + eye, at.p) for t, w in zip(ts, weights, strict=True))
    inverses = np.linalg.inv(sign * eye + np.linalg.inv(at.p)), sign * np.linalg.solve(at.p + eye, at.p)
    return max(*(off(form, p) for form in inverses), off(sign * np.real(logm(at.p + eye)), integral))


MOMENTUM = Claim(
    name="(3.19)-(3.21)",
    statement="P(t) = (t I + P_0^{-1})^{-1} = (t P_0 + I)^{-1} P_0 = d/dt log(t P_0 + I)",
    where="Section 3.2, (3.19)-(3.21)",
    expected="holds",
    note="(3.19) needs P_0 invertible, the others do not.",
    draw=definite,
    printed=momentum,
    tampered=(("P^{-1} = -t I + P_0^{-1}", lambda at: momentum(at, -1.0)),),
    depths=NO_DEPTH,
)


def solution(at: Definite, factor=1.0) -> float:
    """The error of (3.25)-(3.30) at t = 1."""
    c = factor * np.real(logm(at.p + np.eye(len(at.p))))
    end = flowed(at)[0]
    line = np.eye(len(at.p)) + at.p
    return max(off(expm(c) @ at.a @ expm(c), end), off(line @ at.a @ line, end) if factor == 1 else 0.0)


SOLUTION = Claim(
    name="(3.25)-(3.30)",
    statement="X(t) = e^(C(t)) A e^(C(t)) with C = log(t P_0 + I), that is (t P_0 + I) A (t P_0 + I)",
    where="Section 3.2, (3.23)-(3.30)",
    expected="holds",
    draw=definite,
    printed=solution,
    tampered=(("C = 1/2 log", lambda at: solution(at, 0.5)), ("C = -log", lambda at: solution(at, -1.0))),
    depths=NO_DEPTH,
)


def boundary(at: Definite, p0) -> float:
    eye = np.eye(len(at.a))
    return off((p0(at) + eye) @ at.a @ (p0(at) + eye), at.b)


BOUNDARY = Claim(
    name="(3.31)-(3.32)",
    statement="B = (P_0 + I) A (P_0 + I) gives P_0 = (A^{-1} # B) - I",
    where="Section 3.2, (3.31)-(3.32)",
    expected="holds",
    draw=definite,
    printed=lambda at: boundary(at, lambda at: mean(np.linalg.inv(at.a), at.b) - np.eye(len(at.a))),
    tampered=(("A # B - I", lambda at: boundary(at, lambda at: mean(at.a, at.b) - np.eye(len(at.a)))),),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
)


def wasserstein(a, b) -> float:
    """The distance of Bures and Wasserstein, (Tr A + Tr B - 2 Tr (A^(1/2) B A^(1/2))^(1/2))^(1/2)."""
    root = np.real(sqrtm(a))
    return float(np.sqrt(np.trace(a) + np.trace(b) - 2 * np.trace(np.real(sqrtm(root @ b @ root)))))


def geodesic(at: Definite, *, cross=1.0, one_sided=False) -> float:
    """The error of these statements: (3.15) joins A and B, is equal to (3.33)-(3.36), is a geodesic, and is as long as
    the distance.
    """
    a, b = at.a, at.b
    ab, ba = np.real(sqrtm(a @ b)), np.real(sqrtm(b @ a))
    middle = 2 * ab if one_sided else ab + ba
    curve = lambda t: t**2 * b + (1 - t) ** 2 * a + cross * t * (1 - t) * middle
    m, eye = mean(np.linalg.inv(a), b), np.eye(len(a))
    factored = lambda t: (t * m + (1 - t) * eye) @ a @ (t * m + (1 - t) * eye)
    x = sample(curve)
    ends = max(off(x[0], a), off(x[-1], b), off(x, sample(factored)))
    # Lengths in g^2 are sqrt(2) times those in g^BW.
    return max(ends, first_variation(x, 2.0), off(length(x, 2.0), math.sqrt(2) * wasserstein(a, b)))


GEODESIC = Claim(
    name="Theorem 3.2.3",
    statement="X(t) = t^2 B + (1-t)^2 A + t(1-t)((A B)^(1/2) + (B A)^(1/2)) is the geodesic from A to B",
    where="Section 3.2, (3.15), (3.33)-(3.36)",
    expected="holds",
    note="The action is stationary and its length is the distance; (3.33)-(3.36) are the same curve.",
    draw=definite,
    printed=geodesic,
    tampered=(
        ("2 t(1-t)", lambda at: geodesic(at, cross=2.0)),
        ("without the third term", lambda at: geodesic(at, cross=0.0)),
        ("2 (A B)^(1/2)", lambda at: geodesic(at, one_sided=True)),
    ),
    examples=(BY_HAND,),
    depths=NO_DEPTH,
    tolerance=1e-8,
)


def lifted(at: Definite, factor=lambda a, b: polar(b @ a)[0]) -> float:
    """The error of two statements of the second proof about the line from A^(1/2) to B^(1/2) U.

    The line is horizontal, which means that V W^{-1} is symmetric, and it lies over (3.15).
    """
    a, b = function(at.a, np.sqrt), function(at.b, np.sqrt)
    end = b @ factor(a, b)
    slope = (end - a) @ np.linalg.inv(a)
    cross = np.real(sqrtm(at.a @ at.b)) + np.real(sqrtm(at.b @ at.a))
    line = (1 - NODES)[:, None, None] * a + NODES[:, None, None] * end
    t = NODES[:, None, None]
    return max(
        off(slope, slope.T),
        off(line @ np.swapaxes(line, 1, 2), t**2 * at.b + (1 - t) ** 2 * at.a + t * (1 - t) * cross),
    )


SECOND_PROOF = Claim(
    name="Theorem 3.2.3, second proof",
    statement="the line from A^(1/2) to B^(1/2) U, U the polar factor of B^(1/2) A^(1/2), is horizontal, over X(t)",
    where="Section 3.2, proof 2 of Theorem 3.2.3",
    expected="holds",
    draw=definite,
    printed=lifted,
    tampered=(
        ("of A^(1/2) B^(1/2)", lambda at: lifted(at, lambda a, b: polar(a @ b)[0])),
        ("U = I", lambda at: lifted(at, lambda a, b: np.eye(len(a)))),
    ),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (
    HALF_METRIC,
    DEPTH_TWO,
    RICCATI,
    ROOTS,
    THIRD_LINE,
    HAMILTONIAN,
    EQUATIONS,
    MOMENTUM,
    SOLUTION,
    BOUNDARY,
    GEODESIC,
    SECOND_PROOF,
)
