"""Functions of the singular values: measures of rank, norms, and the entropy with its gradient."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_positive, as_spectrum
from dlnjax._compile import compiled
from dlnjax._custom_jvp import custom_jvp, filter_custom_jvp
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import Kernel
from dlnjax._scale import along_slope, exponent, scaled
from dlnjax._tree import is_perturbed, positive, smooth_where
from dlnjax._types import Number, Scalar


def effective_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Effective rank, Definition 4.2.1: exp(-sum s_i log s_i) with s = sigma / sum(sigma), (4.23).

    It is 1 at rank one and d at an isotropic matrix, and does not depend on scale. A singular value of 0 adds nothing.
    Its derivative there is infinite, and with a value 0 its second derivatives are NaN.

    **Arguments:** `sigma`, `d`, or with leading axes: singular values, not a matrix.

    **Returns:** a number between 1 and d, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN entries, or if all are zero (the zero matrix has none). Under
    `jit`, NaN.

    **Example:**

        >>> dln.effective_rank(jnp.array([[1.0, 1.0], [1.0, 0.0]])).round(6).tolist()
        [2.0, 1.0]
    """
    return effective_rank_or_nan(as_spectrum(sigma, nonzero=True))


@jax.jit
def effective_rank_or_nan(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """The effective rank of each spectrum, without a check: it is NaN for a spectrum that has a NaN or is zero."""
    return _effective_rank(sigma)


@custom_jvp
def _effective_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    unit, _ = _unit(sigma)
    share = unit / jnp.sum(unit, axis=-1, keepdims=True)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(share), axis=-1))


@_effective_rank.defjvp
def _effective_rank_jvp(primals: tuple[Float[Array, "*n d"]], tangents: tuple[Float[Array, "*n d"]]):
    """The derivative in sigma_i is -(log s_i + H) exp(H) / sum(sigma), with H the entropy of the shares s, (4.23).

    The derivative is infinite where s_i = 0 < H. Autodiff of s log s would give NaN there.
    """
    (sigma,), (dsigma,) = primals, tangents
    # An infinite slope has no derivative.
    inside = (sigma > 0).all(axis=-1, keepdims=True)
    unit, k = _unit(smooth_where(inside, sigma))
    total, rank = jnp.sum(unit, axis=-1, keepdims=True), _effective_rank(sigma)
    none = unit == 0
    log = jnp.log(jnp.where(none, 1.0, unit / total))
    slope = -rank[..., None] * (log + jnp.log(rank)[..., None]) / total
    # The infinite value is a constant, as the derivative of a product with it would be NaN in reverse mode.
    infinite = jnp.inf * jax.lax.stop_gradient(rank)[..., None]
    slope = jnp.where(none, infinite, jnp.vectorize(scaled, signature="(d),()->(d)")(slope, -k))
    return rank, jnp.sum(along_slope(slope, smooth_where(inside, dsigma)), axis=-1)


def _unit(sigma: Float[Array, "*n d"]) -> tuple[Float[Array, "*n d"], Float[Array, "*n"]]:
    """(sigma / 2^k, k), where the largest value is between 1/2 and 1, so that squares and reciprocals stay in range."""
    k = jnp.vectorize(exponent, signature="(d)->()")(sigma)
    return jnp.vectorize(scaled, signature="(d),()->(d)")(sigma, -k), k


def stable_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Stable rank, |X|_F^2 / |X|^2 = sum sigma_i^2 / max sigma_i^2, between 1 and d at any scale.

    At equal largest values its derivative is the mean of the derivatives on either side, and its second derivative is
    NaN.

    Arguments, value and errors are as for `effective_rank`. Source: Rudelson and Vershynin, J. ACM 54 (2007).

    **Example:**

        >>> float(dln.stable_rank(jnp.array([2.0, 1.0, 1.0])))
        1.5
    """
    return _stable_rank(as_spectrum(sigma, nonzero=True))


@compiled
def _stable_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    unit, _ = _unit(sigma)
    largest = -jnp.vectorize(least_value, signature="(d)->()")(-unit)
    return jnp.sum((unit / largest[..., None]) ** 2, axis=-1)


def nuclear_norm(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Nuclear norm, sum sigma_i.

    **Arguments:** `sigma`, `d`, or with leading axes.

    **Returns:** a number, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN entries.

    **Example:**

        >>> float(dln.nuclear_norm(jnp.array([4.0, 3.0])))
        7.0
    """
    return jnp.sum(as_spectrum(sigma), axis=-1)


def schatten_norm(sigma: Float[Array, "*n d"], p: Number) -> Float[Array, "*n"]:
    """Schatten norm, (sum sigma_i^p)^(1/p), p > 0 (a norm for p >= 1); p = inf is the operator norm.

    Its derivative at p = inf is shared by equal largest values. At the zero matrix it is that at equal values, and the
    second derivative is NaN there unless p = 1, since the norm has a corner.

    **Arguments:** `sigma`, `d`, or with leading axes; `p`.

    **Returns:** a number, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN entries, or p <= 0.

    **Example:**

        >>> float(dln.schatten_norm(jnp.array([4.0, 3.0]), 2))
        5.0
    """
    return _schatten_norm(as_spectrum(sigma), as_positive("p", p, finite=False))


@compiled
def _schatten_norm(sigma: Float[Array, "*n d"], p: Scalar) -> Float[Array, "*n"]:
    unit, k = _unit(sigma)
    return jnp.vectorize(scaled)(_schatten(unit, p.astype(unit.dtype)), k)


@custom_jvp
def _schatten(sigma: Float[Array, "*n d"], p: Scalar) -> Float[Array, "*n"]:
    # The largest value is taken out of the sum, since its power would overflow for large p. At p = inf the root of what
    # is left is 1.
    largest = jnp.max(sigma, axis=-1, keepdims=True)
    return largest[..., 0] * jnp.sum(_relative(sigma) ** p, axis=-1) ** (1 / p)


def _relative(sigma: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """sigma over the largest value. If all values are 0 they count as equal, and the ratios are 1."""
    largest = jnp.max(sigma, axis=-1, keepdims=True)
    return jnp.where(largest > 0, sigma / positive(largest), 1.0)


@_schatten.defjvp
def _schatten_jvp(primals: tuple[Float[Array, "*n d"], Scalar], tangents: tuple[Float[Array, "*n d"], Scalar]):
    """The derivative in sigma_i is r_i^(p-1) (sum r^p)^(1/p-1), with r = sigma / max sigma.

    This form has a limit at p = inf and at zeros, where autodiff would give NaN.
    """
    (sigma, p), (dsigma, dp) = primals, tangents
    # A norm has a corner at 0, unless it is linear there. `_relative` lets no NaN through, in whichever mode.
    smooth = (jnp.max(sigma, axis=-1, keepdims=True) > 0) | (p == 1)
    norm, r = _schatten(sigma, p), _relative(smooth_where(smooth, sigma))
    total = jnp.sum(r**p, axis=-1, keepdims=True)
    slope = smooth_where(smooth, r ** (p - 1) * total ** (1 / p - 1))
    # `by_p` is the norm times the derivative of (1/p) log(sum r^p) in p, which vanishes at p = inf.
    finite = jnp.where(jnp.isinf(p), 1.0, p)
    log = jnp.sum(r**finite * jnp.log(positive(r)), axis=-1) / jnp.sum(r**finite, axis=-1)
    by_p = norm * (log - jnp.log(total[..., 0]) / finite) / finite
    return norm, jnp.sum(along_slope(slope, dsigma), axis=-1) + jnp.where(jnp.isinf(p), 0.0, by_p) * dp


@custom_jvp
def least_value(sigma: Float[Array, " d"]) -> Scalar:
    """The least of the values. Equal least values share its derivative, and there is no second one there."""
    return jnp.min(sigma)


@least_value.defjvp
def _least_value_jvp(primals: tuple[Float[Array, " d"]], tangents: tuple[Float[Array, " d"]]) -> tuple[Scalar, Scalar]:
    (sigma,), (dsigma,) = primals, tangents
    least = least_value(sigma)
    is_least = sigma - least[None] <= jnp.abs(least)[None] * jnp.sqrt(jnp.finfo(sigma.dtype).eps)
    count = jnp.sum(is_least.astype(sigma.dtype))
    # The weights of the values are constants. A factor 1 that depends on the values has the corner in its place.
    one = smooth_where(count == 1, 1 + 0 * least)
    return least, one * jnp.sum(jnp.where(is_least, dsigma, 0.0)) / count


def entropy(sigma: Float[Array, "*n d"], depth: Depth = jnp.inf) -> Float[Array, "*n"]:
    """Boltzmann entropy of the fibre over X, the log volume of its O_d^(N-1) orbit: (4.27), and (4.28) at depth = inf,

        S_N = 1/2 sum_{k<l} log lambda_kl,
        lambda_kl = (1/N) (sigma_k^2 - sigma_l^2) / (sigma_k^(2/N) - sigma_l^(2/N)).

    The factor 1/N makes S_inf the limit of S_N. The S_N of the thesis is this number plus d(d-1)/4 log N.

    For an `Imbalanced` network it is the log volume of the same orbit, up to a constant. For m x n matrices whose d
    singular values are those of hidden layers of width d, the orbit and the formula are the same.

    Differentiable twice at repeated values, finite for ratios up to 1e150, and -inf where the volume vanishes. At a
    value 0 its gradient is the limit, and its second derivatives are NaN.

    **Arguments:** `sigma`, `d`, or with leading axes; `depth`, N in [1, inf], a number or a traced array, or a kernel.

    **Returns:** a number, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN `sigma`, or a depth outside [1, inf].

    **Example:**

        >>> sigma = jnp.array([2.0, 1.0])
        >>> print(f"{dln.entropy(sigma, depth=2):.6f}, as 1/2 log(3/2) = {0.5 * jnp.log(1.5):.6f}")
        0.202733, as 1/2 log(3/2) = 0.202733
    """
    sigma = as_spectrum(sigma)
    return _over_seeds(_entropy, sigma, as_kernel(depth, sigma.dtype, many=""), "()")


@filter_custom_jvp
def _entropy(kernel: Kernel, sigma: Float[Array, " d"]) -> Scalar:
    return kernel.entropy(sigma)


@_entropy.def_jvp
def _entropy_jvp(primals: tuple[Kernel, Float[Array, " d"]], tangents: tuple[PyTree, Float[Array, " d"] | None]):
    """By Lemma 4.3.3, whose gradient is also right, and perhaps infinite, where a singular value is 0."""
    (kernel, sigma), (dkernel, dsigma) = primals, tangents
    tangent = jnp.zeros((), sigma.dtype)
    if dsigma is not None:
        tangent += jnp.sum(along_slope(_entropy_gradient(kernel, sigma), dsigma))
    if is_perturbed(dkernel):
        tangent += eqx.filter_jvp(lambda k: k.entropy(sigma), (kernel,), (dkernel,))[1]
    return _entropy(kernel, sigma), tangent


def _entropy_gradient(kernel: Kernel, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
    """Lemma 4.3.3 at size one, so that no square leaves the range of the floats. The gradient is of degree -1."""
    # At a value 0 the slopes are limits, whose own derivatives are not those of the slopes.
    inside = jnp.all(sigma > 0)
    sigma = smooth_where(inside, sigma)
    k = jnp.zeros((), sigma.dtype) if kernel.degree is None else exponent(sigma)
    return smooth_where(inside, scaled(kernel.entropy_gradient(scaled(sigma, -k)), -k))


def entropy_gradient(sigma: Float[Array, "*n d"], depth: Depth = jnp.inf) -> Float[Array, "*n d"]:
    """The derivatives of `entropy`, in the closed form of Lemma 4.3.3, (4.36)-(4.37):

        dS_N/dsigma_i = sum_{j != i} sigma_i/(sigma_i^2 - sigma_j^2)
                                     - sigma_i^(2/N-1) / (N (sigma_i^(2/N) - sigma_j^(2/N))),

    where each term at equal values is its limit (1 - 1/N)/(2 sigma_j), (4.57).

    **Arguments:** `sigma`, `d`, positive, or with leading axes; `depth`, N in [1, inf], a number or a traced array.

    **Returns:** the derivatives, of the shape of `sigma`.

    **Raises:** `ValueError` for `sigma` not positive, or a depth outside [1, inf].

    **Example:**

        >>> sigma = jnp.array([2.0, 2.0])  # repeated: the limit, (1 - 1/N)/(2 sigma)
        >>> dln.entropy_gradient(sigma, depth=2).round(6).tolist()
        [0.125, 0.125]
        >>> bool(jnp.allclose(dln.entropy_gradient(sigma, 3), jax.grad(dln.entropy)(sigma, 3)))
        True
    """
    sigma = as_spectrum(sigma, positive=True)
    return _over_seeds(_entropy_gradient, sigma, as_kernel(depth, sigma.dtype, many=""), "(d)")


# One program, where the operations by themselves would be thirty-six.
@compiled
def _over_seeds(f: Callable[[Kernel, Array], Array], sigma: Array, kernel: Kernel, returned: str) -> Array:
    """f(kernel, sigma) for each spectrum and each kernel: their leading axes are broadcast against each other."""
    arrays, rest = eqx.partition(kernel, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)

    def of_one(sigma: Float[Array, " d"], *leaves: Array) -> Array:
        return f(eqx.combine(jax.tree.unflatten(tree, leaves), rest), sigma)

    # `jnp.vectorize` broadcasts arrays only, so that the arrays of the kernel are passed one by one.
    own = [",".join(f"a{i}_{k}" for k in range(axes)) for i, axes in enumerate(kernel._axes)]
    signature = ",".join(["(d)", *(f"({names})" for names in own)]) + f"->{returned}"
    return jnp.vectorize(of_one, signature=signature)(sigma, *leaves)
