"""Certificates: what a finite computation in exact numbers and balls proves of a statement."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dlnjax.claims._claim import Claim

Word = Literal["proven false", "proven", "measured"]
INFINITY = "infinity"


@dataclass(frozen=True)
class Step:
    """One computation of a proof: what `show` says follows from exact arithmetic.

    **Attributes:**

    - `says`: what is computed and why it proves something, in one line.
    - `show`: comparisons of expressions, each with one of >, < and ==.
    - `let`: what the names in the expressions mean, in this order; "f(x, y)" defines a function.
    - `variables`: the variables, if `show` is about polynomials or their quotients. Then == is an identity.
    - `for_all`: the ends of the interval of u, if `show` is about all u in it. Then e is exp(u).
    """

    says: str
    show: tuple[str, ...]
    let: Mapping[str, str] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    for_all: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The proof of a statement, or that it is false.

    **Attributes:**

    - `claim`: the name of the statement. `word`: what `printed` proves of it as printed. `scope`: how far, such as
      "d = 2; N = 2, 3", or by what example.
    - `printed`: the steps of this proof. `true`: those of the correction, or of what is true instead, as far as
      `true_scope` says.
    """

    claim: str
    word: Word
    scope: str
    printed: tuple[Step, ...]
    true: tuple[Step, ...] = ()
    true_scope: str = ""


def as_json(certificate: Certificate, claim: Claim) -> dict[str, Any]:
    """A certificate as the checker reads it. A step for all u is in pieces, one for each comparison, with its cuts."""
    return {
        "claim": claim.name,
        "where": claim.where,
        "statement": claim.statement,
        "note": claim.note,
        "proof": certificate.word,
        "scope": certificate.scope,
        "true scope": certificate.true_scope,
        "printed": [written for step in certificate.printed for written in _written(step)],
        "true": [written for step in certificate.true for written in _written(step)],
    }


def _written(step: Step) -> list[dict[str, Any]]:
    parts: dict[str, Any] = {"says": step.says, "let": dict(step.let)}
    if step.for_all is None:
        variables = {"variables": list(step.variables)} if step.variables else {}
        return [parts | variables | {"show": list(step.show)}]
    from dlnjax.claims.proofs._cuts import cut

    ends = {"for all u": list(step.for_all)}
    return [parts | ends | {"show": [shown]} | cut(parts, shown, *step.for_all) for shown in step.show]
