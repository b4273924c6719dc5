"""Functions of rows: one row is no batch, and rows are added up by a product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax._tree import row_sums, rowwise

X = np.array([[1.0, 2.0], [-1.0, 3.0]])


def f(x, y):
    return {"a": jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), "b": y.sum()}


@pytest.mark.parametrize("rows", [X[:1], X[1:], X], ids=["one", "other", "both"])
def test_each_row_is_what_the_function_makes_of_it(rows):
    jax.tree.map(np.testing.assert_array_equal, rowwise(f)(rows, rows), jax.vmap(f)(rows, rows))


def test_one_row_keeps_its_conditions():
    # Of a batch both branches are computed.
    names = lambda rows: [e.primitive.name for e in jax.make_jaxpr(rowwise(f))(rows, rows).eqns]
    assert "cond" in names(X[:1])
    assert "cond" not in names(X)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("shape", [(4, 7), (3, 1), (1, 3)])
def test_sums_of_rows(shape, scale, key):
    a = scale * jax.random.normal(key, shape)
    np.testing.assert_allclose(row_sums(a), np.sum(np.asarray(a), axis=1), rtol=1e-13, atol=1e-15 * scale)
    np.testing.assert_array_equal(jax.vmap(row_sums)(a[None])[0].shape, shape[:1])
    np.testing.assert_allclose(jax.grad(lambda a: row_sums(a)[0])(a), np.eye(shape[0])[:1].T * np.ones(shape))
