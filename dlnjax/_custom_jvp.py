"""Functions with a derivative rule of their own, which they keep in a loop that is differentiated twice.

JAX drops the rules of `jax.custom_jvp` in the part of a `jax.lax.scan` that the first derivative leaves alone, without
a word, and the second derivative is then that of the code of the function (`_scan_known_hoisting` in loops.py, jax
0.10.2). For the norm of a metric, where singular values repeat, that is another number. We know of no public report.
JAX keeps the rules of primitives. While a program is traced, such a function is therefore one operation here, whose
parameters are the traced function and the call with its rules.

A program calls many of these functions often, with arrays of the same shapes. Each is then traced and lowered once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun, Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def is_value(x: Any) -> bool:
    """Whether `x` is concrete, or a batch of concrete values under `jax.vmap`.

    JAX has no public name for the tracer of a batch. If a version of JAX has another name for it, this is False for a
    batch, which then compiles without the options of this library.
    """
    return is_concrete(x) or (type(x).__name__ == "BatchTracer" and is_value(x.val))


def inside_of_jit() -> bool:
    # Inside of `jit` a new array is traced, even if all arguments are concrete.
    return not is_concrete(jax.device_put(np.zeros(())))


def leaves_of_tangent(dx: PyTree, x: PyTree) -> list[Array | None]:
    """The tangent of each leaf of `x`. None stands for zero, in `dx` also for the tangent of a whole tree."""
    leaves: list[Array | None] = []
    spread = lambda dx, x: leaves.extend([dx] if dx is not None else [None for _ in jax.tree.leaves(x)])
    jax.tree.map(spread, dx, x, is_leaf=lambda z: z is None)
    return leaves


def moving_leaves(dx: PyTree, x: PyTree) -> dict[int, Array]:
    """The tangents of the leaves of `x` that move, by the numbers of these leaves."""
    return {i: leaf for i, leaf in enumerate(leaves_of_tangent(dx, x)) if leaf is not None}


def tangent_of(x: PyTree, moves: dict[int, Array]) -> PyTree:
    """The tangent of `x` of which these are the `moving_leaves`."""
    leaves, tree = jax.tree.flatten(x)
    return jax.tree.unflatten(tree, [moves.get(i) for i in range(len(leaves))])


# The packages whose classes compute the same for ever.
_KNOWN = {"dlnjax", "diffrax", "equinox", "jax", "jaxlib"}


def is_of_known_classes(part: Any, recorded: bool) -> bool:
    """Whether each class in a tree is of these packages, or with `recorded` that of a kernel with a record.

    The methods of any other class may read numbers that change, as those of a function may. The record of a kernel says
    what it computes in one call.
    """
    inside = jax.tree.leaves(part, is_leaf=lambda x: x is not part)
    if len(inside) == 1 and inside[0] is part:
        return True
    known = type(part) in (tuple, list, dict, type(None)) or type(part).__module__.partition(".")[0] in _KNOWN
    known = known or (recorded and getattr(part, "_record", None) is not None)
    # A partial function keeps its function where no leaf is.
    known = known and not isinstance(part, jax.tree_util.Partial)
    return known and all(is_of_known_classes(x, recorded) for x in inside)


class filter_custom_jvp:
    """`eqx.filter_custom_jvp`, with a rule that loops keep.

    In the tangents that the rule takes and returns, None stands for zero. The rule calls the function for what it
    returns, so that it is also there for the next derivative.
    """

    def __init__(self, f: Callable[..., Any]):
        self.f, self.plain = f, eqx.filter_custom_jvp(f)
        self.back: Callable[..., Any] | None = None

    def def_jvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Take `rule` as the derivative of the function."""
        self.plain.def_jvp(rule)
        self.rule = rule
        return rule

    def def_transpose(self, back: Callable[..., Any]) -> Callable[..., Any]:
        """Take `back` as the transpose of the function.

        `back(ct, *args)` returns the cotangents of the arrays in which the function is linear, from that of what it
        returns. These arrays stand as None in `args`. Reverse mode then calls `back`, whose own rule the next
        derivative takes, and not the transpose of what the function does.
        """
        self.back = back
        return back

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays, others = eqx.partition((args, kwargs), eqx.is_array)
        xs, structure = jax.tree.flatten(arrays)
        # There is no loop where all is known, or where `jax.grad` alone is at work.
        if all(map(is_value, xs)) or not (self.back or inside_of_jit()):
            return self.plain(*args, **kwargs)
        call = _Call(self, structure, others)
        traced = _traced(call, *xs)
        if not all(map(is_concrete, traced.jaxpr.consts)):
            return self.plain(*args, **kwargs)
        call.returns = jax.tree.structure(traced.out_info)
        out = _operation.bind(*xs, jaxpr=traced.jaxpr, call=call)
        return jax.tree.unflatten(call.returns, out)


class _Key:
    """What is equal to another object if their keys are."""

    key: tuple[Any, ...]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


class _Call(_Key):
    """A call of a function with a rule, as a function of its arrays. Two are equal if all but their arrays is.

    **Attributes:** `returns`, the tree of what is returned, as soon as it is known; `is_plain`, whether all but the
    arrays is numbers and text, in trees of known classes. A function among the arguments may read numbers that change,
    so that what was traced of the call must not be used again. `has_back`, whether it has a transpose.
    """

    def __init__(self, of: filter_custom_jvp, structure: Any, others: Any):
        self.of, self.structure, self.others = of, structure, others
        self.returns: Any = None
        leaves, tree = jax.tree.flatten(others)
        numbers = all(isinstance(x, bool | int | float | str) for x in leaves)
        self.is_plain, self.has_back = numbers and is_of_known_classes(others, recorded=True), of.back is not None
        # For Python 1, 1.0 and True are equal, and so are 0.0 and -0.0. JAX makes other programs of them.
        self.key = of, structure, tree, tuple((type(x), x.hex() if isinstance(x, float) else x) for x in leaves)

    def _arguments(self, xs: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return eqx.combine(jax.tree.unflatten(self.structure, xs), self.others)

    def __call__(self, *xs: Array) -> Any:
        args, kwargs = self._arguments(xs)
        return self.of.f(*args, **kwargs)

    def rule(self, xs: Sequence[Array], dxs: Sequence[Array | None]) -> tuple[list[Array], list[Array | None]]:
        args, kwargs = self._arguments(xs)
        dargs, dkwargs = jax.tree.unflatten(self.structure, dxs)
        if jax.tree.leaves(dkwargs):
            names = ", ".join(name for name, dx in dkwargs.items() if jax.tree.leaves(dx))
            raise TypeError(f"{self.of.f.__name__} has no derivative in {names}: use jax.lax.stop_gradient there.")
        out, dout = self.of.rule(args, dargs, **kwargs)
        return jax.tree.leaves(out), leaves_of_tangent(dout, out)

    def back(self, cts: Sequence[Array], xs: Sequence[Array | None]) -> list[Array]:
        args, kwargs = self._arguments(xs)
        back: Any = self.of.back
        return jax.tree.leaves(back(jax.tree.unflatten(self.returns, cts), *args, **kwargs))


class _Batch(_Key):
    """A batch of calls of one kind, which `jaxpr` is traced of. Each array has its axis of the batch in `axes`."""

    def __init__(self, one: "_Call | _Batch", jaxpr: ClosedJaxpr, axes: tuple[int | None, ...]):
        self.one, self.jaxpr, self.axes = one, jaxpr, axes
        self.is_plain, self.has_back = one.is_plain, one.has_back
        # The jaxpr follows from the shapes of the arrays.
        self.key = one, axes

    def _axes_of(self, zs: Sequence[Any]) -> list[int | None]:
        return [None if z is None else axis for z, axis in zip(zs, self.axes, strict=True)]

    def __call__(self, *xs: Array) -> Any:
        return jax.vmap(jaxpr_as_fun(self.jaxpr), in_axes=self.axes)(*xs)

    # JAX leaves it to the rule and to the function which axis of their results is that of the batch, and mixes them up
    # where they differ (`batch_custom_jvp_subtrace` in batching.py, jax 0.10.2). Here it is the first.
    def rule(self, xs: Sequence[Array], dxs: Sequence[Array | None]) -> tuple[list[Array], list[Array | None]]:
        return jax.vmap(self.one.rule, in_axes=(self._axes_of(xs), self._axes_of(dxs)))(list(xs), list(dxs))

    def back(self, cts: Sequence[Array], xs: Sequence[Array | None]) -> list[Array]:
        found = jax.vmap(self.one.back, in_axes=(0, self._axes_of(xs)))(list(cts), list(xs))
        axes = [axis for x, axis in zip(xs, self.axes, strict=True) if x is None]
        summed = lambda z, axis: jnp.sum(z, axis=0) if axis is None else jnp.moveaxis(z, 0, axis)
        return list(map(summed, found, axes))


@partial(jax.jit, static_argnums=0)
def _run(call: _Call | _Batch, *xs: Array) -> Any:
    return call(*xs)


@partial(jax.jit, static_argnums=0)
def _rule(call: _Call | _Batch, xs: list[Array], dxs: list[Array | None]) -> tuple[list[Array], list[Array | None]]:
    return call.rule(xs, dxs)


def _traced(call: _Call | _Batch, *xs: Array) -> Any:
    """The call as JAX has traced it, for arrays of these shapes."""
    return _run.trace(call, *xs) if call.is_plain else jax.jit(lambda *xs: call(*xs)).trace(*xs)


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


def _arrays(xs: Sequence[Any]) -> list[Array]:
    """The arguments of the operation, of which JAX hands over numbers of a program as arrays of NumPy."""
    return [x if isinstance(x, Array) else jnp.asarray(x) for x in xs]


def _batch(
    xs: Sequence[Any], axes: Sequence[int | None], *, jaxpr: ClosedJaxpr, call: _Call | _Batch
) -> tuple[list[Array], list[int]]:
    xs, many = _arrays(xs), _Batch(call, jaxpr, tuple(axes))
    out = _operation.bind(*xs, jaxpr=_traced(many, *xs).jaxpr, call=many)
    return out, [0] * len(out)


def _differentiate(
    xs: Sequence[Any], dxs: Sequence[Any], *, call: _Call | _Batch, **_: Any
) -> tuple[list[Array], list[Any]]:
    xs, dxs = _arrays(xs), [None if type(dx) is ad.Zero else dx for dx in dxs]
    # A rule may look at arrays that are known.
    keeps = call.is_plain and not any(map(is_concrete, xs))
    out, dout = _rule(call, xs, dxs) if keeps else call.rule(xs, dxs)
    zero = lambda x: ad.Zero(jax.typeof(x).to_tangent_aval())
    return out, [zero(x) if dx is None else dx for x, dx in zip(out, dout, strict=True)]


def _transpose(cts: Sequence[Any], *xs: Any, jaxpr: ClosedJaxpr, call: _Call | _Batch) -> list[Any]:
    """The transpose in the arguments in which the function is linear: a rule may call it with a tangent."""
    linear = [ad.is_undefined_primal(x) for x in xs]
    cts = [ad.instantiate_zeros(ct) for ct in cts]
    if call.has_back:
        found = iter(call.back(cts, [None if at else x for x, at in zip(xs, linear, strict=True)]))
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
