"""Preference data: rows of files and of the Hub, checked and brought into one form.

A row has a prompt and two answers to it, as plain text or as messages:

    {"prompt": "2 + 2?\\n", "chosen": "4", "rejected": "5"}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen": [{"role": "assistant", "content": "4"}], ...}

The prompt may be text where the sides are messages, and the other way round. It may have another name (`question`,
`query`, `problem`, `instruction` with or without `input`, `input`), and a column `system` beside it; the sides may
repeat it. Where no column is or may be it, it is what both sides begin with, and that is said. With
`initial_reason_steps` (the data of arXiv 2406.18629) the sides are single steps that go on from there. What is none of
these is refused. What is whole but teaches nothing is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job, Source
from orchestrator.errors import BadInput
from orchestrator.files import durable
from orchestrator.files.rights import reason
from orchestrator.inputs import hub_data
from orchestrator.inputs.preference_rows import (
    STEPS,
    Row,
    Side,
    Useless,
    normalised,
    parsed,
    read_columns,
    said,
    unrepeated,
)
from orchestrator.inputs.rows import rows_of
from orchestrator.ledger.recipes import Fields, Version
from orchestrator.records.rows import Problem, preferences_schema
from orchestrator.text.counts import many

Find = Callable[[str, str], Path]
"""The file that a job names by a path, and at which key it does (JobFile.find)."""

KEY = "stages.sources"
READING = 2
"""How rows are read. 1 knew no prompt by another name: without `prompt`, it was what both sides begin with."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One row: all of it text, or all of it messages. A prompt that ends in an assistant's message is gone on with.

    Example: Preference("1/17", "9f0c62e1a7b3d845", "2 + 2?\\n", "4", "5")
    """

    pair_id: str
    """Number of the source, and of the row in it, both from 1."""
    prompt_id: str
    """The same for the same prompt."""
    prompt: Side
    chosen: Side
    rejected: Side


@dataclass(frozen=True, slots=True)
class Preferences:
    """The rows of one source, and how many were left out, by reason."""

    name: str
    rows: list[Preference]
    left_out: Counter[str]
    revision: str | None = None
    begun: int = 0
    """How many rows have no prompt but the text that both sides begin with."""

    @property
    def conversational(self) -> bool:
        return not isinstance(self.rows[0].prompt, str)

    def __str__(self) -> str:
        shared = f"; the prompt of {self.begun} is the text that both sides begin with" if self.begun else ""
        return f"{self.name}: {many(len(self.rows), 'pair')}{shared}{left_out_text(self.left_out)}"


def read_preferences(job: Job, find: Find) -> list[Preferences]:
    """All sources of a job's stages, those on the Hub at their newest commit.

    Raises:
        BadInput: naming the source, the row and the field that cannot be used; or a source has no row that can.
    """
    sources = job.stages.sources if job.stages else []
    return [_read(job, number, source, find) for number, source in enumerate(sources, 1)]


def identity_of(job: Job, find: Find) -> dict[str, Any]:
    """What the rows depend on, without reading them: of a file its bytes, of a data set on the Hub its name.

    Raises:
        BadInput: a file is not there, or cannot be read.
    """
    if job.stages is None:
        return {}
    sources = []
    for number, source in enumerate(job.stages.sources):
        at = f"{KEY}.{number}"
        digest = {"sha256": _digest_of(find(source.path, at), at)} if source.path else {}
        sources.append(Fields(source, digest, without=("path",)))
    said = {"sources": sources, "template": job.stages.template, "chat": job.data.chat, "system": job.data.system}
    return said | {"reading": Version("reading", READING)}


def _digest_of(path: Path, key: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{key}: cannot read {path} ({reason(error)})") from error


def write_preferences(sources: Sequence[Preferences], folder: Path) -> dict[str, Any]:
    """Write one file a source (schema `preferences_schema`) into a new folder. Returns `pairs`, and for each of the
    `sources` its name, commit, pairs and what was left out."""
    folder.mkdir()
    for number, source in enumerate(sources):
        table = pa.Table.from_pylist([as_row(row) for row in source.rows], preferences_schema(source.conversational))
        pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd")
    rows = [{"name": s.name, "revision": s.revision, "pairs": len(s.rows), **s.left_out} for s in sources]
    return {
        "pairs": sum(len(source.rows) for source in sources),
        "characters": mean_characters(sources),
        "sources": rows,
    }


def as_row(row: Preference) -> dict[str, Any]:
    """A row as it is written and handed on."""
    return {"pair_id": row.pair_id, "prompt_id": row.prompt_id} | {
        "prompt": row.prompt,
        "chosen": row.chosen,
        "rejected": row.rejected,
    }


def mean_characters(sources: Sequence[Preferences]) -> float:
    """Of a row, on average."""
    return mean_characters_of(as_row(row) for source in sources for row in source.rows)


def mean_characters_of(rows: Iterable[Mapping[str, Any]]) -> float:
    """The same of rows as they are written."""
    number = characters = 0
    for row in rows:
        number += 1
        characters += sum(len(text) for side in ("prompt", "chosen", "rejected") for text in said(row[side]))
    return characters / max(1, number)


def as_problems(sources: Sequence[Preferences]) -> list[Problem]:
    """The prompts' last messages, once each, to be compared with the problems that are evaluated on."""
    found: dict[str, Problem] = {}
    for row in (row for source in sources for row in source.rows):
        said = [m["content"] for m in row.prompt if m["role"] == "user"] if isinstance(row.prompt, list) else []
        found.setdefault(row.prompt_id, Problem(row.pair_id, said[-1] if said else str(row.prompt), "", None))
    return list(found.values())


def texts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Prompt and completion of each side of a committed pair, as bare text: what somebody who has seen the pair
    knows, however it was spaced, tokenised or put into a chat template. The right steps before a single step, which
    pairs of a run's own samples have in a column of their own, are of the prompt."""
    asked, steps, *sides = (_bare(row.get(name)) for name in ("prompt", STEPS, "chosen", "rejected"))
    prompt = f"{asked} {steps}".strip()
    yield from ((prompt, side) for side in sides if side)


def left_out_text(left_out: Mapping[str, int]) -> str:
    """How many were left out and why, for people; nothing where none was."""
    words = {"empty": "with an empty side", "equal": "with equal sides", "no_prompt": "without a prompt"}
    words |= {"too_long": "too long", "seen": "that the reference has seen"}
    parts = [f"{left_out[reason]} {text}" for reason, text in words.items() if left_out.get(reason)]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _read(job: Job, number: int, source: Source, find: Find) -> Preferences:
    key = f"{KEY}.{number - 1}"
    if source.hub:
        source = hub_data.pinned(source, key)
        places = hub_data.rows(source, key, read_columns)
    else:
        places = rows_of(find(source.path, key), key, read_columns)
    name = hub_data.named(source) if source.hub else Path(source.path).name
    left_out: Counter[str] = Counter(empty=0, equal=0, no_prompt=0)
    preferences, begun = list[Preference](), 0
    for row_number, row in enumerate(unrepeated(_parsed(places, source.limit), name), 1):
        try:
            parts = normalised(job, row)
        except Useless as useless:
            left_out[str(useless)] += 1
            continue
        if preferences and isinstance(parts[0], str) != isinstance(preferences[0].prompt, str):
            kinds = ("plain text", "messages") if isinstance(parts[0], str) else ("messages", "plain text")
            raise BadInput(
                f"{row.place}: is {kinds[0]}, and what stands before it {kinds[1]}; a source has one of both"
            )
        begun += row.prompt is None and isinstance(row.chosen, str)
        prompt_id = durable.fingerprint(parts[0])[:16]
        preferences.append(Preference(f"{number}/{row_number}", prompt_id, *parts))
    if not preferences:
        reason = left_out_text(left_out).removeprefix("; ") or "it has no rows"
        raise BadInput(f"{key}: {name} has no pair to learn from ({reason})")
    return Preferences(name, preferences, left_out, source.revision, begun)


def _parsed(places: Iterable[tuple[str, Mapping[str, Any]]], limit: int | None) -> list[Row]:
    return [parsed(row, place) for place, row in islice(places, limit)]


def _bare(side: Side | None) -> str:
    return " ".join(" ".join(said(side)).split()) if side is not None else ""
