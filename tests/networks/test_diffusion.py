"""Isotropic noise on the factors: the surface of balanced factors, the law of the product, limits and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._networks import diffusion

X0 = jnp.array([[1.0, 0.3], [-0.2, 0.5]])
ENERGY = dln.MatrixCompletion.diagonal(2)
TS = [0.0, 0.5, 1.0]
BETA = 2.0


def noise(key, beta=BETA, dt=0.05, **options):
    return dln.Noise(key, beta, dt, **options)


def flow(energy, weights, given, ts=TS, **options):
    return dln.network_flow(energy, weights, ts=ts, noise=given, **options)


def many(one, key, n):
    """The product at the end and the code of `n` paths. `one` makes a path of a key."""
    sol = jax.jit(jax.vmap(one))(jax.random.split(key, n))
    assert np.all(sol.result == "successful")
    return np.asarray(sol.x[:, -1]), sol


def frames_of(x, depth, key):
    """Frames of balanced factors of x in a gauge of chance."""
    frames = diffusion.enter(dln.balanced_factors(x, depth))
    turns = jnp.linalg.qr(jax.random.normal(key, frames.q.shape))[0]
    # A turn of W_(p+1) and W_p against each other leaves the product, so that the outer frames do not turn.
    inner = frames.q.at[1:-1].set(turns[1:-1] @ frames.q[1:-1])
    return diffusion.Frames(inner, frames.s)


def normals_of(weights):
    """A basis of the normal space, the gradients of what is constant on the balanced factors, in its columns."""
    return jax.jacobian(lambda w: dln.balancedness(w).ravel())(weights).reshape(-1, weights.size).T


def tangential(weights, motion):
    """The part of a motion that is orthogonal to the normals, by least squares."""
    normals = normals_of(weights)
    return motion - (normals @ np.linalg.lstsq(normals, motion.ravel(), rcond=1e-10)[0]).reshape(motion.shape)


@pytest.mark.parametrize("values", [(2.0, 1.0, 0.3), (1.0, 1.0, 0.3)], ids=["generic", "repeated"])
@pytest.mark.parametrize("depth", [2, 5])
def test_tangent_part_is_orthogonal_to_the_normals(depth, values, key):
    x = jnp.linalg.qr(jax.random.normal(key, (3, 3)))[0] * jnp.array(values)
    frames = frames_of(x, depth, key)
    weights, motion = frames.weights, jax.random.normal(key, (depth, 3, 3))
    assert_close(dln.product(weights), x, ALGEBRA)
    assert_close(dln.balancedness(weights), np.zeros((depth - 1, 3, 3)), ALGEBRA)
    part = diffusion.tangent_part(frames.s, frames.seen(motion))
    assert_close(part, frames.seen(tangential(weights, motion)), 100 * ALGEBRA)
    # A single factor is always balanced, and every motion is tangent.
    one = diffusion.enter(x[None])
    assert_close(diffusion.tangent_part(one.s, one.seen(motion[:1])), one.seen(motion[:1]), 100 * ALGEBRA)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_force_is_the_gradient_at_the_factors_over_their_number(depth, key):
    frames = frames_of(X0, depth, key)
    slope = jax.grad(lambda w: ENERGY(dln.product(w)))(frames.weights)
    assert_close(diffusion.Diffusion(ENERGY, jnp.asarray(BETA)).force(frames), -slope / depth, 100 * ALGEBRA)


@pytest.mark.parametrize("least", [1e-2, 1e-9, 1e-60])
def test_the_force_is_exact_where_a_value_of_x_is_below_rounding(least, key):
    """The energy is a half sum of y^2 = N^2 sigma^(2/N), without a slope at 0. Its force on each factor is -W_p."""
    weight_decay = dln.SpectralEnergy(lambda sigma: 4.5 * sigma ** (2 / 3))
    frames = frames_of(X0, 3, key)
    frames = diffusion.Frames(frames.q, jnp.array([0.7, least]))
    force = frames.seen(diffusion.Diffusion(weight_decay, jnp.asarray(BETA)).force(frames))
    assert_close(force, jnp.broadcast_to(-jnp.diag(frames.s), (3, 2, 2)), 100 * ALGEBRA)


def test_a_step_goes_to_the_nearest_balanced_factors_and_its_second_order_is_normal(key):
    frames = frames_of(X0, 3, key)
    weights, motion = frames.weights, jax.random.normal(key, (3, 2, 2))
    tangent, sizes, sideways = tangential(weights, motion), (0.02, 0.01), []
    for size in sizes:
        there, crossed = jax.jit(diffusion.moved)(frames, size * motion)
        off = there.weights - weights - size * tangent
        # The distance is least where what is left is normal to the surface.
        assert np.linalg.norm(tangential(there.weights, off)) < 1e-3 * np.linalg.norm(off)
        assert_close(dln.balancedness(there.weights), np.zeros((2, 2, 2)), ALGEBRA)
        assert not crossed
        sideways.append(np.linalg.norm(tangential(weights, off)))
    assert sideways[1] < sideways[0] / 7 and sideways[0] < 30 * sizes[0] ** 3


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.long)])
def test_one_mode_has_its_path_in_closed_form_and_passes_through_zero(depth, key):
    given, steps = noise(key, 3.0, 0.1), 10
    draws = np.stack([jax.random.normal(jax.random.fold_in(key, j), (depth, 1, 1)) for j in range(steps)])
    s = 1.5 + np.append(0, np.cumsum(np.sqrt(2 * 0.1 / (depth * 3.0)) * draws.mean(axis=(1, 2, 3))))
    sol = flow(None, 1.5 * jnp.ones((depth, 1, 1)), given)
    assert np.all(s > 0) and int(sol.stats["crossings"]) == 0
    assert_close(sol.x[:, 0, 0], s[[0, 5, 10]] ** depth, ALGEBRA)
    keys = jax.random.split(key, 50)
    near = jax.vmap(lambda key: flow(None, 0.1 * jnp.ones((depth, 1, 1)), noise(key, 3.0, 0.1)))(keys)
    crossings = np.asarray(near.stats["crossings"])
    assert np.all(np.sign(near.x[:, -1, 0, 0]) == (-1.0) ** crossings) and len(set(crossings)) > 2


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.long)])
def test_a_path_stays_balanced_and_starts_where_it_is_told(depth, key):
    weights = dln.balanced_factors(X0, depth)
    sol = flow(ENERGY, weights, noise(key, dt=0.002), ts=[0.0, 1.0, 2.0])
    assert int(sol.stats["steps"]) == 1000 and float(sol.t_end) == 2.0
    assert_close(sol.weights[0], weights, ALGEBRA)
    assert np.max(np.abs(jax.vmap(dln.balancedness)(sol.weights))) < 1e-12
    assert np.max(np.abs(sol.x[-1] - X0)) > 0.1
    ends = flow(ENERGY, weights, noise(key, dt=0.002), ts=[0.0, 2.0])
    np.testing.assert_array_equal(ends.weights[-1], sol.weights[-1])
    chain = flow(ENERGY, tuple(weights), noise(key, dt=0.002), ts=[0.0, 1.0, 2.0])
    assert isinstance(chain.weights, tuple)
    assert_close(chain.x, sol.x, ALGEBRA)


@pytest.mark.long
def test_many_networks_are_one_call_and_factors_of_any_size_have_the_same_path(key):
    weights, keys = dln.balanced_factors(X0, 3), jax.random.split(key, 3)
    paths = jax.vmap(lambda key: flow(None, weights, noise(key)))(keys)
    assert_close(paths.x[1], flow(None, weights, noise(keys[1])).x, ALGEBRA)
    assert len({float(x) for x in paths.x[:, -1, 0, 0]}) == 3
    # The square of the noise and 1/beta are the same number.
    for power in (-330, 330):
        size = 2.0**power
        scaled = flow(None, size * weights, noise(keys[1], BETA / size**2), throw=False)
        assert scaled.result == "successful"
        assert_close(scaled.weights / size, paths.weights[1], 1e-10)


@pytest.mark.long
def test_factors_in_float32_stay_in_it_and_balanced(key):
    sol = flow(None, dln.balanced_factors(X0, 3).astype(jnp.float32), noise(key, dt=0.005))
    assert sol.weights.dtype == jnp.float32 and sol.result == "successful"
    assert np.max(np.abs(jax.vmap(dln.balancedness)(sol.weights))) < 1e-5


@pytest.mark.parametrize("depth", [2, pytest.param(3, marks=pytest.mark.long)])
def test_without_noise_left_the_path_is_the_flow_to_second_order(depth, key):
    weights = dln.balanced_factors(X0, depth)
    exact = dln.network_flow(ENERGY, weights, ts=TS, rtol=1e-11).weights
    off = [np.max(np.abs(flow(ENERGY, weights, noise(key, 1e30, dt)).weights - exact)) for dt in (0.05, 0.025)]
    assert off[0] < 1e-3 and 3.5 < off[0] / off[1] < 4.5


def moments(x):
    """Of each path: its singular values, entries, their squares, and the sign of its determinant."""
    flat = x.reshape(len(x), -1)
    parts = np.linalg.svd(x, compute_uv=False), flat, flat**2, np.sign(np.linalg.det(x))[:, None]
    return np.concatenate(parts, axis=1)


def z_scores(a, b):
    a, b = moments(a), moments(b)
    return (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))


def of_free_noise(rng, x, depth, beta, dt, steps):
    """Paths of X where the noise is not confined to the tangent space: it is added, and then the factors are balanced.

    To balance them leaves X. By NumPy.
    """
    for _ in range(steps):
        u, sigma, vt = np.linalg.svd(x)
        layers = np.repeat(sigma[:, None, :, None] ** (1 / depth) * np.eye(2), depth, axis=1)
        layers = layers + np.sqrt(2 * dt / (depth * beta)) * rng.standard_normal(layers.shape)
        x = u
        for p in reversed(range(depth)):
            x = x @ layers[:, p]
        x = x @ vt
    return x


@pytest.mark.long
@pytest.mark.parametrize("start", ["generic", "near singular"])
@pytest.mark.parametrize("depth", [2, 3])
def test_product_has_the_law_of_noise_downstairs_with_the_entropy(depth, start, key):
    n, dt, ts = 5000, 0.025, [0.0, 0.5]
    x0 = X0 if start == "generic" else jnp.array([[1.0, 0.1], [-0.05, 0.06]])
    up, down, without, rest = jax.random.split(key, 4)
    weights = dln.balanced_factors(x0, depth)
    energy = ENERGY if start == "generic" else None

    def downstairs(gauge):
        given = lambda key: noise(key, dt=dt, gauge=gauge)
        return lambda key: dln.gradient_flow(energy, x0, depth=depth, ts=ts, noise=given(key), throw=False)

    found, _ = many(lambda key: flow(energy, weights, noise(key, dt=dt), ts, throw=False), up, n)
    expected, _ = many(downstairs(True), down, n)
    assert np.max(np.abs(z_scores(found, expected))) < 4
    # Without the force of the entropy the law is another one, and so it is if the noise leaves the tangent space.
    if energy is not None:
        bare, _ = many(downstairs(False), without, n)
        assert np.max(np.abs(z_scores(found, bare))) > 6
    else:
        rng = np.random.default_rng(np.asarray(jax.random.key_data(rest)))
        free = of_free_noise(rng, np.broadcast_to(x0, (n, 2, 2)), depth, BETA, dt, 20)
        assert np.max(np.abs(z_scores(free, expected))) > 6


def test_failure_is_a_code_and_the_last_good_state_is_kept(key):
    weights = dln.balanced_factors(X0, 2)
    stiff = lambda x: 500.0 * jnp.sum((x - jnp.eye(2)) ** 2)
    long = flow(stiff, weights, noise(key), throw=False)
    assert long.result == "dt_too_long" and float(long.t_end) == 0.0 and int(long.stats["steps"]) == 0
    assert_close(long.weights, np.stack([weights] * 3), ALGEBRA)
    with pytest.raises(RuntimeError, match="lower `dt`"):
        flow(stiff, weights, noise(key))


def test_bad_input_is_refused_in_a_sentence(key):
    weights = dln.balanced_factors(X0, 2)
    with pytest.raises(ValueError, match="gauge has no meaning in network_flow"):
        flow(ENERGY, weights, noise(key, gauge=True))
    with pytest.raises(ValueError, match=r"these have an imbalance, of 9\.\de-02 in units .*balanced_factors"):
        flow(ENERGY, weights.at[0, 0, 0].add(0.05), noise(key))
    with pytest.raises(ValueError, match=r"layers of one width, .* got \(2, 3, 2\)"):
        flow(ENERGY, dln.balanced_factors(X0, 2, widths=(3,)), noise(key))
    with pytest.raises(ValueError, match="full rank, and it is singular"):
        flow(ENERGY, dln.balanced_factors(jnp.diag(jnp.array([1.0, 0.0])), 2), noise(key))
    with pytest.raises(ValueError, match="rtol has no meaning beside noise"):
        flow(ENERGY, weights, noise(key), rtol=1e-3)
    with pytest.raises(ValueError, match="more steps of length dt than max_steps, about 20"):
        flow(ENERGY, weights, noise(key), max_steps=10)
    with pytest.raises(TypeError, match="Brownian motion needs noise"):
        dln.network_flow(None, weights, ts=TS)
    with pytest.raises(TypeError, match="no derivative: take that of gradient_flow"):
        jax.grad(lambda w: jnp.sum(flow(None, w, noise(key)).x))(weights)
    with pytest.raises(Exception, match="these have an imbalance"):
        jax.jit(lambda w: flow(None, w, noise(key)).x)(weights.at[0, 0, 0].add(0.05))
