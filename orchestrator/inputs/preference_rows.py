"""One row of preference data: which columns are its prompt and its sides, whatever their names and forms.

parsed      the row's columns, each text or messages, checked
normalised  prompt, chosen and rejected in one form, templated as the job wants it
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import pyarrow as pa
import pyarrow.types as of

from orchestrator.config import Job
from orchestrator.errors import BadInput
from orchestrator.inputs.escapes import broken_latex
from orchestrator.inputs.fields import SURROGATE, fill
from orchestrator.inputs.rows import LONGEST_LINE

Message = dict[str, str]
Side = str | list[Message]

_ROLES = ("system", "user", "assistant")
STEPS = "initial_reason_steps"
_PROMPTS = ("question", "query", "problem", "instruction")
"""Columns that are the prompt where none has that name; `instruction` goes on with `input`, which is one by itself,
too."""
_PERHAPS = re.compile(
    r"(?:^|_)(?:prompts?|questions?|quer(?:y|ies)|problems?|instructions?|inputs?|requests?|users?|human|contexts?"
    r"|messages?|conversations?|dialog(?:ue)?s?|history|posts?|passages?|articles?)$"
)
"""Names of columns that a prompt may stand in."""
_ABOUT = re.compile(
    r"(?:ids?|uuid|idx|index|key|hash|source|origin|dataset|subset|split|domain|topic|subject|category|type|kind|tags?"
    r"|labels?|models?|generator|scores?|ratings?|rank|reward|margin|level|difficulty|lang|language|locale|version|date"
    r"|time|timestamp|created|url|link|license|author|annotator|name|title|answer|gold|solution|target|reason|rationale"
    r"|explanation|feedback|critique|comments?|metadata|meta|info|preference)"
)
"""Last words of names of columns that say something about a pair."""
_LABEL = re.compile(r"[\w.:/@-]*", re.ASCII)
"""A text that is a name or a number, and no question."""
_BESIDE = ("chosen", "rejected", "system", STEPS)
_KNOWN = (*_BESIDE, "prompt", *_PROMPTS, "input")
_NO_TEXTS = (of.is_primitive, of.is_decimal, of.is_binary, of.is_large_binary, of.is_fixed_size_binary, of.is_struct)
"""Types of columns whose values are neither text nor lists."""
_DIALOGUE = ("\n\nHuman:", "\n\nAssistant:")


class Useless(Exception):
    """A row is what it should be, and teaches nothing; the message is the name of the count that it joins."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row's columns. The sides are both text, or both messages."""

    place: str
    prompt: Side | None
    """None: it is what both sides begin with."""
    system: str
    steps: str | None
    chosen: Side
    rejected: Side

    @property
    def repeats(self) -> bool | None:
        """Whether both sides begin with the prompt's text; None where they cannot, or say nothing."""
        prompt, sides = self.prompt, (self.chosen, self.rejected)
        if not isinstance(prompt, str) or self.steps is not None or not prompt.strip():
            return None
        texts = [side for side in sides if isinstance(side, str) and side.strip()]
        return all(text.startswith(prompt) for text in texts) if len(texts) == len(sides) else None


def parsed(row: Mapping[str, Any], place: str) -> Row:
    """The columns of a row.

    Raises:
        BadInput: it is no row of preference data, or it is not plain which column is the prompt.
    """
    chosen, rejected = (_side(row, name, place) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadInput(f"{place}: one of 'chosen' and 'rejected' is text and the other messages")
    steps = None
    if row.get(STEPS) is not None:
        found = _side(row, STEPS, place)
        if not isinstance(found, str) or not isinstance(row.get("prompt"), str) or not isinstance(chosen, str):
            raise BadInput(f"{place}: with {STEPS!r} all fields are plain text, and 'prompt' is one of them")
        steps = found
    return Row(place, _prompt(row, chosen, rejected, place), _system(row, place), steps, chosen, rejected)


def unrepeated(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of a source; where the sides repeat the prompt, without that.

    Answers may begin by quoting the question. So what tells is the whole source.

    Raises:
        BadInput: most of its rows do, and others do not.
    """
    repeated = [row.repeats for row in rows]
    repeating, number = repeated.count(True), len(rows) - repeated.count(None)
    if not number or 2 * repeating <= number:
        return list(rows)
    if repeating < number:
        raise BadInput(
            f"{rows[repeated.index(False)].place}: 'chosen' and 'rejected' do not both begin with the prompt, and in "
            f"{repeating} of {number} rows of {name} they do: take the prompt out of these, or put it in front of all"
        )
    return [_without_prompt(row) if repeats else row for row, repeats in zip(rows, repeated, strict=True)]


def normalised(job: Job, row: Row) -> tuple[Side, Side, Side]:
    """Prompt, chosen and rejected of a row.

    Raises:
        BadInput: the job cannot use such a row.
        Useless: it teaches nothing.
    """
    chosen, rejected = row.chosen, row.rejected
    if row.steps is not None:
        return _steps(job, row, row.steps)
    if said(chosen) == said(rejected):
        raise Useless("equal" if any(said(chosen)) else "empty")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _of_texts(job, row, chosen, rejected)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    return _of_messages(job, row, chosen, rejected)


def said(side: Side) -> tuple[str, ...]:
    """What is compared and looked at for being empty: the texts, without white space around them."""
    return (side.strip(),) if isinstance(side, str) else tuple(message["content"].strip() for message in side)


# Columns


def _prompt(row: Mapping[str, Any], chosen: Side, rejected: Side, place: str) -> Side | None:
    """The prompt, from whichever column; None where it stands in the sides."""
    if row.get("prompt") is not None:
        return _side(row, "prompt", place)
    shared = not isinstance(chosen, str) and not isinstance(rejected, str) and _shared(chosen, rejected)
    if shared or _is_dialogue(chosen, rejected):
        return None
    by_column = {name: _side(row, name, place) for name in _PROMPTS if _is_filled(row.get(name))}
    more = _side(row, "input", place) if _is_filled(row.get("input")) else None
    if more is not None and set(by_column) <= {"instruction"}:
        if not by_column:
            return more
        if not isinstance(by_column["instruction"], str) or not isinstance(more, str):
            raise BadInput(f"{place}: 'instruction' and 'input' make a prompt only where both are text")
        return f"{by_column['instruction']}\n{more}"
    names = [*by_column, *(["input"] if more is not None else [])]
    if len(names) > 1:
        raise BadInput(
            f"{place}: no field 'prompt', and {' and '.join(map(repr, names))} could each be it: rename the one that is"
        )
    if names:
        return by_column[names[0]]
    shared_text = _common_text(chosen, rejected) if isinstance(chosen, str) and isinstance(rejected, str) else None
    perhaps = [name for name, value in row.items() if _may_be_prompt(name, value, shared_text)]
    if perhaps:
        raise BadInput(
            f"{place}: no field 'prompt', and {' and '.join(map(repr, perhaps))} may be it: rename it to 'prompt', or "
            "leave it out where the prompt is what 'chosen' and 'rejected' begin with"
        )
    return None


def read_columns(schema: pa.Schema) -> list[str]:
    """The columns that are read, where both sides are among them: those that have a meaning, or may hold a prompt in
    some row."""
    if not {"chosen", "rejected"} <= {*schema.names}:
        return list(schema.names)
    return [field.name for field in schema if field.name in _KNOWN or _may_hold_prompt(field)]


def _may_hold_prompt(field: pa.Field) -> bool:
    """Whether a column's name and type are such that `_may_be_prompt` could say so of one of its values."""
    if any(is_kind(field.type) for is_kind in _NO_TEXTS):
        return False
    if _PERHAPS.search(field.name.lower()):
        return True
    return not of.is_nested(field.type) and not _is_about(field.name)


def _is_about(name: str) -> bool:
    """Whether a column says something about a pair, by its name."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)
    about = not words or _ABOUT.fullmatch(words[-1].lower()) or {"chosen", "rejected"} & {*map(str.lower, words)}
    return bool(about)


def _may_be_prompt(name: str, value: Any, shared: str | None) -> bool:
    """Whether a column may hold the prompt that a row lacks. Where the sides are plain text, `shared` being what both
    begin with, whatever is not plainly about the pair may: that text is hardly ever the prompt."""
    if name in _BESIDE or not _is_filled(value):
        return False
    if isinstance(value, str) and shared is not None and value.strip() in shared:
        return False  # the sides repeat it
    if _PERHAPS.search(name.lower()):
        return True
    return shared is not None and isinstance(value, str) and not _is_about(name) and not _LABEL.fullmatch(value.strip())


def _is_filled(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, list) and bool(value)


def _is_dialogue(chosen: Side, rejected: Side) -> bool:
    """Whether both sides are whole dialogues, as those of Anthropic's data are."""
    sides = [side for side in (chosen, rejected) if isinstance(side, str)]
    return len(sides) == 2 and all(s.lstrip().startswith("Human:") and _DIALOGUE[1] in s for s in sides)


def _system(row: Mapping[str, Any], place: str) -> str:
    value = row.get("system")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadInput(f"{place}: field 'system' must be text, not {type(value).__name__}")
    return _text(value, f"{place}: field 'system'") if value.strip() else ""


def _without_prompt(row: Row) -> Row:
    prompt = row.prompt
    assert isinstance(prompt, str) and isinstance(row.chosen, str) and isinstance(row.rejected, str)
    return replace(row, chosen=row.chosen[len(prompt) :], rejected=row.rejected[len(prompt) :])


# One form


def _of_texts(job: Job, row: Row, chosen: str, rejected: str) -> tuple[Side, Side, Side]:
    prompt = row.prompt
    if prompt is None:
        prompt = _common_text(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    asked = _asked(job, prompt, row) if isinstance(prompt, str) else _with_system(prompt, row)
    return _finish(asked, chosen, rejected, row.place)


def _of_messages(job: Job, row: Row, chosen: list[Message], rejected: list[Message]) -> tuple[Side, Side, Side]:
    prompt, shared = row.prompt, _shared(chosen, rejected)
    if isinstance(prompt, list):  # the sides may begin with it, too
        shared = prompt if shared[: len(prompt)] == prompt else []
    elif not shared and prompt is not None:
        asked = _asked(job, prompt, row, messages=True)
        return _finish(asked, chosen, rejected, row.place)
    else:
        prompt = shared
    return _finish(_with_system(prompt, row), chosen[len(shared) :], rejected[len(shared) :], row.place)


def _shared(chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))]


def _steps(job: Job, row: Row, steps: str) -> tuple[Side, Side, Side]:
    """Single steps that follow the right ones before them."""
    assert isinstance(row.prompt, str)
    if job.pairs.append_eos:
        raise BadInput(
            f"{row.place}: field {STEPS!r} makes 'chosen' and 'rejected' single reasoning steps, after which an answer "
            "goes on: set `pairs.append_eos: false`"
        )
    asked, steps = _asked(job, row.prompt, row), steps if steps.strip() else ""
    if isinstance(asked, str):
        between = "" if not steps or asked[-1:].isspace() else "\n"
        return _finish(f"{asked}{between}{steps}", row.chosen, row.rejected, row.place)
    # Empty, too, it says that the answer is begun: its first step is not all of it, and no template closes it.
    begun = [*asked, {"role": "assistant", "content": steps}]
    return _finish(begun, row.chosen, row.rejected, row.place, opened=True)


def _asked(job: Job, prompt: str, row: Row, messages: bool = False) -> Side:
    """A prompt of plain text as the job wants it: templated, and a user's message where `data.chat` is true, or where
    the sides are `messages`."""
    if not prompt.strip():
        raise Useless("no_prompt")
    template = job.stages.template if job.stages else "{prompt}"
    names_system = "{system}" in template
    parts = {"prompt": prompt} | ({"system": row.system} if names_system else {})
    text = fill(template, parts, "stages.template", row.place)
    if not job.data.chat and not messages:
        if row.system and not names_system:
            raise BadInput(
                f"{row.place}: field 'system' has a system message, which plain text has no place for: set "
                "`data.chat: true`, or write {system} into `stages.template`"
            )
        return text
    system = "" if names_system else row.system or (job.data.system if job.data.chat else None)
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


def _with_system(prompt: list[Message], row: Row) -> list[Message]:
    """Messages with the row's own system message in front."""
    if not row.system or not prompt:
        return prompt
    if prompt[0]["role"] != "system":
        return [{"role": "system", "content": row.system}, *prompt]
    if prompt[0]["content"].strip() != row.system.strip():
        raise BadInput(
            f"{row.place}: field 'system' differs from the system message of the prompt: leave one of them out"
        )
    return prompt


def _finish(prompt: Side, chosen: Side, rejected: Side, place: str, opened: bool = False) -> tuple[Side, Side, Side]:
    """The three parts in one form. `opened`: the prompt's last message is the beginning of the answer."""
    if not any(said(prompt)):
        raise Useless("no_prompt")
    if not any(said(chosen)) or not any(said(rejected)):
        raise Useless("empty")
    if said(chosen) == said(rejected):
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
    if broken := broken_latex(value):
        raise BadInput(f"{place}: holds {broken}")
    if SURROGATE.search(value):
        raise BadInput(f"{place}: holds half a surrogate pair, which is no text")
    if len(value) > LONGEST_LINE:
        raise BadInput(f"{place}: is longer than {LONGEST_LINE >> 20} MiB")
    return value


def _common_text(a: str, b: str) -> str:
    """What both begin with, without a space at its end: it belongs to the first word of the answer."""
    shared = "".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    return shared[:-1] if shared.endswith(" ") else shared
