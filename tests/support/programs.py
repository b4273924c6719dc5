"""How many programs were made while something ran, as JAX counts them when it lowers one."""

from contextlib import contextmanager

import jax

# Those of one flow: its beginning, each turn of a method, and its conclusion.
FLOW_PROGRAMS = {"jit(_begin)", "jit(_turn)", "jit(_conclude)"}
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_names: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **about: _names.append(about.get("fun_name", "")) if event == _LOWERED else None
)


@contextmanager
def lowered():
    """A list of the names of the programs that are made in the block, filled at its end."""
    first, found = len(_names), []
    yield found
    found.extend(_names[first:])
