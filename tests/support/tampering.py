"""The tamper table: each claim against statements tampered with. `python tests/support/tampering.py [NAME]`."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

import jax

import dlnjax
from dlnjax.claims import Claim


class Row(NamedTuple):
    """A tampered version: what was changed, its error, the verdict on it, and whether that is another."""

    name: str
    expected: str
    changed: str
    error: float
    word: str

    @property
    def caught(self) -> bool:
        return self.word != self.expected


def tamper_table(key, claims: Iterable[Claim], draws=None) -> list[Row]:
    rows = []
    for claim in claims:
        for changed, tampered in claim.tampers():
            verdict = tampered.check(key, draws=draws)
            error = (verdict.true or verdict.printed).error
            rows.append(Row(claim.name, claim.expected, changed, error, verdict.word))
    return rows


if __name__ == "__main__":
    start = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [claim for claim in dlnjax.thesis.values() if claim.name.startswith(start)]
    rows = tamper_table(jax.random.key(0), chosen)
    for row in rows:
        mark = "caught" if row.caught else "MISSED"
        print(f"{mark}  {row.name:48.48}  {row.expected:9} -> {row.word:9}  {row.error:8.1e}  {row.changed}")
    print(f"{len(chosen)} claims, {len(rows)} tampered versions, {sum(row.caught for row in rows)} caught")
    sys.exit(not all(row.caught for row in rows))
