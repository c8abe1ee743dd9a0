"""What a run is made from: found, read, checked, and kept in the run where its own place could change or vanish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Data, Job
from orchestrator.config.load import JobFile
from orchestrator.config.reward import KEPT as KEPT_REWARD
from orchestrator.config.reward import KEPT_PROCESS, needs_golds, reward_models
from orchestrator.errors import BadInput, Damaged
from orchestrator.files.named import real
from orchestrator.inputs.fields import PROBLEM_READING
from orchestrator.inputs.preferences import Preferences, as_problems, read_preferences, write_preferences
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.inputs.problems import check_disjoint, kept_problems, read_problems, require_enough, write_problems
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts, Run
from orchestrator.ledger.sharing import Giver
from orchestrator.ledger.uses import files_of
from orchestrator.models.checks import check_vocabulary
from orchestrator.models.files import link_model
from orchestrator.models.finite import check_finite
from orchestrator.models.named import Key, NamedModel, locate_model, locate_reward_model, model_digest
from orchestrator.records.model_folder import leads_out
from orchestrator.records.rows import Problem

KEPT_PROBLEMS, KEPT_PREFERENCES = "baseline/data", "baseline/preferences"
KEPT_MODEL, KEPT_REFERENCE = "baseline/model", "baseline/reference"
_KEPT = frozenset({KEPT_PROBLEMS, KEPT_PREFERENCES, KEPT_MODEL, KEPT_REFERENCE, KEPT_PROCESS})
# Where a run keeps a model, and the pairs that another run trained it on.
_KEPT_MODELS: dict[Key, tuple[str, str]] = {
    "model": (KEPT_MODEL, "baseline/seen"),
    "reference": (KEPT_REFERENCE, "baseline/reference-seen"),
}

Problems = Mapping[str, Sequence[Problem]]
"""Problems by the name of their set."""


def is_kept(step: str) -> bool:
    """Whether a step only keeps what the run is made from."""
    return step in _KEPT or step.startswith(f"{KEPT_REWARD}/")


def has_begun(run: Run) -> bool:
    """Whether a run has done more than keep what it is made from, which a new fork has too."""
    state = run.ledger.state
    return bool(state.shards) or not all(map(is_kept, state.commits))


def read_all_problems(
    file: JobFile, pinned: Data | None = None, reading: int = PROBLEM_READING
) -> dict[str, ProblemSet]:
    """The sets of problems, checked to be disjoint; `pinned` are the job's sources at certain commits, and `reading`
    says how rows are read (see `fields`)."""
    data = pinned or file.job.data
    find = files_of_problems(file, data)
    problems = {
        split: read_problems(data, split, find, reading, needs_golds(file.job, split)) for split in data.sources
    }
    require_enough(problems.get("train", ()), data, file.job.rounds)
    if not data.allow_overlap:
        check_disjoint(problems)
    return problems


def files_of_problems(file: JobFile, data: Data) -> dict[str, Path]:
    """Where the sets are that are files."""
    return {split: file.find(source.path, f"data.{split}") for split, source in data.sources.items() if source.path}


def keep_problems(run: Run, job: Job, pinned: Data, problems: Problems) -> Problems:
    """The problems of the run. Where some are from the Hub, its first driver keeps all of them in the run: a Hub
    can change, or be out of reach, and a run must neither change with it nor need it."""
    if not job.data.from_hub:
        return problems

    def work(folder: Path) -> Facts:
        revisions = {split: pinned.sources[split].revision for split in problems}
        return write_problems(problems, folder) | {"revisions": revisions}

    commit = run.step(KEPT_PROBLEMS, {"data": Fields(job.data, without=("date",))}, work)  # no row has a date
    with run.using(files_of(commit)):
        kept = kept_problems(run.path(KEPT_PROBLEMS), job.data)
    require_enough(kept.get("train", ()), job.data, job.rounds)  # a resume may have raised the rounds
    return kept


def read_all_preferences(file: JobFile, problems: Problems) -> list[Preferences]:
    """The preference data of a job, none where it wants none; with no prompt that is among the `problems`."""
    found = read_preferences(file.job, file.find)
    _check_apart(file.job, found, problems)
    return found


def _check_apart(job: Job, preferences: Sequence[Preferences], problems: Problems) -> None:
    held_out = {split: rows for split, rows in problems.items() if split != "train"}
    if held_out and preferences and not job.data.allow_overlap:
        check_disjoint({"stages": as_problems(preferences), **held_out})


def keep_preferences(
    run: Run,
    file: JobFile,
    given: dict[str, Any],
    read: list[Preferences] | None,
    problems: Problems,
    checked: bool,
) -> None:
    """Keep the preference data in the run, as they were when it started; `read` is None where it had them. `given` is
    what they depend on, as `identity_of` said before they were read; `checked`, whether they were read with the
    `problems` in hand."""
    if file.job.stages is None:
        return

    def work(folder: Path) -> Facts:
        found = read if read is not None else read_preferences(file.job, file.find)
        if read is None or not checked:
            _check_apart(file.job, found, problems)
        return write_preferences(found, folder)

    run.step(KEPT_PREFERENCES, given, work)


def base_model_of(file: JobFile, run: Run, weights: bool = True) -> NamedModel:
    """The base model of a run: the one it has kept, which asks no Hub, else the one its job names.

    Raises:
        BadInput: as `locate_model`, whose `weights` it passes on.
    """
    return _model_of(file, run, weights, "model")


def reference_of(file: JobFile, run: Run, base: NamedModel | None, weights: bool = True) -> NamedModel | None:
    """The fixed reference of a run, as `base_model_of`; None where its job names none. `base` is None where it is
    not there yet.

    Raises:
        BadInput: as `base_model_of`, or it has another vocabulary than the base model.
    """
    if file.job.fixed_reference is None:
        return None
    found = _model_of(file, run, weights, "reference")
    # One that is kept was checked before; whether it is damaged, the step that has kept it says.
    if base is not None and run.committed(KEPT_REFERENCE) is None:
        check_vocabulary(found.folder, base.folder, f"{file.path}: reference")
    return found


def reward_models_of(file: JobFile, run: Run, weights: bool = True) -> dict[str, NamedModel]:
    """The reward models of a run by the step that keeps each, as `base_model_of`; none where its job names none.

    Raises:
        BadInput: as there; or one model is named twice, in two ways, whose rewards are to be weighed.
    """
    found: dict[str, NamedModel] = {}
    keys: dict[tuple[Path, str], str] = {}
    for step, named in reward_models(file.job).items():
        if (model := _kept_model(run, step)) is None:
            model = locate_reward_model(file, named.model, named.key, named.kind, weights)
            _require_finite(file, run, model, weights, named.key)
        found[step] = model
        folder = real(found[step].folder)
        if (other := keys.setdefault((folder, named.kind), named.key)) != named.key:
            raise BadInput(
                f"{file.path}: {named.key}: {named.model!r} is {folder}, as {other} is: give it once, with the sum of "
                "the weights"
            )
    return found


def _model_of(file: JobFile, run: Run, weights: bool, key: Key) -> NamedModel:
    if (found := _kept_model(run, _KEPT_MODELS[key][0])) is None:
        found = locate_model(file, weights, key)
        _require_finite(file, run, found, weights, key)
    return found


def _require_finite(file: JobFile, run: Run, model: NamedModel, weights: bool, key: str) -> None:
    """Look at a model's weights, once they are there, before a run begins with them."""
    if not has_begun(run) and (weights or not model.from_hub):
        check_finite(model.folder, f"{file.path}: {key}")


def _kept_model(run: Run, kept: str) -> NamedModel | None:
    """A model that the run has kept by a step; None where it has not."""
    if (commit := run.committed(kept)) is None:
        return None
    # After a crash it may still wait for its final name, which a driver gives it after its claim.
    if not commit.artifacts or commit.artifacts[0].path != kept:
        told = f"{kept} is committed, but not the folder of that name. Restore the run from a copy."
        raise Damaged(f"{run.root}: {told}")
    folder = run.artifacts.place(commit.artifacts[0])
    if out := next(leads_out(folder), None):
        raise Damaged(out)
    return NamedModel(folder, {})


def keep_model(run: Run, job: Job, model: NamedModel, key: Key = "model") -> str:
    """The absolute folder of a run's model. A base model whose own folder may vanish is kept in the run, a fixed
    reference always; and with it the pairs that another run trained it on."""
    if model.origin is None and key == "model":
        return str(model.folder)
    kept, kept_pairs = _KEPT_MODELS[key]
    return _keep(run, kept, {key: getattr(job, key)}, model, kept_pairs)


def keep_reward_models(run: Run, job: Job, models: Mapping[str, NamedModel]) -> None:
    """Keep the reward models of a run, as they were when it started; `models` are by the step that keeps each."""
    for step, named in reward_models(job).items():
        _keep(run, step, {"model": named.model}, models[step])


def _keep(run: Run, kept: str, inputs: Mapping[str, str], model: NamedModel, kept_pairs: str = "") -> str:
    """Keep a model by the step `kept`, and the pairs that another run trained it on; returns its absolute folder."""
    origin, other = dict(model.origin or {}), model.checkpoint

    def work(folder: Path, *seen: Path) -> Facts:
        link_model(model.folder, folder, other.files if other else None)
        if "digest" in origin and model_digest(str(folder)) != origin["digest"]:
            raise Damaged(f"{model.folder}: has changed since it was checked against the ledger of its run")
        for pairs in seen:
            assert other is not None
            pairs.mkdir()
            giver = Giver(other.root, sum(other.trained_on.values()))
            for number, (file, size) in enumerate(other.trained_on.items()):
                giver.give(file, pairs / f"{number:05d}.parquet", size)
        return origin

    run.step(kept, inputs, work, [kept, *([kept_pairs] if other and other.trained_on else [])])
    return str(run.path(kept))
