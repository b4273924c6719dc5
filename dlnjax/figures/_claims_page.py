"""The page of all statements of the thesis, each with its verdict and its measured errors."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlnjax._versions import version_of
from dlnjax.figures._report import templates
from dlnjax.figures._run import replacing

KINDS = {"holds": "good", "corrected": "mixed", "fails": "bad", "undecided": "bad"}


def write_claims(folder: Path, verdicts: Sequence[dict[str, Any]], *, seed: int, command: str) -> Path:
    """Write claims.html, which needs no other file, and its data, claims.json, from which the report takes counts."""
    with replacing(folder / "claims.json") as fresh:
        fresh.write_text(json.dumps(list(verdicts), indent=1), encoding="utf-8")
    path = folder / "claims.html"
    entries = [_entry(verdict) for verdict in verdicts]
    page = (
        templates()
        .get_template("claims.html.jinja")
        .render(
            chapters=[(chapter, list(group)) for chapter, group in itertools.groupby(entries, lambda e: e["chapter"])],
            counts=count(verdicts),
            total=len(verdicts),
            seconds=sum(verdict["seconds"] for verdict in verdicts),
            seed=seed,
            command=command,
            versions=", ".join(f"{name} {version_of(name)}" for name in ("dlnjax", "jax", "numpy", "scipy", "mpmath")),
        )
    )
    with replacing(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path


def count(verdicts: Sequence[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """(verdict, its CSS class, how many statements have it), for each verdict that occurs."""
    words = [verdict["verdict"] for verdict in verdicts]
    return [(word, kind, words.count(word)) for word, kind in KINDS.items() if word in words]


def _entry(verdict: dict[str, Any]) -> dict[str, Any]:
    true = verdict["corrected"] if verdict["corrected"] is not None else verdict["instead"]
    return {
        **verdict,
        "id": re.sub(r"[^a-z0-9]+", "-", verdict["name"].lower()).strip("-"),
        "word": verdict["verdict"],
        "kind": KINDS[verdict["verdict"]],
        "tried": verdict["instances"],
        "printed": _short(verdict["printed"]),
        "true": _short(true),
        "how": "corrected" if verdict["corrected"] is not None else "of what is true instead",
        "attacked": _short(verdict["attacked"]),
        "counterexample_error": _short(verdict["counterexample_error"]),
    }


def _short(x) -> str:
    return "" if x is None else f"{float(x):.2g}"
