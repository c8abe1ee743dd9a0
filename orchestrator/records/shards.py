"""The kinds of shards that a step can be committed of, file by file (orchestrator/ledger/sharded.py), each said once.

Who treats shards by their kind asks here: which columns a reader takes such a file to have (ledger/columns.py), and
which settings a fork knows to be inputs (commands/fork/fit.py). How `verify` counts a shard again stands in
commands/verify/recount.py, or with the source that has such steps (`Recounted.shards`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from orchestrator.records.rewards import REWARDS
from orchestrator.records.rows import SAMPLES, VERDICTS


@dataclass(frozen=True)
class ShardKind:
    """One kind of shards, each of which is a Parquet file."""

    name: str
    """The last part of the names of its steps, such as rounds/01/samples."""
    schema: pa.Schema
    """What is written now."""
    needed: Sequence[str]
    """Columns that every version has written; one that is added to the schema is not among them."""
    inputs: frozenset[str]
    """Sections of the job whose deciding keys are inputs of such a step."""


SHARDS = {
    kind.name: kind
    for kind in (
        ShardKind(
            "samples",
            SAMPLES,
            ("prompt_id", "sample_index", "text", "token_ids", "finish_reason", "num_tokens"),
            frozenset({"generate"}),
        ),
        ShardKind(
            "verdicts",
            VERDICTS,
            ("prompt_id", "sample_index", "verdict", "extracted"),  # the others came later, or are null
            frozenset({"generate", "grade", "regrade"}),
        ),
        ShardKind(
            "rewards",
            REWARDS,
            ("prompt_id", "sample_index", "reward", "cause"),
            frozenset({"generate"}),
        ),
    )
}


def shard_kind(step: str) -> ShardKind:
    """The kind of a step's shards.

    Raises:
        ValueError: no kind has the last part of its name.
    """
    name = step.rpartition("/")[2]
    if name not in SHARDS:
        raise ValueError(f"{step}: shards of the kind `{name}` are not declared in orchestrator/records/shards.py")
    return SHARDS[name]
