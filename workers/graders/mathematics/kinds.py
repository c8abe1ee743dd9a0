"""The kinds of mathematical answers: what an answer is, before anybody asks for its value.

`kind_reader.read` finds the kind by the form of the text, and `kind_compare.compare` says which kinds may be compared
and how. Expressions stay LaTeX here, and are parsed when they are compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scalar:
    """One number or expression. Example: "2\\pi cm" is Scalar("2\\pi", "centimeter")."""

    latex: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Several things in a row: a pair, an interval or a tuple "()", "[]", "[)", "(]"; a set "{}"; a bare list "".

    Angle brackets are "<>". `interval` says that it can be nothing else, as in "x \\in (1,2)"; `name` is that of a
    point, as in A(1,2).
    """

    marks: str
    items: tuple[Kind, ...]
    interval: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """Values with names, at least two: x = 1, y = 2."""

    values: tuple[tuple[str, Kind], ...]

    def numbered(self) -> bool:
        """Whether the names are one letter with numbers, as of solutions x_1 and x_2, whose order means nothing."""
        return len({re.sub(r"_\{?[0-9]+\}?$", "_", name) for name, _ in self.values}) == 1

    def as_written(self) -> tuple[Kind, ...]:
        """The values in the order of the text."""
        return tuple(value for _, value in self.values)

    def in_order(self) -> tuple[Kind, ...]:
        """The values in the order of their names, which is that of coordinates."""
        return tuple(value for _, value in sorted(self.values, key=lambda named: named[0]))


@dataclass(frozen=True, slots=True)
class Definition:
    """A name and its value: y = 2x+1, f(x) = 2x (with the argument "x"), S = \\{1,2\\}, x = 2, 3."""

    name: str
    value: Kind
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation, an inequality, or a chain of them: 1 < x \\le 2 is Relation(("1", "x", "2"), ("<", "\\le"))."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Together:
    """Sets or conditions put together with "cup", "cap", "setminus", or with a comma alone ("")."""

    how: str
    parts: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class NumberSet:
    """One of R, Z, Q, N, C, with what stands at it: \\mathbb{R}^+ is NumberSet("R", "+")."""

    letter: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """A value for each whole number: k\\pi, k \\in \\mathbb{Z}."""

    value: Kind
    parameter: str
    over: str = "Z"
    """"N" where the whole numbers are those that are not negative, with or without zero."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries, in whatever brackets."""

    rows: tuple[tuple[Kind, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """3:2, or 1:2:3; `clock` where it may be a time of day, `half` the "am" or "pm" that says that it is."""

    parts: tuple[Scalar, ...]
    clock: bool = False
    half: str = ""


@dataclass(frozen=True, slots=True)
class Residue:
    """3 mod 7."""

    value: Scalar
    modulus: Scalar


@dataclass(frozen=True, slots=True)
class Based:
    """A number in another base than ten: 1010_2."""

    digits: str
    base: str


@dataclass(frozen=True, slots=True)
class Dots:
    """What a list leaves out: \\ldots."""


@dataclass(frozen=True, slots=True)
class Words:
    """Prose, or one of the things that are said in words alone, such as "undefined"."""

    text: str


Kind = (
    Scalar
    | Group
    | Named
    | Definition
    | Relation
    | Together
    | NumberSet
    | Family
    | Matrix
    | Ratio
    | Residue
    | Based
    | Dots
    | Words
)


def expressions(kind: object) -> list[str]:
    """The LaTeX of all expressions in a kind."""
    if isinstance(kind, Scalar):
        return [kind.latex]
    if isinstance(kind, Relation):
        return list(kind.sides)
    parts: tuple[object, ...] = ()
    if isinstance(kind, Group):
        parts = kind.items
    elif isinstance(kind, Named):
        parts = kind.in_order()
    elif isinstance(kind, Definition | Family):
        parts = (kind.value,)
    elif isinstance(kind, Together | Ratio):
        parts = kind.parts
    elif isinstance(kind, Matrix):
        parts = tuple(cell for row in kind.rows for cell in row)
    elif isinstance(kind, Residue):
        parts = (kind.value, kind.modulus)
    return [latex for part in parts for latex in expressions(part)]


EMPTY = Group("{}", ())
REALS = NumberSet("R")
_TITLES = {
    Scalar: "one value",
    Named: "values with names",
    Definition: "an equation",
    Relation: "a relation",
    Together: "a union or intersection",
    NumberSet: "a set of numbers",
    Family: "a family of values",
    Matrix: "a matrix",
    Ratio: "a ratio",
    Residue: "a residue",
    Based: "a number in another base",
    Dots: "dots",
    Words: "prose",
}


def title(kind: Kind) -> str:
    """A kind in words, for reasons that people read."""
    if isinstance(kind, Relation) and any(sign not in ("=", "\\ne") for sign in kind.signs):
        return "an inequality"
    if isinstance(kind, Relation) or (isinstance(kind, Definition) and isinstance(kind.value, Scalar)):
        return "an equation"
    if isinstance(kind, Definition):
        return title(kind.value)
    if isinstance(kind, Group):
        if kind.interval or kind.marks in ("[)", "(]"):
            return "an interval"
        return {"": "a list", "{}": "a set", "[]": "a list or interval in brackets"}.get(kind.marks, "an ordered tuple")
    return _TITLES[type(kind)]
