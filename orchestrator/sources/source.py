"""What the other rooms ask of a source of pairs. Each declares it once, beside how its pairs come about, and the driver
and the commands pass the registry of all down to whoever asks: the loop, space, verify, the report, the preview."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config import Job, at_round
from orchestrator.ledger.ledger import Commit
from orchestrator.records.rows import Problem
from orchestrator.reports.columns import Reported
from orchestrator.reports.lineage import Trail
from orchestrator.rounds.context import Model
from orchestrator.rounds.recount import Recounted
from orchestrator.rounds.round import Round
from orchestrator.rounds.space import Disk, Sizes, prompted


@dataclass(frozen=True)
class Prompts:
    """Prompts that a source makes out of the training problems, as `ratchet validate` looks at them."""

    key: str
    """The key of the job with their template."""
    name: str
    """Of the line that shows the first of them."""
    problems: Sequence[Problem]
    plan: Mapping[str, Any] = field(default_factory=dict)
    """What of the plan for it differs from that of the problems themselves; see `records.rows.TokenizingPlan`."""


@dataclass(frozen=True)
class Drawn:
    """Samples that a round draws, at most."""

    phase: str
    """Of the round, such as `samples`."""
    samples: int
    max_tokens: int
    """Longest sample."""
    prompts: int
    """How many texts they continue."""


def _no_samples(job: Job, number: int, problems: Sizes) -> Sequence[Drawn]:
    return ()


def sampled(job: Job, number: int, problems: Sizes) -> Sequence[Drawn]:
    """Of a source that draws `generate.samples` a prompt, and nothing else."""
    prompts, _ = prompted(job, number, problems)
    return [Drawn("samples", prompts * at_round(job.generate.samples, number), job.generate.max_tokens, prompts)]


def _no_prompts(job: Job, problems: Sequence[Problem]) -> Iterator[Prompts]:
    yield from ()


@dataclass(frozen=True)
class Source:
    """A source of pairs. Its name and settings are in `config/sources`."""

    pairs: Callable[[Round, Model], Commit]
    """The committed pairs of a round, whose samples are drawn from the model. Raises NoPairs where there is nothing to
    learn from."""
    trail: Trail
    """How `verify` follows the pairs back."""
    recounted: Recounted
    """How `verify` computes the facts of its steps again."""
    disk: Disk
    """What a round writes."""
    reported: Reported
    """What the report has of it."""
    derived: Callable[[Job, Sequence[Problem]], Iterator[Prompts]] = _no_prompts
    """Prompts that are looked at before a run."""
    drawn: Callable[[Job, int, Sizes], Sequence[Drawn]] = _no_samples
    """Samples of a round, by which its time is estimated."""
    scores_policy: bool = False
    """Whether a trained candidate ranks the pairs as well, beside the reference."""


Sources = Mapping[str, Source]
"""Sources by the names that jobs give them."""
