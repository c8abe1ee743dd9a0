"""What steps tell of themselves (`facts` of commits, shards and offers), as typed models, by the kind of step.

A model has every fact that some command reads, most of them missing where the step's settings or its version tell
none; facts that none reads are let be. `Recorded` names the step where a fact is read that is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.errors import Damaged

Count = Annotated[int, Field(ge=0, lt=2**63)]
Version = Annotated[int, Field(ge=1, le=10**6)]
Seconds = Annotated[float, Field(ge=0, le=1e10)]
Rate = Annotated[float, Field(ge=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Nats = Annotated[float, Field(ge=-1e15, le=1e15)]
Text = Annotated[str, Field(max_length=100_000)]


class FactsModel(BaseModel):
    """Base of the models: frozen, no conversions, and facts of other versions are let be."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class Facts(FactsModel):
    """Of any step. A fact means the same in all steps that have it, unless their own model says otherwise."""

    seconds: Seconds = 0.0
    waited: Seconds = 0.0
    wall: Seconds = 0.0
    fingerprint: Annotated[str, Field(min_length=1, max_length=1000)] = "-"
    recipe: Annotated[int, Field(ge=1, le=1000)] = 1
    graders_version: Version = 1
    judge_prompt: Version = 1
    step_prompt: Version = 1
    reading: Version = 1
    tokens_per_second: Rate = 0.0
    executed: dict[str, Any] = {}
    engines_lost: list[Text] = []
    graders_lost: list[Text] = []
    quarantined: list[Text] = []

    # samples, verdicts
    samples: Count = 0
    tokens: Count = 0
    truncated: Count = 0
    correct: Count = 0
    wrong: Count = 0
    ungradable: Count = 0
    unreadable: Count = 0
    failed: Count = 0
    gold: Count = 0
    disputed: Count = 0
    rules: dict[str, Count] = {}
    judge: dict[str, Count] = {}

    # pairs
    pairs: Count = 0
    pairs_lost: Count = 0
    prompts_lost: Count = 0
    prompts_mixed: Count = 0
    prompts_tied: Count = 0
    prompts_all_correct: Count = 0
    prompts_all_wrong: Count = 0
    prompts_ungradable: Count = 0
    prompts_paired: Count = 0
    pass_any: Share = 0.0
    chosen_tokens: Rate = 0.0
    rejected_tokens: Rate = 0.0
    rounds: Count = 0
    seen: Count = 0
    chunk: Text = ""

    # prompts, and what is kept of preference data
    prompts: Count = 0
    dropped: Count = 0
    characters: Rate = 0.0

    # training, reference pass
    steps: Count = 0
    padded_tokens: Count = 0
    resumed_from: Count | None = None
    completions: Count = 0
    gate_accuracy: Share = 0.0
    ranking_accuracy: Share = 0.0
    reward_accuracy: Share = 0.0
    gamma: Nats = 0.0
    chosen_logprob: Nats = 0.0
    rejected_logprob: Nats = 0.0

    # pairs of steps
    errors: Count = 0
    repeated: Count = 0
    located: Count = 0
    none_wrong: Count = 0
    undecided: Count = 0
    probes: Count = 0
    levels: Count = 0
    rollout_tokens: Count = 0
    scan_probes: Count = 0
    scan_tokens: Count = 0
    probes_unknown: Count = 0
    rollouts_ungradable: Count = 0
    continuations: Count = 0
    prefixes: Count = 0
    drawn: Count = 0
    rectified: Count = 0
    questions: Count = 0

    # judgements of the model's own samples
    judgements: Count = 0
    scored: Count = 0
    mean_score: Nats | None = None


class Figures(FactsModel):
    """A split's figures in an evaluation."""

    problems: Count
    correct: Count
    accuracy: Share
    low: Share
    high: Share
    mean_tokens: Rate = 0.0
    truncated: Count = 0
    unreadable: Count = 0
    failed: Count = 0
    gold: Count = 0
    changed: Count = 0


class Probe(FactsModel):
    """How engine and trainer agree, in nats a token."""

    mean_difference: Annotated[float, Field(ge=0, le=1e15)]
    tokens: Count = 0
    completions: Count = 0


class EvaluationFacts(Facts):
    gate: Figures | None = None
    test: Figures | None = None
    probe: Probe | None = None


class PromptsFacts(Facts):
    """Numbers of prompts, or of problems that are kept, by split."""

    train: Count = 0
    gate: Count = 0
    test: Count = 0
    revisions: dict[str, str | None] = {}


class LocatedFacts(Facts):
    first_step: Count = 0
    """Errors whose first wrong step is step 1; of a training, `first_step` is what was checked there."""


class SourceFacts(FactsModel):
    name: Text
    pairs: Count
    revision: str | None = None
    empty: Count = 0
    equal: Count = 0
    no_prompt: Count = 0
    too_long: Count = 0
    seen: Count = 0


class PreferencesFacts(Facts):
    sources: list[SourceFacts] = []


class ChunksFacts(Facts):
    chunks: list[SourceFacts] = []


class RegradedFacts(Facts):
    evaluations: dict[str, Figures] = {}


class ModelFacts(FactsModel):
    """Where a model is from that the run keeps: the Hub, or another run."""

    seconds: Seconds = 0.0
    id: Text = ""
    revision: Text | None = None
    run: Text = ""
    run_id: Text = ""
    round: Count = 0
    digest: Text = ""


_BY_NAME: Mapping[str, type[FactsModel]] = {
    "baseline/model": ModelFacts,
    "baseline/reference": ModelFacts,
    "baseline/data": PromptsFacts,
    "baseline/preferences": PreferencesFacts,
    "baseline/chunks": ChunksFacts,
}
_BY_PHASE: Mapping[str, type[FactsModel]] = {
    "evaluation": EvaluationFacts,
    "selection": EvaluationFacts,
    "prompts": PromptsFacts,
    "located": LocatedFacts,
    "regraded": RegradedFacts,
}


def model_of(step: str) -> type[FactsModel]:
    """The model of a step's facts: that of its name, else of its last part that is no number, else of any step."""
    if step in _BY_NAME:
        return _BY_NAME[step]
    parts = step.split("/")
    phase = parts[-2] if parts[-1].isdigit() and len(parts) > 1 else parts[-1]
    return _BY_PHASE.get(phase, Facts)


def check(step: str, facts: dict[str, Any]) -> None:
    """Raises pydantic.ValidationError where a fact is not what a reader takes it for."""
    model_of(step).__pydantic_validator__.validate_python(facts)


class MissingFact(Damaged, KeyError):
    """A fact that a reader needs, and that a record does not have."""

    __str__ = Damaged.__str__


class Recorded(dict[str, Any]):
    """The facts of a record. One that is not there is named with its step.

    Example: Recorded({"pairs": 12}, "rounds/01/pairs")["steps"] raises MissingFact.
    """

    def __init__(self, facts: Mapping[str, Any], step: str) -> None:
        super().__init__(facts)
        self._step = step

    def __missing__(self, key: str) -> Any:
        raise MissingFact(
            f"the ledger's record of {self._step} does not say `{key}`: it is damaged, or of a version that is not "
            "known here. Restore the run from a copy."
        )
