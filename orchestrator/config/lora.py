"""Low-rank adapters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.config.base import Count, NonEmpty, Positive, Settings

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class Lora(Settings):
    """Train low-rank adapters beside frozen weights (LoRA, arXiv 2106.09685) instead of all weights: a layer computes
    W x + (alpha / rank) B A x, of which A and B are trained, without dropout. Gradients, moments and saved states are
    the adapter's alone; what is served, evaluated and promoted are merged weights. See [lora.md](lora.md)."""

    rank: Count = 16
    """Rows of A and columns of B."""
    alpha: Positive = 32.0
    """The adapter's scale times `rank`."""
    targets: Literal["all-linear"] | Annotated[list[NonEmpty], Field(min_length=1)] = "all-linear"
    """Layers that get an adapter: `all-linear` is every linear layer but the output head, a list names them, or the
    last parts of their names, such as `[q_proj, v_proj]`."""
    between_rounds: Literal["merge", "continue"] = "merge"
    """What a round starts from. `merge`: a new adapter on the merged weights of the reference. `continue`: the
    reference's adapter goes on, on the base model, so that nothing is rounded by a merge in between."""

    @model_validator(mode="before")
    @classmethod
    def _others(cls, said: Any) -> Any:
        for name, words in _NOT_HERE.items() if isinstance(said, dict) else ():
            if name in said:
                raise ValueError(f"`{name}`: {words}")
        return said


_QUANTIZED = (
    "QLoRA keeps the base in 4 bits through bitsandbytes, which is not among Ratchet's packages, so that nothing of it "
    "was tried here: leave it out, and the base is kept in bfloat16 (`train.precision: bf16`); `train.zero: 3` shares "
    "it out over the ranks"
)
_NOT_HERE = dict.fromkeys(("quantize", "quantization", "qlora", "bits", "load_in_4bit", "load_in_8bit"), _QUANTIZED) | {
    "dropout": "there is none: log-probabilities of policy and reference are compared, so both must be deterministic; "
    "leave it out"
}
"""Keys that others have, and why there are none."""
_ENOUGH = 4096
"""A rank above this is taken for a mistake: it is that of whole weights."""


def lora_contradictions(job: Job) -> Iterator[str]:
    """What makes no sense beside adapters, each with the cure."""
    if job.lora is None:
        return
    if job.lora.rank > _ENOUGH:
        yield (
            f"`lora.rank` is {job.lora.rank}, that of whole weights: take at most {_ENOUGH}, or `lora: null` to train "
            "all weights"
        )
    if job.lora.between_rounds == "continue" and job.init == "base":
        yield (
            "`lora.between_rounds: continue` goes on with the reference's adapter, and `init: base` starts each round "
            "from the base model: set `lora.between_rounds: merge`, or `init: previous`"
        )
