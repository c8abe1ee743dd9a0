"""What settings that are left to the machine come to, said before a run starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from orchestrator.config import Job
from orchestrator.config.load import JobFile
from orchestrator.driver.fitted import Fitted, said
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.same_job import as_begun
from orchestrator.driver.serving import serving_dtype, with_dtype
from orchestrator.driver.settled import CHECKPOINTING, DTYPE, MICROBATCH, Settled, kept_of
from orchestrator.driver.wiring import engine_takes, gpus_here
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from orchestrator.models.sizes import size_of

_KEYS = (
    *("generate.dtype", "generate.engines", "generate.tensor_parallel", "train.ranks", "train.zero"),
    *(MICROBATCH, CHECKPOINTING),
)


def fit_lines(file: JobFile, run: Run, model: NamedModel, here: Callable[[], Gpus] = gpus_here) -> Iterator[str]:
    """Engines, ranks and what they are spread over, on this machine, of which `here` tells GPUs and memory, with the
    reason; of a cluster that the job joins, only which settings are left to it.

    Raises:
        BadInput: the model does not fit on this machine.
    """
    job = as_begun(run, file.job)
    left = [key for key in _KEYS if _at(job, key) is None]
    if "dtype" in job.generate.engine:
        left.remove(DTYPE)
    if not left:
        return
    if (address := job.cluster.address or os.environ.get("RAY_ADDRESS") or "local") != "local":
        yield f"{', '.join(left)} are left to the cluster at {address}; `ratchet doctor` says what they come to there"
        return
    configs = run.ledger.state.configs
    settled = Settled(kept_of(configs[-1], job) if configs else None)
    machine = here()
    gpus = [replace(machine, count=0) if job.cluster.accelerators == "none" else machine]
    told: list[str] = []
    count = sum(node.count for node in gpus)
    served = serving_dtype(job, model.folder, lambda: "cuda" if count else "cpu", settled, told.append)
    asked = with_dtype(job, served)
    fitted = Fitted(asked, size_of(model.folder), gpus, *engine_takes(asked), settled, told.append)
    done = job.model_copy(update={"generate": fitted.generate(), "train": fitted.train()})
    yield f"{', '.join(f'{key} {said(_at(done, key))}' for key in left)} on this machine, with {count or 'no'} GPU"
    yield from (line.split(None, 1)[1] for line in told)


def _at(job: Job, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(job, section), name)
