"""`Noise`, which makes a flow the Riemannian Langevin equation, what is checked beside it, its draws, and its steps."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from dlnjax._checks import as_key, as_positive, is_concrete, known, require
from dlnjax._results import code_of, RESULTS
from dlnjax._svd import SVD
from dlnjax._tree import is_key, where
from dlnjax._types import Matrix, Number, Scalar

# A gap between saved times that differs from a whole number of steps by less than this fraction of a step has that
# number of steps, each of length `dt`.
_WHOLE = 1e-6


def standard_normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, "..."]:
    """`jax.random.normal(key, shape, dtype)`, to the bit.

    The numbers are drawn in one row, and by themselves. In a loop over the last dimension of a small array, which XLA
    unrolls, the generator of JAX takes up to seven times as long to compile and twice as long to run
    (jax-ml/jax#37872), and XLA would repeat it in each of the computations that use the numbers.
    """
    return jax.lax.optimization_barrier(jax.random.normal(key, (math.prod(shape),), dtype)).reshape(shape)


class Noise(eqx.Module):
    """Noise for `gradient_flow` and `sweep`, which then solve the Riemannian Langevin equation

        dX = -grad E(X) dt + sqrt(2/beta) dB,    grad E = A_X(dE),

    where B is the Brownian motion of the metric of depth N, whose generator is half the Laplacian. With U and V the
    frame of X, and W a matrix of independent Brownian motions, its Ito form is

        dX = U (sqrt(2/beta) sqrt(lambda) o dW) V^T + (1/beta)(1 - 1/N) U diag(sigma^(1-2/N)) V^T dt - A_X(dE) dt.

    The density exp(-beta E) in the volume of the metric is stationary. With `gauge` the drift gains grad S/beta, where
    S is `entropy`: isotropic noise on the factors of a balanced network does so, and E becomes the free energy
    E - S/beta of (4.51), `FreeEnergy`. In `network_flow` the noise acts on the factors themselves.

    **Convention:** the temperature 1/beta multiplies the entropy, and is the same by the clock of this library and by
    that of the thesis, as both the drift and the squared noise are divided by N. Source of the equation: T. Yu,
    Riemannian Langevin Equation and Its Applications (dissertation, Brown University, 2024), with G. Menon. Where an
    author's noise is sqrt(1/beta) dB, the beta there is twice the one here.

    X is `m n`, of any rank r, which its paths keep: a thin `SVD` is a start of lower rank. Then the directions of U and
    V out of the column and the row space, whose rates are lambda too, move as in `gradient_flow`.

    **The integrator:** the singular values of a step without energy have the exact law at any `dt`. Frames, and all
    that an energy does, have errors of order dt^2 in law (of order dt at N = 1 where r < m or r < n, as two columns
    then turn relatively at no rate of their own). A step has one small decomposition without energy and two with one,
    and one more where X is not square of full rank. Where the force changes over a step by more than the step moves X,
    the path ends as `dt_too_long`.

    **Boundary:** at finite depth the least singular value of a square X of full rank is reflected at 0, and the
    determinant may change its sign: `stats["crossings"]` counts how often. At infinite depth it never does. Where X is
    not square or of lower rank, no singular value reaches 0.

    **Arguments:**

    - `key`: a key of `jax.random`. Step j draws from fold_in(key, j); in a sweep seed i has the key fold_in(key, i).
    - `beta`: the inverse temperature, a number or a traced array.
    - `dt`: the longest step. The gap between two saved times is cut into equal steps of at most `dt`. If each gap is a
      multiple of `dt`, a path does not depend on which times are saved.
    - `gauge`: whether the noise moves the gauge too, so that the entropy drives X.

    **Raises:** `ValueError` or `TypeError` for beta or dt not finite and above 0, and for what is not one key.

    **Example:**

        >>> noise = dln.Noise(jax.random.key(0), beta=10.0, dt=0.01)
        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, depth=2, ts=[0.0, 0.5, 1.0], noise=noise)
        >>> sol.x.shape, int(sol.stats["steps"])
        ((3, 2, 2), 100)
    """

    key: PRNGKeyArray
    beta: Float[Array, ""]
    dt: Float[Array, ""]
    gauge: bool = eqx.field(static=True)

    def __init__(self, key: PRNGKeyArray, beta: Number, dt: Number, gauge: bool = False):
        self.key = _as_one_key(key)
        self.beta = as_positive("beta", beta, "It is the inverse temperature; without noise, leave noise out.")
        self.dt = as_positive("dt", dt, "It is the longest step of the noise.")
        if not isinstance(gauge, (bool, np.bool_)):
            raise TypeError(f"gauge must be True or False, got {gauge!r}.")
        self.gauge = bool(gauge)


def _as_one_key(key: Any) -> Any:
    """One key, of the new kind."""
    key = as_key(key)
    typed = is_key(key)
    if key.ndim != (0 if typed else 1):
        raise ValueError(
            f"key must be one key, got an array of keys of shape {key.shape}: use jax.vmap over them, or dlnjax.sweep."
        )
    return key if typed else jax.random.wrap_key_data(key)


class Path(eqx.Module):
    """The last good state of a path at time `t`, how it has ended, and what was counted."""

    state: PyTree
    t: Scalar
    code: RESULTS
    steps: Int[Array, ""]
    crossings: Int[Array, ""]

    def advanced(
        self, state: PyTree, h: Scalar, crossed: Bool[Array, ""], *, too_long: Bool[Array, ""], large: Bool[Array, ""]
    ) -> "Path":
        """The path after one more step of length `h`, to `state`, or as it is if it has ended.

        The path ends where the step was `too_long`, or where X is too `large` for the floats.
        """
        active = self.code.code == 0
        good = active & ~too_long & ~large
        code = code_of((too_long, RESULTS.dt_too_long), (large, RESULTS.diverged))
        return Path(
            state=where(good, state, self.state),
            t=jnp.where(good, self.t + h, self.t),
            code=RESULTS.where(active, code, self.code),
            steps=self.steps + good.astype(int),
            crossings=self.crossings + (good & crossed).astype(int),
        )


class Free(eqx.Module):
    """The energy 0, which stands for `energy=None`: with noise the flow is Brownian motion."""

    @property
    def energy_name(self) -> str:
        return "none"

    def __call__(self, x: Matrix) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    def gradient(self, x: Matrix) -> Matrix:
        return jnp.zeros_like(x)

    def pullback(self, point: SVD) -> Float[Array, "r r"]:
        return jnp.zeros((len(point.sigma), len(point.sigma)), point.sigma.dtype)

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        return jnp.zeros_like(point.u), jnp.zeros_like(point.v)

    def at(self, point: SVD) -> Float[Array, ""]:
        return jnp.zeros((), point.sigma.dtype)


def with_noise(energy: Any, noise: Any, **given: Any) -> Any:
    """The energy, or `Free` for None, after the checks of `noise` and of what is `given` beside it as (value, default).

    **Raises:** `TypeError` for what is no `Noise`, or no energy without noise; `ValueError` for options without meaning
    beside noise.
    """
    if noise is None:
        if energy is None:
            raise TypeError(
                "energy must be a callable X -> scalar, got None. Brownian motion needs noise=dlnjax.Noise."
            )
        return energy
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be dlnjax.Noise(key, beta, dt) or None, got {noise!r}.")
    unused = [name for name, (value, default) in given.items() if not _is_default(value, default)]
    if unused:
        raise ValueError(
            f"{', '.join(unused)} has no meaning beside noise, whose steps are of length dt: leave one out."
        )
    return Free() if energy is None else energy


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, (int, float, str)) and value == default)


def cut(ts: Float[Array, " ts"], dt: Float[Array, ""]) -> tuple[Any, Any]:
    """(the number of steps in each gap between two times, their length), both in NumPy if the arguments are concrete.

    A gap that is a multiple of `dt` has steps of exactly this length, so that the length does not depend on the gap.
    """
    ts, dt = known(ts), known(dt)
    xp = jnp if not (is_concrete(ts) and is_concrete(dt)) else np
    gap = ts[1:] - ts[:-1]
    whole = xp.round(gap / dt)
    is_whole = xp.abs(gap / dt - whole) <= _WHOLE * xp.maximum(whole, 1)
    n = xp.where(is_whole, whole, xp.ceil(gap / dt))
    h = xp.where(is_whole, dt, gap / xp.maximum(n, 1))
    return n.astype(int), h.astype(ts.dtype)


def most_steps(ts: Float[Array, " ts"], dt: Float[Array, ""]) -> int | None:
    """The largest number of steps in a gap between two times, or None where it is not known yet."""
    counts, _ = cut(ts, dt)
    return int(np.max(counts)) if is_concrete(counts) else None


def check_steps(ts: Array, dt: Array, max_steps: Any) -> Array:
    """`ts`, or an error if the path would need more than `max_steps` steps."""
    times, step = known(ts), known(dt)
    total = ((times[-1] - times[0]) / step).sum()
    shown = f", about {float(total):.0f}" if is_concrete(total) else ""
    message = f"ts needs more steps of length dt than max_steps{shown}: raise dt or max_steps."
    return require(ts, ~(total <= known(max_steps) + 1), message)
