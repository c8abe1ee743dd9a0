"""Ctrl-C before a command has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.orchestrator.test_cli import PROJECT

PRESSED = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"


def version(folder: Path, set_up: Callable[[], object]) -> subprocess.CompletedProcess[str]:
    """`ratchet version`, in which Ctrl-C is pressed as something is imported."""
    (folder / "typer").mkdir()
    (folder / "typer/__init__.py").write_text(
        PRESSED
        + f"__path__ = []\nimport sys; sys.path.remove({str(folder)!r}); del sys.modules['typer']\nimport typer\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "version"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(PROJECT)])},
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=set_up,
    )


def test_while_it_imports_what_it_needs_a_command_ends_without_a_word(tmp_path: Path) -> None:
    done = version(tmp_path, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_one_that_is_to_ignore_it_goes_on(tmp_path: Path) -> None:
    done = version(tmp_path, lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
