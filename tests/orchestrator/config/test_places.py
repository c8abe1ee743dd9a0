"""Where runs live: a command takes a run by its path, or by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.places import require_room, run_named
from orchestrator.errors import BadInput
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


def test_an_address_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"^s3://BUCKET/irpo: is an address.*`ratchet fetch`"):
        run_named(Path("s3://BUCKET/irpo"))
    (tmp_path / "file:/run").mkdir(parents=True)
    assert run_named(Path("file:/run")) == tmp_path / "file:/run"


@pytest.mark.parametrize("name", ["a\nb", "a\n", "\x1b[2J/b", "a\u2028b", "a\x7f"])
def test_no_run_is_made_with_a_line_break_or_a_control_character_in_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r" no line break or other control character"):
        require_room(tmp_path / name)
    folder = two_rounds(tmp_path / name).root  # by an earlier version
    assert require_room(folder) == folder


def test_a_run_may_have_spaces_and_letters_of_any_script_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "of\nits owner").mkdir()
    for folder in (tmp_path / "zwei Wörter 走る", tmp_path / "of\nits owner/run"):
        assert require_room(folder) == folder
