"""Paths with noise against Euler's method in X with a decomposition a step, by diffrax and by NumPy.

    python benchmarks/noise.py [--d 10] [--paths 1000] [--runs 3] [--quick]

Brownian motion of the metric, without an energy, from one matrix of generic singular values to t = 1/2 at beta = 2. The
exact law of the singular values gives the bias of each method: that of the mean of |X|^2, and of the least singular
value.
"""

import argparse
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from _timing import Contender, interleave, Report, Score, use_device

import dlnjax as dln

BETA, TIME, DRAWS = 2.0, 0.5, 40_000
COLUMNS = ["depth", "contender", "steps", "runs", "compile s", "s", "min-max", "paths per s"]
COLUMNS += ["bias of mean of norm^2, %", "bias of mean least sigma, %"]
NOTES = (
    "The contenders took turns; s is the median of the runs, for all paths. Bias: of the mean over the paths of a run,"
    " against draws of the exact law, with its standard error. A bias within two or three standard errors is none that"
    " is seen. dlnjax has the exact law of the singular values for steps of any length, and one decomposition a step."
)


def start(d: int):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    return u, np.geomspace(2.0, 0.2, d), v


def exact(sigma, depth: float):
    """Draws of the exact law of the singular values."""
    rng, d = np.random.default_rng(1), len(sigma)
    y = np.log(sigma) if np.isinf(depth) else depth * sigma ** (1 / depth)
    z = np.diag(y) + np.sqrt(2 * TIME / BETA) * rng.standard_normal((DRAWS, d, d))
    if np.isinf(depth):
        return np.exp(np.linalg.eigvalsh((z + z.mT) / 2))
    return (np.linalg.svd(z, compute_uv=False) / depth) ** depth


def sweep(point, depth: float, n: int, steps: int, key):
    """The singular values of the paths of dlnjax."""
    starts = dln.SVD(*(jnp.broadcast_to(jnp.asarray(a), (n, *a.shape)) for a in point))
    noise = dln.Noise(key, BETA, TIME / steps)
    return dln.sweep(None, starts, depth=depth, ts=[0.0, TIME], noise=noise, progress=False).sigma[:, -1]


def rates(xp, sigma, depth: float):
    """The roots of lambda_kl, and the singular values of the drift of Ito."""
    s = sigma[..., :, None], sigma[..., None, :]
    eye = xp.eye(sigma.shape[-1], dtype=bool)
    below = xp.log(s[0] ** 2) - xp.log(s[1] ** 2) if np.isinf(depth) else s[0] ** (2 / depth) - s[1] ** (2 / depth)
    scale = 1.0 if np.isinf(depth) else depth
    off = (s[0] ** 2 - s[1] ** 2) / xp.where(eye, 1.0, below) / scale
    lam = xp.where(eye, s[0] ** (2 - 2 / depth), off)
    return xp.sqrt(xp.maximum(lam, 0.0)), (1 - 1 / depth) / BETA * sigma ** (1 - 2 / depth)


def by_numpy(x0, depth: float, n: int, steps: int, seed: int):
    rng, h, x = np.random.default_rng(seed), TIME / steps, np.broadcast_to(x0, (n, *x0.shape))
    for _ in range(steps):
        u, sigma, vt = np.linalg.svd(x)
        root, drift = rates(np, sigma, depth)
        inside = np.sqrt(2 * h / BETA) * root * rng.standard_normal(x.shape)
        x = x + u @ (inside + h * drift[..., None] * np.eye(len(x0))) @ vt
    return np.linalg.svd(x, compute_uv=False)


@eqx.filter_jit
def by_diffrax(x0, depth: float, n: int, steps: int, key):
    shape = jax.ShapeDtypeStruct(x0.shape, x0.dtype)

    def drift(t, x, args):
        u, sigma, vt = jnp.linalg.svd(x)
        return (u * rates(jnp, sigma, depth)[1]) @ vt

    def diffusion(t, x, args):
        u, sigma, vt = jnp.linalg.svd(x)
        root = np.sqrt(2 / BETA) * rates(jnp, sigma, depth)[0]
        return lineax.FunctionLinearOperator(lambda dw: u @ (root * dw) @ vt, shape)

    def one(key):
        noise = diffrax.UnsafeBrownianPath(shape, key)
        terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, noise))
        sol = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, TIME, TIME / steps, x0, adjoint=diffrax.ForwardMode(), max_steps=steps + 2
        )
        return jnp.linalg.svd(sol.ys[-1], compute_uv=False)

    return jax.vmap(one)(jax.random.split(key, n))


def judge(law, sigma) -> Score:
    """The biases in per cent as text, and the larger of them."""
    shown, sigma = [], np.asarray(sigma)
    for of in (lambda s: np.sum(s**2, axis=-1), lambda s: s.min(-1)):
        here, there = of(sigma), of(law)
        error = np.hypot(here.std() / len(here) ** 0.5, there.std() / len(there) ** 0.5)
        shown.append(f"{100 * (here.mean() / there.mean() - 1):+.1f} ± {100 * error / there.mean():.1f}")
    return Score(extra="|".join(shown))


def compare(args, report: Report, depth: float) -> None:
    u, sigma, v = point = start(args.d)
    x0, key, n = (u * sigma) @ v.T, jax.random.key(0), args.paths
    score = partial(judge, exact(sigma, depth))
    contenders, steps = {}, {}
    for k in (1, 2, 10):
        contenders[f"dlnjax.sweep {k}"] = Contender(partial(sweep, point, depth, n, k, key), score, n)
    for k in args.steps:
        contenders[f"diffrax, Euler {k}"] = Contender(partial(by_diffrax, jnp.asarray(x0), depth, n, k, key), score, n)
        contenders[f"NumPy, Euler {k}"] = Contender(partial(by_numpy, x0, depth, n, k, 0), score, n)
    for name, timing in interleave(contenders, args.runs, patience=30.0).items():
        what, steps = name.rsplit(" ", 1)
        row = [f"{depth:g}", what, steps, str(len(timing.runs)), timing.compile, timing.median, timing.spread]
        report.add(*row, f"{n / timing.median:.0f}", *timing.score.extra.split("|"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=10)
    parser.add_argument("--paths", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64, 256], help="of Euler's method")
    parser.add_argument("--quick", action="store_true", help="small sizes, and no file is written")
    args = parser.parse_args()
    use_device("cpu")
    if args.quick:
        args.paths, args.runs, args.steps = 20, 1, [4]
    report = Report("noise", f"Paths with noise: d = {args.d}, {args.paths} paths to t = {TIME:g}", COLUMNS, NOTES)
    for depth in (2.0, 3.0, np.inf):
        compare(args, report, depth)
    report.save(not args.quick)


if __name__ == "__main__":
    main()
