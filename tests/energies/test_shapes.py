"""Energies of matrices of any shape, at points of any rank, against autodiff of the plain formula in X."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._protocol import at_start, gradient, pullback, sides, value
from dlnjax._svd import truncated
from dlnjax._traced import traced_energy

SHAPES = [(2, 4), (4, 3), pytest.param((3, 3), marks=pytest.mark.long)]
P = 3.0


def quartic(s):
    return s**4 / 4 + s**2


def by_entropy(sigma):
    """The energy of weight decay 1/2 |X|^2 minus the entropy at depth 2, where lambda(s, t) = (s + t)/2."""
    pairs = jnp.log((sigma[:, None] + sigma[None, :]) / 2)
    return jnp.sum(sigma**2) / 2 - jnp.sum(jnp.triu(pairs, 1)) / 2 / P


def singular_values(x):
    return jnp.linalg.svd(x, compute_uv=False)


def pairs(key, shape):
    """For each name, the energy of the library and the plain formula."""
    m, n = shape
    keys = jax.random.split(key, 6)
    labels, mask = jax.random.normal(keys[0], shape), jax.random.bernoulli(keys[1], 0.6, shape).at[0, 1].set(True)
    rows, columns = np.nonzero(np.asarray(mask))
    a, y = jax.random.normal(keys[2], (5, m, n)), jax.random.normal(keys[3], (5,))
    inputs, outputs = jax.random.normal(keys[4], (n, 7)), jax.random.normal(keys[5], (m, 7))
    weights = jnp.arange(7.0)
    regression = lambda k: lambda x: jnp.sum(weights[:k] * (x @ inputs[:, :k] - outputs[:, :k]) ** 2) / 2
    return {
        "completion": (
            dln.MatrixCompletion(labels, mask, weight=0.7),
            lambda x: 0.7 * jnp.sum(jnp.where(mask, x - labels, 0.0) ** 2),
        ),
        "few entries": (
            dln.MatrixCompletion(labels, jnp.eye(m, n)),
            lambda x: jnp.sum(jnp.where(jnp.eye(m, n) > 0, x - labels, 0.0) ** 2) / 2,
        ),
        "entries": (
            dln.MatrixCompletion.from_entries(rows, columns, labels[rows, columns], shape, weight=0.7),
            lambda x: 0.7 * jnp.sum(jnp.where(mask, x - labels, 0.0) ** 2),
        ),
        "sensing": (dln.MatrixSensing(a, y), lambda x: jnp.sum((jnp.sum(a * x, axis=(1, 2)) - y) ** 2) / 2),
        "two samples": (dln.LeastSquares(inputs[:, :2], outputs[:, :2], weights[:2]), regression(2)),
        "many samples": (dln.LeastSquares(inputs, outputs, weights), regression(7)),
        "Schatten 4": (dln.Schatten(4.0), lambda x: jnp.sum((x.T @ x) ** 2) / 4),
        "spectral": (dln.SpectralEnergy(quartic), lambda x: jnp.sum((x.T @ x) ** 2) / 4 + jnp.sum(x**2)),
        "free": (dln.FreeEnergy(dln.Schatten(2.0), P, 2.0), lambda x: by_entropy(singular_values(x))),
    }


# Energies that are no functions of the singular values, whose sides hold for any columns.
DATA = ("completion", "entries", "sensing", "two samples", "many samples")
NAMES = list(pairs(jax.random.key(0), (2, 2)))


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def case(request, module_key):
    """(the pairs, a generic X, a direction) of one shape."""
    keys = jax.random.split(module_key, 3)
    x, dx = jax.random.normal(keys[1], (2, *request.param))
    return pairs(keys[0], request.param), x, dx


@pytest.fixture(scope="module")
def in_x(case):
    """For each name: value, gradient and its derivative along dx, of the library and of the plain formula."""
    both, x, dx = case

    @jax.jit
    def all_of_them(x, dx):
        of = lambda f, slope: (f(x), *jax.jvp(slope, (x,), (dx,)))
        return {name: (of(e, lambda x, e=e: gradient(e, x)), of(f, jax.grad(f))) for name, (e, f) in both.items()}

    return all_of_them(x, dx)


@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_hessian_are_those_of_the_plain_formula(in_x, name):
    for found, expected in zip(*in_x[name], strict=True):
        assert_close(found, expected, ALGEBRA)


@pytest.fixture(scope="module")
def at_points(case):
    """For each name and rank: value, sides and pullback at a point, and what they are as a product with dE(X)."""
    both, x, _ = case

    def seen(e, f, point):
        slope = jax.grad(f)(point.matrix)
        expected = f(point.matrix), slope @ point.v, slope.T @ point.u, point.u.T @ slope @ point.v
        return (value(e, point), *sides(e, point), pullback(e, point)), expected

    @jax.jit
    def all_of_them(x):
        points = {"rank 1": truncated(dln.svd(x), 1), "whole": dln.svd(x)}
        # On the way of a flow of depth 1 a singular value may be negative.
        points["negative"] = eqx.tree_at(lambda p: p.sigma, points["whole"], dln.svd(x).sigma.at[-1].multiply(-1.0))
        # The columns of a stage of a Runge-Kutta step are orthonormal to the error of the step.
        points["loose"] = dln.SVD(x[:, :2], jnp.array([1.0, -0.5]), x[:2].T)
        return {
            (name, at): seen(e, f, point)
            for name, (e, f) in both.items()
            for at, point in points.items()
            if (name != "free" or at == "whole") and (name in DATA or at != "loose")
        }

    return all_of_them(x)


@pytest.mark.parametrize("name", NAMES)
def test_sides_are_products_with_the_gradient_at_every_rank(at_points, name):
    checked = [at for other, at in at_points if other == name]
    assert len(checked) == (1 if name == "free" else 3 + (name in DATA))
    for at in checked:
        for found, expected in zip(*at_points[name, at], strict=True):
            assert_close(found, expected, ALGEBRA)


def test_entropy_at_a_point_is_that_of_as_many_singular_values():
    energy = dln.FreeEnergy(dln.Schatten(2.0), P, 2.0)
    point = truncated(dln.svd(jnp.diag(jnp.array([3.0, 2.0, 1.0]))), 2)

    @jax.jit
    def both(point):
        slope = jax.grad(by_entropy)(point.sigma)
        at = lambda sigma: value(energy, dln.SVD(point.u, sigma, point.v))
        # As a matrix the same X has a third value, 0, whose pairs have lambda = s/2.
        return (
            (value(energy, point), *sides(energy, point), jax.grad(at)(point.sigma), energy(point.matrix)),
            (
                by_entropy(point.sigma),
                point.u * slope,
                point.v * slope,
                slope,
                by_entropy(jnp.append(point.sigma, 0.0)),
            ),
        )

    for found, expected in zip(*both(point), strict=True):
        assert_close(found, expected, ALGEBRA)


def test_singular_values_that_a_point_does_not_carry_are_zero():
    energy = dln.SpectralEnergy(lambda s: (s - 1) ** 2)
    point = truncated(dln.svd(jnp.ones((3, 5))), 1)
    assert_close(value(energy, point), energy(point.matrix), ALGEBRA)
    assert_close(value(energy, point), (15**0.5 - 1) ** 2 + 2, ALGEBRA)


@pytest.mark.parametrize("shape", [(2, 4), (4, 3), (3, 3)])
def test_gradient_of_a_square_is_linear_at_every_rank(shape):
    """U diag(sigma) V^T is X itself, and its derivative is dX, out of the frame and between zeros too."""
    x = jnp.zeros(shape).at[0, 0].set(2.0)
    dx = jnp.arange(1.0, 1 + x.size).reshape(shape)
    found = jax.jvp(dln.Schatten(2.0).gradient, (x,), (dx,))
    for one, expected in zip(found, (x, dx), strict=True):
        assert_close(one, expected, ALGEBRA)


def test_value_is_that_of_the_matrix_where_nothing_else_is_offered():
    point = truncated(dln.svd(jnp.arange(1.0, 7.0).reshape(2, 3)), 1)
    own = lambda x: jnp.sum(jnp.sin(x))
    free = dln.FreeEnergy(own, 2.0)
    # An energy that closes over something is a program, which offers the same.
    programs = [traced_energy(energy, (2, 3), float, rank=1) for energy in (own, free)]
    assert {type(program).__name__ for program in programs} == {"TracedEnergy"}
    found = jax.jit(lambda point: [value(energy, point) for energy in (own, *programs, free)])(point)
    # With one singular value there is no pair, and no entropy.
    assert_close(found, [np.sum(np.sin(point.matrix))] * 4, ALGEBRA)


def test_few_entries_of_a_rectangular_mask_are_found_at_the_start():
    labels = jnp.ones((4, 2))
    assert at_start(dln.MatrixCompletion(labels, jnp.eye(4, 2))).entries.shape == (3, 2)
    assert at_start(dln.MatrixCompletion(labels, labels)).entries is None


def test_error_of_a_dense_energy_is_the_root_mean_square_on_its_mask():
    mask = jnp.array([[1, 0, 1], [0, 1, 0]])
    x = jnp.array([[1.0, 9.0, -2.0], [9.0, 3.0, 9.0]])
    energy = dln.MatrixCompletion(jnp.zeros((2, 3)), mask)
    assert_close(energy.error(dln.svd(x)), np.sqrt((1 + 4 + 9) / 3), ALGEBRA)
    unseen = eqx.tree_at(lambda e: e.mask, energy, jnp.zeros((2, 3), bool))
    assert unseen.error(dln.svd(x)) == 0


def test_starts_have_any_shape_and_square_ones_the_numbers_that_they_had(key):
    np.testing.assert_array_equal(dln.gaussian(key, 3, 0.5), 0.5 * jax.random.normal(key, (3, 3)))
    np.testing.assert_array_equal(dln.gaussian(key, (2, 4), 0.5), 0.5 * jax.random.normal(key, (2, 4)))
    many = dln.Ensemble(lambda key: dln.gaussian(key, (2, 4), 0.5), key, 5).take(np.array([1, 4]))
    np.testing.assert_array_equal(many[1], dln.gaussian(jax.random.fold_in(key, 4), (2, 4), 0.5))


def test_weights_of_samples_count_them(key):
    a, b = jax.random.normal(key, (2, 3, 5))
    x, counts = jnp.ones((3, 3)), np.array([2, 0, 1, 1, 3])
    weighted = dln.LeastSquares(a, b, counts)
    repeated = dln.LeastSquares(np.repeat(a, counts, axis=1), np.repeat(b, counts, axis=1))
    for energy in (weighted, repeated):
        assert energy.inputs.shape == energy.outputs.shape == (3, 3)
        assert_close(energy(x), np.sum(counts * (x @ a - b) ** 2) / 2, ALGEBRA)
    mean = dln.LeastSquares(a, b, 1 / 5)
    assert_close(mean.gradient(x), (x @ a - b) @ a.T / 5, ALGEBRA)


@pytest.mark.parametrize("inputs", ["generic", "a row of zeros", "two equal rows"])
def test_fewer_samples_have_the_same_energy(key, inputs):
    a, b = np.array(jax.random.normal(key, (2, 3, 40)))
    # Dependent inputs have a singular triangular factor, by which nothing is divided.
    a[1] = {"generic": a[1], "a row of zeros": 0 * a[1], "two equal rows": a[0]}[inputs]
    energy, best = dln.LeastSquares(a, b), b @ np.linalg.pinv(a)
    assert energy.inputs.shape == (3, 3)
    assert_close(energy(jnp.asarray(best)), np.sum((best @ a - b) ** 2) / 2, ALGEBRA)
    assert_close(energy.gradient(jnp.asarray(best)), np.zeros((3, 3)), 100 * ALGEBRA)
    if inputs == "generic":
        assert_close(energy.floor, np.sum((best @ a - b) ** 2) / 2, ALGEBRA)


def test_energy_near_zero_keeps_its_digits():
    """1/2 (<X^T X, A A^T> - 2 <X, B A^T> + |B|^2) is exact in real numbers, and has lost all digits here."""
    a = np.add.outer(np.arange(3.0), np.arange(50.0)) ** 2 % 17
    target, off = np.array([[1.0, -2.0, 3.0]]), 2.0**-30 * np.array([[1.0, 1.0, 0.0]])
    energy = dln.LeastSquares(a, target @ a)
    expected = np.sum((off @ a) ** 2) / 2
    moments = (target + off) @ (a @ a.T), target @ a @ a.T
    lost = np.sum((target + off) * (moments[0] - 2 * moments[1])) / 2 + np.sum((target @ a) ** 2) / 2
    assert abs(lost - expected) > 0.5 * expected
    assert_close(energy(jnp.asarray(target + off)) / expected, 1.0, FINITE_DIFFERENCE)
    assert_close(value(energy, dln.svd(jnp.asarray(target + off))) / expected, 1.0, FINITE_DIFFERENCE)


def test_data_have_derivatives_and_are_the_same_inside_of_jit(key):
    a, b = jax.random.normal(key, (2, 3, 8))
    x, weights = jnp.ones((3, 3)), jnp.arange(8.0)
    plain = lambda a, b, w: jnp.sum(w * (x @ a - b) ** 2) / 2
    ours = lambda a, b, w: dln.LeastSquares(a, b, w)(x)
    for found, expected in zip(*(jax.grad(f, (0, 1, 2))(a, b, weights) for f in (ours, plain)), strict=True):
        assert_close(found, expected, ALGEBRA)
    assert_close(jax.jit(ours)(a, b, weights), ours(a, b, weights), ALGEBRA)
    found = jax.vmap(lambda b: dln.LeastSquares(a, b)(x))(jnp.stack([b, 2 * b]))
    assert_close(found, [dln.LeastSquares(a, s * b)(x) for s in (1, 2)], ALGEBRA)
