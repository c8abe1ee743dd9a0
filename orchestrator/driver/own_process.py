"""A question to code of the project in a process of its own, which ends with the answer."""

from __future__ import annotations

import functools
import json
import resource
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.places import own_code, own_code_environment
from orchestrator.driver.private_folder import PrivateFolder, compiled_environment
from orchestrator.errors import RatchetError, cut

_LOOKING = 600.0  # seconds
OF_PROMPTS = "the model's chat template, and at the regular expressions and replacements of its tokenizer.json"
"""What to look at where tokenising finds no end, or takes all memory."""


def answered(module: str, request: Mapping[str, Any], what: str, suspect: str) -> dict[str, Any]:
    """What the module answers to a request, both JSON objects; `what` is looked at, and `suspect` to blame. Its
    temporary files are closed to others, who could otherwise put theirs where torch looks for its own.

    Raises:
        RatchetError: it broke, or found no end; or there is no place for its temporary files.
    """
    suspect += _limited()
    try:
        folder = PrivateFolder(Path(tempfile.gettempdir()))
    except OSError as error:
        why = f"no temporary folder can be made ({error.strerror})"
        raise RatchetError(
            f"{what} could not be looked at: {why}. Set TMPDIR to a folder that may be written."
        ) from error
    try:
        done = subprocess.run(
            own_code(module),
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            env={**compiled_environment(), **own_code_environment(), "TMPDIR": str(folder.temporary)},
            timeout=_LOOKING,
        )
    except subprocess.TimeoutExpired as error:
        raise RatchetError(
            f"{what} could not be looked at: no end within {_LOOKING:.0f} s. Look at {suspect}."
        ) from error
    finally:
        folder.remove()
    if done.returncode == -signal.SIGPROF:  # see workers.tokens.bounds
        raise RatchetError(f"{what} could not be looked at: there was no end. Look at {suspect}.")
    if done.returncode == -signal.SIGKILL:
        raise RatchetError(
            f"{what} could not be looked at: the process that did was killed, as the system does for want of memory. "
            f"Free some, or look at {suspect}."
        )
    if done.returncode:
        # A library in Rust that breaks says after its reason how to have more said.
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note: ")]
        said = lines or [f"exit code {done.returncode}"]
        raise RatchetError(f"{what} could not be looked at: {cut(said[-1])}. Look at {suspect}.")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _limited() -> str:
    """What else is to be looked at where a process may not have all memory."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return "" if soft == resource.RLIM_INFINITY else f", or let it have more than {soft >> 20} MiB (`ulimit -v`)"


def rendered(request: Mapping[str, Any]) -> dict[str, Any]:
    """What `workers.tokens.rendering` finds in a request, in a process that ends with it; asked again, the same.

    Raises:
        RatchetError: it broke, or found no end.
    """
    return _same("workers.tokens.rendering", json.dumps(request), "the prompts", OF_PROMPTS)


def tried(request: Mapping[str, Any]) -> dict[str, Any]:
    """What `workers.training.trainable` finds in a request, in a process that ends with it; asked again, the same.

    Raises:
        RatchetError: it broke, or found no end.
    """
    return _same("workers.training.trainable", json.dumps(request), "the model", "its config.json")


@functools.lru_cache(maxsize=8)  # a request may hold some megabytes of rows
def _same(module: str, request: str, what: str, suspect: str) -> dict[str, Any]:
    """Of a comparison, most runs have the same model and rows."""
    return answered(module, json.loads(request), what, suspect)
