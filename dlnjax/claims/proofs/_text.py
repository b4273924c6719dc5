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


def times(factors: Sequence[str], d: int = 2) -> str:
    """The product of matrices, or the identity where there are none."""
    return " @ ".join(factors) if factors else diagonal(["1"] * d)


def orthogonal(name: str, d: int = 2) -> dict[str, str]:
    """The matrix `name` with free entries, and `name`t, its inverse, in the place of its transpose.

    An identity that holds for every matrix and its inverse holds for every orthogonal matrix and its transpose. Other
    transposes are then to be written out: T() would not turn `name` into `name`t.
    """
    e = names(name.lower(), d)
    if d == 2:
        (a, b, c, f) = e
        return {name: matrix(name.lower(), 2), f"{name}t": f"[[{f}, -{b}], [-{c}, {a}]]/({a}*{f} - {b}*{c})"}
    cofactor = lambda i, j: (
        f"{e[(i + 1) % 3 * 3 + (j + 1) % 3]}*{e[(i + 2) % 3 * 3 + (j + 2) % 3]}"
        f" - {e[(i + 1) % 3 * 3 + (j + 2) % 3]}*{e[(i + 2) % 3 * 3 + (j + 1) % 3]}"
    )
    rows = ", ".join("[" + ", ".join(cofactor(j, i) for j in range(3)) + "]" for i in range(3))
    det = " + ".join(f"{e[j]}*({cofactor(0, j)})" for j in range(3))
    return {name: matrix(name.lower(), 3), f"{name}t": f"[{rows}]/({det})"}


def symmetric(letter: str, d: int) -> tuple[str, tuple[str, ...]]:
    """A symmetric matrix, and the names of its entries on and above the diagonal."""
    entry = lambda i, j: f"{letter}{min(i, j)}{max(i, j)}"
    size = range(1, d + 1)
    rows = ", ".join("[" + ", ".join(entry(i, j) for j in size) + "]" for i in size)
    return f"[{rows}]", tuple(entry(i, j) for i in size for j in size if i <= j)


def inverse(name: str) -> str:
    """The inverse of a 2 x 2 matrix that has a name."""
    det = f"{name}[0][0]*{name}[1][1] - {name}[0][1]*{name}[1][0]"
    return f"[[{name}[1][1], -{name}[0][1]], [-{name}[1][0], {name}[0][0]]]/({det})"
