"""Test problems answered several times by sampling: pass@k and the majority's vote. They are told, and decide nothing.

Two wrong answers are equal where the graders say so: the one is graded as if the other were the gold answer. That is
asked only where it can change which answer most samples give.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.golds import SEPARATOR
from orchestrator.records.parquet import read_table
from orchestrator.records.repeated import RIGHT, bootstrap, ks, majority, pass_at
from orchestrator.records.rows import CAUSES, REPEATED, SAMPLES, SamplingPlan, Shard
from orchestrator.records.seeds import derived_seed
from orchestrator.rounds.context import (
    Context,
    Model,
    engine,
    evaluation_tokens,
    executed,
    graded_by,
    grading,
)
from orchestrator.rounds.evaluation import ask
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.sampling import Engines, Graders, mishaps_text
from orchestrator.rounds.watched import Answers
from orchestrator.text.counts import bracketed

MOST_COMPARED = 16
"""Different wrong answers to a problem that are compared with one another, those that most samples give; others are
equal where their text is."""


def answer(context: Context, model: Model, folder: str) -> None:
    """The step `repeated` of a folder, where the job wants it: the test problems, answered by the model."""
    job, run, name = context.job, context.run, f"{folder}/repeated"
    if not job.evaluate.samples:
        return
    prompts, generate = files_of(run.ledger.state.commits["baseline/prompts"]), job.generate
    plan = SamplingPlan(
        samples=job.evaluate.samples,
        temperature=job.evaluate.temperature,
        top_p=generate.top_p,
        top_k=generate.top_k,
        max_tokens=evaluation_tokens(job),
        stop=tuple(generate.stop),
        seed=context.seed("repeated", folder),
        seeding=generate.seeding,
    )
    inputs = {
        "model": model.files,
        "prompts": prompts,
        "plan": plan,
        **engine(context.workers, generate),
        **grading(job.grade, job.judge),
        "executed": executed(generate=generate, **graded_by(job.grade, job.judge)),
    }
    sets = [split for split in context.problems if split not in ("train", "gate")]
    seed, files = interval_seed(job.seed, name), {s: run.path(f"baseline/prompts/{s}.parquet") for s in sets}
    compare = "judge" not in job.grade.graders  # whose word costs money

    def work(output: Path) -> Facts:
        facts: Facts = {"executed": {}}
        engines, wait = ready(lambda: context.engines(model, facts["executed"]))
        told, graders = Answers(run.watch, name), context.workers.graders(job.grade)
        drawn = draw(engines, graders, files, plan, generate.shard_prompts, output, seed, told, compare)
        return facts | wait.once() | drawn

    commit = run.step(name, inputs, work)
    context.tell(folder, "repeated", summary(commit.facts))


def interval_seed(seed: int, step: str) -> int:
    """The seed of a step's intervals, from the job's."""
    return derived_seed(seed, "bootstrap", step)


def draw(
    engines: Engines,
    graders: Graders,
    files: Mapping[str, Path],
    plan: SamplingPlan,
    shard_prompts: int,
    output: Path,
    seed: int,
    answers: Answers,
    compare: bool = True,
) -> Facts:
    """Answer each prompt `plan.samples` times; write `output`/SET.parquet (schema REPEATED) for each file of `files`,
    by the name of its set. `compare`: have the graders say which wrong answers are equal; else their text does.

    Returns `sets`, by name the figures of `facts_of`; `graders_version`; and what went wrong, if anything did.
    """
    asked = ask(engines, graders, files, plan, shard_prompts, output, answers)
    sets: dict[str, Facts] = {}
    for name in files:
        problems = list(_problems(asked.of(name)))
        if compare:
            _compare(graders, problems, asked.work / f"same-{name}")
        table = pa.Table.from_pylist([row for problem in problems for row in problem.numbered()], REPEATED)
        pq.write_table(table, output / f"{name}.parquet", compression="zstd")
        sets[name] = facts_of(table, seed)
    return {"sets": sets} | asked.finish()


@dataclass
class _Problem:
    """A problem's samples with their verdicts, and which of its wrong answers are one."""

    rows: list[dict[str, Any]]
    same: dict[str, str] = field(default_factory=dict)
    """By a wrong answer's text one that it is equal to."""

    @property
    def wrong(self) -> Counter[str]:
        """How many samples give each wrong answer."""
        return Counter(row["extracted"] for row in self.rows if _votes(row) and row["verdict"] != "correct")

    def in_doubt(self) -> list[str]:
        """The wrong answers whose equality decides what most samples say; the most frequent first."""
        right, wrong = sum(row["verdict"] == "correct" for row in self.rows), self.wrong
        if len(wrong) < 2 or not max(wrong.values()) <= right <= wrong.total():
            return []
        return [answer for answer, _ in wrong.most_common(MOST_COMPARED) if SEPARATOR not in answer]

    def numbered(self) -> Iterator[dict[str, Any]]:
        """The rows with the number of their answer."""
        roots = dict.fromkeys(self.same.get(answer, answer) for answer in self.wrong)
        number = {answer: RIGHT + 1 + i for i, answer in enumerate(roots)}
        for row in self.rows:
            said = row["extracted"]
            vote = RIGHT if row["verdict"] == "correct" else number[self.same.get(said, said)] if _votes(row) else None
            yield row | {"answer": vote}


def _votes(row: Mapping[str, Any]) -> bool:
    return row["verdict"] == "correct" or row["extracted"] is not None


def _problems(parts: Iterator[tuple[list[str], Path, Path]]) -> Iterator[_Problem]:
    """The problems of some slices in order, also those that were given up: these have one row, without an answer."""
    for prompts, samples, verdicts in parts:
        rows: dict[str, list[dict[str, Any]]] = {prompt: [] for prompt in prompts}
        columns = ["prompt_id", "sample_index", "verdict", "extracted", "cause"]
        said = read_table(verdicts, columns=columns).to_pylist()
        for sample, verdict in zip(read_table(samples).to_pylist(), said, strict=True):
            rows[sample["prompt_id"]].append(sample | verdict)
        for prompt, found in rows.items():
            yield _Problem(found or [_given_up(prompt)])


def _given_up(prompt: str) -> dict[str, Any]:
    return {
        **{"prompt_id": prompt, "sample_index": 0, "text": "", "token_ids": [], "num_tokens": 0, "extracted": None},
        **{"finish_reason": "quarantined", "verdict": "ungradable", "cause": None},
    }


def _compare(graders: Graders, problems: Sequence[_Problem], work: Path) -> None:
    """Have the graders say which of the answers in doubt are equal, two at a time."""
    rows: list[dict[str, Any]] = []
    golds: dict[str, str] = {}
    pairs: list[tuple[_Problem, str, str]] = []
    for problem in problems:
        giving = {row["extracted"]: row for row in problem.rows if row["verdict"] != "correct"}
        for first, other in itertools.combinations(problem.in_doubt(), 2):
            name = str(len(pairs))
            pairs.append((problem, first, other))
            golds[name] = first
            rows.append(giving[other] | {"prompt_id": name, "sample_index": 0, "finish_reason": "stop"})
    if not pairs:
        return
    samples, verdicts = (work.with_name(f"{work.name}-{what}") for what in ("samples", "verdicts"))
    pq.write_table(pa.Table.from_pylist(rows, SAMPLES), samples)
    graders.submit(Shard(0, str(samples), 0, len(rows), str(verdicts)), golds)
    for _ in graders.drain():
        pass
    said = read_table(verdicts, columns=["verdict"])["verdict"].to_pylist()
    for (problem, first, other), verdict in zip(pairs, said, strict=True):
        if verdict == "correct":
            one, two = (problem.same.get(answer, answer) for answer in (first, other))
            for answer in problem.wrong:
                if problem.same.get(answer, answer) == two:
                    problem.same[answer] = one


def facts_of(table: pa.Table, seed: int) -> Facts:
    """The figures of a set that was answered several times (schema REPEATED).

    `problems`, `samples` a problem, `truncated` of all samples and of the ungradable ones how many for which other
    cause, `mean_tokens`; and `pass_at`, by number of samples, and `majority`, each as a `share` of the problems with
    its 95 % interval, `low` and `high`: a bootstrap over the problems, by this seed.
    """
    verdicts: dict[str, list[str]] = {}
    votes: dict[str, list[int | None]] = {}
    names = ("prompt_id", "verdict", "answer")
    for prompt, verdict, answer in zip(*(table[name].to_pylist() for name in names), strict=True):
        verdicts.setdefault(prompt, []).append(verdict)
        votes.setdefault(prompt, []).append(answer)
    right = {prompt: said.count("correct") for prompt, said in verdicts.items()}
    num_samples = max(map(len, verdicts.values()), default=1)
    figures = {str(k): [pass_at(k, num_samples, count) for count in right.values()] for k in ks(num_samples)}
    shares = _shares(figures | {"majority": [majority(of_problem) for of_problem in votes.values()]}, seed)
    lengths, causes = table["num_tokens"].to_pylist(), table["cause"].to_pylist()
    return {
        "problems": len(right),
        "samples": num_samples,
        "truncated": table["finish_reason"].to_pylist().count("length"),
        **{cause: causes.count(cause) for cause in CAUSES if cause != "truncated"},
        "mean_tokens": sum(lengths) / max(1, len(lengths)),
        "majority": shares.pop("majority"),
        "pass_at": shares,
    }


def _shares(figures: Mapping[str, Sequence[float]], seed: int) -> dict[str, dict[str, float]]:
    """The means of figures by problem, with their intervals."""
    found = zip(figures.items(), bootstrap(list(figures.values()), seed), strict=True)
    return {
        name: {"share": sum(values) / max(1, len(values)), "low": low, "high": high}
        for (name, values), (low, high) in found
    }


def summary(facts: Mapping[str, Any]) -> str:
    """One line for people."""
    return "; ".join(f"{name} {_told(figures)}" for name, figures in facts["sets"].items()) + mishaps_text(facts)


def _told(figures: Mapping[str, Any]) -> str:
    ends = dict.fromkeys(("1", str(figures["samples"])))
    shares = {f"pass@{k}": figures["pass_at"][k] for k in ends} | {"majority": figures["majority"]}
    return ", ".join(f"{label} {_percent(share)}" for label, share in shares.items())


def _percent(share: Mapping[str, float]) -> str:
    return f"{100 * share['share']:.1f} % {bracketed(share['low'], share['high'])}"
