"""The ledger, told to MLflow: an outbox that can be replayed.

The ledger is the queue: a cursor says up to which record everything was sent. Sending again says the same
(runs are found by their tags, points carry the recorded time), so the cursor, `tracking.json` in the run
folder, is a cache that can be deleted. A server that is down costs the run nothing; what is missing is sent
once it answers, in this process or the next.

Two cursors: figures first, then files (tables, report, model versions), so that a server whose file store
does not work still shows the curves.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath

import pyarrow as pa

from orchestrator.config import Tracking
from orchestrator.config.addresses import without_password
from orchestrator.errors import Damaged, RatchetError, cut
from orchestrator.files import strict_json
from orchestrator.files.durable import fingerprint, replace
from orchestrator.ledger import taken
from orchestrator.ledger.drivers import Drivers
from orchestrator.ledger.ledger import Commit, Ledger, only_cleans
from orchestrator.ledger.record_files import Record
from orchestrator.reports.report import report_text
from orchestrator.reports.rounds import accuracy, round_and_phase
from orchestrator.reports.status import run_state
from orchestrator.reports.tables import round_step, sample_rows, training_metrics
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.tracking import projection
from orchestrator.tracking.database import artifact_folder, cure, follow, make
from orchestrator.tracking.mlflow import FOLDER, HOST, DataSet, RunStatus, Sink, reach

CURSOR_FILE = "tracking.json"
_MAX_CURSOR = 1 << 16  # bytes

_ENDS: dict[str, RunStatus] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",  # the gate's decision: nothing broke, and the best reference stands
    "failed": "FAILED",
    "interrupted": "KILLED",
    "not started": "KILLED",  # a fork's first record of an end, told once it is started
}
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
"""MLflow's errors for what it will not take the next time either."""
_PAUSES = (0.1, 0.5, 2.0)
"""Seconds before a record is sent again: MLflow also calls it a bad request where two runs wrote one row of its
database at once (both move one model's alias `reference`)."""


@dataclass
class Cursor:
    """How far the ledger has been sent, and to where."""

    uri: str
    experiment: str
    run_id: str
    parent: str
    """MLflow's id of the parent run: when it is gone, so is all that was sent."""
    figures: int = 0
    """Number of the first record whose figures are not sent."""
    files: int = 0
    """Number of the first record whose files are not sent."""
    folder: str = ""
    """The run folder that it was sent from: a run that was moved says all again, since MLflow holds paths."""


class Outbox:
    """Sends one run's ledger to MLflow, in the calling thread."""

    def __init__(
        self,
        run_dir: Path,
        settings: Tracking,
        default_uri: str,
        ledger: Ledger | None = None,
        sources: Sources = SOURCES,
    ) -> None:
        """`ledger` is a reader of the run's, for this object alone, where there is one already."""
        self.run_dir = run_dir
        self.uri = settings.uri or default_uri
        self.problem: str | None = None
        """What keeps records from being sent, or was refused; None while all is well."""
        self.give_up = threading.Event()
        """Set: stop at the next record."""
        self._experiment = settings.experiment
        self._sources = sources
        self._ledger = ledger or Ledger(run_dir / "ledger")
        self._sink: Sink | None = None
        self._cursor: Cursor | None = None
        self._refused: str | None = None
        self._drivers = Drivers()

    def flush(self, dead_run_too: bool = False) -> bool:
        """Send what is new; False when something is left, and then `problem` says why. Never raises.

        `dead_run_too`: also show a run whose driver died without a word as killed, as of its last record.
        Not for a driver, which knows that it lives.
        """
        try:
            self._ledger.refresh()
            if not self._ledger.state.configs or self._drivers.handed_over(self._ledger.records):
                return True  # nothing to tell yet, or the newer driver tells it
            sink, cursor = self._connect()
            self._advance(cursor, "figures", lambda record: self._send_figures(sink, record))
            self._advance(cursor, "files", lambda record: self._send_files(sink, record))
            if dead_run_too and run_state(self.run_dir, self._ledger.state) == "interrupted":
                self._end(sink, "KILLED", self._ledger.records[-1].time)
        except Exception as error:
            # Tracking must never harm a run: whatever happened, it is told, and tried again later.
            self.problem = f"MLflow at {without_password(self.uri)}: {first_line(self._cause(error))}"
            self._sink = None
            return False
        self.problem = self._refused
        return min(cursor.figures, cursor.files) == len(self._ledger.records)

    def _cause(self, error: Exception) -> Exception:
        """What is to be told of an error: that the experiment was deleted, where it was, since MLflow says less."""
        try:
            self._require_experiment()
        except RatchetError as deleted:
            return deleted
        except Exception:  # MLflow cannot be reached
            helps = cure(self.uri)
            return RatchetError(f"{helps} ({first_line(error)})") if helps else error
        helps = None if self._sink else cure(self.uri)
        return RatchetError(f"{helps} ({first_line(error)})") if helps else error

    def _require_experiment(self) -> None:
        if self._sink:
            self._sink.require_alive()

    def _connect(self) -> tuple[Sink, Cursor]:
        if self._sink and self._cursor:
            return self._sink, self._cursor
        newest = self._ledger.state.configs[-1]
        name, run_id = newest["job"]["name"], newest["run_id"]
        experiment = self._experiment or name
        here, known = self.run_dir.absolute(), self._read_cursor()
        make(self.uri, reach)
        follow(self.uri)
        artifacts = artifact_folder(self.uri, here.parent)
        sink = Sink(self.uri, artifacts, experiment, run_id, here, known.parent if known else None)
        start = round(1000 * self._ledger.records[0].time)
        parent = sink.ensure_run(0, name, start, {FOLDER: str(here), HOST: socket.gethostname()})
        fresh = Cursor(without_password(self.uri), experiment, run_id, parent, folder=str(here))
        if known is None or {**asdict(known), "figures": 0, "files": 0} != asdict(fresh):
            known = fresh
        self._sink, self._cursor = sink, known
        return self._sink, self._cursor

    def _read_cursor(self) -> Cursor | None:
        """The cursor in the run folder, wherever that was when it was written; None where there is none of use."""
        try:
            known = Cursor(**strict_json.read_object(self.run_dir / CURSOR_FILE, _MAX_CURSOR, self.run_dir))
            texts = all(isinstance(text, str) for text in (known.uri, known.experiment, known.run_id, known.parent))
            sent = (known.figures, known.files)
            counts = all(type(count) is int and 0 <= count <= len(self._ledger.records) for count in sent)
            return known if texts and counts and isinstance(known.folder, str) else None
        except (OSError, ValueError, TypeError, Damaged):
            return None  # a cache: whatever is wrong with it, start over

    def _advance(self, cursor: Cursor, which: str, send: Callable[[Record], None]) -> None:
        """Send the records behind one of the two cursors, in order, and remember how far it came."""
        start = getattr(cursor, which)
        worth_keeping = False
        try:
            for record in self._ledger.records[start:]:
                if self.give_up.is_set():
                    break
                if record.kind not in ("shard", "offer"):  # thousands of them, and nothing to send
                    self._send(send, record)
                    worth_keeping = True
                setattr(cursor, which, record.number + 1)
        finally:
            if worth_keeping:
                replace(self.run_dir / CURSOR_FILE, json.dumps(asdict(cursor)).encode())

    def _send(self, send: Callable[[Record], None], record: Record) -> None:
        """Send a record; one that can never be sent is passed over and told, and the others come through."""
        try:
            self._send_again(send, record)
        except (FileNotFoundError, pa.ArrowInvalid, KeyError, TypeError) as error:
            self._refused = f"record {record.number} cannot be tracked: {first_line(error)}"
        except Exception as error:
            if getattr(error, "error_code", None) not in _REFUSED:
                raise
            self._require_experiment()  # what is refused since it was deleted is to be sent once it is back
            self._refused = f"MLflow refused record {record.number}: {first_line(error)}"

    def _send_again(self, send: Callable[[Record], None], record: Record) -> None:
        for pause in _PAUSES:
            try:
                return send(record)
            except Exception as error:
                if getattr(error, "error_code", None) != "BAD_REQUEST":
                    raise
                self.give_up.wait(pause)
        send(record)

    # What each record means in MLflow.

    def _send_figures(self, sink: Sink, record: Record) -> None:
        data = record.data
        match record.kind:
            case "claim" if not only_cleans(data):
                for number in self._open_runs(sink):
                    sink.set_running(number)
            case "config":
                self._send_config(sink, record)
            case "commit":
                self._send_commit(sink, record)
            case "promotion":
                number = int(data["round"])
                self._ensure_round(sink, number, record.time)
                figures = projection.promotion_figures(data, record.time)
                tags = {
                    "ratchet.promoted": str(data["promoted"]).lower(),
                    "ratchet.reason": str(data["reason"]),
                    "ratchet.checkpoint": self._checkpoint(number),
                }
                sink.log(number, figures, tags=tags)
                sink.log(0, figures)
                sink.set_ended(number, "FINISHED", round(1000 * record.time))
            case "end":
                sink.log(0, tags={"ratchet.end": f"{data['state']}: {data['reason']}"})
                self._end(sink, _ENDS[data["state"]], record.time)

    def _open_runs(self, sink: Sink) -> list[int]:
        """The parent, and the rounds that are not decided."""
        decided = {int(promotion["round"]) for promotion in self._ledger.state.promotions}
        return [number for number in sorted(sink.runs) if number not in decided]

    def _end(self, sink: Sink, status: RunStatus, seconds: float) -> None:
        for number in self._open_runs(sink):
            sink.set_ended(number, status, round(1000 * seconds))

    def _ensure_round(self, sink: Sink, number: int, seconds: float) -> None:
        if number:
            folder = str(self.run_dir.absolute() / f"rounds/{number:02d}")
            sink.ensure_run(number, f"round {number}", round(1000 * seconds), {FOLDER: folder})

    def _checkpoint(self, number: int) -> str:
        return str(self.run_dir.absolute() / round_step(number, "checkpoint"))

    def _send_config(self, sink: Sink, record: Record) -> None:
        known = [r.data for r in self._ledger.records[: record.number + 1] if r.kind == "config"]
        tags = {f"version.{package}": str(version) for package, version in record.data["versions"].items()}
        tags["ratchet.job_file"] = str(record.data["job_file"])
        if len(known) == 1:
            sink.log(0, params=projection.parameters(record.data["job"]), tags=tags)
        else:
            sink.log(0, tags={**tags, **projection.overrides(known)})

    def _send_commit(self, sink: Sink, record: Record) -> None:
        commit = self._ledger.state.commits[record.data["step"]]
        number, phase = round_and_phase(commit.step)
        self._ensure_round(sink, number, record.time)
        state, facts = self._ledger.state, commit.facts
        if taken.taken(state, commit.step):
            facts = taken.without_times(facts)
            sink.log(number, tags={f"ratchet.taken_over.{phase}": taken.origin(state)})
        figures = projection.step_figures(number, phase, facts, record.time)
        if phase == "train" and (table := training_metrics(self.run_dir, state, number)):
            table = table if facts is commit.facts else taken.without_times(table)
            by_step = projection.training_figures(table, record.time, float(facts.get("seconds", 0)))
            sink.log(0, projection.continued(by_step, self._steps_before(number)))
            sink.log(number, by_step)
        for target in {0, number}:
            sink.log(target, figures)
        if phase == "preferences":
            sink.log_inputs(0, self._preference_data(commit))
        if phase == "prompts":
            data_sets = self._data_sets(commit, ("gate", "test") if number == 0 else ("train",))
            for target in {0, number}:
                sink.log_inputs(target, data_sets)

    def _preference_data(self, commit: Commit) -> list[DataSet]:
        """The sources of stages, by the rows that the run keeps of them."""
        files = [said["sha256"] for artifact in commit.artifacts for _, said in sorted(artifact.files.items())]
        return [
            DataSet(f"stages.sources.{number}", "training", told["name"], fingerprint([sha256]), told["pairs"])
            for number, (told, sha256) in enumerate(zip(commit.facts["sources"], files, strict=True))
        ]

    def _steps_before(self, number: int) -> int:
        """Optimizer steps of all earlier rounds, which are committed before this one."""
        commits = self._ledger.state.commits
        earlier = (commits.get(round_step(n, "train")) for n in range(1, number))
        return sum(int(commit.facts.get("steps", 0)) for commit in earlier if commit)

    def _data_sets(self, commit: Commit, splits: tuple[str, ...]) -> list[DataSet]:
        """Data sets by what was read from them: digests are of committed prompts, so a rebuild agrees."""
        found = []
        for split in splits:
            if not (rows := self._ledger.state.configs[-1]["job"]["data"][split]):
                continue
            files = [
                (PurePath(artifact.path, name).stem, said["sha256"])
                for artifact in commit.artifacts
                for name, said in sorted(artifact.files.items())
            ]
            own = [sha256 for stem, sha256 in files if stem == split] or [sha256 for _, sha256 in files]
            source = str(rows["path"] or rows.get("hub"))
            context = "training" if split == "train" else "evaluation"
            num_rows = commit.facts.get("prompts" if split == "train" else split)
            digest = fingerprint([split, commit.fingerprint, own])
            found.append(DataSet(split, context, source, digest, num_rows))
        return found

    def _send_files(self, sink: Sink, record: Record) -> None:
        state, data = self._ledger.state, record.data
        if record.kind == "commit":
            number, phase = round_and_phase(data["step"])
            if number and phase == "verdicts":
                sink.log_table(number, sample_rows(self.run_dir, state, number), "samples.json")
        if record.kind == "promotion" and data["promoted"]:
            number = int(data["round"])
            evaluation = state.commits.get(round_step(number, "evaluation"))
            test = accuracy(evaluation.facts if evaluation else None)
            params = {"round": str(number), "test_accuracy": "" if test is None else f"{test:.4f}"}
            name = state.configs[-1]["job"]["name"]
            sink.register(number, name, self._checkpoint(number), params)
        if record.kind in ("promotion", "end") and record.number == self._last_report():
            sink.log_text(0, report_text(self.run_dir, self._sources), "report.md")

    def _last_report(self) -> int:
        """The newest record that changes the report enough: on a replay it is sent once."""
        return max(r.number for r in self._ledger.records if r.kind in ("promotion", "end"))


def first_line(error: BaseException) -> str:
    """An error in a short line, without passwords."""
    text = str(error).strip() or type(error).__name__
    return cut(without_password(text.splitlines()[0]))  # in this order: half a password is one, too
