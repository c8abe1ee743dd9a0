"""`ratchet verify`: is a run folder what its ledger says? Reads only, and serves a copy as well as the original."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from orchestrator import durable
from orchestrator.artifacts import Artifacts
from orchestrator.errors import Damaged
from orchestrator.ledger import Artifact, State, read_record, record_numbers
from orchestrator.lineage import follow
from orchestrator.status import open_run


@dataclass
class Report:
    """What was checked, and what is wrong: a line each."""

    findings: list[str] = field(default_factory=list)
    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    followed: list[int] = field(default_factory=list)
    """Promoted rounds whose checkpoint was followed back to its prompts."""
    discarded: int = 0
    """Committed artifacts that were removed on purpose."""
    strays: int = 0
    """Files below `baseline`, `ledger` and `rounds` that no record names. They do no harm."""

    def as_json(self) -> dict[str, Any]:
        return {"sound": not self.findings} | vars(self)

    def summary(self) -> str:
        followed = f"{len(self.followed)} promoted checkpoints followed to their prompts"
        return (
            f"{self.artifacts} artifacts, {self.files} files, {self.bytes:,} bytes; {followed}; "
            f"{self.discarded} discarded; {self.strays} strays; {len(self.findings)} findings"
        )


def verify(run_dir: Path, show: bool = False) -> Report:
    """Check every ledger record and every committed file, then the way from each promoted checkpoint to its prompts.
    `show` draws a progress bar on stderr.

    Raises:
        BadInput: there is no run in this folder, or a newer Ratchet wrote it.
    """
    if not any((run_dir / "ledger").glob("*.json")):
        open_run(run_dir)  # says what is there instead
    report = Report()
    state = _read_ledger(run_dir / "ledger", report.findings)
    report.discarded = len(state.discarded)
    bad = _check_files(run_dir, state, report, show)
    report.findings += _check_promotions(state)
    for number in (promotion["round"] for promotion in state.promotions if promotion["promoted"]):
        folder = f"rounds/{number:02d}"
        replays = f"{folder}/replay" in state.commits
        if any(name.startswith(f"{folder}/") or (replays and "/pairs/" in name) for name in bad):
            continue  # told already, and such files may not even be readable
        try:
            report.findings += follow(run_dir, state, number)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            report.findings.append(f"{folder}: cannot be followed to its prompts ({error})")
        report.followed.append(number)
    report.strays = _count_strays(run_dir, state)
    return report


def _read_ledger(folder: Path, findings: list[str]) -> State:
    """The fold of all records that can be read."""
    state = State()
    numbers = record_numbers(folder)
    last = max(numbers, default=-1)
    far = last > 2 * len(numbers) + 1000  # somebody's file far away: each number up to it would be a finding
    if far:
        findings.append(f"ledger: {last + 1 - len(numbers):,} records below {last:08d}.json are missing")
    for number in numbers if far else range(last + 1):
        path = folder / f"{number:08d}.json"
        try:
            record = read_record(path, number)
            if record.epoch < state.epoch + (record.kind == "claim"):
                findings.append(f"ledger/{path.name}: of epoch {record.epoch}, after epoch {state.epoch} has begun")
            state.apply(record)
        except FileNotFoundError:
            findings.append(f"ledger/{path.name}: missing")
        except (Damaged, OSError, KeyError, TypeError, AttributeError) as error:
            said = str(error).removeprefix(f"{path}: ") if isinstance(error, Damaged) else f"is damaged ({error!r})"
            findings.append(f"ledger/{path.name}: {said}")
    return state


def _check_files(run_dir: Path, state: State, report: Report, show: bool) -> set[str]:
    """Hash every committed file; returns the names of those that are not as committed."""
    artifacts, bad = list(state.artifacts()), set()
    columns = ("hashing", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not show) as progress:
        total = sum(said["size"] for artifact in artifacts for said in artifact.files.values())
        bar = progress.add_task("", total=total)
        for name, file, said in _files(run_dir, artifacts):
            report.files += 1
            if problem := _problem(file, said):
                bad.add(name)
                report.findings.append(f"{name}: {problem}")
            else:
                report.bytes += said["size"]
            progress.advance(bar, said["size"])
    report.artifacts = len(artifacts)
    return bad


def _files(run_dir: Path, artifacts: list[Artifact]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Each committed file: its name below the run, where it is, and what the ledger says of it."""
    at = Artifacts(run_dir)
    for artifact in artifacts:
        place = at.place(artifact)
        for name, said in artifact.files.items():
            yield f"{artifact.path}/{name}".rstrip("/"), place / name if name else place, said


def _problem(file: Path, said: dict[str, Any]) -> str | None:
    try:
        size = file.stat().st_size
        if size != said["size"]:
            return f"{size:,} bytes, and {said['size']:,} were committed"
        return None if durable.sha256(file) == said["sha256"] else "other bytes than were committed (sha256 differs)"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _check_promotions(state: State) -> Iterator[str]:
    committed = {artifact.path for commit in state.commits.values() for artifact in commit.artifacts}
    for promotion in state.promotions:
        # A seed model outside the run has an absolute path: it is not the run's to keep.
        path, what = str(promotion["reference"]), f"promotion of round {promotion['round']}"
        if not Path(path).is_absolute() and path not in committed:
            yield f"{what}: its reference {path} is not committed"
        elif promotion is state.promotions[-1] and path in state.discarded:
            yield f"{what}: its reference {path}, the current one, was discarded"


def _count_strays(run_dir: Path, state: State) -> int:
    # An offer that was not taken lies where it was put.
    offers = [replace(a, path=a.hidden) for offer in state.offers.values() for a in offer.artifacts]
    known = {file.absolute() for _, file, _ in _files(run_dir, [*state.artifacts(), *offers])}
    found = (path for folder in ("baseline", "rounds") for path in (run_dir / folder).rglob("*"))
    strays = sum(1 for path in found if path.is_file() and path.absolute() not in known)
    return strays + len(os.listdir(run_dir / "ledger")) - len(record_numbers(run_dir / "ledger"))
