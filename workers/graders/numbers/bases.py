"""Numbers in another base: "1010_2", "(1010)_{2}", "1010 (base 2)", "1010 in binary"."""

from __future__ import annotations

import re

from workers.graders.reading.normalise import normalise

MAX_LENGTH = 200
_NAMES = {"binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
_WRITTEN = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
            "twelve": 12, "sixteen": 16}  # fmt: skip
_BASE = rf"(?P<base{{}}>[0-9]{{{{1,2}}}}|{'|'.join(_WRITTEN)})"
_FIGURES = r"\(? ?(?P<figures>[0-9A-Za-z][0-9A-Za-z ]{0,80}?) ?\)?"
_FORMS = (
    re.compile(rf"{_FIGURES} ?_ ?[{{(]* ?{_BASE.format('')} ?[}})]*", re.IGNORECASE),
    re.compile(rf"{_FIGURES},? ?\(? ?(?:(?:written |expressed )?in )?base[ -]{_BASE.format('')} ?\)?", re.IGNORECASE),
    re.compile(rf"{_FIGURES},? ?\(? ?(?:in )?(?P<base>{'|'.join(_NAMES)}) ?\)?", re.IGNORECASE),
    re.compile(rf"base[ -]{_BASE.format('')}:? {_FIGURES}", re.IGNORECASE),
)
_LITERAL = re.compile(r"(?P<sign>-?)0(?:[xX](?P<x>[0-9A-Fa-f]{1,64})|[bB](?P<b>[01]{1,200})|[oO](?P<o>[0-7]{1,80}))")
_ALONE = re.compile(r"[0-9A-F]{1,80}", re.IGNORECASE)


def based(text: str) -> tuple[str, int | None] | None:
    """(figures without leading zeros, base) of a number whose base is said; the base is None for figures alone."""
    if len(text) > MAX_LENGTH:
        return None
    text = normalise(text)
    if _ALONE.fullmatch(text):
        return text.upper().lstrip("0"), None
    for form in _FORMS:
        if (match := form.fullmatch(text)) is not None:
            figures, said = match["figures"].replace(" ", "").upper(), match["base"].lower()
            base = int(said) if said.isdigit() else _WRITTEN.get(said) or _NAMES[said]
            if 2 <= base <= 36 and all(int(figure, 36) < base for figure in figures):
                return figures.lstrip("0"), base
    return None


def literal(text: str) -> int | None:
    """The value of a number as programs write it: 0x10 is 16, 0b101 is 5; None of anything else."""
    match = _LITERAL.fullmatch(text)
    if match is None:
        return None
    figures, base = next((match[name], base) for name, base in (("x", 16), ("b", 2), ("o", 8)) if match[name])
    return int(figures, base) * (-1 if match["sign"] else 1)
