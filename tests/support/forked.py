"""A command as it is typed, in a process of its own that is forked off one with everything imported (multiprocessing's
forkserver): it takes what it does, and not a second of imports besides."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.cli import main

# pytest, since a child imports its parent's main module again. No library that reads the environment as it is imported.
_IMPORTED = [__name__, "pytest", "orchestrator.commands.export.push"]


def typed(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, patience: float = 300
) -> subprocess.CompletedProcess[str]:
    """`ratchet WORDS`, with nothing but this environment, in this folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with tempfile.TemporaryDirectory() as beside:
        out, err = Path(beside, "out"), Path(beside, "err")
        process = context.Process(target=_main, args=(list(words), dict(environment), folder, out, err))
        process.start()
        process.join(patience)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(words), patience)
        return subprocess.CompletedProcess(list(words), process.exitcode, out.read_text(), err.read_text())


def _main(words: list[str], environment: dict[str, str], folder: Path, *outputs: Path) -> None:
    for descriptor, file in enumerate(outputs, 1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    main(words)
