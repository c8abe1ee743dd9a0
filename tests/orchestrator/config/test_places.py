"""Where runs live: a command takes a run by its path, or by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.places import run_named
from tests.support.sample_run import two_rounds


def test_a_run_is_found_by_path_or_name_and_behind_a_folder_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    (tmp_path / "elsewhere/words").mkdir(parents=True)  # the folder of the job, in the current one
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = two_rounds(tmp_path / "runs/words").root
    for given in ("words", "runs/words", str(run)):
        assert run_named(Path(given)) == run
    assert run_named(Path("none")) == tmp_path / "none"
    own = two_rounds(tmp_path / "elsewhere/words").root
    assert run_named(Path("words")).samefile(own)
