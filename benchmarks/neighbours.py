"""This geometry against geomstats, pymanopt and POT, side by side in one run. In the environment of `make neighbours`:

    .venv-neighbours/bin/python benchmarks/neighbours.py [--draws 20] [--d 2 3 5] [--part bures deep]

At depth 2 the positive definite matrices are those of Bures and Wasserstein, for which geomstats and POT have closed
forms: their metric is a quarter of that of dlnjax. At depth 3 and infinity geomstats is given the metric of dlnjax.
Each contender gets the same draws. An error is relative: of vectors and points in the Riemannian norm at the exact
answer, to the length of the vector or from A to B, and for means to the mean distance of the six matrices. The exact
answers are closed forms in mpmath, but for transport at depth 2, which SciPy's DOP853 follows upstairs at 1e-13, and
logarithms at depth 3 and infinity: their error is how far from B the geodesic with that velocity ends, over |B|, by
SciPy from H alone. Times are of the processor: the mean of a call, and the first call apart. A contender that needs
more than 2 s a call gets three of the draws, and one that runs out of patience no more of them. For means geomstats and
pymanopt begin at the first of the matrices, POT at their average. A run of some parts keeps the rows of the others.
"""

import argparse
import logging
import signal
import warnings
from itertools import product

import _bures as bures
import _deep as deep
import jax
import numpy as np
from _contest import COLUMNS, compete, give_up
from _tables import read_rows
from _timing import add_device, device_name, Report, RESULTS, use_device

PARTS = ["bures", "deep", "adapters", "completion"]


def label(condition: float) -> str:
    return f"condition 1e{np.log10(condition):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="others keep their rows of the table")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--slow-draws", type=int, default=3, help="for the optimisers of others on dlnjax")
    parser.add_argument("--d", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--condition", type=float, nargs="+", default=[1e2, 1e6])
    parser.add_argument("--deep-d", type=int, nargs="+", default=[2, 3], help="the same for the other depths")
    parser.add_argument("--depth", type=float, nargs="+", default=[3.0, np.inf])
    parser.add_argument("--patience", type=float, default=60.0, help="seconds of the processor, a call")
    parser.add_argument("--quick", action="store_true", help="two draws at d = 2, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.draws, args.slow_draws, args.d, args.deep_d, args.condition, args.depth = 2, 1, [2], [2], [1e2], [3.0]
        args.part = ["bures", "deep", "completion"]
    use_device(args.device)
    jax.config.update("jax_enable_compilation_cache", False)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGVTALRM, give_up)
    title = f"Neighbours: dlnjax, geomstats, pymanopt and POT on the same draws; patience {args.patience:g} s a call"
    report = Report("neighbours", title, COLUMNS, __doc__.split("\n\n")[-1])

    if not args.quick:
        report.rows = [[*row.values()] for row in read_rows(RESULTS / f"{report.name}-{device_name()}.md")]

    def play(tasks, *cells):
        for task in tasks:
            compete(report, cells, task, args.patience)
            report.save(not args.quick, final=False)

    if "bures" in args.part:
        for d, condition in product(args.d, args.condition):
            play(bures.tasks(d, condition, args.draws), "2", f"{d}", label(condition))
    if "deep" in args.part:
        for d, depth in product(args.deep_d, args.depth):
            play(deep.tasks(d, depth, args.draws), f"{depth:g}", f"{d}", "random")
    if "adapters" in args.part:
        play([bures.adapters(args.d[0], 1e2, args.slow_draws)], "2", f"{args.d[0]}", label(1e2))
    if "completion" in args.part:
        play([deep.completion((12, 8), 2, args.slow_draws)], "-", "12 x 8", "random")
    report.save(not args.quick)


if __name__ == "__main__":
    main()
