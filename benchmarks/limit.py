"""Limits against what one would train: full-batch gradient descent on the factors, W_N ... W_1, by optax.

    python benchmarks/limit.py [--d 10] [--depth 3 20] [--seeds 20] [--device gpu] [--quick]

E = sum (X_ii - 1)^2, X0 with entries from N(0, 1/d), balanced factors, until |dE| <= 1e-6. The step size is the largest
of 1, 1/2, 1/4, ... with which that seed arrives; finding it is not timed. Smaller ones show how the limit of the
descent becomes that of the flow.
"""

import argparse
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import add_device, Contender, interleave, Report, Score, use_device

import dlnjax as dln

STEADY = 1e-6
NOTES = (
    "The contenders took turns; s is the median of the runs, for all seeds, and the ratio that to dlnjax.sweep. Steps"
    " are those of descent, or right-hand sides of the flow. The difference is that of the effective rank of the limit"
    " from that of the flow at rtol 1e-10."
)
COLUMNS = ["depth", "contender", "median step size", "runs", "compile s", "s", "min-max", "ratio", "steps per seed"]
COLUMNS += ["difference mean", "difference max", "norm of dE: median, max"]


def sigma_only(point: dln.SVD):
    return point.sigma


def balanced(x, depth: int):
    """Factors W_1 ... W_N with W_{k+1}^T W_{k+1} = W_k W_k^T and product X, `N d d`."""
    point = dln.svd(x)
    root = point.sigma ** (1 / depth)
    factors = jnp.broadcast_to(jnp.diag(root), (depth, *x.shape))
    return factors.at[0].set(root[:, None] * point.v.T).at[-1].set(point.u * root)


def product(factors):
    """W_N ... W_1."""
    x = factors[0]
    for w in factors[1:]:
        x = w @ x
    return x


@eqx.filter_jit
def descend(energy, x0, rates, depth: int, most):
    """Gradient descent on each start at its own rate: the limits X, and the steps taken, at most `most`."""

    def step(optimiser, carry):
        factors, state, _, steps = carry
        x, pull = jax.vjp(product, factors)
        g = energy.gradient(x)
        updates, state = optimiser.update(pull(g)[0], state)
        return optax.apply_updates(factors, updates), state, jnp.linalg.norm(g), steps + 1

    def going(carry):
        _, _, size, steps = carry
        return (size > STEADY) & (steps < most)

    def one(x, rate):
        optimiser = optax.sgd(rate)
        factors = balanced(x, depth)
        init = (factors, optimiser.init(factors), jnp.linalg.norm(energy.gradient(x)), jnp.array(0))
        factors, _, _, steps = jax.lax.while_loop(going, partial(step, optimiser), init)
        return product(factors), steps

    return jax.vmap(one)(x0, rates)


def gradient_norm(energy, x):
    return np.asarray(jnp.linalg.norm(jax.vmap(energy.gradient)(x), axis=(1, 2)))


def largest_rates(energy, x0, depth: int, most):
    """For each seed the largest of 1, 1/2, 1/4, ... with which it arrives."""
    rates = jnp.ones(len(x0))
    for _ in range(30):
        limits, _ = descend(energy, x0, rates, depth, most)
        arrived = gradient_norm(energy, limits) <= STEADY
        if arrived.all():
            break
        rates = jnp.where(arrived, rates, rates / 2)
    return rates


def flow(energy, x0, depth: int, **options):
    """`dlnjax.sweep`: the limits X, and the right-hand sides."""
    ts, stop = jnp.array([0.0, 1000.0]), dln.Steady(STEADY)
    sol = dln.sweep(energy, x0, depth=depth, ts=ts, stop=stop, observe=sigma_only, progress=False, **options)
    return sol.final.matrix, sol.stats["evaluations"]


def effective_rank(x):
    return np.asarray(dln.effective_rank(dln.svd(x).sigma))


def score(energy, exact, out) -> Score:
    limits, steps = out
    difference, gradient = np.abs(effective_rank(limits) - exact), gradient_norm(energy, limits)
    missed = int(np.sum(~(gradient <= STEADY)))
    remark = f"{np.median(gradient):.1e}, {gradient.max():.1e}" + (f", {missed} not there" if missed else "")
    return Score((difference.mean(), difference.max()), float(np.mean(steps)), remark)


def compare(args, report: Report, depth: int) -> None:
    """The flow, and descent at the largest step size and at shares of it."""
    energy = dln.MatrixCompletion.diagonal(args.d)
    ensemble = dln.Ensemble(partial(dln.gaussian, shape=args.d, scale=args.d**-0.5), jax.random.key(0), args.seeds)
    x0, most = ensemble.take(jnp.arange(args.seeds)), jnp.array(args.iterations)
    judge = partial(score, energy, effective_rank(flow(energy, x0, depth, rtol=1e-10, atol=1e-12)[0]))
    rates = largest_rates(energy, x0, depth, most)
    contenders = {"dlnjax.sweep": Contender(partial(flow, energy, x0, depth), judge)}
    sizes = {"dlnjax.sweep": "-"}
    for share in args.shares:
        name = f"gradient descent, {share:g} of the largest step size"
        run = partial(descend, energy, x0, share * rates, depth, (most / share).astype(int))
        contenders[name], sizes[name] = Contender(run, judge), f"{share * np.median(rates):.2g}"
    timings = interleave(contenders, args.runs, args.patience)
    base = timings["dlnjax.sweep"].median
    for name, t in timings.items():
        speed = f"{len(t.runs)}", t.compile, t.median, t.spread, t.median / base, f"{t.score.evaluations:.0f}"
        report.add(f"{depth}", name, sizes[name], *speed, *t.score.error, t.score.extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=10)
    parser.add_argument("--depth", type=int, nargs="+", default=[3, 20])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.1, 0.001], help="of the largest step size")
    parser.add_argument("--iterations", type=int, default=20_000, help="most steps at the largest step size")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which a contender is not repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.d, args.seeds, args.runs = 5, 4, 2
    use_device(args.device)
    title = f"Limits, against gradient descent on the factors: d = {args.d}, {args.seeds} seeds, to |dE| <= 1e-6"
    report = Report("limit", title, COLUMNS, NOTES)
    for depth in args.depth:
        compare(args, report, depth)
    report.save(not args.quick)


if __name__ == "__main__":
    main()
