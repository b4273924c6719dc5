"""Chapter 4: the flow in its frame, the attraction to low rank, and the entropy."""

from dlnjax.claims import (
    _chapter4_concavity,
    _chapter4_dominance,
    _chapter4_entropy,
    _chapter4_equilibria,
    _chapter4_frame,
    _chapter4_isotropic,
    _chapter4_rank,
)
from dlnjax.claims._claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *_chapter4_frame.CLAIMS,
    *_chapter4_rank.CLAIMS,
    *_chapter4_entropy.CLAIMS,
    *_chapter4_dominance.CLAIMS,
    *_chapter4_concavity.CLAIMS,
    *_chapter4_isotropic.CLAIMS,
    *_chapter4_equilibria.CLAIMS,
)
