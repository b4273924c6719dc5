"""The distances of many pairs."""

from concurrent.futures import Future

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import dlnjax as dln
from dlnjax._sweeps import pairs

DEPTH = 2.0
STACK = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2, 2)))
SIGNS = np.sign(np.linalg.det(np.asarray(STACK)))


class Inline:
    """An executor that runs each task at once, and loses the first tries of a task."""

    def __init__(self, lost=0):
        self.lost, self.tasks = lost, 0

    def submit(self, f, job, first, attempt):
        self.tasks += 1
        future = Future()
        if attempt <= self.lost:
            future.set_exception(OSError("the node is gone"))
        else:
            future.set_result(f(job, first, attempt))
        return future


@pytest.fixture(scope="module")
def table():
    return dln.distances(STACK, None, DEPTH, executor=1, progress=False)


def test_table_has_the_distance_of_each_pair(table):
    same = SIGNS[:, None] == SIGNS
    assert np.all(np.isinf(table) == ~same) and same.sum() > len(STACK) and not same.all()
    for i, j in zip(*np.nonzero(same), strict=True):
        assert table[i, j] == (
            0 if i == j else float(dln.distance(*map(jnp.asarray, (STACK[min(i, j)], STACK[max(i, j)])), DEPTH))
        )
    np.testing.assert_array_equal(table, table.T)


def test_two_stacks_make_a_table_of_both(table):
    np.testing.assert_array_equal(
        dln.distances(STACK[:2], STACK, DEPTH, executor=1, progress=False)[:, 2:], table[:2, 2:]
    )


@pytest.mark.parametrize("lost", [0, 2])
def test_workers_find_the_same_bits_also_when_some_die(lost, table, monkeypatch):
    monkeypatch.setattr(pairs, "_PAIRS", 2)
    executor = Inline(lost)
    found = dln.distances(STACK, None, DEPTH, executor=executor, progress=False)
    np.testing.assert_array_equal(found, table)
    wanted = -(-int(np.triu(SIGNS[:, None] == SIGNS, 1).sum()) // 2)
    assert executor.tasks == wanted * (1 + lost)


def test_a_worker_that_dies_each_time_is_said():
    message = r"pairs 0 to \d are given up: the worker of each part died 3 times, the last with OSError"
    with pytest.raises(RuntimeError, match=message):
        dln.distances(STACK, None, DEPTH, executor=Inline(3), progress=False)


@pytest.mark.long
def test_processes_find_the_same_bits(table):
    np.testing.assert_array_equal(dln.distances(STACK, None, DEPTH, executor=2, progress=False), table)


def test_a_pair_that_is_not_joined_is_nan(monkeypatch):
    monkeypatch.setattr(pairs, "measure", lambda a, b, kernel, rtol: (jnp.inf, dln.RESULTS.not_arrived))
    some = STACK[SIGNS[0] == SIGNS]
    found = dln.distances(some, None, DEPTH, executor=1, progress=False)
    assert np.all(np.isnan(found[~np.eye(len(some), dtype=bool)])) and np.all(np.diagonal(found) == 0)


BAD = [
    (lambda: dln.distances(STACK[0], None, 2), ValueError, "a must be a stack of square matrices"),
    (lambda: dln.distances(STACK, np.ones((2, 3, 3)) + np.eye(3), 2), ValueError, "matrices of one shape"),
    (lambda: dln.distances(np.ones((2, 2, 2)), None, 2), ValueError, r"a\[0\] is singular"),
    (lambda: dln.distances(STACK.astype(np.float32), None, 2), TypeError, "must be float64"),
    (lambda: dln.distances(STACK, None, 0.5), ValueError, "depth"),
    (lambda: dln.distances(STACK, None, 2, executor="two"), TypeError, "executor must be a number of processes"),
    (lambda: jax.jit(lambda a: dln.distances(a, None, 2))(jnp.asarray(STACK)), TypeError, "distance with jax.vmap"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input_is_refused_by_one_sentence(call, error, message, monkeypatch):
    # The checks of annotations, which users do not have, would refuse some of these first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(error, match=message):
        call()
