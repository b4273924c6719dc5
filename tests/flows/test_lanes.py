"""Flows in lanes: nobody notices the neighbours, and the stabilised method is used where it pays."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float
from support.flows import ended
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._flows import trajectory
from dlnjax._flows.problem import Options, prepare
from dlnjax._sweeps import downstairs, plan
from dlnjax._sweeps.run import Programs

# More seeds than the 32 lanes of a small d, so that lanes are handed on.
N, D, TS = 40, 2, [0.0, 0.3, 5.0]


@pytest.fixture(scope="module", autouse=True)
def in_line():
    """Lanes are handed on in small chunks too, whose flows would have a lane each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_SMALL", 0)
        yield


class Well(eqx.Module):
    """Stiffness of its own for each seed; beyond |X|^2 = 16 it falls without end."""

    stiffness: Float[Array, "*n"]

    def __call__(self, x):
        square = jnp.sum((x - jnp.diag(jnp.array([1.0, 0.5]))) ** 2)
        return self.stiffness * (square / 2 - jnp.sum(x**2) ** 2 / 64)


STIFFNESS = jnp.asarray(np.geomspace(0.05, 300.0, N)[np.random.default_rng(0).permutation(N)])


@pytest.fixture(scope="module")
def starts(module_key):
    keys = jax.random.split(module_key, N)
    return jax.vmap(lambda key: jnp.eye(D) + dln.gaussian(key, D, 0.2))(keys)


def run(starts, stiffness=STIFFNESS, **options):
    options = {"ts": TS, "progress": False, "chunk": N} | options
    return dln.sweep(dln.PerSeed(Well(stiffness)), starts, **options)


@pytest.fixture(scope="module")
def solution(starts):
    return run(starts)


def assert_identical(actual, expected, rows=slice(None), expected_rows=None):
    """Bit for bit, in every array that has the seeds in front."""
    expected_rows = rows if expected_rows is None else expected_rows
    compared = 0
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if a.shape[:1] == (N,):
            np.testing.assert_array_equal(np.asarray(a)[rows], np.asarray(b)[expected_rows])
            compared += 1
    assert compared >= 12


def test_flows_differ_in_duration_and_in_method(solution):
    # What the tests below rest on.
    assert ended(solution) == ["successful"] * N
    evaluations = np.asarray(solution.stats["evaluations"])
    assert evaluations.max() > 5 * evaluations.min()
    # Dopri5 alone spends six for each step, one more after a rejected one, and two more at the start.
    steps = np.asarray(solution.stats["steps"] + solution.stats["rejected"])
    explicit = evaluations == 2 + 6 * steps + np.asarray(solution.stats["rejected"])
    assert 5 < np.sum(explicit) < N - 5


def test_a_lane_for_each_gives_what_the_queue_gives(solution, starts, monkeypatch):
    monkeypatch.setattr(plan, "_SMALL", 8000)
    side_by_side = run(starts)
    for name, count in solution.stats.items():
        np.testing.assert_array_equal(side_by_side.stats[name], count)
    assert_close(side_by_side.x, solution.x, ALGEBRA)


def copies(program, buffer):
    """The instructions that copy an array of the shape `buffer` inside of the loops of a compiled program."""
    text = program.as_text()
    loops = text[: text.index("ENTRY")]
    assert f"= {buffer}" in loops
    return [line for line in loops.splitlines() if f"= {buffer}" in line and " copy(" in line]


@pytest.mark.parametrize("number", [trajectory.EXPLICIT, trajectory.STIFF])
def test_no_pass_of_a_flow_copies_what_is_saved(starts, number):
    # XLA did so six times a pass, without a word, and the flow took two to three times as long.
    problem, options = prepare(Well(STIFFNESS[0]), starts[0], 2, jnp.linspace(0.0, 5.0, 77), Options())
    y0, state = trajectory._begin(problem, options)
    problem = eqx.tree_at(lambda p: p.start, problem, None)
    turn = trajectory._turn.lower(problem, options, y0, state, number).compile()
    assert not copies(turn.compiled, f"f64[1,77,{D},{D}]")


@pytest.mark.parametrize("small", [0, 8000])
def test_no_pass_of_a_sweep_copies_what_is_saved(starts, small, monkeypatch):
    turns, compiled = [], Programs._compile

    def recorded(self, kept, state):
        program = compiled(self, kept, state)
        if kept[0] is downstairs._turn:
            turns.append(program.compiled)

    monkeypatch.setattr(plan, "_SMALL", small)
    monkeypatch.setattr(Programs, "_compile", recorded)
    run(starts, ts=np.linspace(0.0, 5.0, 9))
    assert len(turns) == 2
    for turn in turns:
        assert not copies(turn, f"f64[64,16,{D},{D}]")


def test_neighbours_that_fail_change_no_bit(solution, starts):
    total = np.asarray(solution.stats["steps"] + solution.stats["rejected"])
    # Only the longest flows meet a limit of one step less than they take.
    limit = int(np.max(total)) - 1
    longest = np.flatnonzero(total > limit)
    broken, escaping = np.setdiff1d(np.arange(N), longest)[:2]
    altered = starts.at[broken].set(jnp.nan).at[escaping].set(40 * jnp.eye(D))

    failed = run(altered)
    assert ended(failed)[broken] == "non_finite" and ended(failed)[escaping] == "diverged"
    rest = np.setdiff1d(np.arange(N), [broken, escaping])
    assert_identical(failed, solution, rest)

    limited = run(altered, max_steps=limit)
    assert {ended(limited)[i] for i in longest} == {"max_steps_reached"}
    assert np.all((limited.t_end[longest] > 0) & (limited.t_end[longest] < TS[-1]))
    rest = np.setdiff1d(rest, longest)
    assert_identical(limited, solution, rest)
    assert {ended(limited)[i] for i in rest} == {"successful"}


def test_order_of_the_seeds_changes_no_bit(solution, starts):
    order = np.random.default_rng(1).permutation(N)
    assert_identical(run(starts[order], STIFFNESS[order]), solution, slice(None), order)


def test_progress_changes_no_bit(solution, starts):
    assert_identical(run(starts, progress=True), solution)


@pytest.mark.parametrize("chunk", [7, 16])
def test_size_of_a_chunk_changes_rounding_only(solution, starts, chunk):
    chunked = run(starts, chunk=chunk)
    assert ended(chunked) == ended(solution)
    for name in ("sigma", "x", "energy", "effective_rank", "t_end"):
        assert_close(getattr(chunked, name), getattr(solution, name), 1e-9)


@pytest.fixture(scope="module")
def completion(module_key):
    """The diagonal completion of d = 5 from N(0, 1/d), by a method and to a tolerance of one's choice."""
    starts = jax.vmap(lambda key: dln.gaussian(key, 5, 5**-0.5))(jax.random.split(module_key, 16))
    energy = dln.MatrixCompletion.diagonal(5)
    return lambda ts, **options: dln.sweep(energy, starts, ts=ts, progress=False, **options)


def work(solution):
    return int(np.sum(solution.stats["evaluations"]))


def test_long_flows_need_a_fraction_of_the_evaluations_and_come_to_rest(completion):
    ts, rtol = [0.0, 0.5, 2.0, 30.0, 1000.0], 1e-6
    default, explicit = completion(ts, rtol=rtol), completion(ts, rtol=rtol, solver=diffrax.Dopri5())
    assert ended(default) == ended(explicit) == ["successful"] * 16
    assert 5 * work(default) <= work(explicit)
    slope = 2 * (np.diagonal(default.final.matrix, axis1=1, axis2=2) - 1)
    assert np.max(np.linalg.norm(slope, axis=1)) < 1e-8
    reference = completion(ts, rtol=1e-10, atol=1e-13, solver=diffrax.Dopri5())
    assert_close(default.effective_rank, reference.effective_rank, 100 * rtol)
    # There is something to follow between the times.
    assert np.all(np.diff(reference.effective_rank.mean(axis=0))[:3] < -1e-3)


def test_short_flows_need_no_more_evaluations_than_dopri5(completion):
    ts = np.linspace(0.0, 1.0, 5).tolist()
    default, explicit = (completion(ts, rtol=1e-6, solver=solver) for solver in (None, diffrax.Dopri5()))
    assert 0 < work(default) <= 1.05 * work(explicit)
    assert_close(default.effective_rank, explicit.effective_rank, 1e-4)
