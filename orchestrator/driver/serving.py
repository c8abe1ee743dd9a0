"""How engines serve and ranks attend, where that is left to the machine (`generate.dtype`, `train.attention`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.config import Job, Train
from orchestrator.config.sampling import OWN
from orchestrator.driver.settled import DTYPE, Settled
from orchestrator.errors import BadInput
from orchestrator.models.sizes import number_format
from orchestrator.rounds.context import Say


def serving_dtype(job: Job, model: Path | None, device: Callable[[], str], settled: Settled, say: Say) -> str:
    """The value of `generate.dtype` that a run has: as the job says, else what it came to when it was resolved first.

    A checkpoint in float32 is served in bfloat16 on accelerators, where attention over float32 has no fast kernel; all
    else in its own format. `model` is the base model's folder; of one that is not known nothing is assumed. `device` is
    asked, and `say` told, only where it is resolved now.

    Raises:
        BadInput: a file of the model is damaged.
    """
    if job.generate.dtype is not None:
        return job.generate.dtype
    if "dtype" in job.generate.engine:  # as jobs said it before there was the key
        return OWN

    def resolve() -> str:
        if device() == "cpu":
            return OWN
        base = number_format(model) if model else None
        if "float32" not in (base, job.train.export_dtype):
            return OWN
        say(f"settings  {DTYPE} is bfloat16: there is no fast attention over float32 on accelerators")
        return "bfloat16"

    return settled.lasting(DTYPE, device, resolve)


def with_dtype(job: Job, dtype: str) -> Job:
    """The job, with what its `generate.dtype` has come to."""
    return job.model_copy(update={"generate": job.generate.model_copy(update={"dtype": dtype})})


def attention_kernel(train: Train, accelerated: bool, settled: Settled) -> str:
    """The kernel of attention: as asked for, or what workers.numerics.attention.pick takes on this device.

    Raises:
        BadInput: it needs GPUs, and there are none.
    """
    if (asked := train.attention) != "auto":
        if asked in ("flex", "varlen") and not accelerated:
            raise BadInput(f"train.attention: {asked} needs GPUs, and there are none: set it to auto")
        return asked
    plain = "matmul" if train.precision == "bf16" else "sdpa"
    usual, device = ("flex", "cuda") if accelerated else (plain, "cpu")
    return settled.value("train.attention", device, lambda: usual, lambda kernel: True)
