"""What a page becomes on its way to HTML. Equations become drawings: to read one takes no script and no font."""

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import packages
import pictures
import ziamath
from mkdocs.structure.files import File
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonConsoleLexer

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[\(\[](.*?)\\[\)\]]</\1>', re.DOTALL)
EXAMPLE = re.compile(
    r'<div class="language-text highlight"><pre><span></span><code>(&gt;&gt;&gt; .*?)</code></pre></div>', re.S
)
SIZE = 16
# Outlines drawn where they stand: shared symbols would need names that differ from page to page.
ziamath.config.svg2 = False
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def on_files(files, config, **_):
    for picture in RESULTS.glob("*.png"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
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
    html = EQUATION.sub(lambda m: equation(unescape(m[2]).strip(), m[1]), html)
    return EXAMPLE.sub(lambda m: highlight(unescape(m[1]), PythonConsoleLexer(), HtmlFormatter(wrapcode=True)), html)


def equation(tex: str, tag: str) -> str:
    """A drawing in units of the text around it, standing on its baseline."""
    svg = ziamath.Latex(tex, size=SIZE, inline=tag == "span", color="currentColor").svgxml()
    _, top, _, height = map(float, svg.attrib["viewBox"].split())
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.attrib[side]) / SIZE:.3f}em")
    svg.set("style", f"vertical-align: {-(top + height) / SIZE:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", tex)
    return f'<{tag} class="equation">{ElementTree.tostring(svg, encoding="unicode")}</{tag}>'
