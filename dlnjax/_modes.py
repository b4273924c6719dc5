"""Functions with a program for each mode of differentiation.

JAX makes two programs of a function that `jax.grad` differentiates, and refuses the options of the library for both. A
function that takes long to compile is therefore differentiated here: by a program for its tangents, which forward mode
runs, and by one for its cotangents.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp, moving_leaves, tangent_of


def compiled_both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled(f)`, with programs of their own for both modes.

    The program of reverse mode computes `f` once more, so that nothing is kept from the value for it.
    """
    return _in_modes(f, forward=f, back=f, twice=f)


def compiled_by_columns(f: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled_both_ways` of a function of few numbers with a loop that has no reverse mode.

    Its cotangents are those of the whole Jacobian, which forward mode finds.
    """

    def pull(of: Callable[[Any], PyTree], at: list[Array]) -> Callable[[PyTree], list[Array]]:
        numbers, tree_of = ravel_pytree(at)
        columns = jax.jacfwd(lambda numbers: of(tree_of(numbers)))(numbers)

        def back(ct: PyTree) -> list[Array]:
            along = jax.tree.map(lambda ct, z: jnp.tensordot(ct, z, ct.ndim), ct, columns)
            return tree_of(jnp.sum(jnp.stack(jax.tree.leaves(along)), axis=0))

        return back

    return _in_modes(f, forward=f, back=f, twice=f, pull=pull)


def integrated_both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled_both_ways` of a function that integrates by diffrax: f(*args, adjoint=...) with the adjoint of a mode.

    `RecursiveCheckpointAdjoint` has a reverse mode, which keeps few states, and no forward mode. `ForwardMode` has a
    forward mode alone. Neither can be differentiated again. `DirectAdjoint` can, in every mode, and takes several times
    as long, so that second derivatives alone take it.
    """

    def by(adjoint: diffrax.AbstractAdjoint) -> Callable[..., Any]:
        own = lambda *args: f(*args, adjoint=adjoint)
        own.__name__ = f.__name__
        return own

    back = by(diffrax.RecursiveCheckpointAdjoint())
    return _in_modes(back, by(diffrax.ForwardMode()), back, by(diffrax.DirectAdjoint()))


def _in_modes(
    f: Callable[..., Any],
    forward: Callable[..., Any],
    back: Callable[..., Any],
    twice: Callable[..., Any],
    pull: Callable[..., Callable[[PyTree], list[Array]]] = lambda of, at: lambda ct: jax.vjp(of, at)[1](ct)[0],
) -> Callable[..., Any]:
    """`f` as a program, with the first derivatives of `forward` and `back`, and the second ones of `twice`.

    All four compute the same. pull(of, at) is the map of the cotangents of of(x) to those of x, at x = `at`.
    """
    run = compiled(f)

    def tangent_by(f: Callable[..., Any], args: tuple[Any, ...], moves: list[Array], moving: tuple[int, ...]) -> PyTree:
        return eqx.filter_jvp(f, args, tangent_of(args, dict(zip(moving, moves, strict=True))))[1]

    def cotangents_by(f: Callable[..., Any], ct: PyTree, args: tuple[Any, ...], moving: tuple[int, ...]) -> list[Array]:
        leaves, tree = jax.tree.flatten(args)

        def of(moved: list[Array]) -> PyTree:
            there = dict(zip(moving, moved, strict=True))
            out = f(*jax.tree.unflatten(tree, [there.get(i, x) for i, x in enumerate(leaves)]))
            # What does not move, as a result code, has no cotangent.
            return jax.tree.map(lambda ct, x: None if ct is None else x, ct, out, is_leaf=lambda ct: ct is None)

        return pull(of, [leaves[i] for i in moving])(ct)

    @compiled
    def forwards(args: tuple[Any, ...], moves: list[Array], moving: tuple[int, ...]) -> PyTree:
        return tangent_by(forward, args, moves, moving)

    @compiled
    def backwards(ct: PyTree, args: tuple[Any, ...], moving: tuple[int, ...]) -> list[Array]:
        return cotangents_by(back, ct, args, moving)

    @compiled
    def along_forwards(primals: tuple[Any, Any], tangents: tuple[Any, Any], moving: tuple[int, ...]) -> PyTree:
        of = lambda args, moves: tangent_by(twice, args, moves, moving)
        return eqx.filter_jvp(of, primals, tangents)[1]

    @compiled
    def along_backwards(primals: tuple[Any, Any], tangents: tuple[Any, Any], moving: tuple[int, ...]) -> list[Array]:
        of = lambda ct, args: cotangents_by(twice, ct, args, moving)
        return eqx.filter_jvp(of, primals, tangents)[1]

    @filter_custom_jvp
    @wraps(f)
    def value(*args: Any) -> Any:
        return run(*args)

    @filter_custom_jvp
    def tangent(args: tuple[Any, ...], moves: list[Array], *, moving: tuple[int, ...]) -> PyTree:
        return forwards(args, moves, moving)

    @filter_custom_jvp
    def cotangents(ct: PyTree, args: tuple[Any, ...], *, moving: tuple[int, ...]) -> list[Array]:
        return backwards(ct, args, moving)

    @value.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moves = moving_leaves(tangents, primals)
        return value(*primals), tangent(primals, list(moves.values()), moving=tuple(moves))

    @tangent.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, moving: tuple[int, ...]) -> tuple[Any, Any]:
        return tangent(*primals, moving=moving), along_forwards(primals, tangents, moving)

    @tangent.def_transpose
    def _(ct: PyTree, args: tuple[Any, ...], moves: list[None], *, moving: tuple[int, ...]) -> list[Array]:
        return cotangents(ct, args, moving=moving)

    @cotangents.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, moving: tuple[int, ...]) -> tuple[Any, Any]:
        return cotangents(*primals, moving=moving), along_backwards(primals, tangents, moving)

    return value
