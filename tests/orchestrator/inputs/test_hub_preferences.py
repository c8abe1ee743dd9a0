"""Preference data from a Hub: a run keeps the rows that it started with, and so does a fork of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.hub_server import COMMIT, serve

if importlib.util.find_spec("datasets") is None:  # not imported here, which takes seconds
    pytest.skip("needs datasets", allow_module_level=True)

CARD = b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: train.jsonl\n---\nPairs.\n"
RUN = """
import sys
from pathlib import Path
from orchestrator.commands.fork.command import fork
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages
from tests.support.stand_ins import run_job
folder, child, *overrides = sys.argv[1:]
folder = Path(folder)
job = folder / "tiny.yaml"
if not job.exists():
    source = {"hub": "someone/problems", "config": "main"}
    sources = [source | {"split": rows} for rows in ("train[:4]", "train[4:]")]
    make_stages(folder, {}, {"sources": sources, "order": "given"})
if child:
    fork(folder / "run", folder / child, overrides)
    job, overrides = folder / child / "job.yaml", []
run_job(job, PreferenceStandIns(), *overrides)
"""


def run(folder: Path, address: str, home: str, child: str, *overrides: str) -> None:
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(folder / home)}
    command = [sys.executable, "-c", RUN, str(folder), child, *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.full
def test_rows_are_the_runs_own_once_it_has_started(tmp_path: Path) -> None:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    rows = [{"prompt": [message("user", f"{i}?")]} | {"chosen": [message("assistant", "1")]} for i in range(8)]
    rows = [row | {"rejected": [message("assistant", "2")]} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with serve({"README.md": CARD, "train.jsonl": text}) as address:
        run(tmp_path, address, "first", "", "rounds=1")
    ledger = [json.loads(file.read_text()) for file in sorted((tmp_path / "run/ledger").glob("*.json"))]
    [kept] = [r["data"]["facts"] for r in ledger if r["data"].get("step") == "baseline/preferences"]
    assert [(source["revision"], source["pairs"]) for source in kept["sources"]] == [(COMMIT, 4)] * 2
    assert kept["sources"][1]["name"] == "someone/problems (main, train[4:])"
    # Another home, so no cache; and the server is gone.
    run(tmp_path, address, "second", "")
    run(tmp_path, address, "third", "child", "loss.beta=0.5")
    for name in ("run", "child"):
        pairs = pq.read_table(tmp_path / name / "rounds/02/pairs/00000.parquet")
        assert pairs["prompt"].to_pylist() == [row["prompt"] for row in rows[4:]]


KILLED = """
import os, sys
from pathlib import Path
from orchestrator.errors import BadInput
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, pair, right, write_rows
from tests.support.stand_ins import run_job
folder, when = Path(sys.argv[1]), sys.argv[2]

def kill(event, arguments):
    if event == "os.mkdir" and ".preferences-e" in str(arguments[0]):
        os._exit(9)

if when == "killed":
    source = {"hub": "someone/problems", "config": "main"}
    splits = {"gate": source | {"split": "train[:4]"}, "test": source | {"split": "train[4:]"}}
    make_stages(folder, {"easy": right("easy", 3)}, data=splits | {"id": None})
    sys.addaudithook(kill)
else:
    write_rows(folder / "easy.jsonl", right("easy", 3) + [pair("2 + 1?", "1", "2")])
try:
    run_job(folder / "tiny.yaml", PreferenceStandIns())
except BadInput as error:
    print(error)
"""


def test_data_that_are_read_after_a_crash_are_compared_with_the_problems_that_the_run_has_kept(tmp_path: Path) -> None:
    """Killed when the problems are the run's own and the preference data are not; then a problem is put into these."""
    rows = "".join(json.dumps({"question": f"{i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(8)).encode()
    with serve({"README.md": CARD, "train.jsonl": rows}) as address:
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")}

        def child(when: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", KILLED, str(tmp_path), when]
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

        assert child("killed").returncode == 9
        again = child("again")
    commits = [json.loads(file.read_text())["data"].get("step") for file in (tmp_path / "run/ledger").glob("*.json")]
    assert "baseline/data" in commits and "baseline/preferences" not in commits
    assert "problem '2' has the same text as '1/4' in stages.sources" in again.stdout, again.stderr
