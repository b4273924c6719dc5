"""Functions with a derivative rule of their own, which they keep in a loop that is differentiated twice.

JAX drops the rules of `jax.custom_jvp` in the part of a `jax.lax.scan` that the first derivative leaves alone, without
a word, and the second derivative is then that of the code of the function (`_scan_known_hoisting` in loops.py, jax
0.10.2). For the norm of a metric, where singular values repeat, that is another number. We know of no public report.
JAX keeps the rules of primitives. While a program is traced, such a function is therefore one operation here, whose
parameters are the traced function and its rules.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def inside_of_jit() -> bool:
    # Inside of `jit` a new array is traced, even if all arguments are concrete.
    return not is_concrete(jax.device_put(np.zeros(())))


class filter_custom_jvp:
    """`eqx.filter_custom_jvp`, with a rule that loops keep.

    In the tangents that the rule takes and returns, None stands for zero. The rule calls the function for what it
    returns, so that it is also there for the next derivative.
    """

    def __init__(self, f: Callable[..., Any]):
        self.f, self.plain = f, eqx.filter_custom_jvp(f)
        self.back: Callable[..., Array] | None = None

    def def_jvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Take `rule` as the derivative of the function."""
        self.plain.def_jvp(rule)
        self.rule = rule
        return rule

    def def_transpose(self, back: Callable[..., Array]) -> Callable[..., Array]:
        """Take `back` as the transpose of the function, which returns one array.

        `back(ct, *args)` returns the cotangent of that argument in which the function is linear. It stands as None in
        `args`. Reverse mode then calls `back`, whose own rule the next derivative takes, and not the transpose of what
        the function does.
        """
        self.back = back
        return back

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays, others = eqx.partition((args, kwargs), eqx.is_array)
        xs, structure = jax.tree.flatten(arrays)
        # There is no loop where all is known, or where `jax.grad` alone is at work.
        if all(map(is_concrete, xs)) or not (self.back or inside_of_jit()):
            return self.plain(*args, **kwargs)
        returned: Any = None

        def flat(*xs: Array) -> list[Array]:
            nonlocal returned
            args, kwargs = eqx.combine(jax.tree.unflatten(structure, xs), others)
            out, returned = jax.tree.flatten(self.f(*args, **kwargs))
            return out

        def flat_rule(xs: Sequence[Array], dxs: Sequence[Array | None]) -> tuple[list[Array], list[Array | None]]:
            args, kwargs = eqx.combine(jax.tree.unflatten(structure, xs), others)
            out, dout = self.rule(args, jax.tree.unflatten(structure, dxs)[0], **kwargs)
            leaves: list[Array | None] = []
            # None may stand for the tangent of a whole tree.
            spread = lambda dx, x: leaves.extend([dx] if dx is not None else [None for _ in jax.tree.leaves(x)])
            jax.tree.map(spread, dout, out, is_leaf=lambda z: z is None)
            return jax.tree.leaves(out), leaves

        def flat_back(ct: Array, xs: Sequence[Array | None]) -> Array:
            args, kwargs = eqx.combine(jax.tree.unflatten(structure, xs), others)
            return self.back(ct, *args, **kwargs)  # pyright: ignore[reportOptionalCall]

        jaxpr = jax.make_jaxpr(flat)(*xs)
        if not all(map(is_concrete, jaxpr.consts)):
            return self.plain(*args, **kwargs)
        back = flat_back if self.back else None
        return jax.tree.unflatten(returned, _operation.bind(*xs, jaxpr=jaxpr, rule=flat_rule, back=back))


class custom_jvp(filter_custom_jvp):
    """`jax.custom_jvp`, with a rule that loops keep: a `filter_custom_jvp` whose rule never sees None."""

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Take `rule` as the derivative of the function."""

        def of_all(xs: tuple[Array, ...], dxs: tuple[Array | None, ...]) -> Any:
            return rule(xs, tuple(jnp.zeros_like(x) if dx is None else dx for x, dx in zip(xs, dxs, strict=True)))

        self.def_jvp(of_all)
        return rule


_operation = Primitive("function_with_rule")
_operation.multiple_results = True
_operation.def_impl(lambda *xs, jaxpr, **_: jaxpr_as_fun(jaxpr)(*xs))
_operation.def_effectful_abstract_eval(lambda *xs, jaxpr, **_: (jaxpr.out_avals, jaxpr.effects))


def _lower(context: Any, *xs: Any, jaxpr: ClosedJaxpr, **_: Any) -> Any:
    return mlir.core_call_lowering(context, *xs, name="function_with_rule", call_jaxpr=jaxpr)


def _batch(
    xs: Sequence[Any],
    axes: Sequence[int | None],
    *,
    jaxpr: ClosedJaxpr,
    rule: Callable[..., Any],
    back: Callable[..., Array] | None,
) -> tuple[list[Array], list[int]]:
    pick = lambda zs: [None if z is None else axis for z, axis in zip(zs, axes, strict=True)]

    # JAX leaves it to the rule and to the function which axis of their results is that of the batch, and mixes them up
    # where they differ (`batch_custom_jvp_subtrace` in batching.py, jax 0.10.2). Here it is the first.
    def of_batch(xs: Sequence[Array], dxs: Sequence[Array | None]) -> Any:
        return jax.vmap(rule, in_axes=(pick(xs), pick(dxs)))(list(xs), list(dxs))

    def back_of_batch(ct: Array, xs: Sequence[Array | None]) -> Array:
        out = jax.vmap(back, in_axes=(0, pick(xs)))(ct, list(xs))  # pyright: ignore[reportArgumentType]
        axis = next(axis for x, axis in zip(xs, axes, strict=True) if x is None)
        return jnp.sum(out, axis=0) if axis is None else jnp.moveaxis(out, 0, axis)

    many = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(axes)))(*xs)
    out = _operation.bind(*xs, jaxpr=many, rule=of_batch, back=back_of_batch if back else None)
    return out, [0] * len(out)


def _differentiate(
    xs: Sequence[Any], dxs: Sequence[Any], *, rule: Callable[..., Any], **_: Any
) -> tuple[list[Array], list[Any]]:
    out, dout = rule(xs, [None if type(dx) is ad.Zero else dx for dx in dxs])
    zero = lambda x: ad.Zero(jax.typeof(x).to_tangent_aval())
    return out, [zero(x) if dx is None else dx for x, dx in zip(out, dout, strict=True)]


def _transpose(
    cts: Sequence[Any], *xs: Any, jaxpr: ClosedJaxpr, back: Callable[..., Array] | None, **_: Any
) -> list[Any]:
    """The transpose in the arguments in which the function is linear: a rule may call it with a tangent."""
    linear = [ad.is_undefined_primal(x) for x in xs]
    cts = [ad.instantiate_zeros(ct) for ct in cts]
    if back and sum(linear) == 1:
        found = iter([back(*cts, [None if at else x for x, at in zip(xs, linear, strict=True)])])
    else:

        def of_linear(*moving: Array) -> list[Array]:
            rest = iter(moving)
            return jaxpr_as_fun(jaxpr)(*(next(rest) if at else x for x, at in zip(xs, linear, strict=True)))

        unknown = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in xs if ad.is_undefined_primal(x)]
        found = iter(jax.linear_transpose(of_linear, *unknown)(cts))
    return [next(found) if at else None for at in linear]


mlir.register_lowering(_operation, _lower)
batching.primitive_batchers[_operation] = _batch
ad.primitive_jvps[_operation] = _differentiate
ad.primitive_transposes[_operation] = _transpose
