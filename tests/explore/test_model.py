"""The model of the explorer: its numbers against flows of the library, its texts, and that a move compiles nothing."""

import math
import re
import shlex
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.programs import lowered
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln
from dlnjax import _cli
from dlnjax.explore import _drawing, _extras, _model, _problem, _state, _texts, _views
from dlnjax.explore._model import Model
from dlnjax.explore._state import State

# A state for each kind of programs, and moves of each control.
FIRST = State(t=20.0, std=0.3)
KINDS = _model.KINDS
# Of its flows some are given up after the most steps.
GIVEN_UP = replace(FIRST, depth=2.0, std=1e-3, energy="rank-one", t=1e6)
IMBALANCED, NOISY = replace(FIRST, depth=2.0, g=0.7), replace(FIRST, depth=4.0, beta=5.0)
MOVES = [
    replace(FIRST, depth=3.0),
    replace(FIRST, std=0.01),
    replace(FIRST, energy="rank-one"),
    replace(FIRST, energy="decay"),
    replace(FIRST, flips=(0,)),
    replace(FIRST, flips=(1, 2)),
    replace(FIRST, t=1e5),
    replace(FIRST, key=3),
    replace(FIRST, seed=77, cursor=5),
]
OTHER_MOVES = [
    replace(FIRST, depth=5.0, step=0.01),
    replace(IMBALANCED, step=0.1),
    replace(IMBALANCED, g=-1.5),
    replace(NOISY, beta=100.0),
    replace(NOISY, depth=60.0),
    replace(NOISY, t=3.0, flips=(3,)),
]


def finished(model, state):
    while (progress := model.progress(state)).done < progress.of:
        model.work(state)
    return model.flows(state)


def opened(state):
    """A new model that has compiled what it needs for this state. JAX may have forgotten what others compiled."""
    model = Model()
    model._compiled.clear()
    _problem.unit_starts.cache_clear()
    finished(model, state)
    return model


@pytest.fixture(scope="module")
def model():
    """The model that knows the programs of the flows alone: a test of others compiles for longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_model, "KINDS", {"flows": _model.KINDS["flows"]})
        yield opened(FIRST)


def library(state, seed):
    """The flow of one seed by the library."""
    energy = dln.MatrixCompletion(*_problem.target(state))
    how = {"rtol": _model.RTOL, "stop": dln.Steady(_model.GRADIENT)}
    if state.noisy:
        key = jax.random.fold_in(_problem.noise_key(state), seed)
        how = {"noise": dln.Noise(key, state.beta, state.dt)}
    depth = dln.Imbalanced(state.imbalance) if state.imbalance else state.depth
    start = jnp.asarray(_problem.starts(state)[seed])
    return dln.gradient_flow(energy, start, depth=depth, ts=jnp.asarray(_problem.times(state)), throw=False, **how)


LONG = [
    pytest.param(IMBALANCED, marks=pytest.mark.long, id="imbalanced"),
    pytest.param(NOISY, marks=pytest.mark.long, id="noise"),
]


@pytest.mark.slow
@pytest.mark.parametrize("state", [pytest.param(FIRST, id="flow"), *LONG])
def test_numbers_are_those_of_the_library(model, state):
    flows, sol = finished(model, state), library(state, 7)
    # The programs round differently, and steps that are rounded differently stop elsewhere, within the tolerance.
    within = 1e-9 if state.noisy else 20 * _model.RTOL
    np.testing.assert_allclose(flows.x[7], sol.x, rtol=0, atol=within)
    np.testing.assert_allclose(flows.sigma[7], sol.sigma, rtol=0, atol=within)
    np.testing.assert_allclose(flows.rank[7], sol.effective_rank, rtol=0, atol=within)
    np.testing.assert_allclose(flows.energy[7], sol.energy, rtol=0, atol=within)
    assert flows.result[7] == sol.result.names and flows.known.all() and np.isfinite(flows.x).all()


def touched(model, state):
    """The flows of a state after one piece of work of each kind. The other pieces run the same programs."""
    done = set()
    for piece in list(model._pieces(state)):
        if piece.what not in done:
            piece.do()
        done.add(piece.what)
    return model.flows(state)


def drawn(model, state):
    """Every view of a state."""
    flows = touched(model, state)
    own = (_views.singular_values, _views.matrix, _views.effective_rank, _views.plane, _views.speed_law)
    found = {view.__name__: view(flows, state) for view in own}
    found["depth_map"] = _views.depth_map(model.map(state), flows, state)
    found["network"] = _views.network(model.network(state), flows, state)
    return found | {"geodesic": _views.geodesic(model.line(state), flows, state)}


@pytest.mark.slow
@pytest.mark.usefixtures("model")
def test_a_move_of_any_control_compiles_nothing():
    model = opened(FIRST)
    with lowered() as programs:
        shown = [drawn(model, state) for state in MOVES]
    assert programs == []
    for one in shown:
        assert {name for name, drawing in one.items() if not drawing} == {"plane", "network", "geodesic"}


FLAT = State(d=2)


@pytest.mark.parametrize(
    ("state", "first"),
    [
        (FIRST, ["flows"]),
        (FLAT, ["flows", "geodesics"]),
        (replace(FLAT, depth=3.0, step=0.1), ["flows", "networks", "geodesics"]),
        (IMBALANCED, ["imbalanced flows"]),
        (NOISY, ["noise"]),
        (replace(FIRST, beta=1.0), ["noise of deep networks"]),
    ],
    ids=["flow", "geodesic", "network", "imbalance", "noise", "noise, deep"],
)
def test_what_is_seen_first_is_compiled_first_and_every_program_once(state, first, monkeypatch):
    monkeypatch.setattr(_model, "KINDS", KINDS)
    monkeypatch.setattr(Model, "_compiled", set())
    model = Model()
    todo = [piece.what for piece in model._pieces(state)]
    assert len(todo) == model.progress(state).of and model.progress(state).done == 0
    kinds = [what.removeprefix("compiling ").removesuffix(f", d = {state.d}") for what in todo if "compiling" in what]
    assert sorted(kinds) == sorted(kind for kind in KINDS if kind != "geodesics" or state.d == 2)
    assert kinds[: len(first)] == first and "compiling" in todo[-1]
    seeds, the_map = todo.index("more seeds"), todo.index("the map")
    assert todo[:seeds] == [f"compiling {first[0]}, d = {state.d}"]
    assert todo.index(f"compiling flows, d = {state.d}") < the_map
    for kind, what in (("networks", "the network"), ("geodesics", "the geodesic")):
        assert (what in todo) == (kind in first)
        if what in todo:
            assert todo[todo.index(what) - 1] == f"compiling {kind}, d = {state.d}"


@pytest.mark.long
@pytest.mark.parametrize("d", [2, 5])
def test_a_move_of_any_control_compiles_nothing_beyond_the_programs_of_a_size(d, monkeypatch):
    monkeypatch.setattr(_model, "KINDS", KINDS)
    model = opened(replace(FIRST, d=d))
    with lowered() as programs:
        for state in MOVES + OTHER_MOVES:
            assert drawn(model, replace(state, d=d))["matrix"]
    assert programs == []


@pytest.mark.long
def test_network_is_that_of_the_library():
    for state in (replace(FIRST, depth=3.0, step=0.05), replace(IMBALANCED, step=0.02)):
        found, n = _extras.train(state), int(state.depth)
        x0 = jnp.asarray(_problem.starts(state)[state.seed])
        weights = dln.imbalanced_factors(x0, state.g) if state.imbalance else dln.balanced_factors(x0, n)
        energy = dln.MatrixCompletion(*_problem.target(state))
        out = dln.train(energy, weights, optax.sgd(state.step), found.steps)
        assert_close(found.sigma, np.linalg.svd(out.x, compute_uv=False), INTEGRATION)
        np.testing.assert_allclose(found.ts, found.steps * n * state.step)
    assert _extras.train(replace(FIRST, depth=3.0, step=100.0)).failed


@pytest.mark.long
def test_geodesic_and_printed_line_have_their_known_lengths():
    """The pair of figure 3.1 at N = 2, whose lengths in the thesis's units are 1.374493 and 1.377145."""
    a, b = np.diag([4.0, 1.0]), np.array([[2.5, 1.5], [1.5, 2.5]])
    found = _extras.join(State(d=2, depth=2.0), a, b)
    assert found.arrived and abs(found.length / 2**0.5 - 1.374493) < 1e-6
    assert abs(found.printed_length / 2**0.5 - 1.377145) < 2e-5
    for depth in (2.0, 3.0, np.inf):
        line = dln.closed_form.printed_line(jnp.asarray(a), jnp.asarray(b), depth)
        times = np.linspace(0.0, 1.0, _extras.ELLIPSES)
        assert_close(_extras.join(State(d=2, depth=depth), a, b).printed, jax.vmap(line)(times), ALGEBRA)


@pytest.mark.slow
def test_followed_seed_is_in_the_first_piece_and_every_seed_in_the_last(model):
    state = replace(FIRST, std=0.123, seed=66)
    model.work(state)
    known = model.flows(state).known
    assert known[66] and known.sum() == _model.PIECE[5]
    assert finished(model, state).known.all() and (model.map(state).at_rest >= 0).all()


@pytest.mark.slow
def test_the_map_is_the_mean_of_limits_of_flows(model):
    found, ended = finished(model, FIRST) and model.map(FIRST), set()
    # At depth 3/2 some flows lose their rank on the way.
    for depth, column in ((3.0, 4), (1.5, 1)):
        cell = _model.DEPTHS.index(depth), column
        state = replace(FIRST, depth=depth, std=_model.STDS[column], t=_model.MAP_TIME)
        flows = [library(state, seed) for seed in range(_model.EACH)]
        ends = [sol.effective_rank[-1] for sol in flows if sol.result.names == "steady"]
        np.testing.assert_allclose(found.rank[cell], np.mean(ends), atol=20 * _model.RTOL)
        assert found.at_rest[cell] == len(ends)
        ended |= {str(sol.result.names) for sol in flows}
    assert ended == {"steady", "rank_lost"}


def test_flows_that_did_not_come_to_rest_are_in_no_mean_and_counted():
    state = replace(FLAT, t=10.0)
    flows, limits = _model._no_flows(state), _model._no_limits(state)
    flows.rank[:4], flows.result[:4] = np.array([[1.2], [1.4], [1.6], [1.0]]), ["steady", "successful", "rank_lost", ""]
    drawing = _views.effective_rank(flows, state)
    (mean,) = (mark for mark in drawing["marks"] if mark.get("color") == _drawing.INK)
    np.testing.assert_allclose(mean["y"], 1.3)
    assert "without 1 that ended before" in drawing["note"]
    flows.result[2] = "steady"
    assert "without" not in _views.effective_rank(flows, state)["note"]
    limits.rank[0, :2], limits.at_rest[0, :3] = (1.25, 1.75), (4, 3, 0)
    drawing = _views.depth_map(limits, flows, state)
    assert drawing["marks"][0]["texts"][0] == ["1.25", "1.75", _views.NONE, "", "", "", ""]
    assert "5 of 12 flows did not come to rest" in drawing["note"]


@pytest.mark.slow
def test_measured_speeds_follow_the_law(model):
    state = replace(FIRST, depth=3.0, std=0.05, cursor=50)
    flows = finished(model, state)
    compared = 0
    for cursor in range(20, 60):
        size, speed = _views.measured_speed(flows, replace(state, cursor=cursor))
        known = np.isfinite(speed)
        compared += known.sum()
        # Simpson's rule over two gaps of the saved times is right to some percent.
        np.testing.assert_allclose(speed[known], _views.law(size[known], state), rtol=0.15)
    assert compared > 20


def test_no_speed_is_measured_where_a_value_turns_back():
    state = replace(IMBALANCED, d=2, cursor=10)
    flows = _model._no_flows(state)
    for at, second in zip((9, 10, 11), (0.1, 0.01, 0.2), strict=True):
        flows.x[0, at] = np.diag([0.5 + 0.01 * at, second])
    assert np.isfinite(_views.measured_speed(flows, state)[1]).tolist() == [True, False]


def test_axis_over_few_powers_of_ten_has_ticks_between_them():
    texts = lambda *ends: [text for _, text in _drawing.logarithmic("", *ends)["ticks"]]
    assert texts(0.3, 2.1) == ["0.5", "1", "2"]
    assert texts(0.05, 200.0) == ["10⁻¹", "1", "10", "10²"]


def test_paths_that_stopped_are_said():
    flows = _model._no_flows(NOISY)
    assert _views.stopped(flows, NOISY) == ""
    flows.result[3] = "dt_too_long"
    assert _views.stopped(flows, NOISY).endswith("0.0781, a part of t end. Lower t end.")


@pytest.mark.long
@pytest.mark.parametrize(
    "state",
    [
        FIRST,
        replace(FIRST, depth=3.0, flips=(0, 1)),
        IMBALANCED,
        NOISY,
        replace(FIRST, energy="rank-one", key=2),
        GIVEN_UP,
    ],
    ids=["flow", "mask", "imbalanced", "noise", "rank-one", "given up"],
)
def test_texts_compute_the_numbers_of_the_page(model, state, capsys):
    flows = finished(model, state)
    names = {}
    exec(compile(_texts.as_python(state), "copied", "exec"), names)
    python = capsys.readouterr().out
    np.testing.assert_allclose(names["sol"].sigma, flows.sigma, rtol=0, atol=20 * _model.RTOL)
    assert len(names["ax"].lines) == state.d
    words = shlex.split(_texts.as_shell(state))
    assert words[0] == "dlnjax" and _cli.main(words[1:]) == 0
    shell = capsys.readouterr().out
    ranks = [float(re.search(r"effective rank .* -> (\S+)", text)[1]) for text in (python, shell)]
    np.testing.assert_allclose(ranks, flows.rank[:, -1].mean(), atol=20 * _model.RTOL)
    for code in ("steady", "max_steps_reached"):
        seeds = (flows.result == code).sum()
        # A code that no seed has is not named.
        assert (f"{code} {seeds}" in shell) if seeds else (code not in shell)
    assert ("max_steps_reached" in shell) == (state is GIVEN_UP)


def test_link_holds_the_state():
    state = State(
        d=10,
        depth=60 / 7,
        std=0.0316,
        energy="random",
        flips=(3, 99),
        t=1e5,
        beta=2.5,
        g=-0.1,
        key=5,
        seed=12,
        cursor=3,
    )
    assert State.of("?" + state.query) == state and State.of("") == State() and State().query == ""
    # A reader by hand switches an entry twice, and the names of others are theirs.
    assert State.of("flips=4-3-4&access_token=abc") == State(flips=(3,))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("d=3", "d must be one of 2, 5, 10, 20, got 3"),
        ("depth=0.5", "depth must be at least 1"),
        ("depth=nan", "depth must be at least 1"),
        ("std=0", "std must be above 0"),
        ("std=inf", "std must be above 0 and finite"),
        ("energy=none", "energy must be one of diagonal"),
        ("d=2&flips=4", "flips must be entries"),
        ("t=-1", "t must be above 0"),
        ("beta=0", "beta must be above 0"),
        ("g=nan", "g must be finite"),
        ("key=-1", "key must be from 0"),
        ("seed=100", "seed must be from 0 to 99"),
        ("cursor=65", "cursor must be from 0 to 64"),
        ("seed=x", "seed cannot be read from 'x'"),
    ],
)
def test_bad_link_says_what_was_expected(query, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        State.of(query)


def test_nothing_seen_is_refused():
    state = State(d=2, flips=(0, 3))
    with pytest.raises(ValueError, match="no entry is seen"):
        _model._energy_of_each(state, 5)


def test_energies_have_the_masks_that_they_say():
    for d in _state.SIZES:
        rank_one = _problem.target(State(d=d, energy="rank-one", key=1))
        assert np.linalg.matrix_rank(rank_one.labels) == 1 and rank_one.mask.sum() == min(2 * d, d * d - 1)
        assert _problem.target(State(d=d, energy="random")).mask.sum() == min(2 * d, d * d - 1)
        assert _problem.target(State(d=d, energy="decay")).mask.all()
        flipped = _problem.target(State(d=d, flips=(0, 1)))
        assert not flipped.mask[0, 0] and flipped.mask[0, 1] and flipped.mask.sum() == d


def test_equilibrium_of_the_diagonal_exists_beyond_two_layers():
    at = lambda depth, **more: _problem.no_equilibrium(State(d=2, depth=depth, **more))
    # The volume of the large solutions is infinite at N = 2 by a logarithm, and at infinite depth that near rank one.
    assert at(1.0) and at(2.0) and not at(2.01) and not at(60.0) and "infinite depth" in at(math.inf).lower()
    # Weight decay holds all entries at any finite depth; a row that is not seen needs N > 3.
    assert not at(1.0, energy="decay") and at(math.inf, energy="decay")
    assert at(3.0, energy="decay", flips=(0, 1)) and not at(3.01, energy="decay", flips=(0, 1))


def test_starts_are_those_of_the_command_line():
    start_key, _ = jax.random.split(jax.random.key(4))
    ensemble = dln.Ensemble(lambda key: dln.gaussian(key, 5, 0.03), start_key, 100)
    assert_close(_problem.starts(State(std=0.03, key=4)), ensemble.take(jnp.arange(100)), ALGEBRA)
