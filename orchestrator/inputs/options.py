"""The options of a multiple-choice problem: as lines of a prompt, and the letter of the right one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.inputs.fields import plain, present

KEY = "data.choices"


@dataclass(frozen=True, slots=True)
class Options:
    """Labels and texts, in order.

    Example: Options(("A", "B"), ("Paris", "Rome"))
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]

    def lines(self) -> str:
        """One a line: "(A) Paris"."""
        return "\n".join(f"({label}) {text}" for label, text in zip(self.labels, self.texts, strict=True))

    def label_of(self, answer: str, what: str, in_words: bool = False) -> str:
        """The label of the right option, which a gold answer names by its label, its number from 0, or its text.

        Raises:
            BadInput: it names none; or, where it is text in the data and no number (`in_words`), one by its number or
                label and another by its text, or two by their text. `what` opens the message.
        """
        by_text = [label for label, text in zip(self.labels, self.texts, strict=True) if text == answer]
        named = [answer] if answer in self.labels else []
        if not named and answer.isdecimal() and int(answer) < len(self.labels):
            named = [self.labels[int(answer)]]
        if in_words and len(found := dict.fromkeys([*named, *by_text])) > 1:
            raise BadInput(
                f"{what} is {answer[:40]!r}, by which the options {', '.join(found)} could be meant: their labels, "
                "numbers or texts say so. Give the label, or the number from 0 without quotes; and no two options the "
                "same text"
            )
        if named or by_text:
            return (named or by_text)[0]
        shown = ", ".join(self.labels)
        raise BadInput(
            f"{what} is {answer[:40]!r}, which is none of the options ({shown}), no number of one (from 0 to "
            f"{len(self.labels) - 1}), and no text of one, letter by letter (such as {self.texts[0][:40]!r})"
        )


def options_of(row: Mapping[str, Any], field: str, place: str) -> Options:
    """The options in a field of a row: a list of texts, or lists `label` and `text`.

    Raises:
        BadInput: it holds something else.
    """
    what, value = f"{place}: field {field!r} ({KEY})", present(row, field, KEY, place)
    labels: Sequence[Any]
    if isinstance(value, Mapping) and isinstance(value.get("text"), list) and isinstance(value.get("label"), list):
        labels, texts = value["label"], value["text"]
    elif isinstance(value, list):
        labels, texts = ascii_uppercase[: len(value)], value
    else:
        kind = type(value).__name__
        raise BadInput(f"{what} must be a list of texts, or an object with the lists `label` and `text`, not {kind}")
    if not 2 <= len(texts) == len(labels):
        raise BadInput(f"{what} has {len(labels)} labels for {len(texts)} options; from 2 to {len(ascii_uppercase)} go")
    found = Options(tuple(plain(one, what).strip() for one in labels), tuple(plain(one, what).strip() for one in texts))
    if len(set(found.labels)) < len(found.labels):
        raise BadInput(f"{what}: two options have the same label")
    return found
