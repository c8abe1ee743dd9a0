"""docs/troubleshooting.md quotes messages: the code says every one of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.test_house import PROJECT

MESSAGES = re.findall(r"^```text\n(.+)\n```$", (PROJECT / "docs/troubleshooting.md").read_text(), re.M)


@cache
def said() -> str:
    """Every text that stands in the code, with a mark between two, and in place of what differs."""
    files = [file for top in ("orchestrator", "workers") for file in (PROJECT / top).rglob("*.py")]
    return "\x00".join(text for file in files for text in _texts(ast.parse(file.read_text())))


def _texts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "\x01".join(part.value for part in node.values if isinstance(part, ast.Constant))


def parts(message: str) -> list[str]:
    """What of a message is always the same."""
    return [part for part in (part.strip(" .") for part in message.split("...")) if len(part) > 3]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_that_the_code_says(message: str) -> None:
    assert [part for part in parts(message) if part not in said()] == []
    assert any(len(part) > 6 for part in parts(message)), "it says nothing of its own"


def test_what_the_code_does_not_say_is_found() -> None:
    assert len(MESSAGES) > 25
    assert parts("round ... gives no pairs: ... both") == ["round", "gives no pairs:", "both"]
    assert "gives no pears" not in said() and "gives no pairs" in said()
