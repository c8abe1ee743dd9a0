"""Commands beside `run` in child processes, each with one fault: as `children` has drivers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from orchestrator.cli import main
from orchestrator.commands.compare.command import compare
from orchestrator.commands.compare.comparison import figures
from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.compare.table import plot, write
from orchestrator.commands.rescore import rescore
from orchestrator.driver.signals import signals
from orchestrator.errors import Interrupted, RatchetError
from orchestrator.files.disk import one_message
from tests.faults.children import Fault, Operations, _reaping, _server, finish
from tests.orchestrator.commands.test_compare import Runner
from tests.orchestrator.commands.test_rescore import Workers


@dataclass(frozen=True)
class Command:
    """A command that writes into `folder`, and nowhere else. Picklable: a child gets it whole."""

    folder: Path
    call: Callable[[Path], None]

    @property
    def output(self) -> str:
        """What it printed, over all the times it was run."""
        return self._beside("output").read_text()

    @property
    def operations(self) -> list[str]:
        """Operations in the folder, by the child that ended last with a word."""
        return self._beside("operations").read_text().splitlines()

    def _beside(self, name: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{name}")

    def start(self, fault: Fault | None = None) -> BaseProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        process: BaseProcess = _server().Process(target=_run, args=(self, fault), daemon=True)
        with _reaping:
            process.start()
        return process

    def run(self, fault: Fault | None = None) -> int:
        """Start a child and wait for it; returns its exit code, which is -9 for one that was killed."""
        return finish(self.start(fault))

    @property
    def names(self) -> list[str]:
        """What stands in the folder, hidden or not."""
        return sorted(os.listdir(self.folder))


def _run(command: Command, fault: Fault | None) -> None:
    descriptor = os.open(command._beside("output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    operations = Operations(command.folder, fault)
    sys.addaudithook(operations)
    try:
        command.call(command.folder)
    except (RatchetError, Interrupted) as error:
        print(f"ratchet: {error}", flush=True)
        sys.exit(error.exit_code)
    finally:
        with suppress(OSError):
            command._beside("operations").write_text("\n".join(operations.done))


def typed(arguments: Sequence[Any], folder: Path) -> None:
    """What a user types; FOLDER in it is the folder."""
    main([str(argument).replace("FOLDER", str(folder)) for argument in arguments])


def command(folder: Path, *arguments: Any) -> Command:
    return Command(folder, partial(typed, arguments))


def rescored(parent: Path, folder: Path) -> None:
    """`ratchet rescore`, with graders of the tests' own."""
    with signals() as received:
        rescore(parent, folder / "new", 1, ["grade.strict=false"], print, received, lambda _job, _logs: Workers())


def compared(file: Path, folder: Path, wait: Path | None = None) -> None:
    """`ratchet compare`, with runs of the tests' own; `folder` is the comparison's. Where `wait` is given, it is made
    after the first run, and nothing goes on while it is there."""
    os.environ["RATCHET_HOME"] = str(file.parent)
    plan = load_plan(file)

    def say(text: str) -> None:
        print(text, flush=True)
        if wait:
            wait.touch()
            while wait.exists():
                time.sleep(0.01)

    with signals(), one_message(plan.folder, "What the runs have done is kept"):
        failed = compare(plan, say, Runner())
        arms = figures(plan)
        write(plan, arms)
        plot(plan, arms)
    sys.exit(1 if failed else 0)
