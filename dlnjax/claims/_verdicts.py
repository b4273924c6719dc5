"""Verdicts in two written forms: plain data, and the errata of the thesis."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from dlnjax._formulas import Formula, pieces
from dlnjax.claims._claim import describe, title, Verdict
from dlnjax.claims.proofs import certificates, word

# The comparisons of a step are on the page if they are not longer than this. The certificate has them all.
LONGEST_SHOWN = 120

HEADER = """# Errata

For a reader of A. Chen's thesis *Geodesics and Low Rank Behavior in the Deep Linear Network*, in its order: every
statement that is not true as printed, what is printed, and what is true. Made by `dlnjax claims --errata errata.md`,
which measures the errors of both; `dlnjax claims --only "NAME"` shows them. An error is relative: 0 where a statement
is true; that of an inequality is minus the room that it has, and a strict one is false without room. $N$ is the depth,
$d$ the size, $S_N$ the entropy, $\\lambda_{kl}$ the eigenvalues (2.20). In the examples, `lam` are the singular values
of the factors, `q` is $Q_0$, ..., $Q_N$, and `z` a matrix in place of $dE$.

*Proven* and *proven false* are by exact numbers, or balls that contain them: `dlnjax claims --prove` verifies it, and
the page [Proofs](ideas/proofs.md) says what such a proof is. It reaches as far as is said, such as $d = 2$. What is
only *measured* is true to rounding on every instance tried, or false by far.

*Corrected*: true after the correction. *Fails*: false, and no correction of the formula alone saves it.
"""


def as_data(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain data for JSON. A number that is not finite becomes a string."""
    claim, printed, true = verdict.claim, verdict.printed, verdict.true
    return {
        "name": claim.name,
        "chapter": claim.chapter,
        "where": claim.where,
        "statement": claim.statement,
        "note": claim.note,
        "verdict": verdict.word,
        "expected": claim.expected,
        "proof": word(claim.name),
        "proof_scope": certificates()[claim.name].scope if claim.name in certificates() else None,
        "printed": _number(printed.error),
        "corrected": _number(true.error) if true and claim.corrected else None,
        "instead": _number(true.error) if true and not claim.corrected else None,
        "attacked": None if verdict.attacked is None else _number(verdict.attacked),
        "tolerance": claim.tolerance,
        "floor": claim.floor,
        "instances": printed.tried,
        "counterexample": None if verdict.counterexample is None else describe(verdict.counterexample),
        "counterexample_error": None if verdict.counterexample is None else _number(printed.simplest_error),
        "seconds": round(verdict.seconds, 3),
    }


def _number(x: float) -> float | str:
    return float(x) if math.isfinite(x) else str(float(x))


def errata(verdicts: Iterable[Verdict]) -> str:
    """The errata in Markdown. Nothing in them depends on random draws, so that every run writes the same file.

    What is beyond the thesis comes under a title of its own.
    """
    parts, chapter = [HEADER], None
    for verdict in verdicts:
        claim = verdict.claim
        if verdict.word == "holds":
            continue
        if claim.chapter != chapter:
            chapter = claim.chapter
            parts.append(f"## {title(chapter)}\n")
        parts.append(_entry(verdict))
    return "\n".join([*parts, _of_what_holds()])


def _of_what_holds() -> str:
    """What is proven of the statements that hold as printed, and which of them are measured alone."""
    from dlnjax.claims import thesis

    holding = [name for name, claim in thesis.items() if claim.expected == "holds"]
    scopes = {name: certificates()[name].scope for name in holding if name in certificates()}
    proven = [f"- {_quoted(name)}: {_typeset(scope)}" for name, scope in scopes.items()]
    measured = [f"- {_quoted(name)}" for name in holding if name not in scopes]
    lines = ["## Statements that hold as printed\n", "Proven, for what is said:\n", *proven, ""]
    return "\n".join([*lines, "Measured:\n", *measured]) + "\n"


def _entry(verdict: Verdict) -> str:
    claim, shown = verdict.claim, verdict.counterexample
    lines = [f"### {claim.name} *{verdict.word}*\n", f"{claim.where}.\n"]
    lines += [f"- Printed: {_typeset(claim.statement)}", f"- True: {_typeset(claim.note)}"]
    if shown is not None and any(shown is example for example in claim.examples):
        error = f"{verdict.printed.simplest_error:.2g}"
        lines.append(f"- By hand: `{describe(shown)}` gives an error of {error} as printed.")
    lines += _proof(claim.name)
    return "\n".join(lines) + "\n"


def _proof(name: str) -> list[str]:
    """The lines on what is proven of a statement that is not true as printed."""
    certificate = certificates().get(name)
    if certificate is None:
        return ["- Measured, not proven."]
    lines = [f"- Proven false: {_typeset(certificate.scope)}."]
    for step in certificate.printed:
        shown = f"`{'`, `'.join(step.show)}`"
        lines.append(f"    - {_typeset(step.says)}" + f": {shown}" * (len(shown) <= LONGEST_SHOWN))
    truth = f"proven for {_typeset(certificate.true_scope)}" if certificate.true else "measured"
    return [*lines, f"- What is true instead: {truth}."]


def _typeset(text: str) -> str:
    """The text in Markdown, with its formulas in LaTeX."""
    return "".join(f"${piece.tex}$" if isinstance(piece, Formula) else _quoted(piece) for piece in pieces(text))


def _quoted(text: str) -> str:
    """The text with an escape before each sign that Markdown would read as emphasis, a tag or a link."""
    return text.replace("*", r"\*").replace("_", r"\_").replace("<", "&lt;").replace("[", r"\[")


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """The number of statements with each verdict, in a fixed order. A verdict that no statement has is left out."""
    words = [verdict.word for verdict in verdicts]
    return {word: words.count(word) for word in ("holds", "corrected", "fails", "undecided") if word in words}
