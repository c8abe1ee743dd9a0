"""How long the samples of a prompt are expected to be: as they were in the round before. Near the end of a round,
engines begin with the long ones (workers/generation/dispatch.py). No result depends on it, and no fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

import pyarrow as pa

from orchestrator.ledger.run import Run
from orchestrator.records.parquet import read_table
from orchestrator.rounds.sampling import Slice

if TYPE_CHECKING:
    from orchestrator.rounds.round import Round


def told(round_: Round, slices: Sequence[Slice]) -> Sequence[Slice]:
    """A round's slices with what the newest round before tells of their prompts; a prompt that it has no samples of is
    taken for a usual one. Unchanged where prompts do not come again, or no file is there any more."""
    run, job = round_.context.run, round_.context.job
    if round_.split != "train" or job.data.prompts != "same":
        return slices
    earlier = (_means(run, f"rounds/{before:02d}/samples") for before in range(round_.number - 1, 0, -1))
    known = next((means for means in earlier if means), None)
    return slices if known is None else [_with(slice_, known, fmean(known.values())) for slice_ in slices]


def _with(slice_: Slice, known: Mapping[str, float], usual: float) -> Slice:
    names = slice_.rows.between(slice_.start, slice_.stop)["prompt_id"].to_pylist()
    return replace(slice_, expected=tuple(known.get(name, usual) for name in names))


def _means(run: Run, step: str) -> dict[str, float]:
    """Tokens of a sample, by prompt, over the shards of a step; empty where they cannot be read."""
    means: dict[str, float] = {}
    try:
        for shard in run.ledger.state.shards.get(step, {}).values():
            table = read_table(run.path(shard.artifact.path), columns=["prompt_id", "num_tokens"])
            found = table.group_by("prompt_id").aggregate([("num_tokens", "mean")])
            means.update(zip(found["prompt_id"].to_pylist(), found["num_tokens_mean"].to_pylist(), strict=True))
    except (OSError, pa.ArrowException):  # the order is any, then
        return {}
    return means
