"""The functions that certificates name are those of the statements: by SymPy, from the definitions."""

import pytest
import sympy as sp

from dlnjax.claims.proofs import (
    _chapter2,
    _chapter2_metric,
    _chapter3_diagonal,
    _chapter3_lines,
    _chapter4_entropy,
    _chapter4_pairs,
    certificates,
)

x, y, u, r = sp.symbols("x y u r", positive=True)
DIGITS = 40


def given(let, name, *arguments):
    """The value of a name that a certificate defines, at its arguments, where e is exp(u)."""
    names = {"u": u, "e": sp.exp(u), "D": sp.diff}
    for place, body in let.items():
        head, _, of = place.partition("(")
        if of:
            parameters = sp.symbols(of[:-1], positive=True)
            parameters = parameters if isinstance(parameters, tuple) else (parameters,)
            inner = names | dict(zip((str(p) for p in parameters), parameters, strict=True))
            names[head] = sp.Lambda(parameters, sp.sympify(body, locals=inner))
        else:
            names[head] = sp.sympify(body, locals=names)
    return names[name](*arguments) if arguments else names[name]


def same(a, b, at):
    """Whether two expressions agree at a point, to many digits."""
    return abs(sp.N((a - b).subs(at), DIGITS)) < sp.Float(10) ** (5 - DIGITS)


PAIR = sp.log((x**2 - y**2) / (sp.log(x**2) - sp.log(y**2))) / 2
POINTS = [{x: sp.Rational(7, 2), y: sp.Rational(5, 3)}, {x: sp.Rational(1, 9), y: sp.Rational(4, 3)}]


@pytest.mark.parametrize("at", POINTS)
def test_slope_and_hessian_are_the_derivatives_of_the_entropy(at):
    log = sp.log(x / y)
    for text, of in (
        (given(_chapter4_pairs.SLOPE, "g", x, y, log), (x,)),
        (given(_chapter4_pairs.HESSIAN, "second", x, y, log), (x, x)),
        (given(_chapter4_pairs.HESSIAN, "cross", x, y, log), (x, y)),
    ):
        assert same(text, sp.diff(PAIR, *of), at)
        assert not same(2 * text, sp.diff(PAIR, *of), at)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("at", POINTS)
def test_slope_and_hessian_at_depth_are_the_derivatives_of_the_entropy(n, at):
    pair = sp.log((x**2 - y**2) / (x ** sp.Rational(2, n) - y ** sp.Rational(2, n))) / 2
    roots = x ** sp.Rational(1, n), y ** sp.Rational(1, n)
    at_depth = _chapter4_pairs.pair_at_depth(n)
    assert same(given(_chapter4_pairs.slope_at(n), "g", *roots), x * sp.diff(pair, x), at)
    assert same(given(at_depth, "second", *roots), x**2 * sp.diff(pair, x, x), at)
    assert same(given(at_depth, "cross", *roots), x * y * sp.diff(pair, x, y), at)


def test_curvature_is_that_of_the_circles():
    q = 2 * u * sp.tanh(u / 2)
    h = sp.sqrt(q)
    for name, expected in (("q", q), ("dq", sp.diff(q, u)), ("ddq", sp.diff(q, u, 2)), ("K", -sp.diff(h, u, 2) / h)):
        assert all(same(given(_chapter3_diagonal.CURVATURE, name), expected, {u: at}) for at in (sp.Rational(1, 3), 4))


def sides(step, index=0):
    left, right = step.show[index].replace("<", ">").split(">")
    return [sp.sympify(side, locals={"u": u, "e": sp.exp(u)}) for side in (left, right)]


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_kernel_over_lambda_is_what_is_bounded(n):
    """((x - y)/(x^(1/N) - y^(1/N)))^2/N over (2.20) at x = exp(N u), y = 1 is the smaller over the larger side."""
    a = sp.exp(u)
    ratio = ((a**n - 1) / (a - 1)) ** 2 / n / ((a ** (2 * n) - 1) / (a**2 - 1))
    larger, smaller = sides(_chapter3_lines.below(n))
    assert same(smaller / larger, ratio, {u: sp.Rational(3, 7)})


def test_rates_of_the_spread_are_those_of_the_flow():
    """d log(s_i)/dt is s_i dS/ds_i along the flow at infinite depth."""
    rate = (x * sp.diff(PAIR, x)).subs({x: sp.exp(u), y: 1})
    parting = rate - (y * sp.diff(PAIR, y)).subs({x: sp.exp(u), y: 1})
    (own, gap), (slope, fall) = sides(_chapter4_entropy.SPREADS), sides(_chapter4_entropy.SPREADS, 1)
    at = {u: sp.Rational(3, 4)}
    assert same(own - gap, parting, at)
    assert same((slope - fall) / 2, sp.diff(rate, u), at)


@pytest.mark.parametrize("n", [3, 10])
def test_rates_at_depth_are_those_of_the_flow(n):
    """d log(s_i)/dt is s_i^(1-2/N) dS/ds_i along the flow at depth N."""
    pair = sp.log((x**2 - y**2) / (x ** sp.Rational(2, n) - y ** sp.Rational(2, n))) / 2
    rates = [s ** (1 - sp.Rational(2, n)) * sp.diff(pair, s) for s in (x, y)]
    larger, smaller = sides(_chapter4_entropy.parts_at(n))
    at = {x: sp.exp(n * sp.Rational(1, 5)), y: 1, u: sp.Rational(1, 5)}
    assert same(larger - smaller, rates[0] - rates[1], at)


def test_the_limit_of_depth_has_two_factors_that_tend_to_1():
    """1/N times (2.20) over its limit is v/(exp(v) - 1) over sigma_l^(2/N), and a step bounds each of them."""
    n, at = 7, POINTS[0]
    limit = (x**2 - y**2) / (sp.log(x**2) - sp.log(y**2))
    v = 2 * sp.log(x / y) / n
    lam = (x**2 - y**2) / (x ** sp.Rational(2, n) - y ** sp.Rational(2, n))
    assert same(lam / n / limit, v / (sp.exp(v) - 1) / y ** sp.Rational(2, n), at)
    for steps in (certificates()["Remark 2.2.3, (2.31)"].printed, certificates()["(4.28)"].true):
        assert _chapter2_metric.DEEP in steps and _chapter2_metric.SAME_VALUE in steps


def test_the_submersion_has_the_operator_of_its_lifts():
    printed = certificates()["Theorem 2.2.6"].printed
    assert all(step in printed for step in (*_chapter2.FLOW, *_chapter2_metric.LIFTS, *_chapter2_metric.EIGENVALUES))


def test_scopes_say_where_roots_are_real_and_what_is_left_out():
    assert certificates()["Corollary 3.4.2.1"].scope.startswith("positive diagonals")
    assert certificates()["Corollary 4.1.3.1, X stays diagonal"].scope.endswith(
        "as A(G) = lambda o G is diagonal with G"
    )
    assert "only normalize" in certificates()["Lemma 2.2.7"].scope


def test_the_hessian_is_negative_definite_at_equal_values_too():
    pair = sp.log(sp.sinh(u) / u) / 2
    of_gap = sp.limit(sp.diff(pair, u, 2), u, 0)
    # S is half of log(x) + log(y), and this function of the log-ratio u.
    assert [of_gap - sp.Rational(1, 2), -of_gap] == [-sp.Rational(1, 3), -sp.Rational(1, 6)]
    for name in ("Lemma 4.3.5", "Lemma 4.3.5 for S_N"):
        certificate = certificates()[name]
        assert _chapter4_pairs.EQUAL in (*certificate.printed, *certificate.true)
