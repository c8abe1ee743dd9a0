"""Views that fail, or hang, do a run no harm."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from orchestrator.errors import Interrupted, RatchetError
from orchestrator.reports.progress.board import Board, Event, Said
from orchestrator.reports.progress.model import Progress
from orchestrator.reports.progress.showing import shown


class Noting:
    name = "a view"
    every = 0.01

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.heard: list[Event] = []
        self.looks: list[Progress] = []
        self.closed = 0

    def _note(self, name: str) -> None:
        if name == self.fail:
            raise ValueError("no more\nof it")

    def hear(self, event: Event) -> None:
        self._note("hear")
        self.heard.append(event)

    def look(self, progress: Progress) -> None:
        self.looks.append(progress)
        self._note("look")

    def close(self, progress: Progress) -> None:
        self.closed += 1
        self._note("close")


def test_all_that_was_said_is_heard_in_its_order(tmp_path: Path) -> None:
    board, view = Board("irpo", 1), Noting()
    with shown(board, [view], tmp_path, print):
        for number in range(200):
            board.say(str(number))
    assert view.heard == [Said(str(number)) for number in range(200)] and view.closed == 1 and view.looks


@pytest.mark.parametrize("where", ["hear", "look", "close"])
def test_a_view_that_fails_is_told_once_and_the_spare_one_goes_on(tmp_path: Path, where: str) -> None:
    board, bad, good, spare, said = Board("irpo", 1), Noting(where), Noting(), Noting(), list[str]()
    with shown(board, [bad, good], tmp_path, said.append, spare):
        board.say("first")
        while where != "close" and not said:
            threading.Event().wait(0.005)
        board.say("second")
    assert said == ["progress  a view shows no more: no more"]
    assert good.heard == [Said("first"), Said("second")] and bad.closed == (2 if where == "close" else 1)
    assert (Said("second") in spare.heard) == (where != "close")


def test_a_view_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    let_go = threading.Event()

    class Hanging(Noting):
        def hear(self, event: Event) -> None:
            let_go.wait()

    board = Board("irpo", 1)
    with shown(board, [Hanging()], tmp_path, print, patience=0.05):
        for number in range(40):
            board.say(str(number))
            board.begin("rounds/01/samples")
    let_go.set()


@pytest.mark.parametrize(("error", "state"), [(RatchetError, "failed"), (Interrupted, "interrupted")])
def test_an_error_ends_the_picture_and_goes_on(tmp_path: Path, error: type[BaseException], state: str) -> None:
    board, view = Board("irpo", 1), Noting()
    with pytest.raises(error), shown(board, [view], tmp_path, print):
        raise error("bad\nnews")
    assert board.look().state == state and board.look().reason == "bad"


def test_what_the_board_cannot_note_is_said(tmp_path: Path) -> None:
    board, said = Board("irpo", 1), list[str]()
    with shown(board, [Noting()], tmp_path, said.append):
        board.begin("rounds/01/samples")
        board.grow("rounds/01/samples", None)  # type: ignore[arg-type]
    assert len(said) == 1 and said[0].startswith("progress  cannot be told rightly any more: ")


def test_a_clock_that_is_before_1970_ends_the_picture_alone(tmp_path: Path) -> None:
    """The clock of the test goes back; of a host's, a run says why it cannot be claimed."""
    moment = [0.0]
    board, view, said = Board("irpo", 1, lambda: moment[0]), Noting(), list[str]()
    with shown(board, [view], tmp_path, said.append):
        while not view.looks:
            threading.Event().wait(0.005)
        moment[0] = -1e11
        board.begin("samples", "")
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            threading.Event().wait(0.005)
    assert len(said) == 1 and said[0].startswith("progress  cannot be shown any more: ") and "started" in said[0]
    assert view.closed == 1
