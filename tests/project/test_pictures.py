"""The pictures of the pages: every page of ideas and questions has one, and its code draws it."""

import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from support.documentation import documentation

ROOT = Path(__file__).parents[2]
DRAWN = [*sorted((ROOT / "docs" / "ideas").glob("*.md")), *sorted((ROOT / "docs" / "questions").glob("*.md"))]
DRAWN += [ROOT / "docs" / "api" / "plot.md"]


@pytest.fixture(scope="module")
def pictures():
    return documentation("pictures")


@pytest.mark.parametrize("page", DRAWN, ids=lambda page: page.stem)
def test_page_has_a_picture_that_says_in_words_what_it_shows(page, pictures):
    text = page.read_text(encoding="utf-8")
    shown = pictures.PLACE.findall(text)
    assert shown or "![" in text
    assert all(len(words.split()) >= 8 for words in shown)


PAGE = """Before, with `<!-- picture: words -->` in the middle of a line.

```python
import dlnjax.plot
ax = dlnjax.plot.new_axes(None)
(line,) = ax.plot([1, 2])
```

<!-- picture: The *line* $x_1 = 2$
of `plot` -->

```python
ax = line.axes
open("left.txt", "w").close()
```

<!-- picture: Again -->
After.
"""


def test_blocks_are_run_in_turn_and_their_axes_become_files(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, files = pictures.drawn(PAGE, "ideas/line.md")
    assert list(files) == ["ideas-line-1.png", "ideas-line-2.png"]
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert "![The *line* x_1 = 2 of plot](../ideas-line-1.png)\n\n*The *line* $x_1 = 2$ of `plot`*" in text
    assert text.startswith("Before, with") and text.endswith("After.\n") and text.count("<!--") == 1
    assert not list(tmp_path.iterdir())


FLAT = """```python
import dlnjax.plot
ax = dlnjax.plot.new_axes(None)
ax.plot([0, 4], [0, 0], color="C1", lw=3)
ax.set_aspect("equal")
```

<!-- picture: A line -->
"""


def test_a_picture_has_the_colours_of_the_project_and_nothing_empty_above_it(pictures):
    _, files = pictures.drawn(FLAT, "flat.md")
    pixels = matplotlib.image.imread(io.BytesIO(files["flat-1.png"]))
    assert (np.round(255 * pixels[..., :3]) == [0xD5, 0x5E, 0x00]).all(axis=-1).any()
    height, width = pixels.shape[:2]
    assert width == 1020 and height < width / 2


def test_a_picture_without_axes_names_its_page(pictures):
    with pytest.raises(ValueError, match=r"ideas/line.md: a picture needs axes that are called ax"):
        pictures.drawn("<!-- picture: nothing -->", "ideas/line.md")
