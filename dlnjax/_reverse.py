"""Programs whose transpose, which reverse mode runs, is a program of the library too.

JAX makes two programs of a function that `jax.grad` differentiates, and refuses the options of the library for both. A
function that takes long to compile is therefore differentiated here: by a program for its tangents, which forward mode
runs, and by one for its cotangents.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp, leaves_of_tangent


def compiled_both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled(f)` for a function that returns floating-point arrays, with programs of their own for both modes.

    The program of reverse mode computes `f` once more, so that nothing is kept from the value for it.
    """
    run = compiled(f)

    @compiled
    def forwards(args: tuple[Any, ...], moves: list[Array], moving: tuple[int, ...]) -> Any:
        return eqx.filter_jvp(f, args, _tangents(args, moves, moving))[1]

    @compiled
    def backwards(ct: Any, args: tuple[Any, ...], moving: tuple[int, ...]) -> list[Array]:
        leaves, tree = jax.tree.flatten(args)

        def of(moved: list[Array]) -> Any:
            there = dict(zip(moving, moved, strict=True))
            return f(*jax.tree.unflatten(tree, [there.get(i, x) for i, x in enumerate(leaves)]))

        return jax.vjp(of, [leaves[i] for i in moving])[1](ct)[0]

    @filter_custom_jvp
    def value(*args: Any) -> Any:
        return run(*args)

    @filter_custom_jvp
    def tangent(args: tuple[Any, ...], moves: list[Array], *, moving: tuple[int, ...]) -> Any:
        return forwards(args, moves, moving)

    @value.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moves = {i: dx for i, dx in enumerate(leaves_of_tangent(tangents, primals)) if dx is not None}
        return value(*primals), tangent(primals, list(moves.values()), moving=tuple(moves))

    @tangent.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, moving: tuple[int, ...]) -> tuple[Any, Any]:
        of = lambda args, moves: forwards(args, moves, moving)
        return tangent(*primals, moving=moving), eqx.filter_jvp(of, primals, tangents)[1]

    @tangent.def_transpose
    def _(ct: Any, args: tuple[Any, ...], moves: list[None], *, moving: tuple[int, ...]) -> list[Array]:
        return backwards(ct, args, moving)

    return value


def _tangents(args: PyTree, moves: list[Array], moving: tuple[int, ...]) -> PyTree:
    """The tangent of `args` whose leaves of the numbers `moving` are `moves`, and which is None elsewhere."""
    leaves, tree = jax.tree.flatten(args)
    there = dict(zip(moving, moves, strict=True))
    return jax.tree.unflatten(tree, [there.get(i) for i in range(len(leaves))])
