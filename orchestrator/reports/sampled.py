"""The report's sections on what a round has sampled: samples and pairs, waves, which prompts, temperature."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.records.abstentions import WORDS, abstained
from orchestrator.reports.columns import Column, Section, count, fact, number
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.health import health

SAMPLES = Section(
    "Samples and pairs",
    (
        Column("round", lambda e: str(e.round.number)),
        Column("samples", lambda e: count(e, "samples", "samples")),
        Column("correct", lambda e: count(e, "verdicts", "correct")),
        Column("wrong", lambda e: count(e, "verdicts", "wrong")),
        Column("ungradable", lambda e: count(e, "verdicts", "ungradable")),
        Column("of these", lambda e: abstained({cause: e.round.count("verdicts", cause) for cause in WORDS})),
        Column("answers found by", lambda e: _rules(e)),
        Column("pass@N", lambda e: "" if e.pass_any is None else f"{100 * e.pass_any:.1f}"),
        Column("answers a prompt", lambda e: number(health(e), "distinct_answers", ".2f")),
        Column("tokens a sample", lambda e: "" if e.sample_tokens is None else f"{e.sample_tokens:.1f}"),
        Column("pairs", lambda e: count(e, "pairs", "pairs")),
        Column("lost to unreadable answers", lambda e: fact(e, "pairs", "pairs_lost", ",")),
        Column("prompts mixed / all right / all wrong / no verdict", lambda e: _kinds(e)),
    ),
)
WAVES = Section(
    "Waves of samples",
    (
        Column("round", lambda e: str(e.round.number)),
        Column("waves", lambda e: str(len(e.round.waves("samples")))),
        Column("samples", lambda e: count(e, "samples", "samples")),
        Column("saved", lambda e: count(e, "prompts", "saved")),
        Column("saved, %", lambda e: format(100 * _saved(e), ".1f")),
        Column("correct, %: first wave", lambda e: format(100 * _correct(e, ["verdicts"]), ".1f")),
        Column("all samples (biased)", lambda e: format(100 * _correct(e, e.round.waves("verdicts")), ".1f")),
    ),
    "A prompt was not asked again once no further sample could change its pairs. So those that are hard to pair, since "
    "nearly all of their samples are right or wrong, have more samples than others: over all samples the share of "
    "correct ones is biased, and so are answers a prompt and the causes of what is ungradable. In the first wave, for "
    "which all prompts were asked alike, it is not. Pairs and pass@N are those of all samples; with `rule: correct`, "
    "which stops at right samples, too few prompts are seen as mixed.",
    about=lambda e: len(e.round.waves("prompts")) > 1,
)
CURRICULUM = Section(
    "Curriculum",
    (
        Column("round", lambda e: str(e.round.number)),
        Column("prompts drawn", lambda e: fact(e, "curriculum", "prompts", ",")),
        Column("within the bounds", lambda e: fact(e, "curriculum", "fitting", ",")),
        Column("never drawn before", lambda e: fact(e, "curriculum", "new", ",")),
        Column("others", lambda e: fact(e, "curriculum", "others", ",")),
        Column("of these since too few fit", lambda e: fact(e, "curriculum", "filled", ",")),
        Column("known as too easy / too hard", lambda e: _too(e)),
    ),
    "Drawn by the share of right samples that a prompt had in the last round that drew it, within the bounds of "
    "`data.curriculum`. Rounds draw different prompts, so that their pass@N and shares of correct samples are not to "
    "be compared; evaluations are.",
    about=lambda e: "curriculum" in e.round.facts,
)
TEMPERATURE = Section(
    "Temperature",
    (
        Column("round", lambda e: str(e.round.number)),
        Column("temperature", lambda e: fact(e, "temperature", "temperature", "g")),
        Column("before", lambda e: fact(e, "temperature", "before", "g")),
        Column("mixed, %", lambda e: format(100 * e.round.facts["temperature"]["mixed"], ".1f")),
        Column("prompts mixed / all right / all wrong / no verdict", lambda e: _kinds(e, "temperature")),
    ),
    "Decided by the verdicts of the round before, whose prompts are counted here. Rounds at different temperatures are "
    "not to be compared by pass@N or by the share of correct samples.",
    about=lambda e: "temperature" in e.round.facts,
)


def _too(evidence: Evidence) -> str:
    """How many of all problems that were drawn before are out of bounds, on either side."""
    return " / ".join(fact(evidence, "curriculum", f"too_{kind}", ",") for kind in ("easy", "hard"))


def _saved(evidence: Evidence) -> float:
    """The share of a round's samples that were not drawn."""
    saved = evidence.round.count("prompts", "saved")
    return saved / max(1, saved + evidence.round.count("samples", "samples"))


def _correct(evidence: Evidence, phases: Sequence[str]) -> float:
    """The share of correct samples in some waves."""
    facts = [evidence.round.facts.get(phase, {}) for phase in phases]
    right, *others = (sum(f.get(verdict, 0) for f in facts) for verdict in ("correct", "wrong", "ungradable"))
    return float(right / max(1, right + sum(others)))


def _kinds(evidence: Evidence, phase: str = "pairs") -> str:
    """How many prompts have which samples; empty where a round has none, as with gold solutions."""
    facts = evidence.round.facts.get(phase, {})
    if "prompts_tied" in facts:  # of scores, where a model judges itself
        return f"{facts['prompts_mixed']:,} / {facts['prompts_tied']:,} tied"
    kinds = [facts.get(f"prompts_{kind}") for kind in ("mixed", "all_correct", "all_wrong", "ungradable")]
    return " / ".join(f"{count:,}" for count in kinds if count is not None)


def _rules(evidence: Evidence) -> str:
    """How often each rule found the answer, the most frequent first."""
    rules: Counter[str] = Counter()
    for phase in evidence.round.waves("verdicts"):
        rules.update(evidence.round.facts.get(phase, {}).get("rules", {}))
    return ", ".join(f"{rule} {count:,}" for rule, count in sorted(rules.items(), key=lambda r: -r[1]))
