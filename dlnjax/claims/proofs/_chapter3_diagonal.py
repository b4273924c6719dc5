"""Corollary 3.4.2.1 and Remark 3.4.3: diagonal and symmetric ends."""

from math import comb

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter3_lines import DIAGONAL
from dlnjax.claims.proofs._text import diagonal, names, orthogonal


def binomial(n: int) -> Step:
    terms = " + ".join(f"{comb(n, p)}*(1 - t)**{p}*t**{n - p}*a**{p}*b**{n - p}" for p in range(n + 1))
    return Step(
        f"N = {n}, for the Nth roots a and b", (f"((1 - t)*a + t*b)**{n} == {terms}",), variables=("a", "b", "t")
    )


# The circle of radius w has the length 2 pi times the root of q = 2 w tanh(w/2) in twice the metric of the matrices
# exp(m) R diag(exp(w/2), exp(-w/2)) R^T of one m. K is its Gaussian curvature -h''/h for h^2 = q.
CURVATURE = {
    "q": "2*u*(e - 1)/(e + 1)",
    "along(f)": "D(f, u) + e*D(f, e)",
    "dq": "along(q)",
    "ddq": "along(dq)",
    "K": "dq**2/(4*q**2) - ddq/(2*q)",
}
TURN = Step(
    "N = inf: to turn diag(x, y) at the rate a has g = 2 a^2 (x - y)^2/lambda = 4 u a^2 (x - y)/(x + y), u = log(x/y)",
    ("2*a**2*(x - y)**2/((x**2 - y**2)/(2*u)) == 4*u*a**2*(x - y)/(x + y)",),
    variables=("x", "y", "u", "a"),
)


def shared(d: int) -> Step:
    s = [f"s{k}" for k in range(1, d + 1)]
    return Step(
        f"d = {d}, Ut and Vt the transposes of orthogonal U and V: O = U V^T is the polar factor of U S V^T for every "
        "S, as O^T U S V^T = V S V^T",
        ("V @ Ut @ (U @ S @ Vt) == V @ S @ Vt", "(V @ Ut) @ (U @ Vt) == I"),
        orthogonal("U", d) | orthogonal("V", d) | {"S": diagonal(s), "I": diagonal(["1"] * d)},
        (*s, *names("u", d), *names("v", d)),
    )


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="Corollary 3.4.2.1", word="proven", scope="all d; N = 2, 3, 10, inf", printed=DIAGONAL),
    Certificate(
        claim="(3.86)", word="proven", scope="all d; N = 2, ..., 8", printed=tuple(binomial(n) for n in range(2, 9))
    ),
    Certificate(
        claim="Corollary 3.4.2.1, shortest",
        word="proven false",
        scope="A = diag(e^6, 1), B = diag(1, e^6), N = inf",
        printed=(
            TURN,
            Step(
                "the length sqrt(2) log(e^6) of (3.86) is above that of the quarter turn, pi sqrt(6 tanh 3)",
                ("sqrt(2)*6 > pi*sqrt(6*tanh(3))", "sqrt(4*6*(pi/2)**2*(exp(6) - 1)/(exp(6) + 1)) < sqrt(2)*6"),
            ),
        ),
    ),
    Certificate(
        claim="Corollary 3.4.2.1, locally shortest",
        word="proven false",
        scope="A = diag(e^5, 1), B = diag(1, e^5), N = inf",
        printed=(
            TURN,
            Step(
                "(3.86) is a line through the origin of the polar coordinates u = log(x/y) and twice the angle: the "
                "curvature at the distance u, (q'^2/q^2)/4 - q''/(2q), q = 2u tanh(u/2), is above 1/(4(1 + u^2))",
                ("K > 1/(4*(1 + u**2))",),
                CURVATURE,
                for_all=("0", "5"),
            ),
            Step(
                "j = 1 - u^2/25 vanishes at both ends: what j^2/(1 + u^2) is, to be integrated",
                ("(1 - c*u**2)**2/(1 + u**2) == c**2*u**2 - (2*c + c**2) + (1 + c)**2/(1 + u**2)",),
                variables=("u", "c"),
            ),
            Step(
                "the second variation is below the integral of j'^2 - j^2/(4(1 + u^2)), which is negative: 4/15 "
                "against the second part, from 0 to 5",
                ("(2*c)**2*5**3/3 == 4/15", "(c**2*5**3/3 - (2*c + c**2)*5 + (1 + c)**2*atan(5))/4 > 4/15"),
                {"c": "1/25"},
            ),
        ),
    ),
    Certificate(
        claim="Remark 3.4.3, symmetric",
        word="proven false",
        scope="A = diag(2, -1), B = diag(-1, 3)",
        printed=(
            Step(
                "the polar factors, which U~ = U Q and V~ = V Q make equal, are diag(1, -1) and diag(-1, 1)",
                (
                    "[[1, 0], [0, -1]] @ [[2, 0], [0, -1]] == [[2, 0], [0, 1]]",
                    "[[-1, 0], [0, 1]] @ [[-1, 0], [0, 3]] == [[1, 0], [0, 3]]",
                    "1 > -1",
                ),
            ),
        ),
    ),
    Certificate(
        claim="Remark 3.4.3, same singular vectors",
        word="proven",
        scope="d = 2, 3",
        printed=(shared(2), shared(3)),
    ),
)
