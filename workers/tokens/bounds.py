"""Bounds for what files of a stranger's model have a process compute: a chat template is a program, and so is a
tokenizer: a regular expression may look at a text for hours."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 10.0
"""Of computing, by all threads of the process, for one text; a sound template or tokenizer takes milliseconds."""
_GRACE = 2.0
MEMORY = 2 << 30
"""Bytes more than the process had before that a chat template, or a tokenizer, may have. The longest text that is read
takes a quarter, and so do the largest tokenizers."""


@contextmanager
def time_bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Around work on one text, of at most so many seconds of computing.

    What cannot be interrupted, since it is not in Python or not in the main thread, ends with its process: `SIGPROF`
    kills it two seconds later.

    Raises:
        TimeoutError: the time is over.
    """

    def stop(*_: Any) -> None:
        raise TimeoutError(f"no end within {seconds:.0f} s of computing")

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGVTALRM, stop) if in_main else None
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds + _GRACE)
        if in_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        if in_main:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def memory_bounded(besides: int = 0) -> Iterator[None]:
    """Around work that may take MEMORY bytes more than the process has, and these `besides`; by all its threads. A
    library that gets no memory may end the process.

    Raises:
        MemoryError: it asks for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    limits = (has + MEMORY + besides, soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (min(n for n in limits if n != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
