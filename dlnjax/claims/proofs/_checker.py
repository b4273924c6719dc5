"""A checker of certificates, which needs python-flint and nothing of dlnjax: python checker.py FILE.json ..."""

import ast
import itertools
import json
import operator
import re
import sys
from dataclasses import dataclass
from functools import reduce
from math import factorial
from pathlib import Path
from typing import Any

from flint import arb, arb_series, ctx, fmpq, fmpq_mpoly_ctx

NUMBER = "#"  # the name of what makes a number of a constant, which no certificate can define
ORDER = 12  # of the Taylor polynomials on cells
ctx.prec, ctx.cap = 256, 64  # the bits of a ball, and the longest series
BALLS = ("sqrt", "log", "exp", "sinh", "cosh", "tanh", "sin", "cos", "atan")
RESERVED = {*BALLS, "pi", "T", "D", "trace"}  # These names mean the same in every certificate.
DIVISORS = "/"  # The name of the list of all that was divided by. No certificate can define this name.
WORDS = ("proven", "proven false")
PARTS = {"claim", "where", "statement", "note", "proof", "scope", "true scope", "printed", "true"}
STEP = {"says", "let", "show"}
KINDS: tuple[set[str], ...] = (STEP, STEP | {"variables"}, STEP | {"for all u", "cuts", "zeros"})
RULES: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.Eq: operator.eq,
}


@dataclass(frozen=True)
class Quotient:
    """A quotient of two polynomials with rational coefficients."""

    top: Any
    bottom: Any

    def __mul__(self, other: "Quotient") -> "Quotient":
        a, b = self.top.gcd(other.bottom), other.top.gcd(self.bottom)
        return Quotient((self.top / a) * (other.top / b), (self.bottom / b) * (other.bottom / a))

    def __truediv__(self, other: "Quotient") -> "Quotient":
        if other.top == 0:
            raise ZeroDivisionError
        return self * Quotient(other.bottom, other.top)

    def __add__(self, other: "Quotient") -> "Quotient":
        g = self.bottom.gcd(other.bottom)
        top = self.top * (other.bottom / g) + other.top * (self.bottom / g)
        return Quotient(top, self.bottom / g * other.bottom)

    def __neg__(self) -> "Quotient":
        return Quotient(-self.top, self.bottom)

    def __sub__(self, other: "Quotient") -> "Quotient":
        return self + -other

    def __pow__(self, n: int) -> "Quotient":
        return Quotient(self.top**n, self.bottom**n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quotient) and (self - other).top == 0


def partial(f: Quotient, x: Quotient) -> Quotient:
    """The partial derivative of f in the variable x."""
    if x.bottom != 1 or x.top not in x.top.context().gens():
        raise ValueError("a derivative is in a variable")
    top, bottom = (polynomial.derivative(str(x.top)) for polynomial in (f.top, f.bottom))
    return Quotient(top * f.bottom - f.top * bottom, f.bottom**0) * Quotient(f.bottom**0, f.bottom**2)


def each(f: Any, a: Any, b: Any) -> Any:
    """A rule for two numbers, entry by entry for matrices. A number multiplies or divides a matrix, and no more."""
    if isinstance(a, list) != isinstance(b, list) and f not in (operator.mul, operator.truediv):
        raise TypeError("a matrix and a number")
    if isinstance(a, list):
        return [each(f, x, y) for x, y in zip(a, b if isinstance(b, list) else [b] * len(a), strict=True)]
    return [each(f, a, y) for y in b] if isinstance(b, list) else f(a, b)


def total(numbers: list) -> Any:
    return reduce(operator.add, numbers)


def product(a: list, b: list) -> list:
    return [[total([x * y for x, y in zip(row, column, strict=True)]) for column in zip(*b, strict=True)] for row in a]


def value(node: Any, names: dict[str, Any]) -> Any:
    """The value of an expression: rational numbers, balls, quotients of polynomials, or matrices of these."""
    match node:
        case ast.Constant(int(n)):
            return names[NUMBER](n)
        case ast.Name(name) if not callable(names[name]):
            return names[name]
        case ast.List(rows):
            written = [row.elts for row in rows]  # pyright: ignore[reportAttributeAccessIssue]
            return matrix([[value(entry, names) for entry in row] for row in written])
        case ast.Subscript(a, ast.Constant(int(n))):
            return value(a, names)[n]
        case ast.UnaryOp(ast.USub(), a):
            return each(operator.mul, names[NUMBER](-1), value(a, names))
        case ast.BinOp(a, ast.Pow(), ast.Constant(int(n))):
            return value(a, names) ** n
        case ast.BinOp(a, ast.MatMult(), b):
            return product(value(a, names), value(b, names))
        case ast.BinOp(a, sign, b):
            left, right = value(a, names), value(b, names)
            if isinstance(sign, ast.Div):
                names[DIVISORS].append(right)
            return each(RULES[type(sign)], left, right)
        case ast.Call(ast.Name(name), arguments, []):
            return names[name](*(value(a, names) for a in arguments))
    raise ValueError(f"not an expression: {ast.dump(node)}")


def matrix(rows: list) -> list:
    """The rows, which must be equally long and not empty."""
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("the rows of a matrix are equally long and not empty")
    if any(isinstance(entry, list) for row in rows for entry in row):
        raise ValueError("the entries of a matrix are numbers")
    return rows


def trace(a: list) -> Any:
    if any(len(row) != len(a) for row in a):
        raise ValueError("the trace of a matrix that is not square")
    return total([row[i] for i, row in enumerate(a)])


def parse(text: str) -> Any:
    """The expression that a text is. A comment, or a letter that only looks like another, would mislead a reader."""
    if not re.fullmatch(r"[A-Za-z0-9_ +\-*/@()\[\],<>=]+", text):
        raise ValueError(f"not an expression: {text!r}")
    return ast.parse(text, mode="eval").body


def defined(step: dict[str, Any]) -> dict[str, Any]:
    """The names of a step: its variables, if it has any, and what "let" defines, in this order."""
    names: dict[str, Any] = {NUMBER: fmpq, DIVISORS: [], "pi": arb.pi(), "trace": trace}
    names |= {"T": lambda a: [list(row) for row in zip(*a, strict=True)]}
    names |= {name: lambda x, name=name: getattr(arb(x), name)() for name in BALLS}
    if variables := step.get("variables"):
        own(variables)
        ring = fmpq_mpoly_ctx.get(variables, "lex")
        names[NUMBER] = lambda n: Quotient(ring.constant(n), ring.constant(1))
        names |= {name: Quotient(x, ring.constant(1)) for name, x in zip(variables, ring.gens(), strict=True)}
        names["D"] = partial
    if "for all u" in step:
        names["D"] = lambda f, x: along_u(f, x, names["u"], names["e"])
    for name, text in step.get("let", {}).items():
        body, place = parse(text), parse(name)
        if isinstance(place, ast.Call):
            function, of = place.func.id, own([a.id for a in place.args])  # pyright: ignore[reportAttributeAccessIssue]
            call = lambda *a, body=body, of=of: value(body, names | dict(zip(of, a, strict=True)))
        else:
            function, call = name, value(body, names)
        if own([function])[0] in names:
            raise ValueError(f"{function} is defined twice")
        names[function] = call
    return names


def own(names: list[str]) -> list[str]:
    """Names that a certificate gives: they differ, and none has another meaning already."""
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names) or RESERVED & set(names):
        raise ValueError(f"not the names of different things of one's own: {names}")
    return names


def along_u(f: Quotient, x: Quotient, u: Quotient, e: Quotient) -> Quotient:
    """The derivative of f in u where e is exp(u)."""
    if x != u:
        raise ValueError("for all u, a derivative is in u")
    return partial(f, u) + e * partial(f, e)


def taylor(terms: dict, at: arb, n: int) -> arb_series:
    """The Taylor series at the ball `at`, to the order n - 1, of the sum of c u^m e^(ju), for `terms` {(m, j): c}."""
    if n > ctx.cap:  # A longer series would lose its last terms, and with them the remainder.
        raise ValueError(f"a series of {n} terms is longer than {ctx.cap}")
    u = arb_series([at, 1], n)
    return sum((c * u**m * (j * u).exp() for (m, j), c in terms.items()), arb_series([0], n))


def enclosure(terms: dict, at: fmpq, h: arb, skip: int = 0) -> arb:
    """A ball around all values of the sum at u = at + h, divided by h^skip: Taylor's polynomial and the remainder.

    The coefficients below the order `skip` must be 0.
    """
    near, n = taylor(terms, arb(at), skip + ORDER), skip + ORDER
    found = taylor(terms, arb(at) + h, n + 1)[n]
    for k in range(n - 1, skip - 1, -1):
        found = found * h + near[k]
    return found


def begins(terms: dict, zeros: int, end: fmpq) -> bool:
    """Whether the sum is positive on (0, end], where its coefficients at 0 are exactly 0 below the order `zeros`."""
    at_zero = lambda n: sum(
        (c * fmpq(j) ** (n - m) / factorial(n - m) for (m, j), c in terms.items() if m <= n), fmpq(0)
    )
    return all(at_zero(n) == 0 for n in range(zeros)) and enclosure(terms, fmpq(0), arb(0).union(arb(end)), zeros) > 0


def goes_on(terms: dict, a: fmpq, b: fmpq) -> bool:
    """Whether the sum is positive on [a, b]."""
    return enclosure(terms, (a + b) / 2, arb((a - b) / 2).union(arb((b - a) / 2))) > 0


def ends(terms: dict, b: fmpq) -> bool:
    """Whether the sum is positive on [b, infinity).

    The term c u^M e^(Ju) that grows fastest is above the sum of all others at b, and no u^(m-M) e^((j-J)u) rises
    beyond b.
    """
    m_top, j_top = max(terms, key=lambda powers: (powers[1], powers[0]))
    others = [(m - m_top, j - j_top, abs(c)) for (m, j), c in terms.items() if (m, j) != (m_top, j_top)]
    if b <= 0 or any(m > -j * b for m, j, _ in others):
        return False
    return terms[m_top, j_top] > sum((c * arb(b) ** m * (arb(b) * j).exp() for m, j, c in others), arb(0))


def positive(terms: dict, start: str, end: str, cuts: list[fmpq], zeros: int) -> bool:
    """Whether the sum of c u^m e^(ju) is positive for start < u < end, where the end may be infinity."""
    cells = list(itertools.pairwise(cuts))
    first = cells.pop(0) if zeros else None
    return (
        bool(terms)
        and len(cuts) > 1
        and 0 <= fraction(start) == cuts[0]
        and (first is None or (first[0] == 0 < first[1] and begins(terms, zeros, first[1])))
        and all(a < b and goes_on(terms, a, b) for a, b in cells)
        and (ends(terms, cuts[-1]) if end == "infinity" else fraction(end) == cuts[-1])
    )


def fraction(text: str) -> fmpq:
    return fmpq(*map(int, text.split("/")))


def terms_of(step: dict[str, Any], shown: str) -> dict:
    """The terms {(m, j): c} of a sum of c u^m e^(ju) that has the sign of the larger minus the smaller side.

    A quotient has the sign of its numerator times its denominator. Where this product is positive, no factor of it is
    0. So every factor of what was divided by must be in it, since a factor that canceled may be 0 somewhere. For u >= 0
    a factor whose coefficients have one sign is never 0, such as e^2 + 1.
    """
    names = defined(step | {"variables": ["u", "e"], "for all u": ()})
    left, sign, right = sides(shown)
    a, b = value(left, names), value(right, names)
    larger = {ast.Gt: a - b, ast.Lt: b - a}[sign]
    signed = larger.top * larger.bottom
    for divisor in itertools.chain.from_iterable(map(flat, names[DIVISORS])):
        left_over = divisor.top
        while (common := left_over.gcd(signed)) != 1:
            left_over = left_over / common
        if len({c > 0 for c in left_over.coeffs()}) != 1:
            raise ValueError(f"{left_over}, which canceled, may be 0")
    return signed.to_dict()


def flat(a: Any) -> list:
    return [entry for row in a for entry in row] if isinstance(a, list) else [a]


def sides(shown: str) -> tuple[Any, type, Any]:
    """Both sides of a comparison, and its sign. A chain such as 1 < 2 < 3 is none."""
    node = parse(shown)
    if not isinstance(node, ast.Compare) or len(node.ops) > 1:
        raise ValueError("not one comparison")
    return node.left, type(node.ops[0]), node.comparators[0]


def holds(step: dict[str, Any], shown: str) -> bool:
    """Whether a comparison holds: of numbers, of polynomials as such, or for all u of an interval."""
    if "for all u" in step:
        start, end = step["for all u"]
        return positive(terms_of(step, shown), start, end, [*map(fraction, step["cuts"])], step["zeros"])
    names, (left, sign, right) = defined(step), sides(shown)
    found = each(RULES[sign], value(left, names), value(right, names))
    if isinstance(found, list) and sign is not ast.Eq:
        raise TypeError("an order of matrices")
    return all(map(all, matrix(found))) if isinstance(found, list) else found is True


def misshapen(certificate: dict[str, Any]) -> str:
    """What a certificate has too much or too little, or nothing. What is not read here would prove nothing."""
    if set(certificate) != PARTS or certificate["proof"] not in WORDS:
        return f"a certificate has {sorted(PARTS)} and proves one of {WORDS}"
    if not certificate["printed"] or bool(certificate["true"]) != bool(certificate["true scope"]):
        return "there is a statement without steps, or steps without a statement"
    for step in [*certificate["printed"], *certificate["true"]]:
        if not isinstance(step, dict) or set(step) not in KINDS or not isinstance(step["show"], list):
            return f"a step has other parts than those of its kind: {[*step]}"
        if not (step["says"] and step["show"] and step.get("variables", True)):
            return "a step shows nothing"
    return ""


def check(certificate: dict[str, Any]) -> str:
    """The first thing that a certificate does not prove, or nothing."""
    if wrong := misshapen(certificate):
        return wrong
    for step in [*certificate["printed"], *certificate["true"]]:
        for shown in step["show"]:
            try:
                proven = holds(step, shown)
            except Exception as error:  # Whatever cannot be read proves nothing.
                return f"{step['says']}: {shown}: {error!r}"
            if not proven:
                return f"{step['says']}: {shown}"
    return ""


def read(text: str) -> dict[str, Any]:
    """A certificate. Of a key that is there twice a reader sees one value, and Python takes the other."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"a key is there twice: {[key for key, _ in pairs]}")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=once)


def main(files: list[str]) -> int:
    refused = 0
    for file in files:
        try:
            wrong = check(read(Path(file).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            wrong = f"not a certificate: {error}"
        print(file, f"REFUSED: {wrong}" if wrong else "all comparisons hold")
        refused += bool(wrong)
    return 1 if refused or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
