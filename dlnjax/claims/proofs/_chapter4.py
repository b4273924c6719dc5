"""Chapter 4."""

from dlnjax.claims.proofs import _chapter4_entropy, _chapter4_equilibria, _chapter4_frame, _chapter4_pairs
from dlnjax.claims.proofs._certificate import Certificate

CERTIFICATES: tuple[Certificate, ...] = (
    *_chapter4_frame.CERTIFICATES,
    *_chapter4_entropy.CERTIFICATES,
    *_chapter4_pairs.CERTIFICATES,
    *_chapter4_equilibria.CERTIFICATES,
)
