"""Chapter 3, its sections 3.1 and 3.3, and the modules of the others."""

from dlnjax.claims.proofs import _chapter3_diagonal, _chapter3_lines, _chapter3_wasserstein
from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter3_lines import DIAGONAL
from dlnjax.claims.proofs._text import diagonal, matrix, names, symmetric, times

SIZES = ((2, 2), (2, 3), (3, 2), (3, 3))
DONE = "d = 2, 3; N = 2, 3"
LINE = "d = 1, N = 2, x = (1 + t)^2"


def squared(d: int) -> Step:
    """The Legendre transform of 1/2 <Y, A^-1 Y>, by the square of P - K, where Y = lambda o K."""
    lam = matrix("l", d)
    return Step(
        f"d = {d}, U = V = I, any N: <P, Y> - 1/2 <Y, A^-1 Y> = 1/2 <P, A(P)> - 1/2 <P - K, A(P - K)> for Y = A(K)",
        ("dot(P, lam*K) - 1/2*dot(lam*K, K) == 1/2*dot(P, lam*P) - 1/2*dot(P - K, lam*(P - K))",),
        {"lam": lam, "P": matrix("p", d), "K": matrix("k", d), "dot(x, y)": "trace(T(x) @ y)"},
        (*names("l", d), *names("p", d), *names("k", d)),
    )


def divided(d: int) -> Step:
    """The functions x^2, x^3 and 1/x of S = diag(l), along Z."""
    lam = [f"l{k}" for k in range(1, d + 1)]
    kernel = lambda f, df: (
        "["
        + ", ".join(
            "[" + ", ".join(f"({f(a)} - {f(b)})/({a} - {b})" if a != b else df(a) for b in lam) + "]" for a in lam
        )
        + "]"
    )
    return Step(
        f"d = {d}, Q = I: the derivatives S Z + Z S, S^2 Z + S Z S + Z S^2 and -S^-1 Z S^-1 of S^2, S^3 and S^-1",
        (
            "S @ Z + Z @ S == two*Z",
            "S @ S @ Z + S @ Z @ S + Z @ S @ S == three*Z",
            "-(R @ Z @ R) == inverse*Z",
        ),
        {
            "S": diagonal(lam),
            "R": diagonal([f"1/{x}" for x in lam]),
            "Z": symmetric("z", d)[0],
            "two": kernel(lambda x: f"{x}**2", lambda x: f"2*{x}"),
            "three": kernel(lambda x: f"{x}**3", lambda x: f"3*{x}**2"),
            "inverse": kernel(lambda x: f"1/{x}", lambda x: f"-1/{x}**2"),
        },
        (*lam, *symmetric("z", d)[1]),
    )


def kernel(d: int, n: int, k: int) -> str:
    """The matrix f_{k/N}^[1](Sigma^2) of (3.43), where sigma = r^N."""
    entry = lambda i, j: (
        f"(r{i}**{2 * k} - r{j}**{2 * k})/(r{i}**{2 * n} - r{j}**{2 * n})"
        if i != j
        else f"{k}/{n}*r{i}**{2 * k}/r{i}**{2 * n}"
    )
    size = range(1, d + 1)
    return "[" + ", ".join("[" + ", ".join(entry(i, j) for j in size) + "]" for i in size) + "]"


def roots(d: int, n: int) -> Step:
    """The derivative D of the root (X X^T)^(1/N) solves sum R^k D R^(N-1-k) = d(X X^T), and its powers follow."""
    r = [f"r{k}" for k in range(1, d + 1)]
    let = {
        "S": diagonal([f"{x}**{n}" for x in r]),
        "R": diagonal([f"{x}**2" for x in r]),
        "Z": matrix("z", d),
        "left": "S @ T(Z) + Z @ S",
        "right": "S @ Z + T(Z) @ S",
    }
    shown = []
    for side in ("left", "right"):
        let |= {f"{side}{k}": f"({kernel(d, n, k)})*{side}" for k in range(1, n)}
        chain = lambda to, side=side: " + ".join(
            times([*["R"] * q, f"{side}1", *["R"] * (to - 1 - q)], d) for q in range(to)
        )
        shown += [f"{chain(n)} == {side}", *(f"{chain(k)} == {side}{k}" for k in range(2, n))]
    return Step(
        f"d = {d}, U = V = I, sigma = r^{n}: the formulas for the powers k/{n} are the derivatives of the roots",
        tuple(shown),
        let,
        (*r, *names("z", d)),
    )


def motion(d: int, n: int) -> Step:
    """(3.49)-(3.54) are the product rule of H; (3.61)-(3.64) and P' of (3.46) are the same linear function of Z."""
    r = [f"r{k}" for k in range(1, d + 1)]
    let = {"S": diagonal([f"{x}**{n}" for x in r]), "Z": matrix("z", d), "P": matrix("p", d)}
    terms, collected, force = [], [], []
    for p in range(1, n + 1):
        a, b = n - p, p - 1
        let |= {f"S{k}": diagonal([f"{x}**{2 * k}" for x in r]) for k in (a, b)}
        let |= {f"K{k}": kernel(d, n, k) for k in (a, b)}
        terms.append(f"T(P) @ (K{a}*(S @ T(Z) + Z @ S)) @ P @ S{b} + T(P) @ S{a} @ P @ (K{b}*(S @ Z + T(Z) @ S))")
        left, right = f"(K{a}*(P @ S{b} @ T(P)))", f"(K{b}*(T(P) @ S{a} @ P))"
        collected.append(f"S @ {left} + {right} @ S")
        force.append(f"{left} @ S + S @ {right}")
    along = f"1/2*trace({' + '.join(terms)})"
    return Step(
        f"d = {d}, N = {n}, U = V = I, sigma = r^{n}: the derivative of H along Z by (3.41), (3.42)",
        (f"{along} == trace(({' + '.join(collected)}) @ Z)", f"{along} == trace(T({' + '.join(force)}) @ Z)"),
        let,
        (*r, *names("z", d), *names("p", d)),
    )


def traces(d: int) -> Step:
    k, of_k = symmetric("k", d)
    m, of_m = symmetric("m", d)
    s = [f"s{i}" for i in range(1, d + 1)]
    return Step(
        f"d = {d}: K and M symmetric, S diagonal",
        (
            "trace((K*(S @ T(A))) @ M) == trace((K*(A @ S)) @ M)",
            "trace((K*(A @ S)) @ M) == trace(S @ (K*M) @ A)",
            "trace((K*(S @ A)) @ M) == trace((K*(T(A) @ S)) @ M)",
            "trace((K*(S @ A)) @ M) == trace((K*M) @ S @ A)",
        ),
        {"K": k, "M": m, "S": diagonal(s), "A": matrix("a", d)},
        (*of_k, *of_m, *s, *names("a", d)),
    )


ROOTS = tuple(roots(d, n) for d, n in SIZES)
MOTION = (*ROOTS, *(motion(d, n) for d, n in SIZES))

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="(3.3)",
        word="proven false",
        scope=LINE,
        printed=(
            Step(
                "g(x', x') = x'^2/x is 4 all along: its integral over [0, 1] is 4, and the length is 2",
                ("(2*(1 + t))**2/(1 + t)**2 == 4", "4 == 2*2"),
                variables=("t",),
            ),
            Step("they differ", ("4 > 2",)),
        ),
    ),
    Certificate(
        claim="(3.4)",
        word="proven false",
        scope=LINE,
        printed=(
            Step(
                "dL/dx' = 2x'/x = 4/(1 + t) has the difference quotient -4/((1 + t)(1 + t + h)), so the derivative "
                "-4/(1 + t)^2, and -dL/dx = x'^2/x^2 = 4/(1 + t)^2",
                (
                    "2*(2*(1 + t))/(1 + t)**2 == 4/(1 + t)",
                    "(4/(1 + t + h) - 4/(1 + t))/h == -4/((1 + t)*(1 + t + h))",
                    "(2*(1 + t))**2/((1 + t)**2)**2 == 4/(1 + t)**2",
                ),
                variables=("t", "h"),
            ),
            Step("at t = 0", ("-4 < 4",)),
        ),
        true=DIAGONAL,
        true_scope="d = 1; N = 2, 3, 10, inf, in Hamilton's form",
    ),
    Certificate(
        claim="(3.5)-(3.7)",
        word="proven",
        scope="the supremum d = 2, 3, all N; the equations d = 1, N = 2, 3, 10, inf, along the geodesics",
        printed=(*DIAGONAL, squared(2), squared(3)),
    ),
    Certificate(
        claim="(3.37)",
        word="proven false",
        scope="d = 1, N = 2, X = 4, P = 1",
        printed=(
            squared(2),
            Step("A is 2 sigma = 8: 1/2 A P^2, the supremum, against 1/2 P^2/A", ("1/2*8 > 1/2*(1/8)",)),
        ),
        true=(squared(2), squared(3)),
        true_scope="d = 2, 3; all N",
    ),
    Certificate(
        claim="(3.38)-(3.40)",
        word="proven",
        scope="d = 2, 3; f = x^2, x^3, 1/x, and (X X^T)^(1/2), (1/3), (2/3)",
        printed=(divided(2), divided(3), *ROOTS),
    ),
    Certificate(
        claim="(3.40), equal eigenvalues",
        word="proven false",
        scope="f = x^2, l = (1, 1)",
        printed=(
            Step(
                "both the numerator and the denominator are 0, and the derivative S Z + Z S at S = I is 2 Z",
                ("1**2 - 1**2 == 0", "1 - 1 == 0", "1 + 1 == 2", "2 > 0"),
            ),
        ),
        true=(
            Step(
                "for f = x^2, x^3 and 1/x the quotient is a function that is f' at equal eigenvalues",
                (
                    "(a**2 - b**2)/(a - b) == a + b",
                    "(a**3 - b**3)/(a - b) == a**2 + a*b + b**2",
                    "(1/a - 1/b)/(a - b) == -1/(a*b)",
                ),
                variables=("a", "b"),
            ),
        ),
        true_scope="f = x^2, x^3, 1/x",
    ),
    Certificate(claim="Lemma 3.3.1", word="proven", scope="d = 2, 3; a = 1/2, 1/3, 2/3", printed=ROOTS),
    Certificate(claim="Theorem 3.3.2", word="proven", scope=DONE, printed=(*MOTION, squared(2), squared(3))),
    Certificate(claim="(3.49)-(3.54)", word="proven", scope=DONE, printed=MOTION),
    Certificate(claim="Lemma 3.3.3", word="proven", scope="d = 2, 3", printed=(traces(2), traces(3))),
    Certificate(claim="(3.61)-(3.64)", word="proven", scope=DONE, printed=MOTION),
    *_chapter3_wasserstein.CERTIFICATES,
    *_chapter3_lines.CERTIFICATES,
    *_chapter3_diagonal.CERTIFICATES,
)
