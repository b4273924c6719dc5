"""Every kind of public call under the strict flags of JAX, with which diffrax runs its own tests."""

import jax
import jax.numpy as jnp
import pytest

import dlnjax as dln

ENERGY = dln.MatrixCompletion(jnp.eye(2), jnp.eye(2, dtype=bool))
A, B = jnp.array([[0.5, 0.1], [0.0, 0.4]]), jnp.array([[0.7, 0.2], [-0.1, 0.9]])
TS = [0.0, 1.0, 5.0]
FLAGS = {
    "dtype_promotion": ("jax_numpy_dtype_promotion", "strict"),
    "rank_promotion": ("jax_numpy_rank_promotion", "raise"),
    "debug_nans": ("jax_debug_nans", True),
}
CALLS = {
    "flow": lambda: repr(dln.gradient_flow(ENERGY, A, ts=TS)),
    "stop": lambda: dln.gradient_flow(ENERGY, A, depth=3, ts=TS, stop=dln.Steady(1e-4)).effective_rank,
    "free energy": lambda: dln.gradient_flow(dln.FreeEnergy(dln.Schatten(2), beta=2), A, depth=2, ts=TS).x,
    "derivative": lambda: jax.grad(lambda x: dln.gradient_flow(ENERGY, x, depth=3.0, ts=TS).sigma[-1, 0])(A),
    "sweep": lambda: dln.sweep(ENERGY, jnp.stack([A, B, A]), depth=3, ts=TS, progress=False).to_xarray(),
    "distance": lambda: jax.value_and_grad(dln.distance)(A, B, 3),
    "exponential": lambda: dln.exponential(A, B, 3, throw=False).x,
    "metric": lambda: jax.hessian(lambda x: dln.inner(x, B, B, 3))(A),
    "network": lambda: dln.network_flow(ENERGY, dln.balanced_factors(A, 3), ts=TS).x,
}


@pytest.fixture(params=FLAGS)
def strict(request):
    flag, value = FLAGS[request.param]
    before = getattr(jax.config, flag)
    jax.config.update(flag, value)
    yield
    jax.config.update(flag, before)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_call_runs_under_the_strict_flags(strict, call):
    assert CALLS[call]() is not None
