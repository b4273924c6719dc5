"""Completion from entries, against completion with a mask, and what it has besides: parts, errors, a warning."""

import doctest
import inspect
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._energies import entries
from dlnjax._protocol import at_start, sides, value
from dlnjax._sweeps.seeds import split

SEEN = dln.MatrixCompletion.from_entries


def pair(key, mask):
    """The same energy from its entries, in any order, and from a mask."""
    ka, kb = jax.random.split(key)
    labels = jax.random.normal(ka, mask.shape)
    rows, columns = (index[np.asarray(jax.random.permutation(kb, len(index)))] for index in np.nonzero(mask))
    return SEEN(rows, columns, labels[rows, columns], mask.shape), dln.MatrixCompletion(labels, mask)


def patterns():
    """Masks whose rows and columns have as many entries as it takes to fill strips and blocks, or not to fill them."""
    uneven = np.zeros((40, 50), bool)
    uneven[3], uneven[:, 7], uneven[20, 20] = True, True, True
    return {
        "one entry": np.arange(12).reshape(3, 4) == 5,
        "all entries": np.ones((18, 33), bool),
        "uneven": uneven,
        "several blocks": np.random.default_rng(0).random((90, 70)) < 0.7,
        "more columns": np.random.default_rng(1).random((3, 60)) < 0.5,
    }


@pytest.mark.parametrize("name", patterns())
def test_entries_give_what_a_mask_gives(key, name):
    mask = patterns()[name]
    sparse, dense = pair(key, mask)
    if name == "several blocks":
        assert len(sparse.by_row.entry) > 1 and len(sparse.by_column.entry) > 1
    u, v = (jax.random.normal(k, (size, 2)) for k, size in zip(jax.random.split(key), mask.shape, strict=True))
    point = dln.SVD(u, jnp.array([1.0, 0.3]), v)
    x = point.matrix
    both = jax.jit(lambda e, p: (value(e, p), *sides(e, p), e(p.matrix), e.gradient(p.matrix), e.error(p)))
    for found, expected in zip(both(sparse, point), both(dense, point), strict=True):
        assert_close(found, expected, ALGEBRA)
    assert_close(sparse.error(point), np.sqrt(np.mean(np.asarray(x - dense.labels)[mask] ** 2)), ALGEBRA)


def test_no_matrix_is_made_on_the_way():
    """The largest array in the programs of a point is smaller than the matrix."""
    m, n, count = 400, 500, 4000
    index = np.random.default_rng(0).choice(m * n, count, replace=False)
    energy = SEEN(index // n, index % n, np.ones(count), (m, n))
    point = dln.SVD(jnp.ones((m, 3)), jnp.ones(3), jnp.ones((n, 3)))
    program = jax.make_jaxpr(lambda p: (value(energy, p), sides(energy, p), energy.error(p)))(point)
    assert max(sizes(program.jaxpr)) < m * n / 4


def sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (np.prod(out.aval.shape, dtype=int) for out in equation.outvars)
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def test_values_are_traced_and_have_derivatives(key):
    sparse, dense = pair(key, np.random.default_rng(2).random((5, 6)) < 0.6)
    point = dln.svd(jax.random.normal(key, (5, 6)))
    of = lambda values: value(SEEN(sparse.rows, sparse.columns, values, (5, 6)), point)
    total = lambda e, u: sum(jnp.sum(jnp.sin(side)) for side in sides(e, dln.SVD(u, point.sigma, point.v)))

    @jax.jit
    def all_of_them(values):
        many = jax.vmap(of)(jnp.stack([values, 2 * values]))
        return jax.grad(of)(values), many, [jax.grad(total, 1)(e, point.u) for e in (sparse, dense)]

    slope, many, (along_u, expected) = all_of_them(sparse.values)
    off = np.asarray(point.matrix)[sparse.rows, sparse.columns] - np.array([[1.0], [2.0]]) * sparse.values
    assert_close(slope, -off[0], ALGEBRA)
    assert_close(many, np.sum(off**2, axis=1) / 2, ALGEBRA)
    assert_close(along_u, expected, ALGEBRA)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_entries_of_any_size_are_those_of_size_one(key, scale):
    sparse, _ = pair(key, np.random.default_rng(2).random((5, 6)) < 0.6)
    point = dln.svd(jax.random.normal(key, (5, 6)))
    large = eqx.tree_at(lambda e: e.values, sparse, scale * sparse.values)
    there = dln.SVD(point.u, scale * point.sigma, point.v)
    for found, expected in zip(sides(large, there), sides(sparse, point), strict=True):
        assert_close(found / scale, expected, ALGEBRA)
    assert_close(large.error(there) / scale, sparse.error(point), ALGEBRA)


def test_parts_are_disjoint_and_all_of_it(key):
    whole, _ = pair(key, np.random.default_rng(3).random((6, 7)) < 0.8)
    seen, held_out = whole.split(key, 0.25)
    count = len(whole.values)
    assert len(held_out.values) == round(count / 4) and len(seen.values) == count - round(count / 4)
    triples = lambda e: set(zip(e.rows.tolist(), e.columns.tolist(), e.values.tolist(), strict=True))
    assert triples(seen) | triples(held_out) == triples(whole) and not triples(seen) & triples(held_out)
    assert seen.shape == held_out.shape == whole.shape and seen.weight == held_out.weight == whole.weight
    assert triples(whole.split(key, 0.25)[1]) == triples(held_out)
    assert triples(whole.split(jax.random.key(5), 0.25)[1]) != triples(held_out)
    x = jax.random.normal(key, (6, 7))
    assert_close(seen(x) + held_out(x), whole(x), ALGEBRA)
    # Values that are traced are split with the rest.
    with_values = lambda e, values: eqx.tree_at(lambda e: e.values, e, values)
    double = jax.jit(lambda values: with_values(whole, values).split(key, 0.25)[1](x))
    assert_close(double(2 * whole.values), with_values(held_out, 2 * held_out.values)(x), ALGEBRA)


def test_values_of_each_seed_are_its_own():
    rows, columns = [0, 1, 1], [0, 1, 2]
    values, weight = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), jnp.array([0.5, 2.0])
    energy, x = SEEN(rows, columns, values, (2, 3), weight=weight), jnp.ones((2, 3))
    energies = split(energy, 2, (2, 3), jnp.result_type(float))
    point = dln.svd(x)
    for i in range(2):
        one = eqx.combine(jax.tree.map(lambda a, i=i: jnp.asarray(a[i]), energies.own), energies.shared)
        expected = weight[i] * jnp.sum((1 - values[i]) ** 2)
        assert_close([one(x), value(one, point), energy(x)[i]], [expected] * 3, ALGEBRA)
        assert_close(one.gradient(x), energy.gradient(x)[i], ALGEBRA)
    with pytest.raises(ValueError, match=r"values and weight must be those of one matrix.*only sweep"):
        value(energy, point)


def test_a_flow_says_where_nothing_is_known():
    energy = SEEN([0, 0, 2], [0, 1, 1], np.ones(3), (3, 4))
    expected = r"no entry in 1 of 3 rows \(such as row 1\) and in 2 of 4 columns \(such as column 2\), counted from 0"
    for each in (energy, dln.FreeEnergy(energy, 1.0)):
        with pytest.warns(UserWarning, match=expected):
            at_start(each)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_start(SEEN([0, 1], [1, 0], np.ones(2), (2, 2)))
        # Inside of `jit` the entries of an argument are not known.
        jax.jit(lambda e: at_start(e).values)(energy)


def test_masks_of_the_same_size_share_a_program():
    shapes = set()
    for seed in range(4):
        index = np.random.default_rng(seed).choice(60 * 50, 900, replace=False)
        energy = SEEN(index // 50, index % 50, np.ones(900), (60, 50))
        shapes.add(tuple(leaf.shape for leaf in jax.tree.leaves(energy)))
    assert len(shapes) == 1
    assert entries._BLOCK % entries._LONGEST == 0


def test_example_in_the_docstring_prints_what_it_says():
    names = {"dln": dln, "jax": jax, "jnp": jnp}
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(SEEN) or "", names, "from_entries", None, None)
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert test.examples and not said, "".join(said)


@pytest.mark.long
def test_a_flow_observes_the_error_on_what_is_held_out(key):
    """The same flow with a mask, and the error from its X in NumPy."""
    whole, _ = pair(key, np.random.default_rng(3).random((5, 5)) < 0.9)
    seen, held_out = whole.split(key, 0.2)
    x0, how = 0.5 * jax.random.normal(key, (5, 5)), {"depth": 2, "ts": [0.0, 1.0, 5.0], "rtol": 1e-10}
    mask = np.zeros((5, 5), bool)
    mask[seen.rows, seen.columns] = True
    labels = np.zeros((5, 5))
    labels[seen.rows, seen.columns] = seen.values
    dense = dln.gradient_flow(dln.MatrixCompletion(labels, mask), x0, **how)
    errors = dln.gradient_flow(seen, x0, observe=held_out.error, **how).observed
    off = np.asarray(dense.x)[:, held_out.rows, held_out.columns] - held_out.values
    assert_close(errors, np.sqrt(np.mean(off**2, axis=1)), INTEGRATION)


@pytest.mark.long
def test_a_sweep_over_values_is_each_flow(key):
    rows, columns = [0, 1, 1, 2], [0, 1, 2, 0]
    values = jax.random.normal(key, (2, 4)) + 2
    starts = 0.5 * jnp.stack([jnp.eye(3), jnp.eye(3)]) + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sol = dln.sweep(SEEN(rows, columns, values, (3, 3)), starts, depth=2, ts=[0.0, 50.0], stop=dln.Steady(1e-6))
    assert_close(sol.x[:, -1][:, rows, columns], values, FINITE_DIFFERENCE)
