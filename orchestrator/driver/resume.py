"""Going on with a run from what it says of itself: the newest `config` record has its job, the overrides that it was
started with, and the folders that relative paths of the job are in.

A run is where its folder is. It may have been moved or copied since it was started: its name stays, `run_dir` follows
the folder, and what the job names by a path may be named anew as long as it is the same.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.config import Job, is_executing
from orchestrator.config.addresses import without_password
from orchestrator.config.data import TESTS
from orchestrator.config.document import Key
from orchestrator.config.load import JobFile, job_of, load_job
from orchestrator.config.places import job_path, run_folder
from orchestrator.config.sources import kind_of
from orchestrator.driver import trust
from orchestrator.driver.trust import Item, Tell
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files.inside import run_around
from orchestrator.files.named import is_there, real
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.reports.status import open_run
from orchestrator.tracking.database import sqlite_address, sqlite_file

_OWN_COPIES = ("job.yaml", "resolved.yaml")
SOURCES = tuple(f"data.{split}.path" for split in ("train", "gate", "test"))


def command(root: Path) -> str:
    """The command that goes on with a run."""
    name = str(root)
    return shlex.join(["ratchet", "resume", f"./{name}" if name.startswith("-") else name])  # which is no option


def to_go_on(root: Path) -> str:
    """What goes on with a run that has come to no end. Where nothing was begun, or no word of the job is written yet,
    there is no run that knows its settings."""
    with contextlib.suppress(RatchetError, OSError):  # damaged: it was begun
        if not Ledger(root / "ledger").state.configs:
            return "nothing was begun: `ratchet run JOB` starts it"
    return f"to go on: {command(root)}"


def all_kept(_: Key) -> bool:
    """For what is only looked at."""
    return True


def deciding_kept(key: Key) -> bool:
    """A password that an earlier version let into a setting that decides results can only stay."""
    return not is_executing(".".join(map(str, key)))


def resumed(
    run: Path,
    overrides: Sequence[str] = (),
    tell: Tell | None = None,
    keeps: Callable[[Key], bool] = deciding_kept,
) -> JobFile:
    """The job of a run as its ledger has it, with `key=value` overrides, as a job file that drives this very run.
    `tell` is there with `--trust` (see `trust.require`); `keeps` is as in `parse_job`.

    Raises:
        BadInput: no run, one that was never started, overrides that make no job or belong to another run, or settings
            that need trust and are not approved.
    """
    root, state = real(run), open_run(run).state
    if not state.configs:
        raise BadInput(f"{run}: this run was never started, so that it knows no settings: `ratchet run JOB` starts it")
    path, config = root / "job.yaml", state.configs[-1]
    _refuse(root, overrides)
    file = job_of(config["job"], path, overrides, keeps)
    _require(root, state, file, lambda: job_of(config["job"], path, (), all_kept), overrides, tell)
    return _driving(root, state, replace(file, overrides=_joined(_overrides(config), overrides)))


def load(path: Path, overrides: Sequence[str] = (), tell: Tell | None = None) -> JobFile:
    """As `load_job`; but the copy of its job that stands in a run's folder goes on with that run, as `resumed` does.
    What was changed in the copy counts. A file in a run's folder is that run's word (see trust.py); `tell` as there.
    `demo` is the packaged job (see `places.job_path`).

    Raises:
        BadInput: as `load_job` and `resumed`.
    """
    path = job_path(path)
    trust.require_file(path)
    root = real(path).parent
    if path.name not in _OWN_COPIES or not (root / "ledger").is_dir():
        return _read(path, overrides, tell)
    state = Ledger(root / "ledger").state
    if not state.configs:
        return _read(path, overrides, tell)
    _refuse(root, overrides)
    if any(_is_copy(path, config) for config in state.configs):
        return resumed(root, overrides, tell)
    recorded = _overrides(state.configs[-1])
    file = load_job(path, _joined(recorded, overrides))
    _require(root, state, file, lambda: load_job(path, recorded), overrides, tell)
    return _driving(root, state, file)


def _read(path: Path, overrides: Sequence[str], tell: Tell | None) -> JobFile:
    """A job file that goes on with no run, though it may lie in the folder of one."""
    file = load_job(path, overrides)
    if (around := run_around(path)) is not None:
        what = f"{path}, which lies in the run {around} (it has a ledger)"
        trust.require(file, around, _without(lambda: load_job(path)), overrides, what, tell)
    return file


def _require(
    root: Path,
    state: State,
    file: JobFile,
    without: Callable[[], JobFile],
    overrides: Sequence[str],
    tell: Tell | None,
) -> None:
    """As `trust.require`, for a job that drives the run in `root`, wherever that was before."""
    before = _without(without)
    trust.require(
        _here(file, root, state), root, _here(before, root, state) if before else None, overrides, str(root), tell
    )


def _here(file: JobFile, root: Path, state: State) -> JobFile:
    job = file.job.model_copy(update={"run_dir": None})
    return replace(file, job=job, recorded=_recorded(state, root))


def needing_trust(run: Path, state: State) -> list[Item]:
    """What of a run's own settings needs trust (see trust.py)."""
    root = real(run)
    file = job_of(state.configs[-1]["job"], root / "job.yaml", (), all_kept)
    return trust.needs_trust(_here(file, root, state), root)


def _without(overrides: Callable[[], JobFile]) -> JobFile | None:
    """A job without some overrides; None where it is no job without them."""
    with contextlib.suppress(BadInput):
        return overrides()
    return None


def may_move(state: State, key: str, old: Any, new: Any) -> bool:
    """Whether a key only says where something is that the run knows by its content, so that it may be named anew; what
    is there now is compared by `same_job.check_same_problems` and `check_same_model`."""
    config = state.configs[-1]
    source = kind_of(config["job"])
    if key == "model":
        return bool(old and new) and "model_digest" in config and "baseline/model" not in state.commits
    if key in SOURCES and old and new and key.split(".")[1] in config.get("problems", {}):
        return not source.names_data or Path(old).stem == Path(new).stem
    if key == f"data.{TESTS}" and old and new:
        known = all(f"{TESTS}.{one.get('name')}" in config.get("problems", {}) for one in old)
        return known and _without_paths(old) == _without_paths(new)
    if source.kept_as.get(key) in state.commits:
        return _without_paths(old) == _without_paths(new)
    return False


def _without_paths(sources: Any) -> list[dict[str, Any]]:
    known = sources if isinstance(sources, list) else []
    return [{key: bool(value) if key == "path" else value for key, value in source.items()} for source in known]


def _refuse(root: Path, overrides: Sequence[str]) -> None:
    """Refuse what would make another run of it."""
    for override in overrides:
        key = override.partition("=")[0]
        if key == "run_dir":
            raise BadInput(f"run_dir: the run is where its folder is, {root}: to have it elsewhere, move the folder")
        if key == "method":
            raise BadInput(
                "method: a run has every setting, so that a method's row would change nothing. Give the settings "
                f"themselves, in another run where they change results (`ratchet fork {root} NEWRUN KEY=VALUE`)"
            )


def _overrides(config: Mapping[str, Any]) -> list[str]:
    """What was given on the command line beside the job file; of a fork its file has everything."""
    return [] if "parent" in config else list(config.get("overrides", []))


def _joined(before: Sequence[str], now: Sequence[str]) -> tuple[str, ...]:
    keys = {override.partition("=")[0] for override in now}
    kept = [override for override in before if override.partition("=")[0] not in keys]
    return (*(override for override in kept if without_password(override) == override), *now)


def _is_copy(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a file says what a `config` record says, alone or with the overrides that were given beside it."""
    try:
        recorded = _comparable(Job.model_validate(config["job"]))
    except ValidationError:  # an earlier version wrote the record
        return False
    for overrides in ([], _overrides(config)):
        with contextlib.suppress(BadInput):  # it is no job without them, or they do not fit it
            if _comparable(load_job(path, overrides).job) == recorded:
                return True
    return False


def _comparable(job: Job) -> dict[str, Any]:
    return job.model_dump(mode="json", exclude={"run_dir"})


def _driving(root: Path, state: State, file: JobFile) -> JobFile:
    """The file as one that drives the run in `root`, wherever that was before."""
    config, job = state.configs[-1], file.job
    if not _is_at(root, job):
        tracking = job.tracking.model_copy(update={"uri": _followed(job, config, root)})
        job = job.model_copy(update={"run_dir": str(root), "tracking": tracking})
    return replace(file, job=job, path=root / "job.yaml", recorded=_recorded(state, root))


def _is_at(root: Path, job: Job) -> bool:
    """Whether a job has its run in `root`. Where it was before, no run need have room any more: something else stands
    there, it is closed to us, or there is no such home folder on this machine."""
    try:
        return run_folder(job) == root
    except (BadInput, OSError):
        return False


def _recorded(state: State, root: Path) -> tuple[Path, ...]:
    return tuple(map(Path, folders(state))) or (root,)


def folders(state: State) -> list[str]:
    """Where relative paths of a run's job are: where its newest start found them, and then those before it. That may
    have been in Ray's copy of the project, which is gone."""
    return list(dict.fromkeys(folder for config in reversed(state.configs) for folder in config.get("folders", [])))


def _followed(job: Job, config: Mapping[str, Any], root: Path) -> str | None:
    """The tracking address of a run that was moved: a database of its runs' folder that is no longer there was moved
    with it, and is looked for at the same place seen from the run, else beside the run."""
    uri, before = job.tracking.uri, config["job"].get("run_dir")
    if uri is None or not before or uri != config["job"]["tracking"].get("uri"):
        return uri
    database, above = sqlite_file(uri), list(Path(before).parents)
    if database is None or is_there(database) or database.parent not in above:
        return uri
    level = above.index(database.parent)
    there = root.parents[level] / database.name if level < len(root.parents) else database
    return sqlite_address(there) if is_there(there) else None


def overrides_line(file: JobFile) -> str | None:
    """What a run adds to its job file, for people; None where that is nothing."""
    return without_password(shlex.join(file.overrides)) if file.recorded and file.overrides else None
