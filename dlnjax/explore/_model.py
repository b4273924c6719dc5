"""The model of the explorer: from a state to arrays, in short pieces of work, by programs that are compiled once.

A move of a control is answered by the first piece of work, which holds the followed seed. The page then asks for the
other pieces one by one, so that a new move never waits for more than one. Every piece of one size has the same shapes:
the energy, the depth and the tolerances are numbers of the program, and nothing is compiled again.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

import dlnjax as dln
from dlnjax._sweeps.call import Call, check_call
from dlnjax.explore._extras import has_network, join, Line, Network, train
from dlnjax.explore._problem import noise_key, starts, target, times, unit_starts
from dlnjax.explore._state import SEEDS, State, TIMES

# Pictures need no more digits, and a looser tolerance halves the steps.
RTOL, GRADIENT = 1e-4, 1e-4
# A flow of more steps, or 200 times as many evaluations, would hold up the page. It ends as `max_steps_reached`.
MOST_STEPS = 250
# How many flows one piece of work has, for each size of the matrices: what 0.1 s allow on two cores.
PIECE = {2: 50, 5: 25, 10: 10, 20: 4}
NOISY_PIECE = {2: 25, 5: 5, 10: 2, 20: 1}
# The map: depths, sizes of starts, and how many starts for each of their pairs.
DEPTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0, np.inf)
STDS = tuple(float(f"{std:.3g}") for std in np.geomspace(1e-3, 1.0, 7))
EACH = 4
MAP_TIME = 1e4
# The results of a few states are kept.
_KEPT = 8
# Two programs that decompose matrices can hang on a CPU if they run at once, as they would for two open pages.
_ONE_AT_A_TIME = threading.Lock()

T = TypeVar("T")


class Flows(NamedTuple):
    """The flows of the seeds of a state: NaN where a seed is not computed yet.

    `ts` the times; `x`, `seeds ts d d`; `sigma`, `seeds ts d`; `rank`, `seeds ts`; `energy`, `seeds ts`; `result`, the
    name of the code of each seed, empty where it is not computed yet.
    """

    ts: np.ndarray
    x: np.ndarray
    sigma: np.ndarray
    rank: np.ndarray
    energy: np.ndarray
    result: np.ndarray

    @property
    def known(self) -> np.ndarray:
        return self.result != ""

    @property
    def failed(self) -> np.ndarray:
        """Which flows ended before the last time without being at rest. Their later states repeat their last one."""
        return self.known & ~np.isin(self.result, ("steady", "successful"))


class Limits(NamedTuple):
    """The limits of `EACH` flows for each pair of a depth and a size of the start, `depths stds`.

    `rank` the mean effective rank of those that came to rest, NaN where none did; `at_rest` how many did, -1 where it
    is not known yet.
    """

    rank: np.ndarray
    at_rest: np.ndarray


class Progress(NamedTuple):
    """How much of the work on a state is done, and what comes next."""

    done: int
    of: int
    what: str


class Piece(NamedTuple):
    """One piece of work: what it is, and what to call."""

    what: str
    do: Callable[[], None]


class Model:
    """The arrays of the states that were asked for last.

    **Example:**

        >>> from dlnjax.explore._model import Model
        >>> from dlnjax.explore._state import State
        >>> model, state = Model(), State(d=2, t=10.0)
        >>> while (progress := model.progress(state)).done < progress.of:
        ...     model.work(state)
        >>> model.flows(state).x.shape
        (100, 65, 2, 2)
    """

    # The sizes and kinds of programs that this process has: another open page has its own model, and the same programs.
    _compiled: ClassVar[set[tuple[int, str]]] = set()

    def __init__(self) -> None:
        self._flows: OrderedDict[State, Flows] = OrderedDict()
        self._maps: OrderedDict[State, Limits] = OrderedDict()
        self._networks: OrderedDict[State, list[Network]] = OrderedDict()
        self._lines: OrderedDict[State, list[Line]] = OrderedDict()

    def progress(self, state: State) -> Progress:
        """How much of the work on this state is done."""
        left = list(self._pieces(state))
        return Progress(self._count(state) - len(left), self._count(state), left[0].what if left else "")

    def work(self, state: State) -> None:
        """Do the next piece of work, if there is one."""
        with _ONE_AT_A_TIME:
            for piece in self._pieces(state):
                return piece.do()

    def flows(self, state: State) -> Flows:
        """What is known of the flows."""
        return _kept(self._flows, state.physics, _no_flows)

    def map(self, state: State) -> Limits:
        """The limits of the flows without noise, of those that came to rest by the time `MAP_TIME`."""
        of = State(d=state.d, energy=state.energy, flips=state.flips, key=state.key)
        return _kept(self._maps, of, _no_limits)

    def network(self, state: State) -> Network | None:
        """The network that is trained beside the flow, if there is one and it is trained already."""
        return next(iter(self._network(state)), None)

    def line(self, state: State) -> Line | None:
        """The geodesic from the start to the cursor at d = 2, if it is known already."""
        return next(iter(self._line(state)), None)

    # What is not known yet is an empty list.
    def _network(self, state: State) -> list[Network]:
        return _kept(self._networks, replace(state.physics, seed=state.seed, step=state.step), lambda _: [])

    def _line(self, state: State) -> list[Line]:
        return _kept(self._lines, replace(state, step=0.0, g=state.imbalance), lambda _: [])

    def _count(self, state: State) -> int:
        pairs, beside = len(DEPTHS) * len(STDS), has_network(state) + has_line(state)
        return len(_kinds(state.d)) + -(-SEEDS // _piece(state)) + beside + -(-pairs // _pairs(state.d))

    def _pieces(self, state: State) -> Iterator[Piece]:
        """The work that is left, in its order: the seeds from the followed one on, the map, each after its programs.

        What another move may need is compiled last, so that the first drawing does not wait for it.
        """
        programs = self._programs(state.d)
        yield from programs.pop(_kind(state), [])
        flows, size = self.flows(state), _piece(state)
        firsts = list(range(0, SEEDS, size))
        own = state.seed // size
        for first in firsts[own:] + firsts[:own]:
            if not flows.known[first]:
                yield Piece("more seeds", lambda first=first: _solve_seeds(state, flows, first, size))
            if first == firsts[own]:
                yield from self._beside(state, flows, programs)
        yield from programs.pop("flows", [])
        limits, count = self.map(state), _pairs(state.d)
        for first in range(0, limits.rank.size, count):
            if limits.at_rest.flat[first] < 0:
                yield Piece("the map", lambda first=first: _solve_pairs(state, limits, first, count))
        for rest in programs.values():
            yield from rest

    def _programs(self, d: int) -> dict[str, list[Piece]]:
        """The programs that are not compiled yet: for each kind the piece of work that compiles it."""
        what = lambda kind: Piece(f"compiling {kind}, d = {d}", lambda: self._compile(d, kind))
        return {kind: [what(kind)] for kind in _kinds(d) if (d, kind) not in self._compiled}

    def _beside(self, state: State, flows: Flows, programs: dict[str, list[Piece]]) -> Iterator[Piece]:
        """The work on the followed seed besides its flow."""
        network, line = self._network(state), self._line(state)
        if has_network(state) and not network:
            yield from programs.pop("networks", [])
            yield Piece("the network", lambda: network.append(train(state)))
        if has_line(state) and not line:
            yield from programs.pop("geodesics", [])
            own = flows.x[state.seed]
            yield Piece("the geodesic", lambda: line.append(join(state, own[0], own[state.cursor])))

    def _compile(self, d: int, kind: str) -> None:
        KINDS[kind](State(d=d))
        self._compiled.add((d, kind))


def _kept(kept: OrderedDict[State, T], state: State, make: Callable[[State], T]) -> T:
    """The result for this state, made if there is none. The one that was used longest ago makes room."""
    found = kept[state] if state in kept else make(state)
    kept[state] = found
    kept.move_to_end(state)
    if len(kept) > _KEPT:
        kept.popitem(last=False)
    return found


def _no_flows(state: State) -> Flows:
    nothing = lambda *shape: np.full((SEEDS, TIMES, *shape), np.nan)
    d = state.d
    return Flows(times(state), nothing(d, d), nothing(d), nothing(), nothing(), np.full(SEEDS, "", dtype="U20"))


def _no_limits(_: State) -> Limits:
    shape = len(DEPTHS), len(STDS)
    return Limits(np.full(shape, np.nan), np.full(shape, -1))


def _piece(state: State) -> int:
    return (NOISY_PIECE if state.noisy else PIECE)[state.d]


def _pairs(d: int) -> int:
    """How many pairs of a depth and a size of starts one piece of the map has."""
    return max(1, PIECE[d] // EACH)


def _solve_seeds(state: State, flows: Flows, first: int, size: int) -> None:
    rows = slice(first, first + size)
    sol = (_paths_of if state.noisy else _flows_of)(state, np.arange(SEEDS)[rows])
    flows.x[rows], flows.sigma[rows] = sol.x, sol.sigma
    flows.rank[rows], flows.energy[rows] = sol.effective_rank, sol.energy
    flows.result[rows] = sol.result.names


def _solve_pairs(state: State, limits: Limits, first: int, count: int) -> None:
    """The limits of some pairs of the map. The last pair is repeated to fill up the piece."""
    size = PIECE[state.d]
    pairs = np.minimum(np.arange(size) // EACH + first, limits.rank.size - 1)
    depth, std = np.asarray(DEPTHS)[pairs // len(STDS)], np.asarray(STDS)[pairs % len(STDS)]
    x0 = std[:, None, None] * unit_starts(state.d, state.key)[np.arange(size) % EACH]
    sol = _sweep(state, x0, times(State(t=MAP_TIME)), depth)
    rank, at_rest = np.asarray(dln.effective_rank(sol.final.sigma)), sol.result.names == "steady"
    for pair in range(first, min(first + count, limits.rank.size)):
        own = slice((pair - first) * EACH, (pair - first + 1) * EACH)
        ends = rank[own][at_rest[own]]
        limits.rank.flat[pair], limits.at_rest.flat[pair] = ends.mean() if len(ends) else np.nan, len(ends)


def _flows_of(state: State, seeds: np.ndarray) -> Any:
    """The flows of some seeds."""
    kernel = (
        dln.Imbalanced(np.full(len(seeds), state.imbalance)) if state.imbalance else np.full(len(seeds), state.depth)
    )
    return _sweep(state, starts(state)[seeds], times(state), kernel)


def _sweep(state: State, x0: np.ndarray, ts: np.ndarray, depth: Any) -> Any:
    """A sweep in which the numbers of the energy have the seeds in front, so that they are arguments of its program."""
    energy, stop = _energy_of_each(state, len(x0)), dln.Steady(GRADIENT)
    how: dict[str, Any] = {"depth": depth, "rtol": RTOL, "stop": stop, "max_steps": MOST_STEPS, "progress": False}
    return dln.sweep(energy, jnp.asarray(x0), ts=jnp.asarray(ts), **how)


def _energy_of_each(state: State, n: int) -> Any:
    """The energy, with its numbers once for each of `n` seeds.

    **Raises:** `ValueError` for a mask without entries.
    """
    found = target(state)
    if not found.mask.any():
        raise ValueError("no entry is seen, and the energy is 0 everywhere. Click an entry of X to see it.")
    return dln.MatrixCompletion(*(jnp.asarray(np.broadcast_to(a, (n, *np.shape(a)))) for a in found))


def _paths_of(state: State, seeds: np.ndarray) -> Any:
    """The paths with noise of some seeds, as the part of a sweep of all seeds, in which each has a key of its own."""
    noise = dln.Noise(noise_key(state), state.beta, state.dt)
    sweep = {"energy": _energy_of_each(state, SEEDS), "starts": jnp.asarray(starts(state)), "depth": state.depth}
    how = {"solver": None, "rtol": None, "atol": None, "coordinates": "svd", "stop": None, "observe": None}
    checked = check_call(Call(**sweep, ts=jnp.asarray(times(state)), **how, noise=noise, max_steps=100_000, grid=None))
    run = checked.run(checked.plan(None, len(seeds)))
    return dln.FlowSolution.joined(run.chunks({int(seeds[0]): len(seeds)}), len(seeds))


def _first(state: State) -> None:
    """Run one piece, whose programs are compiled."""
    _solve_seeds(state, _no_flows(state), 0, _piece(state))


def has_line(state: State) -> bool:
    """Whether a geodesic is drawn: at d = 2, and without an imbalance, for which (3.76) is no line."""
    return state.d == 2 and not state.imbalance and state.cursor > 0


def _kind(state: State) -> str:
    """The kind of the programs that compute the seeds of a state."""
    if state.noisy:
        return "noise of deep networks" if math.isinf(state.depth) else "noise"
    return "imbalanced flows" if state.imbalance else "flows"


def _kinds(d: int) -> list[str]:
    return [kind for kind in KINDS if d == 2 or kind != "geodesics"]


# The programs of one size: for each what compiles it.
KINDS: dict[str, Callable[[State], Any]] = {
    "flows": lambda state: _first(replace(state, t=1.0)),
    "imbalanced flows": lambda state: _first(replace(state, t=1.0, depth=2.0, g=1.0)),
    "noise": lambda state: _first(replace(state, t=1.0, depth=3.0, beta=10.0)),
    "noise of deep networks": lambda state: _first(replace(state, t=1.0, beta=10.0)),
    "networks": lambda state: train(replace(state, t=1.0, depth=2.0, step=0.1)),
    "geodesics": lambda state: join(state, np.diag([1.0, 2.0]), np.diag([2.0, 1.0])),
}
