r"""Text from elsewhere, as it is shown: a stranger's records, a model's answer, a name, a server's message.

A terminal obeys some characters, and a Markdown viewer loads what an image names. Here such text becomes nothing but
text: each character that would be obeyed, or hides or reorders others, is written as an escape (`\x1b`, `\u202e`).
Letters of all scripts, signs and emoji stay, and so do the two joiners that many of them need. A backslash is left
alone, since formulas are full of them: what is shown is for eyes, and not to be read back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_OBEYED = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of direction
    r"\xad\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff0-\ufffb"  # not seen: soft hyphen, no width, annotations
    r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"  # fillers and joiners of scripts
    r"\u2028\u2029"  # line and paragraph separator
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # of shorthand and music; tags, variants
    r"\ud800-\udfff"  # bytes of a name that are no UTF-8
)
_UNSAFE = re.compile(f"[{_OBEYED}]")
_STYLED = re.compile(rf"(\x1b\[[0-9;]*m)|[{_OBEYED}]")
_ON_A_SCREEN = re.compile(rf"(\x1b\[[0-9;]*[mA]|\r)|[{_OBEYED}]")
_FIGURES = r"\[(?![-–\d., ]+\](?![(\[:]))"
"""A bracket that could begin a link, as "[52.1, 60.0]" cannot."""
_MARKDOWN = re.compile(rf"[\\`*~|$]|{_FIGURES}|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|!(?=\[)")
_LINK = re.compile(r"(?:https?|ftp)(?=://)|www(?=\.)", re.IGNORECASE)
"""Where many viewers make a link of an address that stands alone."""
_HTML = re.compile(r"&(?=#?\w+;)|<")
_BLOCK = re.compile(r"^(?:(?=>)|(?=[-+#=]+(?:\s|$))|(\d+)(?=[.)](?:\s|$)))")
_SPAN = re.compile(r"(`[\w.:= -]+`)")
"""Code that holds nothing else to escape: a setting that a message of ours names."""


def text(said: object) -> str:
    """As text of any number of lines."""
    return _UNSAFE.sub(lambda found: _escape(found[0]), str(said))


def line(said: object) -> str:
    r"""As one line: a line feed is shown as `\n`, so that nothing in it can pass for a line of ours."""
    return text(said).replace("\n", "\\n")


def styled(said: str, screen: bool) -> str:
    """As `text`, for what a library has made up for a terminal: colours stay and, on a screen, what a progress bar
    needs to come back to its line."""
    pattern = _ON_A_SCREEN if screen else _STYLED
    return pattern.sub(lambda found: found[1] or _escape(found[0]), said)


def markdown(said: object) -> str:
    """As Markdown that shows the same characters in one line, anywhere in a paragraph, a list or a table: no image, no
    link, no HTML, no emphasis, no end of the cell. Names in backticks stay code."""
    parts = _SPAN.split(" ".join(text(said).split()))
    for escaped, how in ((_MARKDOWN, r"\\\g<0>"), (_HTML, _entity), (_LINK, r"\g<0>\\")):
        parts[::2] = (escaped.sub(how, part) for part in parts[::2])
    return _BLOCK.sub(r"\1\\", "".join(parts))


def _entity(found: re.Match[str]) -> str:
    return "&lt;" if found[0] == "<" else "&amp;"


def code(said: object) -> str:
    """As code in Markdown, within a line."""
    one = " ".join(text(said).split())
    longest = max(map(len, re.findall("`+", one)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{pad}{one}{pad}{fence}"


def as_json(document: Any, indent: int | None = 2) -> str:
    r"""As JSON that holds the very same text, in ASCII: `\u001b`. A number that JSON does not have becomes null."""
    try:
        dumped = json.dumps(document, indent=indent, allow_nan=False)
    except ValueError:
        dumped = json.dumps(_finite(document), indent=indent, allow_nan=False)
    return dumped.replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(below) for below in value]
    return value


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
