"""."""

from dlnjax.claims._claim import Claim

CLAIMS: tuple[Claim, ...] = ()
