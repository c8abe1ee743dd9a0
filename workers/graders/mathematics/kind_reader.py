"""The kind of an answer, by the form of its text: see kinds.py.

Everything here looks at brackets, commas and signs alone, in time linear in the text; nothing is evaluated.
"""

from __future__ import annotations

import re
from functools import lru_cache

from workers.graders import number
from workers.graders.mathematics.kinds import (
    EMPTY,
    REALS,
    Based,
    Definition,
    Dots,
    Family,
    Group,
    Kind,
    Matrix,
    Named,
    NumberSet,
    Ratio,
    Relation,
    Residue,
    Scalar,
    Together,
    Words,
)
from workers.graders.mathematics.said import BOUND, EXCEPT, FEW, FOR_ALL, HOW, LEADING, PHRASES, REAL_VARIABLE, WHOLE
from workers.graders.mathematics.spelling import spelled
from workers.graders.mathematics.splitting import enclosed, halves, named_left_side, split, split_relation, variable

MAX_DEPTH = 12
"""Deepest nesting of lists in lists that is read."""
MAX_ITEMS = 100
_FRENCH = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")
_THOUSANDS = re.compile(r"(?<![\w.,}])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ONE_NUMBER = re.compile(r"[-+]?\s*[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"([-+]?[0-9]+),([0-9]+)")
_NUMBER_SET = re.compile(r"\\mathbb\{([RZQNC])\}(?:\s*([\^_])?\s*(?:\{\s*([^{}]*?)\s*\}|([-+*0-9n])))*")
_MATRIX = re.compile(
    r"\\begin\s*\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\w+\}", re.DOTALL
)
_PLAIN_ROW = r"\s*-?[0-9./]+(?:[\s,]+-?[0-9./]+)+\s*"
_PLAIN_MATRIX = re.compile(rf"\[({_PLAIN_ROW}(?:;{_PLAIN_ROW})+)\]")
"""[1 2; 3 4]"""
_ROW = re.compile(r"\\\\\s*(?:\[[^\]]*\])?|\\cr(?![A-Za-z])|\\tabularnewline")
_MODULO = re.compile(
    r"(?P<value>.+?)\s*(?:\(\s*\\?mod(?![a-z])|\\pmod|\\?\bmod(?:ulo)?(?![a-z]))\s*(?P<modulus>[^()]+?)\s*\)?"
)
_CLOCK = re.compile(r"([0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?)\s*(?:([AaPp])\.?\s?[Mm]\.?)?")
_ORDINAL = re.compile(r"([0-9]+)\s?(?:st|nd|rd|th)")
_BASE_NAME = r"\(?\s*([0-9]+|[a-z]{3,8})\s*\)?"
_BASE = re.compile(
    rf"\(?([0-9A-F]+)\)?\s*(?:_\s*\{{?\s*{_BASE_NAME}\s*\}}?|,?\s*\(?\s*(?:in )?base[ -]?{_BASE_NAME}\s*\)?)"
)
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASES |= {"ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16", "binary": "2", "octal": "8", "hex": "16"}
_LEADING_ZERO = re.compile(r"0[0-9]+")
_POINT = re.compile(r"(?:the )?(?:point )?([A-Z]'?(?:_\{?[0-9]\}?)?)\s*(?=\()")
_DOTS = re.compile(r"\\ldots|\.\.\.")
_SIGN = re.compile(r"\\(pm|mp)(?![a-zA-Z])")
_TWO_NUMBERS = re.compile(r"(?<![_^])[0-9]\s+(?=[0-9])")
_DIGITS_APART = re.compile(r"[0-9]'[0-9]")
_FUNCTION_NAMES = """
sqrt sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh log ln exp pi infty inf min max gcd lcm mod frac
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_SHORT = "am an as at be by do go he hi if in is it me my no of oh ok on or so to up us we"
_WORDS = "is in of or if it to so no are the for and not has was but can one two"
_NEVER_A_PRODUCT = frozenset(_WORDS.split())
_SHORT_WORDS = frozenset(_SHORT.split())


@lru_cache(maxsize=2048)
def read(text: str) -> Kind | None:
    """The kind of `text`, a whole answer; None where no kind fits."""
    try:
        return read_latex(spelled(text))
    except _TooDeepError:
        return None


class _TooDeepError(Exception):
    """More brackets in brackets than are read."""


def read_latex(latex: str, depth: int = 0) -> Kind | None:
    """As `read`, of LaTeX in one spelling."""
    latex = _french(latex.strip().rstrip(".,;: ").strip())
    latex = (
        latex[lead.end() :] if (lead := LEADING.match(latex)) is not None and latex.casefold() not in PHRASES else latex
    )
    if depth > MAX_DEPTH:
        raise _TooDeepError
    if not latex:
        return None
    phrase = PHRASES.get(re.sub(r"\s+", " ", latex.replace("\\", "")).casefold())
    if phrase is not None:
        return phrase
    if "\\Rightarrow" in latex:
        return read_latex(split(latex, ["\\Rightarrow"])[0][-1], depth + 1)
    if (bound := BOUND.fullmatch(latex)) is not None:
        return Relation((bound["of"] or bound["name"] or "x", bound["end"].strip()), (HOW[bound["how"]],))
    if (real := REAL_VARIABLE.search(latex)) is not None and real.start():
        return read_latex(latex[: real.start()], depth + 1)
    if (except_for := EXCEPT.fullmatch(latex)) is not None:
        left_out = read_latex(except_for[1], depth + 1)
        return None if left_out is None else Together("setminus", (REALS, Group("{}", _members(left_out))))
    if (bare := FOR_ALL.split(latex, maxsplit=1))[0] != latex and not "".join(bare[1:]).strip():
        return read_latex(bare[0], depth + 1)
    if (family := _family(latex, depth)) is not None:
        return family
    if _ONE_NUMBER.fullmatch(latex):
        return Scalar(latex.replace(",", ""))
    if ", " in latex:
        latex = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), latex)
    for separators in (["or"], [";"], ["and", ",", "&"]):
        pieces, used = split(latex, separators)
        if len(pieces) > MAX_ITEMS:
            return None
        if len(pieces) > 1:
            if separators == [";"]:
                pieces = [_DECIMAL_COMMA.sub(r"\1.\2", p) if _DECIMAL_COMMA.fullmatch(p) else p for p in pieces]
            return _list([read_latex(piece, depth + 1) for piece in pieces], used)
        if used and not pieces:
            return None
    return _one(pieces[0], depth) if pieces else None


def _french(latex: str) -> str:
    """`]2,5[` as `(2,5)`."""
    if "]" not in latex and "[" not in latex:
        return latex
    return _FRENCH.sub(lambda m: f"{'[' if m[1] == '[' else '('}{m[2]}{']' if m[3] == ']' else ')'}", latex)


def _family(latex: str, depth: int) -> Kind | None:
    """An expression with "k \\in \\mathbb{Z}" behind it."""
    for match in WHOLE.finditer(latex):
        if match.end() == len(latex) and match.start() > 0:
            value = read_latex(latex[: match.start()], depth + 1)
            few = "N" in (match["set"], match["plain"]) or any(map(match.group, FEW))
            return None if value is None or isinstance(value, Words) else Family(value, match["name"], "NZ"[not few])
    return None


def _list(found: list[Kind | None], used: frozenset[str]) -> Kind | None:
    """Several pieces as one kind: a list, values with names, or conditions that hold together."""
    if None in found or any(isinstance(kind, Words) for kind in found):
        return None
    if any(isinstance(kind, Scalar) and _LEADING_ZERO.fullmatch(kind.latex) for kind in found):
        return None  # 1,00,000
    kinds = [kind for kind in found if kind is not None]
    if all(isinstance(kind, Relation | Together) and _is_condition(kind) for kind in kinds):
        return Together("cup" if "or" in used else "cap" if "and" in used else "", tuple(kinds))
    definitions = [kind for kind in kinds if isinstance(kind, Definition)]
    others = [kind for kind in kinds if not isinstance(kind, Definition)]
    if definitions and isinstance(kinds[0], Definition) and not any(isinstance(k, Relation | Named) for k in others):
        names = [kind.name for kind in definitions]
        if len(set(names)) == 1 and not definitions[0].argument:
            values = [kind.value if isinstance(kind, Definition) else kind for kind in kinds]
            return Definition(names[0], Group("", _flat(values)))
        if not others and len(set(names)) == len(names):
            if "or" in used:
                return Group("", tuple(kinds))
            return Named(tuple((kind.name, kind.value) for kind in definitions))
        return None if others else Group("", tuple(kinds))
    return Group("", _flat(kinds))


def _is_condition(kind: Kind) -> bool:
    if isinstance(kind, Together):
        return all(_is_condition(part) for part in kind.parts)
    return isinstance(kind, Relation) and "=" not in kind.signs


def _flat(kinds: list[Kind]) -> tuple[Kind, ...]:
    """The items of bare lists in their place: \\pm 1 is two items."""
    flat: list[Kind] = []
    for kind in kinds:
        flat += kind.items if isinstance(kind, Group) and not kind.marks else [kind]
    return tuple(flat)


def _one(latex: str, depth: int) -> Kind | None:
    """The kind of what is no list."""
    if _DOTS.fullmatch(latex):
        return Dots()
    if (residue := _residue(latex)) is not None:
        return residue
    sides, signs = split_relation(latex)
    if signs:
        return _relation(sides, signs, depth)
    latex = re.sub(r"(?<=\})\s*-\s*(?=\\\{)", r" \\setminus ", latex)
    for how in ("cup", "cap", "setminus"):
        parts = split(latex, [f"\\{how}"])[0]
        if len(parts) > 1:
            made = [read_latex(part, depth + 1) for part in parts]
            sets = tuple(part for part in made if part is not None and not isinstance(part, Scalar | Words))
            return Together(how, sets) if len(sets) == len(parts) else None
    if (numbers := _NUMBER_SET.fullmatch(latex)) is not None:
        return NumberSet(numbers[1], (numbers[3] or numbers[4] or "").replace(" ", ""))
    if (matrix := _matrix(latex, depth)) is not None:
        return matrix
    if (group := _group(latex, depth)) is not None:
        return group
    return _single(latex)


def _residue(latex: str) -> Kind | None:
    match = _MODULO.fullmatch(latex) if "mod" in latex else None
    if match is None:
        return None
    value = re.split(r"\\equiv(?![a-z])|=", match["value"].rstrip(" (,"))[-1]
    one, other = _single(value.strip()), _single(match["modulus"].strip("{} "))
    return Residue(one, other) if isinstance(one, Scalar) and isinstance(other, Scalar) else None


def _relation(sides: list[str], signs: list[str], depth: int) -> Kind | None:
    """What stands at both sides of signs: an equation, a definition, a membership, an approximation."""
    if "\\approx" in signs:
        at = signs.index("\\approx")
        left = "=".join(sides[: at + 1]) if all(sign == "=" for sign in signs[:at]) else ""
        if left and named_left_side(left) is None:
            return read_latex(left, depth + 1)
        return read_latex(sides[-1], depth + 1) if at == 0 and len(sides) == 2 else None
    if not all(sides):
        return read_latex(sides[1], depth + 1) if len(sides) == 2 and signs == ["="] and sides[1] else None
    if signs in (["\\in"], ["\\notin"]):
        inner = read_latex(sides[1], depth + 1)
        if isinstance(inner, Group) and inner.marks not in ("", "{}", "<>"):
            inner = Group(inner.marks, inner.items, interval=True)
        if signs == ["\\notin"]:
            return None if inner is None else Together("setminus", (REALS, inner))
        return inner
    if any(sign in ("\\in", "\\notin", "\\equiv") for sign in signs):
        return None
    if "\\ne" not in signs and all(sign == "=" for sign in signs):
        return _equation(sides, depth)
    if any(_is_prose(side) for side in sides) or any(
        enclosed(side) and len(split(side, [","])[0]) > 1 for side in sides
    ):
        return None
    if len(signs) == 2 and signs[0] == "=" and named_left_side(sides[0]):
        sides, signs = sides[1:], signs[1:]
    return Relation(tuple(sides), tuple(signs))


def _equation(sides: list[str], depth: int) -> Kind | None:
    name = named_left_side(sides[0])
    if name is not None:
        value = _equation(sides[1:], depth) if len(sides) > 2 else read_latex(sides[1], depth + 1)
        if value is None or isinstance(value, Words):
            return None
        if isinstance(value, Definition) and not value.argument and len(sides) > 2:
            value = value.value
        return Definition(name[0], value, name[1])
    if len(sides) == 2 and variable(sides[1]) and sides[1] not in ("e", "i") and number.parse(sides[0]) is not None:
        return Definition(sides[1], Scalar(sides[0]))  # 5 = x
    last = read_latex(sides[-1], depth + 1)
    left = read_latex(sides[0], depth + 1)
    if (
        isinstance(left, Group)
        and isinstance(last, Group)
        and len(left.items) == len(last.items) > 1
        and len(sides) == 2
    ):
        names = [variable(item.latex) if isinstance(item, Scalar) else None for item in left.items]
        if None not in names and left.marks == "()":
            if names == sorted(map(str, names)):
                return last
            return Named(tuple(zip(map(str, names), last.items, strict=True)))
    if any(_is_prose(side) for side in sides) or not isinstance(last, Scalar):
        return None
    return Relation(tuple(sides), ("=",) * (len(sides) - 1))


def _matrix(latex: str, depth: int) -> Kind | None:
    found = enclosed(latex)
    inner = found[1].strip() if found and found[0] in ("(", "[") else latex
    if (plain := _PLAIN_MATRIX.fullmatch(latex)) is not None:
        listed = [[Scalar(entry) for entry in re.split(r"[\s,]+", row.strip())] for row in plain[1].split(";")]
        return Matrix(tuple(map(tuple, listed)))
    match = _MATRIX.fullmatch(inner)
    if match is None or "\\begin" in match[1]:
        return None
    rows = [row.strip() for row in _ROW.split(match[1])]
    cells = [[read_latex(cell, depth + 1) for cell in row.split("&")] for row in rows if row]
    if not cells or any(cell is None for row in cells for cell in row):
        return None
    return Matrix(tuple(tuple(cell for cell in row if cell is not None) for row in cells))


def _group(latex: str, depth: int) -> Kind | None:
    """What stands in brackets that close at its end."""
    name = ""
    if (point := _POINT.match(latex)) is not None and split(latex[point.end() + 1 : -1], [",", ";"])[0][1:]:
        name, latex = point[1], latex[point.end() :]
    found = enclosed(latex)
    if found is None:
        return None
    opening, inner, end = found
    inner = inner.strip()
    if opening in ("\\{", "{"):
        if not inner:
            return EMPTY
        if (condition := halves(inner)) is not None:
            made = read_latex(condition, depth + 1)
            return made if isinstance(made, Relation | Together | Group | NumberSet) else None
    items = read_latex(inner, depth + 1)
    if opening == "\\{":
        return None if items is None or isinstance(items, Words) else Group("{}", _members(items))
    if isinstance(items, Group) and not items.marks and split(inner, [",", ";"])[0][1:]:
        if opening == "{":
            return Group("{}", items.items)
        if opening == "\\langle":
            return Group("<>", items.items)
        return _expanded(Group(opening + end, items.items, name=name), inner, depth)
    if opening == "(" and isinstance(items, Scalar) and not items.unit:
        return None  # an expression in parentheses
    return None if opening == "\\langle" or opening + end not in ("()", "[]", "{}") else items


def _members(kind: Kind) -> tuple[Kind, ...]:
    if isinstance(kind, Definition) and isinstance(kind.value, Group) and not kind.value.marks:
        return kind.value.items
    return kind.items if isinstance(kind, Group) and not kind.marks else (kind,)


def _expanded(group: Group, inner: str, depth: int) -> Kind | None:
    """(\\pm 1, 2) as a list of two pairs."""
    if not _SIGN.search(inner):
        return group
    both = [read_latex(_signed(inner, plus), depth + 1) for plus in (True, False)]
    pairs = tuple(Group(group.marks, made.items) for made in both if isinstance(made, Group) and not made.marks)
    return Group("", pairs) if len(pairs) == 2 else None


def _signed(latex: str, plus: bool) -> str:
    return _SIGN.sub(lambda m: "+" if (m[1] == "pm") == plus else "-", latex)


def _single(latex: str) -> Kind | None:
    """One value: a number, an expression, a ratio, or words."""
    if (time := _CLOCK.fullmatch(latex)) is not None:
        return Ratio(tuple(Scalar(part) for part in time[1].split(":")), True, (time[2] or "").lower())
    if (ordinal := _ORDINAL.fullmatch(latex)) is not None:
        return Scalar(ordinal[1])
    if len(parts := split(latex, [":"])[0]) > 1:
        sides = [_single(part) for part in parts]
        scalars = tuple(side for side in sides if isinstance(side, Scalar))
        return Ratio(scalars) if len(scalars) == len(parts) else None
    if (based := _BASE.fullmatch(latex)) is not None and any(map(str.isdigit, based[1])):
        base = _BASES.get(based[2] or based[3], based[2] or based[3])
        fits = base.isdecimal() and base != "10" and all(int(figure, 16) < int(base) for figure in based[1])
        return Based(based[1], base) if fits else None
    if _SIGN.search(latex):
        values = [_single(_signed(latex, plus)) for plus in (True, False)]
        return Group("", tuple(value for value in values if value is not None)) if None not in values else None
    if _is_prose(latex):
        return Words(latex)
    if "=" in latex or _DIGITS_APART.search(latex) or _TWO_NUMBERS.search(latex):
        return None
    return _with_degrees(latex)


def _with_degrees(latex: str) -> Scalar:
    """An expression, its unit apart. Degrees in a function are turned into radians, others are the unit."""
    bare, unit = number.without_unit(latex)
    if "°" in bare:
        bare = re.sub(
            r"(\\(?:sin|cos|tan|cot|sec|csc)\s*(?:\^\s*(?:\{[^{}]*\}|[0-9])\s*)?)(?:\(\s*([^()°]+)°\s*\)|([0-9.]+|\\?[a-z]+|\{[^{}]*\})\s*°)",
            lambda m: f"{m[1]}(\\frac{{({m[2] or m[3]})\\pi}}{{180}})",
            bare,
        )
        if "°" in bare:
            bare, unit = bare.replace("°", ""), unit or "degree"
    return Scalar(bare.strip(), unit)


def _is_prose(latex: str) -> bool:
    # The parser reads a word as a product of its letters, by which "tea" equals "eat".
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", latex)) if word.lower() not in _FUNCTIONS]
    if not words:
        return False
    if not _NEVER_A_PRODUCT.isdisjoint(words):
        return True
    if len(words) == 1 and len(latex) == 2:  # "ab" is more often a product than a word
        return latex.lower() in _SHORT_WORDS
    plain, _ = number.without_unit(latex)
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", plain)) if word.lower() not in _FUNCTIONS]
    return any(len(word) > 3 for word in words) or latex.replace(" ", "").isalpha()
