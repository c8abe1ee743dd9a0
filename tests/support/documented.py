"""Commands that documents show, as a reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_SHOWN_IN = ("", "sh", "text")
_PROGRAM = re.compile(r"(?:\$ )?((?:ratchet|make|python -m)\b(?![-.]).*)", re.S)
_ENDS = frozenset({"|", ">", ">>", "<", "2>", "&&", ";", "&"})


def commands_in(text: str) -> Iterator[str]:
    """The commands of a document: lines of its blocks that begin with a program of ours, and spans in its text that
    do."""
    for kind, body in _FENCE.findall(text):
        lines = body.replace("\\\n", " ").splitlines() if kind in _SHOWN_IN else ()
        yield from (found[1].strip() for line in lines if (found := _PROGRAM.fullmatch(line.strip())))
    for span in re.findall(r"`([^`]+)`", _FENCE.sub("", text)):
        if found := _PROGRAM.fullmatch(" ".join(span.split())):
            yield found[1]


def words_of(line: str) -> list[str]:
    """The words of a command up to a pipe, a redirection or a comment."""
    shell = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    shell.whitespace_split = True
    words = list(shell)
    return words[: next((at for at, word in enumerate(words) if word in _ENDS), len(words))]


def programs_in(text: str) -> Iterator[str]:
    """What the lines of a document's blocks of commands begin with, but for variables that are set for them."""
    for kind, body in _FENCE.findall(text):
        for line in body.replace("\\\n", " ").splitlines() if kind == "sh" else ():
            words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
            if words and not line.lstrip().startswith("#"):
                yield words[0]
