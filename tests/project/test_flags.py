"""Every kind of public call under the flags of JAX: the strict ones of diffrax's own tests, float32, and no `jit`."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tolerances import INTEGRATION

import dlnjax as dln

# In NumPy: an array of JAX keeps the precision that was set when it was made.
ENDS = np.array([[[0.5, 0.1], [0.0, 0.4]], [[0.7, 0.2], [-0.1, 0.9]]])
TS = [0.0, 1.0, 5.0]
# What float32 can keep.
RTOL = 1e-5
# Each raises an error where it finds something, so that a call passes under all of them if it passes under each.
STRICT = {"jax_numpy_dtype_promotion": "strict", "jax_numpy_rank_promotion": "raise", "jax_debug_nans": True}


def run(call):
    return CALLS[call](*map(jnp.asarray, ENDS))


def energy():
    return dln.MatrixCompletion(jnp.eye(2), jnp.eye(2, dtype=bool))


def flow(x0, **options):
    return dln.gradient_flow(energy(), x0, ts=TS, rtol=RTOL, **options)


CALLS = {
    "flow": lambda a, b: repr(flow(a)),
    "stop": lambda a, b: flow(a, depth=3, stop=dln.Steady(1e-4)).effective_rank,
    "matrix flow": lambda a, b: flow(a, depth=3, coordinates="matrix").sigma,
    "free energy": lambda a, b: (
        dln.gradient_flow(dln.FreeEnergy(dln.Schatten(2), beta=2), a, depth=2, ts=TS, rtol=RTOL).x
    ),
    "derivative": lambda a, b: jax.grad(lambda x: flow(x, depth=3.0).sigma[-1, 0])(a),
    "sweep": lambda a, b: dln.sweep(
        energy(), jnp.stack([a, b, a]), depth=3, ts=TS, rtol=RTOL, progress=False
    ).to_xarray(),
    "distance": lambda a, b: jax.value_and_grad(dln.distance)(a, b, 3),
    "exponential": lambda a, b: dln.exponential(a, b, 3, rtol=RTOL, throw=False).x,
    "metric": lambda a, b: jax.hessian(lambda x: dln.inner(x, b, b, 3))(a),
    "network": lambda a, b: dln.network_flow(energy(), dln.balanced_factors(a, 3), ts=TS, rtol=RTOL).x,
    "balance": lambda a, b: dln.balance(jnp.stack([a, b])),
    "training": lambda a, b: dln.train(energy(), dln.balanced_factors(a, 3), optax.sgd(0.1), 3).weights,
    "spectrum": lambda a, b: (dln.entropy_gradient(a[0], 3), dln.effective_rank(a[0]), dln.schatten_norm(a[0], 3)),
}
# What takes less than a minute without compilation. The rest is of the same parts.
WITHOUT_JIT = ("matrix flow", "exponential", "network", "balance", "training", "spectrum")


@pytest.fixture
def use():
    """Sets flags of JAX, and puts them back."""
    before = {}

    def use(flag, value):
        before[flag] = getattr(jax.config, flag)
        jax.config.update(flag, value)

    yield use
    for flag, value in before.items():
        jax.config.update(flag, value)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_call_runs_under_the_strict_flags(use, call):
    for flag, value in STRICT.items():
        use(flag, value)
    assert run(call) is not None


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_call_runs_in_float32(use, call):
    use("jax_enable_x64", False)
    if call == "distance":
        with pytest.raises(TypeError, match="a and b must be float64"):
            run(call)
        return
    out = run(call)
    arrays = list(out.data_vars.values()) if call == "sweep" else jax.tree.leaves(out)
    floats = [x for x in arrays if getattr(x, "dtype", np.dtype(int)).kind == "f"]
    assert all(x.dtype == np.float32 and np.isfinite(x).all() for x in floats)
    assert floats or call == "flow"


@pytest.mark.long
@pytest.mark.parametrize("call", WITHOUT_JIT)
def test_call_runs_without_compilation(use, call):
    compiled = run(call)
    use("jax_disable_jit", True)
    for x, y in zip(jax.tree.leaves(run(call)), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(x, y, rtol=INTEGRATION)


LEAKS = """
import jax, jax.numpy as jnp, dlnjax as dln
a, b = jnp.array([[0.5, 0.1], [0.0, 0.4]]), jnp.array([[0.7, 0.2], [-0.1, 0.9]])
with jax.checking_leaks():
    print(dln.distance(a, b, 3), dln.exponential(a, b / 5, 3).x[-1])
"""


@pytest.mark.long
def test_a_search_for_leaked_tracers_finds_none_in_geodesics():
    # In a process of its own: the checks of annotations, which the other tests have, keep tracers themselves.
    environment = os.environ | {"JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, "-c", LEAKS], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
