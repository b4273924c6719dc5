"""The packages of dlnjax and who imports whom, read from the source and drawn: python docs/packages.py > packages.svg

Where a box stands is chosen here; what is in it and every arrow is read from the imports. A package that has no place
in `PLACES` ends the build of the documentation.
"""

import ast
from collections.abc import Iterator
from html import escape
from math import hypot
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1] / "dlnjax"
GROUND, FACE = "ground", "dlnjax"


class Place(NamedTuple):
    """The row, from the bottom, and the first and last of six columns."""

    row: int
    first: int
    last: float


PLACES = {
    GROUND: Place(0, 0, 5),
    "_geometry": Place(1, 1, 4.85),
    "_networks": Place(2, 0, 0),
    "_energies": Place(2, 1, 1),
    "_flows": Place(2, 2, 2),
    "_geodesics": Place(2, 3, 3),
    "closed_form": Place(2, 4, 4),
    "_sweeps": Place(3, 2, 2),
    FACE: Place(4, 0, 4),
    "plot": Place(3, 5, 5),
    "claims": Place(5, 1, 2),
    "adapters": Place(5, 4, 4),
    "figures": Place(6, 3, 5),
    "explore": Place(6, 0, 0),
    "_commands": Place(7, 1, 3),
    "_cli": Place(8, 2, 2),
}
WIDTH, COLUMN, ROW, GAP, LINE, MARGIN = 850, 140, 84, 34, 13, 6
HEIGHT = ROW * len({place.row for place in PLACES.values()}) - GAP + 2 * MARGIN
INSET, TIP = 24, 8
# Letters of a line of module names that fit in a column.
LETTERS = 23


def packages() -> dict[str, list[Path]]:
    """The files of each package, in which the flat private modules are one, the ground."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        found.setdefault(package_of(path), []).append(path)
    return found


def package_of(path: Path) -> str:
    first, *rest = path.relative_to(ROOT).parts
    if rest:
        return first
    name = first.removesuffix(".py")
    if name in ("__init__", "__main__"):
        return FACE if name == "__init__" else "_cli"
    return name if name in PLACES else GROUND


def imports(path: Path) -> Iterator[str]:
    """The packages from which a file imports, at any depth of its code; `dlnjax` is the public face."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "dlnjax":
                yield package_of(file_of(name.split(".")))


def file_of(name: list[str]) -> Path:
    """The file that a dotted name is or lives in."""
    path = ROOT.joinpath(*name[1:])
    if path.is_dir():
        return path / "__init__.py"
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else file_of(name[:-1])


def arrows() -> dict[str, set[str]]:
    """Of each package the others that it imports from."""
    return {
        package: {target for path in files for target in imports(path)} - {package}
        for package, files in packages().items()
    }


def drawn(arrows: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows without those to the ground, and without those that follow from a chain of others."""
    down = {a: {b for b in targets if b != GROUND and is_down(a, b)} for a, targets in arrows.items()}

    def below(a: str) -> set[str]:
        return down[a].union(*(below(b) for b in down[a]))

    direct = {(a, b) for a in down for b in down[a] if not any(b in below(c) for c in down[a])}
    return direct | {(a, b) for a, targets in arrows.items() for b in targets if b != GROUND and not is_down(a, b)}


def is_down(a: str, b: str) -> bool:
    return PLACES[a].row > PLACES[b].row


def picture() -> str:
    """The SVG, in the colour of the text around it."""
    found, who = packages(), arrows()
    missing = set(found) ^ set(PLACES)
    assert not missing, f"docs/packages.py has no place for {', '.join(sorted(missing))}, or there is no such package"
    boxes = [
        box(name, [path.stem for path in files if not path.stem.startswith("__")]) for name, files in found.items()
    ]
    lines = [arrow(a, b) for a, b in sorted(drawn(who))]
    return (
        f'<svg class="packages" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        'role="img" aria-label="The packages and their imports" fill="none" stroke="currentColor" '
        'font-family="sans-serif">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )


def edges(name: str) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a box."""
    row, first, last = PLACES[name]
    top = HEIGHT - MARGIN - (row + 1) * ROW + GAP
    return MARGIN + first * COLUMN + 5, MARGIN + (last + 1) * COLUMN - 5, top, top + ROW - GAP


def box(name: str, modules: list[str]) -> str:
    left, right, top, bottom = edges(name)
    titles = {GROUND: "ground: everything imports it", FACE: "dlnjax: the public face, on which all above is built"}
    letters = int(LETTERS * (PLACES[name].last - PLACES[name].first + 1))
    lines = [] if name == FACE else wrapped([m.lstrip("_") for m in modules], letters)
    if len(lines) > 2:
        lines = [f"{len(modules)} modules"]
    if [f"_{line}" for line in lines] == [name] or lines == [name]:
        lines = []
    middle = (left + right) / 2
    text = [label(middle, (top + bottom) / 2 + 5 - len(lines) * LINE / 2, 14, titles.get(name, name), "bold")]
    start = (top + bottom) / 2 + 5 - len(lines) * LINE / 2
    text += [label(middle, start + (k + 1) * LINE, 11, line) for k, line in enumerate(lines)]
    shape = f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}" rx="5" fill="#8c9eff22"/>'
    return shape + "".join(text)


def wrapped(words: list[str], letters: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 3 + len(word) <= letters:
            lines[-1] += f" · {word}"
        else:
            lines.append(word)
    return lines


def label(x: float, y: float, size: float, text: str, weight: str = "normal") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="middle" fill="currentColor" stroke="none"'
    return f'<text x="{x:.1f}" y="{y:.1f}" xml:space="preserve" {style}>{escape(text)}</text>'


def arrow(a: str, b: str) -> str:
    """From the lower edge of `a` to the upper edge of `b`; dashed and between the other edges if it goes up."""
    down = is_down(a, b)
    (left, right, top, bottom), (left_b, right_b, top_b, bottom_b) = edges(a), edges(b)
    y, end = (bottom, top_b) if down else (top, bottom_b)
    low, high = max(left, left_b), min(right, right_b)
    if low < high:
        # Boxes one above the other are joined by a vertical line, at the right if it goes up.
        x = x_b = (low + high) / 2 if down else high - INSET / 2
    else:
        x, x_b = (left + INSET, right_b - INSET) if left_b < left else (right - INSET, left_b + INSET)
    length = hypot(x_b - x, end - y)
    along, across = (x_b - x) / length, (end - y) / length
    foot, side = (x_b - TIP * along, end - TIP * across), (-TIP / 2 * across, TIP / 2 * along)
    corners = [(x_b, end), (foot[0] + side[0], foot[1] + side[1]), (foot[0] - side[0], foot[1] - side[1])]
    tip = " ".join(f"{u:.1f},{v:.1f}" for u, v in corners)
    dash = "" if down else ' stroke-dasharray="4 3"'
    return (
        f'<path d="M{x:.1f} {y:.1f} L{foot[0]:.1f} {foot[1]:.1f}" stroke-width="1.2"{dash}/>'
        f'<polygon points="{tip}" fill="currentColor" stroke="none"/>'
    )


def table() -> str:
    """What each package is, by its own docstring, and what it imports besides the ground."""
    rows = ["| Package | What | Imports, besides the ground |", "|---|---|---|"]
    found, who = packages(), arrows()
    for name in sorted(PLACES, key=lambda name: (PLACES[name].row, PLACES[name].first)):
        if name == GROUND:
            modules = [path for path in found[name]]
            rows += [f"| ground: `{path.stem}` | {summary(path)} | {others(imports(path))} |" for path in modules]
            continue
        first = next(path for path in found[name] if path.stem in ("__init__", name))
        rows.append(f"| `{name}` | {summary(first)} | {others(who[name])} |")
    return "\n".join(rows)


def others(targets) -> str:
    return ", ".join(f"`{name}`" for name in sorted(set(targets) - {GROUND}, key=lambda name: PLACES[name].row))


def summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].replace("|", r"\|")


if __name__ == "__main__":
    print(picture())
