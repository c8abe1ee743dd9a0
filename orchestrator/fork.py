"""`ratchet fork`: a new run that takes over what another one did, as far as it was made from the same inputs.

Nothing of that is decided here. Every committed step and shard is offered to the new run: a record with its
fingerprint, and hard links to its files at a hidden name. `Run.step` takes an offer if its own inputs have the same
fingerprint, and works otherwise. So a changed setting does again what depends on it, and nothing else. The gate decides
anew. Two runs share files safely, since neither writes into one that is committed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator import durable
from orchestrator.artifacts import Artifacts
from orchestrator.config import Job, at_round, is_harmless
from orchestrator.driver import KEPT_MODEL, KEPT_PROBLEMS, identity
from orchestrator.errors import BadInput, Damaged
from orchestrator.jobfile import changed_keys, parse_job, resolved_yaml
from orchestrator.ledger import Artifact, Offer, State, probe_links
from orchestrator.places import run_folder
from orchestrator.run import Run, remove
from orchestrator.status import open_run, round_and_phase
from orchestrator.wanted import schedule_at

# What a run keeps of its job's sources, by the section of the job that it was made from: to be taken before anything
# else is asked for.
_KEPT = {KEPT_MODEL: "model", KEPT_PROBLEMS: "data"}
_NEVER = sys.maxsize


@dataclass
class Fork:
    """What a new run was offered."""

    offered: dict[str, int] = field(default_factory=dict)
    """Number of shards, or 0, by step."""
    removed: list[str] = field(default_factory=list)
    """Steps that are not offered, since their checkpoints were removed and are needed."""


def fork(parent: Path, child: Path, overrides: Sequence[str] = (), from_round: int | None = None) -> Fork:
    """Make the run folder `child` from `parent`; of its rounds, only those below `from_round` are offered.

    Raises:
        BadInput: no run, no such round, a folder in use, or overrides that make no job.
        Damaged: a committed file is missing.
    """
    parent, child = parent.absolute(), child.absolute()
    state = open_run(parent).state
    if not state.configs:
        raise BadInput(f"{parent}: this run was never started, so there is nothing to take over")
    known = sorted({round_and_phase(step)[0] for step in (*state.commits, *state.shards)} - {0})
    if from_round is not None and from_round not in known:
        raise BadInput(
            f"{parent}: there is no round {from_round}; its rounds are {', '.join(map(str, known)) or 'none'}"
        )
    if child.is_file() or (child.is_dir() and any(child.iterdir())):
        raise BadInput(f"{child}: exists already. Choose another folder for the new run.")
    before, after, kept = _jobs(state, child, overrides)
    run_folder(after)  # refuses places where no run can live
    end = from_round or _NEVER
    again = _again(state, min(end, _first_change(before, after)))
    steps = sorted({*state.shards, *state.commits}, key=lambda step: (round_and_phase(step)[0], step))
    steps = [step for step in steps if round_and_phase(step)[0] < end]
    building = child.with_name(f".{child.name}-{uuid.uuid4().hex}")  # until it is whole
    probe_links(building)
    try:
        run = Run(building)
        run.claim(identity())
        run.append("config", _config(state, parent, child, after, kept, overrides))
        for step in steps:
            if step not in again:
                _offer(run, Artifacts(parent), state, step)
        for step in kept:
            run.take(run.ledger.state.offers[step, None])
        run.end("interrupted", f"forked from {parent}, and not started yet")
        said = shlex.join(["ratchet", "fork", str(parent), str(child), *overrides])
        durable.replace(building / "job.yaml", f"# Made by: {said}\n{resolved_yaml(after)}".encode())
        os.rename(building, child)
    except BaseException:
        remove(building)
        raise
    durable.sync(child.parent)
    return Fork({s: len(state.shards.get(s, {})) for s in steps if s not in again}, [s for s in steps if s in again])


def _jobs(state: State, child: Path, overrides: Sequence[str]) -> tuple[Job, Job, list[str]]:
    """The parent's job, the child's, both with absolute paths; and which kept sources serve the child too."""
    if any(override.partition("=")[0] == "run_dir" for override in overrides):
        raise BadInput(f"run_dir: the new run's folder is {child}")
    config, path = state.configs[-1], child / "job.yaml"
    kept = [step for step in _KEPT if step in state.commits]
    folders = [*config.get("folders", []), str(Path.cwd())]
    before = parse_job(yaml.safe_dump(_absolute(config["job"], folders, kept)), path).job
    base = before.model_dump(mode="json") | {"name": child.name, "run_dir": str(child)}
    # One experiment for both, where they can be compared.
    base["tracking"] |= {"experiment": before.tracking.experiment or before.name}
    after = parse_job(yaml.safe_dump(base), path, overrides).job
    kept = [step for step in kept if getattr(after, _KEPT[step]) == getattr(before, _KEPT[step])]
    return before, Job.model_validate(_absolute(after.model_dump(mode="json"), folders, kept)), kept


def _absolute(job: dict[str, Any], folders: Sequence[str], kept: Collection[str]) -> dict[str, Any]:
    """The job with absolute paths wherever it names something in one of the folders, but for sources that are kept."""
    job = job | {"data": {k: dict(v) if isinstance(v, dict) else v for k, v in job["data"].items()}}
    sources = [] if KEPT_PROBLEMS in kept else [(job["data"][split], "path") for split in ("train", "gate", "test")]
    for section, key in (*sources, *([] if KEPT_MODEL in kept else [(job, "model")])):
        if section[key]:
            places = [Path(folder) / Path(section[key]).expanduser() for folder in folders]
            section[key] = next((str(place.resolve()) for place in places if place.exists()), section[key])
    return job


def _config(
    state: State, parent: Path, child: Path, job: Job, kept: Collection[str], overrides: Sequence[str]
) -> dict[str, Any]:
    """The child's first `config` record. The versions are those that made what it is offered."""
    parent_config = state.configs[-1]
    return parent_config | {
        "run_id": uuid.uuid4().hex,
        "job": job.model_dump(mode="json"),
        "model": KEPT_MODEL if KEPT_MODEL in kept else job.model,
        "job_file": "job.yaml",
        "folders": [str(child)],
        "overrides": list(overrides),
        "parent": {"run": str(parent), "run_id": parent_config["run_id"]},
    }


def _first_change(before: Job, after: Job) -> int:
    """The first round that other settings can change."""
    first = _NEVER
    for key, old, new in changed_keys(before.model_dump(mode="json"), after.model_dump(mode="json")):
        if is_harmless(key) or key == "name" or key.startswith("promotion."):
            continue  # these change no file
        if not schedule_at(key.split(".")):
            return 1
        ends = [len(value) if isinstance(value, list) else 1 for value in (old, new)]
        rounds = range(1, max(ends) + 1)
        first = min(first, next(n for n in rounds if n == max(ends) or at_round(old, n) != at_round(new, n)))
    return first


def _again(state: State, first: int) -> set[str]:
    """Steps of which files were removed that may be needed, when everything from round `first` on is done again.

    A checkpoint is needed by the next round, candidates by their own. A round that lacks one is done again, and needs
    the checkpoint before it.
    """
    gone = [
        (round_and_phase(commit.step)[0], artifact.path.endswith("/checkpoint"), commit.step)
        for commit in state.commits.values()
        for artifact in commit.artifacts
        if artifact.path in state.discarded
    ]
    again = set()
    for number, is_checkpoint, step in sorted(gone, reverse=True):
        if number + is_checkpoint >= first:
            again.add(step)
            first = min(first, number)
    return again


def _offer(run: Run, files: Artifacts, state: State, step: str) -> None:
    """Offer a step and its shards to the run that is being made."""
    for index, shard in sorted(state.shards.get(step, {}).items()):
        _append(run, files, state, Offer(step, index, shard.facts["fingerprint"], (shard.artifact,), (), shard.facts))
    if commit := state.commits.get(step):
        _append(run, files, state, Offer(step, None, commit.fingerprint, commit.artifacts, (), commit.facts))


def _append(run: Run, files: Artifacts, state: State, offer: Offer) -> None:
    artifacts = []
    for artifact in offer.artifacts:
        final = Path(artifact.path)
        offered = Artifact(artifact.path, str(final.with_name(f".{final.name}-offered")), artifact.files)
        artifacts.append(offered.as_json())
        if artifact.path not in state.discarded:
            _link(files.place(artifact), run.path(offered.hidden), artifact)
    discarded = [artifact.path for artifact in offer.artifacts if artifact.path in state.discarded]
    data = {"step": offer.step, "index": offer.index, "fingerprint": offer.fingerprint, "facts": offer.facts}
    run.append("offer", data | {"artifacts": artifacts, "discarded": discarded})


def _link(source: Path, target: Path, artifact: Artifact) -> None:
    """The artifact's files at another place: hard links, or copies where the file system has none between the two."""
    for name in artifact.files:
        old, new = (source / name, target / name) if name else (source, target)
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new)
        except FileNotFoundError as error:
            raise Damaged(f"{old}: committed, but missing. `ratchet verify` names all such files.") from error
        except OSError:
            shutil.copyfile(old, new)
            durable.sync(new)
    for folder in {(target / name).parent for name in artifact.files}:
        durable.sync(folder)
