"""Section 2.2.1: the submersion phi from the balanced manifold M, which makes the metric, and its horizontal space."""

import itertools
import math

import numpy as np

from dlnjax.claims._claim import Claim
from dlnjax.claims._factors import BY_HAND, defect, differential, Frame, frame, xi
from dlnjax.claims._spectra import as_matrix, eigenvalues, off

WHOLE = (2.0, 3.0, 6.0)


def submersion(at: Frame, scale=1.0, exponent=1.0) -> float:
    """The error of these statements: d phi is onto, d phi d phi^T = A, and the shortest lift of Z is tangent to M and
    as long as Z in the metric g^N.
    """
    push, sigma = differential(at.w), at.sigma
    u, v, z = at.q[-1], at.q[0], at.z
    a = as_matrix((u * sigma) @ v.T, float(at.depth))
    lift = np.linalg.lstsq(push, z.ravel(), rcond=None)[0]
    leaves = off_zero(np.imag(defect(at.w + 1e-30j * lift.reshape(at.w.shape))) / 1e-30, lift)
    length = np.sum((u.T @ z @ v) ** 2 / eigenvalues(sigma**exponent, at.depth)) * scale
    onto = float(np.linalg.matrix_rank(push) < z.size)
    return max(off(push @ push.T, a), off(push @ lift, z.ravel()), leaves, off(lift @ lift, length), onto)


def off_zero(measured, scale) -> float:
    return float(np.max(np.abs(measured), initial=0.0) / np.max(np.abs(scale)))


SUBMERSION = Claim(
    name="Theorem 2.2.6",
    statement="phi from the balanced manifold with the Frobenius metric to (M_d, g^N) is a Riemannian submersion",
    where="Section 2.2.1, Definition 2.2.5",
    expected="holds",
    note="d phi d phi^T = A; the horizontal lift of Z is tangent to M and its square is g^N(Z, Z).",
    draw=frame,
    printed=submersion,
    tampered=(
        ("g^N / N", lambda at: submersion(at, scale=1 / at.depth)),
        ("g^N at X X^T", lambda at: submersion(at, exponent=2.0)),
    ),
    depths=WHOLE,
    whole=True,
)


def low_rank(at: Frame, pair_power=2.0) -> float:
    """The error of Theorem 2.2.6 at rank d - 1, where g^N is Tr(Z^T A^+ Z) on the tangent space, the range of A."""
    d, n = len(at.lam), at.depth
    lam = np.where(np.arange(d) < d - 1, at.lam, 0.0)
    push, sigma, u, v = differential(xi(lam, at.q)), lam**n, at.q[-1], at.q[0]
    z = u.T @ at.z @ v
    z[-1, -1] = 0.0  # makes Z tangent to the matrices of rank d - 1
    k, l = sigma[:, None], sigma[None, :]
    alive = (k > 0) | (l > 0)
    zero = (k > 0) ^ (l > 0)
    lam_kl = np.where(zero, (k + l) ** (pair_power * (n - 1) / n), 1.0)
    both = (k > 0) & (l > 0)
    lam_kl[both] = eigenvalues(sigma[:-1], n).ravel()
    lift = np.linalg.lstsq(push, (u @ z @ v.T).ravel(), rcond=1e-10)[0]
    return max(off(push @ lift, (u @ z @ v.T).ravel()), off(lift @ lift, np.sum(np.where(alive, z**2 / lam_kl, 0.0))))


LOW_RANK = Claim(
    name="Theorem 2.2.6, r < d",
    statement="for 1 <= r <= d, g^N on the matrices of rank r comes from the submersion",
    where="Section 2.2.1",
    expected="holds",
    note="For r < d the inverse in (2.18) is that on T_X, where lambda_kl = sigma_k^(2-2/N) for k <= r < l.",
    draw=frame,
    printed=low_rank,
    tampered=(("sigma_k^(1-1/N) for k <= r < l", lambda at: low_rank(at, 1.0)),),
    depths=WHOLE,
    whole=True,
)


def horizontal(at: Frame, exchanged=False) -> float:
    """The error of the statement that the solutions of W_{p+1}^T Z_{p+1} = Z_p W_p^T, 1 <= p < N, are the horizontal
    space, which is the orthogonal complement of ker d phi.
    """
    w = at.w
    rows = []
    for dw in np.eye(w.size).reshape(-1, *w.shape):
        last = [z @ w_.T for z, w_ in zip(dw[:-1], w[:-1], strict=True)]
        first = [w_.T @ z for z, w_ in zip(dw[1:], w[1:], strict=True)]
        if exchanged:
            last = [w_ @ z.T for z, w_ in zip(dw[:-1], w[:-1], strict=True)]
        rows.append((np.array(first) - np.array(last)).ravel())
    _, s, vt = np.linalg.svd(np.array(rows).T)
    space = vt[np.sum(s > 1e-9 * s[0]) :]
    q, _ = np.linalg.qr(differential(w).T)
    return off(space.T @ space, q @ q.T)


HORIZONTAL = Claim(
    name="Section 2.2.1, horizontal space",
    statement="the horizontal space is the orthogonal complement of ker d phi, (2.32)",
    where="Section 2.2.1, (2.32)",
    expected="holds",
    note="It is the Z with W_{p+1}^T Z_{p+1} = Z_p W_p^T for 1 <= p < N.",
    draw=frame,
    printed=horizontal,
    tampered=(("W_p Z_p^T for Z_p W_p^T", lambda at: horizontal(at, exchanged=True)),),
    depths=(2.0, 3.0, 4.0),
    whole=True,
    draws=2,
)


def basis(at: Frame, constant) -> np.ndarray:
    """The vectors l^k, u^{k,l,0} and u^{k,l,N} of (2.34)-(2.42), with the constants C_s, D_s = `constant(s, k, l)`."""
    d, n, q = len(at.lam), at.depth, at.q
    column = lambda p, i: q[p][:, i]
    stack = lambda factor: np.array([factor(s) for s in range(1, n + 1)]).ravel()
    out = [stack(lambda s, k=k: np.outer(column(s, k), column(s - 1, k)) / math.sqrt(n)) for k in range(d)]
    for k, l in itertools.combinations(range(d), 2):
        # u^{k,l,0} takes q_{s-1,k} to q_{s,l}, and u^{k,l,N} takes q_{s-1,l} to q_{s,k}.
        for a, b in ((k, l), (l, k)):
            out.append(stack(lambda s, a=a, b=b: constant(s, a, b) * np.outer(column(s, b), column(s - 1, a))))
    return np.array(out)


def is_basis(at: Frame, constant) -> float:
    """The error of these statements: the vectors are orthonormal and orthogonal to ker d phi, and d phi maps them to
    orthogonal matrices.
    """
    vectors, push = basis(at, constant), differential(at.w)
    q, _ = np.linalg.qr(push.T)
    images = vectors @ push.T
    gram = images @ images.T
    return max(
        off(vectors @ vectors.T, np.eye(len(vectors))),
        off(vectors @ q @ q.T, vectors),
        off(gram, np.diag(np.diag(gram))),
    )


def of_layer(at: Frame, *, exchanged=False, shift=0):
    lam, n = at.lam, at.depth
    size = np.sqrt(eigenvalues(at.sigma, n))

    def constant(s, k, l):
        if exchanged:
            k, l = l, k
        return lam[l] ** (n - s + shift) * lam[k] ** (s - 1) / size[k, l]

    return constant


BASIS = Claim(
    name="Lemma 2.2.7",
    statement="l^k, u^{k,l,0} and u^{k,l,N} with normalizing constants C_s, D_s are an orthonormal basis of H",
    where="Section 2.2.1, (2.33)-(2.42)",
    expected="corrected",
    note="They depend on s: C_s^{kl} = L_l^(N-s) L_k^(s-1) / sqrt(lambda_kl), D_s with k and l exchanged; "
    "constants that only normalize, 1/sqrt(N), do not make them horizontal.",
    draw=frame,
    printed=lambda at: is_basis(at, lambda *_: 1 / math.sqrt(at.depth)),
    corrected=lambda at: is_basis(at, of_layer(at)),
    tampered=(
        ("C and D exchanged", lambda at: is_basis(at, of_layer(at, exchanged=True))),
        ("L_l^(N-s+1)", lambda at: is_basis(at, of_layer(at, shift=1))),
    ),
    examples=(BY_HAND,),
    depths=WHOLE,
    whole=True,
)

CLAIMS: tuple[Claim, ...] = (
    SUBMERSION,
    LOW_RANK,
    HORIZONTAL,
    BASIS,
)
