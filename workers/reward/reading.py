"""Prompt and answer as a reward model reads them: in token ids of its own tokenizer. Nothing is cut off.

    chat    [*messages, answer] through the chat template, which writes every special token itself (as TRL's
            RewardTrainer has conversations)
    pair    [CLS] prompt [SEP] answer [SEP], or what the tokenizer makes of two texts
    join    prompt and answer, one text, closed by EOS (as TRL's RewardTrainer has plain texts)

A process model reads, as TRL's PRMTrainer trains it, [BOS] prompt step 1 separator step 2 separator ..., each tokenised
by itself and the ids joined; what it says of a step is read at the last token of the separator behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import first_line
from orchestrator.records.rewards import RewardForm, RewardPlan
from workers.tokens.prompts import NoText, load_config, no_text, templated
from workers.tokens.rendering import context_of
from workers.tokens.special_tokens import special_texts
from workers.tokens.tokenizer import UnusableModel, any_tokenizer, encoded

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt: its text, and its messages where it has any, in which case the text is another model's."""

    text: str
    messages: Messages | None = None

    @property
    def as_messages(self) -> list[dict[str, str]]:
        """For a chat template; a prompt without messages is the user's."""
        if self.messages is None:
            return [{"role": "user", "content": self.text.strip()}]
        return [{"role": message["role"], "content": message["content"]} for message in self.messages]

    @property
    def as_text(self) -> str:
        """For a model without a chat template: of messages what they say, with a blank line behind each."""
        if self.messages is None:
            return self.text
        return "".join(f"{message['content']}\n\n" for message in self.messages)


@dataclass(frozen=True, slots=True)
class Row:
    """One input of the model."""

    inputs: Mapping[str, list[int]]
    """`input_ids`, and `token_type_ids` where the tokenizer has them, of one length."""
    places: tuple[int, ...] = ()
    """Of a process model, the index of the token at which each step is judged."""

    @property
    def num_tokens(self) -> int:
        return len(self.inputs["input_ids"])


class Reader:
    """The tokenizer of a reward model, under a plan.

    Raises:
        UnusableModel: it has none, or no usable config.json, or cannot be asked in the plan's form.
    """

    def __init__(self, plan: RewardPlan) -> None:
        self._plan, self._tokenizer = plan, any_tokenizer(plan.model)
        self._special = special_texts(self._tokenizer)
        self.form: RewardForm = plan.form or _usual_form(self._tokenizer)
        if self.form == "chat" and not self._tokenizer.chat_template:
            raise UnusableModel(f"{plan.model}: its tokenizer has no chat template, in which it is to be asked")
        longest = [plan.max_tokens, context_of(load_config(plan.model)), self._tokenizer.model_max_length]
        self.longest = min(limit for limit in longest if limit is not None)
        """Most tokens of a row."""
        self._separator = self._ids(plan.separator) if plan.kind == "process" else []

    def spells_special(self, texts: Sequence[str]) -> bool:
        """Whether an answer spells a special token: the model would take it for one, and an answer could close its own
        turn and write another's."""
        return any(token in text for text in texts for token in self._special)

    def answer(self, question: Question, text: str) -> Row:
        """The row of an outcome model."""
        if self.form == "chat":
            return Row({"input_ids": self._ids(self._templated(question, text))})
        if self.form == "pair":
            found = encoded(self._tokenizer, question.as_text.strip(), text.strip())
            return Row({name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found})
        ids = list(encoded(self._tokenizer, question.as_text + text)["input_ids"])
        eos = self._tokenizer.eos_token_id
        return Row({"input_ids": ids if eos is None or ids[-1:] == [eos] else [*ids, eos]})

    def steps(self, question: Question, steps: Sequence[str]) -> Row:
        """The row of a process model."""
        bos = self._tokenizer.bos_token_id
        ids, places = [*([] if bos is None else [bos]), *self._ids(question.as_text)], list[int]()
        for step in steps:
            ids += [*self._ids(step), *self._separator]
            places.append(len(ids) - 1)
        return Row({"input_ids": ids}, tuple(places))

    def _ids(self, text: str) -> list[int]:
        return list(encoded(self._tokenizer, text, add_special_tokens=False)["input_ids"])

    def _templated(self, question: Question, text: str) -> str:
        turns = [*question.as_messages, {"role": "assistant", "content": text.strip()}]
        try:
            return templated(self._tokenizer, turns, self._plan.date)
        except NoText as error:
            raise UnusableModel(no_text(self._plan.model, error)) from error
        except Exception as error:  # a template is a program of the model's, and may raise anything
            said = f"the chat template of {self._plan.model} cannot take the messages ({first_line(error)})"
            raise UnusableModel(f"{said}; give the reward model plain texts instead of its chat template") from error


def _usual_form(tokenizer: Any) -> RewardForm:
    if tokenizer.chat_template:
        return "chat"
    return "pair" if tokenizer.sep_token is not None and tokenizer.eos_token in (None, tokenizer.sep_token) else "join"
