"""What of a run MLflow holds besides figures: tables of answers and pairs, pictures, the report, descriptions, and the
checkpoints as versions of a model. Each is made from what the ledger says now, and replaces what was there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.rollbacks import is_aside
from orchestrator.reports.report import report_text
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.tables import round_step, sample_rows
from orchestrator.sources.source import Sources
from orchestrator.tracking import answers, pictures, projection
from orchestrator.tracking.described import NOTE, described, round_result
from orchestrator.tracking.mlflow import MlflowSink
from orchestrator.tracking.projection import Figure
from orchestrator.tracking.versions import Version

_TELLING = ("config", "commit", "promotion", "rollback", "end")
"""Kinds of records after which a run's description may read otherwise."""


class Views:
    """Those of one run, told to a sink."""

    def __init__(self, run_dir: Path, ledger: Ledger, sources: Sources, sink: MlflowSink) -> None:
        self.run_dir, self._ledger, self._sources, self._sink = run_dir, ledger, sources, sink

    def tell(self, record: Record) -> None:
        """Say what a record means in files, descriptions and versions of models."""
        data, state = record.data, self._ledger.state
        aside = is_aside(record, state)
        if record.kind == "commit" and not aside:
            self._step(*round_and_phase(data["step"]))
        if record.kind == "promotion" and not aside:
            self._version(int(data["round"]))
        if record.kind == "rollback":  # aliases go back, and what was set aside has none
            for number in (*data["rounds"], *([data["round"]] if data["round"] else [])):
                if number in self._sink.runs:
                    self._version(number)
        if record.kind in ("discard", "claim"):  # `ratchet gc` says in its claim what it removes
            gone = set(data.get("paths", ()))
            for promotion in state.promotions:
                if round_step(int(promotion["round"]), "checkpoint") in gone:
                    self._version(int(promotion["round"]))
        if record.number == self._last("promotion", "rollback", "end"):
            self._sink.log_text(0, report_text(self.run_dir, self._sources), "report.md")
            self._pictures()
        if record.number == self._last(*_TELLING):
            self._sink.log(0, tags={NOTE: described(self.run_dir, state)})

    def _last(self, *kinds: str) -> int:
        """The newest record of these kinds: on a replay, what changes with each is sent once."""
        return max((r.number for r in self._ledger.records if r.kind in kinds), default=-1)

    def _step(self, number: int, phase: str) -> None:
        state = self._ledger.state
        if number and phase == "verdicts":
            self._sink.log_table(number, sample_rows(self.run_dir, state, number), "samples.json")
        if number and phase == "pairs":
            self._table(number, "pairs.json", answers.pair_rows(self.run_dir, state, number))
        if phase == "evaluation":
            self._table(number, "gate.json", answers.gate_rows(self.run_dir, state, number))
            if number:
                self._table(number, "flips.json", answers.flip_rows(self.run_dir, state, number))
                self._version(number)

    def _table(self, number: int, file: str, rows: list[dict[str, object]]) -> None:
        if rows:
            self._sink.log_table(number, rows, file)

    def _pictures(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mlflow-") as folder:
            pictures.draw(self._ledger.state, Path(folder))
            self._sink.log_files(0, Path(folder), "pictures")

    # Versions of the model

    def _version(self, number: int) -> None:
        """Say what there is of a round's checkpoint."""
        state, step = self._ledger.state, round_step(number, "checkpoint")
        decision = next((p for p in state.promotions if int(p["round"]) == number), None)
        version = Version(
            name=state.configs[-1]["job"]["name"],
            number=number,
            path=str(self.run_dir.absolute() / step),
            is_there=step not in state.discarded and round_step(number, "evaluation") in state.commits,
            promoted=bool(decision and decision["promoted"]),
            result=round_result(state, number),
            figures=self._figures_of(number),
            aliases=self._aliases(number),
        )
        self._sink.versions().tell(version, self._sink.runs[number])

    def _figures_of(self, number: int) -> list[Figure]:
        """The figures of a round's model, as they stand in its own run, too."""
        found: list[Figure] = []
        for record in (each for each in self._ledger.records if not is_aside(each, self._ledger.state)):
            if record.kind == "commit" and record.data["step"] == round_step(number, "evaluation"):
                facts = self._ledger.state.commits[record.data["step"]].facts
                found += projection.step_figures(number, "evaluation", facts, record.time)
            if record.kind == "promotion" and int(record.data["round"]) == number:
                found += projection.promotion_figures(record.data, record.time)
        return [f for f in found if not f.key.startswith(f"{projection.TIME}/")]

    def _aliases(self, number: int) -> frozenset[str]:
        state, step = self._ledger.state, round_step(number, "checkpoint")
        newest = state.promotions[-1] if state.promotions else {}
        evaluated = [
            n for name in state.commits if (n := round_and_phase(name)[0]) and name == round_step(n, "evaluation")
        ]
        named = {
            "candidate": number == max(evaluated, default=0),
            "reference": newest.get("reference") == step,
            "champion": newest.get("best") == step,
        }
        return frozenset(alias for alias, is_so in named.items() if is_so)
