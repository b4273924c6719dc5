"""The settings of JAX by which the numbers of a sweep differ, for the threads and processes that work for the caller.

A thread begins with the settings of the process, and not with those of the thread that has started it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, ExitStack
from typing import Any

import jax

_CONTEXTS: dict[str, Any] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_threefry_partitionable": jax.threefry_partitionable,
    "jax_default_prng_impl": jax.default_prng_impl,
}


def settings() -> dict[str, Any]:
    """Those of this thread, as plain values."""
    return {name: getattr(jax.config, name) for name in _CONTEXTS}


@contextmanager
def under(these: dict[str, Any]) -> Iterator[None]:
    """Let these settings hold in this thread."""
    with ExitStack() as stack:
        for name, value in these.items():
            stack.enter_context(_CONTEXTS[name](value))
        yield
