"""Saved states of a training, with an optimizer of torch's: which are loaded, and which are not."""

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

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")

KEY, NAME = b"the user's key", "this training"
WEIGHTS = "00000-00000.safetensors"


class Marker:
    """What a stranger puts into a pickle: code that runs when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class Engine:
    """What DeepSpeed's engine is at stage 0, for one rank: a module, and torch's AdamW."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(3, 5)
        self.optimizer = self.basic_optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.1)
        self.fresh = self.whole()

    def zero_optimization_stage(self) -> int:
        return 0

    def update(self, *times: float) -> Engine:
        for by in times:
            self.optimizer.zero_grad()
            self.module(torch.full((2, 3), float(by))).square().sum().backward()
            self.optimizer.step()
        return self

    def whole(self) -> list[Any]:
        moments = [value.clone() for state in self.optimizer.state.values() for value in state.values()]
        return [*(parameter.detach().clone() for parameter in self.module.parameters()), *moments]

    def is_as(self, tensors: list[Any]) -> bool:
        found = self.whole()
        return len(found) == len(tensors) and all(map(torch.equal, found, tensors))


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path_factory.mktemp('ranks')}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def states(folder: Path, key: bytes = KEY, beat: Callable[[], None] = lambda: None) -> Any:
    from workers.training.states import TrainingStates

    return TrainingStates(str(folder), NAME, 2, key, beat)


def saved(folder: Path) -> list[list[Any]]:
    """Two states; returns what the engine was after one step and after two."""
    from workers.training.states import Progress

    engine, wholes = Engine(), []
    for steps in (1, 2):
        states(folder).save(engine.update(steps), Progress([{"step": n} for n in range(steps)]))
        wholes.append(engine.whole())
    assert sorted(path.name for path in folder.iterdir()) == ["000001", "000002"]
    return wholes


def plant(state: Path, key: bytes | None, content: bytes | None = None) -> None:
    """A state in which other weights stand; hashes and name are right, and the seal is by `key`."""
    file = state / WEIGHTS
    other = bytearray(file.read_bytes())
    other[-1] ^= 1
    file.write_bytes(bytes(other) if content is None else content)
    manifest = json.loads((state / "manifest.json").read_text())
    manifest["files"][WEIGHTS] = file_facts(file)
    del manifest["seal"]
    if key is not None:
        manifest["seal"] = state_seal(key, manifest)
    (state / "manifest.json").write_text(json.dumps(manifest))


def add(folder: Path, *names: str) -> None:
    """A further file beside those that are sealed."""
    for name in names:
        shutil.copy(folder / name / WEIGHTS, folder / name / "00000-00001.safetensors")


def earlier_version(state: Path) -> None:
    """As version 0.1 saved it, with a seal: files of DeepSpeed's in a folder, which are pickles, known by a hash of the
    training's name and the number of ranks."""
    shutil.rmtree(state)
    (state / "ranks").mkdir(parents=True)
    (state / "ranks/model_states.pt").write_bytes(pickle.dumps(Marker(state.parent.parent / "was-loaded")))
    (state / "progress.json").write_text('{"metrics": [{}, {}], "first_step": {}}')
    names = ("ranks/model_states.pt", "progress.json")
    manifest: dict[str, Any] = {"identity": NAME, "files": {name: file_facts(state / name) for name in names}}
    (state / "manifest.json").write_text(json.dumps(manifest | {"seal": state_seal(KEY, manifest)}))


def rewrite(state: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Other tensors in a state of the user's own, as another version of a library may name them."""
    from safetensors.torch import load, save

    plant(state, KEY, save(change(load((state / WEIGHTS).read_bytes()))))


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
        (lambda folder: plant(folder / "000002", KEY, pickle.dumps(Marker(folder.parent / "was-loaded"))), 1),
        (lambda folder: plant(folder / "000002", KEY, b""), 1),
        (lambda folder: earlier_version(folder / "000002"), 1),
        (lambda folder: rewrite(folder / "000002", lambda tensors: {f"{k}@0": v for k, v in tensors.items()}), 1),
        (lambda folder: rewrite(folder / "000002", lambda tensors: {k: v[:-1] for k, v in tensors.items()}), 1),
        (lambda folder: rewrite(folder / "000002", lambda tensors: dict(list(tensors.items())[:-1])), 1),
        (lambda folder: add(folder, "000002"), 1),
        (lambda folder: add(folder, "000001", "000002"), 0),
        (no_file, 1),
        (linked, 1),
    ],
    ids=[
        *("none", "no seal", "another's", "empty key", "all", "pickle", "empty", "earlier version", "other names"),
        *("too short", "one less", "further file", "further files", "pipe", "links"),
    ],
)
def test_only_what_the_users_training_saved_is_loaded(tmp_path: Path, harm: Callable[[Path], Any], steps: int) -> None:
    folder = tmp_path / "states"
    wholes = saved(folder)
    harm(folder)
    (tmp_path / "beside").mkdir()
    engine = Engine()
    assert len(states(folder).load(engine).metrics) == steps
    assert engine.is_as([engine.fresh, *wholes][steps]) and not (tmp_path / "was-loaded").exists()
    assert (tmp_path / "beside").exists() and not (folder / "exports").exists()
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:06d}" for n in range(1, steps + 1)]


@pytest.mark.parametrize("key", [b"another key", b""])
def test_with_another_key_nothing_is_loaded(tmp_path: Path, key: bytes) -> None:
    saved(tmp_path / "states")
    engine = Engine()
    assert not states(tmp_path / "states", key).load(engine).metrics and engine.is_as(engine.fresh)


def test_a_training_goes_on_from_a_state_as_if_nothing_had_been(tmp_path: Path) -> None:
    from workers.training.states import Progress

    calm, resumed = Engine().update(1, 2), Engine()
    states(tmp_path).save(calm, Progress([{}, {}], {"bias": 0.5}))
    assert states(tmp_path).load(resumed) == Progress([{}, {}], {"bias": 0.5})
    assert resumed.update(3, 4).is_as(calm.update(3, 4).whole())
    assert {int(state["step"]) for state in resumed.optimizer.state.values()} == {4}


def test_what_a_rank_holds_is_cut_into_files_and_put_together_again(tmp_path: Path) -> None:
    from workers.training import pieces
    from workers.training.shards import Shard

    engine, other, beats = Engine().update(1, 2), Engine(), []
    facts = pieces.write(Shard(engine), tmp_path, 0, 1, lambda: beats.append(1), file_bytes=28)
    files = sorted(tmp_path.iterdir())
    assert len(facts) == len(files) == len(beats) == 9, "60 numbers, 7 a file"
    assert {file.name: file_facts(file) for file in files} == facts
    held = Shard(other).held()
    for left_out in files:
        assert not pieces.cover(pieces.stored(file for file in files if file != left_out), held)
    found = pieces.stored(files)
    assert pieces.cover(found, held)
    Shard(other).begin(2)
    pieces.read(found, Shard(other), lambda: None)
    assert other.is_as(engine.whole())


def test_the_pickle_of_these_tests_would_leave_its_mark(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Marker(tmp_path / "was-loaded")))
    assert (tmp_path / "was-loaded").exists()


def test_saving_and_loading_show_signs_of_life(tmp_path: Path) -> None:
    from workers.training.states import Progress

    beats: list[int] = []
    states(tmp_path, beat=lambda: beats.append(1)).save(Engine().update(1), Progress([{}]))
    assert len(beats) == 1, "a file"
    states(tmp_path, beat=lambda: beats.append(1)).load(Engine())
    assert len(beats) == 1 + 2 + 6, "two files hashed, six tensors read"


def test_a_state_is_due_when_saving_takes_little_of_the_time() -> None:
    from workers.training.states import Pace

    now = [100.0]
    pace = Pace(minutes=1.0, clock=lambda: now[0])

    def save(seconds: float) -> None:
        pace.measure(lambda: now.__setitem__(0, now[0] + seconds))

    def waits() -> int:
        """Seconds of training until the next state is due."""
        started = now[0]
        while not pace.due():
            now[0] += 1
        return int(now[0] - started)

    assert waits() == 60, "nothing is known yet"
    save(0.5)
    assert waits() == 60, "the least interval"
    save(20.0)
    assert waits() == 1000, "saving takes 2 %"
    save(1.0)
    assert waits() == 60, "the last one counts"


@pytest.mark.parametrize(
    "manifest", [None, 3, [], {}, {"seal": None}, {"seal": "é", "identity": "", "files": {}}, {"seal": b"", "files": 1}]
)
def test_anything_may_stand_in_a_manifest(manifest: Any) -> None:
    assert not is_sealed(KEY, manifest)
