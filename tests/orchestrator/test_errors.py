"""What is told of errors that quote somebody else's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, RatchetError, cut, first_line, last_line
from orchestrator.files.disk import why
from orchestrator.inputs.hub import short
from orchestrator.text import terminal
from orchestrator.tracking import outbox

LONG = "x" * 3_000_000


def test_the_first_and_the_last_line_of_an_error() -> None:
    error = ValueError("\n  broken\nand so\n")
    assert (first_line(error), last_line(error)) == ("broken", "and so")
    assert (first_line(ValueError("  ")), last_line(ValueError())) == ("ValueError", "ValueError()")
    assert cut("abcd", 4) == "abcd" and cut("abcde", 4) == "abcd... (5 characters)"


@pytest.mark.parametrize("told", [first_line, last_line, short, outbox.first_line])
def test_a_long_error_is_told_in_few_words(told: Callable[[Exception], str]) -> None:
    assert len(told(ValueError(LONG))) < 400


def test_no_half_of_a_password_is_left_by_the_cut() -> None:
    said = f"{'x' * 280} https://me:{'secret' * 10}@host/"
    assert "secret" not in outbox.first_line(ValueError(said))


def test_a_record_of_a_failure_is_no_longer_than_people_read() -> None:
    assert len(why(ValueError(LONG), Path("/nowhere"))) < 3000


@pytest.mark.parametrize("error", [BadInput(LONG), RatchetError(f"several\n{LONG}\nlines")])
def test_no_line_on_the_terminal_is_endless(capsys: pytest.CaptureFixture[str], error: RatchetError) -> None:
    terminal.failure(error)
    terminal.echo(error)
    said = capsys.readouterr()
    assert len(said.err) < 10_000 and "(3000000 characters)" in said.err and len(said.out) < 10_000
