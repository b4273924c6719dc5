"""Expressions as texts: matrices of variables, rotations, and the factors of a network."""

from collections.abc import Sequence


def names(letter: str, d: int) -> tuple[str, ...]:
    """z11, z12, ..., the names of the entries of a matrix."""
    return tuple(f"{letter}{i}{j}" for i in range(1, d + 1) for j in range(1, d + 1))


def matrix(letter: str, d: int) -> str:
    """[[z11, z12], [z21, z22]]."""
    entries = names(letter, d)
    return "[" + ", ".join("[" + ", ".join(entries[i * d : (i + 1) * d]) + "]" for i in range(d)) + "]"


def diagonal(entries: Sequence[str]) -> str:
    """[[a, 0], [0, b]]."""
    rows = (", ".join(x if i == j else "0" for j in range(len(entries))) for i, x in enumerate(entries))
    return "[" + ", ".join(f"[{row}]" for row in rows) + "]"


def rotation(t: str) -> str:
    """The rotation by the angle 2 atan(t), which as t varies is every one but the half turn."""
    return f"1/(1 + {t}**2)*[[1 - {t}**2, -2*{t}], [2*{t}, 1 - {t}**2]]"


def times(factors: Sequence[str], d: int = 2) -> str:
    """The product of matrices, or the identity where there are none."""
    return " @ ".join(factors) if factors else diagonal(["1"] * d)
