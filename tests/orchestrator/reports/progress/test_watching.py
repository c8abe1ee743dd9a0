"""`ratchet status --watch` in a pipe; on a terminal: tests/faults/test_live_view.py."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.commands.status import show
from orchestrator.errors import BadInput
from orchestrator.files.processes import process_start
from orchestrator.reports.progress.watching import watch
from orchestrator.text.terminal import shielded
from tests.orchestrator.reports.progress.test_lines import NOW
from tests.support.sample_run import SampleRun


@pytest.fixture
def run(tmp_path: Path) -> SampleRun:
    """One that this process drives."""
    run = SampleRun(tmp_path / "run")
    run.claim(os.getpid(), socket.gethostname(), process_start(os.getpid()))
    run.configure()
    return run


def ending(run: SampleRun, after: int) -> Callable[[float], None]:
    """A pause after so many of which the run ends."""
    pauses = iter(range(1, after + 1))

    def pause(_: float) -> None:
        if next(pauses) == after:
            run.end()

    return pause


def test_it_tells_what_the_driver_does_until_it_ends(run: SampleRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.root / "progress.json").write_bytes(NOW.model_copy(update={"epoch": 1}).as_file())
    watch(run.root, ending(run, 3))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and told[0].startswith("rounds/02  samples     ... 1,280/2,400 samples")


@pytest.mark.parametrize("content", [None, b"{half", NOW.as_file()])
def test_a_run_that_says_nothing_of_use_is_only_waited_for(
    run: SampleRun, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an earlier version, say; the last one is an earlier driver's."""
    if content:
        (run.root / "progress.json").write_bytes(content)
    watch(run.root, ending(run, 2))
    assert capsys.readouterr().out == ""


def test_a_run_that_is_over_is_shown_once(run: SampleRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.end()
    show(run.root, as_json=False, watch=True)
    assert "finished" in capsys.readouterr().out


def test_it_ends_with_its_reader(run: SampleRun, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.root / "progress.json").write_bytes(NOW.model_copy(update={"epoch": 1}).as_file())
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with shielded():
            watch(run.root, ending(run, 50))
    assert run.ledger.state.end is None, "it did not wait for the run's end"


def test_what_makes_no_sense_together(run: SampleRun) -> None:
    with pytest.raises(BadInput, match="--watch: goes not with --json"):
        show(run.root, as_json=True, watch=True)
