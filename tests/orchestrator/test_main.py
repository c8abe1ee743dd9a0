"""What is seen to before a command begins: Ctrl-C, and limits of the address space."""

from __future__ import annotations

import os
import resource
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


THREADS = """
import threading
from pathlib import Path
from orchestrator.__main__ import share_one_arena

def addresses():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096 >> 20

def work():
    kept.append(bytes(1000))
    at_work.wait()
    done.wait()

share_one_arena()
kept, at_work, done = [], threading.Barrier(5), threading.Barrier(5)
threading.stack_size(1 << 20)
before, threads = addresses(), [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
at_work.wait()
print(addresses() - before)
done.wait()
"""


def test_where_addresses_are_limited_a_thread_takes_few_of_them() -> None:
    """Else it takes 64 MiB and more, and Arrow's threads end the process in the midst of `report` and `verify`."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    given = [sys.executable, "-c", THREADS]
    taken = subprocess.run(given, cwd=PROJECT, capture_output=True, text=True, preexec_fn=limited, check=True).stdout
    assert int(taken) < 64, taken


def test_addresses_that_do_not_suffice_for_what_is_imported_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text('raise ImportError("libarrow.so: failed to map segment from shared object")\n')
    paths = os.pathsep.join([str(tmp_path), str(PROJECT)])
    given = [sys.executable, "-m", "orchestrator", "version"]
    done = subprocess.run(given, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ratchet: too little memory for this command") and done.stderr.count("\n") == 1
