"""docs/upgrading.md: every recorded version is named, and what an older version says to a newer one's run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.faults.ledgers.record import HERE as LEDGERS
from tests.faults.test_strangers_paths import put
from tests.orchestrator.test_cli import ratchet
from tests.recorded_runs.record import RECORDED
from tests.support.stand_ins import StandIns, make_project, run_job

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/upgrading.md").read_text()


def test_every_version_that_was_recorded_is_named() -> None:
    tried = PAGE.partition("## What was tried")[2]
    runs = re.findall(
        r"^\| `([\w.-]+)`[^|]*\|[^|]*\| (?:`tests/orchestrator/test_recorded_runs.py`|the same) \|", tried, re.M
    )
    ledgers = re.findall(r"^\| `([\w.-]+)`[^|]*\|[^|]*\| `tests/faults/test_recorded_ledgers.py` \|", tried, re.M)
    assert set(runs) == set(RECORDED) and set(ledgers) == {
        path.parent.parent.name for path in LEDGERS.glob("*/*/expected.json")
    }
    for file in re.findall(r"`(tests/[\w/]+\.py)`", tried):
        assert (PROJECT / file).is_file(), file


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newer")
    run_job(make_project(folder, rounds=1), StandIns())
    (folder / "run/ledger.cache").unlink(missing_ok=True)
    return folder / "run"


def config(run: Path) -> dict[str, Any]:
    return [record for record in Ledger(run / "ledger").records if record.kind == "config"][-1].data


def setting(run: Path) -> None:
    said = config(run)
    put(run, "config", said | {"job": said["job"] | {"train": said["job"]["train"] | {"newer": 2}}, "also": 1})


def kind(run: Path) -> None:
    put(run, "note", {"a": 1})


def schema(run: Path) -> None:
    put(run, "config", config(run))
    file = max((run / "ledger").glob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))


@pytest.mark.parametrize(
    ("newer", "status", "says"),
    [
        (setting, 0, "train.newer: unknown key"),
        (kind, 1, "a newer Ratchet or somebody else wrote it"),
        (schema, 2, "written by a newer Ratchet"),
    ],
    ids=["setting", "kind", "schema"],
)
def test_a_run_that_a_newer_version_drove_is_not_guessed_at(
    done: Path,
    tmp_path: Path,
    newer: Callable[[Path], None],
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    before = sorted(path.name for path in (run / "ledger").iterdir())
    newer(run)
    assert ratchet("status", run) == status
    capsys.readouterr()
    assert ratchet("resume", run) == (status or 2)
    assert says in capsys.readouterr().err
    new = max((run / "ledger").glob("*.json"))
    assert new.name not in before, "and nothing was appended behind it"
