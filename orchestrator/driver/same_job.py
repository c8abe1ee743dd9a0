"""Is it the same job, model and data as when the run was started? Asked before anything is done to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from orchestrator.config import Job, only_executes
from orchestrator.config.load import changed_keys
from orchestrator.driver.kept import KEPT_PREFERENCES
from orchestrator.driver.resume import command, may_move
from orchestrator.errors import BadInput
from orchestrator.inputs.fields import PROBLEM_READING
from orchestrator.inputs.preferences import Find, identity_of
from orchestrator.inputs.problem_set import digest_of_problems
from orchestrator.ledger import recipes
from orchestrator.ledger.run import Run
from orchestrator.models.named import NamedModel, added_file, model_digest
from orchestrator.records.rows import Problem
from orchestrator.reports.journal import JOURNAL
from orchestrator.reports.progress.model import PROGRESS_FILE
from orchestrator.reports.written import REPORTS

_OF_A_CLAIM = ("ledger", "driver.json", PROGRESS_FILE, JOURNAL, *REPORTS)
"""What may stand in a run that was claimed and of which no more is written; somebody may have looked at its report."""


def check_same_job(run: Run, job: Job) -> None:
    """Refuse to go on with a run under settings that would give other results.

    Raises:
        BadInput: with the keys that differ.
    """
    root, state = run.root, run.ledger.state
    if not state.configs:
        if root.is_dir() and any(p for p in root.iterdir() if p.name not in _OF_A_CLAIM and p.name[0] != "."):
            raise BadInput(f"{root}: this folder holds something that is no run. Choose another `name` or `run_dir`.")
        return
    if not state.commits and not state.shards:
        return  # nothing is bound to the settings yet
    now = as_begun(run, job).model_dump(mode="json")
    changes = [
        (key, old, new)
        for key, old, new in changed_keys(_with_defaults(state.configs[-1]["job"]), now)
        if not only_executes(key, old, new) and not may_move(state, key, old, new)
    ]
    if changes:
        lines = [f"  {key}: {old!r} in the run, {new!r} now" for key, old, new in changes]
        raise BadInput(
            f"{root}: this run was started with other settings:\n" + "\n".join(lines) + "\nWhat is committed is never "
            f"changed: go back to those settings (`{command(root)}` has them), or go on in another run, which keeps "
            f"what they do not touch (`ratchet fork {root} NEWRUN KEY=VALUE`)."
        )


_BEFORE_NULL: Mapping[str, Mapping[str, Any]] = {
    "train": {"ranks": 1, "zero": 1, "tokens_per_microbatch": 4096, "activation_checkpointing": False},
    "generate": {"engines": 1, "tensor_parallel": 1},
    "evaluate": {"probe_tolerance": 0.05},
}
"""What earlier versions wrote where a job left these to them."""


def as_begun(run: Run, job: Job) -> Job:
    """The job, with what is left to the machine as it was when the run began under a version that left nothing to it:
    such a run goes on as it did until something else is set."""
    state = run.ledger.state
    if not state.configs or not (state.commits or state.shards):
        return job
    recorded, sections = state.configs[-1]["job"], {}
    for section, was in _BEFORE_NULL.items():
        said, now = recorded.get(section, {}), getattr(job, section)
        kept = {key: value for key, value in was.items() if getattr(now, key) is None and said.get(key) == value}
        if kept:
            sections[section] = now.model_copy(update=kept)
    return job.model_copy(update=sections)


def check_same_model(run: Run, base: NamedModel) -> None:
    """Refuse to go on with a run whose base model, in a folder of its own, is no longer the one that it was started
    with.

    Raises:
        BadInput: with the folder.
    """
    root, state = run.root, run.ledger.state
    recorded = state.configs[-1] if state.configs else {}
    if "model_digest" not in recorded or not (state.commits or state.shards):
        return
    if recorded["model_digest"] != model_digest(str(base.folder)):
        if added := added_file(str(base.folder), recorded["model_digest"]):
            raise BadInput(
                f"model: {base} is not as it was when {root} was started: {added} has come since. Take it out of there."
            )
        raise BadInput(
            f"model: {base} is not the model that {root} was started with, in {recorded['model']}. Name that one, or "
            f"go on in another run, which keeps what it does not touch (`ratchet fork {root} NEWRUN model=...`)."
        )


def reading_of(run: Run) -> int:
    """How the rows of a run are read (see `fields`): as they were when it started, or what it was forked from."""
    state, configs = run.ledger.state, run.ledger.state.configs
    if not configs or not (state.commits or state.shards or state.offers):
        return PROBLEM_READING
    return int(configs[-1].get("reading", 1))  # a run of 0.1.0 recorded none


def problem_digests(problems: Mapping[str, Sequence[Problem]]) -> dict[str, str]:
    """What is recorded of problems that the run does not keep."""
    return {split: recipes.of_recipe_1(digest_of_problems(rows)) for split, rows in problems.items()}


def check_same_problems(run: Run, job: Job, digests: Mapping[str, str] | None) -> None:
    """Refuse to go on with a run whose problems have changed: rounds to come would be made of others.

    Raises:
        BadInput: with the file that changed.
    """
    root, state = run.root, run.ledger.state
    recorded = state.configs[-1].get("problems") if state.configs else None
    if recorded is None or digests is None or not (state.commits or state.shards):
        return
    for split, digest in digests.items():
        if recorded.get(split, digest) != digest:
            raise BadInput(
                f"data.{split}: {job.data.sources[split].path} has other problems than when {root} was started. Put "
                "the file back as it was, or go on in another run, which keeps what they do not touch "
                f"(`ratchet fork {root} NEWRUN`)."
            )


def check_same_preferences(run: Run, job: Job, find: Find) -> None:
    """Refuse likewise where preference data have changed of which the run keeps a copy.

    Raises:
        BadInput: they have, or a file is not there.
    """
    kept = run.committed(KEPT_PREFERENCES)
    if kept is None or job.stages is None:
        return
    if kept.fingerprint not in run.fingerprints(identity_of(job, find), kept.recipe, kept.facts):
        named = ", ".join(str(source.path or source.hub) for source in job.stages.sources)
        raise BadInput(
            f"stages.sources: {named}: other preference data than when {run.root} was started. Put the files back as "
            "they were, or go on in another run, which keeps what they do not touch (`ratchet fork "
            f"{run.root} NEWRUN`)."
        )


def _with_defaults(recorded: dict[str, Any]) -> dict[str, Any]:
    """A job as an earlier version recorded it, with the defaults of keys that did not exist then."""
    try:
        return Job.model_validate(recorded).model_dump(mode="json")
    except ValidationError:
        return recorded
