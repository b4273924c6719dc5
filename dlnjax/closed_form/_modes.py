"""One singular value on its way to a target, at any depth, by series that hold for all depths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_depth, as_positive, as_real, known, require
from dlnjax._compile import compiled
from dlnjax._tree import own_arithmetic, positive, smooth_where
from dlnjax._types import Numbers

# Both series are summed where their argument is at most 1/2, and the factors of the powers are below 2k.
_TERMS = 60
# Newton's method starts on the side from which it is monotone, with slopes within a factor of 4: the worst of 10^5
# random cases takes 5 steps.
_STEPS = 8
# Beside e to this power, 1 is lost to rounding.
_FAR = 50.0


def mode(sigma0: Numbers, target: Numbers, depth: Numbers, t: Numbers) -> Float[Array, "..."]:
    """The flow of one singular value under E = (sigma - s)^2 / 2, in the time of `gradient_flow`:

        sigma' = sigma^(2-2/N) (s - sigma),    sigma(0) = sigma_0.

    At N = 2 it is the sigmoid of Saxe et al. 2014, s e^(st) / (e^(st) - 1 + s/sigma_0); at other depths t(sigma) is
    in closed form, by the incomplete beta function, and is inverted to rounding by Newton's method. It leaves a small
    sigma_0 after a time of about log(1/sigma_0)/s at N = 2, sigma_0^-(1-2/N)/((1-2/N) s) beyond, and 1/(s sigma_0) at
    infinite depth. Differentiable in all arguments. Source: Saxe, McClelland, Ganguli 2014.

    **Arguments:** `sigma0`, above 0; `target`, s, at least 0; `depth`, N in [1, inf]; `t`, times of at least 0. They
    are numbers, or arrays that broadcast.

    **Returns:** sigma(t).

    **Raises:** `ValueError` or `TypeError` for what is not so.

    **Example:**

        >>> [f"{dln.closed_form.mode(0.1, 2.0, n, 1.5):.6f}" for n in (1, 2, 3, jnp.inf)]
        ['1.576053', '1.027773', '0.486091', '0.139346']
    """
    sigma0 = as_positive("sigma0", sigma0, many=True)
    target, t = _at_least_zero("target", target), _at_least_zero("t", t)
    inverse_depth = 1 / as_depth(depth)
    args = sigma0, target, inverse_depth, t
    try:
        shape = jnp.broadcast_shapes(*map(jnp.shape, args))
    except ValueError as error:
        shapes = ", ".join(str(jnp.shape(x)) for x in args)
        raise ValueError(f"sigma0, target, depth and t must have shapes that broadcast, got {shapes}.") from error
    dtype = jnp.result_type(sigma0, target, t)
    with own_arithmetic():
        return _mode(*(jnp.broadcast_to(x, shape).astype(dtype) for x in args))


def _at_least_zero(name: str, x: Any) -> Array:
    x = as_real(name, x)
    good = (known(x) >= 0) & (known(x) < jnp.inf)
    return require(x, ~good.all(), f"{name} must be finite and at least 0.")


@compiled
def _mode(
    sigma0: Float[Array, "*s"], target: Float[Array, "*s"], inverse_depth: Float[Array, "*s"], t: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    # Let s be the target and p = 2 - 2/N. Where sigma rises to s, let y = sigma/s and e = 1 - p. Where sigma falls to
    # s, let y = s/sigma and e = p. In both cases y' = y^(1-e) (1 - y) in the time tau = t s^p, and y rises to 1.
    p = 2 - 2 * inverse_depth
    # The derivative in a target of 0 is a product with sigma_0/sigma, which may be larger than any float.
    beyond = (target == 0) & (_log_of_rise(t * sigma0**p, p) > _largest_growth(t.dtype))
    target = smooth_where(~beyond, target)
    below = sigma0 <= target
    size = jnp.where(below, target, sigma0)
    y = jnp.where(below, sigma0, target) / size
    gap = jnp.where(below, target - sigma0, sigma0 - target) / size
    e = jnp.where(below, 1 - p, p)
    tau = t * _power(target, p)
    # The same time in units of the rate y^(-e) of log y at the start.
    theta = t * jnp.where(below, target * sigma0 ** (p - 1), sigma0**p)

    # Up to y = 1/2 by the series in y, and from there, or from the start if that is above, by the series in 1 - y.
    starts_low = (y < 0.5) & (target > 0)
    to_half = jnp.log(0.5 / jnp.where(starts_low, y, 0.5))
    half = _time_to(_rise(to_half, e), to_half, jnp.where(starts_low, y, 0.5), e)
    low = (target == 0) | (starts_low & (theta < half))
    rise = _log_growth(jnp.where(low, theta, 0.0), jnp.where(low, y, 0.25), e)
    rest = tau - jnp.where(starts_low, half * _power(y, e), 0.0)
    left = _gap_after(jnp.where(low, 0.0, rest), jnp.where(starts_low | low, 0.5, gap), 1 - e)
    grown = sigma0 * jnp.exp(jnp.where(below, rise, -rise))
    return jnp.where(low, grown, jnp.where(below, target * (1 - left), target / (1 - left)))


def _power(x: Array, e: Array) -> Array:
    """x^e, and 0 at x = 0, where it is not used or e > 0."""
    return jnp.where(x > 0, positive(x) ** e, 0.0)


def _rise(log_growth: Array, e: Array) -> Array:
    """(r^e - 1)/e for r = exp(log_growth): the integral of r^(e-1); log r at e = 0."""
    z = e * log_growth
    small = jnp.abs(z) < 1e-4
    # The fourth term of the series is below rounding where it is used.
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4))
    return log_growth * jnp.where(small, series, jnp.expm1(z) / jnp.where(small, 1.0, z))


def _log_of_rise(w: Array, e: Array) -> Array:
    """The inverse of `_rise`, log(1 + e w)/e."""
    # For e < 0 there is a w that is not reached, beside which rounding may put it.
    z = jnp.maximum(e * w, -1 + jnp.finfo(w.dtype).eps)
    small = jnp.abs(z) < 1e-4
    series = 1 - z * (1 / 2 - z * (1 / 3 - z / 4))
    return w * jnp.where(small, series, jnp.log1p(jnp.where(small, 0.0, z)) / jnp.where(small, 1.0, z))


def _horner(coefficients: Float[Array, "k *s"], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The polynomial without a constant term, the coefficient of x first."""
    return x * jax.lax.scan(lambda total, c: (total * x + c, None), jnp.zeros_like(x), coefficients, reverse=True)[0]


def _time_to(w: Array, log_growth: Array, y: Array, e: Array) -> Array:
    """theta = sum_k y^k (r^(k+e) - 1)/(k + e), the time in which y becomes r y, for r = exp(log_growth).

    The terms are positive, and the first is w = (r^e - 1)/e. From the third on no denominator is near 0.
    """
    k = jnp.arange(2.0, _TERMS, dtype=w.dtype).reshape(-1, *(1,) * w.ndim)
    tail = lambda y: y * _horner(1 / (k + e), y)
    end, power = y * _growth(log_growth), jnp.exp(e * log_growth)
    # The product y r^(1+e) is in the range of the floats where r^(1+e) is not.
    far = (1 + e) * log_growth > _FAR
    second = jnp.where(far, end * power / jnp.where(far, 1 + e, 1.0), y * _rise(jnp.where(far, 0.0, log_growth), 1 + e))
    return w + second + power * tail(end) - tail(y)


def _growth(log_growth: Array) -> Array:
    """r, or nearly the largest float: beside y = 0, that of a target of 0, r may be larger than any."""
    return jnp.exp(jnp.minimum(log_growth, _largest_growth(log_growth.dtype)))


def _largest_growth(dtype: Any) -> float:
    return float(np.log(np.finfo(dtype).max)) - 1


def _log_growth(theta: Array, y: Array, e: Array) -> Array:
    """log r for which y becomes r y <= 1/2 in the time theta."""
    grows = (y > 0) & (y < 0.5)
    most = jnp.where(grows, jnp.log(0.5 / jnp.where(grows, y, 0.25)), jnp.inf)
    log_growth = lambda w: jnp.minimum(_log_of_rise(w, e), most)
    # The unknown is w, in which the time has a slope of 1/(1 - r y), between 1 and 2 and increasing. In log r the slope
    # may be anything. So w <= theta, from where Newton's method comes down.
    late = lambda w: _time_to(w, log_growth(w), y, e) - theta
    slope = lambda w: 1 / (1 - y * _growth(log_growth(w)))
    start = jnp.minimum(theta, _rise(jnp.where(grows, most, 0.0), e) + jnp.where(grows, 0.0, jnp.inf))
    return log_growth(_root(late, slope, start))


def _gap_after(tau: Array, gap: Array, b: Array) -> Array:
    """1 - y after the time tau, from 1 - y = gap <= 1/2, where y' = y^b (1 - y)."""
    k = jnp.arange(1.0, _TERMS, dtype=tau.dtype).reshape(-1, *(1,) * tau.ndim)
    # (b)_k / (k! k), the coefficients of the integral of ((1 - v)^(-b) - 1)/v.
    coefficients = jnp.cumprod((b + k - 1) / k, axis=0) / k
    regular = lambda v: _horner(coefficients, v)
    late = lambda m: m + tau + regular(gap * jnp.exp(m)) - regular(gap)
    # With m = log of the gap relative to the first, the slope is between 1/2 and 4.
    slope = lambda m: (1 - gap * jnp.exp(m)) ** -b
    return gap * jnp.exp(_root(late, slope, jnp.zeros_like(tau)))


def _root(f: Callable[[Array], Array], slope: Callable[[Array], Array], start: Array) -> Array:
    """The root of f, elementwise, with derivatives of any order from the implicit function."""

    def newton(f: Callable[[Array], Array], start: Array) -> Array:
        return jax.lax.fori_loop(0, _STEPS, lambda _, w: w - f(w) / slope(w), start)

    return jax.lax.custom_root(f, start, newton, lambda linear, y: y / linear(jnp.ones_like(y)))
