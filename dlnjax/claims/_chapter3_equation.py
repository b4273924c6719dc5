"""Section 3.3: the equation of geodesics in Hamiltonian form."""

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy.optimize import minimize

import dlnjax
from dlnjax.claims import _chapter3_calculus
from dlnjax.claims._chapter3_calculus import divided, step
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._curves import function, slope
from dlnjax.claims._spectra import as_matrix, generator, off, operator, orthogonal, spectrum

WHOLE = (2.0, 3.0, 6.0, math.inf)
D = 3


class Phase(NamedTuple):
    """A matrix X = U diag(sigma) V^T, a covector P, a velocity Z, an exponent alpha and the depth."""

    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    p: np.ndarray
    z: np.ndarray
    alpha: float
    depth: float

    @property
    def x(self):
        return (self.u * self.sigma) @ self.v.T

    @property
    def shown(self):
        return {"X": self.x, "P": self.p, "depth": self.depth}

    def tilde(self, m):
        """The matrix U^T M V, which the thesis writes with a tilde."""
        return self.u.T @ m @ self.v


def phase(key, depth) -> Phase:
    rng = generator(key)
    p, z = rng.standard_normal((2, D, D))
    alpha = float(rng.uniform(0.1, 0.9))
    return Phase(orthogonal(rng, D), spectrum(rng, D), orthogonal(rng, D), p, z, alpha, depth)


BY_HAND = Phase(np.eye(D), np.array([4.0, 1.0, 1.0]), np.eye(D), np.diag([1.0, 0.0, 0.0]), np.eye(D), 0.5, 2.0)


def supremum(at: Phase) -> float:
    """The H of (3.5), which is the supremum over Z of Tr(P^T Z) - g^N(Z, Z)/2, by a search."""
    a = as_matrix(at.x, at.depth)
    metric, p = np.linalg.inv(a), at.p.ravel()
    slope = lambda z: metric @ z - p
    return -float(minimize(lambda z: z @ metric @ z / 2 - p @ z, p, jac=slope, options={"gtol": 1e-9}).fun)


class Moved(NamedTuple):
    """What `inverse_form` needs, with another X."""

    x: np.ndarray
    p: np.ndarray
    depth: float


def inverse_form(at: Phase | Moved) -> float:
    """1/2 Tr(P^T A^{-1}(P)), which is (3.37) as printed."""
    a = as_matrix(at.x, at.depth)
    return float(at.p.ravel() @ np.linalg.solve(a, at.p.ravel())) / 2


def form(at: Phase, factor=0.5) -> float:
    return factor * np.sum(at.p * operator(at.x, at.p, at.depth))


def library(at: Phase) -> float:
    return float(_hamiltonian(at.x, at.p, at.depth)) * (at.depth if math.isfinite(at.depth) else 1.0)


HAMILTONIAN = Claim(
    name="(3.37)",
    statement="H(X, P) = 1/2 Tr(P^T A_{N,X}^{-1}(P))",
    where="Section 3.3, (3.37)",
    expected="corrected",
    note="H = 1/2 Tr(P^T A_{N,X}(P)): A, not its inverse.",
    draw=phase,
    printed=lambda at: off(inverse_form(at), supremum(at)),
    corrected=lambda at: max(off(form(at), supremum(at)), off(library(at), supremum(at))),
    tampered=(("without the 1/2", lambda at: off(form(at, 1.0), supremum(at))),),
    tolerance=1e-6,
    examples=(BY_HAND,),
)


def kernel(at: Phase, alpha, *, power=2.0):
    """The matrix f_alpha^[1](Sigma^2) of (3.43)."""
    s = at.sigma**power
    return divided(s, lambda x: x**alpha, lambda x: alpha * x ** (alpha - 1))


def powers(at: Phase, *, power=2.0, exchanged=False, one=False) -> float:
    """The error of (3.41) and (3.42), against differences."""
    raised = lambda x: function(x, lambda y: y**at.alpha)
    moved = lambda square: slope(lambda h: raised(square(at.x + h * at.z)), step(at.sigma, at.z))
    s, z, f = np.diag(at.sigma), at.tilde(at.z), kernel(at, at.alpha, power=power)
    of_left, of_right = s @ z.T + (0 if one else z @ s), s @ z + (0 if one else z.T @ s)
    if exchanged:
        of_left, of_right = of_right, of_left
    return max(
        off(at.u @ (f * of_left) @ at.u.T, moved(lambda x: x @ x.T)),
        off(at.v @ (f * of_right) @ at.v.T, moved(lambda x: x.T @ x)),
    )


POWERS = Claim(
    name="Lemma 3.3.1",
    statement="D_X[(X X^T)^a][Z] = U [f_a^[1](Sigma^2) o (Sigma Z~^T + Z~ Sigma)] U^T, and for X^T X",
    where="Section 3.3, (3.41)-(3.45)",
    expected="holds",
    draw=phase,
    printed=powers,
    tampered=(
        ("f^[1](Sigma)", lambda at: powers(at, power=1.0)),
        ("the two exchanged", lambda at: powers(at, exchanged=True)),
        ("Sigma Z~^T alone", lambda at: powers(at, one=True)),
    ),
    depths=NO_DEPTH,
)


class Traces(NamedTuple):
    """Symmetric K and M, the diagonal of Sigma, and any A."""

    k: np.ndarray
    m: np.ndarray
    sigma: np.ndarray
    a: np.ndarray


def traces(key, _) -> Traces:
    rng = generator(key)
    k, m, a = rng.standard_normal((3, D, D))
    return Traces(k + k.T, m + m.T, rng.standard_normal(D), a)


def identities(at: Traces, *, last=None, turned=False) -> float:
    """The error of (3.55) and (3.56)."""
    s, (k, m, _, a) = np.diag(at.sigma), at
    b = a if turned else a.T
    first = [np.trace((k * (s @ b)) @ m), np.trace((k * (a @ s)) @ m), np.trace(s @ (k * m) @ a)]
    second = [np.trace((k * (s @ a)) @ m), np.trace((k * (a.T @ s)) @ m), np.trace((k * m) @ s @ a)]
    if last:
        second[2] = np.trace(last(k, m) @ s @ a)
    size = np.abs(k * m).sum() * np.abs(at.sigma).max() * np.abs(a).max()
    return float(max(np.ptp(first), np.ptp(second)) / size)


HAND = np.array([[1.0, 2.0], [2.0, 0.0]])
TRACES = Claim(
    name="Lemma 3.3.3",
    statement="Tr([K o (S A^T)]M) = Tr([K o (A S)]M) = Tr(S[K o M]A), Tr([K o (S A)]M) = ... = Tr([K o M]S A)",
    where="Section 3.3, (3.55)-(3.58)",
    expected="holds",
    draw=traces,
    printed=identities,
    tampered=(
        ("K M for K o M", lambda at: identities(at, last=lambda k, m: k @ m)),
        ("A for A^T", lambda at: identities(at, turned=True)),
    ),
    examples=(Traces(HAND, HAND[::-1, ::-1], np.array([1.0, 3.0]), np.array([[0.0, 1.0], [0.0, 0.0]])),),
    depths=NO_DEPTH,
)


def layers(depth):
    """((N-p)/N, (p-1)/N, 1) for each p. At infinite depth the sum over p becomes an integral, and these are (1-t, t,
    weight) for the nodes t of a quadrature.
    """
    if math.isfinite(depth):
        n = int(depth)
        return [((n - p) / n, (p - 1) / n, 1.0) for p in range(1, n + 1)]
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return [(1 - t, t, w / 2) for t, w in zip((1 + nodes) / 2, weights, strict=True)]


def energy(at: Phase):
    """The corrected H(X, P) of (3.37), as a function of X and P."""

    def h(x, p):
        power = lambda square, exponent: function(square, lambda y: y**exponent)
        terms = (w * power(x @ x.T, a) @ p @ power(x.T @ x, b) for a, b, w in layers(at.depth))
        return np.sum(p * sum(terms)) / 2

    return h


def force(at: Phase, *, exchanged=False, turned=False, scale=1.0):
    """The P' of (3.46), -U (sum_p [f_a o M_1] Sigma + Sigma [f_b o M_2]) V^T, with (3.47)-(3.48)."""
    s, p, total = np.diag(at.sigma), at.tilde(at.p), 0.0
    for a, b, w in layers(at.depth):
        m1 = (p * at.sigma ** (2 * b)) @ p.T
        m2 = (p.T * at.sigma ** (2 * a)) @ p
        if exchanged:
            m1, m2 = m2, m1
        left, right = kernel(at, a) * m1, kernel(at, b) * m2
        total = total + w * (s @ left + right @ s if turned else left @ s + s @ right)
    return -scale * at.u @ total @ at.v.T


def gradient(along):
    return np.array([along(unit) for unit in np.eye(D * D).reshape(-1, D, D)]).reshape(D, D)


def motion(at: Phase, **changed) -> float:
    """The error of (3.46), against the derivatives of H by differences and by the library."""
    h = energy(at)
    of_x = gradient(lambda z: slope(lambda t: h(at.x + t * z, at.p), step(at.sigma, z)))
    of_p = gradient(lambda z: slope(lambda t: h(at.x, at.p + t * z)))
    scale = at.depth if math.isfinite(at.depth) else 1.0
    known = scale * np.asarray(_slope(at.x, at.p, at.depth))
    printed = force(at, **changed)
    return max(off(printed, -of_x), off(printed, -known), off(operator(at.x, at.p, at.depth), of_p))


def as_printed(at: Phase) -> float:
    """The error of (3.46), against the H of (3.37) as printed, with the inverse of A."""
    moved = lambda h: inverse_form(Moved(at.x + h * at.z, at.p, at.depth))
    return off(np.sum(force(at) * at.z), -slope(moved, step(at.sigma, at.z)))


_hamiltonian, _slope = jax.jit(dlnjax.hamiltonian), jax.jit(jax.grad(dlnjax.hamiltonian))

MOTION = Claim(
    name="Theorem 3.3.2",
    statement="X' = A_{N,X}(P), P' = -U (sum_p [f_{(N-p)/N}^[1] o M_1] Sigma + Sigma [f_{(p-1)/N}^[1] o M_2]) V^T",
    where="Section 3.3, (3.46)-(3.48), (3.59)-(3.60), (3.64)",
    expected="holds",
    note="With the corrected (3.37); at infinite depth the sum is an integral. (3.64) is the same formula.",
    draw=phase,
    printed=motion,
    tampered=(
        ("M_1 and M_2 exchanged", lambda at: motion(at, exchanged=True)),
        ("Sigma [...] + [...] Sigma", lambda at: motion(at, turned=True)),
        ("P' = +...", lambda at: motion(at, scale=-1.0)),
        ("of (3.37) as printed", as_printed),
    ),
    depths=WHOLE,
    whole=True,
    draws=2,
    tolerance=1e-8,
)


def slope_along(at: Phase) -> float:
    """The derivative D_X[H](Z), by differences along Z."""
    return float(slope(lambda h: energy(at)(at.x + h * at.z, at.p), step(at.sigma, at.z)))


def directional(at: Phase, *, half=0.5, second=1.0) -> float:
    """The error of (3.49)-(3.51) and of (3.53)-(3.54)."""
    s, z, pt = np.diag(at.sigma), at.tilde(at.z), at.tilde(at.p)
    full = small = 0.0
    for a, b, w in layers(at.depth):
        left = kernel(at, a) * (s @ z.T + z @ s)
        right = kernel(at, b) * (s @ z + z.T @ s)
        sa, sb = np.diag(at.sigma ** (2 * a)), np.diag(at.sigma ** (2 * b))
        t_u = at.p.T @ at.u @ left @ pt @ sb @ at.v.T
        t_v = at.p.T @ at.u @ sa @ pt @ right @ at.v.T
        full += half * w * np.trace(t_u + second * t_v)
        small += half * w * np.trace(pt.T @ left @ pt @ sb + second * pt.T @ sa @ pt @ right)
    return max(off(full, slope_along(at)), off(small, slope_along(at)))


DIRECTIONAL = Claim(
    name="(3.49)-(3.54)",
    statement="D_X[H(X, P)](Z) = 1/2 sum_p Tr(T_U + T_V)",
    where="Section 3.3, (3.49)-(3.54)",
    expected="holds",
    note="With the corrected (3.37).",
    draw=phase,
    printed=directional,
    tampered=(
        ("without the 1/2", lambda at: directional(at, half=1.0)),
        ("T_U - T_V", lambda at: directional(at, second=-1.0)),
    ),
    depths=WHOLE,
    whole=True,
    draws=2,
    tolerance=1e-8,
)


def collected(at: Phase, *, turned=False) -> float:
    """The error of (3.61)-(3.63), and of (3.64), which is minus the transpose of the matrix in them."""
    s, z, pt = np.diag(at.sigma), at.tilde(at.z), at.tilde(at.p)
    total = 0.0
    for a, b, w in layers(at.depth):
        m1, m2 = (pt * at.sigma ** (2 * b)) @ pt.T, (pt.T * at.sigma ** (2 * a)) @ pt
        left, right = kernel(at, a) * m1, kernel(at, b) * m2
        total = total + w * (left @ s + s @ right if turned else s @ left + right @ s)
    along = slope_along(at)
    forms = np.trace(total @ z), np.trace(at.v @ total @ at.u.T @ at.z), -np.sum(force(at, turned=turned) * at.z)
    return max(off(form, along) for form in forms)


COLLECTED = Claim(
    name="(3.61)-(3.64)",
    statement="D_X[H](Z) = Tr(V sum_p (Sigma [f o M_1] + [f o M_2] Sigma) U^T Z)",
    where="Section 3.3, (3.59)-(3.64)",
    expected="holds",
    note="(3.64) is minus its transpose, and the P' of (3.46): for the corrected (3.37), not for (3.37) as printed.",
    draw=phase,
    printed=collected,
    tampered=(("[f o M_1] Sigma + Sigma [f o M_2]", lambda at: collected(at, turned=True)),),
    depths=WHOLE,
    whole=True,
    draws=2,
    tolerance=1e-8,
)

CLAIMS: tuple[Claim, ...] = (
    HAMILTONIAN,
    *_chapter3_calculus.CLAIMS,
    POWERS,
    MOTION,
    DIRECTIONAL,
    TRACES,
    COLLECTED,
)
