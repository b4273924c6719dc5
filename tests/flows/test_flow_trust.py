"""Inputs that once gave a wrong number without a word: small starts, long and late times, energies that change."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import ended
from support.programs import FLOW_PROGRAMS, lowered
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._flows import problem

EYE = jnp.eye(2)
# E = (X - I)^2 / 2 on all entries: on c I each mode is sigma' = sigma^(2-2/N) (1 - sigma).
FULL = dln.MatrixCompletion(EYE, jnp.ones((2, 2), bool))
X0 = jnp.array([[0.2, 0.1], [-0.1, 0.3]])


def logistic(t):
    return 1 / (1 + np.exp(-t))


@pytest.mark.parametrize("coordinates", ["svd", "matrix"])
@pytest.mark.parametrize("start", [1e-4, 1e-8, 1e-12, 1e-30, 1e-150])
def test_escape_from_a_small_start_takes_its_exact_time(start, coordinates):
    half = np.log(1 / start - 1) if start > 1e-16 else np.log(1 / start)
    x0 = start * EYE
    sol = dln.gradient_flow(FULL, x0, depth=2.0, ts=[0.0, half, half + 5], coordinates=coordinates)
    # At the default rtol of 1e-6, and some hundred steps.
    assert_close(sol.sigma[1:, 1], [0.5, logistic(5.0)], 10 * FINITE_DIFFERENCE)


def test_problem_in_small_units_is_the_problem():
    # At depth 2 the flow of the labels c I from c X is that of I from X, at times t/c.
    unit = 2.0**-30
    energy = dln.MatrixCompletion(unit * EYE, jnp.eye(2, dtype=bool), weight=1.0)
    small = dln.gradient_flow(energy, unit * X0, depth=2.0, ts=[0.0, 2.0 / unit, 20.0 / unit])
    plain = dln.gradient_flow(dln.MatrixCompletion.diagonal(2), X0, depth=2.0, ts=[0.0, 2.0, 20.0])
    assert_close(small.x / unit, plain.x, INTEGRATION)


class InUnits(eqx.Module):
    """A stiff completion in a unit of X: one entry is seen with the weight 1, the others with 1e4."""

    unit: jax.Array

    def __call__(self, x):
        return jnp.sum(jnp.array([[1.0, 1e4], [1e4, 1e4]]) * (x / self.unit - EYE) ** 2) / 2


@pytest.mark.parametrize("stop", [None, 1e-6])
def test_stiff_flow_takes_as_long_in_any_unit(stop):
    # At infinite depth x' of x = X / unit does not depend on the unit.
    def flow(unit):
        rest = None if stop is None else dln.Steady(stop / unit)
        return dln.gradient_flow(InUnits(jnp.asarray(unit)), unit * X0, ts=[0.0, 1.0, 30.0], stop=rest)

    plain = flow(1.0)
    for power in (-300, -50, -20, 300):
        sol = flow(2.0**power)
        # The logarithms of units have other errors of rounding, by which a flow rests a little sooner or later.
        assert_close(sol.x / 2.0**power, plain.x, INTEGRATION if stop is None else stop / 10)
        assert 0.9 < sol.stats["evaluations"] / plain.stats["evaluations"] < 1.1


@pytest.mark.parametrize("second", [1e-14, 1e-17, 1e-40])
def test_start_given_as_an_svd_is_exact(second):
    start = dln.SVD(EYE, jnp.array([1.0, second]), EYE)
    time = np.log(1 / second) + 5
    sol = dln.gradient_flow(FULL, start, depth=2.0, ts=[0.0, time / 2, time])
    assert_close(sol.sigma[-1, 1], logistic(5.0), 10 * FINITE_DIFFERENCE)


def test_flow_in_legs_is_the_flow_in_one_piece_from_saddle_to_saddle():
    energy = dln.MatrixCompletion(jnp.diag(jnp.array([1.0, 0.3])), jnp.ones((2, 2), bool))
    start = dln.SVD(EYE, jnp.array([1e-24, 1e-24]), EYE)
    whole = dln.gradient_flow(energy, start, depth=2.0, ts=[0.0, 100.0, 250.0])
    point = start
    for _ in range(5):
        point = dln.gradient_flow(energy, point, depth=2.0, ts=[0.0, 25.0, 50.0]).final
    assert_close(whole.sigma[-1], [1.0, 0.3], 10 * FINITE_DIFFERENCE)
    assert_close(point.sigma, whole.sigma[-1], 10 * FINITE_DIFFERENCE)


@pytest.mark.parametrize("depth", [2.0, np.inf])
def test_length_and_origin_of_the_times_change_nothing(depth):
    energy, stop = dln.MatrixCompletion.diagonal(2), dln.Steady(1e-8)
    run = lambda *ts: dln.gradient_flow(energy, X0, depth=depth, ts=list(ts), stop=stop, throw=False)
    plain = run(0.0, 1.0, 1e4)
    for end in (1e20, 1e30, 1e300):
        other = run(0.0, 1.0, end)
        assert ended(other) == "steady" and other.t_end == plain.t_end
        np.testing.assert_array_equal(other.x, plain.x)
    late = run(1e12, 1e12 + 1, 1e12 + 1e4)
    np.testing.assert_array_equal(late.x[1], plain.x[1])
    assert abs(late.t_end - 1e12 - plain.t_end) < 1e-3
    moved = dln.gradient_flow(energy, X0, depth=depth, ts=[1e12, 1e12 + 1, 1e12 + 2])
    assert moved.t_end == 1e12 + 2


@pytest.mark.parametrize("stop", [1e-4, 1e-6, 1e-8, 1e-10])
def test_time_to_rest_is_that_of_the_flow_and_not_of_the_error(stop):
    # On c I at depth 2: |dE| = sqrt(2) (1 - sigma), and sigma = logistic(t - log(1/c - 1)).
    start = 0.1
    exact = np.log(1 / start - 1) + np.log(np.sqrt(2) / stop - 1)
    sol = dln.gradient_flow(FULL, start * EYE, depth=2.0, ts=[0.0, 1e3, 1e6], stop=dln.Steady(stop))
    assert ended(sol) == "steady"
    # The flow rests at the end of a step, and steps near rest are as long as the slowest mode takes, whose rate is 1.
    assert exact * 0.97 < sol.t_end < exact + 1


def test_energy_that_changed_after_its_first_use_is_seen():
    target = 1.0

    def energy(x):
        return jnp.sum((x - target * EYE) ** 2) / 2

    run = lambda: dln.gradient_flow(energy, EYE / 2, depth=2.0, ts=[0.0, 1.0, 60.0])
    assert_close(run().x[-1], EYE, FINITE_DIFFERENCE)
    target = 2.0
    sol = run()
    assert_close(sol.x[-1], 2 * EYE, FINITE_DIFFERENCE)
    assert sol.energy[-1] < FINITE_DIFFERENCE


def test_array_attribute_and_function_inside_an_energy_are_read_at_each_call():
    labels = np.eye(2)

    class Plain:
        scale = 1.0

        def __call__(self, x):
            return jnp.sum((x - self.scale * labels) ** 2) / 2

    energy = Plain()
    run = lambda energy: dln.gradient_flow(energy, EYE / 2, depth=2.0, ts=[0.0, 1.0, 60.0]).x[-1]
    assert_close(run(energy), EYE, FINITE_DIFFERENCE)
    labels *= 2
    assert_close(run(energy), 2 * EYE, FINITE_DIFFERENCE)
    energy.scale = 1.5
    assert_close(run(energy), 3 * EYE, FINITE_DIFFERENCE)
    spectral = dln.SpectralEnergy(lambda s: (s - labels[0, 0]) ** 2 / 2)
    assert_close(run(spectral), 2 * EYE, FINITE_DIFFERENCE)
    labels /= 2
    assert_close(run(spectral), EYE, FINITE_DIFFERENCE)


def test_what_is_observed_is_read_at_each_call():
    factor = 1.0
    run = lambda: dln.gradient_flow(FULL, EYE / 2, depth=2.0, ts=[0.0, 1.0], observe=lambda p: factor * p.sigma)
    one = run().observed
    factor = 3.0
    assert_close(run().observed, 3 * one, ALGEBRA)


def test_same_energy_typed_again_compiles_nothing():
    def flow(target):
        return dln.gradient_flow(lambda x: jnp.sum((x - target * EYE) ** 2) / 2, X0, depth=2.0, ts=[0.0, 1.0])

    flow(jnp.asarray(1.0))
    with lowered() as again:
        flow(jnp.asarray(1.0))
        # An array that is closed over is an argument of the program.
        found = flow(jnp.asarray(1.7))
    assert not FLOW_PROGRAMS.intersection(again)
    with lowered() as changed:
        other = flow(1.7)
    assert FLOW_PROGRAMS.intersection(changed)
    assert_close(found.x, other.x, ALGEBRA)


@pytest.mark.long
def test_derivative_in_a_number_that_the_energy_closes_over():
    def final(w):
        energy = lambda x: jnp.sum((x - w * EYE) ** 2) / 2
        return dln.gradient_flow(energy, X0, depth=2.0, ts=[0.0, 1.0], rtol=1e-9).x[-1, 0, 0]

    class Fit(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return jnp.sum((x - self.w * EYE) ** 2) / 2

    flow = lambda w: dln.gradient_flow(Fit(w), X0, depth=2.0, ts=[0.0, 1.0], rtol=1e-9).x[-1, 0, 0]
    one = jnp.asarray(1.0)
    assert_close(jax.grad(final)(one), jax.grad(flow)(one), INTEGRATION)
    assert_close(jax.jvp(final, (one,), (one,))[1], jax.grad(flow)(one), INTEGRATION)
    assert_close(jax.grad(final)(one), (final(one + 1e-4) - final(one - 1e-4)) / 2e-4, FINITE_DIFFERENCE)


@pytest.mark.parametrize("factor", [1e160, 1e-160])
def test_energy_in_other_units_is_the_flow_in_other_times(factor):
    # d/dt X = -c grad E: the same path at times t/c.
    energy = dln.MatrixCompletion(jnp.eye(2), jnp.eye(2, dtype=bool), weight=factor)
    sol = dln.gradient_flow(energy, X0, depth=2.0, ts=[0.0, 2.0 / factor, 20.0 / factor])
    plain = dln.gradient_flow(dln.MatrixCompletion.diagonal(2), X0, depth=2.0, ts=[0.0, 2.0, 20.0])
    assert_close(sol.x, plain.x, INTEGRATION)


def test_flags_of_the_caller_hold_for_the_energy_and_not_for_the_inside():
    run = lambda energy: dln.gradient_flow(energy, X0, depth=2.0, ts=[0.0, 1.0])
    energy = lambda x: jnp.sum((x - EYE) ** 2)
    plain = run(energy).x
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        np.testing.assert_array_equal(run(energy).x, plain)
        with pytest.raises(ValueError, match="rank_promotion"):
            run(lambda x: jnp.sum(x * EYE[0]))


def test_implicit_solver_takes_the_tolerance_of_the_flow():
    import diffrax

    run = lambda solver: dln.gradient_flow(FULL, X0, depth=2.0, ts=[0.0, 1.0, 5.0], solver=solver)
    assert_close(run(diffrax.Kvaerno5()).x, run(None).x, FINITE_DIFFERENCE)


def test_default_tolerance_is_the_documented_share_of_the_start():
    options = problem.Options()
    assert_close(options.absolute(jnp.array([1.0, 1e-12])), 1e-8 * np.array([1.0, 1e-12]), 1e-20)
    assert problem.Options(atol=3.0).absolute(jnp.ones(2)).tolist() == [3.0, 3.0]


def test_tolerance_that_follows_the_start_is_none_inside_of_jit_too():
    start = jnp.asarray(X0, jnp.float32)
    flow = lambda x: dln.gradient_flow(dln.MatrixCompletion.diagonal(len(start)), x, ts=[0.0, 1.0], rtol=1e-5)
    assert flow(start).atol is None and eqx.filter_jit(flow)(start).atol is None


class InPython:
    """An energy that JAX calls in Python, |X - target I|^2 / 2."""

    def __init__(self, target):
        self.target = target

    def _away(self, x):
        return np.asarray(x) - self.target * np.eye(2)

    def __call__(self, x):
        value = lambda x: np.sum(self._away(x) ** 2) / 2
        return jax.pure_callback(value, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    def gradient(self, x):
        return jax.pure_callback(self._away, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="sequential")


def test_function_of_python_inside_of_an_energy_is_the_current_one():
    for target in (1.0, 2.0):
        sol = dln.gradient_flow(InPython(target), jnp.diag(jnp.array([0.5, 0.4])), depth=2, ts=[0.0, 40.0])
        assert_close(sol.x[-1], target * jnp.eye(2), FINITE_DIFFERENCE)


def test_partial_function_is_read_at_each_call():
    scale = types.SimpleNamespace(of=1.0)
    loss = jax.tree_util.Partial(lambda target, x: scale.of * jnp.sum((x - target) ** 2), jnp.eye(2))
    of_value = jax.tree_util.Partial(lambda target, s: scale.of * (s - target) ** 2, jnp.array(1.0))
    for energy in (loss, dln.FreeEnergy(loss, 2.0, 2), dln.SpectralEnergy(of_value)):
        found = []
        for scale.of in (1.0, 5.0):
            found.append(dln.gradient_flow(energy, X0, depth=2, ts=[0.0, 0.3]))
            assert_close(found[-1].energy[0], energy(X0), 1e-12)
        assert not np.allclose(found[0].sigma, found[1].sigma)


@pytest.mark.parametrize("noise", [None, dln.Noise(jax.random.key(0), 5.0, 0.05)], ids=["still", "noise"])
def test_what_observe_closes_over_has_its_derivative(noise):
    """The number is in the start, in the energy and in what is observed."""

    def seen(c):
        energy, observe = lambda x: c * jnp.sum((x - jnp.eye(2)) ** 2), lambda point: c * jnp.sum(point.sigma**2)
        sol = dln.gradient_flow(energy, c * X0, depth=2, ts=[0.0, 0.3], observe=observe, noise=noise)
        return sol.observed[-1]

    expected = (seen(1.0 + 1e-5) - seen(1.0 - 1e-5)) / 2e-5
    for slope in (
        jax.grad(seen),
        jax.jit(jax.grad(seen)),
        jax.jit(lambda c: jax.jvp(seen, (c,), (jnp.ones_like(c),))[1]),
    ):
        assert_close(slope(1.0), expected, 1e-4 if noise is None else 1e-6)


OFFERED = {
    "a row": (lambda x: 2 * x[0], ValueError, r"energy.gradient must return real numbers of shape \(2, 2\)"),
    "one axis more": (lambda x: 2 * x[None], ValueError, r"energy.gradient must return real numbers of shape"),
    "complex": (lambda x: 2 * x + 0j, ValueError, r"energy.gradient must return real numbers .* got complex128"),
    "a list": (lambda x: [[1.0, 2.0], [3.0, 4.0]], TypeError, r"energy.gradient must return an array .* got list"),
}


@pytest.mark.parametrize("name", OFFERED)
def test_what_a_method_of_an_energy_returns_is_looked_at(name):
    slope, error, message = OFFERED[name]

    class Energy:
        gradient = staticmethod(slope)

        def __call__(self, x):
            return jnp.sum(x**2)

    with pytest.raises(error, match=message):
        dln.riemannian_gradient(Energy(), X0, 2)
    with pytest.raises(error, match=message):
        dln.gradient_flow(Energy(), X0, depth=2, ts=[0.0, 0.3])
