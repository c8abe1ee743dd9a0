"""The job in a `config` record: no more of it than a job file may have."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config.load import load_job
from orchestrator.config.yaml_text import MOST_VALUES, read_yaml
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.recorded_job import check
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job

FLOOD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "texts": ({"generate": {"stop": ["x"] * 200_000}}, {}, "more than 20,000 values"),
    "numbers": ({"generate": {"engine": {"a": [[0] * 1000] * 200}}}, {}, "more than 20,000 values"),
    "text": ({"name": "x" * 3_000_000}, {}, "2,000,000 characters"),
    "folders": ({}, {"folders": [f"/none/{number}" for number in range(200_000)]}, "at most 1000 items"),
    "overrides": ({}, {"overrides": ["seed=1"] * 200_000}, "at most 1000 items"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    run_job(make_project(folder, rounds=1), StandIns())
    return folder / "run"


@pytest.mark.parametrize("kind", FLOOD)
def test_a_recorded_job_without_end_is_refused_in_one_message(
    kind: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, (job, beside, said) = Path(shutil.copytree(finished, tmp_path / "run")), FLOOD[kind]
    for path, document in records(run).items():
        if document["kind"] == "config":
            data = document["data"]
            for section, value in job.items():
                data["job"][section] = data["job"][section] | value if isinstance(value, dict) else value
            seal(path, document | {"data": data | beside})
    for command in (["status", run], ["resume", run], ["fork", run, tmp_path / "forked"], ["run", run / "job.yaml"]):
        assert ratchet(*command) == 1
        told = capsys.readouterr().err
        assert said in told and "Traceback" not in told and told.count("\n") == 1
    assert ratchet("verify", run) == 1


def test_a_file_of_endless_levels_or_bytes_is_refused_before_it_is_composed(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    for text in ("a: " + "[" * 200_000, "a: " + "{b: " * 200_000, "- " * 5_000):
        file.write_text(text)
        with pytest.raises(BadInput, match="100 levels of mappings and lists in each other, or more"):
            load_job(file)
    file.write_text("#" * (1 << 20) + "\na: 1")
    with pytest.raises(BadInput, match="is larger than the 1,048,576 bytes"):
        load_job(file)


def test_a_file_of_more_values_is_refused_before_it_is_composed(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    for text in (f"a: [{'b,' * 4 * MOST_VALUES}]", f"a: [{'b,' * MOST_VALUES}]", "- a\n" * MOST_VALUES):
        file.write_text(text)
        with pytest.raises(BadInput, match=f"{MOST_VALUES} keys and entries or more"):
            load_job(file)
    tracemalloc.start()
    with pytest.raises(BadInput, match="keys and entries or more"):
        read_yaml(f"a: [{'b,' * 10 * MOST_VALUES}]", "job.yaml")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50 * 2**20, "of 200,000 values, which take 113 MiB, only the first ones are composed"


def test_a_section_has_what_it_cannot_be_without(finished: Path) -> None:
    """Readers take the models of `reward` as given."""
    job = Ledger(finished / "ledger").state.configs[-1]["job"]
    check(job)
    with pytest.raises(ValidationError, match=r"reward.models\n  Field required"):
        check(job | {"reward": {"a": {"b": [None]}}})
