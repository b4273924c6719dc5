"""A matrix as its decomposition, and the motion of the decomposition with the matrix."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._svd import canonical, frame_tangent, orthogonalise, orthogonalise_frame, plain_svd, turn

D = 4
GAP = jnp.asarray(1e-7)


def rotation(key):
    return jnp.linalg.qr(jax.random.normal(key, (D, D)))[0]


def point(key, sigma):
    ka, kb = jax.random.split(key)
    return dln.SVD(rotation(ka), jnp.asarray(sigma), rotation(kb))


def t(a):
    return jnp.swapaxes(a, -1, -2)


def test_round_trip_for_any_stack_of_matrices(key):
    x = jax.random.normal(key, (2, 3, D, D))
    out = dln.svd(x)
    assert_close(out.matrix, x, ALGEBRA)
    assert_close(t(out.u) @ out.u, np.broadcast_to(np.eye(D), x.shape), ALGEBRA)
    assert_close(t(out.v) @ out.v, np.broadcast_to(np.eye(D), x.shape), ALGEBRA)
    assert np.all(np.diff(out.sigma, axis=-1) <= 0)
    assert_close(out.sigma, np.linalg.svd(np.asarray(x), compute_uv=False), ALGEBRA)


def test_frame_tangent_is_the_motion_of_the_frame(key):
    ka, kb = jax.random.split(key)
    x, dx = point(ka, [3.0, 1.9, 1.1, 0.4]).matrix, jax.random.normal(kb, (D, D))
    h, here = 1e-5, dln.svd(x)
    ahead, behind = (dln.svd(x + s * h * dx) for s in (1, -1))
    # NumPy may return any sign of a pair of columns: take that of the frame here.
    align = lambda p: (p.u * jnp.sign(jnp.sum(p.u * here.u, 0)), p.sigma, p.v * jnp.sign(jnp.sum(p.v * here.v, 0)))
    expected = [(a - b) / (2 * h) for a, b in zip(align(ahead), align(behind), strict=True)]
    found = frame_tangent(here, dx)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, FINITE_DIFFERENCE)
    pushed = jax.jvp(dln.svd, (x,), (dx,))[1]
    for a, b in zip(jax.tree.leaves(pushed), found, strict=True):
        assert_close(a, b, ALGEBRA)


@pytest.mark.parametrize("sigma", [[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.5], [1.0, 1.0, 0.0, 0.0]])
def test_derivative_is_finite_at_repeated_values_and_right_for_symmetric_functions(key, sigma):
    ka, kb = jax.random.split(key)
    x, dx = point(ka, sigma).matrix, jax.random.normal(kb, (D, D))
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(jax.jvp(dln.svd, (x,), (dx,))))
    slope = jax.jvp(lambda y: jnp.sum(dln.svd(y).sigma ** 4), (x,), (dx,))[1]
    assert_close(slope, 4 * jnp.sum(x @ x.T @ x * dx), ALGEBRA)


def test_canonical_order_and_sign_leave_the_matrix_in_place(key):
    out = canonical(point(key, [0.5, -2.0, 1.0, -0.1]))
    assert_close(out.matrix, point(key, [0.5, -2.0, 1.0, -0.1]).matrix, ALGEBRA)
    assert_close(out.sigma, [2.0, 1.0, 0.5, 0.1], ALGEBRA)


def test_orthogonalise_squares_the_error(key):
    ka, kb = jax.random.split(key)
    defect = lambda q: jnp.linalg.norm(q.T @ q - jnp.eye(D))
    noise = jax.random.normal(kb, (D, D))
    before = [rotation(ka) + e * noise for e in (1e-2, 1e-3, 1e-4)]
    after = np.array([defect(orthogonalise(q)) for q in before])
    np.testing.assert_allclose(after[:-1] / after[1:], 100, rtol=0.2)
    assert np.all(after < np.array([defect(q) for q in before]) ** 2)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_orthogonalise_frame_squares_the_error_and_moves_the_matrix_by_the_square(key, scale):
    ka, kb, kc = jax.random.split(key, 3)
    # The last two values are equal, and the one before is negative, as it may be at depth 1.
    exact = point(ka, scale * jnp.array([3.0, -1.0, 1e-9, 1e-9]))
    du, dv = jax.random.normal(kb, (D, D)), jax.random.normal(kc, (D, D))
    before = [dln.SVD(exact.u + e * du, exact.sigma, exact.v + e * dv) for e in (1e-3, 1e-4, 1e-5)]
    after = [orthogonalise_frame(p, 0.1) for p in before]
    defect = lambda q: np.linalg.norm(q.T @ q - np.eye(D))
    for sizes in (
        [defect(p.u) for p in after],
        [defect(p.v) for p in after],
        [np.max(np.abs(p.matrix - b.matrix)) / scale for p, b in zip(after, before, strict=True)],
    ):
        np.testing.assert_allclose(np.divide(sizes[:-1], sizes[1:]), 100, rtol=0.3)
    # `orthogonalise` moves X by the error itself.
    plain = [dln.SVD(orthogonalise(p.u), p.sigma, orthogonalise(p.v)) for p in before]
    moved = [np.max(np.abs(p.matrix - b.matrix)) / scale for p, b in zip(plain, before, strict=True)]
    np.testing.assert_allclose(np.divide(moved[:-1], moved[1:]), 10, rtol=0.3)


def test_orthogonalise_frame_leaves_rounding_alone(key):
    start = point(key, [2.0, 2.0, 1.0, 0.0])
    out = start
    for _ in range(20):
        out = orthogonalise_frame(out, 0.1)
    np.testing.assert_array_equal(out.sigma, start.sigma)
    assert_close(out.u, start.u, ALGEBRA)
    zero = orthogonalise_frame(point(key, [0.0, 0.0, 0.0, 0.0]), 0.1)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves(zero))


@pytest.mark.parametrize(
    "sigma", [[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.5], [2.0, 2.0, 1.0, 1.0], [4.0, 3.0, 2.0, 1.0]]
)
def test_turn_diagonalises_each_block_and_leaves_the_matrix_in_place(key, sigma):
    ka, kb = jax.random.split(key)
    start, gradient = point(ka, sigma), jax.random.normal(kb, (D, D))
    out = turn(start, start.u.T @ gradient @ start.v, GAP)
    assert_close(out.matrix, start.matrix, ALGEBRA)
    assert_close(out.sigma, sigma, ALGEBRA)
    g = out.u.T @ gradient @ out.v
    same = np.equal.outer(np.asarray(sigma), np.asarray(sigma)) & ~np.eye(D, dtype=bool)
    assert_close(np.where(same, g + g.T, 0.0), np.zeros((D, D)), ALGEBRA)


def test_turn_leaves_distinct_values_alone(key):
    start = point(key, [4.0, 3.0, 2.0, 1.0])
    out = turn(start, jnp.ones((D, D)), GAP)
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(a, b)


def test_turn_moves_nearly_equal_values_by_no_more_than_the_gap(key):
    start = point(key, [1.0 + 1e-8, 1.0, 0.5, 0.5 - 1e-9])
    out = turn(start, jax.random.normal(key, (D, D)), GAP)
    assert np.max(np.abs(out.matrix - start.matrix)) <= GAP


INFINITE = """
import jax, jax.numpy as jnp, dlnjax as dln
jax.config.update("jax_enable_x64", True)
x = jnp.ones((3, 3)).at[0, 0].set(jnp.inf)
both = jnp.stack([x, jnp.diag(jnp.arange(1.0, 4.0))])
sigma = dln.svd(both).sigma
print(bool(jnp.all(jnp.isnan(sigma[0]))), sigma[1].tolist())
print(bool(jnp.all(jnp.isnan(jax.jit(dln.metric_operator)(x, jnp.eye(3), 2.0)))))
print(jax.vmap(lambda x: dln.metric_operator(x, jnp.eye(3), 2.0)[0, 0])(both).tolist()[1])
from dlnjax._svd import eigh, singular_values
print(bool(jnp.all(jnp.isnan(eigh(x)[0])) & jnp.all(jnp.isnan(singular_values(x)))))
print(bool(jnp.all(jnp.isnan(jax.jvp(dln.svd, (x,), (x,))[1].sigma))))
"""


def test_one_infinite_entry_comes_out_as_nan():
    # In a process of its own: LAPACK would never return.
    run = [sys.executable, "-c", INFINITE]
    out = subprocess.run(run, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
    assert out == ["True [3.0, 2.0, 1.0]", "True", "1.0", "True", "True"]


@pytest.mark.parametrize("shape", [(3, 3), (4, 3)])
def test_plain_decomposition_has_the_derivative_of_jax_and_none_where_values_repeat(key, shape):
    x = jax.random.normal(key, shape)
    # A function of both frames that does not depend on the signs of their columns.
    of_frames = lambda u, v: jnp.sum(((u * jnp.arange(3.0)) @ v.T) ** 3)
    ours = jax.grad(lambda x: of_frames(*plain_svd(x)[1:]))
    jaxs = jax.grad(lambda x: (lambda u, _, vt: of_frames(u, vt.T))(*jnp.linalg.svd(x, full_matrices=False)))
    np.testing.assert_allclose(ours(x), jaxs(x), rtol=1e-9, atol=1e-9)
    assert np.all(np.isnan(ours(jnp.eye(*shape))))
