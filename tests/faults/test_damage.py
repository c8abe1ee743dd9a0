"""Files that are torn, flipped, deleted, or should not be there; and clocks that jump."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.errors import RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import read_record
from orchestrator.reports.status import status
from tests.faults.children import Case, Undisturbed, finish, note, running, wait_for
from tests.faults.sweeps import state_of
from tests.orchestrator.test_loop import history

DAY = 86400.0


def flip(path: Path, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero(path: Path) -> None:
    """What some file systems leave of a file whose bytes never reached the disk."""
    path.write_bytes(bytes(path.stat().st_size))


def gone(path: Path) -> None:
    path.unlink()


HARMS = [flip, tear, empty, zero, gone]


NAMES = [
    "baseline/prompts/gate.parquet",
    "rounds/01/samples/00000.parquet",
    "rounds/01/verdicts/00001.parquet",
    "rounds/01/pairs/00000.parquet",
    "rounds/01/reference/00000.parquet",
    "rounds/01/choice/accuracies.json",
    "rounds/01/checkpoint/model.safetensors",
    "rounds/01/evaluation/gate.parquet",
    "rounds/02/samples/00000.parquet",
]


def _harmed() -> list[Any]:
    """Each file with two harms, each harm on three files or more; with all of them in `make faults`."""
    return [
        pytest.param(name, harm, marks=() if (which - number) % 5 in (0, 2) else pytest.mark.faults)
        for number, name in enumerate(NAMES)
        for which, harm in enumerate(HARMS)
    ]


@pytest.mark.parametrize(("name", "harm"), _harmed(), ids=lambda it: it if isinstance(it, str) else it.__name__)
def test_a_harmed_file_is_named_and_comes_back_from_a_copy(
    calm: Undisturbed, half: Path, case: Case, name: str, harm: Callable[[Path], None]
) -> None:
    harm(case.run / name)
    assert case.drive() == 1
    assert f"Damaged: {case.run / name}: " in case.output and "Traceback" not in case.output
    assert state_of(case.run) == "failed"
    assert any(line.startswith(name) for line in verify(case.run).findings)
    assert history(case.run) == history(half)
    shutil.copy(half / name, case.run / name)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


FILES = {
    "steps": [
        "rounds/01/errors/00000.parquet",
        "rounds/01/search/01/prompts/train.parquet",
        "rounds/01/search/01/samples/00000.parquet",
        "rounds/01/search/01/verdicts/00000.parquet",
        "rounds/01/located/00000.parquet",
        "rounds/01/rectification/02/samples/00000.parquet",
        "rounds/01/rectified/00000.parquet",
        "rounds/02/replay/00000.parquet",
    ],
    "steps, people": ["rounds/01/questions/00000.jsonl", "rounds/02/located/00000.parquet"],
    "dataset": [
        "baseline/model/model.safetensors",
        "baseline/seen/00000.parquet",
        "baseline/preferences/00000.parquet",
        "baseline/chunks/00001.parquet",
        "baseline/ranking/01/00000.parquet",
        "rounds/01/pairs/00000.parquet",
        "rounds/01/policy/00000.parquet",
    ],
    "judge": [
        "baseline/reference/config.json",
        "baseline/reference/model.safetensors",
        "rounds/01/judged/prompts/train.parquet",
        "rounds/01/judged/samples/00000.parquet",
        "rounds/01/judged/verdicts/00001.parquet",
        "rounds/01/scores/00001.parquet",
    ],
    "hints": [
        "rounds/01/hinted/prompts/train.parquet",
        "rounds/01/hinted/samples/00000.parquet",
        "rounds/01/hinted/verdicts/00000.parquet",
        "rounds/02/replay/00000.parquet",
    ],
    "waves": [
        "rounds/01/wave/02/prompts/train.parquet",
        "rounds/01/wave/02/samples/00000.parquet",
        "rounds/01/wave/02/verdicts/00001.parquet",
    ],
}
"""What the other sources write besides."""


@pytest.mark.parametrize("source", FILES)
@pytest.mark.parametrize("first", [0, *(pytest.param(i, marks=pytest.mark.faults) for i in range(1, len(HARMS)))])
def test_harmed_files_of_other_sources_are_named(
    calm: Undisturbed, half: Path, case: Case, source: str, first: int
) -> None:
    """One after the other, each harmed in another way; `first` says how the first one is."""
    for number, name in enumerate(FILES[source], first):
        HARMS[number % len(HARMS)](case.run / name)
        assert case.drive() == 1
        assert f"Damaged: {case.run / name}: " in case.output and "Traceback" not in case.output, case.output
        assert history(case.run) == history(half)
        assert any(line.startswith(name) for line in verify(case.run).findings)
        shutil.copy(half / name, case.run / name)
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


WHICH = ("first", "middle", "last but one", "last")


def _harmed_records() -> list[Any]:
    """Each record with two harms or three, each harm on one record or more; with all of them in `make faults`."""
    return [
        pytest.param(
            which,
            harm,
            marks=() if (at - number) % 5 in (0, 2) or (which, harm) == ("last", gone) else pytest.mark.faults,
        )
        for number, which in enumerate(WHICH)
        for at, harm in enumerate(HARMS)
    ]


@pytest.mark.parametrize(
    ("which", "harm"), _harmed_records(), ids=lambda it: it if isinstance(it, str) else it.__name__
)
def test_a_harmed_record_is_named_and_comes_back_from_a_copy(
    calm: Undisturbed, half: Path, case: Case, which: str, harm: Callable[[Path], None]
) -> None:
    records = sorted((case.run / "ledger").glob("*.json"))
    record = records[{"first": 0, "middle": len(records) // 2, "last but one": -2, "last": -1}[which]]
    harm(record)
    if (which, harm) == ("last", gone):
        # Nothing tells that it was there: its step is done again, whose second result is kept nowhere.
        assert case.drive() == 0, case.output
        assert case.drive() == 0, case.output
    else:
        before = sorted(file.name for file in (case.run / "ledger").iterdir())
        assert case.drive() == 1
        assert str(record) in case.output and "Traceback" not in case.output, case.output
        assert sorted(file.name for file in (case.run / "ledger").iterdir()) == before
        with pytest.raises(RatchetError, match=record.name):
            status(case.run)
        shutil.copy(half / "ledger" / record.name, record)
        assert case.drive() == 0, case.output
    calm.require_same(case.run)


def test_every_flipped_bit_of_a_record_is_noticed(half: Path, tmp_path: Path) -> None:
    """One record of each kind, one bit of each byte: it is refused, or says the same as before."""
    kinds: dict[str, Path] = {}
    for record in Ledger(half / "ledger").records:
        kinds[record.kind] = half / f"ledger/{record.number:08d}.json"
    flips = refused = 0
    for path in kinds.values():
        number, content, victim = int(path.stem), path.read_bytes(), tmp_path / path.name
        said = read_record(path, number)
        for position in range(len(content)):
            changed = bytearray(content)
            changed[position] ^= 1 << (position % 8)
            victim.write_bytes(changed)
            flips += 1
            try:
                assert read_record(victim, number) == said, bytes(changed)
            except RatchetError:
                refused += 1
    note("flipped bits of records", {"flips": flips, "refused": refused, "kinds": sorted(kinds)})
    assert refused > 0.9 * flips


def put(path: Path, content: bytes = b"not ours") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


STRAYS: dict[str, Callable[[Path], None]] = {
    "a later round": lambda run: put(run / "rounds/03/checkpoint/model.safetensors"),
    "a shard beyond the last": lambda run: shutil.copy(
        run / "rounds/02/samples/00000.parquet", run / "rounds/02/samples/99999.parquet"
    ),
    "a pointer": lambda run: os.symlink("rounds/01/checkpoint", run / "latest"),
    "a pointer in the ledger": lambda run: put(run / "ledger/latest"),
    "an editor's copy of a record": lambda run: put(run / "ledger/00000003.json~"),
    "half a record": lambda run: put(run / "ledger/.00000099.json.0123", b"{half"),
    "a checkpoint where one will come": lambda run: put(run / "rounds/02/checkpoint/model.safetensors"),
    "a file where a folder will come": lambda run: put(run / "rounds/02/train"),
    "a folder where a file will come": lambda run: put(run / "rounds/02/evaluation/gate.parquet/x"),
    "an earlier driver's work": lambda run: put(run / "rounds/02/.train-e1/metrics.parquet"),
    "the next driver's work": lambda run: put(run / "rounds/02/.train-e2/metrics.parquet"),
    "a half-saved training": lambda run: put(run / "rounds/02/.train-state/.000001-e9/x"),
    "no CURRENT": lambda run: (run / "CURRENT").unlink(),
    "a wrong CURRENT": lambda run: put(run / "CURRENT", b"rounds/07/checkpoint\n"),
    "a driver.json of nobody": lambda run: put(run / "driver.json", b"{half"),
    "a driver.json of another host": lambda run: put(
        run / "driver.json", json.dumps({"host": "elsewhere", "pid": 1, "process_start": 1.0}).encode()
    ),
    "a tracking.json of nobody": lambda run: put(run / "tracking.json", b"[]"),
    "caches of nobody": lambda run: [put(run / name, b"0\n{}") for name in ("inputs.cache", "hashes.cache")],
    "no resolved.yaml": lambda run: (run / "resolved.yaml").unlink(),
}


APART = ("a wrong CURRENT", "a driver.json of another host")
"""Each stands where another stray does."""
SEVERAL = [tuple(what for what in STRAYS if what not in APART), APART]


@pytest.mark.parametrize(
    "strays",
    SEVERAL + [pytest.param((what,), marks=pytest.mark.faults, id=what) for what in STRAYS],
)
def test_strays_and_lost_caches_change_nothing(calm: Undisturbed, case: Case, strays: tuple[str, ...]) -> None:
    """All that can be there at once; one by one in `make faults`."""
    for what in strays:
        STRAYS[what](case.run)
    assert state_of(case.run) in ("interrupted", "running")  # the latter for a young driver.json of another host
    assert case.drive() == 0, case.output
    calm.require_committed(case.run)
    assert verify(case.run).findings == []


def move_clock(run: Path, seconds: float) -> None:
    """As if all this had been written by a clock that is ahead or behind: times in records, and those of files."""
    for path in (run / "ledger").glob("*.json"):
        document: dict[str, Any] = json.loads(path.read_bytes())
        document["time"] += seconds
        document.pop("check", None)
        path.write_text(json.dumps(document))
    for path in (run, *run.rglob("*")):
        stat = path.stat()
        os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))


@pytest.mark.parametrize("days", [[-1], [1], [1, -1], [-400, 400]], ids=str)
def test_nothing_is_decided_by_a_clock(calm: Undisturbed, half: Path, space: Path, days: list[int]) -> None:
    """Each driver's clock is a day or more off the one before it."""
    case = calm.case(space / f"clock-{days}")
    shutil.copytree(half, case.run)
    for number, offset in enumerate(days):
        move_clock(case.run, offset * DAY)
        assert state_of(case.run) == "interrupted"
        if number < len(days) - 1:
            waiting = calm.case(case.folder, wait_at=("generate", 1 + number))
            with running(waiting) as driver:
                wait_for(waiting.waiting, driver)
                driver.kill()
                finish(driver)
    assert calm.case(case.folder).drive() == 0, case.output
    calm.require_same(case.run)
    assert state_of(case.run) == "finished"
