"""What settings that are left to the machine come to, said before a run starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.config import Job
from orchestrator.config.load import JobFile
from orchestrator.driver.examination import gpus_here
from orchestrator.driver.fitted import Fitted, said
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.same_job import as_begun
from orchestrator.driver.serving import serving_dtype, with_dtype
from orchestrator.driver.settled import CHECKPOINTING, DTYPE, MICROBATCH, Settled, kept_of
from orchestrator.driver.wiring import engine_takes
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel
from orchestrator.models.sizes import size_trained
from orchestrator.rounds.context import Say

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
    machine = here()
    gpus = [replace(machine, count=0) if job.cluster.accelerators == "none" else machine]
    told: list[str] = []
    done = fitted_job(job, run, model.folder, gpus, told.append)
    count = sum(node.count for node in gpus)
    yield f"{', '.join(f'{key} {said(_at(done, key))}' for key in left)} on this machine, with {count or 'no'} GPU"
    yield from (line.split(None, 1)[1] for line in told)


def fitted_job(job: Job, run: Run, model: Path, nodes: Sequence[Gpus], say: Say) -> Job:
    """A job whose engines, ranks and number format are filled in as they come to on these nodes; `say` is told why.

    Raises:
        BadInput: the model does not fit there.
    """
    configs = run.ledger.state.configs
    settled = Settled(kept_of(configs[-1], job) if configs else None)
    device = "cuda" if sum(node.count for node in nodes) else "cpu"
    asked = with_dtype(job, serving_dtype(job, model, lambda: device, settled, say))
    fitted = Fitted(asked, size_trained(model, job.lora), nodes, *engine_takes(asked), settled, say)
    return job.model_copy(update={"generate": fitted.generate(), "train": fitted.train()})


def _at(job: Job, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(job, section), name)
