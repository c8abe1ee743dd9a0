"""Tasks of lm-evaluation-harness, asked of a model while its engines are there for its evaluation. They decide nothing.

The harness makes prompts of its tasks' documents, and figures of what becomes of them; in between stand the run's own
engines, which it asks through the driver, for samples and for log-probabilities of given completions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged, first_line
from orchestrator.files import strict_json
from orchestrator.files.inside import remove
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts
from orchestrator.records.harness import RESULTS, SAMPLES, Asked, TasksPlan
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import SamplingPlan, Shard
from orchestrator.reports.harness import figures, shown
from orchestrator.rounds.context import Context, Model, engine, executed
from orchestrator.rounds.evaluation import beside
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.sampling import Engines, mishaps, mishaps_text
from orchestrator.rounds.watched import Answers

_MOST_RESULTS = 1 << 26
"""Bytes of the harness's results; those of a thousand tasks have some millions."""
_TOLD = 4
"""Figures in the line for people."""


def measure(context: Context, model: Model, folder: str) -> None:
    """The step `harness` of a folder, where the job has tasks."""
    job, run, name = context.job, context.run, f"{folder}/harness"
    if (settings := job.evaluate.harness) is None:
        return
    harness, generate = context.workers.harness(), job.generate
    seed = context.seed("harness", folder)
    inputs = {
        "model": model.files,
        "tasks": Fields(settings, without=("include_path",)),  # whose files are among what is known of the harness
        "harness": harness.identity(),
        "max_model_len": generate.max_model_len,
        "seed": seed,
        "seeding": generate.seeding,
        **engine(context.workers, generate),
        "executed": executed(generate=generate),
    }
    plan = TasksPlan(
        model=model.path,
        max_model_len=generate.max_model_len,
        tasks=tuple(settings.tasks),
        limit=settings.limit,
        num_fewshot=settings.num_fewshot,
        chat=settings.chat,
    )

    def work(output: Path) -> Facts:
        output.mkdir()
        facts: Facts = {"executed": {}}
        engines, wait = ready(lambda: context.engines(model, facts["executed"]))
        asking = _Asking(engines, beside(output), generate.shard_prompts, Answers(run.watch, name))
        asking.sampling = {"samples": 1, "seed": seed, "seeding": generate.seeding}
        harness.evaluate(plan, asking.work, output, asking.answer)
        remove(asking.work.parent, asking.work)
        return facts | wait.once() | facts_of(output) | asking.facts()

    commit = run.step(name, inputs, work)
    context.tell(folder, "harness", summary(commit.facts))


@dataclass
class _Asking:
    """Has the engines answer what the harness asks."""

    engines: Engines
    work: Path
    shard_prompts: int
    answers: Answers
    sampling: dict[str, Any] = field(default_factory=dict)
    """What of a SamplingPlan the harness does not say."""
    shards: list[Facts] = field(default_factory=list)
    requests: int = 0

    def answer(self, asked: Asked) -> list[Path]:
        """The files of the answers, in the order of the requests."""
        self.requests += asked.requests
        self.answers.expect(self.requests, "requests")
        size, stem = self.shard_prompts, Path(asked.file).stem
        starts = range(0, asked.requests, size)
        files = [self.work / f"{stem}-{index:05d}.parquet" for index in range(len(starts))]
        shards = [
            Shard(index, asked.file, start, min(start + size, asked.requests), str(file))
            for index, (start, file) in enumerate(zip(starts, files, strict=True))
        ]
        for shard, facts in self._done(shards, asked.sampling):
            self.shards.append(facts)
            self.answers.requests(shard.stop - shard.start, facts)
        return files

    def _done(self, shards: list[Shard], sampling: Mapping[str, Any] | None) -> Any:
        if sampling is None:
            return self.engines.score(shards)
        given = {**sampling, "stop": tuple(sampling["stop"])}
        return self.engines.generate(shards, SamplingPlan(**given, **self.sampling))

    def facts(self) -> Facts:
        """What went wrong. Requests that took down several engines are `unanswered`: their answer is empty."""
        found = mishaps(self.shards, "quarantined", "engines_lost")
        left = len(found.pop("quarantined", []))
        return found | ({"unanswered": left} if left else {})


def facts_of(folder: Path) -> Facts:
    """What the harness has written: its version as `lm_eval`, and `tasks`, by name of each task and group: its
    `figures` by metric (and filter, where that is not the only one), each with its `value` and standard `error`; of how
    many `documents`, with how many examples before each (`shots`), by which `version` of the task; the group that it is
    `within`; and `asked`, a digest of its prompts and targets. What is no number is left out.

    Raises:
        Damaged: the files are not what the harness writes.
    """
    file = folder / RESULTS
    try:
        found = strict_json.read_object(file, _MOST_RESULTS)
        told = dict(_tasks(found, _digests(folder / SAMPLES)))
        return {"lm_eval": str(found["lm_eval_version"]), "tasks": told}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{file}: it is not what lm-evaluation-harness writes ({first_line(error)})") from error


def _tasks(found: Mapping[str, Any], asked: Mapping[str, str]) -> Iterator[tuple[str, Facts]]:
    above = {part: group for group, parts in found.get("group_subtasks", {}).items() for part in parts}
    for name, said in {**found["results"], **found.get("groups", {})}.items():
        if not (figures := dict(_figures(said))):
            continue
        known = {
            "figures": figures,
            "documents": found.get("n-samples", {}).get(name, {}).get("effective", said.get("sample_len")),
            "shots": found.get("n-shot", {}).get(name),
            "version": str(found.get("versions", {}).get(name, "")),
            "within": above.get(name),
            "asked": asked.get(name),
        }
        yield name, {key: value for key, value in known.items() if value not in (None, "")}


def _figures(said: Mapping[str, Any]) -> Iterator[tuple[str, Facts]]:
    for key, value in said.items():
        metric, comma, of_filter = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        error: Any = said.get(f"{metric}_stderr,{of_filter}")
        name = metric if of_filter == "none" else key
        yield name, {"value": float(value)} | ({"error": float(error)} if _is_number(error) else {})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digests(samples: Path) -> dict[str, str]:
    """By task a digest of what was asked."""
    found: dict[str, Any] = {}
    table = read_table(samples, columns=["task", "doc_id", "prompt", "target"]).to_pylist()
    for row in table:
        digest = found.setdefault(row["task"], hashlib.sha256())
        digest.update(json.dumps([row["doc_id"], row["prompt"], row["target"]]).encode())
    return {task: digest.hexdigest() for task, digest in found.items()}


def summary(facts: Mapping[str, Any]) -> str:
    """One line for people."""
    known = figures(facts)
    said = ", ".join(f"{name} {shown(figure)}" for name, figure in list(known.items())[:_TOLD])
    more = f", and {len(known) - _TOLD} more figures" if len(known) > _TOLD else ""
    left = (
        f"; {n} requests unanswered, each of which took down several engines" if (n := facts.get("unanswered")) else ""
    )
    return f"{said or 'no figures'}{more}{left}{mishaps_text(facts)}"
