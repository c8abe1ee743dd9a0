"""One update (a step of the optimizer) over micro-batches, and the learning-rate schedule. Imports torch alone.

An update's loss is the mean over the pairs of the global batch (or over its groups, each a chosen completion with
several rejected ones): each micro-batch contributes its sum divided by the number of pairs of the whole batch, so
neither the cut into micro-batches nor the division over ranks changes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.numerics.layout import MicroBatch
from workers.numerics.losses import LossSums, PairLogprobs, preference_loss_sum

if TYPE_CHECKING:
    from orchestrator.config import RoundLoss

MEANS: Mapping[str, Callable[[LossSums, PairLogprobs], Tensor]] = {
    "loss": lambda losses, pairs: losses.loss.detach(),
    "dpo_loss": lambda losses, pairs: losses.dpo,
    "nll_loss": lambda losses, pairs: losses.nll,
    "margin": lambda losses, pairs: losses.margin,
    "margin_size": lambda losses, pairs: losses.margin_size,
    "reward_accuracy": lambda losses, pairs: losses.accuracy,
    "chosen_logprob": lambda losses, pairs: pairs.chosen.detach().sum(),
    "rejected_logprob": lambda losses, pairs: pairs.mean_of_group(pairs.rejected.detach()).sum(),
}
"""Metrics of an update that are means over its pairs, or groups: how a micro-batch's sum over these, a scalar, is made.
All but `reward_accuracy`, a share, are in nats (those of the preference term in the units of its form);
log-probabilities are summed over tokens, and for a group's rejected side their mean is taken."""
COUNTS = ("chosen_tokens", "rejected_tokens", "pairs", "tokens")
"""Numbers that a micro-batch reports besides."""
SUMS = (*MEANS, *COUNTS)
"""Names of the sums that a micro-batch reports, in order."""
NEED_PREFERENCE = frozenset({"dpo_loss", "margin", "margin_size", "reward_accuracy"})
NEED_REFERENCE = frozenset[str]()
NEED_REJECTED = frozenset({"rejected_logprob"})
"""Means that are left out where the loss has no preference term, where it reads no reference, and where pairs have no
rejected side."""

ABOVE_ROUNDING = 2.0
"""How many times the size that rounding gives them margins must have for their signs to mean anything."""

DIFFERENCES = ("completions", "absolute", "signed", "squared")
"""Names of the sums over completions of the difference to the reference, a token, in order."""


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """What a global batch counts over all ranks and micro-batches."""

    pairs: int
    """Or groups, where the loss reads these."""
    nll_tokens: int
    """Tokens that the NLL covers, each pair's, or group's, chosen side counted once."""


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums of one or more micro-batches; both tensors are float64 on the model's device."""

    values: Tensor
    """[len(SUMS)]."""
    differences: Tensor
    """[len(DIFFERENCES)], over the micro-batches' distinct completions: (policy - reference) / length."""

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(self.values + other.values, self.differences + other.differences)


def pair_logprobs(batch: MicroBatch, segments: Tensor, reference: Tensor) -> PairLogprobs:
    """Gather the log-probabilities of a micro-batch's B pairs or groups from those of its segments.

    `segments` is [num_segments] from the policy, `reference` [num_completions] from the reference.
    """
    device = segments.device
    chosen, rejected, prompts = (t.to(device) for t in (batch.chosen, batch.rejected, batch.prompts))
    with_prompts = batch.pack.num_segments > batch.pack.num_completions
    return PairLogprobs(
        chosen=segments[chosen],
        rejected=segments[rejected],
        reference_chosen=reference[chosen],
        reference_rejected=reference[rejected],
        chosen_length=batch.chosen_lengths.to(device),
        prompt=segments[prompts] if with_prompts else None,
        prompt_length=batch.prompt_lengths.to(device) if with_prompts else None,
        rejected_length=batch.completion_lengths.to(device)[rejected],
        group_sizes=batch.group_sizes,
        score_gaps=None if batch.score_gaps is None else batch.score_gaps.to(device, segments.dtype),
    )


def micro_batch_loss(
    model: nn.Module, batch: MicroBatch, reference: Tensor, loss: RoundLoss, totals: BatchTotals
) -> tuple[Tensor, StepSums]:
    """Loss of a micro-batch, summed over its pairs, and its sums. A filler's loss is zero but differentiable.

    `model` maps a pack to the log-probabilities of its segments (workers.numerics.logprobs.PackScorer, or a
    DeepSpeed engine around one); `reference` is [num_completions] on any device.
    """
    segments = model(batch.pack)
    if not batch.rows:
        zeros = torch.zeros(len(SUMS), dtype=torch.float64, device=segments.device)
        return segments.sum() * 0.0, StepSums(zeros, zeros[: len(DIFFERENCES)])
    reference = reference.to(segments.device, segments.dtype)
    pairs = pair_logprobs(batch, segments, reference)
    losses = preference_loss_sum(pairs, loss, totals.pairs, totals.nll_tokens)
    lengths = batch.completion_lengths.to(segments.device)
    values = {name: sum_of(losses, pairs) for name, sum_of in MEANS.items()} | {
        "chosen_tokens": pairs.chosen_length.sum(),
        "rejected_tokens": pairs.mean_of_group(lengths[batch.rejected.to(segments.device)].double()).sum(),
        "pairs": torch.tensor(len(batch.rows), device=segments.device),
        "tokens": torch.tensor(batch.pack.num_tokens, device=segments.device),
    }
    a_token = (segments[: len(lengths)].detach() - reference).double() / lengths
    ones = torch.ones_like(a_token)
    differences = torch.stack([ones.sum(), a_token.abs().sum(), a_token.sum(), a_token.square().sum()])
    return losses.loss, StepSums(torch.stack([values[name].double() for name in SUMS]), differences)


def accumulate(
    model: nn.Module,
    batches: Iterable[tuple[MicroBatch, Tensor]],
    loss: RoundLoss,
    totals: BatchTotals,
    backward: Callable[[Tensor], None],
) -> StepSums:
    """Forward and backward over micro-batches, each with its reference log-probabilities.

    `backward` gets each micro-batch's share of the batch's loss, already divided by its pairs.
    """
    total: StepSums | None = None
    for batch, reference in batches:
        share, sums = micro_batch_loss(model, batch, reference, loss, totals)
        backward(share / totals.pairs)
        total = sums if total is None else total + sums
    if total is None:
        raise ValueError("an update needs at least one micro-batch")
    return total


def torch_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[MicroBatch, Tensor]],
    loss: RoundLoss,
    totals: BatchTotals,
    max_grad_norm: float | None = None,
) -> tuple[StepSums, float]:
    """A whole update in plain torch; returns the sums and the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    sums = accumulate(model, batches, loss, totals, lambda share: share.backward())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm or math.inf)
    optimizer.step()
    return sums, float(norm)


def learning_rate(
    step: int, num_steps: int, peak: float, schedule: str, warmup_steps: int, final_ratio: float
) -> float:
    """Learning rate of an update, counted from 1.

    Linear warm-up from 0: update k of the w warm-up updates has k / (w + 1) of the peak, and the one
    after them the peak itself. From there `linear` and `cosine` run to `final_ratio` of the peak,
    which the update after the last would reach: none is spent at a rate of 0.
    """
    if step <= warmup_steps:
        return peak * step / (warmup_steps + 1)
    if schedule == "constant":
        return peak
    progress = (step - 1 - warmup_steps) / (num_steps - warmup_steps)
    if schedule == "linear":
        share = 1.0 - progress
    elif schedule == "cosine":
        share = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        raise ValueError(f"schedule {schedule!r} is unknown; use `constant`, `linear` or `cosine`")
    return peak * (final_ratio + (1.0 - final_ratio) * share)


def mean_metrics(
    sums: Mapping[str, float], compared: bool = True, preferred: bool = True, rejected: bool = True
) -> dict[str, float]:
    """An update's metrics from its sums over all ranks: means over pairs, and log-probabilities a token. Not `compared`
    with a reference, without a term by which one side is `preferred`, or without `rejected` sides, what would need
    these is left out."""
    pairs = sums["pairs"]
    needs = ((compared, NEED_REFERENCE), (preferred, NEED_PREFERENCE), (rejected, NEED_REJECTED))
    missing = {name for there, names in needs if not there for name in names}
    metrics = {name: sums[name] / pairs for name in MEANS if name not in missing}
    for side in ("chosen", "rejected") if rejected else ("chosen",):
        metrics[f"{side}_logprob_per_token"] = sums[f"{side}_logprob"] / sums[f"{side}_tokens"]
    return metrics | {"pairs": int(pairs), "tokens": int(sums["tokens"])}


def without_noise(metrics: Mapping[str, float], rounding: float | None) -> dict[str, float]:
    """The metrics without the reward accuracy, as long as margins are of the size that rounding alone gives them:
    which of them are above zero is then chance. `rounding` is their mean size where policy and reference are the same,
    before a training's first update; None where that is not known."""
    noise = rounding is not None and metrics.get("margin_size", rounding) <= ABOVE_ROUNDING * rounding
    return {name: value for name, value in metrics.items() if not (noise and name == "reward_accuracy")}
