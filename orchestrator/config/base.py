"""What every section is made of: frozen settings, numbers in bounds, values by round."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

T = TypeVar("T")


@dataclass(frozen=True)
class Words:
    """Of a type: what it holds, in the words of errors and of the documentation."""

    words: str


class Settings(BaseModel):
    """Base of every section: frozen, unknown keys refused, docstrings are the descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @classmethod
    def file_fields(cls) -> dict[str, FieldInfo]:
        """The keys of the section as they stand in a file."""
        return dict(cls.model_fields)


def no_bool(value: Any) -> Any:
    """A validator of numbers.

    Raises:
        ValueError: the value is true or false.
    """
    # YAML reads `on` and `yes` as true, and Python takes true for 1: never what a number means here.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _day(value: Any) -> Any:
    # YAML reads 2026-11-27 as a date; one that is in quotes is text.
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, str):
        try:
            return datetime.date.fromisoformat(value).isoformat()
        except ValueError as error:
            raise ValueError("it is no date; write one such as 2026-11-27") from error
    return value


Day = Annotated[str, BeforeValidator(_day)]
Positive = Annotated[float, BeforeValidator(no_bool), Field(gt=0)]
# At most 30 years: no thread and no call waits for longer than 292.
Seconds = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=1_000_000_000)]
NonNegative = Annotated[float, BeforeValidator(no_bool), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=1)]
NonEmpty = Annotated[str, Field(min_length=1)]
Number = Annotated[float, BeforeValidator(no_bool)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1)]
Momentum = Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)]
CountOrZero = Annotated[int, BeforeValidator(no_bool), Field(ge=0)]
# A value for every round, or a list of one value a round; see `at_round`.
PositiveSchedule = Positive | Annotated[list[Positive], Field(min_length=1)]
NonNegativeSchedule = NonNegative | Annotated[list[NonNegative], Field(min_length=1)]
CountSchedule = Count | Annotated[list[Count], Field(min_length=1)]


def at_round(schedule: T | list[T], round_number: int) -> T:
    """The value of a schedule in a round (from 1): a longer list is cut, a shorter one repeats its last value."""
    if isinstance(schedule, list):
        return schedule[min(round_number, len(schedule)) - 1]
    return schedule


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, ready to be used.

    Raises:
        ValueError: it is no regular expression; the message says why.
    """
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
