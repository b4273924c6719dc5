"""Completion of a 943 x 1682 table at depth 3: the flow in the frame, and a plain training loop on the factors.

    python benchmarks/ratings.py [--rank 10 50] [--rows 943] [--above 1.02] [--patience 120]

The table, the start and the flow are those of figure 5.6. The loop is what one writes with JAX and optax alone: three
factors with the product of the same start, the loss over the entries that are seen, and steps of an optimiser in
`jax.jit`, with the test error read every ten steps. Each optimiser runs at several step sizes; the best is shown. The
time is that to a test error which is `above` times the least of the flow. Compilation is apart.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _timing import add_device, clock, Report, use_device

import dlnjax as dln
from dlnjax.figures import _ratings

DEPTH, HORIZON = _ratings.FLOWS[1][0], _ratings.FLOWS[1][3]
# Step sizes that are tried, and the steps between two readings of the test error.
OPTIMISERS = {"SGD": (optax.sgd, (1e-3, 3e-3, 1e-2)), "Adam": (optax.adam, (1e-3, 3e-3, 1e-2))}
READ = 10
COLUMNS = ["rank", "contender", "compile s", "s to the error", "error", "least error", "gradients", "ratio"]

NOTES = (
    "Ratio: seconds over those of the flow. Training at the largest stable step takes fewer gradients, and follows no "
    "flow: what the flow buys is a path that does not depend on a step size."
)


class Race(NamedTuple):
    """Seconds of compilation, seconds to the test error, that error, the least error seen, gradients on the way."""

    compile: float
    seconds: float
    error: float
    least: float
    gradients: float


def flow(seen: _ratings.Table, held: _ratings.Table, x0: dln.SVD, above: float) -> Race:
    energy, unseen = (dln.MatrixCompletion.from_entries(*part) for part in (seen, held))

    def run(times):
        return dln.gradient_flow(
            energy, x0, depth=DEPTH, ts=HORIZON * times, rtol=_ratings.RTOL, observe=unseen.error, throw=False
        )

    whole, first = clock(lambda: run(_ratings.TIMES))
    errors = np.asarray(whole.observed)
    end = max(int(np.argmax(errors <= above * errors.min())), 1)
    part, seconds = clock(lambda: run(_ratings.TIMES[: end + 1]))
    again = clock(lambda: run(_ratings.TIMES))[1]
    return Race(first - again, seconds, errors[end], errors.min(), int(part.stats["evaluations"]))


def loop(optimiser, seen: _ratings.Table, held: _ratings.Table, x0: dln.SVD, aim: float, patience: float) -> Race:
    """The training of three factors, to the test error `aim` or until it gets worse, diverges or is out of time."""
    rows, columns, values = map(jnp.asarray, seen[:3])
    root = jnp.diag(x0.sigma ** (1 / 3))
    weights = (x0.u @ root, root, root @ x0.v.T)

    def at(weights, rows, columns):
        first, second, third = weights
        return jnp.sum((first @ second)[rows] * third.T[columns], axis=1)

    def loss(weights):
        return jnp.sum((at(weights, rows, columns) - values) ** 2) / 2

    @jax.jit
    def train(weights, state):
        def one(carry, _):
            weights, state = carry
            moves, state = optimiser.update(jax.grad(loss)(weights), state, weights)
            return (optax.apply_updates(weights, moves), state), None

        return jax.lax.scan(one, (weights, state), length=READ)[0]

    test = jax.jit(lambda weights: jnp.sqrt(jnp.mean((at(weights, held.rows, held.columns) - held.values) ** 2)))
    state = optimiser.init(weights)
    compile = clock(lambda: (train(weights, state), test(weights)))[1]
    errors, began = [np.inf], time.perf_counter()
    while errors[-1] > aim and time.perf_counter() - began < patience:
        weights, state = train(weights, state)
        errors.append(float(test(weights)))
        if not np.isfinite(errors[-1]) or errors[-1] > 1.2 * min(errors):
            break
    seconds = time.perf_counter() - began if errors[-1] <= aim else np.inf
    return Race(compile, seconds, errors[-1], np.nanmin(errors), READ * (len(errors) - 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, nargs="+", default=_ratings.CARRIED)
    parser.add_argument("--rows", type=int, default=_ratings.ROWS)
    parser.add_argument("--above", type=float, default=1.02, help="the test error asked for, over the flow's least")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds of each training")
    parser.add_argument("--quick", action="store_true", help="a small table, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    use_device(args.device)
    rng = np.random.default_rng(0)
    seen, held = _ratings.ratings(rng, 100 if args.quick else args.rows)
    title = f"Completion of a table of {seen.shape[0]} x {seen.shape[1]} at depth 3, {len(seen.rows)} entries seen"
    report = Report("ratings", title, COLUMNS, NOTES)
    for rank in args.rank:
        x0 = _ratings.start(seen, rank, "random", _ratings.FLOWS[1][2], rng)
        ours = flow(seen, held, x0, args.above)
        report.add(str(rank), "dlnjax, gradient_flow", *ours, 1.0)
        for name, (make, sizes) in OPTIMISERS.items():
            races = {size: loop(make(size), seen, held, x0, ours.error, args.patience) for size in sizes}
            best = min(races, key=lambda size: (races[size].seconds, races[size].least))
            label = f"optax, {name}, step {best:g}"
            report.add(str(rank), label, *races[best], races[best].seconds / ours.seconds)
    report.save(not args.quick)


if __name__ == "__main__":
    main()
