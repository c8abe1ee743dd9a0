"""What a round learns from, by the job's `source`. A new one has a file here and one of the same
name in `config/sources`, and a line in each of the two registries.

sample   its own samples, scored against gold answers
gold     the gold solutions
dataset  a chunk of preference data
steps    single reasoning steps of its own samples
judge    its own samples, scored by the model itself
"""

from __future__ import annotations

from orchestrator.sources import dataset, gold, judge, sample, steps
from orchestrator.sources.source import Sources

SOURCES: Sources = {
    "sample": sample.SOURCE,
    "gold": gold.SOURCE,
    "dataset": dataset.SOURCE,
    "steps": steps.SOURCE,
    "judge": judge.SOURCE,
}
