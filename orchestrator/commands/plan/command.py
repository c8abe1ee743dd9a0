"""`ratchet plan`: what `validate` says; then what is there and what is to be done, samples, tokens, disk, memory and
hours. It starts no work: no Ray, no engine, no rank."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from orchestrator.commands.plan import devices, hours, memory, work
from orchestrator.commands.plan.devices import Asked, Device
from orchestrator.commands.plan.earlier import find
from orchestrator.commands.plan.hours import Clock, Timed
from orchestrator.commands.plan.memory import Holding
from orchestrator.commands.plan.steps import Step, standing
from orchestrator.commands.plan.work import Amount, Texts
from orchestrator.commands.validate import Checked, looked
from orchestrator.config import Job
from orchestrator.config.places import home
from orchestrator.driver.examination import device_here, gpus_here
from orchestrator.driver.fit_told import fitted_job
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.preview import Preview
from orchestrator.driver.same_job import as_begun
from orchestrator.driver.wiring import opinions_on_golds
from orchestrator.errors import BadInput
from orchestrator.inputs.preferences import mean_characters
from orchestrator.models.checks import tensors
from orchestrator.models.sizes import ModelSize, size_trained
from orchestrator.records.limits import weight_bytes
from orchestrator.rounds.space import Need, Sizes, job_need, sizes
from orchestrator.sources.registry import SOURCES

NUM_PROMPTS = 3
_MOST_ROUNDS = 1000
Opinions = Sequence[tuple[str, str, str]]
"""A grader's name, its verdict on a gold answer as an answer to itself, and the reason."""


@dataclass(frozen=True)
class Plan:
    """What was found. Bytes, seconds and tokens."""

    seen: Sequence[Preview]
    golds: Mapping[str, Opinions]
    """By the id of the prompts that are shown."""
    machine: str
    """On what it is planned, for people."""
    settings: Sequence[str]
    steps: Sequence[Step]
    texts: Texts
    rounds: Sequence[Sequence[Amount]]
    """What is to be done of the baseline (first) and of each round."""
    times: Sequence[Sequence[Timed]]
    """Likewise; what cannot be told is missing."""
    untold: bool
    """Whether something is."""
    holdings: Sequence[Holding]
    need: Need
    held: int
    """Bytes that the run has already."""
    free: int
    """Bytes that are free on the disk."""
    refusals: Sequence[str]
    """Why it cannot fit; none where it may."""

    @property
    def seconds(self) -> float:
        """Of all that is told."""
        return sum(timed.seconds for each in self.times for timed in each)


def plan(checked: Checked, asked: Asked | None, give: Sequence[Gpus] | None = None) -> Plan:
    """Plan a job for the machines `asked`, else for this one; `give` stands for what this one has.

    Raises:
        BadInput: the job is for a cluster, of which nothing is asked here, or has more rounds than can be told.
    """
    job = as_begun(checked.run, checked.file.job)
    if job.rounds > _MOST_ROUNDS:
        raise BadInput(
            f"rounds: {job.rounds:,} are more than a plan goes through, {_MOST_ROUNDS:,}: plan fewer, such as "
            "rounds=10; each further one is as the last"
        )
    if asked is None:
        _require_here(job)
    nodes, device, source, machine = _machine(job, asked, give)
    seen = list(looked(checked, NUM_PROMPTS))
    size, folder, root = size_trained(checked.model.folder, job.lora), checked.model.folder, checked.run.root
    lines: list[str] = []
    refusals: list[str] = []
    try:
        fitted = fitted_job(job, checked.run, folder, nodes, lines.append)
    except BadInput as refusal:
        fitted, refusals = job, [str(refusal)]
    amounts = sizes(checked.problems)
    if checked.preferences:
        rows = sum(len(source.rows) for source in checked.preferences)
        amounts["stages"] = (rows, mean_characters(checked.preferences))
    state = checked.run.ledger.state
    earlier = find(root, state, job, str(folder), home() / "runs")
    texts = work.texts(job, seen[0].lengths, earlier)
    steps = standing(root, state, job, SOURCES[job.source.type], amounts)
    rounds = _left(_rounds(job, amounts, texts), steps)
    kind = "cuda" if sum(node.count for node in nodes) else "cpu"
    known = earlier if earlier and asked is None and earlier.here and earlier.device == kind else None
    weights, rewards = _weights(folder, size), _reward_sizes(checked)
    clock = Clock(fitted, size, kind, device, source, texts, weights, known, rewards)
    times = _times(clock, rounds)
    holdings = [memory.rank(fitted, size, nodes), memory.engine(fitted, size, nodes)] if size else []
    need = job_need(job, folder, amounts, SOURCES[job.source.type].disk)
    held = sum(said["size"] for artifact in state.artifacts() for said in artifact.files.values())
    found = Plan(
        seen,
        _golds(checked, seen[0]),
        machine,
        [line.split(None, 1)[1] for line in lines],
        steps,
        texts,
        rounds,
        times,
        any(len(each) < len(amount) for each, amount in zip(times, rounds, strict=True)),
        holdings,
        need,
        held,
        _free(root),
        refusals,
    )
    return replace(found, refusals=[*refusals, *_lacking(found)])


def _require_here(job: Job) -> None:
    if (address := job.cluster.address or os.environ.get("RAY_ADDRESS") or "local") != "local":
        raise BadInput(
            f"cluster.address: {address} is a cluster, which a plan does not ask: say what it has, such as "
            "--cluster 8xH100, or 4x8xH100 for four nodes"
        )


def _machine(
    job: Job, asked: Asked | None, give: Sequence[Gpus] | None
) -> tuple[Sequence[Gpus], Device | None, str, str]:
    """Nodes, one of their devices, where its figures are from, and the words for it all."""
    if asked is not None:
        return asked.nodes, asked.device, devices.SOURCE, str(asked)
    nodes = give if give is not None else [gpus_here()]
    if job.cluster.accelerators == "none":
        nodes = [replace(node, count=0) for node in nodes]
    count = sum(node.count for node in nodes)
    if not count:
        return nodes, hours.here(), "what this machine's processors do, tried for a moment", "this machine, with no GPU"
    name = device_here()
    known = devices.named(name) if name else None
    source = f"{devices.SOURCE} of the {known.name}" if known else ""
    return nodes, known, source, f"this machine, with {count} x {name or 'a GPU'}"


def _rounds(job: Job, amounts: Sizes, texts: Texts) -> list[list[Amount]]:
    source = SOURCES[job.source.type]
    of_rounds = [work.of_round(job, number, amounts, source, texts) for number in range(1, job.rounds + 1)]
    return [work.baseline(job, amounts, texts), *of_rounds]


def _left(rounds: Sequence[Sequence[Amount]], steps: Sequence[Step]) -> list[list[Amount]]:
    """What of it is not there already, or sure to be taken over."""
    there = {(step.round, step.phase) for step in steps if step.standing in ("done", "taken")}

    def is_left(number: int, phase: str) -> bool:
        drawn = phase not in (*work.EVALUATED, *work.READ)  # which pairs are made of
        return not {(number, "gate"), (number, phase), *([(number, "pairs")] if drawn else [])} & there

    return [[amount for amount in each if is_left(number, amount.phase)] for number, each in enumerate(rounds)]


def _times(clock: Clock, rounds: Sequence[Sequence[Amount]]) -> list[list[Timed]]:
    found = []
    for number, each in enumerate(rounds):
        told = [timed for amount in each if (timed := clock.phase(amount)) is not None]
        beside = clock.between() if number else clock.start()
        found.append([beside, *told] if each or (number == 0 and any(rounds)) else [])
    return found


def _golds(checked: Checked, seen: Preview) -> dict[str, Opinions]:
    """What each grader says of the gold answers to the prompts that are shown."""
    golds: dict[str, str] = {}
    for rows in checked.problems.values():
        wanted = set(seen.prompts) - golds.keys()
        golds |= {problem.prompt_id: problem.gold for problem in rows if problem.prompt_id in wanted}
    names = [name for name in seen.prompts if name in golds]
    said = opinions_on_golds(checked.file.job.grade, [golds[name] for name in names]) if names else []
    return dict(zip(names, said, strict=True))


def _weights(folder: Path, size: ModelSize | None) -> int:
    return weight_bytes(folder) or (size.parameters * size.number_bytes if size else 0)


def _reward_sizes(checked: Checked) -> dict[str, int]:
    """Parameters of the reward models by their phase; a model of the Hub whose weights are not here is left out."""
    phases = checked.file.job.reward.phases() if checked.file.job.reward else []
    shapes = [tensors(model.folder, "reward.models") for model in checked.rewards]
    return {phase: sum(map(prod, of.values())) for phase, of in zip(phases, shapes, strict=True) if of}


def _free(root: Path) -> int:
    return shutil.disk_usage(next(place for place in (root, *root.parents) if place.exists())).free


def _lacking(found: Plan) -> list[str]:
    """Where something does not fit."""
    said = []
    for held in found.holdings if not found.refusals else ():
        if not held.fits and held.room is not None:
            keys = {"rank": "train.ranks, train.tokens_per_microbatch", "engine": "generate.tensor_parallel"}
            said.append(
                f"{keys[held.role]}: each {held.role} takes about {devices_gib(held.total)}, "
                f"and may take {devices_gib(held.room)}. Lower what it holds, or plan for larger machines"
            )
    lack = found.need.total - found.held - found.free
    if lack > 0:
        said.append(
            f"keep: the disk has {devices_gib(found.free)} free, and the run needs up to "
            f"{devices_gib(found.need.total - found.held)} more. Free some, or do with less (keep.training_states=0, "
            "keep.checkpoints)"
        )
    return said


def devices_gib(size: float) -> str:
    """Bytes, for people."""
    return f"{size / 2**30:,.1f} GiB"


def as_json(found: Plan, price: float | None) -> dict[str, Any]:
    """For programs; its keys are an interface."""
    hours_ = found.seconds / 3600
    return {
        "fits": not found.refusals,
        "refusals": list(found.refusals),
        "machine": found.machine,
        "prompts": [{"prompt_id": name, "graders": [list(one) for one in said]} for name, said in found.golds.items()],
        "shown": [line for seen in found.seen for line in seen.shown],
        "settings": list(found.settings),
        "steps": [vars(step) for step in found.steps],
        "texts": vars(found.texts),
        "rounds": [
            {"round": n, "phases": [vars(a) for a in each], "times": [vars(t) for t in found.times[n]]}
            for n, each in enumerate(found.rounds)
        ],
        "memory": [vars(held) | {"parts": dict(held.parts), "fits": held.fits} for held in found.holdings],
        "disk": {"need": found.need.total, "held": found.held, "free": found.free}
        | {part: getattr(found.need, part) for part in ("checkpoints", "states", "rows")},
        "hours": None if found.untold else hours_,
        "cost": None if found.untold or price is None else price * hours_,
    }
