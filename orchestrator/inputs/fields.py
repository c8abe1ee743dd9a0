"""Fields of a row of data as text, and templates that they fill."""

from __future__ import annotations

import functools
import math
import re
import string
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.inputs.digits import Label, digits
from orchestrator.inputs.escapes import broken_latex
from orchestrator.inputs.rows import LONGEST_LINE
from orchestrator.records.golds import SEPARATOR, joined

SURROGATE = re.compile(r"[\ud800-\udfff]")
_CURES: Mapping[type, str] = {
    type(None): ": leave such rows out, or write the answer there",
    bool: ': write it in quotes, in the words that an answer uses, such as "yes" or "True"',
}
PROBLEM_READING = 2
"""How rows of problems are read. 1 took numbers in a float's own digits and LaTeX that had lost its backslashes:
what a run of then has made depends on it, and such a run goes on so, and so do its forks."""


def text_of(row: Mapping[str, Any], field: str, key: str, place: str, reading: int = PROBLEM_READING) -> str:
    """A field as text; `key` is where the job names it.

    Raises:
        BadInput: it is missing, no text and no number, or text that is broken.
    """
    what, value = f"{place}: field {field!r} ({key})", present(row, field, key, place)
    if key == "data.template" and isinstance(value, list | Mapping):
        kind = type(value).__name__
        cure = "if it holds the options of a multiple-choice problem, name it as `data.choices`"
        raise BadInput(f"{what} must be text or a number, not {kind}: {cure}")
    return plain(value, what, reading)


def present(row: Mapping[str, Any], field: str, key: str, place: str) -> Any:
    """The value of a field.

    Raises:
        BadInput: there is none.
    """
    if field not in row or row[field] is None:
        what = f"field {field!r} ({key}) is null" if field in row else f"no field {field!r} ({key})"
        raise BadInput(f"{place}: {what}; the row has {', '.join(map(repr, row)) or 'no fields'}")
    return row[field]


def plain(value: Any, what: str, reading: int = PROBLEM_READING) -> str:
    """A value as text that is whole; `what` opens a message about it.

    Raises:
        BadInput: it is no text and no number, or broken text.
    """
    text = written(value, what) if reading > 1 else str(_checked(value, what))
    if SURROGATE.search(text):
        raise BadInput(f"{what} holds half a surrogate pair, which is no text")
    if len(text) > LONGEST_LINE:
        raise BadInput(f"{what} is longer than {LONGEST_LINE >> 20} MiB; no prompt is")
    if reading > 1 and (wrong := broken_latex(text)):
        raise BadInput(f"{what} has {wrong}")
    return text


def written(value: Any, what: str) -> str:
    """A value as somebody wrote it, whatever it says; as `plain`."""
    value = _checked(value, what)
    if isinstance(value, Label):
        return value.name
    return digits(value) if isinstance(value, float | Decimal) else str(value)


def _checked(value: Any, what: str) -> str | int | float | Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        found = "null" if value is None else repr(value).lower() if isinstance(value, bool) else type(value).__name__
        raise BadInput(f"{what} must be text or a number, not {found}{_CURES.get(type(value), '')}")
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise BadInput(f"{what} is {value}, which is no number to compare with")
    return value


def gold_of(value: Any, what: str, marker: str | None, key: str, reading: int = PROBLEM_READING) -> str:
    """A gold answer, of a list all accepted ones; each is what follows the last `marker`, where `key` names one.

    Raises:
        BadInput: as `plain`, the list is empty, or there is no marker.
    """
    several = isinstance(value, list) and reading > 1
    if several and not value:
        raise BadInput(f"{what} is an empty list")
    golds = []
    for number, one in enumerate(value if several else [value], start=1):
        here = f"{what}, entry {number}," if several else what
        gold = plain(one, here, reading)
        if reading > 1 and SEPARATOR in gold:
            raise BadInput(f"{here} holds the control character U+001E, which no answer can have: take it out")
        if marker is not None:
            _, found, gold = gold.rpartition(marker)
            if not found:
                raise BadInput(f"{here} has no {marker!r} ({key})")
        golds.append(gold.strip())
    return joined(golds)


@functools.lru_cache(maxsize=8)
def _parsed(template: str) -> tuple[tuple[str, str | None, str | None, str | None], ...]:
    """A template, which all rows of a job share, in its parts."""
    return tuple(string.Formatter().parse(template))


def fields_in(template: str | None) -> set[str]:
    """The fields that a template is filled with; none of one that `fill` refuses."""
    try:
        return {field for _, field, *_ in _parsed(template or "") if field}
    except ValueError:
        return set()


def fill(template: str, row: Mapping[str, Any], key: str, place: str, reading: int = PROBLEM_READING) -> str:
    """Replace `{field}`; nothing but plain names is understood, so that data never steers formatting."""
    parts, texts, room = list[str](), dict[str, str](), LONGEST_LINE
    try:
        for literal, field, spec, conversion in _parsed(template):
            parts.append(literal)
            if field is not None:
                if spec or conversion or not re.fullmatch(r"\w+", field):
                    raise ValueError(f"{{{field}}} is not a plain field name")
                if field not in texts:
                    texts[field] = text_of(row, field, key, place, reading)
                parts.append(texts[field])
                room -= len(texts[field])
                if room < 0:
                    raise BadInput(f"{place}: {key}: its text is longer than {LONGEST_LINE >> 20} MiB; no prompt is")
    except ValueError as error:
        raise BadInput(f"{key}: {error}. Write {{field}}, and {{{{ or }}}} for plain braces.") from error
    return "".join(parts)
