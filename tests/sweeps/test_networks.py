"""Sweeps of networks: the loop of `network_flow`, the same bits in any company, folders, workers and grids."""

from concurrent.futures import Future

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

ENERGY = dln.MatrixCompletion.diagonal(2)
TS = [0.0, 0.5, 20.0]
N, CHUNK = 6, 2
KEY = jax.random.key(4)
WIDTHS = ((3, 2), (2, 3))
ENSEMBLE = dln.Ensemble(lambda key: 0.6 * jax.random.normal(key, (3, 2, 2)), KEY, N)
CHAINS = dln.Ensemble(
    lambda key: [dln.gaussian(k, width, 0.5) for k, width in zip(jax.random.split(key), WIDTHS, strict=True)], KEY, N
)
NETWORKS = ENSEMBLE.take(jnp.arange(N))
STACK = np.asarray(NETWORKS)
# Balanced factors, on which noise has a meaning.
BALANCED = jnp.stack([dln.balanced_factors(jnp.array([[1.0, 0.2 * k], [0.1, 0.7]]), 2) for k in range(N)])
NOISE = dln.Noise(jax.random.key(1), beta=20.0, dt=0.05)


def sweep(starts=STACK, energy=ENERGY, **options):
    return dln.sweep(energy, starts, ts=options.pop("ts", TS), progress=False, **{"chunk": CHUNK} | options)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def whole():
    return sweep()


def test_sweep_is_the_loop_of_network_flow(whole):
    assert isinstance(whole, dln.NetworkSolution)
    assert whole.weights.shape == (N, 3, 3, 2, 2) and whole.x.shape == (N, 3, 2, 2) and len(whole) == N
    for k in (0, N - 1):
        one = dln.network_flow(ENERGY, NETWORKS[k], ts=TS)
        assert_close(whole[k].weights, one.weights, INTEGRATION)
        assert whole[k].result == one.result and whole[k].stats["steps"] == one.stats["steps"]
        # The default tolerance is that of `network_flow`, and not that of `gradient_flow`.
        assert one.stats["steps"] > dln.network_flow(ENERGY, NETWORKS[k], ts=TS, rtol=1e-6).stats["steps"]


def test_neither_the_order_nor_the_other_seeds_change_a_bit(whole):
    order = np.array([3, 0, 5, 1, 4, 2])
    assert_same(sweep(STACK[order]), whole[order])
    assert_same(sweep(ENSEMBLE), whole)
    # One start is NaN, and one is 0, which rests.
    others = STACK.copy()
    others[0] = np.nan
    others[4] = 0.0
    sol = sweep(others)
    assert sol.result.names.tolist() == ["non_finite"] + 5 * ["successful"]
    assert sol.t_end[0] == 0.0 and jnp.all(jnp.isnan(sol.weights[0])) and jnp.all(sol.weights[4] == 0)
    kept = np.array([1, 2, 3, 5])
    assert_same(sol[kept], whole[kept])


def test_a_flow_that_fails_keeps_its_last_good_state():
    # E falls without bound, and the flow blows up in finite time.
    sol = sweep(STACK[:2], lambda x: -jnp.sum(x**4), ts=[0.0, 1e-4, 1e4])
    assert set(sol.result.names) == {"diverged"}
    assert jnp.all(jnp.isfinite(sol.weights)) and jnp.all((sol.t_end > 1e-4) & (sol.t_end < 1e4))


@pytest.mark.long
def test_factors_of_any_widths_and_energies_of_each_seed():
    labels = jnp.arange(1.0, N + 1)[:, None, None] * jnp.eye(2)
    energy = dln.MatrixCompletion(labels, labels > 0)
    sol = sweep(CHAINS, energy)
    assert [w.shape for w in sol.weights] == [(N, 3, 3, 2), (N, 3, 2, 3)]
    assert_close(sol.x[:, -1, 0, 0], jnp.arange(1.0, N + 1), 1e-5)
    drawn = CHAINS.take(jnp.arange(N))
    assert isinstance(drawn, tuple)
    assert_same(sweep(list(map(np.asarray, drawn)), energy), sol)
    one = dln.network_flow(dln.MatrixCompletion(labels[1], labels[1] > 0), [w[1] for w in drawn], ts=TS)
    assert_close(sol[1].x, one.x, INTEGRATION)


@pytest.mark.long
def test_noise_is_that_of_the_seed():
    sol = sweep(BALANCED, noise=NOISE, ts=[0.0, 1.0])
    few = sweep(BALANCED[:3], noise=NOISE, ts=[0.0, 1.0])
    assert_same(few, sol[:3])
    own = dln.Noise(jax.random.fold_in(NOISE.key, 2), NOISE.beta, NOISE.dt)
    one = dln.network_flow(ENERGY, BALANCED[2], ts=[0.0, 1.0], noise=own)
    assert_close(sol[2].weights, one.weights, ALGEBRA)
    assert sol.stats["crossings"].shape == (N,)
    unbalanced = BALANCED.at[4, 0].multiply(2.0)
    with pytest.raises(ValueError, match=r"seed 4: noise keeps factors balanced"):
        sweep(unbalanced, noise=NOISE, folder="nowhere")
    with pytest.raises(ValueError, match="rtol has no meaning beside noise"):
        sweep(BALANCED, noise=NOISE, rtol=1e-4)


class Inline:
    """An executor that runs each task when it is submitted, and loses the first."""

    def __init__(self):
        self.seen = []

    def submit(self, f, *task):
        self.seen.append(task[1])
        future = Future()
        if len(self.seen) == 1:
            future.set_exception(RuntimeError("the node is gone"))
        else:
            future.set_result(f(*task))
        return future


@pytest.mark.long
def test_folders_and_workers_have_the_bits_of_memory(whole, tmp_path):
    data = sweep(folder=tmp_path / "own")
    assert dict(data.sizes) == {"seed": N, "time": 3, "layer": 3, "row": 2, "column": 2}
    assert_same(dln.load(tmp_path / "own"), whole)
    # A part that is lost or damaged is computed again, and no other.
    receipt = tmp_path / "own" / "parts" / "2.json"
    receipt.unlink()
    others = {path: path.stat().st_mtime_ns for path in receipt.parent.glob("*.json")}
    sweep(folder=tmp_path / "own")
    assert receipt.exists() and all(path.stat().st_mtime_ns == at for path, at in others.items())
    assert_same(dln.load(tmp_path / "own"), whole)
    executor = Inline()
    sweep(folder=tmp_path / "workers", executor=executor)
    assert sorted(executor.seen) == [0, 0, 2, 4]
    assert_same(dln.load(tmp_path / "workers"), whole)
    with pytest.raises(ValueError, match="belongs to another call: starts"):
        sweep(2 * STACK, folder=tmp_path / "own")
    with pytest.raises(ValueError, match="belongs to another call: rtol"):
        sweep(folder=tmp_path / "own", rtol=1e-6)


@pytest.mark.long
def test_processes_compute_factors_of_any_widths(tmp_path):
    sweep(CHAINS, folder=tmp_path / "run", executor=2)
    assert_same(dln.load(tmp_path / "run"), sweep(CHAINS))


@pytest.mark.long
def test_a_grid_has_its_axes_in_front():
    starts = dln.Ensemble(lambda key, std: std * jax.random.normal(key, (2, 2, 2)), KEY, 3)
    data = sweep(starts, grid={"std": [0.1, 1.0]}, chunk=6)
    assert data["weights"].dims == ("std", "seed", "time", "layer", "row", "column")
    weights = data["weights"].values[:, :, 0]
    assert_close(weights[0], 0.1 * weights[1], ALGEBRA)
    with pytest.raises(ValueError, match="the number of its factors: leave depth out"):
        sweep(starts, grid={"std": [0.1], "depth": [2.0]})
    with pytest.raises(ValueError, match="cannot have an axis 'weights_1'"):
        sweep(starts, grid={"std": [0.1], "weights_1": [2.0]})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 3}, "the number of its factors: leave depth out"),
        ({"depth": dln.Balanced(3)}, "the number of its factors: leave depth out"),
        ({"coordinates": "matrix"}, "their entries: leave coordinates out"),
        ({"stop": dln.Steady(1e-3)}, "the last of ts: leave stop out"),
        ({"observe": lambda point: point.sigma}, "all else can be computed: leave observe out"),
        ({"solver": dln.RungeKuttaChebyshev()}, "Dopri8: leave solver out"),
        ({"starts": dln.Ensemble(lambda key: jnp.ones((2, 2, 3)), KEY, 3)}, "N square matrices"),
        ({"starts": np.ones((0, 2, 2, 2))}, "starts is empty"),
        ({"starts": (np.ones((4, 3, 2)), np.ones((3, 2, 3)))}, r"every seed, .*got \[4, 3\] seeds"),
        ({"starts": (np.ones((4, 3, 2)), np.ones((4, 2, 2)))}, "must chain"),
        ({"starts": np.ones((4, 2, 3, 3))}, r"\(2, 2\)"),
        ({"ts": [1.0, 0.0]}, "ts must"),
        ({"max_steps": 0}, "max_steps"),
        ({"starts": dln.Ensemble(lambda key: (jnp.ones((3, 2)), jnp.ones((2, 2))), KEY, 3)}, "must chain"),
    ],
)
def test_what_has_no_meaning_for_networks_says_so(options, words):
    with pytest.raises(ValueError, match=words):
        sweep(**options)
