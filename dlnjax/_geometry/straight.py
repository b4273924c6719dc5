"""The coordinates of the Levi-Civita connection at a square X of full rank, and the divided differences in them.

Near X = diag(sigma), a matrix is written as e^(R/2) sigma(W) e^(R/2), where W is symmetric with the eigenvalues
y(sigma) of `Kernel.straighten`, and R is antisymmetric. With W = diag(y), a tangent vector is a pair (A, R), and

    g = sum_ij c_ij A_ij^2 + P_ij R_ij^2,    P_ij = (sigma_i + sigma_j)^2 / (4 lambda_ij),
    c_ij = ((sigma_i - sigma_j)/(y_i - y_j))^2 / lambda_ij.

c and P are smooth where singular values meet, and c_ii = 1. In coordinates of X itself the metric grows without bound
near the singular matrices, and terms of the curvature cancel there to the last digit. Derivatives along W are made of
divided differences in y (Daleckii and Krein). Where two singular values are near each other, these are means of
derivatives over the segment between them (Peano), by Gauss-Legendre quadrature in log sigma.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry.imbalanced import Imbalanced
from dlnjax._geometry.kernel import Balanced, Kernel
from dlnjax._geometry.special import bose, langevin, log_shc
from dlnjax._tree import instantiate, ravel
from dlnjax._types import Scalar

# Two singular values are near each other if their logarithms differ by less than this. The functions of networks are
# analytic in log sigma up to a distance of pi, so that six nodes are exact to rounding there. A kernel of one's own may
# have narrower features. A quotient over the smaller distance still has all digits but two or three.
_CLOSE, _CLOSE_IN_OWN = 0.5, 0.05
_POINTS, _MASSES = np.polynomial.legendre.leggauss(6)
_NODES, _WEIGHTS = (1 + _POINTS) / 2, _MASSES / 2
# `most_stretched` looks at this many values between the smallest and the largest.
_LOOKS = 65
# The weights are evaluated at this many pairs at a time, for which they take 30 MB.
_AT_ONCE = 2**15

# log sigma and sigma, of equal shape. Both are kept, since the derivatives of sigma in y follow from lambda alone.
Value: TypeAlias = tuple[Float[Array, "..."], Float[Array, "..."]]
Weights: TypeAlias = Callable[[Value, Value, Float[Array, "..."]], Float[Array, "... p"]]


def _close(kernel: Kernel) -> float:
    return _CLOSE if isinstance(kernel, Balanced | Imbalanced) else _CLOSE_IN_OWN


def _log_rate(kernel: Kernel, log: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log dsigma/dy, which is log lambda(sigma, sigma)/2."""
    return kernel.log_eigenvalue(log, log) / 2


def _velocity(kernel: Kernel, s: Value) -> Value:
    """The derivatives of a value in y."""
    rate = _log_rate(kernel, s[0])
    return jnp.exp(rate - s[0]), jnp.exp(rate)


def _log_stretch(kernel: Kernel, log_s: Float[Array, "*s"], log_t: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The logarithm of (y(s) - y(t))/(log s - log t)."""
    u = log_s - log_t
    if isinstance(kernel, Balanced):
        return kernel.inverse_depth * (log_s + log_t) / 2 + log_shc(kernel.inverse_depth * u / 2)
    near = jnp.abs(u) < _close(kernel)
    small, apart = jnp.where(near, u, 0.0), jnp.where(near, 1.0, u)
    # The mean of dy/dlog sigma over the segment between the two. Its size is taken out, so that no power overflows.
    along = log_t[..., None] + small[..., None] * jnp.asarray(_NODES, u.dtype)
    slope = along - _log_rate(kernel, along)
    size = jax.lax.stop_gradient(slope[..., :1])
    mean = jnp.log(jnp.exp(slope - size) @ jnp.asarray(_WEIGHTS, u.dtype)) + size[..., 0]
    gap = kernel.straighten(jnp.exp(log_s)) - kernel.straighten(jnp.exp(log_t))
    return jnp.where(near, mean, jnp.log(jnp.where(near, 1.0, gap / apart)))


def _log_mean_rate(kernel: Kernel, log_s: Float[Array, "*s"], log_t: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The logarithm of (s - t)/(y(s) - y(t)) for s and t near each other, a mean of dsigma/dy over the segment."""
    # The deviations from the rate in the middle keep their digits where lambda hardly changes. Near the singular
    # matrices the lambda of an imbalanced network hardly changes, and a difference of two logarithms would lose them.
    middle = (log_s + log_t) / 2
    along = log_t[..., None] + (log_s - log_t)[..., None] * jnp.asarray(_NODES, log_s.dtype)
    rate, deviation = _log_rate(kernel, middle), _log_rate(kernel, along) - _log_rate(kernel, middle)[..., None]
    share = jnp.exp(along - middle[..., None] - deviation) * jnp.asarray(_WEIGHTS, log_s.dtype)
    excess = jnp.sum(share * jnp.expm1(deviation), -1) / jnp.sum(share, -1)
    return rate + jnp.log1p(excess)


def _weights(kernel: Kernel) -> Weights:
    """(c, P) as a function of two singular values and of the difference of their y, elementwise."""

    def weights(of_s: Value, of_t: Value, gap: Float[Array, "..."]) -> Float[Array, "... p"]:
        (log_s, s), (log_t, t) = of_s, of_t
        u = log_s - log_t
        near = jnp.abs(u) < _close(kernel)
        small = jnp.where(near, u, 0.0)
        # Where the two are apart, y enters by its difference alone, whose derivatives in y are 1 and -1.
        quotient = jnp.log(jnp.where(near, 1.0, (s - t) / jnp.where(near, 1.0, gap)))
        even = jnp.where(near, _log_mean_rate(kernel, log_t + small, log_t), quotient)
        roots = jnp.stack([even, jnp.log((s + t) / 2)], -1)
        return jnp.exp(2 * roots - kernel.log_eigenvalue(log_s, log_t)[..., None])

    return weights


def most_stretched(kernel: Kernel, least: Scalar, most: Scalar) -> Scalar:
    """The largest root of c_ij among singular values between two, by which a line in W is at most longer than flat.

    It is 1 for `Balanced`, whose c is at most 1 (Theorem 3.4.2). For other kernels c is taken at pairs of values that
    are evenly spaced in log sigma.
    """
    if isinstance(kernel, Balanced):
        return jnp.ones_like(most)
    log = jnp.linspace(jnp.log(least), jnp.log(most), _LOOKS)
    log_s, log_t = jnp.broadcast_arrays(log[:, None], log[None, :])
    gap = (log_s - log_t) * jnp.exp(_log_stretch(kernel, log_s, log_t))
    c = _weights(kernel)((log_s, jnp.exp(log_s)), (log_t, jnp.exp(log_t)), gap)[..., 0]
    return jnp.sqrt(jnp.maximum(1.0, jnp.max(c)))


@compiled
def to_the_boundary(least: Scalar, kernel: Kernel) -> Scalar:
    """`boundary_distance` of a matrix with this least singular value, the integral of dy from 0. From order 2 on it is
    infinite.
    """
    if isinstance(kernel, Balanced):
        a, deep = kernel.inverse_depth, kernel.inverse_depth == 0
        return jnp.where(deep, jnp.inf, least**a / jnp.where(deep, 1.0, a))
    if isinstance(kernel, Imbalanced):
        return kernel.straighten(least)
    # `straighten` may have no value at 0. Below the smallest normal number lambda(s, s) is a power, of twice this
    # exponent. In a deep network that part of the integral is not small.
    tiny = jnp.full_like(least, jnp.finfo(least.dtype).tiny)
    power = kernel.log_slope(jnp.log(tiny), jnp.log(tiny))
    finite = (jnp.asarray(kernel.order) < 2) & (power < 1)
    below = tiny * jnp.exp(-_log_rate(kernel, jnp.log(tiny))) / jnp.where(finite, 1 - power, 1.0)
    return jnp.where(finite, kernel.straighten(least) - kernel.straighten(tiny) + below, jnp.inf)


def _jet(kernel: Kernel, log_s: Float[Array, " n"], log_t: Float[Array, " n"]) -> tuple[Float[Array, "n p"], ...]:
    """`_weights` at pairs of singular values, and the derivatives in y: the first and second in s, that in s and t.

    Of `Balanced` these are those of c - 1/N alone.
    """
    n = len(log_s)
    if n > _AT_ONCE:
        parts = (jnp.pad(log, (0, -n % _AT_ONCE)).reshape(-1, _AT_ONCE) for log in (log_s, log_t))
        out = jax.lax.map(lambda logs: _jet(kernel, *logs), tuple(parts))
        return jax.tree.map(lambda z: z.reshape(-1, z.shape[-1])[:n], out)
    if isinstance(kernel, Balanced):
        return _balanced_jet(kernel.inverse_depth, log_s, log_t)
    gap = (log_s - log_t) * jnp.exp(_log_stretch(kernel, log_s, log_t))
    weights, none, one = _weights(kernel), jnp.zeros_like(gap), jnp.ones_like(gap)

    def slope(s: Value, t: Value, gap: Float[Array, " n"]) -> tuple[Float[Array, "n p"], Float[Array, "n p"]]:
        return jax.jvp(weights, (s, t, gap), (_velocity(kernel, s), (none, none), one))

    s, t = (log_s, jnp.exp(log_s)), (log_t, jnp.exp(log_t))
    (value, first), move = jax.linearize(slope, s, t, gap)
    _, second = move(_velocity(kernel, s), (none, none), one)
    _, mixed = move((none, none), _velocity(kernel, t), -one)
    return value, first, second, mixed


def _balanced_jet(a: Scalar, log_s: Float[Array, " n"], log_t: Float[Array, " n"]) -> tuple[Float[Array, "n 1"], ...]:
    """`_jet` of `Balanced` with a = 1/N, of c - a, where c is a function of u alone, and du/dy = sigma^(-a).

    With g = d log c/du = 1/sinh(u) - a/sinh(a u), the derivatives in y are made of c g, c (g^2 + g' - a g) and
    c (g^2 + g'). Near u = 0 the poles of g are taken out, by 1/sinh(u) = 1/u + langevin(u/2) - langevin(u). Elsewhere
    the terms are put together so that none cancels where s is far below t, and all vanish at depth 1, to the last bit.
    """
    u = log_s - log_t
    near, side = jnp.abs(u) < 1, jnp.sign(u)
    close, w = jnp.where(near, u, 0.0), jnp.where(near, 1.0, jnp.abs(u))
    without_pole = lambda x: langevin(x / 2) - langevin(x)
    smooth = lambda u: without_pole(u) - a * without_pole(a * u)
    slope, bend = jax.jvp(smooth, (close,), (jnp.ones_like(u),))
    # 2/(1 - e^(-2w)) and 2a/(1 - e^(-2aw)), of which 1/sinh(w) and a/sinh(a w) are multiples.
    one, other = (_over_decay(2 * x) / w for x in (w, a * w))
    p, q = jnp.exp(-w) * one, jnp.exp(-a * w) * other
    decay = lambda x: jnp.where(side < 0, jnp.exp(-2 * x), 1.0)
    g = jnp.where(near, slope, side * (p - q))
    mixed = jnp.where(near, slope * slope + bend, (p - q) ** 2 + q * (other - a) - p * (one - 1))
    apart = (p - q) ** 2 + q * other * decay(a * w) - p * one * decay(w) + side * (1 - a) * p
    second = jnp.where(near, mixed - a * slope, apart)
    excess = _excess(a, u)
    by_s, by_t, c = jnp.exp(-a * log_s), jnp.exp(-a * log_t), excess + a
    return tuple(z[:, None] for z in (excess, by_s * c * g, by_s * by_s * c * second, -by_s * by_t * c * mixed))


def _excess(a: Scalar, u: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """c - 1/N of `Balanced`, a tanh(u/2)/tanh(a u/2) - a with a = 1/N, accurate relative to its own size.

    c tends to a where one value is far below the other. Differences of c would lose there what c - a keeps.
    """
    v = jnp.abs(u)
    return 2 * (1 - a) * jnp.exp(-a * v) * _over_decay(a * v) / (_over_decay((1 - a) * v) * (1 + jnp.exp(-v)))


def _over_decay(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x/(1 - e^(-x)) for x >= 0, which is 1 at x = 0."""
    return bose(x) + x


class Differences(eqx.Module):
    """A function of two values, and its divided differences in y.

    **Attributes:** `value`; `first` at [i, j, k], the divided difference between i and j in one argument, with k in the
    other; `three` at [i, j, l, k], that over i, j and l; `mixed` at [i, j, l, k], that between i and j in the first
    argument and between l and k in the second.
    """

    value: Float[Array, "d d *p"]
    first: Float[Array, "d d d *p"]
    three: Float[Array, "d d d d *p"]
    mixed: Float[Array, "d d d d *p"]


class Straight(eqx.Module):
    """What the connection at a point needs of its singular values, which must descend.

    **Attributes:** `gap`, y_i - y_j; `weights`, c and P, along the last axis; `stretch` and `bend`, the first and
    second divided differences of sigma as a function of y.
    """

    gap: Float[Array, "d d"]
    weights: Differences
    stretch: Float[Array, "d d"]
    bend: Float[Array, "d d d"]

    def __init__(self, sigma: Float[Array, " d"], kernel: Kernel):
        log = jnp.log(sigma)
        row, column = log[:, None], log[None, :]
        on = _Segments(log, kernel)
        weights = _differences(on, log, kernel)
        self.gap, self.weights = on.gap, _with_odd(weights, log, kernel) if isinstance(kernel, Balanced) else weights
        self.stretch = jnp.exp((row + column) / 2 + log_shc((row - column) / 2)) / on.stretch
        rate = lambda log: jnp.exp(_log_rate(kernel, log))
        acceleration = jax.jvp(rate, (on.log,), (rate(on.log) * jnp.exp(-on.log),))[1]
        self.bend = on.second(self.stretch, on.mean(acceleration, on.lever))


def _differences(on: "_Segments", log: Float[Array, " d"], kernel: Kernel) -> Differences:
    """`_weights` and its divided differences."""
    # The weights are symmetric, so that two segments are a pair in one order only, and each begins at its larger value.
    segments = np.triu_indices(len(log))
    one, other = np.triu_indices(len(segments[0]))
    nodes, share = on.log[segments], on.share[segments]
    # One call for all pairs, so that the kernel is compiled once: of values, of a node and a value, of two nodes.
    pairs = [(log[:, None], log), (on.log[..., None], log), (nodes[one][:, :, None], nodes[other][:, None])]
    pairs = [jnp.broadcast_arrays(*pair) for pair in pairs]
    jets = _jet(kernel, *(jnp.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True)))
    ends = np.cumsum([pair[0].size for pair in pairs])[:-1]

    def of(derivative: int, which: int) -> Array:
        jet = jnp.split(jets[derivative], ends)[which]
        return jet.reshape(*pairs[which][0].shape, jet.shape[-1])

    value = of(0, 0)
    if isinstance(kernel, Balanced):
        value = _excess(kernel.inverse_depth, log[:, None] - log)[..., None]
    first = on.first(value, on.mean(of(1, 1)))
    three = on.second(first, on.mean(of(2, 1), on.lever))
    by_second = jnp.einsum("nabp,na,nb->np", of(3, 2), share[one], share[other])
    segment = _symmetric_index(len(log))
    pair = _symmetric_index(len(segments[0]))[segment[:, :, None, None], segment]
    mixed = on.mixed(first, by_second[pair])
    return Differences(value, first, three, mixed)


def _symmetric_index(n: int) -> np.ndarray:
    """The place of the pair i, j, in either order, among those of `np.triu_indices(n)`."""
    index = np.empty((n, n), int)
    index[np.triu_indices(n)] = index.T[np.triu_indices(n)] = np.arange(n * (n + 1) // 2)
    return index


def _with_odd(even: Differences, log: Float[Array, " d"], kernel: Balanced) -> Differences:
    """c and P of `Balanced`, from c - 1/N.

    As c P = ((z_i + z_j)/2)^2 with z = sigma^(1/N) = 1 + y/N, the divided differences of P follow from those of c by
    the rule of Leibniz, to the last digit also beside much larger values.
    """
    a = kernel.inverse_depth
    z = jnp.exp(a * log)
    c, first, three, mixed = even.value[..., 0] + a, even.first[..., 0], even.three[..., 0], even.mixed[..., 0]
    p = ((z[:, None] + z) / 2) ** 2 / c
    square = a * (z[:, None, None] + z[:, None] + 2 * z) / 4
    p_first = (square - first * p) / c[:, None, :]
    # With these axes inserted, an array stands for some of the indices [i, j, l, k].
    at = lambda f, where: jnp.expand_dims(f, where)
    p_three = (a * a / 4 - at(first, 2) * at(p_first, 0) - three * p) / at(c, (1, 2))
    other, p_other = jnp.moveaxis(first, 2, 0), jnp.moveaxis(p_first, 2, 0)
    crossed = at(other, 1) * at(p_first, 2) + at(first, 3) * at(p_other, 0) + mixed * at(p, (0, 2))
    p_mixed = (a * a / 2 - crossed) / at(c, (1, 3))
    stacked = [jnp.stack(both, -1) for both in ((c, p), (first, p_first), (three, p_three), (mixed, p_mixed))]
    return Differences(*stacked)


@filter_custom_jvp
def straight(sigma: Float[Array, " d"], kernel: Kernel) -> Straight:
    """`Straight`, with a rule for its derivative that is quick to compile."""
    return Straight(sigma, kernel)


@straight.def_jvp
def _straight_jvp(
    primals: tuple[Float[Array, " d"], Kernel], tangents: tuple[Any, PyTree]
) -> tuple[Straight, Straight]:
    """By the derivatives in each of the few numbers, in forward mode.

    Reverse mode then has a sum of products to transpose, and not the derivatives of the kernel, of which XLA would
    compile the transpose for half a minute.
    """
    flat, back = ravel(primals)
    at = lambda numbers: Straight(*back(numbers))
    along = jax.vmap(lambda e: jax.jvp(at, (flat,), (e,)), out_axes=(None, -1))
    out, slopes = along(jnp.eye(len(flat), dtype=flat.dtype))
    moves = ravel(tuple(instantiate(d, p) for d, p in zip(tangents, primals, strict=True)))[0]
    return out, jax.tree.map(lambda slope: slope @ moves, slopes)


class _Segments(eqx.Module):
    """The segments between any two singular values, the nodes on them, and the divided differences in y."""

    gap: Float[Array, "d d"]
    stretch: Float[Array, "d d"]
    far: Bool[Array, "d d"]
    log: Float[Array, "d d nodes"]
    share: Float[Array, "d d nodes"]
    lever: Float[Array, "d d nodes"]

    def __init__(self, log: Float[Array, " d"], kernel: Kernel):
        u = log[:, None] - log[None, :]
        nodes = jnp.asarray(_NODES, log.dtype)
        stretch = _log_stretch(kernel, *jnp.broadcast_arrays(log[:, None], log[None, :]))
        self.stretch, self.far = jnp.exp(stretch), jnp.abs(u) >= _close(kernel)
        self.gap = u * self.stretch
        self.log = log[:, None, None] - jnp.where(self.far, 0.0, u)[..., None] * nodes
        start = jnp.broadcast_to(log[:, None, None], self.log.shape)
        # `lever` is the share of the segment in y before a node. Its derivative in the share in log sigma, times the
        # weight of the node in the quadrature, is the `share` of the node.
        self.lever = nodes * jnp.exp(_log_stretch(kernel, start, self.log) - stretch[..., None])
        slope = jnp.exp(self.log - _log_rate(kernel, self.log) - stretch[..., None])
        self.share = slope * jnp.asarray(_WEIGHTS, log.dtype)

    def mean(self, f: Float[Array, "d d nodes *rest"], lever: Float[Array, "d d nodes"] | None = None) -> Array:
        """The mean of f in y over each segment, or with the `lever` half of a mean whose weights rise from 0."""
        return jnp.einsum("ijm,ijm...->ij...", self.share * (1.0 if lever is None else lever), f)

    def first(self, f: Float[Array, "d *rest"], near: Float[Array, "d d *rest"]) -> Float[Array, "d d *rest"]:
        """The divided differences of f, which near each other are the means of its slope."""
        return _choose(self.far, _quotient(f[:, None] - f[None, :], self.gap, self.far), near)

    def second(self, first: Float[Array, "d d *rest"], hat: Float[Array, "d d *rest"]) -> Float[Array, "d d d *rest"]:
        """The second divided differences at [i, j, l].

        Where all three are near each other, this is the mean of the second derivative with the weights of Peano's
        kernel: they rise from 0 at either end to the value in the middle.
        """
        # As the values descend, the first and the last of the sorted indices are the farthest apart.
        i, j, l = np.sort(np.indices(first.shape[:1] * 3), axis=0)
        gap, far = self.gap[i, l], self.far[i, l]
        quotient = _quotient(first[i, j] - first[j, l], gap, far)
        share = jnp.where(gap == 0, 0.5, self.gap[i, j] / jnp.where(gap == 0, 1.0, gap))
        near = _times(share, hat[i, j]) + _times(1 - share, hat[l, j])
        return _choose(far, quotient, near)

    def mixed(self, first: Float[Array, "d d d p"], near: Float[Array, "d d d d p"]) -> Float[Array, "d d d d p"]:
        """The divided differences in both arguments, at [i, j, l, k]."""
        left, right = self.far[:, :, None, None], self.far[None, None]
        other = jnp.moveaxis(first, 2, 0)
        by_left = _quotient(other[:, None] - other[None, :], self.gap[:, :, None, None], left)
        by_right = _quotient(first[:, :, :, None] - first[:, :, None, :], self.gap[None, None], right)
        return _choose(left, by_left, _choose(right, by_right, near))


def _quotient(above: Float[Array, "..."], gap: Float[Array, "..."], far: Bool[Array, "..."]) -> Float[Array, "..."]:
    """above / gap where `far` holds, and a number without meaning elsewhere."""
    return _times(1 / jnp.where(far, gap, 1.0), above)


def _times(number: Float[Array, "..."], f: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product of f with numbers for its first axes."""
    return number.reshape(number.shape + (1,) * (f.ndim - number.ndim)) * f


def _choose(which: Bool[Array, "..."], one: Float[Array, "..."], other: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(which.reshape(which.shape + (1,) * (one.ndim - which.ndim)), one, other)
