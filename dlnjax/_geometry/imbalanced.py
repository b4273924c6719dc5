"""The kernel of a network whose layers differ by multiples of the identity, from rich to lazy training.

A mode of singular value sigma has the squared singular values w_p = a + c_p in the layers p = 1, ..., N. The offsets
c_p follow from the imbalance, c_p - c_{p+1} = g_p, and a(sigma) solves prod_p w_p = sigma^2. The formulas below are
those of a balanced network with a(sigma) in place of sigma^(2/N).
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_real, is_concrete, known, require
from dlnjax._custom_jvp import custom_jvp
from dlnjax._geometry.kernel import Kernel, log_or_tiny, log_ratio
from dlnjax._geometry.special import logarithmic_mean
from dlnjax._tree import positive, root
from dlnjax._types import Numbers, Scalar

# Integrals over [0, 1] are computed by the trapezoidal rule in t after the substitution x = 1/(1 + e^(-t)). The
# integrand of `_length` has singularities at x = i k, and k may be very small. In t their distance from the real line
# is never below pi/2, so that the error of the rule is about k e^(-2 pi (pi/2) / step), which is 4e-12 k for this step.
_STEP, _LAST = 3 / 8, 36.0
_TIMES = np.arange(-_LAST, _LAST + _STEP, _STEP)
_LOG_NODES = -np.log1p(np.exp(-_TIMES))
_WEIGHTS = np.exp(_LOG_NODES) / (1 + np.exp(_TIMES))
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


class Imbalanced(Kernel):
    """The kernel of a network with W_p W_p^T - W_{p+1}^T W_{p+1} = g_p I, p = 1, ..., N - 1, 1/N-normalised.

    At two layers, with f(s) = sqrt(s^2 + g^2/4),

        lambda(s, t) = (f(s) + f(t))/2,    nu = (f + g/2)/2,    mu = (f - g/2)/2.

    At N layers, with w_p = a + c_p the squared singular values of the layers,

        lambda(s, t) = (1/N) sum_p prod_{q>p} w_q(s) prod_{q<p} w_q(t) = (1/N) (s^2 - t^2)/(a(s) - a(t)),
        nu = (1/N) prod_{q<N} w_q,    mu = (1/N) prod_{q>1} w_q,

    where c_p - c_{p+1} = g_p and a(sigma) solves prod_p (a + c_p) = sigma^2. All hidden layers have the width r, the
    number of singular values. At g = 0 this is `Balanced(N)`. lambda is not homogeneous.

    As the imbalance grows, lambda becomes that of the layers with the smallest c_p alone, times a constant. If one
    layer is the smallest, lambda tends to a constant. Training is then lazy, and the metric is Euclidean. In that case
    lambda is also positive at zero: flows and geodesics cross the singular matrices, as at depth 1.

    The entropy is the log volume of the orbit of O_r^(N-1) through the factors, up to a constant, as for a balanced
    network.

    **Arguments:** `imbalance`, g for two layers, or a tuple (g_1, ..., g_{N-1}); numbers or traced arrays.

    **Attributes:** `imbalance`, the tuple (g_1, ..., g_{N-1}); `depth`, N.

    **Raises:** `ValueError` for numbers that are not finite, or none at all; `TypeError` for what is no number.

    **Example:**

        >>> dln.metric_eigenvalues(jnp.array([2.0, 0.0]), dln.Imbalanced(3.0)).round(6).tolist()
        [[2.5, 2.0], [2.0, 1.5]]
        >>> three = dln.Imbalanced((0.5, -0.2))
        >>> three, three.depth
        (Imbalanced(imbalance=(0.5, -0.2)), 3)
        >>> a, b = jnp.eye(2), jnp.array([[2.0, 1.0], [0.0, 2.0]])
        >>> lazy = dln.distance(a, b, dln.Imbalanced(1e8)) * 5e7**0.5
        >>> print(f"{lazy:.6f} = {jnp.linalg.norm(a - b):.6f}")
        1.732051 = 1.732051
    """

    imbalance: tuple[Float[Array, "*n"], ...]

    per_seed: ClassVar[bool] = True

    def __init__(self, imbalance: Numbers | Sequence[Numbers]):
        gaps = imbalance if isinstance(imbalance, (tuple, list)) else (imbalance,)
        if not gaps:
            raise ValueError("imbalance must have N - 1 numbers for N layers, got none. One layer alone is depth=1.")
        self.imbalance = tuple(_as_gap(g) for g in gaps)
        finite = abs(known(self.imbalance[0])) < np.inf
        with np.errstate(over="ignore", invalid="ignore"):
            for c in _offsets([known(g) for g in self.imbalance]):
                finite = finite & (abs(c) < np.inf)
        shown = f", got {_shown(self.imbalance)}" if _is_known(self.imbalance) else ""
        message = f"imbalance must be finite, and so must the sums of its numbers{shown}."
        self.imbalance = require(self.imbalance, ~finite.all(), message)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # All methods of this class use one formula of lambda. A subclass would have to replace all of them.
        raise TypeError("Imbalanced is final: derive a kernel of your own from dlnjax.Kernel.")

    def __repr__(self) -> str:
        if not _is_known(self.imbalance):
            return "Imbalanced(traced)"
        if any(map(np.ndim, self.imbalance)):
            return f"Imbalanced({max(map(np.size, self.imbalance))} imbalances)"
        return f"Imbalanced(imbalance={_shown(self.imbalance)})"

    def __str__(self) -> str:
        return repr(self).removeprefix("Imbalanced(").removesuffix(")").replace("=", " ")

    @property
    def depth(self) -> int:
        """N."""
        return len(self.imbalance) + 1

    @property
    def order(self) -> Scalar | float | np.floating:
        """2 - 2/m, where m of the c_p share the minimum: near zero a(sigma) is a multiple of sigma^(2/m)."""
        lib = np if _is_known(self.imbalance) else jnp
        c = lib.stack(_offsets([known(g) for g in self.imbalance]))
        return 2 - 2 / lib.sum(c == lib.min(c, 0), 0).astype(c.dtype)

    @property
    def _c(self) -> Float[Array, " N"]:
        return jnp.stack(_offsets(list(self.imbalance)))

    def log_eigenvalue(self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        """log lambda, from the logarithms of the layers, since their products may leave the range of the floats."""
        if self.depth == 2:
            return jnp.logaddexp(*(jnp.log(self._mean(jnp.exp(log))) for log in (log_s, log_t))) - math.log(2)
        return _log_mean_product(log_layers(log_s, self._c), log_layers(log_t, self._c))

    def log_eigenvalue_at_zero(self, log_s: Float[Array, " d"]) -> Float[Array, " d"] | None:
        """log lambda(s, 0) from three layers on. At two layers the smallest number is small beside s."""
        if self.depth == 2:
            return None
        return _log_mean_product(log_layers(log_s, self._c), _log_layers_at_zero(self._c)[:, None])

    def log_eigenvalue_and_slope(
        self, log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """(log lambda, d log lambda / d log s), from one solution by Newton's method."""
        return jax.jvp(lambda s: self.log_eigenvalue(s, log_t), (log_s,), (jnp.ones_like(log_s),))

    def _mean(self, sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """f = sqrt(sigma^2 + g^2/4), the mean of w_1 and w_2 at two layers."""
        half = self.imbalance[0] / 2
        size = positive(jax.lax.stop_gradient(jnp.maximum(sigma, jnp.abs(half))))
        square = (sigma / size) ** 2 + (half / size) ** 2
        return size * root(square)

    def eigenvalues(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """lambda_kl. From three layers on it is a product of two matrices, with no exponential for each pair."""
        if self.depth == 2:
            f = self._mean(sigma)
            eigenvalues = (f[:, None] + f[None, :]) / 2
        else:
            log_w = self._log_layers(sigma)
            eigenvalues = jnp.exp(_sum_after(log_w)).T @ jnp.exp(_sum_before(log_w)) / self.depth
            # The product is symmetric up to rounding. Flows need exact symmetry to keep their frames orthogonal.
            eigenvalues = (eigenvalues + eigenvalues.T) / 2
        return jnp.where(self.moves(sigma), eigenvalues, 0.0)

    def rotation_weights(self, sigma: Float[Array, " d"]) -> Float[Array, "d d"]:
        """The weights of `Kernel.rotation_weights`, from `eigenvalues`, with no exponential for each pair."""
        _, u = log_ratio(sigma)
        total = sigma[:, None] + sigma[None, :]
        # The frame of a pair of zeros is arbitrary, and is not turned.
        turns = total > 0
        eigenvalues = jnp.where(turns, self.eigenvalues(sigma), 0.0)
        mean = jnp.where(turns, logarithmic_mean(sigma, u), 1.0)
        return eigenvalues / mean / jnp.where(turns, total, 1.0)

    def rate_at_zero(self, t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """a'(s)/a(t) at s = 0. With m of the c_p at the minimum, a^m prod_{c_p > 0} c_p = s^2 near zero."""
        c = _above_least(self._c)
        product = jnp.exp(jnp.sum(jnp.where(c > 0, jnp.log(positive(c)), 0.0)) / 2)
        a = jnp.exp(jnp.min(log_layers(jnp.log(t), self._c), 0))
        order = jnp.asarray(self.order)
        return jnp.where(order > 1, jnp.inf, jnp.where(order == 1, 1 / (product * a), 0.0))

    def leaving(self, sigma: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """(1/N) prod_{q<N} w_q and (1/N) prod_{q>1} w_q."""
        log_w = self._log_layers(jnp.abs(sigma))
        return jnp.exp(jnp.sum(log_w[:-1], 0)) / self.depth, jnp.exp(jnp.sum(log_w[1:], 0)) / self.depth

    def _log_layers(self, size: Float[Array, " d"]) -> Float[Array, "N d"]:
        """log w_p, of the squared singular values w_p of the layers."""
        at_zero = _log_layers_at_zero(self._c)[:, None]
        return jnp.where((size == 0)[None, :], at_zero, log_layers(log_or_tiny(size), self._c))

    def straighten(self, sigma: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """sqrt(N) times the length of the curve (sqrt(w_1), ..., sqrt(w_N)) from 0 to sigma. It is odd in sigma.

        At two layers the curve is a hyperbola, and its length an incomplete elliptic integral. At any number of layers
        it is computed by quadrature.
        """
        size = jnp.abs(sigma)
        return jnp.where(size > 0, jnp.sign(sigma) * _length(log_or_tiny(size), self._c), 0.0)

    def unstraighten(self, y: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The inverse of `straighten`, by Newton's method."""
        size = jnp.abs(y)
        return jnp.where(size > 0, jnp.sign(y) * jnp.exp(_log_at_length(log_or_tiny(size), self._c)), 0.0)


def _as_gap(g: Any) -> Array:
    if g is None or isinstance(g, (bool, str, dict, tuple, list)):
        raise TypeError(f"imbalance must be a number g, or a tuple of numbers (g_1, ..., g_(N-1)), got {g!r} in it.")
    return as_real("imbalance", g, "It is a number g, or a tuple (g_1, ..., g_(N-1)) for N layers.")


def _is_known(gaps: tuple[Any, ...]) -> bool:
    # JAX also builds kernels with placeholders in place of arrays, while it works on trees.
    return all(isinstance(g, (jax.Array, np.ndarray)) and is_concrete(g) for g in gaps)


def _shown(gaps: tuple[Array, ...]) -> str:
    numbers = [f"{float(g):g}" if np.ndim(g) == 0 else str(g) for g in gaps]
    return numbers[0] if len(numbers) == 1 else f"({', '.join(numbers)})"


def _offsets(gaps: Sequence[Any]) -> list[Any]:
    """c_1 = 0, c_2 = -g_1, c_3 = -g_1 - g_2, and so on. A constant added to all of them would only change a(sigma)."""
    c = [gaps[0] * 0]
    for g in gaps:
        c.append(c[-1] - g)
    return c


def _above_least(c: Float[Array, " N"]) -> Float[Array, " N"]:
    """The offsets with the constant for which the smallest is 0, so that a(sigma) >= 0."""
    return c - jnp.min(c)


def _sum_before(z: Float[Array, "N *s"]) -> Float[Array, "N *s"]:
    """For each layer, the sum over the layers before it."""
    return jnp.concatenate([jnp.zeros_like(z[:1]), jnp.cumsum(z[:-1], axis=0)])


def _sum_after(z: Float[Array, "N *s"]) -> Float[Array, "N *s"]:
    """For each layer, the sum over the layers after it."""
    return jnp.flip(_sum_before(jnp.flip(z, 0)), 0)


def _log_mean_product(s: Float[Array, "N *#s"], t: Float[Array, "N *#s"]) -> Float[Array, "*#s"]:
    """log lambda, from the logarithms of the layers of both singular values."""
    return jax.nn.logsumexp(_sum_after(s) + _sum_before(t), axis=0) - math.log(len(s))


def _log_layers_at_zero(c: Float[Array, " N"]) -> Float[Array, " N"]:
    """log w_p at sigma = 0, where the w_p are the c_p above their minimum."""
    above = _above_least(c)
    return jnp.where(above > 0, jnp.log(positive(above)), -jnp.inf)


@custom_jvp
def log_layers(log_sigma: Float[Array, "*s"], c: Float[Array, " N"]) -> Float[Array, "N *s"]:
    """log w_p, of the squared singular values w_p = a + c_p of the layers with prod_p w_p = sigma^2."""
    if len(c) == 2:
        # w_1 and w_2 are f + g/2 and f - g/2. The smaller is computed as sigma^2 over the larger, since the difference
        # would lose its digits.
        half = jnp.abs(c[0] - c[1]) / 2
        large = jnp.where(half > 0, jnp.log(_hypot(jnp.exp(log_sigma), half) + half), log_sigma)
        small = 2 * log_sigma - large
        first_is_large = c[0] >= c[1]
        return jnp.stack([jnp.where(first_is_large, large, small), jnp.where(first_is_large, small, large)])
    log_c = _log_layers_at_zero(c).reshape(-1, *[1] * log_sigma.ndim)
    return jnp.logaddexp(_log_root(log_sigma, log_c)[None], log_c)


def _log_root(log_sigma: Float[Array, "*s"], log_c: Float[Array, "N *#s"]) -> Float[Array, "*s"]:
    """log a, where a >= 0 solves prod_p (a + c_p) = sigma^2, by Newton's method in log a.

    sum_p log(a + c_p) is convex and increasing in log a. From a start above the root, Newton's method therefore goes
    down to the root and never passes it. It starts where prod_p max(a, c_p) = sigma^2. There the sum is too large by at
    most N log 2.
    """
    layers = log_c.shape[0]
    ascending = jnp.sort(log_c, axis=0)
    # If a is above j of the c_p, prod_p max(a, c_p) is a^j times the product of the other c_p. Each j gives a candidate
    # for a, and the smallest candidate is the solution.
    numbers = jnp.arange(1, layers + 1, dtype=log_sigma.dtype).reshape(log_c.shape[:1] + (1,) * log_sigma.ndim)
    start = jnp.min((2 * log_sigma[None] - _sum_after(ascending)) / numbers, axis=0)

    def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, _ = state
        log_w = jnp.logaddexp(x[None], log_c)
        step = (jnp.sum(log_w, 0) - 2 * log_sigma) / jnp.sum(jnp.exp(x[None] - log_w), 0)
        return x - step, step

    # The error after a step is at most half of its square, since the second derivative is never above the first.
    enough = jnp.finfo(log_sigma.dtype).eps ** 0.5
    return jax.lax.while_loop(lambda s: jnp.any(s[1] > enough), newton, (start, jnp.full_like(start, jnp.inf)))[0]


@log_layers.defjvp
def _log_layers_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    """By the implicit function theorem: sum_p dw_p/w_p = 2 dlog sigma with dw_p = da + dc_p.

    With m the smallest layer, the rule has no 1/w_m, which may leave the range of the floats:

        dlog w_p = (r_p / sum r) (2 dlog sigma - sum_q (dc_q - dc_m)/w_q) + (dc_p - dc_m)/w_p,    r_q = w_m/w_q.
    """
    (log_sigma, c), (dlog_sigma, dc) = primals, tangents
    log_w = log_layers(log_sigma, c)
    m = jnp.argmin(c)
    other = (jnp.arange(len(c)) != m).reshape(-1, *[1] * log_sigma.ndim)
    dc = (dc - dc[m]).reshape(other.shape)
    r = jnp.exp(log_w[m][None] - log_w)
    change = jnp.where(other, dc * jnp.exp(-jnp.where(other, log_w, 0.0)), 0.0)
    share = r / jnp.sum(r, 0, keepdims=True)
    return log_w, share * (2 * dlog_sigma - jnp.sum(change, 0))[None] + change


def _hypot(x: Float[Array, "*s"], y: Scalar) -> Float[Array, "*s"]:
    """sqrt(x^2 + y^2) of numbers that are not negative, whose squares may leave the range of the floats."""
    size = jnp.maximum(x, y)
    return size * jnp.sqrt((x / size) ** 2 + (y / size) ** 2)


def _length(log_sigma: Float[Array, "*s"], c: Float[Array, " N"]) -> Float[Array, "*s"]:
    """The integral of lambda(s, s)^(-1/2) from 0 to sigma.

    With b the singular value of the smallest layer, it is the integral of sqrt(N sum_p b^2/(b^2 + c_p)) from 0 to b.
    """
    return _length_to(jnp.min(log_layers(log_sigma, c), 0) / 2, _above_least(c))


def _length_to(log_b: Float[Array, "*s"], above: Float[Array, " N"]) -> Float[Array, "*s"]:
    """`_length` as a function of the singular value b of the smallest layer, by the trapezoidal rule above."""
    ones = (1,) * log_b.ndim
    log_nodes = jnp.asarray(_LOG_NODES, log_b.dtype).reshape(-1, *ones)
    weights = jnp.asarray(_WEIGHTS, log_b.dtype).reshape(-1, *ones)
    return jnp.exp(log_b) * jnp.sum(weights * _length_per_b(log_b[None] + log_nodes, above), 0)


def _length_per_b(log_b: Float[Array, "*s"], above: Float[Array, " N"]) -> Float[Array, "*s"]:
    """sqrt(N sum_p b^2/(b^2 + c_p)), the derivative of the length in b."""
    c = above.reshape(-1, *[1] * log_b.ndim)
    # Each summand is a logistic function of logarithms, since b^2 and c_p may leave the range of the floats.
    share = jnp.where(c > 0, jax.nn.sigmoid(2 * log_b[None] - jnp.log(positive(c))), 1.0)
    return jnp.sqrt(len(above) * jnp.sum(share, 0))


@custom_jvp
def _log_at_length(log_y: Float[Array, "*s"], c: Float[Array, " N"]) -> Float[Array, "*s"]:
    """log sigma at which the length is y, by Newton's method in b.

    With m of the c_p at 0, the derivative of the length in b grows from sqrt(N m) to N. The length is therefore convex
    in b, and b is at most y/sqrt(N m). From there Newton's method goes down to the root and never passes it.
    """
    above = _above_least(c)
    start = log_y - jnp.log(len(c) * jnp.sum(above == 0)) / 2

    def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
        log_b, _ = state
        # The step of Newton's method in b, relative to b.
        step = (_length_to(log_b, above) - jnp.exp(log_y)) / (jnp.exp(log_b) * _length_per_b(log_b, above))
        return log_b + jnp.log1p(-step), step

    enough = jnp.finfo(log_y.dtype).eps ** 0.5
    first = start, jnp.full_like(start, jnp.inf)
    log_b = jax.lax.while_loop(lambda s: jnp.any(s[1] > enough), newton, first)[0]
    log_c = _log_layers_at_zero(c).reshape(-1, *[1] * log_b.ndim)
    return jnp.sum(jnp.logaddexp(2 * log_b[None], log_c), 0) / 2


@_log_at_length.defjvp
def _log_at_length_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    """By the implicit function theorem, from the derivatives of the length."""
    (log_y, c), (dlog_y, dc) = primals, tangents
    log_sigma = _log_at_length(log_y, c)
    y, by_c = jax.jvp(lambda c: _length(log_sigma, c), (c,), (dc,))
    _, slope = jax.jvp(lambda log: _length(log, c), (log_sigma,), (jnp.ones_like(log_sigma),))
    return log_sigma, (y * dlog_y - by_c) / slope
