"""Noise for matrices of any shape and rank: exact laws, an independent integrator, limits and derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.noise import gaussian_spectrum, many, p_values, straight
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._flows import langevin
from dlnjax._noise import Free

PATHS = 20_000
LEAST = 0.01
# (m, n, r): both frames are thin, U alone, V alone.
SHAPES = [(4, 3, 2), (4, 2, 2), (2, 3, 2)]


def start(shape, sigma=(1.2, 0.7)):
    m, n, r = shape
    rng = np.random.default_rng(m + 10 * n)
    u, v = (jnp.asarray(np.linalg.qr(rng.standard_normal((k, r)))[0]) for k in (m, n))
    return dln.SVD(u, jnp.asarray(sigma[:r]), v)


def target(shape):
    return np.random.default_rng(5).standard_normal(shape[:2])


def pull(shape):
    """An energy that pulls X out of its spaces."""
    there = jnp.asarray(target(shape))
    return lambda x: jnp.sum((x - there) ** 2) / 2


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [1.0, 2.0, 24.0, jnp.inf])
def test_values_without_energy_have_the_exact_law_in_two_steps(depth, shape, key):
    (m, n, r), beta, t, x0 = shape, 2.0, 0.2, start(shape)
    sol = many(None, x0, depth, [0.0, t], PATHS, dln.Noise(key, beta, 0.1))
    assert np.all(sol.result == "successful") and np.all(sol.stats["crossings"] == 0)
    y, y0 = straight(sol.sigma[:, -1], depth), straight(x0.sigma, depth)
    rng, scale = np.random.default_rng(1), np.sqrt(2 * t / beta)
    exact = gaussian_spectrum(rng, y0, scale, depth, PATHS, m + n - 2 * r)
    assert min(p_values(y, exact)) > LEAST / (2 * 4 * len(SHAPES))
    assert_close(
        jnp.swapaxes(sol.svd.u[:, -1], 1, 2) @ sol.svd.u[:, -1], np.broadcast_to(np.eye(r), (PATHS, r, r)), 1e-9
    )
    if np.isinf(depth):
        # The column and the row space of X never turn at infinite depth.
        x = sol.x[:, -1]
        assert_close(x0.u @ (x0.u.T @ x @ x0.v) @ x0.v.T, x, ALGEBRA)


def euler(x0, depth, t, steps, n, beta, slope):
    """n paths by Euler's method in X, with a decomposition of X after each step, by NumPy alone.

    The Ito form has the drift (1 - 1/N) U diag(sigma^(1-2/N)) V^T / beta at any shape and rank.
    """
    rng, h, a = np.random.default_rng(3), t / steps, 1 / depth
    u, s, v = (np.repeat(np.asarray(z)[None], n, 0) for z in (x0.u, x0.sigma, x0.v))
    flip = lambda z: np.swapaxes(z, 1, 2)
    for _ in range(steps):
        w, x = rng.standard_normal((n, u.shape[1], v.shape[1])), (u * s[:, None]) @ flip(v)
        y, squares = s ** (2 * a), s**2
        gap = y[:, :, None] - y[:, None]
        near = np.abs(gap) < 1e-9
        lam = np.where(
            near, s[:, None] ** (2 - 2 * a), a * (squares[:, :, None] - squares[:, None]) / np.where(near, 1, gap)
        )
        nu = a * s[:, None] ** (2 - 2 * a)

        def moved(z, lam, nu, u=u, v=v):
            """A_X of z for the rates, or its root for their roots."""
            inside = flip(u) @ z @ v
            above, beside = z @ v - u @ inside, flip(z) @ u - v @ flip(inside)
            return u @ (lam * inside) @ flip(v) + (above * nu) @ flip(v) + u @ flip(beside * nu)

        step = np.sqrt(2 * h / beta) * moved(w, np.sqrt(lam), np.sqrt(nu)) - h * moved(slope(x), lam, nu)
        x = x + step + h / beta * (1 - a) * (u * s[:, None] ** (1 - 2 * a)) @ flip(v)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        u, s, v = (z[..., : len(x0.sigma)] for z in (u, s, flip(vt)))
    return (u * s[:, None]) @ flip(v)


def z_scores(a, b):
    """Of the means of all entries of X and of their products."""
    pairs = np.triu_indices(a[0].size)

    def moments(x):
        flat = np.asarray(x).reshape(len(x), -1)
        return np.concatenate([flat, flat[:, pairs[0]] * flat[:, pairs[1]]], axis=1)

    a, b = moments(a), moments(b)
    return (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))


def still(self, state, h, draws, beyond, turn=langevin.Langevin.turn):
    """Columns that never leave their spaces."""
    return turn(self, state, h, draws, tuple(None if pair is None else tuple(0 * z for z in pair) for pair in beyond))


def cold(self, state, h, draw, more, move=langevin.Langevin.move):
    """Half the temperature in the directions beyond."""
    return move(self, state, h, draw, more / 2**0.5)


# The times make a program of each, so that a broken one is not taken from the cache of a good one.
BROKEN = {"turn": (still, [0.0, 0.1, 0.2]), "move": (cold, [0.0, 0.05, 0.1, 0.2])}
GOOD = [("as it is", shape) for shape in SHAPES[:2]]


@pytest.mark.long
@pytest.mark.parametrize(("name", "shape"), [*GOOD, *((name, SHAPES[0]) for name in BROKEN)])
def test_moments_are_those_of_an_independent_integrator(shape, name, key, monkeypatch):
    depth, beta, n, ts, there = 2.0, 2.0, 10_000, [0.0, 0.2], target(shape)
    if name in BROKEN:
        broken, ts = BROKEN[name]
        monkeypatch.setattr(langevin.Langevin, name, broken)
    sol = many(pull(shape), start(shape), depth, ts, n, dln.Noise(key, beta, 0.05))
    z = z_scores(sol.x[:, -1], euler(start(shape), depth, ts[-1], 40, n, beta, lambda x: x - there))
    largest = np.max(np.abs(z))
    assert largest > 6 if name in BROKEN else largest < 4.5


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.0, 24.0])
def test_without_noise_the_path_is_the_gradient_flow_to_second_order(depth, key):
    shape = SHAPES[0]
    exact = dln.gradient_flow(pull(shape), start(shape), depth=depth, ts=[0.0, 1.0], rtol=1e-12).x[-1]
    run = lambda dt: dln.gradient_flow(
        pull(shape), start(shape), depth=depth, ts=[0.0, 1.0], noise=dln.Noise(key, 1e30, dt)
    )
    errors = np.array([float(jnp.linalg.norm(run(dt).x[-1] - exact)) for dt in (0.1, 0.05, 0.025)])
    assert errors[-1] < 1e-3 and np.all(np.abs(np.log2(errors[:-1] / errors[1:]) - 2) < 0.3)


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_derivatives_for_a_fixed_key_are_those_of_differences(shape, key):
    def end(sigma, beta, depth):
        x0 = start(shape)
        x0 = dln.SVD(x0.u, sigma, x0.v)
        sol = dln.gradient_flow(
            pull(shape), x0, depth=depth, ts=[0.0, 0.3], noise=dln.Noise(key, beta, 0.1, gauge=True)
        )
        return jnp.sum(jnp.cos(sol.x[-1]))

    args, move = (jnp.array([1.2, 0.7]), 5.0, 3.0), (jnp.array([0.3, -0.2]), 1.0, 1.0)
    slope = jax.jvp(end, args, move)[1]
    at = lambda e: end(*(a + e * b for a, b in zip(args, move, strict=True)))
    assert_close(slope, (at(1e-5) - at(-1e-5)) / 2e-5, FINITE_DIFFERENCE)


def test_a_start_of_any_scale_has_the_same_path(key):
    """At infinite depth the metric does not see the scale of X. At depth N, beta has the unit of sigma^(-2/N)."""
    shape = SHAPES[0]
    for depth in (2.0, jnp.inf):
        ends = []
        for scale in (1.0, 1e-150, 1e150):
            x0 = start(shape, (1.2 * scale, 0.7 * scale))
            beta = 2.0 * (1.0 if np.isinf(depth) else scale ** (-2 / depth))
            ends.append(
                dln.gradient_flow(None, x0, depth=depth, ts=[0.0, 0.2], noise=dln.Noise(key, beta, 0.1)).x[-1] / scale
            )
        assert_close(ends[1], ends[0], 1e-10)
        assert_close(ends[2], ends[0], 1e-10)


def test_what_is_added_beyond_keeps_the_values_of_deep_and_shallow_steps_alike(key):
    """The values of (diag(y), more) in the coordinates of both kinds of steps, where both are accurate."""
    depth, y = 10.0, jnp.array([12.0, 9.0])
    more = jax.random.normal(key, (2, 3))
    shallow, deep = (langevin.Langevin(Free(), dln.Balanced(depth), jnp.asarray(1.0), False, k) for k in (False, True))
    turned, values = shallow.widen(y, more)
    also, others = deep.widen(y - depth, more)
    exact = np.linalg.svd(np.concatenate([np.diag(y), more], axis=1), compute_uv=False)
    assert_close(values, exact, ALGEBRA)
    assert_close(others + depth, exact, 1e-10)
    assert_close(jnp.abs(turned.T @ also), jnp.eye(2), 1e-9)
    assert_close(deep.widened(y - depth, jnp.asarray(3.0)) + depth, shallow.widened(y, jnp.asarray(3.0)), 1e-10)


def test_rotations_make_up_for_the_order_of_the_two_parts_of_a_step():
    """In the flat space of Z the turns of both sides are correlated more than by a square step before `widen`."""
    (h, beta, y, beyond, n), rng = (0.01, 1.0, np.array([2.0, 1.0]), 20, 400_000), np.random.default_rng(0)
    noise, more = (np.sqrt(2 * h / beta) * rng.standard_normal((n, 2, k)) for k in (2, beyond))
    z, flip = np.diag(y) + noise, lambda z: np.swapaxes(z, 1, 2)

    def upright(p):
        """The vectors of the larger value first, with signs that continue those at the start."""
        return p * np.sign(np.einsum("pii->pi", p))[:, None]

    def angle(q):
        return np.arctan2(q[:, 0, 1] - q[:, 1, 0], q[:, 0, 0] + q[:, 1, 1])

    squares, p = np.linalg.eigh(z @ flip(z) + more @ flip(more))
    p = upright(p[:, :, ::-1])
    both = np.mean(angle(p) * angle(flip(z) @ p / np.sqrt(squares[:, None, ::-1])))
    u, s, vt = np.linalg.svd(z)
    sign = np.sign(np.einsum("pii->pi", u))[:, None]
    u, v = u * sign, flip(vt) * sign
    after = upright(np.linalg.eigh(s[:, :, None] ** 2 * np.eye(2) + flip(u) @ more @ flip(more) @ u)[1][:, :, ::-1])
    split = np.mean(angle(u @ after) * angle(v @ after))
    equation = langevin.Langevin(Free(), dln.Balanced(1.0), jnp.asarray(beta), gauge=False, deep=False)
    state = langevin.Frame(jnp.eye(2 + beyond, 2), jnp.asarray(y), jnp.eye(2))
    ahead = float(equation._ahead(state, jnp.asarray(h))[0, 1])
    np.testing.assert_allclose(both - split, 2 * ahead * h / beta, rtol=0.25)


def test_derivative_at_infinite_depth_where_columns_never_leave_their_space(key):
    x0, energy = jnp.array([[1.0, 0.2, 0.3], [0.1, 0.6, -0.4]]), lambda x: jnp.sum((x - 1.0) ** 2) / 2

    def end(c, beta):
        return dln.gradient_flow(energy, c * x0, ts=[0.0, 0.1], noise=dln.Noise(key, beta, 0.02)).x[-1, 0, 1]

    slopes, h = jax.jit(jax.grad(end, (0, 1)))(1.0, 4.0), 1e-5
    expected = (end(1 + h, 4.0) - end(1 - h, 4.0)) / (2 * h), (end(1.0, 4 + h) - end(1.0, 4 - h)) / (2 * h)
    for slope, same in zip(slopes, expected, strict=True):
        assert_close(slope, same, FINITE_DIFFERENCE)
