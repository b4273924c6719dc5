"""The curvature by the method of moving frames, in many digits: independent of the library, and slow.

Where the singular values are distinct, the tangent vectors d/dy_k, C_kl and R_kl are an orthonormal frame. y_k is the
coordinate with dy = lambda(s, s)^(-1/2) ds. C_kl turns U and V by E_kl - E_lk, and R_kl turns V the other way, each
over its length. Their brackets are those of so(d) x so(d) over the lengths, and the curvature is that of Koszul's
formula for a frame (Cartan). Values that repeat are moved apart by 1e-28 of themselves.
"""

from collections import defaultdict
from itertools import combinations, product

import mpmath
import numpy as np

DIGITS = 170
APART, STEP = mpmath.mpf(10) ** -28, mpmath.mpf(10) ** -40


class BalancedInMpmath:
    """lambda(s, t) of depth N, its diagonal, and log dy/dlog s."""

    def __init__(self, depth):
        self.a = mpmath.mpf(0) if depth == np.inf else 1 / mpmath.mpf(depth)

    def between(self, s, t):
        a = self.a
        return (s * s - t * t) / ((s ** (2 * a) - t ** (2 * a)) / a if a else 2 * mpmath.log(s / t))

    def diagonal(self, s):
        return s ** (2 - 2 * self.a)


class TwoLayersInMpmath:
    """lambda of two layers with W1 W1^T - W2^T W2 = g."""

    def __init__(self, g):
        self.root = lambda s: mpmath.sqrt(s * s + mpmath.mpf(g) ** 2 / 4)

    def between(self, s, t):
        return (self.root(s) + self.root(t)) / 2

    def diagonal(self, s):
        return self.root(s)


def names(d):
    """The frame: ("d", k), then ("C", k, l) and ("R", k, l)."""
    pairs = list(combinations(range(d), 2))
    return [("d", k) for k in range(d)] + [(kind, *pair) for kind in "CR" for pair in pairs]


def frame(sigma, kernel):
    """The frame as matrices in floats, in the order of `names`."""
    d, out = len(sigma), []
    with mpmath.workdps(DIGITS):
        sigma = [mpmath.mpf(s) for s in sigma]
        for kind, *at in names(d):
            z = np.zeros((d, d))
            if kind == "d":
                z[at[0], at[0]] = mpmath.sqrt(kernel.diagonal(sigma[at[0]]))
            else:
                s, t = (sigma[k] for k in at)
                size = mpmath.sqrt((kernel.diagonal(s) if s == t else kernel.between(s, t)) / 2)
                z[at[0], at[1]], z[at[1], at[0]] = size, size if kind == "C" else -size
            out.append(z)
    return np.array(out)


def curvature(sigma, kernel):
    """g(R(e_a, e_b) e_c, e_d) in the frame, as an array of floats. `sigma` may be strings, and descends."""
    with mpmath.workdps(DIGITS):
        sigma = [mpmath.mpf(s) * (1 - k * APART) for k, s in enumerate(sigma)]
        return _curvature(sigma, kernel)


def _lengths(sigma, kernel, name):
    """(h, {k: dh/dy_k / h}, {(k, l): second derivatives}) for the length h of a rotation, with its sign."""
    kind, k, l = name
    sign = 1 if kind == "C" else -1

    def h(s, t):
        return (t - sign * s) * mpmath.sqrt(2 / kernel.between(s, t))

    s, t = sigma[k], sigma[l]
    es, et = STEP * s, STEP * t
    value = h(s, t)
    in_s, in_t = (h(s + es, t) - h(s - es, t)) / (2 * es), (h(s, t + et) - h(s, t - et)) / (2 * et)
    ss = (h(s + es, t) - 2 * value + h(s - es, t)) / es**2
    tt = (h(s, t + et) - 2 * value + h(s, t - et)) / et**2
    st = (h(s + es, t + et) - h(s + es, t - et) - h(s - es, t + et) + h(s - es, t - et)) / (4 * es * et)
    # From s to y: ds/dy = v with v^2 = lambda(s, s), and d^2s/dy^2 = v dv/ds.
    v, w = (mpmath.sqrt(kernel.diagonal(z)) for z in (s, t))
    dv, dw = ((kernel.diagonal(z + e) - kernel.diagonal(z - e)) / (4 * e) for z, e in ((s, es), (t, et)))
    first = {k: v * in_s / value, l: w * in_t / value}
    mixed = v * w * st / value
    second = {(k, k): (v * v * ss + dv * in_s) / value, (l, l): (w * w * tt + dw * in_t) / value}
    return value, first, second | {(k, l): mixed, (l, k): mixed}


def _curvature(sigma, kernel):
    d, frame = len(sigma), names(len(sigma))
    at = {name: n for n, name in enumerate(frame)}
    length = {name: _lengths(sigma, kernel, name) for name in frame[d:]}
    # [e_a, e_b] = sum_c structure[a, b, c] e_c, and the derivatives of the structure along e_k = d/dy_k.
    structure, moved = {}, defaultdict(dict)
    for a, b in product(frame[d:], frame[d:]):
        x, y = (_generator(name, d) for name in (a, b))
        for pair in combinations(range(d), 2):
            weight = int((x @ y - y @ x)[pair])
            if weight:
                c = ("C" if a[0] == b[0] else "R", *pair)
                value = weight * length[c][0] / (length[a][0] * length[b][0])
                key = at[a], at[b], at[c]
                structure[key] = value
                for k in range(d):
                    slope = length[c][1].get(k, 0) - length[a][1].get(k, 0) - length[b][1].get(k, 0)
                    moved[k][key] = value * slope
    for b in frame[d:]:
        _, first, second = length[b]
        for k in b[1:]:
            one, other = (k, at[b], at[b]), (at[b], k, at[b])
            structure[one], structure[other] = -first[k], first[k]
            for l in b[1:]:
                change = second[k, l] - first[k] * first[l]
                moved[l][one], moved[l][other] = -change, change
    gamma, slopes = _koszul(structure), {k: _koszul(moved[k]) for k in range(d)}
    return _of_connection(len(frame), d, structure, gamma, slopes)


def _generator(name, d):
    x = np.zeros((d, d))
    x[name[1], name[2]], x[name[2], name[1]] = 1, -1
    return x


def _koszul(structure):
    """g(nabla_a e_b, e_c) = (c_abc - c_bca + c_cab)/2."""
    gamma = defaultdict(lambda: mpmath.mpf(0))
    for (a, b, c), value in structure.items():
        gamma[a, b, c] += value / 2
        gamma[c, a, b] -= value / 2
        gamma[b, c, a] += value / 2
    return gamma


def _of_connection(n, d, structure, gamma, slopes):
    out = np.zeros((n,) * 4)
    connected, bracket = defaultdict(list), defaultdict(list)
    for (a, b, c), value in gamma.items():
        connected[a, b].append((c, value))
    for (a, b, c), value in structure.items():
        bracket[a, b].append((c, value))
    for a, b, c in product(range(n), repeat=3):
        total = defaultdict(lambda: mpmath.mpf(0))
        for one, other, sign in ((a, b, 1), (b, a, -1)):
            for e, value in connected[other, c]:
                for f, more in connected[one, e]:
                    total[f] += sign * value * more
            if one < d:
                for f in range(n):
                    total[f] += sign * slopes[one].get((other, c, f), 0)
        for e, value in bracket[a, b]:
            for f, more in connected[e, c]:
                total[f] -= value * more
        for f, value in total.items():
            out[a, b, c, f] = float(value)
    return out
