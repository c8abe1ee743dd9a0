"""Text from elsewhere, made harmless: to a terminal, in Markdown, in JSON."""

from __future__ import annotations

import json
import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from orchestrator.text import shown
from tests.support.strangers_text import EVIL, require_dead, require_text

KEPT = "\t\n\u200c\u200d"
NOT_FORMAT = "؀؁؂؃؄؅\u06dd\u070f\u0890\u0891\u08e2"
"""Signs of Arabic and Syriac that are seen, though Unicode files them under format; so do others beyond U+FFFF."""

FILLERS = [
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    *range(0x180B, 0x1810),
    0x2065,
    0x3164,
    0xFFA0,
    *range(0xFFF0, 0xFFF9),
]
"""Not seen either (Unicode's Default_Ignorable_Code_Point), and of other categories. Emoji need U+FE00 to U+FE0F."""


def test_every_character_that_is_obeyed_or_not_seen_is_an_escape() -> None:
    for number in range(0x10000):
        character = chr(number)
        unsafe = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in KEPT
        unsafe = (unsafe and character not in NOT_FORMAT) or number in FILLERS
        said = shown.text(character)
        assert (said != character) == unsafe, hex(number)
        assert not unsafe or said.isascii()
    assert all(shown.text(chr(number)).isascii() for number in range(0xE0000, 0xE1000))


@pytest.mark.parametrize(
    "text",
    [
        "x² + \\frac{1}{2} ≤ ∑ᵢ aᵢ",
        "三个苹果",
        "नमस्ते",
        "سلام دنیا",
        "می\u200cخواهم",
        "👩\u200d👩\u200d👧 ❤️ 🏳️\u200d🌈",
        "é e\u0301",
        "a\tb\nc",
    ],
)
def test_letters_of_all_scripts_stay_as_they_are(text: str) -> None:
    assert shown.text(text) == text


def test_escapes_say_what_stood_there() -> None:
    assert shown.text("a\x1b[2Jb\u202ec\U000e0041\udcff\r") == "a\\x1b[2Jb\\u202ec\\U000e0041\\udcff\\x0d"
    assert shown.line("a\nratchet: all is well") == "a\\nratchet: all is well"


def test_colours_of_a_library_stay_and_what_moves_the_cursor_does_not() -> None:
    assert shown.styled("\x1b[1;31mred\x1b[0m \x1b[2J \x1b]52;c;x\x07 \r", screen=False) == (
        "\x1b[1;31mred\x1b[0m \\x1b[2J \\x1b]52;c;x\\x07 \\x0d"
    )
    assert shown.styled("\r 50 %\x1b[A\x1b[2J", screen=True) == "\r 50 %\x1b[A\\x1b[2J"


MARKS = "![]()<>|\\`*_~$&#;:-+=.1 ax/\"'\n"


def visible(markdown: str) -> str:
    """What a viewer shows of a paragraph."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    return "".join(child.content for block in tokens for child in block.children or ())


@settings(deadline=None)
@given(st.text(st.sampled_from(MARKS), max_size=30))
def test_markdown_shows_the_characters_and_nothing_else(text: str) -> None:
    said = shown.markdown(text)
    one = " ".join(text.split())
    for place in (said, f"- {said}", f"# {said}", f"before {said}"):
        require_dead(place)
    assert visible(f"before {said}").replace("`", "") == f"before {one}".strip().replace("`", "")
    table = f"| a | b |\n|---|---|\n| {said} | end |\n"
    require_dead(table)
    cells = [t for t in MarkdownIt("commonmark", {"html": True}).enable("table").parse(table) if t.type == "td_open"]
    assert len(cells) == 2 and visible(table).endswith("end")


def test_an_address_in_markdown_is_no_link() -> None:
    """Viewers make one of these letters, as they stand in the file."""
    text = (
        "see https://evil.example/x, (HTTP://evil), _www.evil.example_ or ftp://evil; `www.name` and s3://bucket stay"
    )
    said = shown.markdown(text)
    assert not re.search(r"(https?|ftp)://|(?<!`)www\.", said, re.IGNORECASE) and "`www.name` and s3://bucket" in said
    assert visible(said) == text.replace("`", "")


@settings(deadline=None)
@given(st.text(st.sampled_from(MARKS), max_size=30))
def test_code_in_markdown_is_nothing_but_code(text: str) -> None:
    require_dead(f"- Reference: {shown.code(text)}; [1.0]")


def test_figures_and_settings_are_not_littered_with_backslashes() -> None:
    line = "60.0 [50.2, 69.1] (won 3, lost 1; see `promotion.rule`) not_worse –0.5 -20.1 → 1,000"
    assert shown.markdown(line) == line


def test_json_is_ascii_and_holds_the_very_same_text() -> None:
    document = {"text": EVIL + "三\udcff", EVIL: [1.5, True, None]}
    said = shown.as_json(document)
    assert json.loads(said) == document and said.isascii()
    require_text(said)
    assert json.loads(shown.as_json({"a": [float("nan"), -float("inf"), 2.0]})) == {"a": [None, None, 2.0]}


def test_a_name_that_is_no_utf8_can_be_shown() -> None:
    assert shown.line(b"run-\xff".decode(sys.getfilesystemencoding(), "surrogateescape")) == "run-\\udcff"
