"""The kernel lambda(s, t): how two singular values weigh a motion that turns one into the other.

Everything in the library is made of one operator. With X = U diag(sigma) V^T and thin frames U and V,

    A_X(Z) = U [lambda o (U^T Z V)] V^T + (I - U U^T) Z V diag(nu) V^T + U diag(mu) U^T Z (I - V V^T),

where lambda_kl = lambda(sigma_k, sigma_l). A `Kernel` gives lambda, nu and mu. `Balanced` is the kernel of the thesis.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._checks import as_array, as_depth, is_concrete, known
from dlnjax._geometry.special import log_balanced, log_balanced_slope, log_shc, NEAR, shc_small
from dlnjax._recorded import Record
from dlnjax._scale import exponent
from dlnjax._svd import ascending_or_nan, eigh
from dlnjax._tree import positive
from dlnjax._types import Matrix, Numbers, Scalar

# Where |y/N| is below this number, N log(1 + y/N) is replaced by y. The relative error is at most half of the number.
_FLAT = 1e-12

Symmetric: TypeAlias = tuple[Float[Array, " d"], Float[Array, "d d"]]
"""The eigenvalues and the eigenvectors of a symmetric matrix."""


class Kernel(eqx.Module):
    """How two singular values weigh a motion between their singular vectors: lambda(s, t), and what follows from it.

    A kernel of your own is a subclass with the four methods `log_eigenvalue`, `leaving`, `straighten` and
    `unstraighten`, and, if lambda is homogeneous, `degree`. Every function that takes a `depth` takes the kernel in its
    place. The arrays of a kernel may be traced: flows and geodesics are differentiable in them. Lambda must be smooth:
    curvatures lose digits where it changes within less than 0.1 of log sigma.

    Each call traces the methods anew, so that a number that they read from elsewhere, as a global, is the current one.
    A solution whose kernel has changed since raises `ValueError` where it would compute with it. In a sweep all seeds
    share the arrays of a kernel. Where `per_seed = True` stands in the class, its arrays are numbers, and an array of
    them has one for each seed.

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

    per_seed: ClassVar[bool] = False

    # What a kernel of one's own was when it came to the library.
    _record: Record | None = eqx.field(static=True, default=None, init=False, repr=False)

    def __check_init__(self) -> None:
        # Equinox takes a module without all of its fields for a wrapped function, which has another structure.
        object.__setattr__(self, "_record", None)

    @property
    def _axes(self) -> tuple[int, ...]:
        """The number of axes that each array of the kernel has without those of the seeds of a solution."""
        return self._record.axes if self._record else (0,) * len(jax.tree.leaves(eqx.filter(self, eqx.is_array)))

    @abc.abstractmethod
    def log_eigenvalue(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """log lambda(s, t), elementwise. It is symmetric, smooth where s = t, and finite for ratios up to 1e150."""

    @abc.abstractmethod
    def leaving(self, sigma: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """(nu, mu), elementwise: the weights of motions out of the column space and out of the row space."""

    @abc.abstractmethod
    def straighten(self, sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """y(sigma), an integral of lambda(s, s)^(-1/2) ds. Geodesics between commuting matrices are straight in y."""

    @abc.abstractmethod
    def unstraighten(self, y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The inverse of `straighten`."""

    def mix(self, t: Scalar, x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The point at time t of the straight line from x to y in the coordinate of `straighten`, elementwise."""
        return self.unstraighten((1 - t) * self.straighten(x) + t * self.straighten(y))

    def mix_symmetric(self, t: Scalar, a: Symmetric, b: Symmetric) -> Float[Array, "d d"]:
        """The line of `mix` between two positive definite matrices, (3.76), given as (eigenvalues, eigenvectors)."""
        (x, u), (y, v) = a, b
        mixed = (1 - t) * symmetric(self.straighten(x), u) + t * symmetric(self.straighten(y), v)
        return _function(mixed, self.unstraighten)

    @property
    def degree(self) -> Scalar | float | None:
        """The degree p of homogeneity, lambda(c s, c t) = c^p lambda(s, t); None if there is none."""
        return None

    @property
    def order(self) -> Scalar | float | np.floating:
        """The order q to which lambda(s, s) ~ s^q vanishes at s = 0. By default it is `degree`, or 0 without one.

        At order 0, flows and geodesics cross the singular matrices. Above it none does. From order 2 on the singular
        matrices are infinitely far away, and a singular value that is 0 stays 0.
        """
        return 0.0 if self.degree is None else self.degree

    def log_slope(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """d log lambda / d log s, elementwise. The default uses forward-mode autodiff."""
        return jax.jvp(lambda s: self.log_eigenvalue(s, log_t), (log_s,), (jnp.ones_like(log_s),))[1]

    def log_eigenvalue_and_slope(
        self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """(`log_eigenvalue`, `log_slope`), for kernels where both have a part in common."""
        return self.log_eigenvalue(log_s, log_t), self.log_slope(log_s, log_t)

    def speed(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """lambda(sigma, sigma), the diagonal of `eigenvalues`. It is even in sigma."""
        log, size = log_or_tiny(jnp.abs(sigma)), jnp.abs(sigma)
        return jnp.where((size > 0) | (jnp.asarray(self.order) <= 0), jnp.exp(self.log_eigenvalue(log, log)), 0.0)

    def rotation_weights(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """lambda_ij / ((sigma_i + sigma_j) m_ij), with m the logarithmic mean (sigma_i - sigma_j)/log(sigma_i/sigma_j).

        From it a flow makes the rates at which its frame turns. It is smooth and symmetric, and 0 for a pair
        of zeros, whose frame is arbitrary and is not turned.
        """
        log, u = log_ratio(sigma)
        row, column = log[:, None], log[None, :]
        turns = (sigma > 0)[:, None] | (sigma > 0)[None, :]
        log_eigenvalues = jnp.where(turns, self.log_eigenvalues(sigma), -jnp.inf)
        return jnp.exp(log_eigenvalues - jnp.logaddexp(row, column) - (row + column) / 2 - log_shc(u / 2))

    def moves(self, sigma: Float[Array, " d"]) -> Bool[Array, "d d"]:
        """Where lambda_kl is not 0: between two values above 0, between 0 and a value above 0 if the order is below 2,
        and between any two values at order 0. A NaN counts as a value above 0.
        """
        positive = ~(sigma <= 0)
        both, either = positive[:, None] & positive[None, :], positive[:, None] | positive[None, :]
        return both | (either & self._leaves_zero) | (jnp.asarray(self.order) <= 0)

    @property
    def _leaves_zero(self) -> Bool[Array, "*n"]:
        """Whether lambda(s, 0) is not 0."""
        return jnp.asarray(self.order) < 2

    def log_eigenvalues(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """log lambda_kl. It is finite for ratios up to the range of the floats, and -inf where lambda_kl = 0."""
        log, zero = log_or_tiny(sigma), sigma <= 0
        logs = self.log_eigenvalue(log[:, None], log[None, :])
        if (at_zero := self.log_eigenvalue_at_zero(log)) is not None:
            row, column = zero[:, None], zero[None, :]
            logs = jnp.where(row & ~column, at_zero[None, :], jnp.where(column & ~row, at_zero[:, None], logs))
        return jnp.where(self.moves(sigma), logs, -jnp.inf)

    def log_eigenvalue_at_zero(self, log_s: Float[Array, " d"]) -> Float[Array, " d"] | None:
        """log lambda(s, 0) for s > 0, elementwise. By default None: the smallest normal number is taken for 0."""
        return None

    def eigenvalues(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """lambda_kl = lambda(sigma_k, sigma_l): A_X maps u_k v_l^T to lambda_kl u_k v_l^T."""
        return jnp.exp(self.log_eigenvalues(sigma))

    def entropy(self, sigma: Float[Array, " d"]) -> Scalar:
        """1/2 sum_{k<l} log lambda_kl."""
        return jnp.sum(jnp.triu(self.log_eigenvalues(sigma), 1)) / 2

    def log_rates(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """The matrix of d log lambda(s, t)/ds at (sigma_k, sigma_l).

        Where sigma_k = 0 the derivative is taken from above, and may be infinite. The matrix is made of the slopes in
        log s, which need no limit where two values are equal.
        """
        log, zero = log_or_tiny(sigma), sigma == 0
        slopes = self.log_slope(*jnp.broadcast_arrays(log[:, None], log[None, :]))
        if self.degree is not None:
            # lambda(s, 0) = s^degree lambda(1, 0).
            slopes = jnp.where(zero[None, :], self.degree, slopes)
        at_zero = jnp.where(zero, jnp.where(jnp.asarray(self.order) > 0, jnp.inf, 0.0), self.rate_at_zero(sigma))
        return jnp.where(zero[:, None], at_zero[None, :], slopes / jnp.where(zero, 1.0, sigma)[:, None])

    def rate_at_zero(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """d log lambda(s, t)/ds at s = 0, for t > 0. The default evaluates it at the smallest normal number."""
        s = jnp.full_like(t, jnp.finfo(t.dtype).tiny)
        return self.log_slope(jnp.log(s), log_or_tiny(t)) / s

    def entropy_gradient(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """The gradient of `entropy` in sigma, (4.36)-(4.37): half the sum of `log_rates` over all other values."""
        rates = jnp.where(jnp.eye(len(sigma), dtype=bool), 0.0, self.log_rates(sigma))
        return jnp.sum(rates, axis=1) / 2


class Balanced(Kernel):
    """The kernel of a balanced network of depth N, 1/N times (2.20), with u = log(s/t) and shc(x) = sinh(x)/x:

        lambda(s, t) = (1/N) (s^2 - t^2)/(s^(2/N) - t^(2/N)) = (s t)^(1-1/N) shc(u)/shc(u/N),
        nu = mu = sigma^(2-2/N)/N.

    At infinite depth lambda is the limit, the logarithmic mean of s^2 and t^2, and nu = mu = 0. The formulas have no
    branch on the depth, and no sum over layers. A number N given as `depth` to any function means `Balanced(N)`.

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

    per_seed: ClassVar[bool] = True

    def __init__(self, depth: Numbers):
        # NumPy divides, since JAX would compile a program for it.
        self.inverse_depth = as_array("depth", 1 / known(as_depth(depth)))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # All methods of this class use one formula of lambda. A subclass would have to replace all of them.
        raise TypeError("Balanced is final: derive a kernel of your own from dlnjax.Kernel.")

    def __repr__(self) -> str:
        a = self.inverse_depth
        if not isinstance(a, (jax.Array, np.ndarray)) or not is_concrete(a):
            return "Balanced(traced)"
        if np.ndim(a):
            return f"Balanced({np.size(a)} depths)"
        inverse = float(a)
        return f"Balanced(depth={1 / inverse if inverse else np.inf:g})"

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
        return log_balanced(log_s, log_t, self.inverse_depth)

    @property
    def _leaves_zero(self) -> Bool[Array, "*n"]:
        """Whether the depth is finite, where 2 - 2/N may be rounded to 2."""
        return self.inverse_depth > 0

    def log_eigenvalue_at_zero(self, log_s: Float[Array, " d"]) -> Float[Array, " d"]:
        """log (s^(2-2/N)/N). In a deep network the power 2/N of the smallest number is not small."""
        return self.degree * log_s + jnp.log(positive(self.inverse_depth))

    def log_slope(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """d log lambda / d log s."""
        return log_balanced_slope(log_s - log_t, self.inverse_depth)

    def rate_at_zero(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """2/N s^(2/N-1) t^(-2/N) at s = 0."""
        a = 2 * self.inverse_depth
        return jnp.where(a < 1, jnp.inf, jnp.where(a == 1, 1 / t, 0.0))

    def leaving(self, sigma: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """sigma^(2-2/N)/N for both sides."""
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
        scaled = jnp.log1p(a * y) / positive(a)
        return jnp.exp(jnp.where(jnp.abs(a * y) < _FLAT, y, scaled))

    def mix(self, t: Scalar, x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """((1-t) x^(1/N) + t y^(1/N))^N, x^(1-t) y^t at infinite depth, with the relative accuracy of the floats.

        The default loses values whose x^(1/N) is below rounding beside 1. Here the end z of the larger summand is taken
        out of the sum. With p the weight of z, q the weight of the other end and L = log(other end/z), the point is
        z (p + q e^(L/N))^N.
        """
        a, ahead = self.inverse_depth, jnp.log(y) - jnp.log(x)
        # Each side has half of the power of the ratio, which may itself leave the range of the floats.
        from_x = t * jnp.exp(a * ahead / 2) <= (1 - t) * jnp.exp(-a * ahead / 2)
        z, p, q = (jnp.where(from_x, one, other) for one, other in ((x, y), (1 - t, t), (t, 1 - t)))
        log = jnp.where(from_x, ahead, -ahead)
        half, small = jnp.exp(a * log / 2), jnp.abs(a * log) < 0.5
        share = (q * half) * half
        # p + q e^(L/N) - 1, which `expm1` keeps the digits of where x and y are near each other.
        excess = jnp.where(small, q * jnp.expm1(a * jnp.where(small, log, 0.0)), share - q)
        little = excess > -0.5
        power = jnp.where(little, jnp.log1p(jnp.where(little, excess, 0.0)), jnp.log(jnp.where(little, 1.0, p + share)))
        flat = jnp.abs(a * log) < jnp.finfo(log.dtype).eps
        power = jnp.where(flat, q * log, power / jnp.where(flat, 1.0, a))
        # The factor e^power alone may leave the range of the floats. Its root does not.
        return z * jnp.exp(power / 2) * jnp.exp(power / 2)

    def mix_symmetric(self, t: Scalar, a: Symmetric, b: Symmetric) -> Float[Array, "d d"]:
        """((1-t) A^(1/N) + t B^(1/N))^N, exp((1-t) log A + t log B) at infinite depth.

        Where N is so large that all powers are near 1, N (A^(1/N) - 1) is mixed in their place. The powers would lose
        their digits beside 1, and their limit as N grows is 1. The limit of N (A^(1/N) - 1) is log A.
        """
        (x, u), (y, v) = a, b
        both = jnp.concatenate([x, y])
        size, least = jnp.max(both), jnp.min(both)
        differ = self.inverse_depth * (jnp.log(size) - jnp.log(least)) < jnp.log(2.0)
        # Where the powers are not used their exponent is set to 1, since 1/N may be 0 and a 0th power of 0 has no
        # derivative.
        power = jnp.where(differ, 1.0, self.inverse_depth)

        def flat(z: Float[Array, " d"]) -> Float[Array, " d"]:
            return jnp.where(differ, self.straighten(z / size), (z / size) ** power)

        def back(z: Float[Array, " d"]) -> Float[Array, " d"]:
            # Powers of positive matrices are positive. A negative eigenvalue of the size of rounding is therefore 0.
            rounding = len(z) * jnp.finfo(z.dtype).eps * jnp.max(jnp.abs(z))
            powers = jnp.where((z < 0) & (z > -rounding), 0.0, z)
            return jnp.where(differ, self.unstraighten(jnp.where(differ, z, 0.0)), powers ** (1 / power))

        return size * _function((1 - t) * symmetric(flat(x), u) + t * symmetric(flat(y), v), back)

    def speed(self, sigma: Float[Array, " d"]) -> Float[Array, " d"]:
        """|sigma|^(2-2/N)."""
        return jnp.abs(sigma) ** (2 - 2 * self.inverse_depth)

    def rotation_weights(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """a u/(r_i^2 - r_j^2) with a = 1/N, r = sigma^a and u = log(sigma_i/sigma_j), by d exponentials and not d^2."""
        a = self.inverse_depth
        log, u = log_ratio(sigma)
        # The conditions are numbers, since XLA does not vectorise a loop over truth values on a CPU.
        zero = (sigma <= 0).astype(sigma.dtype)
        power, x = jnp.exp(a * log) * (1 - zero), a * u
        square = power * power
        # Near u = 0 the quotient loses its digits. There r_i^2 - r_j^2 is 2 r_i r_j sinh(a u), whose series is used.
        # Beside a zero nothing is lost, however deep the network is.
        near = jnp.abs(x) + (zero[:, None] + zero[None, :]) < NEAR
        difference = square[:, None] - square[None, :]
        below = jnp.where(near, power[:, None] * power[None, :] * shc_small(x), difference)
        weights = jnp.where(near, 0.5, x) / jnp.where(below == 0, jnp.finfo(x.dtype).tiny, below)
        # A pair of zeros does not turn, and at infinite depth a pair with one zero does not turn either.
        still = jnp.where(a > 0, zero[:, None] * zero[None, :], jnp.maximum(zero[:, None], zero[None, :]))
        return weights * (1 - still)


def scale_exponent(x: Matrix, kernel: Kernel) -> Scalar:
    """`exponent`, or 0 for a kernel without a degree, whose operator at X is not known from that at c X."""
    return jnp.zeros((), x.dtype) if kernel.degree is None else exponent(x)


def degree_of(kernel: Kernel) -> Scalar | float:
    """The degree of homogeneity, or 0 for a kernel without one, where X is not scaled."""
    return 0.0 if kernel.degree is None else kernel.degree


def symmetric(values: Float[Array, " d"], vectors: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric matrix with these eigenvalues and eigenvectors."""
    return (vectors * values[None, :]) @ vectors.T


def _function(s: Float[Array, "d d"], f: Callable[[Array], Array]) -> Float[Array, "d d"]:
    """f of a symmetric matrix, on its eigenvalues. Where two of these agree its derivative is NaN."""
    values, vectors = eigh(s)
    return symmetric(f(ascending_or_nan(values)), vectors)


def log_or_tiny(sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log sigma, and the logarithm of the smallest normal number in place of log 0.

    The difference of two infinite logarithms would be NaN. Callers replace what is computed from this value.
    """
    return jnp.log(jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny))


def log_ratio(sigma: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """(log sigma, u), where u_kl = log(sigma_k/sigma_l)."""
    log = log_or_tiny(sigma)
    return log, log[:, None] - log[None, :]
