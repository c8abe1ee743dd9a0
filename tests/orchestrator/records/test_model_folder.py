"""Second names of a model folder's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.records.limits import weight_bytes
from orchestrator.records.model_folder import INDEX, link_folder, weight_files


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


def test_the_weights_are_those_that_loaders_go_by_and_no_copies_beside_them(tmp_path: Path) -> None:
    """Mistral publishes models in two layouts in one folder."""
    names = ["consolidated.safetensors", "model-1.safetensors", "model-2.safetensors", "model.safetensors"]
    for size, name in enumerate(names, 1):
        (tmp_path / name).write_bytes(b"0" * size)
    assert [file.name for file in weight_files(tmp_path)] == ["model.safetensors"] and weight_bytes(tmp_path) == 4
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}))
    assert [file.name for file in weight_files(tmp_path)] == names[1:3] and weight_bytes(tmp_path) == 5


def test_no_other_file_decides_which_files_hold_the_weights() -> None:
    """Who looks for *.safetensors by himself takes copies in another layout for weights, too."""
    root = Path(__file__).parents[3]
    files = [*root.glob("orchestrator/**/*.py"), *root.glob("workers/**/*.py")]
    found = {str(file.relative_to(root)) for file in files if 'glob("*.safetensors")' in file.read_text()}
    whether = {"orchestrator/models/sizes.py", "workers/generation/engine.py"}  # whether there are any, and others
    assert found == {"orchestrator/records/model_folder.py", *whether}
