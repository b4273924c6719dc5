"""Checks at the door: what was received, what was expected, what to do.

A concrete value is checked in Python, before anything runs; a traced one where it is known, through `eqx.error_if`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def require(x: Array, bad, message: str) -> Array:
    """`x`, if not `bad`; otherwise a `ValueError` with `message`, at once where `bad` is known, or when it is."""
    if not is_concrete(bad):
        return eqx.error_if(x, bad, message)
    if np.any(np.asarray(bad)):
        raise ValueError(message)
    return x


def as_array(name: str, x: Any, hint: str = "") -> Array:
    try:
        if x is None or isinstance(x, str):
            raise TypeError
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        if isinstance(x, (list, tuple)):
            hint = "Are all its entries numbers, and its rows of one length?"
        raise TypeError(f"{name} must be an array of numbers, got {type(x).__name__}. {hint}".rstrip()) from error


def as_real(name: str, x: Any, hint: str = "") -> Array:
    """`x` as a floating-point array, integers converted."""
    x = as_array(name, x, hint)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} must be real numbers, got {x.dtype}. {hint}".rstrip())
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))


def as_float(name: str, x: Any) -> Array:
    """`x` as a floating-point array; integers are refused where they would silently change the meaning."""
    x = as_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        kind = "complex" if jnp.issubdtype(x.dtype, jnp.complexfloating) else str(x.dtype)
        raise TypeError(f"{name} must be real floating point, got {kind}. Convert it: {name}.astype(float).")
    return x


def as_square(name: str, x: Any, leading: bool = False) -> Array:
    """A real square matrix, or with `leading` any stack of them."""
    x = as_float(name, x)
    if x.ndim < 2 or (x.ndim > 2 and not leading) or x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        expected = "(..., d, d)" if leading else "(d, d)"
        hint = " For many starts at once use dlnjax.sweep or jax.vmap." if x.ndim == 3 and not leading else ""
        raise ValueError(f"{name} must be a square matrix of shape {expected}, got shape {x.shape}.{hint}")
    return x


def require_finite(name: str, x: Array) -> Array:
    return require(x, ~jnp.all(jnp.isfinite(x)), f"{name} must be finite, got NaN or infinity.")


def as_finite(name: str, x: Array) -> Array:
    """`x`, if it is finite or traced: of what is traced, NaN comes out as NaN."""
    return require_finite(name, x) if is_concrete(x) else x


def broadcast(names: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError as error:
        shown = " and ".join(map(str, shapes))
        raise ValueError(f"{names} must agree in the axis of seeds, got {shown} in front.") from error


def as_depth(depth: Any, many: str = "") -> Array:
    """The depth N in [1, inf], as a float array: a single one, if `many` says what to do otherwise."""
    if isinstance(depth, (bool, str, dict)) or depth is None:
        raise TypeError(f"depth must be a number in [1, inf], got {depth!r}.")
    depth = as_real("depth", depth, "It is a number in [1, inf].")
    if many and depth.ndim:
        raise ValueError(f"depth must be one number, got shape {depth.shape}. For many use {many}.")
    shown = f", got {depth}" if is_concrete(depth) else ""
    message = f"depth must be a number N with 1 <= N <= inf{shown}. Infinite depth is depth=jnp.inf."
    return require(depth, ~jnp.all(depth >= 1), message)


def as_positive(name: str, value: Any, hint: str = "", finite: bool = True, many: bool = False) -> Array:
    """A number above 0, by default a finite one; with `many` any number of them."""
    if isinstance(value, (bool, str)) or value is None:
        raise TypeError(f"{name} must be a number above 0, got {value!r}.")
    value = as_real(name, value, hint)
    if value.ndim and not many:
        raise ValueError(f"{name} must be one number, got shape {value.shape}. {hint}".rstrip())
    shown = f", got {value}" if is_concrete(value) else ""
    message = f"{name} must be a {'finite ' * finite}number above 0{shown}. {hint}".rstrip()
    return require(value, ~jnp.all((value > 0) & (jnp.isfinite(value) | (not finite))), message)


def as_count(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if not np.isfinite(value) or value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    return int(value)


def as_spectrum(sigma: Any, *, positive: bool = False, nonzero: bool = False) -> Array:
    """Singular values: nonnegative, with the axis of modes last."""
    sigma = as_real("sigma", sigma, "Singular values come from dlnjax.svd(x).sigma.")
    if sigma.ndim == 0 or sigma.shape[-1] == 0:
        raise ValueError(f"sigma must be singular values of shape (..., d), got shape {sigma.shape}.")
    if not is_concrete(sigma):
        return sigma
    values = np.asarray(sigma)
    if not np.all(values >= 0) or np.any(np.isinf(values)):
        raise ValueError(
            f"sigma must be finite and nonnegative, got entries from {values.min():g} to {values.max():g}. "
            "Singular values come from dlnjax.svd(x).sigma."
        )
    if positive and np.any(values == 0):
        raise ValueError("sigma must be positive: the entropy has no gradient at a singular matrix.")
    # XLA takes subnormal numbers for zero.
    if nonzero and np.any(np.all(values < np.finfo(values.dtype).tiny, axis=-1)):
        raise ValueError("sigma is all zero: the zero matrix has no effective or stable rank.")
    return sigma


def as_times(ts: Any) -> Array:
    """At least two strictly increasing, finite times; the first is the time of the start."""
    ts = as_real("ts", ts, "It is a list of times such as [0.0, 10.0].")
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(
            f"ts must hold at least two times, the first being that of x0, got shape {ts.shape}. "
            "For the end alone pass ts=[0., t_end]."
        )
    bad = ~(jnp.all(jnp.isfinite(ts)) & jnp.all(ts[1:] > ts[:-1]))
    shown = f", got {np.array2string(np.asarray(ts), threshold=6)}" if is_concrete(ts) else ""
    return require(ts, bad, f"ts must be finite and strictly increasing{shown}. Sort it and remove repeated times.")


def as_path(name: str, path: Any) -> Path:
    try:
        return Path(path)
    except TypeError as error:
        raise TypeError(f"{name} must be a path, a str or os.PathLike, got {type(path).__name__}.") from error


def as_key(key: Any) -> Any:
    """A key of either kind of `jax.random`."""
    kind = getattr(key, "dtype", None)
    if kind is None or not (jnp.issubdtype(kind, jax.dtypes.prng_key) or kind == jnp.uint32):
        raise TypeError(f"key must be a key such as jax.random.key(0), got {type(key).__name__}.")
    return key


def shape_of(name: str, f: Callable, argument: Any) -> Any:
    """What `f` returns, without computing it."""
    if isinstance(f, type) or not callable(f):
        shown = f"the class {f.__name__}: make one of it first" if isinstance(f, type) else type(f).__name__
        raise TypeError(f"{name} must be a callable that returns arrays, got {shown}.")
    try:
        return jax.eval_shape(f, argument)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            f"{name} must be written with jax.numpy, so that JAX can trace it: no NumPy, no float(), no `if` on the "
            f"values of its argument. JAX says: {str(error).splitlines()[0]}"
        ) from error
    except TypeError as error:
        raise TypeError(f"{name} must take one argument and return arrays: {str(error).splitlines()[0]}.") from error


def check_energy(energy: Any, d: int, dtype: Any, hint: str = "Does it need a jnp.sum?") -> None:
    """A differentiable callable from a matrix to a scalar."""
    if not callable(energy):
        raise TypeError(f"energy must be a callable X -> scalar, got {type(energy).__name__}.")
    out = shape_of("energy", energy, jax.ShapeDtypeStruct((d, d), dtype))
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        shown = ", ".join(f"{x.dtype}{list(x.shape)}" for x in leaves) or "nothing"
        raise ValueError(f"energy must return one real scalar for a {d} x {d} matrix, got {shown}. {hint}")
