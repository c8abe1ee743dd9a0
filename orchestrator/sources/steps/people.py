"""First wrong reasoning steps from people: questions go out as JSONL, verdicts come back as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput, Damaged, RatchetError, first_line
from orchestrator.files.inside import regular_size
from orchestrator.files.strict_json import no_repeated
from orchestrator.records.golds import shown
from orchestrator.records.rows import Problem
from orchestrator.sources.steps.pairing import Error
from orchestrator.text.counts import many


class VerdictsNeeded(RatchetError):
    """A round waits for people to say which steps are wrong."""


def write_questions(errors: Sequence[Error], problems: Mapping[str, Problem], file: Path) -> int:
    """One line an error: `id`, `problem`, `gold`, `solution` (the worked one, or null) and the numbered `steps`.
    Returns how many."""
    with open(file, "w", encoding="utf-8") as out:
        for error in errors:
            problem = problems[error.prompt_id]
            steps = [{"number": number, "text": text} for number, text in enumerate(error.answer.step_texts, start=1)]
            row = {
                "id": error.error_id,
                "problem": problem.text,
                "gold": shown(problem.gold),
                "solution": problem.solution,
            }
            out.write(json.dumps(row | {"steps": steps}, ensure_ascii=False) + "\n")
    return len(errors)


def read_verdicts(file: Path, questions: Path, errors: Sequence[Error]) -> dict[str, int | None]:
    """The number of the first wrong step by error, None where no step is wrong.

    Raises:
        VerdictsNeeded: there is no such file.
        BadInput: a line is no verdict, or an error has none.
    """
    try:
        regular_size(file)
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # some editors write a byte order mark
    except FileNotFoundError as error:
        raise VerdictsNeeded(
            f"{questions}: verdicts are needed of {many(len(errors), 'wrong answer')}. Write {file}, one line of JSON "
            'an answer, such as {"id": ..., "first_wrong": 2}: the number of the first wrong step, or null where none '
            "is. Then the same command goes on, or `ratchet resume` with the run's folder."
        ) from error
    except (OSError, UnicodeDecodeError, Damaged) as error:
        raise BadInput(f"{file}: cannot be read ({first_line(error)})") from error
    wanted = {error.error_id: len(error.answer.steps) for error in errors}
    first_wrong_by_error: dict[str, int | None] = {}
    for error_id, first_wrong in _verdicts(file, lines, wanted):
        first_wrong_by_error[error_id] = first_wrong
    if missing := [error_id for error_id in wanted if error_id not in first_wrong_by_error]:
        raise BadInput(
            f"{file}: {len(missing)} of {len(wanted)} answers have no verdict, such as {missing[0]!r}; write "
            '"first_wrong": null where no step is wrong'
        )
    return first_wrong_by_error


def _verdicts(file: Path, lines: Sequence[str], wanted: Mapping[str, int]) -> Iterator[tuple[str, int | None]]:
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        at = f"{file}:{number}"
        try:
            row: Any = json.loads(line, object_pairs_hook=no_repeated)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{at}: no JSON ({first_line(error)})") from error
        if not isinstance(row, dict) or "id" not in row or "first_wrong" not in row:
            raise BadInput(f'{at}: must be an object with "id" and "first_wrong"')
        error_id, first_wrong = row["id"], row["first_wrong"]
        if not isinstance(error_id, str) or error_id not in wanted:
            raise BadInput(f"{at}: id {error_id!r} is none of the questions")
        if error_id in line_of:
            raise BadInput(f"{at}: {error_id!r} has a verdict on line {line_of[error_id]} already")
        steps = wanted[error_id]
        if first_wrong is not None and (type(first_wrong) is not int or not 1 <= first_wrong <= steps):
            raise BadInput(f"{at}: first_wrong must be a step from 1 to {steps}, or null; it is {first_wrong!r}")
        line_of[error_id] = number
        yield error_id, first_wrong
