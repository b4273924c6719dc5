"""The geodesic problem at depth 3 in NumPy, and the solvers that a user could turn to instead.

    python benchmarks/_rivals.py PAIRS.npz OUT.npz --solver shooting [--patience 10]

Run by benchmarks/geodesic.py with the interpreter of an environment that has geomstats and autograd, or, for SciPy's
`solve_bvp`, any with SciPy. `a` and `b` of the one file, `n d d`, give `velocity` (at A, `n d d`, nan where there is
none) and `seconds` (of the processor) of the other.
"""

import argparse
import importlib.util
import logging
import os
import signal
import time
import warnings

os.environ["GEOMSTATS_BACKEND"] = "autograd"
if importlib.util.find_spec("autograd"):
    import autograd.numpy as np
else:
    import numpy as np
from scipy.integrate import solve_bvp

DEPTH = 3


def transposed(x):
    return np.swapaxes(x, -1, -2)


def spectral(s, power, inner):
    """The derivative of S^power along `inner`, both `... d d` symmetric: divided differences in the eigenbasis."""
    values, u = s
    gap = values[..., :, None] - values[..., None, :]
    same = gap == 0
    rise = values[..., :, None] ** power - values[..., None, :] ** power
    slope = np.where(same, power * values[..., :, None] ** (power - 1), rise / np.where(same, 1.0, gap))
    return u @ (slope * (transposed(u) @ inner @ u)) @ transposed(u)


def power(s, exponent):
    values, u = s
    return (u * values[..., None, :] ** exponent) @ transposed(u)


def decompose(x):
    return np.linalg.eigh(x @ transposed(x)), np.linalg.eigh(transposed(x) @ x)


def metric(x, v):
    """The covector A_X^{-1} V."""
    (left, u), (right, w) = decompose(x)
    l, r = left[..., :, None] ** (1 / 3), right[..., None, :] ** (1 / 3)
    return u @ (DEPTH * (transposed(u) @ v @ w) / (l * l + l * r + r * r)) @ transposed(w)


def operator(s, t, p):
    """A_X P, with S = X X^T and T = X^T X decomposed."""
    return (power(s, 2 / 3) @ p + power(s, 1 / 3) @ p @ power(t, 1 / 3) + p @ power(t, 2 / 3)) / DEPTH


def velocity(x, p):
    """(dH/dP, -dH/dX) of H = 1/2 Tr(P^T A_X(P))."""
    s, t = decompose(x)
    left = spectral(s, 2 / 3, p @ transposed(p)) + spectral(s, 1 / 3, p @ power(t, 1 / 3) @ transposed(p))
    right = spectral(t, 2 / 3, transposed(p) @ p) + spectral(t, 1 / 3, transposed(p) @ power(s, 1 / 3) @ p)
    return operator(s, t, p), -(left @ x + x @ right) / DEPTH


def acceleration(x, v):
    """X'' along a geodesic: the derivative of A_X(P)."""
    s, t = decompose(x)
    p = metric(x, v)
    ds, dt = v @ transposed(x) + x @ transposed(v), transposed(v) @ x + transposed(x) @ v
    turned = spectral(s, 1 / 3, ds) @ p @ power(t, 1 / 3) + power(s, 1 / 3) @ p @ spectral(t, 1 / 3, dt)
    along = (spectral(s, 2 / 3, ds) @ p + turned + p @ spectral(t, 2 / 3, dt)) / DEPTH
    return along + operator(s, t, velocity(x, p)[1])


def space(d):
    """Matrices with this metric, as geomstats wants them; its equation of geodesics in closed form."""
    from geomstats.geometry.matrices import Matrices
    from geomstats.geometry.riemannian_metric import RiemannianMetric
    from geomstats.numerics.geodesic import ExpODESolver
    from geomstats.numerics.ivp import GSIVPIntegrator

    class DeepLinear(RiemannianMetric):
        def squared_norm(self, vector, base_point=None):
            return np.sum(vector * metric(base_point, vector), axis=(-1, -2))

        def geodesic_equation(self, state):
            x, v = state[..., 0, :, :], state[..., 1, :, :]
            return np.stack([v, acceleration(x, v)], axis=-3)

        def exp(self, tangent_vec, base_point):
            return self.exp_solver.exp(tangent_vec, base_point)

    matrices = Matrices(d, d, equip=False)
    matrices.equip_with_metric(DeepLinear)
    integrator = GSIVPIntegrator(n_steps=40, step_type="rk4")
    matrices.metric.exp_solver = ExpODESolver(matrices, integrator=integrator)
    return matrices


def shooting(d):
    from geomstats.numerics.geodesic import LogShootingSolver
    from geomstats.numerics.optimization import ScipyMinimize

    optimizer = ScipyMinimize(autodiff_jac=True, options={"ftol": 1e-20, "gtol": 1e-12, "maxiter": 2000})
    return LogShootingSolver(space(d), optimizer=optimizer).log


def straightening(d):
    from geomstats.numerics.geodesic import PathStraightening
    from geomstats.numerics.optimization import ScipyMinimize

    optimizer = ScipyMinimize(autodiff_jac=True, options={"maxiter": 2000})
    return PathStraightening(space(d), n_nodes=100, optimizer=optimizer).log


def collocation(d):
    """SciPy's solve_bvp on the Hamiltonian system, from the straight line."""

    def log(b, a):
        def system(_, y):
            x, p = (transposed(z.T.reshape(-1, d, d)).swapaxes(-1, -2) for z in np.split(y, 2))
            return np.concatenate([z.reshape(-1, d * d).T for z in velocity(x, p)])

        mesh = np.linspace(0, 1, 17)
        line = a + mesh[:, None, None] * (b - a)
        guess = np.concatenate([z.reshape(-1, d * d).T for z in (line, metric(line, (b - a)[None]))])
        ends = lambda y0, y1: np.concatenate([y0[: d * d] - a.ravel(), y1[: d * d] - b.ravel()])
        found = solve_bvp(system, ends, mesh, guess, tol=1e-9, max_nodes=3000)
        if found.status:
            raise ArithmeticError(found.message)
        return velocity(a, found.y[d * d :, 0].reshape(d, d))[0]

    return log


SOLVERS = {"shooting": shooting, "straightening": straightening, "collocation": collocation}


class OutOfPatience(Exception):
    pass


def give_up(*_):
    raise OutOfPatience


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("out")
    parser.add_argument("--solver", choices=SOLVERS, required=True)
    parser.add_argument("--patience", type=float, default=10.0)
    args = parser.parse_args()
    pairs = np.load(args.pairs)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    log = SOLVERS[args.solver](pairs["a"].shape[-1])
    signal.signal(signal.SIGVTALRM, give_up)
    velocities, seconds = [], []
    for a, b in zip(pairs["a"], pairs["b"], strict=True):
        began, found = time.process_time(), None
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, args.patience)
            found = log(b, a)
        except (OutOfPatience, ArithmeticError, np.linalg.LinAlgError, ValueError):
            pass  # a pair without an answer, counted as such
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        velocities.append(np.full_like(a, np.nan) if found is None else found)
        seconds.append(time.process_time() - began)
    np.savez(args.out, velocity=np.stack(velocities), seconds=np.array(seconds))


if __name__ == "__main__":
    main()
