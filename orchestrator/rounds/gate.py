"""The gate: may a candidate become the next reference? Pure; it sees the gate problems only.

Both models answered the same problems, so the problems that both solve or both miss say nothing about
which is better. The one-sided exact McNemar test looks at the others: `won` (only the candidate is
right) and `lost` (only the best model so far is right).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from orchestrator.config import Rule
from orchestrator.records.statistics import mcnemar_p_value, smallest_detectable_drop


@dataclass(frozen=True, slots=True)
class Decision:
    """What the gate says of one candidate.

    Example: Decision(promoted=True, reason="Promoted: ...", won=31, lost=4, p_value=0.99..,
    smallest_detectable_drop=0.0195)
    """

    promoted: bool
    reason: str
    """One sentence for people, with the figures that decided."""
    won: int
    """Problems that the candidate solves and the best model so far does not."""
    lost: int
    """Problems that the reference solves and the candidate does not."""
    p_value: float
    """Of "the candidate is better" for the rule `better`, of "the candidate is worse" for the others."""
    smallest_detectable_drop: float | None
    """Least drop in accuracy (a fraction) that the test could have called significant if every discordant
    problem had been lost; for `better` the least gain, likewise. None: no drop is large enough."""


def decide(rule: Rule, alpha: float, best: Mapping[str, bool], candidate: Mapping[str, bool]) -> Decision:
    """Compare a candidate with the best model so far, problem by problem (prompt id -> solved).

    - `not_worse` refuses the candidate if it is significantly worse (p <= alpha). Nothing more: a
      candidate that is a little worse passes, which is why it is compared with the best one so far
      and not with the last. Otherwise many small losses would each pass.
    - `better` accepts the candidate only if it is significantly better (p <= alpha).
    - `always` accepts, and reports; it does without any problems.

    Raises:
        ValueError: the two did not answer the same problems, or there are none to decide on.
    """
    if best.keys() != candidate.keys():
        missing, extra = best.keys() - candidate.keys(), candidate.keys() - best.keys()
        raise ValueError(
            "the best model and the candidate must answer the same gate problems: "
            f"{len(missing)} answered by the best model alone (such as {sorted(missing)[:3]}), "
            f"{len(extra)} by the candidate alone (such as {sorted(extra)[:3]})"
        )
    if not best and rule == "always":
        return Decision(True, "Promoted by the rule always: there are no gate problems.", 0, 0, 1.0, None)
    if not best:
        raise ValueError("the gate has no problems to decide on")
    won = sum(candidate[i] and not best[i] for i in best)
    lost = sum(best[i] and not candidate[i] for i in best)
    p_value = mcnemar_p_value(won, lost) if rule == "better" else mcnemar_p_value(lost, won)
    promoted = _passes(rule, p_value <= alpha)
    reason = _reason(rule, promoted, won, lost, len(best), p_value, alpha)
    return Decision(promoted, reason, won, lost, p_value, smallest_detectable_drop(len(best), alpha))


def _passes(rule: Rule, significant: bool) -> bool:
    match rule:
        case "always":
            return True
        case "not_worse":
            return not significant
        case "better":
            return significant
    assert_never(rule)


def _reason(rule: Rule, promoted: bool, won: int, lost: int, num_problems: int, p_value: float, alpha: float) -> str:
    counts = f"{won} won and {lost} lost of {num_problems} gate problems"
    test = f"p = {p_value:.3g}, alpha {alpha:g}"
    verdict = "Promoted" if promoted else "Refused"
    match rule:
        case "always":
            return f"{verdict} by the rule always: {counts}."
        case "not_worse":
            finding = "not significantly worse" if promoted else "significantly worse"
        case "better":
            finding = "significantly better" if promoted else "not significantly better"
        case _:
            assert_never(rule)
    # Word for word as in the records of earlier versions, which `verify` compares it with: the reference that it names
    # is the best model so far.
    return f"{verdict}: {finding} than the reference ({counts}; {test})."
