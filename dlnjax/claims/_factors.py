"""The instances and formulas of the claims about the factors W_1, ..., W_N, in NumPy alone.

The network "upstairs" is the tuple of these factors, and phi is the map from them to their product X.
"""

from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy.linalg import sqrtm

from dlnjax.claims._spectra import derivative, generator, orthogonal, spectrum


class Network(NamedTuple):
    """Factors W_1, ..., W_N, and the labels Y of the energy."""

    w: np.ndarray
    y: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.w)

    @property
    def x(self) -> np.ndarray:
        return product(self.w)


class Frame(NamedTuple):
    """The arguments of xi, (2.7), which are Lambda and Q_0, ..., Q_N, and a covector Z."""

    lam: np.ndarray
    q: np.ndarray
    z: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.q) - 1

    @property
    def w(self) -> np.ndarray:
        return xi(self.lam, self.q)

    @property
    def sigma(self) -> np.ndarray:
        return self.lam**self.depth


def any_network(key, depth) -> Network:
    """Factors that are not balanced."""
    rng = generator(key)
    d = int(rng.integers(2, 4))
    w = np.eye(d) + 0.4 * rng.standard_normal((int(depth), d, d))
    return Network(w, rng.standard_normal((d, d)))


def balanced_network(key, depth) -> Network:
    """Balanced factors. They are made without (2.6), by W_{p+1} = O (W_p W_p^T)^(1/2) with a random orthogonal O."""
    rng = generator(key)
    d = rng.integers(2, 4)
    w = [(orthogonal(rng, d) * spectrum(rng, d) ** (1 / depth)) @ orthogonal(rng, d).T]
    while len(w) < depth:
        w.append(orthogonal(rng, d) @ np.real(sqrtm(w[-1] @ w[-1].T)))
    return Network(np.array(w), rng.standard_normal((d, d)))


def frame(key, depth) -> Frame:
    rng = generator(key)
    d = rng.integers(2, 4)
    q = np.array([orthogonal(rng, d) for _ in range(int(depth) + 1)])
    return Frame(spectrum(rng, d) ** (1 / depth), q, rng.standard_normal((d, d)))


def frame2(key, depth, z=0.0) -> Frame:
    """A frame of size 2, with a random Z of size `z`."""
    rng = generator(key)
    q = np.array([orthogonal(rng, 2) for _ in range(int(depth) + 1)])
    return Frame(spectrum(rng, 2) ** (1 / depth), q, z * rng.standard_normal((2, 2)))


QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
BY_HAND = Frame(np.array([2.0, 1.0]), np.array([np.eye(2), QUARTER, np.eye(2)]), np.array([[1.0, 0.0], [0.0, 0.0]]))


def xi(lam, q) -> np.ndarray:
    """The factors W_p = Q_p Lambda Q_{p-1}^T, p = 1..N, (2.33)."""
    return np.array([(q[p] * lam) @ q[p - 1].T for p in range(1, len(q))])


def product(w):
    """The product W_N ... W_1, (1.4). W_1 is the first in `w`."""
    return reduce(lambda x, factor: factor @ x, w)


def energy(x, y):
    """The energy of these claims. It is neither quadratic nor convex. It is analytic, so that a complex step
    differentiates it exactly.
    """
    return np.sum((x - y) ** 2) / 2 + np.sum(np.cos(x))


def slope(at: Network) -> np.ndarray:
    """The gradient dE(X)."""
    return derivative(lambda x: energy(x, at.y), at.x)


def velocity(at: Network) -> np.ndarray:
    """The velocity of the flow (1.5), from the derivative of E(phi(W)) in all entries of all factors."""
    return -derivative(lambda w: energy(product(w), at.y), at.w)


def push(w, dw) -> np.ndarray:
    """The derivative d phi(dW), by a complex step along dW."""
    return np.imag(product(w + 1e-30j * dw)) / 1e-30


def differential(w) -> np.ndarray:
    """The derivative d phi as a matrix, d^2 by N d^2."""
    units = np.eye(w.size).reshape(-1, *w.shape)
    return np.array([push(w, dw).ravel() for dw in units]).T


def defect(w):
    """G_p = W_p W_p^T - W_{p+1}^T W_{p+1}, p = 1..N-1, (2.1)."""
    turned = np.swapaxes(w, -1, -2)
    return w[:-1] @ turned[:-1] - turned[1:] @ w[1:]


def twist(w, z):
    """W_{p+1}^T Z_{p+1} - Z_p W_p^T, p = 1..N-1. It is 0 where Z is horizontal at W."""
    turned = np.swapaxes(w, -1, -2)
    return turned[1:] @ z[1:] - z[:-1] @ turned[:-1]


def imbalance(w) -> float:
    """The largest entry of the defects G_p, relative to the factors. It is 0 for balanced factors."""
    return float(np.max(np.abs(defect(w)), initial=0.0) / np.max(w**2))


def prefactor(w, p):
    """A_p = W_N ... W_p, which is the identity for p > N."""
    return product([np.eye(w.shape[-1]), *w[p - 1 :]])


def postfactor(w, p):
    """B_p = W_p ... W_1, which is the identity for p < 1."""
    return product([np.eye(w.shape[-1]), *w[:p]])
