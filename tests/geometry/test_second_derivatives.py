"""Second derivatives where singular values repeat, in both modes: against curves on which the operator is known."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln

D = 3
SPECTRA = {"all equal": [1.0, 1.0, 1.0], "two equal": [1.0, 1.0, 0.6], "apart": [1.5, 1.0, 0.6]}
MODES = {
    "forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
    "hessian": jax.hessian,
    "reverse": lambda f: jax.grad(jax.grad(f)),
}


def summed(z):
    return jnp.sum(jnp.sin(z))


class Curve(NamedTuple):
    """X(c) = T^3 Q, with T(c) symmetric and Q(c) orthogonal, so that A_X(P) at depth 3 is a polynomial in T."""

    start: jax.Array
    t: jax.Array
    turn: jax.Array
    p: jax.Array

    @classmethod
    def of(cls, key, spectrum):
        a, b, c = jax.random.normal(key, (3, D, D))
        return cls(jnp.diag(jnp.array(spectrum)), (a + a.T) / 4, b - b.T, c)

    def factors(self, c):
        return self.start + c * self.t, jax.scipy.linalg.expm(c * self.turn)

    def x(self, c):
        t, q = self.factors(c)
        return t @ t @ t @ q

    def operator(self, c):
        t, q = self.factors(c)
        p, square = self.p @ q.T, t @ t
        return (square @ square @ p + square @ p @ square + p @ square @ square) / 3 @ q


@functools.cache
def second_derivative(mode, ours):
    """curve -> the second derivative at c = 0 of a function of A_X(P) along the curve: one program for all curves."""
    operator = (lambda curve, c: dln.metric_operator(curve.x(c), curve.p, 3)) if ours else Curve.operator
    return jax.jit(lambda curve: MODES[mode](lambda c: summed(operator(curve, c)))(0.0))


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("mode", MODES)
def test_operator_has_the_second_derivatives_of_the_polynomial(spectrum, mode, key):
    curve = Curve.of(key, SPECTRA[spectrum])
    assert_close(second_derivative(mode, True)(curve), second_derivative("forward", False)(curve), 1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4)])
def test_operator_of_a_rectangular_matrix_has_its_second_derivatives(shape, key):
    ka, kb, kc = jax.random.split(key, 3)
    m, n = shape
    frame = jnp.linalg.qr(jax.random.normal(ka, (m, m)))[0]
    x, dx, p = frame @ jnp.eye(m, n), jax.random.normal(kb, shape), jax.random.normal(kc, shape)
    f = jax.jit(lambda c: summed(dln.metric_operator(x + c * dx, p, 3)))
    h = 1e-3
    expected = (16 * (f(h) + f(-h)) - (f(2 * h) + f(-2 * h)) - 30 * f(0.0)) / (12 * h**2)
    for mode in MODES.values():
        assert_close(jax.jit(mode(f))(0.0), expected, FINITE_DIFFERENCE)


@pytest.mark.parametrize("shape", [(3, 3), (5, 3), (3, 5)])
def test_matrix_of_the_decomposition_has_all_derivatives(shape, key):
    ka, kb = jax.random.split(key)
    frame = jnp.linalg.qr(jax.random.normal(ka, (shape[0], shape[0])))[0]
    x, dx = frame @ jnp.zeros(shape).at[:3, :3].set(jnp.diag(jnp.array([1.0, 1.0, 0.5]))), jax.random.normal(kb, shape)
    ours, itself = (lambda c: summed(dln.svd(x + c * dx).matrix)), (lambda c: summed(x + c * dx))
    forward = lambda f: jax.jacfwd(jax.jacfwd(jax.jacfwd(f)))
    assert_close(jax.jit(forward(ours))(0.0), jax.jit(forward(itself))(0.0), ALGEBRA)
    for mode in MODES.values():
        assert_close(jax.jit(mode(ours))(0.0), jax.jit(mode(itself))(0.0), ALGEBRA)


@jax.jit
def at_a_thin_point(c, depth, left, right, dl, dr, p, q):
    """Numbers of the metric at a point of rank 2 on a curve, whose singular values are equal at c = 0."""
    x = dln.svd((left + c * dl) @ (right + c * dr).T, rank=2)
    tangent = dln.metric_operator(x, p, depth)
    gradient = dln.riemannian_gradient(lambda x: jnp.sum(q * x**2), x, depth)
    lengths = dln.norm(x, tangent, depth), dln.inner(x, tangent, gradient, depth), dln.hamiltonian(x, p, depth)
    back = summed(dln.metric_operator_inverse(x, gradient, depth))
    return jnp.stack([summed(tangent), summed(gradient), *lengths, back])


forward_at_a_thin_point = jax.jit(jax.jacfwd(at_a_thin_point))
reverse_at_a_thin_point = jax.jit(jax.jacrev(at_a_thin_point))


@pytest.mark.parametrize("depth", [3.0, np.inf])
def test_first_derivatives_at_a_thin_point_of_equal_values(depth, key):
    left, right, dl, dr, p, q = jax.random.normal(key, (6, 4, 4))
    u, v = (jnp.linalg.qr(z[:, :2])[0] for z in (left, right))
    given = depth, u, v, dl[:, :2], dr[:, :2], p, q
    h, f = 1e-3, lambda c: at_a_thin_point(c, *given)
    expected = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
    assert_close(forward_at_a_thin_point(0.0, *given), expected, FINITE_DIFFERENCE)
    assert_close(reverse_at_a_thin_point(0.0, *given), expected, FINITE_DIFFERENCE)


def test_a_derivative_that_would_be_wrong_is_nan(key):
    dx, p = jax.random.normal(key, (2, D, D))
    third = lambda x: jax.jit(jax.jacfwd(MODES["hessian"](lambda c: dln.hamiltonian(x + c * dx, p, 3))))(0.0)
    assert jnp.isnan(third(jnp.eye(D)))
    assert jnp.isfinite(third(jnp.diag(jnp.array([1.5, 1.0, 0.6]))))


def test_second_derivatives_of_the_effective_rank_are_finite_in_reverse_mode():
    sigma = jnp.array([2.0, 1.0, 1.0])
    f = lambda c: dln.effective_rank(sigma.at[0].add(c))
    assert_close(jax.jit(MODES["reverse"](f))(0.0), jax.jit(MODES["forward"](f))(0.0), ALGEBRA)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("at", ["matrix", "thin"])
def test_square_of_a_length_has_no_second_derivative_at_the_corner_of_the_length(at, mode, key):
    """It would be 0 and not twice the metric. Away from the corner it is twice the metric."""
    x, z = jnp.eye(D), jax.random.normal(key, (D, D))
    point = dln.svd(x, rank=D) if at == "thin" else x
    second = jax.jit(MODES[mode](lambda c: dln.norm(point, c * z, 2) ** 2))
    assert jnp.isnan(second(0.0))
    assert_close(second(0.5), 2 * dln.inner(x, z, z, 2), ALGEBRA)
    assert jax.grad(lambda c: dln.norm(point, c * z, 2) ** 2)(0.0) == 0


def test_distance_to_the_boundary_has_no_second_derivative_where_the_least_value_is_repeated():
    direction = jnp.array([[1.0, 0.5], [-0.3, 0.7]])
    for sigma, repeated in ([1.0, 1.0], True), ([2.0, 1.0], False):
        f = lambda c, x=jnp.diag(jnp.array(sigma)): dln.boundary_distance(x + c * direction, 2.0) ** 2
        seconds = jnp.array([jax.jit(second(f))(0.0) for second in MODES.values()])
        # The square is 4 sigma_min. Equal values share the derivative of their sum, that of the trace.
        assert_close(jax.grad(f)(0.0), 4 * (0.85 if repeated else 0.7), ALGEBRA)
        assert jnp.isnan(seconds).all() if repeated else jnp.isfinite(seconds).all()


MATRIX = jnp.diag(jnp.array([2.0, 0.0]))
# Functions of one number that have no second derivative at 0, though their first may be finite there.
CORNERS = {
    "entropy": lambda c: dln.entropy(jnp.array([1.0, 0.0]).at[0].add(c), 2),
    "effective rank": lambda c: dln.effective_rank(jnp.array([1.0, 0.0]) + jnp.array([c, 0.0])),
    "stable rank": lambda c: dln.stable_rank(jnp.array([1.0 + c, 1.0])),
    "free energy": lambda c: dln.FreeEnergy(dln.Schatten(2.0), 1.0, 2)(MATRIX.at[1, 1].add(c)),
    "spectral energy": lambda c: dln.SpectralEnergy(lambda s: (s - 1) ** 2)(MATRIX.at[1, 1].add(c)),
}


@pytest.mark.parametrize("name", CORNERS)
def test_second_derivative_at_a_corner_is_nan_in_every_mode(name):
    f = CORNERS[name]
    assert jnp.isfinite(jax.jit(jax.grad(f))(0.0))
    assert all(jnp.isnan(jax.jit(second(f))(0.0)) for second in MODES.values())


def test_linear_spectral_energy_is_the_nuclear_norm(key):
    x = jax.random.normal(key, (D, D))
    one, other = dln.SpectralEnergy(lambda s: 2 * s), dln.Schatten(1)
    assert_close(jax.jit(jax.hessian(one))(x), 2 * jax.jit(jax.hessian(other))(x), ALGEBRA)
