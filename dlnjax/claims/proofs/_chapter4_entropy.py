"""Section 4.3: the entropy, its volumes and its limits."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter2_metric import DEEP, EIGENVALUES
from dlnjax.claims.proofs._chapter4_pairs import HALF_LINE, LIMIT, SLOPE

# The tangent vectors to the orbit of O_2^(N-1) at W_p = L = diag(a, b), and their inner products.
TANGENT = {
    "J": "[[0, 1], [-1, 0]]",
    "L": "[[a, 0], [0, b]]",
    "inner(x, y)": "trace(T(x) @ y)",
    "first": "J @ L",
    "second": "-(L @ J)",
}
ORBIT = (
    Step(
        "N = 2: the square of the volume of the orbit is 2 (s_1^2 - s_2^2)/(s_1 - s_2), where s_1 = a^2 and s_2 = b^2",
        ("inner(first, first) + inner(second, second) == 2*(a**4 - b**4)/(a**2 - b**2)",),
        TANGENT,
        variables=("a", "b"),
    ),
    Step(
        "N = 3: the Gram determinant is 4 (s_1^2 - s_2^2)/(s_1^(2/3) - s_2^(2/3)), where s_1 = a^3 and s_2 = b^3",
        ("own*own - crossed*crossed == 4*(a**6 - b**6)/(a**2 - b**2)",),
        TANGENT | {"own": "inner(first, first) + inner(second, second)", "crossed": "inner(second, first)"},
        variables=("a", "b"),
    ),
)
SPREADS = Step(
    "a pair parts by itself, and h(u) = 1/(1 - exp(-2u)) - 1/(2u), what a value at the log-ratio u adds to the rate of "
    "another, rises with u > 0, as with u < 0 since h - 1/2 is odd",
    ("(e**2 + 1)/(e**2 - 1) > 1/u", "1/u**2 > 4*e**2/(e**2 - 1)**2"),
    for_all=HALF_LINE,
)


def parts_at(n: int) -> Step:
    return Step(
        f"N = {n}, d = 2: the rate of log s_1 is above that of log s_2 where s_1/s_2 = exp({n} u)",
        (f"(e**{2 * n - 2} + 1)/(e**{2 * n} - 1) > 2/({n}*(e**2 - 1))",),
        for_all=HALF_LINE,
    )


def scales_at(n: int) -> Step:
    return Step(
        f"N = {n}: for s = x^{n}, exp(2 S) of a pair times c^{2 * n - 2} where both are multiplied by a = c^{n}",
        ("pair(c*x, c*y) == " + f"c**{2 * n - 2}*pair(x, y)",),
        {"pair(x, y)": f"(x**{2 * n} - y**{2 * n})/(x**2 - y**2)"},
        variables=("x", "y", "c"),
    )


VANDERMONDE = (
    Step("d = 2: the determinant is the difference", ("1*b - a*1 == b - a",), variables=("a", "b")),
    Step(
        "d = 3: the determinant of the rows (1, x, x^2) is the product of the differences",
        ("b*c**2 - c*b**2 - (a*c**2 - c*a**2) + (a*b**2 - b*a**2) == (b - a)*(c - a)*(c - b)",),
        variables=("a", "b", "c"),
    ),
)
VOLUMES = (
    Step(
        "d = 2: exp(2 S) is l12, and det A is the product of all lambda, of which l12 is there twice",
        ("1/(l11*l12*l12*l22) == 1/(l11*l22)*(1/l12)**2",),
        variables=("l11", "l12", "l22"),
    ),
    Step(
        "d = 3: exp(2 S) is l12 l13 l23",
        ("1/(l11*l22*l33*l12*l12*l13*l13*l23*l23) == 1/(l11*l22*l33)*(1/(l12*l13*l23))**2",),
        variables=("l11", "l22", "l33", "l12", "l13", "l23"),
    ),
)
DOMINANT = Step(
    "x^T A x: a sum of (A_ii - sum |A_ij|) x_i^2 and, over the pairs, of |A_ij| (x_i + x_j)^2 or |A_ij| (x_i - x_j)^2",
    ("a*(x**2 + y**2) + 2*a*x*y == a*(x + y)**2", "a*(x**2 + y**2) - 2*a*x*y == a*(x - y)**2"),
    variables=("a", "x", "y"),
)


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="(4.26)", word="proven", scope="d = 2; N = 2, 3", printed=ORBIT),
    Certificate(
        claim="(4.27)",
        word="proven false",
        scope="N = d = 2, sigma = (4, 1) and (9, 1)",
        printed=(
            ORBIT[0],
            Step(
                "the logarithm of the volume over the sum, at (4, 1) and at (9, 1)",
                ("log(2*(4 + 1))/log(4 + 1) > log(2*(9 + 1))/log(9 + 1)",),
            ),
        ),
        true=ORBIT,
        true_scope="d = 2; N = 2, 3",
    ),
    Certificate(
        claim="(4.28)",
        word="proven false",
        scope="sigma = (2, 1)",
        printed=(
            Step(
                "S_N = 1/2 log(3/(exp(u) - 1)) at sigma = (2, 1), where u = 2 log(2)/N, is above 1/2 log(3/(2u)), "
                "which has no limit as N grows",
                ("3/(e - 1) > 3/(2*u)",),
                for_all=("0", "1"),
            ),
        ),
        true=(DEEP,),
        true_scope="all d and all sigma, by bounds of each pair",
    ),
    Certificate(claim="Remark 4.3.1, (4.29)-(4.30)", word="proven", scope="d = 2, 3", printed=VANDERMONDE),
    Certificate(claim="Lemma 4.3.4", word="proven", scope="all d", printed=(DOMINANT,)),
    Certificate(claim="Corollary 4.3.4.1", word="proven", scope="all d, by -A", printed=(DOMINANT,)),
    Certificate(
        claim="Section 4.3, the two volumes",
        word="proven",
        scope="d = 2, 3; N = 2, 3",
        printed=(*EIGENVALUES, *VOLUMES),
    ),
    Certificate(
        claim="Section 4.3, S of distant singular values",
        word="proven false",
        scope="sigma = (1, 10^-6) against s I of the same norm, N = inf, d = 2",
        printed=(
            Step(
                "S_inf is 1/2 log((a^2 - b^2)/(2 log(a/b))), and log s at s I",
                ("log((a**2 - b**2)/(2*log(a/b)))/2 < log((a**2 + b**2)/2)/2",),
                {"a": "1", "b": "1/10**6"},
            ),
        ),
        true=(
            Step(
                "at a fixed determinant S_inf is 1/2 log(sinh(u)/u) and a constant, u = log(s_1/s_2): it rises",
                ("(e**2 + 1)/(e**2 - 1) > 1/u",),
                for_all=HALF_LINE,
            ),
        ),
        true_scope="d = 2, all ratios, N = inf: larger if farther apart at a fixed determinant",
    ),
    Certificate(
        claim="Section 4.3, spread out", word="proven", scope="all d and all ratios, N = inf", printed=(SPREADS,)
    ),
    Certificate(
        claim="Section 4.3, spread out at finite depth",
        word="proven false",
        scope="sigma = (3, 2, 1), N = 2",
        printed=(
            Step(
                "N = 2: S_2 is a sum of 1/2 log(s_i + s_j), and log s_i moves at the rate dS/ds_i",
                ("1/2*(1/(3 + 2) + 1/(3 + 1)) < 1/2*(1/(2 + 3) + 1/(2 + 1))",),
            ),
        ),
        true=(
            Step(
                "N = 2, d = 2: both logarithms move at the same rate",
                ("a/(a**2 - b**2) - 1/(2*(a - b)) == b/(b**2 - a**2) - 1/(2*(b - a))",),
                variables=("a", "b"),
            ),
            parts_at(3),
            parts_at(10),
            SPREADS,
        ),
        true_scope="d = 2, all ratios, N = 2, 3, 10, inf",
    ),
    Certificate(
        claim="Section 4.3, high volume",
        word="proven false",
        scope="[[1, a], [a, 1]], a = 1 - 10^-9, next to the hyperbola, against I and [[1, 1], [-1, 1]]",
        printed=(
            Step(
                "the singular values are 1 + a and 1 - a, and S_inf is below that of I, which is 0",
                (
                    "[[1, a], [a, 1]] @ [[1], [1]] == (1 + a)*[[1], [1]]",
                    "[[1, a], [a, 1]] @ [[1], [-1]] == (1 - a)*[[1], [-1]]",
                    "log(((1 + a)**2 - (1 - a)**2)/(2*log((1 + a)/(1 - a))))/2 < 0",
                ),
                {"a": "1 - 1/10**9"},
            ),
            Step(
                "[[1, 1], [-1, 1]] is sqrt(2) times a rotation, with S_inf = 1/2 log 2",
                ("T([[1, 1], [-1, 1]]) @ [[1, 1], [-1, 1]] == [[2, 0], [0, 2]]", "log(2)/2 > 0"),
            ),
        ),
    ),
    Certificate(
        claim="Lemma 4.3.2, (4.31)-(4.32)",
        word="proven false",
        scope="a = -1",
        printed=(
            Step(
                "S(-X) is S(X), a real number, for the singular values are those of X",
                ("T(-[[2, 0], [0, 1]]) @ (-[[2, 0], [0, 1]]) == T([[2, 0], [0, 1]]) @ [[2, 0], [0, 1]]",),
            ),
            Step("no real number u, nor -u, is log(-1)", ("e > -1", "1/e > -1"), for_all=HALF_LINE),
        ),
        true=(
            *map(scales_at, (2, 3, 10)),
            Step(
                "N = inf: exp(2 S) of a pair times a^2, for u = log(x/y) stays",
                ("((a*x)**2 - (a*y)**2)/(2*u) == a**2*(x**2 - y**2)/(2*u)",),
                variables=("x", "y", "a", "u"),
            ),
        ),
        true_scope="all d and all a != 0, N = 2, 3, 10, inf",
    ),
    Certificate(
        claim="Proof of Corollary 4.3.4.1, Gershgorin",
        word="proven false",
        scope="A = [[0, -1], [-1, 0]]",
        printed=(
            Step(
                "1 is an eigenvalue, its distance from both A_ii is 1, and the sum of A_ij is -1",
                ("[[0, -1], [-1, 0]] @ [[1], [-1]] == [[1], [-1]]", "1 - 0 > -1"),
            ),
        ),
    ),
    Certificate(
        claim="(4.51), a strictly convex regularizer",
        word="proven false",
        scope="X = I and the quarter turn, d = 2, N = inf",
        printed=(
            Step(
                "both have S = 0, and their middle, s times a rotation with s^2 = 1/2, has S = log s",
                (
                    "T(X) @ X == [[1, 0], [0, 1]]",
                    "T(Y) @ Y == [[1, 0], [0, 1]]",
                    "T(middle) @ middle == [[1/2, 0], [0, 1/2]]",
                    "-log(1/2)/2 > 0",
                ),
                {"X": "[[1, 0], [0, 1]]", "Y": "[[0, 1], [-1, 0]]", "middle": "1/2*(X + Y)"},
            ),
        ),
    ),
    Certificate(
        claim="Proof of Lemma 4.3.6 (3), (4.60)-(4.68)",
        word="proven false",
        scope="(4.60)",
        printed=(
            Step(
                "(4.60) at s_j = 1: the remainder is h^2/4 times a factor that tends to 1",
                ("1/(1 + h/2) - (1 - h/2) == h**2/4*(1/(1 + h/2))",),
                variables=("h",),
            ),
        ),
        true=(
            Step(
                "(4.60) and (4.61) at s_j = 1: the remainders are h^2 times what is bounded near 0",
                (
                    "1/(1 + h/2) - (1 - h/2) == h**2/4*(1/(1 + h/2))",
                    "2*h*(1 + h)/((1 + h)**2 - 1) - (1 + h/2) == -h**2/4*(1/(1 + h/2))",
                ),
                variables=("h",),
            ),
            Step(
                "(4.66) and (4.68) at s_j = 1, h = exp(u) - 1: the remainders are below h^2 and h",
                (
                    "(e - 1)/(e*u) - (1 - (e - 1)/2) < (e - 1)**2",
                    "(e - 1)/(e*u) - (1 - (e - 1)/2) > -(e - 1)**2",
                    "g(e, 1, u) - 1/2 < e - 1",
                    "g(e, 1, u) - 1/2 > 1 - e",
                ),
                SLOPE,
                for_all=("0", "1"),
            ),
            Step(
                "the same below s_j, h = exp(-u) - 1",
                (
                    "(1 - e)/(-u) - (1 - (1/e - 1)/2) < 2*(1 - 1/e)**2",
                    "(1 - e)/(-u) - (1 - (1/e - 1)/2) > -2*(1 - 1/e)**2",
                    "g(1/e, 1, -u) - 1/2 < 1 - 1/e",
                    "g(1/e, 1, -u) - 1/2 > 1/e - 1",
                ),
                SLOPE,
                for_all=("0", "1"),
            ),
        ),
        true_scope="|log(s_i/s_j)| < 1",
    ),
    Certificate(claim="(4.73)-(4.75)", word="proven", scope="all d, p and beta, N = inf", printed=(LIMIT,)),
)
