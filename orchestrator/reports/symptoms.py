"""The known ways such loops go wrong, looked for in a run's figures. Pure: evidence in, sentences out.

Each check says what it saw, in which round and what helps. They are hints by rules of thumb, for the reader
of a report; nothing is decided by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from orchestrator.reports.status import RoundStatus

MIN_MIXED = 0.2
"""Share of prompts with right and wrong samples below which pairs run dry."""
MAX_UNGRADABLE = 0.05
MAX_LOST = 0.1
"""Share of pairs that unreadable answers cost."""
MAX_TRUNCATED = 0.1
MAX_GROWTH = 1.3
"""Growth of mean length over the base model's or round 1's that counts as length creeping up."""


@dataclass(frozen=True)
class Evidence:
    """One round's facts, with its training metrics by update and its diversity where they are known."""

    round: RoundStatus
    metrics: Mapping[str, Sequence[Any]] | None = None
    diversity: tuple[float, float] | None = None
    """Share of prompts with a correct sample; mean number of distinct answers a prompt."""
    loss_form: str = "sigmoid"
    """As config.Loss has it."""

    def figures(self, name: str) -> Mapping[str, Any] | None:
        """Part of the evaluation: gate, test or probe."""
        found: Mapping[str, Any] | None = self.round.facts.get("evaluation", {}).get(name)
        return found

    @property
    def promotion(self) -> Mapping[str, Any]:
        """The gate's word; empty while it has not spoken."""
        return self.round.promotion or {}

    @property
    def pass_any(self) -> float | None:
        """Share of prompts with a correct sample (pass@N)."""
        for phase in ("pairs", "samples"):
            if (value := self.round.facts.get(phase, {}).get("pass_any")) is not None:
                return float(value)
        return self.diversity[0] if self.diversity else None

    @property
    def sample_tokens(self) -> float | None:
        """Mean length of a sample, in tokens; None where no samples are told of."""
        facts = self.round.facts.get("samples", {})
        return facts["tokens"] / facts["samples"] if facts.get("samples") and "tokens" in facts else None

    @property
    def num_prompts(self) -> int:
        kinds = ("mixed", "all_correct", "all_wrong", "tied", "ungradable")
        return sum(self.round.count("pairs", f"prompts_{kind}") for kind in kinds)

    def change(self, column: str) -> tuple[float, float] | None:
        """Mean of a training metric over the first and over the last quarter of the updates."""
        ends = self._ends(column)
        return (fmean(ends[0]), fmean(ends[1])) if ends else None

    def fell(self, column: str) -> bool:
        """Whether a training metric fell by more than two standard errors between those quarters."""
        ends = self._ends(column)
        if ends is None or len(ends[0]) < 2:
            return False
        error = math.sqrt(sum(variance(end) / len(end) for end in ends))
        return fmean(ends[0]) - fmean(ends[1]) > 2 * error

    def _ends(self, column: str) -> tuple[list[float], list[float]] | None:
        raw = (self.metrics or {}).get(column, ())
        values = [float(v) for v in raw if v is not None and math.isfinite(v)]
        quarter = max(1, len(values) // 4)
        return (values[:quarter], values[-quarter:]) if values else None


@dataclass(frozen=True)
class Past:
    """What a round is compared with: the base model, the first round, and the one before, if any."""

    base: Evidence
    first: Evidence
    before: Evidence | None


Check = Callable[[Evidence, Past], Iterator[str]]


def symptoms(base: Evidence, done: Sequence[Evidence], more: Sequence[Check] = ()) -> list[str]:
    """One sentence for each symptom in each round; `more` looks for those of its source of pairs."""
    sentences = []
    for i, evidence in enumerate(done):
        past = Past(base, done[0], done[i - 1] if i else None)
        for check in (*_CHECKS, *more):
            sentences += [f"Round {evidence.round.number}: {line}" for line in check(evidence, past)]
    return sentences


def _not_a_number(evidence: Evidence, past: Past) -> Iterator[str]:
    for name, values in (evidence.metrics or {}).items():
        bad = sum(1 for v in values if isinstance(v, float) and not math.isfinite(v))
        if bad:
            yield f"{name} is no finite number in {bad} updates: an empty response, or a diverged run."


def _first_loss(evidence: Evidence, past: Past) -> Iterator[str]:
    losses = (evidence.metrics or {}).get("dpo_loss") if evidence.loss_form == "sigmoid" else None
    # One batch's mean in bf16 scatters by hundredths; a reference that is not the start is far off.
    if losses and losses[0] is not None and abs(losses[0] - math.log(2)) > 0.1:
        yield (
            f"the first update's DPO loss is {losses[0]:.3f}, not log 2 = 0.693: training did not start at the "
            "reference. That is right for `init` unlike `reference`, and wrong otherwise."
        )


def _chosen_falls(evidence: Evidence, past: Past) -> Iterator[str]:
    if evidence.fell("chosen_logprob"):
        start, end = evidence.change("chosen_logprob") or (math.nan, math.nan)
        yield (
            f"the chosen completions' log-probability fell in training ({start:.2f} to {end:.2f} nats). "
            "More NLL weight (`loss.nll`) or a lower learning rate holds it up."
        )


def _diversity_collapses(evidence: Evidence, past: Past) -> Iterator[str]:
    before = past.before
    if before is None or before.pass_any is None or evidence.pass_any is None:
        return
    n = max(1, min(evidence.num_prompts, before.num_prompts))
    error = math.sqrt(before.pass_any * (1 - before.pass_any) / n + evidence.pass_any * (1 - evidence.pass_any) / n)
    if before.pass_any - evidence.pass_any > max(2 * error, 0.01):
        yield (
            f"pass@N fell from {100 * before.pass_any:.1f} to {100 * evidence.pass_any:.1f} %: fewer problems "
            "are solved by any sample. Raise the temperature, or use new prompts (`data.prompts: split`)."
        )


def _length_creeps(evidence: Evidence, past: Past) -> Iterator[str]:
    lengths = [("samples", past.first.sample_tokens, evidence.sample_tokens)]
    if (start_test := past.base.figures("test")) and (test := evidence.figures("test")):
        lengths.append(("greedy answers", start_test.get("mean_tokens"), test.get("mean_tokens")))
    for what, start, now in lengths:
        if start and now and now > MAX_GROWTH * start:
            yield f"{what} have grown from {start:.0f} to {now:.0f} tokens: length creeps up."


def _pairs_run_dry(evidence: Evidence, past: Past) -> Iterator[str]:
    if not evidence.num_prompts:
        return
    # Not every method needs right and wrong samples: what counts is whether a prompt gives anything to train on.
    used = "prompts_paired" if "prompts_paired" in evidence.round.facts.get("pairs", {}) else "prompts_mixed"
    share = evidence.round.count("pairs", used) / evidence.num_prompts
    if share >= MIN_MIXED:
        return
    start = f"only {100 * share:.0f} % of the prompts give pairs, most others' samples are all"
    sides = ("tied", "all_correct", "all_wrong", "ungradable")
    counts = {kind: evidence.round.count("pairs", f"prompts_{kind}") for kind in sides}
    side = max(counts, key=lambda kind: counts[kind])
    if side == "ungradable":
        yield f"{start} ungradable: pairs run dry. See what is said of ungradable samples here."
    elif side == "tied":
        yield (
            f"{start} of the same score: pairs run dry. Raise the temperature or the number of samples, or see "
            "whether the model knows how to judge (`self_judge`)."
        )
    else:
        said, other = ("right", "harder") if side == "all_correct" else ("wrong", "easier")
        yield (
            f"{start} {said}: pairs run dry. Raise the temperature or the number of samples, or use {other} prompts."
        )


_CURES = {
    "truncated": "are truncated: raise `generate.max_tokens`, or see whether the model repeats itself",
    "unreadable": "have an answer that no grader can read: look at the column `extracted` of the verdicts. Ask for a "
    "plainer form in the prompt, or give them a grader that reads it (`judge` among them)",
    "failed": "made a grader fail: look at their reasons, and at `grade.timeout`, `grade.memory` and the graders' logs",
    "gold": "answer problems whose gold answer no grader can read: name one that can in `grade.graders`, or mend the "
    "data",
}
"""What helps where samples are ungradable, by cause."""


def _ungradable(evidence: Evidence, past: Past) -> Iterator[str]:
    ungradable = evidence.round.count("verdicts", "ungradable")
    total = ungradable + evidence.round.count("verdicts", "correct") + evidence.round.count("verdicts", "wrong")
    counts = {cause: evidence.round.count("verdicts", cause) for cause in _CURES}
    for cause, count in counts.items():
        if count > MAX_UNGRADABLE * total:
            yield f"{100 * count / total:.0f} % of the samples {_CURES[cause]}."
    if not any(counts.values()) and ungradable > MAX_UNGRADABLE * total:  # graded by version 1, which named no causes
        yield (
            f"{100 * ungradable / total:.0f} % of the samples are ungradable (truncated, or the grader "
            "failed): look at their reasons, and at `generate.max_tokens`."
        )


def _pairs_lost(evidence: Evidence, past: Past) -> Iterator[str]:
    lost, made = evidence.round.count("pairs", "pairs_lost"), evidence.round.count("pairs", "pairs")
    if lost > MAX_LOST * (lost + made):
        yield (
            f"{lost} pairs more would be there, of {evidence.round.count('pairs', 'prompts_lost')} more prompts, if "
            "unreadable answers were wrong. Give them a grader that reads them, or set `grade.unreadable: wrong`, the "
            "binary reward of the papers: then right answers in an odd form are rejected, too."
        )


def _unreadable_answers(evidence: Evidence, past: Past) -> Iterator[str]:
    test = evidence.figures("test") or {}
    for cause, what in (("unreadable", "cannot be read"), ("failed", "made a grader fail")):
        if test.get(cause, 0) > MAX_UNGRADABLE * test.get("problems", 0):
            yield (
                f"{test[cause]} of {test['problems']} greedy test answers {what} and count as not solved: accuracy "
                "may be higher than it says."
            )


def _quarantined(evidence: Evidence, past: Past) -> Iterator[str]:
    yield from given_up(evidence, "samples", "have no samples")
    yield from given_up(evidence, "evaluation", "count as not solved")


def given_up(evidence: Evidence, phase: str, left: str) -> Iterator[str]:
    """Of prompts that took engines down in a phase; `left` says what became of them."""
    if ids := evidence.round.facts.get(phase, {}).get("quarantined"):
        yield (
            f"{len(ids)} prompts {left}, since each took down several engines ({', '.join(ids[:5])}"
            f"{', ...' if len(ids) > 5 else ''}): look at them, and at the engines' logs."
        )


def _truncated(evidence: Evidence, past: Past) -> Iterator[str]:
    test = evidence.figures("test") or {}
    if test.get("problems") and test.get("truncated", 0) > MAX_TRUNCATED * test["problems"]:
        yield (
            f"{test['truncated']} of {test['problems']} greedy test answers reached the length limit: raise "
            "`evaluate.max_tokens`, or see whether the model repeats itself."
        )


def _accuracy_falls(evidence: Evidence, past: Past) -> Iterator[str]:
    start, now = (past.before or past.base).figures("test"), evidence.figures("test")
    if start and now and now["accuracy"] < start["low"]:
        yield (
            f"test accuracy fell to {100 * now['accuracy']:.1f} %, below the interval of what it started "
            f"from ({100 * start['low']:.1f} to {100 * start['high']:.1f} %)."
        )


_CHECKS: tuple[Check, ...] = (
    _not_a_number,
    _first_loss,
    _chosen_falls,
    _diversity_collapses,
    _length_creeps,
    _pairs_run_dry,
    _ungradable,
    _pairs_lost,
    _unreadable_answers,
    _quarantined,
    _truncated,
    _accuracy_falls,
)
