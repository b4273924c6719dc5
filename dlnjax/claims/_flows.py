"""The flows that the claims of chapter 4 speak of, by the library."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax import FreeEnergy, gradient_flow, MatrixCompletion, Schatten


class Energy(eqx.Module):
    """A sum of (4.21) and E_p, so that all flows of these claims share one compilation."""

    completion: Float[Array, ""]
    schatten: Float[Array, ""]
    p: Float[Array, ""]

    def __init__(self, completion=0.0, schatten=0.0, p=2.0):
        self.completion, self.schatten, self.p = (jnp.asarray(float(a)) for a in (completion, schatten, p))

    def __call__(self, x):
        return self.completion * MatrixCompletion.diagonal(3)(x) + self.schatten * Schatten(self.p)(x)

    def gradient(self, x):
        parts = MatrixCompletion.diagonal(3).gradient(x), Schatten(self.p).gradient(x)
        return self.completion * parts[0] + self.schatten * parts[1]


NO_ENTROPY = 1e300


def flow(energy, x0, t, *, beta=NO_ENTROPY, depth: Any = jnp.inf):
    """The library's flow of E - S/beta to time t, saved at eight times; d = 3."""
    ts = np.append(0.0, np.linspace(t / 8, t, 8))
    free = FreeEnergy(energy, beta, depth)
    return gradient_flow(free, jnp.asarray(x0), depth=depth, ts=ts, rtol=1e-9, atol=1e-11, throw=False)
