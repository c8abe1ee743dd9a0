"""The journal of what is measured: written by a driver alone, read as far as it can be believed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.run import Run
from orchestrator.reports.journal import JOURNAL, JournalFile, Row, read, update_times
from orchestrator.reports.progress.board import Board
from orchestrator.rounds.watched import Updates

TRAIN = "rounds/01/train"
DRIVER = {"host": "here", "pid": 1, "process_start": 1.0, "version": "0"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    (made.root / "ledger").mkdir(parents=True)
    made.claim(dict(DRIVER))
    return made


def lines(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.root / JOURNAL).read_text().splitlines() if line]


def show(board: Board, view: JournalFile) -> None:
    for event in board.events():
        view.hear(event)
    view.look(board.look())


def board_of(run: Run) -> Board:
    board = Board("tiny", 1)
    board.follow(run.ledger)
    return board


def test_updates_and_nodes_are_kept_with_the_time_that_they_were_told(run: Run) -> None:
    poked: list[int] = []
    board, view = board_of(run), JournalFile(run, lambda: poked.append(1))
    updates = Updates(board, TRAIN)
    updates.told({"step": 1, "updates": 2, "loss": 0.5, "margin": math.nan, "reward_accuracy": None, "tokens": 7})
    board.measure("nodes/vm", 0, {"cpu_utilization_percentage": 12.5})
    show(board, view)
    first, second = lines(run)
    assert (first["what"], first["number"], first["values"]) == (TRAIN, 1, {"loss": 0.5, "tokens": 7})
    assert 0 < first["time"] <= second["time"]
    assert second["values"] == {"cpu_utilization_percentage": 12.5}
    assert poked == [1]
    assert [row.node for row, _ in read(run.root)] == [None, "vm"]


def test_nothing_is_written_before_the_claim_nor_once_displaced(run: Run, tmp_path: Path) -> None:
    other = Run(tmp_path / "other")
    (other.root / "ledger").mkdir(parents=True)
    board, view = Board("tiny", 1), JournalFile(other)
    board.measure("nodes/vm", 0, {"a": 1.0})
    show(board, view)
    assert not (other.root / JOURNAL).exists()
    other.claim(dict(DRIVER))
    board.follow(other.ledger)
    show(board, view)
    assert len(lines(other)) == 1, "it was only kept until it could be written"
    view = JournalFile(run)
    board = board_of(run)
    os.rename(run.root, tmp_path / "away")
    os.rename(other.root, run.root)  # another run stands where this one was
    board.measure("nodes/vm", 0, {"a": 2.0})
    show(board, view)
    assert len(lines(run)) == 1


def test_a_line_that_was_torn_costs_itself_alone(run: Run) -> None:
    board, view = board_of(run), JournalFile(run)
    (run.root / JOURNAL).write_bytes(b'{"time": 1.0, "what": "rounds/0')
    assert list(read(run.root)) == []
    board.measure(TRAIN, 3, {"loss": 1.0})
    show(board, view)
    assert [(row.what, row.number) for row, _ in read(run.root)] == [(TRAIN, 3)]


def test_what_stands_in_its_place_is_left_alone(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (run.root / JOURNAL).symlink_to(outside)
    board, view = board_of(run), JournalFile(run)
    board.measure(TRAIN, 1, {"loss": 1.0})
    show(board, view)
    assert outside.read_text() == "mine" and list(read(run.root)) == []
    (run.root / JOURNAL).unlink()
    os.mkfifo(run.root / JOURNAL)
    show(board, view)
    assert list(read(run.root)) == []


def test_reading_goes_on_where_it_ended(run: Run) -> None:
    board, view = board_of(run), JournalFile(run)
    for number in (1, 2):
        board.measure(TRAIN, number, {"loss": 1.0})
    show(board, view)
    [(_, behind), (_, end)] = list(read(run.root))
    assert [row.number for row, _ in read(run.root, behind)] == [2]
    assert list(read(run.root, end)) == []
    assert [row.number for row, _ in read(run.root, end + 1)] == [1, 2], "a shorter file is another one"


def test_an_update_that_was_done_twice_has_its_first_time(run: Run) -> None:
    rows = [(TRAIN, 1, 10.0), (TRAIN, 2, 11.0), ("rounds/02/train", 2, 12.0), (TRAIN, 2, 13.0), (TRAIN, 3, 14.0)]
    with open(run.root / JOURNAL, "w") as file:
        for what, number, time in rows:
            file.write(json.dumps({"time": time, "what": what, "number": number, "values": {"loss": 1}}) + "\n")
    assert update_times(run.root, TRAIN) == {1: 10.0, 2: 11.0, 3: 14.0}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"time": 1, "what": 3, "number": 1, "values": {}}',
        '{"time": 1e300, "what": "x", "number": 1, "values": {}}',
        '{"time": NaN, "what": "x", "number": 1, "values": {}}',
        '{"time": 1, "what": "x", "number": true, "values": {}}',
        '{"time": 1, "what": "x", "number": -1, "values": {}}',
        '{"time": 1, "what": "x", "number": 1e99, "values": {}}',
        '{"time": 1, "what": "x", "number": 1, "values": []}',
        '{"time": 1, "time": 2, "what": "x", "number": 1, "values": {}}',
        "[" * 5000,
        "\udcff",
    ],
)
def test_a_strangers_line_is_passed_over(run: Run, line: str) -> None:
    good = json.dumps({"time": 2.0, "what": "x", "number": 1, "values": {"a": 1, "b": "text", "c": None, "d": [1]}})
    (run.root / JOURNAL).write_bytes(f"{line}\n{good}\n".encode(errors="surrogateescape"))
    assert [row for row, _ in read(run.root)] == [Row("x", 1, 2.0, {"a": 1})]


def test_a_line_without_an_end_takes_no_memory(run: Run) -> None:
    good = json.dumps({"time": 2.0, "what": "x", "number": 1, "values": {"a": 1}})
    (run.root / JOURNAL).write_bytes(b"x" * 300_000 + b"\n" + good.encode() + b"\n")
    assert [row.what for row, _ in read(run.root)] == ["x"]


def test_it_grows_to_no_more_than_it_may(run: Run) -> None:
    board, view = board_of(run), JournalFile(run, most=150)
    for number in range(9):
        board.measure(TRAIN, number, {"loss": 1.0})
        show(board, view)
    assert 0 < (run.root / JOURNAL).stat().st_size < 150
