"""docs/tutorial.md, as it stands: each of its commands is given, with the real stack, and the model is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.real import PATIENCE, PROJECT

pytestmark = pytest.mark.real

PAGE = (PROJECT / "docs/tutorial.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.full
def test_the_tutorial_leads_from_a_file_of_problems_to_a_loaded_model(tmp_path: Path) -> None:
    (tmp_path / "jobs").symlink_to(PROJECT / "jobs")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ratchet").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m orchestrator "$@"\n')
    (programs / "ratchet").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "RATCHET_"))}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    said = []
    for kind, text in BLOCKS:
        command = ["bash", "-eu", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
        (tmp_path / f"said-{len(said)}.txt").write_text(done.stdout)
    assert "answer 'answer'" in said[1] and "480 train, 59 gate, 60 test" in said[3]
    assert 'pens are there in the end?\\n"' in said[3]
    assert "disk" in said[4]
    assert "promoted" in said[5] and "finished; the report is" in said[5]
    assert "my-job  finished" in said[6] and "wrong" in said[6]
    assert (tmp_path / "runs/my-job/report.html").stat().st_size > 10_000
    assert "Final answer: " in said[-1], "the model that was exported answers as it learned to"
    rows = pq.read_table(tmp_path / "runs/my-job/rounds/01/evaluation/test.parquet").to_pylist()
    assert len(rows) == 60 and all(row["prompt"].endswith("?\n") and row["gold"] for row in rows)


def test_every_step_of_the_tutorial_is_given() -> None:
    assert len(re.findall(r"^## \d\. ", PAGE, re.M)) == 6 and len(BLOCKS) == 9
    commands = "".join(text for _, text in BLOCKS)
    for name in ("init", "validate", "plan", "run", "status", "inspect", "report", "export"):
        assert f"ratchet {name} " in commands
