"""Programs whose transpose, which reverse mode runs, is a program of the library too.

JAX makes two programs of a function that `jax.grad` differentiates, and refuses the options of the library for both. A
function that takes long to compile is therefore differentiated here: by a program for its tangents, which forward mode
runs, and by one for its cotangents.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp, moving_leaves, tangent_of


def compiled_both_ways(f: Callable[..., Any]) -> Callable[..., Any]:
    """`compiled(f)` for a function that returns floating-point arrays, with programs of their own for both modes.

    The program of reverse mode computes `f` once more, so that nothing is kept from the value for it.
    """
    run = compiled(f)

    @compiled
    def forwards(args: tuple[Any, ...], moves: list[Array], moving: tuple[int, ...]) -> Any:
        return eqx.filter_jvp(f, args, tangent_of(args, dict(zip(moving, moves, strict=True))))[1]

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
        moves = moving_leaves(tangents, primals)
        return value(*primals), tangent(primals, list(moves.values()), moving=tuple(moves))

    @tangent.def_jvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, moving: tuple[int, ...]) -> tuple[Any, Any]:
        of = lambda args, moves: forwards(args, moves, moving)
        return tangent(*primals, moving=moving), eqx.filter_jvp(of, primals, tangents)[1]

    @tangent.def_transpose
    def _(ct: Any, args: tuple[Any, ...], moves: list[None], *, moving: tuple[int, ...]) -> list[Array]:
        return backwards(ct, args, moving)

    return value
