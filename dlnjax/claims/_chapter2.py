"""Chapter 2, with section 1.1: the flow, upstairs and down, and the metric."""

from dlnjax.claims._claim import Claim

CLAIMS: tuple[Claim, ...] = ()
