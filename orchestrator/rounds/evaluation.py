"""Greedy answers on gate and test, and the check that the engine serves what the trainer exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from orchestrator.config import Job
from orchestrator.config.data import TESTS
from orchestrator.config.sampling import OWN
from orchestrator.errors import RatchetError
from orchestrator.files.inside import remove
from orchestrator.ledger.run import Facts
from orchestrator.models.sizes import said_format
from orchestrator.records.abstentions import abstained
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import CAUSES, EVALUATION, SAMPLES, SamplingPlan, Shard
from orchestrator.records.statistics import wilson_interval
from orchestrator.rounds.sampling import (
    Engines,
    Graders,
    Slice,
    mishaps,
    mishaps_text,
    sample_and_grade,
    shards_of,
    versions,
)
from orchestrator.rounds.watched import Answers
from orchestrator.text.counts import bracketed

EXACT, ROUNDED = 0.005, 0.05
"""Nats a token; see `tolerance`. Measured on CPU: the demo's model after 8 updates at 1e-4 differs by 8e-8 where both
compute in float32, by 1.2e-3 where the engine is in bfloat16, by 1.3e-3 where the trainer is; SmolLM2-135M by 5e-3 in
bfloat16. Larger models round more, and float32 has room for kernels of GPUs that multiply in TF32."""


QUESTION = ("prompt_id", "text", "gold")
"""Columns of a file of prompts that an evaluation repeats."""


class ProbeFailed(RatchetError):
    """Engine and trainer disagree about a checkpoint, so nothing that either says of it can be trusted."""


def evaluate(
    engines: Engines,
    graders: Graders,
    files: Mapping[str, Path],
    plan: SamplingPlan,
    shard_prompts: int,
    output: Path,
    answers: Answers | None = None,
) -> Facts:
    """Answer each split's prompts once; write `output`/SPLIT.parquet (schema EVALUATION). `answers` is told how far it
    is.

    A prompt that was given up, since it took down several engines, is not solved; nor is one whose answer is
    ungradable. Returns for each split: problems, correct, accuracy with its 95 % interval (Wilson), mean_tokens, how
    many are truncated, unreadable, failed or without a readable gold answer; `graders_version`; and what went wrong, if
    anything did (`quarantined`, `engines_lost`, `graders_lost`).
    """
    asked = ask(engines, graders, files, plan, shard_prompts, output, answers or Answers())
    facts: Facts = {}
    for split in files:
        table = _asked(pa.concat_tables(_joined(split, *part) for part in asked.of(split)), files[split])
        pq.write_table(table, output / f"{split}.parquet", compression="zstd")
        facts[split] = facts_of(table)
    return by_set(facts) | asked.finish()


def by_set(facts: Mapping[str, Facts]) -> Facts:
    """Figures by set as an evaluation tells them: those of further test sets below `tests`, by their own names."""
    further = {name.partition(".")[2]: told for name, told in facts.items() if name.startswith(f"{TESTS}.")}
    first = {name: told for name, told in facts.items() if "." not in name}
    return first | ({TESTS: further} if further else {})


@dataclass(frozen=True)
class Asked:
    """Prompts of some files that were answered and graded, in a folder for work in progress."""

    slices: Mapping[str, Sequence[Slice]]
    work: Path
    shards: Sequence[Facts]
    """Of samples and of verdicts, as they came."""

    def of(self, split: str) -> Iterator[tuple[list[str], Path, Path]]:
        """The ids of a slice's prompts, its samples and its verdicts, slice by slice."""
        for part in self.slices[split]:
            yield list(part.golds), _file(self.work, "samples", part.index), _file(self.work, "verdicts", part.index)

    def finish(self) -> Facts:
        """Remove the folder; the facts that are not of one file."""
        remove(self.work.parent, self.work)
        return versions(self.shards) | mishaps(self.shards, "quarantined", "engines_lost", "graders_lost")


def ask(
    engines: Engines,
    graders: Graders,
    files: Mapping[str, Path],
    plan: SamplingPlan,
    shard_prompts: int,
    output: Path,
    answers: Answers,
) -> Asked:
    """Answer the prompts of each file, and have the answers graded; makes the folder `output`, and one beside it for
    work in progress. `answers` is told how far it is."""
    slices: dict[str, list[Slice]] = {}
    for split, file in files.items():
        slices[split] = shards_of(file, shard_prompts, first_index=sum(map(len, slices.values())))
    output.mkdir(exist_ok=True)
    work, shards = beside(output), list[Facts]()

    def keep(index: int, facts: Facts) -> None:
        shards.append(facts)  # an evaluation is committed as a whole
        answers.shard(facts)

    every = [slice_ for part in slices.values() for slice_ in part]
    expected = plan.samples * sum(slice_.stop - slice_.start for slice_ in every)
    answers.expect(expected, "problems" if plan.samples == 1 else "samples")
    samples = partial(_file, work, "samples")
    sample_and_grade(engines, graders, every, plan, (samples, samples), partial(_file, work, "verdicts"), keep, keep)
    return Asked(slices, work, shards)


def _file(work: Path, what: str, index: int) -> Path:
    return work / f"{what}-{index}.parquet"


def regrade(graders: Graders, stored: Path, asked: Path, output: Path) -> Facts:
    """Grade the texts of an evaluated split once more, and write them with their new verdicts (schema EVALUATION).

    `asked` is the file of its prompts. A prompt that was given up stays so. Returns the split's figures as `evaluate`
    does, its `graders_version`, and `changed`, how many problems count otherwise than before.
    """
    table = read_table(stored)
    split, prompts = table["split"][0].as_py(), table["prompt_id"].to_pylist()
    given_up = pa.compute.equal(table["finish_reason"], "quarantined")
    answered = table.filter(pa.compute.invert(given_up)).select(("prompt_id", "text", "token_ids", "finish_reason"))
    answered = answered.append_column("sample_index", pa.array([0] * answered.num_rows, pa.int32()))
    answered = answered.append_column("num_tokens", pa.compute.list_value_length(answered["token_ids"]))
    work = beside(output.parent)
    samples, verdicts = (work / f"{output.name}-{what}" for what in ("samples", "verdicts"))
    pq.write_table(answered.select(SAMPLES.names).cast(SAMPLES), samples)
    graders.submit(Shard(0, str(samples), 0, answered.num_rows, str(verdicts)), golds(asked))
    shards = [facts for _, facts in graders.drain()]
    again = _asked(_joined(split, prompts, samples, verdicts), asked)
    pq.write_table(again, output, compression="zstd")
    remove(work.parent, work)
    return facts_of(again) | versions(shards) | {"changed": changed(stored, output)}


def tolerance(job: Job, dtype: str, model: Path) -> float:
    """How far engines may be from the trainer's word on the checkpoint in a folder, in nats a token. They serve it by
    `dtype`, a value of `generate.dtype`.

    Raises:
        BadInput: its config.json is damaged.
    """
    if (given := job.evaluate.probe_tolerance) is not None:
        return given
    if job.train.precision != "fp32":
        return ROUNDED
    served = job.generate.engine.get("dtype", dtype)
    served = said_format(model) if served in (OWN, "auto") else served
    return EXACT if served in ("float32", "float") else ROUNDED


def check_probe(engines: Engines, probe: Path, most: float) -> Facts:
    """Compare every engine's log-probabilities of the probe's completions with the trainer's.

    Raises:
        ProbeFailed: a token's log-probability differs by more than `most` nats on average.
    """
    rows = read_table(probe).to_pydict()
    completions, said = rows["completion_token_ids"], rows["logprob"]
    worst, num_tokens = 0.0, 0
    for number, sums in enumerate(engines.logprobs(rows["prompt_token_ids"], completions)):
        scored = [
            (ours, theirs, len(c)) for ours, theirs, c in zip(sums, said, completions, strict=True) if ours is not None
        ]
        num_tokens = sum(length for _, _, length in scored)
        if not num_tokens:
            raise ProbeFailed(
                f"{probe}: none of the probe's completions fits the engine's context; raise max_model_len"
            )
        difference = sum(abs(ours - theirs) for ours, theirs, _ in scored) / num_tokens
        # A comparison that is false for NaN: no number is no agreement.
        if not difference <= most:
            raise ProbeFailed(
                f"engine {number} and the trainer disagree about the new checkpoint: a token's log-probability "
                f"differs by {difference:.4f} nats on average over {num_tokens} tokens (evaluate.probe_tolerance is "
                f"{most}). The checkpoint is not promoted."
            )
        worst = max(worst, difference)
    return {"mean_difference": worst, "tokens": num_tokens, "completions": len(completions)}


def solved(file: Path) -> dict[str, bool]:
    """Which problems of an evaluation were answered correctly; whatever is not correct is not solved."""
    table = read_table(file, columns=["prompt_id", "verdict"])
    pairs = zip(table["prompt_id"].to_pylist(), table["verdict"].to_pylist(), strict=True)
    return {prompt_id: verdict == "correct" for prompt_id, verdict in pairs}


def changed(before: Path, after: Path) -> int:
    """How many problems of an evaluation count otherwise since it was graded again."""
    then, now = solved(before), solved(after)
    return sum(then[prompt_id] != now[prompt_id] for prompt_id in then)


def golds(prompts: Path) -> dict[str, str]:
    """Gold answers by prompt."""
    table = read_table(prompts, columns=["prompt_id", "gold"])
    return dict(zip(table["prompt_id"].to_pylist(), table["gold"].to_pylist(), strict=True))


def summary(facts: Mapping[str, Any]) -> str:
    """One line for people."""
    parts = []
    for split, e in {"gate": facts.get("gate"), "test": facts.get("test"), **facts.get(TESTS, {})}.items():
        if e is None:
            continue
        accuracy = f"{split} {100 * e['accuracy']:.1f} % {bracketed(e['low'], e['high'])}"
        why = abstained(e)
        parts.append(accuracy + (f", with {why} as not solved" if why else ""))
    if not parts and facts.get("probe"):
        parts.append(f"engine and trainer agree to {facts['probe']['mean_difference']:.4f} nats a token; no problems")
    return ", ".join(parts) + mishaps_text(facts)


def beside(output: Path) -> Path:
    """A new folder for work in progress: what workers leave in that of the output would be committed with it."""
    work = output.with_name(f"{output.name}.work-e0")
    work.mkdir()
    return work


def _asked(table: pa.Table, prompts: Path) -> pa.Table:
    """Rows of an evaluation with what was asked: the prompt's text and its gold answer."""
    known = read_table(prompts, columns=list(QUESTION))
    places = pa.compute.index_in(table["prompt_id"], known["prompt_id"])
    for name, column in {"prompt": "text", "gold": "gold"}.items():
        values = known[column].take(places).combine_chunks()
        table = table.set_column(table.column_names.index(name), EVALUATION.field(name), values)
    return table


def misquoted(table: pa.Table, prompts: pa.Table) -> list[str]:
    """The ids of an evaluation's rows whose prompt or gold answer is not that of the prompts (columns QUESTION). Files
    of earlier versions tell of neither."""
    if not {"prompt", "gold"} <= set(table.column_names):
        return []
    asked = {row["prompt_id"]: (row["text"], row["gold"]) for row in prompts.to_pylist()}
    rows = table.select(["prompt_id", "prompt", "gold"]).to_pylist()
    return [row["prompt_id"] for row in rows if asked.get(row["prompt_id"]) != (row["prompt"], row["gold"])]


def _joined(split: str, prompts: Sequence[str], samples: Path, verdicts: Path) -> pa.Table:
    """One row a prompt, also for those that were given up: two models are compared on the same problems."""
    left, right = read_table(samples), read_table(verdicts)
    if not left["prompt_id"].equals(right["prompt_id"]):
        raise RatchetError(f"{verdicts}: the verdicts are not in the samples' order")
    columns = [pa.array([split] * left.num_rows)]
    columns += [left[name] for name in ("prompt_id", "text", "token_ids", "finish_reason")]
    columns += [right[name] for name in ("verdict", "extracted", "cause")]
    columns += [pa.nulls(left.num_rows, pa.string())] * 2  # what was asked: see `_asked`
    answered = set(left["prompt_id"].to_pylist())
    given_up: list[dict[str, Any]] = [
        {"split": split, "prompt_id": prompt, "text": "", "token_ids": [], "extracted": None}
        | {"finish_reason": "quarantined", "verdict": "ungradable"}
        for prompt in prompts
        if prompt not in answered
    ]
    rows = pa.Table.from_pylist(given_up, schema=EVALUATION)
    return pa.concat_tables([pa.table(columns, schema=EVALUATION), rows])


def given_up(table: pa.Table) -> list[str]:
    """Prompts of an evaluated split that took down several engines."""
    names: list[str] = table.filter(pa.compute.equal(table["finish_reason"], "quarantined"))["prompt_id"].to_pylist()
    return names


def facts_of(table: pa.Table) -> Facts:
    """The figures of an evaluated split (schema EVALUATION): see `evaluate`. Graders of version 1 had no `cause`."""
    verdicts = table["verdict"].to_pylist()
    correct = verdicts.count("correct")
    low, high = wilson_interval(correct, len(verdicts))
    causes = table["cause"].to_pylist() if "cause" in table.column_names else None
    lengths = [len(ids) for ids in table["token_ids"].to_pylist()]
    return {
        "problems": len(verdicts),
        "correct": correct,
        "accuracy": correct / len(verdicts),
        "low": low,
        "high": high,
        "truncated": table["finish_reason"].to_pylist().count("length"),
        **({cause: causes.count(cause) for cause in CAUSES if cause != "truncated"} if causes is not None else {}),
        "mean_tokens": sum(lengths) / len(lengths),
    }
