"""Every command with what is no file, and no folder either, in the place of each path that it takes."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job
from tests.support.typed_commands import commands

ODD: dict[str, Callable[[Path], None]] = {
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "null": lambda path: path.symlink_to(os.devnull),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "circle": lambda path: path.symlink_to(path),
}
COMMANDS: dict[str, list[str]] = {
    "run": ["run", "{odd}.yaml"],
    "run run_dir": ["run", "{job}", "run_dir={odd}"],
    "run data": ["run", "{job}", "data.train.path={odd}.jsonl"],
    "run parquet": ["run", "{job}", "data.train.path={odd}.parquet"],
    "run model": ["run", "{job}", "model={odd}"],
    "resume": ["resume", "{odd}"],
    "list": ["list", "{odd}"],
    "status": ["status", "{odd}"],
    "inspect": ["inspect", "{odd}"],
    "report": ["report", "{odd}"],
    "report to": ["report", "{run}", "-o", "{odd}.html"],
    "ui": ["ui", "{odd}"],
    "track": ["track", "{odd}"],
    "verify": ["verify", "{odd}"],
    "gc": ["gc", "{odd}"],
    "rollback": ["rollback", "{odd}", "--to-round", "0"],
    "logs": ["logs", "{odd}"],
    "archive": ["archive", "{odd}", "{new}"],
    "archive to": ["archive", "{run}", "{odd}"],
    "export": ["export", "{odd}", "{new}"],
    "export to": ["export", "{run}", "{odd}"],
    "export pairs to": ["export", "{run}", "{odd}", "--pairs"],
    "init": ["init", "{new}", "--data", "{odd}.jsonl", "--model", "ORG/NAME"],
    "init parquet": ["init", "{new}", "--data", "{odd}.parquet", "--model", "ORG/NAME"],
    "fetch": ["fetch", "{odd}", "{new}"],
    "fork": ["fork", "{odd}", "{new}"],
    "fork to": ["fork", "{run}", "{odd}"],
    "rescore": ["rescore", "{odd}", "{new}"],
    "rescore to": ["rescore", "{run}", "{odd}", "grade.strict=false"],
    "compare": ["compare", "{odd}.yaml"],
    "compare job": ["compare", "{comparison}"],
    "validate": ["validate", "{odd}.yaml"],
    "plan": ["plan", "{odd}.yaml"],
    "plan data": ["plan", "{job}", "data.gate.path={odd}.jsonl"],
    "validate data": ["validate", "{job}", "data.gate.path={odd}.jsonl"],
    "doctor": ["doctor", "{odd}.yaml"],
    "grade": ["grade", "{odd}.jsonl", "-o", "{new}.jsonl"],
    "grade parquet": ["grade", "{odd}.parquet", "-o", "{new}.jsonl"],
}
GOOD = {("run run_dir", "folder"), ("fork to", "folder"), ("rescore to", "folder"), ("archive to", "folder")}
GOOD |= {("list", "folder"), ("export to", "folder"), ("export pairs to", "folder")}
"""An empty folder is where a run may be made, or an archive, and has no runs."""


class Waiting(BaseException):
    """Not an OSError, as TimeoutError is: a command would tell it as one of the file."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Whoever waits for a pipe is woken in a minute, and whoever reads a device has no more than 2 GiB for it."""

    def wake(*_: object) -> None:
        raise Waiting

    before, limits = signal.signal(signal.SIGALRM, wake), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), limits[1]))
    signal.alarm(60)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_job(make_project(folder, rounds=1), StandIns())
    return folder / "run"


def test_every_command_that_takes_a_path_is_here() -> None:
    names = set(commands())
    assert {given[0] for given in COMMANDS.values()} == names - {"docs", "schema", "version"}


@pytest.mark.parametrize(("command", "kind"), [(c, k) for c in COMMANDS for k in ODD if (c, k) not in GOOD])
def test_what_is_no_file_is_refused_at_once(
    run: Path, tmp_path: Path, command: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_project(tmp_path / "project", rounds=1, run_dir=str(tmp_path / "other"))
    end = next((Path(part).suffix for part in COMMANDS[command] if "{odd}." in part), "")
    ODD[kind](odd := tmp_path / f"odd{end}")
    comparison = tmp_path / "compare.yaml"
    comparison.write_text(f"name: c\njob: {odd}\narms: {{irpo: {{}}, dpo: {{}}}}\n")
    before = sorted(os.listdir(tmp_path))
    places = {"odd": tmp_path / "odd", "run": run, "new": tmp_path / "new", "job": job, "comparison": comparison}
    given = [part.format(**places) for part in COMMANDS[command]]
    with bounded():
        assert ratchet(*given) == 2, capfd.readouterr().err
    said = capfd.readouterr().err
    assert ("Traceback" not in said and odd.name in said) or (kind in ("zero", "null") and "/dev/" in said)
    assert sorted(os.listdir(tmp_path)) == before


MADE: dict[str, list[str]] = {
    "run": ["run", "{job}", "run_dir={place}"],
    "archive": ["archive", "{run}", "{place}"],
    "fetch": ["fetch", "{archive}", "{place}"],
    "export": ["export", "{run}", "{place}"],
    "export pairs": ["export", "{run}", "{place}", "--pairs"],
    "fork": ["fork", "{run}", "{place}"],
    "rescore": ["rescore", "{run}", "{place}", "grade.strict=false"],
    "init": ["init", "{place}", "--data", "{problems}", "--model", "ORG/NAME"],
    "grade": ["grade", "{answers}", "-o", "{place}.jsonl", "--grader", "exact"],
    "report": ["report", "{run}", "-o", "{place}.html"],
    "compare": ["compare", "{run}", "{run}", "--page", "{place}.html"],
}
"""What makes something, by where."""


@pytest.mark.parametrize("place", ["/proc/x", "/sys/x", "/dev/null/x"])
@pytest.mark.parametrize("command", MADE)
def test_where_nothing_can_be_made_is_told_as_that(
    run: Path, tmp_path: Path, command: str, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not as a folder that was moved, a file that went, or a disk that is to be mounted."""
    job = make_project(tmp_path / "project", rounds=1)
    places = {"run": run, "job": job, "place": place, "archive": tmp_path / "archive"}
    places["problems"], places["answers"] = tmp_path / "project/problems.jsonl", tmp_path / "answers.jsonl"
    places["answers"].write_text('{"gold": "7", "text": "Final answer: 7"}\n')
    rows = ({"question": f"What is {n} plus {7 * n}?", "answer": str(8 * n)} for n in range(80))
    places["problems"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    if command == "fetch":
        assert ratchet("archive", str(run), str(places["archive"])) == 0
        capfd.readouterr()
    with bounded():
        assert ratchet(*(part.format(**places) for part in MADE[command])) in (1, 2)
    said = capfd.readouterr().err
    told = next(line for line in said.splitlines() if line.startswith("ratchet: "))
    assert "Traceback" not in said and os.path.dirname(place) in told
    assert not any(wrong in told for wrong in ("put it back", "while it was looked at", "mount", "File exists")), told


NOWHERE: dict[str, tuple[list[str], int]] = {
    "run": (["run", "{job}"], 2),
    "run relative": (["run", "tiny.yaml"], 2),
    "resume": (["resume", "{run}"], 2),
    "fork": (["fork", "{run}", "{new}", "loss.beta=0.2"], 2),
    "rescore": (["rescore", "{run}", "{new}", "grade.strict=false"], 2),
    "compare": (["compare", "{comparison}"], 2),
    "doctor": (["doctor", "{job}"], 2),
    "status relative": (["status", "run"], 2),
    "validate": (["validate", "{job}"], 0),
    "grade": (["grade", "{answers}", "-o", "{new}.jsonl", "--grader", "exact"], 0),
    "status": (["status", "{run}"], 0),
    "verify": (["verify", "{run}"], 0),
    "gc": (["gc", "{run}"], 0),
    "list": (["list"], 2),
    "inspect": (["inspect", "{run}"], 0),
    "report": (["report", "{run}"], 0),
    "compare runs": (["compare", "{run}", "{run}"], 0),
    "export": (["export", "{run}", "{new}"], 0),
    "init": (["init", "{new}", "--data", "{problems}", "--model", "ORG/NAME"], 0),
}
"""What a current folder that is gone is needed for, and what does without."""


@pytest.mark.parametrize("command", NOWHERE)
def test_a_current_folder_that_is_gone_is_told(
    run: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = make_project(tmp_path / "project", rounds=1, run_dir=str(tmp_path / "other"))
    (comparison := tmp_path / "compare.yaml").write_text(f"name: c\njob: {job}\narms: {{irpo: {{}}, dpo: {{}}}}\n")
    (answers := tmp_path / "answers.jsonl").write_text('{"gold": "7", "text": "Final answer: 7"}\n')
    before, (given, code) = sorted(os.listdir(tmp_path)), NOWHERE[command]
    places = {"run": run, "new": tmp_path / "new", "job": job, "comparison": comparison, "answers": answers}
    rows = ({"question": f"What is {n} plus {7 * n}?", "answer": str(8 * n)} for n in range(80))
    places["problems"] = tmp_path / "project/problems.jsonl"
    places["problems"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with bounded():
        assert ratchet(*(part.format(**places) for part in given)) == code, capfd.readouterr().err
    said = capfd.readouterr().err
    assert "Traceback" not in said
    if code:
        assert (
            said
            == "ratchet: the current folder was deleted or unmounted: go to another one, and give the command there\n"
        )
        assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("command", "key"),
    [
        pytest.param(command, key, marks=() if command == usual else pytest.mark.faults)
        for key, usual in {"run_dir": "run", "model": "validate", "data.gate": "run"}.items()
        for command in ("validate", "run")
    ],
)
def test_a_name_that_the_locale_cannot_spell_is_told(tmp_path: Path, command: str, key: str) -> None:
    job = make_project(tmp_path)
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    said = subprocess.run(
        [sys.executable, "-m", "orchestrator", command, str(job), f'{key}="{tmp_path}/caf\\u00e9.jsonl"'],
        env=os.environ | ascii_alone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2 and "Traceback" not in said.stderr
    assert "no file can have that name here, where Python spells names in ascii" in said.stderr
