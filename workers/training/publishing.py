"""What a training leaves behind: the checkpoint, and the probe that an engine which loads it must agree with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.config import Train
from orchestrator.records import adapters
from orchestrator.records.adapters import AdapterPlan
from orchestrator.records.model_folder import link_folder
from orchestrator.records.pair_ids import completion_key
from workers.files import make_folder, sync
from workers.numerics import batching
from workers.numerics.batching import PairTokens, Tree
from workers.training import adapter, pair_data
from workers.training.export import DTYPES, export_checkpoint, folder_dtype

PROBE_COMPLETIONS = 32
"""Most completions that are scored again with the trained policy."""


@dataclass(frozen=True)
class Publication:
    """Publishes the policy of a DeepSpeed engine as it is now. Every method is collective."""

    engine: Any
    settings: Train
    init: str
    """Hugging Face folder that the policy started from."""
    pairs: list[PairTokens]
    score: Callable[[list[Tree]], list[tuple[str, float, int]]]
    """This rank's share of trees under the policy: (completion_key, summed log-probability, tokens)."""
    reference: Mapping[str, float]
    """Log-probabilities under the reference by completion_key; of no completion where the loss compares with none."""
    beat: Callable[[], None]
    """Called for every weight and file."""
    adapted: AdapterPlan | None = None
    """The adapter that is trained, where not all weights are."""

    def publish(self, checkpoint: Path, probe_file: Path) -> dict[str, Any]:
        """Write the checkpoint and its probe; returns what is to be told of it, on rank 0."""
        if dist.get_rank() == 0:
            checkpoint.mkdir(exist_ok=True)
        if self.adapted is not None:
            return self._publish_merged(self.adapted, checkpoint, probe_file)
        self._write_probe(probe_file)
        self._export(checkpoint)
        return {}

    def _publish_merged(self, adapted: AdapterPlan, checkpoint: Path, probe_file: Path) -> dict[str, Any]:
        """Merged weights with the adapter beside them. The probe is taken of those weights, as they were rounded, and
        not of base and adapter: they are what engines serve."""
        model, sharded = self.engine.module.model, self.settings.stage == 3
        merge = adapter.Merge(model, self.init, self._dtype, sharded, self._has_master)
        self._export(checkpoint, merge.tensors())
        if dist.get_rank() == 0:
            adapter.write(checkpoint / adapters.FOLDER, adapted.lora, merge.adapter, adapted.base)
        dist.barrier()
        # Other weights than those of adapted layers are the base's own, unless they were rounded, too.
        everything = self._dtype != folder_dtype(self.init)
        adapter.put(model, str(checkpoint), everything, sharded)
        with adapter.without(model):
            self._write_probe(probe_file)
        adapter.put(model, self.init, everything, sharded)
        return {"merge_kept": merge.kept}

    @property
    def _dtype(self) -> torch.dtype:
        named = self.settings.export_dtype
        return DTYPES[named] if named else folder_dtype(self.init)

    @property
    def _has_master(self) -> bool:
        return self.settings.precision == "bf16" and self.settings.stage > 0

    def _export(self, checkpoint: Path, merged: Iterable[tuple[str, Tensor]] | None = None) -> None:
        export_checkpoint(
            self.engine.module.model,
            self.init,
            str(checkpoint),
            self._dtype,
            rank=dist.get_rank(),
            zero_stage=self.settings.stage,
            has_master=self._has_master,
            beat=self.beat,
            merged=merged,
        )

    def on_the_way(self, final: Path) -> dict[str, Any]:
        """Checkpoint and probe in a folder that appears when both are whole."""
        unfinished = final.with_name(f".{final.name}")
        if dist.get_rank() == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            make_folder(unfinished, above=2)
        told = self.publish(unfinished / "checkpoint", unfinished / "probe.parquet")
        if dist.get_rank() == 0:
            sync(unfinished)
            shutil.rmtree(final, ignore_errors=True)  # left by an attempt that died
            unfinished.rename(final)
            sync(final.parent)
        dist.barrier()
        return told

    def _write_probe(self, file: Path) -> None:
        """Score up to PROBE_COMPLETIONS completions, the first by key, with the trained policy."""
        # An engine knows of no masks: it is asked about whole completions, which have a key of their own.
        texts = {
            completion_key(pair.prompt, completion.tokens): (pair.prompt, completion.tokens)
            for pair in self.pairs
            for completion in pair.sides
        }
        keys = sorted(texts)[:PROBE_COMPLETIONS]
        picked = [PairTokens(key, *texts[key], None) for key in keys]
        trees = batching.completion_trees(picked, self.settings.microbatch)
        scored: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(scored, self.score(trees))
        if dist.get_rank() == 0:
            logprobs = {key: lp for rows in scored for key, lp, _ in rows}
            pair_data.write_probe(str(file), [(*texts[k], logprobs[k], self.reference.get(k)) for k in keys])


def link(exports: Path, target: Path) -> None:
    """Give exports on the way a second name; the first stays until the driver has committed them, for another attempt.
    Collective."""
    if dist.get_rank() == 0:
        shutil.rmtree(target, ignore_errors=True)  # left by an attempt that died
        link_folder(exports, target)
    dist.barrier()
