"""The time of each figure of `dlnjax reproduce`, at the thesis's size, with nothing compiled before.

Figures run in their order and in one process, as the command runs them, without writing: a shape that several figures
share is compiled by the first of them.
"""

import argparse
import io
import time

import jax
from _timing import Report

START = time.perf_counter()
COLUMNS = ["figure", "starts", "compute s", "draw s", "core s", "numbers", "disagree", "of these unexplained"]
NOTES = (
    "Wall clock, compilation included, nothing cached; core s is the time that all cores spent on it together. Only"
    " figures 4.1a to 4.5b are in the thesis. The numbers that disagree do so with the thesis or with what is expected,"
    " as the report says; each has to carry a sentence that explains it."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", action="append", metavar="F", help="a figure (4.2d); again for more; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of the starts, and no file is written")
    args = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)

    from dlnjax import plot
    from dlnjax.figures import FIGURES
    from dlnjax.figures._run import key_of

    report = Report("reproduce", "The figures, one by one", COLUMNS, NOTES)
    cores = time.process_time()
    for name in args.figure or FIGURES:
        figure = FIGURES[name]
        seeds = figure.size(args.quick)
        began, busy = time.perf_counter(), time.process_time()
        data = figure.compute(key_of(name, args.seed), seeds)
        computed = time.perf_counter()
        with plot.style():
            figure.draw(data).savefig(io.BytesIO(), format="png")
        drawn = time.perf_counter()
        numbers = figure.numbers(data)
        off = [n for n in numbers if n.verdict in ("disagrees", "explained")]
        bare = sum(not n.note for n in off)
        spent = computed - began, drawn - computed, time.process_time() - busy
        report.add(name, f"{seeds}", *spent, f"{len(numbers)}", f"{len(off)}", f"{bare}")
    total = time.perf_counter() - START, time.process_time() - cores
    report.add("all, with the start of Python", "", total[0], "", total[1], "", "", "")
    report.save(not args.quick and not args.figure)


if __name__ == "__main__":
    main()
