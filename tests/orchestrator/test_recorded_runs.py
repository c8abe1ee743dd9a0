"""Half-done runs of earlier versions, stopped in their samples, verdicts or training: they go on with this one."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.same_job import check_same_job
from orchestrator.files.durable import canonical
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.run import Run
from orchestrator.reports.status import status
from tests.recorded_runs.record import KINDS, RECORDED, extract, go_on, unpack, unpack_project
from tests.support.samples import every

STOPPED = [(version, kind, stop) for version, kinds in RECORDED.items() for kind in kinds for stop in KINDS[kind].stops]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for version in RECORDED:
        extract(version, folder / version)
    return folder


@pytest.mark.parametrize(("version", "kind", "stop"), every(2, STOPPED))
def test_a_recorded_run_goes_on_where_it_was_stopped(
    recorded: Path, tmp_path: Path, version: str, kind: str, stop: str
) -> None:
    folder = recorded / version / kind
    job, done = unpack(folder, stop, tmp_path / "moved")
    run = tmp_path / "moved/run"
    before = Ledger(run / "ledger").records
    check_same_job(Run(run), load_job(job).job)  # as `validate`, `plan` and `compare` ask
    resumed = KINDS[kind].workers()
    go_on(job, resumed)

    assert status(run)["state"] == "finished"
    report = verify(run)
    assert report.findings == [] and report.followed
    after = Ledger(run / "ledger").records
    assert [canonical(record.data) for record in after[: len(before)]] == [canonical(record.data) for record in before]
    assert set(committed(after).values()) == {1}
    # What was done before the stop and after it is together what an undisturbed run does. Graders of another version
    # may grade once more.
    together, undisturbed = done + resumed.calls, work_of_undisturbed(folder)
    assert together.pop("grade", 0) >= undisturbed.pop("grade", 0)
    assert together == undisturbed


@functools.cache
def _work_of_undisturbed(folder: Path) -> Counter[str]:
    workers = KINDS[folder.name].workers()
    go_on(unpack_project(folder, folder / "undisturbed"), workers)
    return workers.calls


def work_of_undisturbed(folder: Path) -> Counter[str]:
    """How much of which work a run of this kind takes that is never stopped."""
    return Counter(_work_of_undisturbed(folder))


def committed(records: list[Record]) -> Counter[tuple[str, int | None]]:
    """How often each step and shard was committed, but for verdicts that were discarded, since another version of the
    graders made them."""
    gone = {path for r in records if r.kind == "discard" for path in r.data["paths"]}
    kept = (r for r in records if r.kind == "commit" or (r.kind == "shard" and r.data["artifact"]["path"] not in gone))
    return Counter((r.data["step"], r.data.get("index")) for r in kept)
