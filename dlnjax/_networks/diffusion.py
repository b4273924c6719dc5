"""Isotropic noise on the factors of a balanced network: one step, and the loop over the steps.

The balanced factors are W_p = Q_p diag(s) Q_(p-1)^T, p = 1 .. N, with rotations Q_0, ..., Q_N and s = sigma^(1/N). They
are a surface in the space of all factors, on which the equation

    dW_p = -(1/N) dL/dW_p dt + sqrt(2/(N beta)) dB_p

holds with the Brownian motion B of this surface. A step adds Gaussian noise in the tangent space, and goes back to the
nearest point of the surface. To second order the way back is along the normals, (S_p W_p - W_p S_(p-1))_p with
symmetric S_p, S_0 = S_N = 0, so that the step has the mean of Ito's formula. Noise that is not tangent, and is taken
back along the fibre of the product X, has another mean.

All is done in the frame of the factors, where they are diag(s). There a motion Z_p of the factors is tangent if

    Z_p = Y + A_p diag(s) - diag(s) A_(p-1)

with one symmetric Y for all layers and antisymmetric A_p, the angles by which the Q_p turn. For a pair (k, l) the
normal equations of A_0, ..., A_N are a tridiagonal system with constant diagonals, which cosines solve, see `angles`.
In the first cosine, a turn by the same angle in every layer, the equations are singular where s_k = s_l. Y has this
motion already, and the first cosine is left out, so that nothing is singular where singular values meet.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from dlnjax._checks import is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._lapack import solve_linear
from dlnjax._networks.chain import layers_of, widths_of
from dlnjax._noise import cut, Free, Noise, Path, standard_normal
from dlnjax._protocol import pullback
from dlnjax._results import code_of, RESULTS
from dlnjax._svd import eigh, orthogonalise, singular_to_rounding, SVD, svd, values_at_the_door
from dlnjax._tree import all_finite, norm, positive, power_of_two, side_of_zero
from dlnjax._types import Scalar, Square, Stack, Weights

# The way back to the balanced factors is a Newton iteration in the angles that leaves out the normal part of the step,
# which is of order h. Each round multiplies the error, of order h at first, by a factor of this order.
_ROUNDS = 3

Saved: TypeAlias = Float[Array, "ts N d d"]


class Frames(eqx.Module):
    """Balanced factors W_p = Q_p diag(s) Q_(p-1)^T."""

    q: Float[Array, "frames d d"]
    s: Float[Array, " d"]

    @property
    def weights(self) -> Stack:
        return (self.q[1:] * self.s) @ _t(self.q[:-1])

    def seen(self, motion: Stack) -> Stack:
        """A motion of the factors as seen from the frames."""
        return _t(self.q[1:]) @ motion @ self.q[:-1]


class Diffusion(eqx.Module):
    """The equation of one path."""

    energy: Callable
    beta: Scalar

    @property
    def driven(self) -> bool:
        """Whether there is a force."""
        return not isinstance(self.energy, Free)

    def force(self, state: Frames) -> Stack:
        """-(1/N) dL/dW_p = -(1/N) Q_p diag(s)^(N-p) (Q_N^T dE Q_0) diag(s)^(p-1) Q_(p-1)^T.

        It is tangent to the balanced factors.
        The frames are those of X, whose values s^N keep their relative accuracy. A decomposition of X would lose those
        below rounding, and many energies of singular values have no slope at 0.
        """
        depth = len(state.q) - 1
        slope = pullback(self.energy, SVD(state.q[-1], state.s**depth, state.q[0]))
        seen = jnp.stack([state.s[:, None] ** (depth - p) * slope * state.s ** (p - 1) for p in range(1, depth + 1)])
        return -state.q[1:] @ seen @ _t(state.q[:-1]) / depth

    def step(self, state: Frames, h: Scalar, key: PRNGKeyArray) -> tuple[Frames, Bool[Array, ""], Bool[Array, ""]]:
        """(the state after a step, whether the determinant of X changed its sign, whether `h` is too long).

        The force acts by Heun's method.
        """
        layers = state.q[1:]
        size = jnp.sqrt(2 * h / (len(layers) * self.beta))
        noise = size * standard_normal(key, layers.shape, layers.dtype)
        if not self.driven:
            return *moved(state, noise), jnp.asarray(False)
        force = self.force(state)
        guess, _ = moved(state, noise + h * force)
        there = self.force(guess)
        # The rule of `dt_too_long` is that of the noise downstairs: h times the stiffness is above 1.
        far = jnp.maximum(norm(noise + h * force), size * noise.size**0.5)
        coarse = norm(h * (there - force)) > far + jnp.finfo(h.dtype).eps ** 0.5 * norm(state.s)
        return *moved(state, noise + h / 2 * (force + there)), coarse


def moved(state: Frames, motion: Stack) -> tuple[Frames, Bool[Array, ""]]:
    """(the balanced factors nearest to `state` plus the tangent part of `motion`, whether det X changed its sign)."""
    m = jnp.diag(state.s) + tangent_part(state.s, state.seen(motion))

    def towards(_: Any, carry: tuple[Frames, Stack]) -> tuple[Frames, Stack]:
        state, m = carry
        turn = _cayley(angles(state.s, m))
        m = _t(turn[1:]) @ m @ turn[:-1]
        s, p = eigh(_symmetric(jnp.mean(m, axis=0)))
        return Frames(state.q @ turn @ p, s), p.T @ m @ p

    out, _ = jax.lax.fori_loop(0, _ROUNDS, towards, (state, m))
    return _reflected(jax.vmap(orthogonalise)(out.q), out.s)


def _reflected(q: Float[Array, "frames d d"], s: Float[Array, " d"]) -> tuple[Frames, Bool[Array, ""]]:
    """(the state with s >= 0, whether the determinant of X changed its sign).

    Where s_k reaches 0, several sheets of the balanced factors meet, since the k-th mode of each layer may change its
    sign alone. Noise leaves along each sheet with the same probability, and X has either sign on half of them. The sign
    of X is then as independent of its past as that of a Brownian motion of the line, which passes through 0. The law of
    X is therefore that of paths on which X always passes through 0, as downstairs. If the modes of all layers changed
    their sign, X would do so at odd N alone. At even N, the mode of the last layer keeps its sign.
    """
    sign = side_of_zero(s)
    last = len(q) - 1
    turns = (np.arange(last + 1) % 2 == 1) | (np.arange(last + 1) == last)
    return Frames(jnp.where(turns[:, None, None], q * sign, q), jnp.abs(s)), jnp.prod(sign) < 0


def tangent_part(s: Float[Array, " d"], z: Stack) -> Stack:
    """The part of a motion that is tangent to the balanced factors, as both are seen from the frames."""
    a = angles(s, z)
    return _symmetric(jnp.mean(z, axis=0)) + a[1:] * s - s[:, None] * a[:-1]


def angles(s: Float[Array, " d"], z: Stack) -> Float[Array, "N+1 d d"]:
    """The angles of the tangent part of a motion. With C_p the antisymmetric part of (Z_p + Z_(p+1)^T) diag(s),

        w_p (s_k^2 + s_l^2) A_p - s_k s_l (A_(p-1) + A_(p+1)) = C_p,    w_0 = w_N = 1/2, else w_p = 1,

    entry by entry, where Z_0, Z_(N+1), A_(-1) and A_(N+1) are 0. The eigenvectors of the system, relative to w, are the
    cosines of pi j p/N, of which j = 0 is left out.
    """
    depth = len(z)
    j, p = np.arange(1, depth + 1), np.arange(depth + 1)
    cosines = np.cos(np.pi * j[:, None] * p / depth) / np.sqrt(np.where(j < depth, depth / 2, depth))[:, None]
    cosines, bend = jnp.asarray(cosines, z.dtype), jnp.asarray(2 * np.cos(np.pi * j / depth), z.dtype)
    # Both sides are divided by the square of the largest s, which may be beyond the floats.
    unit = power_of_two(jnp.max(jnp.abs(s)))
    s, z = s / unit, z / unit
    slopes = jnp.pad(z * s, ((1, 0), (0, 0), (0, 0))) + jnp.pad(_t(z) * s, ((0, 1), (0, 0), (0, 0)))
    c = (slopes - _t(slopes)) / 2
    # The denominator is 0 where both values are, and there no angle moves the factors.
    solved = jnp.einsum("jp,pkl->jkl", cosines, c) / positive(
        s[:, None] ** 2 + s**2 - bend[:, None, None] * s[:, None] * s
    )
    return jnp.einsum("jp,jkl->pkl", cosines, solved)


def _cayley(a: Float[Array, "n d d"]) -> Float[Array, "n d d"]:
    """(1 - a/2)^(-1) (1 + a/2), a rotation for every antisymmetric a, and exp(a) to second order."""
    one = jnp.eye(a.shape[-1], dtype=a.dtype)
    return solve_linear(one - a / 2, one + a / 2)


def _symmetric(z: Square) -> Square:
    return (z + z.T) / 2


def _t(z: Array) -> Array:
    return jnp.swapaxes(z, -1, -2)


def enter(weights: Stack) -> Frames:
    """The frames of balanced factors: each Q_p is the orthogonal factor of the polar decomposition of W_p Q_(p-1)."""
    first = svd(weights[0])

    def above(q: Square, w: Square) -> tuple[Square, Square]:
        polar = svd(w @ q)
        q = polar.u @ polar.v.T
        return q, q

    _, rest = jax.lax.scan(above, first.u, weights[1:])
    frames = Frames(jnp.concatenate([first.v[None], first.u[None], rest]), first.sigma)
    return Frames(frames.q, jnp.diagonal(jnp.mean(frames.seen(weights), axis=0)))


def check_diffusion(weights: Weights, noise: Noise) -> Stack:
    """The factors as a stack, if noise on them has a meaning here.

    **Raises:** `ValueError` for `gauge`, for layers of different widths, and for factors that are not balanced or are
    singular.
    """
    if noise.gauge:
        raise ValueError(
            "gauge has no meaning in network_flow, got True: noise on the factors moves the gauge in any case, and the "
            "law of their product is that of gradient_flow with gauge=True. Leave it out here."
        )
    widths = widths_of(weights)
    if len(set(widths)) > 1:
        raise ValueError(f"noise on the factors is there for layers of one width, N matrices d x d, got {widths}.")
    concrete = all(map(is_concrete, jax.tree.leaves(weights)))
    xp: Any = np if concrete else jnp
    stack = xp.stack([known(w) for w in layers_of(weights)]) if isinstance(weights, tuple) else known(weights)
    size = abs(stack).max()
    unit = stack / (size + (size == 0).astype(stack.dtype))
    lower, upper = unit[:-1], unit[1:]
    imbalance = abs(lower @ lower.swapaxes(-1, -2) - upper.swapaxes(-1, -2) @ upper).max(initial=0)
    # Factors from `balance` are balanced to about 1e-12, and farther in float32.
    shown = f", of {imbalance:.1e} in units of the largest entry squared" if concrete else ""
    message = (
        f"noise keeps factors balanced, and these have an imbalance{shown}: start from dlnjax.balanced_factors(x, N) "
        "or dlnjax.balance(weights)."
    )
    stack = require(stack, imbalance > np.finfo(stack.dtype).eps ** 0.5, message)
    values = values_at_the_door(unit[0])
    singular = singular_to_rounding(values, len(values))
    message = "noise on the factors needs a product of full rank, and it is singular: start nearby instead."
    return jnp.asarray(require(stack, singular & (len(stack) > 1), message))


@filter_custom_jvp
def diffuse(energy: Callable, weights: Stack, noise: Noise, ts: Float[Array, " ts"]) -> tuple[Saved, Path]:
    """(the factors at each of `ts`, the path at its end)."""
    return _diffuse(energy, weights, noise, ts)


@diffuse.def_jvp
def _diffuse_jvp(primals: Any, tangents: Any):
    raise TypeError(
        "a path of network_flow with noise has no derivative: take that of gradient_flow with noise, gauge=True."
    )


@compiled
def _diffuse(energy: Callable, weights: Stack, noise: Noise, ts: Float[Array, " ts"]) -> tuple[Saved, Path]:
    dtype = weights.dtype
    equation = Diffusion(energy, noise.beta.astype(dtype))
    counts, lengths = (jnp.asarray(x) for x in cut(ts, noise.dt.astype(dtype)))

    def gap(path: Path, each: tuple[Array, Array, Array, Array]) -> tuple[Path, Stack]:
        n, first, h, end = each
        one = lambda j, path: _advanced(equation, path, h, jax.random.fold_in(noise.key, first + j))
        path = jax.lax.fori_loop(0, n, one, path)
        path = eqx.tree_at(lambda p: p.t, path, jnp.where(path.code.code == 0, end, path.t))
        return path, path.state.weights

    state, zero = enter(weights), jnp.array(0)
    code = code_of((~all_finite(state), RESULTS.non_finite))
    firsts = jnp.cumsum(counts) - counts
    last, saved = jax.lax.scan(gap, Path(state, ts[0], code, zero, zero), (counts, firsts, lengths, ts[1:]))
    return jnp.concatenate([weights[None], saved]), last


def _advanced(equation: Diffusion, path: Path, h: Scalar, key: PRNGKeyArray) -> Path:
    """The path after one more step, or as it is if it has ended."""
    state, crossed, coarse = equation.step(path.state, h, key)
    finite = all_finite(state)
    large = (len(state.q) - 1) * jnp.log(jnp.max(state.s)) >= jnp.log(jnp.finfo(h.dtype).max)
    return path.advanced(state, h, crossed, too_long=coarse | ~finite, large=large)
