"""`ratchet fork`: a new run that takes over what another one did, as far as it was made from the same inputs.

Nothing of that is decided here. Every committed step and shard is offered to the new run: a record with its
fingerprint, and hard links to its files at a hidden name. `Run.step` takes an offer if its own inputs have the same
fingerprint, and works otherwise. So a changed setting does again what depends on it, and nothing else. The gate decides
anew. Two runs share files safely, since neither writes into one that is committed.
"""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.commands.fork.fit import Fit, outlook
from orchestrator.commands.fork.job import NEVER, first_change, jobs, unseen
from orchestrator.config import Job
from orchestrator.config.load import JobFile, resolved_yaml
from orchestrator.config.places import require_room, run_folder
from orchestrator.driver import trust
from orchestrator.driver.drive import identity
from orchestrator.driver.kept import KEPT_MODEL
from orchestrator.driver.resume import all_kept, command, needing_trust, resumed
from orchestrator.driver.settled import kept_of
from orchestrator.driver.trust import Tell
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.files import durable, unfinished
from orchestrator.files.named import real
from orchestrator.ledger import recipes
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.ledger import Artifact, Offer, State, probe_links
from orchestrator.ledger.run import Run
from orchestrator.ledger.sharing import Giver, check_sizes
from orchestrator.reports.living import settled
from orchestrator.reports.rounds import round_and_phase
from orchestrator.reports.status import open_run
from orchestrator.text import shown


@dataclass
class Fork:
    """What a new run was offered."""

    offered: dict[str, int]
    """Number of shards, or 0, by step."""
    removed: list[str]
    """Steps that are not offered, since their checkpoints were removed and are needed."""
    fit: dict[str, Fit]
    """What is to be expected of each offered step."""
    unseen: list[str]
    """Steps that are not offered, since what decided them is not what would decide now (see `fork_job.unseen`)."""
    trusted: bool = True
    """Whether its settings are approved, as its parent's are: else its start asks. Nothing of them is used here."""


def fork(
    parent: Path,
    child: Path,
    overrides: Sequence[str] = (),
    from_round: int | None = None,
    without: Collection[str] = (),
    as_is: int = 0,
    tell: Tell | None = None,
) -> Fork:
    """Make the run folder `child` from `parent`; of its rounds, only those below `from_round` are offered, and of their
    steps those that are not in `without`. What is committed of rounds below `as_is`, where the overrides change
    nothing, is taken over at once, as a resume does: whatever version of the graders has made it. `tell` is there with
    `--trust` (see `trust.require`).

    Raises:
        BadInput: no run, no such round, a folder in use, or overrides that make no job.
        Damaged: a committed file is missing.
    """
    parent, child = parent.absolute(), child.absolute()
    rest = (overrides, from_round, without, as_is, tell)
    return settled(parent, lambda ledger: _fork(parent, ledger.state, child, *rest))


def _fork(
    parent: Path,
    state: State,
    child: Path,
    overrides: Sequence[str],
    from_round: int | None,
    without: Collection[str],
    as_is: int,
    tell: Tell | None,
) -> Fork:
    require_borders(parent, state)
    _check(parent, state, child, from_round)
    before, after, kept = jobs(state, child, overrides)
    run_folder(after)  # refuses places where no run can live
    if tell:
        resumed(parent, (), tell, all_kept)
    end = from_round or NEVER
    steps = sorted({*state.shards, *state.commits}, key=lambda step: (round_and_phase(step)[0], step))
    steps = [step for step in steps if round_and_phase(step)[0] < end and step not in without]
    changed = min(end, first_change(before, after))
    left_out, again = _undone(state, steps, as_is, changed)
    if lost := sorted(step for step in again if round_and_phase(step)[0] < as_is):
        # Made again, it may not come out as it was, and neither would the round that it is the start of.
        raise BadInput(_lost(parent, state, lost, as_is))
    steps = [step for step in steps if step not in left_out]
    offered = {step: len(state.shards.get(step, {})) for step in steps if step not in again}
    option = [f"--from-round={from_round}"] if from_round else []
    said = shlex.join(["ratchet", "fork", *option, str(parent), str(child), *overrides])
    config = _config(state, parent, child, after, kept) | {"overrides": list(overrides)}
    job_file = f"# Made by: {shown.line(said)}\n{resolved_yaml(after)}"
    at_once = [*kept, *(s for s in state.commits if s in offered and s not in kept and round_and_phase(s)[0] < as_is)]
    _make(child, config, job_file, f"forked from {parent}", parent, state, [*offered], at_once)
    fit = outlook(state, before, after, [*offered], at_once)
    trusted = _pass_trust_on(parent, state, child, overrides)
    return Fork(offered, [step for step in steps if step in again], fit, left_out, trusted)


def _pass_trust_on(parent: Path, state: State, child: Path, overrides: Sequence[str]) -> bool:
    """Approve the child's settings where its parent's are approved, and it names nothing more but by the user's own
    overrides."""
    given = ((), overrides)
    files = (JobFile(jobs(state, child, own, all_kept)[1], child / "job.yaml", (), (child,)) for own in given)
    before, made = (trust.needs_trust(file, child) for file in files)
    if not trust.is_passed_on(needing_trust(parent, state), made, parent, before, overrides):
        return False
    trust.remember(made)
    return True


def offer(parent: Path, child: Path, job: Job, job_file: str) -> None:
    """Make the run folder `child` for a job of its own, with all paths absolute, and offer it what `parent` has
    committed and not removed. `job_file` is the text of its job file.

    Raises:
        BadInput: no run, or a folder in use.
        Damaged: a committed file is missing.
    """
    settled(parent, lambda ledger: _offer_all(parent, ledger.state, child, job, job_file))


def _offer_all(parent: Path, state: State, child: Path, job: Job, job_file: str) -> None:
    require_borders(parent, state)
    _check(parent, state, child, None)
    steps = sorted({*state.shards, *state.commits} - _again(state, 0))
    steps = [step for step in steps if not unseen(state, step)]
    config = _config(state, parent, child, job, ()) | {"overrides": []}
    _make(child, config, job_file, f"made beside {parent}", parent, state, steps, ())


def _make(
    child: Path,
    config: dict[str, Any],
    job_file: str,
    reason: str,
    parent: Path,
    state: State,
    steps: Sequence[str],
    kept: Collection[str],
) -> None:
    """Make the run folder `child`, which has offers of the parent's `steps` and has taken those that are `kept`."""
    give = _giver(parent, state, steps)
    told = "No new run was made: see to the disk, and the same command makes it."
    with unfinished.whole_folder(child, f"{child.name}.fork", told, lambda: _in_use(child)) as building:
        probe_links(building, child)
        run = Run(building)
        run.claim(identity())
        run.append("config", config)
        for step in steps:
            _offer(run, Artifacts(parent), state, step, give)
        for step in kept:  # sources are looked for before any step is
            _take(run, step)
        run.end("not started", reason)
        durable.replace(building / "job.yaml", job_file.encode())


def _check(parent: Path, state: State, child: Path, from_round: int | None) -> None:
    if not state.configs:
        raise BadInput(f"{parent}: this run was never started, so there is nothing to take over")
    known = sorted({round_and_phase(step)[0] for step in (*state.commits, *state.shards)} - {0})
    if from_round is not None and from_round not in known:
        rounds = ", ".join(map(str, known)) or "none"
        raise BadInput(f"{parent}: there is no round {from_round}; its rounds are {rounds}")
    if real(child).is_relative_to(real(parent)):
        raise BadInput(f"{child}: lies in the run that it is forked from. Choose a folder outside of it.")
    if os.path.lexists(child) and not (child.is_dir() and not any(child.iterdir())):
        raise BadInput(_in_use(child))
    require_room(child)


def _in_use(child: Path) -> str:
    """Why no run can be made there."""
    try:
        made = open_run(child).state.configs[0]
        origin = f", forked from {made['parent']['run']}" if "parent" in made else ""
        return f"{child}: exists already, a run{origin}. To go on with it: {command(child)}. Or choose another folder."
    except (RatchetError, IndexError):
        return f"{child}: exists already. Choose another folder for the new run."


def _config(state: State, parent: Path, child: Path, job: Job, kept: Collection[str]) -> dict[str, Any]:
    """The child's first `config` record. The versions are those that made what it is offered."""
    parent_config = state.configs[-1]
    # Its first driver says what its problems and its model are: they may be others.
    same = {key: value for key, value in parent_config.items() if key not in ("problems", "model_digest", "resolved")}
    if (resolved := kept_of(parent_config, job)) is not None:
        same["resolved"] = resolved
    return same | {
        "run_id": uuid.uuid4().hex,
        "job": job.model_dump(mode="json"),
        "model": KEPT_MODEL if KEPT_MODEL in kept else job.model,
        "job_file": "job.yaml",
        "folders": [str(child)],
        "parent": {"run": str(parent), "run_id": parent_config["run_id"]},
        "executed": recipes.as_recorded(state.configs),
    }


def _undone(state: State, steps: Sequence[str], as_is: int, first: int) -> tuple[list[str], set[str]]:
    """Of some steps those that are left out since other graders made them, if their rounds are not below `as_is`; and
    those of which files were removed that are needed then, when round `first` is done again."""
    left_out = [step for step in steps if round_and_phase(step)[0] >= as_is and unseen(state, step)]
    # The base model is always there for what is left out; a round's checkpoint may not be.
    rounds = [number for step in left_out if (number := round_and_phase(step)[0])]
    return left_out, _again(state, min(first, *rounds) if rounds else first)


def _lost(parent: Path, state: State, lost: Sequence[str], as_is: int) -> str:
    """Why the rounds before `as_is` cannot be taken over as they are, and what can be done."""
    rounds = range(1, max((round_and_phase(step)[0] for step in state.commits), default=0) + 1)
    able = [n for n in rounds if not any(round_and_phase(step)[0] < n for step in _again(state, n))]
    return (
        f"{parent}: round {as_is} starts from what {', '.join(lost)} made, which was removed (`keep.checkpoints`, "
        f"`ratchet gc`) and would have to be trained again. Rounds that have all they need: "
        f"{', '.join(map(str, able)) or 'none'}. Or train it again in a run that keeps it, "
        f"`ratchet fork {shlex.quote(str(parent))} NEWRUN keep.checkpoints=null`, and take that one when it is done."
    )


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


def _giver(parent: Path, state: State, steps: Sequence[str]) -> Giver:
    """What gives the new run the files of some steps, all of which are there as they were committed.

    Raises:
        Damaged: one is not.
    """
    files, total = Artifacts(parent), 0
    for step in steps:
        shards = [shard.artifact for shard in state.shards.get(step, {}).values()]
        for artifact in (*shards, *(state.commits[step].artifacts if step in state.commits else ())):
            if artifact.path not in state.discarded:
                total += check_sizes(artifact, files.place(artifact), parent)
    return Giver(parent, total)


def _offer(run: Run, files: Artifacts, state: State, step: str, give: Giver) -> None:
    """Offer a step and its shards to the run that is being made."""
    for index, shard in sorted(state.shards.get(step, {}).items()):
        digest, recipe = shard.facts["fingerprint"], shard.facts.get("recipe", 1)
        _append(run, files, state, Offer(step, index, digest, (shard.artifact,), (), shard.facts, recipe), give)
    if commit := state.commits.get(step):
        whole = Offer(step, None, commit.fingerprint, commit.artifacts, (), commit.facts, commit.recipe)
        _append(run, files, state, whole, give)


def _take(run: Run, step: str) -> None:
    """Commit an offered step and its shards as they are."""
    for (name, index), offer in list(run.ledger.state.offers.items()):
        if name == step and index is not None:
            [artifact] = offer.artifacts
            data = {"step": step, "index": index, "artifact": artifact.as_json(), "facts": offer.facts}
            run.append("shard", data, artifact)
    run.take(run.ledger.state.offers[step, None])


def _append(run: Run, files: Artifacts, state: State, offer: Offer, give: Giver) -> None:
    artifacts = []
    for artifact in offer.artifacts:
        final = Path(artifact.path)
        offered = Artifact(artifact.path, str(final.with_name(f".{final.name}-offered")), artifact.files)
        artifacts.append(offered.as_json())
        if artifact.path not in state.discarded:
            _give(give, files.place(artifact), run, offered)
    discarded = [artifact.path for artifact in offer.artifacts if artifact.path in state.discarded]
    data: dict[str, Any] = {"step": offer.step, "index": offer.index, "facts": offer.facts}
    data |= {"fingerprint": offer.fingerprint, "recipe": offer.recipe}
    run.append("offer", data | {"artifacts": artifacts, "discarded": discarded})


def _give(give: Giver, source: Path, run: Run, offered: Artifact) -> None:
    """An artifact's files as what is offered to a run."""
    target = run.path(offered.hidden)
    for name, said in offered.files.items():
        old, new = (source / name, target / name) if name else (source, target)
        try:
            durable.make_folder(new.parent, run.root)
            give.give(old, new, said["size"])
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Damaged(f"{old}: committed twice, or as a file and as a folder") from error
