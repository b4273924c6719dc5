"""What several files share: many flows in one compilation, and the same flow written again in X, in NumPy and SciPy."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import dlnjax as dln


def flows(make, params, x0, depth, ts, *, rtol=1e-10, atol=1e-12, **options):
    """The flow of make(*params) from each start; `params`, `x0` and `depth` have the flows as their first axis."""
    numbers = [jnp.asarray(a, float) for a in (x0, depth, ts, rtol, atol)]
    return _flows(make, jax.tree.map(jnp.asarray, params), *numbers, **options)


@eqx.filter_jit
def _flows(make, params, x0, depth, ts, rtol, atol, **options):
    def one(params, x0, depth):
        return dln.gradient_flow(make(*params), x0, depth=depth, ts=ts, rtol=rtol, atol=atol, throw=False, **options)

    return jax.vmap(one)(params, x0, depth)


def ended(solution):
    """The names of the result codes."""
    return solution.to_numpy()["result"].tolist()


def scipy_operator(x, z, depth):
    """A_X(Z) with lambda_kl as an integral, which no equality of singular values disturbs:

    at finite depth of ((1-t) a + t b)^(N-1) for a, b = sigma^(2/N), at infinite depth of sigma_k^(2-2t) sigma_l^(2t).
    """
    u, s, vt = np.linalg.svd(x)
    k, l = s[:, None, None], s[None, :, None]
    t, w = _NODES
    if np.isinf(depth):
        values = k ** (2 - 2 * t) * l ** (2 * t)
    else:
        values = ((1 - t) * k ** (2 / depth) + t * l ** (2 / depth)) ** (depth - 1)
    return u @ ((values @ w) * (u.T @ z @ vt.T)) @ vt


_NODES = [(np.polynomial.legendre.leggauss(30)[0] + 1) / 2, np.polynomial.legendre.leggauss(30)[1] / 2]


def scipy_flow(gradient, x0, depth, ts):
    """X at `ts`, by DOP853 started afresh at each, for its interpolant is less exact than its steps."""
    x0, ts = np.asarray(x0, float), np.asarray(ts, float)
    velocity = lambda t, y: -scipy_operator(y.reshape(x0.shape), gradient(y.reshape(x0.shape)), depth).ravel()
    states = [x0.ravel()]
    for start, end in itertools.pairwise(ts):
        out = solve_ivp(velocity, (start, end), states[-1], method="DOP853", rtol=1e-12, atol=1e-14)
        assert out.success, out.message
        states.append(out.y[:, -1])
    return np.stack(states).reshape(-1, *x0.shape)


def completion_gradient(labels, mask):
    """dE of (4.24), in NumPy."""
    labels, mask = np.asarray(labels), np.asarray(mask)
    return lambda x: np.where(mask, x - labels, 0.0)
