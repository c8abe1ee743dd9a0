"""The known ways such loops go wrong, looked for in a run's figures. Pure: evidence in, sentences out.

Each check says what it saw, in which round, and which setting helps, by its key in the job. They are hints by rules of
thumb, for people; nothing is decided by them. Shares are compared by intervals, so that few samples warn of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.records.statistics import wilson_interval
from orchestrator.reports.evidence import Evidence
from orchestrator.text.counts import bracketed, many

MIN_MIXED = 0.2
"""Share of prompts that give pairs below which pairs run dry."""
MAX_UNGRADABLE = 0.05
MAX_LOST = 0.1
"""Share of pairs that unreadable answers cost."""
MAX_TRUNCATED = 0.1
MAX_GROWTH = 1.3
"""Growth of mean length over the base model's or round 1's that counts as length creeping up."""
MIN_SAMPLES = 50
"""Of fewer samples, or answers, a mean length says little."""
MAX_KL = 0.5
"""Nats a token that the model is from the base model, by the base model's samples."""


@dataclass(frozen=True)
class Past:
    """What a round is compared with: the base model, the first round, and the one before, if any."""

    base: Evidence
    first: Evidence
    before: Evidence | None


Check = Callable[[Evidence, Past], Iterator[str]]


def symptoms(base: Evidence, done: Sequence[Evidence], more: Sequence[Check] = ()) -> list[str]:
    """One sentence for each symptom in each round; `more` looks for those of its source of pairs."""
    found = by_round(base, done, more)
    return [f"Round {number}: {line}" for number, lines in found.items() for line in lines]


def by_round(
    base: Evidence, done: Sequence[Evidence], more: Sequence[Check] = (), only: int | None = None
) -> dict[int, list[str]]:
    """The same by the number of the round, which is not said again; of one round alone where `only` is its number."""
    found = {}
    for i, evidence in enumerate(done):
        if only not in (None, evidence.round.number):
            continue
        past = Past(base, done[0], done[i - 1] if i else None)
        found[evidence.round.number] = [line for check in (*_CHECKS, *more) for line in check(evidence, past)]
    return found


def _surely_above(count: float, total: float, share: float) -> bool:
    """Whether so many of so many are more than a share, by the lower end of the 95 % interval."""
    return 0 < count <= total and wilson_interval(int(count), int(total))[0] > share


def _not_a_number(evidence: Evidence, past: Past) -> Iterator[str]:
    for name, values in (evidence.metrics or {}).items():
        bad = sum(1 for v in values if isinstance(v, float) and not math.isfinite(v))
        if bad:
            yield (
                f"{name} is no finite number in {many(bad, 'update')}: an empty response, or a diverged run. Lower "
                "`train.learning_rate` or `train.max_grad_norm`."
            )


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


def _chosen_sinks(evidence: Evidence, past: Past) -> Iterator[str]:
    before, now = past.before and past.before.chosen_logprob, evidence.chosen_logprob
    if before and now and before[0] - now[0] > math.hypot(before[1], now[1]):
        yield (
            f"a token of the chosen completions has become less likely from round to round ({before[0]:.3f} to "
            f"{now[0]:.3f} nats at the end of training). More NLL weight (`loss.nll`), a lower `train.learning_rate` "
            "or pairs of earlier rounds (`pairs.replay`) hold it up."
        )


def _diversity_collapses(evidence: Evidence, past: Past) -> Iterator[str]:
    before = past.before
    if before is None or before.pass_any is None or evidence.pass_any is None:
        return
    if before.samples_a_prompt != evidence.samples_a_prompt:  # pass@N of another N
        return
    n = max(1, min(evidence.num_prompts, before.num_prompts))
    error = math.sqrt(before.pass_any * (1 - before.pass_any) / n + evidence.pass_any * (1 - evidence.pass_any) / n)
    if before.pass_any - evidence.pass_any <= max(2 * error, 0.01):
        return
    fell = f"pass@N fell from {100 * before.pass_any:.1f} to {100 * evidence.pass_any:.1f} %"
    cure = "Raise `generate.temperature`, or use new prompts (`data.prompts: split`)."
    yield f"{fell}{_narrowing(before, evidence) or ': fewer problems are solved by any sample'}. {cure}"


def _narrowing(before: Evidence, now: Evidence) -> str:
    """What is said where pass@1 has risen meanwhile, and the answers differ less; else nothing."""
    ones, answers = (before.pass_one, now.pass_one), (before.distinct_answers, now.distinct_answers)
    if ones[0] is None or ones[1] is None or answers[0] is None or answers[1] is None:
        return ""
    if ones[1] <= ones[0] or answers[1] >= answers[0]:
        return ""
    return (
        f" while pass@1 rose from {100 * ones[0]:.1f} to {100 * ones[1]:.1f} %: with {answers[1]:.2f} different "
        f"answers a prompt instead of {answers[0]:.2f}, the model is surer of what it knew, and has lost other problems"
    )


def _length_creeps(evidence: Evidence, past: Past) -> Iterator[str]:
    lengths = []
    if min(evidence.round.count("samples", "samples"), past.first.round.count("samples", "samples")) >= MIN_SAMPLES:
        lengths.append(("samples", past.first.sample_tokens, evidence.sample_tokens))
    start_test, test = past.base.figures("test"), evidence.figures("test")
    if start_test and test and test["problems"] >= MIN_SAMPLES:
        lengths.append(("greedy answers", start_test.get("mean_tokens"), test.get("mean_tokens")))
    for what, start, now in lengths:
        if start and now and now > MAX_GROWTH * start:
            yield (
                f"{what} have grown from {start:.0f} to {now:.0f} tokens: length creeps up. Where accuracy does not "
                "rise with it, a higher `loss.beta` or a lower `train.learning_rate` holds the model closer to the "
                "reference."
            )


def _leaves_the_base(evidence: Evidence, past: Past) -> Iterator[str]:
    facts = evidence.round.facts.get("drift", {})
    if not {"kl", "kl_error", "kl_token"} <= facts.keys() or facts["kl"] <= 0:
        return
    surely = facts["kl_token"] * (1 - 2 * facts["kl_error"] / facts["kl"])
    if surely > MAX_KL:
        yield (
            f"what the base model says has become {facts['kl_token']:.2f} nats a token less likely (KL from the base "
            "model): little of it is left. A higher `loss.beta`, `reference: base` or a lower `train.learning_rate` "
            "keeps closer to it."
        )


def _pairs_run_dry(evidence: Evidence, past: Past) -> Iterator[str]:
    # Not every method needs right and wrong samples: what counts is whether a prompt gives anything to train on.
    giving = evidence.num_paired
    if not evidence.num_prompts or giving is None:
        return
    if wilson_interval(giving, evidence.num_prompts)[1] >= MIN_MIXED:
        return
    share = giving / evidence.num_prompts
    if evidence.of_steps:
        yield (
            f"only {100 * share:.0f} % of the prompts give pairs of reasoning steps: pairs run dry. See how many wrong "
            "answers are located and put right, and raise `generate.samples` or `steps.rectifications`."
        )
        return
    start = f"only {100 * share:.0f} % of the prompts give pairs, most others' samples are all"
    sides = ("tied", "all_correct", "all_wrong", "ungradable")
    counts = {kind: evidence.round.count("pairs", f"prompts_{kind}") for kind in sides}
    side = max(counts, key=lambda kind: counts[kind])
    if side == "ungradable":
        yield f"{start} ungradable: pairs run dry. See `grade.graders`, and what is said of ungradable samples here."
    elif side == "tied":
        yield (
            f"{start} of the same score: pairs run dry. Raise `generate.temperature` or `generate.samples`, or see "
            "whether who scores them tells them apart (`self_judge`, `reward`)."
        )
    else:
        said, other = ("right", "harder") if side == "all_correct" else ("wrong", "easier")
        yield (
            f"{start} {said}: pairs run dry. Raise `generate.temperature` or `generate.samples`, or use {other} "
            "prompts (`data.train`)."
        )


_CURES = {
    "truncated": "are truncated: raise `generate.max_tokens`, or see whether the model repeats itself",
    "unreadable": "have an answer that no grader can read: look at the column `extracted` of the verdicts. Ask for a "
    "plainer form in `data.template`, or give them a grader that reads it (`grade.graders`, `judge` among them)",
    "failed": "made a grader fail: look at their reasons, and at `grade.timeout`, `grade.memory` and the graders' logs",
    "gold": "answer problems whose gold answer no grader can read: name one that can in `grade.graders`, or mend the "
    "data",
}
"""What helps where samples are ungradable, by cause."""


def _ungradable(evidence: Evidence, past: Past) -> Iterator[str]:
    ungradable = evidence.round.count("verdicts", "ungradable")
    total = ungradable + evidence.round.count("verdicts", "correct") + evidence.round.count("verdicts", "wrong")
    counts = {cause: evidence.round.count("verdicts", cause) for cause in _CURES}
    if not evidence.golds:
        total -= counts.pop("gold")
    for cause, count in counts.items():
        if _surely_above(count, total, MAX_UNGRADABLE):
            yield f"{100 * count / total:.0f} % of the samples {_CURES[cause]}."
    if (
        evidence.golds and not any(counts.values()) and _surely_above(ungradable, total, MAX_UNGRADABLE)
    ):  # graded by version 1, which named no causes
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
        if _surely_above(test.get(cause, 0), test.get("problems", 0), MAX_UNGRADABLE):
            yield (
                f"{test[cause]} of {test['problems']} greedy test answers {what} and count as not solved: accuracy "
                "may be higher than it says. See `grade.graders`."
            )


def _quarantined(evidence: Evidence, past: Past) -> Iterator[str]:
    yield from given_up(evidence, "samples", "without samples")
    yield from given_up(evidence, "evaluation", "counted as not solved")


def given_up(evidence: Evidence, phase: str, left: str) -> Iterator[str]:
    """Of prompts that took engines down in a phase; `left` says what became of them."""
    if ids := evidence.round.facts.get(phase, {}).get("quarantined"):
        yield (
            f"{many(len(ids), 'prompt')} {left}, since each took down several engines ({', '.join(ids[:5])}"
            f"{', ...' if len(ids) > 5 else ''}): look at them, and at the engines' logs; fewer sequences at once "
            "(`generate.max_num_seqs`) need less memory."
        )


def _truncated(evidence: Evidence, past: Past) -> Iterator[str]:
    test = evidence.figures("test") or {}
    if _surely_above(test.get("truncated", 0), test.get("problems", 0), MAX_TRUNCATED):
        yield (
            f"{test['truncated']} of {test['problems']} greedy test answers reached the length limit: raise "
            "`evaluate.max_tokens`, or see whether the model repeats itself."
        )


def _accuracy_falls(evidence: Evidence, past: Past) -> Iterator[str]:
    start, now = (past.before or past.base).figures("test"), evidence.figures("test")
    if start and now and now["accuracy"] < start["low"]:
        yield (
            f"test accuracy fell to {100 * now['accuracy']:.1f} %, below the interval of what it started "
            f"from ({bracketed(start['low'], start['high'])} %). A lower `train.learning_rate` or a "
            "higher `loss.beta` changes the model less; `promotion.rule: better` refuses more."
        )


_CHECKS: tuple[Check, ...] = (
    _not_a_number,
    _first_loss,
    _chosen_falls,
    _chosen_sinks,
    _diversity_collapses,
    _length_creeps,
    _leaves_the_base,
    _pairs_run_dry,
    _ungradable,
    _pairs_lost,
    _unreadable_answers,
    _quarantined,
    _truncated,
    _accuracy_falls,
)
