"""The marks that announce an answer in words ("Final answer:", "The answer is", "答案："), and what they announce.

A mark that is only spoken of ('I will end with "Final answer:" and the number'), or that has a placeholder behind it
("Final answer: <number>"), announces nothing; then the one before it counts. Everything here takes time linear in
the text, since few marks, lines and characters are looked at beyond finding the marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from workers.graders.extraction.boxes import boxed
from workers.graders.extraction.options import declared_option
from workers.graders.extraction.text import is_placeholder, sentence, tidy, without_environment

MOST_MARKS = 20
"""Marks from the end that are looked at."""
MOST_WORDS = 100
"""Words "answer" from the end that are looked at, since many of them announce nothing."""
MOST_LINES = 12
"""Lines behind a mark within which its answer begins."""
MAX_BEHIND = 20_000
"""Characters behind a mark within which a box belongs to it."""
MAX_BLOCK = 2000
"""Longest LaTeX environment, in characters, that is an answer."""
_SPACE = r"[ \t\xa0\u2000-\u200a\u202f]"
_FINAL = (
    rf"final(?:{_SPACE}|[_-]){{0,8}}(?:(?:numerical|numeric|simplified|exact|correct|short){_SPACE}{{1,3}})?answers?"
)
_FINALS = re.compile(_FINAL), re.compile(_FINAL, re.IGNORECASE)
_TAIL = re.compile(
    r"(?P<close>[*_\"'’”`}\]]{0,4})"
    rf"(?:{_SPACE}{{0,4}}\([^()\n]{{0,60}}\))?"
    rf"(?:{_SPACE}{{1,4}}(?:to|for|of|in|as)\b[^\n:=：?|]{{0,80}}?)?"
    rf"[*_\"'`]{{0,3}}{_SPACE}{{0,8}}"
    rf"(?P<sep>[:：]{{1,3}}|;(?={_SPACE})|\)(?={_SPACE})|=>?(?!=)|is{_SPACE}{{0,4}}[:：]|(?:->|[-–—→])(?={_SPACE})|\|"
    r"|(?=[*_# \t]{0,20}(?:[\r\n]|\Z)))"
)
_TITLE = re.compile(
    r"(?:[\s#*_>|`\"'“‘「\-•\\(){\[]|[0-9]{1,2}[.)]|\\(?:text|textbf|mathbf|mathrm)\{)*"
    r"(?:(?:the|my|our|and|so|thus|here is|here's|therefore),?\s{1,3}){0,3}[*_]*",
    re.IGNORECASE,
)
_OPENED = re.compile(
    r"(\*{1,3}|_{1,3}|[`\"'“‘「]|\\(?:text|textbf|mathbf|mathrm)\{\s?)(?:(?:the|my) )?(?:final )?\Z", re.IGNORECASE
)
_ENCLOSED = {"|": "|", ")": "("}
"""What ends a mark only where the other half stands before it: "| Final answer | 7 |", "(Final answer) 7"."""
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "「": "」"}
_IS = r"(?:is|must be|would be|should be|will be)\b[ \t]{0,4}[:：]?"
_ANSWER = r"\b(?:answer|final results?\b)"
_ANSWERS = re.compile(_ANSWER), re.compile(_ANSWER, re.IGNORECASE)
_SUPPOSED = re.compile(
    r"\b(?:assum(?:e|ing)|suppos(?:e|ing)|imagine|pretend|if|whether|say)(?: that)?"
    r"(?: (?:the|my|our|final|correct)){0,3} \Z",
    re.IGNORECASE,
)
_IS_SAID = re.compile(
    r"(?P<close>[*_\"'`]{0,3})(?:[ \t]{0,4}\([^()\n]{2,60}\))?(?:[ \t](?:to|for|of|in)\b[^\n:=.?]{0,80}?)?"
    rf"[ \t]{{0,8}}[*_]{{0,2}}[ \t]{{0,8}}(?:[:：=]|{_IS}|[-–—→](?=[ \t])|\?(?=[ \t]*[*_(]{{0,3}}[A-Za-z0-9$\\])"
    r"|(?=\([A-Za-z0-9]\))|(?P<title>(?=[*_ \t]{0,8}[\r\n])))",
    re.IGNORECASE,
)
_LATIN = (
    "réponse reponse respuesta risposta resposta antwort endantwort antwoord eindantwoord odpowiedź odpowiedz odpověď "
    "odpoveď svar svaret slutsvar jawaban jawapan cevap yanıt răspuns răspunsul raspuns válasz vastaus sagot odgovor "
    "ответ відповідь отговор одговор απάντηση đáp_án đáp_số trả_lời câu_trả_lời الإجابة الاجابة الجواب پاسخ תשובה "
    "התשובה उत्तर উত্তর ਉੱਤਰ பதில் คำตอบ უპასუხა პასუხი"
)
_LAST = (
    "final finale finală finala akhir cuối_cùng cuối končná końcowa végső النهائية النهائي نهایی סופית הסופית "
    "definitiva definitive définitive correcta correcte corretta correta richtige korrekt doğru đúng benar"
)
_COPULAS = "es est ist lautet è é e is är er on este adalah ialah jest to je là هي هو это є είναι है"


def _one_of(words: str) -> str:
    return "|".join(sorted((word.replace("_", " ") for word in words.split()), key=len, reverse=True))


_FOREIGN = re.compile(
    rf"(?<!\w)(?:{_one_of(_LATIN)})(?:[ \t](?:{_one_of(_LAST)}))?[*_]{{0,3}}[ \t\xa0]{{0,4}}"
    rf"(?:[:：=](?:[*_]{{1,3}}(?=\s))?|[-–—](?=[ \t])|(?:{_one_of(_COPULAS)})(?!\w)[ \t]{{0,2}}[:：]?)"
    r"|(?:答案|答え|解答|回答|答|정답|답변|답)[*_]{0,3}[ \t]{0,4}"
    r"(?:[:：=]|(?:应该是|應該是|就是|是|为|為|は|은|는)[:：、]?)",
    re.IGNORECASE,
)
_ASCII_WORDS = tuple(word for word in _LATIN.replace("ı", "i").split() if word.isascii())  # ı is an i, case aside
_FOREIGN_END = re.compile(r"(?<=[0-9A-Za-z)}$])\s?(?:です|である|だ|입니다|이다|है|।|となります|になります)[。.]?\Z")
_LINE_END = re.compile(r"[\r\n]")
_DELIMITER = re.compile(
    r"|\\\[|\\\]|\$\$?|\\\(|\\\)|[`~]{3,}\w{0,20}|[-*_=]{3,}|[:：]|\|?[ :|-]{3,}\|?|\\begin\{[a-z]{1,20}\*?\}|<br\s?/?>"
)
_BULLET = re.compile(
    r"[ \t]*(?:>[ \t]?)*(?:[-*•‣▪◦●][ \t]+(?=\S)|1[.)][ \t]+(?=[*_$\\(]{0,4}[-+−]?[$€£¥\\]?[0-9]|[$\\]))?"
)
_ITEM = re.compile(r"[ \t]*(?:[-*•‣▪◦●]|[0-9]{1,2}[.)])[ \t]+(?=\S)")
_ANNOUNCES = re.compile(
    r".*[A-Za-z]{2}.*[:：]|.*[A-Za-z]{2,}\s.*\b(?:is|are|equals|be|gives)|.*=|"
    r"\(?(?:see |shown |given |as )?(?:below|follows|above)[^A-Za-z]*",
    re.DOTALL | re.IGNORECASE,
)
_QUANTITY = r"[$€£¥\\(*]{0,4}[-−+]?[0-9]|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty)\b"
_BEGINS_TO_WORK = re.compile(
    r"(?:(?:first|firstly|now|then|next),?\s(?:we|i|let|of all|note|add|find|compute|calculate|multiply|divide|subtract"
    r"|convert|determine|solve|consider|simplify)|let(?:'s|’s| me| us)"
    rf"|(?:we|i) (?:(?:must|will|should) )?(?:need|have)\b(?! (?:exactly |only |about |a total of )?(?:{_QUANTITY}))"
    r"|we (?:must|will|first|can|now)\b(?! (?:need|have)\b)|i (?:must|will)\b(?! (?:need|have)\b)"
    r"|to (?:find|get|do|compute|solve))\b.*",
    re.DOTALL | re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"(?:and|followed|at the|on (?:a|its|the)|in the (?:form|format)|as requested|should|must|line|with|will|goes)\b"
    r"[^0-9]*",
    re.IGNORECASE,
)
_JSON_VALUE = re.compile(r"\s*(?P<string>\"(?:[^\"\\]|\\.)*\")|\s*'(?P<single>[^'\n]*)'|\s*(?P<other>[^,}\]\n]*)")


def final_answer(text: str) -> str | None:
    """What the last "Final answer:" announces, on its line or below."""
    for mark in reversed(_marks(_FINALS, text)[-MOST_MARKS:]):
        if answer := _announced(text, mark):
            return answer
    return None


def answer_is(text: str) -> str | None:
    """What the last "answer is", "Answer:", or the same in another language or of an option, announces."""
    option = declared_option(text)
    foreign = _FOREIGN.finditer(text) if _may_be_foreign(text) else ()
    marks = sorted([*_marks(_ANSWERS, text), *foreign], key=lambda mark: mark.start())
    for mark in reversed(marks[-MOST_WORDS:]):
        if option and mark.start() < option[0]:
            break
        said = _IS_SAID.match(text, mark.end()) if mark.re is not _FOREIGN else mark
        prefix, opened = _before(text, mark.start())
        closed = (said and said.groupdict().get("close")) or ""
        if said is None or (said.groupdict().get("title") is not None and not _TITLE.fullmatch(prefix)):
            continue
        if _SUPPOSED.search(text, max(0, mark.start() - 60), mark.start()):
            continue
        answer = _quoted_or_plain(text, said.end(), opened, closed)
        if answer:
            return _FOREIGN_END.sub("", answer)
    if option is None:
        return None
    _, names, start = option
    return (start and _content(text, start)) or names


def _marks(patterns: tuple[re.Pattern[str], re.Pattern[str]], text: str) -> list[re.Match[str]]:
    """Where a word in any case stands: only its places, since the text may be in small letters, which is faster."""
    cased, folding = patterns
    return list(cased.finditer(text.lower()) if text.isascii() else folding.finditer(text))


def _may_be_foreign(text: str) -> bool:
    if not text.isascii():
        return True
    low = text.lower()
    return any(word in low for word in _ASCII_WORDS)


def _announced(text: str, mark: re.Match[str]) -> str | None:
    tail = _TAIL.match(text, mark.end())
    prefix, opened = _before(text, mark.start())
    if (
        tail is None
        or (not tail["sep"] and not _TITLE.fullmatch(prefix))
        or (tail["sep"] in _ENCLOSED and _ENCLOSED[tail["sep"]] not in prefix)
    ):
        return None
    start = tail.end()
    if prefix.lstrip().startswith("|") and (cell := line_at(text, start).strip()).endswith("|"):
        cells = [part.strip() for part in cell.strip("|").split("|")]
        if cells[0]:
            return _checked(sentence(cells[0]))
    answer = _quoted_or_plain(text, start, opened, tail["close"])
    if answer is not None and not _TITLE.fullmatch(prefix) and _GOES_ON.fullmatch(tidy(answer)):
        return None
    closed = answer and _closed(answer, prefix)
    return None if closed and closed != answer and is_placeholder(closed.rstrip(".")) else closed


def _before(text: str, start: int) -> tuple[str, str]:
    """What stands before a mark on its line, and the emphasis or quote that is opened right before it."""
    prefix = _LINE_END.split(text[max(0, start - 80) : start])[-1]
    opened = _OPENED.search(prefix)
    return prefix, opened[1].strip() if opened else ""


def _quoted_or_plain(text: str, start: int, opened: str, closed: str) -> str | None:
    line = line_at(text, start)
    if opened in _QUOTES:
        quote = _QUOTES[opened]
        if quote in closed:
            return _checked(_json_value(line))
        inside, found, behind = line.partition(quote)
        if found:
            spoken_of = re.search(r"\w", behind) or not inside.strip()
            return None if spoken_of else _checked(sentence(inside))
    elif opened and opened not in closed:
        closing = "}" if opened.startswith("\\") else opened
        if line.lstrip().startswith(closing) and not (closing == "_" and line.lstrip().startswith("__")):
            start += len(line) - len(line.lstrip()) + len(closing)
        elif line.rstrip().rstrip(".").endswith(closing) and line.count(closing) == 1:
            return _checked(sentence(line.rstrip().rstrip(".").removesuffix(closing)))
    return _content(text, start)


def _closed(answer: str, prefix: str) -> str:
    """`answer` without the marks behind it whose other half stands before "Final answer"."""
    answer = answer.strip()
    if not prefix:
        return answer
    for opening, closing in (("(", ")"), ("[", "]"), ("$", "$"), ("|", "|")):
        bare = answer.rstrip(".")
        lone = bare.count(closing) % 2 == 1 if opening == closing else bare.count(closing) > bare.count(opening)
        if opening in prefix and bare.endswith(closing) and lone:
            answer = bare.removesuffix(closing).strip()
    if "|" in prefix and answer.startswith("|") and answer.endswith("|"):
        answer = answer[1:-1].strip()
    return answer


def _json_value(line: str) -> str:
    match = _JSON_VALUE.match(line)
    if match is None:
        return line
    if match["string"]:
        try:
            return str(json.loads(match["string"]))
        except ValueError:  # a lone backslash, as in "\pi": not JSON after all
            return match["string"][1:-1]
    return match["single"] if match["single"] is not None else match["other"]


def next_content(text: str, start: int) -> str | None:
    """The answer on the lines from `start` on, which begin behind a mark's own line."""
    return _content(text, start, below=True)


def _content(text: str, start: int, below: bool = False) -> str | None:
    """The answer that a mark which ends at `start` announces: on its line, else on the next one with content."""
    kept = None
    for number, (at, line) in enumerate(_lines(text, start)):
        if number == MOST_LINES:
            break
        below = below or number > 0
        if "\\begin{" in line:
            line = _block(text, at, line)
        bullet = _BULLET.match(line)
        item = line[bullet.end() :] if below and bullet else line
        bare = tidy(item)
        if (
            len(bare) < 40
            and not item.lstrip()[:1].isalnum()
            and (_DELIMITER.fullmatch(bare) or _DELIMITER.fullmatch(item.strip()))
        ):
            kept = kept or (bare if bare == "$" and not number else None)
            continue
        box = boxed(line if not below else text[at : at + MAX_BEHIND])
        if box is not None:
            return _checked(box)
        if len(bare) < 200 and not bare.isdigit() and _ANNOUNCES.fullmatch(bare) and _more(text, at + len(line)):
            kept = bare
            continue
        if below and bullet and bullet[0].strip():
            item = _listed(text, at, item)
        return _checked(sentence(item.lstrip("# ") if below else item))
    return kept


def _checked(answer: str) -> str | None:
    """The answer in one line, or None where it is a placeholder, or begins to work the answer out."""
    answer = without_environment(answer)
    for opening, closing in (("\\[", "\\]"), ("$$", "$$")):  # an equation that was begun on another line
        if answer.rstrip().endswith(closing) and answer.count(opening) == (opening == closing):
            answer = answer.rstrip().removesuffix(closing)
    bare = tidy(answer)
    if not bare or is_placeholder(bare) or (len(bare) < 400 and _BEGINS_TO_WORK.fullmatch(bare)):
        return None
    return answer


def _more(text: str, start: int) -> bool:
    return bool(text[start : start + MAX_BLOCK].strip())


def _block(text: str, at: int, line: str) -> str:
    """A line that begins a LaTeX environment, with the lines up to the environment's end."""
    if "\\end{" in line[line.rfind("\\begin{") :]:
        return line
    end = text.find("\\end{", at + len(line), at + len(line) + MAX_BLOCK)
    return line if end < 0 else text[at:end] + line_at(text, end)


def _listed(text: str, at: int, item: str) -> str:
    """An item of a list with those of the next lines, where all of them are short."""
    items = [item]
    for _, line in _lines(text, at + len(line_at(text, at)) + 1):
        bullet = _ITEM.match(line)
        if bullet is None or len(items) == MOST_LINES:
            break
        items.append(line[bullet.end() :])
    short = len(items) > 1 and all(len(one.split()) <= 3 for one in items)
    return ", ".join(tidy(one) for one in items) if short else item


def _lines(text: str, start: int) -> Iterator[tuple[int, str]]:
    while start <= len(text):
        line = line_at(text, start)
        yield start, line
        start += len(line) + 1


def line_at(text: str, start: int) -> str:
    """The rest of the line from `start` on."""
    # Only real line ends count: str.splitlines would also break at form feeds and the like.
    end = _LINE_END.search(text, start)
    return text[start : end.start() if end else len(text)]
