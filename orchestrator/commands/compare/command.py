"""`ratchet compare`: the runs of a comparison, one after another, each in a process of its own.

Every run is a normal one, in `runs/NAME/ARM-seedN`, with its job file and its log beside it. Before a run is started,
the closest one that there is already offers it what it has done (see commands/fork): the answers of a base model that
both have, and the samples of a first round that both draw with the same settings and seed. What is taken is decided by
fingerprints alone, so that the choice can cost time, and never change a result.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.commands.compare.comparison import run_figures
from orchestrator.commands.compare.file import Plan, PlannedRun
from orchestrator.commands.compare.table import summary_line
from orchestrator.commands.fork import command as fork
from orchestrator.commands.fork.job import absolute
from orchestrator.config import Job, only_executes
from orchestrator.config.load import changed_keys, resolved_yaml
from orchestrator.config.places import own_code, own_code_environment, run_folder
from orchestrator.driver import trust
from orchestrator.driver.drive import healthy_driver
from orchestrator.driver.kept import (
    base_model_of,
    read_all_preferences,
    read_all_problems,
    reference_of,
    reward_models_of,
)
from orchestrator.driver.own_process import rendered, tried
from orchestrator.driver.same_job import (
    check_same_job,
    check_same_model,
    check_same_preferences,
    check_same_problems,
    problem_digests,
    reading_of,
)
from orchestrator.driver.signals import held
from orchestrator.driver.start_checks import check_start
from orchestrator.driver.trust import Tell
from orchestrator.driver.wiring import unread_golds
from orchestrator.errors import BadInput, Damaged, Interrupted, RatchetError
from orchestrator.files import known_hashes, unfinished
from orchestrator.files.inside import open_to_write, run_around
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.ledger.taken import left_offers
from orchestrator.reports.status import run_state
from orchestrator.rounds.context import Say
from orchestrator.text import shown

Runner = Callable[[Path, Path], int]
"""Runs a job file, writes what it says to a log file, and returns the exit code of `ratchet run`."""

_FINISHED, _STOPPED, _INTERRUPTED = 0, 3, 130


def compare(plan: Plan, say: Say, run: Runner) -> list[str]:
    """Run what is not done yet; returns the names of the runs that failed. One that the gate stopped is done.

    Raises:
        BadInput: a run could not be started, or is being driven already; before any is started.
        Interrupted: a run was; the same command goes on from there.
    """
    check(plan)
    with _alone(plan):
        return _run_all(plan, say, run)


def _run_all(plan: Plan, say: Say, run: Runner) -> list[str]:
    began, failed, folder = time.monotonic(), list[str](), plan.folder.stat()
    for planned in plan.runs:
        started = time.monotonic()
        if _is_done(plan, planned):
            done = run_figures(plan, planned)
            outdated = f"; {done.outdated}" if done.outdated else ""
            say(f"{planned.name:<24} done before: {summary_line(done)}{outdated}")
            continue
        if planned.start in failed:
            say(f"{planned.name:<24} cannot start: {planned.start} has failed")
            failed.append(planned.name)
            continue
        log = plan.folder / f"{planned.name}.log"
        code = run(_prepared(plan, planned), log)
        _require_same(plan, folder)
        if code == _INTERRUPTED:
            raise Interrupted(f"the interruption of {planned.name}")
        minutes = f"{(time.monotonic() - started) / 60:.1f} min, {(time.monotonic() - began) / 60:.1f} so far"
        if code in (_FINISHED, _STOPPED):
            # Told by what the ledger says: with `promotion.stop_succeeds` the exit code is 0 either way.
            root = plan.folder / planned.name
            stopped = run_state(root, Ledger(root / "ledger").state) == "stopped"
            how = "stopped by the gate" if stopped else "finished"
            say(f"{planned.name:<24} {how}: {summary_line(run_figures(plan, planned))} ({minutes})")
        else:
            say(f"{planned.name:<24} failed: {_why(plan, planned, log)} ({minutes})")
            failed.append(planned.name)
    return failed


@contextlib.contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """One process is at a comparison. The lock ends with the process, however that ends; its file stays.

    Raises:
        BadInput: another one is; the message says which.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    with open(_for_writing(plan.folder / ".lock"), "a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            said = "".join(filter(str.isprintable, file.read(200))) or "another process"
            raise BadInput(f"{plan.folder}: {said} is at this comparison. Wait for it, or stop it first.") from error
        except OSError:
            pass  # a file system without locks; a run that is being driven is still left alone (see `check`)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _require_same(plan: Plan, folder: os.stat_result) -> None:
    """Whether the comparison's folder is still the one that it began in. A run may have made another one in its place.

    Raises:
        FileNotFoundError: it was moved away.
        RatchetError: likewise, and another one is there.
    """
    if not os.path.samestat(plan.folder.stat(), folder):
        raise RatchetError(
            f"{plan.folder}: was moved away, and another folder is in its place, with what the last run has done. Put "
            "the one back in place of the other, and the same command goes on from there."
        )


def _for_writing(path: Path) -> int:
    """The folder of a comparison may have been somebody else's."""
    try:
        return open_to_write(path)
    except Damaged as error:
        raise BadInput(str(error)) from error


def require_trust(plan: Plan, tell: Tell | None) -> None:
    """As `trust.require`, for all runs of a comparison: where its file, or the job file that it shares, lies in a run,
    both are that run's word. Else they are the user's, which is remembered for the runs' own processes.

    Raises:
        BadInput: they need approval.
    """
    for path in (plan.path, plan.shared):
        if (around := run_around(path)) is not None:
            for planned in plan.runs:
                # Not with where the run will be, which the comparison decides.
                job = planned.file.job.model_copy(update={"run_dir": None})
                trust.require(replace(planned.file, job=job), around, None, (), f"{path} ({planned.name})", tell)
    for planned in plan.runs:
        trust.remember(trust.needs_trust(planned.file, plan.folder / planned.name))


def in_a_process(job_file: Path, log: Path) -> int:
    """`ratchet run` as a process that gets no signal of the terminal, but one from us: a second one would kill it."""
    process = None
    with open(_for_writing(log), "ab") as out:
        try:
            with held():
                process = subprocess.Popen(
                    [*own_code("orchestrator"), "run", str(job_file)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    env=own_code_environment(),
                )
            return process.wait()
        except BaseException:
            if process:
                process.terminate()
                process.wait()
            raise


def check(plan: Plan) -> None:
    """Whether every run could be started or gone on with, before the first one is.

    Raises:
        BadInput: with every error at once.
    """
    problems = dict.fromkeys(_problems(plan))  # arms share most of their mistakes
    if problems:
        raise BadInput("\n".join(problems))


def _problems(plan: Plan) -> Iterator[str]:
    if (plan.folder / "ledger").exists():
        yield f"{plan.folder}: this folder is a run. Choose another `name` for the comparison."
    arms = {planned.name: planned.arm for planned in plan.runs}
    tokenizers: dict[str, Path | None] = {}  # by arm that has been looked at
    read: dict[tuple[str, int], dict[str, ProblemSet]] = {}  # of the arm at hand: its runs stand side by side
    for planned in plan.runs:
        root, job = plan.folder / planned.name, planned.file.job
        try:
            run_folder(job)
            run = Run(root)
            check_same_job(run, _absolute_job(planned))
            if other := healthy_driver(root):
                yield f"{root}: {other} is driving this run. Wait for it, or stop it first."
            if (key := (planned.arm, reading_of(run))) not in read:
                read = {key: read_all_problems(planned.file, reading=key[1])}
            problems = read[key]
            # Of a run that is done, too: no driver of its own would see that what follows it is of other problems.
            check_same_problems(run, job, None if job.data.from_hub else problem_digests(problems))
            check_same_preferences(run, job, planned.file.find)
            base = base_model_of(planned.file, run, weights=False) if planned.start is None else None
            if base and base.origin is None:
                known_hashes.load(root)
                check_same_model(run, base)
            if planned.arm in tokenizers:
                continue
            # A model that is yet to be trained has the tokenizer of the one that it is trained from.
            tokenizers[planned.arm] = tokenizers.get(arms[planned.start]) if planned.start else None
            preferences = read_all_preferences(planned.file, problems)
            fixed = reference_of(planned.file, run, base, weights=False)
            reward_models_of(planned.file, run, weights=False)
            folder = tokenizers[planned.arm] = base.folder if base else tokenizers[planned.arm]
            render, trial = (rendered, tried) if folder else (None, None)
            check_start(
                planned.file,
                run,
                folder or root,
                problems,
                preferences,
                _unsaid,
                unread_golds,
                render,
                trial=trial,
                reference=fixed,
            )
        except BadInput as error:
            yield str(error)


def _unsaid(_: str) -> None:
    """What is no reason to refuse, each run tells."""


def _is_done(plan: Plan, planned: PlannedRun) -> bool:
    """Whether a run has ended for good: finished with as many rounds as it should have, or stopped by the gate. One
    that was killed as it tidied up, after it had said so, ends once more."""
    root = plan.folder / planned.name
    if not (root / "ledger").is_dir():
        return False
    state = Ledger(root / "ledger").state
    if state.finished:
        return bool(state.configs[-1]["job"]["rounds"] >= planned.file.job.rounds) and not left_offers(root, state)
    return run_state(root, state) == "stopped"


def _prepared(plan: Plan, planned: PlannedRun) -> Path:
    """The job file of a run, which is made; and so is the run, where another one has something to offer."""
    job, root = _absolute_job(planned), plan.folder / planned.name
    made = f"{planned.arm} with seed {planned.seed}, made by `ratchet compare {plan.path}`"
    text = f"# {shown.line(made)}\n{resolved_yaml(job)}"
    file = plan.folder / f"{planned.name}.yaml"
    unfinished.replace(file, text.encode())
    if not root.exists() and (sibling := _closest(plan, planned)):
        fork.offer(sibling, root, job, text)
    return file


def _absolute_job(planned: PlannedRun) -> Job:
    folders = [str(planned.file.path.parent), str(Path.cwd())]
    return Job.model_validate(absolute(planned.file.job.model_dump(mode="json"), folders, ()))


def _closest(plan: Plan, planned: PlannedRun) -> Path | None:
    """The run that has done most of what this one needs, as far as the settings say: one with the same base model, then
    the same seed, then the same data and sampling, then the same source; of equals the one with most settings in
    common. None where there is no other run yet."""
    here: dict[Path, Job] = {}
    for other in plan.runs:
        root = plan.folder / other.name
        if other is not planned and (root / "ledger").is_dir() and Ledger(root / "ledger").state.commits:
            here[root] = other.file.job
    return min(here, key=lambda root: _distance(planned.file.job, here[root]), default=None)


def _distance(ours: Job, theirs: Job) -> tuple[int, ...]:
    changed = [c[0] for c in changed_keys(_dumped(ours), _dumped(theirs)) if not only_executes(*c)]
    # Hints are asked for beside the samples, and change none of these.
    changed = [key for key in changed if key not in ("name", "generate.hint")]
    sections = [key.partition(".")[0] for key in changed]
    parts = (("model",), ("seed",), ("data", "generate"), ("source",))
    return *(sum(section in part for section in sections) for part in parts), len(changed)


def _dumped(job: Job) -> Mapping[str, object]:
    return job.model_dump(mode="json")


def _why(plan: Plan, planned: PlannedRun, log: Path) -> str:
    """Why a run failed: what it wrote into its ledger, or said last."""
    root = plan.folder / planned.name
    end = Ledger(root / "ledger").state.end if (root / "ledger").is_dir() else None
    if end and end["state"] == "failed":
        return str(end["reason"])
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = next((line for line in reversed(said) if line.startswith("ratchet: ")), said[-1] if said else "")
    return f"{last.removeprefix('ratchet: ')}; see {log}" if last else f"see {log}"
