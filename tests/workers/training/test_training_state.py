"""Saved states of a training, with an engine whose files are pickles: a stranger's are never opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.seals import is_sealed, state_seal
from workers.files import file_facts

dist = pytest.importorskip("torch.distributed")

KEY, NAMES = b"the user's key", ["this training", "what it was called before"]


class Marker:
    """What a stranger puts into a pickle: code that runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Engine:
    """Saves and loads as DeepSpeed does: one pickle, in a folder of the tag's name."""

    loaded: Any = None

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        (Path(folder) / tag).mkdir(parents=True)
        (Path(folder) / tag / "model_states.pt").write_bytes(pickle.dumps("weights"))

    def load_checkpoint(self, folder: str, tag: str, load_lr_scheduler_states: bool) -> None:
        self.loaded = [pickle.loads(file.read_bytes()) for file in sorted((Path(folder) / tag).rglob("*.pt"))]


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path_factory.mktemp('ranks')}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def states(folder: Path, key: bytes = KEY) -> Any:
    from workers.training.states import TrainingStates

    return TrainingStates(str(folder), NAMES, 2, 0, key)


def saved(folder: Path) -> Path:
    from workers.training.states import Progress

    for steps in (1, 2):
        states(folder).save(Engine(), Progress([{"step": n} for n in range(steps)]))
    assert sorted(path.name for path in folder.iterdir()) == ["000001", "000002"]
    return folder


def plant(state: Path, key: bytes | None) -> None:
    """A state whose pickle leaves a mark; hashes and name are right, and the seal is by `key`."""
    file = state / "ranks/model_states.pt"
    file.write_bytes(pickle.dumps(Marker(state.parent.parent / "was-loaded")))
    manifest = json.loads((state / "manifest.json").read_text())
    manifest["files"]["ranks/model_states.pt"] = file_facts(file)
    del manifest["seal"]
    if key is not None:
        manifest["seal"] = state_seal(key, manifest)
    (state / "manifest.json").write_text(json.dumps(manifest))


def add(folder: Path, *names: str) -> None:
    """A further file beside those that are sealed, which an engine might read, too."""
    for name in names:
        (folder / name / "ranks/zero_states.pt").write_bytes(pickle.dumps(Marker(folder.parent / "was-loaded")))


def no_file(folder: Path) -> None:
    (folder / "000002/manifest.json").unlink()
    os.mkfifo(folder / "000002/manifest.json")


def linked(folder: Path) -> None:
    shutil.move(folder / "000002", folder.parent / "elsewhere")
    (folder / "000002").symlink_to(folder.parent / "elsewhere")
    (folder / "exports").symlink_to(folder.parent)
    (folder / "000009").symlink_to(folder.parent)


@pytest.mark.parametrize(
    ("harm", "steps"),
    [
        (lambda folder: None, 2),
        (lambda folder: plant(folder / "000002", None), 1),
        (lambda folder: plant(folder / "000002", b"another's key"), 1),
        (lambda folder: plant(folder / "000002", b""), 1),
        (lambda folder: [plant(folder / name, None) for name in ("000001", "000002")], 0),
        (lambda folder: add(folder, "000002"), 1),
        (lambda folder: add(folder, "000001", "000002"), 0),
        (no_file, 1),
        (linked, 1),
    ],
    ids=["none", "no seal", "another's", "empty key", "all", "further file", "further files", "pipe", "links"],
)
def test_only_what_the_users_training_saved_is_loaded(tmp_path: Path, harm: Callable[[Path], Any], steps: int) -> None:
    folder = saved(tmp_path / "states")
    harm(folder)
    (tmp_path / "beside").mkdir()
    engine = Engine()
    assert len(states(folder).load(engine).metrics) == steps
    assert engine.loaded == (["weights"] if steps else None) and not (tmp_path / "was-loaded").exists()
    assert (tmp_path / "beside").exists() and not (folder / "exports").exists()
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:06d}" for n in range(1, steps + 1)]


@pytest.mark.parametrize("key", [b"another key", b""])
def test_with_another_key_nothing_is_loaded(tmp_path: Path, key: bytes) -> None:
    engine = Engine()
    assert not states(saved(tmp_path / "states"), key).load(engine).metrics and engine.loaded is None


def test_the_pickle_of_these_tests_would_leave_its_mark(tmp_path: Path) -> None:
    folder = saved(tmp_path / "states")
    plant(folder / "000002", KEY)
    states(folder).load(Engine())
    assert (tmp_path / "was-loaded").exists()


@pytest.mark.parametrize(
    "manifest", [None, 3, [], {}, {"seal": None}, {"seal": "é", "identity": "", "files": {}}, {"seal": b"", "files": 1}]
)
def test_anything_may_stand_in_a_manifest(manifest: Any) -> None:
    assert not is_sealed(KEY, manifest)
