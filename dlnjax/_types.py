"""Numbers as the public face takes them; the checks at the door make arrays of them."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from jax.typing import ArrayLike
from jaxtyping import Array, Float

Number: TypeAlias = ArrayLike
Numbers: TypeAlias = ArrayLike | Sequence[ArrayLike]
Energy: TypeAlias = Callable[[Float[Array, "d d"]], Float[Array, ""]]
