"""Formulas: from the plain text that docstrings have to MathML.

    formula  = sum { ("=" | ",") sum }
    sum      = [ "-" ] product { ("+" | "-") product }
    product  = quotient { "*" quotient }
    quotient = factors { "/" factors }
    factors  = power { power }                         x y is a product, which binds before "/"
    power    = atom [ "_" atom ] [ "^" atom ]
    atom     = number | name | name "(" formula ")" | "(" formula ")"

A subscript is one letter or number: W_1, sum_i. So feed_forward is a name. sqrt(...) becomes a
root, and a quotient a fraction.
"""

import re
from html import escape

TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[^\W\d_]+(?:_[^\W\d_]{2,})*)"
    r"|(?P<sign>[-+*/^_=,()]))"
)
SIGNS = {"-": "\N{MINUS SIGN}", "*": "\N{DOT OPERATOR}"}


def to_mathml(formula: str) -> str:
    """A formula as a MathML element, which also holds the plain text. Raises ValueError for what is
    no formula."""
    reader = _Reader(formula)
    inner = reader.formula()
    if reader.token:
        raise ValueError(f"{formula!r} cannot be read from {reader.token!r} on")
    plain = escape(formula, quote=True)
    return f'<math display="block" alttext="{plain}">{inner}</math>'


class _Reader:
    """Reads a formula from left to right, one token ahead."""

    def __init__(self, text: str) -> None:
        self.text, self.position = text.strip(), 0
        self.advance()

    def advance(self) -> str:
        """Go to the next token. Returns the one before it."""
        before = getattr(self, "token", "")
        match = TOKEN.match(self.text, self.position)
        if match is None and self.position < len(self.text):
            raise ValueError(f"{self.text!r} cannot be read at {self.text[self.position :]!r}")
        self.kind = (match.lastgroup if match else None) or ""
        self.token = match[match.lastgroup] if match and match.lastgroup else ""
        self.position = match.end() if match else len(self.text)
        return before

    def expect(self, sign: str) -> None:
        if self.token != sign:
            raise ValueError(f"{self.text!r} lacks {sign!r} before {self.token!r}")
        self.advance()

    def formula(self) -> str:
        found = self.sum()
        while self.token in ("=", ","):
            found += _operator(self.advance()) + self.sum()
        return found

    def sum(self) -> str:
        found = _operator(self.advance()) if self.token == "-" else ""
        found += self.product()
        while self.token in ("+", "-"):
            found += _operator(self.advance()) + self.product()
        return found

    def product(self) -> str:
        found = self.quotient()
        while self.token == "*":
            found += _operator(self.advance()) + self.quotient()
        return found

    def quotient(self) -> str:
        found = self.factors()
        while self.token == "/":
            self.advance()
            found = f"<mfrac>{_row(_bare(found))}{_row(_bare(self.factors()))}</mfrac>"
        return found

    def factors(self) -> str:
        found = self.power()
        while self.kind in ("number", "name") or self.token == "(":
            found += '<mspace width="0.17em"/>' + self.power()
        return found

    def power(self) -> str:
        base = self.atom()
        below = above = ""
        if self.token == "_":
            self.advance()
            below = self.atom()
        if self.token == "^":
            self.advance()
            above = self.atom()
        is_sum = base == _operator("∑")
        tag = ("munder" if is_sum else "msub") if below else "m"
        tag += ("over" if is_sum else "sup") if above else ""
        return base if tag == "m" else f"<{tag}>{base}{below}{above}</{tag}>"

    def atom(self) -> str:
        if self.token == "(":
            return self.bracket()
        kind, token = self.kind, self.advance()
        if kind == "number":
            return f"<mn>{token}</mn>"
        if kind != "name":
            raise ValueError(f"{self.text!r} has {token!r} where a name or number should stand")
        if token == "sum":
            return _operator("∑")
        name = f"<mi>{token}</mi>" if len(token) == 1 else f"<mtext>{token}</mtext>"
        if self.token != "(" or self.text[self.position - 2].isspace():
            return name  # a bracket after a space is a factor
        inside = self.bracket()
        return f"<msqrt>{_bare(inside)}</msqrt>" if token == "sqrt" else _row(name + inside)

    def bracket(self) -> str:
        self.expect("(")
        inside = self.formula()
        self.expect(")")
        return f"<mrow><mo>(</mo>{inside}<mo>)</mo></mrow>"


def _operator(sign: str) -> str:
    space = ' rspace="0.4em"' if sign == "," else ""
    return f"<mo{space}>{SIGNS.get(sign, sign)}</mo>"


def _row(inner: str) -> str:
    return f"<mrow>{inner}</mrow>"


def _bare(inner: str) -> str:
    """Without the brackets around the whole, which a fraction or a root makes needless."""
    opening, closing = "<mrow><mo>(</mo>", "<mo>)</mo></mrow>"
    is_whole = inner.startswith(opening) and inner.endswith(closing)
    middle = inner.removeprefix(opening).removesuffix(closing)
    depths = [0]
    for sign in re.findall(r"<mo>([()])</mo>", middle):
        depths.append(depths[-1] + (1 if sign == "(" else -1))
    return middle if is_whole and min(depths) == 0 else inner
