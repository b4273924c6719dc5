"""How a flow ends that does not reach the last time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import ended
from support.tolerances import assert_close, INTEGRATION

import dlnjax as dln

EYE = jnp.eye(2)


def escape(x):
    return -(jnp.sum(x**2) ** 2)


def steep_escape(x):
    return -(jnp.sum(x**2) ** 4)


def forbidden(x):
    """The square distance to 3, on the side of x_11 < 2; beyond, NaN."""
    return jnp.sum((x - 3 * EYE) ** 2) / 2 * jnp.where(x[0, 0] < 2, 1.0, jnp.nan)


# The second mode wants to change its sign, and the determinant with it.
THROUGH_ZERO = dln.MatrixCompletion(jnp.diag(jnp.array([2.0, -1.0])), np.ones((2, 2), bool))


def run(energy, x0=EYE, ts=(0.0, 10.0), atol=1e-14, **options):
    return dln.gradient_flow(energy, x0, ts=list(ts), rtol=1e-9, atol=atol, **options)


@pytest.mark.parametrize(
    ("energy", "depth", "time"),
    [(escape, 1.0, 1 / 16), (escape, 2.0, 1 / 24), (escape, np.inf, 1 / 32), (steep_escape, np.inf, 1 / 512)],
)
def test_blow_up_ends_as_diverged_at_its_exact_time(energy, depth, time):
    # On c I the flow is c' = 8 c^(5-2/N), and at infinite depth c' = 64 c^9 for the steep one.
    solution = run(energy, depth=depth, throw=False)
    assert ended(solution) == "diverged"
    # The last good state is within rounding of time of the singularity, and no further.
    assert_close(solution.t_end, time, INTEGRATION)
    largest = solution.final.sigma[0]
    assert np.all(np.isfinite(solution.final.matrix)) and largest > 10
    assert_close(solution.x[-1] / largest, solution.final.matrix / largest, INTEGRATION)


def test_singular_value_that_reaches_zero_ends_as_rank_lost_at_its_exact_time():
    # sigma' = -sigma^(2/3) (sigma + 1) from 1 takes 3 times the integral of 1/(1 + v^3) over [0, 1].
    solution = run(THROUGH_ZERO, depth=1.5, throw=False)
    assert ended(solution) == "rank_lost"
    # The mode is known to a few atol, and one of that size has 3 atol^(1/3) of time left.
    assert abs(solution.t_end - np.log(2) - np.pi / np.sqrt(3)) < 10 * 1e-14 ** (1 / 3)
    assert 0 <= solution.final.sigma[1] < 1e-14 < 1 < solution.final.sigma[0]


def test_step_limit_counts_accepted_and_rejected_steps():
    solution = run(THROUGH_ZERO, depth=2.0, max_steps=7, throw=False)
    assert ended(solution) == "max_steps_reached"
    assert solution.stats["steps"] + solution.stats["rejected"] == 7
    assert 0 < solution.t_end < 10


def test_energy_that_turns_nan_ends_as_non_finite_just_before_it_does():
    solution = run(forbidden, throw=False)
    assert ended(solution) == "non_finite"
    assert 1.9 < solution.final.matrix[0, 0] < 2
    # Infinite depth from 1 towards 3: t(2) of the exact mode.
    exact = np.log(2 * (1 - 3) / (1 * (2 - 3))) / 9 + 1 / 3 - 1 / 6
    assert_close(solution.t_end, exact, 10 * INTEGRATION)


@pytest.mark.parametrize("start", [1.9, 1.9999, 1.999999975379076])
def test_flow_beside_a_wall_ends_in_few_steps(start):
    # Steps too short to change X are accepted beside the wall, and longer ones are refused.
    solution = run(forbidden, x0=start * EYE, throw=False)
    assert ended(solution) == "non_finite"
    assert solution.stats["steps"] + solution.stats["rejected"] < 300
    assert_close(solution.final.matrix, 2 * EYE, 10 * INTEGRATION)


def test_gradient_that_turns_infinite_at_a_finite_point_is_no_blow_up():
    # c' = c^2/(3 - c): the flow grows a hundredfold, then meets a wall.
    solution = run(lambda x: jnp.sum(jnp.log(3 - jnp.diag(x))), x0=0.03 * EYE, ts=(0.0, 200.0), throw=False)
    assert ended(solution) == "non_finite"
    assert_close(solution.final.matrix, 3 * EYE, 1e-5)
    assert_close(solution.t_end, 3 / 0.03 - 1 - np.log(100), 10 * INTEGRATION)


def test_energy_that_is_nan_at_the_start_is_non_finite_at_the_first_time():
    solution = run(forbidden, x0=2.5 * EYE, throw=False)
    assert ended(solution) == "non_finite"
    assert solution.t_end == 0
    assert_close(solution.final.matrix, 2.5 * EYE, INTEGRATION)


@pytest.mark.parametrize(
    ("energy", "options", "code"),
    [
        (escape, {}, "diverged"),
        (THROUGH_ZERO, {"depth": 1.5}, "rank_lost"),
        (THROUGH_ZERO, {"depth": 2.0, "max_steps": 7}, "max_steps_reached"),
        (forbidden, {}, "non_finite"),
    ],
)
def test_throw_raises_with_the_sentence_of_the_code(energy, options, code):
    with pytest.raises(RuntimeError) as raised:
        jax.block_until_ready(run(energy, **options).x)
    sentence = " ".join(str(raised.value).split())
    assert dln.RESULTS[getattr(dln.RESULTS, code)] in sentence


def test_lanes_of_a_vmap_do_not_notice_a_failing_neighbour():
    good = jnp.stack([EYE + 0.1 * jnp.arange(4.0).reshape(2, 2), 0.5 * EYE, EYE.at[0, 1].set(0.3)])
    good = jnp.minimum(good, 1.5)
    flow = jax.jit(jax.vmap(lambda x: run(forbidden, x0=x, ts=(0.0, 0.1), throw=False)))
    bad = good.at[1].set(1.9999 * EYE)
    alone, beside = flow(good), flow(bad)
    assert ended(alone) == ["successful"] * 3
    assert ended(beside) == ["successful", "non_finite", "successful"]
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(beside), strict=True):
        if a.shape[:1] == (3,):
            np.testing.assert_array_equal(a[::2], b[::2])
