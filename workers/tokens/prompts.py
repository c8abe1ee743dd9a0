"""Data rows to prompts: templated and tokenised once, with the base model's own tokenizer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.errors import first_line
from orchestrator.records.parquet import ROWS_A_GROUP
from orchestrator.records.problem_files import read_problem_file
from orchestrator.records.rows import PROMPTS, Problem, TokenizingPlan
from workers.files import write_table
from workers.tokens import bounds
from workers.tokens.tokenizer import UnusableModel, decoded, encoded, load_tokenizer

_STANDS_BEFORE = ("\n", "a", ".")
"""Texts that something else is tokenised behind, where it cannot be behind its own prompt; the first that keeps its
own tokens is taken."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt before it is written down. `messages` where a chat template was used."""

    text: str
    token_ids: list[int]
    messages: list[dict[str, str]] | None


def tokenize_file(source: str, plan: TokenizingPlan, output: str) -> dict[str, Any]:
    """As `tokenize`, of the problems in a file (records/problem_files.py)."""
    return tokenize(read_problem_file(source), plan, output)


def tokenize(rows: Iterable[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
    """Write prompts (schema PROMPTS) to `output`; returns the counts of prompts kept and dropped.

    Raises:
        UnusableModel: no tokenizer, no EOS, no chat template where one is asked for, a chat template that cannot take
            the messages, or ids beyond the embedding.
    """
    prompter, rest, tables, dropped = Prompter(plan), iter(rows), [PROMPTS.empty_table()], 0
    while part := list(islice(rest, ROWS_A_GROUP)):
        tables.append(_tokenized(part, prompter))
        dropped += len(part) - tables[-1].num_rows
    table = pa.concat_tables(tables)
    file = write_table(table, output, ROWS_A_GROUP)
    return {"prompts": table.num_rows, "dropped": dropped, "file": file}


def _tokenized(rows: Sequence[Problem], prompter: Prompter) -> pa.Table:
    table: dict[str, list[Any]] = {name: [] for name in PROMPTS.names}
    for row in rows:
        prompt = prompter.prompt(row)
        if len(prompt.token_ids) > prompter.longest:
            continue
        solution_ids = None if row.solution is None else prompter.solution(prompt, row.solution)
        prompter.check_embedded(row.prompt_id, [*prompt.token_ids, *(solution_ids or ())])
        values = (row.prompt_id, prompt.text, prompt.token_ids, prompt.messages, row.gold, row.solution, solution_ids)
        for name, value in zip(PROMPTS.names, values, strict=True):
            table[name].append(value)
    return pa.table(table, schema=PROMPTS)


class Prompter:
    """A model's tokenizer and limits, under a plan.

    Raises:
        UnusableModel: as `tokenize`.
    """

    def __init__(self, plan: TokenizingPlan) -> None:
        self.plan, self.config, self.tokenizer = plan, load_config(plan.model), load_tokenizer(plan.model)
        if plan.chat and not self.tokenizer.chat_template:
            raise UnusableModel(f"data.chat: {plan.model} has no chat template; use `chat: false` and `template`")
        check_vocabulary(self.tokenizer, self.config, plan.model)
        # A chat template writes BOS itself where the model wants it.
        self.encoder = Encoder(self.tokenizer, special=not plan.chat)
        context = plan.max_model_len or getattr(self.config, "max_position_embeddings", None) or 2**31
        self.longest = context - plan.max_tokens
        """Most tokens of a prompt."""

    def prompt(self, row: Problem, date: str | None = None) -> Prompt:
        """A problem's prompt; on another day than the plan's, where one is given."""
        plan, messages = self.plan, self._messages(row)
        if messages:
            text = self._templated(messages, date or plan.date)
        else:
            text = "".join(p + c + plan.example_separator for p, c in plan.examples) + row.text
        token_ids = self.encoder(text)
        if plan.opening:
            token_ids = [*token_ids, *self.encoder.behind(text, token_ids, plan.opening)]
        return Prompt(text + plan.opening, token_ids, messages)

    def solution(self, prompt: Prompt, solution: str) -> list[int]:
        """A solution's ids where it stands, behind its prompt; closed by EOS, once."""
        ids, eos = self.encoder.behind(prompt.text, prompt.token_ids, solution), self.tokenizer.eos_token_id
        return ids if ids[-1:] == [eos] else [*ids, eos]

    def check_embedded(self, prompt_id: str, ids: list[int]) -> None:
        """
        Raises:
            UnusableModel: an id is beyond the rows of the model's embedding.
        """
        if (largest := max(ids, default=0)) >= self.config.vocab_size:
            raise UnusableModel(
                f"model: {self.plan.model}: prompt {prompt_id!r} holds {decoded(self.tokenizer, [largest])!r}, token "
                f"{largest}, and the embedding has only {self.config.vocab_size} rows (vocab_size): take it out of the "
                "data"
            )

    def _messages(self, row: Problem) -> list[dict[str, str]] | None:
        plan = self.plan
        if not plan.chat:
            return None
        system = [{"role": "system", "content": plan.system}] if plan.system is not None else []
        turns = [
            {"role": role, "content": content}
            for example in plan.examples
            for role, content in zip(("user", "assistant"), example, strict=True)
        ]
        return [*system, *turns, {"role": "user", "content": row.text}]

    def _templated(self, messages: list[dict[str, str]], date: str | None) -> str:
        try:
            return templated(self.tokenizer, messages, date, generation=True)
        except NoText as error:
            raise UnusableModel(f"data.chat: {no_text(self.plan.model, error)}") from error
        except Exception as error:  # a template is a program of the model's, and may raise anything
            said = f"the chat template of {self.plan.model} cannot take the messages ({first_line(error)})"
            if self.plan.system is None or not self._takes(messages[1:]):
                raise UnusableModel(f"data.chat: {said}") from error
            raise UnusableModel(
                f"data.system: {said}, but takes them without the system message: leave `data.system` out, and write "
                "its text into `data.template`"
            ) from error

    def _takes(self, messages: list[dict[str, str]]) -> bool:
        try:
            templated(self.tokenizer, messages, self.plan.date, generation=True)
        except Exception:  # as above; whatever it is, the system message is not to blame for it
            return False
        return True


class Encoder:
    """A tokenizer of texts to be gone on with: what it would append to them is left off.

    Example: `encoder = Encoder(tokenizer, special=True)`; `ids = encoder("1 + 1 =")`; `encoder.behind("1 + 1 =", ids,
    " 2")` are the ids of " 2" that follow.
    """

    def __init__(self, tokenizer: Any, special: bool) -> None:
        """`special`: put before a text what the tokenizer puts there, such as BOS."""
        self._tokenizer, self._special = tokenizer, special
        self.appends_eos = special and self._ids("a", True)[-1:] == [tokenizer.eos_token_id]
        """Whether the tokenizer by itself would close a text with EOS. A prompt that ends so asks for nothing."""

    def __call__(self, text: str) -> list[int]:
        ids = self._ids(text, self._special)
        return ids[:-1] if self.appends_eos else ids

    def behind(self, before: str, before_ids: list[int], text: str) -> list[int]:
        """The ids of `text` where it follows `before`, whose ids are given and stay as they are.

        Both are tokenised together: by itself a text gets from some tokenizers a space in front, which its prompt does
        not have. Where a token would reach over the boundary, that would change the prompt, which the engine has seen;
        then the text is tokenised behind a line break, or another text that no token joins it with.
        """
        whole = self(before + text)
        if whole[: len(before_ids)] == before_ids:
            return whole[len(before_ids) :]
        for other in _STANDS_BEFORE:
            ids, both = self._ids(other, False), self._ids(other + text, False)
            if both[: len(ids)] == ids:
                return both[len(ids) :]
        return self._ids(text, False)

    def _ids(self, text: str, special: bool) -> list[int]:
        return list(encoded(self._tokenizer, text, add_special_tokens=special)["input_ids"])


def templated(
    tokenizer: Any,
    messages: list[dict[str, str]],
    date: str | None,
    generation: bool = False,
    goes_on: bool = False,
) -> str:
    """Messages through the tokenizer's chat template, which has `bounds.SECONDS` and `bounds.MEMORY`; `generation`
    opens the answer, `goes_on` leaves the last message open. `date` (2026-11-27) is what a template that asks for
    today's is told; None tells it the truth.

    Raises:
        NoText: what it writes has half of a surrogate pair in it.
        Exception: of any kind, where the template does not take the messages.
    """
    today = {} if date is None else {"strftime_now": datetime.fromisoformat(date).strftime}
    how = {"add_generation_prompt": generation, "continue_final_message": goes_on}
    with bounds.time_bounded(), bounds.memory_bounded():
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, **how, **today))
    if len(text) > MOST_WRITTEN:
        raise ValueError(f"it writes {len(text):,} characters, and at most {MOST_WRITTEN:,} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NoText(repr(text[error.start])) from error
    return text


MOST_WRITTEN = 1 << 26
"""Characters of a text that a chat template writes: a few times as many as a row of data can have. Tokenising more
takes gigabytes, and hours."""


class NoText(Exception):
    """Half of a surrogate pair, shown, which a chat template has written: no tokenizer takes it, and no file."""


def no_text(model: str, half: NoText) -> str:
    """What is to be said of it, with the file of the template."""
    files = (Path(model) / name for name in ("chat_template.jinja", "tokenizer_config.json"))
    file = next((file for file in files if file.is_file()), model)
    return (
        f"{file}: its chat template writes {half}, half of a surrogate pair, which is no text: correct the template, "
        "or do without it (`chat: false` and `template`; preference data as plain text)"
    )


def load_config(model: str) -> Any:
    """The configuration of a model's language part.

    Raises:
        UnusableModel: there is none that transformers knows.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(f"model: {model}: no usable config.json ({first_line(error)})") from error


def ends_beyond(config: Any, model: str) -> str:
    """What is to be said of a model that is to end by tokens which its embedding has no row for; nothing where it has.
    Its tokenizer's own EOS is looked at by `check_vocabulary`."""
    said = {"config.json": getattr(config, "eos_token_id", None)}  # not every kind of model has one
    file = Path(model) / "generation_config.json"
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):  # no JSON object: engines refuse it
        said[file.name] = json.loads(file.read_bytes()).get("eos_token_id") if file.is_file() else None
    for name, ids in said.items():
        for eos in ids if isinstance(ids, list) else [ids]:
            if isinstance(eos, int) and not 0 <= eos < config.vocab_size:
                return (
                    f"{model}/{name}: `eos_token_id` {eos} is no token of a model with {config.vocab_size} rows of "
                    "embedding (vocab_size), so that no answer ends by it: the file may be another model's"
                )
    return ""


def check_vocabulary(tokenizer: Any, config: Any, model: str) -> None:
    """Tokens that the embedding has no row for would end the engine, or a GPU's whole process."""
    # Some models list added tokens beyond the embedding that no text contains; those are checked where they occur.
    largest = max(tokenizer.vocab_size - 1, tokenizer.eos_token_id)
    if largest >= config.vocab_size:
        raise UnusableModel(
            f"model: {model}: its tokenizer has ids up to {largest}, its embedding (vocab_size) only "
            f"{config.vocab_size} rows. Tokenizer and weights belong to different models, or the embedding was not "
            "resized after tokens were added."
        )
