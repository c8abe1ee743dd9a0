"""Problems from a Hub: a real `datasets`, and a small server on this machine in the Hub's place.

Each case runs in a process of its own, since the libraries read their settings once, when imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.hub_server import COMMIT, ID, serve

if importlib.util.find_spec("datasets") is None:  # not imported here, which takes seconds
    pytest.skip("needs datasets", allow_module_level=True)

CARD = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: train.jsonl\n---\nProblems.\n"
ROWS = "".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(5)).encode()
SCRIPT = """
import json, sys
from orchestrator.config import Data
from orchestrator.inputs.problems import read_problems
from orchestrator.errors import BadInput
said = []
for source in json.loads(sys.argv[1]):
    data = Data.model_validate({"train": source, "gate": "g", "test": "e", "id": None})
    try:
        problems = read_problems(data, "train", {})
        said.append([[p.prompt_id, p.text, p.gold] for p in problems])
    except BadInput as error:
        said.append(str(error))
print(json.dumps(said))
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


def read(home: Path, address: str, *sources: dict[str, Any], offline: bool = False) -> list[Any]:
    """The rows of each source, or what is said against it; all in one process."""
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
    argument = json.dumps([{"hub": ID, "config": "main", "split": "train"} | source for source in sources])
    command = [sys.executable, "-c", SCRIPT, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    said, modules = done.stdout.strip().rsplit("\n", 1)
    assert modules == "[]", "the orchestrator must stay light"
    found: list[Any] = json.loads(said)
    return found


@pytest.mark.full
def test_rows_come_from_the_hub_and_then_from_its_cache(tmp_path: Path) -> None:
    with serve({"README.md": CARD, "train.jsonl": ROWS}) as address:
        [first] = read(tmp_path, address, {"split": "train[1:4]", "limit": 2})
    assert first == [["0", "1 + 1?\n", "2"], ["1", "2 + 1?\n", "3"]]
    # The server is gone now.
    rows, said = read(tmp_path, address, {"revision": COMMIT}, {"revision": "7" * 40}, offline=True)
    assert len(rows) == 5
    assert said.startswith(f"data.train.revision: {ID} (main, train): asked for commit 777")
    assert COMMIT in said


def test_what_the_hub_does_not_have(tmp_path: Path) -> None:
    cases = (
        ({"hub": "someone/else"}, "someone/else (main, train): the Hub gave no answer (RepositoryNotFoundError"),
        ({"revision": "v9"}, "the Hub gave no answer (RevisionNotFoundError"),
        ({"split": "validation"}, "(main, validation) cannot be loaded (ValueError: Unknown split"),
        ({"config": "socratic"}, "(socratic, train) cannot be loaded (ValueError: BuilderConfig 'socratic' not found"),
    )
    with serve({"README.md": CARD, "train.jsonl": ROWS}) as address:
        for told, (_, expected) in zip(read(tmp_path, address, *(source for source, _ in cases)), cases, strict=True):
            assert expected in told


@pytest.mark.parametrize("name", ["text", "json", "csv", "parquet", "imagefolder"])
def test_what_lies_in_the_current_folder_is_no_data_set_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Names that the library takes for a way to read files, though it is told that they are on the Hub."""
    (tmp_path / "diary.txt").write_text("mine alone\n")
    (tmp_path / "diary.json").write_text('{"question": "mine", "answer": "alone"}\n')
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    monkeypatch.chdir(tmp_path)
    with serve({}) as address:
        [said] = read(tmp_path / "home", address, {"hub": name, "config": None, "revision": COMMIT})
    assert said.startswith(f"data.train.hub: {name} (train)"), said
    none_there = name not in ("text", "json") and "cannot be loaded" in said
    assert "which is no file of a data set of that name" in said or none_there, said


def test_a_data_set_that_names_files_of_this_machine(tmp_path: Path) -> None:
    (own := tmp_path / "own.jsonl").write_bytes(ROWS)
    with serve({"README.md": CARD.replace(b"train.jsonl", bytes(own)), "train.jsonl": ROWS}) as address:
        [said] = read(tmp_path / "home", address, {})
    assert said.startswith(f"data.train.hub: {ID} (main, train)"), said
    assert "don't belong to" in said or "which is no file of a data set" in said, "the library looks, too"


@pytest.mark.parametrize("name", ["took", "question"])
def test_a_row_that_cannot_be_made_values_is_named_where_the_job_names_its_column(tmp_path: Path, name: str) -> None:
    """The library makes values of all columns that it is asked for."""
    columns = {"question": ["1 + 1?"] * 2, "answer": ["2"] * 2} | {name: pa.array([2**62, 1], pa.duration("s"))}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "train.parquet")
    card = CARD.replace(b".jsonl", b".parquet")
    with serve({"README.md": card, "train.parquet": (tmp_path / "train.parquet").read_bytes()}) as address:
        [said] = read(tmp_path / "home", address, {})
    if name == "took":
        assert said == [["0", "1 + 1?\n", "2"], ["1", "1 + 1?\n", "2"]]
    else:
        assert said.startswith(f"data.train.hub: {ID} (main, train): what follows row 0 cannot be read")


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    with serve({}) as address:
        pass
    [said] = read(tmp_path, address, {})
    assert said.startswith(f"data.train.hub: {ID} (main, train): the Hub gave no answer (ConnectError")
    assert said.endswith("Check the id and the connection, or give a local file (`path`).")


RUN = """
import sys
from pathlib import Path
from tests.support.stand_ins import StandIns, make_project, run_job
folder = Path(sys.argv[1])
job = folder / "tiny.yaml"
if not job.exists():
    data = {"hub": "someone/problems", "config": "main"}
    slices = {"train": "train[:20]", "gate": "train[20:36]", "test": "train[36:]"}
    splits = {split: data | {"split": rows} for split, rows in slices.items()}
    make_project(folder, data=splits | {"id": None})
run_job(job, StandIns(), *sys.argv[2:])
"""


@pytest.mark.full
def test_a_run_keeps_the_rows_it_started_with_and_resumes_without_the_hub(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(52)).encode()

    def run(address: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / f"home{len(overrides)}")}
        command = [sys.executable, "-c", RUN, str(tmp_path), *overrides]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

    with serve({"README.md": CARD, "train.jsonl": rows}) as address:
        first = run(address, "rounds=1")
    assert first.returncode == 0, first.stderr
    kept = tmp_path / "run" / "baseline" / "data"
    assert sorted(file.name for file in kept.iterdir()) == ["gate.parquet", "test.parquet", "train.parquet"]
    commits = [json.loads(file.read_text()) for file in sorted((tmp_path / "run" / "ledger").glob("*.json"))]
    assert COMMIT in json.dumps(commits)
    # Another home, so no cache; and the server is gone.
    second = run(address)
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "run" / "rounds" / "02" / "checkpoint").is_dir()
