"""The process that graders run in: `python -P -m workers.grading.serve TIMEOUT MEMORY GRADERS RULES`.

It is two processes. The keeper imports what the graders need, once, and then forks a worker; the fork
is safe, because the keeper has one thread, and takes milliseconds, so that a worker which had to be
killed is replaced at once. The worker reads one request a line from standard input and writes one reply
a line to standard output, both JSON:

    ["extract", text, ...]    ->  {"places": [[answer, rule], ...]}, [null, null] where there is no answer
    ["grade", gold, answer]   ->  {"verdict": ..., "reason": ..., "final": ..., "failed": ..., "unreadable": ...}
    ["opinion", gold, answer, name]   ->  the same, by one grader alone

A request is wrapped as [id, request], and its reply carries the "id". For each request the worker
arms a kernel timer whose signal it does not handle: it dies on time even inside one endless
arithmetic operation, and with nobody left to kill it. Its memory is limited to MEMORY GiB beyond what
it starts with, its processor time to that of all its threads within the limit, and guard.py keeps it from
running text as code. Where a grader cannot be made, the first line that the keeper writes is
{"refused": reason}. When a worker dies, the keeper writes {"died": reason} with the id of the request that
the worker began last; to whoever has that one's reply already, it means nothing. When the other end
of the pipes is gone, keeper and worker end.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import mmap
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workers.graders import guard
from workers.graders.combine import Grader, build, each
from workers.graders.extraction.extraction import extract
from workers.graders.judgement import Judgement
from workers.grading.process import START_LIMIT
from workers.supervision.parent import end_with_parent

OUT_OF_MEMORY = 77
RECYCLE = 78
RECYCLE_AFTER = 2000
"""Requests after which a worker makes room for a fresh one, since SymPy's caches grow."""
SUSPECT_SHARE = 0.75
"""Libraries swallow MemoryError. A "wrong", or that an answer cannot be read, which took this share of the memory is
not believed."""
_BEGUN = struct.Struct("=Q")


def main(arguments: list[str]) -> None:
    """The keeper: serves until the other end is gone. `arguments` are the limits of a request in seconds and GiB, then
    the graders and the rules of extraction as JSON, and, where there is one, the folder in which a user's own function
    may live: the last one in which a module is looked for, since nothing else is to come from it."""
    timeout, memory = float(arguments[0]), int(float(arguments[1]) * 2**30)
    graders, rules = json.loads(arguments[2]), json.loads(arguments[3])
    sys.path += arguments[4:]
    _restore_signals()
    signal.setitimer(signal.ITIMER_REAL, START_LIMIT)  # a module that is imported may wait for ever, and nobody be left
    replies = _private_stdout()
    try:
        grader, alone = build(graders), each(graders)
    except ValueError as error:
        _reply(replies, {"id": 0, "refused": str(error)})
        return
    if (mathematics := sys.modules.get("workers.graders.math")) is not None:
        mathematics.warm_up()
    signal.setitimer(signal.ITIMER_REAL, 0)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, what all workers share
    begun = mmap.mmap(-1, _BEGUN.size)  # shared with the workers
    _reply(replies, {"id": 0, "ready": True})
    while True:
        died = _run_worker(
            replies,
            lambda: _serve(replies, begun, timeout, memory, lambda request: _answer(request, grader, alone, rules)),
        )
        if died is None:
            return
        if died:
            _reply(replies, {"id": _BEGUN.unpack(begun[:])[0], "died": died})


def _restore_signals() -> None:
    # Dispositions and the mask survive exec; whoever started us may have had plans of its own for them.
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _private_stdout() -> int:
    """Descriptor for replies; a library that prints to standard output cannot disturb them."""
    replies = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    return replies


def _run_worker(replies: int, work: Callable[[], None]) -> str | None:
    """Fork a worker and wait. Returns why it died, "" if it only wants a successor, None if all is done."""
    alive, keep_open = os.pipe()  # the worker holds the writing end, so hanging up means it is gone
    pid = os.fork()
    if pid == 0:
        os.close(alive)
        end_with_parent()
        try:
            work()
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(keep_open)
    events = select.poll()
    events.register(alive, 0)
    events.register(replies, 0)  # reports an error once nobody reads
    reader_gone = any(descriptor == replies for descriptor, _ in events.poll())
    os.close(alive)
    if reader_gone:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if reader_gone or code == 0:
        return None
    named = {OUT_OF_MEMORY: "out of memory", RECYCLE: "", -signal.SIGALRM: "timeout", -signal.SIGXCPU: "timeout"}
    return named.get(code, f"signal {-code}" if code < 0 else f"exit code {code}")


def _serve(
    replies: int, begun: mmap.mmap, timeout: float, memory: int, answer: Callable[[list[str]], dict[str, Any]]
) -> None:
    """Answer requests until standard input ends."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # parsers complain there about every answer they cannot read
    sys.dont_write_bytecode = True
    base = _limit_memory(memory)
    guard.install()
    with os.fdopen(0, "rb", buffering=1 << 16, closefd=False) as requests:
        for _ in range(RECYCLE_AFTER):
            line = requests.readline()
            if not line:
                return
            signal.setitimer(signal.ITIMER_REAL, timeout)
            _limit_processor(timeout)
            number, request = json.loads(line)
            begun[:] = _BEGUN.pack(number)
            reply = answer(request)
            if _says_no(reply.get("verdict"), reply.get("unreadable")) and _peak() - base > SUSPECT_SHARE * memory:
                os._exit(OUT_OF_MEMORY)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _reply(replies, {"id": number, **reply})
    os._exit(RECYCLE)


def _answer(request: list[str], grader: Grader, alone: Mapping[str, Grader], rules: list[str]) -> dict[str, Any]:
    """The reply to a request, as above. `alone` are the graders by name, for opinions.

    Raises:
        MemoryError: a grader ran out of it; any other error of a grader is a judgement, that it failed.
    """
    if request[0] == "extract":
        return {"places": [extract(text, rules) or (None, None) for text in request[1:]]}
    before = guard.refusals
    asked = alone[request[3]] if request[0] == "opinion" else grader
    judgement = asked(request[1], request[2])
    if _says_no(judgement.verdict, judgement.unreadable) and guard.refusals > before:
        judgement = Judgement("ungradable", "a grader tried to run text as code, and was not let", failed=True)
    names = ("verdict", "reason", "final", "failed", "unreadable")
    return {name: getattr(judgement, name) for name in names}


def _says_no(verdict: str | None, unreadable: bool | None) -> bool:
    """Whether an answer was judged and not found correct."""
    return verdict == "wrong" or bool(unreadable)


def _limit_memory(memory: int) -> int:
    """Allow `memory` bytes of address space beyond today's, and no file; return today's size."""
    base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, base + memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    return base


def _limit_processor(timeout: float) -> None:
    """Allow so many seconds of processor time from now on, and one more, since the kernel counts whole ones."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = math.ceil(used + timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _peak() -> int:
    """Largest address space so far, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmPeak:"):
            return int(line.split()[1]) * 1024
    return 0


def _reply(replies: int, message: dict[str, object]) -> None:
    data = memoryview(json.dumps(message).encode("ascii") + b"\n")
    while data:
        data = data[os.write(replies, data) :]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1:])
