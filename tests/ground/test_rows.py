"""Functions of rows: one row is no batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax._tree import rowwise

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
