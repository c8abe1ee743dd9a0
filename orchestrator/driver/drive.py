"""One driver of one run: claim it, check that it is the same job, run the rounds, say how it ended."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from orchestrator import __version__
from orchestrator.config import Job
from orchestrator.config.load import JobFile, holds_secret, resolved_yaml
from orchestrator.config.places import require_room, run_folder
from orchestrator.config.yaml_text import MAX_JOB
from orchestrator.driver.followers import Followers
from orchestrator.driver.harness import with_tasks
from orchestrator.driver.kept import (
    KEPT_MODEL,
    KEPT_PREFERENCES,
    KEPT_PROBLEMS,
    Problems,
    base_model_of,
    has_begun,
    keep_model,
    keep_preferences,
    keep_problems,
    keep_reward_models,
    read_all_preferences,
    reference_of,
    reward_models_of,
)
from orchestrator.driver.known_problems import KnownProblems
from orchestrator.driver.preview import Render
from orchestrator.driver.same_job import (
    as_begun,
    check_same_job,
    check_same_model,
    check_same_problems,
    problem_digests,
    reading_of,
)
from orchestrator.driver.settled import kept_of
from orchestrator.driver.start_checks import check_start, limits_of
from orchestrator.driver.trainable import Trial
from orchestrator.driver.trust import needs_trust, remember
from orchestrator.driver.wiring import ENGINE, RealWorkers, unread_golds
from orchestrator.errors import BadInput, Damaged, Displaced, Interrupted, RatchetError, of_file
from orchestrator.files import known_hashes
from orchestrator.files.disk import one_message, why
from orchestrator.files.inside import read_regular, remove
from orchestrator.files.processes import pid_namespace, process_start
from orchestrator.inputs.gold_check import Ask
from orchestrator.inputs.preferences import identity_of
from orchestrator.inputs.problems import pin
from orchestrator.ledger.ledger import Ledger, probe_links
from orchestrator.ledger.run import Run
from orchestrator.loop import improve
from orchestrator.models.named import NamedModel, model_digest
from orchestrator.records.progress import START, during, starting
from orchestrator.reports.journal import JournalFile
from orchestrator.reports.progress.board import Board
from orchestrator.reports.progress.file import ProgressFile
from orchestrator.reports.progress.lines import Lines
from orchestrator.reports.progress.showing import View, shown
from orchestrator.reports.status import MAX_SIGN_OF_LIFE, run_state
from orchestrator.rounds.context import Harness, Say, Workers
from orchestrator.rounds.round import GateStopped, NoPairs
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.text.terminal import unfailing

_KEPT = "What is committed is kept: see to the disk, and the same command goes on from here."
"""Said where a disk ends a run; no `ratchet resume`, which finds no run before its job is written down."""
_SIGN_OF_LIFE = 5.0  # seconds
_PACKAGES = (
    "ray",
    *ENGINE.packages,
    "deepspeed",
    "torch",
    "transformers",
    "mlflow",
    "math-verify",
    "pyarrow",
)


def healthy_driver(root: Path) -> str | None:
    """Who seems to be driving the run right now, for a person to be asked about; None when nobody does."""
    if not (root / "ledger").is_dir():
        return None
    state = Ledger(root / "ledger").state
    if run_state(root, state) != "running":
        return None
    return f"process {state.driver.get('pid')} on {state.driver.get('host')}"


class Crew(AbstractContextManager[Workers], Protocol):
    """Workers that are not hired yet."""

    def harness(self) -> Harness:
        """See `Workers`."""


Hire = Callable[[Job, Path], Crew]
Loop = Callable[[Job, Run, Workers, Problems, str, Say, Sources], object]
"""What is done in a run, as steps of it: `improve`, or something of its signature."""


def drive(
    file: JobFile,
    say: Say,
    received: Sequence[str],
    hire: Hire = RealWorkers,
    loop: Loop = improve,
    goal: str | None = None,
    ask: Ask = unread_golds,
    render: Render | None = None,
    sources: Sources = SOURCES,
    trial: Trial | None = None,
    view: View | None = None,
) -> None:
    """Run a job to its end, or resume it. `received` are the signals so far (see `signals`); `hire` gives the
    workers of a job, told a folder for their logs. `goal` is the step that `loop` ends with, where that is not all of
    the job's rounds. Before a run starts, `ask` has the graders say which gold answers they cannot read, and with
    `render` its prompts are looked at, and with `trial` its models. `sources` are those of pairs, by name. How it goes
    is shown by `view`; without one, or where that fails, `say` is told in lines.

    Raises:
        GateStopped, BadInput, RatchetError, Interrupted: how it ended, which is in the ledger already.
    """
    root, say = require_room(run_folder(file.job)), unfailing(say)
    board = Board(file.job.name, file.job.rounds, checks=sources[file.job.source.type].reported.symptoms)
    with of_file(file.path):
        followers = Followers(root, file.job, board, sources)
    run = Run(root, on_append=lambda: followers.poke(run.ledger), watch=board)
    lines = Lines(say) if view else Lines(say, heartbeat=None, starts=False)
    ask = during(board, f"{START}/golds", "looks whether graders read the gold answers", ask)
    render = render and during(board, f"{START}/prompts", "looks at prompts as the model gets them", render)
    trial = trial and during(board, f"{START}/trainer", "looks whether the trainer fits the model", trial)
    views = [view or lines, ProgressFile(run), JournalFile(run, followers.measured)]
    with shown(board, views, root, say, spare=lines):
        _drive(_Driving(run, followers, board), file, received, hire, loop, goal, ask, render, sources, trial)


@dataclass(frozen=True)
class _Driving:
    """A run, and who is told of it."""

    run: Run
    followers: Followers
    board: Board


def _drive(
    driving: _Driving,
    file: JobFile,
    received: Sequence[str],
    hire: Hire,
    loop: Loop,
    goal: str | None,
    ask: Ask,
    render: Render | None,
    sources: Sources,
    trial: Trial | None,
) -> None:
    run, followers, board = driving.run, driving.followers, driving.board
    root, here, say = run.root, Path.cwd(), board.say
    job = (file := replace(file, job=as_begun(run, file.job))).job
    check_same_job(run, job)
    if told := remember(needs_trust(file, root)):  # whoever drives it has been asked (see `load` and `resumed`)
        say(told)
    known_hashes.load(root)
    crew = hire(with_tasks(file), root / "logs")  # nothing is started yet; what could not be is told
    with starting(board, f"{START}/model", detail=str(job.model)):
        base = base_model_of(file, run)
        check_same_model(run, base)
        reference, rewards = reference_of(file, run, base), reward_models_of(file, run)
    _tell_models(say, job, base, {"reference": reference} | rewards)
    kept, reading = run.committed(KEPT_PROBLEMS) is not None, reading_of(run)
    with starting(board, f"{START}/data", detail="problems and preference data"):
        pinned = job.data if kept else pin(job.data)
        known = None if kept else KnownProblems(run, file, pinned, reading)
        problems: Problems = known.read() if known else {}
    digests = None if kept or job.data.from_hub else problem_digests(problems)
    check_same_problems(run, job, digests)
    given = identity_of(job, file.find)  # before they are read: a change since then is seen at the next start
    preferences = None if run.committed(KEPT_PREFERENCES) else read_all_preferences(file, problems)
    _tell_stages(say, preferences)
    check_start(file, run, base.folder, problems, preferences or [], say, ask, render, sources, trial, reference)
    if job.evaluate.harness and not has_begun(run):
        with starting(board, f"{START}/tasks", detail=", ".join(job.evaluate.harness.tasks)):
            crew.harness().check()
    probe_links(root)
    ending = _ending(run, received, goal, followers)
    with one_message(root, _KEPT), sign_of_life(run), followers.catching_up(), ending:
        run.claim(identity())
        followers.start(run.ledger)
        check_same_job(run, job)  # again: somebody may have started the run since
        check_same_problems(run, job, digests)
        _record_job(run, file, here, base, digests, reading)
        if known:
            known.remember()
        problems = keep_problems(run, job, pinned, problems)
        keep_preferences(run, file, given, preferences, problems, checked=not kept)
        preferences = None  # a large data set is not held in memory for the whole run
        model = _keep_models(run, job, base, reference, rewards)
        if (decided := len(run.ledger.state.promotions)) > job.rounds:
            say(f"rounds    {decided} are decided, and {job.rounds} wanted: nothing is left to do, and all are kept")
        with crew as workers, _interruption(run, received):
            workers.report_to(say, followers.meters, run.path(f"logs/e{run.epoch}"), board)
            _settle(workers, run, model)
            loop(job, run, workers, problems, model, say, sources)


def _keep_models(
    run: Run, job: Job, base: NamedModel, reference: NamedModel | None, rewards: Mapping[str, NamedModel]
) -> str:
    """Keep what of a run's models it has to; returns the base model's folder."""
    model = keep_model(run, job, base)
    if reference:
        keep_model(run, job, reference, "reference")
    keep_reward_models(run, job, rewards)
    return model


def _tell_models(say: Say, job: Job, base: NamedModel, others: Mapping[str, NamedModel | None]) -> None:
    """Say where models come from that are no folders of the user's, and which limits fit their size. `others` are the
    reference, and reward models by the step that keeps each."""
    for name, model in {"model": base, **others}.items():
        if model and model.origin:
            say(f"{'reward' if '/' in name else name:<9} {model}")
    for line in limits_of(job, base.folder).lines():
        say(line)


def _tell_stages(say: Say, preferences: Sequence[object] | None) -> None:
    for source in preferences or ():
        say(f"stages    {source}")


@contextlib.contextmanager
def sign_of_life(run: Run) -> Iterator[None]:
    """Keep `driver.json` fresh, by which `status` tells a running driver from one that was killed."""
    stop, root = threading.Event(), run.root
    content = json.dumps(identity() | {"started": datetime.now(UTC).isoformat(), "run": str(root)}).encode()

    def beat() -> None:
        while True:
            with contextlib.suppress(Exception):  # which the next piece of work tells
                run.write("driver.json", content)
            if stop.wait(_SIGN_OF_LIFE):
                return

    thread = threading.Thread(target=beat, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        # A driver that was displaced leaves its successor's file alone.
        with contextlib.suppress(OSError, Damaged):
            if read_regular(root / "driver.json", MAX_SIGN_OF_LIFE) == content:
                remove(root, root / "driver.json")


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
def _ending(run: Run, received: Sequence[str], goal: str | None, followers: Followers) -> Iterator[None]:
    """Write down how the driver ended, and the report; `received` are the signals so far."""
    try:
        with _told(run, received, goal):
            yield
    except Displaced:
        raise
    except (GateStopped, NoPairs):
        followers.finish_report(run.ledger)
        raise
    except BaseException as error:
        with contextlib.suppress(OSError, RatchetError, ValueError):  # what ended it says more
            followers.finish_report(run.ledger, hasty=isinstance(error, Interrupted))
        raise
    followers.finish_report(run.ledger)


@contextlib.contextmanager
def _told(run: Run, received: Sequence[str], goal: str | None) -> Iterator[None]:
    try:
        yield
        run.end("finished", f"it was to come as far as {goal}" if goal else "", goal)
    except Displaced:
        raise
    except Interrupted as signal_:
        run.end("interrupted", str(signal_))
        raise
    except GateStopped as stopped:
        run.end("stopped", str(stopped))
        raise
    except NoPairs as nothing:
        run.end("failed", f"no pairs: {nothing}")
        raise
    except BaseException as error:
        if received:  # C code that the signal came in (Ray's) can turn Interrupted into an error of its own
            run.end("interrupted", received[0])
            raise Interrupted(received[0]) from error
        run.end("failed", why(error, run.root))
        raise


def _record_job(
    run: Run, file: JobFile, here: Path, base: NamedModel, problems: Mapping[str, str] | None, reading: int
) -> None:
    job = file.job.model_dump(mode="json")
    configs = run.ledger.state.configs
    model = str(base.folder) if base.origin is None else KEPT_MODEL
    deciding: dict[str, Any] = {"job": job, "model": model, "versions": _versions(), "reading": reading}
    if problems is not None:
        deciding["problems"] = dict(problems)
    if not configs or any(configs[-1].get(key) != value for key, value in deciding.items()):
        about = {"run_id": configs[0]["run_id"] if configs else uuid.uuid4().hex, "overrides": list(file.overrides)}
        about["job_file"] = configs[-1]["job_file"] if file.recorded and configs else file.path.name
        # Relative paths of the job are below one of the folders: `fork` and `resume` must find what they name.
        about["folders"] = list(dict.fromkeys(map(str, (*file.folders, here))))
        if base.origin is None:
            about["model_digest"] = model_digest(model)
        if configs and (resolved := kept_of(configs[-1], file.job)) is not None:
            about["resolved"] = resolved
        run.append("config", deciding | about)
    if not run.path("job.yaml").exists() or not run.ledger.state.commits:
        run.write("job.yaml", _text_of(file, run.root))
    run.write("resolved.yaml", resolved_yaml(file.job).encode())


def _settle(workers: Workers, run: Run, model: str) -> None:
    workers.settle(run.ledger.state.configs[-1].get("resolved"), functools.partial(_record_resolved, run), model)


def _record_resolved(run: Run, resolved: Mapping[str, Any]) -> None:
    run.append("config", run.ledger.state.configs[-1] | {"resolved": dict(resolved)})


def _text_of(file: JobFile, root: Path) -> bytes:
    """A job file as it is written. One that stands in the run may be a link to what is none of the run's; one that
    has a secret, in a comment or where an override took its place, is not kept; nor is one that a row of another file
    belongs to, since a run needs nothing outside of it."""
    if file.own is not None:
        return resolved_yaml(file.job).encode()
    with contextlib.suppress(OSError, Damaged, BadInput, ValueError):  # no UTF-8, no YAML
        text = read_regular(file.path, MAX_JOB, root if file.path.is_relative_to(root) else None)
        if not holds_secret(text.decode()):
            return text
    return resolved_yaml(file.job).encode()


def identity() -> dict[str, Any]:
    """What a driver says of itself in its claim: with the start of the process, and the namespace of numbers that it
    lives in, the pid names it for good."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "pid_namespace": pid_namespace(),
        "version": __version__,
    }


def _versions() -> dict[str, str]:
    found = {package: _version(package) for package in _PACKAGES}
    return {"ratchet": __version__} | {package: version for package, version in found.items() if version is not None}


@functools.cache  # a process keeps the packages that it began with
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
