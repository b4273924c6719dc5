"""How the length of a geodesic between fixed ends changes with the kernel. The module `connection` calls this one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geodesics.dopri8 import solve
from dlnjax._geodesics.exponential import orthonormal
from dlnjax._geodesics.hamiltonian import velocity, velocity_in_frame
from dlnjax._geodesics.jacobi import directions
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import form_by_kernel, into, out_of
from dlnjax._svd import svd
from dlnjax._tree import instantiate, nan_unless, positive, ravel
from dlnjax._types import Scalar, Square

# The largest number of steps of the solver. The geodesic is known, and was found with fewer.
_MOST_STEPS = 4096


@filter_custom_jvp
def slope_by_kernel(x: Square, p: Square, kernel: Kernel, *, rtol: Scalar) -> Float[Array, " k"]:
    """The integral of dH/dkernel along the geodesic from X with the momentum P, for each number of the kernel.

    It is a part of the state of the solver, whose steps are short where it changes fast. Near singular matrices fixed
    nodes would miss that.
    """
    w, ts = orthonormal(x, p, kernel), jnp.array([0.0, 1.0], x.dtype)
    # Of the size of the energy, so that errors count relative to it, and not to a sum that may be 0.
    offset = jnp.full((ravel(kernel)[0].size, 1, 1), positive(jnp.sum(jax.lax.stop_gradient(w) ** 2)))

    def rates(state: Any) -> Any:
        x, w, _ = state
        point = svd(x)
        inside = into(point, w)
        moved, turned = velocity_in_frame(point.sigma, inside, kernel)
        squares = inside**2 / kernel.eigenvalues(point.sigma)
        slopes = eqx.filter_grad(lambda k: jnp.sum(squares * k.eigenvalues(point.sigma)) / 2)(kernel)
        return out_of(point, moved), out_of(point, turned), ravel(slopes)[0][:, None, None]

    end = solve(rates, (x, w, offset), ts, rtol, max_steps=_MOST_STEPS).saved[2][-1]
    return nan_unless(jnp.all(jnp.isfinite(end)), (end - offset).ravel())


@slope_by_kernel.def_jvp
def _slope_by_kernel_jvp(
    primals: tuple[Square, Square, Kernel], tangents: tuple[Square | None, Square | None, PyTree], *, rtol: Scalar
):
    """The derivative by Jacobi fields, in a matrix that multiplies the tangents, as that of `geodesic_flow`.

    That of the loop of the solver has errors of the size of its steps, and has no transpose.
    """
    moved, _ = ravel(instantiate(tangents, primals))
    return slope_by_kernel(*primals, rtol=rtol), _jacobian(*primals, rtol) @ moved


def _jacobian(x: Square, p: Square, kernel: Kernel, rtol: Scalar) -> Float[Array, "k m"]:
    """The derivatives of `slope_by_kernel` in X, P and the numbers of the kernel."""
    numbers, kernel_of = ravel(kernel, x.dtype)
    dx, dp, dk = directions(x, len(numbers))
    offset = jnp.full((len(dx), 1, len(numbers)), positive(jnp.sum(orthonormal(x, p, kernel) ** 2)))

    def flow(x: Square, p: Square, numbers: Float[Array, " k"]) -> Any:
        kernel = kernel_of(numbers)
        slopes = ravel(form_by_kernel(x, p, p, kernel, power=1))[0] / 2
        return *velocity(x, p, kernel), slopes[None]

    def rates(state: Any) -> Any:
        x, p, dx, dp, _ = state
        along = lambda *direction: jax.jvp(flow, (x, p, numbers), direction)
        (x, p, _), moved = jax.vmap(along, out_axes=(None, 0))(dx, dp, dk)
        return x, p, *moved

    ts = jnp.array([0.0, 1.0], x.dtype)
    end = solve(rates, (x, p, dx, dp, offset), ts, rtol, max_steps=_MOST_STEPS).saved[4][-1]
    return (end - offset)[:, 0].T
