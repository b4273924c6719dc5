"""A checker of certificates, which needs python-flint and nothing of dlnjax: python checker.py FILE.json ..."""

import ast
import itertools
import json
import operator
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
    top, bottom = (polynomial.derivative(str(x.top)) for polynomial in (f.top, f.bottom))
    return Quotient(top * f.bottom - f.top * bottom, f.bottom**0) * Quotient(f.bottom**0, f.bottom**2)


def each(f: Any, a: Any, b: Any) -> Any:
    """A rule for two numbers, entry by entry where one of them or both are matrices."""
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
        case ast.Name(name):
            return names[name]
        case ast.List(entries):
            return [value(entry, names) for entry in entries]
        case ast.Subscript(a, ast.Constant(int(n))):
            return value(a, names)[n]
        case ast.UnaryOp(ast.USub(), a):
            return each(operator.sub, names[NUMBER](0), value(a, names))
        case ast.BinOp(a, ast.Pow(), ast.Constant(int(n))):
            return value(a, names) ** n
        case ast.BinOp(a, ast.MatMult(), b):
            return product(value(a, names), value(b, names))
        case ast.BinOp(a, sign, b):
            return each(RULES[type(sign)], value(a, names), value(b, names))
        case ast.Call(ast.Name(name), arguments):
            return names[name](*(value(a, names) for a in arguments))
    raise ValueError(f"not an expression: {ast.dump(node)}")


def parse(text: str) -> Any:
    return ast.parse(text, mode="eval").body


def defined(step: dict[str, Any]) -> dict[str, Any]:
    """The names of a step: its variables, if it has any, and what "let" defines, in this order."""
    names: dict[str, Any] = {NUMBER: fmpq, "pi": arb.pi(), "T": lambda a: [list(row) for row in zip(*a, strict=True)]}
    names |= {name: lambda x, name=name: getattr(arb(x), name)() for name in BALLS}
    names |= {"trace": lambda a: total([row[i] for i, row in enumerate(a)])}
    if variables := step.get("variables"):
        ring = fmpq_mpoly_ctx.get(variables, "lex")
        names[NUMBER] = lambda n: Quotient(ring.constant(n), ring.constant(1))
        names["D"] = partial
        names |= {name: Quotient(x, ring.constant(1)) for name, x in zip(variables, ring.gens(), strict=True)}
    for name, text in step.get("let", {}).items():
        body, place = parse(text), parse(name)
        if isinstance(place, ast.Call):
            function, of = place.func.id, [a.id for a in place.args]  # pyright: ignore[reportAttributeAccessIssue]
            names[function] = lambda *a, body=body, of=of: value(body, names | dict(zip(of, a, strict=True)))
        else:
            names[name] = value(body, names)
    return names


def taylor(terms: dict, at: arb, n: int) -> arb_series:
    """The Taylor series at the ball `at`, to the order n - 1, of the sum of c u^m e^(ju), for `terms` {(m, j): c}."""
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
        and fraction(start) == cuts[0]
        and (first is None or (first[0] == 0 < first[1] and begins(terms, zeros, first[1])))
        and all(a < b and goes_on(terms, a, b) for a, b in cells)
        and (ends(terms, cuts[-1]) if end == "infinity" else fraction(end) == cuts[-1])
    )


def fraction(text: str) -> fmpq:
    return fmpq(*map(int, text.split("/")))


def terms_of(step: dict[str, Any], shown: str) -> dict:
    """The terms {(m, j): c} of a sum of c u^m e^(ju) that has the sign of the larger minus the smaller side.

    A quotient has the sign of its numerator times its denominator.
    """
    names, node = defined(step | {"variables": ["u", "e"]}), parse(shown)
    a, b = value(node.left, names), value(node.comparators[0], names)
    larger = {ast.Gt: a - b, ast.Lt: b - a}[type(node.ops[0])]
    return (larger.top * larger.bottom).to_dict()


def holds(step: dict[str, Any], shown: str) -> bool:
    """Whether a comparison holds: of numbers, of polynomials as such, or for all u of an interval."""
    if "for all u" in step:
        start, end = step["for all u"]
        return positive(terms_of(step, shown), start, end, [*map(fraction, step["cuts"])], step["zeros"])
    names, node = defined(step), parse(shown)
    found = each(RULES[type(node.ops[0])], value(node.left, names), value(node.comparators[0], names))
    return all(map(all, found)) if isinstance(found, list) else found


def check(certificate: dict[str, Any]) -> str:
    """The first thing that a certificate does not prove, or nothing."""
    steps = [*certificate["printed"], *certificate["true"]]
    for step in steps:
        for shown in step["show"]:
            try:
                proven = holds(step, shown)
            except (ArithmeticError, LookupError, RecursionError, SyntaxError, TypeError, ValueError) as error:
                return f"{step['says']}: {shown}: {error!r}"
            if not proven:
                return f"{step['says']}: {shown}"
    return "" if steps and all(step["show"] for step in steps) else "a step shows nothing"


def main(files: list[str]) -> int:
    refused = 0
    for file in files:
        wrong = check(json.loads(Path(file).read_text(encoding="utf-8")))
        print(file, f"REFUSED: {wrong}" if wrong else "proves what it says")
        refused += bool(wrong)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
