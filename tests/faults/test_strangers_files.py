"""What a stranger's run may have in the place of its own files, besides what `test_strangers_paths` has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from orchestrator.driver.drive import drive
from orchestrator.driver.resume import resumed
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger.ledger import Ledger
from tests.orchestrator.files.test_inside import nest, unnest
from tests.orchestrator.test_cli import ratchet
from tests.orchestrator.test_loop import StopAt
from tests.support.stand_ins import StandIns, all_read, make_project, run_job


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that has just begun, with its problems and its model in it."""
    job = make_project(tmp_path / "project", rounds=1, run_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(1, RuntimeError("a bug"))))
    for name in ("seed", "train.jsonl", "gate.jsonl", "test.jsonl"):
        shutil.move(tmp_path / "project" / name, tmp_path / "run" / name)
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def go_on(run: Path) -> None:
    with signals() as received:
        drive(resumed(run), print, received, lambda _job, _logs: StandIns(), ask=all_read)


def test_the_copy_of_the_job_is_not_made_of_what_a_link_leads_to(run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a private key")
    (run / "job.yaml").unlink()
    (run / "job.yaml").symlink_to(tmp_path / "secret")
    go_on(run)
    assert "name: tiny" in (run / "job.yaml").read_text() and (tmp_path / "secret").read_text() == "a private key"


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: &a [*a]", "[" * 5000, "seed: !!int ''", "x: 2020-13-45", "\0", "\udcff", "- 1"],
    ids=lambda t: t[:15],
)
def test_a_copy_of_the_job_that_is_none_is_made_anew(tmp_path: Path, text: str) -> None:
    """Before the first commit the copy is written at every start, and what stands there may be what it is made of."""
    with pytest.raises(RuntimeError):
        run_job(make_project(tmp_path, rounds=1), StandIns(on_call=StopAt(1, RuntimeError("a bug"))))
    assert not Ledger(tmp_path / "run/ledger").state.commits
    (tmp_path / "run/job.yaml").write_bytes(text.encode(errors="surrogateescape"))
    go_on(tmp_path / "run")
    assert (tmp_path / "run/report.md").exists()


def test_problems_in_a_pipe_are_not_waited_for(run: Path) -> None:
    (run / "train.jsonl").unlink()
    os.mkfifo(run / "train.jsonl")
    with pytest.raises(BadInput, match=r"data\.train: .*is neither file nor folder, but a pipe"):
        go_on(run)


@pytest.mark.parametrize("name", ["job.yaml", "logs", "failures", "judge"])
def test_a_link_in_a_circle_has_one_message(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(run / name)
    code = 0 if name == "job.yaml" else 1
    for words in (["gc", run], ["fork", run, tmp_path / "new"]):
        assert ratchet(*words) == code, words
        said = capsys.readouterr().err
        assert "Traceback" not in said and (not code or f"{name}: leads out of the run" in said)


@pytest.mark.parametrize(
    "name", ["CURRENT", "report.md", "report.html", "resolved.yaml", "rounds/01", "rounds/01/samples"]
)
def test_what_stands_in_the_way_has_one_message(run: Path, name: str) -> None:
    place = run / name
    place.unlink(missing_ok=True)
    if name.startswith("rounds"):
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(RatchetError, match=rf"cannot be written: .*{place}.*(.|\n)*take away what stands there"):
        go_on(run)
    place.unlink() if name.startswith("rounds") else place.rmdir()
    go_on(run)


@pytest.mark.parametrize("name", ["further", ".samples-e1-a99"])
def test_folders_that_are_nested_too_deeply_for_python_are_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    go_on(run)
    nest(run / "rounds" / name, 1500)
    try:
        hidden = name.startswith(".")
        assert ratchet("verify", str(run)) == 0
        assert ratchet("gc", str(run)) == (1 if hidden else 0)
        told = capsys.readouterr()
        assert ("folders are nested too deeply" in told.err) == hidden and "Traceback" not in told.err + told.out
    finally:
        unnest(run / "rounds" / name)
