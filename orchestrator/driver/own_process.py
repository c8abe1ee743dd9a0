"""A question to code of the project in a process of its own, which ends with the answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from orchestrator.config.places import own_code, own_code_environment
from orchestrator.errors import RatchetError, cut

_LOOKING = 600.0  # seconds


def answered(module: str, request: Mapping[str, Any], what: str, suspect: str) -> dict[str, Any]:
    """What the module answers to a request, both JSON objects; `what` is looked at, and `suspect` to blame.

    Raises:
        RatchetError: it broke, or found no end.
    """
    try:
        done = subprocess.run(
            own_code(module),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=own_code_environment(),
            timeout=_LOOKING,
        )
    except subprocess.TimeoutExpired as error:
        raise RatchetError(
            f"{what} could not be looked at: no end within {_LOOKING:.0f} s. Look at {suspect}."
        ) from error
    if done.returncode:
        # A library in Rust that breaks says after its reason how to have more said.
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note: ")]
        said = lines or [f"exit code {done.returncode}"]
        raise RatchetError(f"{what} could not be looked at: {cut(said[-1])}. Look at {suspect}.")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
