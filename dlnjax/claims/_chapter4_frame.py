"""Section 4.1: the flow in the frame of its singular value decomposition."""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import (
    D,
    eigenvalues,
    generator,
    off,
    operator,
    orthogonal,
    spectrum,
)


class Point(NamedTuple):
    """A matrix X = U diag(sigma) V^T with a velocity or a covector Z."""

    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    z: np.ndarray
    depth: float

    @property
    def x(self):
        return (self.u * self.sigma) @ self.v.T

    @property
    def g(self):
        """The matrix U^T Z V."""
        return self.u.T @ self.z @ self.v


def point(key, depth) -> Point:
    rng = generator(key)
    z = rng.standard_normal((D, D))
    return Point(orthogonal(rng, D), spectrum(rng, D), orthogonal(rng, D), z, np.inf if depth is None else float(depth))


def antisymmetric(m):
    """The matrix s(M) = M - M^T of Lemma 4.1.2."""
    return m - m.T


def frame_error(at: Point, dx, du, dsigma, dv) -> float:
    """The error of (dU, dsigma, dV) as the motion of the frame when X moves by dx.

    It must move X by dx, and U^T dU and V^T dV must be antisymmetric. At distinct singular values, this determines the
    motion.
    """
    moved = (du * at.sigma) @ at.v.T + (at.u * dsigma) @ at.v.T + (at.u * at.sigma) @ dv.T
    drift = [q.T @ dq + dq.T @ q for q, dq in ((at.u, du), (at.v, dv))]
    return max(off(moved, dx), *(float(np.max(np.abs(m))) for m in drift))


def inverse_gaps(values):
    """The matrix of 1/(values_i - values_j), with 0 on the diagonal."""
    same = np.eye(len(values), dtype=bool)
    return np.where(same, 0.0, 1 / np.where(same, 1.0, values[:, None] - values[None, :]))


def differentiated(at: Point, *, crossed=True, swapped=False, exponent=2):
    """(dU, dsigma, dV) by (4.2)-(4.4) for dX = Z."""
    u, v, x, dx = at.u, at.v, at.x, at.z
    dsigma = np.diag(u.T @ dx @ v)
    gaps = inverse_gaps(at.sigma**exponent)
    left = dx @ x.T + crossed * x @ dx.T
    right = dx.T @ x + x.T @ dx
    # The entry [j, i] of the matrix in brackets is the coefficient of u_j in the derivative of u_i.
    du = u @ (gaps.T * (u.T @ left @ u))
    dv = v @ ((gaps if swapped else gaps.T) * (v.T @ right @ v))
    return du, dsigma, dv


DIFFERENTIATION = Claim(
    name="Lemma 4.1.1",
    statement="(4.2)-(4.4): the derivatives of the singular values and vectors along X(t)",
    where="Section 4.1.1",
    expected="holds",
    note="At distinct singular values, as assumed: X moves by X' and the frames stay orthogonal.",
    draw=point,
    printed=lambda at: frame_error(at, at.z, *differentiated(at)),
    tampered=(
        ("(4.4) with sigma_j^2 - sigma_i^2", lambda at: frame_error(at, at.z, *differentiated(at, swapped=True))),
        ("(4.3) without X X'^T", lambda at: frame_error(at, at.z, *differentiated(at, crossed=False))),
        ("sigma in place of sigma^2", lambda at: frame_error(at, at.z, *differentiated(at, exponent=1))),
    ),
)


def turned(at: Point, h) -> tuple[np.ndarray, np.ndarray]:
    """The frame of X + h Z, with the signs of that of X."""
    u, _, vt = np.linalg.svd(at.x + h * at.z)
    return u * np.sign(np.sum(u * at.u, axis=0)), vt.T * np.sign(np.sum(vt.T * at.v, axis=0))


def measured(at: Point, h=1e-3) -> tuple[np.ndarray, np.ndarray]:
    """dU and dV along X + t Z, by differences of sixth order. The step moves X by `h` times the least gap."""
    h = h * float(np.min(at.sigma[:-1] - at.sigma[1:])) / np.linalg.norm(at.z)
    weights = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
    parts = [[w * (b - f) / h for f, b in zip(turned(at, -k * h), turned(at, k * h), strict=True)] for k, w in weights]
    du, dv = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    return du, dv


def proof_error(at: Point, sigma_sign=1.0, doubled=1.0) -> float:
    """The error of (4.5), (4.8) and (4.12), for frames that are differentiated numerically."""
    (du, dv), (u, sigma, v), x, dx = measured(at), at[:3], at.x, at.z
    dsigma = np.diag(u.T @ dx @ v)
    left, right = dx @ v + x @ dv, u * dsigma + sigma_sign * du * sigma
    squared = (dx @ x.T + x @ dx.T) @ u + x @ x.T @ du
    return max(
        float(np.max(np.abs(u.T @ du + du.T @ u))),
        off(left, right),
        off(squared, u * (doubled * 2 * sigma * dsigma) + du * sigma**2),
    )


PROOF = Claim(
    name="Proof of Lemma 4.1.1, (4.5)-(4.15)",
    statement="U^T U' is antisymmetric; X' v_i + X v_i' = s_i' u_i + s_i u_i'; (XX^T)' u_i + XX^T u_i' = (s_i^2 u_i)'",
    where="Section 4.1.1",
    expected="holds",
    note="Against frames differentiated numerically.",
    draw=point,
    printed=proof_error,
    tampered=(
        ("- s_i u_i' in (4.8)", lambda at: proof_error(at, sigma_sign=-1.0)),
        ("(s_i^2)' = s_i s_i' in (4.12)", lambda at: proof_error(at, doubled=0.5)),
    ),
    depths=NO_DEPTH,
    tolerance=1e-7,
)


def in_frame(at: Point, lam, *, side="printed", sign=-1.0):
    """(dU, dV) by (4.16), (4.17) and (4.19) for dE(X) = Z."""
    gaps = lam * inverse_gaps(at.sigma**2)
    by_column, by_row = gaps * at.sigma, at.sigma[:, None] * gaps
    if side == "exchanged":
        by_column, by_row = by_row, by_column
    s = antisymmetric if sign < 0 else lambda m: m + m.T
    return at.u @ s(by_column * at.g), at.v @ s(by_row * at.g)


def flow_error(at: Point, **tamper) -> float:
    """The error of (4.17) and (4.19), against X' = -A(dE) with the true motion of the singular values."""
    dx = -operator(at.x, at.z, at.depth)
    du, dv = in_frame(at, eigenvalues(at.sigma, at.depth), **tamper)
    return frame_error(at, dx, du, np.diag(at.u.T @ dx @ at.v), dv)


FRAME = Claim(
    name="Lemma 4.1.2, (4.17), (4.19)",
    statement="U' = U s((L Sigma) o (U^T dE V)), V' = V s((Sigma L) o (U^T dE V)), L_ij = lambda_ij/(s_i^2 - s_j^2)",
    where="Section 4.1.1",
    expected="holds",
    note="L_ij = 1/(s_i^(2/N) - s_j^(2/N)); at infinite depth 1/(log s_i^2 - log s_j^2).",
    draw=point,
    printed=flow_error,
    tampered=(
        ("L Sigma and Sigma L exchanged", lambda at: flow_error(at, side="exchanged")),
        ("s(M) = M + M^T", lambda at: flow_error(at, sign=1.0)),
    ),
)

DEEPEST = 64.0


def summed(key, depth) -> Point:
    """A point at a depth between 2 and `DEEPEST`, for the flow (4.1), whose sum over layers has no infinite depth.

    Depth 1 is left out, since a wrong factor N cannot be seen there.
    """
    return point(key, min(max(float(depth), 2.0), DEEPEST))


# X = diag(2, 1), dE = I and N = 2, where X' = -(XX^T)^(1/2) - (X^TX)^(1/2) = -2 X by (4.1).
BY_HAND = Point(np.eye(2), np.array([2.0, 1.0]), np.eye(2), np.eye(2), 2.0)


def speed_error(at: Point, speed) -> float:
    """The error of Sigma' = -speed diag(U^T dE V), against (4.2) for X' = -A(dE)."""
    dx = -operator(at.x, at.z, at.depth)
    return off(-speed * np.diag(at.g), np.diag(at.u.T @ dx @ at.v))


def power(at: Point, exponent=2.0):
    return at.sigma ** (exponent - 2 / at.depth)


SPEED = Claim(
    name="Lemma 4.1.2, (4.18)",
    statement="Sigma' = -Sigma^(2-2/N) diag(U^T dE V) along (4.1)",
    where="Section 4.1.1",
    expected="corrected",
    note="N Sigma^(2-2/N): as printed it belongs to the flow with the 1/N, or to infinite depth.",
    draw=summed,
    printed=lambda at: speed_error(at, power(at)),
    corrected=lambda at: speed_error(at, at.depth * power(at)),
    tampered=(
        ("N Sigma^(1-2/N)", lambda at: speed_error(at, at.depth * power(at, 1.0))),
        ("N^2 Sigma^(2-2/N)", lambda at: speed_error(at, at.depth**2 * power(at))),
    ),
    examples=(BY_HAND,),
)


def of_any_version(at: Point, speed) -> float:
    """The error of (4.17)-(4.19) for three versions of A: the sum of (4.1), the sum over N, and the integral (2.30).

    `speed` gives the factor in (4.18), from the lambda of that version and from the factor as printed.
    """
    errors = []
    for depth, scale in ((at.depth, 1.0), (at.depth, 1 / at.depth), (np.inf, 1.0)):
        lam = scale * eigenvalues(at.sigma, depth)
        dx = -scale * operator(at.x, at.z, depth)
        dsigma = -speed(lam, at.sigma ** (2 - 2 / depth)) * np.diag(at.g)
        errors.append(frame_error(at, dx, *_around(in_frame(at, lam), dsigma)))
    return max(errors)


def _around(frame, dsigma):
    return frame[0], dsigma, frame[1]


VERSIONS = Claim(
    name="Remark 4.1.3",
    statement="(4.17)-(4.19) hold with the lambda of any version of A: finite depth with or without 1/N, or infinite",
    where="Section 4.1.1",
    expected="corrected",
    note="(4.17) and (4.19) do; (4.18) is -diag(lambda_ii) diag(U^T dE V), as printed only for the 1/N versions.",
    draw=summed,
    printed=lambda at: of_any_version(at, lambda lam, printed: printed),
    corrected=lambda at: of_any_version(at, lambda lam, printed: np.diag(lam)),
    tampered=(("-diag(lambda_ii)^2", lambda at: of_any_version(at, lambda lam, printed: np.diag(lam) ** 2)),),
    examples=(BY_HAND,),
)


def diagonal_speed_error(at: Point, speed) -> float:
    """The error of (4.20) for a diagonal X and E = sum sigma^3/3, whose gradient at a diagonal X is diag(sigma^2)."""
    dx = -operator(np.diag(at.sigma), np.diag(at.sigma**2), at.depth)
    return off(np.diag(-speed * at.sigma**2), dx)


DIAGONAL = Claim(
    name="Corollary 4.1.3.1, (4.20)",
    statement="from a diagonal X_0, E of the singular values: sigma_i' = -sigma_i^(2-2/N) dE/dsigma_i",
    where="Section 4.1.1",
    expected="corrected",
    note="-N sigma_i^(2-2/N) dE/dsigma_i along (4.1); as printed for the flow with the 1/N.",
    draw=summed,
    printed=lambda at: diagonal_speed_error(at, power(at)),
    corrected=lambda at: diagonal_speed_error(at, at.depth * power(at)),
    tampered=(("N sigma^(2-1/N)", lambda at: diagonal_speed_error(at, at.depth * at.sigma ** (2 - 1 / at.depth))),),
    examples=(BY_HAND,),
)


class Diagonal(NamedTuple):
    sigma: np.ndarray
    p: float
    depth: float


def diagonal_start(key, depth) -> Diagonal:
    rng = generator(key)
    return Diagonal(rng.permutation(spectrum(rng, 3)), rng.uniform(1.5, 3), float(depth))


def stays_diagonal(at: Diagonal, exponent=2.0) -> float:
    """The error of the library's flow of E_p from a diagonal matrix, against SciPy's solution of (4.20)."""
    x = np.asarray(flow(Energy(schatten=1.0, p=at.p), np.diag(at.sigma), 1.0, depth=at.depth).x[-1])
    rate = lambda t, sigma: -(sigma ** (exponent - 2 / at.depth)) * sigma ** (at.p - 1)
    expected = solve_ivp(rate, (0, 1), at.sigma, method="DOP853", rtol=1e-10, atol=1e-12).y[:, -1]
    return off(x, np.diag(expected))


STAYS = Claim(
    name="Corollary 4.1.3.1, X stays diagonal",
    statement="from a diagonal X_0, E of the singular values: X(t) is diagonal, with the flow (4.20) of its entries",
    where="Section 4.1.1",
    expected="holds",
    note="With the 1/N-normalised flow; the integrated flow against SciPy's of d numbers.",
    draw=diagonal_start,
    printed=stays_diagonal,
    tampered=(("sigma^(1-2/N)", lambda at: stays_diagonal(at, 1.0)),),
    tolerance=1e-6,
)


def near_repeated(key, depth) -> Point:
    at = point(key, depth)
    sigma = at.sigma.copy()
    sigma[1] = sigma[0] * np.exp(-1e-6)
    return at._replace(sigma=sigma)


def common_rotation(at: Point, half=0.5, sign=1.0) -> float:
    """The error of the limits of gap (U^T U')_12 and gap (V^T V')_12 at gap 0, in the 1/N-normalised flow."""
    scale = 1.0 if np.isinf(at.depth) else 1 / at.depth
    du, dv = in_frame(at, scale * eigenvalues(at.sigma, at.depth))
    gap = np.log(at.sigma[0] / at.sigma[1])
    rates = np.array([(at.u.T @ du)[0, 1], (at.v.T @ dv)[0, 1]]) * gap
    limit = half * at.sigma[0] ** (1 - 2 / at.depth) * (at.g[0, 1] + sign * at.g[1, 0])
    return float(np.max(np.abs(rates - limit)) / np.max(np.abs(at.g)))


REPEATED = Claim(
    name="Lemma 4.1.2 at repeated singular values",
    statement="at a relative gap e, U and V turn together at the rate s^(1-2/N) |G_ij + G_ji|/(2 e)",
    where="Section 4.1.1, beyond it",
    expected="holds",
    note="G = U^T dE V, in the 1/N-normalised flow: sigma |G_ij + G_ji|/(2 e) at infinite depth. X does not feel it.",
    draw=near_repeated,
    printed=common_rotation,
    tampered=(
        ("without the 1/2", lambda at: common_rotation(at, half=1.0)),
        ("G_ij - G_ji", lambda at: common_rotation(at, sign=-1.0)),
    ),
    tolerance=1e-4,
)

CLAIMS: tuple[Claim, ...] = (
    DIFFERENTIATION,
    PROOF,
    FRAME,
    SPEED,
    VERSIONS,
    DIAGONAL,
    STAYS,
    REPEATED,
)
