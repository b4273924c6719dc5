"""Chapters 1 and 2: factors, balanced factors, and the metric."""

from collections.abc import Mapping

from dlnjax.claims.proofs import _chapter2_metric
from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._text import diagonal, matrix, names, orthogonal, times

SIZES = ((2, 2), (3, 2), (2, 3), (3, 3))
DONE = "d = 2, 3; N = 2, 3"


def network(d: int, n: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """Any factors W_p, Z for dE, the velocities V_p of (1.6), and what is above and below: A_p and B_p."""
    let = {f"W{p}": matrix(f"w{p}", d) for p in range(1, n + 1)} | {"Z": matrix("z", d)}
    for p in range(1, n + 1):
        let[f"A{p + 1}"] = times([f"W{q}" for q in range(n, p, -1)], d)
        let[f"B{p - 1}"] = times([f"W{q}" for q in range(p - 1, 0, -1)], d)
    let |= {f"V{p}": f"-(T(A{p + 1}) @ Z @ T(B{p - 1}))" for p in range(1, n + 1)}
    return let, (*(x for p in range(1, n + 1) for x in names(f"w{p}", d)), *names("z", d))


def of_factors(says: str, shown, extra=lambda d, n: {}, more=lambda d: ()) -> tuple[Step, ...]:
    """A step for each size: `shown(n)` about any factors."""
    steps = []
    for d, n in SIZES:
        let, variables = network(d, n)
        steps.append(Step(f"d = {d}, N = {n}: {says}", shown(n), let | extra(d, n), (*variables, *more(d))))
    return tuple(steps)


def framed(d: int, n: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """W_p = Q_p L Q_{p-1}^T, its transpose Wt_p, X, and the products A_p and B_p. L is diagonal, Z any matrix."""
    lam = [f"l{k}" for k in range(1, d + 1)]
    let: dict[str, str] = {"L": diagonal(lam), "Z": matrix("z", d), "L0": diagonal(["1"] * d), "L1": "L"}
    let |= {f"L{k}": f"L{k - 1} @ L" for k in range(2, 2 * n + 1)}
    for p in range(n + 1):
        let |= orthogonal(f"Q{p}", d)
    for p in range(1, n + 1):
        let |= {f"W{p}": f"Q{p} @ L @ Q{p - 1}t", f"Wt{p}": f"Q{p - 1} @ L @ Q{p}t"}
    let |= {"X": times([f"W{p}" for p in range(n, 0, -1)]), "Xt": times([f"Wt{p}" for p in range(1, n + 1)])}
    for p in range(1, n + 1):
        let[f"A{p + 1}"] = times([f"W{q}" for q in range(n, p, -1)], d)
        let[f"At{p + 1}"] = times([f"Wt{q}" for q in range(p + 1, n + 1)], d)
        let[f"B{p - 1}"] = times([f"W{q}" for q in range(p - 1, 0, -1)], d)
        let[f"Bt{p - 1}"] = times([f"Wt{q}" for q in range(1, p)], d)
    return let, (*lam, *(x for p in range(n + 1) for x in names(f"q{p}", d)), *names("z", d))


def of_frames(says: str, shown) -> tuple[Step, ...]:
    """A step for each size: `shown(n)` about balanced factors in their frames."""
    steps = []
    for d, n in SIZES:
        let, variables = framed(d, n)
        steps.append(Step(f"d = {d}, N = {n}, Qt the transpose of an orthogonal Q: {says}", shown(n), let, variables))
    return tuple(steps)


def inner(pairs) -> str:
    return " + ".join(f"trace(T({a}) @ {b})" for a, b in pairs)


def gradient(n: int) -> tuple[str, ...]:
    left = " + ".join(f"A{p + 1} @ H{p} @ B{p - 1}" for p in range(1, n + 1))
    return (f"trace(T(Z) @ ({left})) == -({inner([(f'V{p}', f'H{p}') for p in range(1, n + 1)])})",)


def conserved(n: int) -> tuple[str, ...]:
    return tuple(
        f"V{p} @ T(W{p}) + W{p} @ T(V{p}) == T(V{p + 1}) @ W{p + 1} + T(W{p + 1}) @ V{p + 1}" for p in range(1, n)
    )


def moved(n: int) -> tuple[str, ...]:
    velocity = " + ".join(f"A{p + 1} @ V{p} @ B{p - 1}" for p in range(1, n + 1))
    terms = " + ".join(f"A{p + 1} @ T(A{p + 1}) @ Z @ T(B{p - 1}) @ B{p - 1}" for p in range(1, n + 1))
    return (f"{velocity} == -({terms})",)


def neighbours(n: int) -> tuple[str, ...]:
    b = [f"W{p} @ B{p - 1}" for p in range(1, n)]
    return tuple(
        shown
        for p in range(1, n)
        for shown in (
            f"T(V{p + 1}) @ W{p + 1} == -({b[p - 1]} @ T(Z) @ A{p + 1})",
            f"T(V{p + 1}) @ W{p + 1} == W{p} @ T(V{p})",
            f"T(W{p + 1}) @ V{p + 1} == V{p} @ T(W{p})",
        )
    )


def isospectral(d: int) -> Step:
    shown = ["trace(W @ T(W)) == trace(T(W) @ W)", "trace(S @ S) == trace(R @ R)"]
    shown += ["trace(S @ S @ S) == trace(R @ R @ R)"] * (d == 3)
    return Step(
        f"d = {d}: W W^T and W^T W have the same power sums of eigenvalues, and W_p W_p^T = W_{{p+1}}^T W_{{p+1}}",
        tuple(shown),
        {"W": matrix("w", d), "S": "W @ T(W)", "R": "T(W) @ W"},
        names("w", d),
    )


def terms(n: int) -> str:
    """The sum of A A^T Z B^T B over the factors."""
    return " + ".join(f"A{p + 1} @ At{p + 1} @ Z @ Bt{p - 1} @ B{p - 1}" for p in range(1, n + 1))


def collapsed(n: int) -> tuple[str, ...]:
    above = (f"A{p + 1} == Q{n} @ L{n - p} @ Q{p}t" for p in range(1, n + 1))
    below = (f"B{p - 1} == Q{p - 1} @ L{p - 1} @ Q0t" for p in range(1, n + 1))
    return (*above, *below)


def flow(n: int) -> tuple[str, ...]:
    sum_ = " + ".join(f"Q{n} @ L{2 * (n - p)} @ Q{n}t @ Z @ Q0 @ L{2 * (p - 1)} @ Q0t" for p in range(1, n + 1))
    return (f"{terms(n)} == {sum_}", f"X @ Xt == Q{n} @ L{2 * n} @ Q{n}t", f"Xt @ X == Q0 @ L{2 * n} @ Q0t")


def balanced(n: int) -> tuple[str, ...]:
    each = (f"Wt{p + 1} @ W{p + 1} == W{p} @ Wt{p}" for p in range(1, n))
    return (*each, f"X @ Xt == Q{n} @ L{2 * n} @ Q{n}t", f"Xt @ X == Q0 @ L{2 * n} @ Q0t")


TURN: Mapping[str, str] = {"L": "[[2, 0], [0, 1]]", "Q1": "[[0, -1], [1, 0]]"}
FLOW = of_frames("the flow of X, where Q L^(2k) Qt is the power k/N of X X^T or X^T X", flow)
DIRECTIONS = {
    "extra": lambda d, n: {f"H{p}": matrix(f"h{p}", d) for p in range(1, n + 1)},
    "more": lambda d: tuple(x for p in (1, 2, 3) for x in names(f"h{p}", d)),
}

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="(1.6)",
        word="proven",
        scope=DONE,
        printed=of_factors("the derivative of E along any H is -<V, H>", gradient, **DIRECTIONS),
    ),
    Certificate(
        claim="Theorem 2.1.1 (1)",
        word="proven",
        scope=DONE,
        printed=of_factors("the derivative of every G_p along (1.5) is 0", conserved),
    ),
    Certificate(
        claim="Theorem 2.1.1 (1), for all t",
        word="proven false",
        scope="d = 1, N = 3, E = -X^2/2, w(0) = 1",
        printed=(
            Step(
                "w' = w^5 for equal weights, so that w^-4 falls at the rate 4",
                ("-(w*w)*(-w**3) == w**5", "-4*(1/w)**5*w**5 == -4"),
                variables=("w",),
            ),
            Step("w^-4 = 1 - 4t would be 0 at t = 1/4", ("1 - 4*(1/4) == 0",)),
        ),
        true=(
            Step(
                "y = w^-4 = y_0 - 4t has the derivative -4 as long as it is positive",
                ("((y - 4*(t + h)) - (y - 4*t))/h == -4",),
                variables=("y", "t", "h"),
            ),
        ),
        true_scope="d = 1, N = 3, E = -X^2/2: w = (w_0^-4 - 4t)^(-1/4)",
    ),
    Certificate(
        claim="Theorem 2.1.1 (2)",
        word="proven",
        scope=DONE,
        printed=of_factors("the velocity of the product", moved),
    ),
    Certificate(
        claim="(2.4)-(2.5)",
        word="proven",
        scope=DONE,
        printed=of_factors("the equations of neighbours", neighbours),
    ),
    Certificate(
        claim="Section 2.1, isospectral",
        word="proven",
        scope="d = 2, 3; all N",
        printed=(isospectral(2), isospectral(3)),
    ),
    Certificate(
        claim="(2.6)",
        word="proven false",
        scope="N = 2, L = diag(2, 1), Q_0 = I, Q_1 the quarter turn",
        printed=(
            Step(
                "X^T X = W_1^T (W_2^T W_2) W_1 = (W_1^T W_1)^2 is Q_1 L^4 Q_1^T for W_1 = Q_2 L Q_1^T, and not L^4",
                ("(Q1 @ L @ L @ L @ L @ T(Q1))[0][0] < (L @ L @ L @ L)[0][0]",),
                TURN,
            ),
        ),
        true=of_frames("balanced, with the frames Q_N and Q_0 of the product", balanced),
        true_scope=DONE,
    ),
    Certificate(
        claim="(2.7)",
        word="proven false",
        scope="N = 2, L = diag(2, 1), all Q_p = I against all Q_p = -I",
        printed=(
            Step(
                "the same factors from two arguments that differ",
                ("Q @ L @ T(Q) == I @ L @ T(I)", "I[0][0] > Q[0][0]"),
                {"L": "[[2, 0], [0, 1]]", "I": "[[1, 0], [0, 1]]", "Q": "[[-1, 0], [0, -1]]"},
            ),
        ),
    ),
    Certificate(claim="Theorem 2.1.2", word="proven", scope=DONE, printed=FLOW),
    Certificate(
        claim="(2.10)",
        word="proven false",
        scope="N = 2, L = diag(4, 1), all Q_p = I",
        printed=(Step("A_2 = W_2 has the entry 4, and Lambda^(1/2) has 2", ("2*2 == 4", "4 > 2")),),
        true=of_frames("Sigma^(k/N) = L^k", collapsed),
        true_scope=DONE,
    ),
    Certificate(
        claim="(2.11)",
        word="proven false",
        scope="N = 2, L = diag(2, 1), all Q_p = I, dE = I",
        printed=(
            Step(
                "the first entry of the sum with Lambda^(2(N-p)/N), and of the velocity of the product",
                ("2*1 + 1*2 < 2*2*1 + 1*2*2",),
            ),
        ),
        true=FLOW,
        true_scope=DONE,
    ),
    Certificate(
        claim="Remark 2.1.3, near the balanced manifold",
        word="proven false",
        scope="d = 1, every std s",
        printed=(
            Step(
                "E G^2/E w^4 = E (a^2 - b^2)^2/E a^4, by the moments s^2 and 3 s^4, is 4/3 at every s, however small",
                ("(3*s**4 - 2*s**2*s**2 + 3*s**4)/(3*s**4) == 4/3",),
                variables=("s",),
            ),
        ),
        true=(
            Step(
                "E tr (W W^T)^2 = (2 d^3 + d^2) s^4 by Isserlis's theorem, and E tr W W^T W'^T W' = d^3 s^4 for W' "
                "independent of W",
                ("2*((2*d**3 + d**2) - d**3)*s**4/((2*d**3 + d**2)*s**4) == 2*(d + 1)/(2*d + 1)",),
                variables=("d", "s"),
            ),
        ),
        true_scope="all d and every std",
    ),
    *_chapter2_metric.CERTIFICATES,
)
