"""Second names of a model folder's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records.model_folder import link_folder


def test_a_folder_gets_second_names_and_nothing_above_it_is_made(tmp_path: Path) -> None:
    (folder := tmp_path / "model/adapter").mkdir(parents=True)
    (folder / "weights").write_text("1")
    link_folder(folder.parent, tmp_path / "other")
    assert (tmp_path / "other/adapter/weights").samefile(folder / "weights")
    with pytest.raises(FileExistsError):
        link_folder(folder, tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        link_folder(folder, tmp_path / "gone/checkpoint")
    assert not (tmp_path / "gone").exists()
