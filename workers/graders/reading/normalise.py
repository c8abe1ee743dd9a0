"""One spelling for the many ways to write the same answer; shared by the graders."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

from workers.graders.extraction.extraction import boxed

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPTS = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎]+")
_VULGAR = re.compile("([0-9]?)([¼-¾⅐-⅞↉])")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–—―−﹣-", "-"),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("“”„«»‟‹›", '"'),
        **dict.fromkeys("‘’‚‛`´′", "'"),
        "٫": ".",
        "٬": ",",
        "º": "°",
        "˚": "°",
    }
)

_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])")
_ESCAPED = re.compile(r"(?<!\\)\\([%$#&])")
_FONTS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|textsf|mathrm|mathbf|mathit|mathsf|operatorname|mbox|rm|displaystyle)"
    r"(?:\s*\{([^{}]*)\}|(?![A-Za-z]))"
)
_THOUSANDS = re.compile(r" ?\{, ?\} ?|,\\! ?")
_INLINE_START = re.compile(r"\$([^$ ][^$]{0,100})\$(?= ?[A-Za-z%])")
_SIZES = re.compile(r"\\(?:(?:left|right)(?![A-Za-z])\.?|[bB]igg?[lr]?(?![A-Za-z]))")
_BESIDE = re.compile(r"(?<=[0-9])(\}?) +(?=\\(?:left|[bB]igg?l?)\s*[(\[])")
"""A space between a number and a bracket with its size, which is mathematics' own: "3 \\left(1+2\\right)"."""
_DEGREES = re.compile(r"\^?\s*(?:\{\s*\\(?:circ|degree)(?![A-Za-z])\s*\}|\\(?:circ|degree)(?![A-Za-z]))")
_STRUCK = re.compile(r"(?<![^\s(,;:])~~(?=[^\s~])[^~\n]{1,200}(?<=\S)~~(?![^\s),;:.])")
"""Markdown's struck-out text."""
_ENTITY = re.compile(r"&(?:lt|gt|amp|le|ge|ne|nbsp|times|minus|divide|deg|pi|infin|quot|apos|#[0-9]{2,5});")
_SPACE = re.compile(r"\s+")
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_RAISED = re.compile(r"([\^_])\{(\w)\}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ('"', '"'), ("'", "'"))


def _unicode(text: str) -> str:
    if text.isascii():
        return _CONTROLS.sub("", text.replace("`", "'"))
    # Compatibility folding alone would read 5² as 52 and 3½ as 31/2, so these are spelled out first.
    text = _SUPERSCRIPTS.sub(lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    text = _SUBSCRIPTS.sub(lambda m: "_{" + m[0].translate(_SUBSCRIPT) + "}", text)
    text = _VULGAR.sub(lambda m: f"{m[1]} {unicodedata.normalize('NFKC', m[2])}".lstrip(), text)
    text = unicodedata.normalize("NFKC", text.replace("º", "°")).translate(_CHARACTERS)
    if text.isascii():
        return _CONTROLS.sub("", text)
    return "".join(_character(c) for c in text)


def _unmarked(text: str) -> str:
    """`text` without what Markdown strikes out, and with HTML's names of signs as signs."""
    text = _STRUCK.sub(" ", text) if "~~" in text else text
    return _unicode(unescaped(text)) if "&" in text else text


def unescaped(text: str) -> str:
    """`text` with HTML's names of signs as signs: "x &le; 2" is "x ≤ 2"."""
    return _ENTITY.sub(lambda m: html.unescape(m[0]), text) if "&" in text else text


def _character(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    invisible = category in ("Cc", "Cf", "Cs") and not char.isspace()
    return "" if invisible else char


def _unstarred(text: str) -> str:
    """`text` without Markdown's stars around it; one star alone behind a letter or a bracket belongs to it ("A*")."""
    if text[-1:] == "*" and text[:1] != "*" and text[-2:-1] != "*" and (text[-2:-1].isalpha() or text[-2:-1] in ")]}"):
        return text
    return text.strip("*")


def _outer(text: str) -> str:
    """`text` without the marks around it: Markdown, quotes, math delimiters, \\boxed, a full stop."""
    for _ in range(8):  # a bound keeps endless decoration from costing the square of its length
        before = text
        text = _unstarred(text.strip().rstrip(",;: \\。"))
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : -len(closing)]
            if text == opening + inner + closing and opening not in inner and closing not in inner:
                text = inner
                break
        if text.startswith(("\\boxed", "\\fbox")) and text.endswith("}"):
            inner_box = boxed(text)
            if inner_box is not None and text.replace(" ", "").endswith("{" + inner_box.replace(" ", "") + "}"):
                text = inner_box
        if text == before:
            break
    return text


@lru_cache(maxsize=16)  # several graders read one answer in turn
def normalise(text: str) -> str:
    """`text` in one spelling of Unicode and LaTeX, without decoration; letters keep their case.

    Invisible characters, null bytes and lone surrogates go, digits of any script become ASCII,
    spacing and font commands become spaces and their contents, and `\\dfrac` becomes `\\frac`.
    """
    if text.isascii() and text.isdigit():
        return text
    text = _outer(_unmarked(_unicode(text)))
    text = _THOUSANDS.sub(",", text) if "{" in text or "\\" in text else text
    text = _without_commands(text) if "\\" in text else text.replace("~", " ")
    text = _SPACE.sub(" ", text)
    text = _DEGREES.sub("°", text) if "\\" in text else text  # it takes the cube of a run of spaces
    text = _RAISED.sub(r"\1\2", text) if "{" in text else text
    text = _INLINE_START.sub(r"\1", text) if text.startswith("$") else text  # "$28$ %", "$5$ apples"
    return _outer(_SPACE.sub(" ", text))


def _without_commands(text: str) -> str:
    """`text` without the commands of LaTeX that only say how it looks."""
    text = _ESCAPED.sub(r"\1", text).replace("\\!", "")
    text = _SIZES.sub("", _BESIDE.sub(r"\1", _SPACES.sub(" ", text)))
    for _ in range(4):  # nested font commands; deeper nesting than this is left as it stands
        text, changed = _FONTS.subn(lambda m: " " + m[1] + " " if m[1] is not None else " ", text)
        if not changed:
            break
    return _FRACTION.sub(r"\\frac", text)
