"""A kernel of one's own: the metric of (3.76), of which the line that the thesis prints is a geodesic, exactly."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from support.kernels import AsBalanced
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln
from dlnjax._flows.frame import rotation_rates
from dlnjax._geometry.special import log_shc

A, B = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])


class Printed(dln.Kernel):
    """lambda(s, t) = ((1/N) (s - t)/(s^(1/N) - t^(1/N)))^2."""

    a: jax.Array
    degree = property(lambda self: 2 - 2 * self.a)
    straighten = lambda self, sigma: sigma**self.a / self.a
    unstraighten = lambda self, y: (self.a * y) ** (1 / self.a)
    leaving = lambda self, sigma: (self.a**2 * sigma ** (2 - 2 * self.a),) * 2

    def log_eigenvalue(self, log_s, log_t):
        half = (log_s - log_t) / 2
        return (1 - self.a) * (log_s + log_t) + 2 * log_shc(half) - 2 * log_shc(self.a * half)


@pytest.mark.parametrize("depth", [2.0, 3.0])
def test_printed_line_is_the_geodesic_of_the_kernel_that_it_belongs_to(depth):
    line = dln.geodesic(A, B, Printed(jnp.asarray(1 / depth)))
    ts = jnp.linspace(0, 1, 5)
    assert_close(line.evaluate(ts), dln.closed_form.printed_line(A, B, depth)(ts), INTEGRATION)
    root = lambda x: jnp.linalg.eigh(x)[1] * jnp.linalg.eigh(x)[0] ** (1 / depth) @ jnp.linalg.eigh(x)[1].T
    assert_close(line.length, depth * jnp.linalg.norm(root(A) - root(B)), INTEGRATION)
    # And not of the metric of the network, whose distance is shorter.
    assert line.length > dln.distance(A, B, depth) + 1e-3


def test_derivative_of_a_distance_in_the_number_of_a_kernel():
    distance = lambda a: dln.distance(A, B, Printed(a))

    def closed(a):
        power = lambda x: jnp.linalg.eigh(x)[1] * jnp.linalg.eigh(x)[0] ** a @ jnp.linalg.eigh(x)[1].T
        return jnp.linalg.norm(power(A) - power(B)) / a

    assert_close(jax.grad(distance)(jnp.asarray(0.4)), jax.grad(closed)(0.4), INTEGRATION)


def test_kernel_may_hold_a_function():
    class Scaled(Printed):
        scale: Callable

        def log_eigenvalue(self, log_s, log_t):
            return super().log_eigenvalue(log_s, log_t) + self.scale(0.0)

    one, other = Printed(jnp.asarray(0.5)), Scaled(jnp.asarray(0.5), jnp.sin)
    f = lambda x, kernel: jnp.sum(jnp.sin(dln.metric_operator(x, A, kernel)))
    assert_close(jax.grad(f)(B, other), jax.grad(f)(B, one), ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5, np.inf])
def test_defaults_of_a_kernel_are_what_balanced_has_written_out(depth):
    balanced = dln.Balanced(depth)
    general = AsBalanced(balanced)
    for sigma in ([3.0, 1.7, 0.6, 0.01], [1.5, 1.5, 0.2, 0.0], [1e3, 1.0, 1.0 + 1e-9, 1e-3]):
        sigma = jnp.array(sigma)
        weights = general.rotation_weights(sigma), balanced.rotation_weights(sigma)
        np.testing.assert_allclose(*weights, rtol=1e-11, atol=1e-300)
        assert_close(general.speed(sigma), balanced.speed(sigma), ALGEBRA)
        assert_close(general.eigenvalues(sigma), balanced.eigenvalues(sigma), ALGEBRA)
    sigma = jnp.array([3.0, 1.7, 1.7, 0.01])
    assert_close(general.entropy_gradient(sigma), balanced.entropy_gradient(sigma), 1e-9)


@pytest.mark.parametrize("kernel", [dln.Balanced(2.5), dln.Balanced(np.inf), dln.Imbalanced((0.3, -0.2))])
def test_rates_of_rotation_are_those_of_the_kernel_and_finite_where_values_meet(kernel):
    sigma, gap = jnp.array([3.0, 1.7, 1.7, 1.7 * (1 + 1e-8), 1.7 * (1 + 1e-4), 0.01]), 1e-7
    q = np.asarray(rotation_rates(kernel.rotation_weights(sigma), sigma, jnp.full_like(sigma, gap)))
    # The logarithm of the ratio in more digits than sigma has: the fourth and the fifth value are given by it.
    log = np.log1p([3.0 / 1.7 - 1, 0.0, 0.0, 1e-8, 1e-4, 0.01 / 1.7 - 1])
    u, s, near = log[:, None] - log, np.asarray(sigma), np.asarray(kernel.eigenvalues(sigma))
    total, mean = s[:, None] + s, s[:, None] * np.where(u == 0, 1, -np.expm1(-u) / np.where(u == 0, 1, u))
    np.testing.assert_allclose(q + q.T, near / total, rtol=1e-8)
    np.testing.assert_allclose(q - q.T, near / mean * u / (u * u + gap * gap), rtol=1e-7)


def test_flow_and_entropy_take_a_kernel():
    x0 = jnp.array([[0.6, 0.2], [-0.1, 0.4]])
    energy = dln.MatrixCompletion.diagonal(2)
    general, balanced = AsBalanced(dln.Balanced(3.0)), dln.Balanced(3.0)
    one, other = (dln.gradient_flow(energy, x0, depth=k, ts=[0.0, 0.5, 2.0], rtol=1e-9) for k in (general, 3.0))
    assert_close(one.x, other.x, INTEGRATION)
    again = dln.gradient_flow(energy, x0, depth=balanced, ts=[0.0, 0.5, 2.0], rtol=1e-9)
    np.testing.assert_array_equal(again.x, other.x)
    sigma = jnp.array([2.0, 1.0])
    assert_close(dln.entropy(sigma, general), dln.entropy(sigma, 3.0), ALGEBRA)
    printed = Printed(jnp.asarray(0.5))
    assert_close(dln.entropy(sigma, printed), jnp.log((2 - 1) / (2 * (2**0.5 - 1))), ALGEBRA)
    # The flow of another kernel, by SciPy in X.
    velocity = jax.jit(lambda x: -dln.metric_operator(x, energy.gradient(x), printed))
    right = lambda t, x: np.asarray(velocity(x.reshape(2, 2))).ravel()
    expected = solve_ivp(right, (0.0, 2.0), np.asarray(x0).ravel(), rtol=1e-11, atol=1e-12).y[:, -1].reshape(2, 2)
    found = dln.gradient_flow(energy, x0, depth=printed, ts=[0.0, 0.5, 2.0], rtol=1e-9).x[-1]
    assert_close(found, expected, INTEGRATION)


def test_kernel_of_balanced_networks_is_final():
    with pytest.raises(TypeError, match=r"derive a kernel of your own from dlnjax\.Kernel"):
        type("Mine", (dln.Balanced,), {})
