"""`dlnjax claims --prove`: verifies the certificates of statements, in exact arithmetic and balls."""

import argparse
import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlnjax._commands._common import check_writable, Refused
from dlnjax._terminal import console
from dlnjax.claims import Claim
from dlnjax.claims.proofs import as_json, certificates

STYLES = {"proven": "green", "proven false": "red", "measured": "", "refused": "bold red"}
FEW = 3  # Up to so many statements, each is shown with all of its proof.
# These belong to the random instances, and a proof has none.
OF_DRAWS = ("draws", "depth", "seed", "errata")


@dataclass(frozen=True)
class Proof:
    """What came out for one statement. `refused` is what its certificate does not prove, and is empty if all is well.

    A statement without a certificate has no `written` one.
    """

    claim: Claim
    written: dict[str, Any] | None
    refused: str
    seconds: float

    @property
    def word(self) -> str:
        if self.written is None:
            return "measured"
        return "refused" if self.refused else self.written["proof"]


def prove(chosen: Sequence[Claim], args: argparse.Namespace, terminal: Console) -> int:
    """Verify the certificates of statements and show what they prove. Returns 1 if one is refused."""
    for option in OF_DRAWS:
        if getattr(args, option):
            raise Refused(f"--prove draws nothing and measures nothing: leave out --{option}.")
    try:
        from dlnjax.claims.proofs import _checker as checker
    except ImportError as error:
        raise Refused(
            "--prove needs python-flint, for exact and ball arithmetic: pip install 'python-flint>=0.9'."
        ) from error
    if args.out:
        check_writable(args.out)
    began = time.perf_counter()
    proofs = list(_verified(chosen, checker))
    if args.json:
        print(json.dumps([_as_data(proof) for proof in proofs], indent=1))
    elif len(proofs) <= FEW:
        _print_each(proofs, terminal)
    else:
        terminal.print(_table(proofs))
    words = [proof.word for proof in proofs]
    found = ", ".join(f"{words.count(word)} {word}" for word in STYLES if word in words)
    scope = ", each as far as is said of it" if "proven" in words else ""
    took = time.perf_counter() - began
    console().print(f"{len(proofs)} statements in {took:.1f} s: {found}{scope}", soft_wrap=True)
    if args.out:
        folder = _write(args.out, proofs, Path(checker.__file__))
        console().print(f"the certificates and their checker are in {folder}", markup=False, soft_wrap=True)
    wrong = [proof for proof in proofs if proof.refused]
    for proof in wrong:
        console().print(f"{proof.claim.name}: not proven: {proof.refused}", markup=False, soft_wrap=True)
    return 1 if wrong else 0


def _verified(chosen: Sequence[Claim], checker: Any) -> Iterator[Proof]:
    from dlnjax.claims.proofs._cuts import NoProof

    for claim in chosen:
        began, written, refused = time.perf_counter(), None, ""
        if certificate := certificates().get(claim.name):
            try:
                written = as_json(certificate, claim)
                refused = checker.check(written)
            except NoProof as error:
                written, refused = {"proof": certificate.word}, str(error)
        yield Proof(claim, written, refused, time.perf_counter() - began)


def _as_data(proof: Proof) -> dict[str, Any]:
    claim, written = proof.claim, proof.written or {}
    return {
        "name": claim.name,
        "chapter": claim.chapter,
        "where": claim.where,
        "statement": claim.statement,
        "verdict": claim.expected,
        "proof": proof.word,
        "scope": written.get("scope", ""),
        "true_scope": written.get("true scope", ""),
        "seconds": round(proof.seconds, 3),
    }


def _table(proofs: Sequence[Proof]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("statement")
    table.add_column("verdict")
    table.add_column("proof", no_wrap=True)
    table.add_column("of the statement as printed: by, or for", ratio=1)
    table.add_column("of what is true: for", ratio=1)
    table.add_column("s", justify="right", no_wrap=True)
    for proof in proofs:
        row = _as_data(proof)
        word = Text(row["proof"], style=STYLES[row["proof"]])
        seconds = f"{proof.seconds:.2f}" if proof.written else ""
        table.add_row(Text(row["name"]), row["verdict"], word, Text(row["scope"]), Text(row["true_scope"]), seconds)
    return table


def _print_each(proofs: Sequence[Proof], terminal: Console) -> None:
    """The proofs of a few statements, with all that they compare."""
    for proof in proofs:
        claim, row = proof.claim, _as_data(proof)
        head = Text.assemble((f"{claim.name}: ", "bold"), (proof.word, STYLES[proof.word]))
        lines = [head, Text(f"  {claim.where}: {claim.statement}")]
        for part, scope in (("printed", "scope"), ("true", "true_scope")):
            steps = (proof.written or {}).get(part, ())
            lines += [Text(f"  {'as printed' if part == 'printed' else 'true instead'}, {row[scope]}")] if steps else []
            for step in steps:
                over = f", for all u in ({', '.join(step['for all u'])})" if "for all u" in step else ""
                lines += [Text(f"    {step['says']}{over}"), *(Text(f"      {shown}") for shown in step["show"])]
                lines += [Text(f"        {name} = {body}") for name, body in step["let"].items()]
        terminal.print(*lines, sep="\n", soft_wrap=True)


def _write(out: Path, proofs: Sequence[Proof], checker: Path) -> Path:
    folder = out / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(checker, folder / "checker.py")
    for proof in proofs:
        if proof.written and not proof.refused:
            name = re.sub(r"[^a-z0-9.]+", "-", proof.claim.name.lower()).strip("-")
            text = json.dumps(proof.written, indent=1)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder
