"""Every wrong input is refused at the door, with what was received and what to do."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
import xarray

import dlnjax as dln
from dlnjax import _checks, _solver, plot
from dlnjax._flows.problem import Options, prepare

EYE, TS = np.eye(3), [0.0, 1.0]
FULL = np.ones((3, 3), bool)
ENERGY = dln.MatrixCompletion.diagonal(3)
NAN = float("nan")
SINGULAR = np.diag([1.0, 1.0, 0.0])
KEY = jax.random.key(0)
# What a geodesic between matrices of rank r is refused with.
INSIDE = ["with the same column and row spaces", "U^T X V"]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Without the annotation checks of the other tests, which would refuse some of these before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def flow(energy=ENERGY, x0=EYE, ts=TS, **options):
    return lambda: dln.gradient_flow(energy, x0, ts=ts, **options)


def sweep(energy=ENERGY, starts=EYE[None], ts=TS, **options):
    return lambda: dln.sweep(energy, starts, ts=ts, progress=False, **options)


def labelled(labels=EYE, mask=FULL, **options):
    return lambda: dln.MatrixCompletion(labels, mask, **options)


def sensed(measurements, values):
    return lambda: dln.MatrixSensing(measurements, values)


def trained(energy=ENERGY, weights=np.stack([EYE, EYE]), optimizer=optax.sgd(0.1), steps=1):
    return lambda: dln.train(energy, weights, optimizer, steps)


def entries(rows=(0, 1), columns=(0, 2), values=(1.0, 2.0), shape=(2, 3), **options):
    return lambda: dln.MatrixCompletion.from_entries(rows, columns, values, shape, **options)


def held_out(key=KEY, share=0.5):
    return lambda: entries()().split(key, share)


def fitted(inputs=np.ones((2, 5)), outputs=np.ones((3, 5)), **options):
    return lambda: dln.LeastSquares(inputs, outputs, **options)


def drawn(key=KEY, shape=3, scale=1.0):
    return lambda: dln.gaussian(key, shape, scale)


def taken(index):
    return lambda: dln.Ensemble(lambda k: jnp.eye(3), KEY, 4).take(index)


def with_nan(a):
    return np.where(np.eye(3), NAN, a)


def thin(m, n, rank=2):
    return dln.SVD(jnp.eye(m, rank), jnp.ones(rank), jnp.eye(n, rank))


WIDE = dln.MatrixCompletion(np.ones((3, 5)), np.ones((3, 5), bool))

WRONG = [
    # x0
    (flow(x0=np.ones((2, 3))), ValueError, ["energy", "(2, 3)", "(3, 3)"]),
    (flow(x0=np.ones(3)), ValueError, ["x0", "matrix", "(3,)"]),
    (flow(x0=EYE[None]), ValueError, ["x0", "matrix", "sweep"]),
    (flow(x0=np.ones((0, 0))), ValueError, ["x0", "matrix"]),
    (flow(x0=np.eye(3, dtype=int)), TypeError, ["x0", "floating point", "int", "np.asarray(x0, float)"]),
    (flow(x0=EYE + 0j), TypeError, ["x0", "complex", "x0.real"]),
    (flow(x0="identity"), TypeError, ["x0", "numbers", "str"]),
    (flow(x0=[["one", "two"], ["three", "four"]]), TypeError, ["x0", "numbers"]),
    (flow(x0=None), TypeError, ["x0", "NoneType"]),
    (flow(x0=with_nan(EYE)), ValueError, ["x0", "finite"]),
    (flow(x0=np.where(EYE > 0, np.inf, 1.0)), ValueError, ["x0", "finite"]),
    (flow(x0=dln.SVD(2 * jnp.eye(3), jnp.ones(3), jnp.eye(3))), ValueError, ["x0", "orthonormal"]),
    (lambda: flow(x0=dln.SVD(jnp.eye(3), jnp.ones(2), jnp.eye(3)))(), ValueError, ["x0", "shapes"]),
    (flow(x0=dln.SVD(jnp.eye(3), jnp.ones(3) * NAN, jnp.eye(3))), ValueError, ["x0", "finite"]),
    (flow(x0=np.zeros((3, 3))), ValueError, ["x0", "zero matrix"]),
    (flow(x0=SINGULAR, depth=1), ValueError, ["rank 2", "one layer", 'coordinates="matrix"']),
    (flow(x0=SINGULAR, coordinates="matrix"), ValueError, ["rank 2", 'coordinates="svd"']),
    (flow(x0=[[1.0, 0.0], [0.0, 1.0, 0.0]]), TypeError, ["x0", "numbers", "rows of one length"]),
    *(
        (lambda energy=energy: energy(EYE + 0j), TypeError, ["X must be real", "complex"])
        for energy in (labelled()(), fitted(np.ones((3, 5)))(), sensed(np.ones((4, 3, 3)), np.ones(4))())
    ),
    # any shape and rank
    (flow(energy=WIDE, x0=np.ones((5, 3))), ValueError, ["X has shape (5, 3)", "(3, 5)", "transposed", ".T"]),
    (flow(energy=fitted(np.ones((5, 9)), np.ones((3, 9)))(), x0=np.ones((5, 3))), ValueError, ["3 x 5", ".T"]),
    (flow(energy=entries()(), x0=np.ones((3, 2))), ValueError, ["entries", "(2, 3)", "transposed"]),
    (flow(energy=sensed(np.ones((4, 2, 3)), np.ones(4))(), x0=np.ones((3, 2))), ValueError, ["measure", "transposed"]),
    (flow(energy=WIDE, x0=thin(5, 3)), ValueError, ["X has shape (5, 3)", "transposed"]),
    (flow(energy=WIDE, x0=thin(3, 5, 4)), ValueError, ["x0", "r at most m and n", "(5, 4)"]),
    (flow(energy=WIDE, x0=np.linalg.svd(np.ones((3, 5)))), TypeError, ["x0", "SVDResult", "dlnjax.svd(matrix)"]),
    (lambda: flow(WIDE, dln.SVD(jnp.eye(3), jnp.ones(3), jnp.eye(5)))(), ValueError, ["x0", "NumPy", "too large"]),
    (flow(energy=WIDE, x0=thin(3, 5), coordinates="matrix"), ValueError, ["rank 2 < 3", 'coordinates="svd"']),
    (flow(energy=WIDE, x0=np.zeros((3, 5))), ValueError, ["x0", "zero matrix", "Start nearby"]),
    (flow(energy=WIDE, x0=np.zeros((3, 5)), depth=1), ValueError, ["rank 0 < 3", 'coordinates="matrix"']),
    (sweep(energy=WIDE, starts=thin(3, 5)), ValueError, ["starts", "SVD with the seeds in front", "gradient_flow"]),
    (
        lambda: dln.distance(np.ones((3, 5)), np.ones((3, 5)), 2.0),
        ValueError,
        ["a must be a square", "flows"],
    ),
    (lambda: dln.logarithm(np.ones((3, 5)), np.ones((3, 5)), 2.0), ValueError, ["a must be a square", "any"]),
    (
        lambda: dln.exponential(np.ones((3, 5)), np.ones((3, 5)), 2.0, ts=TS),
        ValueError,
        ["x", "full rank", "svd(x, rank"],
    ),
    (lambda: dln.closed_form.bures_wasserstein(np.ones((3, 5)), np.ones((3, 5))), ValueError, ["square", "any"]),
    (lambda: dln.distance(dln.svd(EYE), EYE, 2.0), TypeError, ["a must be", "SVD", "a.matrix"]),
    *(
        (lambda f=f, ends=ends, depth=depth: f(*ends, depth), kind, [*words, *INSIDE])
        for f in (dln.geodesic, dln.geodesics, dln.distance, dln.distance_bounds, dln.logarithm)
        for depth in (1, 2, 3, np.inf)
        for ends, kind, words in (
            ((SINGULAR, EYE), ValueError, ["a is singular"]),
            ((EYE, SINGULAR), ValueError, ["b is singular"]),
            ((thin(3, 3), thin(3, 3)), TypeError, ["a must be a square matrix, got an SVD"]),
            ((np.ones((3, 5)), np.ones((3, 5))), ValueError, ["a must be a square matrix of shape (d, d)"]),
        )
    ),
    (lambda: dln.distances(np.ones((2, 3, 5)), None, 2), ValueError, ["a must be a stack of square", *INSIDE]),
    (lambda: dln.frechet_mean(np.ones((2, 3, 5)), 2), ValueError, ["points must be a stack of square", *INSIDE]),
    (lambda: dln.frechet_mean(np.ones((0, 3, 3)), 2), ValueError, ["points", "at least one matrix", "(0, 3, 3)"]),
    (lambda: dln.frechet_mean([], 2), ValueError, ["points", "at least one matrix", "(0,)"]),
    # imbalance
    (flow(depth=dln.Imbalanced(jnp.array([0.5, 0.3]))), ValueError, ["one kernel", "(2,)", "tuple", "sweep"]),
    (sweep(depth=dln.Imbalanced(jnp.array([0.5, 0.3]))), ValueError, ["depth", "1 starts", "(2,)"]),
    # depth
    (flow(depth={}), TypeError, ["depth", "number", "{}"]),
    (flow(depth=np.array("deep")), TypeError, ["depth", "[1, inf]"]),
    (flow(depth=0.5), ValueError, ["depth", "1 <= N", "0.5"]),
    (flow(depth=-jnp.inf), ValueError, ["depth", "1 <= N"]),
    (flow(depth=NAN), ValueError, ["depth", "1 <= N", "nan"]),
    (flow(depth="inf"), TypeError, ["depth", "number", "'inf'"]),
    (flow(depth=None), TypeError, ["depth", "number", "None"]),
    (flow(depth=True), TypeError, ["depth", "number", "True"]),
    (flow(depth=2j), TypeError, ["depth", "real"]),
    (flow(depth=np.array([2.0, 3.0])), ValueError, ["depth", "one number", "(2,)"]),
    (sweep(depth=np.array([2.0, 3.0])), ValueError, ["depth", "1 starts", "(2,)"]),
    (lambda: dln.entropy(jnp.ones(3), 0.5), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.metric_operator(jnp.eye(3), jnp.eye(3), 0.5), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.metric_operator(jnp.eye(3), jnp.eye(2), 2.0), ValueError, ["x and p", "(3, 3)", "(2, 2)"]),
    (lambda: dln.metric_operator(jnp.ones((2, 3)), jnp.eye(2), 2.0), ValueError, ["x and p", "(2, 3)", "(2, 2)"]),
    (lambda: dln.metric_operator(jnp.ones(3), jnp.eye(3), 2.0), ValueError, ["x", "matrix", "(3,)"]),
    (lambda: dln.metric_operator(jnp.eye(3), jnp.eye(3, dtype=int), 2.0), TypeError, ["p", "floating point"]),
    (lambda: dln.metric_operator(EYE, EYE, np.ones(2)), ValueError, ["depth", "one number", "(2,)", "vmap"]),
    (lambda: dln.metric_operator(with_nan(EYE), EYE, 2.0), ValueError, ["x", "finite"]),
    # ts
    (flow(ts="0, 1"), TypeError, ["ts", "numbers", "str", "[0.0, 10.0]"]),
    (flow(ts=None), TypeError, ["ts", "numbers", "NoneType"]),
    (flow(ts=["begin", "end"]), TypeError, ["ts", "numbers", "entries"]),
    (flow(ts=[]), ValueError, ["ts", "two times", "(0,)"]),
    (flow(ts=[1.0]), ValueError, ["ts", "two times", "(1,)"]),
    (flow(ts=5.0), ValueError, ["ts", "two times"]),
    (flow(ts=[[0.0, 1.0]]), ValueError, ["ts", "two times", "(1, 2)"]),
    (flow(ts=[0.0, 2.0, 1.0]), ValueError, ["ts", "increasing"]),
    (flow(ts=[0.0, 0.0]), ValueError, ["ts", "increasing"]),
    (flow(ts=[0.0, NAN]), ValueError, ["ts", "finite"]),
    (flow(ts=[0.0, np.inf]), ValueError, ["ts", "finite"]),
    (flow(ts=[0.0, 1j]), TypeError, ["ts", "real"]),
    # how to solve
    (flow(rtol=0.0), ValueError, ["rtol", "above 0"]),
    (flow(rtol=-1e-6), ValueError, ["rtol", "above 0"]),
    (flow(rtol=NAN), ValueError, ["rtol", "above 0"]),
    (flow(rtol=1.0), ValueError, ["rtol", "above 0 and below 1", "got 1.0", "1e-6 by default"]),
    (flow(rtol=np.inf), ValueError, ["rtol", "below 1", "inf"]),
    (flow(rtol="1e-6"), TypeError, ["rtol", "number"]),
    (flow(rtol=None), TypeError, ["rtol", "number"]),
    (flow(rtol=1j), TypeError, ["rtol", "real", "1e-6 by default"]),
    (flow(rtol=[1e-3]), ValueError, ["rtol", "one number", "(1,)"]),
    (flow(atol=0.0), ValueError, ["atol", "above 0"]),
    (flow(atol=NAN), ValueError, ["atol", "above 0"]),
    (flow(solver="Dopri5"), TypeError, ["solver", "diffrax"]),
    (flow(solver=diffrax.Dopri5), TypeError, ["solver", "diffrax"]),
    (flow(solver=diffrax.Euler()), ValueError, ["solver", "estimate", "Euler"]),
    (flow(coordinates="SVD"), ValueError, ["coordinates", '"svd"', "'SVD'"]),
    (flow(stop=1e-6), TypeError, ["stop", "Steady"]),
    (flow(stop=dln.Steady), TypeError, ["stop", "Steady"]),
    (lambda: dln.Steady(0.0), ValueError, ["gradient", "above 0"]),
    (lambda: dln.Steady(NAN), ValueError, ["gradient", "above 0"]),
    (lambda: dln.Steady("1e-6"), TypeError, ["gradient", "number", "'1e-6'"]),
    (lambda: dln.Steady(np.ones(2)), ValueError, ["gradient", "one number", "(2,)"]),
    (flow(observe=lambda point: "rank"), TypeError, ["observe", "return arrays"]),
    (flow(observe=lambda x: x[0]), TypeError, ["observe", "subscriptable"]),
    (flow(observe=3), TypeError, ["observe", "callable"]),
    (flow(max_steps=0), ValueError, ["max_steps", "at least 1"]),
    (flow(max_steps=1.5), ValueError, ["max_steps", "whole"]),
    (flow(max_steps=True), TypeError, ["max_steps", "whole"]),
    (flow(max_steps=np.inf), ValueError, ["max_steps", "whole"]),
    (flow(max_steps="many"), TypeError, ["max_steps", "whole"]),
    # energies
    (flow(energy="completion"), TypeError, ["energy", "callable", "str"]),
    (flow(energy=lambda x: x), ValueError, ["energy", "scalar", "[3, 3]", "jnp.sum"]),
    (flow(energy=lambda x: jnp.sum(x) + 0j), ValueError, ["energy", "real scalar"]),
    (flow(energy=lambda x: None), ValueError, ["energy", "scalar", "nothing"]),
    (flow(energy=lambda x: (jnp.sum(x), jnp.sum(x))), ValueError, ["energy", "scalar"]),
    (flow(energy=dln.MatrixCompletion.diagonal(4)), ValueError, ["(3, 3)", "(4, 4)"]),
    (flow(energy=dln.MatrixSensing(np.ones((2, 4, 4)), np.ones(2))), ValueError, ["(3, 3)", "(2, 4, 4)"]),
    (flow(energy=lambda x: float(jnp.sum(x))), TypeError, ["energy", "jax.numpy", "no float()"]),
    (flow(energy=lambda x: np.sum(np.asarray(x))), TypeError, ["energy", "jax.numpy", "no NumPy"]),
    (flow(energy=lambda x: jnp.sum(x) if x[0, 0] > 0 else 0.0), TypeError, ["energy", "jax.numpy", "no `if`"]),
    (flow(energy=lambda x, y: jnp.sum(x)), TypeError, ["energy", "a matrix of shape (3, 3)", "'y'"]),
    (flow(energy=dln.MatrixCompletion), TypeError, ["energy", "the class MatrixCompletion", "make one"]),
    (lambda: ENERGY("matrix"), TypeError, ["X", "numbers", "str"]),
    (lambda: ENERGY([[1.0]]), ValueError, ["(1, 1)", "(3, 3)"]),
    (lambda: dln.MatrixCompletion.diagonal(2.5), ValueError, ["d", "whole", "2.5"]),
    (lambda: dln.MatrixCompletion.diagonal("3"), TypeError, ["d", "whole", "'3'"]),
    (labelled(np.ones((2, 3, 3)), np.ones((4, 3, 3), bool)), ValueError, ["labels and mask", "(2, 3, 3)", "(4, 3, 3)"]),
    (labelled(weight="half"), TypeError, ["weight", "number", "'half'"]),
    (labelled(mask=None), TypeError, ["mask", "numbers", "NoneType"]),
    (sensed(np.stack([EYE, with_nan(EYE)]), np.ones(2)), ValueError, ["measurements", "finite"]),
    (sensed(np.ones((2, 3, 3)), np.ones(2, int)), TypeError, ["values", "floating point"]),
    (sensed(np.ones((2, 4, 3, 3)), np.ones((3, 4))), ValueError, ["measurements and values", "(2,)", "(3,)"]),
    (lambda: dln.FreeEnergy(ENERGY, "hot"), TypeError, ["beta", "number", "'hot'"]),
    (lambda: dln.FreeEnergy(ENERGY, np.inf), ValueError, ["beta", "finite", "energy itself"]),
    (lambda: dln.SpectralEnergy(lambda s: float(s)), TypeError, ["f", "jax.numpy"]),
    (lambda: dln.riemannian_gradient(lambda x: x, EYE, 2.0), ValueError, ["energy", "scalar", "jnp.sum"]),
    (lambda: dln.riemannian_gradient(None, EYE, 2.0), TypeError, ["energy", "callable", "NoneType"]),
    (labelled(mask=np.ones((2, 2), bool)), ValueError, ["mask", "shape", "(2, 2)"]),
    (labelled(mask=0 * EYE), ValueError, ["mask", "an entry that is seen"]),
    (labelled(mask=True), ValueError, ["mask", "shape", "()"]),
    (labelled(mask=2 * EYE), ValueError, ["mask", "0/1"]),
    (labelled(mask=with_nan(EYE)), ValueError, ["mask", "0/1"]),
    (labelled(mask=[["seen"] * 3] * 3), TypeError, ["mask"]),
    (labelled(labels=with_nan(EYE)), ValueError, ["labels", "finite on the mask"]),
    (labelled(labels=np.ones((2, 3))), ValueError, ["mask", "labels, (2, 3)", "(3, 3)"]),
    (labelled(labels=np.ones(3)), ValueError, ["labels", "(..., m, n)", "(3,)"]),
    (labelled(labels=np.eye(3, dtype=int)), TypeError, ["labels", "floating point"]),
    (labelled(weight=0.0), ValueError, ["weight", "above 0"]),
    (sensed(np.ones((2, 3, 3)), np.ones(3)), ValueError, ["measurements", "(2, 3, 3)", "(3,)"]),
    (sensed(np.ones((3, 3)), np.ones(3)), ValueError, ["measurements", "(3, 3)"]),
    (lambda: sensed(np.ones((2, 3, 4)), np.ones(2))()(EYE), ValueError, ["(3, 3)", "(2, 3, 4)"]),
    (entries(rows=[0]), ValueError, ["one length", "1, 2 and shape (2,)"]),
    (entries(values=1.0), ValueError, ["one length", "shape ()"]),
    (entries([], [], np.ones(0)), ValueError, ["empty", "at least one entry"]),
    (entries(rows=[0, 2]), ValueError, ["rows", "from 0 to 1", "2 at position 1", "Counted from 1"]),
    (entries(columns=[-1, 2]), ValueError, ["columns", "from 0 to 2", "-1 at position 0"]),
    (entries([0, 0, 1], [1, 1, 2], np.ones(3)), ValueError, ["once", "1 repeated", "(0, 1)", "mean"]),
    (entries(rows=[0.0, 1.0]), TypeError, ["rows", "whole numbers", "float64[2]"]),
    (entries(rows=[True, False]), TypeError, ["rows", "whole numbers", "bool"]),
    (entries(rows=None), TypeError, ["rows", "NoneType", "whole numbers"]),
    (entries(columns=[[0], [1]]), TypeError, ["columns", "(entries,)", "[2, 1]"]),
    (entries(values=[1, 2]), TypeError, ["values", "floating point"]),
    (entries(values=[1.0, NAN]), ValueError, ["values", "finite", "Leave unseen entries out"]),
    (entries(weight=0.0), ValueError, ["weight", "above 0"]),
    (entries(shape=6), ValueError, ["shape", "(m, n)", "6"]),
    (entries(shape=(2, 3, 4)), ValueError, ["shape", "(m, n)", "(2, 3, 4)"]),
    (entries(shape=(2, 2.5)), ValueError, ["shape[1]", "whole", "2.5"]),
    (lambda: entries()()(EYE), ValueError, ["(3, 3)", "(2, 3)"]),
    (lambda: jax.jit(lambda i: entries(rows=i)()(EYE[:2]))(np.array([0, 1])), TypeError, ["rows", "traced", "mask"]),
    (held_out(share=0.0), ValueError, ["share", "between 0 and 1", "0.0"]),
    (held_out(share=1), ValueError, ["share", "between 0 and 1"]),
    (held_out(share=0.1), ValueError, ["share", "either side", "0.1 of 2"]),
    (held_out(share="half"), ValueError, ["share", "'half'"]),
    (held_out(key=0), TypeError, ["key", "jax.random.key(0)", "int"]),
    (lambda: jax.jit(lambda key: held_out(key)()[0](EYE[:2]))(KEY), TypeError, ["key", "traced", "outside"]),
    (fitted(outputs=np.ones((3, 4))), ValueError, ["same samples", "(2, 5) and (3, 4)", "5 and 4 samples"]),
    (fitted(np.ones((5, 2)), np.ones((5, 3))), ValueError, ["one a column", "rows", "inputs.T and outputs.T"]),
    (lambda: fitted(np.ones((5, 2)), np.ones((5, 2)))()(EYE), ValueError, ["X", "(3, 3)", "5 x 5", "one sample a col"]),
    (fitted(outputs=np.ones(5)), ValueError, ["outputs", "column", "(5,)", "outputs[None, :]"]),
    (fitted(np.ones((2, 0)), np.ones((3, 0))), ValueError, ["inputs", "at least one sample", "(2, 0)"]),
    (fitted(inputs=np.full((2, 5), NAN)), ValueError, ["inputs", "finite"]),
    (fitted(np.ones((5, 2)), np.ones((3, 5))), ValueError, ["same samples", "rows of inputs", "inputs.T"]),
    (fitted(np.ones((2, 5)), np.ones((5, 3))), ValueError, ["same samples", "rows of outputs", "outputs.T"]),
    (fitted(outputs=np.full((3, 5), np.inf)), ValueError, ["outputs", "finite"]),
    (fitted(inputs=np.ones((2, 5), int)), TypeError, ["inputs", "floating point"]),
    (fitted(weights=[1.0, 1.0, 1.0, 1.0, -1.0]), ValueError, ["weights", "at least 0"]),
    (fitted(weights=np.zeros(5)), ValueError, ["weights", "above 0"]),
    (fitted(weights=NAN), ValueError, ["weights", "finite"]),
    (fitted(weights=np.ones(4)), ValueError, ["weights", "5 samples", "(4,)"]),
    (fitted(weights="equal"), TypeError, ["weights", "numbers", "str"]),
    (fitted(np.ones((4, 2, 5)), np.ones((2, 3, 5))), ValueError, ["inputs and outputs", "(4,)", "(2,)"]),
    (sensed(np.ones((2, 3, 3), int), np.ones(2)), TypeError, ["measurements", "floating point"]),
    (lambda: dln.FreeEnergy(ENERGY, 0.0), ValueError, ["beta", "above 0"]),
    (lambda: dln.FreeEnergy(ENERGY, -1.0), ValueError, ["beta", "above 0"]),
    (lambda: dln.FreeEnergy(ENERGY, 1.0, depth=0.0), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.FreeEnergy(3.0, 1.0), TypeError, ["energy", "callable"]),
    (lambda: dln.Schatten(0.0), ValueError, ["p", "above 0"]),
    (lambda: dln.Schatten(np.inf), ValueError, ["p", "finite"]),
    (lambda: dln.SpectralEnergy(2.0), TypeError, ["f", "callable"]),
    (lambda: dln.SpectralEnergy(lambda s: jnp.stack([s, s])), ValueError, ["f", "scalar", "(2,)"]),
    # functions of the singular values
    (lambda: dln.effective_rank(jnp.array([1.0, -1.0])), ValueError, ["sigma", "nonnegative", "svd"]),
    (lambda: dln.effective_rank(jnp.zeros(3)), ValueError, ["sigma", "zero"]),
    (lambda: dln.effective_rank(jnp.array([1.0, NAN])), ValueError, ["sigma", "finite"]),
    (lambda: dln.effective_rank(jnp.array(1.0)), ValueError, ["sigma", "(..., d)"]),
    (lambda: dln.effective_rank(dln.svd(EYE)), TypeError, ["sigma", "SVD", "dlnjax.svd(x).sigma"]),
    (lambda: dln.effective_rank(None), TypeError, ["sigma", "NoneType"]),
    (lambda: dln.entropy("1, 2"), TypeError, ["sigma", "str"]),
    (lambda: dln.schatten_norm(jnp.ones(3), None), TypeError, ["p", "number", "None"]),
    (lambda: dln.metric_eigenvalues(np.ones(2), np.ones(2)), ValueError, ["depth", "one number", "(2,)"]),
    (lambda: dln.stable_rank(jnp.zeros(3)), ValueError, ["sigma", "zero"]),
    (lambda: dln.nuclear_norm(jnp.array([-1.0])), ValueError, ["sigma", "nonnegative"]),
    (lambda: dln.schatten_norm(jnp.ones(3), 0.0), ValueError, ["p", "above 0"]),
    (lambda: dln.entropy(jnp.array([1j, 1.0])), TypeError, ["sigma", "real"]),
    (lambda: dln.entropy_gradient(jnp.array([1.0, 0.0])), ValueError, ["sigma", "positive"]),
    (lambda: dln.entropy_gradient(np.array([1.0, 1e-310])), ValueError, ["sigma", "positive"]),
    (lambda: dln.svd(jnp.ones(3)), ValueError, ["x", "matrix", "(3,)"]),
    # the network
    (lambda: dln.product(EYE), ValueError, ["weights", "(N, d, d)", "(3, 3)"]),
    (lambda: dln.product(np.ones((0, 3, 3))), ValueError, ["weights", "(N, d, d)", "(0, 3, 3)"]),
    (lambda: dln.balancedness(np.ones((2, 2, 3))), ValueError, ["weights", "square", "(2, 2, 3)"]),
    (lambda: dln.balancedness(np.ones((2, 3, 3), int)), TypeError, ["weights", "floating point", "int"]),
    (lambda: dln.balanced_factors(np.ones(3), 2), ValueError, ["x", "(m, n)", "(3,)"]),
    (lambda: dln.balanced_factors(EYE, 3, widths=(3,)), ValueError, ["widths", "2 hidden layers", "got 1"]),
    (lambda: dln.balanced_factors(EYE, 2, widths=3), TypeError, ["widths", "sequence", "int"]),
    (lambda: dln.balanced_factors(EYE, 2, widths=(2.5,)), ValueError, ["widths", "whole", "2.5"]),
    (lambda: dln.balanced_factors(EYE, 3, widths=(5, 2)), ValueError, ["widths", "rank of x, 3", "(5, 2)", "width 2"]),
    (
        lambda: dln.balanced_factors(dln.SVD(jnp.eye(3), jnp.ones(2), jnp.eye(3)[:, :2]), 2),
        ValueError,
        ["x must be an SVD", "(3, 3)", "(2,)", "(3, 2)"],
    ),
    (lambda: dln.imbalanced_factors(dln.SVD(EYE, np.ones(3), 2 * EYE), 1.0), ValueError, ["x", "orthonormal"]),
    (
        lambda: dln.imbalanced_factors(dln.SVD(np.ones((4, 3)), np.ones(3), np.ones((2, 3))), 1.0),
        ValueError,
        ["x must be an SVD", "r at most m and n", "(2, 3)"],
    ),
    (lambda: dln.imbalanced_factors(EYE, "1"), TypeError, ["imbalance", "g_1, ..., g_{N-1}"]),
    (lambda: dln.imbalanced_factors(EYE, [1.0, NAN]), ValueError, ["imbalance", "finite", "nan"]),
    (lambda: dln.imbalanced_factors(EYE, EYE), ValueError, ["imbalance", "(3, 3)"]),
    (lambda: dln.product([]), ValueError, ["weights", "at least one", "none"]),
    (lambda: dln.product([EYE, np.ones(3)]), ValueError, ["weights[1]", "(m, n)", "(3,)"]),
    (lambda: dln.product([EYE, EYE.astype(int)]), TypeError, ["weights[1]", "floating point", "int"]),
    (lambda: dln.network_flow(ENERGY, [np.ones((2, 3)), np.ones((4, 2))], ts=TS), ValueError, ["(3, 3)", "(4, 3)"]),
    (lambda: dln.balance([np.ones((2, 3)), np.ones((3, 2))]), ValueError, ["weights", "full rank", "2", "(3, 2, 3)"]),
    (
        lambda: dln.horizontal_lift([np.ones((1, 2)), np.ones((2, 1))], np.eye(2)),
        ValueError,
        ["z", "tangent", "rank 1"],
    ),
    (lambda: dln.horizontal_lift([np.ones((1, 2)), np.ones((2, 1))], EYE), ValueError, ["z", "(2, 2)", "(3, 3)"]),
    (lambda: dln.vertical_projection([EYE], EYE), TypeError, ["velocity", "sequence"]),
    (lambda: dln.vertical_projection([EYE], [np.eye(2)]), ValueError, ["velocity", "(3, 3)", "(2, 2)"]),
    (lambda: dln.sharpness(np.stack([EYE, EYE]), lambda x: x), ValueError, ["energy", "scalar"]),
    (lambda: dln.sharpness([with_nan(EYE)], ENERGY), ValueError, ["weights", "finite"]),
    (lambda: dln.tangent_kernel(EYE), ValueError, ["weights", "(N, d, d)", "sequence of matrices"]),
    (lambda: dln.balanced_factors(EYE, 2.5), ValueError, ["depth", "whole", "2.5"]),
    (lambda: dln.balanced_factors(EYE, np.inf), ValueError, ["depth", "whole", "inf"]),
    (trained(weights=EYE), ValueError, ["weights", "(N, d, d)", "jax.vmap"]),
    (trained(weights=np.full((2, 3, 3), NAN)), ValueError, ["weights", "finite"]),
    (trained(weights=np.ones((2, 4, 4))), ValueError, ["(4, 4)", "(3, 3)"]),
    (trained(energy=3.0), TypeError, ["energy", "callable"]),
    (trained(optimizer=0.1), TypeError, ["optimizer", "optax.sgd", "float"]),
    (trained(steps=-1), ValueError, ["steps", "at least 0", "-1"]),
    (trained(steps=2.5), ValueError, ["steps", "whole", "2.5"]),
    (trained(steps=[3, 3]), ValueError, ["steps", "increase"]),
    (trained(steps="ten"), TypeError, ["steps", "whole", "str"]),
    (trained(steps=[1, [2]]), TypeError, ["steps", "numbers"]),
    (trained(optimizer=optax.sgd), TypeError, ["optimizer", "optax.sgd(1e-3)", "function"]),
    (
        lambda: dln.product([EYE, np.eye(2)]),
        ValueError,
        ["weights", "chain", "(3, 3), (2, 2)", "W_2", "W_1 has rows, 3"],
    ),
    (lambda: dln.balanced_factors(with_nan(EYE), 2), ValueError, ["x", "finite"]),
    (lambda: dln.balanced_factors(EYE, "3"), TypeError, ["depth", "whole", "'3'"]),
    (lambda: dln.horizontal_lift(with_nan(EYE) * np.ones((2, 1, 1)), EYE), ValueError, ["weights", "finite"]),
    (lambda: dln.network_flow(3, np.stack([EYE, EYE]), ts=TS), TypeError, ["energy", "callable", "int"]),
    (lambda: dln.network_flow(ENERGY, np.stack([EYE, EYE]), ts=TS, rtol=-1.0), ValueError, ["rtol", "above 0", "-1"]),
    (lambda: dln.network_flow(ENERGY, np.stack([EYE, EYE]), ts=TS, rtol=2), ValueError, ["rtol", "below 1", "2"]),
    (lambda: dln.balance([EYE, 2 * EYE], rtol=1.0), ValueError, ["rtol", "below 1", "1.0"]),
    (lambda: dln.horizontal_lift(np.ones((2, 3, 3)), EYE), ValueError, ["weights", "full rank", "determinant"]),
    (lambda: dln.horizontal_lift(np.stack([EYE, EYE]), np.eye(2)), ValueError, ["z", "(3, 3)", "(2, 2)"]),
    (lambda: dln.vertical_projection(np.stack([EYE, EYE]), EYE), ValueError, ["velocity", "(2, 3, 3)", "(3, 3)"]),
    (lambda: dln.balance(np.zeros((2, 3, 3))), ValueError, ["weights", "full rank"]),
    (lambda: dln.balance(np.full((2, 3, 3), NAN)), ValueError, ["weights", "finite"]),
    (lambda: dln.network_flow(ENERGY, EYE, ts=[0.0, 1.0]), ValueError, ["weights", "(N, d, d)"]),
    (lambda: dln.network_flow(ENERGY, np.stack([EYE, EYE]), ts=[1.0]), ValueError, ["ts", "two times"]),
    # geometry
    (lambda: dln.metric_operator_inverse(SINGULAR, EYE, 2.0), ValueError, ["x", "full rank", "metric_operator"]),
    (lambda: dln.inner(EYE, EYE, np.eye(2), 2.0), ValueError, ["x and z2", "(3, 3)", "(2, 2)"]),
    (lambda: dln.norm(EYE, EYE, 0.5), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.metric_eigenvalues(-np.ones(3), 2.0), ValueError, ["sigma", "nonnegative"]),
    (lambda: dln.metric_eigenvalues(np.ones((2, 3)), 2.0), ValueError, ["sigma", "(2, 3)", "vmap"]),
    (lambda: dln.christoffel(SINGULAR, EYE, EYE, 2.0), ValueError, ["x", "full rank"]),
    # Its least singular value is a number of the size of rounding, above 0.
    *(
        (lambda f=f: f(np.outer([0.3, 0.1, 0.7], [0.2, 0.9, 0.4])), ValueError, ["x", "full rank", "to rounding"])
        for f in (
            lambda x: dln.norm(x, EYE, 2.0),
            lambda x: dln.boundary_distance(x, 100),
            lambda x: dln.scalar_curvature(x, 2.0),
            lambda x: dln.exponential(x, EYE, 2.0),
        )
    ),
    *(
        (lambda f=f: f(np.ma.masked_equal([[1.0, -999.0], [0.5, 2.0]], -999.0)), TypeError, [name, "mask", ".filled"])
        for name, f in {
            "x": lambda x: dln.norm(x, np.eye(2), 2.0),
            "labels": lambda x: dln.MatrixCompletion(x, np.ones((2, 2), bool)),
            "outputs": lambda x: dln.LeastSquares(np.eye(2), x),
            "weights": lambda x: dln.product([x, x]),
            "sigma": lambda x: dln.entropy(x[0], 2.0),
        }.items()
    ),
    (
        lambda: jax.jvp(lambda t: dln.exponential(EYE, EYE, 2.0, ts=t).x, (np.array(TS),), (np.ones(2),)),
        TypeError,
        ["no derivative in ts", "metric_operator(x, momentum, depth)"],
    ),
    (lambda: dln.curvature(EYE, EYE, EYE, np.eye(2), 2.0), ValueError, ["x and z3", "(3, 3)", "(2, 2)"]),
    (lambda: dln.scalar_curvature(np.ones((3, 2)), 2.0), ValueError, ["x", "square", "(3, 2)", "curvature"]),
    (lambda: dln.sectional_curvature(EYE, EYE, -2 * EYE, 2.0), ValueError, ["z1 and z2", "span a plane", "parallel"]),
    (lambda: dln.ricci(EYE, with_nan(EYE), EYE, 2.0), ValueError, ["z1", "finite"]),
    (lambda: dln.covariant_derivative(lambda x: x[0], EYE, EYE, 2.0), ValueError, ["field", "(3, 3)", "(3,)"]),
    (lambda: dln.covariant_derivative(lambda x: [x], EYE, EYE, 2.0), ValueError, ["field", "list of (3, 3)"]),
    (lambda: dln.covariant_derivative(EYE, EYE, EYE, 2.0), TypeError, ["field", "callable"]),
    (
        lambda: dln.covariant_derivative(lambda x: jnp.ones((3, 3), int), EYE, EYE, 2.0),
        TypeError,
        ["value of field at x", "floating point", "int"],
    ),
    (lambda: dln.exponential(EYE, np.eye(2), 2.0), ValueError, ["p", "covector", "(3, 3)", "(2, 2)"]),
    (lambda: dln.exponential(SINGULAR, EYE, 2.0), ValueError, ["x", "full rank"]),
    (lambda: dln.exponential(EYE, with_nan(EYE), 2.0), ValueError, ["p", "finite"]),
    (lambda: dln.exponential(EYE, EYE, 2.0, ts=[1.0]), ValueError, ["ts", "two times"]),
    (lambda: dln.exponential(EYE, EYE, 2.0, max_steps="many"), TypeError, ["max_steps", "whole", "'many'"]),
    (lambda: dln.exponential(EYE, EYE, np.ones(2)), ValueError, ["depth", "one number", "vmap"]),
    (lambda: dln.geodesic(EYE, EYE, 2.0, rtol=-1.0), ValueError, ["rtol", "above 0", "-1"]),
    (lambda: dln.geodesic(EYE, EYE, 2.0, rtol=1.0), ValueError, ["rtol", "below 1", "1.0"]),
    (lambda: dln.distances(np.stack([EYE, EYE]), None, 2.0, rtol=3.0), ValueError, ["rtol", "below 1", "3.0"]),
    (lambda: dln.exponential(EYE, EYE, 2.0, rtol=1.0), ValueError, ["rtol", "below 1", "1.0"]),
    (lambda: dln.frechet_mean(np.stack([EYE, EYE]), 2.0, tol=1.0), ValueError, ["tol", "below 1", "1.0"]),
    (lambda: dln.frechet_mean(np.stack([EYE, EYE]), 2.0, rtol=1.0), ValueError, ["rtol", "below 1", "1.0"]),
    (lambda: dln.geodesic([[1.0]], [[2]], 2.0), TypeError, ["b", "floating point", "int"]),
    (lambda: dln.closed_form.diagonal(EYE, EYE, np.ones(2)), ValueError, ["depth", "one number", "(2,)"]),
    (lambda: dln.closed_form.diagonal(EYE, EYE, 2.0)("half"), TypeError, ["t", "numbers", "time"]),
    (lambda: dln.closed_form.bures_wasserstein(EYE, SINGULAR), ValueError, ["b", "full rank"]),
    (lambda: dln.closed_form.two_layer(EYE, np.ones((2, 2)), EYE, 1.0), ValueError, ["(h, n)", "(3, 3)", "(2, 2)"]),
    (lambda: dln.closed_form.two_layer(EYE, 2 * SINGULAR, EYE, 1.0), ValueError, ["l I", "off by", "network_flow"]),
    (lambda: dln.closed_form.two_layer(EYE, EYE, EYE, -1.0), ValueError, ["ts", "at least 0"]),
    (lambda: dln.closed_form.two_layer(EYE, EYE, with_nan(EYE), 1.0), ValueError, ["target", "finite"]),
    (lambda: dln.closed_form.two_layer(EYE, EYE, EYE[0], 1.0), ValueError, ["target", "(m, n)", "(3,)"]),
    (lambda: dln.closed_form.mode(0.0, 1.0, 2, 1.0), ValueError, ["sigma0", "above 0"]),
    (lambda: dln.closed_form.mode(0.1, -1.0, 2, 1.0), ValueError, ["target", "at least 0"]),
    (lambda: dln.closed_form.mode(0.1, 1.0, 0.5, 1.0), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.closed_form.mode(0.1, 1.0, 2, np.inf), ValueError, ["t must be finite"]),
    (lambda: dln.closed_form.mode(0.1, 1.0, 2, "late"), TypeError, ["t", "numbers"]),
    (lambda: dln.closed_form.mode(np.ones(2), np.ones(3), 2, 1.0), ValueError, ["broadcast", "(2,)", "(3,)"]),
    (lambda: dln.geodesic(EYE, np.eye(2), 2.0), ValueError, ["a and b", "(3, 3)", "(2, 2)"]),
    (lambda: dln.geodesic(EYE, -EYE, 2.0), ValueError, ["positive determinant", "negative one", "sign of one row"]),
    (lambda: dln.geodesic(EYE, SINGULAR, 2.0), ValueError, ["b is singular", "0.0e+00", "multiple of the identity"]),
    (lambda: dln.distance(with_nan(EYE), EYE, 2.0), ValueError, ["a", "finite"]),
    (lambda: dln.distance(EYE, EYE, 0.5), ValueError, ["depth", "1 <= N"]),
    (lambda: dln.distance(EYE, EYE, np.ones(2)), ValueError, ["depth", "one number", "(2,)", "vmap"]),
    (lambda: dln.geodesic(EYE, EYE, 2.0, all=True), TypeError, ["all=", "dlnjax.geodesics", "critical paths"]),
    (lambda: jax.jit(dln.geodesics)(EYE, EYE, 2.0), TypeError, ["jit, vmap or grad", "dlnjax.geodesic,"]),
    (lambda: dln.logarithm(EYE, np.eye(3, dtype=np.float32), 2.0), TypeError, ["float64", "float32", "x64"]),
    (lambda: dln.closed_form.diagonal(EYE, np.ones((3, 3)) + EYE, 2.0), ValueError, ["b must be diagonal", "5.77e-01"]),
    (lambda: dln.closed_form.diagonal(EYE, EYE * [1, -1, -1], 2.0), ValueError, ["equal signs", "-1"]),
    (lambda: dln.closed_form.commuting(EYE, -EYE, 2.0), ValueError, ["polar factor", "3.46e+00", "geodesic"]),
    (
        lambda: dln.closed_form.commuting(np.diag([1.0, 2.0]), np.array([[2.0, 1.0], [1.0, 2.0]]), 2.0),
        ValueError,
        ["commute", "2.00e-01"],
    ),
    # starts
    (drawn(shape=0), ValueError, ["shape", "whole"]),
    (drawn(shape=2.5), ValueError, ["shape", "whole", "2.5"]),
    (drawn(shape="3"), TypeError, ["shape", "whole", "'3'"]),
    (drawn(shape=(2, 0)), ValueError, ["shape[1]", "at least 1", "0"]),
    (drawn(shape=(2, 3, 4)), ValueError, ["shape", "(m, n)", "(2, 3, 4)"]),
    (drawn(scale=0.0), ValueError, ["scale", "above 0"]),
    (drawn(scale=-1.0), ValueError, ["scale", "above 0"]),
    (drawn(scale=np.ones(2)), ValueError, ["scale", "one number", "(2,)"]),
    (drawn(key=0), TypeError, ["key", "jax.random.key(0)", "int"]),
    (drawn(key=None), TypeError, ["key", "jax.random.key(0)", "NoneType"]),
    (lambda: dln.Ensemble(lambda k: jnp.eye(3), 0, 4), TypeError, ["key", "jax.random.key(0)", "int"]),
    (lambda: dln.Ensemble(lambda k: jnp.eye(3), KEY, 4.5), ValueError, ["n", "whole", "4.5"]),
    (taken([4]), ValueError, ["index", "0 to 3"]),
    (taken([-1]), ValueError, ["index", "0 to 3"]),
    (taken(1), ValueError, ["index", "(k,)", "int64[]"]),
    (taken("all"), TypeError, ["index", "seeds", "str"]),
    (lambda: dln.Ensemble(3, KEY, 4), TypeError, ["init", "callable"]),
    (lambda: dln.Ensemble(lambda k: jnp.eye(3), KEY, 2**32 + 1), ValueError, ["n", "at most 2^32", "4294967297"]),
    (lambda: dln.Ensemble(lambda k: jnp.eye(3), KEY, 0), ValueError, ["n", "at least 1"]),
    (sweep(starts=dln.Ensemble(lambda k: jnp.ones(3), KEY, 4)), ValueError, ["init", "matrix"]),
    (sweep(starts=EYE), ValueError, ["starts", "(seeds, m, n)", "gradient_flow"]),
    (sweep(starts=None), TypeError, ["starts", "numbers", "NoneType"]),
    (sweep(devices="gpu"), TypeError, ["devices", "jax.devices()", "'gpu'"]),
    (sweep(devices=[]), TypeError, ["devices", "jax.devices()", "[]"]),
    (sweep(folder=3), TypeError, ["folder", "path", "int"]),
    (sweep(folder="run", observe=lambda x: {"a": x.sigma, "b": x.u}), ValueError, ["observe", "2 in a dict", "stack"]),
    (sweep(folder="run", observe=lambda x: (x.sigma,)), ValueError, ["observe", "1 in a tuple", "leave out folder"]),
    (sweep(folder="run", observe=lambda x: x.sigma.astype(jnp.bfloat16)), ValueError, ["bfloat16", "jnp.float32"]),
    (sweep(folder="run", observe=lambda x: jax.random.key(0)), ValueError, ["observe", "key<fry>", "convert"]),
    (sweep(starts=np.ones((4, 2, 3))), ValueError, ["energy", "(2, 3)", "(3, 3)"]),
    (sweep(starts=np.ones((0, 3, 3))), ValueError, ["starts", "empty"]),
    (sweep(starts=[[["one"]]]), TypeError, ["starts", "numbers"]),
    (sweep(chunk=0), ValueError, ["chunk", "at least 1"]),
    (sweep(chunk=1.5), ValueError, ["chunk", "whole"]),
    (sweep(energy=lambda x: x), ValueError, ["energy", "scalar"]),
    (sweep(energy=dln.MatrixCompletion.diagonal(4)), ValueError, ["(3, 3)", "(4, 4)"]),
    (sweep(energy=dln.MatrixCompletion(np.ones((2, 3, 3)), FULL)), ValueError, ["energy", "scalar", "have 1 in front"]),
    (lambda: dln.PerSeed(3.0), TypeError, ["energy", "callable", "3.0"]),
    (lambda: dln.PerSeed(dln.Schatten), TypeError, ["energy", "callable", "Schatten"]),
    (lambda: dln.PerSeed(ENERGY, where=3), TypeError, ["where", "callable", "3"]),
    # what NumPy has and JAX has not, or not to compute with
    (flow(x0=EYE.astype(np.clongdouble)), TypeError, ["x0", str(np.dtype(np.clongdouble)), "x0.real"]),
    (flow(x0=EYE.astype(np.longdouble)), TypeError, ["x0", str(np.dtype(np.longdouble)), "np.asarray(x0, float)"]),
    (flow(x0=EYE.astype(object)), TypeError, ["x0", "object", "np.asarray(x0, float)"]),
    (flow(x0=EYE.astype(np.float16)), TypeError, ["x0", "float32 or float64", "float16", "np.asarray(x0, float)"]),
    (flow(x0=jnp.eye(3, dtype=jnp.bfloat16)), TypeError, ["x0", "bfloat16", "np.asarray(x0, float)"]),
    (flow(x0=EYE.astype("M8[s]")), TypeError, ["x0", "datetime64"]),
    (flow(x0=[[10**20, 0], [0, 1]]), TypeError, ["x0", "too large for an integer", "floating-point"]),
    (flow(rtol=np.longdouble(1e-6)), TypeError, ["rtol", "np.asarray(rtol, float)"]),
    (flow(depth=10**400), TypeError, ["depth", "too large"]),
    (flow(max_steps=2**70), ValueError, ["max_steps", "at most", str(2**70)]),
    (lambda: dln.MatrixCompletion.diagonal(np.array([3])), TypeError, ["d", "whole"]),
    (lambda: jax.eval_shape(lambda d: dln.MatrixCompletion.diagonal(d)(EYE), 3), TypeError, ["d", "whole", "traced"]),
    # what XLA takes for zero
    (flow(x0=EYE * 1e-310), ValueError, ["x0", "2.2e-308", "XLA", "power of two"]),
    (flow(x0=EYE.astype("f4") * np.float32(1e-40)), ValueError, ["x0", "1.2e-38", "float32"]),
    (flow(x0=dln.SVD(jnp.eye(3), jnp.array([1.0, 1.0, 1e-310]), jnp.eye(3))), ValueError, ["x0.sigma", "2.2e-308"]),
    (flow(ts=[0.0, 1e-310]), ValueError, ["ts", "strictly increasing"]),
    (drawn(scale=1e-310), ValueError, ["scale", "2.2e-308"]),
    (labelled(EYE * 1e-310), ValueError, ["labels", "2.2e-308"]),
    (labelled(weight=1e-310), ValueError, ["weight", "2.2e-308"]),
    (lambda: dln.product(np.full((2, 3, 3), 1e-310)), ValueError, ["weights", "2.2e-308"]),
    (lambda: dln.norm(EYE, EYE * 1e-310, 2.0), ValueError, ["z", "2.2e-308"]),
    (lambda: dln.schatten_norm([3e-310, 4e-310], 2), ValueError, ["sigma", "2.2e-308"]),
    (lambda: dln.nuclear_norm([[1.0, 0.0], [1e-308, 1e-308]]), ValueError, ["sigma", "2.2e-308"]),
    (lambda: dln.effective_rank([3e-310, 4e-310]), ValueError, ["sigma", "2.2e-308"]),
    # files and pictures
    (lambda: dln.load(None), TypeError, ["path", "str", "NoneType"]),
    (lambda: plot.effective_rank("run.nc"), TypeError, ["sol", "solution", "str"]),
    (lambda: plot.singular_values(None), TypeError, ["sol", "solution", "NoneType"]),
    (lambda: plot.singular_values(xarray.Dataset()), TypeError, ["sol", "xarray form", "sigma"]),
    (lambda: plot.effective_rank_violins([]), TypeError, ["sols", "mapping", "list"]),
    (lambda: plot.effective_rank_violins({0.1: "sol"}), TypeError, ["FlowSolution", "str"]),
    (lambda: plot.ellipses(np.ones((4, 3, 3))), ValueError, ["2 x 2", "3 x 3"]),
    (lambda: plot.ellipses(np.full((4, 2, 2), NAN)), ValueError, ["curve", "finite"]),
    (lambda: plot.ellipses(lambda t: t, count=0), ValueError, ["count", "at least 1"]),
    (lambda: plot.singular_value_curves(np.ones(3)), ValueError, ["curve", "(times, d, d)", "(3,)"]),
    (lambda: plot.new_axes(111), TypeError, ["ax", "matplotlib axes", "int"]),
    (lambda: plot.save("axes", "a"), TypeError, ["figure", "matplotlib Figure", "str"]),
]


@pytest.mark.parametrize(
    ("call", "kind", "words"), WRONG, ids=[f"{k}-{' '.join(w)}" for k, (_, _, w) in enumerate(WRONG)]
)
def test_wrong_input_is_refused_with_a_message_that_helps(call, kind, words):
    with pytest.raises(kind) as raised:
        call()
    assert isinstance(raised.value, kind) and type(raised.value) is kind
    for word in words:
        assert word in str(raised.value)


FLOAT32 = [[0.0, 1.0, 1.0 + 1e-9], [0.0, 1e300], [0.0, 1e-50], [0.0, 1e-40]]


@pytest.mark.parametrize("ts", FLOAT32, ids=str)
def test_times_that_the_precision_of_the_start_cannot_tell_apart_are_refused(ts):
    eye = np.eye(2, dtype=np.float32)
    weights, energy = np.stack([eye, eye]), dln.MatrixCompletion.diagonal(2)
    doors = (
        flow(energy, eye, ts, rtol=1e-5),
        sweep(energy, eye[None], ts, rtol=1e-5),
        lambda: dln.exponential(eye, eye, 2.0, ts=ts, rtol=1e-5),
        lambda: dln.network_flow(energy, weights, ts=ts),
    )
    for call in doors:
        with pytest.raises(ValueError, match=r"ts must be finite and strictly increasing.*In float32, the precision"):
            call()


def test_a_tolerance_has_the_derivative_0():
    tangent = lambda f, x: jax.jvp(f, (x,), (1.0,))[1]
    assert not np.any(tangent(lambda rtol: dln.balance([2 * EYE, EYE], rtol=rtol)[0], 1e-9))
    assert tangent(lambda rtol: _solver.as_tolerance("rtol", rtol), 1e-6) == 0.0


def test_vectors_in_another_precision_than_their_point_are_taken_in_the_wider():
    single, z = jnp.asarray(EYE, jnp.float32), jnp.arange(9.0).reshape(3, 3) / 10
    weights = jnp.stack([single, 2 * single])
    expected = dln.horizontal_lift(weights.astype(float), z)
    np.testing.assert_array_equal(dln.horizontal_lift(weights, z), expected)
    for x, y in ((jnp.asarray(EYE), z.astype(jnp.float32)), (single, z)):
        np.testing.assert_array_equal(dln.covariant_derivative(lambda x: 2 * x, x, y, 1), 2 * y)


def test_a_start_in_two_precisions_is_taken_in_the_wider():
    eye, short = jnp.eye(2), jnp.ones(2, jnp.float32)
    problem, _ = prepare(dln.MatrixCompletion.diagonal(2), dln.SVD(eye, short, eye), 2.0, TS, Options())
    assert {leaf.dtype for leaf in jax.tree.leaves(problem.start)} == {jnp.dtype("float64")}
    out = dln.exponential(eye.astype(jnp.float32), eye, jnp.inf)
    assert out.x.dtype == jnp.float64
    np.testing.assert_allclose(out.x[-1], np.e * np.eye(2), rtol=1e-8)


def test_numbers_in_other_forms_are_taken():
    assert dln.metric_eigenvalues(EYE[0] + 1, 10**20).tolist() == dln.metric_eigenvalues(EYE[0] + 1, 1e20).tolist()
    for entries in (EYE.astype(">f8"), EYE.astype(">f4")):
        assert dln.svd(entries).sigma.tolist() == [1.0, 1.0, 1.0]
    for d in (jnp.asarray(3), np.int8(3), np.array(3), 3.0):
        assert dln.MatrixCompletion.diagonal(d).labels.shape == (3, 3)
    assert dln.entropy(jnp.ones(2, jnp.float16), np.float16(2)) == dln.entropy(jnp.ones(2), 2)


@pytest.mark.parametrize("depth", [0.5, NAN])
def test_traced_depth_outside_its_range_is_refused_when_it_is_known(depth):
    with pytest.raises(RuntimeError, match="1 <= N <= inf"):
        jax.block_until_ready(jax.jit(lambda n: dln.entropy(jnp.ones(2), n))(depth))


def test_what_is_small_beside_larger_entries_is_taken():
    assert dln.schatten_norm([1.0, 1e-310], 2) == dln.effective_rank([1.0, 1e-310]) == 1
    assert dln.svd(np.diag([1.0, 1e-310])).sigma[0] == 1
    assert dln.svd(np.zeros((2, 2))).sigma.tolist() == [0, 0]


@pytest.mark.parametrize("wrap", [jax.jit, eqx.filter_jit])
def test_inside_of_jit_the_sentence_comes_before_all_else(capfd, wrap):
    call = wrap(lambda z: dln.metric_operator_inverse(z, jnp.eye(3), 2.0))
    with pytest.raises((RuntimeError, ValueError), match="x must have full rank"):
        jax.block_until_ready(call(jnp.asarray(SINGULAR)))
    assert capfd.readouterr().err.startswith("dlnjax: x must have full rank")


def test_inside_of_jit_a_code_is_told_before_all_else(capfd):
    call = jax.jit(lambda code, x: dln.RESULTS(code).error_if(x, code > dln.RESULTS.stopped.code))
    assert call(1, 2.0) == 2.0
    with pytest.raises((RuntimeError, ValueError), match="The step limit came first"):
        jax.block_until_ready(call(dln.RESULTS.max_steps_reached.code, 2.0))
    assert capfd.readouterr().err.startswith("dlnjax: The step limit came first")
    with pytest.raises((RuntimeError, ValueError), match="A singular value reached zero"):
        jax.block_until_ready(
            jax.vmap(call)(jnp.array([dln.RESULTS.max_steps_reached.code, dln.RESULTS.rank_lost.code]), jnp.ones(2))
        )
    assert capfd.readouterr().err.startswith("dlnjax: A singular value reached zero")


def test_float32_is_told_once_that_it_cannot_keep_the_tolerance():
    x0 = jnp.eye(3, dtype=jnp.float32)
    with pytest.warns(UserWarning, match=r"float32, which cannot keep rtol=1e-06.*rtol=1e-5") as told:
        dln.gradient_flow(ENERGY, x0, ts=TS)
    assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match=r"x is float32, which cannot keep rtol=1e-10"):
        dln.exponential(x0, x0, 2.0)
    solution = dln.gradient_flow(ENERGY, 2 * x0, ts=TS, rtol=1e-5)
    assert solution.x.dtype == jnp.float32
    np.testing.assert_allclose(solution.x[-1], dln.gradient_flow(ENERGY, 2 * EYE, ts=TS).x[-1], atol=1e-4)


def test_what_cannot_be_written_is_told(tmp_path):
    sol = dln.gradient_flow(ENERGY, 2 * EYE, ts=TS)
    for path, kind, words in (
        (None, TypeError, r"path must be a path.*NoneType"),
        (tmp_path, ValueError, r"cannot write.*Name a file"),
        (tmp_path / "no" / "a.nc", ValueError, r"cannot write.*in a folder that exists"),
    ):
        with pytest.raises(kind, match=words):
            sol.save(path)


def test_unreadable_files_are_refused(tmp_path):
    foreign = tmp_path / "foreign.nc"
    foreign.write_text("ts sigma")
    with pytest.raises(ValueError, match=r"cannot read.*missing.nc"):
        dln.load(tmp_path / "missing.nc")
    with pytest.raises(ValueError, match=r"cannot read.*foreign.nc"):
        dln.load(foreign)


def test_netcdf_of_something_else_is_refused(tmp_path):
    xarray.Dataset({"a": ("x", [1.0])}).to_netcdf(tmp_path / "other.nc", engine="scipy")
    with pytest.raises(ValueError, match="no saved solution of this version"):
        dln.load(tmp_path / "other.nc")


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda z: _checks.as_depth(z), 2.0, 0.5),
        (lambda z: _checks.as_positive("rtol", z), 1e-3, 0.0),
        (lambda z: _solver.as_times(z, jnp.float64), [0.0, 1.0], [1.0, 0.0]),
        (lambda z: _checks.require_finite("x", z), np.eye(2), np.full((2, 2), np.nan)),
        (lambda z: _checks.require_full_rank("x", z, "no inverse."), np.diag([1e-200, 1e-200]), np.ones((2, 2))),
        (lambda z: dln.MatrixCompletion(z, np.eye(2)).labels, np.eye(2), np.full((2, 2), np.nan)),
    ],
)
def test_what_is_known_inside_of_jit_is_checked_there_at_once(check, good, bad):
    good, bad = jnp.asarray(good), jnp.asarray(bad)
    assert jax.jit(lambda: jnp.asarray(check(good)))().shape == good.shape
    with pytest.raises(ValueError, match="must"):
        jax.eval_shape(lambda: check(bad))
