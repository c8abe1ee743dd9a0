"""`fork`, `rescore`, `grade`, `compare`, `export`, `init`, `report`, killed, interrupted, or on a full disk at any of
their operations: the same command goes on, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from tests.faults.children import ALL_THAT_FOLLOW, Fault, finish, is_alive, note, scratch, small_project, tree, wait_for
from tests.faults.commands import Command, command, compared, rescored
from tests.faults.conftest import Shelf
from tests.faults.jobs import SAMPLE
from tests.faults.sweeps import sweep
from tests.orchestrator.commands.test_compare import project
from tests.orchestrator.commands.test_rescore import Workers
from tests.orchestrator.test_loop import history
from tests.support.stand_ins import run_job

FAULTS = {
    "kill": ("SIGKILL", 1),
    "SIGTERM": ("SIGTERM", 1),
    "full": ("full", 1),
    "full for good": ("full", ALL_THAT_FOLLOW),
}
STRIDES = {"fork": (131, 1), "rescore": (397, 3), "grade": (4, 1), "compare": (499, 23)}
STRIDES |= {"export": (7, 1), "export --pairs": (7, 1), "init": (7, 1), "report": (2, 1), "compare --page": (2, 1)}


@dataclass(frozen=True)
class Subject:
    """A command, what it leaves when nothing disturbs it, and how often it does something."""

    make: Callable[[Path], Command]
    """The command with a folder of its own below the one given."""
    left: object
    look: Callable[[Path], object]
    """What is compared of its folder."""
    operations: int
    once: str | None = None
    """What it says where it was done before, with exit code 2; None for a command that can be repeated."""


@pytest.fixture(scope="module")
def subject_of(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Subject]]:
    made: dict[str, Subject] = {}
    with scratch(tmp_path_factory.mktemp("commands")) as space:

        def subject(name: str) -> Subject:
            if name not in made:
                make, look, once = MAKERS[name](shelf, space)
                calm = make(space / f"calm-{name}")
                assert calm.run() == 0, calm.output
                made[name] = Subject(make, look(calm.folder), look, len(calm.operations), once)
            return made[name]

        yield subject


Made = tuple[Callable[[Path], Command], Callable[[Path], object], str | None]


def _fork(shelf: Shelf, _: Path) -> Made:
    parent = shelf.calm(SAMPLE).run
    once = f"exists already, a run, forked from {parent}. To go on with it: ratchet resume"
    return lambda folder: command(folder / "in", "fork", parent, "FOLDER/child"), _run_in("child"), once


def _run_in(name: str) -> Callable[[Path], object]:
    def look(folder: Path) -> object:
        assert os.listdir(folder) == [name]
        assert verify(folder / name).findings == []
        offers = sorted((step, str(index)) for step, index in Ledger(folder / name / "ledger").state.offers)
        return tree(folder / name), offers, history(folder / name)

    return look


def _rescore(_: Shelf, space: Path) -> Made:
    job = small_project(space / "rescored", pairs={"per_prompt": 2}, train={})
    run_job(job, Workers())

    def look(folder: Path) -> object:
        return _run_in("new")(folder), json.loads((folder / "new/rescored.json").read_text())

    return lambda folder: Command(folder / "in", partial(rescored, space / "rescored/run")), look, None


def _grade(_: Shelf, space: Path) -> Made:
    source = space / "answers.jsonl"
    source.write_text("".join(json.dumps({"gold": "7", "text": f"Final answer: {n}"}) + "\n" for n in range(9)))
    options = ("-o", "FOLDER/out.jsonl", "--grader", "exact", "--processes", "1")

    def look(folder: Path) -> object:
        assert os.listdir(folder) == ["out.jsonl"]
        return (folder / "out.jsonl").read_bytes()

    return lambda folder: command(folder / "in", "grade", source, *options), look, None


def _compare(_: Shelf, space: Path) -> Made:
    def make(folder: Path) -> Command:
        file = project(folder, arms={"sft": {}, "dpo": {}})
        for split, count in (("train", 8), ("gate", 3), ("test", 3)):
            rows = (folder / f"{split}.jsonl").read_text().splitlines(keepends=True)[:count]
            (folder / f"{split}.jsonl").write_text("".join(rows))
        return Command(folder / "runs/compare", partial(compared, file))

    def look(folder: Path) -> object:
        runs = [folder / name for name in ("sft-seed1", "dpo-seed1")]
        assert [verify(run).findings for run in runs] == [[], []]
        names = {name for name in os.listdir(folder) if not name.endswith(".log")}  # of a run that failed once
        svg = (folder / "accuracy.svg").read_bytes()
        return names, [(tree(run), history(run)) for run in runs], svg

    return make, look, None


def _makes(name: str, *arguments: object) -> Callable[[Shelf, Path], Made]:
    """A command that makes `name` of a finished run, RUN, or of problems, DATA, and is made once."""

    def make(shelf: Shelf, space: Path) -> Made:
        data, run = space / "problems.jsonl", shelf.calm(SAMPLE).run
        rows = ({"question": f"What is {n} plus {7 * n}?", "answer": str(8 * n)} for n in range(80))
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = [str(word).replace("RUN", str(run)).replace("DATA", str(data)) for word in arguments]

        def look(folder: Path) -> object:
            assert os.listdir(folder) == [name]
            place = folder / name
            return tree(place) if place.is_dir() else place.stat().st_size > 1000

        once = None if name.endswith(".html") else "exists already, and is left alone"
        return lambda folder: command(folder / "in", *given), look, once

    return make


MAKERS = {
    "fork": _fork,
    "rescore": _rescore,
    "grade": _grade,
    "compare": _compare,
    "export": _makes("child", "export", "RUN", "FOLDER/child"),
    "export --pairs": _makes("child", "export", "RUN", "FOLDER/child", "--pairs"),
    "init": _makes("child", "init", "FOLDER/child", "--data", "DATA", "--model", "ORG/NAME"),
    "report": _makes("child.html", "report", "RUN", "-o", "FOLDER/child.html"),
    "compare --page": _makes("child.html", "compare", "RUN", "RUN@round1", "--page", "FOLDER/child.html"),
}


def _cases() -> list[object]:
    cases: list[object] = []
    for name, (some, every) in STRIDES.items():
        for kind in FAULTS:
            if name in ("fork", "grade") or kind == "kill":
                cases.append(pytest.param(name, kind, some, id=f"{name}-{kind}-sample"))
            marks = pytest.mark.faults
            cases.append(pytest.param(name, kind, every, marks=marks, id=f"{name}-{kind}-every-{every}"))
    return cases


@pytest.mark.parametrize(("name", "kind", "stride"), _cases())
def test_disturbed_at_any_operation_the_same_command_goes_on(
    subject_of: Callable[[str], Subject], space: Path, name: str, kind: str, stride: int
) -> None:
    subject, (what, times) = subject_of(name), FAULTS[kind]

    def disturbed(point: int) -> int:
        case = subject.make(space / f"{name}-{kind}-{point}")
        code = case.run(Fault(what, point, times))  # type: ignore[arg-type]
        allowed = {"SIGKILL": (-9, 0), "SIGTERM": (130, 0), "full": (0, 1, 2)}[what]
        assert code in allowed, f"exit code {code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        if what == "full" and code:
            assert "cannot be written" in case.output or "a run needs a writable folder" in case.output, case.output
        whole = bool(subject.once) and case.names == ["child"]
        if what != "SIGKILL" and subject.once:
            assert whole or case.names == [], case.names  # it cleans up itself
        again = case.run()
        if whole:
            assert again == 2 and subject.once and subject.once in case.output
        else:
            assert again == 0, case.output
        assert subject.look(case.folder) == subject.left
        shutil.rmtree(space / f"{name}-{kind}-{point}")
        return 1 if code else 0

    ended = sweep(range(1 + stride // 2, subject.operations + 1, stride), disturbed)
    note(f"{name} {kind}", {"points": len(ended), "of": subject.operations, "ended the command": sum(ended)})


@pytest.mark.faults
def test_a_fork_that_is_killed_again_and_again(subject_of: Callable[[str], Subject], space: Path) -> None:
    subject = subject_of("fork")

    def killed(point: int) -> int:
        case = subject.make(space / f"again-{point}")
        for at in (point, max(1, subject.operations - point), point // 2 + 1):
            assert case.run(Fault("SIGKILL", at)) == -9
        assert case.run() == 0, case.output
        assert subject.look(case.folder) == subject.left
        return 1

    sweep(range(2, subject.operations, 13), killed)


def test_a_fork_that_is_being_made_is_let_be(subject_of: Callable[[str], Subject], space: Path) -> None:
    subject = subject_of("fork")
    case = subject.make(space / "two")
    first = case.start(Fault("SIGSTOP", subject.operations // 2))
    try:
        while not [name for name in case.names if name.startswith(".child.fork-")]:
            assert is_alive(first)
        assert case.run() == 2
        assert f"process {first.pid} on this host is making it" in case.output
    finally:
        assert first.pid
        os.kill(first.pid, signal.SIGCONT)
    assert finish(first) == 0
    assert subject.look(case.folder) == subject.left


def test_two_at_one_comparison(subject_of: Callable[[str], Subject], space: Path) -> None:
    subject = subject_of("compare")
    case, wait = subject.make(space / "two"), space / "wait"
    first = Command(case.folder, partial(case.call, wait=wait)).start()  # type: ignore[arg-type]
    wait_for(wait, first)
    assert case.run() == 2
    assert f"process {first.pid} on " in case.output and " is at this comparison. Wait for it" in case.output
    first.kill()
    finish(first)
    assert case.run() == 0, case.output
    assert subject.look(case.folder) == subject.left
