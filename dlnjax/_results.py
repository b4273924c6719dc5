"""`RESULTS`: the codes that say how a flow, or the search for a geodesic, has ended."""

from collections.abc import Iterator
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.custom_batching
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from dlnjax._checks import error_if, is_concrete, known


class _Code:
    """The definition of one code of `RESULTS` by its sentence. This descriptor makes `RESULTS.name` the code itself."""

    def __init__(self, sentence: str):
        self.sentence = sentence

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: "type[RESULTS]") -> "RESULTS":
        # `dataclass` reads the annotated attributes while it makes the class. No code can be made before the class is.
        made = "__dataclass_fields__" in vars(owner)
        return owner(np.asarray(NAMES.index(self.name), np.int32)) if made else self  # pyright: ignore[reportReturnType]


def as_index(index: Any, shape: tuple[int, ...], what: str) -> Any:
    """`index`, if it is a valid index of an array of this shape in NumPy.

    JAX itself raises no error: it moves an index outside of the array to the nearest edge.

    **Raises:** `IndexError` for an index outside, and for None or a single boolean, which would add an axis.
    """
    parts = tuple(map(_as_integers, index if isinstance(index, tuple) else (index,)))
    index = parts if isinstance(index, tuple) else parts[0]
    if not all(map(is_concrete, parts)):
        return index
    if any(part is None or (np.ndim(part) == 0 and np.asarray(part).dtype == bool) for part in parts):
        raise IndexError(f"a {what} is found by whole numbers, a slice, or a boolean for each, got {index}.")
    try:
        # The broadcast array has this shape but only one byte of memory.
        np.broadcast_to(np.int8(0), shape)[index]
    except IndexError as error:
        raise IndexError(f"there is no {what} {index} among {shape[0] if shape else 'one'}: {error}.") from error
    return index


def taken(x: Any, index: Any) -> Any:
    """`x[index]`. NumPy takes the entries where it can, as JAX compiles a program for each shape and kind of index."""
    if all(map(is_concrete, (x, *jax.tree.leaves(index)))):
        return jax.device_put(np.asarray(x)[index])
    return x[index]


def _as_integers(index: Any) -> Any:
    """Arrays and lists of integers in the widest type, other indices as they are.

    JAX adds the length to a negative index in the type of the index, where the sum may overflow.
    """
    if not isinstance(index, (list, np.ndarray, np.generic, jax.Array)) or not is_concrete(index):
        return index
    index = np.asarray(index, int if isinstance(index, list) and not index else None)
    return index.astype(int) if index.dtype.kind in "iu" else index


def _as_code(code: Any) -> Any:
    # An index into a NumPy array gives a scalar of NumPy, for which `eqx.is_array` is false.
    return code if isinstance(code, jax.Array) else np.asarray(code, np.int32)


class RESULTS(eqx.Module):
    """Result codes: numerical failure is data. A code is one integer, `code`, or an array of them in a sweep.

    - `sol.result == "steady"`, or `sol.result == dln.RESULTS.steady`, is a boolean for each.
    - `sol.result.names` has the names, and `dln.RESULTS[sol.result]` the sentence that says what to do.
    - `sol.result[3]` is the code of seed 3.

    **Raises:** `ValueError` for a comparison with a word that is no name of a code.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> bool(sol.result == "steady"), bool(sol.result == dln.RESULTS.steady)
        (True, True)
        >>> print(dln.RESULTS[sol.result])
        The gradient fell below the tolerance of `Steady`; later times repeat that state.
    """

    code: Int[Array | np.ndarray, "*n"] = eqx.field(converter=_as_code)

    # The codes that are no failure come first. Where many codes have failed, `error_if` says the sentence of the
    # largest.
    successful: ClassVar[_Code] = _Code(
        "A flow reached the last of `ts`, a geodesic its end, or a search what it looked for, to its tolerance."
    )
    steady: ClassVar[_Code] = _Code("The gradient fell below the tolerance of `Steady`; later times repeat that state.")
    stopped: ClassVar[_Code] = _Code("The energy fell to the `stop` of a training; later steps repeat that state.")
    max_steps_reached: ClassVar[_Code] = _Code(
        "The step limit came first. Raise `max_steps`, loosen `rtol`, or pass stop=dlnjax.Steady(...) "
        "if the flow has long converged. A very stiff flow needs solver=diffrax.Kvaerno5(). "
        'Where singular values become equal, coordinates="matrix" takes fewer steps. '
        "The last good state and its time are in the solution."
    )
    diverged: ClassVar[_Code] = _Code(
        "The flow blew up in finite time: is the energy bounded below? Or the geodesic left the range of the floats. "
        "The last good state and its time, `t_end`, are in the solution."
    )
    rank_lost: ClassVar[_Code] = _Code(
        "A singular value reached zero, where the geometry of depth > 1 ends. "
        "The last good state and its time are in the solution. At depth 1, and with layers that are not balanced "
        "(dlnjax.Imbalanced), a flow passes through. The search for a geodesic ends so if its last shot does."
    )
    non_finite: ClassVar[_Code] = _Code(
        "The start, or the energy's gradient along the way, was NaN or infinite. Check both there: "
        "the last good state, if any, and its time are in the solution. In `train`, lower the learning rate."
    )
    dt_too_long: ClassVar[_Code] = _Code(
        "With noise, the force of the energy changed over one step by more than the step moved X: lower `dt`. "
        "The last good state and its time are in the solution."
    )
    not_arrived: ClassVar[_Code] = _Code(
        "The search for a geodesic stopped making progress before it came near enough to the end: `endpoint_error` and "
        "stats['power'] say how near. Go through a matrix in between."
    )
    max_shots_reached: ClassVar[_Code] = _Code(
        "The search for a geodesic used up its shots before it came near enough to the end: `endpoint_error` and "
        "stats['power'] say how near. Go through a matrix in between."
    )
    shot_too_long: ClassVar[_Code] = _Code(
        "The last shot of the search for a geodesic needed more steps than a shot may have, as happens near singular "
        "matrices: `endpoint_error` and stats['power'] say how near it came. Go through a matrix in between."
    )
    not_converged: ClassVar[_Code] = _Code(
        "The search for a mean ended before its gradient fell to `tol`: `gradient_norm` says how small it is. "
        "Raise `max_steps` or `tol`, or start elsewhere by `x0`. Ill-conditioned points may allow no more."
    )
    other_component: ClassVar[_Code] = _Code(
        "The endpoints have determinants of opposite sign, or one is singular: no path of full rank joins them. "
        "Change the sign of one row of one of them, or choose endpoints of full rank."
    )

    @classmethod
    def named(cls, names: Any) -> "RESULTS":
        """The code of a name, or the codes of an array of names; `ValueError` for a word that names no code."""
        names = np.asarray(names)
        unknown = sorted({str(name) for name in names.ravel()} - set(NAMES))
        if unknown:
            raise ValueError(f"there is no result {', '.join(map(repr, unknown))}. The names are {', '.join(NAMES)}.")
        codes = [NAMES.index(str(name)) for name in names.ravel()]
        return cls(np.asarray(codes, np.int32).reshape(names.shape))

    @staticmethod
    def where(condition: Any, code: "RESULTS", other: "RESULTS") -> "RESULTS":
        """`code` where the condition is met, and `other` elsewhere, as `jnp.where`."""
        return RESULTS(jnp.where(condition, code.code, other.code))

    def __class_getitem__(cls, result: Any) -> Any:
        """The sentence of a code, given by itself or by its name, or an array of sentences for an array of codes."""
        result = result if isinstance(result, RESULTS) else cls.named(result)
        sentences = np.asarray(np.asarray(_SENTENCES)[_known(result)])
        return sentences if sentences.ndim else str(sentences)

    @property
    def names(self) -> np.ndarray:
        """The names of the codes, an array of strings of the shape of `code`."""
        return np.asarray(np.asarray(NAMES)[_known(self)])

    def error_if(self, tree: Any, failed: Bool[Array | np.ndarray, "*n"] | np.bool_ | bool) -> Any:
        """`tree`, or a `RuntimeError` with the sentence of the code if any `failed`."""
        if is_concrete(failed) and is_concrete(self.code):
            if not np.any(failed):
                return tree
            raise RuntimeError(_SENTENCES[np.max(self.code, where=np.asarray(failed), initial=0)])
        code = _largest(jnp.max(jnp.where(failed, self.code, 0), initial=0))
        return error_if(tree, failed, code, _SENTENCES)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, RESULTS):
            if not isinstance(other, (str, np.ndarray, list, tuple)):
                raise TypeError(
                    f"a result is compared with the name of a code, or with dlnjax.RESULTS.name, got {other!r}."
                )
            other = RESULTS.named(other)
        # NumPy compares concrete codes: JAX would compile a program, and inside of `jit` the answer would be traced.
        return known(self.code) == known(other.code)

    def __ne__(self, other: object) -> Any:
        return ~(self == other)

    # Codes are compared entry by entry, as arrays are. Like arrays they have no hash.
    def __hash__(self) -> int:
        raise TypeError("codes have no hash: compare them, or take their names.")

    def __getitem__(self, index: Any) -> "RESULTS":
        return RESULTS(taken(self.code, as_index(index, np.shape(self.code), "result")))

    def __len__(self) -> int:
        return len(self.code)

    def __iter__(self) -> "Iterator[RESULTS]":
        return (RESULTS(code) for code in self.code)

    def __str__(self) -> str:
        if not is_concrete(self.code):
            return "traced"
        return result_counts(self) if np.ndim(self.code) else f"{self.names}: {RESULTS[self]}"

    def __repr__(self) -> str:
        if is_concrete(self.code) and np.ndim(self.code) == 0:
            return f"<RESULTS.{self.names}: {RESULTS[self]}>"
        return f"RESULTS({self})"


@jax.custom_batching.custom_vmap
def _largest(code: Any) -> Any:
    """The largest code of all that `jax.vmap` runs at once, and 0 for a batch of size 0.

    Equinox takes the maximum of a batch without an initial value, which fails for a batch of size 0.
    """
    return code


@_largest.def_vmap
def _largest_of_many(_size: int, _batched: list[bool], code: Any) -> tuple[Any, bool]:
    return _largest(jnp.max(code, axis=0, initial=0)), False


NAMES = [name for name, value in vars(RESULTS).items() if isinstance(value, _Code)]
_SENTENCES = [vars(RESULTS)[name].sentence for name in NAMES]


def _known(result: RESULTS) -> np.ndarray:
    if not is_concrete(result.code):
        raise TypeError("a traced result has no name yet: look at it outside of jax.jit, jax.vmap and jax.grad.")
    return np.asarray(result.code)


def code_of(*cases: tuple[Any, RESULTS]) -> RESULTS:
    """The code of the first pair (condition, code) whose condition is true, or `successful` if none is."""
    code = RESULTS.successful
    for condition, case in reversed(cases):
        code = RESULTS.where(condition, case, code)
    return code


def result_counts(result: RESULTS) -> str:
    """The name of one code; for many codes each name with the number of its occurrences."""
    if np.ndim(result.code) == 0:
        return str(result.names)
    return name_counts(result.names)


def name_counts(found: Any) -> str:
    """Each of the names with the number of its occurrences."""
    names, counts = np.unique(found, return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
