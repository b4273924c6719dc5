"""How the library compiles its programs: `eqx.filter_jit`, with options of XLA that shorten a first call.

Compilation takes nearly all the time of a first call. Most of this time is spent on optimisations that do not make the
programs of this library faster.
"""

import functools
import gc
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.monitoring
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_path, inside_of_jit, is_concrete
from dlnjax._custom_jvp import is_value
from dlnjax._terminal import say, waiting_for
from dlnjax._tree import own_arithmetic


def unless_named(flags: str, **options: Any) -> dict[str, Any]:
    """The `options` of XLA without those that `flags`, the text of XLA_FLAGS, names: there the user has chosen."""
    named = {flag.partition("=")[0].removeprefix("--") for flag in flags.split()}
    return {option: value for option, value in options.items() if option not in named}


# On a CPU these halve the compilation of a flow and change its results by rounding. The level 0 would halve it again,
# but the programs then run three to six times longer.
QUICK = unless_named(
    os.environ.get("XLA_FLAGS", ""), xla_backend_optimization_level=1, xla_cpu_use_fusion_emitters=False
)

# Programs are compiled for these numbers of saved times, and from the last on for powers of two, unless more than this
# many entries would be saved.
_LENGTHS = (32, 256, 2048)
_MOST_ENTRIES = 8_000_000


def compiled(f: Callable[..., Any], donate: Any = "none", **more: Any) -> Callable[..., Any]:
    """`f` as a program of its own, compiled with the options `QUICK` and `more`. `donate` is that of `eqx.filter_jit`.

    Inside of `jax.jit`, and of `jax.grad` and other reverse modes, `f` becomes a part of another program. JAX refuses
    options there, so that they are left out. As of what `jax.jit` returns, `lower(*args).compile()` of the program
    compiles it and does not run it.
    """

    # Each is made at its first call. All of them together would take a tenth of the time of `import dlnjax`.
    plain = functools.cache(lambda: eqx.filter_jit(_saying(f), donate=donate))
    quick = functools.cache(
        lambda: eqx.filter_jit(_saying(f), donate=donate, compiler_options=QUICK | more)  # pyright: ignore[reportCallIssue]
    )
    best: Callable[[], Any] = lambda: quick() if _takes_options(jax.default_backend()) else plain()

    @functools.wraps(f)
    @_little_garbage()
    def call(*args: Any, **kwargs: Any) -> Any:
        if not all(map(_is_at_hand, jax.tree.leaves((args, kwargs)))) or inside_of_jit():
            return plain()(*args, **kwargs)
        with waiting_for("running") as shown:
            try:
                out = best()(*args, **kwargs)
            except ValueError as error:
                # A tracer may hide where no leaf is, as in a function of an optimiser: JAX then refuses the options.
                if "compiler_options" not in str(error):
                    raise
                return plain()(*args, **kwargs)
            # The call may return before the program has ended.
            if shown:
                jax.block_until_ready([x for x in jax.tree.leaves(out) if is_concrete(x)])
            return out

    vars(call)["lower"] = _little_garbage()(lambda *args: best().lower(*args))
    return call


def _is_at_hand(x: Any) -> bool:
    """Whether `x` is a value, or in forward mode a value with a tangent that is one."""
    # JAX has no public name for this tracer either.
    forwards = type(x).__name__ == "JVPTracer"
    return is_value(x) or (forwards and all(map(_is_at_hand, jax.tree.leaves((x.primal, x.tangent)))))


def _saying(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` in the arithmetic of the library, which says that it is compiled.

    JAX calls it to trace it, and does not call it where it has a program.
    """

    @functools.wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        say("compiling, once for these shapes")
        with own_arithmetic():
            return f(*args, **kwargs)

    # Equinox looks at `__wrapped__`, and warns of what `jax.vmap` has made. The signature takes its place.
    vars(call)["__signature__"] = inspect.signature(f)
    del vars(call)["__wrapped__"]
    return call


def _heard(event: str, duration_secs: float, **_: Any) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        say(None)


# JAX tells of this event when it has compiled a program, or has found it in its cache.
jax.monitoring.register_event_duration_secs_listener(_heard)


def with_more_times(ts: Float[Array, " ts"], size: int) -> Float[Array, " more"]:
    """`ts` with the last time repeated up to one of a few lengths, so that one program serves many lengths.

    `size` is the number of entries that are saved at each time. The repeated times cost no steps: a flow ends when it
    first reaches the last time.
    """
    if not runs_at_once(ts):
        return ts
    length = next((n for n in _LENGTHS if len(ts) <= n), power_of_two_from(len(ts)))
    return repeated(ts, length if length * size <= _MOST_ENTRIES else len(ts))


def repeated(ts: Float[Array, " ts"], length: int) -> Float[Array, " length"]:
    """`ts` with the last time repeated, up to this length."""
    # NumPy looks the last time up, as JAX would compile a program for it.
    return jax.device_put(np.append(ts, np.full(length - len(ts), np.asarray(ts)[-1])))


def power_of_two_from(n: int) -> int:
    """The least power of two that is at least `n`."""
    return 2 ** (n - 1).bit_length()


def first_times(tree: Any, ts: Float[Array, " ts"]) -> Any:
    """What was saved at the times `ts`, without what was saved at the repeated times after them."""
    n = len(ts)
    if all(len(x) == n for x in jax.tree.leaves(tree)):
        return tree
    values, traced = eqx.partition(tree, is_concrete)
    # NumPy cuts the arrays, since JAX would compile a program for each new length.
    values = jax.tree.map(lambda x: jax.device_put(np.asarray(x)[:n]), values)
    return eqx.combine(values, _cut(traced, n) if jax.tree.leaves(traced) else traced)


@eqx.filter_jit
def _cut(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x[:n], tree)


def cache(folder: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs in a folder, where the next session finds them: its first calls take a third or less.

    This function sets JAX's persistent compilation cache for this process. The cache then holds all programs, not only
    those of this library. The command line calls this function by itself. To empty the cache, delete the folder.

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
    # JAX reads the setting at the first compilation only. After a reset it reads the setting again.
    reset_cache()
    return path


def runs_at_once(*trees: Any) -> bool:
    """Whether a program of these arguments runs when it is called, so that Python can use the numbers it returns."""
    return all(map(is_concrete, jax.tree.leaves(trees))) and not inside_of_jit()


# How often Python looks for garbage while a program is traced, as arguments of `gc.set_threshold`.
SELDOM = (200_000, 20, 100)
_tracing, _lock = [], threading.Lock()


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Let Python look for garbage seldom, as long as any thread is in here.

    JAX makes so many objects while it traces that Python searches them for garbage again and again. This search takes a
    sixth of the time of a first call whose programs are in the cache, and finds next to nothing.
    """
    with _lock:
        before = gc.get_threshold()
        _tracing.append(before)
        if 0 < before[0] < SELDOM[0]:  # 0 means never
            gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        with _lock:
            first = _tracing[0]
            _tracing.pop()
            if not _tracing:
                gc.set_threshold(*first)


@functools.cache
def _takes_options(backend: str) -> bool:
    """Whether this backend takes the options `QUICK`. Another version of XLA may have other names for them."""
    if backend != "cpu":
        return False
    try:
        jax.jit(lambda x: x, compiler_options=QUICK).lower(0.0).compile()
    except Exception:
        return False
    return True
