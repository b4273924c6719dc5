"""The exact flows: one mode at any depth against many digits, two layers against SciPy, modes and networks."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln

mode, two_layer = dln.closed_form.mode, dln.closed_form.two_layer
DEPTHS = [1.0, 1.5, 2.0, 2.0 + 1e-9, 3.0, 7.5, 1e4, np.inf]


def primitive(x, p):
    """The integral of x^(-p)/(1 - x) for 0 < x < 1, by the hypergeometric function."""
    if p == 1:
        return mpmath.log(x / (1 - x))
    if p == 2:
        return -1 / x + mpmath.log(x / (1 - x))
    return x ** (1 - p) / (1 - p) * mpmath.hyp2f1(1, 1 - p, 2 - p, x)


def time_between(a, b, s, depth):
    """How long the mode takes from a to b, in 50 digits: t(sigma), which is in closed form."""
    a, b, s = (mpmath.mpf(float(z)) for z in (a, b, s))
    p = 2 - (0 if depth == np.inf else 2 / mpmath.mpf(depth))
    if a < s:
        return (primitive(b / s, p) - primitive(a / s, p)) / s**p
    return (primitive(s / b, 1 - p) - primitive(s / a, 1 - p)) / s**p


# (sigma_0, sigma, s): the end is given, and t follows from it.
CASES = [
    (0.1, 0.3, 2.0),
    (0.1, 1.2, 2.0),
    (1e-6, 0.9, 1.0),
    (0.3, 0.3000001, 0.5),
    (1.5, 1.9999, 2.0),
    (0.7, 0.7 - 1e-9, 0.6),
    (30.0, 2.1, 2.0),
    (30.0, 20.0, 2.0),
    (1e3, 1.5, 1.0),
    (1e-30, 1e-12, 1.0),
    (1e-30, 0.6, 1.0),
]


def times_of(a, b, s, depth, tolerance):
    """The first and the last time at which the mode is at b to this relative tolerance, and a little more."""
    near = [b * (1 - tolerance), b * (1 + tolerance)]
    # What is beyond the target is never reached.
    ts = [time_between(a, z, s, depth) if (z - s) * (a - s) > 0 else mpmath.inf for z in near]
    return min(ts) * (1 - tolerance), max(ts) * (1 + tolerance)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
def test_mode_is_right_to_rounding_at_any_depth_and_scale(depth, scale):
    ends = scale * np.array(CASES)
    # A power of 1e120 has an error of 276 roundings of its exponent.
    tolerance = (1 if scale == 1 else 20) * 1e-14
    with mpmath.workdps(50):
        ts = np.array([float(time_between(*case, depth)) for case in ends])
        found = np.asarray(mode(ends[:, 0], ends[:, 2], depth, ts))
        # Late in an escape a rounding of t is all of sigma: then the answer is right for a t that rounds to the same.
        for (a, _, s), b, t in zip(ends, found, ts, strict=True):
            first, last = times_of(a, b, s, depth, tolerance)
            assert first <= t <= last
    assert np.sum(np.abs(found / ends[:, 1] - 1) < tolerance) >= 6


def test_mode_at_two_layers_is_the_sigmoid_of_saxe_and_at_one_the_exponential():
    t, s, start = np.linspace(0, 20, 41), 1.7, 1e-4
    sigmoid = s * np.exp(s * t) / (np.exp(s * t) - 1 + s / start)
    np.testing.assert_allclose(mode(start, s, 2, t), sigmoid, rtol=ALGEBRA)
    np.testing.assert_allclose(mode(start, s, 1, t), s + (start - s) * np.exp(-t), rtol=ALGEBRA)


@pytest.mark.parametrize("depth", DEPTHS)
def test_mode_solves_its_equation_by_scipy(depth):
    p, ts = 2 - 2 / depth, np.array([0.0, 0.03, 0.7, 4.0])
    for start, s in ((0.05, 1.3), (4.0, 1.3), (0.6, 0.0), (1.3, 1.3)):
        rate = lambda t, y, s=s: y**p * (s - y)
        out = solve_ivp(rate, (0, 4), [start], method="DOP853", rtol=1e-12, atol=1e-15, t_eval=ts)
        np.testing.assert_allclose(mode(start, s, depth, ts), out.y[0], rtol=1e-9)


def test_mode_arrives_and_rests():
    late = mode(jnp.array([1e-9, 0.5, 1.0, 40.0]), 1.0, jnp.array(DEPTHS)[:, None], 1e12)
    assert_close(late, np.ones((len(DEPTHS), 4)), ALGEBRA)
    assert mode(0.3, 2.0, 3, 0.0) == 0.3 and mode(2.0, 2.0, jnp.inf, 5.0) == 2.0
    assert mode(np.float32(0.3), np.float32(2), 3, np.float32(1)).dtype == jnp.float32


@pytest.mark.long
def test_derivatives_of_mode_are_those_of_differences():
    # On the way, beyond half of the target, from above, and near it.
    points = jnp.array([(0.1, 2.0, 3.0, 0.9), (0.1, 2.0, 2.0, 3.0), (5.0, 2.0, 4.0, 0.2), (1.9, 2.0, 7.0, 0.4)])
    f, h = (lambda p: mode(*p)), 1e-5
    value, slope = jax.jit(jax.vmap(f)), jax.jit(jax.vmap(jax.grad(f)))
    differences = lambda f: jnp.stack([(f(points + w) - f(points - w)) / (2 * h) for w in h * jnp.eye(4)], -1)
    assert_close(slope(points), differences(value), FINITE_DIFFERENCE)
    # Of any order, and in both modes.
    assert_close(jax.jit(jax.vmap(jax.hessian(f)))(points), differences(slope), FINITE_DIFFERENCE)


def test_mode_falls_to_a_target_of_zero_beyond_the_range_of_the_floats():
    assert_close(dln.closed_form.mode(0.1, jnp.array([2.0, 1.0, 0.0]), 1, 1000.0), [2.0, 1.0, 0.0], ALGEBRA)
    for t in (1.0, 600.0, 720.0):
        assert_close(dln.closed_form.mode(0.3, 0.0, 1, t), 0.3 * np.exp(-t), ALGEBRA)
        assert_close(jax.grad(dln.closed_form.mode)(0.3, 0.0, 1.0, t), np.exp(-t), ALGEBRA)
        # The derivative in the target is a product of numbers beyond the range of the floats at the last time.
        slope = jax.grad(dln.closed_form.mode, 1)(0.3, 0.0, 1.0, t)
        assert jnp.isnan(slope) if t > 709 else abs(slope - (1 - np.exp(-t))) < 1e-12
    # From far above, t = 1/x + log((x - 1)/x) - 1/x_0 - log((x_0 - 1)/x_0) up to the sign.
    x = float(dln.closed_form.mode(1e150, 1.0, jnp.inf, 1.0))
    assert_close(-1 / x - np.log1p(-1 / x), 1.0, ALGEBRA)


def test_derivatives_of_mode_at_rest():
    # sigma_0 = s is an equilibrium, from where a neighbour comes back at the rate s^p.
    assert_close(jax.grad(mode)(2.0, 2.0, 4.0, 0.3), np.exp(-(2.0**1.5) * 0.3), ALGEBRA)
    assert_close(jax.grad(mode, 3)(0.5, 2.0, jnp.inf, 0.0), 0.5**2 * 1.5, ALGEBRA)


# (h, m, n, l): l > 0 needs h <= m, and l < 0 needs h <= n.
STARTS = [(2, 2, 2, 0.0), (3, 4, 2, 0.7), (2, 3, 4, -1.5), (5, 2, 3, 0.0), (1, 3, 2, 12.0), (3, 3, 3, -1e-3)]


def start(key, h, m, n, l, scale=0.5):
    """W_1 and W_2 with W_2^T W_2 - W_1 W_1^T = l I."""
    x, y = jax.random.normal(key, (h, n)), jax.random.normal(jax.random.fold_in(key, 1), (m, h))
    if l == 0:
        return dln.balance((scale * x, scale * y)) if h <= min(m, n) else dln.balanced_factors(scale * y @ x, 2, (h,))
    if l < 0:
        w2, w1 = start(key, h, n, m, -l, scale)
        return w1.T, w2.T
    values, frame = np.linalg.eigh(scale**2 * x @ x.T + l * np.eye(h))
    return scale * x, jnp.linalg.qr(y)[0] @ (frame * np.sqrt(values)) @ frame.T


def flow_by_scipy(w1, w2, target, ts):
    h, m, n = len(w1), *target.shape

    def velocity(t, y):
        a, b = y[: h * n].reshape(h, n), y[h * n :].reshape(m, h)
        slope = b @ a - target
        return -np.concatenate([(b.T @ slope).ravel(), (slope @ a.T).ravel()]) / 2

    y = np.concatenate([np.ravel(w1), np.ravel(w2)])
    out = solve_ivp(velocity, (0, ts[-1]), y, method="DOP853", rtol=1e-13, atol=1e-15, t_eval=ts).y.T
    return [(y[: h * n].reshape(h, n), y[h * n :].reshape(m, h)) for y in out]


@pytest.mark.parametrize("shape", STARTS, ids=str)
def test_two_layers_are_those_of_scipy(shape, key):
    h, m, n, l = shape
    w1, w2 = start(key, *shape)
    target, ts = jax.random.normal(jax.random.fold_in(key, 2), (m, n)), np.array([0.0, 0.2, 1.0, 3.0, 9.0])
    found = two_layer(w1, w2, target, ts)
    for k, (a, b) in enumerate(flow_by_scipy(w1, w2, np.asarray(target), ts)):
        first, second = (w[k] for w in found.weights)
        assert_close(found.x[k], b @ a, 1e-9)
        # Of the factors, what no orthogonal matrix in between changes.
        assert_close(first.T @ first, a.T @ a, 1e-9)
        assert_close(second @ second.T, b @ b.T, 1e-9)
        assert_close(second.T @ second - first @ first.T, l * np.eye(h), 1e-9)
    if shape in STARTS[:2]:
        up = dln.network_flow(lambda x: jnp.sum((x - target) ** 2) / 2, (w1, w2), ts=ts, rtol=1e-11)
        assert_close(found.x, up.x, INTEGRATION)


@pytest.mark.parametrize("scale", [1e-120, 1.0, 1e120])
@pytest.mark.parametrize("small", [1e-3, 1e-25])
def test_two_layers_along_the_singular_vectors_are_modes(scale, small, key):
    # The second mode escapes long after the first has arrived: e^{Ft} is e^(200) for one and e^(10) for the other.
    u, v = (jnp.linalg.qr(a)[0] for a in jax.random.normal(key, (2, 3, 3)))
    s = scale * jnp.array([4.0, 0.5, 0.02])
    w1, w2 = dln.balanced_factors(small * scale * u @ v.T, 2)
    ts = np.array([0.3, 5.0, 20.0, 130.0, 700.0, 4e3]) / scale
    found = jnp.einsum("mi,tmn,ni->ti", u, two_layer(w1, w2, (u * s) @ v.T, ts).x, v)
    expected = mode(small * scale, s, 2, ts[:, None])
    # A rounding of the target, relative to its largest value, moves the escape of the others.
    np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-9, atol=1e-14)


def test_two_layers_arrive_however_long_they_take(key):
    for shape in STARTS:
        h, m, n, _ = shape
        target = jax.random.normal(jax.random.fold_in(key, 2), (m, n))
        sigma, k = dln.svd(target), min(h, m, n)
        best = (sigma.u[:, :k] * sigma.sigma[:k]) @ sigma.v[:, :k].T
        assert_close(two_layer(*start(key, *shape), target, 1e9).x, best, 1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_two_layers_on_the_stable_manifold_of_a_saddle_stay_on_it(d):
    """The determinant of a balanced product keeps its sign, so that the least value tends to 0 and not to its target.

    Beside the saddle rounding would grow to the size of the target by t = 40.
    """
    rng = np.random.default_rng(d)
    u, v = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    target = (u * np.linspace(2.0, 1.0, d)) @ v.T
    w1, w2 = dln.balanced_factors(jnp.asarray((u * np.append(np.ones(d - 1), -0.7)) @ v.T), 2)
    x = dln.closed_form.two_layer(w1, w2, jnp.asarray(target), [1.0, 20.0, 60.0, 500.0]).x
    stays = (u[:, : d - 1] * np.linspace(2.0, 1.0, d)[: d - 1]) @ v[:, : d - 1].T
    assert_close(x[-1], stays, ALGEBRA)
    assert np.sign(np.linalg.det(x[0])) == -np.sign(np.linalg.det(target))


def test_two_layers_that_rest_or_see_nothing_of_the_target():
    zero, eye = jnp.zeros((2, 2)), jnp.eye(2)
    assert_close(two_layer(zero, zero, eye, [0.0, 1e9]).x, np.zeros((2, 2, 2)), 0.0)
    # The fastest mode has no start, and never gets one; the hidden layer mixes the others.
    turn, some = dln.svd(jnp.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0], [2.0, 1.0, 1.0]])).u, jnp.array([0.0, 1.0, 1.0])
    found = two_layer(1e-3 * turn * some, 1e-3 * some[:, None] * turn.T, jnp.diag(jnp.array([3.0, 2.0, 1.0])), 1e3)
    assert_close(found.x, np.diag([0.0, 2.0, 1.0]), ALGEBRA)
    # Without a target it decays, as x' = -x^2.
    assert_close(two_layer(eye, eye, zero, 3.0).x, eye / 4, ALGEBRA)
    assert_close(two_layer(zero, 2.0 * eye, zero, 3.0).x, zero, ALGEBRA)


@pytest.mark.long
def test_two_layers_have_derivatives_where_rows_vanish_and_at_any_imbalance(key):
    # The start has the frame of the target, so that what lies outside of the frame is 0.
    target = jnp.diag(jnp.array([2.0, 1.0]))
    aligned = jax.jit(lambda c: two_layer(*(jnp.sqrt(c) * jnp.eye(2),) * 2, target, 1.5).x[0, 0])
    assert_close(jax.grad(aligned)(0.1), jax.grad(lambda c: mode(c, 2.0, 2, 1.5))(0.1), ALGEBRA)
    x0, target = jax.random.normal(key, (2, 3)), jax.random.normal(jax.random.fold_in(key, 1), (2, 3))
    lazy = jax.jit(lambda g: two_layer(*dln.imbalanced_factors(x0, g), target, 1.3).x[0, 1])
    slope = (lazy(1e-5) - lazy(-1e-5)) / 2e-5
    for g in (1e-6, 1e-17, 1e-170, 1e-310):
        assert_close(jax.grad(lazy)(g), slope, FINITE_DIFFERENCE)


@pytest.mark.long
def test_two_layers_of_any_times_and_their_derivatives(key):
    w1, w2 = start(key, 2, 2, 3, 0.0)
    target = jax.random.normal(key, (2, 3))
    ts = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    many = two_layer(w1, w2, target, ts)
    single = two_layer(*(a.astype(jnp.float32) for a in (w1, w2, target)), 1.0)
    assert single.x.dtype == jnp.float32 and np.allclose(single.x, many.x[0, 1], atol=1e-5)
    assert many.x.shape == (2, 2, 2, 3) and many.weights[0].shape == (2, 2, 2, 3)
    assert_close(jax.vmap(lambda t: two_layer(w1, w2, target, t).x)(ts[1]), many.x[1], ALGEBRA)
    h = 1e-5
    f = jax.jit(lambda target, t: two_layer(w1, w2, target, t).x[0, 1])
    by_target, by_time = jax.grad(f, (0, 1))(target, 1.3)
    way = jax.random.normal(jax.random.fold_in(key, 5), (2, 3))
    assert_close(by_time, (f(target, 1.3 + h) - f(target, 1.3 - h)) / (2 * h), FINITE_DIFFERENCE)
    ahead, behind = f(target + h * way, 1.3), f(target - h * way, 1.3)
    assert_close(jnp.sum(by_target * way), (ahead - behind) / (2 * h), FINITE_DIFFERENCE)
    x0 = w2 @ w1
    along = jax.jit(lambda c: two_layer(*dln.balanced_factors(c * x0, 2), target, 1.3).x[0, 1])
    assert_close(jax.grad(along)(1.0), (along(1 + h) - along(1 - h)) / (2 * h), FINITE_DIFFERENCE)
