"""Documents for people and agents: every path and every link in them leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.test_house import PROJECT

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
    found = re.findall(rf"(?<![\w./:-])((?:(?:{top})/[\w./*-]*[\w*/]|(?:[\w-]+/)*[\w-]+\.py)\b/?)", text)
    return {path for path in found if not re.search(r"\b[A-Z]{4,}\b", path)} - added


def is_there(path: str) -> bool:
    if "/" not in path:  # named where its folder has been
        return any(next((PROJECT / top).rglob(path), None) for top in ("orchestrator", "workers", "tests", "jobs"))
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


def test_every_test_that_a_document_names_is_there() -> None:
    """By its file, its name, or both with a dot between."""
    known: set[str] = set()
    for file in (PROJECT / "tests").rglob("test_*.py"):
        names = re.findall(r"^def (test_\w+)", file.read_text(), re.M)
        known |= {file.stem, *names, *(f"{file.stem}.{name}" for name in names)}
    for document in DOCUMENTS:
        named = set(re.findall(r"`(test_\w+(?:\.test_\w+)?)`", document.read_text()))
        assert named <= known, f"{document.name}: {named - known}"


def test_rooms_stand_in_the_order_of_their_contract() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    table = re.findall(r"^\| (`.*?) \|", (PROJECT / "docs/architecture.md").read_text().partition("## Ideas")[0], re.M)
    rooms = [" | ".join(re.findall(r"`(\w+)(?:/|\.py)`", cell)) for cell in table]
    wanted = [
        " | ".join(sorted(layer.split(" | "))) for package in ("orchestrator", "workers") for layer in layers[package]
    ]
    assert rooms == wanted
    listed = re.search(r"Rooms import downwards: ([\w,\s]+)\.", (PROJECT / "AGENTS.md").read_text())
    assert listed and listed[1].replace("\n", " ").split(", ") == layers["orchestrator"]


def test_a_way_has_at_most_fifteen_places_and_each_is_there() -> None:
    ways = (PROJECT / "docs/architecture.md").read_text().partition("## Three ways")[2].partition("## Where")[0]
    lists = re.split(r"^\*\*", ways, flags=re.M)[1:]
    assert len(lists) == 3
    for way in lists:
        places = re.findall(r"^\d+\. `([^`]+)`:[^`\n]*(?:`([\w.]+)`)?", way, re.M)
        assert 10 < len(places) <= 15 and len({file for file, _ in places}) == len(places)
        for file, name in places:
            assert name.rpartition(".")[2] in (PROJECT / file).read_text(), f"{file}: {name}"


def test_paths_and_what_is_none_are_told_apart() -> None:
    text = (
        "`ledger/run.py` or tests/support/, (docs/a.md); see workers/graders/NAME.py, a/b or http://x/orchestrator/b.py"
    )
    assert paths_named(text) == {"ledger/run.py", "tests/support/", "docs/a.md"}
    assert is_there("ledger/run.py") and is_there("tests/support/") and is_there("jobs/irpo-*.yaml")
    assert is_there("judgement.py") and not is_there("judgements.py")
    assert not is_there("ledger/runs.py") and not is_there("docs/a.md")
