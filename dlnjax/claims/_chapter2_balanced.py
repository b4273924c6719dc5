"""Section 2.1 after Theorem 2.1.1 (2): balanced factors."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._factors import (
    any_network,
    balanced_network,
    BY_HAND,
    defect,
    Frame,
    frame,
    frame2,
    imbalance,
    Network,
    postfactor,
    prefactor,
    product,
    push,
    slope,
    velocity,
    xi,
)
from dlnjax.claims._spectra import derivative, generator, off, orthogonal, symmetric_power

WHOLE = (2.0, 3.0, 5.0)


def isospectral(at: Network, lower=lambda w: w @ w.T, upper=lambda w: w.T @ w) -> float:
    """The error of two statements: all factors have the same singular values, and W_{p+1}^T W_{p+1} = W_p W_p^T.

    The second one says that the frames of neighbouring factors agree.
    """
    sigma = np.linalg.svd(at.w, compute_uv=False)
    frames = (off(lower(w), upper(up)) for w, up in itertools.pairwise(at.w))
    return max(off(sigma, np.broadcast_to(sigma[0], sigma.shape)), *frames)


ISOSPECTRAL = Claim(
    name="Section 2.1, isospectral",
    statement="balanced factors have the same singular values, and the frames of neighbours agree",
    where="Section 2.1",
    expected="holds",
    note="The frames agree up to signs, and rotations where singular values are repeated.",
    draw=balanced_network,
    printed=isospectral,
    tampered=(("W_{p+1} W_{p+1}^T", lambda at: isospectral(at, upper=lambda w: w @ w.T)),),
    depths=WHOLE,
    whole=True,
)


def shifted(at: Frame) -> np.ndarray:
    """W_p = Q_{p+1} Lambda Q_p^T for 1 <= p < N, (2.6) as printed.

    (2.6) does not say what W_N is, so a matrix with the right spectrum takes its place.
    """
    q = np.concatenate([at.q[1:], at.q[-1:]])
    return xi(at.lam, q)


def bound(at: Frame, w) -> float:
    """The error of two statements: the product has the singular vectors Q_N and Q_0, and the factors are balanced."""
    x, square = product(w), at.sigma**2
    ends = off(x @ x.T, (at.q[-1] * square) @ at.q[-1].T), off(x.T @ x, (at.q[0] * square) @ at.q[0].T)
    return max(*ends, imbalance(w))


INDICES = Claim(
    name="(2.6)",
    statement="W_p = Q_{p+1} Lambda Q_p^T, 0 <= p <= N-1",
    where="Section 2.1, (2.6)",
    expected="corrected",
    note="W_p = Q_p Lambda Q_{p-1}^T, p = 1..N, as in (2.33).",
    draw=frame,
    printed=lambda at: bound(at, shifted(at)),
    corrected=lambda at: bound(at, at.w),
    tampered=(
        ("Q_{p-1} Lambda Q_p^T", lambda at: bound(at, np.swapaxes(at.w, -1, -2))),
        ("Q_p Lambda^2 Q_{p-1}^T", lambda at: bound(at, xi(at.lam**2, at.q))),
    ),
    examples=(BY_HAND,),
    depths=WHOLE,
    whole=True,
)


def preimages(at: Frame) -> int:
    """The number of (Lambda', Q_N P_N, ..., Q_0 P_0), with signed permutations P_p, that give the same factors (d = 2).

    A factor W_p depends on P_p and P_{p-1} alone, so that the choices are counted along the chain of factors.
    """
    orders, signs = ((0, 1), (1, 0)), itertools.product((1.0, -1.0), repeat=2)
    moves = [np.eye(2)[:, list(order)] * sign for sign in signs for order in orders]
    count = 0
    for order in orders:
        lam, ways = at.lam[list(order)], np.ones(len(moves), int)
        for p, w in enumerate(at.w, 1):
            made = [[(at.q[p] @ b * lam) @ (at.q[p - 1] @ a).T for a in moves] for b in moves]
            ways = np.isclose(made, w, rtol=0, atol=1e-12).all(axis=(-2, -1)) @ ways
        count += int(ways.sum())
    return count


def onto(at: Frame) -> float:
    """The error of the statement that xi is onto. Frames are found from the factors one after the other."""
    rng = np.random.default_rng(0)
    turned = at.w.copy()
    for p in range(1, at.depth):
        o = orthogonal(rng, 2)
        turned[p - 1], turned[p] = o @ turned[p - 1], turned[p] @ o.T
    lam, q = np.linalg.svd(turned[0])[1], [np.linalg.svd(turned[0])[2].T]
    for w in turned:
        q.append(w @ q[-1] / lam)
    return max(off(xi(lam, q), turned), *(off(o.T @ o, np.eye(2)) for o in q))


BIJECTION = Claim(
    name="(2.7)",
    statement="xi is bijective",
    where="Section 2.1, (2.7)",
    expected="fails",
    note="Onto, and 2^d d! to 1 at distinct singular values: signs and permutations of the columns of all Q_p.",
    draw=frame2,
    printed=lambda at: preimages(at) - 1,
    instead=lambda at: max(abs(preimages(at) - 2**2 * math.factorial(2)), onto(at)),
    tampered=(
        ("2^d to 1", lambda at: abs(preimages(at) - 2**2)),
        ("d! to 1", lambda at: abs(preimages(at) - math.factorial(2))),
    ),
    examples=(Frame(np.array([2.0, 1.0]), np.array([np.eye(2)] * 2), np.zeros((2, 2))),),
    depths=(2.0, 3.0),
    whole=True,
    draws=1,
)


def rank(matrix) -> int:
    return int(np.linalg.matrix_rank(matrix, tol=1e-9 * np.linalg.norm(matrix, 2)))


def dimensions(at: Frame) -> tuple[int, int, int, int]:
    """(the rank of d xi, N d^2 minus the rank of dG, N, d)."""
    d, n = len(at.lam), at.depth
    skew = [np.outer(a, b) - np.outer(b, a) for a, b in itertools.combinations(np.eye(d), 2)]
    moved = [push_frame(at, dlam=e) for e in np.eye(d)]
    moved += [push_frame(at, p, k) for p in range(n + 1) for k in skew]
    step = lambda dw: np.imag(defect(at.w + 1e-30j * dw)).ravel() / 1e-30
    constraints = np.array([step(dw) for dw in np.eye(at.w.size).reshape(-1, *at.w.shape)])
    return rank(np.array(moved)), n * d * d - rank(constraints), n, d


def push_frame(at: Frame, p=0, k: Any = 0.0, dlam: Any = 0.0):
    """The derivative of xi along dLambda, and along Q_p K for an antisymmetric K."""
    q = at.q.astype(complex)
    q[p] = q[p] + 1e-30j * (q[p] @ (k + np.zeros_like(at.z)))
    return np.imag(xi(at.lam + 1e-30j * np.asarray(dlam), q)).ravel() / 1e-30


def counted(at: Frame, formula) -> float:
    of_xi, of_g, n, d = dimensions(at)
    left = n * d * d - (n - 1) * d * (d + 1) // 2
    return abs(of_xi - left) + abs(of_g - left) + abs(left - formula(n, d))


DIMENSION = Claim(
    name="(2.8)",
    statement="dim M = N d^2 - (N-1) d(d+1)/2 = d^2 + (N-1) d(d-1)/2",
    where="Section 2.1, (2.8)",
    expected="holds",
    note="The rank of d xi, and the corank of dG.",
    draw=frame,
    printed=lambda at: counted(at, lambda n, d: d * d + (n - 1) * d * (d - 1) // 2),
    tampered=(
        ("N for N-1", lambda at: counted(at, lambda n, d: d * d + n * d * (d - 1) // 2)),
        ("d(d+1)/2 for the orbit", lambda at: counted(at, lambda n, d: d * d + (n - 1) * d * (d + 1) // 2)),
    ),
    depths=WHOLE,
    whole=True,
    draws=2,
)


def balanced_flow(at: Network, *, shift=0, last=0) -> float:
    """The error of (2.9), against d phi of the velocity of the factors."""
    n, x = at.depth, at.x
    terms = (
        symmetric_power(x @ x.T, (n - p + shift) / n) @ slope(at) @ symmetric_power(x.T @ x, (p - 1) / n)
        for p in range(1, n + 1 - last)
    )
    return off(-sum(terms), push(at.w, velocity(at)))


BALANCED_FLOW = Claim(
    name="Theorem 2.1.2",
    statement="X' = -sum_p (X X^T)^((N-p)/N) dE(X) (X^T X)^((p-1)/N) from balanced factors",
    where="Section 2.1, (2.9)",
    expected="holds",
    draw=balanced_network,
    printed=balanced_flow,
    tampered=(
        ("(N-p+1)/N", lambda at: balanced_flow(at, shift=1)),
        ("the sum to N-1", lambda at: balanced_flow(at, last=1)),
    ),
    depths=WHOLE,
    whole=True,
)


def collapsed(at: Frame, base, *, lag=1) -> float:
    """The error of A_{p+1} = Q_N S^((N-p)/N) Q_p^T and B_{p-1} = Q_{p-lag} S^((p-1)/N) Q_0^T, for S = `base`."""
    n, w, q, errors = at.depth, at.w, at.q, []
    for p in range(1, n + 1):
        errors.append(off((q[n] * base ** ((n - p) / n)) @ q[p].T, prefactor(w, p + 1)))
        errors.append(off((q[p - lag] * base ** ((p - 1) / n)) @ q[0].T, postfactor(w, p - 1)))
    return max(errors)


COLLAPSED = Claim(
    name="(2.10)",
    statement="A_{p+1} = Q_N Lambda^((N-p)/N) Q_p^T and B_{p-1} = Q_p Lambda^((p-1)/N) Q_0^T",
    where="Section 2.1, (2.10)",
    expected="corrected",
    note="A_{p+1} = Q_N Sigma^((N-p)/N) Q_p^T and B_{p-1} = Q_{p-1} Sigma^((p-1)/N) Q_0^T; Sigma = Lambda^N.",
    draw=frame,
    printed=lambda at: collapsed(at, at.lam, lag=0),
    corrected=lambda at: collapsed(at, at.sigma),
    tampered=(
        ("Lambda for Sigma", lambda at: collapsed(at, at.lam)),
        ("Q_p in B_{p-1}", lambda at: collapsed(at, at.sigma, lag=0)),
    ),
    examples=(BY_HAND,),
    depths=WHOLE,
    whole=True,
)


def framed_flow(at: Frame, base, *, twice=2) -> float:
    """The error of (2.11), against (2.2)."""
    n, q, w = at.depth, at.q, at.w
    left = lambda p: (q[n] * base ** (twice * (n - p) / n)) @ q[n].T
    right = lambda p: (q[0] * base ** (twice * (p - 1) / n)) @ q[0].T
    a, b = (lambda p: prefactor(w, p + 1)), (lambda p: postfactor(w, p - 1))
    factors = range(1, n + 1)
    return off(
        sum(left(p) @ at.z @ right(p) for p in factors), sum(a(p) @ a(p).T @ at.z @ b(p).T @ b(p) for p in factors)
    )


FRAMED_FLOW = Claim(
    name="(2.11)",
    statement="X' = -sum_p (Q_N Lambda^(2(N-p)/N) Q_N^T) dE(X) (Q_0 Lambda^(2(p-1)/N) Q_0^T)",
    where="Section 2.1, (2.11)",
    expected="corrected",
    note="With Sigma = Lambda^N in place of Lambda, as in (2.10).",
    draw=frame,
    printed=lambda at: framed_flow(at, at.lam),
    corrected=lambda at: framed_flow(at, at.sigma),
    tampered=(("without the 2", lambda at: framed_flow(at, at.sigma, twice=1)),),
    examples=(BY_HAND,),
    depths=WHOLE,
    whole=True,
)


class Initial(NamedTuple):
    """A random W_p and W_{p+1} of size d, with entries N(0, std^2) and N(0, (ratio std)^2)."""

    d: int
    std: float
    ratio: float = 1.0


def moments(at: Initial) -> tuple[np.ndarray, float, float]:
    """(E[G], E|G|^2, E|W W^T|^2), by a Gauss-Hermite rule of three nodes for each entry.

    The rule is exact here, since it integrates polynomials of degree 5 in each entry exactly.
    """
    nodes, weights = np.sqrt(3) * np.array([-1.0, 0.0, 1.0]), np.array([1.0, 4.0, 1.0]) / 6
    picks = np.array(list(itertools.product(range(3), repeat=2 * at.d**2)))
    chance = np.prod(weights[picks], axis=1)
    w = at.std * nodes[picks].reshape(-1, 2, at.d, at.d) * np.array([1.0, at.ratio])[:, None, None]
    low, up = w[:, 0], w[:, 1]
    square = low @ np.swapaxes(low, -1, -2)
    g = square - np.swapaxes(up, -1, -2) @ up
    size = lambda m: float(np.sum(chance * np.sum(m**2, axis=(1, 2))))
    return np.einsum("n,nij->ij", chance, g), size(g), size(square)


def initial(key, _) -> Initial:
    rng = generator(key)
    return Initial(int(rng.integers(1, 3)), float(10 ** rng.uniform(-3, 0)))


def mean_defect(at: Initial) -> float:
    return float(np.max(np.abs(moments(at)[0]))) / (at.d * at.std**2)


ZERO_MEAN = Claim(
    name="Remark 2.1.3, (2.13)-(2.14)",
    statement="E[G_p] = 0 for entries N(0, std^2)",
    where="Section 2.1, (2.13)-(2.14)",
    expected="holds",
    note="Exact moments, by a Gauss rule.",
    draw=initial,
    printed=mean_defect,
    tampered=(("W_{p+1} of twice the standard deviation", lambda at: mean_defect(at._replace(ratio=2.0))),),
    depths=NO_DEPTH,
)


def relative_defect(at: Initial) -> float:
    """The root mean square of |G| divided by the root mean square of |W W^T|."""
    _, g, square = moments(at)
    return math.sqrt(g / square)


NEAR_BALANCED = Claim(
    name="Remark 2.1.3, near the balanced manifold",
    statement="zero centered initialization with small variance begins near the balanced manifold",
    where="Section 2.1",
    expected="corrected",
    note="|G| / |W W^T| has root mean square sqrt(2(d+1)/(2d+1)) at any scale; only |G| itself is O(std^2).",
    draw=initial,
    printed=relative_defect,
    corrected=lambda at: abs(relative_defect(at) - math.sqrt(2 * (at.d + 1) / (2 * at.d + 1))),
    tampered=(
        ("(2d+1)/(2d)", lambda at: abs(relative_defect(at) - math.sqrt((2 * at.d + 1) / (2 * at.d)))),
        ("at unit scale only", lambda at: abs(relative_defect(at) - at.std)),
    ),
    examples=(Initial(1, 1e-3),),
    depths=NO_DEPTH,
)


def on_fibre(x, free) -> np.ndarray:
    """Factors of X. W_1, ..., W_{N-1} are free, and W_N is chosen such that the product is X."""
    return np.array([*free, x @ np.linalg.inv(product(free))])


def least_norm(at: Network, factor=1.0, exponent=2.0, unbalanced=False) -> float:
    """The error of two statements about the least sum |W_p|^2 over the fibre of X, which a search finds.

    The least sum is N sum sigma^(2/N), and the factors that attain it are balanced.
    """
    x, shape, n = at.x, at.w[:-1].shape, at.depth
    size = lambda free: np.sum(on_fibre(x, free) ** 2)
    slope_of = lambda flat: derivative(size, flat.reshape(shape)).ravel()
    found = minimize(lambda flat: size(flat.reshape(shape)), at.w[:-1].ravel(), jac=slope_of, options={"gtol": 1e-9})
    w = on_fibre(x, found.x.reshape(shape))
    least = factor * n * np.sum(np.linalg.svd(x, compute_uv=False) ** (exponent / n))
    kept = imbalance(w[::-1] if unbalanced else w)
    return max(abs(found.fun - least) / least, kept)


LEAST_NORM = Claim(
    name="Remark 2.1.4",
    statement="the balanced factors are the minimizers of sum Tr(W_p W_p^T) over the fibre of X",
    where="Section 2.1, (2.15)-(2.16)",
    expected="holds",
    note="The least value is N sum sigma^(2/N).",
    draw=any_network,
    printed=least_norm,
    tampered=(
        ("sum sigma^(1/N)", lambda at: least_norm(at, exponent=1.0)),
        ("sum sigma^(2/N)", lambda at: least_norm(at, factor=1 / at.depth)),
        ("W_p^T W_p = W_{p+1} W_{p+1}^T at the minimum", lambda at: least_norm(at, unbalanced=True)),
    ),
    depths=(2.0, 3.0),
    whole=True,
    draws=2,
    tolerance=1e-5,
)

CLAIMS: tuple[Claim, ...] = (
    ISOSPECTRAL,
    INDICES,
    BIJECTION,
    DIMENSION,
    BALANCED_FLOW,
    COLLAPSED,
    FRAMED_FLOW,
    ZERO_MEAN,
    NEAR_BALANCED,
    LEAST_NORM,
)
