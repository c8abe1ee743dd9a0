"""A run, brought back from its archive. It is a stranger's: nothing that is there is believed before it was checked.

What is being fetched is in a hidden folder beside where the run will be, and goes on there after it was cut off:

    .irpo.fetch-9f3c21aa/run/        the run, as far as it is here; every file in it was checked
                         part-...    a file that is under way
                         lock        held by the process that fetches
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.archive.contents import Item, committed, record_name
from orchestrator.archive.marker import Marker, digest
from orchestrator.archive.store import Store
from orchestrator.config.addresses import without_password
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.files import durable
from orchestrator.files.disk import one_message
from orchestrator.files.durable import make_folder, sync
from orchestrator.files.inside import require_below, walk
from orchestrator.files.lack import require_reachable
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.record_files import MAX_RECORD, parsed
from orchestrator.reports.archived import Cursor, write_cursor

_BLOCK = 16 << 20
_MOST_NAMED = 10

Moved = Callable[[int], None]


@dataclass(frozen=True)
class Received:
    """What was brought back."""

    state: State
    files: int
    bytes: int
    left_out: tuple[str, ...]
    """Files that no record names, and that were not at the address as it says."""


class Receiver:
    """Fetches one run into a folder, in the calling thread. Use it as a context: it holds the folder's lock."""

    def __init__(self, store: Store, marker: Marker, target: Path) -> None:
        self._store, self._marker, self._target = store, marker, target
        mark = hashlib.sha256(store.address.encode()).hexdigest()[:8]
        label = os.fsencode(target.name)[:150].decode(errors="ignore")
        self._work = target.parent / f".{label}.fetch-{mark}"
        self.run = self._work / "run"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Receiver:
        told = "Nothing was fetched: see to the disk, and the same command does it"
        with one_message(self._target, told, next(place for place in self._target.parents if place.exists())):
            self._work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stack.close()
            raise RatchetError(f"{self._target}: another process fetches this run already") from error
        except OSError:
            pass  # a file system without locks; what two processes make of a file is hashed all the same
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        with contextlib.suppress(OSError):  # NFS and FUSE keep a file that is open by another name, and so its folder
            self._work.rmdir()

    def state(self, moved: Moved) -> State:
        """Fetch the ledger, and read it as a driver would. `moved` is told of bytes.

        Raises:
            Damaged: it is not what its archive says of itself, damaged, or leads out of the run.
            Unreachable: the store does not answer.
        """
        self._require_room(self._marker.record_bytes)
        self.run.mkdir(exist_ok=True)
        (self.run / "ledger").mkdir(exist_ok=True)
        try:
            self._fetch_records(moved)
            ledger = Ledger(self.run / "ledger")
            if len(ledger.records) != self._marker.records:
                raise Damaged(f"{self._store.address}: has {len(ledger.records)} of {self._marker.records} records")
            if not ledger.state.configs:
                raise Damaged(f"{self._store.address}: its run has no settings")
            require_borders(self.run, ledger.state)
        except Damaged:
            shutil.rmtree(self.run / "ledger", ignore_errors=True)  # what is there now may be another history
            raise
        self._items = list(committed(self.run, ledger.state, ledger.records).values())
        for item in self._items:
            require_below(self.run, item.path)
        require_reachable(self._target, (item.name for item in self._items))
        return ledger.state

    def _fetch_records(self, moved: Moved) -> None:
        total = 0
        for number in range(self._marker.records):
            name = record_name(number)
            path = self.run / name
            content = path.read_bytes() if path.is_file() else self._record(number)
            total += len(content)
            expected = {0: self._marker.first, self._marker.records - 1: self._marker.last}.get(number)
            if total > self._marker.record_bytes or (expected is not None and digest(content) != expected):
                raise Damaged(f"{self._store.address}/{name}: is not the record that the archive says it has")
            if not path.is_file():
                durable.replace(path, content)
            moved(len(content))
        if total != self._marker.record_bytes:
            said = self._marker.record_bytes
            raise Damaged(f"{self._store.address}: its records have {total:,} bytes, and it says {said:,}")

    def _record(self, number: int) -> bytes:
        name = record_name(number)
        told = self._store.told(name)
        if told is None or not 0 < told.size <= MAX_RECORD:
            raise Damaged(f"{self._store.address}/{name}: {'is missing' if told is None else 'is no record'}")
        content = self._store.read(name, 0, told.size)
        try:
            parsed(content, number)
        except ValueError as error:
            raise Damaged(f"{self._store.address}/{name}: this ledger record is damaged ({error})") from error
        return content

    @property
    def wanted(self) -> int:
        """Bytes of all files; only after `state`."""
        return sum(item.size for item in (*self._items, *self._beside()))

    def _beside(self) -> Iterator[Item]:
        known = {item.name for item in self._items}
        for name, said in self._marker.beside.items():
            if name not in known:
                yield Item(name, self.run / name, said["size"], said["sha256"])

    def files(self, state: State, moved: Moved) -> Received:
        """Fetch the files that are not here yet, look at each, and give the run its place.

        Raises:
            Damaged: some are not what was committed; the others are kept for the next try.
            BadInput: there is no room for them.
        """
        self._require_room(self._marker.record_bytes + self.wanted)
        wrong, left_out = list[str](), list[str]()
        for item in self._items:
            if why := self._fetched(item, moved):
                wrong.append(f"{item.name}: {why}")
        if wrong:
            more = [f"and {len(wrong) - _MOST_NAMED} more"] if len(wrong) > _MOST_NAMED else []
            raise Damaged(
                "\n".join([f"{self._store.address}: is not whole:", *wrong[:_MOST_NAMED], *more])
                + "\nWhere the run still is, `ratchet archive RUN` mends its archive; then the same command goes on"
            )
        for item in self._beside():
            require_below(self.run, item.path)
            if self._fetched(item, moved):
                left_out.append(item.name)
        # All of it is there: `status` says so, and a resume sends no more than what comes.
        write_cursor(self.run, Cursor(without_password(self._store.address), self._marker.records))
        self._place()
        items = [item for item in (*self._items, *self._beside()) if item.name not in left_out]
        return Received(state, len(items), sum(item.size for item in items), tuple(left_out))

    def _require_room(self, wanted: int) -> None:
        here = sum((Path(folder) / name).stat().st_size for folder, _, names in walk(self._work) for name in names)
        free = shutil.disk_usage(self._work).free
        if (left := wanted - here) > free:
            raise BadInput(f"{self._target}: {left:,} bytes are still to be fetched, and {free:,} are free: make room")

    def _fetched(self, item: Item, moved: Moved) -> str | None:
        """Have a file here, as it was committed; or why it is not."""
        if item.path.is_file() and not item.path.is_symlink() and item.path.stat().st_size == item.size:
            if durable.sha256(item.path) == item.sha256:
                moved(item.size)
                return None
            item.path.unlink()
        told = self._store.told(item.name)
        if told is None or told.size != item.size:
            return "is missing" if told is None else f"has {told.size:,} bytes, and {item.size:,} were committed"
        part = self._work / f"part-{item.sha256[:16]}"
        found = self._download(item, part, moved)
        if found != item.sha256:
            part.unlink(missing_ok=True)
            return "is not what was committed"
        try:
            make_folder(item.path.parent, self.run)
            os.replace(part, item.path)
        except OSError as error:
            raise Damaged(f"{item.name}: no run can have such a file ({error.strerror})") from error
        sync(item.path.parent)
        return None

    def _download(self, item: Item, part: Path, moved: Moved) -> str | None:
        """Fetch the rest of a file; its sha256, None where it has another size."""
        found, here = hashlib.sha256(), 0
        with open(part, "a+b") as file:
            file.seek(0)
            while block := file.read(min(_BLOCK, item.size - here)) if here < item.size else b"":
                found.update(block)
                here += len(block)
            file.truncate(here)
            moved(here)
            while here < item.size:
                wanted = min(_BLOCK, item.size - here)
                block = self._store.read(item.name, here, here + wanted)
                if not 0 < len(block) <= wanted:
                    return None
                file.write(block)
                found.update(block)
                here += len(block)
                moved(len(block))
            file.flush()
            os.fsync(file.fileno())
        return found.hexdigest()

    def _place(self) -> None:
        """Give the run its name. A folder that is there must be empty."""
        for folder, _, _ in walk(self.run):
            sync(Path(folder))
        try:
            os.rename(self.run, self._target)
        except OSError as error:
            why = f"something is there by now ({error.strerror})"
            raise BadInput(f"{self._target}: {why}; give another folder") from error
        sync(self._target.parent)
        shutil.rmtree(self._work, ignore_errors=True)
