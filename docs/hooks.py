"""What a page becomes on its way to HTML. Equations become drawings: to read one takes no script and no font."""

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import ziamath
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


def on_page_markdown(markdown: str, page, **_) -> str:
    if page.file.src_uri != "benchmarks.md":
        return markdown
    tables = [path.read_text(encoding="utf-8") for path in sorted(RESULTS.glob("*.md"))]
    return "\n\n".join([markdown, *(f"#{table}" for table in tables)])


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
