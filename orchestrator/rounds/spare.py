"""Which promoted checkpoints a run keeps, and which nothing needs any more (`keep.checkpoints`). Pure."""

from __future__ import annotations

from orchestrator.ledger.ledger import State


def spare_checkpoints(state: State, keep: int | None) -> list[str]:
    """Paths of the promoted checkpoints that are neither among the newest `keep` (None: all), nor the current
    reference, nor the best on the gate problems (of equals the earliest, as in the loop)."""
    promoted = [promotion for promotion in state.promotions if promotion["promoted"]]
    if keep is None or not promoted:
        return []

    def gate_accuracy(number: int) -> float:
        commit = state.commits.get(f"rounds/{number:02d}/evaluation")
        return float(((commit and commit.facts.get("gate")) or {}).get("accuracy", 0.0))

    best = max(promoted, key=lambda promotion: gate_accuracy(promotion["round"]))
    # Where graders of several versions had a say, accuracies are not to be compared: the loop has noted its own best.
    needed = {
        best["reference"],
        state.promotions[-1].get("best"),
        state.promotions[-1]["reference"],
        *(p["reference"] for p in promoted[-keep:]),
    }
    return [p["reference"] for p in promoted if p["reference"] not in needed | state.discarded]
