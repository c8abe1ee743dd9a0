"""Progress in plain lines."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from orchestrator.reports.progress.board import LOOKING, Began, Come, Ended, Said, Turned
from orchestrator.reports.progress.figures import amount, duration, fitting
from orchestrator.reports.progress.lines import Lines, come, heartbeat, timed
from orchestrator.reports.progress.model import Phase, Progress, RoundLine
from tests.support.stand_ins import StandIns, make_project, run_job

SAMPLES = Phase(
    what="rounds/02/samples",
    done=1280,
    had=320,
    total=2400,
    unit="samples",
    rate=8304.2,
    rate_unit="tokens",
    counts={"samples": 1280, "tokens": 90000},
    seconds=63,
    left=72,
)
VERDICTS = Phase(
    what="rounds/02/verdicts",
    done=1240,
    total=2400,
    unit="samples",
    counts={"correct": 620, "wrong": 600, "ungradable": 20},
    seconds=63,
)
NOW = Progress(
    name="irpo", started=1.0, updated=64.0, seconds=63, rounds=3, round=2, left=3725, phases=(SAMPLES, VERDICTS)
)


def test_a_heartbeat_says_what_is_done_and_how_far_it_is() -> None:
    assert list(heartbeat(NOW)) == [
        "rounds/02  samples     ... 1,280/2,400 samples, 320 from the ledger, 8,304 tokens/s, 1:12 left",
        "rounds/02  verdicts    ... 1,240/2,400 samples, 50 % right, 20 ungradable, 1:03 so far",
        "time       round 2 of 3, 1:03 gone, about 1:02:05 left",
    ]


def test_in_the_first_round_it_says_that_the_time_is_not_known() -> None:
    first = NOW.model_copy(update={"left": None, "round": 1, "phases": ()})
    assert list(heartbeat(first)) == ["time       round 1 of 3, 1:03 gone, time left not known before a round is over"]
    base = first.model_copy(update={"round": 0})
    assert list(heartbeat(base)) == ["time       base model, 1:03 gone, time left not known before a round is over"]


def test_a_start_says_what_it_is_at() -> None:
    start = Phase(what="start/engines", detail="vLLM loads base", total=4, unit="engines", done=0, seconds=23)
    some = start.model_copy(update={"done": 1.0})
    now = NOW.model_copy(update={"phases": (start, some), "round": None, "left": None})
    told = list(heartbeat(now))
    assert told[0] == "start      engines     ... 0/4 engines, vLLM loads base, 0:23 so far"
    assert told[1] == "start      engines     ... 1/4 engines, vLLM loads base, 0:23 so far"


def test_what_is_over_has_no_heartbeat() -> None:
    assert list(heartbeat(NOW.model_copy(update={"state": "finished", "phases": ()}))) == []


def test_what_has_happened_is_a_line_each() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.look(NOW)
    assert said == [], "at the beginning nothing has happened"
    events = [
        Said("waiting   for room"),
        Began("start/engines", "vLLM loads base"),
        Ended("start/engines", "vLLM loads base", 23.4),
        Ended("start/golds", "", 0.1),
        Began(LOOKING, ""),
        Come("rounds/01/samples", "2400 at 8304 tokens/s", False),
        Come("rounds/01/hinted/samples", "20", True),
        RoundLine(number=1),
    ]
    for event in events:
        lines.hear(event)
    assert said == [
        "waiting   for room",
        "start      engines     vLLM loads base",
        "start      engines     done after 0:23",
        "rounds/01  samples     2400 at 8304 tokens/s",
        "rounds/01/hinted=samples     20",
    ]
    lines.look(NOW)
    assert len(said) == 5 + 3


def test_the_time_stands_before_each_line_and_a_new_day_is_told() -> None:
    said: list[str] = []
    moments = iter([datetime(2026, 11, 28, 23, 59, 58), datetime(2026, 11, 28, 23, 59, 59), datetime(2026, 11, 29)])
    told = timed(said.append, lambda: next(moments))
    for text in ("a", "b", "c"):
        told(text)
    dates = [line for line in said if "date" in line]
    assert dates == ["23:59:58 date       2026-11-28", "00:00:00 date       2026-11-29"]
    assert [line for line in said if line not in dates] == ["23:59:58 a", "23:59:59 b", "00:00:00 c"]


def test_what_the_ledger_had_is_marked_and_has_no_speed(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    first, second = run_job(job, StandIns()), run_job(job, StandIns())
    lines = [next(line for line in said if "samples" in line and "rounds/01" in line) for said in (first, second)]
    assert "samples     32 at" in lines[0] and lines[1] == come("rounds/01/samples", "32", kept=True)
    assert lines[1].startswith("rounds/01 =samples ")
    assert [line for line in second if "/s" in line] == []


def test_durations_and_amounts_are_short() -> None:
    assert [duration(s) for s in (0, 59.6, 754, 12310, 183400)] == ["0:00", "1:00", "12:34", "3:25:10", "2 d 02:56"]
    assert amount(Phase(what="x")) == "" and amount(Phase(what="x", done=3)) == "3"
    assert fitting(["1,280/2,400", "51 % right", "", "8,304 tokens/s"], 28) == "1,280/2,400, 51 % right"
    assert fitting(["too long for it"], 3) == "too long for it"


def test_a_round_that_is_over_has_its_health_after_the_gates_word_and_warnings_come_at_once() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.hear(Turned(1, "length creeps up"))
    lines.hear(RoundLine(number=1, health={"pass_1": 0.5, "pass_n": 0.75}))
    lines.hear(Come("rounds/01/gate", "promoted", kept=False))
    lines.hear(RoundLine(number=2, health={"pass_1": 0.5}, kept=True))
    lines.hear(RoundLine(number=0))
    lines.close(NOW)
    assert said == [
        "rounds/01  warning     length creeps up",
        "rounds/01  gate        promoted",
        "rounds/01  health      pass@1 50.0 %, pass@N 75.0 %",
        "rounds/02 =health      pass@1 50.0 %",
    ]
