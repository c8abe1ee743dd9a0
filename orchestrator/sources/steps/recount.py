"""The facts that the steps of Step-DPO commit, from the committed files; see commands/verify/recount.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pyarrow as pa

from orchestrator.config import Steps
from orchestrator.errors import Damaged
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.abstentions import graders_version
from orchestrator.records.parquet import read_table
from orchestrator.rounds import rewards
from orchestrator.rounds.recount import Counting, Recounted, rows_in
from orchestrator.rounds.round import pairing_plan
from orchestrator.sources.steps import files as step_files
from orchestrator.sources.steps import process, rollouts
from orchestrator.sources.steps.files import Sampled, Tally
from orchestrator.sources.steps.pairing import Error
from orchestrator.sources.steps.pairs import choose, first_errors, last_right, located_facts


class StepDpoFacts:
    """Of errors, questions, first wrong reasoning steps, continuations and pairs of such steps."""

    def __init__(self, run: Counting) -> None:
        self._files, self._job = run.files, run.job

    def prompts(self, step: str) -> Facts:
        """Of prompts that end in a prefix of an answer."""
        return {"prompts": sum(map(rows_in, self._files.all(step)))}

    def errors(self, step: str) -> Facts:
        """Of the wrong answers that are looked at."""
        [file] = self._files.all(step)
        return step_files.error_facts(file, list(self._files.shards(f"{_folder(step)}/verdicts").values()))

    def step_rewards(self, step: str) -> Facts:
        """How likely the steps of each error are right."""
        process.likely_right(self._files.all(step), self._errors(_folder(step)))
        return rewards.rewarded_again(pa.concat_tables(map(read_table, self._files.all(step))))

    def questions(self, step: str) -> Facts:
        """How many answers people are asked about."""
        [file] = self._files.all(step)
        with open(file, "rb") as lines:
            return {"questions": sum(1 for _ in lines)}

    def located(self, step: str) -> Facts:
        """Of the first wrong steps, and, where rollouts found them, what the search has cost."""
        folder, [file] = _folder(step), self._files.all(step)
        errors, found = self._errors(folder), step_files.read_located(file)
        facts = located_facts(errors, found)
        if (model := Steps.of(self._job).process_model) is not None:
            said = process.first_wrong(self._files.all(f"{folder}/step_rewards"), errors, model.threshold)
            if said != found:
                raise Damaged("the first wrong steps are not those that the step rewards tell")
        if Steps.of(self._job).localiser != "rollouts":
            return facts
        searched = self._parts(folder, "search")
        tallies, probes = self._tallies([folder, *searched]), set[str]()
        for part in searched:
            probes |= step_files.prompt_ids(self._prompts(part)).keys()
        facts |= rollouts.cost(probes, tallies)
        verdicts = self._files.state.commits[f"{folder}/verdicts"]
        more = {} if graders_version(verdicts.facts) == 1 else rollouts.unknown(probes, tallies)
        return facts | more | {"levels": len(searched)}

    def rectified(self, step: str) -> Facts:
        """Of the right continuations, and how many were drawn for them."""
        folder, [file] = _folder(step), self._files.all(step)
        prefixes = last_right(first_errors(self._errors(folder), self._first_wrong(folder)))
        passes = [folder, *self._parts(folder, "search"), *self._parts(folder, "rectification")]
        return step_files.continuation_facts(file, prefixes, self._tallies(passes))

    def pairs(self, step: str, number: int) -> Facts:
        """Of pairs of steps, chosen once more.

        Raises:
            Damaged: more or fewer are left out than is told of a judge's word.
        """
        folder, [file] = _folder(step), self._files.all(step)
        wrong = first_errors(self._errors(folder), self._first_wrong(folder))
        [rectified] = self._files.all(f"{folder}/rectified")
        refused: Counter[str] = Counter()
        plan, continuations = pairing_plan(self._job, number), step_files.read_continuations(rectified)
        pairs, facts = choose(wrong, continuations, plan, refused)
        facts |= {f"refused_{reason}": refused[reason] for reason in _REFUSED}
        table = read_table(file, columns=[f"{side}_token_ids" for side in counts.SIDES])
        self._require_told(step, len(pairs) - table.num_rows)
        return facts | step_files.pair_facts(table) | step_files.prompt_kinds(self._pass(folder))

    def _require_told(self, step: str, left_out: int) -> None:
        """What a judge has left out is told; nobody else leaves anything out."""
        said = self._files.state.commits[step].facts
        told = said.get("refused_lucky", 0) + said.get("refused_unjudged", 0)
        if told != left_out:
            raise Damaged(f"{told} pairs are said to be left out for the judge's word, and {left_out} are not there")

    def _errors(self, folder: str) -> list[Error]:
        [file] = self._files.all(f"{folder}/errors")
        return step_files.read_errors(file, Steps.of(self._job).opening, Steps.of(self._job).split)

    def _first_wrong(self, folder: str) -> dict[str, int | None]:
        [file] = self._files.all(f"{folder}/located")
        return step_files.read_located(file)

    def _parts(self, folder: str, kind: str) -> list[str]:
        prompts = re.compile(rf"({re.escape(folder)}/{kind}/\d+)/prompts")
        return sorted(found[1] for step in self._files.state.commits if (found := prompts.fullmatch(step)))

    def _prompts(self, folder: str) -> Path:
        [file] = self._files.all(f"{folder}/prompts")
        return file

    def _pass(self, folder: str) -> Sampled:
        return Sampled(folder, self._prompts(folder), self._files.scored(folder))

    def _tallies(self, folders: list[str]) -> dict[str, Tally]:
        found: dict[str, Tally] = {}
        for folder in folders:
            for name, new in step_files.tallies(self._pass(folder)).items():
                found[name] = found.get(name, Tally(0, 0, 0, 0)) + new
        return found


_REFUSED = ("not_rectified", "not_a_prefix", "empty", "equal", "duplicate")


def _folder(step: str) -> str:
    return step.rpartition("/")[0]


RECOUNTED = Recounted(
    {
        r"rounds/\d+/(?:search|rectification)/\d+/prompts": lambda run, step: StepDpoFacts(run).prompts(step),
        r"rounds/\d+/errors": lambda run, step: StepDpoFacts(run).errors(step),
        r"rounds/\d+/step_rewards": lambda run, step: StepDpoFacts(run).step_rewards(step),
        r"rounds/\d+/questions": lambda run, step: StepDpoFacts(run).questions(step),
        r"rounds/\d+/located": lambda run, step: StepDpoFacts(run).located(step),
        r"rounds/\d+/rectified": lambda run, step: StepDpoFacts(run).rectified(step),
        r"rounds/(\d+)/pairs": lambda run, step, number: StepDpoFacts(run).pairs(step, int(number)),
    },
    parts=[r"search/\d+", r"rectification/\d+"],
)
