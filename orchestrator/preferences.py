"""Preference data: rows of files and of the Hub, checked and brought into one form.

A row has a prompt and two answers to it, as plain text or as messages:

    {"prompt": "2 + 2?\\n", "chosen": "4", "rejected": "5"}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen": [{"role": "assistant", "content": "4"}], ...}

The prompt may be left out, and is then what both sides begin with; it may be text where the sides are messages, and the
other way round. With `initial_reason_steps` (the data of arXiv 2406.18629) the sides are single steps that go on from
there. What is none of these is refused. What is whole but teaches nothing is left out and counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator import durable, hub_data
from orchestrator.config import Job, Source
from orchestrator.data import LONGEST_LINE, SURROGATE, fill, rows_of
from orchestrator.errors import BadInput
from orchestrator.records import Problem, preferences_schema

Message = dict[str, str]
Side = str | list[Message]
Find = Callable[[str, str], Path]
"""The file that a job names by a path, and at which key it does (JobFile.find)."""

KEY = "stages.sources"
_ROLES = ("system", "user", "assistant")
STEPS = "initial_reason_steps"


class Useless(Exception):
    """A row is what it should be, and teaches nothing; the message is the name of the count that it joins."""


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

    @property
    def conversational(self) -> bool:
        return not isinstance(self.rows[0].prompt, str)

    def __str__(self) -> str:
        return f"{self.name}: {len(self.rows)} pairs{told(self.left_out)}"


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
        said = source.model_dump(mode="json", exclude={"path"})
        if source.path:
            said["sha256"] = _digest_of(find(source.path, f"{KEY}.{number}"), f"{KEY}.{number}")
        sources.append(said)
    return {"sources": sources, "template": job.stages.template, "chat": job.data.chat, "system": job.data.system}


def _digest_of(path: Path, key: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{key}: cannot read {path} ({error.strerror})") from error


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
    rows = [row for source in sources for row in source.rows]
    sides = (text for row in rows for side in (row.prompt, row.chosen, row.rejected) for text in _said(side))
    return sum(map(len, sides)) / max(1, len(rows))


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


def told(left_out: Mapping[str, int]) -> str:
    """How many were left out and why, for people; nothing where none was."""
    words = {"empty": "with an empty side", "equal": "with equal sides", "no_prompt": "without a prompt"}
    words |= {"too_long": "too long", "seen": "that the reference has seen"}
    parts = [f"{left_out[reason]} {text}" for reason, text in words.items() if left_out.get(reason)]
    return f"; left out: {', '.join(parts)}" if parts else ""


def _read(job: Job, number: int, source: Source, find: Find) -> Preferences:
    key = f"{KEY}.{number - 1}"
    if source.hub:
        source = hub_data.pinned(source, key)
        places = hub_data.rows(source, key)
    else:
        places = rows_of(find(source.path, key), key)
    name = hub_data.named(source) if source.hub else Path(source.path).name
    found = Preferences(name, [], Counter(empty=0, equal=0, no_prompt=0), source.revision)
    for row_number, (place, row) in enumerate(places, 1):
        try:
            parts = _normalised(job, row, place)
        except Useless as useless:
            found.left_out[str(useless)] += 1
        else:
            if found.rows and isinstance(parts[0], str) == found.conversational:
                kinds = ("messages", "plain text") if found.conversational else ("plain text", "messages")
                raise BadInput(
                    f"{place}: is {kinds[1]}, and what stands before it {kinds[0]}; a source has one of both"
                )
            prompt_id = durable.fingerprint(parts[0])[:16]
            found.rows.append(Preference(f"{number}/{row_number}", prompt_id, *parts))
        if row_number == source.limit:
            break
    if not found.rows:
        reason = told(found.left_out).removeprefix("; ") or "it has no rows"
        raise BadInput(f"{key}: {name} has no pair to learn from ({reason})")
    return found


def _normalised(job: Job, row: Mapping[str, Any], place: str) -> tuple[Side, Side, Side]:
    """Prompt, chosen and rejected of a row.

    Raises:
        BadInput: the row is no row of preference data.
        Useless: it is one that teaches nothing.
    """
    chosen, rejected = (_side(row, name, place) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadInput(f"{place}: one of 'chosen' and 'rejected' is text and the other messages")
    prompt = _side(row, "prompt", place) if row.get("prompt") is not None else None
    if row.get(STEPS) is not None:
        return _steps(job, row, prompt, chosen, rejected, place)
    if _said(chosen) == _said(rejected):
        raise Useless("equal" if any(_said(chosen)) else "empty")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _of_texts(job, prompt, chosen, rejected, place)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    return _of_messages(job, prompt, chosen, rejected, place)


def _of_texts(job: Job, prompt: Side | None, chosen: str, rejected: str, place: str) -> tuple[Side, Side, Side]:
    if prompt is None:
        prompt = _common_text(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if isinstance(prompt, str):
        return _finish(_asked(job, prompt, place), chosen, rejected, place)
    return _finish(prompt, chosen, rejected, place)


def _of_messages(
    job: Job, prompt: Side | None, chosen: list[Message], rejected: list[Message], place: str
) -> tuple[Side, Side, Side]:
    shared = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]
    if isinstance(prompt, list):  # the sides may begin with it, too
        shared = prompt if shared[: len(prompt)] == prompt else []
    elif not shared and prompt is not None:
        asked = _asked(job, prompt, place)
        prompt = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    else:
        prompt = shared
    return _finish(prompt, chosen[len(shared) :], rejected[len(shared) :], place)


def _steps(
    job: Job, row: Mapping[str, Any], prompt: Side | None, chosen: Side, rejected: Side, place: str
) -> tuple[Side, Side, Side]:
    """Single steps that follow the right ones before them."""
    steps = _side(row, STEPS, place)
    if not isinstance(steps, str) or not isinstance(prompt, str) or not isinstance(chosen, str):
        raise BadInput(f"{place}: with {STEPS!r} all fields are plain text, and 'prompt' is one of them")
    if job.pairs.append_eos:
        raise BadInput(
            f"{place}: field {STEPS!r} makes 'chosen' and 'rejected' single steps, after which an answer goes on: "
            "set `pairs.append_eos: false`"
        )
    asked, steps = _asked(job, prompt, place), steps if steps.strip() else ""
    if isinstance(asked, str):
        between = "" if not steps or asked[-1:].isspace() else "\n"
        return _finish(f"{asked}{between}{steps}", chosen, rejected, place)
    # Empty, too, it says that the answer is begun: its first step is not all of it, and no template closes it.
    return _finish([*asked, {"role": "assistant", "content": steps}], chosen, rejected, place, opened=True)


def _asked(job: Job, prompt: str, place: str) -> Side:
    """A prompt of plain text as the job wants it: templated, and a user's message where `data.chat` is true."""
    if not prompt.strip():
        raise Useless("no_prompt")
    text = fill(job.stages.template if job.stages else "{prompt}", {"prompt": prompt}, "stages.template", place)
    if not job.data.chat:
        return text
    system = [{"role": "system", "content": job.data.system}] if job.data.system is not None else []
    return [*system, {"role": "user", "content": text}]


def _finish(prompt: Side, chosen: Side, rejected: Side, place: str, opened: bool = False) -> tuple[Side, Side, Side]:
    """The three parts in one form. `opened`: the prompt's last message is the beginning of the answer."""
    if not any(_said(prompt)):
        raise Useless("no_prompt")
    if not any(_said(chosen)) or not any(_said(rejected)):
        raise Useless("empty")
    if _said(chosen) == _said(rejected):
        raise Useless("equal")
    if isinstance(prompt, str):
        return prompt, chosen, rejected
    chosen, rejected = (
        [{"role": "assistant", "content": side}] if isinstance(side, str) else side for side in (chosen, rejected)
    )
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if odd := [m["role"] for m in side if m["role"] != "assistant"]:
            raise BadInput(f"{place}: after the prompt, {name!r} has a message of the role {odd[0]!r}, not 'assistant'")
    asked = prompt[:-1] if opened else prompt
    if asked[-1]["role"] != "user":
        raise BadInput(f"{place}: the prompt ends in a message of the role {asked[-1]['role']!r}, not 'user'")
    if "system" in [m["role"] for m in asked[1:]]:
        raise BadInput(f"{place}: a message of the role 'system' stands after another message")
    return prompt, chosen, rejected


def _side(row: Mapping[str, Any], field: str, place: str) -> Side:
    """A field that is text or a list of messages."""
    if row.get(field) is None:
        what = f"field {field!r} is null" if field in row else f"no field {field!r}"
        raise BadInput(f"{place}: {what}; the row has {', '.join(map(repr, row)) or 'no fields'}")
    value = row[field]
    if isinstance(value, str):
        return _text(value, f"{place}: field {field!r}")
    if not isinstance(value, list):
        raise BadInput(f"{place}: field {field!r} must be text or a list of messages, not {type(value).__name__}")
    return [_message(message, f"{place}: field {field!r}, message {i}") for i, message in enumerate(value, 1)]


def _message(message: Any, place: str) -> Message:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise BadInput(f"{place}: a message has 'role' and 'content'")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise BadInput(f"{place}: the role is {role!r}, and must be one of {', '.join(map(repr, _ROLES))}")
    if not isinstance(content, str):
        raise BadInput(f"{place}: 'content' must be text, not {type(content).__name__}")
    return {"role": role, "content": _text(content, place)}


def _text(value: str, place: str) -> str:
    if SURROGATE.search(value):
        raise BadInput(f"{place}: holds half a surrogate pair, which is no text")
    if len(value) > LONGEST_LINE:
        raise BadInput(f"{place}: is longer than {LONGEST_LINE >> 20} MiB")
    return value


def _said(side: Side) -> tuple[str, ...]:
    """What is compared and looked at for being empty: the texts, without white space around them."""
    return (side.strip(),) if isinstance(side, str) else tuple(message["content"].strip() for message in side)


def _common_text(a: str, b: str) -> str:
    """What both begin with, without a space at its end: it belongs to the first word of the answer."""
    shared = "".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return shared[:-1] if shared.endswith(" ") else shared


def _bare(side: Side | None) -> str:
    return " ".join(" ".join(_said(side)).split()) if side is not None else ""
