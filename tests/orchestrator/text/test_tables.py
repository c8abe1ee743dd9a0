"""Tables that fit a terminal, by leaving columns out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.text.tables import FittingTable

ROWS = [["a-run-of-some-name", "finished", "irpo", "3 of 3"], ["b", "failed", "sdpo", "1 of 3"]]


def drawn(table: FittingTable, width: int) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue().splitlines()


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (60, ["run", "state", "method", "rounds"]),
        (45, ["run", "state", "rounds"]),
        (30, ["run", "rounds"]),
    ],
)
def test_names_and_figures_stay_whole(width: int, headings: list[str]) -> None:
    table = FittingTable(("run", "state", "method", "rounds"), ROWS, [["method"], ["method", "state"]], 3, True, 2)
    lines = drawn(table, width)
    assert lines[0].split() == headings and len(lines) == 3
    assert lines[1].startswith("a-run-of-some-name ") and lines[1].rstrip().endswith("3 of 3")


def test_a_long_name_is_folded_rather_than_that_it_takes_the_figures() -> None:
    table = FittingTable(("run", "state"), [["n" * 50, "finished"]], [["state"]], 2, True, 2)
    lines = drawn(table, 40)
    assert "finished" in lines[1] and "".join(line.split()[0] for line in lines[1:]) == "n" * 50


def test_a_table_without_rows_has_its_headings() -> None:
    assert drawn(FittingTable(("run", "state"), [], [], 2, True), 40)[0].split() == ["run", "state"]
