"""The driver's side of lm-evaluation-harness: starts its process, hands on what that asks, and ends it.

A task is code: the harness's own, or the user's. So its process has an environment without secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import RatchetError
from workers import logs

Answer = Callable[[dict[str, Any]], list[str]]
"""Has requests answered (the fields of orchestrator.records.harness.Asked); returns the files of the answers."""

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = (
    *("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME", "VIRTUAL_ENV", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


def environment() -> dict[str, str]:
    """What its process gets of ours: where things are, and the way to the Hub. No token and no accelerator."""
    search = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(search),
        "PYTHONIOENCODING": "utf-8",  # as it is asked and read
        "PYTHONDONTWRITEBYTECODE": "1",  # into the user's folder
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }


def command(module: str) -> list[str]:
    """The command that runs a module of this room; see config.places.own_code."""
    return [sys.executable, "-P", "-m", f"workers.harness.{module}"]


def refused(tasks: list[str], include_path: str | None) -> list[str]:
    """What speaks against some tasks (names.refusals), in a process that ends with it.

    Raises:
        RatchetError: it broke.
    """
    request = json.dumps({"tasks": tasks, "include_path": include_path})
    done = subprocess.run(
        command("names"),
        input=request,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        env=environment(),
        cwd=include_path or "/",
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RatchetError(f"evaluate.harness: the tasks could not be looked at: {why}")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])["refused"]
    return found


def evaluate(request: Mapping[str, Any], answer: Answer, log: str | None) -> None:
    """Have lm-evaluation-harness evaluate a model (serve.evaluate); what it wants to know of that, `answer` finds out.
    What it prints goes to the end of the file `log`. Relative paths in tasks are those below their folder.

    Raises:
        RatchetError: it failed, in its own words.
        whatever `answer` raises.
    """
    with contextlib.ExitStack() as closing:
        errors = subprocess.DEVNULL
        if log is not None:
            with contextlib.suppress(OSError):  # without its words it works as well
                errors = logs.opened(log)
                closing.callback(os.close, errors)
        process = subprocess.Popen(
            command("serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            env=environment(),
            cwd=request["include_path"] or "/",
            start_new_session=True,
        )
        closing.callback(_end, process)
        assert process.stdin and process.stdout
        said = _talk(process.stdin, process.stdout, request, answer)
        where = "" if errors == subprocess.DEVNULL else f" What it printed stands in {log}."
        if said is None:
            raise RatchetError(f"evaluate.harness: the process of the tasks ended ({process.wait()}).{where}")
        if "failed" in said:
            raise RatchetError(f"evaluate.harness: {said['failed']}.{where}")


def _talk(asked: IO[str], said: IO[str], request: Mapping[str, Any], answer: Answer) -> dict[str, Any] | None:
    """Its last word; None where it ended without one."""
    try:
        line: Mapping[str, Any] = request
        while True:
            asked.write(json.dumps(line) + "\n")
            asked.flush()
            if not (heard := said.readline()):
                return None
            told: dict[str, Any] = json.loads(heard)
            if "ask" not in told:
                return told
            line = {"files": answer(told["ask"])}
    except BrokenPipeError:
        return None


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for end in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            assert end
            end.close()
