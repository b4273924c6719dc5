"""The flows that the claims are about, computed by the library."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax import FreeEnergy, gradient_flow, MatrixSensing, Schatten, Steady


class Energy(eqx.Module):
    """The sum of (5.4) with its 1/2, or of (4.21), and of E_p. With one energy, all flows share one compilation."""

    sensing: MatrixSensing
    schatten: Float[Array, ""]
    p: Float[Array, ""]

    def __init__(self, *, completion=0.0, schatten=0.0, p=2.0, sensed=()):
        weight = np.sqrt(2 * completion)
        seen = [(weight * np.outer(e, e), weight) for e in np.eye(3)]
        for i, (a, y) in enumerate(sensed):
            seen[i] = (np.asarray(a), y)
        a, y = zip(*seen, strict=True)
        self.sensing = MatrixSensing(jnp.asarray(np.stack(a)), jnp.asarray(np.array(y, float)))
        self.schatten, self.p = jnp.asarray(float(schatten)), jnp.asarray(float(p))

    def __call__(self, x):
        return self.sensing(x) + self.schatten * Schatten(self.p)(x)

    def gradient(self, x):
        return self.sensing.gradient(x) + self.schatten * Schatten(self.p).gradient(x)


NO_ENTROPY = 1e300


def flow(energy, x0, t, *, beta=NO_ENTROPY, depth: Any = jnp.inf, rest=1e-13):
    """The library's flow of F = E - S/beta for d = 3, to time t or until |dF| <= rest, saved at nine times."""
    ts = np.append(0.0, np.linspace(t / 8, t, 8))
    free = FreeEnergy(energy, beta, depth)
    stop = Steady(rest)
    return gradient_flow(free, jnp.asarray(x0), depth=depth, ts=ts, rtol=1e-9, atol=1e-11, stop=stop, throw=False)
