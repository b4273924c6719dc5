"""How the library compiles its programs: `eqx.filter_jit`, with options of XLA that shorten a first call.

Nearly all of a first call is compilation, and most of that is spent on machine code that runs no faster for it.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_path, is_concrete
from dlnjax._terminal import waiting_for

# On a CPU these halve the compilation of a flow and change its results by rounding. The level 0 would halve it again,
# but the programs then run three to six times longer.
QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}

# Programs are made for these numbers of times, as long as no more entries than that are saved at all of them.
_LENGTHS = (32, 256, 2048)
_MOST_ENTRIES = 4_000_000


def compiled(f: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    """`f` as a program of its own, compiled with the options above, and `more`, where JAX takes options.

    JAX refuses options inside of `jax.jit` and `jax.grad`, where `f` becomes a part of the caller's program.
    """
    plain, quick = eqx.filter_jit(f), eqx.filter_jit(f, compiler_options=QUICK | more)  # pyright: ignore[reportCallIssue]

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not all(map(_is_value, jax.tree.leaves((args, kwargs)))) or _inside_of_jit():
            return plain(*args, **kwargs)
        # The call returns once the program is compiled and under way.
        with waiting_for("compiling, once for these shapes"):
            return (quick if _takes_options(jax.default_backend()) else plain)(*args, **kwargs)

    return call


def with_more_times(ts: Float[Array, " ts"], size: int) -> Float[Array, " more"]:
    """`ts` with the last time repeated up to one of a few lengths, so that one program serves many lengths.

    `size` is the number of entries that are saved at each time. A flow ends where it reaches the last time first.
    """
    if not runs_at_once(ts):
        return ts
    length = next((n for n in _LENGTHS if len(ts) <= n and n * size <= _MOST_ENTRIES), len(ts))
    return jax.device_put(np.append(ts, np.full(length - len(ts), ts[-1])))


def first_times(tree: Any, ts: Float[Array, " ts"]) -> Any:
    """Of what has been saved at each time, what belongs to `ts`, before the repetitions."""
    n = len(ts)
    # In NumPy, which compiles nothing for a new length.
    cut = lambda x: jax.device_put(np.asarray(x)[:n]) if is_concrete(x) else x[:n]
    return jax.tree.map(lambda x: x if len(x) == n else cut(x), tree)


def cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs in a folder, where the next session finds them: its first calls take a third or less.

    It sets JAX's persistent compilation cache for this process, for all programs and not those of this library alone.
    The command line does so by itself. To empty the cache, delete the folder.

    **Arguments:** `folder`, by default `~/.cache/dlnjax`, or `dlnjax` in the folder that XDG_CACHE_HOME names. Where
    the environment variable JAX_COMPILATION_CACHE_DIR is set, the default is what it says.

    **Returns:** the folder.

    **Raises:** `TypeError` for what is no path; `ValueError` for a folder that cannot be made or written to.

    **Example:**

        >>> import tempfile
        >>> folder = dln.cache(tempfile.mkdtemp())
        >>> folder.is_dir()
        True
    """
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlnjax"
    path = as_path("folder", os.environ.get("JAX_COMPILATION_CACHE_DIR") or home if folder is None else folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder must be one that can be made, got {path}: {error.strerror or error}.") from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"folder must be one that can be written to, got {path}.")
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    # JAX looks at the folder at the first compilation, and not again.
    reset_cache()
    return path


def runs_at_once(*trees: Any) -> bool:
    """Whether a program of these arguments runs when it is called, so that Python may look at what comes out."""
    return all(map(is_concrete, jax.tree.leaves(trees))) and not _inside_of_jit()


def _inside_of_jit() -> bool:
    # Inside of `jit` a new array is traced even where no value that was given is.
    return not is_concrete(jax.device_put(np.zeros(())))


def _is_value(x: Any) -> bool:
    """Whether `x` is concrete, or a batch of concrete values under `jax.vmap`.

    JAX has no public name for the tracer of a batch. If a version of JAX has another name for it, this is False for a
    batch, which then compiles without the options.
    """
    return is_concrete(x) or (type(x).__name__ == "BatchTracer" and _is_value(x.val))


@functools.cache
def _takes_options(backend: str) -> bool:
    """Whether this backend has these options: their names belong to a version of XLA."""
    if backend != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=QUICK).lower(0.0).compile()
    except Exception:
        return False
    return True
