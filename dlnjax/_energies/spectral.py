"""Energies of the singular values alone, and the free energy.

The gradient of f(sigma(X)) is U diag(f') V^T, and its derivative is a divided difference of f' in the frame (Lewis and
Sendov, SIAM J. Matrix Anal. Appl. 23, 2001). Both are given here in closed form: autodiff of a decomposition divides by
the gaps between singular values, where the divided difference has a limit.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_positive, shape_of
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry.depth import as_it_is, as_kernel, Depth
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.special import divided_difference
from dlnjax._protocol import gradient, pullback, sides, value
from dlnjax._scale import along_slope
from dlnjax._svd import apart_or_nan, plain_point, SVD, svd
from dlnjax._tree import is_perturbed, positive, side_of_zero
from dlnjax._types import Energy, Matrix, Number


@filter_custom_jvp
def _isospectral(f: Callable, x: Matrix):
    """U diag(f(sigma)) V^T, for a function f: `r` -> `r` that commutes with permutations."""
    point = svd(x)
    return (point.u * f(point.sigma)[None, :]) @ point.v.T


@_isospectral.def_jvp
def _isospectral_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    f, x = primals
    df, dx = tangents
    # The third derivative of an energy by this frame would be wrong where singular values repeat. It is NaN.
    point = plain_point(x)
    u, sigma, v = point.u, point.sigma, point.v
    values = f(sigma)
    dx = jnp.zeros_like(x) if dx is None else dx
    m = u.T @ dx @ v
    dvalues = eqx.filter_jvp(lambda f, s: f(s), (f, sigma), (df, jnp.diagonal(m)))[1]
    dvalues = jnp.zeros_like(sigma) if dvalues is None else dvalues
    jacobian = jax.jacfwd(f)(sigma)
    slope = divided_difference(values, jnp.diagonal(jacobian)[:, None] - jacobian, sigma)
    total = sigma[:, None] + sigma[None, :]
    # The quotient is 0/0 at a pair of zeros. If f is odd, its limit there is f'(0), as that of the divided difference.
    mean = jnp.where(total > 0, (values[:, None] + values[None, :]) / positive(total), slope)
    tangent = slope * (m + m.T) / 2 + mean * (m - m.T) / 2
    tangent = jnp.where(jnp.eye(len(sigma), dtype=bool), jnp.diag(dvalues), tangent)
    tangent = u @ tangent @ v.T
    # A motion out of a thin frame pairs sigma_k with a singular value 0. Both quotients are then f(sigma_k)/sigma_k.
    ratio = jnp.where(sigma > 0, values / positive(sigma), jnp.diagonal(jacobian))
    if u.shape[0] > u.shape[1]:
        tangent = tangent + ((dx @ v - u @ m) * ratio[None, :]) @ v.T
    if v.shape[0] > v.shape[1]:
        tangent = tangent + u @ ((dx.T @ u - v @ m.T) * ratio[None, :]).T
    # At a singular value 0 with f(0) other than 0, the function of X jumps.
    jumps = jnp.any((sigma == 0) & (values != 0))
    return (u * values[None, :]) @ v.T, tangent * jnp.where(jumps, jnp.nan, 1.0)


@filter_custom_jvp
def _of_singular_values(f: Callable, x: Matrix):
    return f(svd(x).sigma)


@_of_singular_values.def_jvp
def _of_singular_values_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    f, x = primals
    df, dx = tangents
    sigma = svd(x).sigma
    value, tangent = f(sigma), jnp.zeros((), x.dtype)
    if dx is not None:
        tangent += jnp.sum(_isospectral(_Gradient(f), x) * dx)
    if is_perturbed(df):
        tangent += eqx.filter_jvp(lambda f: f(sigma), (f,), (df,))[1]
    return value, tangent


def _one(name: str, value: Array) -> Array:
    """`value`, or an error if it has an axis of seeds: energies are called with one matrix, and one number for it."""
    if value.ndim:
        raise ValueError(f"{name} must be one number for one matrix, got shape {value.shape}: only sweep takes many.")
    return value


class _Gradient(eqx.Module):
    f: Callable

    def __call__(self, sigma: Float[Array, " r"]):
        return getattr(self.f, "gradient", jax.grad(self.f))(sigma)


class _Power(eqx.Module):
    p: Float[Array, ""]

    def __call__(self, sigma: Float[Array, " r"]):
        return jnp.sum(sigma**self.p) / self.p

    def gradient(self, sigma: Float[Array, " r"]):
        return sigma ** (self.p - 1)


class _Sum(eqx.Module):
    f: Callable

    def __call__(self, sigma: Float[Array, " r"]):
        return jnp.sum(jax.vmap(self.f)(sigma))


class _Entropy(eqx.Module):
    kernel: Kernel

    def __call__(self, sigma: Float[Array, " r"]):
        return self.kernel.entropy(sigma)

    def gradient(self, sigma: Float[Array, " r"]):
        return self.kernel.entropy_gradient(sigma)


@filter_custom_jvp
def _of_values(f: Callable, sigma: Float[Array, " r"]):
    return f(sigma)


@_of_values.def_jvp
def _of_values_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    (f, sigma), (df, dsigma) = primals, tangents
    value, tangent = f(sigma), jnp.zeros((), sigma.dtype)
    if dsigma is not None:
        # Autodiff of the entropy is NaN where a singular value is 0, and its gradient is infinite.
        tangent += jnp.sum(along_slope(_Gradient(f)(sigma), dsigma))
    if is_perturbed(df):
        tangent += eqx.filter_jvp(lambda f: f(sigma), (f,), (df,))[1]
    return value, tangent


def _slope(f: Callable, point: SVD) -> Float[Array, " r"]:
    """The derivative of f(|sigma|): the singular values of a flow of depth 1 may be negative on its way."""
    return _Gradient(f)(jnp.abs(point.sigma)) * side_of_zero(point.sigma)


def _spectral_pullback(f: Callable, point: SVD):
    return jnp.diag(_slope(f, point))


def _spectral_sides(f: Callable, point: SVD):
    # Where singular values repeat, the derivative of a frame that does not turn would be wrong. It is NaN.
    slope = _slope(f, SVD(point.u, apart_or_nan(point.sigma), point.v))[None, :]
    return point.u * slope, point.v * slope


class Schatten(eqx.Module):
    """E_p(X) = (1/p) sum_i sigma_i^p, (4.69), over the min(m, n) singular values of X, `m n`.

    **Arguments:** `p` > 0; the energy is differentiable at singular matrices only for p > 1.

    **Raises:** `ValueError` if p <= 0.

    **Example:**

        >>> energy = dln.Schatten(2)
        >>> float(energy(jnp.diag(jnp.array([4.0, 3.0])))), energy.gradient(3 * jnp.eye(2)).round(6).tolist()
        (12.5, [[3.0, 0.0], [0.0, 3.0]])
    """

    p: Float[Array, "*n"]

    array_axes: ClassVar[dict[str, int]] = {"p": 0}

    def __init__(self, p: Number):
        self.p = as_positive("p", p, many=True)

    @property
    def _power(self) -> _Power:
        return _Power(_one("p", self.p))

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, ""]:
        return _of_singular_values(self._power, x)

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "m n"]:
        return _isospectral(_Gradient(self._power), x)

    def pullback(self, point: SVD) -> Float[Array, "r r"]:
        return _spectral_pullback(self._power, point)

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        return _spectral_sides(self._power, point)

    def at(self, point: SVD) -> Float[Array, ""]:
        return _of_values(self._power, jnp.abs(point.sigma))


class SpectralEnergy(eqx.Module):
    """E(X) = sum_i f(sigma_i), (4.76), over the min(m, n) singular values of X, `m n`.

    **Arguments:** `f`, a differentiable callable from a scalar to a scalar.

    **Raises:** `TypeError` if `f` is not callable; `ValueError` if it does not map a scalar to a scalar.

    **Example:**

        >>> energy = dln.SpectralEnergy(lambda s: (s - 1) ** 2)
        >>> print(f"{energy(jnp.diag(jnp.array([3.0, 1.0]))):.6f}")
        4.000000
    """

    f: Callable

    array_axes: ClassVar[dict[str, int]] = {}

    def __check_init__(self) -> None:
        if not callable(self.f):
            raise TypeError(f"f must be a callable of one singular value, got {type(self.f).__name__}.")
        shape = getattr(shape_of("f", self.f, jax.ShapeDtypeStruct((), float)), "shape", None)
        if shape != ():
            raise ValueError(f"f must map one singular value to a scalar, got shape {shape}.")

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, ""]:
        return _of_singular_values(_Sum(self.f), x)

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "m n"]:
        return _isospectral(_Gradient(_Sum(self.f)), x)

    def pullback(self, point: SVD) -> Float[Array, "r r"]:
        return _spectral_pullback(_Sum(self.f), point)

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        return _spectral_sides(_Sum(self.f), point)

    def at(self, point: SVD) -> Float[Array, ""]:
        sigma = jnp.abs(point.sigma)
        total = _of_values(_Sum(self.f), sigma)
        # The matrix of a point of rank r has min(m, n) - r singular values more, which are 0.
        zeros = min(len(point.u), len(point.v)) - len(sigma)
        return total + zeros * self.f(jnp.zeros((), sigma.dtype)) if zeros else total


class FreeEnergy(eqx.Module):
    """F_beta(X) = E(X) - S_N(X)/beta, (4.51), with the entropy of `dlnjax.entropy`.

    The entropy is that of a network whose hidden layers have the width r: the volume of the rotations of these layers,
    all of which give the same X. Of a matrix `m n`, r is min(m, n). Of an `SVD`, r is the number of its singular
    values, so that a flow on the matrices of rank r has the entropy of such networks. Of the same X as a matrix the
    zeros count as well, and make the entropy -inf: two of them at finite depth, and one at infinite depth.

    F_beta is bounded below only if E grows faster than log |X|. With a spectral E it has the isotropic equilibrium of
    Theorem 4.3.7, sigma = ((d-1)(1-1/N)/(2 beta))^(1/p) for E_p. With the completion of a diagonal all equilibria are
    saddles, and the flow drifts off; other masks may have a local minimum.

    **Arguments:** `energy`, a callable X -> scalar; `beta` > 0, the inverse temperature; `depth`, N of the entropy,
    which need not be that of the flow. In a `sweep` the numbers may have the seeds in front.

    **Raises:** `TypeError` if `energy` is not callable; `ValueError` if beta <= 0 or the depth is outside [1, inf].

    **Example:**

        >>> free = dln.FreeEnergy(dln.Schatten(2), beta=0.5)
        >>> sigma = ((2 - 1) / (2 * 0.5)) ** (1 / 2)  # Theorem 4.3.7 at d = 2, infinite depth
        >>> bool(jnp.max(jnp.abs(free.gradient(sigma * jnp.eye(2)))) < 1e-12)
        True
    """

    energy: Callable
    beta: Float[Array, "*n"]
    kernel: Kernel

    def __init__(self, energy: Energy, beta: Number, depth: Depth = jnp.inf):
        if not callable(energy):
            raise TypeError(f"energy must be a callable X -> scalar, got {type(energy).__name__}.")
        self.energy = energy
        self.beta = as_positive(
            "beta", beta, "It is an inverse temperature: no entropy is the energy itself.", many=True
        )
        self.kernel = as_kernel(depth, float, many="")

    @property
    def array_axes(self) -> dict[str, int]:
        return {"beta": 0, "kernel": 0} if self.kernel.per_seed else {"beta": 0}

    @property
    def _entropy(self) -> _Entropy:
        for number in jax.tree.leaves(self.kernel) if self.kernel.per_seed else ():
            _one("depth", number)
        return _Entropy(as_it_is(self.kernel, self.beta.dtype))

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, ""]:
        return self.energy(x) - _of_singular_values(self._entropy, x) / _one("beta", self.beta)

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "m n"]:
        return gradient(self.energy, x) - _isospectral(_Gradient(self._entropy), x) / _one("beta", self.beta)

    def pullback(self, point: SVD) -> Float[Array, "r r"]:
        return pullback(self.energy, point) - _spectral_pullback(self._entropy, point) / _one("beta", self.beta)

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        (left, right), beta = sides(self.energy, point), _one("beta", self.beta)
        entropic_left, entropic_right = _spectral_sides(self._entropy, point)
        return left - entropic_left / beta, right - entropic_right / beta

    def at(self, point: SVD) -> Float[Array, ""]:
        entropy = _of_values(self._entropy, jnp.abs(point.sigma))
        return value(self.energy, point) - entropy / _one("beta", self.beta)
