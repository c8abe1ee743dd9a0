"""The house's measures: a file has one purpose, a function is seen at once, and what is advised can be done."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from orchestrator.cli import app

PROJECT = Path(__file__).parent.parent
FILE, FUNCTION = 400, 60
"""Most lines of a file and of a function."""
LARGER: dict[str, str] = {}


def too_long(name: str, text: str) -> Iterator[str]:
    """What of a module has too many lines, by name."""
    if text.count("\n") > FILE:
        yield name
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    yield from (f"{name}: {f.name}" for f in functions if (f.end_lineno or f.lineno) - f.lineno >= FUNCTION)


def test_files_and_functions_are_short() -> None:
    files = sorted(file for part in ("orchestrator", "workers") for file in (PROJECT / part).rglob("*.py"))
    found = {long for file in files for long in too_long(str(file.relative_to(PROJECT)), file.read_text())}
    assert len(files) > 100 and found == LARGER.keys()


def test_what_is_too_long_is_found() -> None:
    def made(lines: int) -> str:
        return "def work() -> None:\n" + "    print()\n" * (lines - 1)

    assert list(too_long("a.py", made(FUNCTION))) == []
    assert list(too_long("a.py", made(FUNCTION + 1))) == ["a.py: work"]
    assert list(too_long("a.py", "\n" * FILE)) == []
    assert list(too_long("a.py", "\n" * (FILE + 1))) == ["a.py"]


def test_every_command_that_is_named_exists() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    files = [*(PROJECT / "orchestrator").rglob("*.py"), *(PROJECT / "workers").rglob("*.py")]
    files += [*(PROJECT / "docs").glob("*.md"), PROJECT / "README.md"]
    named = {(word, file.name) for file in files for word in re.findall(r"`ratchet ([a-z]+)", file.read_text())}
    assert len(named) > 20 and {(word, file) for word, file in named if word not in commands} == set()
