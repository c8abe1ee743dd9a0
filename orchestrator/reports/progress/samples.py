"""A sample with its verdict, now and then: of the shard that was graded last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.ledger.ledger import State
from orchestrator.records.parquet import read_table
from orchestrator.reports.progress.model import MOST_TEXT, Sample

_MOST = 400  # characters of a completion's end


@dataclass(frozen=True)
class Graded:
    """A shard of samples and their verdicts: paths relative to the run, by step and index."""

    step: str
    index: int
    samples: str
    verdicts: str

    @classmethod
    def of(cls, state: State, step: str, index: int) -> Graded | None:
        """The shard of this number, if `step` is one of verdicts whose samples are there."""
        folder, _, phase = step.rpartition("/")
        samples = state.shards.get(f"{folder}/samples", {}).get(index)
        verdicts = state.shards.get(step, {}).get(index)
        if phase != "verdicts" or samples is None or verdicts is None:
            return None
        return cls(step, index, samples.artifact.path, verdicts.artifact.path)

    def one(self, root: Path) -> Sample | None:
        """One of its samples, another one for each shard; None where there is none.

        Raises:
            OSError, ValueError, Damaged: the files are gone, or are not what they were.
        """
        verdicts = read_table(root / self.verdicts, columns=["prompt_id", "sample_index", "verdict", "extracted"])
        samples = read_table(root / self.samples, columns=["prompt_id", "sample_index", "text"])
        if not verdicts.num_rows or verdicts.num_rows != samples.num_rows:
            return None
        at = (7919 * (self.index + 1)) % verdicts.num_rows
        [verdict], [sample] = (table.slice(at, 1).to_pylist() for table in (verdicts, samples))
        extracted = verdict["extracted"]
        return Sample(
            prompt_id=str(sample["prompt_id"])[:MOST_TEXT],
            text=str(sample["text"])[-_MOST:],
            verdict=str(verdict["verdict"]),
            extracted=None if extracted is None else str(extracted)[:_MOST],
            step=self.step,
        )
