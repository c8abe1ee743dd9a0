"""Documents for people and agents: every path and every link in them leads somewhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.load import parse_job
from orchestrator.config.words import fields_at
from tests.test_house import PROJECT

HISTORY = ("CHANGELOG.md", "test-results.md")
"""They tell of files that were."""
DOCUMENTS = [
    *(file for file in (*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")) if file.name not in HISTORY),
    *(PROJECT / "jobs").rglob("README.md"),
    *(PROJECT / "deploy").rglob("README.md"),
    PROJECT / "benchmarks/README.md",
]
EVERY = sorted(
    {*DOCUMENTS, *(PROJECT / name for name in ("CHANGELOG.md", "docs/test-results.md"))}
    | {*(file for top in ("tests", "benchmarks", "jobs", "deploy") for file in (PROJECT / top).rglob("*.md"))}
)
"""All that is written, also what tells of files that were: its links lead somewhere."""
MADE = "deploy/docker/secrets"
"""What a command of a document makes."""
ROOTS = (PROJECT, PROJECT / "orchestrator", PROJECT / "workers")
"""What paths in documents are relative to."""


def paths_named(text: str) -> set[str]:
    """Paths of this project in a document: of Python files, and whatever is below one of its folders; not those of
    files that an example adds, nor with a NAME in capitals."""
    added = set(re.findall(r"^`([^`\n]+)`:[^\n]*\n\n```(?:python|yaml)$", text, re.M))
    top = "orchestrator|workers|tests|docs|jobs|benchmarks|deploy|requirements"
    found = re.findall(rf"(?<![\w./:-])((?:(?:{top})/[\w./*-]*[\w*/]|(?:[\w-]+/)*[\w-]+\.py)\b/?)", text)
    return {path for path in found if not re.search(r"\b[A-Z]{4,}\b", path) and not path.startswith(MADE)} - added


def is_there(path: str) -> bool:
    if "/" not in path:  # named where its folder has been
        return any(next((PROJECT / top).rglob(path), None) for top in ("orchestrator", "workers", "tests", "jobs"))
    return any(next(root.glob(path.rstrip("/")), None) is not None for root in ROOTS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_path_in_a_document_is_there(document: Path) -> None:
    assert {path for path in paths_named(document.read_text()) if not is_there(path)} == set()


@pytest.mark.parametrize("document", EVERY, ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_link_in_a_document_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), link
        headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M) if anchor else []
        names = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in names, link


def test_every_test_that_a_document_names_is_there() -> None:
    """By its file, also with its folder, its name, or both with a dot between."""
    known, folders = set[str](), set[str]()
    for file in (PROJECT / "tests").rglob("test_*.py"):
        folders.add(file.parent.name)
        names = re.findall(r"^def (test_\w+)", file.read_text(), re.M)
        files = {file.stem, f"{file.parent.name}/{file.stem}"}
        known |= {*files, *names, *(f"{one}.{name}" for one in files for name in names)}
    within = "|".join(sorted(folders))
    for document in DOCUMENTS:
        named = set(re.findall(rf"`((?:(?:{within})/)?test_\w+(?:\.test_\w+)?)`", document.read_text()))
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


LINE = re.compile(r"^ *(\d+\.|-) `([\w/]+\.py)`( again)?:[^`\n]*(?:`([\w.]+)`)?", re.M)


def ways() -> list[list[tuple[str, bool, str]]]:
    """Of each way through the code: file, whether it was there before, and the first name that the line says."""
    text = (PROJECT / "docs/architecture.md").read_text().partition("## The ways")[2].partition("## Where")[0]
    return [
        [(file, bool(again), name) for _, file, again, name in LINE.findall(way)]
        for way in re.split(r"^\*\*", text, flags=re.M)[1:]
    ]


def tells_of(file: str, other: str) -> bool:
    """Whether a file imports another, or names it as whose something is that it is handed."""
    text, (package, _, module) = (PROJECT / file).read_text(), other.removesuffix(".py").rpartition("/")
    package = package.replace("/", ".")
    imports = re.search(rf"^ *from {re.escape(package)} import (?:\([^)]*|.*)\b{module}\b", text, re.M)
    return bool(imports) or f"{package}.{module}" in text or other.partition("/")[2] in text


def test_a_way_has_at_most_fifteen_files_and_each_name_is_there() -> None:
    assert len(ways()) == 4
    for way in ways():
        first = [file for file, again, _ in way if not again]
        assert 5 < len(first) <= 15 and len({*first}) == len(first)
        for file, _, name in way:
            last = name.rpartition(".")[2]
            assert re.search(rf"\b{re.escape(last)}\b", (PROJECT / file).read_text()), f"{file}: {name}"


def test_a_way_follows_the_code_from_file_to_file() -> None:
    for way in ways():
        for number, (file, again, _) in enumerate(way[1:], 1):
            earlier = [before for before, *_ in way[:number]]
            if again:
                assert file in earlier, f"{file} again, and it was not there before"
            else:
                assert tells_of(earlier[-1], file), f"{earlier[-1]} says nothing of {file}, which comes after it"


def test_files_that_tell_of_another_are_told_apart() -> None:
    assert tells_of("orchestrator/rounds/round.py", "orchestrator/rounds/gate.py")  # imports it
    assert tells_of("orchestrator/rounds/sampling.py", "workers/grading/group.py")  # is handed it
    assert not tells_of("orchestrator/rounds/gate.py", "orchestrator/rounds/round.py")


def test_paths_and_what_is_none_are_told_apart() -> None:
    text = (
        "`ledger/run.py` or tests/support/, (docs/a.md); see workers/graders/NAME.py, a/b or http://x/orchestrator/b.py"
    )
    assert paths_named(text) == {"ledger/run.py", "tests/support/", "docs/a.md"}
    assert is_there("ledger/run.py") and is_there("tests/support/") and is_there("jobs/irpo-*.yaml")
    assert is_there("judgement.py") and not is_there("judgements.py")
    assert not is_there("ledger/runs.py") and not is_there("docs/a.md")


def settings_shown() -> list[Any]:
    """Each YAML block of a document that shows settings of a job; docs/adding.md, which has methods that are not
    there, has tests of its own."""
    found = []
    for file in sorted({*(PROJECT / "docs").glob("*.md")} - {PROJECT / "docs/adding.md"}):
        for at, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", file.read_text(), re.M | re.S)):
            said = yaml.safe_load(block)
            if set(said) <= set(fields_at(())):
                found.append(pytest.param(said, id=f"{file.stem}-{at}"))
    return found


@pytest.mark.parametrize("said", settings_shown())
def test_the_settings_that_a_document_shows_are_taken(said: dict[str, Any], tmp_path: Path) -> None:
    method = said.get("method", "irpo")
    pairs = {"stages": {"sources": ["pairs.jsonl"]}} if method == "sdpo" else {}
    problems = {name: f"{name}.jsonl" for name in ("train", "gate", "test")} | {"prompts_per_round": 64}
    sets = {} if pairs else {"data": problems}
    parse_job(yaml.safe_dump({"name": "shown", "model": "base", **sets, **pairs} | said), tmp_path / "job.yaml")


def test_a_document_s_settings_are_found() -> None:
    assert len(settings_shown()) >= 8


def test_every_job_file_stands_in_their_list() -> None:
    listed = re.findall(r"\]\(([\w.-]+\.yaml)\)", (PROJECT / "jobs/README.md").read_text())
    assert sorted(listed) == sorted(file.name for file in (PROJECT / "jobs").glob("*.yaml"))
