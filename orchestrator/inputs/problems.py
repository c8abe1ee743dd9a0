"""Problems from files and from the Hub: read, checked and templated. Which of them a round uses."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config import Data, Source
from orchestrator.errors import BadInput, Damaged
from orchestrator.inputs import hub_data
from orchestrator.inputs.fields import PROBLEM_READING, fields_in, fill, gold_of, present, text_of
from orchestrator.inputs.options import options_of
from orchestrator.inputs.overlap import overlaps
from orchestrator.inputs.problem_set import ProblemSet
from orchestrator.inputs.rows import rows_of, these
from orchestrator.ledger.columns import require_columns
from orchestrator.records.golds import accepted, best, joined
from orchestrator.records.problem_files import read_problem_file, write_problem_file
from orchestrator.records.rows import Problem


def read_problems(
    data: Data, split: str, find: Mapping[str, Path], reading: int = PROBLEM_READING, golds: bool = True
) -> ProblemSet:
    """The problems of a split ("train", "gate", "test", "tests.NAME"), in file order; `find` has the files of the
    splits that are files, `reading` says how rows are read (see `fields`), and `golds` whether each must have a gold
    answer: without, the field may be missing or null.

    Raises:
        BadInput: the file is missing, empty or malformed, the Hub has no such data set or cannot be reached,
            a field is missing, a gold answer is empty, or an id occurs twice. The message names place and field.
    """
    source, data = data.sources[split], data.of_set(split)
    ids = array("q")  # of each problem the hash of its id

    def rows() -> Iterator[Problem]:
        for place, row in islice(_rows(source, data, split, find), source.limit):
            yield (problem := _problem(data, row, len(ids), place, reading, golds))
            ids.append(hash(problem.prompt_id))

    try:
        problems = ProblemSet(rows())
    except BadInput:
        _require_different_ids(data, split, find, reading, ids)  # what stands above the bad row is told first
        raise
    _require_different_ids(data, split, find, reading, ids)
    if not problems:
        raise BadInput(f"data.{split}: {source.hub or find[split]} has no rows")
    return problems


def _require_different_ids(data: Data, split: str, find: Mapping[str, Path], reading: int, ids: array[int]) -> None:
    """Refuse an id that stands twice. Where two hashes are the same, the ids are read again: they need not be."""
    ordered = np.sort(np.frombuffer(ids, np.int64))
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated or data.id is None:
        return
    seen: dict[str, str] = {}
    for number, (place, row) in enumerate(islice(_rows(data.sources[split], data, split, find), len(ids))):
        if ids[number] in repeated:
            prompt_id = text_of(row, data.id, "data.id", place, reading)
            if prompt_id in seen:
                raise BadInput(f"{place}: id {prompt_id!r} stands at {seen[prompt_id]} too; ids must differ")
            seen[prompt_id] = place


def place_of(data: Data, split: str, find: Mapping[str, Path], number: int) -> str:
    """Where the problem of that number, from 0, stands in its file or data set."""
    return next(islice(_rows(data.sources[split], data, split, find), number, None))[0]


def _rows(source: Source, data: Data, split: str, find: Mapping[str, Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    named = (data.id, data.answer, data.choices, data.solution)
    of_templates = fields_in(data.template) | (fields_in(data.hint_template) - {"answer"})
    choose = these({*filter(None, named), *of_templates})
    if source.hub:
        return hub_data.rows(source, f"data.{split}", choose)
    return rows_of(find[split], f"data.{split}", choose)


def check_disjoint(splits: Mapping[str, Iterable[Problem]]) -> None:
    """Refuse a problem that stands in two splits, word for word or nearly (see `overlap`). The prompts of preference
    data are the split "stages".

    Raises:
        BadInput: naming the first such problem and its counterpart, and how many there are.
    """
    found = overlaps(splits)
    if not found:
        return
    first = found[0]
    alike = "the same text as" if first.similarity == 1 else "nearly the same text as"
    more = f" ({len(found)} problems in all)" if len(found) > 1 else ""
    split, other = (
        "stages.sources" if name == "stages" else f"data.{name}" for name in (first.split, first.other_split)
    )
    raise BadInput(
        f"{split}: problem {first.problem_id!r} has {alike} {first.other_id!r} in {other}{more}. What is trained on "
        "must not be evaluated on: remove it from one of them, or set `data.allow_overlap: true`."
    )


def pin(data: Data) -> Data:
    """The settings with each data set on the Hub at a certain commit."""
    return data.at({split: hub_data.pinned(source, f"data.{split}") for split, source in data.sources.items()})


def write_problems(splits: Mapping[str, Sequence[Problem]], folder: Path) -> dict[str, Any]:
    """Write one Parquet file a split into a new folder; returns the number of problems of each."""
    folder.mkdir()
    for split, problems in splits.items():
        write_problem_file(problems, folder / f"{split}.parquet")
    return {split: len(problems) for split, problems in splits.items()}


def kept_problems(folder: Path, data: Data) -> dict[str, ProblemSet]:
    """What `write_problems` wrote of the sets that the job has."""
    found: dict[str, ProblemSet] = {}
    for file in (folder / f"{split}.parquet" for split in data.sources):
        if file.exists():
            require_columns(file, folder.parent)
            found[file.stem] = ProblemSet(_kept_problem(problem, file) for problem in read_problem_file(file))
    return found


def _kept_problem(problem: Problem, file: Path) -> Problem:
    if any(value is None for value in (problem.prompt_id, problem.text, problem.gold)):
        raise Damaged(f"{file}: a problem in it has no id, text or gold answer. Restore it from a copy.")
    return problem


def require_enough(problems: Sequence[Problem], data: Data, rounds: int) -> None:
    """Refuse `prompts: new` where some problem would come twice.

    Raises:
        BadInput: with the numbers and the cure.
    """
    need = (data.prompts_per_round or 0) * rounds
    if data.prompts == "new" and need > len(problems):
        raise BadInput(
            f"data.prompts: `new` needs {need} problems for {rounds} rounds of {data.prompts_per_round}, and "
            f"data.train has {len(problems)}: lower one of them, or let prompts come again "
            "(`prompts: split`)"
        )


def _problem(data: Data, row: Mapping[str, Any], number: int, place: str, reading: int, golds: bool) -> Problem:
    prompt_id = str(number) if data.id is None else text_of(row, data.id, "data.id", place, reading)
    gold = _gold(data, row, place, reading) if golds or row.get(data.answer) is not None else ""
    if data.choices is not None:
        options = options_of(row, data.choices, place)
        what = f"{place}: the gold answer (field {data.answer!r})"
        given = row.get(data.answer)
        in_words = any(isinstance(one, str) for one in (given if isinstance(given, list) else [given]))
        gold = joined([options.label_of(one, what, in_words) for one in accepted(gold)]) if gold else gold
        row = {**row, data.choices: options.lines()}
    text = fill(data.template, row, "data.template", place, reading)
    hint = None
    if data.hint_template is not None:
        hint = fill(data.hint_template, {**row, "answer": best(gold)}, "data.hint_template", place, reading)
    return Problem(prompt_id, text, gold, _solution(data, row, best(gold), place, reading), hint)


def _gold(data: Data, row: Mapping[str, Any], place: str, reading: int) -> str:
    """The gold answer, of a list all accepted ones."""
    value = present(row, data.answer, "data.answer", place)
    what = f"{place}: field {data.answer!r} (data.answer)"
    gold = gold_of(value, what, data.answer_marker, "data.answer_marker", reading)
    if not all(accepted(gold)):
        raise BadInput(f"{place}: the gold answer (field {data.answer!r}) is empty")
    return gold


def _solution(data: Data, row: Mapping[str, Any], gold: str, place: str, reading: int) -> str | None:
    """The worked solution as a model should give it."""
    if data.solution is None:
        return None
    solution = text_of(row, data.solution, "data.solution", place, reading)
    for pattern in data.solution_strip:
        solution = re.sub(pattern, "", solution)
    if data.solution_template is not None:
        parts = {"solution": solution, "answer": gold}
        solution = fill(data.solution_template, parts, "data.solution_template", place, reading)
    if not solution.strip():
        raise BadInput(f"{place}: the solution (field {data.solution!r}) is empty")
    return solution
