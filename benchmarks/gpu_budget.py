"""A budget for a GPU on paper: the kernels and the bytes of a step of a sweep, and what they allow a card.

No GPU is used. The step of all lanes is compiled for the CPU and its kernels are counted: each fusion, product, copy,
gather and scatter is one kernel, and those of a loop count as often as the loop turns. XLA fuses for a GPU by similar
rules, so that the count is an estimate and no measurement. A step takes at least the time to launch its kernels, and at
least the time in which the card moves the bytes that they read and write.
"""

import argparse
import re

import jax
import jax.numpy as jnp
from _timing import Report, use_device

import dlnjax as dln
from dlnjax._flows.method import Lanes
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.trajectory import Flows, start_of
from dlnjax._geometry.depth import as_kernel

# The data sheet of the card; and 3 microseconds for a launch inside of a compiled loop, where 2 to 5 are usual.
CARD, BYTES_A_SECOND, THREADS, LAUNCH = "NVIDIA H100 SXM", 3.35e12, 132 * 2048, 3e-6
# Explicit steps and stabilised evaluations of a flow of the task "trajectories" in benchmarks/sweep.py.
TURNS = {5: (95, 245), 10: (119, 245), 25: (83, 236), 50: (90, 240)}
# These give names to parts of buffers, or are made when the program is compiled.
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "partition-id"}

COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$", re.MULTILINE)
INSTRUCTION = re.compile(r"^  (?:ROOT )?%[\w.-]+ = .*?[})\]] ([\w-]+)\((.*)$", re.MULTILINE)
CALLED = re.compile(r"(?:body|to_apply|branch_computations)=\{?%([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", choices=TURNS, default=list(TURNS))
    args = parser.parse_args()
    use_device("cpu")
    columns = ["d", "kernels", "bytes of a lane", "lanes that fill it", "launches, us", "bytes, us", "seeds a second"]
    notes = (
        f"{CARD}: {BYTES_A_SECOND / 1e12:g} TB/s, {THREADS} threads, {LAUNCH * 1e6:g} us a launch. In each cell: a "
        "step of Dopri5 / an evaluation of the stabilised method. The lanes fill the card with one thread for each "
        "entry of a matrix, and the times are of that many. The seeds a second take the larger of the two times, and "
        "no idle lanes. Where the launches are the larger, more lanes are free."
    )
    report = Report("gpu-budget", "A GPU on paper", columns, notes)
    for d in args.sizes:
        lanes = -(-THREADS // d**2)
        kernels, moved = zip(*(cost(d, number) for number in (0, 1)), strict=True)
        launches = [k * LAUNCH for k in kernels]
        memory = [lanes * b / BYTES_A_SECOND for b in moved]
        seconds = sum(n * max(each) for n, *each in zip(TURNS[d], launches, memory, strict=True))
        pair = lambda values, unit=1.0: " / ".join(f"{v * unit:.3g}" for v in values)
        row = (pair(kernels), pair(moved), lanes, pair(launches, 1e6), pair(memory, 1e6), lanes / seconds)
        report.add(d, *row)
    report.save()


def cost(d: int, number: int) -> tuple[int, float]:
    """(kernels, bytes of a lane) of one advance of all lanes by the method of that number."""
    few, many = (_compiled(d, number, lanes) for lanes in (16, 32))
    bytes_of = lambda program: program.cost_analysis()["bytes accessed"]
    return _kernels(many.as_text()), (bytes_of(many) - bytes_of(few)) / 16


def _compiled(d: int, number: int, lanes: int):
    # Two times alone: XLA counts the whole buffer of saved states for each state that is written into it in place.
    ts, energy = jnp.array([0.0, 100.0]), dln.MatrixCompletion.diagonal(d).at_start()
    starts = dln.Ensemble(lambda key: dln.gaussian(key, d, d**-0.5), jax.random.key(0), lanes).take(jnp.arange(lanes))
    options = Options().of(jax.eval_shape(dln.svd, starts[0]))

    def problem(x0):
        return Problem(energy, x0, as_kernel(jnp.inf, x0.dtype), ts)

    def begin(starts):
        y0 = jax.vmap(lambda x0: start_of(problem(x0), options))(starts)
        flows = Flows(problem, starts, y0, ts, options)
        (state, saved), method = flows.begin(), flows.turns[number].method
        stage = jax.vmap(lambda own, flow: method.begin(flows.task.coordinates(own), flow))(flows.own, state)
        return Lanes(jnp.arange(lanes), state, flows.own, stage), saved, y0

    def advance(work, saved, y0):
        flows = Flows(problem, starts, y0, ts, options)
        return flows.turns[number].method.advance(flows.task, work, saved)

    return jax.jit(advance).lower(*jax.eval_shape(begin, starts)).compile()


def _kernels(text: str) -> int:
    """The kernels of a program: those of its entry, of its loops and calls, and of the first branch of a condition."""
    parts = COMPUTATION.split(text)
    bodies = dict(zip(parts[1::2], parts[2::2], strict=True))
    entry = re.search(r"^ENTRY %([\w.-]+)", text, re.MULTILINE)
    assert entry is not None

    def count(name: str) -> int:
        total = 0
        for kind, rest in INSTRUCTION.findall(bodies[name].split("\n}")[0]):
            if kind in ("while", "call", "conditional"):
                called, trips = CALLED.search(rest), TRIPS.search(rest)
                assert called is not None
                total += count(called[1]) * (int(trips[1]) if trips else 1)
            elif kind not in NO_KERNEL:
                total += 1
        return total

    return count(entry[1])


if __name__ == "__main__":
    main()
