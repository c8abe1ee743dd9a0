"""A round's temperature where it follows the share of mixed prompts: what the verdicts of the round before decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc

from orchestrator.config import AdaptTemperature, Job, at_round
from orchestrator.ledger import waves
from orchestrator.ledger.ledger import State
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import used_file
from orchestrator.records.parquet import read_table
from orchestrator.rounds.context import Context

KINDS = ("mixed", "all_correct", "all_wrong", "ungradable")
"""Of prompts: with right and wrong samples, with only right ones, with only wrong ones, with none that has a verdict;
what else is ungradable counts for nothing."""


def adapted(before: float, kinds: Mapping[str, int], rule: AdaptTemperature) -> float:
    """The temperature that follows a round at the temperature `before`, whose prompts were of these kinds. Pure.

    Where too few were mixed, it goes up if more of the others had only right samples, and else down: hotter samples
    are wrong more often.
    """
    prompts = sum(kinds.values())
    if not prompts or kinds["mixed"] >= rule.mixed * prompts:
        return before
    easy = kinds["all_correct"] > prompts - kinds["mixed"] - kinds["all_correct"]
    changed = before + (rule.step if easy else -rule.step)
    return round(min(max(changed, rule.lowest), rule.highest), 6)


def of_round(job: Job, state: State, number: int) -> float:
    """The temperature of a round, decided before where a round before it decides."""
    if number == 1 or job.generate.adapt_temperature is None:
        return at_round(job.generate.temperature, number)
    return float(state.commits[_step(number)].facts["temperature"])


def decide(context: Context, number: int) -> None:
    """Commit the temperature of a round, if the one before it decides."""
    run, rule = context.run, context.job.generate.adapt_temperature
    if number == 1 or rule is None:
        return
    before = of_round(context.job, run.ledger.state, number - 1)
    shards = waves.shards(run.ledger.state, _folder(number - 1), "verdicts").values()
    inputs = {"verdicts": [used_file(file) for shard in shards for file in shard], "before": before, "rule": rule}

    def work() -> Facts:
        return decided(before, [[run.path(file.path) for file in shard] for shard in shards], rule)

    facts = run.step(_step(number), inputs, work, []).facts
    what = "as before" if facts["temperature"] == before else f"{before:g} before"
    share = f"{100 * facts['mixed']:.1f} % of the prompts of round {number - 1} were mixed"
    context.tell(_folder(number), "temperature", f"{facts['temperature']:g}, {what}: {share}")


def decided(before: float, verdicts: Iterable[Sequence[Path]], rule: AdaptTemperature) -> Facts:
    """Facts of the decision: the temperature and the one `before` it, the share of mixed prompts, and how many there
    are of each kind. Each of `verdicts` are the files with those of the same prompts."""
    kinds = count_kinds(verdicts)
    share = kinds["mixed"] / max(1, sum(kinds.values()))
    counted = {f"prompts_{kind}": number for kind, number in kinds.items()}
    return {"temperature": adapted(before, kinds, rule), "before": before, "mixed": share, **counted}


def count_kinds(verdicts: Iterable[Sequence[Path]]) -> dict[str, int]:
    """How many prompts are of which kind; see `decided`."""
    kinds = dict.fromkeys(KINDS, 0)
    for files in verdicts:
        seen: dict[str, tuple[bool, bool]] = {}
        for file in files:
            table = read_table(file, columns=["prompt_id", "verdict"])
            for verdict in ("correct", "wrong"):
                table = table.append_column(verdict, pc.equal(table["verdict"], verdict))
            grouped = table.group_by("prompt_id").aggregate([("correct", "any"), ("wrong", "any")])
            for row in grouped.to_pylist():
                right, wrong = seen.get(row["prompt_id"], (False, False))
                seen[row["prompt_id"]] = (right or row["correct_any"], wrong or row["wrong_any"])
        for right, wrong in seen.values():
            kinds[
                "mixed" if right and wrong else "all_correct" if right else "all_wrong" if wrong else "ungradable"
            ] += 1
    return kinds


def _folder(number: int) -> str:
    return f"rounds/{number:02d}"


def _step(number: int) -> str:
    return f"{_folder(number)}/temperature"
