"""Pairs, loss, training and promotion."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.config.base import (
    Count,
    CountOrZero,
    CountSchedule,
    Momentum,
    NonNegative,
    NonNegativeSchedule,
    Positive,
    PositiveSchedule,
    Seconds,
    Settings,
    at_round,
    no_bool,
)
from orchestrator.config.forms import FORMS, FormName
from orchestrator.config.marks import Executes, Executing

MOST_PAIRED = 10_000
"""Pairs a prompt that a rule makes which repeats them."""
IMITATING = ("correct", "unfiltered", "best")
"""Rules that choose samples to be imitated; their pairs have no rejected side."""


BY_SCORE = ("best_worst", "margin", "best_rest", "best")
"""Rules that go by scores, whatever gives them; the others go by verdicts."""
GROUPING = ("best_rest",)
"""Rules whose pairs of a prompt are one group: a chosen completion with several rejected ones."""


def _each(schedule: int | list[int]) -> list[int]:
    return schedule if isinstance(schedule, list) else [schedule]


class Pairs(Settings):
    """From scored samples to preference pairs (arXiv 2404.19733, section 2) or to completions that are imitated."""

    rule: Literal["zip", "best_worst", "margin", "longest_correct", "correct", "unfiltered", "best_rest", "best"] = (
        "zip"
    )
    """How a prompt's samples are paired. `zip`: walk the correct and the wrong ones together, wrapping, to
    `per_prompt` pairs. `best_worst`: the highest score against the lowest, one pair. `margin`: any two whose scores
    differ by `margin` or more. `longest_correct`: the longest correct one against a random wrong one. `correct`: no
    pairs, but correct samples alone, to be imitated (`loss.dpo` is 0). `unfiltered`: likewise, but all samples that
    ended by themselves, right or wrong; verdicts are told, and decide nothing (Simple Self-Distillation, arXiv
    2604.01193; as a baseline, what imitating correct ones is worth). `best`: likewise the one of the highest score
    alone (RAFT, arXiv 2304.06767). `best_rest`: the highest score against each of up to `per_prompt` lower ones, drawn
    at random, pairs that are one group for `loss.form: softmax`. A score is 1 for correct and 0 for wrong, or what
    `reward`, or but for `best` `source: judge`, gives."""
    per_prompt: CountSchedule = 4
    """Pairs a prompt (K), by round; with `rule: correct` or `unfiltered`, samples a prompt; with `rule: best_rest`,
    rejected ones of its group."""
    margin: Positive = 1.0
    """Least difference of scores that `rule: margin` pairs."""
    gold_as_chosen: bool | Literal["only"] = False
    """Put the worked gold solution among the correct samples; `only` takes nothing but it (SPIN, arXiv 2401.01335)."""
    rejected: Literal["wrong", "any"] = "wrong"
    """Which samples may be rejected: `wrong` ones, or `any` (SPIN). `any` needs `gold_as_chosen: only`."""
    distinct: Literal["none", "text", "equations"] = "none"
    """Use only one of several samples of a prompt that have the same `text`, or the same list of `equations` (RFT,
    arXiv 2308.01825)."""
    max_pairs: Count | None = None
    """Keep a seeded random subset of so many pairs a round; with `rule: best_rest`, of so many whole groups."""
    replay: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=1)] = 0.0
    """Share of every earlier round's pairs that is trained on again, drawn at random; 0 is none, 1 all of them. Groups
    are drawn whole."""
    replay_rounds: Count | None = None
    """How many earlier rounds `replay` goes back; null is all of them."""
    append_eos: bool = True
    """Close the sides of preference data with the EOS token. Gold solutions always are; what was sampled has EOS
    exactly where it was sampled."""

    @property
    def imitates(self) -> bool:
        """Whether its rule makes no pairs, but chooses samples to be imitated."""
        return self.rule in IMITATING

    @model_validator(mode="after")
    def _fits(self) -> Pairs:
        if self.rejected == "any" and self.gold_as_chosen != "only":
            raise ValueError(
                "`rejected: any` may reject a correct sample, which only a gold solution is better than: set "
                "`gold_as_chosen: only`"
            )
        if self.rule == "unfiltered" and self.gold_as_chosen:
            raise ValueError(
                "`rule: unfiltered` imitates samples alone: leave `gold_as_chosen` out, or set `rule: correct`, which "
                "can take gold solutions with them"
            )
        if self.rule == "zip" and any(each > MOST_PAIRED for each in _each(self.per_prompt)):
            raise ValueError(
                f"`rule: zip` repeats a prompt's pairs until there are `per_prompt` of them: at most {MOST_PAIRED:,}"
            )
        return self


class Loss(Settings):
    """`dpo` * L_DPO(beta) + `nll` * L_NLL, the mean over pairs (arXiv 2404.19733, equation 1)."""

    form: FormName = "sigmoid"
    """The term that `dpo` weighs: `sigmoid` is DPO's (arXiv 2305.18290, equation 7); `squared` pulls the log-ratio of
    chosen and rejected to +1/(2 beta) and -1/(2 beta) (SPPO with hard wins, arXiv 2405.00675, equation 4.5, where
    beta is 1/eta); `robust` is DPO's without the bias of labels of which a share `smoothing` is wrong (arXiv
    2403.00409); `ipo` pulls the difference of the log-ratios to 1/(2 beta) (arXiv 2310.12036, equation 17), `ipo_mean`
    that of log-ratios a token, as TRL does; `dpop` is DPO's with a `penalty` (arXiv 2402.13228); `simpo` (arXiv
    2405.14734) and `orpo` (arXiv 2403.07691) compare log-probabilities a token, without a reference. `softmax` compares
    a chosen completion with a group of rejected ones at once (S-DPO, arXiv 2406.09215). `odpo` (arXiv 2402.10571),
    `reward_aware` (arXiv 2406.11704) and `scaled` (arXiv 2410.01257) go by how far the scores of both sides are apart.
    What each is for: [losses.md](losses.md)."""
    beta: PositiveSchedule = 0.1
    """Strength of the pull to the reference, by round; with `form: simpo` what scales the reward, from 2 to 10 in the
    paper."""
    smoothing: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=0.5)] = 0.0
    """Share of pairs that are taken to be the wrong way round: with `form: sigmoid` the loss is cDPO's, with `robust`
    it says how many are."""
    penalty: NonNegative = 50.0
    """What `form: dpop` adds for each nat that the chosen completion is less likely than under the reference (the
    paper's lambda)."""
    target_margin: NonNegative = 0.5
    """By how much `form: simpo` wants the reward of the chosen completion to be above that of the rejected one (the
    paper's gamma, some half of beta)."""
    score_scale: Positive = 1.0
    """From a difference of scores to the units of the loss: `form: odpo` wants the chosen completion to be this times
    the log of the difference ahead (the paper's alpha), `reward_aware` this times the difference (eta), both in nats;
    `scaled` multiplies a pair's loss by this times the difference."""
    dpo: NonNegativeSchedule = 1.0
    """Weight of the DPO term, by round."""
    nll: NonNegativeSchedule = 1.0
    """Weight of the negative log-likelihood of the chosen completion (the paper's alpha), by round."""
    nll_scope: Literal["response", "prompt+response"] = "response"
    """Tokens that the NLL covers; the paper's first version also covers the prompt."""
    nll_normalisation: Literal["sequence", "batch"] = "sequence"
    """`sequence`: each sequence's NLL is divided by its own length, as in the paper. `batch`: one
    mean over all tokens of the batch."""

    def of_round(self, number: int) -> RoundLoss:
        """The loss of a round, from 1."""
        return RoundLoss(**{name: at_round(getattr(self, name), number) for name in type(self).model_fields})


class RoundLoss(Loss):
    """The loss of one round: its weights are single values."""

    beta: Positive
    dpo: NonNegative
    nll: NonNegative

    @property
    def reads_reference(self) -> bool:
        """Whether it compares with a reference: imitation does not, nor do some forms."""
        return self.dpo > 0 and FORMS[self.form].reads_reference

    @property
    def reads_groups(self) -> bool:
        """Whether what it is the mean over are groups of a chosen and several rejected completions, and no pairs."""
        return FORMS[self.form].rows == "group"

    @property
    def reads_scores(self) -> bool:
        """Whether it goes by the scores of both sides."""
        return self.dpo > 0 and FORMS[self.form].reads_scores


def _stage(zero: int | None) -> int:
    return 1 if zero is None else min(zero, 1)  # what is left to the machine is never 0


USUAL_MICROBATCH = 4096
_ZERO = Executes(since=3, decides=_stage, was=1, words="1 to 3 may take each other's place at every start.")


class Train(Settings):
    """Training with a group of DeepSpeed ranks."""

    ranks: Annotated[Count | None, Executes(since=3, was=1)] = None
    """Number of training processes, one accelerator each. null is one on each accelerator of the cluster, at most
    `batch_pairs`; on CPU one."""
    zero: Annotated[
        Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=3)] | None, BeforeValidator(no_bool), _ZERO
    ] = None
    """DeepSpeed ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients too, 3 weights too. 1 to 3 compute the
    same; with `bf16`, 0 computes in autocast over float32 weights instead. null is the least of 1 to 3 that fits the
    accelerators' memory; on CPU 1."""
    offload_optimizer: Annotated[bool, Executes(since=2)] = False
    """Keep the optimizer's state in CPU memory."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """`bf16` computes in bfloat16 with float32 master weights; `fp32` does everything in float32."""
    learning_rate: NonNegativeSchedule = 7e-7
    """Peak learning rate, by round; 0 is a control run."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape after the warm-up."""
    warmup_steps: CountOrZero = 0
    """Updates (steps of the optimizer) of linear warm-up from 0."""
    warmup_ratio: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)] = 0.0
    """Share of the round's updates that are warm-up, instead of `warmup_steps`."""
    final_ratio: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=1)] = 0.0
    """Learning rate that the schedule ends at as a share of the peak; the update after the last would have
    it (linear and cosine)."""
    batch_pairs: Count = 16
    """Pairs an update, over all ranks; with `loss.form: softmax`, groups."""
    epochs: Count = 1
    """Passes over the round's pairs."""
    token_budget: Count | None = None
    """Train on so many real tokens a round, however many passes over its pairs that takes, instead of `epochs`: what
    makes methods comparable. The update that reaches it is the last."""
    max_steps: Count | None = None
    """At most so many updates a round."""
    eval_every: Count | None = None
    """Answer the gate problems with the policy after every so many updates of a round too, not only at its end. Each
    such checkpoint is on disk until the choice between them is made."""
    select: Literal["last", "best"] = "last"
    """Which of a round's checkpoints is the candidate: the `last`, or the `best` on the gate problems (of equals
    the earliest). `best` needs `eval_every`."""
    retrain: bool = False
    """Once the best number of updates is known, train again from the start for so many, with pairs of the gate
    problems among the others (arXiv 2404.19733, section 3.1). Such a gate decides nothing: `promotion.rule` must be
    `always`."""
    order: Literal["pairs", "prompts"] = "pairs"
    """`pairs` shuffles pairs. `prompts` shuffles prompts and keeps a prompt's pairs together, so that
    a batch holds each prompt and each of its completions once."""
    weight_decay: NonNegative = 0.0
    """AdamW weight decay."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """AdamW betas."""
    epsilon: Positive = 1e-8
    """AdamW epsilon."""
    max_grad_norm: Positive | None = 1.0
    """Clip the gradient's norm; null does not clip."""
    tokens_per_microbatch: Annotated[Count | None, Executes(since=2, was=USUAL_MICROBATCH)] = None
    """Most real tokens that go through the model at once on a rank; a single pair, or group, that is larger goes alone.
    null is
    the most that fits the memory, of the powers of two from 512 to 16384, on CPU to 4096. Where a rank runs out of
    memory, the run goes on with half of it, says so, and notes it in the ledger. So does its next
    start, unless it has another device, or another value is given for this, `ranks`, `zero`, `activation_checkpointing`
    or `offload_optimizer`."""
    chunk_logits: Executing[Count] = 2**27
    """Most logits, scored tokens times the vocabulary, that a rank holds at once: 2 bytes each, 4 with `fp32`. Where a
    micro-batch has more, they come in chunks of so many, and each is computed once more in the backward pass."""
    max_tokens: Count | None = None
    """Drop, and count, pairs with a side longer than this many tokens, prompt included."""
    activation_checkpointing: Annotated[bool | None, Executes(since=2, was=False)] = None
    """Recompute activations in the backward pass to save memory. null does where the training fits the memory only
    so, or with micro-batches of less than 2048 tokens (on CPU 1024) without."""
    attention: Annotated[Literal["auto", "sdpa", "matmul", "flex", "varlen"], Executes(since=3)] = "auto"
    """Attention over trees of completions: `sdpa` anywhere; `matmul` on processors that multiply bfloat16 (others
    compute as with `sdpa`), with float32 scores as there; `flex` (FlexAttention) on GPU; `varlen` (torch's
    variable-length attention) on GPU with `bf16`, which was not tried. `auto` picks: on GPU `flex`, on CPU `matmul`
    with `bf16`, else `sdpa`."""
    compile: Executing[bool] = False
    """Compile the model's layers (torch.compile), which spares passes over memory between products of matrices. It
    takes minutes at the first start, and on CPU g++; what is compiled depends on the lengths that a start meets first,
    and may round otherwise after the next. Packs are filled up to a multiple of 128 tokens, which changes nothing that
    is scored. With `zero: 3`, which gathers weights within a layer, it is left undone."""
    overlap: Executing[bool] = False
    """With `zero: 2` and `3`, let ranks sum up gradients while the backward pass goes on (DeepSpeed's `overlap_comm`),
    for a second buffer of them. On CPU nothing goes on meanwhile; it was not tried on GPU."""
    export_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the checkpoint's weights; null takes the model's own."""
    save_every: Executing[Count | None] = None
    """Save the training's state after every so many updates, whatever that costs, besides every `save_minutes`."""
    save_minutes: Executing[NonNegative] = 10.0
    """Save the training's state when so many minutes have passed since it was saved last: what a crash can cost. It
    is the least: fifty times as long as a save took is trained before the next, so that saving costs at most 2 % of the
    time."""
    stall_timeout: Executing[Seconds] = 1800.0
    """Seconds without any progress after which the ranks are taken for hung and started again. A weight that is loaded
    or gathered, a pack that is scored or trained on and a file that is written, hashed or read are progress."""

    @property
    def num_ranks(self) -> int:
        """`ranks`; where it is left to the machine, what it comes to on CPU."""
        return self.ranks or 1

    @property
    def stage(self) -> int:
        """`zero`; where it is left to the machine, what it comes to on CPU."""
        return 1 if self.zero is None else self.zero

    @property
    def microbatch(self) -> int:
        """`tokens_per_microbatch`; where it is left to the machine, what it comes to on CPU with enough memory."""
        return self.tokens_per_microbatch or USUAL_MICROBATCH

    @property
    def checkpointing(self) -> bool:
        """`activation_checkpointing`; where it is left to the machine, what it comes to where there is enough."""
        return bool(self.activation_checkpointing)

    @property
    def compiled(self) -> bool:
        """Whether layers are compiled, as `compile` asks for and ZeRO allows."""
        return self.compile and self.stage < 3

    @model_validator(mode="after")
    def _selects(self) -> Train:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give `warmup_steps` or `warmup_ratio`, not both")
        if self.attention == "varlen" and self.precision == "fp32":
            raise ValueError("`attention: varlen` computes in bfloat16: set `precision: bf16`, or `attention: auto`")
        if self.select == "best" and self.eval_every is None:
            raise ValueError("`select: best` needs `eval_every`, the number of updates between the checkpoints")
        if self.retrain and self.select != "best":
            raise ValueError("`retrain` needs `select: best`, which finds the number of updates to train for")
        return self


Rule = Literal["always", "not_worse", "better"]


class Promotion(Settings):
    """When a candidate becomes the next reference; decided on the gate problems alone."""

    rule: Rule = "not_worse"
    """`not_worse` refuses a candidate that is significantly worse than the best reference so far,
    `better` accepts only one that is significantly better (one-sided exact McNemar test)."""
    alpha: Annotated[float, BeforeValidator(no_bool), Field(gt=0, lt=1)] = 0.05
    """Significance level of the test."""
    stop_succeeds: Executing[bool] = False
    """Whether a stop by the gate counts as success: the exit code is then 0 instead of 3, for a scheduler that takes
    any other for a failure and starts the job again. What the run records, and `ratchet status` tells, is the same."""
