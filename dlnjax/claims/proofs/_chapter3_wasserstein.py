"""Section 3.2: the geometry of Bures and Wasserstein, as identities of symmetric matrices."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._text import diagonal, inverse, orthogonal, symmetric

SIZES = (2, 3)
BOTH = "d = 2, 3"


def of_symmetric(
    says: str, shown: tuple[str, ...], letters: str, let: dict[str, str], scalars: tuple[str, ...] = ()
) -> tuple[Step, ...]:
    """A step for each size about free symmetric matrices X, Y, ..., named by their letters."""
    steps = []
    for d in SIZES:
        made = [symmetric(letter.lower(), d) for letter in letters]
        given = dict(zip(letters, (text for text, _ in made), strict=True)) | {"I": diagonal(["1"] * d)}
        variables = (*(x for _, entries in made for x in entries), *scalars)
        steps.append(Step(f"d = {d}: {says}", shown, given | let, variables))
    return tuple(steps)


def lifts(d: int) -> Step:
    """V = K W lifts Z = K W W^T + W W^T K, and is orthogonal to every A W^-T, A antisymmetric."""
    w = orthogonal("W", d)
    k, of_k = symmetric("k", d)
    pairs = [(i, j) for i in range(d) for j in range(i + 1, d)]
    entry = lambda i, j: "0" if i == j else f"a{i}{j}" if i < j else f"-a{j}{i}"
    a = "[" + ", ".join("[" + ", ".join(entry(i, j) for j in range(d)) + "]" for i in range(d)) + "]"
    entries = tuple(f"w{i}{j}" for i in range(1, d + 1) for j in range(1, d + 1))
    return Step(
        f"d = {d}, Wt the inverse of W: V = K W is over Z = K X + X K, orthogonal to all that W W^T does not feel, and "
        "its square is Tr(Z K)/2",
        (
            "V @ T(W) + W @ T(V) == Z",
            "free @ T(W) + W @ T(free) == 0*Z",
            "trace(T(V) @ free) == 0",
            "trace(T(V) @ V) == 1/2*trace(Z @ K)",
        ),
        w | {"K": k, "A": a, "X": "W @ T(W)", "Z": "K @ X + X @ K", "V": "K @ W", "free": "A @ T(Wt)"},
        (*entries, *of_k, *(f"a{i}{j}" for i, j in pairs)),
    )


SQUARES = of_symmetric(
    "A M and M A have the squares A B and B A for B = M A M, M = A^-1 # B",
    ("(A @ M) @ (A @ M) == A @ B", "(M @ A) @ (M @ A) == B @ A"),
    "AM",
    {"B": "M @ A @ M"},
)
CURVE = {"D": "t*P + I", "Z": "D @ A @ D", "B": "(P + I) @ A @ (P + I)"}
JOINS = of_symmetric(
    "(3.15) with A (P + I) and (P + I) A for the roots of A B and B A is (t P + I) A (t P + I), from A to B",
    (
        "t**2*B + (1 - t)**2*A + t*(1 - t)*(A @ (P + I) + (P + I) @ A) == Z",
        "(A @ (P + I)) @ (A @ (P + I)) == A @ B",
        "((P + I) @ A) @ ((P + I) @ A) == B @ A",
    ),
    "AP",
    CURVE,
    ("t",),
)
SOLVES = Step(
    "d = 2: with P(t) = (t P + I)^-1 P the velocity P A (t P + I) + (t P + I) A P is X P(t) + P(t) X; P(s) - P(t) = "
    "-(s - t) P(s) P(t), so that P' = -P^2",
    (
        "P @ A @ D + D @ A @ P == Z @ (Dt @ P) + (Dt @ P) @ Z",
        "St @ P - Dt @ P == -((s - t)*(St @ P @ Dt @ P))",
        "((t + h)*P + I) @ A @ ((t + h)*P + I) - Z == h*(P @ A @ D + D @ A @ P) + h**2*(P @ A @ P)",
    ),
    {
        "A": symmetric("a", 2)[0],
        "P": symmetric("p", 2)[0],
        "I": diagonal(["1", "1"]),
        "S": "s*P + I",
        **CURVE,
        "Dt": inverse("D"),
        "St": inverse("S"),
    },
    (*symmetric("a", 2)[1], *symmetric("p", 2)[1], "t", "s", "h"),
)

CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(claim="(3.9)", word="proven", scope=BOTH, printed=(lifts(2), lifts(3))),
    Certificate(
        claim="(3.9) against (2.18)",
        word="proven",
        scope=BOTH,
        printed=of_symmetric(
            "A_X(K) = X K + K X for positive definite X, and g^2 = <K, A_X(K)> is twice 1/2 Tr(K Z)",
            ("trace(T(K) @ (X @ K + K @ X)) == 2*(1/2*trace(K @ (X @ K + K @ X)))",),
            "XK",
            {},
        ),
    ),
    Certificate(
        claim="Lemma 3.2.2 (2)",
        word="proven",
        scope=f"{BOTH}: the squares; A M is similar to a positive definite matrix",
        printed=SQUARES,
    ),
    Certificate(
        claim="(3.16)",
        word="proven false",
        scope="d = 1, X = Y = H = 1",
        printed=(
            Step(
                "g(H, Y) is 1/2 H Y/(2 X): half the sum of both orders is 1/4, and Tr(L_X^-1(Y) H) is 1/2",
                ("1/2*(1/2*1/2 + 1/2*1/2) < 1/2",),
            ),
        ),
        true=of_symmetric(
            "for Y = X K + K X and H = X M + M X: g(H, Y) + g(Y, H) = Tr(K H), g(H, Y) = 1/2 Tr(K H) = 1/2 Tr(M Y)",
            ("1/2*trace(K @ H) + 1/2*trace(M @ Y) == trace(K @ H)",),
            "XKM",
            {"Y": "X @ K + K @ X", "H": "X @ M + M @ X"},
        ),
        true_scope=BOTH,
    ),
    Certificate(
        claim="(3.17)",
        word="proven",
        scope=BOTH,
        printed=of_symmetric(
            "for Y = X K + K X: Tr(P Y) - g(Y, Y) = Tr(P^2 X) - Tr((P - K)^2 X), so the supremum is Tr(P^2 X)",
            ("trace(P @ Y) - 1/2*trace(K @ Y) == trace(P @ P @ X) - trace((P - K) @ (P - K) @ X)",),
            "XPK",
            {"Y": "X @ K + K @ X"},
        ),
    ),
    Certificate(
        claim="(3.18)",
        word="proven",
        scope=BOTH,
        printed=of_symmetric(
            "the differences of H = Tr(P^2 X) along K in P and along Y in X",
            (
                "trace((P + h*K) @ (P + h*K) @ X) - trace(P @ P @ X) == h*trace(K @ (P @ X + X @ P)) + "
                "h**2*trace(K @ K @ X)",
                "trace(P @ P @ (X + h*Y)) - trace(P @ P @ X) == h*trace((P @ P) @ Y)",
            ),
            "XPKY",
            {},
            ("h",),
        ),
    ),
    Certificate(
        claim="(3.19)-(3.21)",
        word="proven",
        scope="d = 2; the logarithm by its eigenvalues, log(t p + 1)' = p/(t p + 1)",
        printed=(
            SOLVES,
            Step(
                "(t I + P^-1)^-1 is (t P + I)^-1 P",
                ("(t*I + Pt) @ (Dt @ P) == I",),
                {"I": diagonal(["1", "1"]), **orthogonal("P", 2), "D": "t*P + I", "Dt": inverse("D")},
                ("p11", "p12", "p21", "p22", "t"),
            ),
        ),
    ),
    Certificate(claim="(3.25)-(3.30)", word="proven", scope="d = 2", printed=(SOLVES,)),
    Certificate(claim="(3.31)-(3.32)", word="proven", scope=BOTH, printed=SQUARES),
    Certificate(
        claim="Theorem 3.2.3",
        word="proven",
        scope=f"{BOTH} (3.15) is (t P + I) A (t P + I) and joins A and B; d = 2 it solves (3.18)",
        printed=(*JOINS, SOLVES),
    ),
    Certificate(
        claim="Theorem 3.2.3, second proof",
        word="proven",
        scope=BOTH,
        printed=of_symmetric(
            "with R^2 = A and M = P + I, B^(1/2) U = M R: the line (I + t P) R is over X(t), and W^T W' is symmetric",
            (
                "W @ T(W) == (t*P + I) @ R @ R @ (t*P + I)",
                "T(W) @ V == T(T(W) @ V)",
                "(1 - t)*R + t*((P + I) @ R) == W",
            ),
            "RP",
            {"W": "(t*P + I) @ R", "V": "P @ R"},
            ("t",),
        ),
    ),
)
