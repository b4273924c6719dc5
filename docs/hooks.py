"""What a page becomes on its way to HTML. Equations become drawings: to read one takes no script and no font."""

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import books
import packages
import pictures
import ziamath
from mkdocs.structure.files import File
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonConsoleLexer

# An equation, and the punctuation after it, which stays in its line.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[\(\[](.*?)\\[\)\]]</\1>([,.;:)]*)', re.DOTALL)
EXAMPLE = re.compile(
    r'<div class="language-text highlight"><pre><span></span><code>(&gt;&gt;&gt; .*?)</code></pre></div>', re.S
)
# A notebook, from a page in the repository. Its own page on the site is one folder nearer.
NOTEBOOK = re.compile(r"\]\(\.\./((?:\.\./)*notebooks/[\w-]+)\.ipynb\)")
SIZE = 16
# An equation in a line of text that is wider, in units of the text, is cut before its relations, and then before its
# sums, so that a narrow page can break it. What is wider still scrolls.
WIDEST = 16
CUTS = (("=", "<", ">", r"\le", r"\ge", r"\leq", r"\geq", r"\ne", r"\to"), ("+", "-"))
OPENING, CLOSING = ("(", "[", "{", r"\langle", r"\begin"), (")", "]", "}", r"\rangle", r"\end")
# Outlines drawn where they stand: shared symbols would need names that differ from page to page.
ziamath.config.svg2 = False
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_files(files, config, **_):
    for picture in RESULTS.glob("*.png"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    for file in books.files(config):
        files.append(file)
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    markdown = NOTEBOOK.sub(r"](\1.md)", markdown)
    markdown, drawn = pictures.drawn(markdown, page.file.src_uri)
    for name, content in drawn.items():
        files.append(File.generated(config, name, content=content))
    if page.file.src_uri == "benchmarks.md":
        return "\n\n".join([markdown, *map(section, sorted(RESULTS.glob("*.md")))])
    if page.file.src_uri == "develop/layout.md":
        picture, table = (f"<!-- packages: {what} -->" for what in ("picture", "table"))
        return markdown.replace(picture, packages.picture()).replace(table, packages.table())
    return markdown


def section(table: Path) -> str:
    """A table under its title, and its picture, where it has one."""
    text, picture = f"#{table.read_text(encoding='utf-8')}", table.with_suffix(".png")
    return f"{text}\n\n![{text.splitlines()[0].lstrip('# ')}]({picture.name})" if picture.exists() else text


def on_page_content(html: str, **_) -> str:
    html = EQUATION.sub(lambda m: equation(unescape(m[2]).strip(), m[1], m[3]), html)
    return EXAMPLE.sub(lambda m: highlight(unescape(m[1]), PythonConsoleLexer(), HtmlFormatter(wrapcode=True)), html)


def equation(tex: str, tag: str, after: str = "", cuts: tuple[tuple[str, ...], ...] = CUTS) -> str:
    """The drawing of an equation, or of its parts one after the other if it is too wide for a line of text.

    `after` is the punctuation after it.
    """
    svg, width = drawing(tex, tag)
    wide = tag == "span" and width > WIDEST
    for k, signs in enumerate(cuts):
        if wide and len(found := parts(tex, signs)) > 1:
            ends = [""] * (len(found) - 1) + [after]
            return "<wbr>".join(equation(part, tag, end, cuts[k + 1 :]) for part, end in zip(found, ends, strict=True))
    return f'<{tag} class="equation{" wide" * wide}">{svg}{after}</{tag}>'


def parts(tex: str, signs: tuple[str, ...]) -> list[str]:
    """The equation cut before each of the signs that stands between two sides, and in no bracket."""
    found, depth, last = [""], 0, ""
    for token in re.findall(r"\\[A-Za-z]+|\\.|.", tex, re.DOTALL):
        depth += (token in OPENING) - (token in CLOSING) + (token == "|") * (1 if found[-1].count("|") % 2 == 0 else -1)
        if (
            token in signs
            and depth == 0
            and found[-1].strip() not in ("", "{}")
            and not any(last in cut for cut in CUTS)
        ):
            # The empty braces make the sign one between two sides, which has more room around it.
            found.append("{} ")
        found[-1] += token
        last = token.strip() or last
    return found


def drawing(tex: str, tag: str) -> tuple[str, float]:
    """(a drawing, which stands on its baseline, its width), in units of the text around it."""
    svg = ziamath.Latex(tex, size=SIZE, inline=tag == "span", color="currentColor").svgxml()
    _, top, width, height = map(float, svg.attrib["viewBox"].split())
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.attrib[side]) / SIZE:.3f}em")
    svg.set("style", f"vertical-align: {-(top + height) / SIZE:.3f}em")
    for path in svg.iter("path"):
        # A hundredth of a pixel is enough, and so is one space between two numbers.
        path.set("d", re.sub(r" ?([A-Z]) ?", r"\1", re.sub(r"(\.\d\d)\d+", r"\1", path.attrib["d"])))
    svg.set("role", "img")
    svg.set("aria-label", tex.removeprefix("{} "))
    return ElementTree.tostring(svg, encoding="unicode"), width / SIZE
