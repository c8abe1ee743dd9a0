"""What a round learns from, by the job's `source`. A new one has a file here and one in `config/sources`, and a line in
each of the two registries.

sample   its own samples, scored against gold answers
gold     the gold solutions
dataset  a chunk of preference data
steps    single reasoning steps of its own samples
judge    its own samples, scored by the model itself
"""

from __future__ import annotations

from orchestrator.sources import sampled, self_rewarding, stages, steps
from orchestrator.sources.source import Sources

SOURCES: Sources = {
    "sample": sampled.SAMPLE,
    "gold": sampled.GOLD,
    "dataset": stages.SOURCE,
    "steps": steps.SOURCE,
    "judge": self_rewarding.SOURCE,
}
