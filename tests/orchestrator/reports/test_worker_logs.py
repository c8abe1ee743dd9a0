"""`ratchet logs`: what workers printed, found by round, step, shard and worker, in anybody's run."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.drive import identity, sign_of_life
from orchestrator.errors import BadInput
from orchestrator.ledger.run import Run
from orchestrator.reports.worker_logs import Wanted, tell
from tests.orchestrator.test_cli import ratchet


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has ended."""
    made = Run(tmp_path / "irpo")
    made.root.mkdir()
    made.claim(identity())
    made.end("interrupted", "SIGTERM")
    return made.root


def mark(word: str, at: float, step: str | None = None, shard: int | None = None, **more: Any) -> str:
    said: dict[str, Any] = {"ratchet": word, "at": at, "host": "a-host", "pid": 7}
    return json.dumps(said | ({"step": step} if step else {}) | ({} if shard is None else {"shard": shard}) | more)


def write(run: Path, name: str, *lines: str, end: str = "\n") -> None:
    file = run / "logs" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as log:
        log.write("\n".join(lines) + end)


TRAINING = ["trains", "last words"]
SAMPLES, VERDICTS = "rounds/01/samples", "rounds/01/verdicts"


def texts(run: Path, **wanted: Any) -> list[str]:
    found: list[str] = []
    tell(run, Wanted(**wanted), lambda line: found.append(line.text))
    return [text for text in found if not text.startswith(("starts", "begins", "ends", "fails"))]


@pytest.fixture
def said(run: Path) -> Path:
    engine = [mark("starts", 1), "loads", mark("begins", 2, SAMPLES, 3), "three", mark("begins", 4, SAMPLES, 4), "both"]
    engine += [mark("ends", 6, SAMPLES, 3), "four", mark("fails", 8, SAMPLES, 4, why="ValueError: no"), "idle"]
    engine += [mark("begins", 20, "rounds/02/samples", 3), "round two"]
    write(run, "e1/engine-0.log", *engine)
    write(
        run,
        "e1/grader-0.log",
        mark("starts", 1),
        mark("begins", 5, VERDICTS, 3),
        "graded",
        mark("ends", 5.5, VERDICTS, 3),
    )
    write(
        run, "e2/rank-1.log", mark("starts", 30), mark("begins", 31, "rounds/02/train"), "trains", "last words", end=""
    )
    write(run, "e2/rewarder-0.log", mark("starts", 40), "scores")
    write(run, "ray/worker-1.out", "before all else")
    return run


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ["before all else", "loads", "three", "both", "graded", "four", "idle", "round two", *TRAINING, "scores"]),
        ({"shard": 3}, ["three", "both", "graded", "round two"]),
        ({"round": 1, "shard": 3}, ["three", "both", "graded"]),
        ({"round": 1, "shard": 3, "role": "engine"}, ["three", "both"]),
        ({"round": 1, "step": "samples"}, ["three", "both", "four"]),
        ({"step": VERDICTS}, ["graded"]),
        ({"round": 2}, ["round two", *TRAINING]),
        ({"role": "rank"}, TRAINING),
        ({"driver": 1, "role": "engine", "worker": 0}, ["loads", "three", "both", "four", "idle", "round two"]),
        ({"worker": 9}, []),
        ({"role": "ray"}, ["before all else"]),
        ({"role": "rewarder"}, ["scores"]),
    ],
)  # fmt: skip
def test_lines_are_found_in_the_order_of_time(said: Path, wanted: dict[str, Any], expected: list[str]) -> None:
    assert texts(said, **wanted) == expected


def test_a_line_says_of_whom_and_of_what_it_is(said: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("logs", said, "--round", "1", "--role", "engine") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"e1/engine-0  {SAMPLES} shard 3: begins 1970-01-01 00:00:02"
    assert f"e1/engine-0  {SAMPLES} shards 3, 4: both" in out
    assert out[-1] == f"e1/engine-0  {SAMPLES} shard 4: fails 1970-01-01 00:00:08: ValueError: no"
    assert ratchet("logs", said, "--shard", "99") == 0
    assert "nothing that a worker printed" in capsys.readouterr().err


def test_a_worker_that_was_replaced_is_at_nothing_any_more(run: Path) -> None:
    write(
        run, "e1/engine-0.log", mark("starts", 1), mark("begins", 2, SAMPLES, 0), "dies", mark("starts", 3), "another"
    )
    assert texts(run, shard=0) == ["dies"]


def test_mistakes_have_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match="--role: 'driver' is none"):
        Wanted(role="driver")
    assert ratchet("logs", tmp_path) == 2 and "not a run" in capsys.readouterr().err
    assert ratchet("logs", run) == 0


FALSE_MARKS = [
    '{"ratchet": "begins"}',
    '{"ratchet": 1, "at": 1}',
    '{"ratchet": "begins", "at": NaN, "step": "x", "host": "h", "pid": 1}',
    '{"ratchet": "begins", "at": 1, "step": ["x"], "host": "h", "pid": 1}',
    '{"ratchet": "begins", "at": 1e400, "host": "h"}',
    '{"ratchet": ' + "[" * 60_000,
    '{"ratchet": "explodes", "at": 1, "host": "h", "pid": 1}',
    '{"ratchet": "begins", "at": 1' + "0" * 4000 + ', "step": "x", "host": "h", "pid": 1}',
]


@pytest.mark.parametrize("line", FALSE_MARKS, ids=range(len(FALSE_MARKS)))
def test_what_only_looks_like_a_mark_is_a_line(run: Path, line: str) -> None:
    write(run, "e1/engine-0.log", line)
    assert "".join(texts(run)) == line


def test_a_line_without_end_takes_no_memory_to_speak_of(run: Path) -> None:
    write(run, "e1/engine-0.log", "x" * 3_000_000, "next")
    found = texts(run)
    assert found[-1] == "next" and sum(map(len, found[:-1])) == 3_000_000 and max(map(len, found)) <= 2**16


def test_more_files_than_may_be_open_are_read(run: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        write(run, f"e1/rank-{number}.log", mark("starts", number), f"of {number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, most[1]))
    try:
        assert texts(run) == [f"of {number}" for number in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_marks_without_end_take_no_memory_to_speak_of(run: Path) -> None:
    write(run, "e1/engine-0.log", *(mark("begins", 1, f"rounds/01/{n}") for n in range(3000)), "text")
    found: list[int] = []
    tell(run, Wanted(), lambda line: found.append(len(line.works)))
    assert max(found) <= 100 and len(found) == 3001


def test_bytes_that_are_no_text_are_shown(run: Path) -> None:
    (run / "logs/e1").mkdir(parents=True)
    (run / "logs/e1/rank-0.log").write_bytes(b"a\xff\x00b\r\n")
    assert texts(run) == ["a\ufffd\x00b"]


def test_no_link_and_no_pipe_is_read(run: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write(outside, "e7/engine-0.log", "a secret")
    write(outside, "ray/worker-1.out", "a secret")
    (run / "logs/e1").mkdir(parents=True)
    (run / "logs/e1/engine-0.log").symlink_to(outside / "logs/e7/engine-0.log")
    os.mkfifo(run / "logs/e1/engine-1.log")
    (run / "logs/e1/engine-2.log").mkdir()
    (run / "logs/e7").symlink_to(outside / "logs/e7")
    (run / "logs/ray").symlink_to(outside / "logs/ray")
    assert texts(run) == []
    (run / "logs").rename(tmp_path / "before")
    (run / "logs").symlink_to(outside / "logs")
    assert texts(run) == []


def test_following_ends_with_the_driver(tmp_path: Path) -> None:
    run, found = Run(tmp_path / "irpo"), list[str]()
    run.root.mkdir()
    with sign_of_life(run):
        run.claim(identity())
        write(run.root, "e1/engine-0.log", mark("starts", 1), "first")
        read = partial(tell, run.root, Wanted(), lambda line: found.append(line.text), True)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait(lambda: "first" in found)
        write(run.root, "e1/engine-0.log", "sec", end="")
        write(run.root, "e1/engine-1.log", "of another")
        wait(lambda: "of another" in found)
        write(run.root, "e1/engine-0.log", "ond")
        wait(lambda: "second" in found)
        write(run.root, "e1/engine-0.log", "the end", end="")
        run.end("finished", "")
    reader.join(60)
    assert not reader.is_alive() and found[-1] == "the end" and "sec" not in found


def test_following_ends_with_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a worker that prints nothing meanwhile."""
    run = Run(tmp_path / "irpo")
    run.root.mkdir()
    reading, writing = os.pipe()
    os.close(reading)
    with sign_of_life(run), os.fdopen(writing, "w") as without_reader:
        run.claim(identity())
        monkeypatch.setattr(sys, "stdout", without_reader)
        assert tell(run.root, Wanted(), lambda line: None, follow=True) == 0
        monkeypatch.undo()


def wait(reached: Any) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
