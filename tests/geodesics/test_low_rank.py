"""Geodesics on the matrices of rank r, against the factors of a network and against the square geodesics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from support.factor_geodesics import geodesic
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION
from support.upstairs import balanced, imbalanced

import dlnjax as dln
from dlnjax._layers import layer_values

M, N, R = 5, 4, 2
TS = [0.0, 0.4, 1.0]
# (m, n, r, depth or kernel).
SWEEP = [
    (4, 2, 2, 2.0),
    (3, 5, 3, 3.0),
    (4, 4, 1, 2.0),
    (5, 3, 2, dln.Imbalanced(0.7)),
    (3, 4, 2, dln.Imbalanced((0.5, -0.2))),
    # The engine was not looked at after these five were run.
    (6, 3, 2, 3.0),
    (2, 6, 1, 4.0),
    (5, 5, 3, 2.0),
    (3, 7, 2, dln.Imbalanced(-0.4)),
    (6, 4, 4, 3.0),
]


def draw(m, n, r, seed=0):
    """A point, and a covector at which no singular value comes near 0 up to time 1."""
    rng = np.random.default_rng([m, n, r, seed])
    u, v = (np.linalg.qr(rng.normal(size=(k, r)))[0] for k in (m, n))
    point = dln.SVD(jnp.asarray(u), jnp.asarray(np.linspace(2.0, 0.8, r)), jnp.asarray(v))
    return point, jnp.asarray(0.5 * rng.normal(size=(m, n)))


def factors(point, depth):
    u, sigma, v = (np.asarray(z) for z in (point.u, point.sigma, point.v))
    if isinstance(depth, dln.Imbalanced):
        return imbalanced(u, np.asarray(layer_values(point.sigma, jnp.asarray(depth.imbalance))), v)
    return balanced(u, sigma, v, int(depth))


@pytest.mark.parametrize("depth", [2.0, 3.0])
def test_geodesic_is_that_of_the_factors(depth):
    point, p = draw(M, N, R)
    out = dln.exponential(point, p, depth, ts=TS)
    assert_close(out.x, geodesic(factors(point, depth), np.asarray(p), TS), INTEGRATION)
    assert out.hamiltonian_drift < 1e-10


def test_depth_1_is_the_embedded_manifold_of_fixed_rank():
    """In the metric of Euclid a geodesic accelerates by 2 (I - P) X' X^+ X' (I - Q), the second fundamental form."""
    point, p = draw(M, N, R)

    def rate(_, y):
        x, v = y.reshape(2, M, N)
        inverse = np.linalg.pinv(x, rcond=1e-8)
        bend = 2 * (np.eye(M) - x @ inverse) @ v @ inverse @ v @ (np.eye(N) - inverse @ x)
        return np.concatenate([v.ravel(), bend.ravel()])

    u, v = np.asarray(point.u), np.asarray(point.v)
    move = np.asarray(p) - (np.eye(M) - u @ u.T) @ np.asarray(p) @ (np.eye(N) - v @ v.T)
    start = np.concatenate([np.ravel(point.matrix), move.ravel()])
    sol = solve_ivp(rate, (0, 1), start, t_eval=TS, method="DOP853", rtol=1e-11, atol=1e-12)
    out = dln.exponential(point, p, 1.0, ts=TS)
    assert_close(out.x, sol.y[: M * N].T.reshape(-1, M, N), INTEGRATION)
    assert_close(out.momentum[-1], sol.y[M * N :, -1].reshape(M, N), INTEGRATION)


@pytest.mark.parametrize("depth", [1.0, 2.5, jnp.inf])
def test_rank_speed_and_both_momenta_are_conserved(depth):
    point, p = draw(M, N, R)
    out = dln.exponential(point, p, depth, ts=TS)
    assert out.hamiltonian_drift < 1e-10
    # The covector is the one given, but for what moves no matrix of rank r.
    assert_close(out.momentum[0] @ point.v, p @ point.v, ALGEBRA)
    assert_close(point.u.T @ out.momentum[0], point.u.T @ p, ALGEBRA)
    for x, momentum in zip(out.x, out.momentum, strict=True):
        assert np.linalg.svd(x)[1][R] < ALGEBRA
        assert_close(
            dln.hamiltonian(dln.svd(x, rank=R), momentum, depth), dln.hamiltonian(point, p, depth), INTEGRATION
        )
        for moment in (lambda x, p: x @ p.T - p @ x.T, lambda x, p: x.T @ p - p.T @ x):
            assert_close(moment(x, momentum), moment(out.x[0], out.momentum[0]), INTEGRATION)
    # It goes on from where it is.
    rest = dln.exponential(dln.svd(out.x[1], rank=R), out.momentum[1], depth, ts=[0.4, 0.7, 1.0])
    assert_close(rest.x[-1], out.x[-1], INTEGRATION)


def test_spaces_that_do_not_turn_leave_a_square_geodesic():
    point, p = draw(M, N, R)
    into, out_of = lambda z: point.u.T @ z @ point.v, lambda z: point.u @ z @ point.v.T
    for depth, momentum in ((3.0, out_of(into(p))), (jnp.inf, p)):
        square = dln.exponential(jnp.diag(point.sigma), into(p), depth, ts=TS)
        out = dln.exponential(point, momentum, depth, ts=TS)
        assert_close(out.x, jax.vmap(out_of)(square.x), INTEGRATION)
        assert_close(jax.vmap(into)(out.momentum), square.momentum, INTEGRATION)


def test_repeated_values_and_scale():
    point, p = draw(M, N, R)
    equal = dln.SVD(point.u, jnp.ones(R), point.v)
    near = dln.SVD(point.u, jnp.array([1.0, 1.0 - 1e-9]), point.v)
    out = dln.exponential(equal, p, 3.0, ts=TS)
    assert_close(out.x, dln.exponential(near, p, 3.0, ts=TS).x, INTEGRATION)
    assert_close(out.x, geodesic(factors(equal, 3.0), np.asarray(p), TS), INTEGRATION)
    c = 2.0**300
    large = dln.exponential(dln.SVD(point.u, c * point.sigma, point.v), p, 2.0, ts=TS)
    assert_close(large.x / c, dln.exponential(point, p, 2.0, ts=TS).x, ALGEBRA)


def test_rank_is_lost_in_finite_time_at_finite_depth():
    point, _ = draw(M, N, R)
    # The least value, 0.8, moves in a line in y = 2 sigma^(1/2), and is 0 at time 1/2.
    p = -4 * jnp.sqrt(0.8) / point.sigma[1] ** 0.5 * jnp.outer(point.u[:, 1], point.v[:, 1])
    out = dln.exponential(point, p, 2.0, ts=TS, throw=False)
    assert out.result.names == "rank_lost"
    assert abs(out.t_end - 0.5) < 1e-3 and jnp.all(jnp.isfinite(out.x)) and jnp.all(jnp.isfinite(out.momentum))


@pytest.mark.long
@pytest.mark.parametrize(("m", "n", "r", "depth"), SWEEP, ids=str)
def test_every_shape_and_depth(m, n, r, depth):
    point, p = draw(m, n, r)
    out = dln.exponential(point, p, depth, ts=TS)
    assert_close(out.x, geodesic(factors(point, depth), np.asarray(p), TS), INTEGRATION)
    assert out.hamiltonian_drift < 1e-10
    if r == min(m, n):
        assert_close(dln.exponential(point.matrix, p, depth, ts=TS).x, out.x, INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize(("m", "n", "r", "depth"), [SWEEP[3], SWEEP[7]], ids=str)
def test_transposing_exchanges_the_sides_and_zeros_around_change_nothing(m, n, r, depth):
    point, p = draw(m, n, r)
    out = dln.exponential(point, p, depth, ts=TS)
    turned = dln.Imbalanced(tuple(-g for g in depth.imbalance[::-1])) if isinstance(depth, dln.Imbalanced) else depth
    flipped = dln.exponential(dln.SVD(point.v, point.sigma, point.u), p.T, turned, ts=TS)
    assert_close(flipped.x, jnp.swapaxes(out.x, 1, 2), INTEGRATION)
    pad = lambda z: jnp.zeros((8, z.shape[1])).at[: len(z)].set(z)
    padded = dln.exponential(dln.SVD(pad(point.u), point.sigma, pad(point.v)), pad(pad(p).T).T, depth, ts=TS)
    assert_close(padded.x[:, :m, :n], out.x, INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("kernel", [lambda t: dln.Balanced(3.0 + t), lambda t: dln.Imbalanced(0.7 + t)])
def test_derivative_is_that_of_central_differences_in_both_modes(kernel):
    point, p = draw(M, N, R)
    _, q = draw(M, N, R, seed=1)
    turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    # The frames turn within the space of the first two and of the last two axes, and the values start equal.
    across = jnp.eye(M)[:, 2:4] @ jnp.eye(2) @ jnp.eye(M)[:2]

    def end(t):
        u = jax.scipy.linalg.expm(t * (across - across.T)) @ point.u
        v = point.v @ jax.scipy.linalg.expm(t * turn)
        moved = dln.SVD(u, jnp.ones(R) + t * jnp.array([0.5, -0.3]), v)
        out = dln.exponential(moved, p + t * q, kernel(0.3 * t), ts=TS)
        return jnp.sum(out.x[-1] * q) + jnp.sum(out.momentum[1] * p)

    found, h = jax.jvp(end, (0.0,), (1.0,))[1], 1e-5
    assert_close(found, (end(h) - end(-h)) / (2 * h), FINITE_DIFFERENCE)
    assert_close(jax.grad(end)(0.0), found, INTEGRATION)


@pytest.mark.long
def test_derivative_in_a_matrix_with_equal_values_is_that_of_central_differences():
    point, _ = draw(4, 2, 2)
    x, (_, p), (_, q) = 0.7 * point.u @ point.v.T, draw(4, 2, 2), draw(4, 2, 2, seed=1)
    end = lambda t: jnp.sum(dln.exponential(x + t * q, p, 3.0, ts=TS).x[-1] * p)
    h = 1e-5
    assert_close(jax.grad(end)(0.0), (end(h) - end(-h)) / (2 * h), FINITE_DIFFERENCE)


def test_what_is_no_start_is_refused():
    point, p = draw(M, N, R)
    with pytest.raises(ValueError, match=r"p must have the shape of x, \(5, 4\), got \(2, 2\)"):
        dln.exponential(point, jnp.eye(2), 2.0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        dln.exponential(dln.SVD(point.u, jnp.array([1.0, 0.0]), point.v), p, 2.0)
    with pytest.raises(ValueError, match="full rank"):
        dln.exponential(point.matrix, p, 2.0)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.0, jnp.inf])
def test_ends_with_the_same_spaces_are_joined_inside_of_them(depth):
    start, _ = draw(M, N, R)
    a, b = jnp.diag(start.sigma), jnp.array([[0.9, 0.6], [-0.3, 1.2]])
    inside = dln.geodesic(a, b, depth)
    out = dln.exponential(start, start.u @ inside.momentum @ start.v.T, depth, ts=TS)
    assert_close(out.x[-1], start.u @ b @ start.v.T, INTEGRATION)
