"""`train` with every optimiser that optax has: the list is read off optax itself."""

import inspect
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.programs import lowered
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln

D, N, RATE = 3, 3, 1e-2
ENERGY = dln.MatrixCompletion.diagonal(D)
SGD = optax.sgd(RATE)

# What the constructors ask for, by the names of their arguments.
GIVEN = {
    **dict.fromkeys(("inner", "optimizer", "base_optimizer", "adv_optimizer", "fast_optimizer", "opt", "tx"), SGD),
    **{"learning_rate": RATE, "step_size": -RATE, "step_size_fn": lambda count: -RATE, "decay": 0.9},
    **{"slow_step_size": 0.5, "seed": 0, "l2_norm_clip": 1.0, "noise_multiplier": 0.1},
    **{"clipping": 0.1, "max_delta": 1.0, "threshold": 1.0, "max_norm": 1.0, "eta": 0.01, "gamma": 0.5, "key": 0},
    **{"max_consecutive_errors": 3, "max_backtracking_steps": 10, "max_linesearch_steps": 10, "sync_period": 2},
    **{"should_transform_fn": lambda step, **_: step % 2 == 0, "measure": optax.global_norm, "measure_name": "norm"},
    **dict.fromkeys(("mask", "freeze_mask"), lambda layers: (False,) * len(layers)),
    **{"transforms": {"one": SGD, "other": optax.adam(RATE)}, "every_k_schedule": 2},
    **{"param_labels": lambda layers: ("one", *("other",) * (len(layers) - 1))},
}
SPECIAL = {
    "chain": lambda: optax.chain(optax.clip(1.0), SGD),
    "named_chain": lambda: optax.named_chain(("first", SGD)),
    "stateless": lambda: optax.stateless(lambda slope, layers: jax.tree.map(lambda x: -RATE * x, slope)),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda slope, layer: -RATE * slope),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    "inject_stateful_hyperparams": lambda: optax.inject_stateful_hyperparams(optax.adam)(learning_rate=RATE),
}
# What works on no tree of parameters and one gradient by them, and the sentence that says so.
REFUSED = {
    "lookahead": "no attribute 'fast'",  # two sets of parameters
    "measure_with_ema": r"got shapes \[\(\)\]",  # returns a measure in place of updates
    "differentially_private_aggregate": "gradient for each example",
    "dpsgd": "gradient for each example",
    "scale_by_muon": "pytree structure",  # optax 0.2.8: alone it takes one array; `muon` takes any tree
}


def constructors():
    for place in (optax, optax.contrib):
        for name, make in sorted(vars(place).items()):
            if name.startswith("_") or not callable(make):
                continue
            try:
                said = inspect.signature(make)
            except (TypeError, ValueError):
                continue
            if "GradientTransformation" in str(said.return_annotation) or make is optax.MultiSteps:
                yield name, make, said.parameters.values()


def make(name, constructor, parameters):
    if name in SPECIAL:
        return SPECIAL[name]()
    asked = [p for p in parameters if p.default is p.empty or p.name == "key"]
    asked = [p.name for p in asked if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return constructor(**{name: GIVEN[name] for name in asked})


OPTIMISERS = {name: partial(make, name, constructor, parameters) for name, constructor, parameters in constructors()}


@pytest.fixture(scope="module")
def weights(module_key):
    return dln.balanced_factors(0.5 * jnp.eye(D) + dln.gaussian(module_key, D, 0.3), N)


def test_the_list_is_that_of_optax():
    assert len(OPTIMISERS) > 100 and set(REFUSED) <= set(OPTIMISERS) and set(SPECIAL) <= set(OPTIMISERS)
    assert {"sgd", "lbfgs", "polyak_sgd", "MultiSteps", "reduce_on_plateau", "sam", "sophia", "prodigy"} <= set(
        OPTIMISERS
    )


# Traced, not compiled: a loop that would not run is found by its types.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_takes_every_optimiser_of_optax(name, weights):
    optimiser = OPTIMISERS[name]()
    trace = lambda: eqx.filter_eval_shape(lambda w: dln.train(ENERGY, w, optimiser, [2, 3], throw=False), weights)
    if name in REFUSED:
        with pytest.raises((TypeError, ValueError), match=rf"\(W_1, ..., W_N\).*{REFUSED[name]}"):
            trace()
    else:
        assert trace().weights.shape == (2, N, D, D)


def by_hand(optimiser, weights, steps, **extra):
    """The loop of optax's own documentation."""
    layers = tuple(weights)
    energy = lambda layers: ENERGY(dln.product(jnp.stack(layers)))

    @jax.jit
    def step(layers, state):
        value, slope = jax.value_and_grad(energy)(layers)
        offered = {"value": value, "grad": slope, "value_fn": energy, "obj_fn": energy}
        updates, state = optimiser.update(slope, state, layers, **{name: offered[name] for name in extra["takes"]})
        return optax.apply_updates(layers, updates), state

    state = optimiser.init(layers)
    for _ in range(steps):
        layers, state = step(layers, state)
    return jnp.stack(layers)


CASES = {
    "lbfgs": (optax.lbfgs(), ("value", "grad", "value_fn")),
    "MultiSteps": (optax.MultiSteps(optax.adam(RATE), 2, accumulator_dtype=jnp.float64), ()),
    "backtracking": (
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
        ("value", "grad", "value_fn"),
    ),
    "polyak_sgd": (optax.polyak_sgd(max_learning_rate=0.1), ("value",)),
    "reduce_on_plateau": (optax.chain(optax.adam(RATE), optax.contrib.reduce_on_plateau(patience=2)), ("value",)),
    "sam": (optax.contrib.sam(SGD, optax.chain(optax.contrib.normalize(), optax.sgd(0.01))), ()),
    "schedule_free": (optax.contrib.schedule_free_sgd(RATE), ()),
    "prodigy": (optax.contrib.prodigy(), ()),
    "sophia": (optax.contrib.sophia(RATE), ("obj_fn",)),
    "muon": (optax.contrib.muon(RATE), ()),
    "lars": (optax.lars(0.1), ()),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_loop_by_hand(name, weights):
    optimiser, takes = CASES[name]
    out = dln.train(ENERGY, weights, optimiser, 7)
    # A line search chooses its step by comparisons, which rounding may turn near a tie.
    tolerance = 1e4 * ALGEBRA if "value_fn" in takes else ALGEBRA
    assert_close(out.weights, by_hand(optimiser, weights, 7, takes=takes), tolerance)
    assert not np.allclose(out.weights, weights)


def test_quasi_newton_arrives_in_a_few_steps(weights):
    out = dln.train(ENERGY, weights, optax.lbfgs(), 30)
    assert ENERGY(out.x) < 1e-16 and out.result == dln.RESULTS.successful


def test_training_ends_where_its_energy_is_no_number(weights):
    # The weights stay finite for one step more, and no optimiser has seen the energy yet.
    nowhere = dln.train(lambda x: jnp.sum(x) * jnp.inf, weights, SGD, 3, throw=False)
    assert nowhere.result == dln.RESULTS.non_finite and nowhere.steps == 0
    assert_close(nowhere.weights, weights, 0.0)
    far = dln.train(ENERGY, weights, optax.sgd(1e120), [1, 2], throw=False)
    assert far.result == dln.RESULTS.non_finite and list(far.steps) == [0, 0]
    assert jnp.all(jnp.isfinite(far.x))


class Schedule:
    """A rate that is a number of the class, or an array, constant in the step."""

    rate = RATE

    def __call__(self, step):
        return self.rate


@pytest.mark.parametrize("rate", [float, jnp.asarray])
def test_rate_that_a_schedule_reads_is_the_current_one(rate, weights, monkeypatch):
    run = lambda optimizer, batches: dln.train(
        lambda x, batch: ENERGY(x) + 0 * batch, weights, optimizer, 3, batches=batches()
    )
    kinds = [lambda: lambda step: 1.0 * step, lambda: iter([1.0, 2.0, 3.0])]
    monkeypatch.setattr(Schedule, "rate", rate(RATE))
    optimizer = optax.sgd(Schedule())
    for kind in kinds:
        run(optimizer, kind)
    monkeypatch.setattr(Schedule, "rate", rate(2 * RATE))
    for kind in kinds:
        assert_close(run(optimizer, kind).x, run(optax.sgd(2 * RATE), kind).x, ALGEBRA)
    with lowered() as programs:
        run(optimizer, kinds[1])
    assert programs == []


def test_training_has_forward_derivatives_and_names_the_reason_for_no_others():
    energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(jnp.array([[0.5, 0.1], [-0.2, 0.4]]), 3)
    end = lambda rate, size: energy(dln.train(energy, size * weights, optax.sgd(rate), 20).x)
    for k, h in ((0, 1e-5), (1, 1e-5)):
        at = lambda c, k=k: end(0.05 + (c if k == 0 else 0.0), 1.0 + (c if k == 1 else 0.0))
        slope = jax.jvp(at, (0.0,), (1.0,))[1]
        assert_close(slope, (at(h) - at(-h)) / (2 * h), FINITE_DIFFERENCE)
    # The rate is in functions of the optimiser, and no leaf of what the program is given.
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(end)(0.05, 1.0)
