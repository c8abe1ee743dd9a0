"""What a grader's process refuses to do, whatever a model has written.

No grader evaluates text as code. SymPy could: `sympify` evaluates the strings it is given, and `lambdify`
compiles what it makes of an expression. An audit hook sees every such attempt of this process, as well as
other programs, files opened for writing and connections, and stops it before it begins. A function of the
user's own is let be while it runs.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "subprocess.Popen", "pty.spawn",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "pickle.find_class",
)  # fmt: skip
_WRITES_ITS_OWN = os.path.join("sympy", "polys", "monomials.py")
"""SymPy's file that compiles code of its own making, which depends on a number of variables alone."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_lifted = False
refusals = 0
"""How often something was refused so far: libraries swallow the exception."""


class Refused(Exception):
    """Something was tried that no grader needs."""


def install() -> None:
    """Guard this process from here on; there is no way back."""
    forbidden = frozenset(_FORBIDDEN)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        global refusals
        if not _lifted and (event in forbidden or _is_attempt(event, details)):
            refusals += 1
            raise Refused(f"{event} is not allowed here")

    sys.addaudithook(hook)


@contextlib.contextmanager
def lifted() -> Iterator[None]:
    """Let everything be, for what is trusted."""
    global _lifted
    _lifted = True
    try:
        yield
    finally:
        _lifted = False


def _is_attempt(event: str, details: tuple[Any, ...]) -> bool:
    if event in ("compile", "exec"):
        name = details[1] if event == "compile" else details[0].co_filename
        return not _is_file(name) and not sys._getframe(2).f_code.co_filename.endswith(_WRITES_ITS_OWN)
    return event == "open" and isinstance(details[2], int) and bool(details[2] & _WRITING)


def _is_file(name: object) -> bool:
    """Whether code comes from a module's file, as that of an import does, and not from text."""
    return isinstance(name, str) and (name.endswith(".py") or name.startswith("<frozen "))
