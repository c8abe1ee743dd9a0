"""Preference losses as pure functions over summed log-probabilities. Imports torch alone.

The loss of one pair with prompt x, chosen completion w and rejected completion l is

    dpo * -log sigmoid(beta * [(log p(w|x) - log p_ref(w|x)) - (log p(l|x) - log p_ref(l|x))])
      + nll * -log p(w|x) / |w|

which is equation 1 of Iterative Reasoning Preference Optimization (arXiv 2404.19733 v3) for
dpo = 1, nll = alpha, and the DPO loss (arXiv 2305.18290, equation 7) for nll = 0. Its first version
puts the NLL on prompt and response and the weight on the DPO term: `nll_scope: prompt+response`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from orchestrator.config import RoundLoss


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Log-probabilities of B pairs, each summed over its tokens; all tensors have shape [B].

    `prompt` (the sum over the prompt's own tokens) is needed for `nll_scope: prompt+response` only.
    Lengths are in the tokens that were summed over, the closing EOS included where it was sampled. Tokens that are not
    the model's own (orchestrator.records.masks) are in neither.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_length: Tensor
    prompt: Tensor | None = None
    prompt_length: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over pairs, as scalars in nats; only `loss` carries a gradient."""

    loss: Tensor
    dpo: Tensor
    nll: Tensor
    margin: Tensor
    """Sum of the reward margins beta * (log-ratio of chosen - log-ratio of rejected)."""
    margin_size: Tensor
    """Sum of their absolute values."""
    accuracy: Tensor
    """Number of pairs whose margin is above zero."""


def reward_margins(pairs: PairLogprobs, beta: float) -> Tensor:
    """Implicit reward of chosen minus that of rejected, shape [B] (arXiv 2305.18290, section 5)."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return beta * (chosen - rejected)


def dpo_losses(pairs: PairLogprobs, beta: float) -> Tensor:
    """DPO loss of each pair, shape [B]: -log sigmoid(margin). Equals log 2 where policy = reference."""
    return -F.logsigmoid(reward_margins(pairs, beta))


def squared_losses(pairs: PairLogprobs, beta: float) -> Tensor:
    """SPPO's loss of each pair for wins that are certain, shape [B]: the squared distances of the log-ratios from
    +1/(2 beta) for the chosen and -1/(2 beta) for the rejected (arXiv 2405.00675, equation 4.5, where P is 1 and
    eta is 1/beta)."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


FORMS = {"sigmoid": dpo_losses, "squared": squared_losses}
"""The term that `dpo` weighs, by `loss.form`: from pairs and beta to the loss of each pair, shape [B]."""


def nll_tokens(pairs: PairLogprobs, scope: str) -> tuple[Tensor, Tensor]:
    """Log-probability and length that the NLL of each chosen sequence covers, both of shape [B].

    With `prompt+response` the length is that of both, though a model gives no probability to a
    prompt's first token: the first version of the paper divides by |x| + |c| + |y|.
    """
    if scope == "response":
        return pairs.chosen, pairs.chosen_length
    if pairs.prompt is None or pairs.prompt_length is None:
        raise ValueError("nll_scope `prompt+response` needs the log-probabilities of the prompts")
    return pairs.prompt + pairs.chosen, pairs.prompt_length + pairs.chosen_length


def nll_sum(logprobs: Tensor, lengths: Tensor, normalisation: str, num_pairs: int, num_tokens: int) -> Tensor:
    """Sum over pairs of the NLL, a scalar; divided by `num_pairs` it is the batch's NLL.

    `sequence` divides each sequence by its own length (the paper). `batch` is one mean over the
    `num_tokens` chosen tokens of the whole global batch (TRL's `sft` loss), scaled by `num_pairs`
    so that micro-batches add up under the same final division.
    """
    if normalisation == "sequence":
        return -(logprobs / lengths).sum()
    if normalisation == "batch":
        return -logprobs.sum() * (num_pairs / num_tokens)
    raise ValueError(f"nll_normalisation {normalisation!r} is unknown; use `sequence` or `batch`")


def preference_loss_sum(pairs: PairLogprobs, loss: RoundLoss, num_pairs: int, num_tokens: int) -> LossSums:
    """Loss summed over the B pairs of a micro-batch, in nats: the caller divides by the global batch's pairs.

    `num_pairs` and `num_tokens` count the global batch's pairs and the tokens its NLL covers; they
    matter for `nll_normalisation: batch` only. A term of weight 0 is reported but not differentiated.
    """
    margins = reward_margins(pairs, loss.beta)
    dpo = FORMS[loss.form](pairs, loss.beta).sum()
    logprobs, lengths = nll_tokens(pairs, loss.nll_scope)
    nll = nll_sum(logprobs, lengths, loss.nll_normalisation, num_pairs, num_tokens)
    # A product with 0 would turn an infinite term that nobody asked for into NaN.
    whole = sum((w * term for w, term in ((loss.dpo, dpo), (loss.nll, nll)) if w), torch.zeros_like(dpo))
    return LossSums(
        loss=whole,
        dpo=dpo.detach(),
        nll=nll.detach(),
        margin=margins.detach().sum(),
        margin_size=margins.detach().abs().sum(),
        accuracy=(margins.detach() > 0).sum(),
    )
