"""The curvature of the geometry downstairs from the factors of a network, in NumPy: independent of the library.

The balanced networks are a submanifold of the flat space of all factors, which is curved by the equation of Gauss.
Their products are the quotient by orthogonal matrices between the layers, which adds what O'Neill's formula (Michigan
Math. J. 13, 1966) says. No formula here has a singular value in it.
"""

from itertools import combinations

import numpy as np
from support.upstairs import chain


class Network:
    """Balanced factors W_1, ..., W_N of size d x d, and their curvature. Tangents are vectors of N d^2 entries."""

    def __init__(self, weights):
        self.weights, (self.n, self.d, _) = np.asarray(weights), np.shape(weights)
        turns = [np.outer(np.eye(self.d)[i], np.eye(self.d)[j]) for i, j in combinations(range(self.d), 2)]
        self.turns = [(p, turn - turn.T) for p in range(self.n - 1) for turn in turns]
        every = np.eye(self.n * self.d**2)
        self.constraint = np.stack([self._bend(self.weights, self._shaped(e)) for e in every], 1)
        self.product = np.stack([self._of_product(self._shaped(e)) for e in every], 1)
        self.vertical = np.stack([self._turned(*turn, self.weights).ravel() for turn in self.turns])

    def _shaped(self, z):
        return z.reshape(self.n, self.d, self.d)

    def _bend(self, a, b):
        """The symmetric bilinear form of the constraints W_{p+1}^T W_{p+1} - W_p W_p^T, twice for their derivative."""
        above = [a[p + 1].T @ b[p + 1] - a[p] @ b[p].T for p in range(self.n - 1)]
        return np.concatenate([(z + z.T).ravel() for z in above])

    def _of_product(self, z):
        w = self.weights
        return sum(chain([*w[:p], z[p], *w[p + 1 :]]) for p in range(self.n)).ravel()

    def _turned(self, p, turn, w):
        """The motion of the factors `w` when an orthogonal matrix between layers p and p + 1 turns."""
        out = np.zeros_like(w)
        out[p], out[p + 1] = turn @ w[p], -w[p + 1] @ turn
        return out

    def lift(self, z):
        """The horizontal tangent over Z: balanced, orthogonal to all turns, and with the product Z."""
        equations = np.concatenate([self.constraint, self.vertical, self.product])
        zeros = np.zeros(len(equations) - self.d**2)
        return np.linalg.lstsq(equations, np.concatenate([zeros, np.ravel(z)]), rcond=None)[0]

    def second_form(self, a, b):
        """The second fundamental form of the balanced networks: normal, and keeps the constraints to second order."""
        bend = self._bend(self._shaped(a), self._shaped(b))
        return -np.linalg.lstsq(self.constraint, bend, rcond=None)[0]

    def bracket(self, a, b):
        """The vertical part of the bracket of horizontal fields. They stay orthogonal to a turn while the turn moves,
        <dB[a], V> = -<B, dV[a]>, so that no field has to be differentiated.
        """
        moved = lambda z, turn: self._turned(*turn, self._shaped(z)).ravel()
        pairings = [a @ moved(b, turn) - b @ moved(a, turn) for turn in self.turns]
        return np.linalg.lstsq(self.vertical, np.array(pairings), rcond=None)[0]

    def sectional(self, z1, z2):
        """K of the plane of two matrices, in the thesis's metric: (the part of Gauss, the part of O'Neill)."""
        a, b = self.lift(z1), self.lift(z2)
        a = a / np.linalg.norm(a)
        b = b - (a @ b) * a
        b = b / np.linalg.norm(b)
        mixed = self.second_form(a, b)
        gauss = self.second_form(a, a) @ self.second_form(b, b) - mixed @ mixed
        vertical = self.bracket(a, b)
        return gauss, 0.75 * vertical @ vertical
