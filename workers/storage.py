"""What `ratchet doctor` tries of a shared folder, on the driver and every node: what ledger and commits rest on.

Participants are known by a name each. A probe takes the folder of one examination, which is removed afterwards.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_REPEATS = 20
_BYTES = b"x" * 4096  # about as many as a ledger's record has
_MEET_SECONDS = 5.0
_NAMES = 20


def times(folder: str, name: str) -> dict[str, Any]:
    """Seconds that each of some links, renames and fsyncs took here, by operation; whether a link to a name that is
    taken was refused (`exclusive`), and the file system's kind.

    Raises:
        OSError: one of them cannot be done, or a rename left something else than was written.
    """
    place = Path(folder) / f"times-{name}"
    place.mkdir()
    found: dict[str, list[float]] = {"link": [], "rename": [], "fsync": []}
    exclusive = True
    for number in range(_REPEATS):
        temporary, taken = place / "temporary", place / f"record-{number}"
        with open(temporary, "xb") as file:
            file.write(_BYTES)
            found["fsync"].append(_seconds(_sync, file))
        found["link"].append(_seconds(os.link, temporary, taken))
        with contextlib.suppress(FileExistsError):
            os.link(temporary, taken)
            exclusive = False
        found["rename"].append(_seconds(os.replace, temporary, place / "view"))
    if (place / "view").read_bytes() != _BYTES or (place / "temporary").exists():
        raise OSError(f"{place}: a rename did not leave what was written")
    return found | {"exclusive": exclusive, "kind": _kind(place)}


def _seconds(work: Callable[..., object], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _kind(place: Path) -> str:
    """The kind of a file system, such as ext4 or nfs4; empty where the system does not tell."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            if place.is_relative_to(point) and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return kind


def race(folder: str, name: str, participants: int) -> list[int]:
    """Try to be the first to take each of some names, as drivers do for a record, when all participants are there;
    the numbers of those that were won."""
    place, won = Path(folder), list[int]()
    (place / f"ready-{name}").touch()
    deadline = time.monotonic() + _MEET_SECONDS
    while len([one for one in os.listdir(place) if one.startswith("ready-")]) < participants:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    mine = place / f"mine-{name}-{uuid.uuid4().hex}"
    mine.write_text(name)
    for number in range(_NAMES):
        try:
            os.link(mine, place / f"race-{number}")
        except FileExistsError:
            continue
        won.append(number)
    return won


def look(folder: str, writer: str) -> None:
    """Look for what `writer` has not written yet, so that a file system that remembers what is not there does, and read
    what it will write over."""
    place = Path(folder)
    assert not os.path.lexists(place / f"awaited-{writer}")
    with contextlib.suppress(FileExistsError), open(place / f"replaced-{writer}", "x") as file:
        file.write("before")
    (place / f"replaced-{writer}").read_text()


def write_if(folder: str, writer: str, text: str, is_writer: bool | None) -> None:
    """As the writer: write a file that nobody knows of, one that the others have looked for, and one over another."""
    if not is_writer:
        return
    for kind in ("new", "awaited", "replaced"):
        path = Path(folder) / f"{kind}-{writer}"
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text)
        os.replace(temporary, path)


def notice(folder: str, writer: str, text: str, patience: float) -> dict[str, float | None]:
    """Seconds from now until each of the three is seen, at most `patience`: 0 is at once, None not at all."""
    left, found = ["new", "awaited", "replaced"], dict[str, float | None]()
    started = time.monotonic()
    while True:
        tried = time.monotonic() - started
        for kind in [kind for kind in left if _holds(Path(folder) / f"{kind}-{writer}", text)]:
            found[kind] = tried if tried > 0.05 else 0.0
            left.remove(kind)
        if not left or tried > patience:
            return found | dict.fromkeys(left)
        time.sleep(0.02)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except OSError:
        return False
