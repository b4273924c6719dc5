"""Where an interval is cut so that the checker sees that a sum of c u^m e^(ju) is positive on each piece."""

from typing import Any

from flint import ctx, fmpq

from dlnjax.claims.proofs._certificate import INFINITY
from dlnjax.claims.proofs._checker import begins, ends, fraction, goes_on, ORDER, terms_of

FIRST, SMALLEST = fmpq(4), fmpq(1, 2**30)
MOST = 400  # Beyond so many pieces the search ends. The proofs here need at most 120.


class NoProof(Exception):
    """No cuts were found."""


def cut(parts: dict[str, Any], shown: str, start: str, end: str) -> dict[str, Any]:
    """The cuts, and the order of the zero at 0 where the interval begins there.

    A piece that fails is halved, and the next one after a success is twice as long.
    """
    terms = terms_of(parts, shown)
    at, zeros = fraction(start), 0
    last = None if end == INFINITY else fraction(end)
    cuts = [at]
    if at == 0:
        while zeros < ctx.cap - ORDER - 1 and not begins(terms, zeros, SMALLEST):
            zeros += 1
        at = FIRST if last is None else min(FIRST, last)
        while not begins(terms, zeros, at):
            at = _shorter(at, shown)
        cuts.append(at)
    length = fmpq(1)
    while not (at == last if last is not None else len(cuts) > 1 and ends(terms, at)):
        to = at + length if last is None else min(at + length, last)
        while not goes_on(terms, at, to):
            length = _shorter(length, shown)
            to = at + length if last is None else min(at + length, last)
        at, length = to, 2 * length
        cuts.append(at)
        if len(cuts) > MOST:
            raise NoProof(f"{shown}: more than {MOST} pieces")
    return {"zeros": zeros, "cuts": [str(c) for c in cuts]}


def _shorter(length: Any, shown: str) -> Any:
    if length < SMALLEST:
        raise NoProof(f"{shown}: no piece is short enough; is it true?")
    return length / 2
