"""Geodesics of the factors of a network, by SciPy: independent of the library.

The factors with W_p W_p^T - W_{p+1}^T W_{p+1} constant are a submanifold of the flat space of all factors. Its
geodesics accelerate orthogonally to it. One that starts orthogonally to the turns between layers stays so, and its
product is a geodesic of the products. No formula here has a singular value in it.
"""

import numpy as np
from scipy.integrate import solve_ivp
from support.upstairs import chain


def geodesic(weights, p, ts):
    """X(t) at each of `ts`, from the factors `weights` with the covector P of their product; X' = A_X(P) at ts[0]."""
    shapes = [w.shape for w in weights]
    cuts = np.cumsum([w.size for w in weights])
    every = np.eye(cuts[-1])

    def unpack(y):
        return [part.reshape(shape) for part, shape in zip(np.split(y, cuts[:-1]), shapes, strict=True)]

    def bend(a, b):
        """The symmetric bilinear form of the constraints."""
        found = [a[p] @ b[p].T - a[p + 1].T @ b[p + 1] for p in range(len(a) - 1)]
        return np.concatenate([np.ravel(z + z.T) for z in found]) if found else np.zeros(1)

    def rate(_, y):
        weights, moves = np.split(y, 2)
        slope = np.stack([bend(unpack(weights), unpack(e)) for e in every], 1)
        return np.concatenate([moves, -np.linalg.lstsq(slope, bend(unpack(moves), unpack(moves)), rcond=1e-10)[0]])

    moves = []
    for i in range(len(weights)):
        above = chain([np.eye(shapes[i][0]), *weights[i + 1 :]])
        below = chain([np.eye(shapes[0][1]), *weights[:i]])
        moves.append(np.ravel(above.T @ p @ below.T) / len(weights))
    start = np.concatenate([*(w.ravel() for w in weights), *moves])
    sol = solve_ivp(rate, (ts[0], ts[-1]), start, t_eval=ts, method="DOP853", rtol=1e-11, atol=1e-12)
    return np.stack([chain(unpack(y[: cuts[-1]])) for y in sol.y.T])
