"""What `ratchet grade` does: options to settings, the progress bar, and the summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from orchestrator.commands.grade.file import Fields, Summary, grade_file, number_of_rows
from orchestrator.config import Grade, Judge
from orchestrator.config.words import wanted_at
from orchestrator.config.yaml_text import read_yaml
from orchestrator.driver.wiring import local_graders
from orchestrator.errors import BadInput, first_line
from orchestrator.records.abstentions import abstained, causes
from orchestrator.records.rows import GRADERS_VERSION
from orchestrator.text.counts import many
from orchestrator.text.shown import line
from orchestrator.text.terminal import Screen, echo, echo_json, watched

VERDICTS = ("correct", "wrong", "ungradable")


@dataclass(frozen=True)
class Options:
    """How to grade, as typed; None is the default of `grade` in a job file."""

    graders: Sequence[str] | None
    answer: Sequence[str] | None
    strict: bool
    timeout: float | None
    processes: int | None
    judge_model: str | None = None
    judge_url: str | None = None
    unreadable: str | None = None
    thoughts: Sequence[str] | None = None
    """Marks that end a model's thoughts; [""] is none, so that all of the text is read."""

    def judge(self) -> Judge | None:
        """The model that judges, if the graders have one.

        Raises:
            BadInput: it is none, or there is no use for it.
        """
        if "judge" not in (self.graders or ()):
            if self.judge_model is not None or self.judge_url is not None:
                raise BadInput("--judge-model and --judge-url are for --grader judge, which is not among the graders")
            return None
        if not self.judge_model:
            raise BadInput("--grader judge needs --judge-model, the name of the model that judges")
        try:
            return Judge(model=self.judge_model, base_url=self.judge_url)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise BadInput(f"--judge-url: {said}") from error

    def _marks(self) -> list[str] | None:
        marks = list(self.thoughts or [])
        if marks == [""]:
            return []
        if any(not mark.strip() for mark in marks):
            raise BadInput("--thoughts '' turns the marks off: give it alone, or marks that have characters")
        return marks or None

    def settings(self) -> Grade:
        """The same as a job's section `grade`.

        Raises:
            BadInput: an option is no such thing; the message names it.
        """
        graders = [_grader(grader) for grader in self.graders] if self.graders else None
        given: dict[str, Any] = {"graders": graders, "answer": list(self.answer or []) or None}
        given |= {"strict": self.strict, "timeout": self.timeout, "processes": self.processes}
        given |= {"unreadable": self.unreadable, "thoughts": self._marks()}
        try:
            return Grade.model_validate({key: value for key, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            option = {"graders": "--grader", "answer": "--answer"}.get(name, f"--{name}")
            if first["type"] == "value_error":
                raise BadInput(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error
            if name == "graders":
                raise BadInput(
                    f"--grader: {first['input']!r} is no grader; write a name, or such as {{all_of: [number, exact]}}"
                ) from error
            raise BadInput(f"{option}: must be {wanted_at(('grade', name))} (it is {first['input']})") from error


def _grader(text: str) -> Any:
    """A name, or a mapping in YAML such as {all_of: [number, exact]}."""
    if not text.startswith("{"):
        return text
    try:
        return read_yaml(text, "--grader", several_lines=False)[0]
    except BadInput as error:
        raise BadInput(
            f"--grader {text!r}: no YAML; write such as '{{all_of: [number, exact]}}' ({first_line(error)})"
        ) from error


def grade(file: Path, output: Path, fields: Fields, options: Options, as_json: bool) -> None:
    """Grade a file and tell what came of it.

    Raises:
        BadInput: as `Options.settings` and `grade_file`, or a grader cannot be made.
    """
    started = time.monotonic()
    settings, judge = options.settings(), options.judge()
    with local_graders(settings, judge) as pool, _bar(file, show=watched() and not as_json) as progress:
        summary = grade_file(file, output, fields, pool.grade, progress)
    seconds = time.monotonic() - started
    if as_json:
        verdicts = {name: summary.verdicts[name] for name in VERDICTS}
        told = {"rows": summary.rows, **verdicts, "accuracy": summary.accuracy, "rules": dict(summary.rules)}
        told |= {"causes": causes(summary.causes), "graders_version": GRADERS_VERSION}
        echo_json(told | {"seconds": round(seconds, 3), "output": str(output)})
    else:
        Screen().print(_table(summary))
        echo(f"{many(summary.rows, 'row')} in {seconds:.1f} s, {100 * summary.accuracy:.1f} % correct; see {output}")
        if summary.causes:
            echo(f"ungradable: {abstained(summary.causes)}; an ungradable row counts as not correct")


@contextlib.contextmanager
def _bar(file: Path, show: bool) -> Iterator[Callable[[int], None]]:
    columns = "grading", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Screen(err=True), disable=not show, transient=True) as progress:
        task = progress.add_task("", total=number_of_rows(file) if show else None)
        yield lambda rows: progress.advance(task, rows)


def _table(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("verdict", "rows", "answer by", "rows"):
        table.add_column(name, justify="right" if name == "rows" else "left")
    verdicts = [(name, str(summary.verdicts[name])) for name in VERDICTS]
    rules = [(line(rule), str(rows)) for rule, rows in summary.rules.most_common()]
    for verdict, rule in zip_longest(verdicts, rules, fillvalue=("", "")):
        table.add_row(*verdict, *rule)
    return table
