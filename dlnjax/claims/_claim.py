"""A statement of the thesis, or beyond it, as a check: what is printed, what is true, and the instances tried.

- An instance is a set of matrices and numbers for which the statement is computed.
- The error of a statement on an instance is 0 where the statement is true.
- "Upstairs" are the factors W_1, ..., W_N, and "downstairs" is their product X = phi(W).
"""

import math
import re
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from dlnjax._checks import as_key

# An instance is any pytree, best a NamedTuple or a dictionary. If it has an attribute `shown`, this attribute is
# printed in place of the instance.
Instance = Any
# A function that returns the error of a statement on an instance.
Error = Callable[[Instance], Any]
Word = Literal["holds", "corrected", "fails", "undecided"]

NO_DEPTH = (None,)

# The place of a statement that is not in the thesis begins with these words, and the name takes the place of a chapter.
BEYOND_THE_THESIS = "Beyond the thesis"
BEYOND: Literal["beyond"] = "beyond"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement, checked on random instances and on examples chosen by hand.

    An error is relative, and 0 where the statement is true. The error of an inequality has a sign: it is the smaller
    side minus the larger side, and positive where the inequality is false. The largest error over all instances
    decides:

    - holds: `printed` <= `tolerance`;
    - corrected: `printed` > `floor`, and `corrected` <= `tolerance`;
    - fails: `printed` > `floor`, and `instead`, if there is one, <= `tolerance`;
    - undecided: anything else, and any NaN. It is never expected.

    **Arguments:**

    - `name`: the number in the thesis, and a word where a number has several statements: "Theorem 3.4.2 (2)". Beyond
      the thesis numbers begin with a B and the number of the subject: "B1.2, the means without an energy".
    - `statement`: the statement as printed, in one line. `note`: what is true of it, or true instead, in one line.
    - `where`: the place in the thesis, such as "Section 2.2, (2.20) and (2.23)", or "Beyond the thesis, B1: noise".
    - `expected`: the verdict that is known.
    - `draw`: `(key, depth) -> instance`; the depth is None for `NO_DEPTH`.
    - `printed`, `corrected`, `instead`: the error of the statement, of its correction, and of what is true where no
      correction saves the statement.
    - `tampered`: pairs (what was changed, error). The error takes the place of `corrected` or `instead` if there is
      one, and else of `printed`, and each pair must then change the verdict. Where a statement fails and there is no
      `instead`, the pair is a mended statement, which must hold.
    - `examples`: instances small enough to check by hand, which are tried besides the draws. A statement that fails
      must fail on them.
    - `attack`: `(key, depth) -> (error, instance)`, the worst instance of what is true that an optimiser finds. Its
      error counts among the errors of what is true.
    - `depths`: the depths for which instances are drawn unless others are given; `NO_DEPTH` for a statement without a
      depth. `whole`: the statement is about the factors, so that only whole, finite depths make sense.
    - `draws`: the number of draws for each depth.
    """

    name: str
    statement: str
    where: str
    expected: Literal["holds", "corrected", "fails"]
    note: str = ""
    draw: Callable[[PRNGKeyArray, Any], Instance]
    printed: Error
    corrected: Error | None = None
    instead: Error | None = None
    tampered: tuple[tuple[str, Error], ...]
    examples: tuple[Instance, ...] = ()
    attack: Callable[[PRNGKeyArray, Any], tuple[float, Instance]] | None = None
    depths: tuple[float | None, ...] = (2.0, 3.0, 10.0, math.inf)
    whole: bool = False
    draws: int = 3
    tolerance: float = 1e-9
    floor: float = 1e-3

    @property
    def chapter(self) -> int | Literal["beyond"]:
        """The number of the chapter, read off `where`, or "beyond" for a statement beyond the thesis."""
        if self.where.startswith(BEYOND_THE_THESIS):
            return BEYOND
        found = re.search(r"\d+", self.where)
        assert found, f"{self.name}: `where` must name a section, got {self.where!r}"
        return int(found.group())

    def check(self, key: PRNGKeyArray, *, draws: int | None = None, depths: Sequence[float] | None = None) -> "Verdict":
        """Measure the errors, in float64, and return the verdict.

        **Arguments:** `key`, of the random draws; `draws`, the number of draws for each depth, 0 for the examples
        alone; `depths`, in place of the usual depths, if the statement has a depth.

        **Returns:** a `Verdict`.
        """
        began = time.perf_counter()
        with jax.enable_x64(True):
            chosen, draws = self._depths(depths), self.draws if draws is None else draws
            of_draw, of_attack = jax.random.split(jax.random.fold_in(as_key(key), zlib.crc32(self.name.encode())))
            keys = iter(jax.random.split(of_draw, len(chosen) * draws))
            instances = [*self.examples, *(self.draw(next(keys), depth) for depth in chosen for _ in range(draws))]
            keys = jax.random.split(of_attack, len(chosen))
            attacks = [self.attack(k, depth) for k, depth in zip(keys, chosen, strict=True)] if self.attack else []
            truth = self.corrected or self.instead
            printed = self._measure(self.printed, instances, attacks if truth is None else [])
            true = self._measure(truth, instances, attacks) if truth else None
        worst = max((float(error) for error, _ in attacks), default=None)
        return Verdict(claim=self, printed=printed, true=true, attacked=worst, seconds=time.perf_counter() - began)

    def tampers(self) -> Iterator[tuple[str, "Claim"]]:
        """Pairs (what was changed, the claim with that change)."""
        place = "corrected" if self.corrected else "instead" if self.instead else "printed"
        for changed, error in self.tampered:
            yield changed, replace(self, **{place: error}, attack=None)

    def _depths(self, depths) -> list[float | None]:
        if self.depths == NO_DEPTH or depths is None:
            return list(self.depths)
        return [n for n in depths if not self.whole or (math.isfinite(n) and n == round(n))] or list(self.depths)

    def _measure(self, error: Error, instances: list[Instance], attacks: list[tuple[float, Instance]]) -> "Measure":
        tried = [*instances, *(instance for _, instance in attacks)]
        errors = [*(float(error(instance)) for instance in instances), *(float(found) for found, _ in attacks)]
        if any(map(math.isnan, errors)):
            bad = tried[[math.isnan(e) for e in errors].index(True)]
            warnings.warn(f"{self.name}: an error is NaN, at {describe(bad)}", RuntimeWarning, stacklevel=3)
            return Measure(math.nan, bad, math.nan, bad, len(tried))
        worst = int(np.argmax(errors))
        # The instance that is shown should be easy to check by hand. An example that refutes the statement comes first.
        # If there is none, the refuting instance with the fewest and shortest numbers is shown, and if nothing refutes
        # the statement, the instance with the largest error.
        refuting = [i for i, e in enumerate(errors) if e > self.floor]
        simple = min(refuting, key=lambda i: (i >= len(self.examples), size(tried[i])), default=worst)
        return Measure(errors[worst], tried[worst], errors[simple], tried[simple], len(tried))


def title(chapter: int | str) -> str:
    """The title of a chapter, as given by `Claim.chapter`."""
    return BEYOND_THE_THESIS if chapter == BEYOND else f"Chapter {chapter}"


@dataclass(frozen=True)
class Measure:
    """The largest error and its instance, and the simplest instance with an error above the floor, if there is one."""

    error: float
    worst: Instance
    simplest_error: float
    simplest: Instance
    tried: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the errors of a claim say: `word` is holds, corrected, fails or undecided.

    **Attributes:** `printed`, the errors of the statement as printed; `true`, the errors of the correction, or of what
    is true instead, if there is one; `attacked`, the largest error that the optimiser found, if the claim has an
    attack.
    """

    claim: Claim
    printed: Measure
    true: Measure | None
    attacked: float | None
    seconds: float = field(compare=False)

    @property
    def word(self) -> Word:
        """The verdict, computed from the errors at each access."""
        claim, true = self.claim, self.true
        if self.printed.error <= claim.tolerance:
            return "holds"
        if not self.printed.error > claim.floor:
            return "undecided"
        if true is None or (claim.corrected and true.error > claim.floor):
            return "fails"
        if true.error <= claim.tolerance:
            return "corrected" if claim.corrected else "fails"
        return "undecided"

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the expected one."""
        return self.word == self.claim.expected

    @property
    def counterexample(self) -> Instance | None:
        """The simplest instance found on which the statement as printed is false, if there is one."""
        return self.printed.simplest if self.printed.error > self.claim.floor else None

    def __str__(self) -> str:
        lines = [
            f"{self.claim.name}: {self.word}" + f", but {self.claim.expected} is expected" * (not self.as_expected)
        ]
        lines.append(f"  printed: error {self.printed.error:.2g} over {self.printed.tried} instances")
        if self.true:
            lines.append(f"  {'corrected' if self.claim.corrected else 'instead'}: error {self.true.error:.2g}")
        if self.counterexample is not None:
            lines.append(f"  false by {self.printed.simplest_error:.2g} at {describe(self.counterexample)}")
        if self.claim.note:
            lines.append(f"  {self.claim.note}")
        return "\n".join(lines)


def describe(instance: Instance) -> str:
    """An instance in one line: x = [[2, 1], [1, 2]], depth = inf."""
    if hasattr(instance, "shown"):
        instance = instance.shown
    elif hasattr(instance, "_asdict"):
        instance = instance._asdict()
    if isinstance(instance, dict):
        return ", ".join(f"{name} = {_plain(value)}" for name, value in instance.items())
    return _plain(instance)


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)) or (isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) > 0):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, (int, float, np.number, np.ndarray, jax.Array)) and not isinstance(value, bool):
        return f"{float(value) + 0.0:.6g}"  # + 0.0 makes 0 of -0
    return str(value)


def size(instance: Instance) -> tuple[int, int]:
    """(the number of numbers in an instance, the length of its text). Small instances are easy to check by hand."""
    text = describe(instance)
    return text.count(",") + 1, len(text)
