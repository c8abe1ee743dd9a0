"""Continuations of prefixes of wrong answers, drawn pass by pass; and the first wrong reasoning step, found by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.config import Steps
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import UsedFiles
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.abstentions import graders_version
from orchestrator.rounds.context import Model
from orchestrator.rounds.round import GradedSamples, Round
from orchestrator.sources.steps import files as step_files
from orchestrator.sources.steps.answers import BinarySearch, is_right
from orchestrator.sources.steps.files import Sampled, Tally
from orchestrator.sources.steps.pairing import Error

Prefixes = dict[str, tuple[Error, int]]
"""An error and a number of right steps, by the prefix's name (`Error.probe_id`)."""


@dataclass(frozen=True)
class Located:
    """What a localiser found."""

    first_wrong: Mapping[str, int | None]
    """Number of the first wrong step by error; None where no step is wrong. Errors that could not be judged lack."""
    facts: Facts


class Rollouts:
    """All continuations that a round has drawn so far. The round's own samples are those of prefix 0."""

    def __init__(self, round_: Round, model: Model, prompts: Commit, graded: GradedSamples) -> None:
        self.passes: list[Sampled] = []
        self.files: list[list[UsedFiles]] = []
        """Of each pass, its files of prompts, samples and verdicts."""
        self.tallies: dict[str, Tally] = {}
        verdicts = round_.context.run.ledger.state.commits[f"{round_.folder}/verdicts"]
        self.all_count = graders_version(verdicts.facts) == 1
        """Whether ungradable rollouts count as failures. They did under version 1 of the graders: a round that it has
        begun ends as it would have ended, since what its search asks next must be what it has asked."""
        self._this, self._model = round_, model
        self._add(round_.folder, prompts, graded)

    def draw(self, part: str, prefixes: Prefixes, samples: int, errors: Commit) -> None:
        """Continue each prefix `samples` times, in a part of the round of its own; what is committed is read."""
        inner = replace(self._this, part=part)
        # What is continued follows from the errors and from how all earlier continuations ended.
        inputs = {"errors": files_of(errors), "drawn": self.files, "prefixes": sorted(prefixes)}

        def work(folder: Path) -> Facts:
            folder.mkdir()
            return step_files.write_prefixes(prefixes, self.passes[0].prompts, folder / f"{inner.split}.parquet")

        prompts = inner.context.run.step(f"{inner.folder}/prompts", inputs, work)
        plan = replace(inner.sampling_plan(), samples=samples)
        self._add(inner.folder, prompts, inner.samples_and_verdicts(prompts, self._model, plan))

    def _add(self, folder: str, prompts: Commit, graded: GradedSamples) -> None:
        sampled = Sampled(folder, graded.prompts, graded.shards)
        self.passes.append(sampled)
        self.files.append([*files_of(prompts), *graded.files])
        with self._this.context.run.using(self.files[-1]):
            found = step_files.tallies(sampled)
        for name, new in found.items():
            self.tallies[name] = self.tallies.get(name, Tally(0, 0, 0, 0)) + new


def locate(round_: Round, errors: Sequence[Error], commit: Commit, rollouts: Rollouts) -> Located:
    """The first wrong step of each error by binary search over its prefixes, which are right where enough rollouts
    reach the gold answer. One pass of sampling a level, over all errors at once; a prefix that several answers share
    is continued once. A prefix of whose rollouts too few have a verdict is left out of the search. Errors whose first
    wrong step is not known for that are left out, and so are those of which a prefix took down engines."""
    settings, level = Steps.of(round_.context.job), 0
    open_: dict[str, tuple[Error, BinarySearch]] = {e.error_id: (e, BinarySearch(len(e.answer.steps))) for e in errors}
    first_wrong: dict[str, int | None] = {}
    probes: set[str] = set()
    while open_:
        prefixes: Prefixes = {}
        for error_id, (error, search) in list(open_.items()):
            if (right := _next(error, search, rollouts, settings.threshold)) is None:
                if search.first_wrong is not None:
                    first_wrong[error_id] = search.first_wrong
                del open_[error_id]
            elif (name := error.probe_id(right)) in probes:
                del open_[error_id]  # asked for before, and has no continuation
            else:
                prefixes[name] = (error, right)
        if prefixes:
            level += 1
            rollouts.draw(f"search/{level:02d}", prefixes, settings.rollouts, commit)
            probes |= prefixes.keys()
    facts = cost(probes, rollouts.tallies) | {"levels": level}
    return Located(first_wrong, facts | ({} if rollouts.all_count else unknown(probes, rollouts.tallies)))


def _next(error: Error, search: BinarySearch, rollouts: Rollouts, threshold: float) -> int | None:
    """The next prefix that is not known yet, after the search was told all that is."""
    while (right := search.probe()) is not None:
        tally = rollouts.tallies.get(error.probe_id(right))
        if tally is None:
            return right
        judged = tally.drawn if rollouts.all_count else tally.judged
        search.tell(is_right(tally.correct, judged, tally.drawn, threshold))
    return None


def unknown(probes: set[str], known: Mapping[str, Tally]) -> Facts:
    """How many rollouts have no verdict, and how many prefixes were left out for that."""
    tallies = [known[name] for name in probes if name in known]
    return {
        "rollouts_ungradable": sum(tally.drawn - tally.judged for tally in tallies),
        "probes_unknown": sum(is_right(t.correct, t.judged, t.drawn, 0.0) is None for t in tallies),
    }


def cost(probes: set[str], known: Mapping[str, Tally]) -> Facts:
    """How many prefixes were continued, and the tokens that were drawn for that."""
    return {"probes": len(probes), "rollout_tokens": sum(known[name].tokens for name in probes if name in known)}


def rectifications(errors: Sequence[tuple[Error, int]], known: Mapping[str, Tally], wanted: int) -> dict[int, Prefixes]:
    """The last right prefixes of errors, given with their first wrong step, by how many continuations each lacks to
    have `wanted`."""
    lacking: dict[int, Prefixes] = {}
    for error, first_wrong in errors:
        name = error.probe_id(first_wrong - 1)
        drawn = known[name].drawn if name in known else 0
        if drawn < wanted:
            lacking.setdefault(wanted - drawn, {})[name] = (error, first_wrong - 1)
    return dict(sorted(lacking.items()))
