"""Solvers of diffrax that a user gives: the tolerances of their root finders, and what they compute."""

import dataclasses
from numbers import Number
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from dlnjax._traced import Traced
from dlnjax._tree import ravel
from dlnjax._types import Scalar


def with_tolerances(solver: diffrax.AbstractSolver, rtol: Scalar, atol: Scalar) -> diffrax.AbstractSolver:
    """The solver, with tolerances for its root finder if the solver is implicit and its root finder has none.

    `diffrax.diffeqsolve` takes these tolerances from its step size controller. Our controller gets the error as one
    number in units of the tolerance, and so has no tolerances to take.
    """
    if not isinstance(solver, diffrax.AbstractImplicitSolver) or isinstance(solver.root_finder.rtol, Number):
        return solver
    norm = lambda y: jnp.max(jnp.abs(ravel(y)[0]))
    root_finder = dataclasses.replace(solver.root_finder, rtol=rtol, atol=atol, norm=norm)
    return eqx.tree_at(lambda s: s.root_finder, solver, root_finder)


def program_of(solver: Any) -> str | None:
    """The checksum of a step of a solver that is no class of diffrax, and None for one that is.

    JAX keeps compiled programs by the class and the fields of a solver, as by those of a kernel: see `_recorded.py`.
    """
    if solver is None or type(solver).__module__.partition(".")[0] in ("diffrax", "dlnjax"):
        return None
    terms = diffrax.ODETerm(lambda t, y, args: jnp.sin(y))

    def step(t: Scalar, y: Array, tolerance: Scalar) -> Any:
        complete = with_tolerances(solver, tolerance, tolerance)
        memory = complete.init(terms, t, t + 1, y, None)
        return complete.step(terms, t, t + 1, y, None, memory, made_jump=True)[:2]

    return Traced.of(step, jnp.zeros(()), jnp.ones(3), jnp.ones(())).checksum()
