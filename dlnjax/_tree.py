"""Arithmetic on trees of arrays, tangents with None for zero, and conditions over all batches of a `vmap`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.flatten_util import ravel_pytree
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._custom_jvp import custom_jvp
from dlnjax._types import Scalar

Carry = TypeVar("Carry")


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """The rules of arithmetic for which the library is written, whatever flags of JAX the caller has set.

    Products of matrices have full precision on a GPU. Numbers and shapes are promoted as in NumPy. The flags
    `jax_numpy_dtype_promotion` and `jax_numpy_rank_promotion` of the caller still hold for the functions of the caller,
    since these are traced before this context begins.
    """
    precision = jax.default_matmul_precision("highest")
    # In reverse mode JAX names the mesh of devices, also where there is none, and would trace all functions once more.
    mesh = jax.sharding.use_abstract_mesh(jax.sharding.get_abstract_mesh())
    with mesh, precision, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def power_of_two(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The largest power of two that is at most |x|, or 1 where x is 0 or not finite. Division by it is exact.

    For a subnormal x it is the smallest normal number.
    """
    x, kind = jax.lax.stop_gradient(jnp.abs(x)), jnp.finfo(x.dtype)
    usable = jnp.where((x > 0) & jnp.isfinite(x), jnp.maximum(x, kind.tiny), 1.0)
    # A float whose mantissa is zero is a power of two. `frexp` and `ldexp` would be six times as much to compile.
    bits = jax.lax.bitcast_convert_type(usable, f"int{kind.bits}")
    return jax.lax.bitcast_convert_type(bits & (-1 << kind.nmant), x.dtype)


def is_key(x: Any) -> bool:
    """Whether an array is of keys of `jax.random.key`, of which NumPy has no array."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def norm(tree: PyTree) -> Scalar:
    """The root of the sum of all squares, which is the Frobenius norm of a matrix. No square overflows or vanishes."""
    leaves = jax.tree.leaves(tree)
    scale = power_of_two(jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves])))
    return scale * jnp.sqrt(sum(jnp.sum((leaf / scale) ** 2) for leaf in leaves))


def plain_norm(tree: PyTree) -> Scalar:
    """`norm` in one pass, for numbers near 1. The squares of numbers above 1e154 or below 1e-154 are lost."""
    return jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(tree)))


def positive(size: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Sizes by which one may divide: `size`, or 1 where it is 0."""
    return jnp.where(size > 0, size, 1.0)


def root(square: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The square root of a sum of squares, whose slope at 0 is taken to be 1.

    The slope of `jnp.sqrt` at 0 is infinite. Multiplied by the derivative of the squares, which is 0, it would be NaN.
    """
    return jnp.where(square > 0, jnp.sqrt(positive(square)), square)


@custom_jvp
def kept(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x`, which XLA computes once on a CPU, and keeps.

    XLA computes an expression of cheap operations again in each loop that reads it, however long the expression is, and
    compiles it as often. It does not do so with a quotient. The divisor here is 1, which XLA does not know, since it is
    NaN where `x` is. `jax.lax.optimization_barrier` is of no use: XLA removes it before it decides on the loops.
    """
    return x / jnp.where(x == x, 1.0, x)


@kept.defjvp
def _kept_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return kept(primals[0]), tangents[0]


def side_of_zero(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """-1 where x is negative and 1 elsewhere, so that x is always |x| times this. `jnp.sign` is 0 at 0."""
    return jnp.where(x < 0, -1.0, 1.0).astype(x.dtype)


def combine(*terms: tuple[Any, PyTree]) -> PyTree:
    """The linear combination of pairs (coefficient, tree)."""
    coefficients, trees = zip(*terms, strict=True)
    return jax.tree.map(lambda *leaves: sum(c * leaf for c, leaf in zip(coefficients, leaves, strict=True)), *trees)


def where(condition: Any, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the condition holds, else `b`, leaf by leaf. The condition may lack the last axes of a leaf."""

    def choose(x: Any, y: Any):
        if not eqx.is_array_like(x):
            return x
        return jnp.where(jnp.expand_dims(condition, range(jnp.ndim(condition), jnp.ndim(x))), x, y)

    return jax.tree.map(choose, a, b)


def nan_unless(good: Any, x: Array) -> Array:
    """`x`, and NaN with NaN as its derivative where `good` does not hold.

    Where a `where` puts NaN, the derivative in reverse mode is 0, which looks like an answer. With a factor NaN it
    would be NaN even of what does not use this `x`, such as a sum over the seeds that have not failed.
    """
    nan = jnp.where(good, 0.0, jnp.nan).astype(x.dtype)
    return _known_times.bind(*jnp.broadcast_arrays(x, 1 + nan)) + nan


@custom_jvp
def smooth_where(smooth: Any, x: Array) -> Array:
    """`x`, whose derivative is NaN where `smooth` does not hold, also multiplied by 0."""
    return x


@smooth_where.defjvp
def _smooth_where_jvp(primals: tuple[Any, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return smooth_where(*primals), tangents[1] * jnp.where(primals[0], 1.0, jnp.nan)


# The transpose of the identity alone would have no corner.
@smooth_where.def_transpose
def _smooth_where_back(ct: Array, smooth: Any, x: None) -> Array:
    return smooth_where(smooth, ct)


@custom_jvp
def differentiable_once(x: Array) -> Array:
    """`x`, whose second derivatives are NaN."""
    return x


@differentiable_once.defjvp
def _differentiable_once_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    # The factor is 1. It depends on X, so that it has a NaN in reverse mode too, where the tangent is a constant.
    return differentiable_once(x), dx * smooth_where(jnp.zeros((), bool), 0 * x + 1)


@custom_jvp
def length_of(square: Scalar) -> Scalar:
    """The root of a sum of squares, whose derivative at 0 is taken to be 0, and whose second derivative there is NaN.

    A length has a corner at 0. With 0 as its second derivative too, that of its square would be 0 and not twice the
    metric.
    """
    return root(square)


@length_of.defjvp
def _length_of_jvp(primals: tuple[Scalar], tangents: tuple[Scalar]) -> tuple[Scalar, Scalar]:
    (square,), (change,) = primals, tangents
    length = length_of(square)
    return length, per_length(change / 2, length)


def per_length(change: Float[Array, "*k"], length: Scalar) -> Float[Array, "*k"]:
    """The change of a length, from the change of half its square. It is 0 where the length is 0, as in `length_of`."""
    there = (length > 0) & jnp.isfinite(length)
    # A factor 0 keeps the NaN of a derivative, in forward mode and in reverse mode. A `where` does not in reverse mode,
    # so that the length before it has a corner of its own.
    by = jnp.where(there, smooth_where(length != 0, length), 1.0)
    return smooth_where(length != 0, jnp.where(jnp.isfinite(length), change, 0.0)) / by * jnp.where(there, 1.0, 0.0)


def _product(x: Array, factor: Array) -> Array:
    return jnp.where(x == 0, 0.0, x * factor).astype(x.dtype)


def _product_of_batches(both: tuple, axes: tuple) -> tuple[Array, int]:
    """The product where `vmap` maps both or one of `x` and the factor. The primitive takes equal shapes alone."""
    size = next(a.shape[axis] for a, axis in zip(both, axes, strict=True) if axis is not None)
    whole = [batching.bdim_at_front(a, axis, size) for a, axis in zip(both, axes, strict=True)]
    return _known_times.bind(*whole), 0


# The product with a factor 1 or NaN, where 0 NaN = 0: what does not move, and what is not used, has the derivative 0.
# It is a primitive, as its transpose is itself. JAX's `linear_call` would do, but has no rule for `vmap` (jax 0.10.2).
_known_times = Primitive("known_times")
_known_times.def_impl(_product)
_known_times.def_abstract_eval(lambda x, factor: x)
mlir.register_lowering(_known_times, mlir.lower_fun(_product, multiple_results=False))
batching.primitive_batchers[_known_times] = _product_of_batches
ad.defjvp(_known_times, lambda dx, x, factor: _known_times.bind(dx, factor), None)
ad.primitive_transposes[_known_times] = lambda cotangent, x, factor: [_known_times.bind(cotangent, factor), None]


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every entry of every leaf is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def all_equal(a: PyTree, b: PyTree) -> Bool[Array, ""]:
    """Whether every entry of every leaf is the same in both trees."""
    same = jax.tree.map(lambda x, y: jnp.all(x == y), a, b)
    return jnp.all(jnp.stack(jax.tree.leaves(same)))


def is_perturbed(tangent: PyTree) -> bool:
    """Whether any leaf of a tangent is not None. In the rules of `eqx.filter_custom_jvp`, None stands for zero."""
    return any(leaf is not None for leaf in jax.tree.leaves(tangent))


def instantiate(tangent: PyTree, primal: PyTree) -> PyTree:
    """The tangent with an array of zeros for each None."""
    arrays = eqx.filter(primal, eqx.is_inexact_array)
    return jax.tree.map(lambda x, dx: jnp.zeros_like(x) if dx is None else dx, arrays, tangent)


def tangent_at(where: Callable, out: PyTree, values: PyTree) -> PyTree:
    """The tangent of `out` whose leaves at `where` are `values`, and which is zero (None) elsewhere."""
    nothing = jax.tree.map(lambda _: None, out)
    return eqx.tree_at(where, nothing, values, is_leaf=lambda leaf: leaf is None)


def ravel(tree: PyTree, dtype: Any = None) -> tuple[Float[Array, " n"], Any]:
    """(the floating-point arrays of a tree as one vector, the function that makes a tree from such a vector).

    The vector of a tree without such arrays, as a kernel without numbers is, has the type `dtype`.
    """
    arrays, rest = eqx.partition(tree, eqx.is_inexact_array)
    if not jax.tree.leaves(arrays):
        return jnp.zeros(0, dtype), lambda _: tree
    vector, unravel = ravel_pytree(arrays)
    return vector, lambda v: eqx.combine(unravel(v), rest)


def iterate(step: Callable[[Carry], Carry], go_on: Callable[[Carry], Bool[Array, ""]], start: Carry) -> Carry:
    """The first of the states start, step(start), step(step(start)), ... for which `go_on` is false."""
    return jax.lax.while_loop(go_on, step, start)


def rowwise(f: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`jax.vmap(f)`. For a single row it is `f` of this row.

    This is traced and compiled in less time: JAX traces each operation of a batch a second time, and computes both
    branches of its conditions.
    """

    def call(*rows: PyTree) -> PyTree:
        if len(jax.tree.leaves(rows)[0]) != 1:
            return jax.vmap(f)(*rows)
        alone = lambda x: jax.lax.squeeze(x, (0,))
        return jax.tree.map(lambda x: jax.lax.expand_dims(x, (0,)), f(*jax.tree.map(alone, rows)))

    return call


# Under `vmap`, JAX runs both branches of a `cond`, and selects between their results. A `while_loop` selects likewise
# over all that it carries. The three functions below make one condition of those of all batches, so that no select is
# needed. JAX has no public function for this: jax-ml/jax#8409. Equinox's module `internal` may change without notice.


def any_of_batch(condition: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether the condition holds anywhere, in any batch of an enclosing `vmap`."""
    return eqxi.unvmap_any(condition)


def all_of_batch(condition: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether the condition holds everywhere, in all batches of an enclosing `vmap`."""
    return eqxi.unvmap_all(condition)


def while_any(go_on: Callable[[PyTree], Any], step: Callable[[PyTree], PyTree], start: PyTree) -> PyTree:
    """`while_loop` on the arrays of a tree. It runs as long as `go_on` holds in any batch of an enclosing `vmap`."""
    start = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, start)
    arrays, static = eqx.partition(start, eqx.is_array)
    final = jax.lax.while_loop(
        lambda x: any_of_batch(go_on(eqx.combine(x, static))),
        lambda x: eqx.filter(step(eqx.combine(x, static)), eqx.is_array),
        arrays,
    )
    return eqx.combine(final, static)


@jax.custom_batching.custom_vmap
def put(buffer: Array, row: Array, i: Any) -> Array:
    """The buffer with `row` in place of its row number `i`.

    Under `vmap` with one `i` for the whole batch, JAX would make a scatter of it, which on a CPU reads and writes twice
    as much.
    """
    return jax.lax.dynamic_update_index_in_dim(buffer, row, i, 0)


@put.def_vmap
def _put_in_batch(axis_size: int, in_batched: list[bool], buffer: Array, row: Array, i: Any) -> tuple[Array, bool]:
    if in_batched[2]:
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(lambda b, r, i: jax.lax.dynamic_update_index_in_dim(b, r, i, 0), axes)(buffer, row, i), True
    whole = lambda x, batched: x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
    buffer, row = whole(buffer, in_batched[0]), whole(row, in_batched[1])
    return jax.lax.dynamic_update_index_in_dim(buffer, row, i, 1), True
