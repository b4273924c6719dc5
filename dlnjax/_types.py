"""The types that are used in annotations: what public functions take, and the arrays inside of the library."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Array, Float

Number: TypeAlias = ArrayLike
Numbers: TypeAlias = ArrayLike | Sequence[ArrayLike]
Energy: TypeAlias = Callable[[Float[Array, "m n"]], Float[Array, ""]]

Scalar: TypeAlias = Float[Array, ""]
Matrix: TypeAlias = Float[Array, "m n"]
Square: TypeAlias = Float[Array, "d d"]
Layer: TypeAlias = Float[Array, "_ _"]
"""One of several matrices, each of its own shape."""
Stack: TypeAlias = Float[Array, "N d d"]
Weights: TypeAlias = Stack | tuple[Layer, ...]
"""The factors of a network, W_1 first: a stack of square matrices, or matrices that chain."""
State: TypeAlias = Any
"""The state of a flow: an `SVD`, a matrix, or any other tree of arrays that the coordinates define."""
