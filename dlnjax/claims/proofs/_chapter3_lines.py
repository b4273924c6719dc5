"""Section 3.4: lines upstairs, the line (3.76), and diagonal ends."""

from dlnjax.claims.proofs._certificate import Certificate, INFINITY, Step
from dlnjax.claims.proofs._chapter3_wasserstein import JOINS, SOLVES
from dlnjax.claims.proofs._text import diagonal, inverse, names, orthogonal, symmetric, times

DEPTHS = (2, 3, 10)
SIZES = ((2, 2), (2, 3), (3, 2), (3, 3))
DONE = "d = 2, 3; N = 2, 3"
ENDS = "A = diag(4, 1), B = [[5/2, 3/2], [3/2, 5/2]], N = 2"
# The square roots of A and B, and (3.76) and its velocity at N = 2.
BY_HAND = {
    "R": "[[2, 0], [0, 1]]",
    "K": "[[3/2, 1/2], [1/2, 3/2]]",
    "I": "[[1, 0], [0, 1]]",
    "L": "R + u*(K - R)",
    "X": "L @ L",
    "V": "L @ (K - R) + (K - R) @ L",
}
ROOTS = Step(
    "the squares of R and K are A and B",
    (
        "[[2, 0], [0, 1]] @ [[2, 0], [0, 1]] == [[4, 0], [0, 1]]",
        f"{BY_HAND['K']} @ {BY_HAND['K']} == [[5/2, 3/2], [3/2, 5/2]]",
    ),
)


def below(n: int) -> Step:
    return Step(
        f"N = {n}: the kernel over lambda_kl is tanh(N u/2)/(N tanh(u/2)), exp(N u) = sigma_k/sigma_l",
        (f"{n}*(e - 1)/(e + 1) > (e**{n} - 1)/(e**{n} + 1)",),
        for_all=("0", INFINITY),
    )


BELOW = (
    *map(below, DEPTHS),
    Step("N = inf: it is tanh(u/2)/(u/2)", ("u/2 > (e - 1)/(e + 1)",), for_all=("0", INFINITY)),
)


def diagonal_motion(n: int) -> Step:
    """An entry y^N, y = a + b t, of the diagonal path, with its momentum p = b y^(1-N)."""
    return Step(
        f"N = {n}: each entry moves by itself, x = y^N, y' = b, with p = b y^(1-N): x' = N x^(2-2/N) p = dH/dp, "
        "p' = -dH/dx = -(N - 1) x^(1-2/N) p^2",
        (f"{n}*b*y**{n - 1} == {n}*y**{2 * n - 2}*p", f"b*({1 - n})*(1/y)**{n}*b == -({n - 1}*y**{n - 2}*p**2)"),
        {"p": f"b*(1/y)**{n - 1}"},
        ("y", "b"),
    )


DIAGONAL = (
    *map(diagonal_motion, DEPTHS),
    Step(
        "N = inf: an entry with x' = c x and p = c/x: x' = x^2 p, p' = -c x'/x^2 = -x p^2",
        ("c*x == x**2*(c/x)", "-c*(c*x)/x**2 == -x*(c/x)**2"),
        variables=("x", "c"),
    ),
)


def line(d: int, n: int) -> tuple[dict[str, str], tuple[str, ...]]:
    """The line from L to O_p^T M O_{p-1}, with L and M diagonal: all lines, up to a rotation of the factors."""
    lam, mu = ([f"{x}{k}" for k in range(1, d + 1)] for x in "lm")
    let = {"L": diagonal(lam), "M": diagonal(mu)}
    for p in range(n + 1):
        let |= orthogonal(f"O{p}", d)
    return let, (*lam, *mu, *(x for p in range(n + 1) for x in names(f"o{p}", d)), "t")


def skew(d: int, n: int) -> Step:
    """The defect of the line is -t(1-t) O_p^T M (K + K^T) M O_p."""
    let, variables = line(d, n)
    inverse_of_m = diagonal([f"1/m{k}" for k in range(1, d + 1)])
    shown = []
    for p in range(1, n):
        down, up = f"O{p}t @ M @ O{p - 1}", f"O{p + 1}t @ M @ O{p}"
        down_t, up_t = f"O{p - 1}t @ M @ O{p}", f"O{p}t @ M @ O{p + 1}"
        mix = lambda a: f"((1 - t)*L + t*({a}))"
        k = f"(O{p + 1} - O{p - 1}) @ L @ O{p}t @ N"
        k_t = f"N @ O{p} @ L @ (O{p + 1}t - O{p - 1}t)"
        shown.append(
            f"{mix(down)} @ {mix(down_t)} - {mix(up_t)} @ {mix(up)} == "
            f"-(t*(1 - t)*(O{p}t @ M @ ({k} + {k_t}) @ M @ O{p}))"
        )
    says = f"d = {d}, N = {n}, up to rotations: W_p W_p^T - W_(p+1)^T W_(p+1) = -t(1-t) O^T M (K + K^T) M O, N = 1/M"
    return Step(says, tuple(shown), let | {"N": inverse_of_m}, variables)


def parity(d: int, n: int) -> Step:
    let, variables = line(d, n)
    mix = lambda p, q: f"((1 - t)*L + t*(O{p % 2}t @ M @ O{q % 2}))"
    shown = tuple(f"{mix(p, p - 1)} @ {mix(p - 1, p)} == {mix(p, p + 1)} @ {mix(p + 1, p)}" for p in range(1, n))
    return Step(f"d = {d}, N = {n}, up to rotations: O_p by the parity of p", shown, let, variables)


def over_line(d: int, n: int) -> Step:
    """The line of factors with U, V and H = (1-t) L + t Q L~ Q^T, any symmetric matrix."""
    h, entries = symmetric("h", d)
    factors = ["U @ H", *["H"] * (n - 2), "H @ Vt"]
    transposed = ["H @ Ut", *["H"] * (n - 2), "V @ H"]
    shown = tuple(f"{transposed[q]} @ {factors[q]} == {factors[q + 1]} @ {transposed[q + 1]}" for q in range(n - 1))
    whole = times(["U", *["H"] * n, "Vt"])
    return Step(
        f"d = {d}, N = {n}, Ut and Vt the transposes of orthogonal U and V: U H, H, ..., H V^T are balanced, "
        "with the product U H^N V^T",
        (*shown, f"{times(factors)} == {whole}"),
        orthogonal("U", d) | orthogonal("V", d) | {"H": h},
        (*entries, *names("u", d), *names("v", d)),
    )


def bracket(d: int) -> Step:
    k, entries = symmetric("k", d)
    lam = [f"l{i}" for i in range(1, d + 1)]
    return Step(
        f"d = {d}, any N: W = L and Z = K - L in all layers give L Z - Z L = [L, K], K = Q L~ Q^T",
        ("L @ (K - L) - (K - L) @ L == L @ K - K @ L",),
        {"L": diagonal(lam), "K": k},
        (*lam, *entries),
    )


SPEED = Step(
    "d = 2: the squared speed Tr(X' P(t)) of (I + t P) A (I + t P) is 2 Tr(P^2 A) at every t",
    ("trace((P @ A @ D + D @ A @ P) @ (Dt @ P)) == 2*trace(P @ P @ A)",),
    {
        "A": symmetric("a", 2)[0],
        "P": symmetric("p", 2)[0],
        "I": diagonal(["1", "1"]),
        "D": "t*P + I",
        "Dt": inverse("D"),
    },
    (*symmetric("a", 2)[1], *symmetric("p", 2)[1], "t"),
)


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="Lemma 3.4.1 (1)", word="proven", scope=DONE, printed=tuple(parity(d, n) for d, n in SIZES)),
    Certificate(claim="Lemma 3.4.1 (2)", word="proven", scope=DONE, printed=tuple(skew(d, n) for d, n in SIZES)),
    Certificate(
        claim="Lemma 3.4.1, in M",
        word="proven false",
        scope="A = (I, I), B = (-I, -I), N = 2",
        printed=(
            Step(
                "Q~ = (I, -I, I) gives B, with Q~_2^T Q_2 = Q~_0^T Q_0, and the middle of the line is 0",
                ("J @ T(I) == -I", "I @ T(J) == -I", "T(I) @ I == T(I) @ I", "1/2*I + 1/2*(-I) == [[0, 0], [0, 0]]"),
                {"I": "[[1, 0], [0, 1]]", "J": "[[-1, 0], [0, -1]]"},
            ),
        ),
    ),
    Certificate(claim="Theorem 3.4.2 (1)", word="proven", scope=DONE, printed=tuple(over_line(d, n) for d, n in SIZES)),
    Certificate(
        claim="Theorem 3.4.2 (2)",
        word="proven false",
        scope=ENDS,
        printed=(
            ROOTS,
            Step(
                "P solves A P + P A = X'(0): by Theorem 3.2.3 the geodesic from A in the direction of (3.76) is "
                "(I + s P) A (I + s P)",
                (
                    "A @ P + P @ A == R @ (K - R) + (K - R) @ R",
                    "(I + s*P) @ A @ (I + s*P) == [[first + 5/2, off], [off, second + 5/2]]",
                ),
                {
                    "R": BY_HAND["R"],
                    "K": BY_HAND["K"],
                    "I": BY_HAND["I"],
                    "A": "[[4, 0], [0, 1]]",
                    "P": "[[-1/4, 3/10], [3/10, 1/2]]",
                    "first": "4*(1 - s/4)**2 + (3*s/10)**2 - 5/2",
                    "second": "4*(3*s/10)**2 + (1 + s/2)**2 - 5/2",
                    "off": "4*(1 - s/4)*(3*s/10) + (3*s/10)*(1 + s/2)",
                },
                ("s",),
            ),
            Step(
                "both diagonal entries are those of B at no s, for a combination of the two differences is 1",
                ("first*(-12688/4125*s - 6478/825) + second*(7072/4125*s - 7028/825) == 1",),
                {
                    "first": "4*(1 - s/4)**2 + (3*s/10)**2 - 5/2",
                    "second": "4*(3*s/10)**2 + (1 + s/2)**2 - 5/2",
                },
                ("s",),
            ),
        ),
        true=DIAGONAL,
        true_scope="S_A and S_B commuting: all d; N = 2, 3, 10, inf",
    ),
    Certificate(
        claim="Theorem 3.4.2 (2), S_A and S_B commuting",
        word="proven",
        scope="all d; N = 2, 3, 10, inf, in the frame where both are diagonal",
        printed=DIAGONAL,
    ),
    Certificate(
        claim="Theorem 3.4.2 (2), N = 2",
        word="proven false",
        scope=ENDS,
        printed=(
            ROOTS,
            Step(
                "G solves X G + G X = X', and g^2(X', X') = Tr(X' G) is the squared speed",
                ("X @ G + G @ X == V", "trace(V @ G) == (4*u**2 - 4*u + 19)/(2*u**2 - 2*u + 10)"),
                BY_HAND
                | {
                    "trace_": "trace(X)",
                    "det": "X[0][0]*X[1][1] - X[0][1]*X[1][0]",
                    "adj": "trace_*I - X",
                    "G": "(det*V + adj @ V @ adj)/(2*trace_*det)",
                },
                ("u",),
            ),
            Step(
                "the squared speed is above 1.894 on the whole line",
                ("(4*u**2 - 4*u + 19)/(2*u**2 - 2*u + 10) > 1894/1000",),
                for_all=("0", "1"),
            ),
            SPEED,
            Step(
                "M = [[7, 3], [3, 13]]/sqrt(82) has M A M = B; for P = M - I the length has the square 2 Tr(P^2 A) = "
                "2 (Tr B - 2 Tr(M A) + Tr A) = 20 - 2 sqrt(82): the distance is not above its root",
                (
                    "[[7, 3], [3, 13]] @ [[4, 0], [0, 1]] @ [[7, 3], [3, 13]] == 82*[[5/2, 3/2], [3/2, 5/2]]",
                    "2*(5 - 2*(7*4 + 13)/sqrt(82) + 5) < 1894/1000",
                ),
            ),
        ),
        true=(*JOINS, SOLVES, SPEED),
        true_scope="d = 2: the curve is (3.15) of Theorem 3.2.3 and solves (3.18)",
    ),
    Certificate(
        claim="Theorem 3.4.2, bounds",
        word="proven",
        scope="all d; N = 2, 3, 10, inf, as the metric of (3.76) is not below g^N",
        printed=BELOW,
    ),
    Certificate(
        claim="Theorem 3.4.2, what (3.76) is",
        word="proven",
        scope="the kernel by (3.39)-(3.40), and never above lambda_kl: all ratios; N = 2, 3, 10, inf",
        printed=BELOW,
    ),
    Certificate(
        claim="(3.79), (3.82)",
        word="proven false",
        scope="U = I, Sigma = diag(4, 1), V the quarter turn, N = 2",
        printed=(
            Step(
                "W_2 W_1 = L (L Q_0^T) with Q_0 = V^T is Sigma V, which is not A = Sigma V^T",
                ("S @ T(V) == [[0, 4], [-1, 0]]", "S @ T(T(V)) == [[0, -4], [1, 0]]", "4 > -4"),
                {"S": "[[4, 0], [0, 1]]", "V": "[[0, -1], [1, 0]]"},
            ),
        ),
        true=tuple(over_line(d, n) for d, n in SIZES),
        true_scope=DONE,
    ),
    Certificate(
        claim="(3.80)-(3.81)",
        word="proven false",
        scope=ENDS,
        printed=(
            Step(
                "with alpha = K in both layers at W = (R, R), U = V = I: W_2^T Z_2 - Z_1 W_1^T = R K - K R is not 0",
                ("(R @ K - K @ R)[0][1] > 0", "R @ R == [[4, 0], [0, 1]]", "K @ K == [[5/2, 3/2], [3/2, 5/2]]"),
                {"R": BY_HAND["R"], "K": BY_HAND["K"]},
            ),
        ),
        true=(bracket(2), bracket(3)),
        true_scope="d = 2, 3; all N: the bracket [L, Q L~ Q^T]",
    ),
)
