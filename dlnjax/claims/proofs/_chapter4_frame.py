"""Sections 4.1 and 4.2: frames, and completion."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter2_metric import EIGENVALUES
from dlnjax.claims.proofs._text import diagonal, matrix, names

HALF = Step(
    "N = 2, d = 1: the derivative of sigma along X' = -(sigma + sigma) dE is -2 sigma dE, not -sigma dE, at sigma = 2, "
    "dE = 1",
    ("-(2 + 2)*1 == -4", "-2*1 > -4"),
)


def operator_on_diagonal(n: int) -> Step:
    """The diagonal of A(Z) at X = diag(x^N, y^N)."""
    terms = " + ".join(f"power({n - p}) @ Z @ power({p - 1})" for p in range(1, n + 1))
    powers = {f"P{k}": f"[[x**{2 * k}, 0], [0, y**{2 * k}]]" for k in range(n)}
    for k in range(n):
        terms = terms.replace(f"power({k})", f"P{k}")
    return Step(
        f"N = {n}, d = 2, U = V = I: the diagonal of A_X(Z) is N sigma^(2-2/N) Z_ii, sigma = (x^{n}, y^{n})",
        (f"A[0][0] == {n}*x**{2 * n - 2}*z11", f"A[1][1] == {n}*y**{2 * n - 2}*z22"),
        powers | {"Z": matrix("z", 2), "A": terms},
        variables=("x", "y", *names("z", 2)),
    )


def differentiates(d: int) -> Step:
    """(4.2)-(4.4) at X = diag(s): dU, dsigma and dV move X by Z, and U^T dU and V^T dV are antisymmetric."""
    s = [f"s{k}" for k in range(1, d + 1)]
    entry = lambda of, j, i: f"{of}[{j}][{i}]/({s[i]}**2 - {s[j]}**2)" if i != j else "0"
    rows = lambda of: "[" + ", ".join("[" + ", ".join(entry(of, j, i) for i in range(d)) + "]" for j in range(d)) + "]"
    return Step(
        f"d = {d}, U = V = I, X' = Z: the frames move X by Z and stay orthogonal",
        ("dU @ S + moved + S @ T(dV) == Z", "dU + T(dU) == 0*dU", "dV + T(dV) == 0*dV"),
        {
            "S": diagonal(s),
            "Z": matrix("z", d),
            "moved": diagonal([f"z{k}{k}" for k in range(1, d + 1)]),
            "left": "Z @ S + S @ T(Z)",
            "right": "T(Z) @ S + S @ Z",
            "dU": rows("left"),
            "dV": rows("right"),
        },
        variables=(*s, *names("z", d)),
    )


def proof_of_derivatives(d: int) -> Step:
    """(4.8) and (4.12) for all columns at once, for the frames of `differentiates`."""
    step = differentiates(d)
    return Step(
        f"d = {d}, U = V = I: X' V + X V' = U Sigma' + U' Sigma, and (X X^T)' U + X X^T U' = (U Sigma^2)'",
        ("Z + S @ dV == moved + dU @ S", "left + S @ S @ dU == 2*(S @ moved) + dU @ S @ S", "dU + T(dU) == 0*dU"),
        step.let,
        step.variables,
    )


def chained(d: int) -> Step:
    """The derivative of a function of the singular values with the slopes g_i, along Z at U = V = I."""
    g = [f"g{k}" for k in range(1, d + 1)]
    return Step(
        f"d = {d}, U = V = I: sum g_i dsigma_i = sum g_i Z_ii is <diag(g), Z>",
        (" + ".join(f"g{k}*z{k}{k}" for k in range(1, d + 1)) + " == trace(T(G) @ Z)",),
        {"G": diagonal(g), "Z": matrix("z", d)},
        variables=(*g, *names("z", d)),
    )


def flows_in_frame(d: int) -> Step:
    """(4.17) and (4.19) at U = V = I, for any antisymmetric L, so for every N."""
    s = [f"s{k}" for k in range(1, d + 1)]
    l = lambda i, j: "0" if i == j else f"l{i + 1}{j + 1}" if i < j else f"-l{j + 1}{i + 1}"
    square = lambda entry: "[" + ", ".join("[" + ", ".join(entry(i, j) for j in range(d)) + "]" for i in range(d)) + "]"
    return Step(
        f"d = {d}, U = V = I, any N: with L antisymmetric, lambda_ij = L_ij (s_i^2 - s_j^2) for i != j and any "
        "lambda_ii, the frames move X by -lambda o dE",
        ("KU @ S - S @ KV == -moved",),
        {
            "S": diagonal(s),
            "G": matrix("g", d),
            "L": square(l),
            "KU": "(L @ S)*G - T((L @ S)*G)",
            "KV": "(S @ L)*G - T((S @ L)*G)",
            "moved": square(lambda i, j: f"L[{i}][{j}]*({s[i]}**2 - {s[j]}**2)*G[{i}][{j}]"),
        },
        variables=(*s, *names("g", d), *(l(i, j) for i in range(d) for j in range(i + 1, d))),
    )


SHARED_TRUTH = (operator_on_diagonal(2), operator_on_diagonal(3))
OF_SIGMA = "d = 2; N = 2, 3"

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="Lemma 4.1.1", word="proven", scope="d = 2, 3", printed=(differentiates(2), differentiates(3))),
    Certificate(
        claim="(4.53)",
        word="proven",
        scope="d = 2, 3; all N, for the derivatives of the singular values by (4.2)",
        printed=(differentiates(2), differentiates(3), chained(2), chained(3)),
    ),
    Certificate(
        claim="Proof of Lemma 4.1.1, (4.5)-(4.15)",
        word="proven",
        scope="d = 2, 3, for the frames of (4.2)-(4.4)",
        printed=(proof_of_derivatives(2), proof_of_derivatives(3)),
    ),
    Certificate(
        claim="Corollary 4.1.3.1, X stays diagonal",
        word="proven",
        scope="d = 2, 3; N = 2, 3: A(G) = lambda o G is diagonal with G",
        printed=EIGENVALUES,
    ),
    Certificate(
        claim="Lemma 4.1.2, (4.17), (4.19)",
        word="proven",
        scope="d = 2, 3; all N",
        printed=(flows_in_frame(2), flows_in_frame(3)),
    ),
    Certificate(
        claim="Lemma 4.1.2, (4.18)",
        word="proven false",
        scope="N = 2, d = 1, sigma = 2",
        printed=(HALF,),
        true=SHARED_TRUTH,
        true_scope=OF_SIGMA,
    ),
    Certificate(
        claim="Remark 4.1.3",
        word="proven false",
        scope="N = 2, d = 1, sigma = 2",
        printed=(HALF,),
        true=(*SHARED_TRUTH, flows_in_frame(2), flows_in_frame(3)),
        true_scope="(4.17) and (4.19) d = 2, 3, all N; (4.18) d = 2, N = 2, 3",
    ),
    Certificate(
        claim="Corollary 4.1.3.1, (4.20)",
        word="proven false",
        scope="N = 2, d = 1, sigma = 2",
        printed=(HALF,),
        true=SHARED_TRUTH,
        true_scope=OF_SIGMA,
    ),
    Certificate(
        claim="(4.21) within (4.24)",
        word="proven false",
        scope="X = diag(2, 1)",
        printed=(Step("(4.21) against (4.24)", ("(2 - 1)**2 + (1 - 1)**2 > 1/2*((2 - 1)**2 + (1 - 1)**2)",)),),
        true=(
            Step(
                "(4.21) is twice (4.24)",
                ("(x - 1)**2 + (y - 1)**2 + (z - 1)**2 == 2*(1/2*((x - 1)**2 + (y - 1)**2 + (z - 1)**2))",),
                variables=("x", "y", "z"),
            ),
        ),
        true_scope="d <= 3",
    ),
    Certificate(
        claim="(4.25)",
        word="proven",
        scope="every entry, so all d",
        printed=(
            Step(
                "the difference quotient of an entry's part of (4.24) is X_ij - l_ij + h/2",
                ("(1/2*(x + h - l)**2 - 1/2*(x - l)**2)/h == x - l + h/2",),
                variables=("x", "l", "h"),
            ),
        ),
    ),
    Certificate(
        claim="(4.22)",
        word="proven",
        scope="d = 2, all minimisers",
        printed=(
            Step(
                "the determinant of [[1, x], [y, 1]] is 1 - x y: it is 0 iff y = 1/x",
                ("(1 - 1)**2 + (1 - 1)**2 == 0", "1*1 - x*y == (1/x - y)*x"),
                variables=("x", "y"),
            ),
        ),
    ),
    Certificate(
        claim="Section 4.2, unit eigenvalues",
        word="proven false",
        scope="all d, by the second moments",
        printed=(
            Step(
                "E tr X X^T = d and E tr (X X^T)^2 = (2 d^3 + d^2)/d^2 by Isserlis's theorem, so that the mean of "
                "(sigma^2 - 1)^2 over all singular values is 1 + 1/d in expectation",
                ("(2*d**3 + d**2)/d**2/d - 2*d/d + 1 == 1 + 1/d",),
                variables=("d",),
            ),
        ),
    ),
)
