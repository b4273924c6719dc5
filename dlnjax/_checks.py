"""The checks of what a user gives to a public function. Their errors say what was received, expected, and to be done.

A concrete value is checked in Python, before anything runs. A traced value is checked when the program runs, by
`error_if`.
"""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dlnjax._custom_jvp import inside_of_jit, is_concrete
from dlnjax._lapack import sign_of_determinant
from dlnjax._tree import nan_unless

Tree = TypeVar("Tree")


def known(x: Any) -> Any:
    """`x` as a NumPy array if it is concrete, and unchanged if it is traced.

    A condition that uses only operators and methods then works for both. With an array of JAX, each operation would be
    traced inside of `jax.jit`, and would compile a program of its own outside.
    """
    return np.asarray(x) if is_concrete(x) else x


def require(x: Tree, bad: Any, message: str) -> Tree:
    """`x`, or an error with `message` if `bad` is true.

    A concrete `bad` raises a `ValueError` at once. A traced `bad` raises a `RuntimeError` when the program runs.
    """
    if not is_concrete(bad):
        return error_if(x, bad, 0, [message])
    if np.any(np.asarray(bad)):
        raise ValueError(message)
    return x


class _Sentences(tuple[str, ...]):
    """Sentences that are printed when they are looked up. Equinox looks a sentence up at the moment of the error.

    Inside of plain `jax.jit` the user gets an error of JAX, in which the sentence stands below the traceback of a
    callback: jax-ml/jax#26102. The sentence is therefore also written to stderr, where it stands first.
    """

    def __getitem__(self, index: Any) -> Any:
        sentence = super().__getitem__(index)
        print(f"dlnjax: {sentence}", file=sys.stderr, flush=True)
        return sentence


def error_if(tree: Tree, failed: Any, index: Any, sentences: Sequence[str]) -> Tree:
    """`tree`, or a `RuntimeError` with `sentences[index]` where the traced `failed` turns out to be true."""
    return eqx.branched_error_if(tree, failed, index, _Sentences(sentences))


def refuse_tracing(what: str, values: Any, instead: str) -> None:
    """A `TypeError` inside of `jax.jit`, `jax.grad` or `jax.vmap`, for a function that cannot be traced."""
    if inside_of_jit() or not all(map(is_concrete, jax.tree.leaves(values))):
        raise TypeError(f"{what} cannot be traced by jax.jit, jax.grad or jax.vmap. Use {instead} there.")


def require_known(what: str, values: Any) -> None:
    """A `TypeError` if one of the values is traced, for a function that needs the numbers themselves."""
    if not all(map(is_concrete, jax.tree.leaves(values))):
        raise TypeError(
            f"{what} needs numbers, and inside of jax.jit, jax.grad or jax.vmap there are none: do it outside."
        )


def as_array(name: str, x: Any, hint: str = "") -> Array:
    """`x` as an array of JAX, in the byte order of the machine. It is concrete if `x` is, also inside of `jax.jit`."""
    try:
        if x is None or isinstance(x, str):
            raise TypeError
        leaves = jax.tree.leaves(x)
        if any(isinstance(z, np.ma.MaskedArray) for z in leaves):
            raise TypeError(
                f"{name} must be an array without a mask, got a masked array of NumPy, whose hidden entries would "
                "count. Put numbers in their place by .filled, or pass .data. To leave entries out of a fit, use "
                "MatrixCompletion."
            )
        if not all(map(is_concrete, leaves)):
            return jnp.asarray(x)
        if isinstance(x, (list, tuple)) and np.asarray(x).dtype.kind in "biuf":
            x = np.asarray(x)
        # Without this context, an array of JAX made from a NumPy array inside of `jit` would be traced.
        with jax.ensure_compile_time_eval():
            if isinstance(x, (np.ndarray, np.generic)):
                # `jnp.asarray` would compile a program for each new shape, only to copy the array.
                return jax.device_put(_known_to_jax(name, np.asarray(x), hint))
            # The same holds for a number of Python.
            return jax.device_put(x) if isinstance(x, (int, float, complex)) else jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        if str(error).startswith(name):
            raise
        if isinstance(error, OverflowError):
            hint = f"An entry is too large for an integer: write it as a floating-point number. {hint}"
        elif len(getattr(x, "_fields", ())) == 3:
            hint = "Of an SVD by NumPy make the one of this library, dlnjax.svd(matrix)."
        elif isinstance(x, (list, tuple)):
            hint = "Are all its entries numbers, and its rows of one length?"
        elif hasattr(x, "matrix") and not hint:
            hint = f"Pass its matrix, {name}.matrix."
        raise TypeError(f"{name} must be an array of numbers, got {type(x).__name__}. {hint}".rstrip()) from error


def _known_to_jax(name: str, x: np.ndarray, hint: str) -> np.ndarray:
    """`x` in the byte order of the machine, which JAX needs. Arrays from files such as netCDF may have the other one.

    An array whose type JAX does not have is refused.
    """
    longest = 16 if x.dtype.kind == "c" else 8
    # The kind "V" has the key types and the short floats of ml_dtypes, which JAX has and NumPy has not.
    if x.dtype.kind != "V" and (x.dtype.kind not in "biufc" or x.dtype.itemsize > longest):
        hint = _conversion(name, x) if x.dtype.kind in "fcO" else hint
        raise TypeError(f"{name} must be an array of numbers that JAX has, got {x.dtype}. {hint}".rstrip())
    if x.dtype.kind in "iu" and x.size:
        # Where float64 is switched off, JAX has integers of 32 bits, and would cut longer integers silently.
        kept = np.iinfo(jax.dtypes.canonicalize_dtype(x.dtype))
        if x.min() < kept.min or x.max() > kept.max:
            raise OverflowError
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def as_real(name: str, x: Any, hint: str = "") -> Array:
    """`x` as a floating-point array. Integers are converted, and floats narrower than float32 are widened."""
    if isinstance(x, int) and not isinstance(x, bool):
        # An integer of Python may be too large for an integer of JAX. The depth 10**20 is one.
        x = float(x) if abs(x) < 2**1023 else x
    x = as_array(name, x, hint)
    if not (jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)):
        raise TypeError(f"{name} must be real numbers, got {x.dtype}. {hint}".rstrip())
    wide = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32
    dtype = x.dtype if wide else jax.dtypes.canonicalize_dtype(float)
    if not is_concrete(x):
        return x.astype(dtype)
    return as_array(name, np.asarray(x, dtype)) if x.weak_type or x.dtype != dtype else x


def require_normal(name: str, x: Array, axis: int | tuple[()] | None = None) -> Array:
    """`x`, or a `ValueError` if the largest |entry| along `axis` is subnormal, since XLA takes such a number for 0.

    With `axis` = () each entry is checked. Otherwise a subnormal entry beside larger ones is allowed, as it is below
    their rounding. See jax-ml/jax#16200.
    """
    if not is_concrete(x) or x.size == 0:
        return x
    values = np.asarray(x)
    # `x` may be all starts of a sweep, so that no array of absolute values is made.
    size, tiny = np.maximum(values.max(axis), -values.min(axis)), np.finfo(values.dtype).tiny
    if np.any((size > 0) & (size < tiny)):
        raise ValueError(
            f"{name} is below {tiny:.1e} in size, and XLA takes for 0 what is that small in {values.dtype}. "
            "Multiply it by a power of two first."
        )
    return x


def as_float(name: str, x: Any) -> Array:
    """`x` as a floating-point array. Integers are refused, as converting them may silently change the meaning."""
    x = as_array(name, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        kind = "complex" if x.dtype.kind == "c" else str(x.dtype)
        raise TypeError(f"{name} must be real floating point, got {kind}. {_conversion(name, x)}")
    if jnp.finfo(x.dtype).bits < 32:
        raise TypeError(f"{name} must be float32 or float64, got {x.dtype}. {_conversion(name, x)}")
    return require_normal(name, x)


def _conversion(name: str, x: Array | np.ndarray) -> str:
    """How to make `x` an array of floats, in a message. Of a complex array the conversion would drop a part."""
    if x.dtype.kind == "c":
        return f"If its imaginary part is 0, pass {name}.real."
    if not name.isidentifier():
        return "Convert it to float64."
    # What was given may have been a list, which has no `astype`.
    return f"Convert it: np.asarray({name}, float)." if is_concrete(x) else f"Convert it: {name}.astype(float)."


def as_matrix(name: str, x: Any, leading: bool = False) -> Array:
    """`x` as a real matrix of any shape, or with `leading` as a stack of such matrices."""
    x = as_float(name, x)
    if x.ndim < 2 or (x.ndim > 2 and not leading) or 0 in x.shape[-2:]:
        expected = "(..., m, n)" if leading else "(m, n)"
        many = x.ndim == 3 and not leading and name.isidentifier()
        hint = " For many starts at once use dlnjax.sweep or jax.vmap." if many else ""
        raise ValueError(f"{name} must be a matrix of shape {expected}, got shape {x.shape}.{hint}")
    return x


def as_square(name: str, x: Any, leading: bool = False) -> Array:
    """`x` as a real square matrix, or with `leading` as a stack of such matrices."""
    x = as_float(name, x)
    if x.ndim < 2 or (x.ndim > 2 and not leading) or x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        expected = "(..., d, d)" if leading else "(d, d)"
        hint = " For many starts at once use dlnjax.sweep or jax.vmap." if x.ndim == 3 and not leading else ""
        if x.ndim >= 2 and x.shape[-1] != x.shape[-2]:
            hint = (
                " Geodesics between two ends and curvature are those of square matrices; flows, networks, the metric "
                "and exponential take any. Between ends with the same column and row spaces, take U^T X V of each."
            )
        raise ValueError(f"{name} must be a square matrix of shape {expected}, got shape {x.shape}.{hint}")
    return x


def require_finite(name: str, x: Array) -> Array:
    # Inside of `jax.grad` the value is known, and only the tangent is traced.
    value = known(x if is_concrete(x) else jax.lax.stop_gradient(x))
    return require(x, ~(abs(value) < np.inf).all(), f"{name} must be finite, got NaN or infinity.")


def require_full_rank(name: str, x: Array, message: str) -> Array:
    """`x`, one square matrix or a stack of them, if elimination meets no pivot of exactly 0.

    The sign of the determinant is checked, since the determinant itself may leave the range of the floats.
    """
    sign = (lambda x: np.linalg.slogdet(x)[0]) if is_concrete(x) else sign_of_determinant
    return require(x, (sign(known(x)) == 0).any(), f"{name} must have full rank: {message}")


def as_finite(name: str, x: Array) -> Array:
    """`x`, if it is finite or traced. For a traced `x` that is not finite, the result of the function is NaN."""
    return require_finite(name, x) if is_concrete(x) else x


def broadcast(names: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError as error:
        shown = " and ".join(map(str, shapes))
        raise ValueError(f"{names} must agree in the axis of seeds, got {shown} in front.") from error


def as_depth(depth: Any, many: str = "") -> Array:
    """The depth N in [1, inf], as a float array. `many` says what to use for many depths; with it, one is allowed."""
    if isinstance(depth, (bool, str, dict)) or depth is None:
        raise TypeError(f"depth must be a number in [1, inf], got {depth!r}.")
    depth = as_real("depth", depth, "It is a number in [1, inf].")
    if many and depth.ndim:
        raise ValueError(f"depth must be one number, got shape {depth.shape}. For many use {many}.")
    shown = f", got {depth}" if is_concrete(depth) else ""
    message = f"depth must be a number N with 1 <= N <= inf{shown}. Infinite depth is depth=jnp.inf."
    return require(depth, ~(known(depth) >= 1).all(), message)


def as_positive(
    name: str, value: Any, hint: str = "", finite: bool = True, many: bool = False, below: float = math.inf
) -> Array:
    """`value` as a number above 0, by default a finite one. With `many` it may be an array of such numbers.

    With `below` it is less than that number.
    """
    if isinstance(value, (bool, str)) or value is None:
        raise TypeError(f"{name} must be a number above 0, got {value!r}.")
    value = as_real(name, value, hint)
    if value.ndim and not many:
        raise ValueError(f"{name} must be one number, got shape {value.shape}. {hint}".rstrip())
    shown = f", got {value}" if is_concrete(value) else ""
    kind = f"number above 0 and below {below:g}" if below < np.inf else f"{'finite ' * finite}number above 0"
    message = f"{name} must be a {kind}{shown}. {hint}".rstrip()
    value = require_normal(name, value, axis=())
    positive = (known(value) > 0) & ((known(value) < below) | (not finite))
    return require(value, ~positive.all(), message)


def as_count(name: str, value: Any) -> int:
    """`value` as a whole number of at least 1 that fits an integer of JAX."""
    if not is_concrete(value):
        raise TypeError(f"{name} must be a whole number that is known before anything runs, got a traced one.")
    if isinstance(value, (jax.Array, np.ndarray, np.generic)) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if not math.isfinite(value) or value != int(value) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    most = int(jnp.iinfo(jnp.result_type(int)).max)
    if value > most:
        raise ValueError(f"{name} must be at most {most}, the largest integer of JAX here, got {value!r}.")
    return int(value)


@jax.jit
def _spectrum_or_nan(sigma: Array) -> Array:
    return nan_unless((sigma >= 0) & (sigma < jnp.inf), sigma)


def as_spectrum(sigma: Any, *, positive: bool = False, nonzero: bool = False) -> Array:
    """`sigma` as singular values, finite and nonnegative, with the axis of modes last.

    Traced entries that are not finite and nonnegative become NaN.
    """
    sigma = as_real("sigma", sigma, "Singular values come from dlnjax.svd(x).sigma.")
    if sigma.ndim == 0 or sigma.shape[-1] == 0:
        raise ValueError(f"sigma must be singular values of shape (..., d), got shape {sigma.shape}.")
    if not is_concrete(sigma):
        return _spectrum_or_nan(sigma)
    values = np.asarray(sigma)
    if not np.all(values >= 0) or np.any(np.isinf(values)):
        raise ValueError(
            f"sigma must be finite and nonnegative, got entries from {values.min():g} to {values.max():g}. "
            "Singular values come from dlnjax.svd(x).sigma."
        )
    # XLA takes subnormal numbers for zero.
    if positive and np.any(values < np.finfo(values.dtype).tiny):
        raise ValueError("sigma must be positive: the entropy has no gradient at a singular matrix.")
    if nonzero and np.any(np.all(values == 0, axis=-1)):
        raise ValueError("sigma is all zero: the zero matrix has no effective or stable rank.")
    return require_normal("sigma", sigma, axis=-1)


def as_path(name: str, path: Any) -> Path:
    """`path` as a `Path`. A leading ~ stands for the home directory, as in a shell."""
    try:
        return Path(path).expanduser()
    except TypeError as error:
        raise TypeError(f"{name} must be a path, a str or os.PathLike, got {type(path).__name__}.") from error


def as_key(key: Any) -> Any:
    """A key of either kind of `jax.random`."""
    kind = getattr(key, "dtype", None)
    if kind is None or not (jnp.issubdtype(kind, jax.dtypes.prng_key) or kind == jnp.uint32):
        raise TypeError(f"key must be a key such as jax.random.key(0), got {type(key).__name__}.")
    return key


def shape_of(name: str, f: Callable, argument: Any) -> Any:
    """The shapes and types of what `f` returns, without computing it."""
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
    except (TypeError, ValueError) as error:
        shape = f", a matrix of shape {argument.shape}," if hasattr(argument, "shape") else ""
        said = str(error).splitlines()[0].rstrip(".")
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must take one argument{shape} and return arrays: {said}.") from error


def as_argument(x: Any, shape: tuple[int, ...], which: str) -> Array:
    """`x`, the X of an energy for matrices of `shape`. `which` says in a message why it must have this shape."""
    x = as_real("X", x)
    if x.shape[-2:] != shape:
        raise ValueError(f"X has shape {x.shape}, but {which}." + transposed(x.shape, shape))
    return x


def transposed(got: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """A hint for a matrix of shape `got`, which is not `expected`, if its transpose is."""
    return " Is it transposed? Pass its .T." if got[-2:] == expected[-2:][::-1] else ""


def check_energy(energy: Any, shape: tuple[int, ...], dtype: Any, hint: str = "Does it need a jnp.sum?") -> None:
    """An error unless `energy` is a callable from a matrix of this shape to a real scalar."""
    if not callable(energy):
        raise TypeError(f"energy must be a callable X -> scalar, got {type(energy).__name__}.")
    out = shape_of("energy", energy, jax.ShapeDtypeStruct(shape, dtype))
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        shown = ", ".join(f"{x.dtype}{list(x.shape)}" for x in leaves) or "nothing"
        raise ValueError(
            f"energy must return one real scalar for a {shape[0]} x {shape[1]} matrix, got {shown}. {hint}"
        )
