"""What is asked of reward models, and the rows in which their rewards come back.

An *outcome* reward model (a sequence classifier with one label) gives a whole answer a number, on no scale but its own:
only differences between answers to one prompt mean anything. A *process* reward model (a token classifier with two
labels, in the form of TRL's PRMTrainer) gives each reasoning step the probability that it is right, read at the
separator behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

RewardKind = Literal["outcome", "process"]
RewardForm = Literal["chat", "pair", "join"]
RewardCause = Literal["too_long", "special_token", "not_finite"]
"""Why an answer has no reward: it is longer than the reward model may read; it spells one of the reward model's special
tokens, which would be read as that token; what the model gave is no finite number."""
REWARD_CAUSES: tuple[RewardCause, ...] = ("too_long", "special_token", "not_finite")


@dataclass(frozen=True, slots=True)
class RewardPlan:
    """How a reward model is asked; everything in it can change a reward.

    Example: RewardPlan(model="/models/reward", kind="outcome", max_tokens=2048)
    """

    model: str
    """Hugging Face folder of the reward model, absolute. Its digest is what stands in fingerprints."""
    kind: RewardKind
    max_tokens: int | None = None
    """Most tokens of prompt and answer together, as the reward model's tokenizer counts them; nothing is cut off, a
    longer text has no reward. None: the model's own context."""
    form: RewardForm | None = None
    """How an outcome model reads prompt and answer: "chat", as turns of its chat template; "pair", as two texts of one
    input ([CLS] prompt [SEP] answer [SEP]); "join", the answer right behind the prompt, closed by EOS. None takes the
    chat template where the tokenizer has one, else a pair where it has a token that separates two texts and none that
    ends one, else the join. What it came to is in the facts. A process model reads the prompt, and each step with the
    separator behind it."""
    separator: str = "\n"
    """What a process model was trained to judge a step at (TRL: `step_separator`)."""
    dtype: Literal["own", "float32", "bfloat16", "float16"] = "own"
    """Number format of weights and products; "own" is that of the weights."""
    date: str | None = None
    """What a chat template that asks for today's date is told (2026-11-27)."""


@dataclass(frozen=True, slots=True)
class RewardWorkers:
    """How the work is executed; no reward depends on it, but for rounding on another device or with other threads."""

    workers: int | None = None
    """How many processes hold the reward model. None: one on CPU; as many as fit on the accelerators."""
    per_gpu: int = 1
    """How many of them share a GPU. One row is computed at a time, which leaves much of a GPU idle where the model is
    small."""
    cpus: int | None = None
    """Cores of each. None: those of a machine, shared out."""
    device: Literal["auto", "cpu"] = "auto"
    """"cpu" stays there even where there are accelerators, and takes none from engines and ranks."""
    stall_timeout: float = 300.0
    """Seconds without a scored row after which a worker is replaced; beside that it has its time to load the model."""


@dataclass(frozen=True, slots=True)
class RewardTask:
    """A shard of answers that are to be scored, and committed as a whole.

    Example: RewardTask(3, prompts="/runs/irpo/rounds/01/prompts/train.parquet", start=96, stop=128,
    samples="/runs/irpo/rounds/01/samples/00003.parquet", output="/runs/irpo/rounds/01/rewards/.00003.parquet-e2-a7")
    """

    index: int
    """Its number; of the tasks that are given together no two have the same."""
    prompts: str
    """Parquet file, absolute, with the columns `prompt_id`, `text` and, where there are messages, `messages` of schema
    PROMPTS."""
    start: int
    """First row of `prompts` that the samples are of."""
    stop: int
    samples: str
    """Parquet file, absolute, all of whose rows are scored: schema SAMPLES (`prompt_id`, `sample_index` and `text` are
    read) for an outcome model, ANSWER_STEPS for a process model."""
    output: str
    """Hidden file that is to be written (schema REWARDS, in the order of `samples`), absolute; the driver renames it
    once it is committed."""
    attempt: int = 0
    """As `Shard.attempt`."""

    @property
    def written(self) -> str:
        """As `Shard.written`."""
        return f"{self.output}.{self.attempt}-e0" if self.attempt else self.output


ANSWER_STEPS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("steps", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row an answer, cut into its reasoning steps, for a process reward model; each step without the white space around
it, and with whatever marker the model was trained with."""

REWARDS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("reward", pa.float64()),
        pa.field("step_rewards", pa.list_(pa.float64())),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("cause", pa.string()),
    ]
)
"""One row an answer. `reward` is the model's number; of a process model the smallest of its `step_rewards`, which are
one a step, from 0 to 1, in order, and null for an outcome model. Both are null exactly where there is a `cause` (see
`RewardCause`). `num_tokens` is how long the text is as the reward model reads it."""
