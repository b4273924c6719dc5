"""The flow of (4.21) at infinite depth in SVD coordinates, (4.17)-(4.19), as one would write it with NumPy and SciPy.

Imports no JAX: worker processes load this module alone.
"""

import multiprocessing
import time
from contextlib import contextmanager

import numpy as np
from scipy.integrate import solve_ivp


class Capped(Exception):
    """The flow has had as long as it may."""


class Flow:
    """The right-hand side for E = sum (X_ii - 1)^2, with a count and the last state kept for a flow that is cut."""

    def __init__(self, d: int, limit: float):
        self.d, self.count, self.last, self.deadline = d, 0, None, time.perf_counter() + limit

    def split(self, y):
        u, v = y[: self.d**2].reshape(self.d, self.d), y[-(self.d**2) :].reshape(self.d, self.d)
        return u, y[self.d**2 : -(self.d**2)], v

    def residual(self, y):
        """Half the diagonal of dE: X_ii - 1."""
        u, s, v = self.split(y)
        return np.sum(u * s * v, axis=1) - 1

    def __call__(self, t, y):
        self.count, self.last = self.count + 1, y
        if time.perf_counter() > self.deadline:
            raise Capped
        u, s, v = self.split(y)
        g = (2 * self.residual(y)[:, None] * u).T @ v
        square = s * s
        log = np.log(square)
        same = s[:, None] == s
        lam = (square[:, None] - square) / np.where(same, 1.0, log[:, None] - log)
        common = lam / np.where(same, 1.0, s[:, None] - s) * (g + g.T) / 2
        relative = lam / (s[:, None] + s) * (g - g.T) / 2
        return np.concatenate(
            [np.ravel(u @ (common - relative)), -square * np.diag(g), np.ravel(v @ (common + relative))]
        )


def solve(job):
    """One flow: its singular values at `ts`, |dE| where it ended, the right-hand sides, and whether it got there.

    Cut on its way, it has NaN for them; to rest, they are those of its start and of its end.

    `steady`: None, or the |dE| at which to stop. `limit`: the seconds after which it is cut.
    """
    x0, ts, method, rtol, atol, steady, limit = job
    u, s, vt = np.linalg.svd(x0)
    flow = Flow(len(s), limit)
    rest = lambda t, y: 2 * np.linalg.norm(flow.residual(y)) - steady
    rest.terminal = True
    options = {"method": method, "rtol": rtol, "atol": atol, "events": None if steady is None else rest}
    with np.errstate(all="ignore"):
        try:
            y0 = np.concatenate([u.ravel(), s, vt.T.ravel()])
            out = solve_ivp(flow, (ts[0], ts[-1]), y0, t_eval=ts if steady is None else None, **options)
            ys, good = out.y.T, out.status == (0 if steady is None else 1)
        except Capped:
            ys, good = flow.last[None], False
    sigma = -np.sort(-np.abs([flow.split(y)[1] for y in ys]))
    if steady is not None:
        sigma = sigma[[0, -1]]
    elif len(sigma) < len(ts):
        sigma = np.full((len(ts), len(s)), np.nan)
    return sigma, 2 * np.linalg.norm(flow.residual(ys[-1])), flow.count, good


def solve_many(pool, x0, ts, method: str, rtol: float, atol: float, steady: float | None, limit: float):
    """The flows of all starts, one after the other on each process."""
    jobs = [(x, ts, method, rtol, atol, steady, limit) for x in x0]
    return [np.asarray(part) for part in zip(*pool.imap(solve, jobs), strict=True)]


@contextmanager
def processes(n: int):
    """`n` worker processes, started and warm."""
    with multiprocessing.get_context("spawn").Pool(n) as pool:
        pool.map(solve, [(np.eye(2) + 0.1, (0.0, 0.1), "RK45", 1e-3, 1e-6, None, 1.0)] * 4 * n, chunksize=1)
        yield pool
