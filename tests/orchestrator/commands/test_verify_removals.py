"""What a record says was removed, and what was not committed at all: no way to have `verify` look elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean
from orchestrator.commands.verify.command import verify
from orchestrator.driver.drive import identity
from orchestrator.ledger.ledger import CLEANING, Ledger
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("removals")
    run_job(make_project(folder), StandIns(), "train.eval_every=1")
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def artifacts(run: Path) -> set[str]:
    return {artifact.path for artifact in Ledger(run / "ledger").state.artifacts()}


def append(run: Path, kind: str, data: dict[str, Any], later: int = 0) -> None:
    """Add a record of the last epoch, or of one that begins `later`."""
    path, last = max(records(run).items())
    number = last["number"] + 1
    seal(
        path.with_name(f"{number:08d}.json"),
        last | dict(number=number, kind=kind, data=data, epoch=last["epoch"] + later),
    )


def without_its_end(run: Path) -> None:
    max(records(run)).unlink()


def by_a_discard(run: Path, paths: list[str]) -> None:
    without_its_end(run)
    append(run, "discard", {"paths": paths})


def by_a_cleaning(run: Path, paths: list[str]) -> None:
    append(run, "claim", CLEANING | {"paths": paths}, later=1)


def by_their_own_commits(run: Path, paths: list[str]) -> None:
    for path, document in records(run).items():
        own = [a["path"] for a in document["data"].get("artifacts", ()) if a["path"] in paths]
        if document["kind"] == "commit" and own:
            document["data"]["discarded"] = own
            seal(path, document)


def by_another_commit(run: Path, paths: list[str]) -> None:
    """Of a step that is said to be a fork's, with an offer that says the same."""
    path, document = max((p, d) for p, d in records(run).items() if d["kind"] == "commit")
    seal(path, document | {"data": document["data"] | {"discarded": paths}})


WAYS = {
    "discard": by_a_discard,
    "gc": by_a_cleaning,
    "own commits": by_their_own_commits,
    "another commit": by_another_commit,
}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_no_file_is_believed_to_be_removed_that_no_driver_removes(run: Path, way: str, there: bool) -> None:
    paths = sorted(artifacts(run))
    shards = (
        {a for a in paths if a.endswith(".parquet")} if way == "own commits" else set()
    )  # they have no commit's record
    WAYS[way](run, paths)
    for path, document in records(run).items():
        if document["data"].get("step") == "rounds/02/evaluation" and document["kind"] == "commit":
            document["data"]["facts"]["test"]["accuracy"] = 1.0
            seal(path, document)
    if not there:
        shutil.rmtree(run / "rounds/02/evaluation")
    found = verify(run).findings
    for path in {*paths} - shards:
        assert any(f"discards {path}, which" in line for line in found), path
    assert any("test.accuracy is 1.0" in line for line in found) == there
    assert any(line == "rounds/02/evaluation/test.parquet: missing" for line in found) != there


def commits(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, document in records(run).items():
        if document["kind"] == "commit" and document["data"]["artifacts"]:
            yield path, document


def test_a_step_that_has_lost_its_files_from_its_record_is_named(run: Path) -> None:
    """Of a training, its metrics; of an evaluation, one split; of each step all."""
    for path, document in list(commits(run)):
        before = path.read_bytes()
        for emptied in without_files(document):
            seal(path, emptied)
            assert verify(run).findings, (document["data"]["step"], emptied["data"]["artifacts"])
        path.write_bytes(before)
    assert verify(run).findings == []


def without_files(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record without each of its artifacts, and without each file of its own folder."""
    step, made = document["data"]["step"], document["data"]["artifacts"]
    for number, artifact in enumerate(made):
        # Whether weights are needed is not asked of a record that names none: nothing is told of them.
        if artifact["path"] == step:
            yield document | {"data": document["data"] | {"artifacts": made[:number] + made[number + 1 :]}}
            for name in artifact["files"] if len(artifact["files"]) > 1 and step.endswith("evaluation") else ():
                files = {other: said for other, said in artifact["files"].items() if other != name}
                rest = [*made[:number], artifact | {"files": files}, *made[number + 1 :]]
                yield document | {"data": document["data"] | {"artifacts": rest}}


def test_what_stands_where_a_file_may_be_removed_is_named(run: Path) -> None:
    """An evaluation in the place of candidates, and a shard in that of a checkpoint, could be discarded honestly."""
    for step, key, place in (
        ("rounds/02/evaluation", "commit", "rounds/02/candidates"),
        ("rounds/02/verdicts", "shard", "rounds/01/checkpoint"),
    ):
        path, document = next((p, d) for p, d in records(run).items() if d["kind"] == key and d["data"]["step"] == step)
        before, hidden = path.read_bytes(), f"{place.rpartition('/')[0]}/.elsewhere-e1"
        artifact = document["data"]["artifacts"][0] if key == "commit" else document["data"]["artifact"]
        artifact |= {"path": place, "hidden": hidden}
        seal(path, document)
        assert any(f"commits {place} for {step}" in line for line in verify(run).findings)
        path.write_bytes(before)


def test_what_is_removed_honestly_is_no_finding(tmp_path: Path) -> None:
    """By the loop, by `ratchet gc`, and by either in the parent of a fork."""
    job = make_project(tmp_path, rounds=3, skill=0.1)
    run_job(job, StandIns(), "train.eval_every=1", "keep.checkpoints=2")
    fork(tmp_path / "run", tmp_path / "forked", ["keep.checkpoints=3"])
    run_job(tmp_path / "forked/job.yaml", StandIns())
    run_job(job, StandIns(), "keep.checkpoints=1", "train.eval_every=1")
    clean(tmp_path / "run", identity())
    for name in ("run", "forked"):
        report = verify(tmp_path / name)
        assert report.findings == [] and report.discarded
