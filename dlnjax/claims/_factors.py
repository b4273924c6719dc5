"""What the claims on the network upstairs are drawn from and measured by, in NumPy alone."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from scipy.linalg import sqrtm

from dlnjax.claims._spectra import derivative, generator, orthogonal, spectrum


class Network(NamedTuple):
    """Factors W_1, ..., W_N, and labels Y of the energy."""

    w: np.ndarray
    y: np.ndarray

    @property
    def depth(self) -> int:
        return len(self.w)

    @property
    def x(self) -> np.ndarray:
        return product(self.w)


class Frame(NamedTuple):
    """What xi takes, (2.7): Lambda, Q_0, ..., Q_N; and a covector Z."""

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
    """Balanced factors, made without (2.6): W_{p+1} = O (W_p W_p^T)^(1/2) for some orthogonal O."""
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
    """Of size 2, with a Z of size z."""
    rng = generator(key)
    q = np.array([orthogonal(rng, 2) for _ in range(int(depth) + 1)])
    return Frame(spectrum(rng, 2) ** (1 / depth), q, z * rng.standard_normal((2, 2)))


QUARTER = np.array([[0.0, -1.0], [1.0, 0.0]])
BY_HAND = Frame(np.array([2.0, 1.0]), np.array([np.eye(2), QUARTER, np.eye(2)]), np.array([[1.0, 0.0], [0.0, 0.0]]))


def xi(lam, q) -> np.ndarray:
    """W_p = Q_p Lambda Q_{p-1}^T, p = 1..N, (2.33)."""
    return np.array([(q[p] * lam) @ q[p - 1].T for p in range(1, len(q))])


def product(w):
    """(1.4); W_1 first in `w`."""
    return reduce(lambda x, factor: factor @ x, w)


def energy(x, y):
    """Neither quadratic nor convex, and analytic: its derivatives are exact by a complex step."""
    return np.sum((x - y) ** 2) / 2 + np.sum(np.cos(x))


def slope(at: Network) -> np.ndarray:
    """dE(X)."""
    return derivative(lambda x: energy(x, at.y), at.x)


def velocity(at: Network) -> np.ndarray:
    """The flow (1.5), by the derivative of E(phi(W)) in all entries of all factors."""
    return -derivative(lambda w: energy(product(w), at.y), at.w)


def push(w, dw) -> np.ndarray:
    """d phi(dW), by a complex step along dW."""
    return np.imag(product(w + 1e-30j * dw)) / 1e-30


def differential(w) -> np.ndarray:
    """d phi as a matrix, d^2 by N d^2."""
    units = np.eye(w.size).reshape(-1, *w.shape)
    return np.array([push(w, dw).ravel() for dw in units]).T


def defect(w):
    """G_p = W_p W_p^T - W_{p+1}^T W_{p+1}, p = 1..N-1, (2.1)."""
    turned = np.swapaxes(w, -1, -2)
    return w[:-1] @ turned[:-1] - turned[1:] @ w[1:]


def twist(w, z):
    """W_{p+1}^T Z_{p+1} - Z_p W_p^T, p = 1..N-1: 0 where Z is horizontal at W."""
    turned = np.swapaxes(w, -1, -2)
    return turned[1:] @ z[1:] - z[:-1] @ turned[:-1]


def imbalance(w) -> float:
    """The largest entry of the G_p, relative to the factors."""
    return float(np.max(np.abs(defect(w)), initial=0.0) / np.max(w**2))


def prefactor(w, p):
    """A_p = W_N ... W_p, the identity for p > N."""
    return product([np.eye(w.shape[-1]), *w[p - 1 :]])


def postfactor(w, p):
    """B_p = W_p ... W_1, the identity for p < 1."""
    return product([np.eye(w.shape[-1]), *w[:p]])
