"""Functions of the singular values: measures of rank, norms, and the entropy with its gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_positive, as_spectrum
from dlnjax._geometry.kernel import as_kernel, Depth
from dlnjax._types import Number


def effective_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Effective rank, Definition 4.2.1: exp(-sum s_i log s_i) with s = sigma / sum(sigma), (4.23).

    1 at rank one, d at an isotropic matrix, blind to scale. A zero singular value counts as none.

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
def effective_rank_or_nan(sigma):
    """Of many, of which some may be NaN, or zero: these have none, and the others do not notice."""
    share = sigma / jnp.sum(sigma, axis=-1, keepdims=True)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(share), axis=-1))


def stable_rank(sigma: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    """Stable rank, |X|_F^2 / |X|^2 = sum sigma_i^2 / max sigma_i^2: between 1 and d, blind to scale.

    Arguments, what is returned and raised, as for `effective_rank`. Source: Rudelson and Vershynin, J. ACM 54 (2007).

    **Example:**

        >>> float(dln.stable_rank(jnp.array([2.0, 1.0, 1.0])))
        1.5
    """
    sigma = as_spectrum(sigma, nonzero=True)
    return jnp.sum((sigma / jnp.max(sigma, axis=-1, keepdims=True)) ** 2, axis=-1)


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

    **Arguments:** `sigma`, `d`, or with leading axes; `p`.

    **Returns:** a number, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN entries, or p <= 0.

    **Example:**

        >>> float(dln.schatten_norm(jnp.array([4.0, 3.0]), 2))
        5.0
    """
    sigma, p = as_spectrum(sigma), as_positive("p", p, finite=False)
    largest = jnp.max(sigma, axis=-1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0)
    return scale[..., 0] * jnp.sum((sigma / scale) ** p, axis=-1) ** (1 / p)


def entropy(sigma: Float[Array, "*n d"], depth: Depth = jnp.inf) -> Float[Array, "*n"]:
    """Boltzmann entropy of the fibre over X, the log volume of its O_d^(N-1) orbit: (4.27), and (4.28) at depth = inf,

        S_N = 1/2 sum_{k<l} log lambda_kl,
        lambda_kl = (1/N) (sigma_k^2 - sigma_l^2) / (sigma_k^(2/N) - sigma_l^(2/N)).

    The factor 1/N makes S_inf the limit of S_N; the thesis's S_N is this plus d(d-1)/4 log N.

    Differentiable twice at repeated values; finite for ratios up to 1e150; -inf where the volume vanishes.

    **Arguments:** `sigma`, `d`, or with leading axes; `depth`, N in [1, inf], a number or a traced array.

    **Returns:** a number, for each of the leading axes.

    **Raises:** `ValueError` for negative or NaN `sigma`, or a depth outside [1, inf].

    **Example:**

        >>> sigma = jnp.array([2.0, 1.0])
        >>> print(f"{dln.entropy(sigma, depth=2):.6f}, as 1/2 log(3/2) = {0.5 * jnp.log(1.5):.6f}")
        0.202733, as 1/2 log(3/2) = 0.202733
    """
    sigma = as_spectrum(sigma)
    return _over_seeds(lambda kernel, sigma: kernel.entropy(sigma), sigma, depth, "()")


def entropy_gradient(sigma: Float[Array, "*n d"], depth: Depth = jnp.inf) -> Float[Array, "*n d"]:
    """The derivatives of `entropy`, in the closed form of Lemma 4.3.3, (4.36)-(4.37):

        dS_N/dsigma_i = sum_{j != i} sigma_i/(sigma_i^2 - sigma_j^2)
                                     - sigma_i^(2/N-1) / (N (sigma_i^(2/N) - sigma_j^(2/N))),

    each term at equal values being its limit (1 - 1/N)/(2 sigma_j), (4.57).

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
    return _over_seeds(lambda kernel, sigma: kernel.entropy_gradient(sigma), sigma, depth, "(d)")


def _over_seeds(f, sigma, depth, returned: str):
    """f(kernel, sigma) for each of the leading axes, over which sigma and the numbers of `depth` are broadcast."""
    kernel = as_kernel(depth, sigma.dtype, many="")
    arrays, rest = eqx.partition(kernel, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    of_one = lambda sigma, *leaves: f(eqx.combine(jax.tree.unflatten(tree, leaves), rest), sigma)
    signature = ",".join(["(d)"] + ["()"] * len(leaves)) + f"->{returned}"
    return jnp.vectorize(of_one, signature=signature)(sigma, *leaves)
