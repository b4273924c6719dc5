"""`check`: a search for a counterexample to an equation or inequality of the user."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from dlnjax._checks import as_count, as_key
from dlnjax.claims._claim import describe, size
from dlnjax.claims._spectra import orthogonal

Sides = tuple[Any, Any]


def _matrix(rng, d, whole):
    while True:
        x = rng.integers(-2, 3, (d, d)).astype(float) if whole else rng.standard_normal((d, d))
        if abs(np.linalg.det(x)) > 1e-2:
            return x


def _symmetric(rng, d, whole):
    x = np.triu(rng.integers(-2, 3, (d, d)).astype(float) if whole else rng.standard_normal((d, d)))
    return x + np.triu(x, 1).T


def _positive(rng, d, whole):
    root = np.tril(_symmetric(rng, d, whole), -1) + np.diag(rng.integers(1, 3, d) if whole else rng.uniform(0.5, 2, d))
    return root @ root.T


def _orthogonal(rng, d, whole):
    if whole:
        return np.eye(d)[rng.permutation(d)] * rng.choice([-1.0, 1.0], d)
    return orthogonal(rng, d)


def _spectrum(rng, d, whole):
    sigma = rng.choice(np.arange(1, d + 3), d, replace=False).astype(float) if whole else np.exp(rng.normal(0, 1, d))
    return np.sort(sigma)[::-1]


def _vector(rng, d, whole):
    return rng.integers(-2, 3, d).astype(float) if whole else rng.standard_normal(d)


# For each kind of argument, by its name, a function (rng, d, whole) that draws one of size d. With `whole`, its entries
# are small whole numbers.
KINDS: dict[str, Callable[[np.random.Generator, int, bool], Any]] = {
    "matrix": _matrix,
    "symmetric": _symmetric,
    "positive": _positive,
    "orthogonal": _orthogonal,
    "spectrum": _spectrum,
    "vector": _vector,
    "number": lambda rng, _, whole: float(rng.integers(-3, 4)) if whole else float(rng.normal()),
    "time": lambda rng, _, whole: float(rng.choice([0.0, 0.5, 1.0])) if whole else float(rng.uniform()),
    "depth": lambda rng, _, whole: float(rng.choice([2, 3] if whole else [2, 3, 10, math.inf])),
}


@dataclass(frozen=True, kw_only=True)
class Conjecture:
    """The result of `check`.

    **Attributes:** `word`, "holds" (no counterexample was found), "fails" or "undecided"; `error`, that of the
    counterexample, or the largest error if there is none; `instance`, the arguments with this error, by name; `lhs` and
    `rhs`, the two sides for these arguments; `tried`, the number of instances that were tried.
    """

    word: Literal["holds", "fails", "undecided"]
    error: float
    instance: dict[str, Any]
    lhs: Any
    rhs: Any
    tried: int

    def __bool__(self) -> bool:
        return self.word == "holds"

    def __str__(self) -> str:
        sides = f"lhs = {describe(self.lhs)}, rhs = {describe(self.rhs)}"
        if self.word == "holds":
            return f"holds in {self.tried} instances; the worst error, {self.error:.2g}, at {describe(self.instance)}"
        if math.isnan(self.error):
            return f"undecided: not a number at {describe(self.instance)}, where {sides}"
        return f"{self.word}: an error of {self.error:.2g} at {describe(self.instance)}, where {sides}"


def check(
    lhs: Any,
    rhs: Any,
    draws: Any,
    *,
    relation: str = "==",
    key: PRNGKeyArray | None = None,
    sizes: Sequence[int] = (1, 2, 3),
    tries: Any = 20,
    tolerance: float = 1e-9,
    floor: float = 1e-6,
) -> Conjecture:
    """Look for a counterexample to lhs = rhs, the smallest first: whole numbers of size 1, any of size 1, then 2, 3.

        error = max |lhs - rhs| / max(|lhs|, |rhs|),    or max(lhs - rhs) / max(|lhs|, |rhs|) for "<=".

    A counterexample refutes the equation; to find none is no proof. The search runs in float64.

    **Arguments:**

    - `lhs`, `rhs`: functions of the same arguments, which are given by name, as arrays and numbers.
    - `draws`: what each argument is: "matrix" (invertible), "symmetric", "positive" (definite), "orthogonal",
      "spectrum" (distinct singular values, descending), "vector", "number", "time" in [0, 1], "depth"; a list of values
      to choose from; or a function of `(rng, d)`, with `rng` a `numpy.random.Generator`.
    - `relation`: "==" or "<=", entry by entry.
    - `key`: the key of the random draws, by default `jax.random.key(0)`.
    - `sizes`: the sizes of the matrices. `tries`: the number of instances of each size, for whole numbers and for any.
    - `tolerance` and `floor`: the equation holds if no error is above `tolerance`, and fails if one is above `floor`.

    **Returns:** a `Conjecture`: true if no counterexample was found. **Raises:** `TypeError` or `ValueError` for sides
    that are not functions of these arguments or whose shapes differ, and for unknown kinds.

    **Example:**

        >>> lhs = lambda sigma, depth: dln.entropy(2 * sigma, depth) - dln.entropy(sigma, depth)
        >>> rhs = lambda sigma, depth: len(sigma) * (len(sigma) - 1) / 2 * (1 - 1 / depth) * jnp.log(2.0)
        >>> bool(dln.check(lhs, rhs, {"sigma": "spectrum", "depth": "depth"}))  # Lemma 4.3.2
        True
    """
    _check_arguments(lhs, rhs, draws, relation)
    tries, sizes = as_count("tries", tries), [as_count("sizes", d) for d in sizes]
    if not sizes:
        raise ValueError("sizes must name at least one size, such as (1, 2, 3).")
    data = jax.random.key_data(as_key(jax.random.key(0) if key is None else key))
    rng = np.random.default_rng(np.asarray(data))
    worst: Any = None
    tried = 0
    with jax.enable_x64(True):
        for d in sizes:
            for whole in (True, False):
                found = []
                for _ in range(tries):
                    instance = {name: _draw(kind, rng, d, whole) for name, kind in draws.items()}
                    given = {name: _as_given(value) for name, value in instance.items()}
                    left, right = np.asarray(lhs(**given)), np.asarray(rhs(**given))
                    error = _error(left, right, relation, instance)
                    found.append((error, instance, left, right))
                    tried += 1
                bad = [f for f in found if not f[0] <= floor]
                if bad:
                    error, instance, left, right = min(bad, key=lambda f: size(f[1]))
                    word = "undecided" if math.isnan(error) else "fails"
                    return _conjecture(word, error, instance, left, right, tried)
                worst = max([*found, worst or found[0]], key=lambda f: f[0])
    error, instance, left, right = worst
    return _conjecture("holds" if error <= tolerance else "undecided", error, instance, left, right, tried)


def _conjecture(word, error, instance, lhs, rhs, tried) -> Conjecture:
    return Conjecture(word=word, error=error, instance=instance, lhs=lhs, rhs=rhs, tried=tried)


def _draw(kind, rng, d, whole):
    if isinstance(kind, str):
        return KINDS[kind](rng, d, whole)
    return kind(rng, d) if callable(kind) else kind[int(rng.integers(len(kind)))]


def _as_given(value):
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def _error(left, right, relation, instance) -> float:
    if left.shape != right.shape:
        raise ValueError(
            f"lhs and rhs must have one shape, got {left.shape} and {right.shape} at {describe(instance)}. "
            "Is a sum or a transpose missing?"
        )
    largest = max(np.max(np.abs(left), initial=0.0), np.max(np.abs(right), initial=0.0))
    gap = np.abs(left - right) if relation == "==" else left - right
    return float(np.max(gap, initial=0.0) / max(largest, np.finfo(float).tiny))


def _check_arguments(lhs, rhs, draws, relation) -> None:
    if relation not in ("==", "<="):
        raise ValueError(f'relation must be "==" or "<=", got {relation!r}.')
    if not isinstance(draws, Mapping) or not draws:
        raise TypeError(f'draws must say what each argument is, such as {{"x": "matrix"}}, got {draws!r}.')
    for name, kind in draws.items():
        if isinstance(kind, str) and kind not in KINDS:
            raise ValueError(f"draws[{name!r}] must be one of {', '.join(KINDS)}, got {kind!r}.")
        if not isinstance(kind, str) and not callable(kind) and (not isinstance(kind, (list, tuple)) or not kind):
            raise TypeError(
                f"draws[{name!r}] must be a kind, a list of values or a function of (rng, d), got {kind!r}."
            )
    for name, side in (("lhs", lhs), ("rhs", rhs)):
        if not callable(side):
            raise TypeError(f"{name} must be a function of {', '.join(draws)}, got {type(side).__name__}.")
        try:
            inspect.signature(side).bind(**dict(draws))
        except TypeError as error:
            wanted = f"{name} must be a function of the arguments in draws, {', '.join(draws)}"
            raise TypeError(f"{wanted}: {error}.") from error
        except ValueError:  # some built-in functions have no signature
            pass
