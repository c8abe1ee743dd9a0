"""The ledger: a run's only truth. One immutable file a record; the order of the numbers is the order of events.

    ledger/00000000.json   {"schema": 1, "number": 0, "epoch": 1, "kind": "claim", "time": ..., "data": {...},
                            "check": fingerprint of all the rest}

- **Append** puts the next number if it is absent (see `durable.put_if_absent`). No locks, no clocks.
- **Claim**: a driver's first record carries the next epoch. The newest claim wins: when an older
  driver finds its next number taken, a newer claim stands before it, and it stops (`Displaced`).
- **Fold** (`State`) turns the records into what a driver, `status` or tracking needs to know.

`time` is for people and for tracking; nothing is decided by it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput, Damaged, Displaced
from orchestrator.files.durable import put_if_absent, sync
from orchestrator.files.inside import read_regular, require_below
from orchestrator.files.rights import reason
from orchestrator.ledger import cache, rollbacks
from orchestrator.ledger.kinds import Kind, quoted
from orchestrator.ledger.record_files import MAX_RECORD, SCHEMA, Record, read_record, record_numbers, spelled
from orchestrator.ledger.step_facts import recorded


@dataclass(frozen=True, slots=True)
class Artifact:
    """Files that were committed together: a folder, or one file (then its name in `files` is "").

    `hidden` is where the worker wrote it and `path` where a reader finds it, both relative to the
    run; `files` maps names to {"size": bytes, "sha256": hex}.
    Example: Artifact("rounds/01/pairs", "rounds/01/.pairs-e1-a5", {"00000.parquet": {...}})
    """

    path: str
    hidden: str
    files: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "hidden": self.hidden, "files": self.files}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Artifact:
        return Artifact(data["path"], data["hidden"], data["files"])


@dataclass(frozen=True, slots=True)
class Commit:
    """A finished step: what it was computed from, what it made, and its facts (counts, seconds, ...)."""

    step: str
    fingerprint: str
    artifacts: tuple[Artifact, ...]
    facts: dict[str, Any]
    recipe: int = 1
    """How the fingerprint was made; see recipes.py. The first runs named none."""


@dataclass(frozen=True, slots=True)
class ShardCommit:
    """A finished shard of a step that is not finished yet, or was not when this was written. Its facts have its
    fingerprint, and the recipe of that."""

    step: str
    index: int
    artifact: Artifact
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Offer:
    """A step (`index` is None) or shard that another run committed, for this one to take over; see commands/fork."""

    step: str
    index: int | None
    fingerprint: str
    artifacts: tuple[Artifact, ...]
    """`hidden` is where the files are until the offer is taken."""
    discarded: tuple[str, ...]
    """Paths of those artifacts that the other run had removed on purpose."""
    facts: dict[str, Any]
    recipe: int = 1


@dataclass
class State:
    """What the records say, folded in order."""

    epoch: int = 0
    driver: dict[str, Any] = field(default_factory=dict)
    configs: list[dict[str, Any]] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    shards: dict[str, dict[int, ShardCommit]] = field(default_factory=dict)
    offers: dict[tuple[str, int | None], Offer] = field(default_factory=dict)
    """By step and shard; taken or not."""
    promotions: list[dict[str, Any]] = field(default_factory=list)
    discarded: set[str] = field(default_factory=set)
    """Paths of committed artifacts that were removed on purpose."""
    rollbacks: list[rollbacks.Rollback] = field(default_factory=list)
    rolled_back: bool = False
    """Whether no round was decided since the last of them."""
    end: dict[str, Any] | None = None
    """How the newest driver ended; None while it has not said so. `ratchet gc` drives nothing, and leaves it."""

    @property
    def finished(self) -> bool:
        """Whether all its rounds are done: nothing is left that would take an offer. One that was only to come as far
        as a step can go on from there."""
        return self.end is not None and self.end["state"] == "finished" and self.end.get("goal") is None

    def apply(self, record: Record) -> None:
        """Fold a record in.

        Raises:
            Damaged: it names what the records before it do not have. Nothing of it is taken.
        """
        data = record.data
        match record.kind:
            case "claim":
                self.epoch, self.driver = record.epoch, data
                if only_cleans(data):
                    self.discarded.update(data.get("paths", ()))
                else:
                    self.end = None
            case "config":
                self.configs.append(data)
            case "offer":
                step, index, digest = data["step"], data["index"], data["fingerprint"]
                artifacts = tuple(Artifact.from_json(a) for a in data["artifacts"])
                facts, discarded = recorded(data), tuple(data["discarded"])
                recipe = data.get("recipe", 1)
                self.offers[step, index] = Offer(step, index, digest, artifacts, discarded, facts, recipe)
            case "shard":
                step, index = data["step"], data["index"]
                shard = ShardCommit(step, index, Artifact.from_json(data["artifact"]), recorded(data))
                self.shards.setdefault(shard.step, {}).setdefault(shard.index, shard)
            case "commit":
                artifacts = tuple(Artifact.from_json(a) for a in data["artifacts"])
                facts, recipe = recorded(data), data.get("recipe", 1)
                commit = Commit(data["step"], data["fingerprint"], artifacts, facts, recipe)
                self.commits.setdefault(commit.step, commit)
                self.discarded.update(data.get("discarded", ()))
            case "promotion":
                self._require_own(record)
                self.promotions.append(data)
                self.rolled_back = False
            case "rollback":
                rollbacks.fold(self, record)
                self.rolled_back = True
            case "discard":
                self.discarded.update(data["paths"])
                self._forget_shards(set(data["paths"]))
            case "end":
                self.end = data
            case unknown:
                raise ValueError(f"nothing folds a record of the kind `{unknown}` in")

    def _require_own(self, record: Record) -> None:
        """A promotion names models of the run; the only one outside of it is the base model, in a folder of its own."""
        if not self.configs:
            raise Damaged(
                f"{record.number:08d}.json: this ledger record is damaged (a promotion before any `config` record). "
                "Restore it from a copy of the run."
            )
        base_models = {config.get("model") or config["job"]["model"] for config in self.configs}
        for key in ("reference", "best"):
            name = record.data.get(key)
            if name is not None and os.path.isabs(name) and name not in base_models:
                raise Damaged(
                    f"{record.number:08d}.json: this ledger record is damaged (`data.{key}` is {quoted(name)}, which "
                    "is neither in the run nor the base model of its job). Restore it from a copy of the run."
                )

    def _forget_shards(self, paths: set[str]) -> None:
        """A shard that is discarded before its step is committed is to be made again, under another name."""
        for step in self.shards.keys() - self.commits.keys():
            self.shards[step] = {i: s for i, s in self.shards[step].items() if s.artifact.path not in paths}
            if not self.shards[step]:
                del self.shards[step]  # as before its first shard: nothing of it is done

    def artifacts(self) -> Iterator[Artifact]:
        """Every committed artifact that was not discarded, shards included."""
        for shards in self.shards.values():
            for shard in shards.values():
                if shard.artifact.path not in self.discarded:
                    yield shard.artifact
        for commit in self.commits.values():
            yield from (artifact for artifact in commit.artifacts if artifact.path not in self.discarded)


class Ledger:
    """A driver's, or a reader's, view of a ledger folder. `state` is the fold of `records` so far."""

    def __init__(self, folder: Path, beside: Ledger | None = None) -> None:
        """What `beside`, of the same folder, knows is not read again, nor held twice."""
        self.folder, self._beside = folder, beside
        self.records: list[Record] = []
        self.state = State()
        self._epoch: int | None = None
        self._last: tuple[Path, bytes] | None = None
        """The newest record that this object has written."""
        self._num_cached = 0
        if folder.is_symlink():
            require_below(folder.parent, folder / "record")
        if beside is None:
            for number, said in enumerate(cache.load(self._cache, folder)):
                self._note(Record(number, *said))
            self._num_cached = len(self.records)
        self.refresh()
        self._check_no_hole()

    def as_it_is(self) -> Ledger:
        """Another reader of the same folder, as it is now, for a thread of its own; records are shared with this one,
        also those that it comes to know later."""
        return Ledger(self.folder, self)

    @property
    def _cache(self) -> Path:
        return self.folder.with_name("ledger.cache")

    def _note(self, record: Record) -> None:
        self._fold(record)
        self.records.append(record)

    def refresh(self) -> list[Record]:
        """Read what others appended; returns the new records."""
        new = self._beside.records[len(self.records) :] if self._beside else []
        for record in new:
            self._note(record)
        while os.path.lexists(path := self._path(len(self.records))):
            new.append(record := read_record(path, len(self.records)))
            self._note(record)
        return new

    def _check_no_hole(self) -> None:
        """A missing record below an existing one would silently cut the history off."""
        later = [number for number in record_numbers(self.folder) if number > len(self.records)]
        missing = self._path(len(self.records))
        if later and not os.path.lexists(missing):
            raise Damaged(
                f"{missing}: this ledger record is missing, while {self._path(min(later)).name} exists. Restore it "
                "from a copy, or take away what is no record of this run."
            )

    def _fold(self, record: Record) -> None:
        try:
            self.state.apply(record)
        except Damaged as error:
            raise Damaged(f"{self.folder}/{error}") from error

    def claim(self, driver: dict[str, Any], after: int | None = None) -> int:
        """Become the run's driver; returns the epoch. Displaces whoever drove it before; with `after`, a number of
        records, only while there are no more.

        Raises:
            Damaged: the folder is a link that leads out of the run.
            Displaced: somebody has written since.
        """
        require_below(self.folder.parent, self._path(0))
        if not self.records:  # else it is there, and one that was moved away is not made anew
            self.folder.mkdir(parents=True, exist_ok=True)
        sync(self.folder.parent)
        with contextlib.suppress(PermissionError):  # the folder of runs may be somebody else's
            sync(self.folder.parent.parent)
        while True:
            self.refresh()
            if after not in (None, len(self.records)):
                raise Displaced(f"{self.folder.parent}: somebody else has just begun to drive it, and is left alone.")
            epoch = self.state.epoch + 1
            if self._put("claim", driver, epoch):
                self._epoch = epoch
                self.cache()
                return epoch

    def cache(self, again: bool = False) -> None:
        """Keep what was read for the next reader, where it was much, or `again`; see cache.py."""
        if again or len(self.records) - self._num_cached >= cache.MIN_NEW:
            cache.save(self._cache, self.folder, [[r.epoch, r.kind, r.time, r.data] for r in self.records])
            self._num_cached = len(self.records)

    @property
    def claimed(self) -> bool:
        """Whether this object has become the run's driver (and may have been displaced since)."""
        return self._epoch is not None

    def append(self, kind: Kind, data: dict[str, Any]) -> Record:
        """Write the next record.

        Raises:
            Displaced: a newer driver has claimed the run.
            Damaged: reading would refuse it; nothing is written.
        """
        if self._epoch is None:
            raise RuntimeError("claim the ledger before appending to it")
        while self.state.epoch == self._epoch:
            self.require_own()
            if self._put(kind, data, self._epoch):
                return self.records[-1]
            # Taken: by a newer driver, or by ourselves when a signal came between the link and its noting.
            self.refresh()
        by = self.state.driver
        raise Displaced(
            f"{self.folder.parent}: another driver took this run over "
            f"(process {by.get('pid')} on {by.get('host')}, epoch {self.state.epoch}). "
            "This one stops; what it committed is kept."
        )

    def require_own(self) -> None:
        """Before something is written. Where the run's folder was moved away, another run may have begun in its place,
        with the same epochs, or an older copy may stand there: it is the run that was claimed as long as the newest
        record written is in it.

        Raises:
            Displaced: it is another run, an older copy, or a damaged one.
            OSError: nobody can say, such as where no more files may be opened.
        """
        if self._last is None or not self.folder.is_dir():  # moved away, which the writing says
            return
        path, content = self._last
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, Damaged):
            if read_regular(path, MAX_RECORD) == content and os.path.lexists(self._path(len(self.records) - 1)):
                return
        raise Displaced(
            f"{self.folder.parent}: is no longer the run that this driver has claimed ({path.name} is not what it "
            "wrote): the folder was moved, and another is in its place. This driver stops, and writes nothing there."
        )

    def _put(self, kind: Kind, data: dict[str, Any], epoch: int) -> bool:
        number = len(self.records)
        record = Record(number, epoch, kind, time.time(), data)
        document = {
            "schema": SCHEMA,
            "number": number,
            "epoch": epoch,
            "kind": kind,
            "time": record.time,
            "data": data,
        }
        path = self._path(number)
        content = self._spelled(path, document)
        if not put_if_absent(path, content):
            return False
        self._last = (path, content)
        self._note(record)
        return True

    def _spelled(self, path: Path, document: dict[str, Any]) -> bytes:
        """The bytes of a record; held against all that reading asks for before they are written."""
        try:
            content, record = spelled(document)
            if record.kind == "promotion":
                self.state._require_own(record)
        except (ValueError, TypeError, RecursionError) as error:
            raise Damaged(f"{path}: this record is not written, since reading would refuse it ({error})") from error
        return content

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"


CLEANING = {"purpose": "gc"}
"""What the claim of `ratchet gc` says besides: it only removes what nobody needs; of what is committed, `paths`. That
is all that it writes, for a full disk may have room for no more than one record."""


def only_cleans(claim: Mapping[str, Any]) -> bool:
    """Whether a claim is that of `ratchet gc`, after which the run is what it was."""
    return claim.get("purpose") == CLEANING["purpose"]


def probe_links(folder: Path, named: Path | None = None) -> None:
    """Check that the file system can do what the ledger needs. `named` is the folder as a message names it.

    Raises:
        BadInput: the folder cannot be written, or its file system has no hard links.
    """
    probe = folder / f".probe-{os.getpid()}-{time.time_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        put_if_absent(probe, b"probe")
    except OSError as error:
        told = f"{named or folder}: a run needs a writable folder with hard links ({reason(error)})"
        raise BadInput(told) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
