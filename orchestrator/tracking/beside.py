"""Further stores of a running driver, each told by a process of its own: what a store's client does in it, how long it
waits for a network and how it dies, costs the run nothing. MLflow is told by a thread (tracker.py).

    python -m orchestrator.tracking.beside RUN NAME DRIVER

The process is poked by a line on its standard input, and ends with a last look at the line `end`; where its input ends
without one the driver has died, and it ends at once: the next driver's goes on. It prints what keeps it from telling.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.config.places import own_code, own_code_environment
from orchestrator.errors import RatchetError, last_line
from orchestrator.ledger.ledger import Ledger
from orchestrator.text.terminal import echo
from orchestrator.tracking.feed import Feed
from orchestrator.tracking.stores import NAMES

_POKE, _END = b"\n", b"end\n"
_PROBLEM = "problem: "
_MOST_SAID = 10  # problems
_PAUSE_SECONDS, _RETRY_SECONDS, _LONGEST_SECONDS, _KILL_SECONDS = 3.0, 60.0, 1800.0, 5.0


class Beside:
    """The processes of one driver, one a store."""

    def __init__(self, run_dir: Path, names: Sequence[str], say: Callable[[str], None]) -> None:
        """Nothing is started yet. `say` is told what keeps a store from being told, from threads of this object."""
        self._told = [_Told(run_dir, name, say) for name in dict.fromkeys(names)]

    def start(self) -> None:
        """Start them, and have them send what earlier drivers left."""
        for each in self._told:
            each.start()

    def poke(self) -> None:
        """Say that ledger or journal have grown. Cheap; from any thread."""
        for each in self._told:
            each.write(_POKE)

    def finish(self) -> None:
        """Have them send what is left, and end."""
        for each in self._told:
            each.write(_END)

    def close(self, timeout: float) -> None:
        """Wait for their end, `timeout` seconds for all of them; what is left then is ended, and said."""
        deadline = time.monotonic() + timeout
        for each in self._told:
            each.close(deadline - time.monotonic())


class _Told:
    """One of them."""

    def __init__(self, run_dir: Path, name: str, say: Callable[[str], None]) -> None:
        self._run_dir, self._name, self._say = run_dir, name, say
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._listen, name=f"tracking {name}", daemon=True)
        self._writing = threading.Lock()

    def start(self) -> None:
        arguments = [str(self._run_dir.absolute()), self._name, str(os.getpid())]
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                [*own_code("orchestrator.tracking.beside"), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,  # a line that does not fit into the pipe now is not kept here for later
                stderr=self._errors,
                env=own_code_environment(),
                cwd="/",  # a client may look for settings where it is started
                start_new_session=True,  # Ctrl-C comes to the driver alone, and what it starts can be ended with it
            )
        except OSError as error:
            self._say(f"tracking: {NAMES[self._name]}: {error.strerror}")
            return
        assert self._process.stdin
        os.set_blocking(self._process.stdin.fileno(), False)
        self._thread.start()

    def write(self, line: bytes) -> None:
        if self._process and self._process.stdin:
            # It has died, which is told; or it is so far behind that its pipe is full, and will look.
            with self._writing, contextlib.suppress(OSError, ValueError):
                self._process.stdin.write(line)

    def _listen(self) -> None:
        assert self._process and self._process.stdout
        for line in self._process.stdout:
            if line.startswith(_PROBLEM.encode()):  # clients print, too
                self._say(f"tracking: {line.decode(errors='replace').removeprefix(_PROBLEM).rstrip()}")
        if self._process.wait() > 0:
            self._errors.seek(0)
            why = last_line(RuntimeError(self._errors.read()[-4000:].decode(errors="replace")))
            self._say(f"tracking: {NAMES[self._name]} is told no more before the next start: {why}")

    def close(self, timeout: float) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, timeout))
        if process.poll() is None:
            self._say(f"tracking: what {NAMES[self._name]} does not have yet is sent at the next start")
        for number in (signal.SIGTERM, signal.SIGKILL):  # a store's client may have left processes of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_SECONDS)
        self._thread.join(_KILL_SECONDS)
        with self._writing, contextlib.suppress(OSError):
            assert process.stdin
            process.stdin.close()
        self._errors.close()


def _tell(run_dir: Path, name: str, driver: int) -> None:
    """Be the process."""
    feed: Feed | None = None
    said, heard, rest = set[str](), _POKE, 0.0
    while heard:
        if feed is None:
            with contextlib.suppress(RatchetError, OSError):  # the ledger cannot be read now
                feed = Feed(run_dir, name, Ledger(run_dir / "ledger"), driver=driver)
        well = feed is not None and feed.flush()
        problem = feed.problem if feed else None
        if problem and problem not in said and len(said) < _MOST_SAID:
            said.add(problem)
            echo(f"{_PROBLEM}{problem}")
        if _END in heard:
            if feed:
                feed.close()
            return
        # What cannot be reached is not asked again and again, whatever is measured meanwhile.
        rest = 0.0 if well else min(max(2 * rest, _RETRY_SECONDS), _LONGEST_SECONDS)
        heard = _heard(rest)


def _heard(rest: float) -> bytes:
    """What the driver says next, after a `rest` in seconds if there is to be one, and what it says within a pause:
    what is measured comes several times a second. An end comes at once; nothing where the driver has died."""
    if not rest:
        _waiting(None)
    heard, until = _POKE, time.monotonic() + (rest or _PAUSE_SECONDS)
    while _END not in heard and _waiting(max(0.0, until - time.monotonic())):
        if not (more := os.read(sys.stdin.fileno(), 1 << 16)):
            return b""
        heard += more
    return heard


def _waiting(seconds: float | None) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _tell(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
