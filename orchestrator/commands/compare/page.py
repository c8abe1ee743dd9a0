"""`ratchet compare RUN RUN --page FILE.html`: models side by side in one file without network, with what each answered
to the same test problems. What the runs say is text there, as in the page of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.commands.compare.side_by_side import JUDGED_APART, Side, differences, opened, paired, side
from orchestrator.errors import BadInput
from orchestrator.files.rights import reason
from orchestrator.files.unfinished import replace
from orchestrator.reports.inspection.views import Document
from orchestrator.reports.page.answers import CAP, GONE, ROW, shortened
from orchestrator.reports.page.figures import figures
from orchestrator.reports.page.page import assembled
from orchestrator.reports.status import open_run
from orchestrator.sources.registry import SOURCES
from orchestrator.text.terminal import echo

_SCRIPTS = ("text.js", "charts.js", "common.js", "compare.js")
_TOLD = ("verdict", "cause", "rule", "extracted", "reason", "finish_reason", "tokens", "text")
_Key = tuple[str, str]
"""A problem's text and gold answer, by which it is the same in all runs."""


def write(named: Sequence[str], file: Path, err: bool = False) -> None:
    """Write the page of these models (RUN or RUN@roundN) to a file, and say where it is, with `err` on stderr.

    Raises:
        BadInput: there is no such run or round, or the page cannot be written.
        Damaged: a record is not what it should be.
    """
    told = document(named)
    try:
        replace(file, page(told))
    except OSError as error:
        cure = "Give a file that can be."
        raise BadInput(f"{file}: cannot be written: {reason(error)}. {cure}") from error
    echo(f"page      {file}: {len(told['problems']):,} of {told['all']:,} test problems", err)
    for what in told["left_out"]:
        echo(f"left out  {what}", err)


def page(told: Document) -> bytes:
    """The page of a document, in UTF-8."""
    return assembled("compare.html", _SCRIPTS, ", ".join(each["name"] for each in told["sides"]), told)


def document(named: Sequence[str], cap: int = CAP) -> Document:
    """What the page shows, as a JSON value: `sides`, each with its figures and those of its run by round; `settings`
    that differ; `problems` with every side's answer, of `all`, those on which the sides differ first: as many as have
    `cap` characters, an answer without a text counting for some, too; `sentences`; what was `left_out`; and the
    `version` that made it."""
    sides = [side(each) for each in named]
    problems, left_out = _problems(sides, cap)
    keys = {key for each in sides for key in each.solved}
    return {
        "version": __version__,
        "sentences": list(_sentences(sides)),
        "sides": [_side(sides[0], each) for each in sides],
        "settings": [{"key": key, "values": values} for key, values in differences(sides).items()],
        "problems": problems,
        "all": len(keys),
        "left_out": left_out,
    }


def _side(first: Side, each: Side) -> Document:
    test = None if each is first else paired(first, each)
    ledger = open_run(each.run)
    return {
        "name": each.name,
        "round": each.round,
        "method": each.job.get("method"),
        "test": {key: each.figures.get(key) for key in ("accuracy", "low", "high")} if each.figures else None,
        "won": test and test.won,
        "lost": test and test.lost,
        "shared": test and test.shared,
        "p_value": test.p_value if test and test.shared else None,
        "rounds": figures(each.run, SOURCES, ledger)["rounds"],
    }


def _sentences(sides: Sequence[Side]) -> Sequence[str]:
    found = []
    for other in sides[1:]:
        test = paired(sides[0], other)
        if not test.shared:
            found.append(f"{other.name} and {sides[0].name} have answered no test problem both.")
            continue
        chance = "is hardly chance" if test.p_value < 0.05 else "may be chance"
        found.append(
            f"Of {test.shared:,} test problems that both answered, {other.name} solves {test.won:,} that "
            f"{sides[0].name} does not, and misses {test.lost:,} that it solves, which {chance} "
            f"(p = {test.p_value:.3g})."
        )
    if len({each.graders for each in sides}) > 1:
        found.append(f"{JUDGED_APART[0].upper()}{JUDGED_APART[1:]}.")
    return found


def _problems(sides: Sequence[Side], cap: int) -> tuple[list[Document], list[str]]:
    """The problems with their answers, as many as fit; and what could not be read."""
    answers, left_out = [], list[str]()
    for each in sides:
        try:
            answers.append(_answers(each))
        except GONE as error:
            answers.append({})
            left_out.append(f"test answers of {each.name}: {error}")
    keys = dict.fromkeys(key for of_side in answers for key in of_side)
    found, size = list[Document](), 0
    for key in sorted(keys, key=lambda key: not _differ(answers, key)):
        told = [_answer(of_side.get(key)) for of_side in answers]
        prompt, gold = map(shortened, key)
        size += ROW + len(prompt) + len(gold) + sum(map(_size, told))
        if size > cap:
            break
        found.append({"prompt": prompt, "gold": gold, "answers": told})
    return found, left_out


def _answers(each: Side) -> dict[_Key, dict[str, Any]]:
    reader, number = opened(each.name)
    table = reader.answers(number, "test")
    rows = table.to_pylist() if table is not None else []
    prompts = reader.prompts(number, "test", {row["prompt_id"] for row in rows})
    asked = ((prompts.get(row["prompt_id"]), row) for row in rows)
    return {(told["prompt"], told["gold"]): row for told, row in asked if told}


def _differ(answers: Sequence[Mapping[_Key, Mapping[str, Any]]], key: _Key) -> bool:
    return len({of_side[key]["verdict"] == "correct" for of_side in answers if key in of_side}) > 1


def _answer(row: Mapping[str, Any] | None) -> Document | None:
    if row is None:
        return None
    told = {name: row.get(name) for name in _TOLD} | {"text": row["text"] or ""}
    return {name: shortened(value) if isinstance(value, str) else value for name, value in told.items()}


def _size(answer: Document | None) -> int:
    """Characters that an answer counts for: one without a text takes room, too."""
    return ROW + sum(len(value) for value in (answer or {}).values() if isinstance(value, str))
