"""Samples in waves: a prompt whose pairs no further sample could change is not asked again (`generate.wave_samples`).

Which prompts go on is a step of its own, made of the verdicts of the waves before. A sample has the seed that it would
have if all were drawn at once, so that the pairs are those of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from orchestrator.config import at_round
from orchestrator.errors import Damaged
from orchestrator.ledger import waves
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.parquet import Rows
from orchestrator.records.rows import PROMPTS, SamplingPlan
from orchestrator.rounds import pair_files
from orchestrator.rounds.context import Model
from orchestrator.rounds.pair_files import Scored
from orchestrator.rounds.pairing import Candidate, PairingPlan, is_decided
from orchestrator.rounds.prompt_rows import Prompts
from orchestrator.rounds.recount import Counting
from orchestrator.rounds.round import GradedSamples, Round, pairing_plan
from orchestrator.text.counts import many


def plans(plan: SamplingPlan, wave: int | None) -> list[SamplingPlan]:
    """How each wave of `wave` samples a prompt is drawn, of all that `plan` has; one wave where that is None."""
    size = wave or plan.samples
    starts = range(0, plan.samples, size)
    return [replace(plan, first_sample=start, samples=min(size, plan.samples - start)) for start in starts]


def samples_and_verdicts(round_: Round, prompts: Commit, model: Model) -> GradedSamples:
    """The round's graded samples, of all waves that it takes."""
    first, *later = plans(round_.sampling_plan(), round_.context.job.generate.wave_samples)
    graded = round_.samples_and_verdicts(prompts, model, first)
    for number, plan in enumerate(later, 2):
        wave = replace(round_, part=waves.part(number))
        going_on = _go_on(wave, prompts, graded, plan)
        if not going_on.facts["prompts"]:
            break
        graded = _together(graded, wave.samples_and_verdicts(going_on, model, plan, cut_as=prompts))
    return graded


def _go_on(wave: Round, prompts: Commit, graded: GradedSamples, plan: SamplingPlan) -> Commit:
    """The prompts of the next wave, which is drawn by `plan`: in a file as that of the round's, in its order."""
    run, pairing = wave.context.run, wave.pairing_plan()
    left = wave.sampling_plan().samples - plan.first_sample
    inputs = {"prompts": files_of(prompts), "graded": graded.files, "pairing": pairing, "left": left}

    def work(folder: Path) -> Facts:
        folder.mkdir()
        file = Prompts(graded.prompts)
        names, facts = _undecided(file, graded.shards, pairing, plan.first_sample, left)
        table = Rows(graded.prompts, PROMPTS.names).take(file.places(names))
        pq.write_table(table, folder / "train.parquet", compression="zstd")
        return facts

    commit = run.step(f"{wave.folder}/prompts", inputs, work)
    facts = commit.facts
    wave.say(
        "prompts", f"{facts['prompts']} go on, {facts['decided']} are decided: {many(facts['saved'], 'sample')} saved"
    )
    return commit


def _undecided(
    prompts: Prompts, shards: Sequence[Scored], plan: PairingPlan, drawn: int, left: int
) -> tuple[list[str], Facts]:
    """The prompts that go on, in their file's order, after `drawn` samples of each, and with `left` more to come: whose
    pairs these do not decide yet. Facts: how many go on (`prompts` and `train`), how many of the last wave are
    decided, and how many samples that saves.

    A prompt with fewer samples was decided before, or has taken engines down, and is not asked again.
    """
    going_on, decided = set[str](), 0
    for found in _asked(shards, drawn):
        golds = pair_files.golds_of(prompts, [name for name, _ in found]) if plan.gold_as_chosen else {}
        for name, candidates in found:
            if is_decided(candidates, golds.get(name, []), plan):
                decided += 1
            else:
                going_on.add(name)
    counts = {"prompts": len(going_on), "train": len(going_on), "decided": decided, "saved": decided * left}
    return [name for name in _names(prompts) if name in going_on], counts


def _names(prompts: Prompts) -> Iterator[str]:
    for ids in prompts.ids():
        yield from ids


def _asked(shards: Sequence[Scored], drawn: int) -> Iterator[list[tuple[str, list[Candidate]]]]:
    """The prompts of each shard that have so many samples."""
    for shard in shards:
        yield [(name, found) for name, found in pair_files.candidates(shard) if len(found) == drawn]


def _together(before: GradedSamples, wave: GradedSamples) -> GradedSamples:
    """With the samples of a later wave beside those of the same prompts."""
    more = dict(zip(wave.indices, wave.shards, strict=True))
    pairs = zip(before.indices, before.shards, strict=True)
    shards = [shard._replace(more=(*shard.more, more[i])) if i in more else shard for i, shard in pairs]
    return replace(before, shards=shards, files=[*before.files, *wave.files])


def facts_again(run: Counting, step: str, folder: str, number: str) -> Facts:
    """Of a wave's prompts, which must be those that the waves before have not decided."""
    generate, of_round, wave = run.job.generate, int(folder.rpartition("/")[2]), int(number)
    if generate.wave_samples is None:
        raise Damaged("the job has no `generate.wave_samples`")
    [whole] = run.files.all(f"{folder}/prompts")
    drawn, before = (wave - 1) * generate.wave_samples, run.files.scored(folder, wave - 1)
    left = at_round(generate.samples, of_round) - drawn
    names, facts = _undecided(Prompts(whole), before, pairing_plan(run.job, of_round), drawn, left)
    [file] = run.files.all(step)
    if list(_names(Prompts(file))) != names:
        raise Damaged("its prompts are not those whose pairs the waves before leave open")
    return facts
