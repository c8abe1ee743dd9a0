"""A process that ends while MLflow is still being told something ends with its own exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.sample_run import two_rounds

PROJECT = Path(__file__).parents[3]
DRAWING = """
import pathlib, sys, threading
from orchestrator.__main__ import main
from orchestrator.ledger.ledger import Ledger
from orchestrator.tracking import pictures

state, drawn = Ledger(pathlib.Path(sys.argv[1])).state, threading.Event()

def draw():
    while True:
        pictures.draw(state, pathlib.Path(sys.argv[2]))
        drawn.set()

threading.Thread(target=draw, name="tracking", daemon=True).start()
drawn.wait()
sys.argv = ["ratchet", "status", "there is none"]
main()
"""


def test_a_thread_that_draws_does_not_change_the_exit_code(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run").root
    for _ in range(2):  # it is nearly always in the midst of a picture
        command = [sys.executable, "-c", DRAWING, str(run / "ledger"), str(tmp_path)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "no such run" in done.stderr, done.stderr
