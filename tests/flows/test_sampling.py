"""The autocorrelation time against exact Ornstein-Uhlenbeck processes and independent values."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._flows.sampling import autocorrelation_times, WINDOW

X0 = jnp.array([[1.0, 0.3], [-0.2, 0.5]])
# The standard error of a time is about this number times itself, and their mean over rows has less.
error = lambda spans, rows: np.sqrt(4 * WINDOW / spans / rows)


def ornstein_uhlenbeck(rng, rows, n, decay):
    """Values whose correlation over k gaps is decay^k."""
    x = np.empty((rows, n))
    x[:, 0] = rng.standard_normal(rows)
    kicks = np.sqrt(1 - decay**2) * rng.standard_normal((rows, n))
    for k in range(1, n):
        x[:, k] = decay * x[:, k - 1] + kicks[:, k]
    return x


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_time_of_an_exact_process_at_any_scale(decay):
    rows, n, gap = 40, 20_000, 0.3
    x = ornstein_uhlenbeck(np.random.default_rng(3), rows, n, decay)
    exact = gap * (1 + decay) / (1 - decay) / 2
    times = autocorrelation_times(x, gap)
    assert abs(times.mean() / exact - 1) < 3 * error(n * gap / exact, rows)
    for scale, shift in ((1e-150, 0.0), (1e300, 0.0), (1.0, 1e3)):
        assert_close(autocorrelation_times(scale * x + shift, gap), times, 1e-8)


def test_the_window_is_that_of_the_definition():
    x = ornstein_uhlenbeck(np.random.default_rng(4), 1, 2000, 0.8)[0]
    centred = x - x.mean()
    rho = [np.sum(centred[: len(x) - k] * centred[k:]) / np.sum(centred**2) for k in range(200)]
    m = next(m for m in range(1, 200) if m >= WINDOW * (0.5 + sum(rho[1 : m + 1])))
    assert_close(autocorrelation_times(x, 0.1), 0.1 * (0.5 + sum(rho[1 : m + 1])), ALGEBRA)


def test_a_path_that_is_too_short_or_never_moves_has_none():
    x = ornstein_uhlenbeck(np.random.default_rng(5), 1, 400, 0.98)[0]
    assert np.isnan(autocorrelation_times(x, 1.0))
    assert np.isnan(autocorrelation_times(np.full(400, 0.1), 1.0))
    assert np.isnan(autocorrelation_times(np.where(np.arange(400) == 7, np.inf, x), 1.0))


@pytest.fixture(scope="module")
def decaying():
    """A sweep of paths of an Ornstein-Uhlenbeck process: at depth 1 the force of |X|^2/2 is -X."""
    starts = jnp.broadcast_to(X0, (12, 2, 2))
    noise = dln.Noise(jax.random.key(1), 2.0, 0.25)
    energy = lambda x: jnp.sum(x**2) / 2
    options = {"depth": 1, "ts": jnp.linspace(0.0, 500.0, 2001), "noise": noise, "progress": False}
    return dln.sweep(energy, starts, **options), dln.sweep(
        energy, starts, observe=lambda p: {"x": p.matrix, "tr": jnp.trace(p.matrix)}, **options
    )


@pytest.mark.long
def test_times_of_weight_decay_at_depth_one_are_those_of_the_exact_process(decaying):
    sol, seen = decaying
    # The correlation of X is the factor of a step of Heun's method, and that of a square of Gaussian values its square.
    one = 1 - 0.25 + 0.25**2 / 2
    for times, decay in ((sol.autocorrelation_time(after=5.0), one**2), (seen_x(seen), one)):
        exact = 0.25 * (1 + decay) / (1 - decay) / 2
        times = np.asarray(times)
        assert times.shape[0] == 12
        assert abs(times.mean() / exact - 1) < 3 * error(495 / exact, times.size)
    assert sol.autocorrelation_time("sigma", after=5.0).shape == (12, 2)
    assert sol.autocorrelation_time("effective_rank").shape == (12,)
    times = seen.autocorrelation_time("observed", after=5.0)
    assert times["tr"].shape == (12,)
    assert_close(sol[3].autocorrelation_time(), sol.autocorrelation_time()[3], ALGEBRA)


def seen_x(seen):
    times = seen.autocorrelation_time("observed", after=5.0)["x"]
    assert times.shape == (12, 2, 2)
    return times


@pytest.mark.long
def test_a_path_that_ended_early_has_no_time(decaying):
    sol, _ = decaying
    early = eqx.tree_at(lambda s: s.t_end, sol, sol.t_end.at[2].set(100.0))
    assert np.flatnonzero(np.isnan(early.autocorrelation_time())).tolist() == [2]


def short(ts, noise=None, **options):
    return dln.gradient_flow(dln.MatrixCompletion.diagonal(2), X0, depth=2, ts=ts, noise=noise, **options)


def test_bad_input_is_refused_by_one_sentence(key, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    noise = dln.Noise(key, 5.0, 0.1)
    few = short([0.0, 0.5, 1.0], noise)
    uneven = short(np.linspace(0.0, 1.0, 40) ** 2, noise)
    for call, error, message in (
        (short([0.0, 0.5, 1.0]).autocorrelation_time, ValueError, "is of a path with noise"),
        (few.autocorrelation_time, ValueError, "at least 26 saved times, got 3"),
        (uneven.autocorrelation_time, ValueError, "needs equal gaps"),
        (lambda: few.autocorrelation_time("x"), ValueError, "of must be one of energy, sigma"),
        (lambda: few.autocorrelation_time("observed"), ValueError, "nothing was observed"),
        (lambda: jax.jit(lambda s: s.autocorrelation_time())(few), TypeError, "autocorrelation_time needs numbers"),
    ):
        with pytest.raises(error, match=message):
            call()
