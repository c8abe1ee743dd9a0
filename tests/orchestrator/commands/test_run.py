"""What `ratchet run` says where it is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.commands.run import shown_run
from orchestrator.commands.status import show
from orchestrator.config.load import load_job
from orchestrator.errors import Interrupted
from tests.support.sample_run import SampleRun
from tests.support.stand_ins import StandIns, all_read, make_project

NOTHING = "nothing was begun: `ratchet run JOB` starts it\n"


def test_an_interruption_before_a_run_is_there_names_no_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ratchet resume` would find no run, or one that knows no settings."""
    job = make_project(tmp_path)

    def hire(*_: object) -> StandIns:
        raise Interrupted("SIGTERM")

    for claimed in (False, True):
        if claimed:
            SampleRun(tmp_path / "run").claim()
        assert shown_run(load_job(job), [], True, hire=hire, ask=all_read) == 130
        assert capsys.readouterr().out.endswith(f"interrupted by SIGTERM; {NOTHING}")
    show(tmp_path / "run", as_json=False, watch=False)  # the signal came before the claim knew of it
    assert capsys.readouterr().out.endswith(NOTHING)
