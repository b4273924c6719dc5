"""Proofs by finite computations: of statements, and that statements are false.

A certificate is a list of comparisons of exact numbers, balls, polynomials or functions on an interval. The file
`_checker.py` verifies it with python-flint alone. `dlnjax claims --prove` verifies all of them.
"""

from functools import cache
from importlib import import_module

from dlnjax.claims.proofs._certificate import as_json as as_json, Certificate as Certificate, Step as Step, Word as Word

_CHAPTERS = ("_chapter2", "_chapter3", "_chapter4", "_chapter5", "_beyond")


@cache
def certificates() -> dict[str, Certificate]:
    """The certificates, by the names of their statements. Their modules are imported at the first call."""
    chapters = [import_module(f"{__name__}.{chapter}").CERTIFICATES for chapter in _CHAPTERS]
    return {certificate.claim: certificate for chapter in chapters for certificate in chapter}


def word(name: str) -> Word:
    """What is proven of a statement as printed: "proven false", "proven", or nothing but "measured"."""
    found = certificates().get(name)
    return found.word if found else "measured"
