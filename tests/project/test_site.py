"""The site: a dead link ends its build, and a long equation can be broken."""

from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from support.documentation import documentation

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("To [another](other.md#a-heading), and to $D[L](H)$.", None),
        ("To [a page](none.md) that is not there.", "none.md"),
        ("To [a heading](other.md#none) that is not there.", "#none"),
        ("To [a heading](#none) of this page.", "#none"),
        # A formula that is not marked as one.
        ("Of D[L(X, Y)](H).", "'H'"),
        ("![A picture](none.png)", "none.png"),
    ],
)
def test_a_dead_link_ends_the_build(text, fault, tmp_path, caplog):
    """With the settings of the site, and `--strict` of `make docs`."""
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text(f"# First\n\n{text}\n")
    (pages / "other.md").write_text("# Other\n\n## A heading\n")
    config = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(pages),
        site_dir=str(tmp_path / "site"),
        theme="mkdocs",
        **{"strict": True, "nav": None, "plugins": [], "hooks": [], "extra_css": []},
    )
    if fault is None:
        build(config)
    else:
        with pytest.raises(Abort, match="1 warnings in strict mode"):
            build(config)
        assert fault in caplog.text
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


def test_a_wide_equation_is_cut_between_two_sides_alone():
    parts = documentation("hooks").parts
    assert parts(r"f(a = b) = \frac{c = d}{e} \le -g", ("=", r"\le")) == [
        "f(a = b) ",
        r"{} = \frac{c = d}{e} ",
        r"{} \le -g",
    ]
    assert parts("{} = -a + |b - c|^{d-e} - g", ("+", "-")) == ["{} = -a ", "{} + |b - c|^{d-e} ", "{} - g"]
    assert parts("{} - a", ("+", "-")) == ["{} - a"]
