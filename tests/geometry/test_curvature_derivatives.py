"""The derivatives of the connection and of the curvature, also where singular values repeat."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from support.programs import lowered
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._geometry.straight import _balanced_jet

SPECTRA = [
    [2.0, 1.1, 0.3],
    [1.0, 1.0, 0.3],
    [1.0, 1.0 - 1e-9, 0.3],
    [1.0, 1.0 - 1e-4, 0.3],
    [1.0, 0.96, 0.95],
    [1.0, 1.0, 1.0],
]


@pytest.fixture(scope="module")
def points(module_key):
    """A matrix of each spectrum in one frame, and three tangent vectors."""
    keys = jax.random.split(module_key, 5)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (3, 3)))[0] for k in keys[:2])
    z = [jax.random.normal(k, (3, 3)) for k in keys[2:]]
    return jnp.stack([(u * jnp.array(s)) @ v.T for s in SPECTRA]), z


@pytest.mark.long
def test_curvature_is_the_commutator_of_the_covariant_derivatives(points):
    """R(A, B) C = D_A Gamma(B, C) - D_B Gamma(A, C) + Gamma(A, Gamma(B, C)) - Gamma(B, Gamma(A, C))."""
    xs, (a, b, c) = points

    @jax.jit
    def both(x, depth):
        def half(z, w):
            gamma = lambda x, z, w: dln.christoffel(x, z, w, depth)
            moved = jax.jvp(lambda x: gamma(x, w, c), (x,), (z,))[1]
            return moved + gamma(x, z, gamma(x, w, c))

        halves = jax.vmap(half)(jnp.stack([a, b]), jnp.stack([b, a]))
        return halves[0] - halves[1], dln.curvature(x, a, b, c, depth)

    for x in xs:
        for depth in (1.0, 3.0, np.inf):
            assert_close(*both(x, jnp.asarray(depth)), 1e-9)


@pytest.mark.long
def test_gradients_are_those_of_central_differences(points):
    xs, (a, b, c) = points
    sectional = jax.jit(dln.sectional_curvature)
    slopes = jax.jit(jax.grad(dln.sectional_curvature, (0, 1, 3)))

    def difference(f, h=1e-3):
        by = [(f(s) - f(-s)) / (2 * s) for s in (h / 2, h)]
        return (4 * by[0] - by[1]) / 3

    for x in xs:
        for depth in (jnp.asarray(1.5), jnp.asarray(jnp.inf)):
            found = slopes(x, a, b, depth)

            def moved(t, which, x=x, depth=depth):
                step = lambda name: t if which == name else 0.0
                return sectional(x + step("x") * c, a + step("z") * c, b, depth + step("depth"))

            expected = [difference(partial(moved, which=which)) for which in ("x", "z", "depth")]
            # At infinite depth the derivative is that in 1/N, times the 0 that is d(1/N)/dN.
            expected[2] = expected[2] if depth < jnp.inf else 0.0
            for one, other in zip((jnp.vdot(found[0], c), jnp.vdot(found[1], c), found[2]), expected, strict=True):
                assert_close(one, other, FINITE_DIFFERENCE)


def even_part(a, y_s, y_t):
    """c - 1/N as a function of two y, with a = 1/N."""
    log = lambda y: mpmath.log1p(a * y) / a if a else y
    u = log(y_s) - log(y_t)
    return a * mpmath.tanh(u / 2) / mpmath.tanh(a * u / 2) - a if a else mpmath.tanh(u / 2) / (u / 2)


@pytest.mark.parametrize("a", [1.0, 0.5, 1 / 7, 1e-3, 0.0])
def test_weights_of_a_balanced_network_have_the_derivatives_of_their_formula(a):
    logs = [(0.3, -0.2), (0.3, 0.3 - 1e-7), (1, -2), (-2, 1), (1.01, 0), (0, 0.99), (5, -9), (-9, 5)]
    found = [z[:, 0] for z in _balanced_jet(jnp.asarray(a), *jnp.array(logs).T)]
    with mpmath.workdps(60):
        for i, pair in enumerate(logs):
            y = [mpmath.expm1(a * mpmath.mpf(log)) / a if a else mpmath.mpf(log) for log in pair]
            for jet, order in zip(found, [(0, 0), (1, 0), (2, 0), (1, 1)], strict=True):
                exact = mpmath.diff(partial(even_part, mpmath.mpf(a)), y, order, h=mpmath.mpf(10) ** -12)
                assert abs(float(jet[i]) - exact) <= 1e-12 * abs(exact) + 1e-30


def test_value_beside_a_derivative_has_the_bits_of_the_plain_call_and_shares_its_program(points):
    """Each mode adds one program: a transpose that JAX makes would be compiled without the options of the library."""
    xs, (a, b, _) = points
    curvature = lambda x: dln.sectional_curvature(x, a, b, 2.5)
    value = curvature(xs[0])
    with lowered() as names:
        also, slope = jax.value_and_grad(curvature)(xs[0])
        _, forwards = jax.jvp(curvature, (xs[0],), (a,))
    assert float(also) == float(value)
    assert_close(forwards, jnp.sum(slope * a), ALGEBRA)
    ours = [name for name in names if "plane" in name or "wards" in name]
    assert sorted(ours) == ["jit(backwards)", "jit(forwards)"]
