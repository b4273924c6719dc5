"""How the library compiles its programs: `eqx.filter_jit`, with options of XLA that shorten a first call.

Nearly all of a first call is compilation, and most of that is spent on machine code that runs no faster for it.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np

from dlnjax._checks import is_concrete

# On a CPU these halve the compilation of a flow and change its results by rounding. The level 0 would halve it again,
# but the programs then run three to six times longer.
QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as a program of its own, compiled with the options above where JAX takes options.

    JAX refuses options inside of `jax.jit` and `jax.grad`, where `f` becomes a part of the caller's program.
    """
    plain, quick = eqx.filter_jit(f), eqx.filter_jit(f, compiler_options=QUICK)  # pyright: ignore[reportCallIssue]

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        alone = all(map(_is_value, jax.tree.leaves((args, kwargs)))) and not _inside_of_jit()
        return (quick if alone and _takes_options() else plain)(*args, **kwargs)

    return call


def runs_at_once(*trees: Any) -> bool:
    """Whether a program of these arguments runs when it is called, so that Python may look at what comes out."""
    return all(map(is_concrete, jax.tree.leaves(trees))) and not _inside_of_jit()


def _inside_of_jit() -> bool:
    # Inside of `jit` a new array is traced even where no value that was given is.
    return not is_concrete(jax.device_put(np.zeros(())))


def _is_value(x: Any) -> bool:
    """Whether an operation on `x` runs at once: on what is concrete, or a batch of that under `jax.vmap`.

    JAX has no public name for the tracer of a batch. Where it has another one, the options are left out.
    """
    return is_concrete(x) or (type(x).__name__ == "BatchTracer" and _is_value(x.val))


@functools.cache
def _takes_options() -> bool:
    """Whether this backend has these options: their names belong to a version of XLA."""
    if jax.default_backend() != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=QUICK).lower(0.0).compile()
    except Exception:
        return False
    return True
