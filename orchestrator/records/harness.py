"""What passes between a run and lm-evaluation-harness, which asks the run's own engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

PACKAGE = "lm_eval"
"""Of lm-evaluation-harness, by which it is installed, too."""

REQUESTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_token_ids", pa.list_(pa.int32()), nullable=False),
    ]
)
"""One row a request of the harness: a prompt that is to be completed, whose completion is empty, or a completion that
is to be scored."""

SCORES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("logprob", pa.float64()),
        pa.field("greedy", pa.bool_()),
    ]
)
"""One row a completion: its summed log-probability in nats, and whether each token is the likeliest in its place; null
where it does not fit the engine's context."""

HARNESS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("doc_id", pa.int64(), nullable=False),
        pa.field("filter", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("answers", pa.string(), nullable=False),
        pa.field("figures", pa.string(), nullable=False),
    ]
)
"""One row a document of a task and a filter of its answers: the first prompt that was made of it, what was wanted, what
came of each of its requests (JSON), and what the task makes of that, by metric (JSON)."""


RESULTS, SAMPLES = "results.json", "samples.parquet"
"""The files of a step: what the harness says, as it writes it itself, and the table."""


@dataclass(frozen=True)
class TasksPlan:
    """What lm-evaluation-harness is to do with a model."""

    model: str
    """Absolute folder, for its tokenizer."""
    max_model_len: int | None
    """The engines' context in tokens; None is the model's own."""
    tasks: tuple[str, ...]
    limit: int | None
    num_fewshot: int | None
    chat: bool


@dataclass(frozen=True)
class Asked:
    """What the harness wants to know of the model."""

    file: str
    """Requests (schema REQUESTS), absolute."""
    requests: int
    sampling: dict[str, Any] | None
    """How prompts are completed: `temperature`, `top_p`, `top_k`, `max_tokens` and `stop` of a SamplingPlan. None:
    completions are scored."""
