"""A round's health: the figures by which a loop is seen to go well or ill, by names that all views share. Pure.

Warnings about them are symptoms.py's; here is what they are judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.reports import rewards
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.repeated import repeated

KINDS = {
    "prompts_mixed": "mixed",
    "prompts_all_correct": "all right",
    "prompts_all_wrong": "all wrong",
    "prompts_truncated": "truncated",
    "prompts_unreadable": "unreadable",
    "prompts_failed": "failed",
    "prompts_gold": "no readable gold",
}
"""Shares of prompts, by what verdicts their samples have (counts.by_prompt), in words."""


def health(evidence: Evidence) -> dict[str, float]:
    """A round's figures, those that are known of it, by name:

    - `pass_1`, the share of samples that are right, and `pass_n`, the share of prompts with a right one;
    - `distinct_answers`, the mean number of different answers a prompt;
    - `prompts_...` (see `KINDS`), the shares of prompts whose samples are right and wrong, all right, ..., which are 1
      together; and `prompts_paired`, the share of those that pairs were looked for in which give any;
    - `sample_tokens` and `answer_tokens`, the mean lengths of samples and of the greedy answers to the test problems;
    - `repeated_pass_1`, `repeated_pass_n` and `majority`, where test problems are answered several times;
    - `kl` and `kl_token`, how far the model is from the base model (rounds/drift.py), in nats a completion and a token;
    - `chosen_logprob_first` and `_last`, the mean log-probability of the chosen completions in the first and in the
      last quarter of the training, in nats a completion; `chosen_logprob_token`, the last one in nats a token;
    - where reward models score, `reward_mean`, `reward_q5` to `reward_q95`, of which so many per cent are below,
      `reward_right` and `reward_wrong`, the means of right and of wrong samples, and `reward_agreement` (see
      rounds/scoring.figures); those of a second model end in `_2`.
    """
    return dict(_figures(evidence))


def _figures(evidence: Evidence) -> Iterator[tuple[str, float]]:
    known = {
        "pass_1": evidence.pass_one,
        "pass_n": evidence.pass_any,
        "distinct_answers": evidence.distinct_answers,
        **_shares(evidence),
        "sample_tokens": evidence.sample_tokens,
        "kl": evidence.round.facts.get("drift", {}).get("kl"),
        "kl_token": evidence.round.facts.get("drift", {}).get("kl_token"),
        "answer_tokens": (evidence.figures("test") or {}).get("mean_tokens"),
    }
    if evidence.num_prompts and evidence.num_paired is not None:
        known["prompts_paired"] = evidence.num_paired / evidence.num_prompts
    yield from ((name, float(value)) for name, value in known.items() if value is not None)
    if told := repeated(evidence):
        ends_of = {
            "repeated_pass_1": told["pass_at"].get("1"),
            "repeated_pass_n": told["pass_at"].get(str(told["samples"])),
        }
        shares = ends_of | {"majority": told["majority"]}
        yield from ((name, share["share"]) for name, share in shares.items() if share)
    if ends := evidence.change("chosen_logprob"):
        yield from zip(("chosen_logprob_first", "chosen_logprob_last"), ends, strict=True)
    if token := evidence.chosen_logprob:
        yield "chosen_logprob_token", token[0]
    yield from rewards.health_figures(evidence)


def _shares(evidence: Evidence) -> dict[str, float]:
    """By kind; of a round of an earlier version those that its pairs tell."""
    kinds: Mapping[str, int] = evidence.kinds
    if not kinds and (total := evidence.num_prompts):
        told = {name: evidence.round.facts.get("pairs", {}).get(name) for name in list(KINDS)[:3]}
        return {name: count / total for name, count in told.items() if count is not None}
    total = sum(kinds.values())
    return {name: count / total for name, count in kinds.items()}


def words(figures: Mapping[str, float]) -> Iterator[str]:
    """A round's health for people, the most important first; what is not known of it is left out."""
    passed = [f"pass@{n} {100 * figures[key]:.1f} %" for n, key in ((1, "pass_1"), ("N", "pass_n")) if key in figures]
    if passed:
        yield ", ".join(passed)
    if "majority" in figures:
        ends = (figures.get("repeated_pass_1"), figures.get("repeated_pass_n"), figures["majority"])
        told = zip(("pass@1", "pass@N", "majority"), ends, strict=True)
        yield f"test {', '.join(f'{name} {100 * share:.1f}' for name, share in told if share is not None)} %"
    if "distinct_answers" in figures:
        yield f"{figures['distinct_answers']:.2f} answers a prompt"
    if "sample_tokens" in figures:
        yield f"{figures['sample_tokens']:.0f} tokens a sample"
    if kinds := [f"{100 * figures[key]:.0f} % {word}" for key, word in KINDS.items() if figures.get(key)]:
        yield f"prompts {', '.join(kinds)}"
    yield from rewards.words(figures)
    if "kl" in figures:
        yield f"KL from base {figures['kl']:.2f} nats"
    if "chosen_logprob_first" in figures:
        yield f"chosen {figures['chosen_logprob_first']:.2f} to {figures['chosen_logprob_last']:.2f} nats"
