"""The statements of the thesis, and some beyond it, each a check that can fail.

The public names are `Claim` and `Verdict`, `dlnjax.thesis`, the mapping of all statements, and `dlnjax.check`, for a
statement of your own.
"""

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from dlnjax.claims._claim import BEYOND, Claim as Claim, Verdict as Verdict
from dlnjax.claims._conjecture import check as check, Conjecture as Conjecture

_BEYOND = ("_noise", "_shapes", "_curvature", "_paths", "_training", "_divergence")
_CHAPTERS = ("_chapter2", "_chapter3", "_chapter4", "_chapter5", *_BEYOND)


class Thesis(Mapping[str, Claim]):
    """The statements by their numbers, in the thesis's order, and then those beyond the thesis.

    Their modules are imported at the first access.
    """

    @cached_property
    def _claims(self) -> dict[str, Claim]:
        chapters = [import_module(f"{__name__}.{chapter}").CLAIMS for chapter in _CHAPTERS]
        return {claim.name: claim for chapter in chapters for claim in chapter}

    def __getitem__(self, name: str) -> Claim:
        try:
            return self._claims[name]
        except KeyError:
            near = [other for other in self._claims if name and str(name).lower() in other.lower()]
            hint = f"Did you mean {', '.join(near)}?" if near else "list(dlnjax.thesis) names them all."
            raise KeyError(f"there is no claim {name!r}. {hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def __repr__(self) -> str:
        beyond = sum(claim.chapter == BEYOND for claim in self.values())
        return f"<{len(self) - beyond} statements of the thesis, {beyond} beyond it>"


thesis: Thesis = Thesis()


class _Package(ModuleType):
    """This package. Earlier its name was that of the mapping, so a use as a mapping says where the mapping is now."""

    def __getitem__(self, name: str) -> NoReturn:
        raise TypeError(f"dlnjax.claims is the package of the statements; their mapping is dlnjax.thesis[{name!r}].")

    def __contains__(self, name: str) -> bool:
        return self[name]

    def __iter__(self) -> NoReturn:
        raise TypeError("dlnjax.claims is the package of the statements; their mapping is dlnjax.thesis.")

    def __getattr__(self, name: str) -> Any:
        if name in ("items", "keys", "values", "get"):
            raise AttributeError(
                f"dlnjax.claims is the package of the statements; their mapping is dlnjax.thesis: dlnjax.thesis.{name}."
            )
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
