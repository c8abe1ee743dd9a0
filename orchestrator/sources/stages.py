"""Preference data, stage by stage (sDPO, arXiv 2403.19270).

    chunks    the sources, or parts of one, tokenised
    ranking   of each chunk, how many pairs the seed model ranks right: those that are easy for it come first
    pairs     a stage's chunk, of which its reference must know nothing

Everything but the last happens before round 1. That guard looks at the bare texts of every pair that the reference
descends from, in this run and in the one that its seed model, or a fixed reference, is from. A reference that has been
trained on the data that it is to judge finds the chosen sides likely, and the loss then asks for more of what is there
already.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import BadInput
from orchestrator.files import durable
from orchestrator.inputs.preference_rows import STEPS
from orchestrator.inputs.preferences import texts, told
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import hashes
from orchestrator.records import counts
from orchestrator.records.rows import LossWeights, TrainingPlan
from orchestrator.reports import lineage
from orchestrator.rounds.context import Context, Model, executed, preference_plan
from orchestrator.rounds.round import NoPairs, Round
from orchestrator.rounds.training import precision

_TEXTS = ["pair_id", "prompt", "chosen", "rejected"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Which rows of which source make a chunk; None are all."""

    name: str
    source: Path
    rows: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stage's data, as token ids. `ranking_accuracy` is the seed model's, where it decides on the order."""

    name: str
    file: Path
    """Pairs, schema `pairs_schema`."""
    pairs: int
    ranking_accuracy: float | None = None

    def __str__(self) -> str:
        ranked = "" if self.ranking_accuracy is None else f", {100 * self.ranking_accuracy:.1f} % ranked right"
        return f"{self.name}: {self.pairs} pairs{ranked}"


def pairs(this: Round, model: Model) -> Commit:
    """The pairs of a round, which is a stage.

    Raises:
        BadInput: the stage's reference has been trained on some of them, or no pair of a chunk can be used.
        NoPairs: the reference has been trained on all of them, and they were to be left out.
    """
    context, run, number = this.context, this.context.run, this.number
    chunks = prepare(context)
    if number == 1 and run.committed(f"{this.folder}/pairs") is None:
        with run.using([run.used(chunk.file) for chunk in chunks]):
            _tell_leaks_early(context, chunks)
    chunk = chunks[number - 1]
    known = lineage.pair_files_of_reference(run.root, number)
    drop = context.job.stages.drop_seen if context.job.stages else False
    inputs = {"chunk": run.used(chunk.file), "known": [run.used(file) for file in known], "drop_seen": drop}

    def work(folder: Path) -> Facts:
        seen = seen_rows(chunk.file, known)
        if seen and not drop:
            raise _leak(number, chunk, seen)
        folder.mkdir()
        facts = _copy_unseen(chunk.file, seen, folder / "00000.parquet")
        order = {} if chunk.ranking_accuracy is None else {"ranking_accuracy": chunk.ranking_accuracy}
        return facts | {"chunk": chunk.name, "seen": len(seen)} | order

    commit = run.step(f"{this.folder}/pairs", inputs, work)
    this.say("pairs", f"{commit.facts['pairs']} of {chunk.name}{told(commit.facts)}")
    if not commit.facts["pairs"]:
        raise NoPairs(f"round {number} has nothing to learn from: its reference has seen all of {chunk.name}")
    return commit


def prepare(context: Context) -> list[Chunk]:
    """The chunks of the job's preference data, in the order of the stages.

    Raises:
        BadInput: no pair of a chunk can be used, or there are fewer prompts than chunks.
    """
    stages = context.job.stages
    assert stages is not None
    chunks = _tokenized(context)
    if stages.order == "easy_first" and len(chunks) > 1:
        ranked = [replace(chunk, ranking_accuracy=_rank(context, i, chunk)) for i, chunk in enumerate(chunks)]
        chunks = sorted(ranked, key=lambda chunk: -(chunk.ranking_accuracy or 0.0))  # of equals the first as given
    elif stages.order == "random":
        chunks = random.Random(context.seed("stages", "order")).sample(chunks, len(chunks))
    return chunks


def deal(prompt_ids: Sequence[str], count: int, seed: int) -> list[list[int]]:
    """Deal rows out to so many chunks of about the same size, at random, all rows of a prompt to one of them; in each
    chunk they stay in order. Fewer prompts than chunks leave some empty."""
    rows_of: dict[str, list[int]] = {}
    for row, prompt_id in enumerate(prompt_ids):
        rows_of.setdefault(prompt_id, []).append(row)
    chunks: list[list[int]] = [[] for _ in range(count)]
    for prompt_id in random.Random(seed).sample(list(rows_of), len(rows_of)):
        min(chunks, key=len).extend(rows_of[prompt_id])
    return [sorted(chunk) for chunk in chunks]


def seen_rows(file: Path, known: Sequence[Path]) -> list[str]:
    """Ids of the pairs in a file of which a completion stands, to the same prompt, in one of the known files."""
    digests = {digest for earlier in known for _, row in _digests(earlier) for digest in row}
    return [pair_id for pair_id, row in _digests(file) if digests & row] if digests else []


def _cuts(context: Context) -> list[Cut]:
    run, stages = context.run, context.job.stages
    kept = run.ledger.state.commits["baseline/preferences"]
    names = [source["name"] for source in kept.facts["sources"]]
    files = [run.path(f"baseline/preferences/{number:05d}.parquet") for number in range(len(names))]
    count = stages.split if stages else None
    if count is None:
        return [Cut(name, file) for name, file in zip(names, files, strict=True)]
    with run.using(hashes(kept)):
        prompt_ids = pq.read_table(files[0], columns=["prompt_id"])["prompt_id"].to_pylist()
    if len(set(prompt_ids)) < count:
        raise BadInput(f"stages.split: {names[0]} has {len(set(prompt_ids))} prompts, too few for {count} chunks")
    parts = deal(prompt_ids, count, context.seed("stages", "split"))
    return [Cut(f"{names[0]}, part {i} of {count}", files[0], rows) for i, rows in enumerate(parts, 1)]


def _tokenized(context: Context) -> list[Chunk]:
    run, cuts = context.run, _cuts(context)
    plan = preference_plan(context.job, context.seed_model)
    inputs = {
        "preferences": hashes(run.ledger.state.commits["baseline/preferences"]),
        "rows": durable.fingerprint([cut.rows for cut in cuts]),
        "plan": Fields(plan, {"model": context.seed_files}),
    }

    def work(folder: Path) -> Facts:
        counts: list[Facts] = []
        for number, cut in enumerate(cuts):
            output = str(folder / f"{number:05d}.parquet")
            made = context.workers.tokenize_preferences(str(cut.source), cut.rows, plan, output)
            if not made["pairs"]:
                raise BadInput(f"stages.sources: {cut.name} has no pair that can be used{told(made)}")
            counts.append({"name": cut.name, **made})
        return {"chunks": counts, "pairs": sum(count["pairs"] for count in counts)}

    commit = run.step("baseline/chunks", inputs, work)
    chunks = []
    for number, facts in enumerate(commit.facts["chunks"]):
        if left_out := told(facts):
            context.say(f"{'baseline':<10} {'chunks':<11} {facts['name']}{left_out}")
        chunks.append(Chunk(facts["name"], run.path(f"baseline/chunks/{number:05d}.parquet"), facts["pairs"]))
    return chunks


def _rank(context: Context, number: int, chunk: Chunk) -> float:
    """Share of a chunk's pairs that the seed model ranks right."""
    train, model = context.job.train, context.seed_model
    inputs = {"model": context.seed_files, "pairs": context.run.used(chunk.file), **precision(train)}
    inputs["executed"] = executed(train=train)

    def work(folder: Path) -> Facts:
        folder.mkdir()
        facts = context.workers.trainers().reference(_scoring(model, chunk.file, folder), str(folder / "00000.parquet"))
        return facts | {"executed": context.workers.execution("train")}

    commit = context.run.step(f"baseline/ranking/{number:02d}", inputs, work)
    return float(commit.facts["ranking_accuracy"])


def _scoring(model: str, file: Path, folder: Path) -> TrainingPlan:
    """A plan for a reference pass; nothing is trained by it."""
    unused = str(folder / "unused")
    return TrainingPlan(
        init=model,
        reference=model,
        pairs=(str(file),),
        loss=LossWeights(beta=1.0, dpo=0.0, nll=0.0),
        learning_rate=0.0,
        seed=0,
        state_dir=unused,
        failure_file=unused,
        metrics_file=unused,
        probe_file=unused,
        checkpoint_dir=unused,
    )


def _tell_leaks_early(context: Context, chunks: Sequence[Chunk]) -> None:
    """What would stop a later stage is told before the first one, as far as it is known by then."""
    job = context.job
    if job.stages is None or job.stages.drop_seen:
        return
    first = lineage.pair_files_of_reference(context.run.root, 1)
    for number, chunk in enumerate(chunks[: job.rounds], 1):
        before = [earlier.file for earlier in chunks[: number - 1]] if job.reference == "previous" else []
        known = before if job.init == "previous" else before[-1:]
        if seen := seen_rows(chunk.file, [*first, *known]):
            raise _leak(number, chunk, seen)


def _leak(number: int, chunk: Chunk, seen: Sequence[str]) -> BadInput:
    row = pq.read_table(chunk.file, columns=_TEXTS).filter(pc.field("pair_id") == seen[0]).to_pylist()[0]
    prompt = next(texts(row))[0]
    shown = prompt if len(prompt) <= 100 else f"{prompt[:97]}..."
    return BadInput(
        f"stages: the reference of stage {number} has been trained on {len(seen)} of the {chunk.pairs} pairs of "
        f"{chunk.name}, or on a completion of theirs, such as pair {seen[0]!r} (prompt {shown!r}). A reference must "
        "not know its stage's data: take these out of one of the sources, or set `stages.drop_seen: true`, which "
        "leaves them out of this stage."
    )


def _copy_unseen(source: Path, seen: Sequence[str], output: Path) -> dict[str, Any]:
    table = pq.read_table(source)
    if seen:
        table = table.filter(pc.invert(pc.is_in(table["pair_id"], pa.array(seen, pa.string()))))
    pq.write_table(table, output, compression="zstd")
    return {"pairs": table.num_rows} | counts.mean_lengths(counts.side_lengths(table), table.num_rows)


def _digests(file: Path) -> Iterator[tuple[str, set[bytes]]]:
    """Of each pair its id, and a digest of the bare text of its prompt with each of its completions."""
    with pq.ParquetFile(file) as parquet:
        columns = [*_TEXTS, *({STEPS} & set(parquet.schema_arrow.names))]
        for batch in parquet.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                found = {hashlib.blake2b("\x1f".join(text).encode(), digest_size=16).digest() for text in texts(row)}
                yield row["pair_id"], found
