"""A run, sent to its archive: what is there and right is not sent again, and all that is sent is looked at afterwards.

What is at the address is at any time a history that verifies, cut off at a record: first the files that the records
name, then the records in their order, then `archive.json`, which says up to where it goes. Where rounds were set aside
and done once more, that is said first: only then may their new files take the names of the old ones. Nothing there is
ever removed, and no record of another history is written over. How far it came is kept in the run folder
(`archiving.json`), a cache that can be deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.archive.checksums import Checksums, checksums
from orchestrator.archive.contents import MARKER, Item, beside, committed, is_top, record_name
from orchestrator.archive.marker import Marker, digest, read_marker
from orchestrator.archive.opening import open_store
from orchestrator.archive.store import Store, Told, Unreachable, said
from orchestrator.config.addresses import without_password
from orchestrator.errors import Damaged, RatchetError, cut
from orchestrator.files.inside import read_regular, regular_size
from orchestrator.ledger.drivers import Drivers
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import MAX_RECORD, Record, parsed
from orchestrator.reports.archived import Cursor, read_cursor, write_cursor
from orchestrator.reports.living import gone
from orchestrator.text.counts import many

_BLOCK = 16 << 20
_MOST_TURNS = 5  # in which files went while they were to be sent


class _GivenUp(RatchetError):
    """There is no time left."""


@dataclass
class Sent:
    """What one flush has done: files and bytes that were sent, and files that were there already."""

    files: int = 0
    bytes: int = 0
    there: int = 0


class Sender:
    """Sends one run to one address, in the calling thread."""

    def __init__(
        self,
        run_dir: Path,
        address: str,
        ledger: Ledger | None = None,
        keep: bool = True,
        opened: Callable[[str], Store] = open_store,
    ) -> None:
        """`ledger` is a reader of the run's, for this object alone, where there is one already. Without `keep`, the run
        folder is not told how far it came. `opened` gives the store of an address."""
        self.run_dir, self.address, self._keeps, self._open = run_dir, address, keep, opened
        self.problem: str | None = None
        """What keeps the archive from being whole; None while all is well."""
        self.give_up = threading.Event()
        """Set: stop at the next block of bytes."""
        self.moved = 0
        """Bytes that were sent or read so far, by which somebody who waits sees that it goes on."""
        self.sent = Sent()
        self._ledger = ledger or Ledger(run_dir / "ledger")
        self._drivers = Drivers()
        self._store: Store | None = None
        self._cursor = Cursor(without_password(address))
        self._known, self._turns = False, 0

    @property
    def records(self) -> int:
        """How many records the archive has, as of the last flush that ended well."""
        return self._cursor.records

    def is_due(self) -> bool:
        """Whether a round, or a driver, has ended since the last flush, or nothing was sent so far."""
        self._ledger.refresh()
        if not self._known:
            return bool(self._ledger.state.configs)
        new = self._ledger.records[self._cursor.records :]
        return any(record.kind in ("promotion", "end") for record in new)

    def flush(self, whole: bool = False) -> bool:
        """Send what the archive does not have; False when something is left, and then `problem` says why. Never raises.
        `whole`: look at all that is there, too, and not only at what was not sent so far.
        """
        self.problem = None
        try:
            self._ledger.refresh()
            if not self._ledger.state.configs or self._is_displaced():
                return True  # nothing to send yet, or the newer driver does
            self._flush(whole)
        except _GivenUp:
            self.problem = "there was no time to send it all"
        except Exception as error:
            # An archive must never harm a run: whatever happened, it is told, and tried again later.
            self.problem = said(gone(self.run_dir) or error)
            self._store = None
        if self.problem != self._cursor.problem:
            self._keep()
        return self.problem is None

    def _keep(self) -> None:
        self._cursor.problem = self.problem
        if self._keeps:
            with contextlib.suppress(OSError):  # a cache
                write_cursor(self.run_dir, self._cursor)

    def _flush(self, whole: bool) -> None:
        store = self._store = self._store or self._open(self.address)
        if not self._known and (known := read_cursor(self.run_dir)) and known.address == self._cursor.address:
            self._cursor = known
        self._known = True
        there = self.own(store)
        start = 0 if whole or there is None else min(self._cursor.records, there.records)
        if there is None or whole:
            self._cursor.beside = {}
        for stop in self._turns_back(there):
            if not self._send_history(store, start, there, stop):
                return
            self._mark(store, self._ledger.records[:stop], there.beside if there else {})
            start = stop
        if not self._send_history(store, start, there):
            return
        records = self._ledger.records[:]
        changed = self._send_beside(store)
        if start < len(records) or changed or there is None:
            self._mark(store, records, self._beside())
        self._cursor.records = len(records)
        self._keep()

    # Whose archive it is

    def own(self, store: Store) -> Marker | None:
        """What the archive says of itself, where it is this run's with a history that this one goes on from.

        Raises:
            RatchetError: it is another run's, or another history's, or holds somebody's own files.
        """
        marker = read_marker(store)
        first = self._content(0)
        if marker is None:
            there = _read_if_there(store, record_name(0))
            if there not in (None, first) and _is_record(there or b"", 0):
                raise self._foreign("another run")
            if there is None:
                _require_free(store, beside(self.run_dir))
            return None
        if marker.first != digest(first):
            raise self._foreign(f"another run ({marker.name})")
        if marker.records > len(self._ledger.records):
            self._ledger.refresh()
        if marker.records > len(self._ledger.records) or digest(self._content(marker.records - 1)) != marker.last:
            raise self._another_history()
        return marker

    def _foreign(self, whose: str) -> RatchetError:
        return RatchetError(
            f"{self._cursor.address} is the archive of {whose}, and is left alone: give another address (archive=URL)"
        )

    def _another_history(self) -> RatchetError:
        return RatchetError(
            f"{self._cursor.address} has this run with another history: a copy of it went on, or this one was restored "
            f"from an older copy. It is left alone: give another address (archive=URL), or fetch that one"
        )

    def _content(self, number: int) -> bytes:
        return read_regular(self.run_dir / record_name(number), MAX_RECORD)

    # The history

    def _turns_back(self, there: Marker | None) -> list[int]:
        """Up to where an archive is to have the history before it gets more, one number of records after the other: a
        round that was set aside and done once more has files of the same names, which `archive.json` must not tell
        of as they were. A rollback that a later one goes as far back as, or further, needs no such place: none of the
        files that came after it are sent."""
        new = [rollback for rollback in self._ledger.state.rollbacks if there and rollback.record >= there.records]
        return [
            rollback.record + 1
            for at, rollback in enumerate(new)
            if all(later.round > rollback.round for later in new[at + 1 :])
        ]

    def _send_history(self, store: Store, start: int, there: Marker | None, stop: int | None = None) -> bool:
        """Send the records from `start` on, up to `stop`, if it is given, and their files before them; False where a
        newer driver is the one to do so."""
        rollbacks = len(self._ledger.state.rollbacks)
        while (missing := self._send_files(store, start, stop)) is not None:
            if self._turns == _MOST_TURNS:
                raise Damaged(f"{missing}: committed, but missing")
            self._turns += 1
            self._ledger.refresh()
            if len(self._ledger.state.rollbacks) > rollbacks:
                raise RatchetError(f"{self.run_dir}: was rolled back meanwhile; the same command goes on")
        self._turns = 0
        if self._is_displaced():
            return False
        self._send_records(store, start, self._ledger.records[:stop], there.records if there else 0)
        return True

    def _is_displaced(self) -> bool:
        return self._drivers.handed_over(self._ledger.records)

    # Files

    def _send_files(self, store: Store, start: int, stop: int | None) -> Path | None:
        """Send the files of the records from `start` on; one that is not there, where that is so: it was discarded
        meanwhile, or has just got its final name."""
        state, records = self._ledger.state, self._ledger.records
        for item in committed(self.run_dir, state, records[start:stop]).values():
            try:
                self._ensure(store, item)
            except FileNotFoundError as error:
                if item.path.exists():
                    raise Unreachable(f"{store.address}/{item.name}: went while it was looked at") from error
                return item.path
        return None

    def _ensure(self, store: Store, item: Item) -> None:
        """Have a file there, with the bytes that were committed.

        Raises:
            Damaged: the run's own is not what was committed.
            Unreachable: the store has other bytes than it was sent.
        """
        self._moved(0)
        if regular_size(item.path, self.run_dir) != item.size:
            raise Damaged(f"{item.path}: is not what was committed, and is not archived")
        told, own = store.told(item.name), None
        if told is not None and told.size == item.size:
            own = checksums(item.path) if told.etag else None
            if self._is_right(store, item, told, own):
                self.sent.there += 1
                return
        own = own or checksums(item.path)
        if (own.size, own.sha256) != (item.size, item.sha256):
            raise Damaged(f"{item.path}: is not what was committed, and is not archived")
        store.send(item.path, item.name, self._moved)
        told = store.told(item.name)
        if told is None or told.size != item.size or not self._is_right(store, item, told, own):
            raise Unreachable(f"{store.address}/{item.name}: has other bytes than it was sent")
        self.sent.files += 1
        self.sent.bytes += item.size

    def _is_right(self, store: Store, item: Item, told: Told, own: Checksums | None) -> bool:
        """Whether what is there are the committed bytes: by the store's own checksum, where that is one of the file's,
        or else by reading all of it."""
        if own is not None and told.etag in own.etags and own.sha256 == item.sha256:
            return True
        found, place = hashlib.sha256(), 0
        while place < item.size:
            block = store.read(item.name, place, min(place + _BLOCK, item.size))
            if not block:
                return False
            found.update(block)
            place += len(block)
            self._moved(len(block))
        return found.hexdigest() == item.sha256

    def _moved(self, count: int) -> None:
        self.moved += count or 1
        if self.give_up.is_set():
            raise _GivenUp

    # Records, and what stands beside them

    def _send_records(self, store: Store, start: int, records: list[Record], marked: int) -> None:
        """Send records in their order. Of those that are there already, each must be the same."""
        absent = False
        for record in records[start:]:
            self._moved(0)
            name, content = record_name(record.number), self._content(record.number)
            if parsed(content, record.number) != record:
                raise Damaged(f"{self.run_dir / name}: is no longer the record that was read")
            there = None if absent else _read_if_there(store, name)
            absent = there is None and record.number >= marked  # they are written in order
            if there == content:
                continue
            if there is not None and _is_record(there, record.number):
                raise self._another_history()
            store.write(name, content)
            if _read_if_there(store, name) != content:
                raise Unreachable(f"{store.address}/{name}: has other bytes than it was sent")
            self.moved += len(content)

    def _send_beside(self, store: Store) -> bool:
        """Send the files that no record names and that have changed; whether there are any."""
        before = dict(self._cursor.beside)
        for name in beside(self.run_dir):
            path = self.run_dir / name
            try:
                status, now = path.stat(), before.get(name)
                if now is not None and now[:2] == [status.st_size, status.st_mtime_ns]:
                    continue
                own = checksums(path)
                self._cursor.beside.pop(name, None)
                self._ensure(store, Item(name, path, own.size, own.sha256))
                self._cursor.beside[name] = [status.st_size, status.st_mtime_ns, own.sha256]
            except (FileNotFoundError, Damaged):
                continue  # it is being written: the next time
            except Unreachable:
                if path.is_file() and checksums(path) == own:
                    raise
        return self._cursor.beside != before

    def _beside(self) -> dict[str, dict[str, Any]]:
        """What was sent of the files that no record names, as an archive tells it."""
        return {name: {"size": size, "sha256": sha256} for name, (size, _, sha256) in self._cursor.beside.items()}

    def _mark(self, store: Store, records: list[Record], extra: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what is there. A newer driver's word, which says more, is left."""
        there = read_marker(store)
        if there is not None and there.records > len(records):
            return
        contents = (self.run_dir / record_name(record.number) for record in records)
        marker = Marker(
            name=str(self._ledger.state.configs[-1]["job"]["name"]),
            records=len(records),
            first=digest(self._content(0)),
            last=digest(self._content(len(records) - 1)),
            record_bytes=sum(path.stat().st_size for path in contents),
            beside=extra,
        )
        store.write(MARKER, marker.spelled())
        if read_marker(store) != marker:
            raise Unreachable(f"{store.address}/{MARKER}: has other bytes than it was sent")


def standing(run_dir: Path, address: str) -> str:
    """What is at an address, as of the run in `run_dir`, which may not have begun: in words, and looked at only.

    Raises:
        Unreachable: the store does not answer.
        RatchetError: it is another run's archive, or has another history.
    """
    store = open_store(address)
    if (run_dir / record_name(0)).exists():
        there = Sender(run_dir, address, keep=False).own(store)
    elif (there := read_marker(store)) is not None:
        raise RatchetError(
            f"{without_password(address)} is the archive of another run ({there.name}), and would be left alone: give "
            "another address (archive=URL)"
        )
    else:
        _require_free(store, ())
    return f"has {many(there.records, 'record')} of this run" if there else "has nothing yet"


def _require_free(store: Store, views: Iterable[str]) -> None:
    """Refuse somebody's own folder, such as a project's. What a first sending that was cut off has left is free: it has
    no files of the names `views`, which come after the records.

    Raises:
        RatchetError: it is one.
    """
    if name := next((name for name in store.names() if not is_top(name)), None):
        why = f"has other things in it, such as `{cut(name, 80)}`"
    elif name := next(filter(store.told, views), None):
        why = f"has a `{name}`, which would be written over"
    else:
        return
    raise RatchetError(
        f"{without_password(store.address)} is no archive, and {why}: give another address (archive=URL), such as a "
        "new folder"
    )


def _read_if_there(store: Store, name: str) -> bytes | None:
    told = store.told(name)
    return None if told is None else store.read(name, 0, min(told.size, MAX_RECORD + 1)) if told.size else b""


def _is_record(content: bytes, number: int) -> bool:
    """Whether these bytes are a whole record: what a store was cut off in is none, and is written anew."""
    try:
        parsed(content, number)
    except Exception:
        return False
    return True
