"""The kernel lambda(s, t): how two singular values weigh a motion that turns one into the other.

Everything in the library is made of one operator. With X = U diag(sigma) V^T and thin frames U and V,

    A_X(Z) = U [lambda o (U^T Z V)] V^T + (I - U U^T) Z V diag(nu) V^T + U diag(mu) U^T Z (I - V V^T),

lambda_kl = lambda(sigma_k, sigma_l). A `Kernel` answers for lambda, nu and mu; `Balanced` is that of the thesis.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dlnjax._checks import as_depth, is_concrete
from dlnjax._geometry.special import bose, langevin, log_shc, regularised_inverse, shc_small
from dlnjax._scale import exponent
from dlnjax._svd import eigh
from dlnjax._types import Number, Numbers, Scalar

_FLAT = 1e-12  # Below this y/N, N log(1 + y/N) is taken for y: it is to half of that.

Symmetric: TypeAlias = tuple[Float[Array, " d"], Float[Array, "d d"]]
"""The eigenvalues and the eigenvectors of a symmetric matrix."""


class Kernel(eqx.Module):
    """How two singular values weigh a motion between their singular vectors: lambda(s, t), and what follows from it.

    A kernel of your own is a subclass with the four methods `log_eigenvalue`, `leaving`, `straighten` and
    `unstraighten`, and, if lambda is homogeneous, `degree`. It goes wherever a `depth` goes. Its arrays may be traced:
    flows and geodesics are differentiable in them.

    **Example:**

        >>> class Euclidean(dln.Kernel):  # lambda = 1
        ...     degree = 0.0
        ...     log_eigenvalue = lambda self, log_s, log_t: 0.0 * (log_s + log_t)
        ...     leaving = lambda self, sigma: (jnp.ones_like(sigma), jnp.ones_like(sigma))
        ...     straighten = lambda self, sigma: sigma
        ...     unstraighten = lambda self, y: y
        >>> a, b = jnp.eye(2), jnp.array([[2.0, 1.0], [0.0, 2.0]])
        >>> print(f"{dln.distance(a, b, Euclidean()):.6f} = {jnp.linalg.norm(a - b):.6f}")
        1.732051 = 1.732051
    """

    @abc.abstractmethod
    def log_eigenvalue(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """log lambda(s, t), elementwise: symmetric, smooth where s = t, finite for ratios up to 1e150."""

    @abc.abstractmethod
    def leaving(self, sigma: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """(nu, mu): the weights of motions out of the column space and out of the row space."""

    @abc.abstractmethod
    def straighten(self, sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """y(sigma), an integral of lambda(s, s)^(-1/2) ds: in y, geodesics between commuting matrices are lines."""

    @abc.abstractmethod
    def unstraighten(self, y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The inverse of `straighten`."""

    def mix(self, t: Scalar, x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The point at t of the line in `straighten` from x to y, elementwise."""
        return self.unstraighten((1 - t) * self.straighten(x) + t * self.straighten(y))

    def mix_symmetric(self, t: Scalar, a: Symmetric, b: Symmetric) -> Float[Array, "d d"]:
        """The same line, (3.76), between positive definite matrices, each given as (eigenvalues, eigenvectors)."""
        (x, u), (y, v) = a, b
        mixed = (1 - t) * symmetric(self.straighten(x), u) + t * symmetric(self.straighten(y), v)
        return _function(mixed, self.unstraighten)

    @property
    def degree(self) -> Scalar | float | None:
        """The degree p of homogeneity, lambda(c s, c t) = c^p lambda(s, t); None if there is none."""
        return None

    @property
    def order(self) -> Scalar | float:
        """The order q to which lambda(s, s) ~ s^q vanishes at s = 0. By default it is `degree`.

        Above 0, no path crosses the singular matrices; at 2, they are infinitely far away, and zero stays zero.
        """
        return 0.0 if self.degree is None else self.degree

    def log_slope(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """d log lambda / d log s, elementwise. By default it is taken by autodiff."""
        return jax.jvp(lambda s: self.log_eigenvalue(s, log_t), (log_s,), (jnp.ones_like(log_s),))[1]

    def speed(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """lambda(sigma, sigma), the diagonal of `eigenvalues`; even in sigma."""
        log, size = _log(jnp.abs(sigma)), jnp.abs(sigma)
        return jnp.where((size > 0) | (jnp.asarray(self.order) <= 0), jnp.exp(self.log_eigenvalue(log, log)), 0.0)

    def rotation_rates(self, sigma: Float[Array, " d"], gap: Scalar) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """The rates at which (4.17) and (4.19) turn the frame, in a part of U and V alike and a relative one.

        With G = U^T dE V, the common rotation of U and V is lambda_ij / (sigma_i - sigma_j) (G_ij + G_ji)/2, and their
        relative rotation lambda_ij / (sigma_i + sigma_j) (G_ij - G_ji)/2. The common one alone is singular as the gap
        closes, and there it does not move X. Its 1/u, u = log(sigma_i/sigma_j), is replaced by u/(u^2 + gap^2), which
        moves X by at most `gap`.

        **Returns:** the factors of (G_ij + G_ji)/2, antisymmetric, and of (G_ij - G_ji)/2, symmetric, `d d` each.
        """
        log, u = _log_ratio(sigma)
        row, column = log[:, None], log[None, :]
        # The frame of a pair of zeros is arbitrary: it is not turned.
        turns = self.moves(sigma) & ((sigma > 0)[:, None] | (sigma > 0)[None, :])
        log_eigenvalues = jnp.where(turns, self.log_eigenvalue(row, column), -jnp.inf)
        # sigma_i - sigma_j = sqrt(sigma_i sigma_j) u shc(u/2), so that all that is singular is 1/u.
        common = jnp.exp(log_eigenvalues - (row + column) / 2 - log_shc(u / 2)) * regularised_inverse(u, gap)
        return common, jnp.exp(log_eigenvalues - jnp.logaddexp(row, column))

    def moves(self, sigma: Float[Array, " d"]) -> Bool[Array, "d d"]:
        """Where lambda_kl > 0, or NaN: both values are not 0, or one at an order below 2; at order 0, always."""
        positive, order = ~(sigma <= 0), jnp.asarray(self.order)
        both, either = positive[:, None] & positive[None, :], positive[:, None] | positive[None, :]
        return both | (either & (order < 2)) | (order <= 0)

    def log_eigenvalues(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """log of `eigenvalues`, finite for ratios up to the range of the floats, and -inf where they vanish."""
        log = _log(sigma)
        return jnp.where(self.moves(sigma), self.log_eigenvalue(log[:, None], log[None, :]), -jnp.inf)

    def eigenvalues(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """lambda_kl = lambda(sigma_k, sigma_l): A_X maps u_k v_l^T to lambda_kl u_k v_l^T."""
        return jnp.exp(self.log_eigenvalues(sigma))

    def partner_eigenvalues(self, sigma: Float[Array, " d"], partner: Int[Array, " d"]) -> Float[Array, " d"]:
        """lambda_kl of each sigma_k and the sigma_l of its partner l."""
        log = _log(sigma)
        return jnp.exp(self.log_eigenvalue(log, log[partner]))

    def entropy(self, sigma: Float[Array, " d"]) -> Scalar:
        """1/2 sum_{k<l} log lambda_kl."""
        return jnp.sum(jnp.triu(self.log_eigenvalues(sigma), 1)) / 2

    def log_rates(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """The matrix of d log lambda(s, t)/ds at (sigma_k, sigma_l); where sigma_k = 0, from above, perhaps infinite.

        They are made of the slopes in log s, which need no limit where values are equal.
        """
        log, zero = _log(sigma), sigma == 0
        slopes = self.log_slope(*jnp.broadcast_arrays(log[:, None], log[None, :]))
        if self.degree is not None:
            # lambda(s, 0) = s^degree lambda(1, 0).
            slopes = jnp.where(zero[None, :], self.degree, slopes)
        at_zero = jnp.where(zero, jnp.where(jnp.asarray(self.order) > 0, jnp.inf, 0.0), self.rate_at_zero(sigma))
        return jnp.where(zero[:, None], at_zero[None, :], slopes / jnp.where(zero, 1.0, sigma)[:, None])

    def rate_at_zero(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """d log lambda(s, t)/ds at s = 0, for t > 0. By default it is taken at the smallest normal number."""
        s = jnp.full_like(t, jnp.finfo(t.dtype).tiny)
        return self.log_slope(jnp.log(s), _log(t)) / s

    def entropy_gradient(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """The gradient of `entropy` in sigma, (4.36)-(4.37), half the sum of `log_rates` over all other values."""
        rates = jnp.where(jnp.eye(len(sigma), dtype=bool), 0.0, self.log_rates(sigma))
        return jnp.sum(rates, axis=1) / 2


class Balanced(Kernel):
    """The kernel of a balanced network of depth N, 1/N times (2.20), with u = log(s/t) and shc(x) = sinh(x)/x:

        lambda(s, t) = (1/N) (s^2 - t^2)/(s^(2/N) - t^(2/N)) = (s t)^(1-1/N) shc(u)/shc(u/N),
        nu = mu = sigma^(2-2/N)/N.

    At infinite depth it is the limit, the logarithmic mean of s^2 and t^2; nu and mu vanish there. Nothing branches on
    the depth, and no sum runs over layers. A number N given as `depth` anywhere means `Balanced(N)`.

    **Arguments:** `depth`, N in [1, inf], a number or a traced array.

    **Attributes:** `inverse_depth`, 1/N, which is 0 at infinite depth; `depth`, N.

    **Raises:** `ValueError` for a depth outside [1, inf]; `TypeError` for what is no number.

    **Example:**

        >>> dln.Balanced(2)
        Balanced(depth=2)
        >>> dln.metric_eigenvalues(jnp.array([2.0, 1.0]), dln.Balanced(2)).round(6).tolist()
        [[2.0, 1.5], [1.5, 1.0]]
    """

    inverse_depth: Float[Array, "*n"]

    def __init__(self, depth: Numbers):
        self.inverse_depth = 1 / as_depth(depth)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Its methods use the formula of lambda, which a subclass would have to replace in all of them.
        raise TypeError("Balanced is final: derive a kernel of your own from dlnjax.Kernel.")

    def __repr__(self) -> str:
        a = self.inverse_depth
        if not isinstance(a, (jax.Array, np.ndarray)) or not is_concrete(a):
            return "Balanced(traced)"
        return f"Balanced(depth={float(1 / a):g})" if np.ndim(a) == 0 else f"Balanced({np.size(a)} depths)"

    def __str__(self) -> str:
        return repr(self).removeprefix("Balanced(").removesuffix(")").replace("=", " ")

    @property
    def depth(self) -> Float[Array, "*n"]:
        """N."""
        return 1 / self.inverse_depth

    @property
    def degree(self) -> Scalar:
        """2 - 2/N."""
        return 2 - 2 * self.inverse_depth

    def log_eigenvalue(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """log lambda, (1 - 1/N) log(s t) + log shc(u) - log shc(u/N)."""
        return _log_balanced(log_s, log_t, self.inverse_depth)

    def log_slope(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """d log lambda / d log s."""
        return _log_balanced_slope(log_s - log_t, self.inverse_depth)

    def rate_at_zero(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """2/N s^(2/N-1) t^(-2/N) at s = 0."""
        a = 2 * self.inverse_depth
        return jnp.where(a < 1, jnp.inf, jnp.where(a == 1, 1 / t, 0.0))

    def leaving(self, sigma: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """sigma^(2-2/N)/N, for either side."""
        weight = self.inverse_depth * self.speed(sigma)
        return weight, weight

    def straighten(self, sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """N (sigma^(1/N) - 1), which is log sigma at infinite depth."""
        log = jnp.log(sigma)
        half = self.inverse_depth * log / 2
        return log * jnp.exp(half + log_shc(half))

    def unstraighten(self, y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """(1 + y/N)^N, which is exp(y) at infinite depth."""
        a = self.inverse_depth
        scaled = jnp.log1p(a * y) / jnp.where(a > 0, a, 1.0)
        return jnp.exp(jnp.where(jnp.abs(a * y) < _FLAT, y, scaled))

    def mix(self, t: Scalar, x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """((1-t) x^(1/N) + t y^(1/N))^N, x^(1-t) y^t at infinite depth, with the relative accuracy of the floats.

        The default loses values whose x^(1/N) is below rounding beside 1. Here the end z of the larger summand is taken
        out: with p its weight, q that of the other end and L = log(other/z), the point is z (p + q e^(L/N))^N.
        """
        a, ahead = self.inverse_depth, jnp.log(y) - jnp.log(x)
        # The powers are split between the two sides: neither leaves the range of the floats, as their ratio may.
        from_x = t * jnp.exp(a * ahead / 2) <= (1 - t) * jnp.exp(-a * ahead / 2)
        z, p, q = (jnp.where(from_x, one, other) for one, other in ((x, y), (1 - t, t), (t, 1 - t)))
        log = jnp.where(from_x, ahead, -ahead)
        half, small = jnp.exp(a * log / 2), jnp.abs(a * log) < 0.5
        share = (q * half) * half
        # p + q e^(L/N) - 1, without the cancellation of near values.
        excess = jnp.where(small, q * jnp.expm1(a * jnp.where(small, log, 0.0)), share - q)
        little = excess > -0.5
        power = jnp.where(little, jnp.log1p(jnp.where(little, excess, 0.0)), jnp.log(jnp.where(little, 1.0, p + share)))
        flat = jnp.abs(a * log) < jnp.finfo(log.dtype).eps
        power = jnp.where(flat, q * log, power / jnp.where(flat, 1.0, a))
        # The factor alone may leave the range of the floats, which its root does not.
        return z * jnp.exp(power / 2) * jnp.exp(power / 2)

    def mix_symmetric(self, t: Scalar, a: Symmetric, b: Symmetric) -> Float[Array, "d d"]:
        """((1-t) A^(1/N) + t B^(1/N))^N, exp((1-t) log A + t log B) at infinite depth.

        Where N is so large that all powers are near 1, N (A^(1/N) - 1) is mixed in their place: the powers would lose
        the digits beyond 1, and have no limit as N grows, where this has the logarithm.
        """
        (x, u), (y, v) = a, b
        both = jnp.concatenate([x, y])
        size, least = jnp.max(both), jnp.min(both)
        differ = self.inverse_depth * (jnp.log(size) - jnp.log(least)) < jnp.log(2.0)
        # A power of 0 has no derivative, so that the depth of the form not taken is 1.
        power = jnp.where(differ, 1.0, self.inverse_depth)

        def flat(z: Float[Array, " d"]) -> Float[Array, " d"]:
            return jnp.where(differ, self.straighten(z / size), (z / size) ** power)

        def back(z: Float[Array, " d"]) -> Float[Array, " d"]:
            # Powers of positive matrices are positive: a negative eigenvalue of the size of rounding is taken for 0.
            rounding = len(z) * jnp.finfo(z.dtype).eps * jnp.max(jnp.abs(z))
            powers = jnp.where((z < 0) & (z > -rounding), 0.0, z)
            return jnp.where(differ, self.unstraighten(jnp.where(differ, z, 0.0)), powers ** (1 / power))

        return size * _function((1 - t) * symmetric(flat(x), u) + t * symmetric(flat(y), v), back)

    def speed(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """|sigma|^(2-2/N)."""
        return jnp.abs(sigma) ** (2 - 2 * self.inverse_depth)

    def rotation_rates(self, sigma: Float[Array, " d"], gap: Scalar) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """The rates of `Kernel.rotation_rates`, with d exponentials where the general form takes d^2 of them."""
        a = self.inverse_depth
        log, u = _log_ratio(sigma)
        power, root = jnp.exp(a * log), jnp.sqrt(sigma)
        square = power * power
        inverse = regularised_inverse(u, gap)
        # ratio = sinh(a u)/(a u) r_i r_j = (r_i^2 - r_j^2)/(2 a u) with r = sigma^a. The quotient loses digits near
        # u = 0, where the series is used. Elsewhere the regularised 1/u is 1/u to gap^2, far below the tolerance.
        half = jnp.where(a > 0, 0.5 / jnp.where(a > 0, a, 1.0), 0.0)
        ratio = jnp.where(
            jnp.abs(a * u) < 0.5,
            power[:, None] * power[None, :] * shc_small(a * u),
            (square[:, None] - square[None, :]) * (half * inverse),
        )
        log_mean = jnp.where(
            jnp.abs(u) < 1,
            root[:, None] * root[None, :] * shc_small(u / 2),
            (sigma[:, None] - sigma[None, :]) * inverse,
        )
        # A pair of zeros does not turn; at infinite depth a pair with one zero does not either. The condition is
        # written as a product of numbers, since XLA does not vectorise a loop over truth values on a CPU.
        turns = ((sigma > 0) | (a > 0)).astype(sigma.dtype)
        weight = (0.5 * turns[:, None]) * turns[None, :] / jnp.maximum(ratio, jnp.finfo(sigma.dtype).tiny)
        common = (sigma[:, None] + sigma[None, :]) * inverse * weight
        return common, log_mean * weight


@jax.custom_jvp
def _log_balanced(log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"], a: Scalar) -> Float[Array, "..."]:
    """log lambda of (2.20), of which nothing overflows; autodiff of it would lose the slope where s is far below t."""
    u = log_s - log_t
    return (log_s + log_t) * (1 - a) + log_shc(u) - log_shc(a * u)


@_log_balanced.defjvp
def _log_balanced_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]):
    (log_s, log_t, a), (ds, dt, da) = primals, tangents
    u = log_s - log_t
    by_a = -(log_s + log_t) - u * langevin(a * u)
    tangent = _log_balanced_slope(u, a) * ds + _log_balanced_slope(-u, a) * dt + by_a * da
    return _log_balanced(log_s, log_t, a), tangent


def _log_balanced_slope(u: Float[Array, "*s"], a: Scalar) -> Float[Array, "*s"]:
    """d log lambda / d log s at u = log(s/t), with a = 1/N, to the relative accuracy of the floats.

    Near equal values the two terms of (4.36) are infinite: coth(u) = 1/u + langevin(u) takes out their poles, which
    cancel. For s far below t the terms of that form cancel in turn, to a slope of the order (s/t)^(2/N), which the
    derivative in s divides by s. There (4.36) itself is accurate, 2a/(e^(2aw) - 1) - 2/(e^(2w) - 1) with w = -u. For s
    far above t the slope follows from that in t, as lambda is homogeneous of degree 2 - 2a.
    """
    near = jnp.abs(u) < 1
    close, w = jnp.where(near, u, 0.0), jnp.where(near, 1.0, jnp.abs(u))
    below = (bose(2 * a * w) - bose(2 * w)) / w
    beyond = jnp.where(u < 0, below, (2 - 2 * a) - below)
    return jnp.where(near, (1 - a) + langevin(close) - a * langevin(a * close), beyond)


Depth: TypeAlias = Number | Kernel
"""What the public face takes for a depth: a number N, or a kernel."""
Depths: TypeAlias = Numbers | Kernel


def as_kernel(depth: Depth | Depths, dtype: Any, many: str = "jax.vmap") -> Kernel:
    """The kernel that `depth` stands for, in the precision of what it belongs to: a kernel itself, or `Balanced`.

    A single one, if `many` says what to do otherwise.
    """
    kernel = depth if isinstance(depth, Kernel) else Balanced(as_depth(depth, many=many))
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, kernel)


def scale_exponent(x: Float[Array, "d d"], kernel: Kernel) -> Scalar:
    """`exponent`, and 0 where the kernel has no degree and nothing can be put back."""
    return jnp.zeros((), x.dtype) if kernel.degree is None else exponent(x)


def degree_of(kernel: Kernel) -> Scalar | float:
    """The degree of homogeneity, 0 where there is none."""
    return 0.0 if kernel.degree is None else kernel.degree


def symmetric(values: Float[Array, " d"], vectors: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric matrix with these eigenvalues and eigenvectors."""
    return (vectors * values[None, :]) @ vectors.T


def _function(s: Float[Array, "d d"], f: Callable[[Array], Array]) -> Float[Array, "d d"]:
    """f of a symmetric matrix, on its eigenvalues."""
    values, vectors = eigh(s)
    return symmetric(f(values), vectors)


def _log(sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
    # The logarithm of 0 would make NaN of every difference. Callers replace what is computed from this value.
    return jnp.log(jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny))


def _log_ratio(sigma: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """(log sigma, u_kl = log(sigma_k/sigma_l))."""
    log = _log(sigma)
    return log, log[:, None] - log[None, :]
