"""Kernels of one's own that several tests use."""

import dlnjax as dln


class AsBalanced(dln.Kernel):
    """The kernel of depth N with the defaults in place of what `Balanced` has written out."""

    balanced: dln.Balanced
    degree = property(lambda self: self.balanced.degree)
    straighten = lambda self, sigma: self.balanced.straighten(sigma)
    unstraighten = lambda self, y: self.balanced.unstraighten(y)
    leaving = lambda self, sigma: self.balanced.leaving(sigma)
    log_eigenvalue = lambda self, log_s, log_t: self.balanced.log_eigenvalue(log_s, log_t)
