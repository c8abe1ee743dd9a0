"""Further held-out sets (`data.tests`): read as they say, answered and reported by their names, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.kept import read_all_problems
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import status
from tests.orchestrator.test_resume import go, resumed, trust
from tests.support.stand_ins import StandIns, make_project, run_job


def more(folder: Path, name: str = "hard.jsonl", number: int = 5) -> str:
    """A set whose rows have other fields than the job's."""
    rows = [{"nr": f"h{i}", "problem": f"hard {name} {i}?", "gold": f"so #### {i}"} for i in range(number)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def sets(path: str) -> list[dict[str, Any]]:
    own = {"id": "nr", "answer": "gold", "answer_marker": "####", "template": "Q: {problem}"}
    return [{"name": "hard", "path": path} | own]


def test_a_set_is_read_as_it_says_itself(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    file = load_job(job, [f"data.tests={json.dumps(sets(more(tmp_path)))}"])
    problems = read_all_problems(file)
    assert list(problems) == ["train", "gate", "test", "tests.hard"]
    first = problems["tests.hard"][0]
    assert (first.prompt_id, first.text, first.gold) == ("h0", "Q: hard hard.jsonl 0?", "0")
    assert list(problems["test"]) == list(read_all_problems(load_job(job))["test"])


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ("[{name: a, path: x.jsonl}, {name: a, path: y.jsonl}]", "two sets of the name 'a'"),
        ("[{name: ../a, path: x.jsonl}]", r"data\.tests.*name"),
        ("[{name: a}]", "give either `path`"),
        ("[{path: x.jsonl}]", "name"),
        ("[{name: a, path: nowhere.jsonl}]", r"data\.tests\.a"),
        ("[{name: a, path: test.jsonl}]", "has the same text as"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, tests: str, said: str) -> None:
    job = make_project(tmp_path)
    with pytest.raises(BadInput, match=said):
        read_all_problems(load_job(job, [f"data.tests={tests}"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("further")
    path = more(folder)
    said = run_job(
        make_project(folder), StandIns(), f"data.tests={json.dumps(sets(path))}", "evaluate.samples=2", "rounds=1"
    )
    assert all(", hard " in line for line in said if " evaluation " in line)
    return folder / "run"


def test_it_is_answered_and_reported_by_its_name(run: Path) -> None:
    facts = Ledger(run / "ledger").state.commits["rounds/01/evaluation"].facts
    assert facts["tests"]["hard"]["problems"] == 5 and set(facts) >= {"gate", "test", "tests"}
    assert {p.name for p in (run / "rounds/01/evaluation").iterdir()} == {
        "gate.parquet", "test.parquet", "tests.hard.parquet",
    }  # fmt: skip
    assert verify(run).findings == []
    assert status(run)["rounds"][0]["tests"] == {"hard": facts["tests"]["hard"]["accuracy"]}
    text = (run / "report.md").read_text()
    accuracy = text.partition("## Accuracy")[2].partition("## ")[0]
    assert "| round | test | hard | gate |" in accuracy
    repeated = Ledger(run / "ledger").state.commits["rounds/01/repeated"].facts["sets"]
    assert set(repeated) == {"test", "tests.hard"} and repeated["tests.hard"]["samples"] == 2


def test_files_that_were_moved_are_named_anew_and_others_are_refused(run: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(run.parent, project)
    (project / "hard.jsonl").rename(project / "moved.jsonl")
    here = [f"data.{split}.path={project}/{split}.jsonl" for split in ("train", "gate", "test")]
    here += [f"model={project}/seed", "rounds=2"]

    def goes_on(tests: list[dict[str, Any]]) -> None:
        go(resumed(project / "run", [*here, f"data.tests={json.dumps(tests)}"], trust))

    with pytest.raises(BadInput, match=r"data\.tests\.hard: .* has other problems than when"):
        goes_on(sets(str(project / more(project, "other.jsonl", 4))))
    with pytest.raises(BadInput, match=r"data\.tests"):
        goes_on([])
    goes_on(sets(str(project / "moved.jsonl")))
    found = status(project / "run")
    assert found["state"] == "finished" and set(found["rounds"][1]["tests"]) == {"hard"}
