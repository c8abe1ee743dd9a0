"""Text that a terminal would obey, a Markdown viewer would load something for, or rich would take for markup."""

from __future__ import annotations

import unicodedata

from markdown_it import MarkdownIt

CLIPBOARD, CLEAR, REVERSED = "\x1b]52;c;ZXZpbA==\x07", "\x1b[2J", "\u202e"
MARKUP = "![x](http://evil.test/x.png) <img src='http://evil.test/y.png'> [red] [z](http://evil.test) `a` | b"
EVIL = f"{CLIPBOARD}{CLEAR}\x9b31m\x7f{REVERSED}\u200b\u2066\U000e0041{MARKUP}"
NAME = EVIL.replace("/", ":")
"""The same for a file's name."""
_JOINERS = "\u200c\u200d"


def require_text(said: str) -> None:
    """Nothing in it moves a cursor, sets a clipboard, hides, or turns the direction."""
    bad = {c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in f"\n\t{_JOINERS}"}
    assert not bad, f"{sorted(map(hex, map(ord, bad)))} in {said[:2000]!r}"


def require_dead(markdown: str, own: tuple[str, ...] = ()) -> None:
    """A viewer loads nothing for it and shows no link or HTML, but for the images that are `own`."""
    require_text(markdown)
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [token for block in parser.parse(markdown) for token in (block, *(block.children or ()))]
    found = [t for t in tokens if t.type in ("image", "link_open", "html_inline", "html_block")]
    assert [t.attrs.get("src", t.type) for t in found if t.attrs.get("src") not in own] == []
