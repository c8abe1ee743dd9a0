"""What stands behind a number in an answer: a unit, what is counted, a remark, or something that changes the number."""

from __future__ import annotations

import re
from functools import lru_cache

from workers.graders.numbers import units, words
from workers.graders.numbers.lead import DENYING, MONTH, UNCLEAR

SCALES = {
    **dict.fromkeys(["hundred", "hundreds"], 100),
    **dict.fromkeys(["thousand", "thousands", "grand", "k", "千"], 10**3),
    **dict.fromkeys(["lakh", "lakhs", "lac"], 10**5),
    **dict.fromkeys(["million", "millions", "mil", "mill", "mn", "mln"], 10**6),
    **dict.fromkeys(["crore", "crores"], 10**7),
    **dict.fromkeys(["billion", "billions", "bn", "bil"], 10**9),
    **dict.fromkeys(["trillion", "trillions", "tn"], 10**12),
    **{word + s: 10 ** (15 + 3 * place) for place, word in enumerate(words.LARGER.split()) for s in ("", "s")},
    **dict.fromkeys(["googol", "googols"], 10**100),
    **{"tens": 10, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8},
}
_SCALE = re.compile(
    rf"[ -]?(?P<scale>{'|'.join(sorted(SCALES, key=len, reverse=True))})(?![^\W\d_]|-[A-Za-z])", re.IGNORECASE
)
LETTERS = {"MM": 10**6, "K": 10**3, "M": 10**6, "m": 10**6, "B": 10**9, "T": 10**12}
"""Letters that are a scale right behind figures, and may be units."""
_LETTER = re.compile(r" ?(?P<letter>MM|[KMmBT])(?![^\W\d_]|[\^/·*])(?! ?\^)")
PERCENT = re.compile(r"\s*(?:%|per ?cents?(?![a-z])|pct(?![a-z])|percentage(?! points?)(?![a-z]))", re.IGNORECASE)
PART = re.compile(
    rf"[ -](?P<part>{'|'.join(sorted(words.PARTS, key=len, reverse=True))})(?P<many>s?)(?![A-Za-z-])", re.IGNORECASE
)
DOZEN = re.compile(r"[ -]dozens?(?![A-Za-z])", re.IGNORECASE)
ORDINAL = re.compile(r"(?:st|nd|rd|th)(?![A-Za-z])", re.IGNORECASE)
_CHANGING = """
plus minus over divided multiplied mod modulo squared cubed factorial power root choose pi tau phi infinity inf log ln
sin cos tan sec csc cot exp sqrt gcd lcm max min than hundred thousand million billion trillion dozen dozens too below
above under short wanting missing negative percent percentage bc answer answers except without between itself digit
alpha beta gamma delta epsilon zeta eta theta kappa lambda omega sigma rho psi sinx siny cosx cosy tanx tany logx lnx
sqrtx most least minimum maximum upwards ish something zeros zeroes figures decimals past gross score repeating
recurring
"""
_CHANGES = frozenset(_CHANGING.split()) | UNCLEAR - {
    "prime",
    "square",
    "cube",
    "before",
    "after",
    "earlier",
    "when",
    "times",
}
_SYMBOL = re.compile(r"(?<![^\W\d_])[\u0370-\u03a8\u03aa-\u03bb\u03bd-\u03ff\u0127](?![^\W\d_])")
"""A Greek letter, or the bar of h, alone: a factor, as in 50π. Those of ohm and micro are units."""
_ILLION = re.compile(r"[a-z]*illions?|milliards?|googolplex|myriads?")
"""Large numbers that are not read, or that mean nothing certain: undecillion, zillion, milliard."""
_SHORT = """
in on at of to by an a so is as or per each for sq cu up go it he we my us me do am be all and the
"""
_SHORT_WORDS = frozenset(_SHORT.split())
"""Words of one or two letters that may stand behind a number without being its factors."""
_PROSE = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_ODD = re.compile(r"[^\w\s./'\"()°,;:·!&%\\$€£¥₠-⃀৳฿-]|[0-9_]")
_UNIT = re.compile(
    r"(?P<gap>[ -]?/? ?\(?)(?P<unit>(?:[^\W\d_]|')*[^\W\d_]|[°¢$€£¥₹₠-⃀৳฿][CF]?)"
    r"(?P<more>(?:(?: ?[·*⋅/.-] ?| ?\\cdot ?| (?:per )?)(?:\(?[^\W\d_]+\)?)|(?: ?\^ ?\{? ?-?[0-9] ?\}?))*)"
)
_END_OF_UNIT = re.compile(
    r" (?:in|on|at|for|from|to|and|left|over|by|with|of|more|less|fewer|total|altogether|off|remaining|away|a"
    r"|an|each|every"
    r"|is|are|was|were|so|that|who|which|long|tall|old|wide|deep|high|per (?=day|week|month|year|person|hour"
    r"|child))(?![A-Za-z]).*",
    re.IGNORECASE | re.DOTALL,
)
_COMPARED = re.compile(
    r" (?:more|fewer|less) [a-z]+ than (?!needed|expected|required|usual|before|planned|allowed)[a-z]+\b"
    r"|"
    r" (?:(?:\w+ )?(?:more|fewer|less)(?: \w+)?|(?:\w+ ){0,2}\w+er) than (?:[A-Z]\w*|he|she|him|her|them|they"
    r"|his|it|the|last|before)\b"
)
_LESS_THAN = re.compile(r" (?:more|fewer|less) than (?:it|the|his|last|before)\b")
"""Right behind a number it says by how much another one differs: "30 less than before"."""
_LEFT_OVER = re.compile(r"\bleft[ -]?over\b")
_POWER_OF_UNITS = re.compile(r"(?<=units) ?\^ ?\{?[23]\}?")
_FACTOR = re.compile(r"(?<![\w'’.·/-])[b-zB-HJ-Z](?![\w'’.·/-])")
_RATE = re.compile(r"(?P<base>.*?) (?:per|an?|each|every) ", re.IGNORECASE)
_BELOW_ZERO = re.compile(r"(?: degrees?| ?°)?(?: ?(?:celsius|fahrenheit|[cCfF]))? below (?:zero|0)\Z", re.IGNORECASE)


def scale(text: str) -> tuple[int, int]:
    """(factor, length) of the words for powers of ten that `text` begins with."""
    factor, at = 1, 0
    for _ in range(2):
        if (match := _SCALE.match(text, at)) is None:
            break
        factor, at = factor * SCALES[match["scale"].lower()], match.end()
    return factor, at


def letter(text: str) -> tuple[int, int, bool]:
    """(factor, length, whether there is a space before it) of a letter such as the M of "2.5M"."""
    match = _LETTER.match(text)
    return (1, 0, False) if match is None else (LETTERS[match["letter"]], match.end(), match[0][0] == " ")


def below_zero(text: str) -> bool:
    """Whether the words behind a number make it negative."""
    return bool(_BELOW_ZERO.fullmatch(text))


@lru_cache(maxsize=2048)
def unit_of(text: str) -> tuple[bool, str | None]:
    """(whether the words right behind a number can be its unit or what is counted, the unit's name if it is known)."""
    if not text.strip(" .()"):
        return True, None
    if (name := units.known(_counted(text))) is not None:
        return True, name
    if _LESS_THAN.match(text):
        return False, None
    if not text.isascii() and _SYMBOL.search(text):
        return False, None
    text = _LEFT_OVER.sub("left", _POWER_OF_UNITS.sub("", text))
    match = _UNIT.match(text)
    if match is None or _ODD.search(text) or _FACTOR.search(text, match.end("unit")):
        return False, None
    first = _counted(_END_OF_UNIT.sub("", text))
    name = units.known(first) or units.known(match["unit"])
    if name is None and not _may_be_counted(text, match):
        return False, None
    rest = text[match.end("unit") :] if name else text
    compared = "" if _COMPARED.search(text) is None else "than more less fewer"
    if words.BEHIND.search(_without_compounds(rest)):
        return False, None
    changing = (_CHANGES | DENYING) - set(compared.split()) - ({"squared", "cubed"} if _raised(text) else set())
    behind = set(re.findall(r"[a-z]+", _without_compounds(MONTH.sub("", rest).lower())))
    if changing & behind or any(map(_ILLION.fullmatch, behind)) or len(text.split()) > 40:
        return False, None
    return True, name


def base_of(text: str) -> str | None:
    """The unit of a rate in words without what it is per: "hour" of "hours a day"."""
    match = _RATE.match(text)
    return None if match is None else units.known(_counted(match["base"]))


def _counted(text: str) -> str:
    return text.strip().strip("-,;: ").lstrip("/").strip()


def _raised(text: str) -> bool:
    """Whether a unit is squared, and not the number."""
    return re.match(r"[ -]?[^\W\d_]{2,} (?:squared|cubed)\b", text) is not None


def _without_compounds(text: str) -> str:
    return re.sub(r"\b[A-Za-z]+-[A-Za-z-]+", "", text)  # "hundred-dollar bills"


def _may_be_counted(text: str, match: re.Match[str]) -> bool:
    first = _PROSE.search(text)
    if first is None:
        return False
    word = first[0]
    if not match["gap"]:
        return len(word) > 3 or not word.isascii()
    if len(word) > 2 or not word.isascii():
        return True
    return word.lower() in _SHORT_WORDS and len(_PROSE.findall(text)) > 1
