"""Chapter 5."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._text import matrix, names, orthogonal


def invariant(d: int) -> Step:
    """The power sums of the squares of the singular values of Q_1 X Q_2 and of X."""
    powers = " @ ".join
    shown = tuple(f"trace({powers(['S'] * k)}) == trace({powers(['R'] * k)})" for k in range(1, d + 1))
    return Step(
        f"d = {d}, Pt and Qt the transposes of orthogonal P, Q: the power sums of the squares of the singular values "
        "of P X Q and of X, so that any function of them is the same",
        shown,
        orthogonal("P", d)
        | orthogonal("Q", d)
        | {"X": matrix("x", d), "S": "Qt @ T(X) @ Pt @ (P @ X @ Q)", "R": "T(X) @ X"},
        (*names("p", d), *names("q", d), *names("x", d)),
    )


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="Chapter 5, S(Q_1 X Q_2) = S(X)",
        word="proven",
        scope="d = 2, 3; all N",
        printed=(invariant(2), invariant(3)),
    ),
    Certificate(
        claim="(5.4)-(5.5)",
        word="proven false",
        scope="d = 1, A = 1, y = 0, x = 1",
        printed=(
            Step(
                "the difference quotient of x^2 is 2x + h",
                ("((x + h)**2 - x**2)/h == 2*x + h",),
                variables=("x", "h"),
            ),
            Step("its limit at x = 1, and x A", ("2*1 > 1",)),
        ),
        true=(
            Step(
                "one measurement along an entry: the difference quotient is 2 (<A, X> - y) A_ij + h A_ij^2",
                ("((s + h*a - y)**2 - (s - y)**2)/h == 2*(s - y)*a + h*a**2",),
                variables=("s", "h", "a", "y"),
            ),
        ),
        true_scope="all d and all measurements, s = <A, X>",
    ),
    Certificate(
        claim="(4.24) within (5.4)",
        word="proven false",
        scope="X = diag(2, 0, 0), the label 0 of X_11",
        printed=(Step("(5.4) against (4.24)", ("(2 - 0)**2 > 1/2*(2 - 0)**2",)),),
        true=(
            Step(
                "each entry of the mask has twice its part",
                ("(x - l)**2 == 2*(1/2*(x - l)**2)",),
                variables=("x", "l"),
            ),
        ),
        true_scope="all d and all masks",
    ),
)
