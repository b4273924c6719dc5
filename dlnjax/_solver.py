"""What a solver is given: times and tolerances, and which tolerances a precision keeps."""

import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from dlnjax._checks import as_array, as_positive, as_real, is_concrete, known, require
from dlnjax._custom_jvp import custom_jvp

# The least `rtol` in float32. Below some 40 roundings the estimate of the error is rounding, which shorter steps do not
# make smaller.
FINEST_OF_FLOAT32 = 5e-6


def as_times(ts: Any, dtype: Any) -> Array:
    """`ts` as at least two finite, strictly increasing times of this dtype. The first is the time of the start."""
    ts = as_real("ts", ts, "It is a list of times such as [0.0, 10.0].")
    if ts.ndim != 1 or ts.shape[0] < 2:
        raise ValueError(
            f"ts must hold at least two times, the first being that of x0, got shape {ts.shape}. "
            "For the end alone pass ts=[0., t_end]."
        )
    # A time that is too large for the precision of x0 becomes infinite, and is refused below.
    with np.errstate(over="ignore"):
        times = known(ts).astype(dtype)
    shown = f", got {np.array2string(known(ts), threshold=6)}" if is_concrete(ts) else ""
    hint = "Sort it and remove repeated times."
    if is_concrete(ts) and _increase(known(ts)):
        hint = f"In {times.dtype}, the precision of x0, it is not: give x0 in float64, or other times."
    message = f"ts must be finite and strictly increasing{shown}. {hint}"
    return require(as_array("ts", times), ~_increase(times), message)


def _increase(t: Any) -> Any:
    # A subnormal difference counts as 0, as in XLA. The difference of two infinities is NaN, which is no increase.
    with np.errstate(invalid="ignore", over="ignore"):
        return (abs(t) < np.inf).all() & (t[1:] - t[:-1] >= np.finfo(t.dtype).tiny).all()


def without_derivative(x: Array, message: str) -> Array:
    """`x`, whose derivative is refused by a `TypeError` with `message`."""

    @custom_jvp
    def same(x: Array) -> Array:
        return x

    @same.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise TypeError(message)

    return x if is_concrete(x) else same(x)


def as_tolerance(name: str, value: Any, hint: str = "", relative: bool = True) -> Array:
    """`value` as a number above 0. Derivatives in it are 0, since it decides on the accuracy of a result alone.

    One that is relative to the size of a result is below 1, where an error is as large as what is computed.
    """
    value = as_positive(name, value, hint, below=1.0 if relative else np.inf)
    return value if is_concrete(value) else jax.lax.stop_gradient(value)


def warn_of_precision(what: str, dtype: Any, rtol: Any) -> None:
    """A warning at the user's line if steps in float32 cannot keep the tolerance `rtol`."""
    if dtype == np.float32 and is_concrete(rtol) and float(rtol) < FINEST_OF_FLOAT32:
        warnings.warn(
            f"{what} float32, which cannot keep rtol={float(rtol):g}. Enable float64 before the first array is made, "
            'jax.config.update("jax_enable_x64", True), or pass rtol=1e-5.',
            stacklevel=_calls_of_the_library(),
        )


def _calls_of_the_library() -> int:
    """The `stacklevel` of the line that called this library. Frames of Equinox may stand between its own."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1))]
    return 2 + max(i for i, file in enumerate(files) if Path(file).is_relative_to(Path(__file__).parent))
