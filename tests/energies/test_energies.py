"""Energies: their gradients and Hessians, in closed form, by autodiff and by differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._protocol import at_start, gradient, pullback, sides, value

D = 3
KEY_NAMES = [
    *("completion", "diagonal", "entries", "sensing", "regression"),
    *("Schatten 1.5", "Schatten 4", "spectral", "free", "free completion"),
]
SPECTRAL = ["Schatten 1.5", "Schatten 4", "spectral", "free"]
# Where an energy of the singular values has no Hessian, or no gradient, at a singular matrix.
REGULAR = ["spectral", "free", "free completion"]


def softplus(s):
    return jnp.log(jnp.cosh(s)) + s


@pytest.fixture(scope="module")
def energies(module_key):
    ka, kb, kc = jax.random.split(module_key, 3)
    mask = jax.random.bernoulli(kb, 0.6, (D, D))
    completion = dln.MatrixCompletion(jax.random.normal(ka, (D, D)), mask)
    return {
        "completion": completion,
        "diagonal": dln.MatrixCompletion.diagonal(D),
        "entries": dln.MatrixCompletion.from_entries([0, 1, 2, 2], [1, 0, 0, 2], jax.random.normal(ka, (4,)), (D, D)),
        "regression": dln.LeastSquares(*jax.random.normal(kc, (2, D, 5))),
        "sensing": dln.MatrixSensing(jax.random.normal(kb, (4, D, D)), jax.random.normal(kc, (4,))),
        "Schatten 1.5": dln.Schatten(1.5),
        "Schatten 4": dln.Schatten(4.0),
        "spectral": dln.SpectralEnergy(softplus),
        "free": dln.FreeEnergy(dln.Schatten(2.0), 0.7, 3.5),
        "free completion": dln.FreeEnergy(completion, 2.0),
    }


@pytest.fixture(scope="module")
def points(module_key):
    """Generic, with a pair, isotropic, nearly isotropic; and of rank 2 and 1."""
    keys = jax.random.split(module_key, 4)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in keys[:2])
    spectra = [[2.0, 1.1, 0.4], [1.3, 1.3, 0.5], [0.9] * 3, [1.0, 1.0 - 1e-6, 1.0 - 2e-6], [1.5, 0.8, 0.0], [1.2, 0, 0]]
    x = jnp.stack([(u * jnp.array(s)) @ v.T for s in spectra])
    return x, jax.random.normal(keys[2], x.shape)


def keep(name, points):
    """The points where the energy is differentiable: at singular matrices not all are."""
    return tuple(a[:4] if name in REGULAR else a for a in points)


@pytest.mark.parametrize("name", KEY_NAMES)
def test_gradient_in_closed_form_is_that_of_autodiff_and_of_differences(energies, points, name):
    energy, (x, dx) = energies[name], keep(name, points)
    closed = jax.jit(jax.vmap(energy.gradient))(x)
    assert_close(closed, jax.jit(jax.vmap(jax.grad(energy)))(x), ALGEBRA)
    h, value = 1e-5, jax.jit(jax.vmap(energy))
    slope = (value(x + h * dx) - value(x - h * dx)) / (2 * h)
    assert_close(jnp.sum(closed * dx, axis=(1, 2)), slope, FINITE_DIFFERENCE)


@pytest.mark.parametrize("name", KEY_NAMES)
def test_pullback_is_the_gradient_seen_from_the_frame(energies, points, name):
    # The gradient of Schatten 1.5 takes the root of what rounding leaves of a zero.
    energy, (x, _) = energies[name], keep("free" if name == "Schatten 1.5" else name, points)

    def both(x):
        point = dln.svd(x)
        flipped = dln.SVD(point.u, -point.sigma, -point.v)
        return [(pullback(energy, p), p.u.T @ gradient(energy, p.matrix) @ p.v) for p in (point, flipped)]

    for found, expected in jax.jit(jax.vmap(both))(x):
        assert_close(found, expected, ALGEBRA)


@pytest.mark.parametrize("name", SPECTRAL)
def test_hessian_is_that_of_differences_at_repeated_values(energies, points, name):
    energy, (x, dx) = energies[name], tuple(a[:4] for a in points)
    h, slope = 1e-5, jax.jit(jax.vmap(energy.gradient))
    expected = (slope(x + h * dx) - slope(x - h * dx)) / (2 * h)
    forward = jax.jit(jax.vmap(lambda x, dx: jax.jvp(jax.grad(energy), (x,), (dx,))[1]))(x, dx)
    assert_close(forward, expected, FINITE_DIFFERENCE)
    reverse = jax.jit(jax.vmap(lambda x, dx: jax.grad(lambda x: jnp.sum(energy.gradient(x) * dx))(x)))(x, dx)
    assert_close(reverse, forward, ALGEBRA)


def test_parameters_have_derivatives(points):
    x = points[0][0]
    s = dln.svd(x).sigma
    slope = lambda f, at: jax.grad(lambda p: f(p)(x))(at)
    assert_close(slope(dln.Schatten, 3.0), jnp.sum(s**3 * (jnp.log(s) / 3 - 1 / 9)), ALGEBRA)
    free = lambda beta: dln.FreeEnergy(dln.Schatten(2.0), beta, 3.0)
    assert_close(slope(free, 2.0), dln.entropy(s, 3.0) / 4, ALGEBRA)
    at_depth = jax.grad(lambda n: dln.FreeEnergy(dln.Schatten(2.0), 2.0, n)(x))(3.0)
    assert_close(at_depth, -jax.grad(lambda n: dln.entropy(s, n))(3.0) / 2, ALGEBRA)


def test_values_are_the_printed_formulas(energies, points):
    x = points[0][0]
    s = np.linalg.svd(np.asarray(x), compute_uv=False)
    diagonal = energies["diagonal"]
    assert_close(diagonal(x), np.sum((np.diagonal(x) - 1) ** 2), ALGEBRA)
    assert_close(diagonal(x), 2 * dln.MatrixCompletion(jnp.eye(D), jnp.eye(D))(x), ALGEBRA)
    completion = energies["completion"]
    assert_close(
        completion(x), np.sum(np.asarray(x - completion.labels)[np.asarray(completion.mask)] ** 2) / 2, ALGEBRA
    )
    sensing = energies["sensing"]
    residual = np.tensordot(np.asarray(sensing.measurements), x, 2) - sensing.values
    assert_close(sensing(x), residual @ residual / 2, ALGEBRA)
    assert_close(energies["Schatten 4"](x), np.sum(s**4) / 4, ALGEBRA)
    assert_close(energies["spectral"](x), np.sum(softplus(s)), ALGEBRA)
    assert_close(energies["free"](x), s @ s / 2 - dln.entropy(jnp.asarray(s), 3.5) / 0.7, ALGEBRA)


def test_weights_of_many_matrices_are_theirs():
    energy = dln.MatrixCompletion(jnp.zeros((2, 2, 2)), jnp.ones((2, 2)), weight=jnp.array([1.0, 10.0]))
    np.testing.assert_array_equal(energy.gradient(jnp.ones((2, 2))), np.full((2, 2, 2), [[[2.0]], [[20.0]]]))


def test_a_mask_put_in_later_is_the_mask_of_the_flow():
    off = dln.MatrixCompletion(jnp.eye(2), 1 - jnp.eye(2), weight=1.0)
    put = eqx.tree_at(lambda e: e.mask, dln.MatrixCompletion.diagonal(2), 1 - jnp.eye(2) == 1)
    point = dln.svd(jnp.array([[0.2, 0.1], [-0.1, 0.3]]))
    for energy in (off, put, at_start(off), at_start(put), at_start(dln.FreeEnergy(put, 1.0)).energy):
        assert_close(pullback(energy, point), point.u.T @ off.gradient(point.matrix) @ point.v, ALGEBRA)
    # At most d entries cost one product in place of three, which is found where a flow starts.
    assert at_start(put).entries is not None and at_start(dln.FreeEnergy(off, 1.0)).energy.entries is not None
    sol = dln.gradient_flow(put, point.matrix, ts=[0.0, 30.0], depth=2)
    assert_close(sol.x[-1][[0, 1], [1, 0]], np.zeros(2), FINITE_DIFFERENCE)


def test_labels_outside_the_mask_are_not_read(points):
    mask = jnp.eye(D, dtype=bool)
    holes = dln.MatrixCompletion(jnp.where(mask, 1.0, jnp.nan), mask, weight=1.0)
    whole = dln.MatrixCompletion.diagonal(D)
    for f in (lambda e: e, lambda e: e.gradient, jax.grad, lambda e: lambda x: pullback(e, dln.svd(x))):
        np.testing.assert_array_equal(f(holes)(points[0][0]), f(whole)(points[0][0]))


def test_callable_of_the_user_needs_nothing_else(points):
    energy = lambda x: jnp.sum(jnp.sin(x))
    for x in points[0]:
        assert_close(gradient(energy, x), jnp.cos(x), ALGEBRA)
        point = dln.svd(x)
        assert_close(pullback(energy, point), point.u.T @ jnp.cos(x) @ point.v, ALGEBRA)


# Homogeneous energies and their degrees, in the units of X.
HOMOGENEOUS = {
    "completion": (2.0, lambda c, e: dln.MatrixCompletion(c * e["completion"].labels, e["completion"].mask)),
    "sensing": (2.0, lambda c, e: dln.MatrixSensing(e["sensing"].measurements, c * e["sensing"].values)),
    "regression": (2.0, lambda c, e: dln.LeastSquares(e["regression"].inputs, c * e["regression"].outputs)),
    "Schatten 1.5": (1.5, lambda c, e: e["Schatten 1.5"]),
    "square": (2.0, lambda c, e: dln.SpectralEnergy(lambda s: s**2 / 2)),
    "entropy": (0.0, lambda c, e: dln.FreeEnergy(lambda x: 0 * jnp.sum(x), 1.0, 3.0)),
}


@pytest.mark.parametrize("scale", [1e-150, 1e-75, 1e75, 1e150])
@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_energies_of_any_size_are_those_of_size_one(energies, points, name, scale):
    degree, make = HOMOGENEOUS[name]
    small, energy = make(1.0, energies), make(scale, energies)
    with np.errstate(over="ignore", under="ignore"):
        unit, slope = np.float64(scale) ** degree, np.float64(scale) ** (degree - 1)
    for x, dx in zip(*(a[:4] for a in points), strict=True):
        expected = gradient(small, x)
        assert_close(gradient(energy, scale * x) / slope, expected, ALGEBRA)
        assert_close(jax.grad(energy)(scale * x) / slope, expected, ALGEBRA)
        point, seen = dln.svd(scale * x), gradient(energy, scale * x) / slope
        assert_close(pullback(energy, point) / slope, point.u.T @ seen @ point.v, ALGEBRA)
        turned = lambda energy, x, dx: jax.jvp(lambda x: gradient(energy, x), (x,), (dx,))[1]
        # The smallest gap of these is 1e-6, and no digit of it is to be lost.
        assert_close(turned(energy, scale * x, scale * dx) / slope, turned(small, x, dx), INTEGRATION)
        if degree and 1e-300 < unit < 1e300:
            assert_close(energy(scale * x) / unit, small(x), ALGEBRA)


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_what_is_not_finite_gives_no_number_and_comes_back(energies, entry):
    x = jnp.eye(D).at[0, 1].set(entry)
    for name in KEY_NAMES:
        if name != "diagonal":
            seldom = name in ("completion", "entries")
            assert not jnp.all(jnp.isfinite(gradient(energies[name], x))) or seldom
        assert jnp.shape(energies[name](x)) == ()
    # An entry that is not seen is not read.
    assert energies["diagonal"](x) == 0 and jnp.all(energies["diagonal"].gradient(x) == 0)


@pytest.mark.parametrize("strict", [jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise")])
def test_no_types_or_ranks_are_promoted_in_silence(energies, points, strict):
    x, dx = (a[0] for a in points)
    point = dln.svd(x)
    with strict:
        for energy in energies.values():
            of = lambda x, dx, point, energy=energy: (
                *(energy(x), value(energy, point), sides(energy, point), pullback(energy, point)),
                jax.jvp(lambda x: gradient(energy, x), (x,), (dx,)),
            )
            # Types and ranks are promoted where a function is traced.
            jax.eval_shape(of, x, dx, point)
        dln.MatrixCompletion(np.eye(D), np.ones((D, D)), weight=2), dln.FreeEnergy(dln.Schatten(2), 2, 3)
        dln.Ensemble(lambda key: dln.gaussian(key, D, 1), jax.random.key(0), 3).take(np.array([0, 2]))
