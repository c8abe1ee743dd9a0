"""Gold solutions to be imitated: the source `gold`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.config import Job
from orchestrator.ledger.ledger import Commit, State
from orchestrator.ledger.run import Facts
from orchestrator.reports.columns import Reported
from orchestrator.reports.lineage import Trail
from orchestrator.reports.sampled import SAMPLES
from orchestrator.rounds import pair_files, space
from orchestrator.rounds.context import Model
from orchestrator.rounds.prompt_rows import Prompts
from orchestrator.rounds.recount import Counting, Recounted
from orchestrator.rounds.round import NoPairs, Round, pairing_plan
from orchestrator.sources.lineage import Sampled
from orchestrator.sources.source import Source


def pairs(round_: Round, model: Model) -> Commit:
    """The gold solutions, to be imitated.

    Raises:
        NoPairs: none of the round's prompts has one.
    """
    round_.prompts()
    plan, path = round_.pairing_plan(), round_.context.run.path(f"{round_.folder}/prompts/{round_.split}.parquet")

    def work(folder: Path) -> Facts:
        folder.mkdir()
        return pair_files.write_gold(path, plan, folder / "00000.parquet")

    commit = round_.make_pairs({"gold": True}, replace(plan, rule="correct"), work)
    if not commit.facts["pairs"]:
        raise NoPairs(f"round {round_.number} has nothing to imitate: none of its prompts has a gold solution")
    return commit


def _follow(run_dir: Path, state: State, place: str) -> Iterator[str]:
    return Sampled(run_dir, state, place, imitates=True).findings()


def _recount(run: Counting, step: str, number: str) -> Facts:
    [prompts] = run.files.all(f"{step.rpartition('/')[0]}/prompts")
    plan = pairing_plan(run.job, int(number))
    rows = Prompts(prompts)
    return run.written(step, lambda: pair_files.gold_choices(rows), plan.max_pairs, plan.seed)


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    return space.paired(job, number, problems, samples=0, per_prompt=1)


SOURCE = Source(
    pairs=pairs,
    trail=Trail(("pairs", "prompts"), _follow),
    recounted=Recounted({r"rounds/(\d+)/pairs": _recount}),
    disk=space.Disk(_rows),
    reported=Reported([SAMPLES]),
)
