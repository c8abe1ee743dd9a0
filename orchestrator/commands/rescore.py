"""`ratchet rescore`: the samples of a round graded in another way, without generating anything.

The new run is a fork that takes over everything but the verdicts of the round, and goes as far as its pairs. What
differs between the two runs' verdicts and pairs is then there to be read.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.commands.fork.command import fork
from orchestrator.config import Job
from orchestrator.driver.drive import Hire, Loop, drive, healthy_driver
from orchestrator.driver.resume import all_kept, load, resumed
from orchestrator.driver.trust import Tell
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput
from orchestrator.files import unfinished
from orchestrator.files.disk import one_message
from orchestrator.ledger import waves
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import State
from orchestrator.ledger.run import Run
from orchestrator.ledger.sharing import check_sizes
from orchestrator.loop import improve
from orchestrator.records.abstentions import graders_version
from orchestrator.records.golds import shown
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import Problem
from orchestrator.reports.status import open_run, run_state
from orchestrator.reports.tables import parquet_files, round_step
from orchestrator.rounds.context import Context, Say, Workers
from orchestrator.rounds.round import NoPairs, Round
from orchestrator.sources.source import Sources
from orchestrator.text.shown import as_json, line
from orchestrator.text.terminal import Screen

EXAMPLES = 3
"""Most examples of one kind of flip."""
Flip = tuple[str, str]
"""Verdict before and after."""


@dataclass
class Rescored:
    """What another grading changes."""

    round: int
    samples: int = 0
    flips: Counter[Flip] = field(default_factory=Counter)
    examples: dict[Flip, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    pairs_before: int = 0
    pairs_after: int = 0
    pairs_kept: int = 0
    """Pairs of the same samples before and after."""
    versions: tuple[int, int] = (1, 1)
    """Of the graders, before and after."""

    def as_json(self) -> dict[str, Any]:
        """For programs: the flips with their examples, the commonest first, and the pairs before and after."""
        flips = [
            {"before": before, "after": after, "samples": count, "examples": self.examples[before, after]}
            for (before, after), count in self.flips.most_common()
        ]
        pairs = {"before": self.pairs_before, "after": self.pairs_after, "kept": self.pairs_kept}
        versions = dict(zip(("before", "after"), self.versions, strict=True))
        told = {"round": self.round, "graders_version": versions, "samples": self.samples}
        return told | {"flips": flips, "pairs": pairs}


def rescore(
    parent: Path,
    child: Path,
    number: int,
    overrides: Sequence[str],
    say: Say,
    received: Sequence[str],
    hire: Hire = RealWorkers,
    tell: Tell | None = None,
) -> Rescored:
    """Make the run `child`, in which the samples of round `number` and of later ones are graded under `overrides` of
    `grade` (and of `tracking`, which changes no result), and say what differs in that round. Where an earlier command
    like this one was cut off, go on with its run.
    `tell` is there with `--trust` (see `trust.require`).

    Raises:
        BadInput: no run, a round without verdicts, a folder in use, overrides of something else, a checkpoint that
            the round's training would need was removed, or a run whose settings need trust and are not approved.
        Damaged: the run's old verdicts, or what is taken over, are not as they were committed.
    """
    if wrong := [override for override in overrides if not override.startswith(("grade.", "tracking."))]:
        raise BadInput(
            f"override {wrong[0]!r}: rescoring changes the grading alone, with keys such as grade.graders=[math]. To "
            "change anything else: `ratchet fork`."
        )
    state = open_run(parent).state
    verdicts, job = round_step(number, "verdicts"), state.configs[-1]["job"]
    _require_gradable(parent, state, number)
    again = job.get("regrade")
    grade = again["grade"] if again and number == again["round"] else job["grade"]
    changes = [
        f"regrade={json.dumps({'round': number, 'grade': grade})}",
        *(f"regrade.{o}" if o.startswith("grade.") else o for o in overrides),
    ]
    resumed(parent, (), tell, all_kept)  # before anything is made
    files = Artifacts(parent)  # the run may be somebody else's, and its old verdicts are not offered, but read
    for shard in state.shards.get(verdicts, {}).values():
        check_sizes(shard.artifact, files.place(shard.artifact), parent)
        files.verify(shard.artifact, files.place(shard.artifact))
    begun, goal = _begun(parent, state, child, changes, verdicts), round_step(number, "pairs")
    if not begun:
        fork(parent, child, changes, without=[verdicts], as_is=number, tell=tell)
    if not begun or not _is_done(child, goal):
        try:
            drive(load(child / "job.yaml", (), tell), say, received, hire, _grading_again(number, goal), goal)
        except NoPairs as nothing:
            say(str(nothing))
    found = compare(parent, state, child, open_run(child).state, number)
    with one_message(child, "What is committed is kept: see to the disk, and the same command goes on from here."):
        unfinished.replace(child / "rescored.json", (as_json(found.as_json()) + "\n").encode())
    return found


def _require_gradable(parent: Path, state: State, number: int) -> None:
    """Raise BadInput where a round's samples cannot be graded in another way, with nothing else of the run changed."""
    verdicts = round_step(number, "verdicts")
    if verdicts not in state.commits or round_step(number, "pairs") not in state.commits:
        known = [n for n in range(1, 1000) if round_step(n, "verdicts") in state.commits]
        raise BadInput(f"{parent}: round {number} has no verdicts; rounds with verdicts: {known or 'none'}")
    if len(waves.folders(state, f"rounds/{number:02d}")) > 1:
        raise BadInput(
            f"{parent}: the samples of round {number} were drawn in waves, and its verdicts have decided which prompts "
            "were asked again: graded in another way it would have other samples. `ratchet fork` with another `grade` "
            "draws them."
        )
    again = state.configs[-1]["job"].get("regrade")
    if again and number > again["round"]:
        raise BadInput(
            f"{parent}: was made by rescoring round {again['round']}, and a job knows one round from which on samples "
            f"are graded in another way (`regrade.round`): round {number} of it cannot be rescored alone. Rescore its "
            f"round {again['round']}, or round {number} of the run that it was made from."
        )


def _begun(parent: Path, state: State, child: Path, changes: Sequence[str], verdicts: str) -> bool:
    """Whether an earlier command like this one has made `child` already, so that it is gone on with.

    Raises:
        BadInput: it is being driven right now.
    """
    if not (child / "ledger").is_dir():
        return False
    made = open_run(child).state
    config = made.configs[0] if made.configs else {}
    same = (config.get("parent") or {}).get("run_id") == state.configs[-1]["run_id"]
    offered = any(step == verdicts for step, _ in made.offers)  # a fork with these overrides has them, a rescoring not
    if not same or offered or config.get("overrides") != list(changes):
        return False  # `fork` says what is there
    if other := healthy_driver(child):
        raise BadInput(f"{child}: {other} is driving this run. Wait for it, or stop it first.")
    return True


def _is_done(child: Path, goal: str) -> bool:
    """Whether a run that was begun has its pairs, and has said so or gone on from there."""
    ledger = open_run(child)
    if goal not in ledger.state.commits:
        return False
    paired = next(r.number for r in ledger.records if r.kind == "commit" and r.data["step"] == goal)
    further = any(r.kind in ("shard", "commit", "promotion") for r in ledger.records[paired + 1 :])
    return further or run_state(child, ledger.state) != "interrupted"


def _grading_again(number: int, goal: str) -> Loop:
    """What a rescoring does: the rounds before `number` are there and are passed over; then the pairs of that one."""

    def loop(
        job: Job,
        run: Run,
        workers: Workers,
        problems: Mapping[str, Sequence[Problem]],
        model: str,
        say: Say,
        sources: Sources,
    ) -> None:
        before = job.model_copy(update={"rounds": number - 1})
        reference = improve(before, run, workers, problems, model, say, sources)
        round_ = Round(Context(job, run, workers, problems, model, say), number)
        source = sources[job.source.type]
        round_.require_space(source.disk)
        try:
            source.pairs(round_, reference)
        except NoPairs as nothing:
            if run.committed(goal) is None:
                raise
            say(str(nothing))  # that there are none is what was to be found out

    return loop


def compare(parent: Path, before: State, child: Path, after: State, number: int) -> Rescored:
    """What differs between two runs' verdicts and pairs of a round whose samples are the same."""
    step = round_step(number, "verdicts")
    versions = (graders_version(before.commits[step].facts), graders_version(after.commits[step].facts))
    rescored = Rescored(number, versions=versions)
    old, new = parquet_files(parent, before, step), parquet_files(child, after, step)
    samples = parquet_files(child, after, round_step(number, "samples"))
    golds = _golds(child, after, number)
    for files in zip(samples, old, new, strict=True):
        for row, was, now in zip(*(read_table(file).to_pylist() for file in files), strict=True):
            rescored.samples += 1
            flip = (was["verdict"], now["verdict"])
            if was["verdict"] == now["verdict"]:
                continue
            rescored.flips[flip] += 1
            if len(rescored.examples[flip]) < EXAMPLES:
                rescored.examples[flip].append(_example(row, golds[row["prompt_id"]], was, now))
    pairs = round_step(number, "pairs")
    had, has = (set(_pairs(*run, pairs)) for run in ((parent, before), (child, after)))
    rescored.pairs_before, rescored.pairs_after, rescored.pairs_kept = len(had), len(has), len(had & has)
    return rescored


def _example(row: Mapping[str, Any], gold: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt_id": row["prompt_id"],
        "sample_index": row["sample_index"],
        "gold": shown(gold),
        "text": row["text"][-200:],
        "extracted": [was["extracted"], now["extracted"]],
        "reason": [was["reason"], now["reason"]],
        "cause": [was.get("cause"), now.get("cause")],  # files of graders of version 1 have none
    }


def _golds(run_dir: Path, state: State, number: int) -> dict[str, str]:
    [file] = parquet_files(run_dir, state, round_step(number, "prompts"))
    table = read_table(file, columns=["prompt_id", "gold"])
    return dict(zip(table["prompt_id"].to_pylist(), table["gold"].to_pylist(), strict=True))


def _pairs(run_dir: Path, state: State, step: str) -> Iterator[tuple[Any, ...]]:
    for file in parquet_files(run_dir, state, step):
        table = read_table(file, columns=["prompt_id", "chosen_sample", "rejected_sample"])
        counted: Counter[tuple[Any, ...]] = Counter()
        for row in table.to_pylist():
            key = tuple(row.values())
            counted[key] += 1
            yield *key, counted[key]  # wrapping repeats pairs


def show(rescored: Rescored, screen: Screen) -> None:
    """Print how many verdicts flip, examples of each kind, and what that does to the pairs."""
    total = sum(rescored.flips.values())
    had, has = rescored.versions
    graders = f", graded by version {has} of the graders instead of {had}" if had != has else ""
    screen.say(f"verdicts  {total} of {rescored.samples} flip{graders}")
    if total:
        table = Table("before", "after", "samples", "for instance: gold", "extracted", "the answer's end")
        for (before, after), count in rescored.flips.most_common():
            for number, example in enumerate(rescored.examples[before, after]):
                head = (before, after, str(count)) if number == 0 else ("", "", "")
                was, now = (str(said) for said in example["extracted"])
                extracted = was if was == now else f"{was} -> {now}"
                end = " ".join(example["text"].split())[-60:]
                table.add_row(*map(_cell, (*head, example["gold"], extracted, end)))
        screen.print(table)
    screen.say(
        f"pairs     {rescored.pairs_before} before, {rescored.pairs_after} after; {rescored.pairs_kept} are the same, "
        f"{rescored.pairs_before - rescored.pairs_kept} gone, {rescored.pairs_after - rescored.pairs_kept} new"
    )


def _cell(said: str) -> Text:
    return Text(line(said))
