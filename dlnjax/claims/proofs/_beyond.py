"""Statements beyond the thesis that are identities of polynomials."""

from collections.abc import Mapping, Sequence

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter2 import DONE, of_factors
from dlnjax.claims.proofs._text import matrix, names, times

# A 2 x 3 matrix of rank 1 with U = V = e_1, what projects on the complement of U and of V, and Z.
RANK_ONE = {
    "Z": "[[z11, z12, z13], [z21, z22, z23]]",
    "U": "[[1], [0]]",
    "V": "[[1], [0], [0]]",
    "M": "[[0, 0], [0, 1]]",
    "K": "[[0, 0, 0], [0, 1, 0], [0, 0, 1]]",
}
ENTRIES = ("z11", "z12", "z13", "z21", "z22", "z23")


def thin(says: str, layers: Sequence[str], let: Mapping[str, str], extra: Sequence[str] = ()) -> Step:
    """The operator at a matrix of rank 1, by factors with one singular value each, whose names are `layers`.

    `let` says what lam, nu and mu are.
    """
    n = len(layers)
    factors = {"W1": f"[[{layers[0]}, 0, 0]]", f"W{n}": f"[[{layers[-1]}], [0]]"}
    factors |= {f"W{p}": f"[[{layers[p - 1]}]]" for p in range(2, n)}
    terms = []
    for p in range(1, n + 1):
        above = times([f"W{q}" for q in range(n, p, -1)])
        below = times([f"W{q}" for q in range(p - 1, 0, -1)])
        left = f"({above}) @ T({above}) @ " if p < n else ""
        right = f" @ T({below}) @ ({below})" if p > 1 else ""
        terms.append(f"{left}Z{right}")
    formula = "lam*(U @ T(U) @ Z @ V @ T(V)) + nu*(M @ Z @ V @ T(V)) + mu*(U @ T(U) @ Z @ K)"
    return Step(
        f"a 2 x 3 matrix of rank 1, U = V = e_1: {says}",
        (f"1/{n}*({' + '.join(terms)}) == {formula}", *extra),
        {**let, **RANK_ONE, **factors},
        (*dict.fromkeys(layers), *ENTRIES),
    )


def balanced(n: int) -> Step:
    weight = f"l**{2 * n - 2}/{n}"
    let = {"lam": f"l**{2 * n - 2}", "nu": weight, "mu": weight}
    return thin(f"N = {n}, sigma = l^N", ["l"] * n, let)


TWO_LAYERS = thin(
    "layers s and t, g = s^2 - t^2, sigma = s t, f^2 = sigma^2 + g^2/4",
    ("s", "t"),
    {"g": "s**2 - t**2", "f": "(s**2 + t**2)/2", "lam": "f", "nu": "(f + g/2)/2", "mu": "(f - g/2)/2"},
    ("f**2 == (s*t)**2 + g**2/4", "W1 @ T(W1) == g*[[1]] + T(W2) @ W2"),
)
PAIR = Step(
    "two singular values, k and l those of the second layer: the sum over the layers is (f_k + f_l)/2",
    ("1/2*(k**2 + (l**2 + g)) == (fk + fl)/2", "fk**2 == k**2*(k**2 + g) + g**2/4"),
    {"fk": "k**2 + g/2", "fl": "l**2 + g/2"},
    ("k", "l", "g"),
)
THREE_LAYERS = thin(
    "N = 3, layers x, y and z",
    ("x", "y", "z"),
    {"lam": "((y*z)**2 + (x*z)**2 + (x*y)**2)/3", "nu": "(x*y)**2/3", "mu": "(y*z)**2/3"},
)


def change(n: int) -> tuple[str, ...]:
    """G_p after a step eta along V_p, minus G_p."""
    shown = []
    for p in range(1, n):
        a, b, c, e = (f"{x}{q}" for q in (p, p + 1) for x in ("W", "V"))
        after = f"({a} + eta*{b}) @ T({a} + eta*{b}) - T({c} + eta*{e}) @ ({c} + eta*{e})"
        shown.append(f"{after} - ({a} @ T({a}) - T({c}) @ {c}) == eta**2*({b} @ T({b}) - T({e}) @ {e})")
    return tuple(shown)


def decay(n: int) -> tuple[str, ...]:
    """G_p' = -2 a G_p along W_p' = V_p - a W_p."""
    shown = []
    for p in range(1, n):
        w, v = f"W{p}", f"W{p + 1}"
        one, two = f"(V{p} - a*{w})", f"(V{p + 1} - a*{v})"
        rate = f"{one} @ T({w}) + {w} @ T({one}) - T({two}) @ {v} - T({v}) @ {two}"
        shown.append(f"{rate} == -2*a*({w} @ T({w}) - T({v}) @ {v})")
    return tuple(shown)


def momentum(n: int) -> tuple[str, ...]:
    """M' - T(M') = -c (M - T(M)), M = W_p P_p^T - P_{p+1}^T W_{p+1}, along W_p' = P_p, P_p' = V_p - c P_p."""
    shown = []
    for p in range(1, n):
        a, b, u, v = f"W{p}", f"W{p + 1}", f"P{p}", f"P{p + 1}"
        rate = f"{u} @ T({u}) + {a} @ T(V{p} - c*{u}) - T(V{p + 1} - c*{v}) @ {b} - T({v}) @ {v}"
        kept = f"{a} @ T({u}) - T({v}) @ {b}"
        shown.append(f"{rate} - T({rate}) == -c*({kept} - T({kept}))")
    return tuple(shown)


MOTION = {
    "extra": lambda d, n: {f"P{p}": matrix(f"p{p}", d) for p in range(1, n + 1)},
    "more": lambda d: ("c", *(x for p in (1, 2, 3) for x in names(f"p{p}", d))),
}


def unit_gradient(n: int) -> Step:
    return Step(
        f"N = {n}, sigma = (y/N)^N: |grad y|^2 = lambda_kk (dy/dsigma)^2 is 1, so that no path is shorter than its way "
        "in y, and the path along grad y is as long",
        (f"(y/{n})**{2 * n - 2}/D((y/{n})**{n}, y)**2 == 1",),
        variables=("y",),
    )


DEEP_GRADIENT = Step(
    "N = inf, y = log sigma: |grad y|^2 = lambda_kk (dy/dsigma)^2 is 1, and y falls without bound as sigma tends to 0",
    ("s**2*(1/s)**2 == 1",),
    variables=("s",),
)


def cone(n: int) -> Step:
    """The matrices are the fixed points of the isometry X -> R X R^T, and so are totally geodesic."""
    return Step(
        f"N = {n}, r = t^N: (dr^2 + r^2 dtheta^2) |R|^2/lambda is dq^2 + (q/N)^2 dtheta^2, q^2 = 2 N^2 t^2",
        (
            f"D(t**{n}, t)**2*2/t**{2 * n - 2} == 2*{n}**2",
            f"(t**{n})**2*2/t**{2 * n - 2} == (2*{n}**2*t**2)/{n}**2",
            "trace([[c, s], [-s, c]] @ [[c, -s], [s, c]]) == 2*(c**2 + s**2)",
        ),
        variables=("t", "c", "s"),
    )


CERTIFICATES: tuple[Certificate, ...] = (
    Certificate(
        claim="B2.1, the operator at any shape and rank",
        word="proven",
        scope="2 x 3 matrices of rank 1, N = 2, 3, 4",
        printed=tuple(balanced(n) for n in (2, 3, 4)),
    ),
    Certificate(
        claim="B2.4, two layers with an imbalance",
        word="proven",
        scope="2 x 3 matrices of rank 1, and lambda_kl for all pairs",
        printed=(TWO_LAYERS, PAIR),
    ),
    Certificate(
        claim="B2.5, N layers with imbalances",
        word="proven",
        scope="2 x 3 matrices of rank 1, N = 3",
        printed=(THREE_LAYERS,),
    ),
    Certificate(
        claim="B3.2, the curvature of depth 2",
        word="proven",
        scope="all s_1 and s_2, as -f_-''/f_- in y of B3.1",
        printed=(
            Step(
                "N = 2, s = y^2/4 and q = f_-^2: f''/f is q''/(2q) - (q'/(2q))^2",
                ("-(D(D(q, y), y)/(2*q) - (D(q, y)/(2*q))**2) == 3/4*t/(s + t)**2",),
                {"s": "y**2/4", "t": "x**2/4", "q": "(s - t)**2/(s + t)"},
                ("y", "x"),
            ),
        ),
    ),
    Certificate(
        claim="B3.3, flat at depth 1",
        word="proven",
        scope="all d, as a metric that does not depend on X",
        printed=(Step("N = 1: every lambda_kl is 1", ("(k**2 - l**2)/(k**2 - l**2) == 1",), variables=("k", "l")),),
    ),
    Certificate(
        claim="B3.7, the distance to lower rank",
        word="proven",
        scope="all d; N = 2, 3, 10, inf: y of the least singular value has a gradient of length 1 where it is simple",
        printed=(*(unit_gradient(n) for n in (2, 3, 10)), DEEP_GRADIENT),
    ),
    Certificate(
        claim="B3.8, the cone of isotropic matrices",
        word="proven",
        scope="N = 2, 3, 10: the metric is that of a cone, on the fixed points of the isometry X -> R X R^T",
        printed=tuple(cone(n) for n in (2, 3, 10)),
    ),
    Certificate(
        claim="B4.1, G_p in a step",
        word="proven",
        scope=DONE,
        printed=of_factors("V_p = -g_p for any dE", change, more=lambda d: ("eta",)),
    ),
    Certificate(
        claim="B4.2, G_p under weight decay",
        word="proven",
        scope=f"{DONE}: G_p' = -2a G_p",
        printed=of_factors("W_p' = V_p - a W_p, V_p = -dL/dW_p for any dE", decay, more=lambda d: ("a",)),
    ),
    Certificate(
        claim="B4.3, momentum",
        word="proven",
        scope=f"{DONE}: the skew part M of what is kept has M' = -c M",
        printed=of_factors("W_p' = P_p and P_p' = V_p - c P_p, V_p = -dL/dW_p for any dE", momentum, **MOTION),
    ),
)
