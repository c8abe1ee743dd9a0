"""What a training leaves behind: the checkpoint, and the probe that an engine which loads it must agree with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from orchestrator.config import Train
from orchestrator.records.pair_ids import completion_key
from workers.files import sync
from workers.numerics import batching
from workers.numerics.batching import PairTokens, Tree
from workers.training import pair_data
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

    def publish(self, checkpoint: Path, probe_file: Path) -> None:
        """Write the checkpoint and its probe."""
        named = self.settings.export_dtype
        dtype = DTYPES[named] if named else folder_dtype(self.init)
        if dist.get_rank() == 0:
            checkpoint.mkdir(parents=True, exist_ok=True)
        self._write_probe(probe_file)
        export_checkpoint(
            self.engine.module.model,
            self.init,
            str(checkpoint),
            dtype,
            rank=dist.get_rank(),
            zero_stage=self.settings.stage,
            has_master=self.settings.precision == "bf16" and self.settings.stage > 0,
            beat=self.beat,
        )

    def on_the_way(self, final: Path) -> None:
        """Checkpoint and probe in a folder that appears when both are whole."""
        unfinished = final.with_name(f".{final.name}")
        if dist.get_rank() == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.publish(unfinished / "checkpoint", unfinished / "probe.parquet")
        if dist.get_rank() == 0:
            sync(unfinished)
            shutil.rmtree(final, ignore_errors=True)  # left by an attempt that died
            unfinished.rename(final)
            sync(final.parent)
        dist.barrier()

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
        shutil.copytree(exports, target, copy_function=os.link)
    dist.barrier()
