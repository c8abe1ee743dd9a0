"""What can be asked of a run, as JSON values. Pure but for reading; `shown.py` makes text of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import State
from orchestrator.reports.inspection.reading import RunReader, only, table_of
from orchestrator.reports.rounds import rounds

Document = dict[str, Any]
Split = Literal["train", "gate", "test"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which samples or answers are asked for; None: any."""

    round: int
    """0 is the base model, which has answers to gate and test alone."""
    split: Split = "train"
    """The round's own samples, or answers to a held-out set."""
    verdict: str | None = None
    cause: str | None = None
    rule: str | None = None
    """By which the answer was found, such as `boxed`."""
    text: str | None = None
    """In what the model wrote, in capitals or not."""
    problem: str | None = None

    def of(self, table: pa.Table) -> pa.Table:
        """Those of a table's rows that are asked for."""
        for column in ("verdict", "cause", "rule"):
            value = getattr(self, column)
            if value is not None and column in table.column_names:
                table = table.filter(pc.fill_null(pc.equal(table[column].cast(pa.string()), value), False))
            elif value is not None:
                table = table.slice(0, 0)
        if self.text is not None:
            table = table.filter(pc.match_substring(table["text"], self.text, ignore_case=True))
        return table if self.problem is None else only(table, {self.problem})


def samples(reader: RunReader, wanted: Wanted, limit: int) -> Document:
    """Samples of a round, or answers to a held-out set: `round`, `split`, `found` (how many there are) and `samples`,
    the first `limit` of them, each with prompt, gold answer, verdict and the pairs that it stands in."""
    found, rows = 0, list[Document]()
    for table in _tables(reader, wanted):
        kept = wanted.of(table)
        rows += kept.slice(0, max(0, limit - len(rows))).to_pylist()
        found += kept.num_rows
    return {"round": wanted.round, "split": wanted.split, "found": found, "samples": _told(reader, wanted, rows)}


def _tables(reader: RunReader, wanted: Wanted) -> Iterator[pa.Table]:
    if wanted.split == "train":
        only_of = None if wanted.problem is None else {wanted.problem}
        yield from reader.samples(reader.require(wanted.round, "verdicts"), only_of)
        return
    table = reader.answers(reader.require(wanted.round, "evaluation"), wanted.split)
    if table is None:
        raise BadInput(f"{reader.root}: round {wanted.round} was not evaluated on {wanted.split} problems")
    yield table


def _told(reader: RunReader, wanted: Wanted, rows: list[Document]) -> list[Document]:
    """Rows with prompt, gold answer and pairs."""
    ids = {row["prompt_id"] for row in rows}
    prompts = reader.prompts(wanted.round, wanted.split, ids)
    pairs = reader.pairs(wanted.round, ids) if wanted.split == "train" else []
    for row in rows:
        row |= prompts.get(row["prompt_id"], {"prompt": None, "gold": None})
        if wanted.split == "train":
            row["pairs"] = {side: _pairs_with(pairs, row, side) for side in ("chosen", "rejected")}
    return rows


def _pairs_with(pairs: list[Document], row: Document, side: str) -> list[str]:
    key = (row["prompt_id"], row["sample"])
    own = (pair for pair in pairs if not pair.get("hinted"))
    return [pair["pair_id"] for pair in own if (pair["prompt_id"], pair[f"{side}_sample"]) == key]


def flips(reader: RunReader, number: int, split: Split, limit: int) -> Document:
    """The problems of a held-out set whose answer became right (`won`) or wrong (`lost`) from the reference that round
    `number` started from to its candidate: both answers, side by side."""
    before = reference_before(reader.state, number)
    then, now = (reader.answers(each, split) for each in (before, reader.require(number, "evaluation")))
    if then is None or now is None:
        raise BadInput(f"{reader.root}: rounds {before} and {number} were not both evaluated on {split} problems")
    old, new = ({row["prompt_id"]: row for row in table.to_pylist()} for table in (then, now))
    changes = {
        name: "won" if new[name]["verdict"] == "correct" else "lost"
        for name in new
        if name in old and (new[name]["verdict"] == "correct") != (old[name]["verdict"] == "correct")
    }
    ordered = sorted(changes, key=lambda name: changes[name] == "won")  # what was lost first: one looks for that
    prompts = reader.prompts(number, split, ordered[:limit])
    told = [{"prompt_id": name, "change": changes[name], **prompts.get(name, {})} for name in ordered[:limit]]
    for row in told:
        row |= {"before": old[row["prompt_id"]], "after": new[row["prompt_id"]]}
    counted = Counter(changes.values())
    counts = {"won": counted["won"], "lost": counted["lost"], "problems": len(new)}
    return {"round": number, "against": before, "split": split, **counts, "flips": told}


def reference_before(state: State, number: int) -> int:
    """The round whose checkpoint was the reference when round `number` started; 0 is the base model."""
    earlier = [p["round"] for p in state.promotions if p["promoted"] and p["round"] < number]
    return int(max(earlier, default=0))


def problem(reader: RunReader, name: str) -> Document:
    """One problem through all rounds: `rounds`, each with its samples and pairs, and `answers` where it is held out.

    Raises:
        BadInput: no round knows it.
    """
    asked: Document = {"prompt_id": name, "split": None, "prompt": None, "gold": None, "rounds": [], "answers": []}
    for number in reader.rounds("prompts"):
        for split in ("train",) if number else ("gate", "test"):
            if told := reader.prompts(number, split, {name}).get(name):
                asked |= {"split": split, **told}
    if asked["split"] is None:
        raise BadInput(f"{reader.root}: no problem is called {name!r}. `ratchet inspect {reader.root}` shows some.")
    if asked["split"] == "train":
        for number in reader.rounds("verdicts"):
            found = samples(reader, Wanted(number, problem=name), limit=1000)["samples"]
            pairs = reader.pairs(number, {name})
            asked["rounds"] += [{"round": number, "samples": found, "pairs": pairs}] if found else []
    else:
        for number in reader.rounds("evaluation"):
            found = samples(reader, Wanted(number, asked["split"], problem=name), limit=1)["samples"]
            asked["answers"] += [{"round": number, **row} for row in found]
    return asked


def overview(reader: RunReader) -> Document:
    """What there is to look at: by round the samples by verdict, the pairs, and what was won and lost; `problems`, a
    few by id; `pair`, one by id; `last`, the last round that answers a question, by what `inspect` takes for it."""
    told: list[Document] = []
    for each in rounds(reader.state):
        counts = {key: each.known("verdicts", key) for key in ("correct", "wrong", "ungradable")}
        decision: Mapping[str, Any] = each.promotion or {}
        won, lost = decision.get("won"), decision.get("lost")
        told.append({"round": each.number, **counts, "pairs": each.known("pairs", "pairs"), "won": won, "lost": lost})
    evaluated = [each.number for each in rounds(reader.state) if each.facts.get("evaluation", {}).get("gate")]
    there = {"verdict wrong": reader.rounds("verdicts"), "flipped": evaluated, "checkpoint": reader.checkpoints()}
    last = {question: numbers[-1] for question, numbers in there.items() if numbers}
    baseline = reader.state.commits.get("baseline/evaluation")
    if not last and baseline and baseline.facts.get("test"):
        last = {"split test": 0}  # the base model's answers are all there is
    return {"rounds": told, "problems": _some_problems(reader), "pair": _some_pair(reader), "last": last}


def _some_problems(reader: RunReader) -> list[str]:
    for number in reversed(reader.rounds("verdicts")):
        for table in reader.samples(number):
            return list(dict.fromkeys(table["prompt_id"].to_pylist()))[:3]
    return []


def _some_pair(reader: RunReader) -> Document | None:
    for number in reversed(reader.rounds("pairs")):
        for file in reader.files(f"rounds/{number:02d}/pairs"):
            names = table_of(file, ["pair_id"])["pair_id"]
            return {"round": number, "pair_id": names[0].as_py()} if len(names) else None
    return None
