"""A process reward model's word on reasoning steps (arXiv 2305.20050; in the form of TRL's PRMTrainer): the first step
that is less likely right than a threshold is the wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import ProcessModel, Steps
from orchestrator.config.reward import KEPT_PROCESS
from orchestrator.errors import Damaged
from orchestrator.files.inside import remove
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.parquet import read_table
from orchestrator.records.rewards import ANSWER_STEPS, RewardPlan, RewardTask
from orchestrator.rounds import rewards, sampling
from orchestrator.rounds.context import executed
from orchestrator.rounds.evaluation import beside
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.round import Round
from orchestrator.sources.steps.pairing import Error
from orchestrator.text.counts import many

ANSWERS = 256
"""That a worker gets at once."""
_PROBLEMS = pa.schema([("prompt_id", pa.string()), ("text", pa.string())])


def settings_of(round_: Round) -> ProcessModel:
    """The model of a job that asks one."""
    if (settings := Steps.of(round_.context.job).process_model) is None:
        raise RuntimeError("a job without a process reward model asks for one's word")
    return settings


def step_rewards(round_: Round, errors: Sequence[Error], commit: Commit) -> Commit:
    """The step with how likely each reasoning step of each error is right (schema REWARDS), in the order of the errors;
    `commit` is that of these."""
    context, settings = round_.context, settings_of(round_)
    model = context.kept_model(KEPT_PROCESS)
    plan = RewardPlan(
        model.path,
        "process",
        settings.max_tokens,
        separator=settings.separator,
        dtype=settings.dtype,
        date=context.job.data.date,
    )
    inputs = {
        "errors": files_of(commit),
        "split": Steps.of(context.job).split,
        "model": model.files,
        "plan": Fields(plan, without=("model",)),
        "executed": executed(process=settings),
    }

    def work(folder: Path) -> Facts:
        folder.mkdir()
        given = beside(folder)
        tasks = _tasks(round_, errors, given, folder)
        rewarders, wait = ready(lambda: context.workers.rewarders(plan, rewards.workers_of(settings)))
        shards = [facts for _, facts in rewarders.score(tasks)]
        remove(given.parent, given)
        told = rewards.reward_facts(shards)
        return {name: value for name, value in told.items() if name != "seconds"} | wait.once()

    done = context.run.step(f"{round_.folder}/step_rewards", inputs, work)
    facts = done.facts
    round_.say("step_rewards", f"{many(facts['rewarded'], 'answer')} by {settings.model}{sampling.mishaps_text(facts)}")
    return done


def _tasks(round_: Round, errors: Sequence[Error], given: Path, output: Path) -> list[RewardTask]:
    """The errors, and the problems that they answer, in files of the folder `given`."""
    wanted = {error.prompt_id for error in errors}
    problems = [{"prompt_id": p.prompt_id, "text": p.text} for p in round_.problems() if p.prompt_id in wanted]
    prompts = given / "problems.parquet"
    pq.write_table(pa.Table.from_pylist(problems, _PROBLEMS), prompts)
    tasks = []
    for index, start in enumerate(range(0, len(errors), ANSWERS)):
        file = given / f"answers-{index:05d}.parquet"
        rows = [
            {"prompt_id": e.prompt_id, "sample_index": e.sample_index, "steps": list(e.answer.step_texts)}
            for e in errors[start : start + ANSWERS]
        ]
        pq.write_table(pa.Table.from_pylist(rows, ANSWER_STEPS), file)
        place = str(output / f"{index:05d}.parquet")
        tasks.append(RewardTask(index, str(prompts), 0, len(problems), str(file), place))
    return tasks


def first_wrong(files: Sequence[Path], errors: Sequence[Error], threshold: float) -> Mapping[str, int | None]:
    """The first wrong step (from 1) of each error that the model has judged; None where all of its steps are right.

    Raises:
        Damaged: as `likely_right`.
    """
    found: dict[str, int | None] = {}
    for error, rewards_ in zip(errors, likely_right(files, errors), strict=True):
        if rewards_ is not None:
            wrong = (number for number, reward in enumerate(rewards_, 1) if reward < threshold)
            found[error.error_id] = next(wrong, None)
    return found


def likely_right(files: Sequence[Path], errors: Sequence[Error]) -> list[list[float] | None]:
    """Of each error, how likely each of its steps is right, as committed; None where the model could not read it.

    Raises:
        Damaged: the rows are not those of the errors, in their order, or do not fit their steps.
    """
    table = pa.concat_tables([read_table(file, columns=[*rewards.KEYS, "step_rewards"]) for file in files])
    if list(zip(*(table[key].to_pylist() for key in rewards.KEYS), strict=True)) != [
        (error.prompt_id, error.sample_index) for error in errors
    ]:
        raise Damaged(f"{files[0].parent}: its rows are not the errors, in their order. Restore it from a copy.")
    found: list[list[float] | None] = table["step_rewards"].to_pylist()
    for error, likely in zip(errors, found, strict=True):
        if likely is not None and len(likely) != (steps := len(error.answer.steps)):
            what = f"{error.error_id} has {steps} steps, and rewards of {len(likely)}"
            raise Damaged(f"{files[0].parent}: {what}. Restore it from a copy.")
    return found
