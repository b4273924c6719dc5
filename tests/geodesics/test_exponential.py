"""The Hamiltonian flow: its equations by autodiff, what it conserves, and where it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._geodesics.hamiltonian import orthonormal_velocity, velocity
from dlnjax._geometry.operator import apply_metric_operator

D = 3
SPECTRA = jnp.array([[2.0, 1.1, 0.3], [1.5, 1.5, 0.4], [0.8, 0.8, 0.8], [1.0, 1.0 - 1e-7, 0.4], [1.0, 0.9997, 0.999]])
DEPTHS = jnp.array([1.0, 2.0, 3.5, 50.0, jnp.inf])


@pytest.fixture(scope="module")
def points(module_key):
    """One matrix for each spectrum and depth, with a covector and two directions for each."""
    ka, kb, *rest = jax.random.split(module_key, 5)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in (ka, kb))
    x = jnp.repeat(jnp.einsum("ij,nj,kj->nik", u, SPECTRA, v), len(DEPTHS), 0)
    p, y, q = (jax.random.normal(k, x.shape) for k in rest)
    return x, p, y, q, jnp.tile(DEPTHS, len(SPECTRA))


forms = {
    "hamiltonian": dln.hamiltonian,
    "half the squared norm": lambda x, z, n: dln.inner(x, z, z, n) / 2,
}


@pytest.mark.parametrize("form", forms.values(), ids=forms)
def test_first_and_second_derivatives_are_exact_at_repeated_singular_values(points, form):
    x, p, y, q, depth = points
    slope = jax.jit(jax.vmap(jax.grad(form, (0, 1, 2))))
    depth = jnp.where((depth == 1) | jnp.isinf(depth), 3.0, depth)
    h = 1e-5
    move = lambda s: (x + s * h * y, p + s * h * q, depth + s * h)
    value = jax.jit(jax.vmap(form))
    by_x, by_p, by_depth = slope(x, p, depth)
    along = jnp.sum(by_x * y + by_p * q, (1, 2)) + by_depth
    assert_close(along, (value(*move(1)) - value(*move(-1))) / (2 * h), FINITE_DIFFERENCE)
    bent = jax.jit(jax.vmap(lambda *z: jax.jvp(jax.grad(form, (0, 1, 2)), z[:3], z[3:])[1]))
    found = bent(x, p, depth, y, q, jnp.ones_like(depth))
    for second, ahead, behind in zip(found, slope(*move(1)), slope(*move(-1)), strict=True):
        assert_close(second, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


def test_velocity_is_the_hamiltonian_field_in_both_coordinates(points):
    x, p, _, _, depth = points
    a = dln.Balanced(depth)
    moved, force = jax.jit(jax.vmap(velocity))(x, p, a)
    by_x, by_p = jax.jit(jax.vmap(jax.grad(dln.hamiltonian, (0, 1))))(x, p, depth)
    assert_close(moved, by_p, ALGEBRA)
    assert_close(force, -by_x, ALGEBRA)
    # The same motion of A^{1/2}(P).
    root = lambda x, p, a: apply_metric_operator(x, p, a, power=0.5)
    w, expected = jax.jit(jax.vmap(lambda x, p, a, *d: jax.jvp(lambda x, p: root(x, p, a), (x, p), d)))(
        x, p, a, moved, force
    )
    found = jax.jit(jax.vmap(orthonormal_velocity))(x, w, a)
    assert_close(found[0], moved, 10 * ALGEBRA)
    assert_close(found[1], expected, 10 * ALGEBRA)


def test_inverse_and_eigenvalues_of_the_operator(points):
    x, p, _, _, depth = points
    back = jax.jit(jax.vmap(lambda x, p, n: dln.metric_operator_inverse(x, dln.metric_operator(x, p, n), n)))
    assert_close(back(x, p, depth), p, 100 * ALGEBRA)
    hard = jnp.diag(jnp.array([1.0, 1e-4, 1e-8]))
    assert_close(back(hard[None], p[:1], jnp.array([2.0])), p[:1], 100 * ALGEBRA)
    sigma = SPECTRA[0]
    found = dln.metric_eigenvalues(sigma, 2.0)
    assert_close(found, (sigma[:, None] + sigma[None, :]) / 2, ALGEBRA)
    norm = dln.norm(x[0], p[0], 3.0)
    assert_close(norm**2, jnp.sum(p[0] * dln.metric_operator_inverse(x[0], p[0], 3.0)), ALGEBRA)
    energy = dln.MatrixCompletion.diagonal(D)
    grad = dln.riemannian_gradient(energy, x[0], 3.0)
    assert_close(dln.inner(x[0], grad, p[0], 3.0), jnp.sum(jax.grad(energy)(x[0]) * p[0]), 100 * ALGEBRA)


def test_energy_and_both_momenta_are_conserved(points):
    x, p, _, _, depth = points
    ts = jnp.linspace(0, 1, 4)
    out = jax.jit(jax.vmap(lambda x, p, n: dln.exponential(x, p, n, ts=ts, throw=False)))(x, 0.3 * p, depth)
    done = np.asarray(out.t_end) == 1
    assert done.sum() > 20 and np.all(np.asarray(out.hamiltonian_drift)[done] < INTEGRATION)
    t = lambda z: jnp.swapaxes(z, -1, -2)
    for left in (lambda x, p: x @ t(p) - p @ t(x), lambda x, p: t(x) @ p - t(p) @ x):
        moment = left(out.x, out.momentum)[done]
        assert_close(moment, jnp.broadcast_to(moment[:, :1], moment.shape), INTEGRATION)
    # At depth 1 the flow is a line.
    first = out.x[depth == 1]
    assert_close(first[:, 1], (2 * first[:, 0] + first[:, 3]) / 3, INTEGRATION)


@pytest.mark.parametrize(("size", "depth"), [(1.0, 2.0), (1.0, 8.0), (1e100, 3.0)])
def test_rank_is_lost_where_all_singular_values_vanish_together(size, depth):
    # Their ratio stays 1. At size 1, N sigma^(1/N) falls from N at the speed 2 N.
    x, p = size * jnp.eye(3), -2 * depth * size ** (2 / depth - 1) * jnp.eye(3)
    out = dln.exponential(x, p, jnp.asarray(depth), ts=[0.0, 0.25, 1.0], throw=False)
    assert out.result.names == "rank_lost" and abs(out.t_end - 0.5) < 1e-6
    assert_close(out.x[1] / size, 0.5**depth * np.eye(3), INTEGRATION)


@pytest.mark.parametrize("depth", [2.0, 3.0, 8.0])
def test_rank_is_lost_in_finite_time_at_finite_depth(depth):
    # On diagonals N sigma^(1/N) moves in a line: here the second reaches zero at t = 1/2.
    x = jnp.diag(jnp.array([2.0, 1.0, 1.5]))
    p = jnp.diag(jnp.array([0.0, -2.0 * depth, 0.0]))
    out = dln.exponential(x, p, jnp.asarray(depth), ts=[0.0, 0.25, 1.0], throw=False)
    assert out.result.names == "rank_lost"
    # It counts as zero at 1e-8 of the largest, which is 2.
    assert 0.5 * (1 - 1.1 * 2e-8 ** (1 / depth)) < out.t_end <= 0.5 + 1e-6
    assert_close(out.x[1], np.diag([2.0, 0.5**depth, 1.5]), INTEGRATION)
    assert jnp.all(jnp.isfinite(out.x)) and jnp.all(jnp.isfinite(out.momentum))
    with pytest.raises(RuntimeError, match="singular value reached zero"):
        jax.block_until_ready(dln.exponential(x, p, jnp.asarray(depth), ts=[0.0, 0.25, 1.0]))


def test_huge_velocities_work_or_say_so():
    x = jnp.diag(jnp.array([2.0, 1.0, 1.5]))
    p = lambda rates: jnp.diag(jnp.array(rates)) / x.diagonal()
    infinite = jnp.asarray(jnp.inf)
    out = dln.exponential(x, p([8.0, -8.0, 0.0]), infinite, ts=[0.0, 0.25, 1.0])
    assert_close(out.x[-1], np.diag([2 * np.exp(8.0), np.exp(-8.0), 1.5]), INTEGRATION)
    far = dln.exponential(x, p([1e4, -1e4, 3.0]), infinite, ts=[0.0, 0.25, 1.0], throw=False)
    assert far.result.names == "diverged" and far.t_end < 1
    assert jnp.all(jnp.isfinite(far.x))


@pytest.mark.long
def test_exponential_is_differentiable_in_both_modes(points):
    x, p, y, q, _ = (z[5] for z in points)
    reach = lambda x, p, n: jnp.sum(q * dln.exponential(x, 0.3 * p, n).x[-1])
    point, h = (x, p, jnp.asarray(3.0)), 1e-5
    grad = jax.grad(reach, (0, 1, 2))(*point)
    slope = jnp.sum(grad[0] * y) + jnp.sum(grad[1] * q) + grad[2]
    assert_close(jax.jvp(reach, point, (y, q, jnp.asarray(1.0)))[1], slope, INTEGRATION)
    ahead, behind = (reach(x + s * h * y, p + s * h * q, 3.0 + s * h) for s in (1, -1))
    assert_close(slope, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.long
def test_derivative_is_that_under_jit_and_of_a_geodesic_that_ends_early():
    x, p = jnp.array([[1.0, 0.2], [0.1, 0.7]]), jnp.array([[0.1, 0.3], [-0.2, 0.4]])
    end = lambda p: jnp.sum(dln.exponential(x, p, 3.0).x[-1])
    assert_close(jax.grad(end)(p), jax.jit(jax.grad(end))(p), INTEGRATION)
    early = lambda p: jnp.sum(dln.exponential(jnp.eye(2), p, 3.0, ts=[0.0, 0.1, 5.0, 6.0], throw=False).x[1])
    assert jnp.all(jnp.isfinite(jax.grad(early)(jnp.diag(jnp.array([0.0, -5.0])))))


def test_float32_reaches_the_end_at_the_default_tolerance():
    x, p = jnp.eye(2, dtype=jnp.float32), 0.3 * jnp.ones((2, 2), jnp.float32)
    with pytest.warns(UserWarning, match="float32"):
        assert dln.exponential(x, p, 2.0).t_end == 1
