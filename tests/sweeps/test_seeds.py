"""Which arrays of an energy belong to the seeds: said, and not guessed."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import ended
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._sweeps.seeds import split


class Fit(eqx.Module):
    """An energy of one's own that rests at the labels. Labels `n d d` taken for one energy give the mean of them."""

    labels: jax.Array
    width: jax.Array

    def __call__(self, x):
        return jnp.sum((x - self.labels) ** 2 * self.width) / 2


class Product(eqx.Module):
    """An energy that no stack of matrices fits."""

    labels: jax.Array

    def __call__(self, x):
        return jnp.sum((x - self.labels.T @ self.labels) ** 2) + jnp.linalg.det(self.labels)


def labels_of(n, d):
    return jnp.stack([(i + 1.0) * jnp.eye(d) for i in range(n)])


def values(energy, n, d):
    """E_i(X) of each seed, where nothing is compiled for it: the arrays are split as a sweep does it."""
    energies, x = split(energy, n, (d, d), jnp.result_type(float)), 0.3 + jnp.eye(d)
    own = [jax.tree.map(lambda array, i=i: jnp.asarray(array[i]), energies.own) for i in range(n)]
    return [float(eqx.combine(one, energies.shared)(x)) for one in own]


def rest(i, d):
    """The energy of seed i."""
    return float(Fit((i + 1.0) * jnp.eye(d), ONE)(0.3 + jnp.eye(d)))


ONE, COLD = jnp.ones(()), 1e300
SIZES = [(4, 2), (2, 2), (2, 4)]
WAYS = {
    "all": lambda labels, n: dln.PerSeed(Fit(labels, jnp.ones(n))),
    "where": lambda labels, n: dln.PerSeed(Fit(labels, ONE), where=lambda energy: energy.labels),
    "around": lambda labels, n: dln.PerSeed(dln.FreeEnergy(Fit(labels, jnp.ones(n)), jnp.full(n, COLD))),
    "inside": lambda labels, n: dln.FreeEnergy(WAYS["where"](labels, n), jnp.full(n, COLD)),
    "inside, twice": lambda labels, n: dln.FreeEnergy(WAYS["inside"](labels, n), COLD),
    "completion": lambda labels, n: dln.MatrixCompletion(labels, jnp.ones(labels.shape[1:], bool)),
    "completion in it": lambda labels, n: dln.PerSeed(WAYS["completion"](labels, n)),
    "free completion": lambda labels, n: dln.FreeEnergy(WAYS["completion"](labels, n), COLD, jnp.arange(1.0, n + 1)),
    "axes of one's own": lambda labels, n: Own(labels),
}


class Own(eqx.Module):
    labels: jax.Array
    array_axes = {"labels": 2}  # noqa: RUF012

    def __call__(self, x):
        return jnp.sum((x - self.labels) ** 2) / 2


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_each_seed_has_its_own(n, d, way):
    assert_close(values(WAYS[way](labels_of(n, d), n), n, d), [rest(i, d) for i in range(n)], ALGEBRA)


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_all_seeds_may_share_a_stack_and_then_it_is_said(n, d):
    shared = dln.PerSeed(Fit(labels_of(n, d), ONE), where=lambda energy: ())
    assert_close(values(shared, n, d), [sum(rest(i, d) for i in range(n))] * n, ALGEBRA)
    assert_close(values(Own(jnp.eye(d)), n, d), [rest(0, d)] * n, ALGEBRA)
    weights = dln.MatrixCompletion(jnp.eye(d), jnp.ones((d, d), bool), weight=jnp.arange(1.0, n + 1) / 2)
    assert_close(values(weights, n, d), [(i + 1) * rest(0, d) for i in range(n)], ALGEBRA)


@pytest.mark.parametrize(("n", "d"), SIZES)
@pytest.mark.parametrize(("wrap", "at"), [(lambda e: e, ""), (lambda e: dln.FreeEnergy(e, 1.0), "energy.")])
def test_what_could_be_meant_in_two_ways_is_refused(n, d, wrap, at):
    what = rf"arrays with {n} in front, as many as there are starts: {at}labels \({n}, {d}, {d}\).*PerSeed\(energy\)"
    with pytest.raises(
        ValueError, match=rf"{what}.*e\.{at}labels,.*If all seeds share them, .*where=lambda e: \(\)\)\.$"
    ):
        values(wrap(Fit(labels_of(n, d), ONE)), n, d)
    # Here one reading alone gives a number, and it is not the plain one.
    with pytest.raises(ValueError, match=rf"{what}.* for these alone\.$"):
        values(wrap(Product(labels_of(n, d))), n, d)


def test_as_many_rows_as_seeds_are_refused_too():
    with pytest.raises(ValueError, match=r"arrays with 3 in front, as many as there are starts: labels \(3, 3\)"):
        values(Fit(jnp.eye(3), ONE), 3, 3)
    assert_close(values(Fit(jnp.eye(3), ONE), 2, 3), [rest(0, 3)] * 2, ALGEBRA)


@pytest.mark.parametrize("n", [4, 2])
def test_each_seed_rests_at_its_own_labels(n):
    """With the guess of before, all of them rested at the mean of the labels."""
    starts = jnp.stack([jnp.eye(2) / 2 + 0.1 * i for i in range(n)])
    how = {"depth": 2, "ts": [0.0, 40.0], "chunk": 2, "solver": diffrax.Dopri5(), "progress": False}
    sol = dln.sweep(dln.PerSeed(Fit(labels_of(n, 2), jnp.ones(n))), starts, **how)
    assert ended(sol) == ["successful"] * n
    assert_close(sol.x[:, -1], labels_of(n, 2), FINITE_DIFFERENCE)


def test_energies_that_are_stacked_have_their_own_masks():
    masks = [jnp.eye(2), 1 - jnp.eye(2)]
    energy = jax.tree.map(lambda *e: jnp.stack(e), *[dln.MatrixCompletion(jnp.ones((2, 2)) / 2, m) for m in masks])
    whole = dln.MatrixCompletion(jnp.ones((2, 2)) / 2, jnp.stack(masks))
    how = {"depth": 2, "ts": [0.0, 40.0], "chunk": 2, "solver": diffrax.Dopri5(), "progress": False}
    sol, same = (dln.sweep(e, jnp.stack([jnp.eye(2) / 3 + 0.1] * 2), **how) for e in (energy, whole))
    np.testing.assert_array_equal(sol.x, same.x)
    assert_close(jnp.where(jnp.stack(masks) == 1, sol.x[:, -1], 0.5), jnp.full((2, 2, 2), 0.5), FINITE_DIFFERENCE)


WRONG = {
    "an array with another first axis": (None, r"have 4 in front: width has shape \(\)\. Pick those .* where="),
    "no array": (lambda energy: energy.labels[0], "where must pick arrays of the energy, .*energy.labels: "),
    "no field": (lambda energy: energy.lables, "where must pick arrays of the energy, .*'lables'"),
    "something else": (lambda energy: 3, r"where must pick arrays of the energy, .*energy.labels, got \[3\]"),
}


@pytest.mark.parametrize(("where", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_pick_is_refused(where, message):
    with pytest.raises(ValueError, match=message):
        values(dln.PerSeed(Fit(labels_of(4, 2), ONE), where=where), 4, 2)


def test_one_flow_has_no_seeds():
    for call in (lambda e: dln.gradient_flow(e, jnp.eye(2), ts=[0.0, 1.0]), lambda e: e(jnp.eye(2))):
        with pytest.raises(ValueError, match=r"only dlnjax\.sweep takes it"):
            call(dln.PerSeed(Fit(labels_of(4, 2), ONE)))


# Where a sweep cannot be

EYES = jnp.stack([jnp.eye(2) / 2] * 3)
DIAGONAL = dln.MatrixCompletion.diagonal(2)


def traced(energy=DIAGONAL, starts=EYES, **options):
    sol = dln.sweep(energy, starts, **{"ts": [0.0, 1.0], "progress": False} | options)
    return jnp.sum(sol.sigma)


TRACED = {
    "starts": lambda a: traced(starts=a * EYES),
    "labels": lambda a: traced(dln.MatrixCompletion(a * jnp.eye(2), jnp.eye(2))),
    "depth": lambda a: traced(depth=a),
    "tolerance": lambda a: traced(rtol=a),
    "times": lambda a: traced(ts=[0.0, a]),
    "a number that the energy closes over": lambda a: traced(lambda x: jnp.sum((x - a) ** 2)),
    "a number that observe closes over": lambda a: traced(observe=lambda point: a * point.sigma),
}


@pytest.mark.parametrize("run", TRACED.values(), ids=TRACED)
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, lambda f: lambda a: jax.vmap(f)(jnp.full(1, a))])
def test_a_sweep_under_a_transformation_is_refused_at_once(run, transform):
    with pytest.raises(TypeError, match=r"cannot be traced.*jax\.jit, jax\.grad or jax\.vmap"):
        transform(run)(1.0)


def test_a_sweep_of_constants_under_jit_is_refused():
    with pytest.raises(TypeError, match="a sweep cannot be traced"):
        jax.jit(traced)()


def test_debug_nans_does_not_mind_a_chunk_that_is_filled_up():
    starts = np.eye(2) / 2 + 0.01 * np.arange(20.0).reshape(5, 2, 2)
    how = {"ts": [0.0, 1.0], "depth": 2.0, "chunk": 2, "solver": diffrax.Dopri5(), "progress": False}
    expected = dln.sweep(DIAGONAL, starts, **how)
    with jax.debug_nans(True):
        sol = dln.sweep(DIAGONAL, starts, **how)
    for x, y in zip(jax.tree.leaves(sol), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(x, y)
