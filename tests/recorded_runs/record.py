"""Records the half-done runs beside this file, once a version and never again.

They are made by the code of that version: `cd OLD && PYTHONPATH=$PWD python NEW/tests/recorded_runs/record.py VERSION`
with a checkout of it in OLD. recipe-2 is of what came between two versions, whose fingerprints counted more than those
of now. The workers are the tests' stand-ins. In VERSION.tar.xz (plain files would be 50 times as large)
a kind of run has its data, job and base model in KIND/project, and for each place where it was stopped its run folder
in KIND/STOP: the files as they were, the ledger as one file of lines without their checks, and how much of which work
was done (done.json). Paths and names of the machine are replaced; `unpack` puts those of a test in their place.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import Interrupted
from orchestrator.files.durable import canonical, fingerprint
from orchestrator.records.reasoning_steps import StepItem, StepJudgement
from orchestrator.sources.steps.people import VerdictsNeeded
from tests.orchestrator.sources.test_sources import Hinted, Judging
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, right, wrong
from tests.support.stand_ins import StandIns, make_model, make_project, make_reward_model, run_job
from tests.support.step_stand_ins import STEPS, StepStandIns

HERE = Path(__file__).parent
FOLDER = "/home/somebody/project"
NOT_KEPT = ("ledger", "logs", "driver.json", "report.md", "report.html", "progress.json", "metrics.jsonl")

Job = Callable[[Path], Path]
"""Makes a project in a folder; returns the job file."""


class JudgedSteps(StepStandIns):
    """A judge that sees every slip."""

    def judge_steps(self, items: Sequence[StepItem]) -> tuple[list[StepJudgement], dict[str, Any]]:
        self.call("judge_steps")
        slips = [[number for number, text in enumerate(item.steps) if text.startswith("-")] for item in items]
        return [StepJudgement(min(s, default=None), None, ()) for s in slips], {"requests": len(items)}


class TwoSteps(StandIns):
    def __init__(self, **options: Any) -> None:
        super().__init__(steps=2, **options)


def problems(folder: Path, skill: float = 0.4, **changes: Any) -> Path:
    """A small project, whose problems have worked solutions."""
    generate = {"samples": 4, "max_tokens": 8, "shard_prompts": 2} | changes.pop("generate", {})
    changes = {"promotion": {"rule": "always"}, "seed": 8} | changes
    job = make_project(folder, skill, generate=generate, **changes)
    text = job.read_text().replace("prompts_per_round: 8", "prompts_per_round: 4")
    job.write_text(text + ("" if "rounds:" in text else "rounds: 2\n"))
    for split, count in (("train", 8), ("gate", 4), ("test", 4)):
        rows = [{"id": f"{split}-{i}", "question": f"{split} {i}?", "answer": str(i + 1)} for i in range(count)]
        rows = [row | {"solution": f"worked\nFinal answer: {row['answer']}"} for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return job


def job(skill: float = 0.4, **changes: Any) -> Job:
    return lambda folder: problems(folder, skill, **changes)


def with_reference(folder: Path) -> Path:
    make_model(folder / "ref", 0.75)
    return problems(folder, reference="ref", rounds=1)


def rewarded(folder: Path) -> Path:
    make_reward_model(folder / "reward")
    changes = {"reward": {"models": [{"model": "reward"}]}, "pairs": {"rule": "best_worst"}, "loss": {"nll": 0}}
    return problems(folder, rounds=1, **changes)


def stages(folder: Path) -> Path:
    return make_stages(folder, {"hard": wrong("h", 3), "mixed": right("m", 2) + wrong("n", 1)})


def steps(more: dict[str, Any] | None = None, **changes: Any) -> Job:
    generate = {"samples": 3, "max_tokens": 400}
    return job(0.6, method="step_dpo", steps=STEPS | changes, rounds=1, generate=generate, **(more or {}))


def processed(folder: Path) -> Path:
    make_reward_model(folder / "process")
    return steps(localiser="process", process={"model": "process", "threshold": 0.3})(folder)


@dataclass(frozen=True)
class Kind:
    """A kind of run, and where it was stopped: by a name, the round, and the piece of work that was not begun."""

    make: Job
    workers: Callable[..., StandIns]
    stops: dict[str, tuple[int, str]]


THREE = {"samples": (1, "generate"), "verdicts": (1, "grade"), "train": (1, "train")}
_ASKED = {"judge": {"model": "a-judge", "base_url": "http://localhost:8000/v1"}}
_DATA = {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split", "prompts_per_round": 4}
_SELF = {"source": "judge", "pairs": {"rule": "best_worst"}, "loss": {"nll": 0}}

KINDS: dict[str, Kind] = {
    "sample": Kind(job(pairs={"per_prompt": 2, "replay": 0.5}), StandIns, THREE | {"train": (2, "train")}),
    "judged-verdicts": Kind(job(grade={"graders": ["exact", "judge"]}, rounds=1, **_ASKED), StandIns, THREE),
    "regraded": Kind(job(regrade={"round": 2, "grade": {"strict": False}}), StandIns, {"verdicts": (2, "grade")}),
    "reference": Kind(with_reference, StandIns, {"train": (1, "train")}),
    "selection": Kind(
        job(train={"eval_every": 1, "select": "best", "retrain": True}, rounds=1),
        TwoSteps,
        {"train": (1, "train"), "retrain": (1, "train")},
    ),
    "gold": Kind(
        job(source="gold", loss={"dpo": 0, "nll": 1}, data=_DATA | {"solution": "solution"}),
        StandIns,
        {"train": (2, "train")},
    ),
    "hint": Kind(
        job(
            0.1,
            loss={"dpo": 0, "nll": 1},
            pairs={"rule": "correct"},
            rounds=1,
            generate={"hint": True},
            data=_DATA | {"hint_template": "{question} Hint: {answer}"},
        ),
        Hinted,
        THREE | {"hinted": (1, "grade")},
    ),
    "judge": Kind(
        job(self_judge={"template": "{prompt}|{response}", "samples": 2}, rounds=1, **_SELF),
        Judging,
        THREE | {"judged": (1, "grade")},
    ),
    "reward": Kind(rewarded, StandIns, {}),
    "dataset": Kind(stages, PreferenceStandIns, {"ranking": (0, "reference"), "train": (2, "train")}),
    "steps-rollouts": Kind(steps(), StepStandIns, THREE | {"search": (1, "grade")}),
    "steps-judge": Kind(steps(_ASKED, localiser="judge"), JudgedSteps, {"train": (1, "train")}),
    "steps-process": Kind(processed, StepStandIns, {}),
    "steps-file": Kind(steps(localiser="file"), StepStandIns, {"train": (1, "train")}),
    "executing": Kind(
        job(
            train={"ranks": 2, "zero": 2, "attention": "sdpa", "tokens_per_microbatch": 64},
            generate={"engine": {"block_size": 32, "quantization": None}, "tensor_parallel": 2},
        ),
        StandIns,
        {"samples": (2, "generate"), "train": (2, "train")},
    ),
}
RECORDED: dict[str, tuple[str, ...]] = {
    "0.1.0": tuple(kind for kind in KINDS if kind != "executing"),
    "recipe-2": ("sample", "selection", "dataset", "executing"),
}
"""Which kinds are recorded, by version."""


def begun(run: Path, number: int, stop: str, work: str) -> bool:
    """Whether the run is in the middle of what it is to be stopped in."""
    folder = run / f"rounds/{number:02d}"
    if stop == "ranking":
        return (run / "baseline/ranking/00").exists()
    if stop in ("hinted", "judged", "search"):
        return any(folder.glob(f"{stop}/**/samples/*.parquet"))
    if work in ("generate", "grade"):
        step = "samples" if work == "generate" else "verdicts"
        return (folder / f"{step}/00000.parquet").exists()
    return (folder / ("choice" if stop == "retrain" else "pairs")).exists()


def main(version: str, archive: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary), RECORDED[version])
        with tarfile.open(archive, "w:xz") as tar:
            for path in sorted(path for path in Path(temporary).rglob("*") if path.is_file()):
                plain = tarfile.TarInfo(str(path.relative_to(temporary)))
                plain.size = path.stat().st_size
                with open(path, "rb") as file:
                    tar.addfile(plain, file)


def record(out: Path, kinds: Sequence[str]) -> None:
    for name in kinds:
        kind = KINDS[name]
        for stop, (number, work) in kind.stops.items():
            with tempfile.TemporaryDirectory() as temporary:
                project = Path(temporary)
                job_file = kind.make(project)
                keep_project(project, out / name / "project")
                done = stopped(project / "run", job_file, kind, (number, stop, work))
                keep_run(project, out / name / stop, done)


def stopped(run: Path, job_file: Path, kind: Kind, where: tuple[int, str, str]) -> Counter[str]:
    """Run a job until it is to be stopped; returns the work that was done, by name."""
    number, stop, work = where
    done: Counter[str] = Counter()

    def on_call(name: str) -> None:
        if name == work and begun(run, number, stop, work):
            raise Interrupted("SIGTERM")
        done[name] += 1

    try:
        go_on(job_file, kind.workers(on_call=on_call))
    except Interrupted:
        return done
    raise AssertionError(f"{job_file}: nothing stopped it")


def go_on(job_file: Path, workers: StandIns) -> None:
    """Run or resume a job to its end, people included."""
    try:
        run_job(job_file, workers)
    except VerdictsNeeded:
        tell_steps(job_file.parent / "run")
        run_job(job_file, workers)


def tell_steps(run: Path) -> None:
    """What people say of the steps that they are asked about."""
    lines = []
    for question in map(json.loads, (run / "rounds/01/questions/00000.jsonl").read_text().splitlines()):
        slips = (step["number"] for step in question["steps"] if step["text"].startswith("-"))
        lines.append({"id": question["id"], "first_wrong": next(slips, None)})
    (run / "verdicts").mkdir()
    (run / "verdicts/round-01.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def keep_project(project: Path, folder: Path) -> None:
    shutil.copytree(project, folder, dirs_exist_ok=True)
    swap(folder, {str(project): FOLDER})


def keep_run(project: Path, folder: Path, done: Counter[str]) -> None:
    """The run's files and records, without the machine's names."""
    run = project / "run"
    shutil.copytree(run, folder, ignore=lambda at, names: NOT_KEPT if Path(at) == run else [])
    names = {str(project): FOLDER, str(Path.cwd()): f"{FOLDER}/code"}
    swap(folder, names)
    lines = []
    for path in sorted((run / "ledger").glob("*.json")):
        record = json.loads(replaced(path.read_text(), names))
        record.pop("check")
        if record["kind"] == "claim":
            record["data"] |= {"host": "a-host", "pid": 1000 + record["epoch"], "process_start": 10.0}
        lines.append(canonical(record) + b"\n")
    (folder / "ledger.jsonl").write_bytes(b"".join(lines))
    (folder / "done.json").write_text(json.dumps(done, sort_keys=True) + "\n")
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for private in (str(project), str(Path.cwd()), str(Path.home()), socket.gethostname()):
            assert private.encode() not in content, (path, private)


def texts(folder: Path) -> Iterable[Path]:
    return (path for suffix in ("yaml", "jsonl", "json") for path in sorted(folder.rglob(f"*.{suffix}")))


def replaced(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def swap(folder: Path, names: dict[str, str]) -> None:
    for path in texts(folder):
        path.write_text(replaced(path.read_text(), names))


def extract(version: str, folder: Path) -> Path:
    """All runs that were recorded with a version; returns the folder."""
    with tarfile.open(HERE / f"{version}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def unpack_project(recorded: Path, folder: Path) -> Path:
    """A recorded project without its run, in a new folder; returns its job file."""
    shutil.copytree(recorded / "project", folder)
    swap(folder, {FOLDER: str(folder)})
    return folder / "tiny.yaml"


def unpack(recorded: Path, stop: str, folder: Path) -> tuple[Path, Counter[str]]:
    """The same with a half-done run; returns the work that was done, too."""
    job_file, run = unpack_project(recorded, folder), folder / "run"
    shutil.copytree(recorded / stop, run)
    swap(run, {FOLDER: str(folder)})
    (run / "ledger").mkdir()
    for number, line in enumerate((run / "ledger.jsonl").read_text().splitlines()):
        record = json.loads(line)
        checked = canonical(record | {"check": fingerprint(record)}) + b"\n"
        (run / f"ledger/{number:08d}.json").write_bytes(checked)
    done = Counter(json.loads((run / "done.json").read_text()))
    for name in ("ledger.jsonl", "done.json"):
        (run / name).unlink()
    return job_file, done


if __name__ == "__main__":
    main(sys.argv[1], HERE / f"{sys.argv[1]}.tar.xz")
