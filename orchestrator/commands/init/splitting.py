"""Three sets of problems out of one file: none of them has a problem of another, word for word or nearly."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.commands.init.fields import Fields, boxed_in
from orchestrator.errors import BadInput
from orchestrator.inputs.digits import Label
from orchestrator.inputs.fields import SURROGATE
from orchestrator.inputs.overlap import overlaps
from orchestrator.records.rows import Problem

Rows = list[dict[str, Any]]
_SHARE = 10  # a tenth of the problems for each held-out set,
_LEAST, _MOST = 20, 1000  # but so many
FEWEST = 3 * _LEAST
"""Problems that can be split."""


def split(rows: Sequence[Mapping[str, Any]], fields: Fields, path: Path, seed: int = 0) -> dict[str, Rows]:
    """Rows for train, gate and test, drawn at random; each has an `id`, which numbers the row in its file where it had
    none. A row that stands in an earlier set as well is left out, and so is one without a box where answers are in it.

    Raises:
        BadInput: there are too few.
    """
    named = [_named(row, fields, path, number) for number, row in enumerate(rows)]
    named = [row for row in named if not fields.boxed or "boxed_answer" in row]
    if len(named) < FEWEST:
        raise BadInput(f"{path}: {len(named)} rows are too few for three sets; {FEWEST} are the least")
    order = random.Random(seed).sample(range(len(named)), len(named))
    held_out = min(max(_LEAST, len(named) // _SHARE), _MOST)
    places = {"gate": order[:held_out], "test": order[held_out : 2 * held_out], "train": order[2 * held_out :]}
    found = {name: [named[place] for place in sorted(places[name])] for name in ("train", "gate", "test")}
    found = _apart(found, fields)
    if empty := [name for name, rows in found.items() if not rows]:
        same = "its questions are the same, word for word or nearly"
        raise BadInput(f"{path}: {same}, so that nothing is left for {' and '.join(empty)}")
    return found


def _apart(sets: dict[str, Rows], fields: Fields) -> dict[str, Rows]:
    key = fields.id or "id"
    problems = {name: [_problem(row, key, fields) for row in rows] for name, rows in sets.items()}
    out = {(each.split, each.problem_id) for each in overlaps(problems)}
    return {name: [row for row in rows if (name, str(row[key])) not in out] for name, rows in sets.items()}


def _problem(row: Mapping[str, Any], key: str, fields: Fields) -> Problem:
    return Problem(str(row[key]), str(row[fields.question]), "", None)


def _named(row: Mapping[str, Any], fields: Fields, path: Path, number: int) -> dict[str, Any]:
    found = {name: _plain(value) for name, value in row.items()}
    if fields.id is None:
        found = {"id": f"{path.stem}-{number}"} | {name: value for name, value in found.items() if name != "id"}
    if fields.boxed:
        found.pop("boxed_answer", None)  # of somebody else
        if (gold := boxed_in(str(row[fields.answer]))) is not None:
            found["boxed_answer"] = gold
    return found


def _plain(value: Any) -> Any:
    """As JSON has it: a class by its name."""
    if isinstance(value, Label):
        return value.name
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    return [_plain(below) for below in value] if isinstance(value, list) else value


def write(sets: Mapping[str, Rows], folder: Path) -> None:
    """Write one JSONL file a set into a new folder."""
    folder.mkdir()
    for name, rows in sets.items():
        with open(folder / f"{name}.jsonl", "x", encoding="utf-8") as file:
            file.writelines(f"{_line(row)}\n" for row in rows)


def _line(row: Mapping[str, Any]) -> str:
    said = json.dumps(row, ensure_ascii=False, default=str)
    # Half a surrogate pair is no character; an escape says where it is, and `validate` whether it matters.
    return json.dumps(row, default=str) if SURROGATE.search(said) else said
