"""Why a pair exists, and what was made of it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.config.forms import FORMS
from orchestrator.errors import BadInput
from orchestrator.records.groups import GROUP, Units, groups_in
from orchestrator.records.masks import PAIR_MASKS
from orchestrator.records.pair_ids import completion_key
from orchestrator.records.seeds import derived_seed
from orchestrator.records.updates import epoch_batches
from orchestrator.reports.inspection.reading import RunReader, only, rows_with, table_of
from orchestrator.reports.inspection.views import Document
from orchestrator.reports.tables import round_step

_MOST_PLACES = 10_000_000
"""Pairs of updates that are looked through, of all epochs: some ten seconds of work. How many updates there were is
what a record says, which may be anybody's."""
_IDS = {"prompt": "prompt_token_ids", "chosen": "chosen_token_ids", "rejected": "rejected_token_ids"}


def pair(reader: RunReader, number: int | None, name: str) -> Document:
    """A pair of a round, by default of the last that has one of this name: `prompt` and gold answer; its `group`, if it
    is in one; its two `sides`, each with text, sample and verdict, if it is a sample, its score, if that was kept, and
    its log-probability under the round's reference, if that is known; `rule`, by which samples were paired; and
    `updates`, those of the round's training that it was part of (from 1).

    Raises:
        BadInput: the round has no such pair.
    """
    number, row = _found(reader, number, name)
    job = reader.state.configs[-1]["job"]
    told: Document = {
        "round": number,
        "pair_id": name,
        "prompt_id": row["prompt_id"],
        "prompt": as_text(row.get("prompt")),
    }
    told["gold"] = reader.prompts(number, "train", {row["prompt_id"]}).get(row["prompt_id"], {}).get("gold")
    told["rule"] = (job.get("pairs") or {}).get("rule")
    told |= {GROUP: row[GROUP]} if row.get(GROUP) is not None else {}
    told["sides"] = _sides(reader, number, row)
    told["updates"] = updates_with(reader, number, name)
    return told


def _found(reader: RunReader, asked: int | None, name: str) -> tuple[int, Document]:
    numbers = reversed(reader.rounds("pairs")) if asked is None else [reader.require(asked, "pairs")]
    for number in numbers:
        for file in reader.files(round_step(number, "pairs")):
            if rows := rows_with(file, {name}, "pair_id"):
                return number, rows[0]
    where = "no round has a" if asked is None else f"round {asked} has no"
    raise BadInput(f"{reader.root}: {where} pair {name!r}. `--problem ID` lists those of a problem.")


def _sides(reader: RunReader, number: int, row: Document) -> dict[str, Document | None]:
    ids = {side: row[_IDS[side]] for side in ("chosen", "rejected")}
    keys = {
        side: completion_key(row[_IDS["prompt"]], given, row.get(PAIR_MASKS[_IDS[side]]))
        for side, given in ids.items()
        if given is not None  # else the chosen completion is imitated
    }
    known = _reference(reader, number, keys.values())
    hinted = bool(reader.hinted(number, {row["prompt_id"]}))
    graded: dict[int, Document] | None = None
    if number in reader.rounds("verdicts") and any(row.get(f"{side}_sample") is not None for side in keys):
        graded = {each["sample"]: each for each in _graded(reader, number, row["prompt_id"], hinted)}
    told = {side: _side(row, side, keys[side], known, graded) if side in keys else None for side in ids}
    for side in told.values() if hinted else ():
        if side is not None and side["sample"] is not None:
            side["hinted"] = True
    return told


def _graded(reader: RunReader, number: int, name: str, hinted: bool) -> list[Document]:
    """The samples of a prompt, with their verdicts; no more than any job draws."""
    tables = (only(table, {name}).slice(0, 10_000) for table in reader.samples(number, {name}, hinted))
    return [row for table in tables for row in table.to_pylist()]


def _side(
    row: Document, side: str, key: str, known: dict[str, tuple[float, int]], graded: dict[int, Document] | None
) -> Document:
    sample, score = row.get(f"{side}_sample"), row.get(f"{side}_score")
    told: Document = {"text": as_text(row.get(side)), "sample": sample, "tokens": len(row[_IDS[side]])}
    told |= {} if score is None else {"score": score}
    told["reference_logprob"], told["scored_tokens"] = known.get(key, (None, None))
    if sample is not None and graded is not None:
        said = graded.get(sample, {})
        told |= {name: said.get(name) for name in ("verdict", "extracted", "rule", "reason", "finish_reason")}
        told |= {"rewards": said["rewards"]} if "rewards" in said else {}
    return told


def as_text(view: Any) -> str:
    """A side of a pair, or its prompt, as text: it may be a list of messages."""
    return view if isinstance(view, str) else "\n".join(str(message["content"]) for message in view or ())


def _reference(reader: RunReader, number: int, keys: Collection[str]) -> dict[str, tuple[float, int]]:
    found: dict[str, tuple[float, int]] = {}
    for file in reader.files(round_step(number, "reference")):
        rows = only(table_of(file), keys, "completion_key").to_pylist()
        found |= {row["completion_key"]: (row["logprob"], row["num_tokens"]) for row in rows}
    return found


def updates_with(reader: RunReader, number: int, name: str) -> list[int] | None:
    """The updates of a round's training, from 1, that a pair was part of; None where nothing is trained yet, or where
    they are too many to look through. They are not stored: which pairs an update takes follows from the pairs, the job
    and its seed (records/updates.py)."""
    trained = reader.state.commits.get(round_step(number, "train"))
    job = reader.state.configs[-1]["job"]
    if trained is None or not isinstance(steps := trained.facts.get("steps"), int):
        return None
    form = FORMS.get(job["loss"].get("form", "sigmoid"))
    grouped = form is not None and form.rows == "group"
    named, prompts = _trained_on(reader, number, job["train"].get("max_tokens"), grouped)
    names = [members[0] for members in named]
    if steps * (1 + min(len(names), job["train"]["batch_pairs"])) > _MOST_PLACES:
        return None
    batches = _batches(names, prompts, job, number)
    return [
        update
        for update, rows in enumerate(itertools.islice(batches, steps), start=1)
        if any(name in named[row] for row in rows)
    ]


def _batches(names: list[str], prompts: list[bytes], job: Document, number: int) -> Iterator[list[int]]:
    """Those of one epoch after another. How many of them are taken, the training itself says."""
    settings, seed = job["train"], derived_seed(job["seed"], "train", number)
    for epoch in itertools.count():
        batches = epoch_batches(names, prompts, seed, epoch, settings["batch_pairs"], settings["order"])
        if not batches:
            return
        yield from batches


Rows = tuple[list[list[str]], list[bytes]]


def _trained_on(reader: RunReader, number: int, most: int | None, grouped: bool) -> Rows:
    """What a round's training counted in its batches: the ids of each pair, or with `grouped` of each group's pairs,
    and the token ids of their prompts, without pairs that are too long."""
    named, prompts = list[list[str]](), list[bytes]()
    for phase in ("pairs", "replay"):
        for file in reader.files(round_step(number, phase)):
            known = [GROUP] if GROUP in pq.read_schema(file).names else []
            table = table_of(file, ["pair_id", *known, *_IDS.values()])
            sides = [pc.fill_null(pc.list_value_length(table[_IDS[side]]), 0) for side in ("chosen", "rejected")]
            longest = pc.add(pc.list_value_length(table["prompt_token_ids"]), pc.max_element_wise(*sides))
            kept = table if most is None else table.filter(pc.less_equal(longest, min(most, 2**31 - 1)))  # of 32 bits
            names, ids = kept["pair_id"].to_pylist(), kept["prompt_token_ids"].to_pylist()
            units = Units().add(groups_in(kept) if grouped else [None] * kept.num_rows)
            for row in units:
                named.append([names[pair] for pair in row])
                prompts.append(np.asarray(ids[row[0]], dtype="<i4").tobytes())
    return named, prompts
