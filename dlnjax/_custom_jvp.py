"""Functions with a derivative rule of their own, which they keep in a loop that is differentiated twice.

JAX drops the rules of `jax.custom_jvp` in the part of a `jax.lax.scan` that the first derivative leaves alone, without
a word, and the second derivative is then that of the code of the function (`_scan_known_hoisting` in loops.py, jax
0.10.2). For the norm of a metric, where singular values repeat, that is another number. We know of no public report.
JAX keeps the rules of primitives. While a program is traced, such a function is therefore one operation here, whose
parameter is the traced function, with the call of `jax.custom_jvp` in it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import eval_jaxpr, Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def inside_of_jit() -> bool:
    # Inside of `jit` a new array is traced, even if all arguments are concrete.
    return not is_concrete(jax.device_put(np.zeros(())))


class custom_jvp(jax.custom_jvp):
    """`jax.custom_jvp`, with a rule that loops keep. Like there, the rule calls the function for what it returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _kept(super().__call__, args, kwargs)


class filter_custom_jvp(eqx.filter_custom_jvp):
    """`eqx.filter_custom_jvp`, with a rule that loops keep."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _kept(super().__call__, args, kwargs)


def _kept(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    arrays, others = eqx.partition((args, kwargs), eqx.is_array)
    xs, structure = jax.tree.flatten(arrays)
    # There is no loop where all is known, or `jax.grad` alone is at work.
    if all(map(is_concrete, xs)) or not inside_of_jit():
        return f(*args, **kwargs)
    shape: Any = None

    def flat(*xs: Array) -> list[Array]:
        nonlocal shape
        args, kwargs = eqx.combine(jax.tree.unflatten(structure, xs), others)
        out, shape = jax.tree.flatten(f(*args, **kwargs))
        return out

    out = _at_once(flat, xs)
    return jax.tree.unflatten(shape, out)


def _at_once(f: Callable[..., Any], xs: Sequence[Array]) -> list[Array]:
    """f(*xs) as one operation. What `f` closes over becomes an argument."""
    inner = jax.make_jaxpr(f)(*xs)
    closed = inner.consts
    if not all(map(is_concrete, closed)):
        bare = lambda *both: eval_jaxpr(inner.jaxpr, both[: len(closed)], *both[len(closed) :])
        inner, xs = jax.make_jaxpr(bare)(*closed, *xs), (*closed, *xs)
    return _operation.bind(*xs, jaxpr=inner)


_operation = Primitive("function_with_rule")
_operation.multiple_results = True
_operation.def_impl(lambda *xs, jaxpr: jaxpr_as_fun(jaxpr)(*xs))
_operation.def_effectful_abstract_eval(lambda *xs, jaxpr: (jaxpr.out_avals, jaxpr.effects))


def _lower(context: Any, *xs: Any, jaxpr: ClosedJaxpr) -> Any:
    return mlir.core_call_lowering(context, *xs, name="function_with_rule", call_jaxpr=jaxpr)


def _batch(xs: Sequence[Any], axes: Sequence[int | None], *, jaxpr: ClosedJaxpr) -> tuple[list[Array], list[int]]:
    out = _at_once(jax.vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(axes)), xs)
    return out, [0] * len(out)


def _differentiate(xs: Sequence[Any], dxs: Sequence[Any], *, jaxpr: ClosedJaxpr) -> tuple[list[Array], list[Array]]:
    """By the rule. What does not move is closed over, so that the rule can tell."""
    moves = [type(dx) is not ad.Zero for dx in dxs]

    def of_moving(*moving: Array) -> list[Array]:
        rest = iter(moving)
        return jaxpr_as_fun(jaxpr)(*(next(rest) if at else x for x, at in zip(xs, moves, strict=True)))

    pick = lambda zs: tuple(z for z, at in zip(zs, moves, strict=True) if at)
    return jax.jvp(of_moving, pick(xs), pick(dxs))


def _transpose(cts: Sequence[Any], *xs: Any, jaxpr: ClosedJaxpr) -> list[Any]:
    """The transpose in the arguments in which the function is linear: a rule may call it with a tangent."""
    linear = [ad.is_undefined_primal(x) for x in xs]

    def of_linear(*moving: Array) -> list[Array]:
        rest = iter(moving)
        return jaxpr_as_fun(jaxpr)(*(next(rest) if at else x for x, at in zip(xs, linear, strict=True)))

    unknown = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in xs if ad.is_undefined_primal(x)]
    back = iter(jax.linear_transpose(of_linear, *unknown)([ad.instantiate_zeros(ct) for ct in cts]))
    return [next(back) if at else None for at in linear]


mlir.register_lowering(_operation, _lower)
batching.primitive_batchers[_operation] = _batch
ad.primitive_jvps[_operation] = _differentiate
ad.primitive_transposes[_operation] = _transpose
