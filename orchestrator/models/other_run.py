"""A model that another run has trained, `run:NAME` or `run:NAME@roundN`, checked against that run's ledger."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config.places import home
from orchestrator.errors import BadInput, Damaged, of_file
from orchestrator.files import durable
from orchestrator.files.named import named_path, real
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.columns import require_columns
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.sharing import check_sizes, size_of
from orchestrator.models.files import check_files
from orchestrator.reports.lineage import pair_files_trained_on
from orchestrator.reports.living import settled
from orchestrator.reports.status import open_run

_PREFIX = "run:"
_ROUND = re.compile(r"(.+)@round(\d{1,9})", re.ASCII)
_CHECKPOINT = re.compile(r"rounds/(\d+)/checkpoint")


@dataclass(frozen=True)
class RunModel:
    """A run as a job names it, and the round whose checkpoint is meant; None is the run's current reference."""

    run: str
    round: int | None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of another run, every file of which is what that run committed."""

    folder: Path
    origin: dict[str, Any]
    """The run's name (`run`) and `run_id`, the `round`, and the `digest` of the model's files (`model_digest`)."""
    root: Path
    """The run's folder."""
    files: tuple[str, ...]
    """Names of the files below `folder` that the run has committed."""
    trained_on: dict[Path, int]
    """The files of pairs that it descends from, the oldest first, each with its bytes."""


def run_model(text: str, where: str) -> RunModel | None:
    """The checkpoint that a job names; None for what does not begin with `run:`.

    Raises:
        BadInput: no run is named after that.
    """
    if not text.startswith(_PREFIX):
        return None
    name = text.removeprefix(_PREFIX)
    found = _ROUND.fullmatch(name)
    if not name or name.startswith("@") or (not found and "@" in Path(name).name):
        raise BadInput(f"{where}: {text!r} names no run: write run:NAME, or run:NAME@round2 for round 2's checkpoint")
    return RunModel(found[1], int(found[2])) if found else RunModel(name, None)


def find(model: RunModel, where: str, folders: Sequence[Path], own: Path) -> Checkpoint:
    """Look the checkpoint up and verify it. `own` is the run folder of the job that asks, `folders` are those that its
    relative paths are in. `where` is the line of the job that names it, or nothing, and stands before what is refused.

    Raises:
        BadInput: no such run or round, or the checkpoint was removed or is not what was committed.
        Damaged: the other run's ledger cannot be read.
    """
    with of_file(where) if where else contextlib.nullcontext():
        root = place_of(model.run, folders, own)
        if root == own:
            raise BadInput(f"{root} is this job's own run, which cannot need itself. Choose another `name`.")
        open_run(root)
        try:
            return settled(root, lambda ledger: _sound(model, ledger.state, root, str(root)))
        except Damaged as error:
            raise BadInput(f"{error} `ratchet verify {root}` names all that is wrong with it.") from error


def _sound(model: RunModel, state: State, root: Path, what: str) -> Checkpoint:
    number = _best(state, what) if model.round is None else model.round
    artifact, files = committed_checkpoint(state, number, what), Artifacts(root)
    check_sizes(artifact, files.place(artifact), root)
    check_files(files.place(artifact), root)
    folder = files.verify(artifact, files.place(artifact))
    seen = {file: size_of(file, root) for file in pair_files_trained_on(root, number)}
    for pairs in _holding(root, state, seen):
        files.verify(pairs)
    for file in seen:
        require_columns(file, root)
    digest = durable.fingerprint([[name, said["sha256"]] for name, said in sorted(artifact.files.items())])
    config = state.configs[-1]
    origin = {"run": config["job"]["name"], "run_id": config["run_id"], "round": number, "digest": digest}
    return Checkpoint(folder, origin, root, tuple(artifact.files), seen)


def place_of(name: str, folders: Sequence[Path], own: Path) -> Path:
    """Where a run of that name is, or would be. A name is looked for among the runs, a path as paths of a job are."""
    path = named_path(name)
    if path.is_absolute():
        places = [path]  # which needs no current folder
    elif len(path.parts) == 1:
        places = [home() / "runs" / name, own.parent / name]
    else:
        places = [*(folder / path for folder in folders), Path.cwd() / path, home() / path]
    nearest = next((place for place in places if any(place.parent.glob("*/ledger"))), places[0])
    return real(next((place for place in places if os.path.isdir(place / "ledger")), nearest))


def _checkpoints(state: State) -> dict[int, Artifact]:
    """Every committed checkpoint by round, those that were removed too."""
    artifacts = (artifact for commit in state.commits.values() for artifact in commit.artifacts)
    return {int(found[1]): a for a in artifacts if (found := _CHECKPOINT.fullmatch(a.path))}


def _best(state: State, what: str) -> int:
    """The round of the run's current reference."""
    reference = state.promotions[-1]["reference"] if state.promotions else ""
    if found := _CHECKPOINT.fullmatch(reference):
        return int(found[1])
    checkpoints = _checkpoints(state)
    cure = f"Name a round ({_listed(checkpoints)}), or that model." if checkpoints else "Name that model instead."
    raise BadInput(f"{what}: this run has promoted no checkpoint: its reference is still its base model. {cure}")


def committed_checkpoint(state: State, number: int, what: str) -> Artifact:
    """The checkpoint of a round.

    Raises:
        BadInput: the round has none, or it was removed or set aside.
    """
    checkpoints = _checkpoints(state)
    here = [n for n, artifact in checkpoints.items() if artifact.path not in state.discarded]
    if number in here:
        return checkpoints[number]
    if number in checkpoints:
        raise BadInput(
            f"{what}: the checkpoint of round {number} was removed (`keep.checkpoints` of that run, `ratchet gc`). "
            f"Rounds whose checkpoint is there: {_listed(here)}."
        )
    aside = any(number in rollback.rounds for rollback in state.rollbacks)
    gone = ": a rollback has set it aside" if aside else ""
    raise BadInput(f"{what}: round {number} has no checkpoint{gone}. Rounds that have one: {_listed(here)}.")


def _holding(root: Path, state: State, files: Collection[Path]) -> Iterator[Artifact]:
    """The artifacts that some files belong to, cut down to these files."""
    for artifact in state.artifacts():
        some = {name: said for name, said in artifact.files.items() if root / artifact.path / name in files}
        if some:
            yield replace(artifact, files=some)


def _listed(rounds: Collection[int]) -> str:
    return ", ".join(map(str, sorted(rounds))) or "none"
