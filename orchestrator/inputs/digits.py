"""Numbers of data in the digits that a person wrote: a float is the nearest of its kind, and its own digits say more
than anybody meant (18.899999618530273 for 18.9)."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

_SURE = 15
"""Significant digits that a double keeps of every decimal number; of those it shows beyond, the last are its own."""
_MOST = 17
"""Significant digits that name any double: a longer number was written by somebody who had more."""
_LONGEST_INTEGER = 21
"""Digits of a whole number that is written out."""


class Written(float):
    """A number of data, with the text it had there."""

    text: str

    def __new__(cls, text: str) -> Written:
        number = super().__new__(cls, text)
        number.text = text
        return number


class Label(int):
    """A class of data that has a number and a name, as `datasets` stores it."""

    name: str

    def __new__(cls, number: int, name: str) -> Label:
        label = super().__new__(cls, number)
        label.name = name
        return label


def digits(number: float | Decimal) -> str:
    """A finite number as text.

    Example: 18.0 is "18", 0.30000000000000004 "0.3", 1e16 "10000000000000000", and -0.0 "0"
    """
    if isinstance(number, Decimal):
        whole, _, part = f"{number:f}".partition(".")
        part = part.rstrip("0")  # the column's scale is nobody's digits
        return f"{whole}.{part}" if part else whole if int(whole) else "0"
    text = number.text if isinstance(number, Written) else repr(number)
    if not -_SURE < (exact := Decimal(text)).adjusted() < _LONGEST_INTEGER:
        return _meant(text)
    return str(int(exact)) if exact == exact.to_integral_value() else f"{Decimal(_meant(text)):f}"


def _meant(text: str) -> str:
    """The number that a text of a float, which is no whole number, stands for."""
    if not _SURE < len(Decimal(text).as_tuple().digits) <= _MOST:
        return text
    number = float(text)
    single = _single(number)
    if single is not None:  # one of 24 bits among those of 53, by chance, is one of 500 million
        return single
    return repr(number) if len(Decimal(repr(number)).as_tuple().digits) <= _SURE else f"{number:.{_SURE}g}"


def _single(number: float) -> str | None:
    """The shortest text that is a number of 32 bits; None where it is none of these."""
    try:
        narrow = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return None
    return _shortest(number, "f") if narrow == number else None


def _shortest(number: float, code: str) -> str:
    """The shortest text from which a number of the kind `code` (of `struct`) comes back."""
    for precision in range(1, _MOST + 1):
        text = f"{number:.{precision}g}"
        try:
            if struct.pack(code, float(text)) == struct.pack(code, number):
                return text
        except OverflowError:  # rounded up beyond the largest
            continue
    return repr(number)


class Columns:
    """What the columns of a table say of the numbers in them, which Python's own no longer do."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._names = dict(_class_names(schema))

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with its numbers as they were meant: `Written`, or `Label` where classes have names."""
        return {field.name: self._value(row[field.name], field) for field in self._schema}

    def _value(self, value: Any, field: pa.Field) -> Any:
        names = self._names.get(field.name)
        if names is not None and isinstance(value, int) and 0 <= value < len(names):
            return Label(value, names[value])
        return _with_digits(value, field.type)


def _class_names(schema: pa.Schema) -> Iterator[tuple[str, list[str]]]:
    """The names of classes by column, as the library `datasets` writes them beside a table."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        for name, feature in features.items():
            if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list):
                yield name, [str(one) for one in feature["names"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # metadata of another kind: the columns are what they are


def _with_digits(value: Any, kind: pa.DataType) -> Any:
    """A value of a column of that type, its numbers in the digits that the type stands for."""
    if value is None:
        return None
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        code = "f" if pa.types.is_float32(kind) else "e"
        return Written(_shortest(value, code)) if math.isfinite(value) else value
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and isinstance(value, list):
        return [_with_digits(one, kind.value_type) for one in value]
    return value
