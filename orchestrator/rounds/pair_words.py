"""What a round's pairs have come to, in words. Pure."""

from __future__ import annotations

from orchestrator.config.learning import BY_SCORE, IMITATING
from orchestrator.ledger.run import Facts
from orchestrator.rounds.pairing import PairingPlan


def no_pairs(facts: Facts, plan: PairingPlan) -> str:
    """Why a round's samples make no pair, and what to do."""
    if plan.rule in BY_SCORE:
        far = f"two scores that are {plan.margin:g} apart" if plan.rule == "margin" else "two different scores"
        far = "a score" if plan.rule == "best" else far
        return f"no pairs: no prompt's samples have {far}. Use other prompts, a higher temperature or more samples."
    if plan.rule == "unfiltered":
        return (
            "nothing to imitate: no sample ended by itself. Let them be longer (generate.max_tokens), or give a text "
            "that ends them (generate.stop)."
        )
    return (
        f"no pairs: {facts['prompts_all_correct']} of its prompts have only correct samples (ungradable ones aside), "
        f"{facts['prompts_all_wrong']} only wrong ones, {facts['prompts_mixed']} both{_without_verdict(facts)}. Use "
        "other prompts, a higher temperature, more samples, or gold solutions as winners (pairs.gold_as_chosen)."
    )


def _without_verdict(facts: Facts) -> str:
    """How many prompts have no sample with a verdict, and what would come of it if they had; empty where all have."""
    none = f", {facts['prompts_ungradable']} none with a verdict" if facts["prompts_ungradable"] else ""
    lost = f" ({facts['pairs_lost']} pairs if unreadable answers were wrong: see grade.unreadable)"
    return none + (lost if facts.get("pairs_lost") else "")


def summary(facts: Facts, plan: PairingPlan) -> str:
    """How many pairs there are, and of what."""
    if plan.rule in IMITATING:
        return f"{facts['pairs']} completions to imitate"
    pairs = f"{facts['pairs']}" + (f" in {facts['groups']} groups" if "groups" in facts else "")
    if "prompts_tied" in facts:
        return f"{pairs} from {facts['prompts_mixed']} prompts with samples of different scores"
    gold = " and of gold solutions" if plan.gold_as_chosen else ""
    summary = f"{pairs} from {facts['prompts_mixed']} prompts with right and wrong samples{gold}"
    if not facts.get("pairs_lost"):
        return summary
    lost = f"{facts['pairs_lost']} more, of {facts['prompts_lost']} more prompts"
    return f"{summary}; if unreadable answers were wrong there would be {lost}"
