"""`ratchet list`: the runs of a folder, whoever made them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.overview import runs_in
from orchestrator.reports.page.figures import figures
from orchestrator.sources.registry import SOURCES
from tests.orchestrator.test_cli import ratchet
from tests.support.sample_run import SampleRun, two_rounds


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    return tmp_path / "runs"


def test_runs_and_those_of_a_comparison_the_newest_first(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rounds(runs / "done")
    two_rounds(runs / "compare/irpo-seed1")
    SampleRun(runs / "begun").claim()
    (runs / "empty").mkdir()
    (runs / "file").write_text("no run")
    found = runs_in(runs)
    assert [run.name for run in found] == ["begun", "compare/irpo-seed1", "done"]
    done = found[-1].as_json()
    assert (done["state"], done["rounds"], done["wanted_rounds"]) == ("finished", 2, 2)
    assert (done["base_accuracy"], done["reference_accuracy"]) == (0.4, 0.75)
    assert ratchet("list") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "state", "method", "rounds", "base", "now", "changed"]
    assert rows[-1].split() == ["done", "finished", "irpo", "2", "of", "2", "40.0", "%", "75.0", "%", "just", "now"]
    assert ratchet("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [run.as_json() for run in found]


def test_more_rounds_than_are_wanted_are_told_as_that(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After `ratchet resume RUN rounds=1` of a run that has done two."""
    run = two_rounds(runs / "done")
    run.claim()
    run.configure(rounds=1)
    run.end("finished")
    assert ratchet("list") == 0
    assert "  2, 1 wanted  " in capsys.readouterr().out
    sentence, *_ = figures(run.root, SOURCES, Ledger(run.root / "ledger"))["sentences"]
    assert sentence.startswith("The run is finished: 2 rounds are decided, and 1 wanted, irpo")


def test_a_damaged_run_hides_no_other(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_rounds(runs / "sound")
    two_rounds(runs / "torn")
    (runs / "torn/ledger/00000003.json").write_text("{")
    assert ratchet("list") == 0
    said = capsys.readouterr().out
    assert "sound" in said and "torn  damaged" in said.replace("   ", "  ") and "00000003.json" in said


def test_no_link_is_followed(runs: Path, tmp_path: Path) -> None:
    two_rounds(tmp_path / "elsewhere/run")
    runs.mkdir()
    (runs / "circle").symlink_to(runs)
    (runs / "linked").symlink_to(tmp_path / "elsewhere/run")
    assert runs_in(runs) == []


def test_no_runs_yet(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("list") == 0
    assert capsys.readouterr().out == f"no runs in {runs}. `ratchet run demo` makes one.\n"
    assert ratchet("list", tmp_path / "missing") == 2
    assert "missing: cannot be listed (No such file or directory)" in capsys.readouterr().err


def test_a_run_is_no_folder_of_runs(runs: Path) -> None:
    two_rounds(runs / "one")
    with pytest.raises(BadInput, match=r"is a run\. `ratchet status"):
        runs_in(runs / "one")
