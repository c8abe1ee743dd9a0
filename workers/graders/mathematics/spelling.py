"""One spelling for LaTeX, plain ASCII and Unicode mathematics, before anything is parsed.

`spelled` goes beyond `normalise`, which every grader shares: fonts, colours and sizes around anything, synonyms of
relations and brackets, sets such as ℝ, roots and fractions without braces, functions without a backslash.
"""

from __future__ import annotations

import re
from functools import lru_cache

from workers.graders.reading.normalise import normalise, unescaped

_SETS = {"ℝ": "R", "ℤ": "Z", "ℚ": "Q", "ℕ": "N", "ℂ": "C"}
_BEFORE = str.maketrans(
    {
        **{sign: f"\\mathbb{{{letter}}} " for sign, letter in _SETS.items()},
        "∛": "\\sqrt[3]",
        "∜": "\\sqrt[4]",
        "∅": "\\emptyset ",
        "⌀": "\\emptyset ",
        **dict.fromkeys("≤⩽≦", "\\le "),
        **dict.fromkeys("≥⩾≧", "\\ge "),
        "≠": "\\ne ",
        "±": "\\pm ",
        "∓": "\\mp ",
        "×": "\\times ",
        **dict.fromkeys("·⋅∙•∗", "\\cdot "),
        "÷": "\\div ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∖": "\\setminus ",
        "∈": "\\in ",
        "∉": "\\notin ",
        "∞": "\\infty ",
        "≈": "\\approx ",
        "≡": "\\equiv ",
        "∧": " and ",
        "∨": " or ",
        "⟨": "\\langle ",
        "⟩": "\\rangle ",
        "⌊": "\\lfloor ",
        "⌋": "\\rfloor ",
        "⌈": "\\lceil ",
        "⌉": "\\rceil ",
        "∣": "|",
        "′": "'",
        **dict.fromkeys("⇒⟹⇔∴", "\\Rightarrow "),
    }
)
_GREEK_LETTERS = (
    "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta κkappa λlambda μmu νnu ξxi πpi ρrho σsigma τtau "
    "φphi χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΞXi ΣSigma ΦPhi ΨPsi ΩOmega"
)
_AFTER = str.maketrans({entry[0]: f"\\{entry[1:]} " for entry in _GREEK_LETTERS.split()})
_GREEK = "|".join(entry[1:] for entry in _GREEK_LETTERS.split() if entry[1:] not in ("eta", "nu", "mu", "xi", "chi"))

_WRAPPING = """
text textbf textit textrm textnormal texttt textsf textup emph mathrm mathbf mathit mathsf mathtt mathnormal
operatorname mbox hbox boldsymbol bm pmb bold ensuremath num underline uline underbrace overbrace boxed fbox
mathcal mathscr mathfrak displaylines smash mathop mathbin mathord mathclose mathopen bf it rm sf large Large LARGE
huge Huge small tiny normalsize
"""
_WRAPPER = re.compile(rf"\\(?P<name>{'|'.join(_WRAPPING.split())})\*?(?![A-Za-z])\s*(?P<brace>\{{)?")
_SWITCHES = re.compile(
    r"\\(?:bfseries|itshape|normalfont|displaystyle|textstyle|scriptstyle|scriptscriptstyle|cal|limits|nolimits|"
    r"footnotesize|scriptsize|mathstrut|strut|hfill|allowbreak|nobreak|noindent|centering|middle|m?left|m?right|"
    r"[bB]igg?[lrm]?)(?![A-Za-z])\.?"
)
_SIZE_OF_BRACKET = re.compile(r"(?:(?<=[0-9])(\}?)\s+)?\\(?:m?left|[bB]igg?[lr]?)(?![A-Za-z])(?=\s*[(\[])")
"""A size before a bracket, which is no space: "3\\left(" is "3(", and so is "3 \\left("."""
_SPACING = re.compile(
    r"\\(?:[hv]space|[hv]?phantom|kern|hskip|tag|label)\*?\s*(?:\{[^{}]*\}|-?[0-9.]+\s*(?:pt|em|ex|mu|cm)?)"
    r"|\\(?:thin|med|thick|en|negthin)space(?![A-Za-z])|\\q?quad|\\[;:>]"
)
_BETWEEN_EQUATIONS = re.compile(r"(?<==)(?P<value>[^=]*?)(?:\\q?quad(?![A-Za-z]{2})|\\\\(?=\s))(?=[^=]*=)")
_ROWS = re.compile(r"\\begin\s*\{(cases|align\*?|aligned|gathered|split)\}(.*?)\\end\s*\{\1\}", re.DOTALL)
_CANCELLED = re.compile(r"\\(?:[bx]?cancel|sout|st)\s*\{[^{}]*\}")
_DECORATED = re.compile(
    r"\\(?:mathbb|widehat|hat|widetilde|tilde|vec|dot|overrightarrow)\s*\{\s*(-?[0-9][0-9.,]*)\s*\}"
)
_CHOOSE = re.compile(
    r"\{\s*([^{}\\]+?)\s*\\choose\s*([^{}\\]+?)\s*\}|(?<![\w}])([0-9n]+)\s*\\choose\s*([0-9kr]+)(?![\w])"
)
_COMBINATIONS = re.compile(r"(?:\{\s*\})?(?:[_^]\{?([0-9n]+)\}?|(?<![\w.])([0-9]+))\s*C\s*_?\s*\{?([0-9kr]+)\}?(?!\w)")
_SMALL_LOG = re.compile(r"(?<![A-Za-z\\])\\?log_?(2|10)\s*(?=\()")
_MINUS_POWER = re.compile(r"\^\s*(-\s*[0-9]+)")
_CIS = re.compile(r"\\?\bcis\s*(?:\(([^()]*)\)|\{([^{}]*)\}|([^\s(){}]+))")
_DOTS = re.compile(r"(?<=[,;])\s*\.{3,}\s*(?=[,;]|$)")
_LOW_FRACTION = re.compile(r"\^\s*\{?([0-9]+)\}?\s*/\s*_\s*\{?([0-9]+)\}?")
_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
_ESCAPED_TWICE = re.compile(r"\\\\(?=[A-Za-z]{2}|[{}])")
_COLOUR = re.compile(r"\\(?:color|textcolor|colorbox)\s*\{[^{}]*\}")
_QUANTITY = re.compile(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_BLACKBOARD = re.compile(
    r"\\(?:mathbb|Bbb|mathds|varmathbb)\s*\{?\s*([RZQNC])\b\s*\}?|\\([RZQNC]|reals|Reals)(?![A-Za-z])"
)
_OVERLINED = re.compile(r"(?<![.0-9])(\s*)\\(?:overline|bar)\s*\{?\s*([0-9]+)\s*\}?(?![0-9.])")
_WORDS = {
    "leqslant": "le",
    "geqslant": "ge",
    "leqq": "le",
    "geqq": "ge",
    "leq": "le",
    "geq": "ge",
    "lt": "<",
    "gt": ">",
    "neq": "ne",
    "not=": "ne",
    "varnothing": "emptyset",
    "empty": "emptyset",
    "nicefrac": "frac",
    "sfrac": "frac",
    "xfrac": "frac",
    "flatfrac": "frac",
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "dbinom": "binom",
    "tbinom": "binom",
    "lbrace": "{",
    "rbrace": "}",
    "lbrack": " [",
    "rbrack": " ]",
    "lparen": " (",
    "rparen": " )",
    **dict.fromkeys(["lvert", "rvert", "vert"], " |"),
    "colon": " :",
    "ast": "cdot",
    "cdotp": "cdot",
    "bullet": "cdot",
    "infin": "infty",
    "smallsetminus": "setminus",
    "backslash": "setminus",
    "lor": " or ",
    "vee": " or ",
    "land": " and ",
    "wedge": " and ",
    "bigcup": "cup",
    "bigcap": "cap",
    "bmod": "mod",
    "pod": "pmod",
    "lg": "log",
    "imath": " i",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "arctg": "arctan",
    "dots": "ldots",
    "cdots": "ldots",
    "dotsc": "ldots",
    "dotsb": "ldots",
    "ldotp": " .",
    "approxeq": "approx",
    "simeq": "approx",
    "lang": "langle",
    "rang": "rangle",
    **dict.fromkeys(["iff", "implies", "Longrightarrow", "Leftrightarrow", "therefore", "leadsto"], "Rightarrow"),
}
_COMMANDS = re.compile(rf"\\({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?![A-Za-z])")
_SIGNS = re.compile(r"<=|=<|>=|!=|=/=|\+\s?/\s?-|\+-")
_SPELLED_SIGNS = {"<=": "\\le ", "=<": "\\le ", ">=": "\\ge ", "!=": "\\ne ", "=/=": "\\ne "}
_FUNCTION_NAMES = "sinh cosh tanh arcsin arccos arctan sin cos tan sec csc cot ln log exp max min gcd lcm"
_BARE_FUNCTION = re.compile(
    rf"(?<![A-Za-z\\])(?P<inverse>a(?=sin|cos|tan)(?!rc))?(?P<name>{'|'.join(_FUNCTION_NAMES.split())})"
    r"(?![A-Za-z]{2,})(?=\s*[({^_|\\0-9]|\s*[A-Za-z](?![A-Za-z]))"
)
_BARE_ROOT = re.compile(r"(?<!\\)\b(sqrt|cbrt|√)|(?<!\\)(?<=[0-9)])(sqrt|cbrt)|√")
_ROUNDED = re.compile(r"(?<![A-Za-z\\])(floor|ceil)(?:ing)?\s*\(([^()]*)\)")
_NATURAL_LOG = re.compile(r"\\log_(?:e(?![A-Za-z])|\{\s*e\s*\})")
_AT_LEAST = re.compile(r"^([A-Za-z])\s*=>")
_ABSOLUTE = re.compile(r"(?<![A-Za-z\\])(?:abs|\\operatorname\{abs\})\s*\(([^()]*)\)")
_NAMES = re.compile(rf"(?<![A-Za-z\\])(infinity|inf|oo|pi|{_GREEK})(?![A-Za-z])")
_EXPONENT = re.compile(r"(?<![A-Za-z])([0-9](?:\.[0-9]+)?)[eE]([+-]?[0-9]{1,4})(?![0-9A-Za-z.])")
_UNION = re.compile(r"(?<=[)\]}])\s*(?:U|u|union)\s*(?=[(\[{\\])")
_MEMBER = re.compile(r"(?<=[a-zA-Z]) in (?=[(\[{\\])")
_ODDS = re.compile(r"^([0-9]+) to ([0-9]+)$")
_MIXED = re.compile(r"(?<![0-9./])([0-9]+) ([0-9]{1,9})/([0-9]{1,9})(?![0-9])")
_ARGUMENTS = re.compile(r"\\(frac|binom|sqrt)(?![A-Za-z])\s*")
_POWER_OF_COMMAND = re.compile(r"([\^_])\s*(\\(?:frac\{[^{}]*\}\{[^{}]*\}|sqrt\{[^{}]*\}|[A-Za-z]+))(?![{A-Za-z])")
_MOST_WRAPPERS = 60


@lru_cache(maxsize=2048)
def spelled(text: str) -> str:
    """`text` as LaTeX in one spelling. Example: "x ⩽ \\boldsymbol{√2}" is "x \\le \\sqrt{2}"."""
    text = unescaped(text).translate(_BEFORE)
    if "\\begin" not in text:  # there it ends a row
        text = _ESCAPED_TWICE.sub(r"\\", text)
    text = _DECORATED.sub(r" \1 ", _CANCELLED.sub(" ", _ROWS.sub(_as_list, text)))
    if text.count("=") > 1:
        text = _BETWEEN_EQUATIONS.sub(r"\g<value>, ", text)
    text = _QUANTITY.sub(lambda m: f"{m[1]} {m[2].replace(chr(92), ' ')}", _COLOUR.sub("", text))
    text = _unwrapped(_SWITCHES.sub(" ", _SPACING.sub(" ", _SIZE_OF_BRACKET.sub(r"\1", text))))
    text = _BLACKBOARD.sub(lambda m: f"\\mathbb{{{(m[1] or m[2])[0].upper()}}}", text)
    text = _COMMANDS.sub(_command, text)
    text = normalise(text).replace("$", " ").translate(_AFTER)
    text = _OVERLINED.sub(r"\1\2", text)
    text = _SIGNS.sub(lambda m: _SPELLED_SIGNS.get(m[0], "\\pm "), text).replace("**", "^")
    text = _ABSOLUTE.sub(r"|\1|", _EXPONENT.sub(r"\1 \\times 10^{\2}", text))
    text = _ROUNDED.sub(
        lambda m: f"\\l{m[1]} {m[2]} \\r{m[1]} ", _NATURAL_LOG.sub(r"\\ln ", _AT_LEAST.sub(r"\1 \\ge ", text))
    )
    text = _CHOOSE.sub(lambda m: f"\\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}", text)
    text = _COMBINATIONS.sub(lambda m: f"\\binom{{{m[1] or m[2]}}}{{{m[3]}}}", text)
    text = _MINUS_POWER.sub(r"^{\1}", _SMALL_LOG.sub(r"\\log_{\1}", text))
    text = _CIS.sub(lambda m: "(\\cos({0}) + i \\sin({0}))".format(m[1] or m[2] or m[3]), text)
    text = _TIMES.sub(r" \\times ", text)
    text = _LOW_FRACTION.sub(r"\\frac{\1}{\2}", _DOTS.sub(r"\\ldots ", text))
    text = _BARE_FUNCTION.sub(lambda m: f"\\{'arc' if m['inverse'] else ''}{m['name']} ", text)
    text = _BARE_ROOT.sub(lambda m: "\\sqrt[3]" if (m[1] or m[2]) == "cbrt" else "\\sqrt", text)
    text = _braced_exponents(text)
    text = _MEMBER.sub(" \\\\in ", _UNION.sub(r" \\cup ", _ODDS.sub(r"\1:\2", text)))
    text = _MIXED.sub(lambda m: rf"{m[1]}\frac{{{m[2]}}}{{{m[3]}}}" if int(m[2]) < int(m[3]) else m[0], text)
    text = _NAMES.sub(lambda m: "\\infty " if m[1] in ("infinity", "inf", "oo") else f"\\{m[1]} ", text)
    text = _POWER_OF_COMMAND.sub(r"\1{\2}", _with_arguments(text))
    return re.sub(r"\s+", " ", text).strip()


def _as_list(match: re.Match[str]) -> str:
    """The rows of an environment that only puts equations below each other; of others, as they are."""
    rows = match[2].replace("&=", "=").replace("& =", "=")
    return match[0] if "&" in rows else ", ".join(row for row in re.split(r"\\\\", rows) if row.strip())


def _command(match: re.Match[str]) -> str:
    word = _WORDS[match[1]]
    return f"\\{word} " if word.isalpha() or word in "{}" else word


def _unwrapped(text: str) -> str:
    """`text` without commands that only change how their argument looks."""
    for _ in range(_MOST_WRAPPERS):
        match = _WRAPPER.search(text)
        if match is None:
            break
        content, after = "", match.end()
        if match["brace"]:
            after = closing(text, match.end() - 1) or len(text) + 1
            content, after = text[match.end() : after - 1], min(after, len(text))
            if match["name"] in ("underbrace", "overbrace"):
                after += len(m[0]) if (m := re.match(r"\s*[_^]\s*(?:\{[^{}]*\}|\w)", text[after:])) else 0
        text = f"{text[: match.start()]} {content} {text[after:]}"
    return text


def closing(text: str, start: int) -> int | None:
    """Where the group that opens with the brace at `start` ends, just behind its brace; None if it does not."""
    depth = 0
    for at in range(start, len(text)):
        if text[at] in "{}" and (at == 0 or text[at - 1] != "\\"):
            depth += 1 if text[at] == "{" else -1
            if not depth:
                return at + 1
    return None


def _with_arguments(text: str) -> str:
    """`\\frac12`, `\\frac 1 2`, `\\sqrt2` and `\\sqrt(2)` with braces around their arguments."""
    pieces, at = [], 0
    for match in _ARGUMENTS.finditer(text):
        if match.start() < at:
            continue
        name, after, arguments = match[1], match.end(), []
        if name == "sqrt" and text[after : after + 1] == "[" and (end := text.find("]", after)) > 0:
            name, after = f"sqrt{text[after : end + 1]}", end + 1
        for _ in range(1 if name.startswith("sqrt") else 2):
            found = _argument(text, after, name.startswith("sqrt"))
            if found is None:
                break
            arguments.append(found[0])
            after = found[1]
        else:
            pieces += [text[at : match.start()], f"\\{name}", *(f"{{{argument}}}" for argument in arguments)]
            at = after
    return "".join([*pieces, text[at:]])


def _argument(text: str, at: int, root: bool) -> tuple[str, int] | None:
    while text[at : at + 1] == " ":
        at += 1
    first = text[at : at + 1]
    if first == "{":
        end = closing(text, at)
        return None if end is None else (_with_arguments(text[at + 1 : end - 1]).strip(), end)
    if root and first == "(":
        end = _closing_parenthesis(text, at)
        return None if end is None else (_with_arguments(text[at + 1 : end - 1]).strip(), end)
    if root and (number := re.compile(r"[0-9]+").match(text, at)) is not None and "√" not in text:
        return number[0], number.end()
    if first.isalnum():
        return first, at + 1
    command = re.compile(r"\\[A-Za-z]+").match(text, at)
    if command is None or command[0] in ("\\frac", "\\sqrt", "\\binom"):
        return None
    return command[0], command.end()


def _closing_parenthesis(text: str, start: int) -> int | None:
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if not depth:
            return at + 1
    return None


def _braced_exponents(text: str) -> str:
    """Write `2^(x+1)` as the `2^{(x+1)}` that LaTeX needs; one pass, and unclosed parentheses stay."""
    pieces = list(text)
    stack: list[int] = []
    for at, char in enumerate(text):
        if char == "(":
            stack.append(at)
        elif char == ")" and stack:
            start = stack.pop()
            if start and text[start - 1] == "^":
                pieces[start], pieces[at] = "{(", ")}"
    return "".join(pieces)
