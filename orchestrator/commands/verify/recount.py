"""The facts of committed steps, computed once more from the committed files, by the functions that the loop uses.

Not computed are those of `LEFT`: of time, of what became of processes, of what stands in no committed file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job
from orchestrator.errors import Damaged
from orchestrator.files import durable
from orchestrator.inputs.preferences import mean_characters_of
from orchestrator.ledger import waves
from orchestrator.ledger.run import Facts
from orchestrator.records import counts
from orchestrator.records.abstentions import graders_version
from orchestrator.records.harness import RESULTS, SAMPLES
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import CAUSES
from orchestrator.rounds import drift, evaluation, harness, repeated, sampling
from orchestrator.rounds.recount import Counted, Counting, Recounted, batches, rows_in
from orchestrator.rounds.round import rounds_replayed
from orchestrator.rounds.run_files import RunFiles
from orchestrator.rounds.training import choice_facts

LEFT = frozenset(
    {
        # time
        *("seconds", "wall", "waited", "starting", "tokens_per_second"),
        # what became of processes, and how the work was executed
        *(
            "engines_lost",
            "graders_lost",
            "rewarders_lost",
            "form",
            "restarts",
            "resumed_from",
            "executed",
            "judge",
            "first_step",
        ),
        # where the work came from, and by which version of code: see `history` for what is checked of it
        *("fingerprint", "recipe", "graders_version", "judge_prompt", "step_prompt", "reading", "revisions"),
        *("id", "revision", "run", "run_id", "round"),
        # what was left out before a file was written: problems and rows of data are no files of the run
        *("dropped", "empty", "equal", "no_prompt", "too_long", "sources.name"),
        # what a judge said of pairs that were left out for it
        *("refused_lucky", "refused_unjudged"),
        # what the engine said, beside what the trainer has written down
        *("mean_difference", "probe.tokens"),
        # how much of an adapter is in merged weights: weights are not read again
        "merge_kept",
    }
)
"""Facts that are told and not computed again, wherever they stand; a dotted name, without numbers of lists, is of one
place."""


_LATER = frozenset({*counts.BY_PROMPT, "distinct_answers", "trend"})
"""Facts of verdicts and of training that records by a recipe below 4 do not tell."""


def told_of(recipe: int, recorded: Mapping[str, Any], computed: Facts) -> Facts:
    """What was computed of a step or shard, without what its record's version did not tell yet."""
    if "rectified" in computed and "prompts_paired" not in recorded:  # pairs of reasoning steps tell it since recipe 4
        computed = {key: value for key, value in computed.items() if key != "prompts_paired"}
    if recipe > 3:
        return computed
    return {key: value for key, value in computed.items() if key in recorded or key not in _LATER}


_OF_COMPLETIONS = {"ranking_accuracy", "reward_accuracy", "gamma", "chosen_logprob", "rejected_logprob"}


def left_here(step: str, recorded: Mapping[str, Any], computed: Facts) -> set[str]:
    """What is told of one step and not computed: of a checkpoint that was not chosen no probe is left; of completions
    by other names than the trainer's nothing is known; shards of the first version of the graders tell no causes."""
    if step.endswith("/verdicts") and graders_version(recorded) == 1:
        return set(CAUSES)
    if "/selection/" in step:
        return {"probe"}
    return _OF_COMPLETIONS if "completion_tokens" in computed and "gamma" not in computed else set()


class Recount(Counting):
    """A run's facts, from its files. Every method raises `Gone` where a file that it needs is not there any more, or is
    not what was committed."""

    def __init__(self, files: RunFiles, job: Job, sources: Mapping[str, Counted]) -> None:
        """`sources` are those of pairs, by name."""
        super().__init__(files, job)
        self._ids: dict[Path, pa.ChunkedArray] = {}
        self._of_wave: tuple[str, frozenset[str]] = ("", frozenset())
        self._steps = _steps(sources[job.source.type].recounted)
        self._shards = {**sources[job.source.type].recounted.shards, **SHARDS}

    def shard(self, step: str, index: int) -> Facts | None:
        """The facts of a committed shard; None where nobody knows how to count one of its kind."""
        facts = self._shards.get(step.rpartition("/")[2])
        return facts(self, step, index) if facts else None

    def commit(self, step: str) -> Facts | None:
        """The facts of a committed step; None for a name that no step of a run has."""
        for pattern, facts in self._steps.items():
            if found := re.fullmatch(pattern, step):
                return facts(self, step, *found.groups())
        return None

    def shard_of_samples(self, step: str, index: int) -> Facts:
        table = read_table(self.files.shard(step, index), columns=["prompt_id", "num_tokens", "finish_reason"])
        sampled, asked = set(table["prompt_id"].to_pylist()), self._asked(step.removesuffix("/samples"), index)
        return counts.samples(table) | {"quarantined": [name for name in asked if name not in sampled]}

    def shard_of_verdicts(self, step: str, index: int) -> Facts:
        return verdict_facts(self.files.shard(step, index))

    def _asked(self, folder: str, index: int) -> list[str]:
        """The ids of the prompts of a shard of samples below a folder. A wave's shards are cut as those of its
        round."""
        size, cut_as = self.job.generate.shard_prompts, waves.round_of(folder) or folder
        asked: list[str] = self._ids_of(f"{cut_as}/prompts").slice(index * size, size).to_pylist()
        if cut_as == folder:
            return asked
        if self._of_wave[0] != folder:
            self._of_wave = (folder, frozenset(self._ids_of(f"{folder}/prompts").to_pylist()))
        return [name for name in asked if name in self._of_wave[1]]

    def _ids_of(self, step: str) -> pa.ChunkedArray:
        """The ids of a step's prompts; those of the two newest steps stay in memory, for the many shards of their
        samples."""
        [prompts] = self.files.all(step)
        if prompts not in self._ids:
            self._ids = dict([*self._ids.items()][-1:])
            self._ids[prompts] = read_table(prompts, columns=["prompt_id"])["prompt_id"]
        return self._ids[prompts]

    # Steps, in the order of a run

    def problems(self, step: str) -> Facts:
        return {file.stem: rows_in(file) for file in self.files.all(step)}

    def preferences(self, step: str) -> Facts:
        """Of preference data as a run keeps it, by source."""
        files = self.files.all(step)
        rows = [rows_in(file) for file in files]
        return {
            "pairs": sum(rows),
            "characters": mean_characters_of(row for batch in batches(files) for row in batch.to_pylist()),
            "sources": [{"pairs": number} for number in rows],
        }

    def kept_model(self, step: str) -> Facts:
        """The digest is `models.named.model_digest`; it is told of what another run has trained."""
        if not self.state.commits[step].facts.keys() & {"digest", "run", "run_id"}:
            return {}
        files = next(a.files for a in self.state.commits[step].artifacts if a.path == step)
        known = sorted((name, said["sha256"]) for name, said in files.items() if not name.startswith("."))
        return {"digest": durable.fingerprint([list(file) for file in known])}

    def prompts(self, step: str, *_: str | None) -> Facts:
        """How many prompts there are, by file."""
        rows = {file.stem: rows_in(file) for file in self.files.all(step)}
        return {"prompts": sum(rows.values()), **rows}

    def samples(self, step: str, *_: str | None) -> Facts:
        """Of all shards of samples together."""
        self._require_all(step)
        return _untimed(sampling.sampling_facts(self.files.shard_facts(step)))

    def verdicts(self, step: str, *_: str | None) -> Facts:
        """Of all shards of verdicts together."""
        self._require_all(step)
        facts = self.files.shard_facts(step)
        told = [name for name in counts.verdicts([], [], []) if all(name in shard for shard in facts)]
        found = _untimed(sampling.grading_facts(facts))
        optional = ("disputed", "graders_version", *counts.BY_PROMPT, "distinct_answers")
        return {key: value for key, value in found.items() if key in told or key in optional}

    def _require_all(self, step: str) -> None:
        """Every prompt is in one of the committed shards."""
        folder = step.rpartition("/")[0]
        [prompts] = self.files.all(f"{waves.round_of(folder) or folder}/prompts")
        every = range(ceil(rows_in(prompts) / self.job.generate.shard_prompts))
        wanted = [index for index in every if waves.round_of(folder) is None or self._asked(folder, index)]
        if (found := sorted(self.state.shards.get(step, {}))) != wanted:
            raise Damaged(f"{len(wanted)} shards make the step, and committed are the shards {found}")

    def held_out(self, step: str, number: str) -> Facts:
        return self.chosen(step, int(number), self.files.scored(step.rpartition("/")[0]))

    def replay(self, step: str, number: str) -> Facts:
        """How many pairs of earlier rounds are trained on, and of how many rounds."""
        [file] = self.files.all(step)
        return {"pairs": rows_in(file), "rounds": len(rounds_replayed(self.job.pairs, int(number)))}

    def reference(self, step: str, folder: str) -> Facts:
        return self.scored(step, self._trained_on(folder, held_out=True))

    def policy(self, step: str, folder: str) -> Facts:
        """Of the trained policy's log-probabilities, beside the reference pass that it names."""
        said = str(self.state.commits[step].facts.get("executed", {}).get("reference"))
        again = re.fullmatch(rf"{folder}/reference_again/\d+", said)  # made once more where the kernel has changed
        reference = said if again else f"{folder}/reference"
        before = self.files.all(reference) if reference in self.state.commits else []
        return self.scored(step, self.files.all(f"{folder}/pairs"), *before)

    def training(self, step: str, folder: str, retrain: str | None) -> Facts:
        metrics = read_table(self.files.one(f"{step}/metrics.parquet")).to_pylist()
        files = self._trained_on(folder, held_out=bool(retrain))
        found = counts.trained_pairs(lambda: self.pairs(files), 0)
        return counts.metrics(metrics) | found | {"dropped_pairs": sum(map(rows_in, files)) - found["pairs"]}

    def _trained_on(self, folder: str, held_out: bool) -> list[Path]:
        steps = [f"{folder}/pairs", f"{folder}/replay", *([f"{folder}/held_out/pairs"] if held_out else [])]
        return [file for step in steps if step in self.state.commits for file in self.files.all(step)]

    def evaluated(self, step: str, folder: str | None = None) -> Facts:
        facts: Facts = {"quarantined": []}
        figures: dict[str, Facts] = {}
        columns = ["prompt_id", "token_ids", "finish_reason", "verdict", "cause", "prompt", "gold"]
        commit = self.state.commits[step]
        for file in self.files.all(step) if commit.artifacts else ():
            table = read_table(file, columns=[name for name in columns if name in pq.read_schema(file).names])
            asked = read_table(self.files.one(f"baseline/prompts/{file.name}"), columns=evaluation.QUESTION)
            if sorted(asked["prompt_id"].to_pylist()) != sorted(table["prompt_id"].to_pylist()):
                raise Damaged(f"{file.name}: its problems are not those of baseline/prompts")
            if wrong := evaluation.misquoted(table, asked):
                raise Damaged(f"{file.name}: prompt or gold answer of {wrong[0]!r} is not that of baseline/prompts")
            figures[file.stem] = evaluation.facts_of(table)
            facts["quarantined"] += evaluation.given_up(table)
        facts |= evaluation.by_set(figures)
        if told := [split for split in ("gate", "test") if split in commit.facts and split not in facts]:
            raise Damaged(f"it tells of {' and '.join(told)}, and has no file of it")
        probes = [f"{folder}/{phase}/probe.parquet" for phase in ("retrain", "choice", "train")]
        if folder and (probe := next(filter(self.files.has, probes), None)):
            facts["probe"] = {"completions": rows_in(self.files.one(probe))}
        elif step == "baseline/evaluation":
            facts["probe"] = None  # the base model is no work of the trainer
        return facts

    def answered_repeatedly(self, step: str) -> Facts:
        """Of held-out problems that were answered several times."""
        facts: Facts = {"sets": {}, "quarantined": []}
        for file in self.files.all(step):
            table = read_table(file)
            asked = read_table(self.files.one(f"baseline/prompts/{file.name}"), columns=["prompt_id"])
            if set(asked["prompt_id"].to_pylist()) != set(table["prompt_id"].to_pylist()):
                raise Damaged(f"{file.name}: its problems are not those of baseline/prompts")
            facts["sets"][file.stem] = repeated.facts_of(table, repeated.interval_seed(self.job.seed, step))
            facts["quarantined"] += evaluation.given_up(table)
        return facts

    def drift(self, step: str) -> Facts:
        """Of the base model's samples under a model, and under itself."""
        return drift.facts_of(self.files.one(f"baseline/drift/{drift.FILE}"), self.files.one(f"{step}/{drift.FILE}"))

    def harness(self, step: str) -> Facts:
        """Of tasks of lm-evaluation-harness, by what that has written."""
        for file in (SAMPLES, RESULTS):
            self.files.one(f"{step}/{file}")
        return harness.facts_of(self.files.one(f"{step}/{RESULTS}").parent)

    def regraded(self, step: str) -> Facts:
        facts_by_evaluation = {}
        for name, file in zip(sorted(self.state.commits[step].facts["evaluations"]), self.files.all(step), strict=True):
            changed = evaluation.changed(self.files.one(f"{name}/gate.parquet"), file)
            facts_by_evaluation[name] = evaluation.facts_of(read_table(file)) | {"changed": changed}
        return {"evaluations": facts_by_evaluation}

    def choice(self, step: str, folder: str) -> Facts:
        """Of the choice among a training's checkpoints, by their accuracy on the gate problems."""
        selection, regraded = f"{folder}/selection/", f"{folder}/selection/regraded"
        steps = sorted(name for name in self.state.commits if name.startswith(selection) and name != regraded)
        files = {name: self.files.one(f"{name}/gate.parquet") for name in steps}
        if (again := self.state.commits.get(regraded)) is not None:
            files |= dict(zip(sorted(again.facts["evaluations"]), self.files.all(regraded), strict=True))
        solved = {name.removeprefix(selection): list(evaluation.solved(file).values()) for name, file in files.items()}
        accuracies = {name: sum(right) / max(1, len(right)) for name, right in solved.items()}
        return choice_facts(accuracies, self.job.train.select)


def verdict_facts(file: Path) -> Facts:
    """Of a file of verdicts. Those of graders of version 1 have no causes."""
    columns_there = set(pq.read_schema(file).names)
    names = [
        name for name in ("prompt_id", "verdict", "cause", "rule", "extracted", "opinions") if name in columns_there
    ]
    table = read_table(file, columns=names)
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name in names}
    none = [None] * table.num_rows
    facts = counts.verdicts(columns["verdict"], columns.get("cause", none), columns.get("rule", none))
    facts |= counts.by_prompt(
        columns["prompt_id"], columns["verdict"], columns.get("cause", none), columns["extracted"]
    )
    if "cause" not in columns_there:
        facts = {key: value for key, value in facts.items() if key not in CAUSES}
    if "opinions" in columns_there:
        facts["disputed"] = sum(counts.disputed(dict(row or ())) for row in columns["opinions"])
    return facts


SHARDS: Mapping[str, Callable[..., Facts]] = {
    "samples": Recount.shard_of_samples,
    "verdicts": Recount.shard_of_verdicts,
}
"""How a shard is computed, by its kind (records/shards.py)."""


def _untimed(facts: Facts) -> Facts:
    return {key: value for key, value in facts.items() if key not in LEFT or key == "graders_version"}


def _steps(source: Recounted) -> dict[str, Callable[..., Facts]]:
    """How each step is computed, by a pattern of its name: those of every run, and of a source of pairs."""
    place = rf"(rounds/\d+(?:/(?:{'|'.join(('held_out', *source.parts))}))?)"
    return {
        **source.steps,
        r"baseline/data": Recount.problems,
        r"baseline/preferences": Recount.preferences,
        r"baseline/(?:model|reference|process|reward/\d+)": Recount.kept_model,
        rf"baseline/prompts|{place}/prompts": Recount.prompts,
        rf"{place}/samples": Recount.samples,
        rf"{place}/verdicts": Recount.verdicts,
        r"rounds/(\d+)/held_out/pairs": Recount.held_out,
        r"rounds/(\d+)/replay": Recount.replay,
        r"(rounds/\d+)/reference(?:_again/\d+)?": Recount.reference,
        r"(rounds/\d+)/policy": Recount.policy,
        r"(rounds/\d+)/(?:train|(retrain))": Recount.training,
        r"baseline/evaluation|rounds/\d+/selection/\d+": Recount.evaluated,
        r"(rounds/\d+)/evaluation": Recount.evaluated,
        r"(?:baseline|rounds/\d+)/drift": Recount.drift,
        r"(?:baseline|rounds/\d+)/harness": Recount.harness,
        r"(?:baseline|rounds/\d+)/repeated": Recount.answered_repeatedly,
        r"rounds/\d+(?:/selection)?/regraded": Recount.regraded,
        r"(rounds/\d+)/choice": Recount.choice,
    }
