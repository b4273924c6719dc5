"""Section 4.3, (4.43) to (4.53): the Hessian of the entropy, and where the entropy is concave."""

from typing import Any, NamedTuple

import numpy as np

from dlnjax.claims._attack import (
    FAR,
    largest_eigenvalue,
    least,
    log_gaps,
    NEAR,
    of_gaps,
    over_gaps,
    STRICT,
    VIOLATED,
    worst,
)
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import (
    any_spectrum,
    derivative,
    entropy_slopes,
    generator,
    log_volume,
    off,
    orthogonal,
    pairs,
    singular_values,
    Spectrum,
    spectrum,
)


def second(i, j, m):
    """The term of (4.44), which is the derivative of g(s_i, s_j) in its first argument."""
    u = m.log(i / j)
    return (-(i**2) - j**2) / (i**2 - j**2) ** 2 - (-(i**-2) * u - i**-2) / (2 * u**2)


def cross(i, j, m):
    """The second derivative (4.45) in s_i and s_j."""
    return 2 * i * j / (i**2 - j**2) ** 2 - i**-1 * j**-1 / (2 * m.log(i / j) ** 2)


def hessian(sigma, m, second=second, cross=cross):
    """The Hessian of S_inf as rows of entries: (4.44) on the diagonal and (4.45) off the diagonal."""
    others = lambda i: [b for j, b in enumerate(sigma) if j != i]
    return [
        [sum(second(a, c, m) for c in others(i)) if i == j else cross(a, b, m) for j, b in enumerate(sigma)]
        for i, a in enumerate(sigma)
    ]


def hessian_error(at: Spectrum, second=second, cross=cross) -> float:
    """The error of the Hessian, against the complex step through (4.37)."""
    gradient = lambda i: lambda sigma: np.sum(entropy_slopes(sigma, np.inf), axis=1)[i]
    expected = np.array([derivative(gradient(i), at.sigma) for i in range(len(at.sigma))])
    return off(np.array(hessian(at.sigma, np, second, cross)), expected)


HESSIAN = Claim(
    name="Proof of Lemma 4.3.5, (4.43)-(4.45)",
    statement="the second derivatives of S_inf",
    where="Section 4.3",
    expected="holds",
    draw=any_spectrum,
    printed=hessian_error,
    tampered=(
        ("a plus in (4.45)", lambda at: hessian_error(at, cross=lambda i, j, m: -cross(i, j, m))),
        (
            "without the 2 in (4.45)",
            lambda at: hessian_error(at, cross=lambda i, j, m: cross(i, j, m) - i * j / (i**2 - j**2) ** 2),
        ),
        (
            "s_j^-2 in (4.44)",
            lambda at: hessian_error(at, lambda i, j, m: second(i, j, m) + (j**-2 - i**-2) / (2 * m.log(i / j) ** 2)),
        ),
    ),
    depths=NO_DEPTH,
)


class Two(NamedTuple):
    """Two singular values, given by the ratio of the first to the second."""

    ratio: float


def wide(key, depth) -> Two:
    return Two(float(np.exp(generator(key).uniform(0.05, FAR))))


def signs(u, m, sign=1):
    """The room of the statement that all terms of (4.44) and (4.45) are negative, in units of s_i s_j."""
    i, j = m.exp(u[0]), m.exp(0 * u[0])
    return sign * least([-(i**2) * second(i, j, m), -(j**2) * second(j, i, m), -i * j * cross(i, j, m)], m)


SIGNS = Claim(
    name="Proof of Lemma 4.3.5, the signs of (4.44)-(4.45)",
    statement="every term of (4.44) and (4.45) is negative",
    where="Section 4.3",
    expected="holds",
    note="In units of s_i s_j, over ratios up to e^40 either way.",
    draw=wide,
    printed=lambda at: -signs([np.log(at.ratio)], np),
    tampered=(("positive", lambda at: -signs([np.log(at.ratio)], np, -1)),),
    attack=over_gaps(signs, 2),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)

TURN = 9.106688


def dominated(ratio, m, row=0):
    """|H_ii|/|H_ij| - 1 for two singular values. It is positive where the diagonal dominates the row."""
    h = hessian([ratio, 0 * ratio + 1], m)
    return h[row][row] / h[row][1 - row] - 1


def until(turn):
    """The error of the statement that the diagonal dominates up to the ratio `turn`, and not beyond it."""
    return lambda at: -float(dominated(at.ratio, np) * np.sign(turn - at.ratio))


def turning(u, m):
    ratio = m.exp(u[0])
    return dominated(ratio, m) * m.sign(TURN - ratio)


DOMINANCE = Claim(
    name="Proof of Lemma 4.3.5, (4.46)-(4.47)",
    statement="each row of the Hessian of S_inf is dominated by its diagonal",
    where="Section 4.3",
    expected="fails",
    note="Up to s_i/s_j = 9.106688. Beyond, the row of s_i is not, yet the Hessian is negative definite.",
    draw=wide,
    printed=lambda at: -min(dominated(at.ratio, np), dominated(at.ratio, np, row=1)),
    instead=until(TURN),
    tampered=(("up to 8", until(8.0)), ("up to 10", until(10.0))),
    attack=over_gaps(turning, 2),
    examples=(Two(20.0), Two(8.5), Two(9.5)),
    depths=NO_DEPTH,
    draws=20,
    tolerance=1e-6,
)


def chain(at: Two, last=1.0) -> float:
    """The error of the algebra in (4.48), (4.49) and (4.50).

    The left side minus the right side of each must be (4.45) minus the term of (4.44), from which they are derived.
    """
    i, j = at.ratio, 1.0
    u = np.log(i / j)
    steps = (
        (i**2 + j**2) / (i**2 - j**2) ** 2
        - (u + 1) / (2 * i**2 * u**2)
        - (i / j / (2 * i**2 * u**2) - 2 * i * j / (i**2 - j**2) ** 2),
        (i + j) ** 2 / (i**2 - j**2) ** 2 - (u + 1 + i / j) / (2 * i**2 * u**2),
        last / (i - j) ** 2 - (u + 1 + i / j) / (2 * i**2 * u**2),
    )
    return off(np.array(steps), np.full(3, -second(i, j, np) + cross(i, j, np)))


CHAIN = Claim(
    name="Proof of Lemma 4.3.5, (4.48)-(4.50), the algebra",
    statement="(4.48), (4.49) and (4.50) are one inequality, that of (4.47) for each i, j",
    where="Section 4.3",
    expected="holds",
    note="An inequality that is false beyond s_i/s_j = 9.106688.",
    draw=lambda key, depth: Two(float(np.exp(generator(key).uniform(0.1, 3)))),
    printed=chain,
    tampered=(("4/(s_i - s_j)^2", lambda at: chain(at, 4.0)),),
    depths=NO_DEPTH,
)


def bend(u, m):
    """Minus the largest eigenvalue of the Hessian of S_inf, with each entry multiplied by s_i s_j."""
    sigma = of_gaps(u, m)
    h = hessian(sigma, m)
    return -largest_eigenvalue(
        [[a * e * b for e, b in zip(row, sigma, strict=True)] for a, row in zip(sigma, h, strict=True)], m
    )


CONCAVE = Claim(
    name="Lemma 4.3.5",
    statement="S_inf is strictly concave in sigma",
    where="Section 4.3",
    expected="holds",
    note="Each pair is half the logarithms of a mean and of a logarithmic mean; the proof by (4.46) does not stand.",
    draw=any_spectrum,
    printed=lambda at: -bend(log_gaps(at.sigma), np),
    tampered=(("strictly convex", lambda at: bend(log_gaps(at.sigma), np)),),
    attack=over_gaps(bend, 4),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


def second_at_depth(depth):
    a = 2 / depth

    def term(i, j, m):
        root = i**a - j**a
        return -(i**2 + j**2) / (i**2 - j**2) ** 2 - a / 2 * (
            (a - 1) * i ** (a - 2) / root - a * i ** (2 * a - 2) / root**2
        )

    return term


def cross_at_depth(depth):
    a = 2 / depth
    return lambda i, j, m: 2 * i * j / (i**2 - j**2) ** 2 - a**2 / 2 * (i * j) ** (a - 1) / (i**a - j**a) ** 2


def bend_at_depth(at: Spectrum) -> float:
    """The largest eigenvalue of the Hessian of S_N over its smallest. It is positive where S_N is strictly concave."""
    parts = (second, cross) if np.isinf(at.depth) else (second_at_depth(at.depth), cross_at_depth(at.depth))
    values = np.linalg.eigvalsh(np.array(hessian(at.sigma, np, *parts)) * at.sigma * at.sigma[:, None])
    return float(values[-1] / values[0])


def strict_but(at: Spectrum, but: bool) -> float:
    """The error of the statement that S_N is strictly concave or, with `but`, that it is flat in one direction."""
    return -1.0 if but and abs(bend_at_depth(at)) < 1e-9 else -bend_at_depth(at)


def of_any_size(key, depth) -> Spectrum:
    rng = generator(key)
    return Spectrum(spectrum(rng, int(rng.integers(2, 5))), max(2.0, float(depth)))


def pair_attack(key, depth) -> tuple[float, Any]:
    """An attack on strict concavity. For N > 2 the least 1 - H_12^2/(H_11 H_22) over two values is enough.

    At N = 2 it is minus the largest eigenvalue for three values.
    """
    n = max(2.0, float(depth))
    parts = (second, cross) if np.isinf(n) else (second_at_depth(n), cross_at_depth(n))

    def room(u, m):
        h = hessian(of_gaps(u, m), m, *parts)
        if len(u) == 1:
            return 1 - h[0][1] ** 2 / (h[0][0] * h[1][1])
        return -largest_eigenvalue(h, m)

    found = worst(room, [(NEAR, FAR)] if n > 2 else [(0.1, 2.5)] * 2, generator(key))
    return -found.room, {"log ratios": list(found.at), "depth": n}


CONCAVE_AT_DEPTH = Claim(
    name="Lemma 4.3.5 for S_N",
    statement="S_N is strictly concave in sigma as well",
    where="Section 4.3",
    expected="corrected",
    note="For N >= 3, and for N = 2 if d >= 3; not for N = d = 2, where S = 1/2 log(s_1 + s_2) and a constant.",
    draw=of_any_size,
    printed=lambda at: -bend_at_depth(at),
    corrected=lambda at: strict_but(at, at.depth == 2 and len(at.sigma) == 2),
    tampered=(
        ("also for N = d = 2", lambda at: strict_but(at, False)),
        ("strictly convex for d >= 3", lambda at: bend_at_depth(at) if len(at.sigma) > 2 else -1.0),
    ),
    attack=pair_attack,
    examples=(Spectrum(np.array([2.0, 1.0]), 2.0), Spectrum(np.array([3.0, 2.0, 1.0]), 3.0)),
    tolerance=STRICT,
    floor=VIOLATED,
)


class Matrices(NamedTuple):
    x: np.ndarray
    y: np.ndarray


def two_matrices(key, depth) -> Matrices:
    rng = generator(key)
    return Matrices(*rng.standard_normal((2, 3, 3)))


def entropy(sigma):
    """S_inf of (4.28), with its limit where singular values agree."""
    j, k = pairs(sigma)
    u = np.log(j / k)
    same = np.abs(u) < 1e-6
    return np.sum(np.log(j * k) + np.log(np.where(same, 1.0, np.sinh(u) / np.where(same, 1.0, u)))) / 2


def above_middle(x, y, log_size) -> float:
    """The mean of S at two points minus S at their middle. It is at most 0 for a concave S."""
    return float((log_size(x) + log_size(y)) / 2 - log_size((x + y) / 2))


def sigma_of(x):
    return np.linalg.svd(x, compute_uv=False)


def between_spectra(at: Matrices, sign=1.0) -> float:
    return above_middle(sigma_of(at.x), sigma_of(at.y), lambda sigma: sign * entropy(sigma))


CONVEX_REGULARISER = Claim(
    name="(4.51), a strictly convex regularizer",
    statement="-S(X) is a strictly convex regularizer of E(X)",
    where="Section 4.3",
    expected="fails",
    note="Convex in sigma, not in X: I and the quarter turn have S = 0, their middle S = -.3466.",
    draw=two_matrices,
    printed=lambda at: above_middle(at.x, at.y, lambda x: entropy(sigma_of(x))),
    instead=between_spectra,
    tampered=(("-S concave in sigma", lambda at: between_spectra(at, -1.0)),),
    examples=(Matrices(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]])),),
    depths=NO_DEPTH,
)


class Frame(NamedTuple):
    u: np.ndarray
    sigma: np.ndarray
    v: np.ndarray
    depth: float


def frame(key, depth) -> Frame:
    rng = generator(key)
    return Frame(orthogonal(rng, 3), spectrum(rng, 3), orthogonal(rng, 3), float(depth))


def matrix_gradient(at: Frame, gradient) -> float:
    """The error of the gradient dS/dX, against the complex step in each entry of X."""
    x = (at.u * at.sigma) @ at.v.T
    expected = derivative(lambda x: log_volume(singular_values(x), at.depth), x)
    return off(gradient(at.u, np.sum(entropy_slopes(at.sigma, at.depth), axis=1), at.v), expected)


MATRIX_GRADIENT = Claim(
    name="(4.53)",
    statement="dS/dX = U diag(grad_sigma S) V^T, at finite and infinite depth",
    where="Section 4.3",
    expected="holds",
    draw=frame,
    printed=lambda at: matrix_gradient(at, lambda u, slopes, v: (u * slopes) @ v.T),
    tampered=(
        ("transposed", lambda at: matrix_gradient(at, lambda u, slopes, v: (v * slopes) @ u.T)),
        ("V for V^T", lambda at: matrix_gradient(at, lambda u, slopes, v: (u * slopes) @ v)),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    HESSIAN,
    SIGNS,
    DOMINANCE,
    CHAIN,
    CONCAVE,
    CONCAVE_AT_DEPTH,
    CONVEX_REGULARISER,
    MATRIX_GRADIENT,
)
