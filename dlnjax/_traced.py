"""A user's function, traced anew at each call, so that the numbers that it closes over are always the current ones.

`jax.jit` reads the globals, attributes and arrays that a function closes over once, when it compiles the function. It
does not see a number that changes later. Here the function is traced anew at each call, which runs nothing. Arrays that
the function closes over become arguments of the compiled program. Python numbers stand in the text of the program, and
two programs are equal if their texts are. A changed number is therefore seen, a tracer that the function closes over
gets its derivative, and the same lambda typed again is not compiled again.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jaxtyping import PyTree

from dlnjax._checks import is_concrete
from dlnjax._custom_jvp import is_of_known_classes
from dlnjax._protocol import gradient, name_of, pullback, sides, value
from dlnjax._svd import SVD, svd, truncated
from dlnjax._tree import is_key
from dlnjax._types import Matrix


class Program:
    """The instructions of a function. Two are equal if their texts are, constants of inner functions included, and if
    they call the same functions of Python, as by `jax.pure_callback`. The text has only the names of these.
    """

    def __init__(self, jaxpr: Jaxpr, returns: Any):
        self.jaxpr = jaxpr
        self.returns = returns
        # Addresses are removed from the text, since they differ between two equal functions.
        self.text = re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr)), str(returns), tuple(_inner_constants(jaxpr))
        self.callbacks = tuple(_callbacks(jaxpr))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.text == other.text and self.callbacks == other.callbacks

    def __hash__(self) -> int:
        return hash(self.text)


def _inner_constants(jaxpr: Jaxpr):
    """The constants of the functions called inside, as bytes."""
    for equation in _equations(jaxpr):
        for inner in _called(equation):
            for constant in getattr(inner, "consts", ()):
                yield _content(constant)


def _content(x: Any) -> Any:
    """The bytes of an array. A tracer gives its `id`, so that it equals only itself."""
    if not is_concrete(x):
        return id(x)
    if is_key(x):
        return str(x.dtype), np.asarray(jax.random.key_data(x)).tobytes()
    return np.asarray(x).tobytes()


def _callbacks(jaxpr: Jaxpr) -> list[Any]:
    """The functions of Python that a program calls."""
    return [equation.params["callback"] for equation in _equations(jaxpr) if "callback" in equation.params]


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """The instructions of a program, and of the programs that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in _called(equation):
            yield from _equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


def _called(equation: Any) -> list[ClosedJaxpr | Jaxpr]:
    """The programs that an instruction calls."""
    leaves = jax.tree.leaves(equation.params, is_leaf=lambda leaf: isinstance(leaf, ClosedJaxpr))
    return [leaf for leaf in leaves if isinstance(leaf, ClosedJaxpr | Jaxpr)]


class Traced(eqx.Module):
    """A function as its program and the arrays that it closes over."""

    constants: tuple[Any, ...]
    program: Program = eqx.field(static=True)

    @classmethod
    def of(cls, f: Callable[..., Any], *arguments: PyTree) -> "Traced":
        """The function `f`, for arguments of the shapes of these."""
        # The lambda is a new object at each call. JAX keeps what it has traced, and would find the old program under
        # the same object.
        closed, shape = jax.make_jaxpr(lambda *arguments: f(*arguments), return_shape=True)(*arguments)
        return cls(tuple(map(jnp.asarray, closed.consts)), Program(closed.jaxpr, jax.tree.structure(shape)))

    def returned(self) -> PyTree:
        """The shapes and types of what the function returns."""
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.weak_type)
        return jax.tree.unflatten(self.program.returns, [shape(v.aval) for v in self.program.jaxpr.outvars])

    def checksum(self) -> str:
        """That of the program and the arrays. Functions of Python are in it by their names only."""
        arrays = [(x.shape, _content(x)) for x in self.constants]
        return hashlib.sha256(repr((self.program.text, arrays)).encode()).hexdigest()

    def __call__(self, *arguments: PyTree) -> Any:
        run = jaxpr_as_fun(ClosedJaxpr(self.program.jaxpr, self.constants))
        # JAX returns a constant of the program as a number of Python.
        return jax.tree.unflatten(self.program.returns, map(jnp.asarray, run(*jax.tree.leaves(arguments))))


def checksums(tree: Any) -> list[str]:
    """Those of all functions in a tree that are traced."""
    parts = jax.tree.leaves(tree, is_leaf=lambda part: isinstance(part, Traced))
    return [part.checksum() for part in parts if isinstance(part, Traced)]


class TracedEnergy(eqx.Module):
    """An energy, held as programs for its value, its gradient and, if it has them, `at`, `pullback` and `sides`."""

    arrays: PyTree
    value: Traced
    value_at: Traced | None
    slope: Traced
    slope_in_frame: Traced | None
    slope_on_sides: Traced | None
    # The name of the energy in a saved solution.
    energy_name: str = eqx.field(static=True)

    def __call__(self, x: Matrix):
        return self.value(self.arrays, x)

    def at(self, point: SVD):
        return self(point.matrix) if self.value_at is None else self.value_at(self.arrays, point)

    def gradient(self, x: Matrix):
        return self.slope(self.arrays, x)

    def pullback(self, point: SVD):
        if self.slope_in_frame is None:
            return point.u.T @ self.sides(point)[0]
        return self.slope_in_frame(self.arrays, point)

    def sides(self, point: SVD):
        if self.slope_on_sides is None:
            slope = self.gradient(point.matrix)
            return slope @ point.v, slope.T @ point.u
        return self.slope_on_sides(self.arrays, point)


def traced_energy(energy: Callable, shape: tuple[int, ...], dtype: Any, rank: int | None = None) -> Callable:
    """The energy, traced with its current numbers, for matrices of this shape with `rank` singular values, or with all.

    An energy that closes over nothing is returned as it is. The energies of this library are such energies.
    """
    if _closes_over_nothing(energy):
        return energy
    arrays, rest = eqx.partition(energy, eqx.is_array)
    x = jax.ShapeDtypeStruct(shape, dtype)
    point = jax.eval_shape(lambda x: truncated(svd(x), rank), x)
    whole = lambda arrays: eqx.combine(arrays, rest)
    offers = lambda name: hasattr(energy, name)
    return TracedEnergy(
        arrays,
        Traced.of(lambda arrays, x: whole(arrays)(x), arrays, x),
        Traced.of(lambda arrays, point: value(whole(arrays), point), arrays, point) if offers("at") else None,
        # The gradient is traced as well, since the rule of a custom derivative is not in the text of the value.
        Traced.of(lambda arrays, x: gradient(whole(arrays), x), arrays, x),
        Traced.of(lambda arrays, point: pullback(whole(arrays), point), arrays, point) if offers("pullback") else None,
        Traced.of(lambda arrays, point: sides(whole(arrays), point), arrays, point) if offers("sides") else None,
        name_of(energy),
    )


def traced_energies(
    own: PyTree, shared: PyTree, shape: tuple[int, ...], dtype: Any, rank: int
) -> tuple[PyTree, PyTree]:
    """(own, shared) of the energies of a sweep, traced with their current numbers.

    Each flow has its own row of `own`.
    """
    first = traced_energy(eqx.combine(jax.tree.map(lambda x: x[0], own), shared), shape, dtype, rank)
    if not isinstance(first, TracedEnergy):
        return own, shared
    arrays = lambda tree: eqx.filter(tree, eqx.is_array)
    none = lambda leaf: leaf is None
    nothing = jax.tree.map(lambda _: None, first)
    with_rows = eqx.tree_at(lambda e: e.arrays, nothing, arrays(own), is_leaf=none)
    return with_rows, eqx.tree_at(lambda e: e.arrays, first, arrays(shared), is_leaf=none)


def _closes_over_nothing(energy: Any) -> bool:
    """Whether an energy depends on its arrays only."""
    return all(map(eqx.is_array, jax.tree.leaves(energy))) and is_of_known_classes(energy, recorded=False)
