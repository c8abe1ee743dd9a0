"""What the job of a run allows of its facts, also of those that no file tells."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from orchestrator.config import Job, at_round
from orchestrator.driver.kept import KEPT_PROBLEMS
from orchestrator.ledger.run import Facts
from orchestrator.records.parquet import read_table
from orchestrator.rounds.evaluation import ROUNDED
from orchestrator.rounds.recount import rows_in
from orchestrator.rounds.run_files import RunFiles


def beyond(step: str, facts: Facts, files: RunFiles, job: Job) -> Iterator[str]:
    """What a committed step tells and cannot have done.

    Raises:
        Gone, Damaged: a file that tells of it is not there any more, or not as it was committed.
    """
    if found := re.fullmatch(r"rounds/(\d+)/prompts", step):
        yield from _prompts(facts, files, job)
    elif step == "baseline/prompts" and KEPT_PROBLEMS in files.state.commits:
        kept = sum(
            rows_in(files.one(f"{KEPT_PROBLEMS}/{split}.parquet")) for split in ("gate", "test") if split in facts
        )
        yield from _left_out(facts, kept, kept)
    elif found := re.fullmatch(r"rounds/(\d+)(/held_out)?/samples", step):
        [prompts] = files.all(f"{step.rpartition('/')[0]}/prompts")
        asked = rows_in(prompts) - len(facts.get("quarantined", []))
        most = at_round(job.generate.samples, int(found[1]))
        if job.generate.wave_samples and not found[2]:  # the first wave; who is in later ones is computed again
            most = min(most, job.generate.wave_samples)
        if facts["samples"] != asked * most:
            yield f"samples is {facts['samples']}, and the job asks for {most} to each of {asked} prompts"
    elif re.fullmatch(r"rounds/\d+/evaluation", step) and isinstance(facts.get("probe"), Mapping):
        yield from _probe(step, facts["probe"], files, job)


def _prompts(facts: Facts, files: RunFiles, job: Job) -> Iterator[str]:
    """A round's, which are so many of all problems."""
    wanted, least = job.data.prompts_per_round, 0
    if KEPT_PROBLEMS in files.state.commits:
        least = rows_in(files.one(f"{KEPT_PROBLEMS}/train.parquet"))
        least = min(wanted or least, least)
        wanted = least
    elif wanted and job.data.prompts == "new":
        least = wanted
    if wanted:
        yield from _left_out(facts, least, wanted)


def _left_out(facts: Facts, least: int, most: int) -> Iterator[str]:
    told = facts["prompts"] + facts["dropped"]
    if not least <= told <= most:
        few = f"{most}" if least == most else f"at most {most}"
        yield f"prompts and dropped are {told} together, and the job has {few} problems for it"


def _probe(step: str, probe: Mapping[str, Any], files: RunFiles, job: Job) -> Iterator[str]:
    """How far engine and trainer were from each other: nothing is committed where that is too far. Of what the trainer
    has written down the engine may have passed over what is too long for it."""
    most = job.evaluate.probe_tolerance or ROUNDED
    if probe["mean_difference"] > most:
        yield f"probe.mean_difference is {probe['mean_difference']}, and nothing is committed where it is above {most}"
    folder = step.rpartition("/")[0]
    names = [f"{folder}/{phase}/probe.parquet" for phase in ("retrain", "choice", "train")]
    if (name := next(filter(files.has, names), None)) is not None:
        completions = read_table(files.one(name), columns=["completion_token_ids"])["completion_token_ids"]
        tokens = pc.sum(pc.list_value_length(completions)).as_py() or 0
        if not 0 < probe.get("tokens", tokens) <= tokens:
            yield f"probe.tokens is {probe['tokens']}, and its completions have {tokens}"
