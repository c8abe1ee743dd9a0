"""Everything that ends a command on purpose, with its exit code. The message is all a user sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_MOST_SAID = 300  # characters


class RatchetError(Exception):
    """Something failed that is neither the user's input nor the gate's decision."""

    exit_code = 1


class BadInput(RatchetError):
    """The job, the data or the model cannot be used as given; nothing was changed."""

    exit_code = 2


class Closed(BadInput):
    """Somebody else's, and this user may not look at it: nothing is known of it."""


class NoRoom(RatchetError):
    """The cluster has no room for the work now, though it had or may get it; the same command goes on later."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Displaced(RatchetError):
    """A newer driver has claimed the run; this one may write no more."""


class Damaged(RatchetError):
    """A committed file is missing or is not what was committed."""


class Interrupted(BaseException):
    """SIGTERM or Ctrl-C. Not an Exception, so that no clean-up of failures mistakes it for one."""

    exit_code = 130


@contextlib.contextmanager
def of_file(file: object) -> Iterator[None]:
    """Around checks of what a file, or a key of it, says, and which do not know it: it is named before what they
    refuse."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error


def first_line(error: BaseException, most: int = _MOST_SAID) -> str:
    """What an error says first; where it says nothing, its kind. A library's error may quote a stranger's file, and a
    chat template raises whatever it likes: at most so many characters."""
    return cut(next(iter(str(error).strip().splitlines()), "") or type(error).__name__, most)


def last_line(error: BaseException, most: int = _MOST_SAID) -> str:
    """What an error says last, which in a trace is what was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return cut(lines[-1] if lines else repr(error), most)


def cut(said: str, most: int = _MOST_SAID) -> str:
    """A text from elsewhere, with at most so many characters, and word of it where there were more."""
    return said if len(said) <= most else f"{said[:most]}... ({len(said)} characters)"
