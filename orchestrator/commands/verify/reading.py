"""A ledger, read by somebody who believes nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.commands.verify import history, removals
from orchestrator.errors import BadInput, Damaged, cut
from orchestrator.files.lack import require_enough
from orchestrator.ledger.ledger import State
from orchestrator.ledger.record_files import Record, read_record, record_numbers
from orchestrator.ledger.rollbacks import round_of
from orchestrator.reports.status import open_run


class Reading:
    """A ledger as far as it can be read: the fold of its good records, and what is wrong with the others."""

    def __init__(self, folder: Path) -> None:
        self.state, self.findings, self._folder = State(), list[str](), folder
        self.record_of: dict[tuple[str, str, int | None], str] = {}
        """The record by its kind, its step (or the round of a promotion) and shard."""
        self.after_promotion: set[str] = set()
        """Kinds of the records since the last promotion or rollback."""
        self.next = 0
        numbers = record_numbers(folder)
        for number in numbers:
            if number > self.next:
                last = f" to {self._path(number - 1).name}" if number > self.next + 1 else ""
                self.findings.append(f"ledger/{self._path(self.next).name}{last}: missing")
            self._read(number)
        if not numbers:
            open_run(folder.parent)  # says what is there instead

    def refresh(self) -> bool:
        """Read what was appended since; whether that is anything."""
        before = self.next
        while os.path.lexists(self._path(self.next)):
            self._read(self.next)
        return self.next > before

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.json"

    def _read(self, number: int) -> None:
        path, self.next = self._path(number), number + 1
        name = f"ledger/{path.name}"
        try:
            record = read_record(path, number)
            self.findings += [f"{name}: {what}" for what in history.out_of_turn(record, self.state)]
            undue = removals.undue(record, self.state)
            self.state.apply(record)
            self.state.discarded.difference_update(undue)  # so it is still looked at
            self._note(record, name)
        except BadInput:  # one that is closed to us may be sound, and what is committed by it, too
            raise
        except (Damaged, OSError) as error:
            require_enough(error)
            self.findings.append(f"{name}: {str(error).removeprefix(f'{path}: ')}")
        except Exception as error:  # whatever a stranger writes into a record, the others are still to be checked
            require_enough(error)
            self.findings.append(f"{name}: is damaged ({cut(repr(error))})")

    def _note(self, record: Record, name: str) -> None:
        key = str(record.data.get("round") if record.kind == "promotion" else record.data.get("step"))
        self.record_of.setdefault((record.kind, key, record.data.get("index")), name)
        if record.kind == "shard":  # one that was discarded is made again
            self.record_of[record.kind, key, record.data.get("index")] = name
        if record.kind == "rollback":  # what was set aside is done once more
            self.record_of = {key: said for key, said in self.record_of.items() if not self._is_aside(key, record)}
        decided = record.kind in ("promotion", "rollback")
        self.after_promotion = set() if decided else self.after_promotion | {record.kind}

    @staticmethod
    def _is_aside(key: tuple[str, str, int | None], record: Record) -> bool:
        kind, name, _ = key
        number = (int(name) if name.isdigit() else 0) if kind == "promotion" else round_of(name)
        return number > int(record.data["round"])
