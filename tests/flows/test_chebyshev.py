"""The stabilised method alone, in diffrax: its order, its stability and what it saves where a problem is stiff."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln
from dlnjax._flows.chebyshev import first_stage, longest_step, MAX_STAGES, most_stages, next_stage, stage_count
from dlnjax._flows.coordinates import MatrixCoordinates
from dlnjax._flows.explicit import Explicit
from dlnjax._flows.stabilised import Stabilised
from dlnjax._flows.step import Choice, MOST_PATIENCE, PATIENCE, Rules, start_flow

METHOD = dln.RungeKuttaChebyshev()


def bernoulli(t, y, args):
    """w' = -w - w^3 for w = y - sin(3 t): nonlinear, and not autonomous."""
    w = y - jnp.sin(3 * t)
    return 3 * jnp.cos(3 * t) - w - w**3


def bernoulli_exact(t, w0):
    w0 = np.asarray(w0)
    return np.sin(3 * t) + np.sign(w0) / np.sqrt((1 + w0**-2.0) * np.exp(2 * t) - 1)


W0 = jnp.array([1.5, -0.6, 0.3])


def one_step(f, t0, h, y0):
    """(the end of a step, its error), with what the method knows of the spectrum from one look."""
    term = diffrax.ODETerm(f)
    state = METHOD.init(term, t0, t0 + h, y0, None)
    y1, error, *_ = METHOD.step(term, t0, t0 + h, y0, None, state, False)
    return y1, error


def rates(errors):
    errors = np.asarray(errors)
    return np.log2(errors[:-1] / errors[1:])


def test_constant_steps_converge_with_order_two():
    @jax.jit
    def end(h):
        term, steps = diffrax.ODETerm(bernoulli), diffrax.ConstantStepSize()
        return diffrax.diffeqsolve(
            term, METHOD, 0.0, 1.0, h, W0, stepsize_controller=steps, saveat=diffrax.SaveAt(t1=True)
        ).ys[0]

    exact = bernoulli_exact(1.0, W0)
    order = rates([np.max(np.abs(end(1 / n) - exact)) for n in (64, 128, 256, 512)])
    assert np.all((order > 1.9) & (order < 2.1)), order


def test_error_of_a_step_is_of_order_three_and_known_to_the_method():
    steps = 0.02 / 2.0 ** jnp.arange(4)
    y1, estimate = jax.jit(jax.vmap(lambda h: one_step(bernoulli, jnp.array(0.0), h, W0)))(steps)
    error = np.stack([bernoulli_exact(h, W0) for h in np.asarray(steps)]) - y1
    for sizes in (np.max(np.abs(error), axis=1), np.max(np.abs(estimate), axis=1)):
        order = rates(sizes)
        assert np.all((order > 2.8) & (order < 3.2)), order
    # The estimate has the leading term of many stages: with few it is right to a factor.
    ratio = np.max(np.abs(estimate), axis=1) / np.max(np.abs(error), axis=1)
    assert np.all((ratio > 1 / 5) & (ratio < 5)), ratio


def test_stages_stand_at_their_times():
    # The stiff mode brings many stages with it; the integral of 1 + 2 t is exact for them only at the right times.
    def velocity(t, y, args):
        return jnp.array([1.0 + 2 * t, -1.0]) * jnp.array([1.0, y[1] * args])

    @jax.jit
    @jax.vmap
    def end(stiffness):
        return one_step(lambda t, y, args: velocity(t, y, stiffness), jnp.array(0.3), jnp.array(0.5), jnp.ones(2))[0]

    stiffness = jnp.array([1e-3, 10.0, 100.0, 1e3, 1e4, 4e4])
    assert np.all(np.diff(jax.vmap(stage_count)(stiffness * 0.5)) > 0)
    y1 = end(stiffness)
    # Rounding in the recurrence grows with the square of the stages.
    assert_close(y1[:, 0], np.full(len(stiffness), 1 + 0.5 + 0.8**2 - 0.3**2), INTEGRATION)
    assert np.all(np.abs(y1[:, 1]) <= 1)


def polynomial(stages, z):
    """The step for y' = -z y from 1 with h = 1, that is the stability polynomial at -z."""
    one, h = jnp.ones_like(z), jnp.array(1.0)

    def advance(r):
        new = next_stage(r, one, -z, -z * r.newer, h)
        return jax.tree.map(lambda a, b: jnp.where(r.complete, a, b), r, new)

    return jax.lax.fori_loop(1, MAX_STAGES, lambda _, r: advance(r), first_stage(one, -z, h, stages)).newer


def test_every_stage_count_is_stable_as_far_as_it_is_used():
    stages = jnp.arange(2, MAX_STAGES + 1)
    # The longest reach that is given so many stages, from below.
    reach = (stages**2 - 1) / 1.54 * (1 - 1e-12)
    np.testing.assert_array_equal(jax.vmap(stage_count)(reach), stages)
    assert longest_step(jnp.array(1.0)) <= reach[-1]
    z = reach[:, None] * jnp.linspace(0, 1, 1001)
    growth = jnp.abs(jax.jit(jax.vmap(polynomial))(stages, z))
    assert np.max(growth) <= 1 + 1e-10
    # Damped inside, and order two at zero.
    assert np.max(growth[:, 500:]) < 0.98
    small = np.asarray(jax.vmap(polynomial)(stages, jnp.full((len(stages), 1), 1e-3)))
    assert_close(small, np.full_like(small, np.exp(-1e-3)), 1e-9)
    # And not by a wide margin, which would be stages for nothing.
    beyond = jax.vmap(polynomial)(stages, reach[:, None] * jnp.linspace(1.0, 1.3, 200))
    assert np.min(np.max(np.abs(beyond), axis=1)) > 1


def test_step_longer_than_the_most_stages_reach_is_refused():
    f = lambda t, y, args: -jnp.array([1.0, 100.0]) * y
    step = jax.jit(lambda h: one_step(f, jnp.array(0.0), h, jnp.ones(2)))
    most = float(longest_step(jnp.array(120.0)))
    y1, error = step(0.99 * most)
    assert np.all(np.abs(y1) <= 1) and np.all(np.isfinite(error))
    assert np.all(np.isinf(step(1.02 * most)[1]))


POINTS = 64
LAPLACE = (POINTS + 1) ** 2 * (np.eye(POINTS, k=1) + np.eye(POINTS, k=-1) - 2 * np.eye(POINTS))


def heat(solver, y0, stiffness=1.0, t1=0.5):
    field = lambda t, y, args: stiffness * (jnp.asarray(LAPLACE) @ y)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        0.0,
        t1,
        None,
        y0,
        stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-8),
        max_steps=200_000,
        saveat=diffrax.SaveAt(ts=jnp.array([0.1 * t1, t1])),
    )


def uneven(x):
    return np.sin(np.pi * x) + 0.3 * np.sin(5 * np.pi * x) + np.where(x > 0.7, 1.0, 0.0)


START = uneven(np.arange(1, POINTS + 1) / (POINTS + 1))


def test_heat_equation_is_right_in_far_fewer_steps():
    stabilised = jax.jit(lambda y0: heat(METHOD, y0))(START)
    explicit = jax.jit(lambda y0: heat(diffrax.Dopri5(), y0))(START)
    exact = np.stack([expm(LAPLACE * t) @ START for t in (0.05, 0.5)])
    assert_close(stabilised.ys, exact, 1e-4)
    assert_close(explicit.ys, exact, 1e-4)
    few, many = (int(s.stats["num_steps"]) for s in (stabilised, explicit))
    assert 5 * few < many, (few, many)


def test_vmap_is_the_loop():
    # They differ in stages, in steps and in how soon the spectral radius is known.
    stiffness, rough = np.array([1e-2, 0.1, 1.0]), np.array([0.0, 0.1, 3.0])
    starts = START + rough[:, None] * np.cos(np.pi * np.arange(POINTS))
    solve = lambda y0, k: heat(METHOD, y0, k, t1=0.1)
    many, one = jax.jit(jax.vmap(solve))(starts, stiffness), jax.jit(solve)
    for i, (y0, k) in enumerate(zip(starts, stiffness, strict=True)):
        alone = one(y0, k)
        assert_close(many.ys[i], alone.ys, ALGEBRA)
        assert many.stats["num_steps"][i] == alone.stats["num_steps"]


def test_neighbour_under_vmap_has_no_say_in_the_spectral_radius():
    def radius(y0):
        term, h = diffrax.ODETerm(lambda t, y, args: jnp.asarray(LAPLACE) @ y), jnp.array(0.01)
        state = METHOD.init(term, 0 * h, h, y0, None)
        return METHOD.step(term, 0 * h, h, y0, None, state, False)[3].radius

    # The smooth one is settled at once, to its own mode; the others take their time.
    x = np.arange(1, POINTS + 1) / (POINTS + 1)
    starts = np.stack([np.sin(np.pi * x), START, np.cos(np.pi * np.arange(POINTS)) + x])
    many, one = jax.jit(jax.vmap(radius))(starts), jax.jit(radius)
    alone = np.stack([one(y0) for y0 in starts])
    assert alone.max() > 1.5 * alone.min()
    # A difference quotient is known to the root of rounding; the wrong radius would be off by its factor.
    np.testing.assert_allclose(many, alone, rtol=1e-3)


def test_flow_that_turns_stiff_again_and_again_is_never_held_long_in_the_explicit_method():
    # With a patience that doubled without a bound, a stiff flow spent all of its 100,000 steps in the explicit method.
    explicit, held = Explicit(diffrax.Dopri5(), stiff=1), PATIENCE
    held_up = jax.jit(lambda choice: explicit._choose(choice, jnp.array(True), jnp.array(3.3)))
    for _ in range(20):
        choice = Choice(jnp.array(0), jnp.array(0.0), jnp.array(0), jnp.array(held), jnp.array(0))
        steps = 0
        while int(choice.method) == 0:
            choice, steps = held_up(choice), steps + 1
            assert steps <= MOST_PATIENCE
        held = int(choice.patience)
    assert held == MOST_PATIENCE


STIFF = dln.MatrixCompletion(jnp.eye(2), np.array([[1, 0], [1, 1]], bool))


def test_very_stiff_flow_arrives_by_as_many_stages_as_its_tolerance_allows():
    # sigma_1 stays near 1e5, so that the fastest rate is near 1e10/2. At most 200 stages took 100,000 steps to t = 404.
    run = lambda **options: dln.gradient_flow(STIFF, jnp.array([[0.5, 1e5], [0.1, 0.5]]), depth=2.0, **options)
    sol = run(ts=[0.0, 404.0])
    assert sol.stats["steps"] < 1000 and sol.stats["evaluations"] > 50 * sol.stats["steps"]
    right = run(ts=[0.0, 404.0], solver=diffrax.Kvaerno5(), rtol=1e-8)
    assert_close(sol.x[-1], right.x[-1], 1e-5 * 1e5)
    assert_close(sol.x[-1][1, 0], right.x[-1][1, 0], 1e-6)
    # The limit of the steps limits the work too: this flow takes 700 steps, of which the last are of many stages.
    cut = run(ts=[0.0, 1e4], max_steps=1000, throw=False)
    assert cut.result == "max_steps_reached" and 404 < cut.t_end < 1e4
    assert cut.stats["steps"] + cut.stats["rejected"] < 1000


def test_number_of_stages_follows_the_tolerance():
    most = [int(most_stages(jnp.array(rtol))) for rtol in (1e-3, 1e-6, 1e-10, 1e-13)]
    assert most == [671088, 21221, 212, 200]
    assert int(most_stages(jnp.array(1e-3, jnp.float32))) == 200


def test_step_with_a_velocity_from_elsewhere_is_rejected_and_then_taken_with_its_own():
    # A step hands its last velocity on to the next. The state is projected in between, and a stiff velocity changes
    # with it. Every shorter step with that velocity was rejected, until the flow ended as non_finite.
    method, ts = Stabilised(), jnp.array([0.0, 1.0])
    flow = MatrixCoordinates(lambda x: jnp.sum(x**4), dln.Balanced(1), jnp.array(1e-6), jnp.array(1e-9), jnp.array(0.1))
    rules = Rules(ts, jnp.array(0.1), jnp.array(1000))
    s = start_flow(flow, jnp.array([[1.0, 0.2], [0.1, 0.5]]), rules, method.order, lambda t, h, y: None)
    stage = method.begin(flow, s)
    evaluate, finish = (jax.jit(lambda s, g, f=f: f(flow, rules, s, g)[:2]) for f in (method.evaluate, method.finish))
    misled = False
    for _ in range(300):
        s, stage = evaluate(s, stage)
        if int(stage.probes) > 0 and not misled:
            stage, misled = eqx.tree_at(lambda g: g.velocity0, stage, 1.5 * stage.velocity0), True
        if stage.ended:
            s, stage = finish(s, stage)
        if int(s.accepted) == 3:
            break
    assert misled and 1 <= int(s.rejected) <= 3
    assert int(s.accepted) == 3
