"""The same option of several: a letter ("B", "(B)", "option B"), its text, or both ("B) Paris").

Where gold and answer both have a letter, the letters decide, unless both have a text, too, and the texts have nothing
in common ("E. coli" and "E. faecalis"). Otherwise their texts do. A gold answer that only begins with a letter, such as
"f(x) = x^2", is a text. A letter against a text alone cannot be compared, because a grader is not told the options, and
neither can a letter and a number: whether the first option is 0 or 1 is not known. Such an answer is unreadable, and so
is one that names no option surely ("It's B, I think"). One that names several, denies one or refuses to choose is
wrong.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from workers.graders.exact import key
from workers.graders.judgement import CORRECT, Judgement, short, unreadable
from workers.graders.reading.normalise import normalise
from workers.graders.reading.options import Option, parse

_POLAR = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_POLAR_ANSWER = re.compile(
    r"(?:(?:it|this|that|the statement|the claim|the answer) is |that's |it's )?(?P<word>yes|no|true|false)\b"
    r"(?P<rest>(?:\s*[,.;:!(-].*| (?:because|since|as|it|he|she|they|we|you|that|this|there|indeed)\b.*)?)",
    re.IGNORECASE | re.DOTALL,
)
_TAKEN_BACK = re.compile(
    r"\b(?:or|but|maybe|perhaps|probably|if|unless|wait|actually|however|and no|and yes|partly|sometimes)\b|\?",
    re.IGNORECASE,
)
_SUPPORT = re.compile(
    r"(?:it's|it is|that's|this is)? ?(?P<text>.+?)(?:,? (?:because|since|as it)\b.*"
    r"|,? (?:is|was) (?:the )?(?:correct|right)(?: answer| option| choice| one)?)",
    re.IGNORECASE | re.DOTALL,
)
_ARTICLE = re.compile(r"(?P<article>an?|the) (?=\w)", re.IGNORECASE)
_NO_NAME = re.compile(r"[!@%+^]|[<>=]\s*[0-9]|#\w|(?<!\*)\b\w\*\W*\Z|\$\s*[0-9]+\W*(?<!\$)\Z")
"""In a gold answer that is no option's name: 5!, C*, $5."""
_SIGNED = re.compile(r"\s*[.#@]\w")
"""Begins a text with a sign of its own: ".NET"."""
_CHANGED = re.compile(r"(?:[<>=#@.+-]|(?<![\w.,])\$)\s*[0-9]+(?![0-9$])|[0-9]\s*(?:[!%]|[-+*/^=×÷–]\s*[0-9.(\\]|=>)")
"""A number with something beside it that makes it another one."""
_TUPLE = re.compile(r"\W*[(\[](?!\s*[A-J]\W)\s*\w{1,2}(?:\s*,\s*\w{1,2})+\s*[)\]]\W*|[A-Za-z]\(\w{1,2}\)")
"""What has an order, or is a function: "(5, 3)", "O(n)"."""
_WORD = re.compile(r"[^\W\d_]{3,}")
GoldKind = Literal["letter", "number", "several", "text"]


def gold_kind(gold: str) -> GoldKind | None:
    """How `choice` reads a gold answer, or None where it cannot.

    "number" is a bare one ("0", "(2)"): an answer must name the option by the same number. Where a data set means the
    index of an option whose prompt shows letters (MMLU), no answer fits it: give the letter instead.
    """
    option = _gold(gold)
    if option is None:
        return None
    if not option.names:
        return "text"
    if len(option.names) > 1:
        return "several"
    return "number" if option.names[0].isdigit() else "letter"


@lru_cache(maxsize=1024)
def _gold(gold: str) -> Option | None:
    """The option that a gold answer is; None where it is empty, too long, or gives alternatives ("A or B")."""
    option = parse(gold)
    if option.stance == "chosen" and _is_said(option, gold):
        return option
    if option.stance == "several" and option.joined and not _TUPLE.fullmatch(gold):
        return option
    if (option.stance == "several" and not option.joined) or not key(gold):
        return None
    return Option("chosen", text=key(gold))  # "Cannot be determined" is an option's text too


def _is_said(option: Option, gold: str) -> bool:
    """Whether a gold answer is the option that it reads as, and no formula, number or name that begins like one."""
    if not option.names:
        return not _SIGNED.match(gold)
    return option.marked if option.text else not _NO_NAME.search(gold)


def grade(gold: str, answer: str) -> Judgement:
    """Correct when both name the same option. Ungradable when the gold answer names none, or alternatives."""
    wanted = _gold(gold)
    if wanted is None:
        return Judgement("ungradable", f"the gold answer {short(gold)!r} is no option")
    if not wanted.names:
        return _by_text(gold, wanted.text, answer)
    got = parse(answer)
    if got.stance == "several":
        if got.joined and set(got.names) == set(wanted.names) and len(wanted.names) > 1:
            return CORRECT
        return Judgement("wrong", f"{short(answer)!r} is not one option")
    if got.stance == "denied":
        return Judgement("wrong", f"{short(answer)!r} says what it is not")
    if got.stance == "refused":
        return Judgement("wrong", f"{short(answer)!r} chooses no option")
    if got.stance == "chosen" and got.names:
        return _by_name(wanted, got, answer, gold)
    if got.stance == "chosen" and wanted.text:
        return _by_text(gold, wanted.text, answer)
    return unreadable(f"{short(answer)!r} names no option surely")


def _by_name(wanted: Option, got: Option, answer: str, gold: str) -> Judgement:
    if set(got.names) == set(wanted.names):
        if wanted.text and got.text and not _agree(wanted.text, got.text):
            return unreadable(f"{short(answer)!r} has the letter of {short(gold)!r} and another text")
        if _numbers(wanted) and _CHANGED.search(answer):
            return unreadable(f"{short(answer)!r} is not surely {short(gold)!r}")
        return CORRECT
    if _numbers(wanted) != _numbers(got):
        if wanted.text and wanted.text in (key(answer), key(got.names[0])):  # "42" for "B) 42"
            return CORRECT
        return unreadable(f"{short(answer)!r} and {short(gold)!r} name options in different ways")
    return Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")


def _agree(one: str, other: str) -> bool:
    """Whether two texts may say the same: one is in the other, or they share a word."""
    return one in other or other in one or bool({*_WORD.findall(one)} & {*_WORD.findall(other)})


def _numbers(option: Option) -> bool:
    return option.names[0].isdigit()


def _by_text(gold: str, wanted: str, answer: str) -> Judgement:
    """Whether an answer is the option with this text (as `exact` compares it), whatever its letter."""
    different = Judgement("wrong", f"{short(answer)!r} is not {short(gold)!r}")
    if wanted == key(answer) and _article(gold) == _article(answer):
        return CORRECT
    if wanted in _POLAR:
        return _polar(wanted, answer)
    got = parse(answer)
    if got.stance in ("several", "denied", "refused"):
        return Judgement("wrong", f"{short(answer)!r} is no one option")
    text = got.text
    if got.stance == "chosen" and wanted in (text, _supported(text)):
        same_article = bool(got.names) or _article(gold) == _article(answer)
        return CORRECT if same_article else unreadable(f"{short(answer)!r} has another article than {short(gold)!r}")
    if got.stance != "chosen" or not text:
        return unreadable(f"{short(answer)!r} does not say which option it means")
    if _without_article(wanted) == _without_article(text) or wanted in text:
        return unreadable(f"{short(answer)!r} is not surely {short(gold)!r}")
    return different


def _polar(wanted: str, answer: str) -> Judgement:
    """Yes, no, true or false, perhaps with a reason behind it."""
    text = normalise(answer).strip(" .!")
    match = _POLAR_ANSWER.fullmatch(text)
    if match is None:
        got = parse(answer)
        if (match := _POLAR_ANSWER.fullmatch(got.text)) is None or got.stance != "chosen":
            denied = got.stance == "denied" and re.search(rf"\b{wanted}\b", text.lower()) is not None
            no_answer = denied or got.stance in ("refused", "several") or _both(text)
            reason = f"{short(answer)!r} is not {wanted!r}"
            return Judgement("wrong", reason) if no_answer else unreadable(reason)
    word, rest = match["word"].lower(), match["rest"]
    if _both(text):
        return Judgement("wrong", f"{short(answer)!r} says both")
    if _TAKEN_BACK.search(re.split(r"\b(?:because|since)\b", rest, maxsplit=1)[0]):
        return unreadable(f"{short(answer)!r} is not plain")
    if word == wanted:
        return CORRECT
    if _POLAR[word] == wanted:
        return Judgement("wrong", f"{short(answer)!r} is not {wanted!r}")
    return unreadable(f"{short(answer)!r} answers in other words than {wanted!r}")


def _both(text: str) -> bool:
    words = re.split(r"\b(?:because|since)\b", text.lower(), maxsplit=1)[0]
    return any(
        re.search(rf"\b{one}\b\W+(?:(?:and|or)\W+)?\b{other}\b", words) is not None for one, other in _POLAR.items()
    )


def _supported(text: str) -> str:
    match = _SUPPORT.fullmatch(text)
    return match["text"] if match else text


def _article(text: str) -> str:
    match = _ARTICLE.match(normalise(text))
    article = match["article"].lower() if match else ""
    return "a" if article in ("a", "an") else ""


def _without_article(text: str) -> str:
    return _ARTICLE.sub("", text, count=1)
