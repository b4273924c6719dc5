"""Rules of derivatives in loops that are differentiated twice, where JAX drops those of `jax.custom_jvp`."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._custom_jvp import custom_jvp, filter_custom_jvp
from dlnjax._geometry.depth import as_kernel
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._solver import without_derivative

# Its singular values repeat, where the rules differ from the derivatives of what the functions do.
X = jnp.diag(jnp.array([1.0, 1.0, 0.5]))
DX = jnp.array([[0.3, 0.1, -0.4], [0.2, -0.2, 0.5], [0.1, 0.4, 0.2]])
FUNCTIONS = {
    "norm": lambda x: dln.norm(x, DX, 3),
    "hamiltonian": lambda x: dln.hamiltonian(x, DX, jnp.inf),
    "energy": dln.Schatten(0.5),
    "operator": lambda x: jnp.sum(jnp.sin(dln.metric_operator(x, DX, 3))),
    "matrix": lambda x: jnp.sum(jnp.sin(dln.svd(x).matrix)),
    "many": lambda x: jnp.sum(jax.vmap(lambda c: dln.norm(x, c * DX, 3) ** 2)(jnp.arange(1.0, 3.0))),
}
SECOND = {"hessian": jax.hessian, "reverse": lambda f: jax.grad(jax.grad(f))}


def step(f):
    return lambda c: c + 0.1 * jnp.tanh(f(X + c * DX))


def loop(one):
    return lambda c: jax.lax.scan(lambda c, _: (one(c), None), c, None, length=2)[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_loop_has_the_second_derivatives_of_its_steps(name):
    one = step(FUNCTIONS[name])
    expected = jax.jit(jax.jacfwd(jax.jacfwd(lambda c: one(one(c)))))(0.0)
    for second in SECOND.values():
        assert_close(jax.jit(second(loop(one)))(0.0), expected, 1e-8)


FLOW = partial(dln.gradient_flow, dln.MatrixCompletion.diagonal(3), ts=[0.0, 0.2], rtol=1e-10, atol=1e-12)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("f", [lambda x: jnp.sum(jnp.sin(FLOW(x).x[-1])), lambda x: dln.distance(x, X + DX, 3)])
def test_loop_of_a_flow_or_a_distance_has_its_second_derivative(f):
    # JAX raised an error about a scan without values, or of an axis of `vmap`.
    f = loop(step(f))
    at, h = jax.jit(f), 1e-3
    expected = (at(h) - 2 * at(0.0) + at(-h)) / h**2
    assert_close(jax.jit(jax.hessian(f))(0.0), expected, 1e-4)


def test_derivative_of_a_derivative_of_a_distance():
    f = lambda c: dln.distance(X + c * DX, X + DX, 3)
    h = 1e-3
    expected = (f(h) - 2 * f(0.0) + f(-h)) / h**2
    assert_close(jax.grad(jax.grad(f))(0.0), expected, 1e-4)


def test_refused_derivative_is_refused_in_a_loop():
    # The first derivative leaves the number alone.
    step = lambda c, _: ((c[0] * without_derivative(c[1], "no derivative"), jnp.sin(c[1])), None)
    loop = lambda x, s: jax.lax.scan(step, (x, s), None, length=2)[0][0]
    with pytest.raises(TypeError, match="no derivative"):
        jax.grad(lambda s: jax.grad(loop)(1.0, s))(1.0)


def test_batch_inside_of_a_program_that_is_differentiated():
    # `jax.custom_jvp` mixes up the axes of the batch where the rule returns another than the function.
    kernel = as_kernel(3, X.dtype)
    apply = jax.jit(lambda x: apply_metric_operator(x, DX, kernel))
    along = lambda x: jax.vmap(lambda t: jax.jvp(lambda c: apply(x + c * DX), (0.0,), (t,))[1])(jnp.ones(2))
    second = lambda x: jax.jvp(along, (x,), (DX,))[1]
    one = jax.jvp(lambda x: jax.jvp(lambda c: apply(x + c * DX), (0.0,), (1.0,))[1], (X,), (DX,))[1]
    assert_close(second(X), jnp.stack([one, one]), ALGEBRA)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_rule_is_that_of_each_row_of_a_batch(axes):
    @custom_jvp
    def added(x, y):
        return x + y

    # It is not the derivative of the function, so that it shows which of the two is taken.
    @added.defjvp
    def rule(primals, tangents):
        return added(*primals), 2 * tangents[0] * primals[1] + tangents[1]

    rows = jnp.arange(1.0, 4.0)
    x, y = (5.0 if axis is None else rows for axis in axes)
    slopes = jax.jit(jax.vmap(jax.grad(lambda x, y: added(x, y) ** 2), in_axes=axes))(x, y)
    assert_close(slopes, jnp.broadcast_to(2 * (x + y) * 2 * y, (3,)), ALGEBRA)


TRACED = []


@filter_custom_jvp
def power_of(x, power):
    TRACED.append(power() if callable(power) else power)
    return x ** TRACED[-1]


@power_of.def_jvp
def power_rule(primals, tangents):
    (x, power), (dx, _) = primals, tangents
    TRACED.append("rule")
    exponent = power() if callable(power) else power
    return power_of(x, power), exponent * x ** (exponent - 1) * dx


def test_equal_calls_are_traced_once():
    TRACED.clear()
    # For Python 2 and 2.0 are equal, but not for JAX.
    f = lambda x: power_of(x, 2) + power_of(2 * x, 2) + power_of(x, 2.0) + power_of(3 * x, 2)
    assert_close(jax.jit(f)(3.0), 9 + 36 + 9 + 81, ALGEBRA)
    assert TRACED == [2, 2.0] and list(map(type, TRACED)) == [int, float]
    TRACED.clear()
    slope = jax.jit(jax.vmap(jax.grad(lambda x: jax.jit(f)(x))))
    assert_close(slope(jnp.ones(2)), 2 + 8 + 2 + 18 + jnp.zeros(2), ALGEBRA)
    assert TRACED.count("rule") == 2


def test_a_call_that_takes_a_function_is_traced_anew():
    number = 2
    f = lambda x: power_of(x, lambda: number)
    assert_close(jax.jit(lambda x: f(x))(3.0), 9.0, ALGEBRA)
    number = 3
    assert_close(jax.jit(lambda x: f(x))(3.0), 27.0, ALGEBRA)
    # The same function, whose number has changed.
    read = lambda: number
    assert_close(jax.jit(lambda x: power_of(x, read))(2.0), 8.0, ALGEBRA)
    number = 4
    assert_close(jax.jit(lambda x: power_of(x, read))(2.0), 16.0, ALGEBRA)
    assert_close(jax.jit(lambda x: jax.grad(power_of)(x, read))(2.0), 32.0, ALGEBRA)
    number = 2
    assert_close(jax.jit(lambda x: jax.grad(power_of)(x, read))(2.0), 4.0, ALGEBRA)
