"""`ratchet`, which `python -m orchestrator` is too.

Until all is imported that commands need, Ctrl-C ends the process as it ends any other: nothing has begun, and a
traceback of an import tells nobody anything.
"""

import atexit
import contextlib
import os
import resource
import signal
import sys
import threading

_ARENAS = -8
"""M_ARENA_MAX of glibc's malloc.h."""


def main() -> None:
    """The entry point."""
    share_one_arena()
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, by whoever started us
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from orchestrator.cli import main as ratchet
    except (ImportError, MemoryError) as error:
        from orchestrator.files.lack import TOO_LITTLE_MEMORY, of_memory

        if of_memory(error):
            sys.exit(f"ratchet: {TOO_LITTLE_MEMORY}")
        raise
    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ratchet()
    except SystemExit as left:
        _leave_beside_threads(left.code)
        raise


def share_one_arena() -> None:
    """Where addresses are limited (`ulimit -v`), let no thread have an arena of its own, for which glibc takes 64 to
    128 MiB of them, nor Arrow an allocator that reserves them ahead: a thread of Arrow's that gets no more ends the
    process with abort()."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # of another C library
        ctypes.CDLL(None).mallopt(_ARENAS, 1)


def _leave_beside_threads(code: object) -> None:
    """End the process where MLflow is still being told something, by a thread that was given up: the interpreter would
    take that thread down wherever it is, and a library in C++ that draws a picture then ends the process with abort()
    and an exit code of its own."""
    if not any(thread.name == "tracking" for thread in threading.enumerate()):
        return
    atexit._run_exitfuncs()  # which takes temporary folders away
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
