"""The sections of benchmarks/results/stress.md: each run of a table replaces its own, and leaves the others."""

import re
from pathlib import Path

STRESS = Path(__file__).parents[2] / "benchmarks" / "results" / "stress.md"


def write_section(path: Path, title: str, text: str) -> None:
    """Put `text` below the line **title**, in place of what stands there up to the next such line, or at the end."""
    before, *sections = re.split(r"^(?=\*\*)", path.read_text("utf-8") if path.exists() else "# Stress\n", flags=re.M)
    new, line = f"**{title}**\n\n{text.strip()}\n", f"**{title}**\n"
    if any(section.startswith(line) for section in sections):
        sections = [new if section.startswith(line) else section for section in sections]
    else:
        sections.append(new)
    path.write_text("\n\n".join(part.strip() for part in [before, *sections]) + "\n", "utf-8")
