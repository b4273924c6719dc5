"""The statements of the thesis, each a check that can fail. Public: `dlnjax.claims`, a mapping, and `dlnjax.check`."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module

from dlnjax.claims._claim import Claim as Claim, Verdict as Verdict
from dlnjax.claims._conjecture import check as check, Conjecture as Conjecture

_CHAPTERS = ("_chapter2", "_chapter3", "_chapter4", "_chapter5")


class Claims(Mapping[str, Claim]):
    """The statements by their numbers, in the thesis's order; they are loaded once asked for."""

    @cached_property
    def _claims(self) -> dict[str, Claim]:
        chapters = [import_module(f"{__name__}.{chapter}").CLAIMS for chapter in _CHAPTERS]
        return {claim.name: claim for chapter in chapters for claim in chapter}

    def __getitem__(self, name: str) -> Claim:
        try:
            return self._claims[name]
        except KeyError:
            near = [other for other in self._claims if name and str(name).lower() in other.lower()]
            hint = f"Did you mean {', '.join(near)}?" if near else "list(dlnjax.claims) names them all."
            raise KeyError(f"there is no claim {name!r}. {hint}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def __repr__(self) -> str:
        return f"<{len(self)} statements of the thesis>"


claims: Claims = Claims()
