"""The exact value of plain arithmetic: "3 + 4", "2^{-30}", "\\frac{1}{2^{99}}", "4!", "6 \\times 7"."""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_LENGTH = 200
MAX_BITS = 20_000
"""Size of the largest number on the way; with MAX_LENGTH it bounds the work."""
MAX_FACTORIAL = 2_100
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)|(?P<fraction>\\frac)"
    r"|(?P<sign>\*\*|[-+*/^!(){}\[\]×·÷⋅]|\\times(?![A-Za-z])|\\cdot(?![A-Za-z])|\\div(?![A-Za-z])|[xX](?=\s*[0-9(])))"
)
_TIMES = frozenset(["*", "×", "·", "⋅", "\\times", "\\cdot", "x", "X"])
_OVER = frozenset(["/", "÷", "\\div"])
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_BESIDE = frozenset(["(", "["])
"""What begins a factor without a sign before it."""
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(?P<one>[0-9])|(?P<group>\{[^{}]*\}))\s*(?:(?P<two>[0-9])|(?=\{))")
"""\\frac12, \\frac1{2} and \\frac{1}2."""
_LITERAL = re.compile(r"(?<![0-9.])0[xX][0-9A-Fa-f]")
"""A number as programs write it to base 16: 0x10 is no product."""


class _NoArithmetic(Exception):
    """The text is something else, or too large."""


def value(text: str) -> Fraction | None:
    """The value of `text`, or None where it is no arithmetic of digits, or too large. It takes no names."""
    found = values(text)
    return found[0] if found else None


def values(text: str) -> tuple[Fraction, ...]:
    """As `value`, and also the other value where there may be two: 6/2(1+2) is 9 or 1. Empty where there is none."""
    if len(text) > MAX_LENGTH or _LITERAL.search(text):
        return ()
    if "\\frac" in text:
        text = _SHORT_FRACTION.sub(_braced, text)
    try:
        reader = _Reader(text)
        first = reader.whole()
        if not reader.ambiguous:
            return (first,)
        other = _Reader(text, beside_first=True).whole()
    except (_NoArithmetic, ZeroDivisionError, RecursionError):
        return ()
    return (first,) if other == first else (first, other)


def _braced(match: re.Match[str]) -> str:
    top = match["group"] or f"{{{match['one']}}}"
    return f"\\frac{top}" + (f"{{{match['two']}}}" if match["two"] else "")


class _Reader:
    """Recursive descent over the tokens: sum, product, sign, power, atom."""

    def __init__(self, text: str, beside_first: bool = False) -> None:
        self._beside_first = beside_first
        """Whether 6/2(3) is 6/(2(3)), and not (6/2)(3)."""
        self.ambiguous = False
        """Whether there is such a quotient."""
        self._tokens: list[tuple[str, str]] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise _NoArithmetic
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind]))
            at = match.end()
        self._at = 0
        self._depth = 0

    def whole(self) -> Fraction:
        result = self._sum()
        if self._at != len(self._tokens):
            raise _NoArithmetic
        return result

    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise _NoArithmetic
        self._at += 1

    def _sum(self) -> Fraction:
        self._depth += 1
        if self._depth > 30:
            raise _NoArithmetic
        result = self._product()
        while (sign := self._next()) in ("+", "-"):
            self._at += 1
            term = self._product()
            result = _small(result + term if sign == "+" else result - term)
        self._depth -= 1
        return result

    def _product(self) -> Fraction:
        result = self._signed()
        while True:
            sign = self._next()
            if sign in _TIMES or sign in _OVER:
                self._at += 1
                factor = self._signed()
                if sign in _OVER and self._next() in _BESIDE:
                    self.ambiguous = True
                    while self._beside_first and self._next() in _BESIDE:
                        factor = _small(factor * self._power())
                result = _small(result * factor if sign in _TIMES else result / factor)
            elif sign in _BESIDE or (sign == "\\frac" and self._tokens[self._at - 1][1] == ")"):
                result = _small(result * self._power())  # "2(3 + 4)"
            else:
                return result

    def _signed(self) -> Fraction:
        if (sign := self._next()) in ("+", "-"):
            self._at += 1
            if self._next() in ("+", "-"):  # "--5" is a slip of the pen
                raise _NoArithmetic
            return -self._power() if sign == "-" else self._power()
        return self._power()

    def _power(self) -> Fraction:
        base = self._atom()
        while self._next() == "!":
            self._at += 1
            base = _factorial(base)
        if self._next() not in ("^", "**"):
            return base
        self._at += 1
        return _raised(base, self._exponent())

    def _exponent(self) -> Fraction:
        if self._next() in ("-", "+"):
            return self._signed()
        return self._power()

    def _atom(self) -> Fraction:
        if self._at == len(self._tokens):
            raise _NoArithmetic
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return self._mixed(Fraction(text.replace(",", "").removesuffix(".")), text)
        if kind == "fraction":
            numerator = self._argument()
            return numerator / self._argument()
        if text in _CLOSING:
            inner = self._sum()
            self._take(_CLOSING[text])
            return inner
        raise _NoArithmetic

    def _mixed(self, number: Fraction, text: str) -> Fraction:
        """The number, with the fraction that stands right behind it: "3\\frac{1}{2}"."""
        if self._next() != "\\frac" or not text.isdigit():
            return number
        fraction = self._atom()
        if not 0 <= fraction < 1:
            raise _NoArithmetic
        return number + fraction

    def _argument(self) -> Fraction:
        if self._next() != "{":
            raise _NoArithmetic
        return self._atom()


def _small(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise _NoArithmetic
    return number


def _factorial(number: Fraction) -> Fraction:
    if number.denominator != 1 or not 0 <= number <= MAX_FACTORIAL:
        raise _NoArithmetic
    return Fraction(math.factorial(int(number)))


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > MAX_BITS or (base == 0 and exponent <= 0):
        raise _NoArithmetic
    return Fraction(base ** int(exponent))
