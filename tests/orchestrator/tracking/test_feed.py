"""A store that is only added to, told by ledger and journal: nothing twice, whatever ends in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.driver.drive import healthy_driver
from orchestrator.errors import BadInput
from orchestrator.reports.journal import JOURNAL
from orchestrator.tracking.beside import Beside
from orchestrator.tracking.feed import Feed, cursor_file
from orchestrator.tracking.projection import Figure
from orchestrator.tracking.sink import RunStatus
from orchestrator.tracking.stores import NAMES, Place, require_installed
from tests.support.sample_run import NUM_STEPS, SampleRun, two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job

TRAIN = "rounds/01/train"
Points = list[tuple[int, str, int]]


class Stores:
    """Keeps what it is told, by the ids of its runs; breaks at the figure that it is told to."""

    def __init__(self) -> None:
        self.runs: dict[str, Points] = {}
        self.places: list[Place] = []
        self.ends: list[RunStatus | None] = []
        self.breaks_at: str | None = None

    def open(self, name: str, place: Place) -> Stores:
        self.places.append(place)
        assert place.fresh == (place.id not in self.runs)
        self.now = self.runs.setdefault(place.id, [])
        return self

    def add(self, number: int, figures: Sequence[Figure]) -> None:
        for figure in figures:
            if figure.key == self.breaks_at:
                raise ConnectionError("gone")
            self.now.append((number, figure.key, figure.step))

    def settle(self) -> None:
        pass

    def close(self, status: RunStatus | None) -> None:
        self.ends.append(status)

    def losses(self, number: int = 0) -> list[int]:
        return [step for where, key, step in self.now if (where, key) == (number, "learning/loss")]


@pytest.fixture
def stores() -> Stores:
    return Stores()


def flush(run: Path, stores: Stores, well: bool = True) -> Feed:
    """As a driver's process that begins now."""
    feed = Feed(run, "tensorboard", opens=stores.open)
    assert feed.flush() is well
    return feed


def training(root: Path) -> SampleRun:
    run = SampleRun(root)
    run.claim()
    run.configure()
    run.baseline()
    run.prompts(1)
    return run


def told(run: SampleRun, *updates: int) -> None:
    with open(run.root / JOURNAL, "a") as file:
        for number in updates:
            at = run.ledger.records[0].time + number
            file.write(json.dumps({"time": at, "what": TRAIN, "number": number, "values": {"loss": 0.5}}) + "\n")
        load = {"time": at, "what": "nodes/a", "number": 0, "values": {"cpu_utilization_percentage": 5}}
        file.write(json.dumps(load) + "\n")


def once(points: Points) -> None:
    assert len(points) == len(set(points))


def test_a_training_is_seen_and_nothing_comes_twice(tmp_path: Path, stores: Stores) -> None:
    run = training(tmp_path / "run")
    told(run, 1, 2)
    flush(run.root, stores)
    assert stores.losses() == stores.losses(1) == [1, 2]
    told(run, 2, 3, 5)  # the ranks were lost and did one again; what was measured of another was lost
    flush(run.root, stores)
    assert stores.losses() == [1, 2, 3, 5]
    run.train(1)
    feed = flush(run.root, stores)
    assert stores.losses() == stores.losses(1) == [1, 2, 3, 5, 4, *range(6, NUM_STEPS + 1)]
    run.evaluate(1, 50)
    run.promote(1)
    assert feed.flush() and feed.flush()
    run.end()
    assert feed.flush() and feed.close()
    assert len(stores.runs) == 1 and stores.ends == ["FINISHED"]
    once(stores.now)
    assert {(0, "accuracy/test", 1), (1, "accuracy/test", 1), (0, "gate/won", 1)} < set(stores.now)
    assert (0, "system/a/cpu_utilization_percentage", 2) in stores.now


def all_of(run: SampleRun) -> Points:
    stores = Stores()
    flush(shutil.copytree(run.root, run.root.parent / "all"), stores)
    return sorted(stores.now)


def lost(run: SampleRun) -> None:
    cursor_file(run.root, "tensorboard").unlink()


def under_way(run: SampleRun) -> None:
    file = cursor_file(run.root, "tensorboard")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sending": True}))


def odd(**said: object) -> Callable[[SampleRun], None]:
    def change(run: SampleRun) -> None:
        file = cursor_file(run.root, "tensorboard")
        file.write_text(json.dumps(json.loads(file.read_text()) | said))

    return change


@pytest.mark.parametrize(
    "happened",
    [
        lost,
        under_way,
        odd(records=10**6),
        odd(records="1"),
        odd(sent={"0": [[0, 10**12]]}),
        odd(sent=[[1]]),
        odd(store_id=None),
        odd(folder="/elsewhere"),
        odd(another=1),
    ],
)
def test_where_nobody_knows_what_it_has_a_store_gets_a_new_run(
    tmp_path: Path, stores: Stores, happened: Callable[[SampleRun], None]
) -> None:
    run = two_rounds(tmp_path / "run")
    flush(run.root, stores)
    before = sorted(stores.now)
    happened(run)
    flush(run.root, stores)
    assert len(stores.runs) == 2 and sorted(stores.now) == before
    once(stores.now)


def test_a_copy_has_a_run_of_its_own_and_the_other_goes_on(tmp_path: Path, stores: Stores) -> None:
    run = training(tmp_path / "run")
    flush(run.root, stores)
    copy = shutil.copytree(run.root, tmp_path / "copy")
    flush(copy, stores)
    flush(run.root, stores)
    assert len(stores.runs) == 2 and stores.places[-1].id == stores.places[0].id


def test_a_store_that_breaks_in_the_midst_is_told_all_in_a_new_run(tmp_path: Path, stores: Stores) -> None:
    run = two_rounds(tmp_path / "run")
    stores.breaks_at = "gate/won"
    feed = flush(run.root, stores, well=False)
    assert feed.problem == "TensorBoard: gone"
    stores.breaks_at = None
    assert feed.flush() and feed.problem is None
    assert len(stores.runs) == 2 and sorted(stores.now) == all_of(run)


def test_a_store_that_does_not_open_is_not_given_up(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run")

    def refuses(name: str, place: Place) -> Stores:
        raise ConnectionError(f"no key for {place.project}")

    feed = Feed(run.root, "wandb", opens=refuses)
    assert not feed.flush() and feed.problem == f"Weights & Biases: no key for {tmp_path.name}"
    assert not cursor_file(run.root, "wandb").exists()


def test_what_a_newer_driver_tells_the_older_does_not(tmp_path: Path, stores: Stores) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim(pid=77, host=socket.gethostname())
    run.configure()
    feed = Feed(run.root, "tensorboard", driver=77, opens=stores.open)
    assert feed.flush() and len(stores.runs) == 1
    run.claim(pid=os.getpid(), host=socket.gethostname())
    run.baseline()
    assert feed.flush() and stores.now == []


def test_a_missing_package_ends_a_start_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tracking\.sinks: no_such needs .*'ratchet-orchestrator\[no_such\]'"):
        require_installed(["no_such"])
    missing = [name for name in NAMES if not is_there(name)]
    if not missing:
        pytest.skip("all extras are installed")
    workers = StandIns()
    with pytest.raises(BadInput, match=rf"pip install 'ratchet-orchestrator\[{missing[0]}\]'"):
        run_job(make_project(tmp_path, run_dir=str(tmp_path / "run")), workers, f"tracking.sinks=[{missing[0]}]")
    assert not workers.calls and not (tmp_path / "run/ledger/00000000.json").exists()


def is_there(name: str) -> bool:
    try:
        require_installed([name])
    except BadInput:
        return False
    return True


def test_a_process_that_cannot_tell_says_so_once_and_ends(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run")
    (run.root / "tensorboard").write_text("no folder")
    said: list[str] = []
    beside = Beside(run.root, ["tensorboard"], said.append)
    beside.start()
    for _ in range(3):
        beside.poke()
    beside.finish()
    beside.close(60.0)
    assert len(said) == 1 and said[0].startswith("tracking: TensorBoard: ")
    assert children_of(f"beside {run.root}") == []


def test_a_process_ends_with_its_driver(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run")
    command = [sys.executable, "-P", "-m", "orchestrator.tracking.beside", str(run.root), "tensorboard", "1"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0
    assert healthy_driver(run.root) is None


def test_a_process_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "run")
    said: list[str] = []
    beside = Beside(run.root, ["tensorboard"], said.append)
    beside.start()
    [pid] = children_of(f"beside {run.root}")
    os.kill(pid, signal.SIGSTOP)
    for _ in range(100_000):  # more than a pipe holds
        beside.poke()
    beside.finish()
    beside.close(0.2)
    assert said == ["tracking: what TensorBoard does not have yet is sent at the next start"]
    assert children_of(f"beside {run.root}") == []


def children_of(words: str) -> list[int]:
    return [int(pid) for pid in subprocess.run(["pgrep", "-f", words], capture_output=True, text=True).stdout.split()]
