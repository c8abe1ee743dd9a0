"""One DeepSpeed rank: reference log-probabilities, the training of a round, and the export.

    pairs ─► trees ─► packs of this rank ─► forward, loss, backward ─► step ─► metrics
                          reference file ─┘                             └► probe, checkpoint

Every rank reads the same pairs and computes the same division of each batch; only sums travel
between ranks. The class knows nothing of Ray: workers.trainer_group makes actors of it.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.config import Train
from orchestrator.records import TrainingPlan
from workers import attention, batching, pair_data
from workers.batching import MicroBatch, PairTokens, Tree
from workers.deepspeed_config import computes_in_autocast, deepspeed_config, inference_config
from workers.export import DTYPES, check_exportable, export_checkpoint, folder_dtype
from workers.logprobs import PackScorer, disable_dropout
from workers.train_step import (
    DIFFERENCES,
    SUMS,
    BatchTotals,
    StepSums,
    accumulate,
    learning_rate,
    mean_metrics,
)

MAX_MEAN_DIFFERENCE = 0.02
"""Largest mean |policy - reference| of a token's log-probability at the first step, in nats."""
MAX_STANDARD_ERRORS = 3.0
NEGLIGIBLE_BIAS = 0.005
"""A bias below this many nats a token is harmless even where it is significant."""
PROBE_COMPLETIONS = 32


class TrainingError(RuntimeError):
    """Training had to stop; the message says where, why and what to do."""


def load_model(folder: str, dtype: torch.dtype) -> nn.Module:
    """A causal language model from a Hugging Face folder, safetensors only, without dropout.

    Raises TrainingError when the folder lacks weights that the model needs.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    disable_dropout(config)
    config.use_cache = False
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise TrainingError(
            f"{folder}: its weights lack {sorted(info['missing_keys'])[0]} (and {len(info['missing_keys']) - 1} more); "
            "the checkpoint is incomplete"
        )
    return model


class Trainer:
    """One rank of a training group. Call `connect` first, on all ranks at once; so with every other method."""

    def __init__(self, settings: Train, rank: int, ranks: int) -> None:
        self.settings = settings
        self.rank = rank
        self.ranks = ranks
        self.use_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        self.device = torch.device("cuda", 0) if self.use_cuda else torch.device("cpu")
        self._policy: tuple[str, Any] | None = None
        self._pairs: tuple[tuple[str, ...], list[PairTokens], int] | None = None
        self._grad_norm = math.nan

    # Set-up

    def connect(self, host: str, port: int) -> None:
        """Join the process group at rank 0's address: nccl on accelerators, gloo on CPU."""
        if not self.use_cuda:
            os.environ["DS_ACCELERATOR"] = "cpu"
        # An actor sees one accelerator only, its own.
        os.environ |= {"LOCAL_RANK": "0", "RANK": str(self.rank), "WORLD_SIZE": str(self.ranks)}
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        # Its shared-memory collectives serve inference only; left on, the first run compiles them for a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(
            "nccl" if self.use_cuda else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            init_method=f"tcp://{host}:{port}",
            rank=self.rank,
            world_size=self.ranks,
        )

    def _engine(self, folder: str) -> Any:
        """The DeepSpeed engine around the policy that starts from `folder`; kept for the next call."""
        if self._policy is not None and self._policy[0] == folder:
            return self._policy[1]
        self._policy = None
        import deepspeed

        autocast = computes_in_autocast(self.settings)
        wide = self.settings.precision == "fp32" or autocast
        stored = folder_dtype(folder)
        model = load_model(folder, torch.float32 if wide or stored == torch.float32 else torch.bfloat16)
        check_exportable(model, folder)
        masters: dict[str, Tensor] = {}
        if not wide:
            masters = {name: p.data for name, p in model.named_parameters() if p.dtype == torch.float32}
            model = model.to(torch.bfloat16)
        if self.settings.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        scorer = self._scorer(model, torch.bfloat16 if autocast else None)
        config = deepspeed_config(self.settings, self.ranks, sum(p.numel() for p in model.parameters()))
        engine = deepspeed.initialize(model=scorer, model_parameters=scorer.parameters(), config=config)[0]
        _set_masters(engine.module.model, masters)
        if self.settings.zero == 0:
            engine.optimizer.register_step_pre_hook(self._clip)
        self._policy = (folder, engine)
        return engine

    def _scorer(self, model: nn.Module, autocast: torch.dtype | None) -> PackScorer:
        return PackScorer(model, attention.pick(self.settings.attention, self.device), autocast).to(
            self.device
        )

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm or math.inf)
        self._grad_norm = float(norm)

    def _reference_model(self, folder: str) -> nn.Module:
        """The reference model for scoring, sharded as in training only where the weights are (ZeRO 3)."""
        model = load_model(folder, torch.float32 if self.settings.precision == "fp32" else torch.bfloat16)
        scorer = self._scorer(model, None)
        if self.settings.zero < 3:
            return scorer
        import deepspeed

        config = inference_config(self.settings, self.ranks, sum(p.numel() for p in model.parameters()))
        return deepspeed.initialize(model=scorer, config=config)[0]

    def _read_pairs(self, plan: TrainingPlan) -> tuple[list[PairTokens], int]:
        """The round's pairs that fit, and how many were dropped."""
        if self._pairs is None or self._pairs[0] != plan.pairs:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(plan.init, local_files_only=True).get_text_config()
            pairs = pair_data.read_pairs(plan.pairs, config.vocab_size)
            kept = pair_data.drop_long(pairs, self.settings.max_tokens)
            attention.check_window(config, max(pair.longest for pair in kept))
            self._pairs = (plan.pairs, kept, len(pairs) - len(kept))
        return self._pairs[1], self._pairs[2]

    # Scoring

    def reference_logprobs(self, plan: TrainingPlan) -> list[tuple[str, float, int]]:
        """This rank's share of the round's distinct completions: (completion_key, summed logprob, tokens).

        Where the policy starts from the reference, the training engine scores them and stays for
        `train`; otherwise the reference model is loaded, and dropped again.
        """
        pairs, _ = self._read_pairs(plan)
        same = plan.init == plan.reference
        model = self._engine(plan.init) if same else self._reference_model(plan.reference)
        trees = batching.completion_trees(pairs, self.settings.tokens_per_microbatch)
        rows = self._score(model, trees, pairs)
        del model
        gc.collect()
        if self.use_cuda:
            torch.cuda.empty_cache()
        return rows

    @torch.no_grad()
    def _score(
        self, model: nn.Module, trees: list[Tree], pairs: list[PairTokens]
    ) -> list[tuple[str, float, int]]:
        """Score this rank's share of trees whose members are single completions, tagged with their keys."""
        model.eval()
        shares = batching.share_out(trees, self.ranks)
        packs = [batching.pack_trees(share, self.settings.tokens_per_microbatch) for share in shares]
        rows: list[tuple[str, float, int]] = []
        for pack in packs[self.rank]:
            logprobs = model(batching.lay_out(pack).to(self.device)).tolist()
            members = [
                (m.tag, len(tree.completions[m.completions[0]])) for tree in pack for m in tree.members
            ]
            rows += [(str(key), lp, length) for (key, length), lp in zip(members, logprobs, strict=True)]
        if self.settings.zero == 3:
            for _ in range(max(map(len, packs)) - len(packs[self.rank])):
                model(batching.filler(pairs[0]).pack.to(self.device))
        if bad := [key for key, lp, _ in rows if not math.isfinite(lp)]:
            raise TrainingError(
                f"completion {bad[0]} has a log-probability that is not finite ({len(bad)} in all)"
            )
        return rows

    # Training

    def train(self, plan: TrainingPlan, reference_file: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Train the round: yields ("step", metrics) after each step and ("facts", facts) at the end.

        Raises TrainingError (not finite, policy and reference disagree), TrainingDataError (pairs or
        reference file) or ExportError.
        """
        pairs, dropped = self._read_pairs(plan)
        reference = pair_data.read_reference(reference_file)
        engine = self._engine(plan.init)
        batches = self._batches(pairs, plan.seed)
        started = time.perf_counter()
        metrics: list[dict[str, Any]] = []
        check: dict[str, float] = {}
        for step, rows in enumerate(batches, start=1):
            rate = learning_rate(
                step,
                len(batches),
                plan.learning_rate,
                self.settings.schedule,
                self.settings.warmup_steps,
                self.settings.final_ratio,
            )
            row, differences = self._step(engine, plan, pairs, rows, reference, step, rate)
            if step == 1:
                check = differences
            metrics.append(row)
            yield "step", row
        seconds = time.perf_counter() - started
        self._publish(engine, plan, pairs)
        if self.rank == 0:
            pair_data.write_metrics(plan.metrics_file, metrics)
        yield "facts", _facts(metrics, check, len(pairs), dropped, len(reference), seconds)

    def _batches(self, pairs: list[PairTokens], seed: int) -> list[list[int]]:
        batches: list[list[int]] = []
        for epoch in range(self.settings.epochs):
            batches += batching.epoch_batches(
                pairs, seed, epoch, self.settings.batch_pairs, self.settings.order
            )
        return batches[: self.settings.max_steps]

    def _micro_batches(
        self, plan: TrainingPlan, pairs: list[PairTokens], rows: list[int], reference: dict[str, float]
    ) -> list[tuple[MicroBatch, Tensor]]:
        """This rank's micro-batches of a global batch, with the reference log-probabilities of each."""
        scored = plan.loss.nll_scope == "prompt+response"
        shares = batching.divide_batch(pairs, rows, self.settings.tokens_per_microbatch, self.ranks)
        mine = [batching.micro_batch(trees, scored) for trees in shares[self.rank]]
        # Under ZeRO 2 and 3 every backward is collective; below, only a step's gradients are.
        wanted = max(map(len, shares)) if self.settings.zero >= 2 else 1
        mine += [batching.filler(pairs[rows[0]], scored)] * (wanted - len(mine))
        return [(batch, _reference_of(batch, pairs, reference)) for batch in mine]

    def _step(
        self,
        engine: Any,
        plan: TrainingPlan,
        pairs: list[PairTokens],
        rows: list[int],
        reference: dict[str, float],
        step: int,
        rate: float,
    ) -> tuple[dict[str, Any], dict[str, float]]:
        started = time.perf_counter()
        engine.train()
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        whole = plan.loss.nll_scope == "prompt+response"
        num_tokens = sum(len(pairs[r].chosen) + whole * len(pairs[r].prompt) for r in rows)
        batches = (
            (_on(batch, self.device), ref) for batch, ref in self._micro_batches(plan, pairs, rows, reference)
        )
        # DeepSpeed averages gradients over ranks, where a sum is meant.
        sums = accumulate(
            engine,
            batches,
            plan.loss,
            BatchTotals(len(rows), num_tokens),
            lambda loss: engine.backward(loss * self.ranks, scale_wrt_gas=False),
        )
        totals, differences = self._reduce(sums)
        if not math.isfinite(totals["loss"]):
            self._stop_not_finite(plan, pairs, rows, step, totals["loss"], math.nan)
        check = _first_step_check(differences)
        if step == 1 and plan.init == plan.reference:
            _compare_with_reference(check)
        engine.step()
        norm = self._grad_norm if self.settings.zero == 0 else float(engine.get_global_grad_norm())
        # An overflowing norm is reported as infinite, not a number or (with offload) -1.
        if not math.isfinite(norm) or norm < 0:
            self._stop_not_finite(plan, pairs, rows, step, totals["loss"], norm)
        seconds = time.perf_counter() - started
        row = {"step": step} | mean_metrics(totals) | {"grad_norm": norm, "learning_rate": rate}
        row |= {"padded_tokens": batching.padded_tokens(pairs, rows)}
        return row | {"tokens_per_second": row["tokens"] / seconds, "seconds": seconds}, check

    def _reduce(self, sums: StepSums) -> tuple[dict[str, float], dict[str, float]]:
        """Sums over all ranks, by name."""
        both = torch.cat([sums.values, sums.differences])
        dist.all_reduce(both)
        values = both.tolist()
        return dict(zip(SUMS, values, strict=False)), dict(zip(DIFFERENCES, values[len(SUMS) :], strict=True))

    def _stop_not_finite(
        self,
        plan: TrainingPlan,
        pairs: list[PairTokens],
        rows: list[int],
        step: int,
        loss: float,
        norm: float,
    ) -> None:
        ids = [pairs[row].pair_id for row in rows]
        file = Path(plan.state_dir) / "not_finite.json"
        if self.rank == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            report = {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "pair_ids": ids}
            file.write_text(json.dumps(report, indent=2) + "\n")
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm}: not finite, nothing was published. The batch's pairs are "
            f"{', '.join(ids[:4])}{' ...' if len(ids) > 4 else ''} (all in {file}); look at them, or lower "
            "train.learning_rate"
        )

    # Publishing

    def _publish(self, engine: Any, plan: TrainingPlan, pairs: list[PairTokens]) -> None:
        """Write the probe and the checkpoint."""
        named = self.settings.export_dtype
        dtype = DTYPES[named] if named else folder_dtype(plan.init)
        self._write_probe(engine, plan, pairs)
        export_checkpoint(
            engine.module.model,
            plan.init,
            plan.checkpoint_dir,
            dtype,
            rank=self.rank,
            zero_stage=self.settings.zero,
            has_master=self.settings.precision == "bf16" and self.settings.zero > 0,
        )

    def _write_probe(self, engine: Any, plan: TrainingPlan, pairs: list[PairTokens]) -> None:
        """Score up to PROBE_COMPLETIONS completions, the first by key, with the trained policy."""
        texts = {
            batching.completion_key(pair.prompt, completion): (pair, completion)
            for pair in pairs
            for completion in (pair.chosen, pair.rejected)
        }
        keys = sorted(texts)[:PROBE_COMPLETIONS]
        picked = [PairTokens(key, texts[key][0].prompt, texts[key][1], texts[key][1]) for key in keys]
        trees = batching.completion_trees(picked, self.settings.tokens_per_microbatch)
        scored: list[Any] = [None] * self.ranks
        dist.all_gather_object(scored, self._score(engine, trees, pairs))
        if self.rank == 0:
            logprobs = {key: lp for rows in scored for key, lp, _ in rows}
            pair_data.write_probe(
                plan.probe_file, [(texts[k][0].prompt, texts[k][1], logprobs[k]) for k in keys]
            )


def _on(batch: MicroBatch, device: torch.device) -> MicroBatch:
    return MicroBatch(batch.pack.to(device), *(getattr(batch, name) for name in MicroBatch.__slots__[1:]))


def _set_masters(model: nn.Module, masters: dict[str, Tensor]) -> None:
    """Give the optimizer the float32 weights of the checkpoint: DeepSpeed fills its master weights from
    the bfloat16 model, which would lose what earlier rounds added below bfloat16's precision."""
    if not masters:
        return
    from deepspeed.utils import safe_set_full_fp32_param

    for name, parameter in model.named_parameters():
        if name in masters:
            safe_set_full_fp32_param(parameter, masters.pop(name))


def _reference_of(batch: MicroBatch, pairs: Sequence[PairTokens], reference: dict[str, float]) -> Tensor:
    if batch.rows and (lacking := [key for key in batch.keys if key not in reference]):
        raise pair_data.TrainingDataError(
            f"the reference file lacks completion {lacking[0]}, of one of the pairs from {pairs[batch.rows[0]].pair_id} "
            "on: it was made for other pairs, so run the reference pass again"
        )
    return torch.tensor([reference.get(key, 0.0) for key in batch.keys], dtype=torch.float64)


def _first_step_check(differences: dict[str, float]) -> dict[str, float]:
    """Mean |difference| a token, its bias, and the bias's standard error over the batch's completions."""
    count = differences["completions"]
    bias = differences["signed"] / count
    variance = max(0.0, differences["squared"] / count - bias**2) * count / max(count - 1, 1)
    return {
        "mean_difference": differences["absolute"] / count,
        "bias": bias,
        "standard_error": math.sqrt(variance / count),
        "completions": count,
    }


def _compare_with_reference(check: dict[str, float]) -> None:
    """Stop when the policy at the first step is not the reference it starts from."""
    significant = abs(check["bias"]) > MAX_STANDARD_ERRORS * check["standard_error"]
    if check["mean_difference"] < MAX_MEAN_DIFFERENCE and not (
        significant and abs(check["bias"]) > NEGLIGIBLE_BIAS
    ):
        return
    raise TrainingError(
        f"step 1: the policy starts from the reference, but its log-probabilities differ from the cached ones by "
        f"{check['mean_difference']:.4f} nats a token on average (limit {MAX_MEAN_DIFFERENCE}), with a bias of "
        f"{check['bias']:+.4f} ± {check['standard_error']:.4f} over {check['completions']:.0f} completions. The "
        "reference file belongs to another checkpoint or precision: run the reference pass again"
    )


def _facts(
    metrics: list[dict[str, Any]],
    check: dict[str, float],
    num_pairs: int,
    dropped: int,
    num_completions: int,
    seconds: float,
) -> dict[str, Any]:
    tokens = sum(row["tokens"] for row in metrics)
    return {
        "steps": len(metrics),
        "loss": metrics[-1]["loss"],
        "pairs": num_pairs,
        "dropped_pairs": dropped,
        "distinct_completions": num_completions,
        "tokens": tokens,
        "padded_tokens": sum(row["padded_tokens"] for row in metrics),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "first_step": check,
    }
