"""The house's measures: a file has one purpose, a function is seen at once, and what is advised can be done."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import app

PROJECT = Path(__file__).parent.parent
FILE, FUNCTION = 400, 60
"""Most lines of a file and of a function."""
LARGER = {
    "orchestrator/config/rules.py: contradictions": "a list of settings that exclude each other",
}


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


HISTORY = ("CHANGELOG.md", "test-results.md")
"""They tell of files that were."""
DOCUMENTS = [
    *(file for folder in (PROJECT, PROJECT / "docs") for file in folder.glob("*.md") if file.name not in HISTORY),
    *(PROJECT / "jobs").glob("*/README.md"),
]
ROOTS = (PROJECT, PROJECT / "orchestrator", PROJECT / "workers")
"""What paths in documents are relative to."""


def paths_named(text: str) -> set[str]:
    """Paths of this project in a document: of Python files, and whatever is below one of its folders; not those of
    files that an example adds, nor with a NAME in capitals."""
    added = set(re.findall(r"^`([^`\n]+)`:[^\n]*\n\n```(?:python|yaml)$", text, re.M))
    top = "orchestrator|workers|tests|docs|jobs|benchmarks|deploy|requirements"
    found = re.findall(rf"(?<![\w./:-])((?:(?:{top})/[\w./*-]*[\w*/]|[\w./-]+/[\w-]+\.py)\b/?)", text)
    return {path for path in found if not re.search(r"\b[A-Z]{4,}\b", path)} - added


def is_there(path: str) -> bool:
    return any(next(root.glob(path.rstrip("/")), None) is not None for root in ROOTS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_path_in_a_document_is_there(document: Path) -> None:
    assert {path for path in paths_named(document.read_text()) if not is_there(path)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_link_in_a_document_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), link
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if anchor else []
        names = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in names, link


def test_paths_and_what_is_none_are_told_apart() -> None:
    text = (
        "`ledger/run.py` or tests/support/, (docs/a.md); see workers/graders/NAME.py, a/b or http://x/orchestrator/b.py"
    )
    assert paths_named(text) == {"ledger/run.py", "tests/support/", "docs/a.md"}
    assert is_there("ledger/run.py") and is_there("tests/support/") and is_there("jobs/irpo-*.yaml")
    assert not is_there("ledger/runs.py") and not is_there("docs/a.md")
