"""Formulas in plain texts, such as sigma_1 <= 1e-6: where they begin and end, and how they look in LaTeX and in HTML.

The texts of claims and figures are kept plain, since the terminal, numbers.csv and claims.json hold them too. A text
is cut into tokens, and the longest runs of tokens that can be read as mathematics are its formulas. A word of two
letters or more ends a formula, unless it is the name of a letter or of a function. So do a comma, a colon and a full
stop, except in brackets. The grammar of a formula is that of a product: items with indices, powers and primes.
"""

# ruff: noqa: RUF001

import html
import re
from typing import NamedTuple

TOKEN = re.compile(
    r"""(?P<range> \s*\.\.(?!\.)\s* )
    | (?P<space> \s+ )
    | (?P<prose> [A-Za-z]{2,}'[a-z]+ | (?:[a-z]\.){2,}      # doesn't, s.e.
        | [A-Za-z]{2,}(?:-[A-Za-z]{2,})+ | [A-Za-z]{2,}\d+[A-Za-z]*     # log-ratio, DOP853
        | [A-Z]\d\.\d+ | \d\.\d+[a-z]\b     # B3.1, and Figure 4.5a
        | (?<![\w}])\(\d\.\d+[a-z]?\)(?:-(?=\())?       # (3.76), and (2.21)-(2.22)
        | (?<![\w}\]])\([a-h]\)(?=\ [A-Z]) )        # (a) Means of all starts
    | (?P<scientific> \d+(?:\.\d+)?e-?\d+ )
    | (?P<number> \d+(?:\.\d+)? | (?<![\d.])\.\d+ )
    | (?P<word> [A-Za-z]+ )
    | (?P<sign> \.\.\. | -> | <= | >= | != | \+- | -\+ | . )""",
    re.VERBOSE | re.DOTALL,
)
SMALL = ("alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi")
OTHERS = ("pi", "rho", "sigma", "tau", "phi", "omega", "Lambda", "Sigma", "Phi", "Omega")
LETTERS = {name: html.unescape(f"&{name};") for name in SMALL + OTHERS}
KNOWN = ("log", "exp", "sin", "cos", "tan", "sinh", "cosh", "tanh", "coth", "det", "dim", "ker", "min", "max")
UNKNOWN = ("Tr", "tr", "diag", "grad", "skew", "van", "vol")
FUNCTIONS = {name: rf"\{name} " for name in KNOWN} | {name: rf"\operatorname{{{name}}}" for name in UNKNOWN}
# Products and abbreviations that would else be words.
JOINED = ("XX", "aX", "aN", "Df")
ORDINALS = ("st", "nd", "rd", "th")
SIGNS = {
    "->": (r" \to ", "→"),
    "<=": (r" \le ", "≤"),
    ">=": (r" \ge ", "≥"),
    "!=": (r" \ne ", "≠"),
    "+-": (r" \pm ", "±"),
    "-+": (r" \mp ", "∓"),
    "-": ("-", "−"),
    "#": (r" \# ", "#"),
    "~": (r" \sim ", "~"),
    **{sign: (f" {sign} ", html.escape(sign)) for sign in "=<>"},
    **{sign: (sign, sign) for sign in "+/|*"},
}
BRACKETS = {"(": ")", "[": "]", "<": ">"}
ANGLES = {"<": (r"\langle ", "⟨"), ">": (r"\rangle ", "⟩")}
# What may follow "a" if it is a number, and "A" at the beginning of a sentence if it is a matrix, and not the article.
VERBS = ("is", "are", "and", "or", "to", "of", "in", "has", "have", "at", "for", "both", "tends", "o")
RELATIONS = ("=", "<", ">", "<=", ">=", "!=")
NOTHING, OPERATION, MATHEMATICS = 0, 1, 2


class Formula(NamedTuple):
    """A formula, or an item of one. `weight` says whether it is more than numbers and brackets."""

    tex: str
    html: str
    weight: int = MATHEMATICS


def pieces(text: str) -> list[str | Formula]:
    """The text, cut into what is prose and what is a formula."""
    return _Reader(text).pieces()


def as_html(text: str) -> str:
    """The text as HTML, with its formulas as a browser shows them without a script."""
    return "".join(piece.html if isinstance(piece, Formula) else html.escape(piece) for piece in pieces(text))


class _Reader:
    """A reader by recursive descent, which has read the tokens before `at`."""

    def __init__(self, text: str):
        self.tokens = [(str(found.lastgroup), found[0]) for found in TOKEN.finditer(text)]
        self.at = 0

    def kind(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place][0] if 0 <= place < len(self.tokens) else "end"

    def token(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place][1] if 0 <= place < len(self.tokens) else ""

    def before(self) -> tuple[str, str]:
        """(kind, token) before the token just read, without a space."""
        ahead = -3 if self.kind(-2) == "space" else -2
        return self.kind(ahead), self.token(ahead)

    def after(self) -> tuple[str, str]:
        """(kind, token) after the token just read, without a space."""
        ahead = 1 if self.kind() == "space" else 0
        return self.kind(ahead), self.token(ahead)

    def pieces(self) -> list[str | Formula]:
        found: list[str | Formula] = []
        while self.at < len(self.tokens):
            first, items = self.at, self.run()
            # Spaces, and signs that hang on a word such as the hyphen of "p-value", belong to the prose around them.
            begin, end = 0, len(items)
            if items and items[0][1].weight == OPERATION and first and self.tokens[first - 1][0] in ("prose", "word"):
                begin += 1
            if items and items[-1][1].weight == OPERATION and self.kind() in ("prose", "word"):
                end -= 1
            while begin < end and is_space(items[begin][1]):
                begin += 1
            while begin < end and is_space(items[end - 1][1]):
                end -= 1
            middle = [item for _, item in items[begin:end]]
            if begin < end and is_formula(middle):
                places = [place for place, _ in items] + [self.at]
                found += [self.text(first, places[begin]), joined(middle), self.text(places[end], self.at)]
            else:
                found.append(self.text(first, self.at))
            if self.at < len(self.tokens):
                found.append(self.token())
                self.at += 1
        return merged(found)

    def text(self, first: int, end: int) -> str:
        return "".join(token for _, token in self.tokens[first:end])

    def run(self) -> list[tuple[int, Formula]]:
        """The places and items of the longest formula that begins here, if only of spaces."""
        items: list[tuple[int, Formula]] = []
        while self.at < len(self.tokens) and not self.is_article(begins=all(is_space(item) for _, item in items)):
            place = self.at
            item = self.item()
            if item is None or (items and self.is_remark(place)):
                self.at = place
                break
            items.append((place, item))
        return items

    def is_article(self, *, begins: bool) -> bool:
        """Whether "a" or "A" is a word here, and not a number or a matrix."""
        if self.token() not in ("a", "A") or self.kind(1) != "space":
            return False
        article = self.token()
        self.at += 1
        (kind, token), (kind_before, before) = self.after(), self.before()
        self.at -= 1
        is_word = kind == "prose" or (kind == "word" and len(token) > 1 and token not in (*VERBS, *LETTERS, *FUNCTIONS))
        if article == "A":
            return is_word and (before in ("", ".", ":") or (kind_before == "prose" and before[0] == "("))
        return is_word or (begins and token not in VERBS and kind in ("word", "number", "scientific"))

    def is_remark(self, place: int) -> bool:
        """Whether what was read from there is a remark in brackets after a number, such as 81.5 (N = 3)."""
        read = [token for _, token in self.tokens[place : self.at]]
        after_number = [kind for kind, _ in self.tokens[place - 2 : place]] == ["number", "space"]
        return read[0] == "(" and after_number and any(token in RELATIONS for token in read)

    def item(self, *, inside: bool = False, script: bool = False) -> Formula | None:
        """The next item with its scripts, or None, with nothing read, if here is prose."""
        start = self.at
        found = self.base(inside=inside, script=script)
        if found is None:
            self.at = start
            return None
        # A closing bar has a power, as in |W|^2.
        return self.scripts(found) if found.weight != OPERATION or found.tex == "|" else found

    def base(self, *, inside: bool, script: bool) -> Formula | None:
        kind, token = self.kind(), self.token()
        self.at += 1
        if kind == "space":
            return Formula(" ", " ", NOTHING)
        if kind == "number":
            return Formula(token, token, NOTHING)
        if kind == "scientific":
            return scientific(*token.split("e"))
        if kind == "word":
            return self.word(token, script=script)
        if token in BRACKETS and (token != "<" or self.is_angle()):
            return self.group(token)
        if inside and token in (",", ";", ":"):
            return Formula(token, token, OPERATION)
        if kind == "range":
            return Formula(r", \ldots, ", ", …, ", OPERATION)
        if token == "...":
            listed = self.token(-2) in (",", "") or self.token(-3) == ","
            return Formula(r"\ldots " if listed else r"\cdots ", "…", NOTHING)
        return Formula(*SIGNS[token], OPERATION) if token in SIGNS else None

    def is_angle(self) -> bool:
        """Whether the < just read is a bracket: it touches what follows, and not what is before."""
        return self.kind() not in ("space", "end") and not re.search(r"[\w})\]']$", self.token(-2))

    def word(self, token: str, *, script: bool) -> Formula | None:
        """A word as a formula, if it is the name of something."""
        if len(token) == 1:
            return self.letter(token)
        if token in LETTERS:
            return letter(token)
        if token in ("sum", "prod") and (
            script or (self.before()[1] not in ("the", "a") and self.opens_argument(token))
        ):
            return Formula(rf"\{token} ", "∑" if token == "sum" else "∏")
        if token == "sqrt":
            return self.root()
        if token == "inf" or (token == "infinity" and self.before()[1].strip() in ("=", "..", ",")):
            return Formula(r"\infty ", "∞")
        if token in FUNCTIONS and (script or self.opens_argument(token)):
            return Formula(FUNCTIONS[token], token)
        if token[0] == "d" and (token[1:] in LETTERS or (len(token) == 2 and token != "do")):
            return joined([Formula("d", "d"), self.scripts(letter(token[1:]))])
        attached = self.kind(-2) == "number" and len(token) == 2 and token not in ORDINALS
        if script and token.isupper() and len(token) > 1:
            return roman(token)
        if script or attached or token in JOINED:
            return joined([letter(each) for each in token])
        return roman(token) if self.token() == "^" else None

    def letter(self, token: str) -> Formula:
        kind, following = self.after()
        if token == "o" and self.kind(-2) == self.kind() == "space":
            return Formula(r" \circ ", "∘", OPERATION)
        if token == "x" and self.before()[0] == kind == "number":
            return Formula(r" \times ", "×", OPERATION)
        if self.kind() == "number" and following.isdigit() and len(following) <= 2:
            self.at += 1
            return scripted(letter(token), below=Formula(following, following))
        return letter(token)

    def opens_argument(self, name: str) -> bool:
        """Whether what follows can be the argument, the index or the power of a function."""
        kind, token = self.after()
        if kind == "word":
            is_differential = token[0] == "d" and len(token) == 2
            return len(token) == 1 or is_differential or token in (*LETTERS, *FUNCTIONS, *JOINED, "sqrt", "sum", "prod")
        if self.before()[1] == "=" and kind != "space":
            return True
        signs = "([|_^" + "<>=" * (name == "det")
        return kind == "number" or (kind == "sign" and token in signs)

    def root(self) -> Formula | None:
        """The square root of a bracket, or of the next item."""
        if self.kind() == "space":
            self.at += 1
        inner = self.item()
        if inner is None:
            return None
        bare = re.fullmatch(r"\((.*)\)", inner.tex, re.DOTALL)
        simple = re.fullmatch(r"\(((?:<i>)?\w+(?:</i>)?(?:<sub>\w+</sub>)?)\)", inner.html)
        return Formula(rf"\sqrt{{{bare[1] if bare else inner.tex}}}", "√" + (simple[1] if simple else inner.html))

    def group(self, opening: str) -> Formula | None:
        """A bracket that holds nothing but mathematics."""
        closing, rows = BRACKETS[opening], [list[Formula]()]
        while self.token() != closing or (closing == ">" and self.kind(-1) == "space"):
            item = self.item(inside=True) if self.at < len(self.tokens) else None
            if item is None:
                return None
            rows.append([]) if item.tex == "," else rows[-1].append(item)
        self.at += 1
        entries = [joined(row) for row in rows]
        inner = joined(
            [*(part for entry in entries[:-1] for part in (entry, Formula(",", ",", OPERATION))), entries[-1]]
        )
        # An inner product has two entries, and a tag of HTML has none.
        if not inner.tex.strip() or (opening == "<" and len(entries) == 1):
            return None
        (left, left_shown), (right, right_shown) = (ANGLES.get(side, (side, side)) for side in (opening, closing))
        tex = f"{left}{inner.tex}{right}"
        if opening == "[" and all(re.fullmatch(r"\s*\[.*\]\s*", entry.tex) for entry in entries):
            tex = matrix(entries)
        weight = max(inner.weight, OPERATION if len(entries) > 1 else NOTHING)
        return Formula(tex, f"{left_shown}{inner.html}{right_shown}", weight)

    def scripts(self, base: Formula) -> Formula:
        """The item with the indices, powers, primes and tildes that touch it."""
        below, above, primes = None, None, 0
        while True:
            start, token = self.at, self.token()
            if token == "'":
                primes += 1
                self.at += 1
            elif token == "~" and base.weight == MATHEMATICS and below is None and above is None:
                base = Formula(rf"\tilde{{{base.tex.strip()}}}", re.sub(r"(\w)(</i>)?$", "\\1\u0303\\2", base.html))
                self.at += 1
            elif token == "!" and base.weight == MATHEMATICS:
                base = Formula(f"{base.tex}!", f"{base.html}!")
                self.at += 1
            elif token in ("_", "^") and (below if token == "_" else above) is None:
                self.at += 1
                script = self.script()
                if script is None:
                    self.at = start
                    break
                below, above = (script, above) if token == "_" else (below, script)
            else:
                break
        return scripted(base, below, above, primes) if (below or above or primes) else base

    def script(self) -> Formula | None:
        """An index or a power: a sign, letters or a number, or a bracket, which is not shown if round or curly."""
        token = self.token()
        if token in ("(", "{"):
            closing, items = {"(": ")", "{": "}"}[token], list[Formula]()
            self.at += 1
            while self.token() != closing:
                item = self.item(inside=True, script=True) if self.at < len(self.tokens) else None
                if item is None:
                    return None
                items.append(item)
            self.at += 1
            return joined(items)
        if token == "[":
            self.at += 1
            return self.group(token)
        signs = list[Formula]()
        if token in ("-", "+", "-+", "+-"):
            tex, shown = SIGNS[token]
            signs.append(Formula(tex.strip(), shown))
            self.at += 1
        if self.kind() not in ("number", "word") and not (signs and self.token() == "("):
            return joined(signs) if signs else None
        found = self.base(inside=False, script=True)
        return joined([*signs, found]) if found else None


def letter(name: str) -> Formula:
    """A letter, Latin or Greek."""
    return Formula(rf"\{name} ", f"<i>{LETTERS[name]}</i>") if name in LETTERS else Formula(name, f"<i>{name}</i>")


def scientific(digits: str, power: str) -> Formula:
    """A number such as 3e-04, as a multiple of a power of ten."""
    shown = str(int(power))
    tex, front = ("", "") if digits == "1" else (rf"{digits} \cdot ", f"{digits}·")
    return Formula(f"{tex}10^{{{shown}}}", f"{front}10<sup>{shown.replace('-', '−')}</sup>")


def roman(name: str) -> Formula:
    return Formula(rf"\mathrm{{{name}}}", name)


def is_space(item: Formula) -> bool:
    return item.html == " "


def scripted(base: Formula, below: Formula | None = None, above: Formula | None = None, primes: int = 0) -> Formula:
    """An item with an index, a power and primes, of which the letters are upright in HTML."""
    tex, shown = base.tex.strip(), base.html
    if below:
        tex += f"_{{{below.tex.strip()}}}"
        shown += f"<sub>{upright(below)}</sub>"
    if above or primes:
        prime = r"\prime " * primes
        tex += f"^{{{prime}{above.tex.strip() if above else ''}}}".replace(" }", "}")
        shown += "′" * primes + (f"<sup>{upright(above)}</sup>" if above else "")
    return Formula(tex, shown)


def upright(formula: Formula) -> str:
    return re.sub(r"</?i>", "", formula.html)


def matrix(rows: list[Formula]) -> str:
    """A matrix in LaTeX from its rows, such as [1, 2]."""
    cells = [row.tex.strip()[1:-1].replace(",", " & ") for row in rows]
    return r"\begin{pmatrix} " + r" \\ ".join(cells) + r" \end{pmatrix}"


def joined(items: list[Formula]) -> Formula:
    tex = re.sub(r"\s+", " ", "".join(item.tex for item in items))
    # The space after a command ends it, and is not needed before what is no letter.
    tex = re.sub(r"(\\[A-Za-z]+) (?=[\\_^(){}\[\],;|/])", r"\1", tex)
    return Formula(tex, "".join(item.html for item in items), max((item.weight for item in items), default=NOTHING))


def is_formula(items: list[Formula]) -> bool:
    """Whether a run of items is more than a number, a reference such as (2), or a sign between words."""
    weight = max(item.weight for item in items)
    return weight == MATHEMATICS or (weight == OPERATION and any(re.search(r"\d", item.tex) for item in items))


def merged(found: list[str | Formula]) -> list[str | Formula]:
    """The pieces without empty ones, and with neighbouring texts in one; a formula has no space at its ends."""
    whole: list[str | Formula] = []
    for piece in found:
        if isinstance(piece, Formula):
            whole.append(Formula(piece.tex.strip(), piece.html, piece.weight))
        elif piece and whole and isinstance(whole[-1], str):
            whole[-1] += piece
        elif piece:
            whole.append(piece)
    return whole
