"""The pool's handle on one grader process.

Why not multiprocessing, or a pool built on it: its spawned children import the parent's main module
again, which inside a Ray actor is Ray's own worker script, and in a user's script without a main guard
is the script. A plain command started anew inherits neither that nor threads, locks and signal handlers.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import BadInput, RatchetError
from workers.graders.combine import Spec

START_LIMIT = 120.0
"""Seconds within which a process has to have imported its graders."""
GRACE = 0.5
"""Seconds beyond the time limit after which the process is killed from here, should it not die by itself."""
_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONHOME")


class GraderDied(Exception):
    """The process died over a request.

    `str()` is the reason; `fresh` says that it had answered no request before, which could be to blame.
    """

    def __init__(self, reason: str, fresh: bool) -> None:
        super().__init__(reason)
        self.fresh = fresh


class GraderProcess:
    """One grader process, replaced when it dies. `ask` is for one thread at a time."""

    def __init__(self, timeout: float, memory: float, graders: Sequence[Spec], rules: Sequence[str]) -> None:
        """`timeout` in seconds and `memory` in GiB apply to every request. Nothing is started yet."""
        self._timeout = timeout
        self._arguments = [str(timeout), str(memory), json.dumps(list(graders)), json.dumps(list(rules))]
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = bytearray()
        self._requests = 0
        self._fresh = True
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id, which is also the id of the process group; None when not running."""
        return self._process.pid if self._process else None

    def ask(self, *request: str) -> dict[str, Any]:
        """Send a request (see serve.py) and return the reply.

        Raises GraderDied when the process died over it or had to be killed, with reason "timeout",
        "out of memory", or what else ended it; RatchetError when no process can be started; RuntimeError after
        `close`; BadInput when a grader cannot be made as the job has it.
        """
        process = self._process or self._start()
        self._requests += 1
        number, fresh, self._fresh = self._requests, self._fresh, False
        deadline = time.monotonic() + self._timeout + GRACE
        news = False
        try:
            line = json.dumps([number, request]).encode("ascii") + b"\n"
            _write(_ends(process)[0].fileno(), line, deadline)
            reply = self._read(process, deadline)
            while reply["id"] != number:  # news of a worker that died when it had nothing to do
                news, reply = True, self._read(process, deadline)
        except (TimeoutError, OSError, ValueError) as error:
            self._kill()
            if news:  # it may have taken the request with it, which is then not to blame
                raise GraderDied("process lost", fresh=False) from None
            raise GraderDied("timeout" if isinstance(error, TimeoutError) else "process lost", fresh) from None
        if "died" in reply:
            self._fresh = True
            raise GraderDied(reply["died"], fresh or news)
        return reply

    def interrupt(self) -> None:
        """End the process for good, from any thread: a pending `ask` fails, later ones raise RuntimeError."""
        self._closed = True
        if (process := self._process) is not None:
            _kill_group(process.pid)

    def close(self) -> None:
        """End the process for good. Harmless when repeated; no `ask` may be pending."""
        self.interrupt()
        self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise RuntimeError("the grader process is closed")
        # A small environment: text that a model wrote is parsed there, and it needs no secrets. The fixed
        # hash seed makes SymPy walk its sets in the same order every time.
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        search = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(search), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        # -P: without it the current folder would come first on the import path.
        # In PYTHONPATH it would come before Python's own modules, so the process itself puts it at the end; and only
        # where a user's function is named, since libraries try to import what is not installed.
        last = filter(None, [_current_folder() if "python:" in self._arguments[2] else None])
        command = [sys.executable, "-P", "-m", "workers.grading.serve", *self._arguments, *last]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._process, self._fresh, self._unread = process, True, bytearray()
        os.set_blocking(_ends(process)[0].fileno(), False)
        try:
            hello = self._read(process, time.monotonic() + START_LIMIT)
        except (TimeoutError, OSError, ValueError) as error:
            self._kill()
            raise self._unstarted(error) from None
        if "refused" in hello:
            self._kill()
            raise BadInput(f"grade.graders: {hello['refused']}")
        return process

    def _unstarted(self, error: Exception) -> RatchetError:
        """That the process ended, or hung, before it was ready. It is a module of the user's that can make it."""
        said = f"a grader process did not start within {START_LIMIT:.0f} s: {error}. What it printed is above"
        if "python:" in self._arguments[2]:
            return BadInput(f"grade.graders: {said}. A module of `python:` must neither end the process nor wait")
        return RatchetError(f"{said}. The same command goes on from here")

    def _read(self, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
        """The next line of JSON. Raises TimeoutError, OSError where the replies end, or ValueError."""
        descriptor = _ends(process)[1].fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while (end := self._unread.find(b"\n")) < 0:
            _wait(poll, deadline)
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                raise OSError("it ended before it answered")
            self._unread += chunk
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]  # what follows is another reply
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill_group(process.pid)
        process.wait()
        for end in _ends(process):
            with contextlib.suppress(OSError):
                end.close()


def _ends(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None and process.stdout is not None  # both were asked to be pipes
    return process.stdin, process.stdout


def _current_folder() -> str | None:
    """None where it was deleted, as it may be while a run goes on."""
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    """Write all of `data` to a non-blocking pipe, or raise TimeoutError."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    view = memoryview(data)
    while view:
        _wait(poll, deadline)
        with contextlib.suppress(BlockingIOError):
            view = view[os.write(descriptor, view) :]


def _wait(poll: select.poll, deadline: float) -> None:
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError("no answer in time")
