"""Section 4.3: the functions of one ratio of singular values, on the whole half line.

At infinite depth s_i = e = exp(u) and s_j = 1. At depth N it is s_i = e^N, so that all is a quotient of polynomials.
"""

from dlnjax.claims.proofs._certificate import Certificate, INFINITY, Step

HALF_LINE = ("0", INFINITY)
DEPTHS = (3, 10)
ALL = "all d and all ratios, N = inf"
# The function (4.56), its derivatives (4.44) in s_i and (4.45) in s_j, for u = log(x/y).
SLOPE = {"g(x, y, u)": "x/(x**2 - y**2) - 1/(2*x*u)"}
HESSIAN = {
    "second(x, y, u)": "-(x**2 + y**2)/(x**2 - y**2)**2 + (u + 1)/(2*x**2*u**2)",
    "cross(x, y, u)": "2*x*y/(x**2 - y**2)**2 - 1/(2*x*y*u**2)",
}
# The derivative of S_inf of a pair, and those of g, by the chain rule for u = log(x/y).
GRADIENT = Step(
    "the derivatives of both halves 1/2 log(x^2 - y^2) and 1/2 log(2u) of a pair in x and in y, u = log(x/y), N = inf",
    (
        "D(F, x)/(2*F) == x/(x**2 - y**2)",
        "D(F, y)/(2*F) == y/(y**2 - x**2)",
        "(D(L, x) + D(L, u)/x)/(2*L) == 1/(2*x*u)",
        "(D(L, y) - D(L, u)/y)/(2*L) == 1/(2*y*(-u))",
        "D(F, x)/(2*F) - (D(L, x) + D(L, u)/x)/(2*L) == g(x, y, u)",
        "D(F, y)/(2*F) - (D(L, y) - D(L, u)/y)/(2*L) == g(y, x, -u)",
    ),
    {**SLOPE, "F": "x**2 - y**2", "L": "2*u"},
    variables=("x", "y", "u"),
)
SECOND = Step(
    "the derivatives of g(x, y) in x and in y, u = log(x/y)",
    (
        "D(g(x, y, u), x) + D(g(x, y, u), u)/x == second(x, y, u)",
        "D(g(x, y, u), y) - D(g(x, y, u), u)/y == cross(x, y, u)",
    ),
    SLOPE | HESSIAN,
    variables=("x", "y", "u"),
)
SIGNS = Step(
    "(4.44) for the larger and the smaller value, and (4.45), are negative at every ratio e = s_i/s_j > 1",
    ("second(e, 1, u) < 0", "second(1, e, -u) < 0", "cross(e, 1, u) < 0"),
    HESSIAN,
    for_all=HALF_LINE,
)
DECREASES = Step(
    "(4.44), the derivative of g(s_i, s_j) in s_i, is negative above and below s_j",
    ("second(e, 1, u) < 0", "second(1, e, -u) < 0"),
    HESSIAN,
    for_all=HALF_LINE,
)
LIMIT = Step(
    "g(s_i, s_j) differs from 1/2 by less than u at s_i = exp(u) and at s_i = exp(-u), s_j = 1: its limit is 1/2",
    ("g(e, 1, u) > 1/2 - u", "g(e, 1, u) < 1/2 + u", "g(1/e, 1, -u) > 1/2 - u", "g(1/e, 1, -u) < 1/2 + u"),
    SLOPE,
    for_all=("0", "1"),
)
REVERSED = Step(
    "the reverse holds at every ratio e = s_i/s_j > 1", ("g(e, 1, u) < g(1, e, -u)",), SLOPE, for_all=HALF_LINE
)
PAIRS = Step(
    "the Hessian is the sum of those of the pairs, and that of each pair is negative definite",
    ("second(e, 1, u) < 0", "second(e, 1, u)*second(1, e, -u) > cross(e, 1, u)**2"),
    HESSIAN,
    for_all=HALF_LINE,
)
# The root 9.106688 of (4.50): log-ratios below and above it.
BELOW, ABOVE = "220900905/100000000", "220900913/100000000"
ROOT = Step(
    "the ends of the two intervals of u are logarithms of numbers that round to 9.106688",
    (f"exp({BELOW}) > 9106687/1000000", f"exp({ABOVE}) < 9106689/1000000"),
)
UNTIL = Step("below the root", ("second(e, 1, u) < cross(e, 1, u)",), HESSIAN, for_all=("0", BELOW))
BEYOND = Step("beyond the root", ("second(e, 1, u) > cross(e, 1, u)",), HESSIAN, for_all=(ABOVE, INFINITY))


def pair_at_depth(n: int) -> dict[str, str]:
    """s_i^2 (4.44) and s_i s_j (4.45) for S_N at the values x^N and y^N."""
    return {
        "second(x, y)": f"-(x**{2 * n} + y**{2 * n})*x**{2 * n}/(x**{2 * n} - y**{2 * n})**2"
        f" + ((-({2 - n}))*x**2/(x**2 - y**2) + 2*x**4/(x**2 - y**2)**2)/{n * n}",
        "cross(x, y)": f"2*(x*y)**{2 * n}/(x**{2 * n} - y**{2 * n})**2 - 2*(x*y)**2/(x**2 - y**2)**2/{n * n}",
    }


def concave_at(n: int) -> Step:
    shown = ("second(e, 1) < 0", "second(e, 1)*second(1, e) > cross(e, 1)**2")
    return Step(f"N = {n}: the Hessian of each pair is negative definite", shown, pair_at_depth(n), for_all=HALF_LINE)


def slope_at(n: int) -> dict[str, str]:
    """s_i times the term of (4.36), at the values x^N and y^N."""
    return {"g(x, y)": f"x**{2 * n}/(x**{2 * n} - y**{2 * n}) - x**2/({n}*(x**2 - y**2))"}


def gradient_at(n: int) -> Step:
    return Step(
        f"N = {n}: s_i times the derivative in s_i of S_N for a pair, at s_i = x^{n} and s_j = y^{n}",
        (f"x*(D(F, x)/(2*F) - D(L, x)/(2*L))/{n} == g(x, y)",),
        slope_at(n) | {"F": f"x**{2 * n} - y**{2 * n}", "L": "x**2 - y**2"},
        variables=("x", "y"),
    )


def second_at(n: int) -> Step:
    """The derivatives of g(x, y)/s_i, where s_i = x^N."""
    return Step(
        f"N = {n}: the derivatives of the term of (4.36) in s_i and s_j, times s_i^2 and s_i s_j",
        (
            f"x**{n + 1}*D(g(x, y)/x**{n}, x)/{n} == second(x, y)",
            f"x**{n}*y*D(g(x, y)/x**{n}, y)/{n} == cross(x, y)",
        ),
        slope_at(n) | pair_at_depth(n),
        variables=("x", "y"),
    )


def reversed_at(n: int) -> Step:
    return Step(
        f"N = {n}: the term of (4.36) for s_i = exp({n} u), s_j = 1 is below that with both exchanged",
        (f"g(e, 1)/e**{n} < g(1, e)",),
        slope_at(n),
        for_all=HALF_LINE,
    )


def limit_at(n: int) -> Step:
    """The limit (1 - 1/N)/2 of s_i times the term of (4.36), from both sides."""
    half = f"{n - 1}/{2 * n}"
    sides = (
        f"{g} {sign} {half} {shift}" for g in ("g(e, 1)", "g(1, e)") for sign, shift in (("<", "+ 5*u"), (">", "- 5*u"))
    )
    says = f"N = {n}: at s_i = exp({n} u) or exp(-{n} u), s_j = 1, s_i times the term is within 5 u of (1 - 1/{n})/2"
    return Step(says, tuple(sides), slope_at(n), for_all=("0", "1/2"))


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="Lemma 4.3.3, (4.36)-(4.37)",
        word="proven",
        scope="all d, as sums over pairs; N = 2, 3, 10, inf",
        printed=(*map(gradient_at, (2, *DEPTHS)), GRADIENT),
    ),
    Certificate(
        claim="Proof of Lemma 4.3.3, (4.38)-(4.42)",
        word="proven",
        scope="all d, as sums over pairs",
        printed=(GRADIENT,),
    ),
    Certificate(
        claim="Proof of Lemma 4.3.5, (4.43)-(4.45)",
        word="proven",
        scope="all d, as sums over pairs",
        printed=(GRADIENT, SECOND),
    ),
    Certificate(claim="(4.58)", word="proven", scope="all d, as sums over pairs", printed=(GRADIENT, SECOND)),
    Certificate(
        claim="Proof of Lemma 4.3.5, the signs of (4.44)-(4.45)",
        word="proven",
        scope="all ratios, N = inf",
        printed=(SIGNS,),
    ),
    Certificate(
        claim="Proof of Lemma 4.3.5, (4.46)-(4.47)",
        word="proven false",
        scope="s_i/s_j = 20",
        printed=(
            Step(
                "d = 2: (4.44) is negative, and smaller in size than (4.45)",
                ("second(20, 1, log(20)) > cross(20, 1, log(20))", "second(20, 1, log(20)) < 0"),
                HESSIAN,
            ),
        ),
        true=(
            ROOT,
            UNTIL,
            BEYOND,
            Step("the row of s_j", ("second(1, e, -u) < cross(e, 1, u)",), HESSIAN, for_all=HALF_LINE),
            SIGNS,
            PAIRS,
        ),
        true_scope="all ratios, N = inf, d = 2: up to 9.10668 and beyond 9.10669, and the row of s_j at all",
    ),
    Certificate(
        claim="Proof of Lemma 4.3.5, (4.48)-(4.50), the algebra",
        word="proven",
        scope="all s_i and s_j, as an identity in s_i, s_j and log(s_i/s_j)",
        printed=(
            Step(
                "each left side minus its right side is (4.45) minus (4.44)",
                (
                    "(i**2 + j**2)/(i**2 - j**2)**2 - (u + 1)/(2*i**2*u**2)"
                    " - (i/j/(2*i**2*u**2) - 2*i*j/(i**2 - j**2)**2) == cross(i, j, u) - second(i, j, u)",
                    "(i + j)**2/(i**2 - j**2)**2 - (u + 1 + i/j)/(2*i**2*u**2) == cross(i, j, u) - second(i, j, u)",
                    "1/(i - j)**2 - (u + 1 + i/j)/(2*i**2*u**2) == cross(i, j, u) - second(i, j, u)",
                ),
                HESSIAN,
                variables=("i", "j", "u"),
            ),
        ),
    ),
    Certificate(claim="Lemma 4.3.5", word="proven", scope=ALL, printed=(SECOND, PAIRS)),
    Certificate(
        claim="Lemma 4.3.5 for S_N",
        word="proven false",
        scope="N = d = 2",
        printed=(
            Step(
                "S_2 = 1/2 log(s_1 + s_2) and a constant is as large in the middle of (4, 1) and (3, 2) as at both",
                ("(a**2 - b**2)/(a - b) == a + b",),
                variables=("a", "b"),
            ),
            Step("the sums of the two values", ("4 + 1 == 3 + 2", "4 + 1 == (4 + 3)/2 + (1 + 2)/2")),
        ),
        true=(
            Step(
                "N = 2, d >= 3: S_2, a sum of 1/2 log(s_i + s_j), is flat along v only if all v_i + v_j = 0, so v = 0",
                ("((v1 + v2) + (v1 + v3) - (v2 + v3))/2 == v1",),
                variables=("v1", "v2", "v3"),
            ),
            *(step(n) for n in DEPTHS for step in (second_at, concave_at)),
            SECOND,
            PAIRS,
        ),
        true_scope="all d and all ratios, N = 2 (d >= 3), 3, 10, inf",
    ),
    Certificate(
        claim="Lemma 4.3.6 (1)", word="proven", scope="all ratios, N = inf", printed=(SECOND, DECREASES, LIMIT)
    ),
    Certificate(
        claim="Lemma 4.3.6 (2)",
        word="proven false",
        scope="s_i/s_j = 2, and every other ratio",
        printed=(Step("at s_i = 2, s_j = 1", ("g(2, 1, log(2)) < g(1, 2, -log(2))",), SLOPE),),
        true=(REVERSED,),
        true_scope="all ratios, N = inf",
    ),
    Certificate(
        claim="Proof of Lemma 4.3.6 (2)",
        word="proven false",
        scope="r = 15 and r = 20",
        printed=(
            Step(
                "g(r, 1) - g(1, r) is larger at r = 20 than at r = 15",
                ("h(20, log(20)) > h(15, log(15))",),
                {**SLOPE, "h(r, u)": "g(r, 1, u) - g(1, r, -u)"},
            ),
        ),
        true=(
            Step(
                "the derivative of g(r, 1) - g(1, r) in r is (4.44) minus (4.45)",
                ("D(h, r) + D(h, u)/r == second(r, 1, u) - cross(r, 1, u)",),
                SLOPE | HESSIAN | {"h": "g(r, 1, u) - g(1, r, -u)"},
                variables=("r", "u"),
            ),
            ROOT,
            UNTIL,
            BEYOND,
            REVERSED,
        ),
        true_scope="all ratios, N = inf: falls up to 9.10668, rises beyond 9.10669, negative throughout",
    ),
    Certificate(
        claim="Lemma 4.3.6 (3), (4.57)",
        word="proven",
        scope="N = inf",
        printed=(LIMIT,),
    ),
    Certificate(
        claim="Lemma 4.3.6 (3) for S_N",
        word="proven false",
        scope="N = 2",
        printed=(
            Step(
                "N = 2: the term is 1/(2(s_i + s_j))",
                ("a/(a**2 - b**2) - 1/(2*(a - b)) == 1/(2*(a + b))",),
                variables=("a", "b"),
            ),
            Step("its limit at s_i = s_j = 1, against 1/(2 s_j)", ("1/(2*(1 + 1)) < 1/2",)),
        ),
        true=(*(limit_at(n) for n in (2, *DEPTHS)), LIMIT),
        true_scope="N = 2, 3, 10, inf",
    ),
    Certificate(
        claim="Theorem 4.3.7, only isotropic matrices",
        word="proven",
        scope="all d, all p >= 1 and all beta, N = inf",
        printed=(
            REVERSED,
            DECREASES,
            LIMIT,
        ),
    ),
    Certificate(
        claim="Proof of Theorem 4.3.7, the signs in (4.72)",
        word="proven",
        scope=ALL,
        printed=(REVERSED, DECREASES, LIMIT),
    ),
)
