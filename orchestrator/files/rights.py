"""What is closed to this user, in words: whose it is, and what is needed."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path


def reason(error: OSError) -> str:
    """What the system says of an error; and where this user lacks a right, who has what it is about, and what helps."""
    said = error.strerror or str(error)
    if error.errno != errno.EACCES or error.filename is None:
        return said
    whose = _whose(Path(os.path.abspath(os.fsdecode(error.filename))))
    return f"{said}: {whose}" if whose else said


def _whose(path: Path) -> str:
    """Of whom a path is, or else what stands on the way to it and lets this user no further; nothing where it does."""
    place, status = _nearest(path)
    reading = os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)
    is_closed = not os.access(place, reading, effective_ids=True)
    if not is_closed and os.access(place, os.W_OK, effective_ids=True):
        return ""
    what = "it" if place == path else str(place)
    if status.st_uid == os.geteuid():
        return f"{what} is yours, and closed to you: `chmod u+{'rX' if is_closed else 'w'}` opens it"
    owner, user = _name(status.st_uid), _name(os.geteuid())
    if is_closed:
        cure = f"have {owner} let you read it, or give the command as {owner}"
        return f"{what} belongs to {owner}, and is closed to you, {user}: {cure}"
    return (
        f"{what} belongs to {owner}, and you, {user}, may not write there: give the command as {owner}, or use a copy"
    )


def _nearest(path: Path) -> tuple[Path, os.stat_result]:
    """What of a path can be looked at, from its end on."""
    for place in (path, *path.parents):
        try:
            return place, place.stat()
        except OSError:
            continue
    return Path("/"), os.stat("/")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # of another host, or a container
        return f"user {user}"
