"""Which fields of a file of data are the question, the answer and so on, told from their names and from what they
hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.errors import BadInput

Task = Literal["math", "choice", "preference"]
Row = Mapping[str, Any]

_QUESTION = ("question", "problem", "prompt", "query", "instruction", "input", "text")
_ANSWER = (
    *("answer", "final_answer", "gold", "expected_answer", "ground_truth", "target", "answerKey", "answer_key"),
    *("label", "correct", "correct_answer", "output", "response", "solution"),
)
_CHOICES = ("choices", "options")
_ID = ("id", "_id", "uid", "uuid", "idx", "question_id", "problem_id")
_MARKER = "####"
_MOST = 0.9  # share of the rows that must have what is taken for a form of theirs


@dataclass(frozen=True, slots=True)
class Fields:
    """What stands where in a row."""

    task: Task
    question: str = ""
    answer: str = ""
    choices: str | None = None
    id: str | None = None
    """None: no field has a value of its own in every row."""
    marker: str | None = None
    """The answer is what follows the last of these."""
    boxed: bool = False
    """The answer is in the last \\boxed{} of its field."""
    numbers: bool = False
    """Whether nearly all answers are plain numbers."""

    def line(self) -> str:
        """For people."""
        if self.task == "preference":
            return "preference data: chosen and rejected"
        how = f", after the last {self.marker!r}" if self.marker else ", in the last \\boxed{}" if self.boxed else ""
        named = [f"question {self.question!r}", f"answer {self.answer!r}{how}"]
        named += [f"options {self.choices!r}"] if self.choices else []
        return ", ".join([*named, f"id {self.id!r}" if self.id else "no ids, so that rows are numbered"])


def fields_of(rows: Sequence[Row], task: Task | None, path: str) -> Fields:
    """What stands where in these rows, for a task or for the one that they look like.

    Raises:
        BadInput: a field that the task needs is not there.
    """
    everywhere = [name for name in rows[0] if all(row.get(name) is not None for row in rows)]
    if task == "preference" or (task is None and {"chosen", "rejected"} <= {*everywhere}):
        if missing := {"chosen", "rejected"} - {*everywhere}:
            raise _without(" and ".join(sorted(missing)), everywhere, path)
        return Fields("preference")
    choices = _first(_CHOICES, everywhere)
    task = task or ("choice" if choices else "math")
    if task == "choice" and choices is None:
        raise _without("options of a choice (choices, options)", everywhere, path)
    question = _first(_QUESTION, [name for name in everywhere if isinstance(rows[0][name], str)])
    if question is None:
        raise _without(f"question ({', '.join(_QUESTION)})", everywhere, path)
    answer = _first(_ANSWER, [name for name in everywhere if name not in (question, choices)])
    if answer is None:
        raise _without(f"answer ({', '.join(_ANSWER[:8])}, ...)", everywhere, path)
    marker, boxed = _form(rows, answer) if task == "math" else (None, False)
    given = (_gold(row[answer], marker, boxed) for row in rows)
    return Fields(
        task,
        question,
        answer,
        choices if task == "choice" else None,
        next((name for name in _ID if name in everywhere and _differ(rows, name)), None),
        marker,
        boxed,
        task == "math" and _share(map(_is_number, given)) >= _MOST,
    )


def boxed_in(text: str) -> str | None:
    """What is in the last \\boxed{} of a text, braces counted; None where there is none that ends."""
    start = text.rfind("\\boxed{")
    depth = 0
    for end in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + 7 : end].strip()
    return None


def _form(rows: Sequence[Row], answer: str) -> tuple[str | None, bool]:
    """How the answer stands in its field: behind a marker, in a box, or alone."""
    texts = [str(row[answer]) for row in rows]
    if _share(_MARKER in text for text in texts) == 1:
        return _MARKER, False
    return None, _share(boxed_in(text) is not None for text in texts) >= _MOST


def _gold(value: Any, marker: str | None, boxed: bool) -> str:
    text = str(value)
    return text.rpartition(marker)[2].strip() if marker else (boxed_in(text) or "") if boxed else text.strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[$€£]?\s*[-+−]?\d[\d,]*(\.\d+)?\s*%?", text) is not None


def _differ(rows: Sequence[Row], name: str) -> bool:
    values = [row[name] for row in rows]
    return all(isinstance(value, str | int) for value in values) and len(set(map(str, values))) == len(values)


def _first(names: Sequence[str], there: Sequence[str]) -> str | None:
    by_name = {name.lower(): name for name in reversed(there)}
    return next((by_name[name.lower()] for name in names if name.lower() in by_name), None)


def _share(said: Iterable[bool]) -> float:
    found = list(said)
    return sum(found) / len(found)


def _without(what: str, there: Sequence[str], path: str) -> BadInput:
    named = ", ".join(map(repr, there)) or "none"
    return BadInput(
        f"{path}: no field is known as the {what}. Fields that every row has: {named}. Name it as one of these, or "
        "write the job by hand (docs/job-file.md): `data.template`, `data.answer` and `data.choices` take any name."
    )
