"""Statements beyond the thesis that are identities of polynomials."""

from dlnjax.claims.proofs._certificate import Certificate, Step
from dlnjax.claims.proofs._chapter2 import DONE, of_factors
from dlnjax.claims.proofs._text import matrix, names, times

Z = "[[z11, z12, z13], [z21, z22, z23]]"
OUT, IN = "[[0, 0], [0, 1]]", "[[0, 0, 0], [0, 1, 0], [0, 0, 1]]"
U, V = "[[1], [0]]", "[[1], [0], [0]]"
ENTRIES = ("z11", "z12", "z13", "z21", "z22", "z23")


def thin(layers: list[str], kernel: str, nu: str, mu: str, says: str, variables: tuple[str, ...], extra=()) -> Step:
    """A 2 x 3 matrix of rank 1 at U = e_1 and V = e_1, by factors with one singular value for each layer."""
    n = len(layers)
    let = {"Z": Z, "U": U, "V": V, "Vt": "[[1, 0, 0]]"}
    let |= {f"W{p}": f"[[{layers[p - 1]}]]" for p in range(2, n)}
    let |= {"W1": f"[[{layers[0]}, 0, 0]]", f"W{n}": f"[[{layers[-1]}], [0]]"}
    terms = []
    for p in range(1, n + 1):
        above = times([f"W{q}" for q in range(n, p, -1)])
        below = times([f"W{q}" for q in range(p - 1, 0, -1)])
        left = f"({above}) @ T({above}) @ " if p < n else ""
        right = f" @ T({below}) @ ({below})" if p > 1 else ""
        terms.append(f"({left}Z{right})")
    inside = f"({kernel})*(U @ T(U) @ Z @ V @ T(V))"
    beyond = f"({nu})*({OUT} @ Z @ V @ T(V)) + ({mu})*(U @ T(U) @ Z @ {IN})"
    shown = f"1/{n}*({' + '.join(terms)}) == {inside} + {beyond}"
    return Step(f"a 2 x 3 matrix of rank 1, U = V = e_1: {says}", (shown, *extra), let, (*variables, *ENTRIES))


def balanced(n: int) -> Step:
    weight = f"l**{2 * n - 2}/{n}"
    return thin(["l"] * n, f"l**{2 * n - 2}", weight, weight, f"N = {n}, sigma = l^N", ("l",))


TWO = thin(
    ["s", "t"],
    "f",
    "(f + g/2)/2",
    "(f - g/2)/2",
    "layers s and t, g = s^2 - t^2, sigma = s t, f^2 = sigma^2 + g^2/4",
    ("s", "t"),
    ("f**2 == (s*t)**2 + g**2/4", "W1 @ T(W1) == g*[[1]] + T(W2) @ W2"),
)
TWO_LAYERS = Step(TWO.says, TWO.show, {"g": "s**2 - t**2", "f": "(s**2 + t**2)/2", **TWO.let}, TWO.variables)
PAIR = Step(
    "two singular values, t_k and t_l of the second layer: the sum over the layers is (f_k + f_l)/2",
    ("1/2*(k**2 + (l**2 + g)) == (fk + fl)/2", "fk**2 == k**2*(k**2 + g) + g**2/4"),
    {"fk": "k**2 + g/2", "fl": "l**2 + g/2"},
    ("k", "l", "g"),
)


def three_layers() -> Step:
    """The kernel of one value, nu and mu of three layers."""
    says = "N = 3, layers s_1, s_2 and s_3"
    let = {"a": "x**2", "b": "y**2", "c": "z**2"}
    step = thin(["x", "y", "z"], "(b*c + a*c + a*b)/3", "a*b/3", "b*c/3", says, ("x", "y", "z"))
    return Step(step.says, step.show, {**let, **step.let}, step.variables)


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
        printed=(three_layers(),),
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
