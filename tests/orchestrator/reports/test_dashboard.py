"""Where a run's dashboard is, as its status and its report say it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.status import show
from orchestrator.reports.dashboard import SERVED, served, serving
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.reports.tracked import NAMES, Cursor
from orchestrator.sources.registry import SOURCES
from tests.support.sample_run import SampleRun

HERE = "http://127.0.0.1:5000"


def run_in(runs: Path, **tracking: Any) -> SampleRun:
    run = SampleRun(runs / "a run", tracking=tracking)
    run.claim()
    run.configure()
    return run


def tell(run: SampleRun, uri: str) -> None:
    """What a tracker leaves."""
    Cursor(uri, "maths", run.run_id, "abc", folder=str(run.root), experiment_id="1", names=NAMES).write(run.root)


def told(run: SampleRun) -> dict[str, Any] | None:
    found: dict[str, Any] | None = status(run.root)["dashboard"]
    return found


def page(server: str) -> str:
    return f"{server}/#/experiments/1/runs/abc/model-metrics?workflowType=machine_learning"


def test_the_command_shows_it_and_an_address_is_there_while_it_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_in(tmp_path)
    command = f"ratchet ui '{run.root}'"
    assert told(run) == {"command": command, "address": None}
    with serving(tmp_path, HERE):
        assert told(run) == {"command": command, "address": None}  # nothing of it is there
        tell(run, f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert told(run) == {"command": command, "address": page(HERE)}
        show(run.root, as_json=False, watch=False)
        shown = capsys.readouterr().out.splitlines()
        assert f"dashboard: {command}" in shown and f"dashboard: {page(HERE)}" in shown
    assert told(run) == {"command": command, "address": None} and not (tmp_path / SERVED).exists()
    assert f"- Dashboard: `{command}`\n" in report_text(run.root, SOURCES)


def test_on_a_server_the_page_stands_in_the_report_too(tmp_path: Path) -> None:
    run = run_in(tmp_path, uri="https://mlflow.example")
    tell(run, "https://another.example")
    assert (told(run) or {})["address"] is None
    tell(run, "https://mlflow.example")
    assert (told(run) or {})["address"] == page("https://mlflow.example")
    assert f", `{page('https://mlflow.example')}`\n" in report_text(run.root, SOURCES)


def test_what_is_not_tracked_has_none(tmp_path: Path) -> None:
    run = run_in(tmp_path, enabled=False)
    assert told(run) is None and "Dashboard" not in report_text(run.root, SOURCES)


@pytest.mark.parametrize(
    "change",
    [
        *({"pid": 2**22 + 1}, {"pid": "x"}, {"pid": 2**70}, {"start": 1.0}, {"start": None}, {"host": "elsewhere"}),
        *({"address": 7}, {"address": "http://evil.example:80"}, {"address": "http://127.0.0.1:80/x"}),
    ],
)
def test_a_server_that_is_gone_or_made_up_is_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    with serving(tmp_path, HERE):
        said = json.loads((tmp_path / SERVED).read_text())
        assert served(tmp_path) == HERE and said["pid"] == os.getpid()
        (tmp_path / SERVED).write_text(json.dumps(said | change))
        assert served(tmp_path) is None
    assert (tmp_path / SERVED).exists()  # it is another's


def test_a_folder_that_cannot_be_written_is_served_all_the_same(tmp_path: Path) -> None:
    with serving(tmp_path / "nowhere", HERE):
        assert served(tmp_path / "nowhere") is None
