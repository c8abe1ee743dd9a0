"""YAML as job files are written in it: a document with the places of its keys, of a size that a job can have."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from orchestrator.config.document import Key
from orchestrator.errors import BadInput, Damaged, cut
from orchestrator.files.inside import read_regular
from orchestrator.files.rights import reason

MAX_JOB = 1 << 20
"""Bytes of a job file."""
MOST_VALUES = 20_000
"""Keys and entries of a document. No job has so many, and reading them takes seconds."""
MOST_LEVELS = 100
"""Of mappings and lists in each other; the time to read them grows with the square of their number."""
_INTEGER, _TEXT, _MERGE = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "str", "merge"))
_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[\d_]+(:\d+)+)")


def text_of(path: Path, what: str = "job") -> str:
    """The text of a job file, or of another of its kind.

    Raises:
        BadInput: it cannot be read, or is no regular file: a device may have no end, and a pipe no beginning.
    """
    try:
        return read_regular(path, MAX_JOB).decode()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        near = absent and difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f". Did you mean {path.parent / near[0]}?" if near else ""
        raise BadInput(f"{path}: cannot read the {what} file ({reason(error)}){hint}") from error
    except Damaged as error:
        raise BadInput(f"{error}. Give the {what} file, in YAML") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 (byte {error.start})") from error


def read_yaml(text: str, where: str, several_lines: bool = True) -> tuple[Any, dict[Key, tuple[int, int]]]:
    """A YAML document, and line and column of each of its keys, from 1."""

    def place(mark: yaml.Mark | None) -> str:
        return f"{where}:{mark.line + 1}:{mark.column + 1}" if mark and several_lines else where

    try:
        reader = _Reader(text, where)
        node = reader.get_single_node()
        positions = dict(islice(_positions(node, (), place), MOST_VALUES))
        if len(positions) == MOST_VALUES:  # a few lines of aliases of aliases can stand for any number
            raise _too_many(where)
        return None if node is None else reader.construct_document(node), positions
    except yaml.MarkedYAMLError as error:
        raise BadInput(
            f"{place(error.problem_mark or error.context_mark)}: not YAML: {cut(str(error.problem or error.context))}"
        ) from error
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not YAML: {cut(' '.join(str(error).split()))}") from error
    except RecursionError as error:
        raise BadInput(f"{where}: too many levels, or an alias (`*name`) that contains itself") from error


def _too_many(where: str) -> BadInput:
    return BadInput(f"{where}: {MOST_VALUES} keys and entries or more, aliases included")


class _Reader(yaml.SafeLoader):
    """Composes no document of too many levels or values, and tells the place of a date, a number or a character that
    cannot be."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self._where = where
        self._num_nodes = self._level = 0

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        try:
            return super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError) as error:  # of chr()
            said = "an escape that is no character: `\\U` goes to 0010ffff"
            raise yaml.scanner.ScannerError(None, None, said, self.get_mark()) from error

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._num_nodes += 1
        if self._num_nodes >= 2 * MOST_VALUES:  # a value has at most two: its key and itself
            raise _too_many(self._where)
        if self.check_event(yaml.CollectionStartEvent) and self._level + 1 >= MOST_LEVELS:
            raise BadInput(f"{self._where}: {MOST_LEVELS} levels of mappings and lists in each other, or more")
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # of base 16 and 2 Python reads any length, and then cannot write it
            return value
        except ValueError as error:
            said = str(error).partition(";")[0]  # behind it is what a program may do
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error
        except (LookupError, AttributeError) as error:  # of what is said to be of a kind (`!!int x`) that it is not
            said = f"{node.value!r} is no value of the tag {node.tag!r}"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark) from error


def _positions(
    node: yaml.Node | None, key: Key, place: Callable[[yaml.Mark], str]
) -> Iterator[tuple[Key, tuple[int, int]]]:
    """Line and column of every key, from 1. What YAML would take for something else than it looks like is refused: a
    key that stands twice or is no text, and a number of another base."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # no key of a job: the loader refuses it
            line, column = name.start_mark.line + 1, name.start_mark.column + 1
            if name.value in seen:
                raise BadInput(f"{place(name.start_mark)}: `{name.value}` stands at line {seen[name.value]} already")
            if name.tag not in (_TEXT, _MERGE):
                raise BadInput(
                    f"{place(name.start_mark)}: `{name.value}` is no text to YAML, as keys are: put it in quotes"
                )
            seen[name.value] = line
            below = (*key, name.value)
            yield below, (line, column)
            yield from _positions(value, below, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), (value.start_mark.line + 1, value.start_mark.column + 1)
            yield from _positions(value, (*key, index), place)
    elif isinstance(node, yaml.ScalarNode) and node.tag == _INTEGER and _OTHER_BASE.fullmatch(node.value):
        raise BadInput(
            f"{place(node.start_mark)}: {node.value} is another number to YAML: 0 at its start means base 8, and a "
            "colon base 60. Write it without, or put it in quotes for a text"
        )
