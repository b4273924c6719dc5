"""Wrong input inside of `jax.jit` and `jax.vmap`: a sentence of ours, NaN, or a code; never an error of JAX's own."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import dlnjax as dln

EYE, TS, KEY = np.eye(2), [0.0, 1.0], jax.random.key(0)
ENERGY = dln.MatrixCompletion.diagonal(2)
GENERIC = jnp.array([[1.0, 2.0], [-3.0, 4.0]])
ALL = np.ones((2, 2), bool)
FREE = dln.FreeEnergy(dln.Schatten(2), 1.0)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Without the annotation checks of the other tests, which would refuse some of these before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def twice(x):
    return jnp.stack([x, x])


def seen(values, rows=(0, 0, 1, 1)):
    return dln.MatrixCompletion.from_entries(rows, [0, 1, 0, 1], values, (2, 2))


def trained(x):
    return dln.train(ENERGY, twice(x), optax.sgd(0.1), 2, throw=False)


MATRIX = {
    "svd": dln.svd,
    "metric_operator": lambda x: dln.metric_operator(x, EYE, 2),
    "metric_operator, p": lambda p: dln.metric_operator(EYE, p, 2),
    "metric_operator_inverse": lambda x: dln.metric_operator_inverse(x, EYE, 2),
    "inner": lambda x: dln.inner(x, EYE, EYE, 2),
    "norm": lambda x: dln.norm(x, EYE, 2),
    "norm, z": lambda z: dln.norm(EYE, z, 2),
    "hamiltonian": lambda x: dln.hamiltonian(x, EYE, 2),
    "boundary_distance": lambda x: dln.boundary_distance(x, 2),
    "christoffel": lambda x: dln.christoffel(x, EYE, EYE, 2),
    "christoffel, z1": lambda z: dln.christoffel(EYE, z, EYE, 2),
    "riemannian_gradient": lambda x: dln.riemannian_gradient(dln.Schatten(2), x, 2),
    "balanced_factors": lambda x: dln.balanced_factors(x, 2),
    "imbalanced_factors": lambda x: dln.imbalanced_factors(x, 1.0),
    "tangent_kernel": lambda x: dln.tangent_kernel((x, EYE)),
    "sharpness": lambda x: dln.sharpness(twice(x), ENERGY),
    "product": lambda x: dln.product(twice(x)),
    "balancedness": lambda x: dln.balancedness(twice(x)),
    "horizontal_lift": lambda x: dln.horizontal_lift(twice(x), EYE),
    "horizontal_lift, z": lambda z: dln.horizontal_lift(twice(EYE), z),
    "horizontal_projection": lambda x: dln.horizontal_projection(twice(x), twice(EYE)),
    "vertical_projection": lambda x: dln.vertical_projection(twice(EYE), twice(x)),
    "balance": lambda x: dln.balance(twice(x)),
    "train": trained,
    "network_flow": lambda x: dln.network_flow(ENERGY, twice(x), ts=TS, throw=False),
    "diagonal": lambda x: dln.closed_form.diagonal(x, EYE, 2)(0.5),
    "bures_wasserstein": lambda x: dln.closed_form.bures_wasserstein(x, EYE)(0.5),
    "commuting": lambda x: dln.closed_form.commuting(x, EYE, 2)(0.5),
    "two_layer": lambda x: dln.closed_form.two_layer(x, EYE, EYE, 1.0),
    "two_layer, target": lambda x: dln.closed_form.two_layer(EYE, EYE, x, 1.0),
    "MatrixCompletion": lambda labels: dln.MatrixCompletion(labels, ALL)(jnp.eye(2)),
    "from_entries": lambda x: seen(x.ravel())(jnp.eye(2)),
    "LeastSquares": lambda a: dln.LeastSquares(a, EYE)(GENERIC),
    "MatrixSensing": lambda a: dln.MatrixSensing(a[None], np.ones(1))(GENERIC),
    "Schatten": lambda x: dln.Schatten(2)(x),
    "SpectralEnergy": lambda x: dln.SpectralEnergy(lambda s: s**2)(x),
    "FreeEnergy": lambda x: FREE(x),
    "FreeEnergy.gradient": lambda x: FREE.gradient(x),
    "distance_bounds": lambda x: dln.distance_bounds(x, EYE, 2),
    "geodesics": lambda x: dln.geodesics(x, EYE, 2),
    "sweep": lambda x: dln.sweep(ENERGY, x[None], ts=TS),
    "gaussian": lambda key: dln.gaussian(key, 2, 1.0),
    "Ensemble": lambda key: dln.Ensemble(lambda k: jnp.eye(2), key, 3).take(jnp.array([0])),
    "load": dln.load,
    "plot.ellipses": lambda x: dln.plot.ellipses(x[None]),
    "plot": lambda x: dln.plot.singular_values(dln.train(ENERGY, twice(x), optax.sgd(0.1), [1, 2], throw=False)),
    "save": lambda x: trained(x).save("never.nc"),
    "to_xarray": lambda x: trained(x).to_xarray(),
}
# What takes longer to compile.
SOLVED = {
    "gradient_flow": lambda x: dln.gradient_flow(ENERGY, x, depth=2, ts=TS, throw=False),
    "exponential": lambda x: dln.exponential(x, EYE, 2, throw=False),
    "exponential, p": lambda p: dln.exponential(EYE, p, 2, throw=False),
    "geodesic": lambda x: dln.geodesic(x, EYE, 2.0, throw=False),
    "logarithm": lambda x: dln.logarithm(x, EYE, 2.0, throw=False),
    "distance": lambda x: dln.distance(x, EYE, 2.0, throw=False),
    "transport, z": lambda z: dln.transport(dln.geodesic(EYE, 2.0 * EYE, 2.0), z),
    "curvature": lambda x: dln.curvature(x, EYE, EYE, EYE, 2),
    "sectional_curvature": lambda x: dln.sectional_curvature(x, EYE, np.diag([1.0, 0.0]), 2),
}
ROW = {
    "effective_rank": dln.effective_rank,
    "stable_rank": dln.stable_rank,
    "nuclear_norm": dln.nuclear_norm,
    "schatten_norm": lambda s: dln.schatten_norm(s, 2),
    "schatten_norm, inf": lambda s: dln.schatten_norm(s, jnp.inf),
    "entropy": dln.entropy,
    "entropy_gradient": lambda s: dln.entropy_gradient(s, 2),
    "metric_eigenvalues": lambda s: dln.metric_eigenvalues(s, 2),
    "metric_eigenvalues, inf": lambda s: dln.metric_eigenvalues(s, jnp.inf),
}
NUMBER = {
    "depth": lambda n: dln.entropy(jnp.ones(2), n),
    "p": lambda p: dln.schatten_norm(jnp.ones(2), p),
    "Schatten": lambda p: dln.Schatten(p)(jnp.eye(2)),
    "beta": lambda b: dln.FreeEnergy(dln.Schatten(2), b)(jnp.eye(2)),
    "scale": lambda s: dln.gaussian(KEY, 2, s),
    "gradient": lambda g: dln.Steady(g).gradient,
    "weights": lambda w: dln.LeastSquares(EYE, EYE, w)(2 * jnp.eye(2)),
    "weight": lambda w: dln.MatrixCompletion(EYE, ALL, w)(2 * jnp.eye(2)),
}
COUNT = {
    "d": lambda n: dln.gaussian(KEY, n, 1.0),
    "shape": lambda n: dln.gaussian(KEY, (2, n), 1.0),
    "rows": lambda n: seen(np.ones(4), rows=[0, 0, 1, n]),
    "diagonal": lambda n: dln.MatrixCompletion.diagonal(n),
    "n": lambda n: dln.Ensemble(lambda k: jnp.eye(2), KEY, n),
    "factors": lambda n: dln.balanced_factors(EYE, n),
    "max_steps": lambda n: dln.exponential(EYE, EYE, 2, max_steps=n),
    "names": lambda n: dln.RESULTS(n).names,
    "sentence": lambda n: dln.RESULTS[dln.RESULTS(n)],
}
NAN = float("nan")
# Of these the values are wrong, and what comes out is NaN where nothing is raised; of others the shape or the type.
NOT_FINITE = {"NaN": NAN * EYE, "one NaN": np.array([[1.0, NAN], [0.0, 1.0]]), "inf": np.diag([1.0, np.inf])}
NOT_SQUARE = {"wide": np.ones((2, 3)), "vector": np.ones(2), "empty": np.ones((0, 0))}
# Of these the matrix need not be square.
ANY_SHAPE = {"svd", "boundary_distance", "Schatten", "SpectralEnergy", "FreeEnergy", "FreeEnergy.gradient"}
ANY_SHAPE |= {"balanced_factors", "imbalanced_factors", "tangent_kernel", "riemannian_gradient"}
NOT_REAL = {"int": np.eye(2, dtype=int), "bool": EYE > 0, "complex": EYE + 0j}
SINGULAR = {"singular": np.diag([1.0, 0.0]), "zero": 0 * EYE}
TRANSFORMS = {"jit": lambda f: jax.jit(f), "vmap": lambda f: lambda x: jax.vmap(f)(twice(x))}
# The words with which every sentence of ours says what is wrong, or what does not go.
OURS = ("must ", "cannot be traced", "does not run under jit", "needs numbers", "no name yet", "has shape")


def outcome(transform, f, x):
    """What comes out, or None after an error that is one of ours."""
    try:
        return jax.block_until_ready(TRANSFORMS[transform](f)(jnp.asarray(x)))
    except (ValueError, TypeError, RuntimeError) as error:
        assert not isinstance(error, jax.errors.JAXTypeError), error
        assert any(words in str(error) for words in OURS), error
        return None


def is_marked(out):
    """Whether what came out says that something is wrong: NaN, infinity, or a code."""
    if hasattr(out, "result"):
        return bool(np.all(np.asarray(out.result.code) > dln.RESULTS.stopped.code))
    floats = [np.asarray(z) for z in jax.tree.leaves(out) if jnp.issubdtype(z.dtype, jnp.inexact)]
    return any(not np.isfinite(z).all() for z in floats)


@pytest.mark.parametrize("name", ["metric_operator", "metric_operator_inverse", "inner", "norm", "boundary_distance"])
def test_nan_in_one_of_many_leaves_the_others_as_they_are(name):
    out = jax.vmap(MATRIX[name])(jnp.stack([GENERIC, NAN * GENERIC]))
    np.testing.assert_array_equal(out[0], MATRIX[name](GENERIC))
    assert np.isnan(out[1]).all()


def check_matrix(transform, name, f):
    for x in NOT_FINITE.values():
        out = outcome(transform, f, x)
        assert out is None or is_marked(out)
    for kind, x in (NOT_SQUARE | NOT_REAL).items():
        if kind != "wide" or name not in ANY_SHAPE:
            assert outcome(transform, f, x) is None
    for x in SINGULAR.values():
        outcome(transform, f, x)


@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_wrong_matrices(transform, name):
    check_matrix(transform, name, MATRIX[name])


@pytest.mark.long
@pytest.mark.parametrize("name", SOLVED)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_wrong_matrices_where_something_is_solved(transform, name):
    check_matrix(transform, name, SOLVED[name])


@pytest.mark.parametrize("name", ROW)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_wrong_singular_values(transform, name):
    for sigma in ([NAN, NAN], [1.0, NAN], [1.0, np.inf], [1.0, -1.0]):
        out = outcome(transform, ROW[name], np.array(sigma))
        assert out is None or is_marked(out), sigma
    for sigma in (np.ones(2) + 0j, np.ones(2) > 0, np.ones(()), np.ones(0)):
        assert outcome(transform, ROW[name], sigma) is None


@pytest.mark.parametrize("name", NUMBER)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_wrong_numbers(transform, name):
    for number in (NAN, -1.0, 0.0, 1j, True):
        assert outcome(transform, NUMBER[name], number) is None, number


@pytest.mark.parametrize("name", COUNT)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_traced_counts(transform, name):
    assert outcome(transform, COUNT[name], 2) is None
