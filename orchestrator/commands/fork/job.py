"""The job of a forked run: its parent's with other settings, and the first round that these touch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.config import OWN_REFERENCES, Job, at_round, only_executes
from orchestrator.config.archive import is_shared
from orchestrator.config.document import Key
from orchestrator.config.load import changed_keys, job_of
from orchestrator.config.reward import KEPT as KEPT_REWARD
from orchestrator.config.reward import KEPT_PROCESS, reward_models
from orchestrator.config.sources import kind_of, sections
from orchestrator.config.words import schedule_at
from orchestrator.driver.kept import KEPT_MODEL, KEPT_PREFERENCES, KEPT_PROBLEMS, KEPT_REFERENCE, is_kept
from orchestrator.driver.resume import all_kept, folders
from orchestrator.errors import BadInput
from orchestrator.files.named import is_there, named_path, real
from orchestrator.ledger.ledger import State
from orchestrator.records.abstentions import graders_version
from orchestrator.records.rows import GRADERS_VERSION

# What a run keeps of its job's sources, and what of the job that was made from.
_KEPT: dict[str, Callable[[Job], Any]] = {
    KEPT_MODEL: lambda job: job.model,
    KEPT_REFERENCE: lambda job: job.reference,
    KEPT_PROBLEMS: lambda job: job.data,
    KEPT_PREFERENCES: lambda job: (job.stages, job.data.chat, job.data.system),
}
NEVER = sys.maxsize


def none_kept(_: Key) -> bool:
    """For what is written anew."""
    return False


def jobs(
    state: State, child: Path, overrides: Sequence[str], keeps: Callable[[Key], bool] = none_kept
) -> tuple[Job, Job, list[str]]:
    """The parent's job, the child's, both with absolute paths; and which kept sources serve the child too. `keeps` is
    of the child, as in `jobfile.parse_job`: what is written into it holds no password of its parent."""
    if any(override.partition("=")[0] == "run_dir" for override in overrides):
        raise BadInput(f"run_dir: the new run's folder is {child}")
    if any(override.partition("=")[0] == "method" for override in overrides):
        raise BadInput(
            "method: a fork has every setting of its run, so that a method's row would change nothing. Give the "
            "settings themselves (docs/job-file.md lists each method's), or start from a job file"
        )
    config, path = state.configs[-1], child / "job.yaml"
    kept = [step for step in state.commits if is_kept(step)]
    places = [*folders(state), str(Path.cwd())]
    before = job_of(absolute(config["job"], places, kept), path, (), all_kept).job
    _require_effect(before, overrides)
    inherited = before.model_dump(mode="json") | {"name": named_after(child), "run_dir": str(child)}
    if before.archive and is_shared(before.archive):
        inherited["archive"] = None  # which is another run's
    after = job_of(inherited, path, overrides, keeps).job
    kept = [step for step in kept if _made_from(step, after) == _made_from(step, before)]
    return before, Job.model_validate(absolute(after.model_dump(mode="json"), places, kept)), kept


def _made_from(step: str, job: Job) -> Any:
    """What of a job a step that keeps something of it was made from."""
    if step in _KEPT:
        return _KEPT[step](job)
    named = reward_models(job).get(step)
    return named and named.model


def _require_effect(before: Job, overrides: Sequence[str]) -> None:
    """In a run that was scored again a change of `grade` would not reach the samples of later rounds.

    Raises:
        BadInput: that is so, and nothing is said of `regrade`.
    """
    keys = [override.partition("=")[0] for override in overrides]
    sections_named = {key.partition(".")[0] for key in keys if key != "grade.processes"}
    if before.regrade and "grade" in sections_named and "regrade" not in sections_named:
        key = next(key for key in keys if key.partition(".")[0] == "grade" and key != "grade.processes")
        first = before.regrade.round
        raise BadInput(
            f"{key}: in this run, which was scored again, `regrade.grade` grades the samples from round {first} on, so "
            f"that `grade` alone would change only evaluations and rounds before. Give "
            f"regrade.{key}=VALUE as well, or regrade=null; regrade.round={first} says that it is meant so"
        )


def named_after(folder: Path) -> str:
    """The name of a job whose run is in a folder that has any name: "a-b" for "a b"."""
    fitting = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.name)[:100]
    return re.sub(r"^[._-]+|-+$", "", fitting) or "fork"


def unseen(state: State, step: str) -> bool:
    """Whether a fork must do a step again, though its job is the same: another version of the graders decided it, or,
    by recipe 1, which says nothing of it, a judge."""
    commit, job = state.commits.get(step), state.configs[-1]["job"]
    facts = [shard.facts for shard in state.shards.get(step, {}).values()]
    phase = step.rpartition("/")[2]
    if phase in ("verdicts", "evaluation", "repeated") or "/selection/" in step:
        found = [*facts, *([commit.facts] if commit else [])]
        return "/judged/" not in step and any(graders_version(f) != GRADERS_VERSION for f in found)
    if min([f.get("recipe", 1) for f in facts] + ([commit.recipe] if commit else [])) > 1:
        return False
    kind = kind_of(job)
    settings = job.get(kind.section) or {}
    return phase in kind.judged_by and settings.get(kind.judged_by[phase]) == "judge"


def absolute(job: dict[str, Any], folders: Sequence[str], kept: Collection[str]) -> dict[str, Any]:
    """The job with absolute paths wherever it names something in one of the folders, but for sources that are kept."""
    job = job | {"data": {k: dict(v) if isinstance(v, dict) else v for k, v in job["data"].items()}}
    splits = [job["data"][split] for split in ("train", "gate", "test") if job["data"][split]]
    if tests := job["data"].get("tests"):
        job["data"]["tests"] = tests = [dict(one) for one in tests]
        splits += tests
    sources = [] if KEPT_PROBLEMS in kept else [(section, "path") for section in splits]
    for name, kind in sections().items():
        if not (section := job.get(name)):
            continue
        # A file is looked at again, to see that it is the one that is kept.
        job[name] = section = section | {key: [dict(source) for source in section[key]] for key in kind.files}
        sources += [(source, "path") for key in kind.files for source in section[key]]
    models = [] if KEPT_MODEL in kept else [(job, "model")]
    if KEPT_REFERENCE not in kept and job.get("reference", "previous") not in OWN_REFERENCES:
        models.append((job, "reference"))
    if reward := job.get("reward"):
        named = [dict(model) for model in reward["models"]]
        job["reward"] = reward | {"models": named}
        models += [(model, "model") for n, model in enumerate(named, 1) if f"{KEPT_REWARD}/{n}" not in kept]
    if process := (job.get("steps") or {}).get("process"):
        job["steps"] = job["steps"] | {"process": dict(process)}
        models += [(job["steps"]["process"], "model")] if KEPT_PROCESS not in kept else []
    if harness := job.get("evaluate", {}).get("harness"):
        harness = dict(harness)
        job["evaluate"] = job["evaluate"] | {"harness": harness}
        sources.append((harness, "include_path"))
    for section, key in (*sources, *models):
        if section.get(key) and not (section is job and section[key].startswith("run:")):
            with suppress(BadInput):  # who goes on with it is told
                places = [Path(folder) / named_path(section[key]) for folder in folders]
                section[key] = next((str(real(place)) for place in places if is_there(place)), section[key])
    return job


def first_change(before: Job, after: Job) -> int:
    """The first round that other settings can change."""
    first = NEVER
    for key, old, new in changed_keys(before.model_dump(mode="json"), after.model_dump(mode="json")):
        if only_executes(key, old, new) or key == "name":
            continue  # these change no file, and no reference
        if key.partition(".")[0] == "regrade":
            first = min(first, *(job.regrade.round for job in (before, after) if job.regrade))
            continue
        if not schedule_at(key.split(".")):
            return 1
        ends = [len(value) if isinstance(value, list) else 1 for value in (old, new)]
        rounds = range(1, max(ends) + 1)
        first = min(first, next(n for n in rounds if n == max(ends) or at_round(old, n) != at_round(new, n)))
    return first
