"""One DeepSpeed rank: reference log-probabilities, the training of a round, and the export.

    pairs ─► trees ─► packs of this rank ─► forward, loss, backward ─► update ─► metrics
                          reference file ─┘                             └► probe, checkpoint

Every rank reads the same pairs and computes the same division of each batch; only sums travel
between ranks. The class knows nothing of Ray: workers.training.group makes actors of it.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.config import Train
from orchestrator.records import counts
from orchestrator.records.adapters import AdapterPlan
from orchestrator.records.rows import ScoringPlan, TrainingPlan
from workers.files import make_folder
from workers.numerics import batching, layout, limits
from workers.numerics.batching import PairTokens, Tree
from workers.numerics.layout import MicroBatch
from workers.numerics.step import (
    DIFFERENCES,
    SUMS,
    BatchTotals,
    StepSums,
    accumulate,
    learning_rate,
    mean_metrics,
    without_noise,
)
from workers.supervision.resting import DeviceMemory, Kept, Memory
from workers.training import adapter, pair_data
from workers.training.checks import ReferenceCheck
from workers.training.policy import build_policy, build_reference
from workers.training.publishing import Publication, link
from workers.training.states import Pace, TrainingStates


class TrainingError(RuntimeError):
    """Training had to stop; the message says where, why and what to do."""


@dataclass(frozen=True, slots=True)
class Round:
    """What a round's training works on."""

    plan: TrainingPlan
    pairs: list[PairTokens]
    """Or groups, where the loss reads these."""
    reference: dict[str, float] | None
    """Log-probability under the reference by completion key; None where the loss compares with no reference."""
    batches: list[list[int]]
    """Rows of the pairs of each step."""
    score_gaps: list[float] | None = None
    """By pair, where the loss goes by scores."""

    def nll_tokens(self, rows: list[int]) -> int:
        """Tokens that the NLL of these pairs covers."""
        whole = self.plan.loss.nll_scope == "prompt+response"
        return sum(self.pairs[r].sides[0].num_scored + whole * len(self.pairs[r].prompt) for r in rows)


class Trainer:
    """One rank of a training group. Call `connect` first; every method is called on all ranks at once."""

    def __init__(self, settings: Train, rank: int, ranks: int) -> None:
        self.settings = settings
        self.rank = rank
        self.ranks = ranks
        self.use_cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"
        self.device = torch.device("cuda", 0) if self.use_cuda else torch.device("cpu")
        self._policy: tuple[tuple[str, AdapterPlan | None], Any] | None = None
        self._pairs: tuple[tuple[str, ...], list[PairTokens], int] | None = None
        self._grad_norm = math.nan
        self._pace = Pace(settings.save_minutes)
        self._memory: Memory | None = None
        self._devices = DeviceMemory()
        self.beats = 0
        """Counts up with every piece of work, by which whoever waits tells a slow rank from a hung one."""

    def beat(self) -> None:
        """A sign of life, from whatever takes long: a tensor loaded, a file written or hashed, a pack scored."""
        self.beats += 1

    # Set-up

    def prepare(self) -> None:
        """Load the libraries that the work needs, which takes seconds; harmless when repeated."""
        if not self.use_cuda:
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
        from transformers import AutoConfig, AutoModelForCausalLM  # noqa: F401

    def connect(self, rendezvous: str) -> None:
        """Join the process group: nccl on accelerators, gloo on CPU. `rendezvous` is tcp://HOST:PORT of rank 0, or
        file://PATH of a file that is not there yet. On accelerators to be called again after each rest."""
        self.prepare()
        if self.use_cuda:
            self._devices.begin()
        # An actor sees one accelerator only, its own.
        os.environ |= {"LOCAL_RANK": "0", "RANK": str(self.rank), "WORLD_SIZE": str(self.ranks)}
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        # Its shared-memory collectives serve inference only; the first run would compile them for a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(
            "nccl" if self.use_cuda else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            init_method=rendezvous,
            rank=self.rank,
            world_size=self.ranks,
        )
        self._memory = self._memory or Memory(self.use_cuda)

    def rest(self) -> Kept:
        """Drop the models and what was read, on accelerators what ranks talk over, too. Returns what is kept."""
        assert self._memory is not None  # `connect` came before
        self._memory.look()
        self._policy = self._pairs = None
        if not self.use_cuda:
            return Kept(self._memory.kept())
        gc.collect()  # an engine of DeepSpeed is in circles of references, and refers to the group
        self.disconnect()
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()  # pinned memory, of an optimizer that is offloaded
        return Kept(self._memory.kept(collected=True), self._devices.kept())

    def disconnect(self) -> None:
        """Leave the process group, whose buffers lie on the devices; with no model here any more, and all ranks at
        once. `connect` joins another one."""
        import deepspeed.comm

        deepspeed.comm.destroy_process_group()

    def _engine(self, folder: str, adapted: AdapterPlan | None) -> Any:
        """The DeepSpeed engine around the policy that starts from `folder`; kept for the next call."""
        if self._policy is None or self._policy[0] != (folder, adapted):
            self._policy = None
            engine = build_policy(self.settings, folder, self.device, self.ranks, self.beat, adapted)
            if self.settings.stage == 0:
                engine.optimizer.register_step_pre_hook(self._clip)
            self._policy = ((folder, adapted), engine)
        return self._policy[1]

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Stage 0 clips without telling the norm, so there it happens here, after the reduction."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm or math.inf)
        self._grad_norm = float(norm)

    def _read_pairs(self, files: tuple[str, ...], policy: str) -> tuple[list[PairTokens], int]:
        """The pairs that fit, and how many were dropped. `policy` is the folder of the model that trains on them."""
        if self._pairs is None or self._pairs[0] != files:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(policy, local_files_only=True, trust_remote_code=False)
            config = config.get_text_config()
            pairs = pair_data.read_pairs(files, config.vocab_size)
            kept = pair_data.drop_long(pairs, self.settings.max_tokens)
            limits.check_window(config, max(pair.longest for pair in kept))
            self._pairs = (files, kept, len(pairs) - len(kept))
        return self._pairs[1], self._pairs[2]

    # Scoring

    def reference_logprobs(self, plan: ScoringPlan) -> list[tuple[str, float, int]]:
        """This rank's share of the pairs' distinct completions: (completion_key, summed logprob, tokens summed).

        Where the policy starts from the model, the training engine scores them and stays for `train`; otherwise the
        model is loaded, and dropped again.
        """
        pairs, _ = self._read_pairs(plan.pairs, plan.policy)
        if plan.model == plan.policy:
            model = self._engine(plan.policy, plan.adapter)
        else:
            settings = self.settings
            model = build_reference(settings, plan.model, self.device, self.ranks, self.beat, policy=plan.policy)
        trees = batching.completion_trees(pairs, self.settings.microbatch)
        with nullcontext() if plan.adapted else adapter.without(model):
            rows: list[tuple[str, float, int]] = self._score(model, trees, pairs)
        del model
        gc.collect()
        if self.use_cuda:
            torch.cuda.empty_cache()
        return rows

    def preference_facts(
        self, plan: ScoringPlan, logprobs: dict[str, float], reference_file: str | None
    ) -> dict[str, float]:
        """What the round's pairs say of a model with these log-probabilities; see counts.preferences."""
        reference = None if reference_file is None else pair_data.read_reference(reference_file)
        return counts.preferences(self._read_pairs(plan.pairs, plan.policy)[0], logprobs, reference)

    @torch.no_grad()
    def _score(self, model: nn.Module, trees: list[Tree], pairs: list[PairTokens]) -> list[tuple[str, float, int]]:
        """Score this rank's share of trees whose members are single completions, tagged with their keys."""
        model.eval()
        shares = batching.share_out(trees, self.ranks)
        packs = [batching.pack_trees(share, self.settings.microbatch) for share in shares]
        scored, members = [torch.empty(0, device=self.device)], list[tuple[str, int]]()
        for pack in packs[self.rank]:
            self.beat()
            scored.append(model(layout.lay_out(pack).to(self.device)))
            members += [(str(m.tag), t.completions[m.completions[0]].num_scored) for t in pack for m in t.members]
        # Asked for once: a device would be waited for at every pack.
        logprobs = torch.cat(scored).tolist()
        rows = [(key, logprob, length) for (key, length), logprob in zip(members, logprobs, strict=True)]
        if self.settings.stage == 3:
            for _ in range(max(map(len, packs)) - len(packs[self.rank])):
                model(layout.filler(pairs[0]).pack.to(self.device))
        if bad := [key for key, lp, _ in rows if not math.isfinite(lp)]:
            raise TrainingError(f"completion {bad[0]} has a log-probability that is not finite ({len(bad)} in all)")
        return rows

    # Training

    def train(self, plan: TrainingPlan, reference_file: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Train the round: yields ("step", metrics) after each update, with how many `updates` there will be, and
        ("facts", facts) at the end. Without a reference file nothing is compared with a reference.

        Raises TrainingError (a loss or gradient that is not finite), ReferenceMismatch, TrainingDataError
        (pairs or reference file) or ExportError.
        """
        pairs, dropped = self._read_pairs(plan.pairs, plan.init)
        reference = None
        if reference_file is not None:
            reference = pair_data.read_reference(reference_file)
            pair_data.require_scored(pairs, reference, reference_file)
        engine = self._engine(plan.init, plan.adapter)
        # What is trained now is the policy no longer: another call starts from the folder again.
        self._policy = None
        rows = pair_data.grouped(pairs) if plan.loss.reads_groups else pairs
        gaps = pair_data.score_gaps(rows) if plan.loss.reads_scores else None
        round_ = Round(plan, rows, reference, self._batches(rows, plan), gaps)
        states = TrainingStates(plan.state_dir, plan.state_name, plan.keep_states, plan.state_key, self.beat)
        told: dict[str, Any] = {}
        done, last = states.load(engine), len(round_.batches)
        resumed_from, self._pace = len(done.metrics), Pace(self.settings.save_minutes)
        score = partial(self._score, engine, pairs=pairs)
        publication = Publication(
            engine, self.settings, plan.init, pairs, score, reference or {}, self.beat, plan.adapter
        )
        for step in range(resumed_from + 1, last + 1):
            row, check, save = self._update(engine, round_, step)
            if reference is not None and not done.first_step:
                same = plan.starts_at_reference
                done.first_step = check.facts() | ({"margin_size": row["margin_size"]} if same else {})
            row = without_noise(row, done.first_step.get("margin_size"))
            done.metrics.append(row)
            yield "step", row | {"updates": last}
            if plan.export_every and (step % plan.export_every == 0 or step == last):
                told = publication.on_the_way(states.exports() / f"{step:06d}")
            if save and step < last and plan.keep_states and plan.state_key:
                self._pace.measure(lambda: states.save(engine, done))
        if plan.export_every:
            link(states.exports(), Path(plan.checkpoint_dir))
        else:
            told = publication.publish(Path(plan.checkpoint_dir), Path(plan.probe_file))
        if self.rank == 0:
            pair_data.write_metrics(plan.metrics_file, done.metrics)
        facts = pair_data.training_facts(done.metrics, pairs, dropped)
        yield "facts", facts | told | {"first_step": done.first_step, "resumed_from": resumed_from}

    def _batches(self, pairs: list[PairTokens], plan: TrainingPlan) -> list[list[int]]:
        """Rows of the pairs of each step: `epochs` passes, or as many as the budget or the plan's limit take."""
        settings, budget, tokens = self.settings, self.settings.token_budget, 0
        most = min(steps or sys.maxsize for steps in (settings.max_steps, plan.steps))
        batches: list[list[int]] = []
        for epoch in itertools.count() if budget else range(settings.epochs):
            for rows in batching.epoch_batches(pairs, plan.seed, epoch, settings.batch_pairs, settings.order):
                batches.append(rows)
                tokens += batching.real_tokens(pairs, rows) if budget else 0
                # A plan's limit is what another training's budget came to, with fewer pairs.
                if len(batches) == most or (budget and tokens >= budget and plan.steps is None):
                    return batches
        return batches

    def _micro_batches(self, round_: Round, rows: list[int]) -> Iterator[tuple[MicroBatch, Tensor]]:
        """This rank's micro-batches of a global batch, with the reference log-probabilities of each."""
        scored = round_.plan.loss.nll_scope == "prompt+response"
        shares = batching.divide_batch(round_.pairs, rows, self.settings.microbatch, self.ranks)
        mine = [layout.micro_batch(trees, scored, round_.score_gaps) for trees in shares[self.rank]]
        # Under ZeRO 2 and 3 every backward is collective; below, only an update's gradients are.
        wanted = max(map(len, shares)) if self.settings.stage >= 2 else 1
        mine += [layout.filler(round_.pairs[rows[0]], scored)] * (wanted - len(mine))
        for batch in mine:
            self.beat()
            known = round_.reference if batch.rows else None
            logprobs = [known[key] if known is not None else 0.0 for key in batch.keys]
            yield batch.to(self.device), torch.tensor(logprobs, dtype=torch.float64)

    def _update(self, engine: Any, round_: Round, step: int) -> tuple[dict[str, Any], ReferenceCheck, bool]:
        """One update: its metrics, how far the policy was from the reference before it, and whether the
        state is to be saved after it."""
        started = time.perf_counter()
        rows = round_.batches[step - 1]
        rate = self._learning_rate(round_, step)
        engine.train()
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        # DeepSpeed averages gradients over ranks, where a sum is meant.
        sums = accumulate(
            engine,
            self._micro_batches(round_, rows),
            round_.plan.loss,
            BatchTotals(len(rows), round_.nll_tokens(rows)),
            lambda loss: engine.backward(loss * self.ranks, scale_wrt_gas=False),
        )
        totals, differences, save = self._reduce(sums)
        if not math.isfinite(totals["loss"]):
            self._stop_not_finite(round_, step, totals["loss"], math.nan)
        check = ReferenceCheck.from_sums(differences)
        compared = round_.reference is not None
        if compared and step == 1 and round_.plan.starts_at_reference:
            check.require_agreement()
        engine.step()
        norm = self._grad_norm if self.settings.stage == 0 else float(engine.get_global_grad_norm())
        # DeepSpeed reports an overflow as infinite, as not a number or, with offload, as -1.
        if not math.isfinite(norm) or norm < 0:
            self._stop_not_finite(round_, step, totals["loss"], norm)
        seconds = time.perf_counter() - started
        two_sided = round_.pairs[rows[0]].rejected is not None
        means = mean_metrics(totals, compared, preferred=round_.plan.loss.dpo > 0, rejected=two_sided)
        row = {"step": step} | means | {"grad_norm": norm, "learning_rate": rate}
        row["padded_tokens"] = batching.padded_tokens(round_.pairs, rows)
        save = save or bool(self.settings.save_every and step % self.settings.save_every == 0)
        return row | {"tokens_per_second": row["tokens"] / seconds, "seconds": seconds}, check, save

    def _learning_rate(self, round_: Round, step: int) -> float:
        settings = self.settings
        num_steps = round_.plan.schedule_steps or len(round_.batches)
        return learning_rate(
            step,
            num_steps,
            round_.plan.learning_rate,
            settings.schedule,
            settings.warmup_steps or round(settings.warmup_ratio * num_steps),
            settings.final_ratio,
        )

    def _reduce(self, sums: StepSums) -> tuple[dict[str, float], dict[str, float], bool]:
        """Sums over all ranks, by name; and whether it is time to save the state, which rank 0 says for all."""
        due = torch.tensor([self.rank == 0 and self._pace.due()]).to(sums.values)
        everything = torch.cat([sums.values, sums.differences, due])
        dist.all_reduce(everything)
        *values, due_ranks = everything.tolist()
        totals, differences = values[: len(SUMS)], values[len(SUMS) :]
        return dict(zip(SUMS, totals, strict=True)), dict(zip(DIFFERENCES, differences, strict=True)), due_ranks > 0

    def _stop_not_finite(self, round_: Round, step: int, loss: float, norm: float) -> None:
        """Write down the batch's pairs and raise TrainingError; all ranks come here together."""
        ids = [round_.pairs[row].pair_id for row in round_.batches[step - 1]]
        file = Path(round_.plan.failure_file)
        if self.rank == 0:
            make_folder(file.parent, above=1)
            report = {"step": step, "loss": repr(loss), "grad_norm": repr(norm), "pair_ids": ids}
            file.write_text(json.dumps(report, indent=2) + "\n")
        raise TrainingError(
            f"step {step}: loss {loss}, gradient norm {norm}: not finite, nothing was published. The "
            f"batch's pairs are {', '.join(ids[:4])}{' ...' if len(ids) > 4 else ''} (all in {file}); look "
            "at them, or lower train.learning_rate in a fork of the run"
        )
