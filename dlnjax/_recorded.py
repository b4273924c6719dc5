"""What the methods of a kernel of one's own compute now, recorded in the kernel at each call.

JAX keeps compiled programs by the class and the fields of a kernel. A number that a method reads from elsewhere, a
global or one of its class, is read when a program is compiled, and a change of it would not be seen. Each call of the
library therefore traces the methods anew, which runs nothing, and the kernel carries the checksum of their programs.
"""

import hashlib
import inspect
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from dlnjax._traced import Traced
from dlnjax._tree import own_arithmetic

_ELEMENTWISE = ("log_eigenvalue", "leaving", "straighten", "unstraighten")


class Record(NamedTuple):
    """What a kernel was when it came to the library.

    `axes` is the number of axes of each of its arrays: an array of a solution that has more axes has those of the
    solution in front. `checksum` is that of the programs of its methods, and `callbacks` has the functions of Python
    that these call. `dtype` is that of the matrices, for which the methods were traced.
    """

    axes: tuple[int, ...]
    checksum: str
    callbacks: tuple[Any, ...] = ()
    dtype: str = ""


def record_of(kernel: Any, base: type, dtype: Any) -> Record | None:
    """The record of a kernel, whose methods are those of the class `base` and replace some of them.

    A kernel of this library has none, as it computes the same for ever.

    **Raises:** `ValueError` for a method that does not return what the shapes of its arguments ask for.
    """
    if type(kernel).__module__.startswith("dlnjax."):
        return None
    arrays, others = eqx.partition(kernel, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)
    axes = kernel._record.axes if kernel._record else tuple(0 if kernel.per_seed else np.ndim(x) for x in leaves)
    # The methods are for one seed.
    one = [jax.ShapeDtypeStruct(np.shape(x)[np.ndim(x) - n :], x.dtype) for x, n in zip(leaves, axes, strict=True)]
    own = jax.tree.unflatten(tree, one)
    total, callbacks = hashlib.sha256(), []
    for name in sorted(vars(base)):
        if name.startswith("_") or inspect.getattr_static(type(kernel), name) is vars(base)[name]:
            continue
        with own_arithmetic():
            traced = _traced(name, own, others, dtype)
        total.update(f"{name} {traced.checksum()}".encode())
        callbacks += traced.program.callbacks
    return Record(axes, total.hexdigest(), tuple(callbacks), str(np.dtype(dtype)))


def _traced(name: str, arrays: Any, others: Any, dtype: Any) -> Traced:
    """A method, for arguments of shapes that no other array is likely to have."""
    array = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    pair = (array(5, 1), array(1, 7))
    values, symmetric = array(5), (array(5), array(5, 5))
    arguments = {
        "log_eigenvalue": pair,
        "log_slope": pair,
        "log_eigenvalue_and_slope": pair,
        "mix": (array(), values, values),
        "mix_symmetric": (array(), symmetric, symmetric),
    }.get(name, (values,))

    def run(arrays: Any, *arguments: Any) -> Any:
        method = getattr(eqx.combine(arrays, others), name)
        return method(*arguments) if callable(method) else method

    shapes = " and ".join(str(x.shape) for x in jax.tree.leaves(arguments))
    what = f"{type(others).__name__}.{name}"
    hint = "Where an array of the kernel has one number for each seed of a sweep, its class needs per_seed = True."
    try:
        traced = Traced.of(run, arrays, *arguments)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        said = str(error).splitlines()[0].rstrip(".")
        raise kind(f"{what} does not take arguments of shape {shapes}: {said}. {hint}") from error
    found = traced.returned() if name == "leaving" else (traced.returned(),)
    expected = np.broadcast_shapes(*(x.shape for x in jax.tree.leaves(arguments)))
    if name in _ELEMENTWISE and any(getattr(x, "shape", None) != expected for x in found):
        raise ValueError(
            f"{what} must be elementwise: for arguments of shape {shapes} it returned {traced.returned()}. {hint}"
        )
    return traced
