r"""LaTeX that lost its backslashes: "\frac" in JSON, as in many a program's text, is a form feed and "rac".

Tabs, line breaks and page breaks stand before words of ordinary text too. So what follows must be the rest of a command
and no word ("\times" leaves "imes"), or stand where only a formula has it ("x \to 0").
"""

from __future__ import annotations

import re

_CONTROLS = {
    "\a": ("a", "a bell character"),
    "\b": ("b", "a backspace"),
    "\f": ("f", "a form feed"),
    "\n": ("n", "a line break"),
    "\r": ("r", "a carriage return"),
    "\t": ("t", "a tab"),
    "\v": ("v", "a vertical tab"),
}
_LEAVE_NO_WORD = """
    alpha aleph angle approx approxeq arccos arcsin arctan arg ast asymp
    backslash bar because begin beta bf big bigcap bigcup bigl bigr bigg biggl biggr bigoplus bigotimes binom bmod
    boldsymbol bot bowtie box boxed boxplus bullet bm
    forall frac frak frown
    nabla natural newcommand newline nicefrac nonumber notag notin nsubseteq
    rangle rbrace rbrack rceil rfloor rho right rightarrow rightharpoonup rightleftharpoons rVert rvert
    tbinom textstyle therefore theta thickapprox thicksim tilde times triangle triangledown triangleleft
    triangleright triangleq twoheadrightarrow
    varepsilon varkappa varnothing varphi varpi varrho varsigma vartheta vdash vdots vec vee veebar vert
"""
_OPERAND = r"(?:\d|(?<![A-Za-z])[A-Za-z]|[)}\]|]|\\[A-Za-z]+)"
_NEXT = r"-?(?:\d|[A-Za-z](?![A-Za-z])|\\[A-Za-z]|[({])"
_SIGN = r"(?:[_^]\{?|(?<!\$)\$)"
_ANYWHERE = ""
_START = r"\A\s*"
_ONLY_IN_FORMULAS = (
    # (what stands before, commands, what stands behind)
    (_ANYWHERE, "fbox", r" ?\{"),
    (_ANYWHERE, "tfrac", r" ?[{\d\\]"),
    (_ANYWHERE, "text[a-z]*", r" ?\{"),
    (_ANYWHERE, "tag ref", r"\*?\{"),
    (_ANYWHERE, "not", r"[=<>\\]"),
    (_ANYWHERE, "tau", r"(?:[_^$}]|\\[A-Za-z])"),
    (_ANYWHERE, "tan tanh", r"(?:\^|\\[a-z])"),
    (r"\{", "rm", r"(?![A-Za-z])"),
    (rf"{_OPERAND} ?", "to neq", f" ?{_NEXT}"),
    (rf"{_OPERAND} ", "ne", f" {_NEXT}"),  # a line may begin with the unknown e, but not between two spaces
    (_SIGN, "ne neg neq nu tan tanh tau to top", r"(?!\w)|(?=_)"),
    (r"[-=+*/(^{}\d] ?", "tan tanh", r"(?:[(^\\]| ?\d| [A-Za-z](?![A-Za-z]))"),
    (_START, "ne neg neq nu tan tanh tau to top", r"\s*\Z"),  # all of the text
    (_START, "tan tanh", r" ?[A-Za-z0-9]\s*\Z"),
)
_LONGEST = 40
"""Characters before a control character that are looked at."""


def broken_latex(text: str) -> str | None:
    r"""What is wrong with a text whose LaTeX lost a backslash, with the cure, to stand behind "has" or "holds"; None
    where nothing is.

    Example: broken_latex("\frac{1}{2}") is "a form feed where \frac was meant: ..."
    """
    for suspect in _SUSPECT.finditer(text):
        letter, name = _CONTROLS[suspect[0]]
        for before, rest in _RULES[letter]:
            found = rest.match(text, suspect.end())
            if found and before.search(text, max(0, suspect.start() - _LONGEST), suspect.start()):
                command = f"\\{letter}{found['rest']}"
                return f"{name} where {command} was meant: in JSON every backslash is written twice (\\{command})"
    return None


def _rules() -> dict[str, list[tuple[re.Pattern[str], re.Pattern[str]]]]:
    """By a command's first letter: what must stand before the control character, and behind it."""
    found: dict[str, list[tuple[re.Pattern[str], re.Pattern[str]]]] = {letter: [] for letter, _ in _CONTROLS.values()}
    for letter, rules in found.items():
        rests = "|".join(name[1:] for name in _LEAVE_NO_WORD.split() if name[0] == letter)
        rules.append((re.compile(_ANYWHERE), re.compile(f"(?P<rest>{rests or '(?!)'})(?![A-Za-z])")))
    for before, commands, behind in _ONLY_IN_FORMULAS:
        for command in commands.split():
            rule = (re.compile(rf"(?:{before})\Z"), re.compile(f"(?P<rest>{command[1:]})(?![A-Za-z])(?={behind})"))
            found[command[0]].append(rule)
    return found


_SUSPECT = re.compile(r"[\a\x08\t\n\v\f\r](?=[A-Za-z])")
_RULES = _rules()
