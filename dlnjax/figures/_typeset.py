"""Formulas in the plain texts of figures, such as sigma_1 <= 1e-6, as a browser shows them without a script.

The texts are kept plain, since the table in the terminal and numbers.csv hold them too.
"""

# ruff: noqa: RUF001

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

GREEK = {"sigma": "σ", "beta": "β", "eta": "η"}
# A letter is one of a formula if it has an index, a power or a relation after it, or if it is one of these and alone.
# The underscore of network_flow is a part of a name, and the d of "doesn't" one of a word.
_LETTER = (
    r"(?<![A-Za-z0-9&_^])(?<!&#x27;)"
    r"([A-Za-zσβη](?=[_^]|(?:\(0\))? (?:=|≤|≥|&lt;|&gt;) )|[NXWMKEFSVdtpxygσβη](?![A-Za-z0-9]|&#x27;))"
)
# Each rule is applied to what the rules before it left, in a text whose <, > and & are escaped.
_RULES = (
    (r"(?<=\w) \.\. (?=\w)", ", …, "),
    (r"&lt;=", "≤"),
    (r"&gt;=", "≥"),
    (r"-&gt;", "→"),
    (rf"\b({'|'.join(GREEK)})(?![A-Za-z])", lambda found: GREEK[found[1]]),
    (r"(?<=[=,.] )inf(inity)?\b", "∞"),
    (r"\bsqrt(?:\((\w+)\)|(?=\())", lambda found: "√" + (found[1] or "")),
    (r"\bsum(?=_| [a-z]\^| \()", "∑"),
    (r"\b1e(-?\d+)\b", r"10^\1"),
    (r"\b(\d+(?:\.\d+)?)e(-?\d+)\b", r"\1·10^\2"),
    (r"(?<=[\w)\]|]) - (?=[\w(\[|])", " − "),
    (r"(?<=[\[( ,])-(?=\w)", "−"),
    (r"(?<=\d) x (?=\d)", " × "),
    (r"\bX(\d\d?)\b", r"X_\1"),
    (_LETTER, r"<i>\1</i>"),
    (r"(?<=[>∑)])_([A-Za-z0-9]{1,3})(?![A-Za-z0-9_])", r"<sub>\1</sub>"),
    (r"\^\(([^()]+)\)", r"<sup>\1</sup>"),
    (r"\^-(\d+)", r"<sup>−\1</sup>"),
    (r"\^(\d+|[A-Za-z])", r"<sup>\1</sup>"),
)


def typeset(text: str) -> "Markup":
    """The HTML of a text, with its formulas typeset: powers, indices, Greek letters, minus signs and inequalities."""
    from markupsafe import Markup

    text = html.escape(text)
    for pattern, new in _RULES:
        text = re.sub(pattern, new, text)
    return Markup(text)
