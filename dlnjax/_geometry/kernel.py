"""The spectral kernels of the geometry, in the convention of `eigenvalues`; `inverse_depth` is 1/N, 0 at N = inf."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dlnjax._geometry.special import langevin, log_shc, shc_small

Scalar = Float[Array, ""]


def _log_ratio(sigma):
    # Zero stands at the smallest normal number here: what it does in the limit is said by `_alive`.
    log = jnp.log(jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny))
    return log, log[:, None] - log[None, :]


def _log_eigenvalue(total, u, inverse_depth):
    """log lambda_kl for the sum and the difference of log sigma_k and log sigma_l."""
    return total * (1 - inverse_depth) + log_shc(u) - log_shc(inverse_depth * u)


def log_eigenvalues(sigma: Float[Array, " d"], inverse_depth: Scalar) -> Float[Array, "d d"]:
    """log of `eigenvalues`, finite for ratios up to the range of the floats, and -inf where they vanish."""
    log, u = _log_ratio(sigma)
    out = _log_eigenvalue(log[:, None] + log[None, :], u, inverse_depth)
    return jnp.where(_alive(sigma, inverse_depth), out, -jnp.inf)


def _alive(sigma, inverse_depth):
    """Where lambda_kl > 0: both nonzero; at finite depth one is enough; at depth 1 always."""
    positive = sigma > 0
    both, either = positive[:, None] & positive[None, :], positive[:, None] | positive[None, :]
    return both | (either & (inverse_depth > 0)) | (inverse_depth == 1)


def eigenvalues(sigma: Float[Array, " d"], inverse_depth: Scalar) -> Float[Array, "d d"]:
    """Eigenvalues of the 1/N-normalised metric operator, (2.20) divided by N, with u = log(sigma_k/sigma_l):

    lambda_kl = (sigma_k sigma_l)^(1-1/N) shc(u) / shc(u/N),    shc(x) = sinh(x)/x.
    """
    return jnp.exp(log_eigenvalues(sigma, inverse_depth))


def partner_eigenvalues(
    sigma: Float[Array, " d"], partner: Int[Array, " d"], inverse_depth: Scalar
) -> Float[Array, " d"]:
    """lambda_kl of each sigma_k and the one of its partner l."""
    log = jnp.log(jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny))
    return jnp.exp(_log_eigenvalue(log + log[partner], log - log[partner], inverse_depth))


def entropy(sigma: Float[Array, " d"], inverse_depth: Scalar) -> Scalar:
    """1/2 sum_{k<l} log lambda_kl."""
    return jnp.sum(jnp.triu(log_eigenvalues(sigma, inverse_depth), 1)) / 2


def entropy_gradient(sigma: Float[Array, " d"], inverse_depth: Scalar) -> Float[Array, " d"]:
    """(4.36)-(4.37), written with coth(u) = 1/u + langevin(u) so that equal values need no limit."""
    _, u = _log_ratio(sigma)
    terms = (1 - inverse_depth) + langevin(u) - inverse_depth * langevin(inverse_depth * u)
    return (jnp.sum(terms, axis=1) - (1 - inverse_depth)) / (2 * sigma)


def speed(sigma: Float[Array, " d"], inverse_depth: Scalar) -> Float[Array, " d"]:
    """lambda_kk = sigma_k^(2-2/N), the diagonal of `eigenvalues`; even in sigma."""
    return jnp.abs(sigma) ** (2 - 2 * inverse_depth)


def rotation_rates(
    sigma: Float[Array, " d"], inverse_depth: Scalar, gap: Scalar
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """The rates at which (4.17) and (4.19) turn the frame, split so that only one of them is singular.

    With G = U^T dE V, the common rotation of U and V is lambda_ij / (sigma_i - sigma_j) (G_ij + G_ji)/2, and their
    relative rotation lambda_ij / (sigma_i + sigma_j) (G_ij - G_ji)/2. The first is a gauge where the gap closes:
    1/u there is u/(u^2 + gap^2), and X does not feel the difference beyond `gap`.

    A zero singular value (a matrix of rank r < d, on which the flow stays) turns only against the nonzero ones.

    **Returns:** the two factors, `d d`, symmetric and antisymmetric in the order given: (common, relative).
    """
    a = inverse_depth
    log, u = _log_ratio(sigma)
    power, root = jnp.exp(a * log), jnp.sqrt(sigma)
    square = power * power
    regularised = u / (u * u + gap * gap)
    # sinh(a u)/(a u) r_i r_j = (r_i^2 - r_j^2)/(2 a u), r = sigma^a: by series, or as it stands. Away from u = 0 the
    # regularised 1/u is 1/u to gap^2, far below the tolerance.
    half = jnp.where(a > 0, 0.5 / jnp.where(a > 0, a, 1.0), 0.0)
    ratio = jnp.where(
        jnp.abs(a * u) < 0.5,
        power[:, None] * power[None, :] * shc_small(a * u),
        (square[:, None] - square[None, :]) * (half * regularised),
    )
    log_mean = jnp.where(
        jnp.abs(u) < 1,
        root[:, None] * root[None, :] * shc_small(u / 2),
        (sigma[:, None] - sigma[None, :]) * regularised,
    )
    # Two zeros have no weight by themselves; at infinite depth one zero is enough to stop a pair. In arithmetic: a loop
    # over truth values would not be vectorised.
    moves = ((sigma > 0) | (a > 0)).astype(sigma.dtype)
    weight = (0.5 * moves[:, None]) * moves[None, :] / jnp.maximum(ratio, jnp.finfo(sigma.dtype).tiny)
    common = (sigma[:, None] + sigma[None, :]) * regularised * weight
    return common, log_mean * weight


def frame_velocity(
    sigma: Float[Array, " d"],
    pullback: Float[Array, "d d"],
    inverse_depth: Scalar,
    gap: Scalar,
    partner: Int[Array, " d"] | None = None,
) -> tuple[Float[Array, "d d"], Float[Array, " d"], Float[Array, "d d"]]:
    """(U^T dU/dt, dsigma/dt, V^T dV/dt) of the flow, (4.17)-(4.19), for G = U^T dE V.

    Partners, if given, have no common rotation.

    Singular values may be negative on the way (depth 1 crosses zero): the sign is taken to V, and back.
    """
    sign = jnp.where(sigma < 0, -1.0, 1.0).astype(sigma.dtype)
    g = pullback * sign
    common, relative = rotation_rates(jnp.abs(sigma), inverse_depth, gap)
    if partner is not None:
        common = jnp.where(partner[:, None] == jnp.arange(len(sigma)), 0.0, common)
    symmetric, antisymmetric = common * (g + g.T) / 2, relative * (g - g.T) / 2
    left = symmetric - antisymmetric
    right = (symmetric + antisymmetric) * sign * sign[:, None]
    return left, -speed(sigma, inverse_depth) * jnp.diagonal(pullback), right
