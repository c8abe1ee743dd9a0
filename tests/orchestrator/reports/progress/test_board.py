"""The board: what is told of work, and what it makes of that. Moments are those of a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger, State
from orchestrator.records.progress import ENGINES, starting
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.progress.board import Began, Board, Come, Ended, Event, Said, Turned
from orchestrator.reports.progress.model import Phase, Progress, RoundLine
from orchestrator.reports.symptoms import Past
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, make_project, run_job


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    return Board("irpo", 3, clock)


def phase(board: Board, what: str) -> Phase:
    return next(phase for phase in board.look().phases if phase.what == what)


SAMPLES = "rounds/01/samples"


def test_the_rate_and_the_time_left_are_those_of_what_is_done_anew(board: Board, clock: Clock) -> None:
    board.begin(SAMPLES)
    board.expect(SAMPLES, 100, "samples", had=60, samples=60, tokens=6000)
    clock.now += 10
    board.grow(SAMPLES, 20, tokens=500)
    found = phase(board, SAMPLES)
    assert (found.done, found.had, found.total) == (80, 60, 100)
    assert (found.rate, found.rate_unit, found.left) == (50, "tokens", 10)
    assert found.counts == {"samples": 60, "tokens": 6500}
    board.end(SAMPLES)
    clock.now += 100
    assert phase(board, SAMPLES).seconds == 10 and phase(board, SAMPLES).left is None


def test_a_piece_that_is_long_in_coming_slows_the_rate(board: Board, clock: Clock) -> None:
    board.begin(SAMPLES)
    board.expect(SAMPLES, 100, "samples")
    clock.now += 10
    board.grow(SAMPLES, 10)
    clock.now += 40
    assert phase(board, SAMPLES).rate == pytest.approx(10 / 40)


def test_the_time_until_workers_are_there_is_none_at_work(board: Board, clock: Clock) -> None:
    board.begin(SAMPLES)
    board.expect(SAMPLES, 100, "samples")
    with starting(board, ENGINES, 2, "engines", "vLLM loads base"):
        clock.now += 50
        board.grow(ENGINES)
        assert phase(board, ENGINES).done == 1
        clock.now += 40
        board.grow(ENGINES)
    clock.now += 5
    board.grow(SAMPLES, 10)
    assert phase(board, SAMPLES).rate == 2 and phase(board, SAMPLES).seconds == 95
    assert board.events() == [Began(ENGINES, "vLLM loads base"), Ended(ENGINES, "vLLM loads base", 90)]


def test_the_first_piece_of_what_only_it_tells_to_expect_has_no_rate(board: Board, clock: Clock) -> None:
    board.begin("rounds/01/train")
    clock.now += 30
    for number in range(1, 3):
        if number == 1:
            board.expect("rounds/01/train", 31, "updates")
        board.grow("rounds/01/train", 1, f"loss {number}", tokens=100)
        assert (phase(board, "rounds/01/train").rate is None) == (number == 1)
        clock.now += 2
    found = phase(board, "rounds/01/train")
    assert (found.rate, found.left, found.newest) == (50, 58, "loss 2")


def test_what_lines_say_comes_as_it_was_said(board: Board) -> None:
    board.say("waiting")
    board.begin("rounds/01/pairs")
    board.tell("rounds/01/pairs", "starts over")
    board.end("rounds/01/pairs")
    board.tell("rounds/01/pairs", "16 pairs")
    board.kept("rounds/01/prompts")
    board.tell("rounds/01/prompts", "8")
    board.tell("rounds/01/nothing", "aside")
    board.tell("rounds/01/gate", "Promoted")
    assert board.events() == [
        Said("waiting"),
        Come("rounds/01/pairs", "starts over", kept=False, aside=True),
        Come("rounds/01/pairs", "16 pairs", kept=False),
        Come("rounds/01/prompts", "8", kept=True),
        Come("rounds/01/nothing", "aside", kept=False, aside=True),
        Come("rounds/01/gate", "Promoted", kept=False),
    ]
    assert board.events() == []
    assert phase(board, "rounds/01/pairs").text == "16 pairs"


def test_what_this_driver_has_done_itself_was_not_there_before(board: Board) -> None:
    board.begin("rounds/01/reference")
    board.end("rounds/01/reference")
    board.kept("rounds/01/reference")  # asked for once more, within the training
    assert phase(board, "rounds/01/reference").state == "done"


def test_another_round_ends_what_is_shown_of_the_last(board: Board) -> None:
    board.begin("baseline/evaluation")
    board.begin(ENGINES)
    board.begin("rounds/01/prompts")
    assert [p.what for p in board.look().phases] == [ENGINES, "rounds/01/prompts"] and board.look().round == 1


def test_telling_never_fails(board: Board, clock: Clock) -> None:
    board.grow("rounds/01/nothing")
    board.expect("rounds/01/nothing", 3, "x")
    board.end("rounds/01/nothing")
    assert board.problem is None
    board.begin(SAMPLES)
    board.grow(SAMPLES, None)  # type: ignore[arg-type]
    assert isinstance(board.problem, TypeError)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driven")
    run_job(make_project(folder), StandIns())
    return folder / "run"


def followed(run: Path, after: int) -> Iterator[Progress]:
    """The board of a driver that found so many records, after each one that it appends."""
    board, state = Board("tiny", 2), State()
    ledger: Any = SimpleNamespace(records=[], state=state)
    for record in Ledger(run / "ledger").records:
        state.apply(record)
        ledger.records.append(record)
        if len(ledger.records) < after:
            continue
        board.follow(ledger)
        assert board.problem is None
        yield board.look()


def test_rounds_that_are_over_are_lines(driven: Path) -> None:
    base, first, second = list(followed(driven, 1))[-1].finished
    assert (base.number, first.number, second.number) == (0, 1, 2)
    assert base.before is None and first.before == base.test and second.before == first.test
    assert first.promoted and first.pairs and first.won is not None and not first.kept and first.seconds


def test_what_was_there_is_marked_and_has_no_time(driven: Path) -> None:
    whole = Ledger(driven / "ledger").records
    first = next(record.number for record in whole if record.kind == "promotion")
    found = list(followed(driven, first + 1))
    assert [(line.number, line.kept, line.seconds) for line in found[0].finished] == [(0, True, None), (1, True, None)]
    assert [line.kept for line in found[-1].finished] == [True, True, False]
    assert found[-1].state == "finished"


def test_a_round_that_is_refused_says_so(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.baseline()
    run.evaluate(1, num_correct=30)
    run.promote(1, promoted=False, reference="baseline/model")
    board = Board("sample", 2)
    board.follow(Ledger(run.root / "ledger"))
    line = board.look().finished[-1]
    assert (line.promoted, line.before, line.test) == (False, 0.4, 0.3)


def test_how_it_ended_stands_on_the_board(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.end("failed", "no disk")
    board = Board("sample", 2)
    board.begin(SAMPLES)
    board.follow(Ledger(run.root / "ledger"))
    found = board.look()
    assert (found.state, found.reason) == ("failed", "no disk") and phase(board, SAMPLES).state == "failed"


def test_a_round_line_knows_no_figures_that_there_are_not() -> None:
    assert RoundLine(number=3).model_dump(exclude_defaults=True) == {"number": 3}


def test_what_turns_is_told_once_as_soon_as_it_is_seen(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.baseline()
    board, ledger = Board("sample", 2), Ledger(run.root / "ledger")

    def turned() -> list[Event]:
        ledger.refresh()
        board.follow(ledger)
        assert board.problem is None
        return [event for event in board.events() if isinstance(event, Turned)]

    assert turned() == []
    board.begin("rounds/01/verdicts")
    run.samples_and_verdicts(1)  # of which a quarter is ungradable
    [told] = turned()
    assert isinstance(told, Turned) and told.number == 1 and "25 % of the samples are ungradable" in told.text
    assert board.look().warnings == (told.text,)
    run.pairs(1)
    run.train(1)
    run.evaluate(1, num_correct=52)
    assert turned() == []
    run.promote(1)
    assert turned() == []
    line = board.look().finished[-1]
    assert line.warnings == (told.text,) and line.decision.startswith("promoted: 12 problems newly solved, 3 lost")
    assert line.health["pass_1"] == 0.25 and "prompts_mixed" in line.health
    again = Board("sample", 2)
    again.follow(ledger)
    assert [event for event in again.events() if isinstance(event, Turned)] == []
    assert again.look().finished[-1].warnings == (told.text,)


def test_a_round_that_is_over_is_not_looked_at_again_with_each_record(driven: Path) -> None:
    """Each round of a run of thousands would take longer than the one before."""
    looked: list[int] = []

    def check(evidence: Evidence, _past: Past) -> Iterator[str]:
        looked.append(evidence.round.number)
        yield f"seen in {evidence.round.number}"

    board, state = Board("tiny", 2, checks=[check]), State()
    ledger: Any = SimpleNamespace(records=[], state=state)
    for record in Ledger(driven / "ledger").records:
        state.apply(record)
        ledger.records.append(record)
        board.follow(ledger)
        assert board.problem is None
    assert looked == sorted(looked) and set(looked) == {1, 2}
    assert [event.text for event in board.events() if isinstance(event, Turned)] == ["seen in 1", "seen in 2"]
