"""Every command over a run, files and settings whose every text would take over a terminal or a viewer."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.archive.sender import Sender
from orchestrator.cli import main
from orchestrator.commands.rescore import rescore, show
from orchestrator.config import Grade
from orchestrator.config.load import load_job
from orchestrator.driver.drive import drive
from orchestrator.errors import RatchetError
from orchestrator.reports.report import write_report
from orchestrator.sources.registry import SOURCES
from orchestrator.text.shown import as_json
from orchestrator.text.terminal import Screen, block, echo, shielded
from orchestrator.tracking.tracker import open_command
from tests.support.stand_ins import StandInGraders, StandIns, make_project, run_job
from tests.support.strangers_text import CLEAR, EVIL, NAME, require_dead, require_text
from tests.support.typed_commands import commands

SETTINGS: dict[str, Any] = {
    "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split"}
    | {"prompts_per_round": 8, "template": f"{EVIL} {{question}}\n"},
    "generate": {"samples": 4, "max_tokens": 8, "shard_prompts": 4, "stop": [EVIL]},
    "grade": {"answer": [f"pattern:answer{CLEAR.replace('[', '.')}(.*)"]},
    "tracking": {"enabled": False, "uri": f"http://{EVIL.replace('@', '')}", "experiment": EVIL},
}


class Strange(StandIns):
    """Workers that say such things of what they do."""

    def graders(self, settings: Any) -> StrangeGraders:
        return StrangeGraders(self)


class StrangeGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        verdict = super()._verdict(sample, gold)
        opinions = [(EVIL, verdict["verdict"]), ("other", "correct" if sample["sample_index"] == 1 else "wrong")]
        return verdict | {"rule": EVIL, "reason": EVIL, "opinions": opinions}

    def drain(self) -> Any:
        for shard, facts in super().drain():
            yield shard, facts | {"rules": {EVIL: 1}, "disputed": 1}


class Flipping(StrangeGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        return super()._verdict(sample, gold) | {"verdict": "correct" if sample["sample_index"] % 2 else "wrong"}


class FlippingWorkers(Strange):
    def graders(self, settings: Any) -> Flipping:
        return Flipping(self)


def fail(_: str) -> None:
    raise RatchetError(EVIL)


@dataclass(frozen=True)
class Stage:
    """The files of a stranger."""

    folder: Path
    job: Path
    run: Path
    failed: Path


def in_folder(job: Path, run: Path) -> Path:
    """The same job with another run folder; no KEY=VALUE can name such a one."""
    file = job.with_name(f"{run.name}.yaml")
    file.write_text(yaml.safe_dump(yaml.safe_load(job.read_text()) | {"run_dir": str(run)}))
    return file


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stranger") / NAME
    folder.mkdir()
    job = make_project(folder, rounds=1, **SETTINGS)
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        strange = ({key: f"{EVIL}{value}" for key, value in row.items()} for row in rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in strange))
    job = job.rename(folder / f"{NAME}.yaml")
    run, failed = folder / f"run {NAME}", folder / f"failed {NAME}"
    run_job(in_folder(job, run), Strange())
    with pytest.raises(RatchetError):
        run_job(in_folder(job, failed), StandIns(on_call=fail))
    (run / f"rounds/.{NAME}-e1").write_text("left over")
    return Stage(folder, job, run, failed)


Arguments = list[str | Path]


def with_json(*commands: Arguments) -> list[Arguments]:
    return [*commands, *([*command, "--json"] for command in commands)]


def bad_jobs(stage: Stage, command: str) -> list[Arguments]:
    """What a command says to mistakes of a job file and on the command line."""
    missing = yaml.safe_load(stage.job.read_text())
    missing["data"]["train"] = EVIL
    texts = [yaml.safe_dump(missing), yaml.safe_dump({EVIL: EVIL, "rounds": EVIL, "data": {EVIL: 1}}), f'"{EVIL}']
    files = []
    for number, text in enumerate(texts):
        files.append(stage.folder / f"{number} {NAME}.yaml")
        files[-1].write_text(text)
    arguments: list[Arguments] = [[command, file] for file in files]
    arguments += [[command, stage.job, f"{EVIL}=1"], [command, stage.job, f"rounds={EVIL}"], [command, stage.job, EVIL]]
    return [*arguments, [command, stage.folder / "no" / NAME], [command, f"--{EVIL}"]]


def comparisons(stage: Stage) -> list[Arguments]:
    file = stage.folder / f"compare {NAME}.yaml"
    job = stage.folder / "shared.yaml"
    shutil.copy(stage.job, job)
    file.write_text(yaml.safe_dump({"name": "compare", "job": "shared.yaml", "arms": {"irpo": {"seeds": [1]}}}))
    os.environ["RATCHET_HOME"] = str(stage.folder)
    root = stage.folder / "runs/compare/irpo-seed1"
    root.parent.mkdir(parents=True)
    shutil.copytree(stage.failed, root)
    wrong = stage.folder / f"wrong {NAME}.yaml"
    wrong.write_text(yaml.safe_dump({"name": EVIL, EVIL: 1, "job": EVIL, "arms": {EVIL: {EVIL: EVIL}}}))
    return [["compare", file, "--table"], ["compare", wrong], ["compare", stage.folder / NAME]]


def gradings(stage: Stage) -> list[Arguments]:
    rows = stage.folder / f"rows {NAME}.jsonl"
    rows.write_text("".join(json.dumps({"gold": f"{EVIL}1", "text": f"{EVIL}\nx\x1bz{n}"}) + "\n" for n in range(2)))
    rule = "pattern:x\x1b(z.)"
    out = stage.folder / f"out {NAME}.jsonl"
    plain: Arguments = ["grade", rows, "-o", out, "--grader", "exact", "--answer", rule, "--processes", "1"]
    bad = stage.folder / f"bad {NAME}.jsonl"
    bad.write_text(json.dumps({EVIL: EVIL}) + "\n")
    return [
        *with_json(plain),
        ["grade", bad, "-o", out],
        ["grade", rows, "-o", out, "--grader", EVIL],
        ["grade", rows, "-o", out, "--gold", EVIL],
        ["grade", stage.folder / NAME, "-o", out],
    ]


def printed(stage: Stage) -> list[Arguments]:
    """What workers have printed, and marks of it that say such things."""
    folder = stage.run / "logs/e1"
    folder.mkdir(parents=True)
    mark = {"ratchet": "begins", "at": 1.0, "step": EVIL, "host": EVIL, "pid": 1}
    marks = [mark | {"ratchet": "starts"}, mark, mark | {"ratchet": "fails", "why": EVIL}]
    texts = [*map(json.dumps, marks), EVIL, json.dumps(mark | {"at": EVIL})]
    (folder / "engine-0.log").write_text("".join(f"{text}\n" for text in texts), errors="surrogateescape")
    (folder / f"{NAME}.log").write_text(EVIL)
    return [["logs", stage.run], ["logs", stage.run, "--role", EVIL], ["logs", stage.failed, "--follow"]]


def fetches(stage: Stage) -> list[Arguments]:
    """Of an archive whose names are a stranger's, in a folder of such a name; whole, and then not."""
    place = stage.folder / f"an archive {NAME}"
    assert Sender(stage.run, str(place), keep=False).flush(), "it is archived"
    wrong = stage.folder / f"wrong {NAME}"
    shutil.copytree(place, wrong)
    said = json.loads((wrong / "archive.json").read_text())
    (wrong / "archive.json").write_text(json.dumps(said | {"name": EVIL}))
    return [
        ["fetch", place, stage.folder / f"fetched {NAME}"],
        ["fetch", place, stage.folder / f"fetched {NAME}"],
        ["fetch", wrong],
        ["fetch", stage.folder / NAME],
        ["fetch", f"s3://{EVIL}"],
    ]


COMMANDS: dict[str, Callable[[Stage], list[Arguments]]] = {
    "run": lambda stage: bad_jobs(stage, "run"),
    "resume": lambda stage: [["resume", stage.folder / "no" / NAME], ["resume", stage.failed, f"model={EVIL}"]],
    "list": lambda stage: with_json(["list", stage.folder], ["list", stage.run], ["list", stage.folder / NAME]),
    "status": lambda stage: with_json(["status", stage.run], ["status", stage.failed], ["status", stage.folder]),
    "inspect": lambda stage: with_json(
        *(["inspect", run] for run in (stage.run, stage.failed, damaged(stage), stage.folder / NAME)),
        ["inspect", stage.run, "--round", "1", "--full"],
        ["inspect", stage.run, "--round", "1", "--text", EVIL],
        ["inspect", stage.run, "--flipped"],
        ["inspect", stage.run, "--checkpoint"],
        ["inspect", stage.run, f"--problem={EVIL}train-1"],
        ["inspect", stage.run, f"--problem={EVIL}gate-1"],
        ["inspect", stage.run, f"--pair={EVIL}"],
        ["inspect", stage.run, f"--verdict={EVIL}"],
    ),
    "report": lambda stage: [
        *(["report", run] for run in (stage.run, stage.failed, damaged(stage), stage.folder / NAME)),
        ["report", stage.run, "-o", stage.folder / f"{NAME}.html"],
        ["report", stage.run, "-o", stage.folder / NAME],
    ],
    "logs": printed,
    "verify": lambda stage: with_json(
        *(["verify", run] for run in (stage.run, stage.failed, damaged(stage), stage.folder / NAME))
    ),
    "gc": lambda stage: [["gc", stage.run, "--dry-run"], ["gc", stage.run]],
    "rollback": lambda stage: [
        ["rollback", stage.run, "--to-round", "9", "--reason", EVIL],
        ["rollback", stage.folder / NAME, "--to-round", "0"],
        ["rollback", stage.failed, "--to-round", "0", "--reason", EVIL],
    ],
    "fork": lambda stage: [
        ["fork", stage.run, stage.folder / f"fork {NAME}", "loss.beta=0.2"],
        ["fork", stage.run, stage.folder / f"fork {NAME}", "loss.beta=0.2"],
        ["fork", stage.run, stage.folder / "another", f"{EVIL}=2"],
    ],
    "compare": lambda stage: [
        *comparisons(stage),
        *with_json(
            ["compare", stage.run, stage.failed],
            ["compare", stage.run, damaged(stage)],
            ["compare", stage.run, f"{stage.run}@round1"],
            ["compare", stage.run, stage.run, "--page", stage.folder / f"{NAME} compared.html"],
            ["compare", stage.run, stage.run, "--page", stage.folder / NAME],
        ),
    ],
    "rescore": lambda stage: with_json(
        ["rescore", stage.run, stage.folder / f"new {NAME}", f"grade.{EVIL}=1"],
        ["rescore", stage.folder / NAME, stage.folder / "new", "grade.strict=false"],
    ),
    "validate": lambda stage: [
        *bad_jobs(stage, "validate"),
        ["validate", stage.job],
        ["validate", stage.job, "--resolved"],
    ],
    "plan": lambda stage: with_json(
        *bad_jobs(stage, "plan"),
        ["plan", stage.job],
        ["plan", stage.job, "--cluster", EVIL],
    ),
    "init": lambda stage: [
        [
            "init",
            stage.folder / f"job {NAME}",
            "--data",
            stage.folder / "train.jsonl",
            "--model",
            stage.folder / "seed",
        ],
        ["init", stage.folder / f"job {NAME}", "--data", stage.folder / NAME, "--model", EVIL, "--task", EVIL],
        ["init", stage.folder / f"job {NAME}", "--data", stage.folder / NAME, "--model", EVIL],
    ],
    "doctor": lambda stage: with_json(*bad_jobs(stage, "doctor")[1:]),
    "grade": gradings,
    "archive": lambda stage: [
        ["archive", stage.run, stage.folder / f"archive {NAME}"],
        ["archive", stage.run, "/archives/there are none/x"],
        ["archive", stage.folder / NAME],
        ["archive", stage.run],
    ],
    "export": lambda stage: [
        ["export", stage.run, stage.folder / f"away {NAME}"],
        ["export", stage.run, stage.folder / f"away {NAME}"],
        ["export", stage.run, stage.folder / f"pairs {NAME}", "--pairs"],
        ["export", stage.folder / NAME, stage.folder / "nothing"],
        ["export", f"{stage.run}@{EVIL}", stage.folder / "nothing"],
        ["export", stage.run, EVIL, "--push"],
    ],
    "fetch": fetches,
    "ui": lambda stage: [["ui", stage.run], ["ui", stage.folder], ["ui", stage.folder / NAME]],
    "track": lambda stage: [
        ["track", stage.folder / NAME],
        ["track", stage.run, "--to", f"http://me:word@{EVIL}"],
    ],
    "docs": lambda stage: [["docs"]],
    "schema": lambda stage: [["schema"]],
    "version": lambda stage: [["version"]],
}


def damaged(stage: Stage) -> Path:
    copy = stage.folder / f"damaged {NAME}"
    if not copy.exists():
        shutil.copytree(stage.run, copy)
        next((copy / "rounds/01/samples").glob("*.parquet")).write_bytes(EVIL.encode())
        (copy / "ledger/00000003.json").write_text(json.dumps({"kind": EVIL, EVIL: EVIL}))
        shutil.rmtree(copy / "rounds/01/pairs")
    return copy


def test_every_command_is_tried() -> None:
    assert commands().keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_prints_is_text(
    command: str, stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(stage.folder))
    told = ""
    for arguments in COMMANDS[command](stage):
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        told += out + err
        require_text(out)
        require_text(err)
        assert out + err and "Traceback" not in err, arguments
        if "--json" in arguments and left.value.code in (0, 1) and out:
            json.loads(out)
    assert command in ("docs", "schema", "version") or "x1b" in told, "what the stranger says is not hidden, either"


def test_what_a_run_says_while_it_works_is_text(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with shielded(), pytest.raises(RatchetError) as failure:
        file = load_job(in_folder(stage.job, stage.folder / f"told {NAME}"))
        echo(f"run       {file.job.run_dir}")
        echo(f"dashboard {open_command(str(file.job.tracking.uri))}")
        drive(file, echo, [], lambda _job, _logs: Strange(on_call=fail), ask=unread)
    with shielded():
        block(f"ratchet: {failure.value}", err=True)
    out, err = capsys.readouterr()
    require_text(out)
    require_text(err)
    assert out.count("x1b]52") >= 3 and "x1b]52" in err


def unread(_grade: Grade, golds: Iterable[str]) -> tuple[dict[str, str], int]:
    """Graders that read none but one of the gold answers."""
    some = sorted(set(golds))
    return {gold: EVIL for gold in some[:1]}, len(some)


@pytest.mark.parametrize("run", ["run", "failed"])
def test_a_report_is_text_that_loads_nothing(stage: Stage, run: str) -> None:
    report = write_report(getattr(stage, run), SOURCES).read_text()
    require_dead(report)
    assert "x1b" in report
    require_text((getattr(stage, run) / "resolved.yaml").read_text())
    assert yaml.safe_load((getattr(stage, run) / "resolved.yaml").read_text())["generate"]["stop"] == [EVIL]


def test_a_comparison_is_text_that_loads_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage.folder / "runs/compare"
    if not folder.exists():
        monkeypatch.setenv("RATCHET_HOME", str(stage.folder))
        with pytest.raises(SystemExit):
            main([str(argument) for argument in comparisons(stage)[0]])
    table = (folder / "compare.md").read_text()
    require_dead(table, own=("accuracy.svg",))
    assert "x1b" in table
    for file in ("compare.json", "accuracy.svg"):
        require_text((folder / file).read_text())
    assert json.loads((folder / "compare.json").read_text())["arms"]


def test_what_another_grading_changes_is_told_as_text(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    new, said = stage.folder / "again", list[str]()
    settings = ["grade.strict=false"]
    found = rescore(stage.run, new, 1, settings, said.append, [], lambda _job, _logs: FlippingWorkers())
    assert found.flips
    with shielded():
        show(found, Screen())
    out = capsys.readouterr().out
    require_text(out)
    assert "x1b" in out
    document = as_json(found.as_json())
    require_text(document)
    assert json.loads(document) == json.loads(json.dumps(found.as_json()))
    require_text((new / "rescored.json").read_text())
