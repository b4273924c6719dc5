"""The site: a dead link ends its build, and what is wide does not widen a page."""

import re
import shutil
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from support.documentation import documentation

ROOT = Path(__file__).parents[2]


def site(folder, pages, **options):
    """The configuration of a small site with the settings of the documentation."""
    docs = folder / "docs"
    docs.mkdir()
    for name, text in pages.items():
        (docs / name).write_text(text)
    kept = {"docs_dir": str(docs), "site_dir": str(folder / "site"), "nav": list(pages), "strict": True, "plugins": []}
    return load_config(str(ROOT / "mkdocs.yml"), **kept | options)


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
    pages = {"index.md": f"# First\n\n{text}\n", "other.md": "# Other\n\n## A heading\n"}
    config = site(tmp_path, pages, theme="mkdocs", hooks=[], extra_css=[])
    if fault is None:
        build(config)
    else:
        with pytest.raises(Abort, match="1 warnings in strict mode"):
            build(config)
        assert fault in caplog.text
    assert "mkdocs build --strict" in (ROOT / "Makefile").read_text()


# A page of the site and a reader of the repository follow the same links: what only the build makes is dead for one.
BLOCK = re.compile(r"^```.*?^```|`[^`\n]*`|\$[^$\n]*\$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!\w+:|#)([^)\s#]+)")


def dead(text, folder):
    return [link for link in LINK.findall(BLOCK.sub("", text)) if not (folder / link).exists()]


def test_links_of_pages_lead_somewhere_in_the_repository_too():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    links = {f"{page.relative_to(ROOT)}": dead(page.read_text(encoding="utf-8"), page.parent) for page in pages}
    assert {page: found for page, found in links.items() if found} == {}
    assert dead(
        "[a](docs/index.md#install) [b](none.md) `[c](gone.md)` [d](https://jax.dev) [e](#here) $f[g](h)$", ROOT
    ) == ["none.md"]


@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
def test_a_link_to_a_notebook_leads_to_its_page_on_the_site():
    pytest.importorskip("nbconvert", reason="needs nbconvert: pip install '.[docs]'")
    notebook = documentation("hooks").NOTEBOOK
    for source, site in (("../", ""), ("../../", "../")):
        link = f"see [one]({source}notebooks/09-noise.ipynb)"
        assert notebook.sub(r"](\1.md)", link) == f"see [one]({site}notebooks/09-noise.md)"


# The package that draws equations reads its font by a function of the standard library that is to go.
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
def test_a_wide_equation_is_cut_between_two_sides_alone():
    pytest.importorskip("nbconvert", reason="needs nbconvert: pip install '.[docs]'")
    parts = documentation("hooks").parts
    assert parts(r"f(a = b) = \frac{c = d}{e} \le -g", ("=", r"\le")) == [
        "f(a = b) ",
        r"{} = \frac{c = d}{e} ",
        r"{} \le -g",
    ]
    assert parts("{} = -a + |b - c|^{d-e} - g", ("+", "-")) == ["{} = -a ", "{} + |b - c|^{d-e} ", "{} - g"]
    assert parts("{} - a", ("+", "-")) == ["{} - a"]


@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
def test_the_punctuation_after_an_equation_stays_in_its_line():
    pytest.importorskip("nbconvert", reason="needs nbconvert: pip install '.[docs]'")
    page = documentation("hooks").on_page_content(r'<p>Of <span class="arithmatex">\(x_1\)</span>, <b>y</b>.</p>')
    assert "</svg>,</span> <b>y</b>.</p>" in page and page.startswith('<p>Of <span class="equation"><svg')
    wide = documentation("hooks").equation("a = " + " + ".join("abcdefghijklm"), "span", ".")
    assert wide.count("<wbr>") > 3 and wide.endswith("</svg>.</span>") and wide.count(".</span>") == 1


LONG = r"W_{p+1} W_{p+1}^T = \operatorname{Tr}((Q_{p+1} - Q_{p-1}) M^T) + " + " + ".join("abcdefgh")
WIDE = f"""# Wide

$$ {LONG} $$

In a line ${LONG}$, and $\\operatorname{{Tr}}({LONG})$.

| a | b |
|---|---|
| `{"x" * 80}` | {"many words " * 5} |

```python
{"y" * 90}
```

<pre>{"z" * 90}</pre>
"""
MEASURE = """
const wide = document.documentElement, within = e => e.getBoundingClientRect().right <= wide.clientWidth;
const equations = [...document.querySelectorAll('.equation')].map(e => ({
  drawn: e.querySelector('svg').getBoundingClientRect().width, whole: e.querySelector('svg').width.baseVal.value,
  within: within(e)}));
const pre = [...document.querySelectorAll('pre')].every(within);
return {free: wide.clientWidth, scrolls: wide.scrollWidth, equations, pre};
"""


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
def test_what_is_wide_scrolls_in_itself_and_not_the_page(tmp_path, browser):
    pytest.importorskip("nbconvert", reason="needs nbconvert: pip install '.[docs]'")
    # The notebooks come with the hooks, and are not in the menu of this site.
    config = site(tmp_path, {"index.md": WIDE}, strict=False)
    shutil.copy(ROOT / "docs" / "dlnjax.css", tmp_path / "docs")
    build(config)
    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((tmp_path / "site" / "index.html").as_uri())
    found = browser.execute_script(MEASURE)
    assert found["scrolls"] <= found["free"] == 400 and found["pre"]
    # No equation is drawn smaller than it is, and the line of text is cut where it can end.
    assert len(found["equations"]) > 4
    assert all(one["within"] and one["drawn"] >= 0.99 * one["whole"] for one in found["equations"])
