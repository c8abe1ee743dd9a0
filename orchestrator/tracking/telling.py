"""What the records of a ledger and the rows of its journal mean to a sink, as figures, parameters and tags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from orchestrator.files.durable import fingerprint
from orchestrator.ledger import taken
from orchestrator.ledger.ledger import Commit, Ledger, only_cleans
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.rollbacks import is_aside
from orchestrator.reports.columns import checks_of
from orchestrator.reports.evidence import by_ledger
from orchestrator.reports.health import health
from orchestrator.reports.journal import Row, update_times
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.symptoms import by_round
from orchestrator.reports.tables import round_step, training_metrics
from orchestrator.sources.source import Sources
from orchestrator.tracking import described, projection
from orchestrator.tracking.described import NOTE, described_round
from orchestrator.tracking.projection import Figure
from orchestrator.tracking.sink import FOLDER, DataSet, RunStatus, Sink

_ENDS: dict[str, RunStatus] = {
    "finished": "FINISHED",
    "stopped": "FINISHED",  # the gate's decision: nothing broke, and the best reference stands
    "failed": "FAILED",
    "interrupted": "KILLED",
    "not started": "KILLED",  # a fork's first record of an end, told once it is started
}


class Teller:
    """Tells one run's ledger and journal to a sink."""

    def __init__(self, run_dir: Path, ledger: Ledger, sources: Sources, sink: Sink) -> None:
        self.run_dir, self._ledger, self._sources, self._sink = run_dir, ledger, sources, sink
        self._named: set[int] = set()

    def figures(self, record: Record) -> None:
        """Say what a record means in figures, parameters and tags."""
        data = record.data
        if is_aside(record, self._ledger.state):
            return
        match record.kind:
            case "rollback":
                for number in (number for number in data["rounds"] if number in self._sink.runs):
                    self._sink.log(number, tags={"promoted": "set aside", "ratchet.set_aside": "by a rollback"})
                self._sink.log(0, tags={"ratchet.rolled_back": f"to round {data['round']}"})
            case "claim" if not only_cleans(data):
                for number in self._open_runs():
                    self._sink.set_running(number)
            case "config":
                self._config(record)
            case "commit":
                self._commit(record)
            case "promotion":
                number = int(data["round"])
                self._ensure_round(number, record.time)
                base, done = by_ledger(self._ledger.state)
                evidence = next(each for each in done if each.round.number == number)
                checks = checks_of(self._ledger.state.configs[-1]["job"], self._sources)
                ill = by_round(base, done, checks, number).get(number, [])
                figures = projection.promotion_figures(data, record.time)
                figures += projection.health_figures(health(evidence), number, record.time)
                tags = {
                    "promoted": "yes" if data["promoted"] else "no",
                    "ratchet.promoted": str(data["promoted"]).lower(),
                    "ratchet.reason": str(data["reason"]),
                    "ratchet.checkpoint": str(self.run_dir.absolute() / round_step(number, "checkpoint")),
                    NOTE: described_round(data, evidence.round.facts.get("evaluation"), ill),
                }
                self._sink.log(number, figures, tags=tags)
                decided = [p for p in self._ledger.state.promotions if int(p["round"]) <= number]
                promoted = sum(bool(p["promoted"]) for p in decided)
                self._sink.log(0, figures, tags={"promoted": f"{promoted} of {len(decided)}"})
                self._sink.set_ended(number, "FINISHED", round(1000 * record.time))
            case "end":
                self._sink.log(0, tags={"ratchet.end": f"{data['state']}: {data['reason']}"})
                self.end(_ENDS[data["state"]], record.time)

    def _open_runs(self) -> list[int]:
        """The parent, and the rounds that are not decided."""
        decided = {int(promotion["round"]) for promotion in self._ledger.state.promotions}
        return [number for number in sorted(self._sink.runs) if number not in decided]

    def end(self, status: RunStatus, seconds: float) -> None:
        """Say that the run ended so."""
        for number in self._open_runs():
            self._sink.set_ended(number, status, round(1000 * seconds))

    def rows(self, rows: Iterable[Row]) -> None:
        """Say what the journal says: how busy nodes are, and the updates of a training that is not committed yet. What
        is committed is told from the committed metrics, with the journal's times."""
        begin = self._ledger.records[0].time
        loads: list[Figure] = []
        updates: dict[int, list[Figure]] = {}
        for row in rows:
            if row.node:
                loads += projection.load_figures(row.node, row.values, begin, row.time)
            elif (number := self._in_training(row)) is not None:
                self._ensure_round(number, row.time)
                updates.setdefault(number, []).extend(projection.update_figures(row.number, row.values, row.time))
        self._sink.log_once(0, loads)
        for number, figures in updates.items():
            self._updates(number, figures)

    def _in_training(self, row: Row) -> int | None:
        """The round whose training a row is of, where that is under way."""
        number, phase = round_and_phase(row.what)
        known = row.what == round_step(number, "train") and number and phase == "train"
        begun = any(step.startswith(round_step(number, "")) for step in self._ledger.state.commits)
        return number if known and begun and row.what not in self._ledger.state.commits else None

    def _updates(self, number: int, figures: Sequence[Figure]) -> None:
        self._sink.log_once(number, figures)
        self._sink.log_once(0, projection.continued(figures, self._steps_before(number)))

    def _ensure_round(self, number: int, seconds: float) -> None:
        """See to it that a round has a run, with the parameters that rounds differ in."""
        if not number or number in self._named:
            return
        self._named.add(number)
        config, state = self._ledger.state.configs[-1], self._ledger.state
        folder = self.run_dir.absolute() / f"rounds/{number:02d}"
        tags = {FOLDER: str(folder), **described.tags(config)}
        self._sink.ensure_run(number, f"{config['job']['name']} round {number}", round(1000 * seconds), tags)
        earlier = [int(p["round"]) for p in state.promotions if p["promoted"] and int(p["round"]) < number]
        reference = {"reference": f"round {earlier[-1]}" if earlier else "base model"}
        # Of the first config: MLflow refuses another value of a parameter that it has.
        self._sink.log(number, params=projection.round_parameters(state.configs[0]["job"], number) | reference)

    def _config(self, record: Record) -> None:
        known = [r.data for r in self._ledger.records[: record.number + 1] if r.kind == "config"]
        tags = {f"version.{package}": str(version) for package, version in record.data["versions"].items()}
        tags |= {"ratchet.job_file": str(record.data["job_file"]), **described.tags(record.data)}
        if len(known) == 1:
            self._sink.log(0, params=projection.parameters(record.data["job"]), tags=tags)
        else:
            self._sink.log(0, tags={**tags, **projection.overrides(known)})

    def _commit(self, record: Record) -> None:
        commit = self._ledger.state.commits[record.data["step"]]
        number, phase = round_and_phase(commit.step)
        self._ensure_round(number, record.time)
        state, facts = self._ledger.state, commit.facts
        if taken.taken(state, commit.step):
            facts = taken.without_times(facts)
            self._sink.log(number, tags={f"ratchet.taken_over.{phase}": taken.origin(state)})
        figures = projection.step_figures(number, phase, facts, record.time)
        if phase == "train" and (table := training_metrics(self.run_dir, state, number)):
            table = table if facts is commit.facts else taken.without_times(table)
            known = update_times(self.run_dir, commit.step)
            duration = float(facts.get("seconds", 0))
            self._updates(number, projection.training_figures(table, record.time, duration, known))
        for target in {0, number}:
            self._sink.log(target, figures)
        if phase == "preferences":
            self._sink.log_inputs(0, self._preference_data(commit))
        if phase == "prompts":
            data_sets = self._data_sets(commit, ("gate", "test") if number == 0 else ("train",))
            for target in {0, number}:
                self._sink.log_inputs(target, data_sets)

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
