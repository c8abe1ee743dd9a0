"""What of the text at an answer's place is the answer: without decoration, remarks, placeholders.

Everything here takes time linear in the text; what costs more is asked only of short texts.
"""

from __future__ import annotations

import html
import re

MAX_ANSWER = 2000
"""Longest text, in characters, that is looked at more closely."""
_SIMPLE = re.compile(r"(?:[0-9 $,:%+/(){}-]|\.(?=[0-9])|(?<!=)=(?!=)|[A-Za-z](?![A-Za-z]))*")
"""An answer without words and decoration, such as "x = 7.50", which most are: there is nothing to take away."""
_SPECIAL_TOKEN = re.compile(
    r"(?:<\|[\w-]{1,40}\|>|</?s>|<(?:eos|bos|pad|end_of_turn|endoftext)>|\[/?INST\])\s*\Z", re.IGNORECASE
)
_TAGS = re.compile(r"<(b|i|u|p|em|strong|code|span|div|mark|answer|final_answer)>([^<>]*)</\1>", re.IGNORECASE)
_LONE_TAG = re.compile(r"<br\s?/?>|</?(?:answer|final_answer)>", re.IGNORECASE)
_BOLD = re.compile(r"(?<![\w)*])\*\*([^*\n]{1,200})\*\*(?![\w(*])")
_OPENINGS = frozenset("*_=「『【")
_PAIRS = (("**", "**"), ("__", "__"), ("==", "=="), ("*", "*"), ("_", "_"), ("「", "」"), ("『", "』"), ("【", "】"))
_QED = re.compile(r"(?<=\S)[\s.,;]*[∎□■◻◼▢◾◽▪⬛⬜]+\s*\Z")
_LATEX_QED = re.compile(r"(?<=[^\s$])[ .]{0,4}\$?[ ]{0,4}\\(?:blacksquare|qed|qedsymbol)\$?\s{0,4}\Z")
_ANGLED = re.compile(r"\A\s{0,4}[<‹«〈][ ]{0,4}([-−+]?[$€£¥]?[0-9][^<>‹›«»〈〉,]{0,80})[>›»〉]\.?\s{0,4}\Z")
_ANGLES = (">", "›", "»", "〉", ">.", "›.", "».")
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#[0-9]{1,6}|#[xX][0-9A-Fa-f]{1,5});")
_STRUCK = re.compile(r"(?<![~\\\w])~~(?=[^\s~])[^~\n]{1,200}(?<=\S)~~(?![~\w])")
_CROSSES = "✖✗✘❌❎"  # they say no
_EMOJI = re.compile("[\ufe0f\u2b50☀-➿\U0001f000-\U0001faff]")
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore|then)\b,?\s{1,3})?"
    r"(?:(?:the|my|our)\s{1,3})?(?:(?:final|correct|right|best|numerical)\s{1,3}){0,2}"
    r"answer(?:\s{1,3}(?:is|would be|must be|should be):?|\s{0,3}[:=])\s{1,8}",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"(?:<\|[\w-]{1,40}\|>|\bI hope (?:it|this|that)\b|\bhope (?:this|that|it) helps\b|\b(?:please )?let me know\b"
    r"|\bfeel free to\b|\bif you (?:have any|need)\b|\b(?:Human|User|Question): ).*",
    re.IGNORECASE | re.DOTALL,
)
_THAT_IS_ALL = re.compile(
    r"[ ]{0,3}[-–—,;.!][ ]{1,3}(?:and )?that(?:['’]s| is)"
    r" (?:it|all|the (?:final )?answer|my (?:final )?answer)[ .!]{0,6}\Z",
    re.IGNORECASE,
)
_NEXT_SENTENCE = re.compile(r"(?<=[0-9$)}%*\]])\.\**\s+(?=[A-Z*#])")
_REASON = re.compile(r"[,;.]?\s{0,3}(?:\\text\{\s{0,3})?\(?\b(?:because|since)\b.*", re.DOTALL | re.IGNORECASE)
_LINE_BREAK = re.compile(r"\s\\\\\s[A-Za-z ]*\Z")
_ENVIRONMENT = re.compile(
    r"(?:\$\$|\\\[)?\s*\\begin\{(align|aligned|alignat|equation|gathered|gather|split|multline)(\*?)\}"
    r"(?P<rows>.*)\\end\{\1\2\}\s*(?:\$\$|\\\])?\.?",
    re.DOTALL,
)
_PLACEHOLDER_WORDS = frozenset(
    (
        "answer",
        "number",
        "value",
        "result",
        "letter",
        "option",
        "choice",
        "solution",
        "expression",
        "integer",
        "response",
    )
)
_SMALL = """
your the a an final numerical numeric correct single simplified exact my our here insert put of goes chosen text
final_answer as in only content
"""
_SMALL_WORDS = frozenset(_SMALL.split())
_DOTS = re.compile(r"(?:\.{2,}|…|_{2,}|\?+|\\(?:[lc]?dots|square|Box|q?quad|_{2,})|\s|\$|~)*")
_BRACKETED = re.compile(r"[<\[{(⟨«]+(?P<inside>[A-Za-z][A-Za-z _'’/-]{0,80})[>\]})⟩»]+")
_DIGIT = re.compile("[0-9]")
_FONT = re.compile(r"\\(?:boxed|fbox|framebox|underline|text|textbf|textit|mathrm|mathbf|texttt)\{([^{}]*)\}")


def is_placeholder(text: str) -> bool:
    """Whether this stands where an answer would, and is none: "", "...", "your answer", "<number>", "[answer here]"."""
    if len(text) > 100 or _DIGIT.search(text):
        return False
    text = (_FONT.sub(r"\1", text) if "\\" in text else text).strip().strip("*_`\"'.")
    if _DOTS.fullmatch(text):
        return True
    bracketed = _BRACKETED.fullmatch(text)
    inside = bracketed["inside"] if bracketed else text
    words = re.findall(r"[A-Za-z_]+", inside.lower())
    if words and words[-1] == "a":  # "Option A"; no article ends what is to be filled in
        return False
    if text.startswith("<") and bracketed and any(len(word) > 2 for word in words):
        return True
    plain = re.fullmatch(r"[A-Za-z_'’ -]+", inside) is not None
    return plain and bool(_PLACEHOLDER_WORDS & set(words)) and set(words) <= _PLACEHOLDER_WORDS | _SMALL_WORDS


def tidy(answer: str) -> str:
    """`answer` without Markdown's emphasis, tags, and the full stop or special tokens after it."""
    if _SIMPLE.fullmatch(answer):
        return answer.strip()
    if len(answer) <= MAX_ANSWER:
        answer = _without_tags(answer)
        answer = _unescaped(answer) if "&" in answer else answer
        answer = answer if answer.isascii() else _without_emoji(_QED.sub("", answer))
        answer = _LATEX_QED.sub("", answer) if "\\" in answer else answer
        answer = _ANGLED.sub(r"\1", answer) if answer.endswith(_ANGLES) else answer
    for _ in range(3):  # "**7.**" takes two; a bound keeps endless decoration from costing its square
        before = answer = answer.strip()
        if answer.endswith((">", "]")):
            answer = _SPECIAL_TOKEN.sub("", answer)
        if "**" in answer:
            answer = _BOLD.sub(r"\1", answer)
        answer = answer.strip().strip("`").strip()
        if "*" in answer or answer[:1] in _OPENINGS:
            answer = _without_pair(answer)
        if answer.endswith((".", "。", "．")) and not answer.endswith(("..", " ...")):
            answer = answer[:-1].strip()
        if answer == before:
            break
    return answer.strip()


def unstruck(text: str) -> str:
    """`text` without what it strikes out: "~~140~~ 150"."""
    return _STRUCK.sub("", text) if "~~" in text else text


def _unescaped(answer: str) -> str:
    """ "x &lt; 2" as "x < 2"; an answer that is nothing but such a name may be about it."""
    return answer if _ENTITY.fullmatch(answer.strip()) else _ENTITY.sub(lambda entity: html.unescape(entity[0]), answer)


def _without_tags(answer: str) -> str:
    if "<" not in answer:
        return answer
    return _LONE_TAG.sub(" ", _TAGS.sub(r"\2", _TAGS.sub(r"\2", answer)))


def _without_emoji(answer: str) -> str:
    """`answer` without the emoji around it; one of nothing but emoji stays what it is."""
    emoji = "".join({char for char in answer if _EMOJI.match(char)} - set(_CROSSES)) + " "
    return answer.strip(emoji) or answer


def _without_pair(answer: str) -> str:
    for opening, closing in _PAIRS:
        inner = answer[len(opening) : -len(closing)]
        if answer == opening + inner + closing and inner.strip() and opening not in inner and closing not in inner:
            return inner.strip()
    if answer.count("**") == 1:  # its other half stands before the mark, or was never written
        answer = answer.removeprefix("**").removesuffix("**").strip()
    return answer.lstrip("*").lstrip() or answer


def sentence(line: str) -> str:
    """A line without "the answer is" before what it says, and without the next sentence, a reason or a farewell."""
    if len(line) > 10 * MAX_ANSWER or _SIMPLE.fullmatch(line):
        return line.lstrip() if len(line) <= 10 * MAX_ANSWER else line
    line = _CHATTER.sub("", line.lstrip())
    line = _THAT_IS_ALL.sub("", line) if "that" in line else line
    for _ in range(3):
        lead = _LEAD.match(line)
        if lead is None or lead.end() == len(line):
            break
        line = line[lead.end() :]
    line = line.lstrip("#").lstrip() if line.startswith("##") else line
    line = _NEXT_SENTENCE.split(line, maxsplit=1)[0]
    return without_reason(line)


def without_reason(answer: str) -> str:
    """`answer` without "because ..." behind a number or a formula; a sentence that has its reason keeps it."""
    if len(answer) > MAX_ANSWER:
        return answer
    reason = _REASON.search(answer)
    if reason is not None and re.search(r"[0-9$\\]", answer[: reason.start()]):
        answer = answer[: reason.start()]
    if "\\begin" not in answer and (end := _LINE_BREAK.search(answer)) is not None:
        answer = answer[: end.start()]
    return answer


def without_environment(answer: str) -> str:
    """The rows of an `aligned` or the like as one line: "x &= 3+4 \\\\\\\\ &= 7" is "x = 3+4 = 7"."""
    if "\\begin" not in answer or len(answer) > MAX_ANSWER:
        return answer
    match = _ENVIRONMENT.fullmatch(answer.strip())
    if match is None or "\\begin" in match["rows"]:
        return answer
    rows = [row.replace("&", "").strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", match["rows"])]
    joined = ""
    for row in filter(None, rows):
        joined += row if not joined else f" {row}" if row.startswith(("=", "\\approx")) else f", {row}"
    return joined
