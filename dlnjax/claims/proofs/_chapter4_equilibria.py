"""Section 4.3 from (4.54) on: the equilibria of energies minus the entropy."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter4_pairs import (
    concave_at,
    DECREASES,
    DEPTHS,
    GRADIENT,
    LIMIT,
    limit_at,
    REVERSED,
    reversed_at,
    SLOPE,
)

# The matrix b I + a J, J the quarter turn.
TURNED = {"X": "[[b, a], [-a, b]]", "I": "[[1, 0], [0, 1]]"}

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="(4.54)-(4.55)",
        word="proven",
        scope="all d and beta, as sums over pairs, N = inf",
        printed=(
            GRADIENT,
            Step(
                "the derivative of 1/2 x^2 - S/beta, where g is that of S",
                ("D(1/2*x**2 - g*x/beta, x) == x - g/beta",),
                variables=("x", "g", "beta"),
            ),
        ),
    ),
    Certificate(
        claim="Theorem 4.3.7, (4.70)",
        word="proven false",
        scope="d = 2, p = 2, beta = 1, N = inf",
        printed=(
            LIMIT,
            Step(
                "at s I the gradient of E_p - S/beta is s - 1/(2 s) by this limit, and 1/2 at the s = 1 of (4.70)",
                ("1 - 1/(2*1) == 1/2", "1/2 > 0"),
            ),
        ),
        true=(
            Step(
                "N = 2: the term of (4.36) is 1/(2(s_i + s_j)), which falls, and is that with both exchanged",
                ("a/(a**2 - b**2) - 1/(2*(a - b)) == 1/(2*(a + b))",),
                variables=("a", "b"),
            ),
            *(step(n) for n in DEPTHS for step in (reversed_at, concave_at)),
            *map(limit_at, (2, *DEPTHS)),
            LIMIT,
            REVERSED,
            DECREASES,
        ),
        true_scope="all d, p > 1 and beta; N = 2, 3, 10, inf",
    ),
    Certificate(
        claim="Theorem 4.3.7, range of p",
        word="proven",
        scope="d = 2, p = 1/2, beta = 1, N = inf, by the change of a sign",
        printed=(
            Step(
                "with s_1 = exp(u) s_2 both conditions s_i^(-1/2) = g are sqrt(s_2) = g(1, e) and sqrt(s_2) = "
                "exp(u/2) g(e, 1): their difference changes its sign between u = 37/10 and 38/10, where g(1, e) > 0",
                (
                    "difference(37/10) > 0",
                    "difference(38/10) < 0",
                    "g(1, exp(37/10), -37/10) > 0",
                    "g(1, exp(38/10), -38/10) > 0",
                ),
                SLOPE | {"difference(u)": "exp(u/2)*g(exp(u), 1, u) - g(1, exp(u), -u)"},
            ),
            Step("g(1, e) is positive at every ratio", ("g(1, e, -u) > 0",), SLOPE, for_all=("0", "4")),
        ),
    ),
    Certificate(
        claim="Theorem 4.3.7, a local minimum",
        word="proven",
        scope="all d, p and beta",
        printed=(
            Step(
                "a pair adds 1/2 log(sinh(u)/u) to S, u its log-ratio, with the derivative u/6 and less than u^3",
                ("((e**2 + 1)/(e**2 - 1) - 1/u)/2 < u/6 + u**3", "((e**2 + 1)/(e**2 - 1) - 1/u)/2 > u/6 - u**3"),
                for_all=("0", "1"),
            ),
            Step(
                "so the second derivative of S along v is the sum of (v_i - v_j)^2/6 over the pairs, d |v|^2/6 where "
                "the sum of v is 0, here for d = 3; each v_i^2 is in d - 1 pairs",
                ("(v1 - v2)**2 + (v1 - v3)**2 + (v2 - v3)**2 == 3*(v1**2 + v2**2 + v3**2) - (v1 + v2 + v3)**2",),
                variables=("v1", "v2", "v3"),
            ),
            Step(
                "that of E_p is p s^p = p (d - 1)/(2 beta) times |v|^2: with beta, their difference has the sign of "
                "p - d/(3(d - 1))",
                ("p*(d - 1)/2 - d/6 == (d - 1)/2*(p - d/(3*(d - 1)))",),
                variables=("p", "d"),
            ),
        ),
    ),
    Certificate(
        claim="(4.71)",
        word="proven false",
        scope="sigma = (2, 1), N = inf",
        printed=(
            Step(
                "with the plus the right side is above that with the minus, which is the one of the gradient (4.37)",
                ("2/(4 - 1) + 1/(2*log(4)) - (1/(1 - 4) - 1/log(4)) > g(2, 1, log(2)) - g(1, 2, -log(2))",),
                SLOPE,
            ),
        ),
    ),
    Certificate(
        claim="(4.72)",
        word="proven false",
        scope="sigma = (2, 1), beta = 2, N = inf",
        printed=(
            Step(
                "without the 1/beta the right side is twice what it is with it, and not 0",
                ("h < h/2",),
                SLOPE | {"h": "g(2, 1, log(2)) - g(1, 2, -log(2))"},
            ),
        ),
    ),
    Certificate(
        claim="Remark 4.3.8, (4.78)",
        word="proven false",
        scope="f(x) = x^2/2, s = 1, beta = 1, d = 2, N = inf",
        printed=(
            LIMIT,
            Step("at I the gradient is f'(1) - 1/2 by this limit", ("1 - 1/2 > 0",)),
        ),
    ),
    Certificate(
        claim="Section 4.3, completion with entropy",
        word="proven false",
        scope="d = 2, N = inf, all beta, from every [[b, a], [-a, b]] with a != 0",
        printed=(
            Step(
                "X^T X = r^2 I, so that A_X(Z) = r^2 Z and dS = X/(2 r^2): the velocity V has the form of X, and a' = "
                "a/(2 beta), which grows for ever",
                (
                    "T(X) @ X == r2*I",
                    "V == [[V[0][0], a/(2*beta)], [-a/(2*beta), V[0][0]]]",
                ),
                TURNED | {"r2": "a**2 + b**2", "V": "-r2*(2*(b - 1)*I - X/(2*r2)/beta)"},
                variables=("a", "b", "beta"),
            ),
        ),
        true=(
            Step(
                "E is 0 on [[1, a], [-a, 1]], and S_inf = 1/2 log(1 + a^2) for X^T X = (1 + a^2) I",
                ("T([[1, a], [-a, 1]]) @ [[1, a], [-a, 1]] == (1 + a**2)*[[1, 0], [0, 1]]",),
                variables=("a",),
            ),
        ),
        true_scope="d = 2, all a: unbounded below",
    ),
    Certificate(
        claim="Section 4.3, the equilibria of completion with entropy",
        word="proven",
        scope="d = 2, all beta, N = inf: s I, and F falls along s I + a J",
        printed=(
            Step(
                "at s I the gradient is 2(s - 1) I - dS/beta, dS = I/(2 s), which is 0 for the beta of the statement",
                ("2*(s - 1) - 1/(2*s)/beta == 0",),
                {"beta": "1/(4*s*(s - 1))"},
                variables=("s",),
            ),
            Step(
                "on s I + a J, E does not change and S = 1/2 log(s^2 + a^2) rises with a^2",
                ("T(X) @ X == (b**2 + a**2)*I", "X[0][0] == b", "X[1][1] == b"),
                TURNED,
                variables=("a", "b"),
            ),
        ),
    ),
)
