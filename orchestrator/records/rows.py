"""The rows that cross boundaries, as frozen dataclasses, and the Parquet schemas they are stored in.

Everything that one part of Ratchet hands to another is one of these. Token ids are the truth and
text is a view: wherever both stand, the ids are what the engine saw or produced and what the
trainer is fed, and the text is there to be read.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from orchestrator.config import RoundLoss
from orchestrator.records.adapters import AdapterPlan

GRADERS_VERSION = 5
"""Of what the graders say: it grows with every change that makes some verdict another one. Facts of verdicts and
evaluations have it as `graders_version`; those without are of version 1, under which what could not be read was wrong.
Verdicts of different versions are not compared."""

Verdict = Literal["correct", "wrong", "ungradable"]
Cause = Literal["truncated", "unreadable", "failed", "gold"]
"""Why a verdict is "ungradable": the completion reached the length limit; its answer cannot be read as the gold
answer's kind; a grader broke or ran out of bounds; no grader can read the gold answer, or there is none."""
CAUSES: tuple[Cause, ...] = ("truncated", "unreadable", "failed", "gold")

JUDGE_PROMPT = 1
"""Version of what the judge is asked about two answers (workers.graders.judge)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of data, before it meets a tokenizer. `text` is the filled-in template.

    Example: Problem("train-0007", "Ann has 3 pens ...\n", "5", "Step 1: 3 + 2 = 5\nFinal answer: 5")
    """

    prompt_id: str
    text: str
    gold: str
    """The gold answer; "" where there is none, which only problems to be scored by reward models may lack."""
    solution: str | None
    hint: str | None = None
    """The prompt with the gold answer given away, where the job has a template for that."""


@dataclass(frozen=True, slots=True)
class TokenizingPlan:
    """How problems become prompts. A prompt that leaves no room for `max_tokens` more in
    `max_model_len` (None: the model's own) is dropped and counted."""

    model: str
    chat: bool
    system: str | None
    max_model_len: int | None
    max_tokens: int
    examples: tuple[tuple[str, str], ...] = ()
    """Worked examples (prompt, completion) that stand before each prompt."""
    example_separator: str = "\n\n"
    opening: str = ""
    """Text that opens the answer. It is tokenised behind the prompt, whose ids stay what they are without it."""
    date: str | None = None
    """What a chat template that asks for today's date is told (2026-11-27)."""


@dataclass(frozen=True, slots=True)
class PreferencePlan:
    """How preference data become pairs of token ids. A pair of which a side, prompt included, has more than
    `max_tokens` (None: the model's own limit alone) is dropped and counted."""

    model: str
    append_eos: bool
    max_tokens: int | None
    date: str | None = None
    """As `TokenizingPlan.date`."""


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How one round samples. `seed` is the round's; a sample's own seed derives from it.

    Example: SamplingPlan(samples=8, temperature=1.0, top_p=1.0, top_k=0, max_tokens=48, stop=(), seed=7)
    """

    samples: int
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    seeding: Literal["sample", "engine"] = "sample"
    temperature_mix: tuple[float, ...] = ()
    """Temperatures that a prompt's samples take in turn, instead of `temperature`."""
    first_sample: int = 0
    """The index of the first of `samples`, where these are a wave of a prompt's samples."""

    @property
    def sample_indices(self) -> range:
        """The indices of a prompt's samples."""
        return range(self.first_sample, self.first_sample + self.samples)

    def temperature_of(self, sample_index: int) -> float:
        """The temperature of a prompt's sample, by its index from 0."""
        mix = self.temperature_mix
        return mix[sample_index % len(mix)] if mix else self.temperature


@dataclass(frozen=True, slots=True)
class Shard:
    """A slice of a step's work that is committed as a whole.

    Example: Shard(index=3, source="/runs/irpo/rounds/01/prompts/train.parquet", start=96, stop=128,
    output="/runs/irpo/rounds/01/samples/.00003.parquet-e2-a7")
    """

    index: int
    source: str
    """Parquet file of prompts (generation) or of samples (grading), absolute."""
    start: int
    """First row of `source` that belongs to the shard."""
    stop: int
    output: str
    """Hidden file that is to be written, absolute; the driver renames it once it is committed."""
    attempt: int = 0
    """Which one this is, where the shard may have been given to another worker before, which may still be at it."""
    expected: tuple[float, ...] = ()
    """How long a sample of each of its prompts is expected to be, in tokens; empty where nobody knows. What is begun
    first goes by it, and nothing else."""

    @property
    def written(self) -> str:
        """The file that this attempt writes. Whoever has given it out renames it to `output`: what an attempt that was
        given up writes later is seen by nobody. Named as unfinished files are, so that a later driver removes it."""
        return f"{self.output}.{self.attempt}-e0" if self.attempt else self.output


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """What a trainer group scores: the completions of some pairs under one model. Paths are absolute."""

    model: str
    """Hugging Face folder of the model whose log-probabilities are wanted."""
    policy: str
    """Hugging Face folder that the training beside it starts from: where it is the same, the training's own engine
    scores, and stays for the training; else the model computes as the policy would."""
    pairs: tuple[str, ...]
    """Parquet files of pairs, in order."""
    output: str = ""
    """Hidden file that the log-probabilities are for, absolute; by it a rank says at what it is."""
    adapter: AdapterPlan | None = None
    """The adapter that the training beside it trains; None where it trains all weights."""
    adapted: bool = True
    """Where `model` is `policy`: with the adapter as the policy starts with it, and not without."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a trainer group does in one round; paths are absolute, outputs are hidden until committed."""

    init: str
    """Hugging Face folder that the policy starts from."""
    reference: str
    """Hugging Face folder of the reference model."""
    pairs: tuple[str, ...]
    """Parquet files of pairs, in order."""
    loss: RoundLoss
    learning_rate: float
    seed: int
    state_dir: str
    """Folder for saved states of the training while it is unfinished; private to the trainer."""
    failure_file: str
    """JSON file for the names of the pairs that a training failed on."""
    metrics_file: str
    """Parquet file of one row an update."""
    probe_file: str
    """Parquet file of completions with the trained policy's own log-probabilities (schema PROBE)."""
    checkpoint_dir: str
    """Hugging Face folder that the trained policy is exported to."""
    identity: str = ""
    """A fingerprint of everything that decides the result: a saved state of another training is not used."""
    keep_states: int = 1
    """Number of saved states to keep."""
    state_key: bytes = field(default=b"", repr=False)
    """The user's key that seals saved states: one that it has not sealed is not loaded. Without a key none is saved or
    loaded. It goes through memory alone."""
    export_every: int | None = None
    """Export after every so many updates, and after the last, each to a folder of its own below `checkpoint_dir`:
    000010/checkpoint and 000010/probe.parquet. `probe_file` is not written then."""
    steps: int | None = None
    """Stop after so many updates; None takes all batches."""
    schedule_steps: int | None = None
    """Steps over which the learning rate's schedule is laid; None takes those that are done."""
    adapter: AdapterPlan | None = None
    """The adapter that is trained on frozen weights; None trains all weights."""
    adapted: bool = True
    """Whether the reference has the adapter that the policy starts with, where it is the same folder."""

    @property
    def starts_at_reference(self) -> bool:
        """Whether the policy is the reference before the first update."""
        return self.init == self.reference and self.adapted

    @property
    def state_name(self) -> str:
        """What the manifest of a saved state that serves this training names. It says nothing of ranks or stages, since
        a state fits any. The first word tells it from the states of earlier versions, which held pickles."""
        return hashlib.sha256(f"pieces\x1f{self.identity}".encode()).hexdigest()


PROMPTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("gold", pa.string(), nullable=False),
        pa.field("solution", pa.string()),
        pa.field("solution_token_ids", pa.list_(pa.int32())),
    ]
)
"""One row a prompt: templated and tokenised once. `messages` where a chat template was used;
`solution` is the worked gold solution, if the data has one, its ids closed by EOS."""

SAMPLES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ]
)
"""One row a sample. `token_ids` ends in EOS exactly when EOS was sampled; `finish_reason` is
"stop" or "length" (truncated); `num_tokens` is the length of `token_ids`. Where some of these are not the model's own,
there is one more column, `mask` (see masks.py)."""

VERDICTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("extracted", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("opinions", pa.map_(pa.string(), pa.string())),
        pa.field("cause", pa.string()),
    ]
)
"""One row a sample: correct, wrong or ungradable; what was extracted, by which rule, and why. `opinions` is what each
grader says by itself, where the job asks for that (`grade.audit`), and `cause` (see `Cause`) why a verdict is
ungradable. Files of graders of version 1 have no such column."""

SELF_SCORES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("judgements", pa.int32(), nullable=False),
    ]
)
"""One row a sample: the mean of the model's own `judgements` of it, or what comes of the rewards of so many reward
models; null where none of them has a score, or one of these no reward."""

_TRL_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


def pairs_schema(conversational: bool) -> pa.Schema:
    """Schema of preference pairs, readable by TRL: `prompt`, `chosen` and `rejected` are lists of
    messages where a chat template is used and plain text otherwise. The ids are what is trained on. Where `rejected`
    is null, the chosen completion is imitated. Where tokens are not the model's own, there are two more columns,
    `chosen_mask` and `rejected_mask` (see masks.py)."""
    view = _TRL_MESSAGES if conversational else pa.string()
    ids = pa.list_(pa.int32())
    return pa.schema(
        [
            pa.field("pair_id", pa.string(), nullable=False),
            pa.field("prompt_id", pa.string(), nullable=False),
            pa.field("prompt", view, nullable=False),
            pa.field("chosen", view, nullable=False),
            pa.field("rejected", view),
            pa.field("chosen_sample", pa.int32()),
            pa.field("rejected_sample", pa.int32()),
            pa.field("prompt_token_ids", ids, nullable=False),
            pa.field("chosen_token_ids", ids, nullable=False),
            pa.field("rejected_token_ids", ids),
        ]
    )


def step_pairs_schema() -> pa.Schema:
    """Schema of pairs of reasoning steps: that of pairs, with the columns of Step-DPO's data set (arXiv 2406.18629).

    `prompt` is the problem, `initial_reason_steps` what follows it up to "Step k:", `chosen` and `rejected` are one
    step each, and `full_chosen` and `full_rejected` go on to the answers' ends. What is trained on is
    `prompt_token_ids`, which hold both problem and right steps, and one step's ids. `chosen_sample` is of the folder
    `chosen_source`, `rejected_sample` one of the round's samples, and `step` the number k.
    """
    texts = ("dataset", "initial_reason_steps", "full_chosen", "full_rejected", "answer")
    more = [pa.field("chosen_source", pa.string(), nullable=False), pa.field("step", pa.int32(), nullable=False)]
    more += [pa.field(name, pa.string(), nullable=False) for name in texts]
    return pa.schema([*pairs_schema(conversational=False), *more])


DECODED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ends", pa.list_(pa.int32()), nullable=False),
    ]
)
"""One row a sample that is cut into reasoning steps. `source` is the folder that it was sampled into
(rounds/01/search/02), `text` its ids decoded, and `token_ends` how many characters of that are complete with each
token; `mask` as in SAMPLES."""


def preferences_schema(conversational: bool) -> pa.Schema:
    """Schema of preference data before it meets a tokenizer: text, or messages."""
    return pa.schema([pairs_schema(conversational).field(name) for name in PREFERENCE_COLUMNS])


PREFERENCE_COLUMNS = ("pair_id", "prompt_id", "prompt", "chosen", "rejected")

REFERENCE = pa.schema(
    [
        pa.field("completion_key", pa.string(), nullable=False),
        pa.field("logprob", pa.float64(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
    ]
)
"""One row a distinct completion: the sum of its token log-probabilities under the reference, and of how many tokens
that is the sum: those that are the model's own (see masks.py)."""

PROBE = pa.schema(
    [
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprob", pa.float64(), nullable=False),
        pa.field("reference_logprob", pa.float64()),
    ]
)
"""Completions with their summed log-probability under the trained policy, as the trainer sees it:
what an engine that loads the exported checkpoint must agree with. All of their tokens are scored, masks or not. Under
the reference, too, where the trainer was told; files of earlier versions lack that column."""

EVALUATION = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("extracted", pa.string()),
        pa.field("cause", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("gold", pa.string()),
    ]
)
"""One row an evaluation problem, answered greedily, without a mask. `finish_reason` is "quarantined", and the answer
empty and ungradable without a `cause`, where the problem was given up because it took down several engines. `cause` is
that of VERDICTS, and as young. `prompt` and `gold` are `text` and `gold` of PROMPTS, so that the file can be read by
itself; files of earlier versions lack them."""

REPEATED = pa.schema(
    [
        *SAMPLES,
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("extracted", pa.string()),
        pa.field("cause", pa.string()),
        pa.field("answer", pa.int32()),
    ]
)
"""One row a sample of a held-out problem that was answered several times. `answer` numbers the problem's different
answers, 0 being the right one; null where a sample has none. A problem that was given up has one row, "quarantined"."""

DRIFT = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("logprob", pa.float64()),
    ]
)
"""One row a sample of the base model: its summed log-probability under some model, null where it does not fit."""
