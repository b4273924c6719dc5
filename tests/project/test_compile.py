"""What compiles again, and when: the page says it, and each of its rows is tried."""

import functools
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kernels import Flat
from support.programs import lowered

import dlnjax as dln
from dlnjax._compile import compiled, unless_named
from dlnjax._tree import kept

PAGE = Path(__file__).parents[2] / "docs/how-to/compile.md"
OURS = {"_begin", "_turn", "_conclude", "_draw", "_solve_chunk", "_connections", "_solve"}
OURS |= {"_over_seeds", "integrate", "_diffuse", "_begin_steps", "_some_steps", "_tangents", "_cotangents"}
# No other test has matrices of this size, of which something would be compiled already.
D = 6
X0 = 0.5 * np.eye(D) + 0.1 * np.cos(np.arange(D * D)).reshape(D, D)
ENERGY = dln.MatrixCompletion(np.eye(D), np.ones((D, D)))
NOISE = dln.Noise(jax.random.key(0), beta=10.0, dt=0.125)
DIAGONAL = dln.MatrixCompletion(np.eye(D), np.eye(D))
# Its flows tend to singular values that are nearly equal.
EQUAL = dln.MatrixCompletion(np.diag(1 + 1e-4 * np.cos(np.arange(D))), np.ones((D, D)))


def flow(energy=ENERGY, x0=X0, ts=(0.0, 1.0), **options):
    return dln.gradient_flow(energy, jnp.asarray(x0) if isinstance(x0, np.ndarray) else x0, ts=ts, **options).sigma


def fit(target):
    return flow(lambda x: jnp.sum((x - target * jnp.eye(D)) ** 2) / 2)


def times(n):
    return np.linspace(0.0, 1.0, n)


def many(n, ts=(0.0, 1.0), **options):
    starts = np.broadcast_to(X0, (n, D, D)) * np.linspace(0.9, 1.1, n)[:, None, None]
    return dln.sweep(ENERGY, jnp.asarray(starts), ts=ts, progress=False, **options).sigma


def ends(depth):
    return dln.distance(jnp.eye(3), jnp.diag(jnp.array([1.0, 2.0, 3.0])), depth)


def hard_ends(condition):
    return dln.distance(jnp.eye(5), jnp.diag(jnp.geomspace(1.0, condition, 5)), jnp.inf)


def shot(n):
    return dln.exponential(jnp.eye(D), jnp.asarray(0.1 * X0), 2, ts=times(n)).x


def slope(depth, end=1.0):
    return jax.grad(lambda x: dln.gradient_flow(ENERGY, x, depth=depth, ts=[0.0, end]).energy[-1])(jnp.asarray(X0))


class Clock(Flat):
    """A kernel of one's own."""


def entropy(number, elsewhere=1.0, field=lambda number: jnp.full(1, number)):
    Clock.scale = elsewhere
    return dln.entropy(jnp.arange(1.0, D), Clock(field(number)))


def network(n, noise=None):
    return dln.network_flow(ENERGY, dln.balanced_factors(jnp.asarray(X0), 2), ts=times(n), noise=noise).weights


def networks(n):
    layers = jnp.broadcast_to(dln.balanced_factors(jnp.asarray(X0), 2), (4, 2, D, D))
    return dln.sweep(ENERGY, layers, ts=times(n), progress=False)


# For each row of the page, a call and the call after the change.
ROWS = {
    "the same call again": (flow, flow),
    "the same lambda typed again": (lambda: fit(jnp.asarray(1.0)), lambda: fit(jnp.asarray(1.0))),
    "another array that the energy closes over": (lambda: fit(jnp.asarray(1.0)), lambda: fit(jnp.asarray(1.5))),
    "another Python number that the energy closes over": (lambda: fit(1.0), lambda: fit(1.5)),
    "other labels, another mask with more than d entries": (
        flow,
        lambda: flow(dln.MatrixCompletion(2 * np.eye(D), np.triu(np.ones((D, D))))),
    ),
    "a mask of at most d entries after one with more": (flow, lambda: flow(DIAGONAL)),
    "another depth": (flow, lambda: flow(depth=2)),
    "another number in an array of a kernel of your own": (lambda: entropy(1.0), lambda: entropy(2.0)),
    "another Python number in a field of a kernel of your own": (
        lambda: entropy(1.0, field=float),
        lambda: entropy(2.0, field=float),
    ),
    "another number that a method of your kernel reads from elsewhere": (
        lambda: entropy(1.0, elsewhere=1.0),
        lambda: entropy(1.0, elsewhere=2.0),
    ),
    "another `rtol`, or an `atol` where there was none": (flow, lambda: flow(rtol=1e-5, atol=1e-8)),
    "another value of a stop": (lambda: flow(stop=dln.Steady(1e-3)), lambda: flow(stop=dln.Steady(1e-2))),
    "a stop where there was none": (lambda: flow(ts=times(40)), lambda: flow(ts=times(40), stop=dln.Steady(1e-3))),
    "other times": (flow, lambda: flow(ts=(1.0, 1.5))),
    "another number of times, both up to 32, or both up to 256, or both up to 2048": (
        lambda: (flow(), flow(ts=times(101)), flow(ts=times(257))),
        lambda: (flow(ts=times(21)), flow(ts=times(201)), flow(ts=times(999))),
    ),
    "another number of times beyond 2048, up to the same power of two": (
        lambda: flow(ts=times(2100)),
        lambda: flow(ts=times(2500)),
    ),
    "with `observe`, another number of times up to 32": (
        lambda: flow(observe=lambda point: point.sigma),
        lambda: flow(ts=times(9), observe=lambda point: point.sigma),
    ),
    "a start as `SVD`": (flow, lambda: flow(x0=dln.svd(jnp.asarray(X0)))),
    "another size of the matrices": (flow, lambda: flow(dln.MatrixCompletion.diagonal(7), np.eye(7) / 2)),
    "a flow that becomes stiff": (flow, lambda: flow(ts=(0.0, 300.0))),
    "a flow whose singular values come so near one another that their vectors turn fast": (
        flow,
        lambda: flow(EQUAL, rtol=1e-9, ts=(0.0, 40.0)),
    ),
    "in a sweep, another number of seeds, up to the same power of two for each core": (
        lambda: many(64),
        lambda: many(63),
    ),
    "in a sweep, another number of times, up to the same power of two": (
        lambda: many(64, times(65)),
        lambda: many(64, times(101)),
    ),
    "in a sweep, a stop where there was none": (lambda: many(64), lambda: many(64, stop=dln.Steady(1e-3))),
    "in a sweep, flows that become stiff": (lambda: many(64), lambda: many(64, (0.0, 300.0))),
    "a derivative of a flow with more steps, both up to 256": (lambda: slope(2.0), lambda: slope(2.0, 3.0)),
    "another number of times of a `network_flow`, or of a sweep of networks": (
        lambda: (network(3), networks(9).weights, network(2, NOISE)),
        lambda: (network(20), networks(15).weights, network(9, NOISE)),
    ),
    "a distance or a geodesic at another depth": (
        lambda: ends(2),
        lambda: (ends(jnp.inf), dln.geodesic(jnp.eye(3), 2 * jnp.eye(3), 3).length),
    ),
    "at d = 5 to 8, ends of a condition number above 1000 after ends below it": (
        lambda: hard_ends(10.0),
        lambda: hard_ends(1e4),
    ),
    "an `exponential` with another number of times up to 32": (lambda: shot(2), lambda: shot(9)),
    "a derivative at another depth": (lambda: slope(2.0), lambda: slope(3.0)),
}


def rows():
    lines = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return dict(lines[1:])


def test_every_row_of_the_page_is_tried():
    assert list(rows()) == list(ROWS)


@pytest.mark.long
@pytest.mark.parametrize("change", ROWS)
def test_compiles_what_the_page_says(change):
    before, after = ROWS[change]
    jax.block_until_ready(before())
    with lowered() as programs:
        jax.block_until_ready(after())
    made = [name for name in programs if name.removeprefix("jit(").removesuffix(")") in OURS]
    expected = {
        "nothing": lambda: made == [],
        "again": lambda: len(made) > 0,
        "the beginning alone": lambda: made == ["jit(_begin)"],
        "the method in blocks alone": lambda: made == ["jit(_turn)"],
        "the stabilised method alone": lambda: made in (["jit(_turn)"], ["jit(_solve_chunk)"]),
    }
    assert expected[rows()[change]](), made


@pytest.mark.long
def test_first_calls_make_few_programs():
    # No other test has matrices of this size.
    energy, x0 = dln.MatrixCompletion.diagonal(9), dln.gaussian(jax.random.key(0), 9, 0.1)
    with lowered() as programs:
        jax.grad(lambda x: dln.gradient_flow(energy, x, ts=[0.0, 1.0]).energy[-1])(x0)
    # The first pass has a beginning and its steps. The last is the derivative.
    found = [name for name in programs if name.removeprefix("jit(").removesuffix(")") in OURS]
    flow, passes = ["jit(_begin)", "jit(_turn)", "jit(_conclude)"], ["jit(_begin_steps)", "jit(_some_steps)"]
    assert found == [*flow, *passes, "jit(_cotangents)"]
    assert len(programs) <= 20
    with lowered() as programs:
        sol = dln.sweep(energy, jnp.stack([x0, 2 * x0]), ts=[0.0, 1.0], progress=False)
    # The beginning, the turn of the explicit method, and the conclusion.
    assert programs.count("jit(_solve_chunk)") == 3
    assert len(programs) <= 10
    with lowered() as programs:
        _ = sol[1], sol[1:], sol[[0]], sol.result[1], sol.result[[0]]
    assert not programs


# No other test has as many singular values.
SIGMA, KEY = jax.device_put(np.linspace(2.0, 1.0, 11)), jax.random.key(0)
SMALL = {
    "completion": (lambda: dln.MatrixCompletion.diagonal(11), 0),
    "Gaussian matrix": (lambda: dln.gaussian(KEY, 11, 0.1), 1),
    "decomposition": (lambda: dln.svd(jax.device_put(np.diag(np.asarray(SIGMA)))), 1),
    "effective rank": (lambda: dln.effective_rank(SIGMA), 1),
    "stable rank": (lambda: dln.stable_rank(SIGMA), 1),
    "Schatten norm": (lambda: dln.schatten_norm(SIGMA, 3), 1),
    "entropy": (lambda: dln.entropy(SIGMA, 3), 1),
    "gradient of the entropy": (lambda: dln.entropy_gradient(SIGMA, 3), 1),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_formula_is_one_program(name):
    # Each operation that runs by itself is a program, and takes a twentieth of a second to compile.
    call, most = SMALL[name]
    dln.gaussian(KEY, 1, 1.0)  # The first program of a process is one that asks XLA for its options.
    with lowered() as programs:
        call()
    assert len(programs) <= most, programs


@pytest.mark.long
def test_numbers_of_any_type_share_a_program():
    # A number of Python has a weak type in JAX, which is a type of its own to `jit`: jax-ml/jax#3163.
    jax.block_until_ready((flow(), ends(2)))
    with lowered() as programs:
        for depth in (2, 2.0, np.int64(2), np.float32(2), jnp.asarray(2)):
            jax.block_until_ready((flow(depth=depth, ts=[0, 1]), ends(depth)))
        for rtol in (1e-7, np.float32(1e-7), jnp.asarray(1e-7)):
            jax.block_until_ready(flow(rtol=rtol, ts=np.float32([0, 1])))
    assert not {name.removeprefix("jit(").removesuffix(")") for name in programs} & OURS


@pytest.mark.long
def test_each_search_for_a_geodesic_is_compiled_once():
    def check(condition):
        length = np.linalg.norm(np.log(np.geomspace(1, condition, 5)))
        np.testing.assert_allclose(hard_ends(condition), length, rtol=1e-9)

    check(10.0)
    check(1e4)
    with lowered() as programs:
        check(100.0)
        check(1e5)
    assert programs == []


def test_padded_times_change_nothing():
    some, all = flow(ts=times(5)), flow(ts=times(33))
    np.testing.assert_allclose(some, all[::8], rtol=1e-6)
    assert some.shape == (5, D) and all.shape == (33, D)


@pytest.mark.long
def test_repeated_times_of_networks_change_nothing():
    for noise in (None, NOISE):
        some, all = network(9, noise), network(33, noise)
        # With noise the steps between the times are of another length.
        assert some.shape == (9, 2, D, D) and all.shape == (33, 2, D, D)
        assert noise or np.allclose(some, all[::4], rtol=0, atol=1e-7)
    some, all = networks(9), networks(17)
    assert some.x.shape == (4, 9, D, D) and all.x.shape == (4, 17, D, D)
    np.testing.assert_allclose(some.weights, all.weights[:, ::2], atol=1e-7)
    np.testing.assert_allclose(some.weights[0], network(9), atol=1e-7)


@pytest.mark.long
def test_repeated_times_of_a_sweep_change_nothing():
    # The sweeps are compiled for 8 and for 32 times.
    some, all = many(8, times(5)), many(8, times(21))
    np.testing.assert_allclose(some, all[:, ::5], rtol=1e-6)
    assert some.shape == (8, 5, D) and all.shape == (8, 21, D)
    assert np.all(np.abs(some[:, -1] - some[:, 0]) > 1e-3)


def test_what_is_kept_is_computed_once():
    def products(keep):
        def f(x):
            y = keep(functools.reduce(lambda y, _: y * x + 0.5, range(20), x))
            return y - y.T, y @ y

        return jax.jit(f).lower(jnp.ones((3, 3))).compile().as_text().count(" multiply(")

    assert products(kept) == 20
    # XLA may get better. Then `kept` can go.
    assert products(lambda x: x) > 20
    x = jnp.array([-0.0, jnp.inf, jnp.nan, 0.3])
    np.testing.assert_array_equal(kept(x), x)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(kept(x) * x))(x[-1:]), 2 * x[-1:])


def test_options_that_xla_flags_names_are_left_to_it():
    flags = "--xla_a=0 --xla_b --xla_cd=true"
    assert unless_named(flags, xla_a=1, xla_b=False, xla_c=2, xla_cd=False) == {"xla_c": 2}
    assert unless_named("", xla_a=1) == {"xla_a": 1}


def test_a_program_inside_of_jit_or_grad_has_no_options():
    f = compiled(lambda x: jnp.sum(x * x))
    assert f(jnp.ones(2)) == jax.jit(f)(jnp.ones(2)) == 2
    np.testing.assert_array_equal(jax.grad(f)(jnp.ones(2)), [2, 2])
    np.testing.assert_array_equal(jax.vmap(jax.grad(f))(jnp.ones((2, 2))), 2 * np.ones((2, 2)))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(jax.vmap(f)(x)))(jnp.ones((2, 2))), 2 * np.ones((2, 2)))


def test_python_looks_for_garbage_seldom_while_a_program_is_traced_and_as_before_after_it():
    inner = compiled(lambda x: seen.append(gc.get_threshold()) or x + 1)
    outer = compiled(lambda x: 2 * inner(x))

    def fails(x):
        seen.append(gc.get_threshold())
        raise ArithmeticError

    before = gc.get_threshold()
    try:
        for mine, during in (
            ((700, 10, 10), (200_000, 20, 100)),
            ((300_000, 5, 5), (300_000, 5, 5)),
            ((0, 7, 7),) * 2,
        ):
            seen = []
            gc.set_threshold(*mine)
            outer(jnp.ones(mine[1]))
            with pytest.raises(ArithmeticError):
                compiled(fails)(jnp.ones(2))
            assert set(seen) == {during} and len(seen) >= 2
            assert gc.get_threshold() == mine
    finally:
        gc.set_threshold(*before)
