"""The programs that check what is in deploy/, which the pinned requirements bring."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
PINNED = {"shellcheck", "hadolint", "check-jsonschema", "kubernetes-validate"}


def tool(*names: str) -> str:
    """The first of these programs that there is: in the environment of these tests, else on the PATH. Without any the
    test is skipped; in the gate (CI) it fails, unless the program is none that requirements/*.txt pin."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        reason = f"there is no {' or '.join(names)} here: `make setup` brings what requirements/*.txt pin"
        if os.environ.get("CI") and PINNED & set(names):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def said(*command: str | Path, given: str | None = None) -> tuple[int, str]:
    """The exit code of a program and all that it says."""
    done = subprocess.run([*map(str, command)], input=given, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr
