"""Drivers in child processes: the real ledger, files and loop with the stand-ins at the seam, and one fault each.

A child is forked off a process that has everything imported (multiprocessing's forkserver), so that a case costs
what its run costs. It counts its operations on the run folder by Python's audit events, which are raised before the
operation happens, and does what its fault says at one of them. Nothing of the product is changed for it.
"""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import psutil

from orchestrator.commands.verify.command import verify
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.records.rows import TrainingPlan
from tests.orchestrator.test_loop import history
from tests.support.stand_ins import StandIns, StandInTrainers, make_project, run_job

PATIENCE = 120.0  # seconds; a deadline for a hung child, not an expectation
OPERATIONS = ("os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")
"""Audit events of what changes a folder. Those of shutil add nothing: what it does comes as these, one by one."""
# An exit code can be read once, and starting a process reads those of all others: sweeps do so from several threads.
_reaping = threading.Lock()
_SHOWING = ("progress", "report", "sign of life")  # threads that write at any moment, and so would shift every number
_FAILING = {"EMFILE": "open", "EPERM": "os.link"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fault:
    """What happens at one operation, numbered from 1, or at several in a row.

    The signals (SIGKILL, SIGSTOP, SIGTERM, SIGINT) come before the operation. full: it fails with ENOSPC, unless it
    is a removal. EMFILE, EPERM: it fails, where it opens a file, or links one; ESTALE: it fails. moved: the folder is
    elsewhere then.
    """

    kind: Literal["SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "full", "EMFILE", "EPERM", "ESTALE", "moved"]
    at: int
    times: int = 1

    def strike(self, number: int, event: str, folder: str) -> None:
        if not self.at <= number < self.at + self.times:
            return
        match self.kind:
            case "full" if event not in ("os.remove", "os.rmdir"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "EMFILE" | "EPERM" | "ESTALE" if event == _FAILING.get(self.kind, event):
                raise OSError(getattr(errno, self.kind), os.strerror(getattr(errno, self.kind)))
            case "moved":
                os.rename(folder, f"{folder}-moved")
            case "SIGKILL" | "SIGSTOP" | "SIGTERM" | "SIGINT":
                os.kill(os.getpid(), signal.Signals[self.kind])


ALL_THAT_FOLLOW = 1_000_000


class Operations:
    """The audit hook: counts the operations inside a folder, and has the fault strike."""

    def __init__(self, folder: Path, fault: Fault | None) -> None:
        self._folder, self._fault = str(folder), fault
        self._numbers = itertools.count(1)  # several threads count
        self.done: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        target = self._target(event, arguments) if event in OPERATIONS else None
        if target is None or threading.current_thread().name in _SHOWING:
            return
        self.done.append(f"{event} {target}")
        number = next(self._numbers)
        if self._fault:
            self._fault.strike(number, event, self._folder)

    def _target(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """What the operation is about, relative to the folder; None for what only reads, or lies elsewhere."""
        match event, arguments:
            case "open", (path, _, flags):
                return self._inside(path, -1) if flags & _WRITING else None
            case "os.link" | "os.rename", (_, target, _, folder):
                return self._inside(target, folder)
            case "os.mkdir", (path, _, folder):
                return self._inside(path, folder)
            case _, (path, folder):
                return self._inside(path, folder)
        return None

    def _inside(self, path: Any, folder: int) -> str | None:
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if not os.path.isabs(name) and folder >= 0:
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        return os.path.relpath(name, self._folder) if (name + os.sep).startswith(self._folder + os.sep) else None


class Workers(StandIns):
    """Stand-ins that note every piece of work in a file, keep a state while they train, and wait where they are
    told to: at the piece of a kind and number that is `wait_at`, until somebody makes `go_on`."""

    def __init__(self, case: Case) -> None:
        super().__init__(gain=0.1, steps=2, peak=1, on_call=self._note)
        self.case = case

    def _note(self, name: str) -> None:
        with open(self.case.work_log, "a") as file:
            file.write(name + "\n")
        if (name, self.calls[name]) == self.case.wait_at and not self.case.waiting.exists():
            self.case.waiting.touch()
            while not self.case.go_on.exists():
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        if self.case.slow_exit:
            self.case.leaving.touch()
            time.sleep(PATIENCE)

    def trainers(self) -> StandInTrainers:
        return TrainersWithState(self)

    def drive(self) -> None:
        """Run the job, or resume it, as `ratchet run` does."""
        run_job(self.case.job, self, f"run_dir={self.case.run}", *self.case.overrides)


class TrainersWithState(StandInTrainers):
    def train(self, plan: TrainingPlan, reference_file: str, on_step: Any = None) -> dict[str, Any]:
        state = Path(plan.state_dir) / "000001"
        for folder in (state.parent, state):
            folder.mkdir(exist_ok=True)
        (state / "state.bin").write_bytes(b"state")
        return super().train(plan, reference_file, on_step)


@dataclass(frozen=True)
class Case:
    """One run folder, and the child processes that drive it. Picklable: a child gets it whole."""

    job: Path
    folder: Path
    workers: type[Workers] = Workers
    wait_at: tuple[str, int] | None = None
    """A piece of work by kind and number, such as the second ("train", 2)."""
    slow_exit: bool = False
    overrides: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    """Called in the child before it drives, such as to give up rights or room."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def work_log(self) -> Path:
        return self.folder / "work"

    @property
    def waiting(self) -> Path:
        return self.folder / "waiting"

    @property
    def go_on(self) -> Path:
        return self.folder / "go-on"

    @property
    def leaving(self) -> Path:
        return self.folder / "leaving"

    @property
    def output(self) -> str:
        """What the children printed, tracebacks included."""
        return (self.folder / "output").read_text()

    @property
    def pieces(self) -> int:
        """Pieces of work that the children began, over all of them."""
        return len(self.work_log.read_text().splitlines()) if self.work_log.exists() else 0

    @property
    def operations(self) -> list[str]:
        """Operations on the run folder, by the child that ended last with a word."""
        return (self.folder / "operations").read_text().splitlines()

    def start(self, fault: Fault | None = None) -> BaseProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        process = _server().Process(target=_drive, args=(self, fault), daemon=True)
        with _reaping:
            process.start()
        return process

    def drive(self, fault: Fault | None = None) -> int:
        """Start a child and wait for it; returns its exit code, which is -9 for one that was killed."""
        return finish(self.start(fault))

    def remove(self) -> None:
        shutil.rmtree(self.folder)


@contextmanager
def running(case: Case, fault: Fault | None = None) -> Iterator[BaseProcess]:
    process = case.start(fault)
    try:
        yield process
    finally:
        if is_alive(process):
            process.kill()  # a stopped process ends by nothing else


def finish(process: BaseProcess, patience: float = PATIENCE) -> int:
    connection.wait([process.sentinel], patience)
    if is_alive(process):
        process.kill()
        raise TimeoutError(f"the driver did not end within {patience:.0f} s")
    assert process.exitcode is not None
    return process.exitcode


def is_alive(process: BaseProcess) -> bool:
    with _reaping:
        return process.is_alive()


def wait_for(path: Path, process: BaseProcess) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert is_alive(process) and time.monotonic() < deadline, f"the driver never made {path}"
        time.sleep(0.01)


def wait_until_stopped(process: BaseProcess) -> bool:
    """Wait until SIGSTOP has taken effect; False where the process has ended without it."""
    deadline = time.monotonic() + PATIENCE
    while is_alive(process):
        assert time.monotonic() < deadline, "the driver neither stopped nor ended"
        try:
            if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
                return True
        except psutil.NoSuchProcess:
            break
        time.sleep(0.005)
    return False


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    # Besides: pytest, since a child imports its parent's main module again; pandas, which pyarrow imports at first use.
    context.set_forkserver_preload(
        [__name__, "tests.faults.jobs", "tests.faults.primed", "pytest", "pandas", "_strptime"]
    )
    return context


def _drive(case: Case, fault: Fault | None) -> None:
    """The child. Its exit codes are those of `ratchet run`."""
    descriptor = os.open(case.folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if case.prepare:
        case.prepare()
    workers = case.workers(case)
    operations = Operations(case.run, fault)
    sys.addaudithook(operations)
    try:
        workers.drive()
    except (RatchetError, Interrupted) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)
    finally:
        with suppress(OSError):  # files may be limited in size
            (case.folder / "operations").write_text("\n".join(operations.done))


# The job, and what is compared


@dataclass(frozen=True)
class Kind:
    """A kind of job to try faults on, of two rounds."""

    make: Callable[[Path], Path]
    """Makes the job's folder; returns the job file."""
    workers: type[Workers] = Workers
    half: tuple[str, int] = ("train", 2)
    """A piece of work in the middle of the second round."""


JOB: dict[str, Any] = {
    "rounds": 2,
    "generate": {"samples": 3, "max_tokens": 8, "shard_prompts": 3},
    "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split"}
    | {"prompts_per_round": 6},
    "pairs": {"per_prompt": 2, "replay": 0.5},
    "train": {"eval_every": 1, "select": "best", "retrain": True},
    "promotion": {"rule": "always"},
}
"""The smallest job that has every kind of step: shards, replay, a choice of checkpoints, held-out pairs, retraining."""


def small_project(folder: Path, **changes: Any) -> Path:
    """The job's folder; returns the job file."""
    job = make_project(folder, skill=0.4, **JOB | changes)
    for split, count in (("train", 12), ("gate", 3), ("test", 3)):
        file = folder / f"{split}.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:count]))
    return job


def tree(run: Path) -> dict[str, bytes | None]:
    """Every file below `baseline` and `rounds` with its bytes, and every folder, hidden ones included."""
    found: dict[str, bytes | None] = {}
    for top in ("baseline", "rounds"):
        for path in (run / top).rglob("*"):
            found[str(path.relative_to(run))] = path.read_bytes() if path.is_file() else None
    return found


@dataclass(frozen=True)
class Undisturbed:
    """What a run without a fault commits, and what it costs."""

    job: Path
    kind: Kind
    run: Path
    history: list[tuple[str, str, Any]]
    tree: dict[str, bytes | None]
    operations: list[str]
    pieces: int

    def case(self, folder: Path, **options: Any) -> Case:
        """The same job in another folder."""
        return Case(self.job, folder, self.kind.workers, **options)

    def require_same(self, run: Path, hidden: bool = True) -> None:
        """The same records and the same bytes: nothing missing, nothing more, nothing left over.

        `hidden=False` passes over hidden files, which a driver that was displaced may leave behind.
        """
        assert history(run) == self.history
        assert (run / "CURRENT").read_text() == "rounds/02/checkpoint\n"
        found = tree(run)
        if not hidden:
            found = {name: content for name, content in found.items() if "/." not in name}
        assert sorted(found) == sorted(self.tree)
        assert [name for name, content in found.items() if content != self.tree[name]] == []

    def require_committed(self, run: Path) -> None:
        """As `require_same`, but what nobody committed may lie about."""
        assert history(run) == self.history
        assert (run / "CURRENT").read_text() == "rounds/02/checkpoint\n"
        found = tree(run)
        assert [name for name, content in self.tree.items() if found.get(name, "missing") != content] == []


def undisturbed(folder: Path, kind: Kind) -> Undisturbed:
    job = kind.make(folder)
    case = Case(job, folder / "undisturbed", kind.workers)
    assert case.drive() == 0, case.output
    assert verify(case.run).findings == []
    return Undisturbed(job, kind, case.run, history(case.run), tree(case.run), case.operations, case.pieces)


@contextmanager
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a file system: these runs sync thousands of times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    folder = memory / f"ratchet-faults-{os.getpid()}-{time.time_ns()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def note(name: str, value: Any) -> None:
    """Keep a measured figure for docs/faults.md: one JSON line in the file that FAULTS_REPORT names, if any."""
    if file := os.environ.get("FAULTS_REPORT"):
        with open(file, "a") as report:
            report.write(json.dumps({"what": name, "measured": value}) + "\n")
