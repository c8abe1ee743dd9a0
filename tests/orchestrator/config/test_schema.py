"""The schema for editors takes what `load_job` takes, and knows every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.config.job_docs import EXAMPLE
from orchestrator.config.load import parse_job, resolved_yaml
from orchestrator.config.schema import job_schema
from orchestrator.config.words import fields_at
from orchestrator.config.yaml_text import read_yaml
from orchestrator.errors import BadInput
from tests.orchestrator.test_cli import ratchet

PROJECT = Path(__file__).parents[3]
JOBS = sorted(
    path
    for path in (PROJECT / "jobs").glob("*.yaml")
    if "\nname:" in path.read_text() and "\narms:" not in path.read_text()
)
SCHEMA = job_schema()
REQUIRED = {"name": "a", "model": "b", "data": {"train": "t", "gate": "g", "test": {"path": "e"}}}


def fits(document: Any) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(as_editors_read(document))


def as_editors_read(said: Any) -> Any:
    """By YAML 1.2, where `3e-5` is a number; our reader gives its text, which a field of numbers takes for one."""
    if isinstance(said, dict):
        return {key: as_editors_read(value) for key, value in said.items()}
    if isinstance(said, list):
        return [as_editors_read(each) for each in said]
    return float(said) if isinstance(said, str) and re.fullmatch(r"\d+e-?\d+", said) else said


def loads(document: Any) -> bool:
    try:
        parse_job(json.dumps(document), Path("job.yaml"))
    except BadInput:
        return False
    return True


def test_it_is_a_schema_and_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert ratchet("schema") == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_jobs_fit_as_they_are_and_resolved(path: Path) -> None:
    text = path.read_text()
    assert fits(read_yaml(text, "job")[0])
    assert fits(read_yaml(resolved_yaml(parse_job(text, path).job), "job")[0])


def test_the_example_fits() -> None:
    assert fits(read_yaml(EXAMPLE, "job")[0])


def test_every_key_is_known_and_explained() -> None:
    for key in fields_at(()):
        said = SCHEMA["properties"][key]
        below = next((part["$ref"] for part in [said, *said.get("anyOf", [])] if "$ref" in part), None)
        section = SCHEMA["$defs"][below.rpartition("/")[2]] if below else said
        assert section["description"]
        assert list(section.get("properties", {})) == fields_at((key,))
        assert all(inner["description"] for inner in section.get("properties", {}).values())


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"source": {"type": "steps", "rollouts": 8}},
        {"data": {"train": {"hub": "openai/gsm8k", "split": "train"}, "gate": "g", "test": "t"}},
        {"grade": {"thoughts": "</think>"}},
        {"grade": {"thoughts": ["</think>", "</r>"]}},
        {"loss": {"beta": [0.1, 0.2]}},
        {"train": {"zero": None, "betas": [0.9, 0.99]}},
        {"keep": {"checkpoints": None}},
    ],
    ids=str,
)
def test_what_a_job_may_have_fits(more: dict[str, Any]) -> None:
    assert loads(REQUIRED | more) and fits(REQUIRED | more)


@pytest.mark.parametrize(
    "more",
    [
        {"nmae": 1},
        {"train": {"lr": 1e-6}},
        {"train": {"zero": 4}},
        {"train": {"betas": [0.9]}},
        {"loss": {"beta": 0}},
        {"loss": {"beta": []}},
        {"rounds": 0},
        {"source": "samples"},
        {"source": {"rollouts": 8}},
        {"name": "../a"},
        {"generate": {"top_p": True}},
        {"cluster": {"idle_release": 0}},
    ],
    ids=str,
)
def test_what_no_job_may_have_does_not(more: dict[str, Any]) -> None:
    assert not loads(REQUIRED | more) and not fits(REQUIRED | more)
