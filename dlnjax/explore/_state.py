"""The state of the explorer: what its controls say, as the query of a link."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

SIZES = (2, 5, 10, 20)
SEEDS = 100
TIMES = 65
# In the first state, singular values move at this time.
CURSOR = 36
ENERGIES = ("diagonal", "rank-one", "random", "decay")


@dataclass(frozen=True)
class State:
    """What is explored.

    **Arguments:**

    - `d`: the size of the matrices, one of `SIZES`.
    - `depth`: N, from 1 to inf.
    - `std`: the standard deviation of the entries of the starts.
    - `energy`: one of `ENERGIES`: completion of the diagonal (4.21), of a matrix of rank one or of a random matrix from
      a random mask (4.24), or weight decay |X|^2/2.
    - `flips`: the entries whose place in the mask is switched, as row * d + column.
    - `t`: the last time.
    - `beta`: the inverse temperature of the noise, inf without noise.
    - `g`: the imbalance of two layers. It has a meaning at depth 2 without noise only.
    - `step`: the step of a network that is trained beside the flow, 0 for none.
    - `key`: of all that is random; `seed`: the start that is followed; `cursor`: the time that is looked at, its index.

    **Raises:** `ValueError` for what is no such state.
    """

    d: int = 5
    depth: float = math.inf
    std: float = 0.1
    energy: str = "diagonal"
    flips: tuple[int, ...] = ()
    t: float = 100.0
    beta: float = math.inf
    g: float = 0.0
    step: float = 0.0
    key: int = 0
    seed: int = 0
    cursor: int = CURSOR

    def __post_init__(self) -> None:
        self._require("d", self.d in SIZES, f"one of {', '.join(map(str, SIZES))}")
        self._require("depth", self.depth >= 1, "at least 1, or inf")
        self._require("std", 0 < self.std < math.inf, "above 0 and finite")
        self._require("energy", self.energy in ENERGIES, f"one of {', '.join(ENERGIES)}")
        entries = all(0 <= entry < self.d**2 for entry in self.flips)
        self._require("flips", entries, f"entries row * d + column, below d^2 = {self.d**2}")
        self._require("t", 0 < self.t < math.inf, "above 0 and finite")
        self._require("beta", self.beta > 0, "above 0, or inf")
        self._require("g", math.isfinite(self.g), "finite")
        self._require("step", 0 <= self.step < math.inf, "at least 0 and finite")
        self._require("key", 0 <= self.key < 2**31, "from 0 to 2^31 - 1")
        self._require("seed", 0 <= self.seed < SEEDS, f"from 0 to {SEEDS - 1}")
        self._require("cursor", 0 <= self.cursor < TIMES, f"from 0 to {TIMES - 1}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {expected}, got {getattr(self, name)!r}.")

    @classmethod
    def of(cls, query: str) -> Self:
        """The state of a link. What the link does not name has its default, and names of others are left alone."""
        given = dict(parse_qsl(query.removeprefix("?")))
        found = {}
        for field in fields(cls):
            if field.name in given:
                found[field.name] = _read(field.name, given[field.name], _READERS[field.name])
        return cls(**found)

    @property
    def query(self) -> str:
        """The link of this state, without what has its default."""
        default = State()
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return urlencode({name: written(value) for name, value in own.items() if value != getattr(default, name)})

    @property
    def noisy(self) -> bool:
        return math.isfinite(self.beta)

    @property
    def imbalance(self) -> float:
        """g where it has a meaning, and 0 elsewhere."""
        return self.g if self.depth == 2 and not self.noisy else 0.0

    @property
    def dt(self) -> float:
        """The longest step of the noise: four steps between two saved times."""
        return self.t / (4 * (TIMES - 1))

    @property
    def physics(self) -> "State":
        """What the flows depend on: the state without what is looked at or stands beside them."""
        return replace(self, seed=0, cursor=CURSOR, step=0.0, g=self.imbalance)


def written(value: Any) -> str:
    """A value as links, programs and command lines have it, from which the same value is read."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return value if isinstance(value, str) else repr(value).removesuffix(".0")


def _flips(text: str) -> tuple[int, ...]:
    # An entry that is switched twice is as it was.
    entries = [int(word) for word in text.split("-") if word]
    return tuple(sorted(entry for entry in set(entries) if entries.count(entry) % 2))


_READERS: dict[str, Callable[[str], Any]] = {
    "d": int,
    "depth": float,
    "std": float,
    "energy": str,
    "flips": _flips,
    "t": float,
    "beta": float,
    "g": float,
    "step": float,
    "key": int,
    "seed": int,
    "cursor": int,
}


def _read(name: str, text: str, reader: Callable[[str], Any]) -> Any:
    try:
        return reader(text)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read from {text!r} in the link.") from error
