"""Kernels of one's own that several tests use."""

import jax
import jax.numpy as jnp

import dlnjax as dln


class AsBalanced(dln.Kernel):
    """The kernel of depth N with the defaults in place of what `Balanced` has written out."""

    balanced: dln.Balanced
    degree = property(lambda self: self.balanced.degree)
    straighten = lambda self, sigma: self.balanced.straighten(sigma)
    unstraighten = lambda self, y: self.balanced.unstraighten(y)
    leaving = lambda self, sigma: self.balanced.leaving(sigma)
    log_eigenvalue = lambda self, log_s, log_t: self.balanced.log_eigenvalue(log_s, log_t)


class PowerLaw(dln.Kernel):
    """lambda = (s t)^(p/2), p being the `degree`, which a subclass has as a field or computes."""

    def log_eigenvalue(self, log_s, log_t):
        return self.degree * (log_s + log_t) / 2

    def leaving(self, sigma):
        return jnp.zeros_like(sigma), jnp.zeros_like(sigma)

    def straighten(self, sigma):
        return sigma ** (1 - self.degree / 2)

    def unstraighten(self, y):
        return y ** (1 / (1 - self.degree / 2))


class Flat(dln.Kernel):
    """lambda = scale sum(c): the Euclidean metric, on another clock. `scale` is a number of the class."""

    c: jax.Array
    scale = 1.0
    degree = 0.0

    @property
    def weight(self):
        return self.scale * jnp.sum(self.c)

    def log_eigenvalue(self, log_s, log_t):
        return jnp.log(self.weight) + 0 * (log_s + log_t)

    def leaving(self, sigma):
        return self.weight * jnp.ones_like(sigma), self.weight * jnp.ones_like(sigma)

    def straighten(self, sigma):
        return sigma / jnp.sqrt(self.weight)

    def unstraighten(self, y):
        return y * jnp.sqrt(self.weight)


class Bare(dln.Kernel):
    """lambda = 1, the Euclidean metric, as a kernel that holds no number."""

    def log_eigenvalue(self, log_s, log_t):
        return 0 * (log_s + log_t)

    def leaving(self, sigma):
        return jnp.ones_like(sigma), jnp.ones_like(sigma)

    def straighten(self, sigma):
        return sigma

    def unstraighten(self, y):
        return y
