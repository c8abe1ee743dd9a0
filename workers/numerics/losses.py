"""Preference losses as pure functions over summed log-probabilities. Imports torch alone.

The loss of one pair with prompt x, chosen completion w and rejected completion l is

    dpo * -log sigmoid(beta * [(log p(w|x) - log p_ref(w|x)) - (log p(l|x) - log p_ref(l|x))])
      + nll * -log p(w|x) / |w|

which is equation 1 of Iterative Reasoning Preference Optimization (arXiv 2404.19733 v3) for
dpo = 1, nll = alpha, and the DPO loss (arXiv 2305.18290, equation 7) for nll = 0. Its first version
puts the NLL on prompt and response and the weight on the DPO term: `nll_scope: prompt+response`.

In place of DPO's term others may stand: `FORMS`, which orchestrator.config.forms declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from orchestrator.config import RoundLoss


@dataclass(frozen=True, slots=True)
class PairLogprobs:
    """Log-probabilities of B pairs or groups, each summed over its tokens; all tensors have shape [B], those of
    rejected completions [R]: one of each pair, several of a group, which stand one after the other.

    `prompt` (the sum over the prompt's own tokens) is needed for `nll_scope: prompt+response` only, `rejected_length`
    for forms that average over tokens. Those that read no reference do not look at what stands for it.
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
    rejected_length: Tensor | None = None
    group_sizes: tuple[int, ...] | None = None
    """How many rejected completions each has; None: one."""
    score_gaps: Tensor | None = None
    """By how much the chosen one's score is above the rejected one's, in the scores' own units; for forms that read
    scores."""

    def of_groups(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values of the rejected completions, [R], by group."""
        groups: tuple[Tensor, ...] = torch.split(values, self.group_sizes or (1,) * len(self.chosen))
        return groups

    def mean_of_group(self, values: Tensor) -> Tensor:
        """Values of the rejected completions, [R], as the mean of each group, [B]; a pair has one."""
        if self.group_sizes is None or max(self.group_sizes, default=1) == 1:
            return values
        return torch.stack([group.mean() for group in self.of_groups(values)])


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over pairs, or groups, as scalars in nats; only `loss` carries a gradient."""

    loss: Tensor
    dpo: Tensor
    nll: Tensor
    margin: Tensor
    """Sum of the reward margins, as the form has them: for DPO beta * (log-ratio of chosen - log-ratio of rejected)."""
    margin_size: Tensor
    """Sum of their absolute values."""
    accuracy: Tensor
    """Number of pairs, or groups, whose margin is above zero."""


def reward_margins(pairs: PairLogprobs, beta: float) -> Tensor:
    """Implicit reward of chosen minus that of rejected, shape [B] (arXiv 2305.18290, section 5)."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return beta * (chosen - rejected)


def group_margins(groups: PairLogprobs, beta: float) -> tuple[Tensor, ...]:
    """The same against each rejected completion of a group, by group."""
    chosen = groups.chosen - groups.reference_chosen
    rejected = groups.of_groups(groups.rejected - groups.reference_rejected)
    return tuple(beta * (reward - others) for reward, others in zip(chosen, rejected, strict=True))


def least_margins(groups: PairLogprobs, beta: float) -> Tensor:
    """The least of each group's, shape [B]: by how much the chosen one is ahead of the best of the rejected ones."""
    return torch.stack([margins.min() for margins in group_margins(groups, beta)])


def mean_margins(pairs: PairLogprobs, beta: float) -> Tensor:
    """The same of log-ratios a token, shape [B]: each side's is divided by its own length."""
    chosen, rejected = _a_token(pairs, pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected)
    return beta * (chosen - rejected)


def likelihood_margins(pairs: PairLogprobs, beta: float) -> Tensor:
    """SimPO's reward of chosen minus that of rejected, shape [B]: beta times the log-probability a token, without a
    reference (arXiv 2405.14734, equation 4)."""
    chosen, rejected = _a_token(pairs, pairs.chosen, pairs.rejected)
    return beta * (chosen - rejected)


def odds_margins(pairs: PairLogprobs) -> Tensor:
    """Log of the odds ratio of chosen and rejected, shape [B], odds being p / (1 - p) of the geometric mean p of the
    tokens' probabilities (arXiv 2403.07691, equations 3 to 5)."""
    chosen, rejected = _a_token(pairs, pairs.chosen, pairs.rejected)
    return _log_odds(chosen) - _log_odds(rejected)


def _a_token(pairs: PairLogprobs, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    if pairs.rejected_length is None:
        raise ValueError("a loss that averages over tokens needs `rejected_length`")
    return chosen / pairs.chosen_length, rejected / pairs.rejected_length


def _log_odds(logprobs: Tensor) -> Tensor:
    """Of mean log-probabilities. What is certain has infinite odds, which no gradient survives: it is taken for a
    probability that rounding tells from 1."""
    below_certain = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return below_certain - torch.log(-torch.expm1(below_certain))


def dpo_losses(pairs: PairLogprobs, beta: float, smoothing: float = 0.0) -> Tensor:
    """DPO loss of each pair, shape [B]: -log sigmoid(margin). Equals log 2 where policy = reference.

    With `smoothing` e it is cDPO's, the mean over labels of which a share e is wrong (ericmitchell.ai/cdpo.pdf,
    equation 3): (1 - e) times the loss of the pair and e times that of the pair with its sides swapped.
    """
    margins = reward_margins(pairs, beta)
    if not smoothing:
        return -F.logsigmoid(margins)
    return -(1 - smoothing) * F.logsigmoid(margins) - smoothing * F.logsigmoid(-margins)


def robust_losses(pairs: PairLogprobs, beta: float, smoothing: float) -> Tensor:
    """Robust DPO's loss of each pair, shape [B] (arXiv 2403.00409, section 3): where a share e of labels is wrong, its
    mean over them is DPO's loss with the right ones. Of single pairs it may be negative, without a bound."""
    margins = reward_margins(pairs, beta)
    return (smoothing * F.logsigmoid(-margins) - (1 - smoothing) * F.logsigmoid(margins)) / (1 - 2 * smoothing)


def squared_losses(pairs: PairLogprobs, beta: float) -> Tensor:
    """SPPO's loss of each pair for wins that are certain, shape [B]: the squared distances of the log-ratios from
    +1/(2 beta) for the chosen and -1/(2 beta) for the rejected (arXiv 2405.00675, equation 4.5, where P is 1 and
    eta is 1/beta)."""
    chosen = pairs.chosen - pairs.reference_chosen
    rejected = pairs.rejected - pairs.reference_rejected
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def ipo_losses(pairs: PairLogprobs, beta: float) -> Tensor:
    """IPO's loss of each pair, shape [B]: the squared distance of the difference of the log-ratios from 1/(2 beta)
    (arXiv 2310.12036, equation 17, where beta is tau). Equals 1/(4 beta^2) where policy = reference."""
    return (reward_margins(pairs, 1.0) - 0.5 / beta) ** 2


def ipo_mean_losses(pairs: PairLogprobs, beta: float) -> Tensor:
    """The same of log-ratios a token, shape [B], which is what TRL's `ipo` computes: the distance that is aimed at is
    then one a token, and long completions are not pulled the harder."""
    return (mean_margins(pairs, 1.0) - 0.5 / beta) ** 2


def dpop_losses(pairs: PairLogprobs, beta: float, penalty: float) -> Tensor:
    """DPO-Positive's loss of each pair, shape [B] (arXiv 2402.13228, equation 3): DPO's, with `penalty` times what the
    chosen one has lost against the reference taken from the difference of the log-ratios."""
    lost = F.relu(pairs.reference_chosen - pairs.chosen)
    return -F.logsigmoid(reward_margins(pairs, beta) - beta * penalty * lost)


def simpo_losses(pairs: PairLogprobs, beta: float, target_margin: float) -> Tensor:
    """SimPO's loss of each pair, shape [B]: -log sigmoid(margin - target), without a reference (arXiv 2405.14734,
    equation 6, where the target is gamma)."""
    return -F.logsigmoid(likelihood_margins(pairs, beta) - target_margin)


def orpo_losses(pairs: PairLogprobs) -> Tensor:
    """ORPO's odds-ratio term of each pair, shape [B], without a reference (arXiv 2403.07691, equation 7). Its whole
    loss (equation 6) has the NLL beside it with weight 1, and this with lambda."""
    return -F.logsigmoid(odds_margins(pairs))


def softmax_losses(groups: PairLogprobs, beta: float) -> Tensor:
    """S-DPO's loss of each group, shape [B]: -log sigmoid(-log sum_l exp(-margin_l)) over its rejected completions l,
    margin_l being DPO's reward margin of the chosen one against l (arXiv 2406.09215, section 3, the loss L_S-DPO).
    It is -log of the chosen one's share of a softmax over the rewards of all. DPO's loss for one rejected completion;
    log(1 + n) for n of them where policy = reference."""
    together = [torch.logsumexp(-margins, 0) for margins in group_margins(groups, beta)]
    return -F.logsigmoid(-torch.stack(together))


def odpo_losses(pairs: PairLogprobs, beta: float, scale: float) -> Tensor:
    """ODPO's loss of each pair, shape [B]: -log sigmoid(margin - offset), where the offset is `scale` times the log of
    the difference of the scores (arXiv 2402.10571, the loss L_ODPO; `scale` is its alpha, and the log its f)."""
    return -F.logsigmoid(reward_margins(pairs, beta) - scale * _gaps(pairs).log())


def reward_aware_losses(pairs: PairLogprobs, beta: float, scale: float) -> Tensor:
    """Reward-aware preference optimization's loss of each pair, shape [B]: the divergence of a coin that falls as the
    rewards say from one as the scores say, q log(q/p) + (1-q) log((1-q)/(1-p)) with p = sigmoid(margin) and
    q = sigmoid(`scale` times the difference of the scores) (arXiv 2406.11704, section 3.3, the loss L_rpo, where
    `scale` is eta). Zero where the margin is what the scores say; below that and above it, it grows."""
    margins, wanted = reward_margins(pairs, beta), scale * _gaps(pairs)
    chosen = wanted.sigmoid() * (F.logsigmoid(wanted) - F.logsigmoid(margins))
    return chosen + (-wanted).sigmoid() * (F.logsigmoid(-wanted) - F.logsigmoid(-margins))


def scaled_losses(pairs: PairLogprobs, beta: float, scale: float) -> Tensor:
    """DPO's loss of each pair times `scale` times the difference of the scores, shape [B]: the scaled Bradley-Terry
    loss of HelpSteer2-Preference (arXiv 2410.01257, L_SBT) with DPO's reward."""
    return scale * _gaps(pairs) * -F.logsigmoid(reward_margins(pairs, beta))


def _gaps(pairs: PairLogprobs) -> Tensor:
    if pairs.score_gaps is None:
        raise ValueError("a loss that goes by scores needs `score_gaps`")
    return pairs.score_gaps


class Form(NamedTuple):
    """From pairs, or groups, and the settings of a round's loss to what stands for each, shape [B]."""

    losses: Callable[[PairLogprobs, RoundLoss], Tensor]
    margins: Callable[[PairLogprobs, RoundLoss], Tensor]
    """By how much the chosen one is preferred, in the form's own terms; what is right is above zero."""


def _rewards(pairs: PairLogprobs, loss: RoundLoss) -> Tensor:
    return reward_margins(pairs, loss.beta)


FORMS: Mapping[str, Form] = {
    "sigmoid": Form(lambda pairs, loss: dpo_losses(pairs, loss.beta, loss.smoothing), _rewards),
    "squared": Form(lambda pairs, loss: squared_losses(pairs, loss.beta), _rewards),
    "robust": Form(lambda pairs, loss: robust_losses(pairs, loss.beta, loss.smoothing), _rewards),
    "ipo": Form(lambda pairs, loss: ipo_losses(pairs, loss.beta), _rewards),
    "ipo_mean": Form(
        lambda pairs, loss: ipo_mean_losses(pairs, loss.beta), lambda pairs, loss: mean_margins(pairs, loss.beta)
    ),
    "dpop": Form(lambda pairs, loss: dpop_losses(pairs, loss.beta, loss.penalty), _rewards),
    "simpo": Form(
        lambda pairs, loss: simpo_losses(pairs, loss.beta, loss.target_margin),
        lambda pairs, loss: likelihood_margins(pairs, loss.beta),
    ),
    "orpo": Form(lambda pairs, loss: orpo_losses(pairs), lambda pairs, loss: odds_margins(pairs)),
    "softmax": Form(
        lambda groups, loss: softmax_losses(groups, loss.beta), lambda groups, loss: least_margins(groups, loss.beta)
    ),
    "odpo": Form(lambda pairs, loss: odpo_losses(pairs, loss.beta, loss.score_scale), _rewards),
    "reward_aware": Form(lambda pairs, loss: reward_aware_losses(pairs, loss.beta, loss.score_scale), _rewards),
    "scaled": Form(lambda pairs, loss: scaled_losses(pairs, loss.beta, loss.score_scale), _rewards),
}
"""The term that `dpo` weighs, by `loss.form`; orchestrator.config.forms says what each reads."""


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
    """Loss summed over the B pairs, or groups, of a micro-batch, in nats: the caller divides by the global batch's.

    `num_pairs` and `num_tokens` count the global batch's pairs, or groups, and the tokens its NLL covers; they
    matter for `nll_normalisation: batch` only. A term of weight 0 is reported but not differentiated.
    """
    form = FORMS[loss.form]
    margins = form.margins(pairs, loss)
    dpo = form.losses(pairs, loss).sum()
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
