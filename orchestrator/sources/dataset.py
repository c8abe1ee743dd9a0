"""Preference data, stage by stage (sDPO, arXiv 2403.19270).

    chunks    the sources, or parts of one, tokenised
    ranking   of each chunk, how many pairs the base model ranks right: those that are easy for it come first
    pairs     a stage's chunk, of which its reference must know nothing

Everything but the last happens before round 1. That guard looks at the bare texts of every pair that the reference
descends from, in this run and in the one that its base model, or a fixed reference, is from. A reference that has been
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

from orchestrator.config import Job, Stages
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import durable
from orchestrator.inputs.preference_rows import STEPS
from orchestrator.inputs.preferences import left_out_text, texts
from orchestrator.ledger.ledger import Commit, State
from orchestrator.ledger.recipes import Fields
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records import counts
from orchestrator.records.parquet import read_table, streamed
from orchestrator.records.rows import ScoringPlan
from orchestrator.reports import lineage
from orchestrator.reports.columns import Column, Reported, Section, count, fact
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.lineage import TOKENS, Trail, all_ids
from orchestrator.reports.tables import step_rows
from orchestrator.rounds import space
from orchestrator.rounds.context import Context, Model, executed, preference_plan
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.recount import Counting, Recounted, ids_in, pair_counts, rows_in
from orchestrator.rounds.round import NoPairs, Round
from orchestrator.rounds.training import precision
from orchestrator.sources.source import Source
from orchestrator.text.counts import many

_TEXTS = ["pair_id", "prompt", "chosen", "rejected"]


@dataclass(frozen=True, slots=True)
class Cut:
    """Which rows of which source make a chunk; None are all."""

    name: str
    source: Path
    rows: list[int] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stage's data, as token ids. `ranking_accuracy` is the base model's, where it decides on the order."""

    name: str
    file: Path
    """Pairs, schema `pairs_schema`."""
    pairs: int
    ranking_accuracy: float | None = None

    def __str__(self) -> str:
        ranked = "" if self.ranking_accuracy is None else f", {100 * self.ranking_accuracy:.1f} % ranked right"
        return f"{self.name}: {many(self.pairs, 'pair')}{ranked}"


def pairs(round_: Round, model: Model) -> Commit:
    """The pairs of a round, which is a stage.

    Raises:
        BadInput: the stage's reference has been trained on some of them, or no pair of a chunk can be used.
        NoPairs: the reference has been trained on all of them, and they were to be left out.
    """
    context, run, number = round_.context, round_.context.run, round_.number
    chunks = prepare(context)
    if number == 1 and run.committed(f"{round_.folder}/pairs") is None:
        with run.using([run.used_file(chunk.file) for chunk in chunks]):
            _tell_leaks_early(context, chunks)
    chunk = chunks[number - 1]
    known = lineage.pair_files_of_reference(run.root, number)
    drop = Stages.of(context.job).drop_seen
    inputs = {"chunk": run.used_file(chunk.file), "known": [run.used_file(file) for file in known], "drop_seen": drop}

    def work(folder: Path) -> Facts:
        seen = seen_rows(chunk.file, known)
        if seen and not drop:
            raise _leak(number, chunk, seen)
        folder.mkdir()
        facts = _copy_unseen(chunk.file, seen, folder / "00000.parquet")
        order = {} if chunk.ranking_accuracy is None else {"ranking_accuracy": chunk.ranking_accuracy}
        return facts | {"chunk": chunk.name, "seen": len(seen)} | order

    commit = run.step(f"{round_.folder}/pairs", inputs, work)
    round_.say("pairs", f"{commit.facts['pairs']} of {chunk.name}{left_out_text(commit.facts)}")
    if not commit.facts["pairs"]:
        raise NoPairs(f"round {number} has nothing to learn from: its reference has seen all of {chunk.name}")
    return commit


def prepare(context: Context) -> list[Chunk]:
    """The chunks of the job's preference data, in the order of the stages.

    Raises:
        BadInput: no pair of a chunk can be used, or there are fewer prompts than chunks.
    """
    stages = Stages.of(context.job)
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
    run, stages = context.run, Stages.of(context.job)
    kept = run.ledger.state.commits["baseline/preferences"]
    names = [source["name"] for source in kept.facts["sources"]]
    files = [run.path(f"baseline/preferences/{number:05d}.parquet") for number in range(len(names))]
    count = stages.split
    if count is None:
        return [Cut(name, file) for name, file in zip(names, files, strict=True)]
    with run.using(files_of(kept)):
        prompt_ids = read_table(files[0], columns=["prompt_id"])["prompt_id"].to_pylist()
    if len(set(prompt_ids)) < count:
        raise BadInput(f"stages.split: {names[0]} has {len(set(prompt_ids))} prompts, too few for {count} chunks")
    parts = deal(prompt_ids, count, context.seed("stages", "split"))
    return [Cut(f"{names[0]}, part {i} of {count}", files[0], rows) for i, rows in enumerate(parts, 1)]


def _tokenized(context: Context) -> list[Chunk]:
    run, cuts = context.run, _cuts(context)
    plan = preference_plan(context.job, context.base_model)
    inputs = {
        "preferences": files_of(run.ledger.state.commits["baseline/preferences"]),
        "rows": durable.fingerprint([cut.rows for cut in cuts]),
        "plan": Fields(plan, {"model": context.base_files}),
    }

    def work(folder: Path) -> Facts:
        folder.mkdir()
        counts: list[Facts] = []
        for number, cut in enumerate(cuts):
            output = str(folder / f"{number:05d}.parquet")
            made = context.workers.tokenize_preferences(str(cut.source), cut.rows, plan, output)
            if not made["pairs"]:
                raise BadInput(f"stages.sources: {cut.name} has no pair that can be used{left_out_text(made)}")
            counts.append({"name": cut.name, **made})
        return {"chunks": counts, "pairs": sum(count["pairs"] for count in counts)}

    commit = run.step("baseline/chunks", inputs, work)
    chunks = []
    for number, facts in enumerate(commit.facts["chunks"]):
        if left_out := left_out_text(facts):
            context.say(f"{'baseline':<10} {'chunks':<11} {facts['name']}{left_out}")
        chunks.append(Chunk(facts["name"], run.path(f"baseline/chunks/{number:05d}.parquet"), facts["pairs"]))
    return chunks


def _rank(context: Context, number: int, chunk: Chunk) -> float:
    """Share of a chunk's pairs that the base model ranks right."""
    train, model = context.job.train, context.base_model
    inputs = {"model": context.base_files, "pairs": context.run.used_file(chunk.file), **precision(train)}
    inputs["executed"] = executed(train=train)

    def work(folder: Path) -> Facts:
        folder.mkdir()
        plan = ScoringPlan(model, model, (str(chunk.file),))
        trainers, wait = ready(context.workers.trainers)
        facts = wait.added(trainers.score(plan, str(folder / "00000.parquet")))
        return facts | {"executed": context.workers.execution("train")}

    commit = context.run.step(f"baseline/ranking/{number:02d}", inputs, work)
    return float(commit.facts["ranking_accuracy"])


def _tell_leaks_early(context: Context, chunks: Sequence[Chunk]) -> None:
    """What would stop a later stage is told before the first one, as far as it is known by then."""
    job = context.job
    if Stages.of(job).drop_seen:
        return
    first = lineage.pair_files_of_reference(context.run.root, 1)
    for number, chunk in enumerate(chunks[: job.rounds], 1):
        before = [earlier.file for earlier in chunks[: number - 1]] if job.reference == "previous" else []
        known = before if job.init == "previous" else before[-1:]
        if seen := seen_rows(chunk.file, [*first, *known]):
            raise _leak(number, chunk, seen)


def _leak(number: int, chunk: Chunk, seen: Sequence[str]) -> BadInput:
    row = read_table(chunk.file, columns=_TEXTS).filter(pc.field("pair_id") == seen[0]).to_pylist()[0]
    prompt = next(texts(row))[0]
    shown = prompt if len(prompt) <= 100 else f"{prompt[:97]}..."
    return BadInput(
        f"stages: the reference of stage {number} has been trained on {len(seen)} of the {chunk.pairs} pairs of "
        f"{chunk.name}, or on a completion of theirs, such as pair {seen[0]!r} (prompt {shown!r}). A reference must "
        "not know its stage's data: take these out of one of the sources, or set `stages.drop_seen: true`, which "
        "leaves them out of this stage."
    )


def _copy_unseen(source: Path, seen: Sequence[str], output: Path) -> dict[str, Any]:
    table = read_table(source)
    if seen:
        table = table.filter(pc.invert(pc.is_in(table["pair_id"], pa.array(seen, pa.string()))))
    pq.write_table(table, output, compression="zstd")
    return {"pairs": table.num_rows} | counts.mean_lengths(counts.side_lengths(table), table.num_rows)


def _digests(file: Path) -> Iterator[tuple[str, set[bytes]]]:
    """Of each pair its id, and a digest of the bare text of its prompt with each of its completions."""
    with streamed(file) as parquet:
        columns = [*_TEXTS, *({STEPS} & set(parquet.schema_arrow.names))]
        for batch in parquet.iter_batches(batch_size=256, columns=columns):
            for row in batch.to_pylist():
                found = {hashlib.blake2b("\x1f".join(text).encode(), digest_size=16).digest() for text in texts(row)}
                yield row["pair_id"], found


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    """A stage may be all of the data: their text, and ids of some two characters each."""
    pairs, characters = problems.get("stages", (0, 0.0))
    return pairs, int(pairs * characters * 3)


def _follow(run_dir: Path, state: State, place: str) -> Iterator[str]:
    """Whether each pair of a stage is one of the preference data that the run has tokenised."""
    step = f"{place}/pairs"
    whole = step_rows(run_dir, state, "baseline/chunks", ["pair_id", *TOKENS])
    chunks = {row["pair_id"]: all_ids(row) for row in whole}
    for row in step_rows(run_dir, state, step, ["pair_id", *TOKENS]):
        if chunks.get(row["pair_id"]) != all_ids(row):
            yield f"{step}: pair {row['pair_id']!r} is no pair of baseline/chunks"


def _recount_chunks(run: Counting, step: str) -> Facts:
    rows = [rows_in(file) for file in run.files.all(step)]
    sources, said = run.state.commits["baseline/preferences"].facts["sources"], run.state.commits[step].facts
    whole, chunks = len(rows) == len(sources), [dict[str, Any](pairs=number) for number in rows]
    for number, chunk in enumerate(chunks):
        parts = {} if whole else {"name": f"{sources[0]['name']}, part {number + 1} of {len(rows)}"}
        chunk |= {"name": sources[number]["name"]} if whole else parts
    left_out = sum(n for c in said["chunks"] for key, n in c.items() if key not in ("name", "pairs"))
    if sum(rows) + left_out != sum(source["pairs"] for source in sources):
        raise Damaged(f"the chunks tell of {left_out} pairs that were left out, and the sources say otherwise")
    return {"pairs": sum(rows), "chunks": chunks}


def _recount_ranking(run: Counting, step: str, number: str) -> Facts:
    return run.scored(step, [run.files.one(f"baseline/chunks/{int(number):05d}.parquet")])


def _recount(run: Counting, step: str, _number: str) -> Facts:
    [file] = run.files.all(step)
    chunks = [ids_in(chunk) for chunk in run.files.all("baseline/chunks")]
    number = next((n for n, ids in enumerate(chunks) if set(ids_in(file)) <= set(ids)), None)
    if number is None:
        raise Damaged("its pairs are of no one chunk")
    name = run.state.commits["baseline/chunks"].facts["chunks"][number]["name"]
    found = pair_counts(file) | {"chunk": name, "seen": len(chunks[number]) - rows_in(file)}
    if (ranking := run.state.commits.get(f"baseline/ranking/{number:02d}")) is not None:
        found["ranking_accuracy"] = ranking.facts["ranking_accuracy"]
    return found


def _before_after(evidence: Evidence, key: str) -> str:
    ends = [fact(evidence, phase, key, ".2f") for phase in ("reference", "policy")]
    return " → ".join(end for end in ends if end)


_COLUMNS = (
    Column("stage", lambda e: str(e.round.number)),
    Column("data", lambda e: str(e.round.facts.get("pairs", {}).get("chunk", ""))),
    Column("pairs", lambda e: count(e, "pairs", "pairs")),
    Column("left out, seen", lambda e: count(e, "pairs", "seen")),
    Column("ranked right by the base model", lambda e: fact(e, "pairs", "ranking_accuracy", ".3f")),
    Column("by the reference", lambda e: fact(e, "reference", "ranking_accuracy", ".3f")),
    Column("by the policy", lambda e: fact(e, "policy", "ranking_accuracy", ".3f")),
    Column("reward accuracy", lambda e: fact(e, "policy", "reward_accuracy", ".3f")),
    Column("gamma of the reference", lambda e: fact(e, "reference", "gamma", ".2f")),
    Column("of the policy", lambda e: fact(e, "policy", "gamma", ".2f")),
    Column("log chosen", lambda e: _before_after(e, "chosen_logprob")),
    Column("log rejected", lambda e: _before_after(e, "rejected_logprob")),
)
_ABOUT = (
    "Means over a stage's pairs, in nats. Gamma is the log-probability of the chosen side less that of the rejected "
    "one; a pair is ranked right where it is positive, and rewarded right where the policy's is larger than the "
    "reference's. Log-probabilities are the reference's, and the trained policy's."
)

SOURCE = Source(
    pairs=pairs,
    trail=Trail(("pairs",), _follow),
    recounted=Recounted(
        {
            r"baseline/chunks": _recount_chunks,
            r"baseline/ranking/(\d+)": _recount_ranking,
            r"rounds/(\d+)/pairs": _recount,
        }
    ),
    disk=space.Disk(_rows, prompts_of="stages", begins="pairs"),
    reported=Reported(
        [
            Section(
                "Stages",
                _COLUMNS,
                _ABOUT,
                lambda evidence: "chunk" in evidence.round.facts.get("pairs", {}),
            )
        ],
        settings=[("preference data", "stages.sources")],
    ),
    scores_policy=True,
)
