"""Section 2.2: the operator A, its eigenvalues, and the submersion."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._text import diagonal, matrix, names, times


def squares(d: int, n: int) -> list[list[str]]:
    """The entries lambda_kl of (2.20) at sigma = l^N, as sums of positive terms."""
    entry = lambda k, l: " + ".join(f"l{k}**{2 * (n - p)}*l{l}**{2 * (p - 1)}" for p in range(1, n + 1))
    return [[entry(k, l) for l in range(1, d + 1)] for k in range(1, d + 1)]


def eigenvalues(d: int, n: int) -> Step:
    """A_X at U = V = I has the entries lambda_kl, by (2.20) as printed off the diagonal."""
    rows = ", ".join("[" + ", ".join(row) + "]" for row in squares(d, n))
    terms = " + ".join(times([*["L"] * (2 * (n - p)), "G", *["L"] * (2 * (p - 1))], d) for p in range(1, n + 1))
    quotients = tuple(
        f"lam[{k}][{l}] == (l{k + 1}**{2 * n} - l{l + 1}**{2 * n})/(l{k + 1}**2 - l{l + 1}**2)"
        for k in range(d)
        for l in range(d)
        if k != l
    )
    return Step(
        f"d = {d}, N = {n}, U = V = I, sigma_k = l_k^N: A(G) = lambda o G, each lambda a sum of positive terms",
        (f"{terms} == lam*G", "trace(T(H) @ (lam*G)) == trace(T(lam*H) @ G)", *quotients),
        {
            "L": diagonal([f"l{k}" for k in range(1, d + 1)]),
            "G": matrix("g", d),
            "H": matrix("h", d),
            "lam": f"[{rows}]",
        },
        (*(f"l{k}" for k in range(1, d + 1)), *names("g", d), *names("h", d)),
    )


def quotient(n: int) -> Step:
    total = " + ".join(f"a**{n - p}*b**{p - 1}" for p in range(1, n + 1))
    return Step(
        f"N = {n}, a = sigma_k^(2/N) and b = sigma_l^(2/N)",
        (f"{total} == (a**{n} - b**{n})/(a - b)",),
        variables=("a", "b"),
    )


def limit(n: int) -> Step:
    total = " + ".join(f"a**{n - p}*a**{p - 1}" for p in range(1, n + 1))
    return Step(
        f"N = {n}: the quotient is the sum, whose value at equal sigma = a^(N/2) is that at k = l",
        (f"{total} == {n}*a**{n - 1}",),
        variables=("a",),
    )


def root(n: int, k: int) -> Step:
    """(U Sigma^(2k/N) U^T)^N = (X X^T)^k at X = U diag(a^N, b^N) V^T, for a rotation U = [[c, -s], [s, c]]/r."""
    power = times([f"[[c, -s], [s, c]] @ [[a**{2 * k}, 0], [0, b**{2 * k}]] @ [[c, s], [-s, c]]/(c**2 + s**2)"] * n)
    square = times([f"[[c, -s], [s, c]] @ [[a**{2 * n}, 0], [0, b**{2 * n}]] @ [[c, s], [-s, c]]/(c**2 + s**2)"] * k)
    says = f"N = {n}: U Sigma^({2 * k}/{n}) U^T has the power {n} that (X X^T)^{k} has; so has V, for X^T X"
    return Step(says, (f"{power} == {square}",), variables=("a", "b", "c", "s"))


def lifts(d: int, n: int) -> Step:
    """The lift H_p = A_{p+1}^T Z B_{p-1}^T is tangent to the balanced factors."""
    let = {f"W{p}": matrix(f"w{p}", d) for p in range(1, n + 1)} | {"Z": matrix("z", d)}
    for p in range(1, n + 1):
        above = times([f"W{q}" for q in range(n, p, -1)], d)
        below = times([f"W{q}" for q in range(p - 1, 0, -1)], d)
        let[f"H{p}"] = f"T({above}) @ Z @ T({below})"
    shown = tuple(f"T(W{p + 1}) @ H{p + 1} == H{p} @ T(W{p})" for p in range(1, n))
    says = (
        f"d = {d}, N = {n}: d phi^T Z solves W_(p+1)^T H_(p+1) = H_p W_p^T, so that all dG_p are 0 and it is horizontal"
    )
    return Step(says, shown, let, (*(x for p in range(1, n + 1) for x in names(f"w{p}", d)), *names("z", d)))


def gradient(d: int) -> Step:
    """dE(Z) is g(grad E, Z) for grad E = A(dE), where A = lambda o at U = V = I."""
    return Step(
        f"d = {d}, U = V = I, any N: <dE, Z> = <A^-1 (A(dE)), Z>",
        ("trace(T(G) @ Z) == trace(T(lam*G/lam) @ Z)",),
        {"G": matrix("g", d), "Z": matrix("z", d), "lam": matrix("l", d)},
        (*names("g", d), *names("z", d), *names("l", d)),
    )


# With u = 2 log(sigma_k/sigma_l)/N, 1/N times (2.20) is the limit times u/(exp(u) - 1), and u falls to 0 as N grows.
DEEP = Step(
    "N (exp(u) - 1), u = 2 log(sigma_k/sigma_l)/N, is above 2 log(sigma_k/sigma_l) by less than its part u",
    ("(e - 1)/u > 1", "(e - 1)/u < 1 + u"),
    for_all=("0", "1"),
)

SAME_VALUE = Step(
    "lambda_kk/N is sigma_k^2 exp(-u) or sigma_k^2 exp(u), u = |log sigma_k^2|/N",
    ("1/e > 1 - u", "1/e < 1", "e < 1 + 2*u", "e > 1"),
    for_all=("0", "1"),
)


def basis(n: int) -> Step:
    """The pair k, l of Lemma 2.2.7 at Q_p = I: C_s of the entry (l, k) of the layer s."""
    norm = " + ".join(f"C{s}**2" for s in range(1, n + 1))
    return Step(
        f"N = {n}, Q_p = I: L_l C_(s+1) = C_s L_k: the vectors are horizontal, and the sum of C_s^2 is lambda_kl",
        (*(f"l*C{s + 1} == C{s}*k" for s in range(1, n)), f"{norm} == (k**{2 * n} - l**{2 * n})/(k**2 - l**2)"),
        {f"C{s}": f"l**{n - s}*k**{s - 1}" for s in range(1, n + 1)},
        ("k", "l"),
    )


SIZES = ((2, 2), (2, 3), (3, 2), (3, 3))
EIGENVALUES = tuple(eigenvalues(d, n) for d, n in SIZES)
LIFTS = tuple(lifts(d, n) for d, n in SIZES)
SAME = "sigma = (4, 4), N = 2"

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="Theorem 2.2.1", word="proven", scope="d = 2, 3; N = 2, 3", printed=EIGENVALUES),
    Certificate(
        claim="Theorem 2.2.1, equal singular values",
        word="proven false",
        scope=SAME,
        printed=(
            Step(
                "both the numerator and the denominator are 0, and the eigenvalue is 4 + 4",
                ("4**2 - 4**2 == 0", "4 - 4 == 0", "4 + 4 > 0"),
            ),
        ),
        true=tuple(step for n in (2, 3, 10) for step in (quotient(n), limit(n))),
        true_scope="all d; N = 2, 3, 10",
    ),
    Certificate(
        claim="(2.21)-(2.22)",
        word="proven false",
        scope="X = diag(4, 1), N = 2, p = 1",
        printed=(
            Step(
                "(X X^T)^(1/2) is X, with the entry 4, and Sigma^(1/2) has the entry 2",
                ("[[4, 0], [0, 1]] @ [[4, 0], [0, 1]] == [[16, 0], [0, 1]]", "2*2 == 4", "4 > 2"),
            ),
        ),
        true=(root(2, 1), root(3, 1), root(3, 2)),
        true_scope="d = 2, U and V rotations; N = 2, 3",
    ),
    Certificate(
        claim="(2.23)",
        word="proven",
        scope="all d; N = 2, ..., 12",
        printed=tuple(quotient(n) for n in range(2, 13)),
    ),
    Certificate(
        claim="Remark 2.2.3, (2.31)",
        word="proven",
        scope="all sigma_k and sigma_l, by bounds",
        printed=(DEEP, SAME_VALUE),
    ),
    Certificate(
        claim="Section 2.2.1, horizontal space",
        word="proven",
        scope="full rank, d = 2, 3; N = 2, 3: d phi^T Z solves the equations, whose solutions Z_1 determines",
        printed=LIFTS,
    ),
    Certificate(
        claim="Theorem 2.2.6",
        word="proven",
        scope="d = 2, 3; N = 2, 3",
        printed=(*LIFTS, *EIGENVALUES),
    ),
    Certificate(
        claim="Theorem 2.2.2",
        word="proven",
        scope="d = 2, 3; N = 2, 3",
        printed=(*LIFTS, *EIGENVALUES, *(gradient(d) for d in (2, 3))),
    ),
    Certificate(
        claim="Lemma 2.2.7",
        word="proven false",
        scope="N = 2, L = diag(2, 1), Q_p = I",
        printed=(
            Step(
                "with the same constant in both layers W_2^T Z_2 is not Z_1 W_1^T for Z_1 = Z_2 = e_2 e_1^T",
                ("([[2, 0], [0, 1]] @ [[0, 0], [1, 0]])[1][0] < ([[0, 0], [1, 0]] @ [[2, 0], [0, 1]])[1][0]",),
            ),
        ),
        true=tuple(basis(n) for n in (2, 3, 6)),
        true_scope="all d; N = 2, 3, 6",
    ),
)
