"""The notebooks as pages, with the outputs that they keep: `make notebooks` runs them, and this does not."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PICTURE = re.compile(r"!\[png\]\((\S+_(\d+)_\d+\.png)\)")
HEAD = """*A notebook, as it was run last. [Download it]({name}), or open it from `notebooks/`, to run it yourself;
`pip install '.[io,notebooks]'` installs what it needs.*"""


def files(config) -> Iterator[File]:
    """The page of each notebook, its pictures, and the notebook itself."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        yield File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path))
        markdown, pictures = page(path)
        yield File.generated(config, f"notebooks/{path.stem}.md", content=markdown)
        for name, content in pictures.items():
            yield File.generated(config, f"notebooks/{name}", content=content)


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """(the Markdown of a notebook, its pictures by their names)."""
    book = nbformat.read(path, as_version=4)
    for output in (output for cell in book.cells for output in cell.get("outputs", [])):
        # A picture in HTML with a style sheet of its own, such as that of xarray, is none for a narrow page.
        if "<style" in output.get("data", {}).get("text/html", ""):
            del output.data["text/html"]
    exporter = MarkdownExporter(preprocessors=[CoalesceStreamsPreprocessor])
    markdown, resources = exporter.from_notebook_node(book, resources={"unique_key": path.stem})
    markdown = PICTURE.sub(lambda found: f"![{shown(book.cells[: int(found[2])])}]({found[1]})", markdown)
    title, rest = markdown.split("\n", 1)
    # The hint of an exercise has formulas.
    rest = rest.replace("<details>", '<details markdown="1">')
    return f"{title}\n\n{HEAD.format(name=path.name)}\n{rest}", resources["outputs"]


def shown(cells) -> str:
    """What the last text before a picture says first: a picture is read aloud by it, without marks of formulas."""
    text = next(cell.source for cell in reversed(cells) if cell.cell_type == "markdown")
    words = " ".join(line for line in text.splitlines() if not line.startswith("#"))
    first = re.split(r"(?<=[.?])\s", words.strip() or text.lstrip("# "), maxsplit=1)[0]
    return re.sub(r"[$`\\{}\[\]*_]", "", first)
