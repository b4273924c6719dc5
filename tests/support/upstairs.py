"""The gradient flow of the factors of a network of any widths, by SciPy: independent of the library."""

import numpy as np
from scipy.integrate import solve_ivp


def balanced(u, sigma, v, depth):
    """Balanced factors W_1, ..., W_N of u diag(sigma) v^T, hidden layers as wide as there are values."""
    root = np.diag(sigma ** (1 / depth))
    if depth == 1:
        return [(u * sigma) @ v.T]
    return [root @ v.T, *[root] * (depth - 2), u @ root]


def imbalanced(u, layers, v):
    """Factors W_1, ..., W_N whose singular values on each mode are the rows of `layers`, `N r`."""
    first, *hidden, last = layers
    return [np.diag(first) @ v.T, *map(np.diag, hidden), u @ np.diag(last)]


def chain(weights):
    out = weights[0]
    for w in weights[1:]:
        out = w @ out
    return out


def flow(gradient, weights, ts):
    """X(t) at each of `ts`, in the time of `gradient_flow`: 1/N of the gradient for each factor."""
    shapes, sizes = [w.shape for w in weights], [w.size for w in weights]

    def unpack(y):
        parts = np.split(y, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def velocity(_, y):
        weights = unpack(y)
        slope, out = gradient(chain(weights)), []
        for p in range(len(weights)):
            above = chain([np.eye(len(weights[p])), *weights[p + 1 :]])
            below = chain([np.eye(weights[0].shape[1]), *weights[:p]])
            out.append(-(above.T @ slope @ below.T).ravel() / len(weights))
        return np.concatenate(out)

    start = np.concatenate([w.ravel() for w in weights])
    sol = solve_ivp(velocity, (ts[0], ts[-1]), start, t_eval=ts, method="DOP853", rtol=1e-12, atol=1e-14)
    return np.stack([chain(unpack(y)) for y in sol.y.T])
