"""What every notebook owes its reader; `make notebooks` runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import sliders
from support.documentation import documentation

BOOKS = sorted(Path(__file__).parents[2].joinpath("notebooks").glob("*.ipynb"))


def test_there_are_ten():
    assert [book.name[:2] for book in BOOKS] == [f"{k:02d}" for k in range(1, 11)]


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_asks_shows_and_sets_an_exercise(book):
    text = book.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    first, last = ("".join(cells[k]["source"]) for k in (0, -1))
    assert re.match(r"# .+\n\n\*[^*]+\?\*\n", first), "it begins with a title and a question"
    assert last.startswith("## Exercise") and "<summary>Hint</summary>" in last
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert "".join(code[0]["source"]).endswith('plt.style.use("dlnjax.plot.dlnjax")'), "it draws in the project's style"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it from top to bottom"
    outputs = [out for cell in code for out in cell["outputs"]]
    assert all(out["output_type"] != "error" and out.get("name") != "stderr" for out in outputs)
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 1
    shown = json.dumps(outputs)
    assert not re.search(r"/tmp|/home|/root|/usr|/work|site-packages|widget-view", shown)
    assert all("execution" not in cell["metadata"] for cell in code)
    assert len(text) < 250_000


# With two sliders every so many of the positions are tried, which has each position of each.
MOVED = {book: 1 for book in BOOKS if "interact" in "".join(sliders.code_of(book))}
MOVED |= {book: 11 for book in MOVED if book.stem == "04-geodesics"}


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize("book", MOVED, ids=lambda book: book.stem)
def test_no_position_of_a_slider_raises(book):
    command = [sys.executable, sliders.__file__, str(book), str(MOVED[book])]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "agg"})
    assert run.returncode == 0, run.stderr.splitlines()[-1]
    assert int(run.stdout.splitlines()[-1].removeprefix("positions: ")) > 20


def test_a_notebook_is_a_page_with_its_outputs_and_pictures_described():
    pytest.importorskip("nbconvert", reason="needs nbconvert: pip install '.[docs]'")
    book = BOOKS[0]
    markdown, pictures = documentation("books").page(book)
    assert markdown.startswith("# A first flow") and f"({book.name})" in markdown.split("\n\n")[1]
    shown = dict(re.findall(r"!\[([^\]]+)\]\((\S+)\)", markdown, re.DOTALL))
    assert set(shown.values()) == set(pictures) and all(len(words.split()) >= 4 for words in shown)
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    assert "    rank 1: 22.0 % is lost\n    rank 2" in markdown and '<details markdown="1">' in markdown
