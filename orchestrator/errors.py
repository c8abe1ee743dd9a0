"""Everything that ends a command on purpose, with its exit code. The message is all a user sees."""

from __future__ import annotations


class RatchetError(Exception):
    """Something failed that is neither the user's input nor the gate's decision."""

    exit_code = 1


class BadInput(RatchetError):
    """The job, the data or the model cannot be used as given; nothing was changed."""

    exit_code = 2


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
