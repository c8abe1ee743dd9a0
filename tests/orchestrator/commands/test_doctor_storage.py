"""`ratchet doctor`'s check `shared path`: what is tried of a folder, and what is made of it; and of an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.doctor.addresses import examine_archive
from orchestrator.commands.doctor.diagnosis import Finding
from orchestrator.commands.doctor.storage import diagnose_storage, examine_storage
from orchestrator.commands.validate import archive_line
from orchestrator.config.load import load_job
from orchestrator.driver.everywhere import DRIVER, everywhere
from orchestrator.driver.nodes import Node
from tests.orchestrator.archive.test_sending import send
from tests.support.sample_run import two_rounds
from tests.support.stand_ins import make_project
from workers import storage

ONE, TWO = Node("a", "one", 8, 4), Node("b", "two", 8, 4)
SHARED = Finding("pass", "/runs has hard links", "", {"folder": "/runs"})


def timed(fsync: float = 0.002, exclusive: bool = True) -> dict[str, Any]:
    quick = [0.0002, 0.0003, 0.0011]
    return {"link": quick, "rename": quick, "fsync": [fsync] * 3, "exclusive": exclusive, "kind": "nfs4"}


def seen(**kinds: float | None) -> dict[tuple[str, str], dict[str, float | None]]:
    return {(DRIVER, "one"): {"new": 0.0, "awaited": 0.0, "replaced": 0.0} | kinds}


def found(
    times: Mapping[str, Any] | None = None, won: Mapping[str, Any] | None = None, soon: Mapping[Any, Any] | None = None
) -> Finding:
    by_all = times or {DRIVER: timed(), "one": timed()}
    return diagnose_storage(SHARED, by_all, won or {DRIVER: [0, 2], "one": [1]}, seen() if soon is None else soon)


def test_a_good_folder_passes_with_its_times() -> None:
    finding = found()
    assert finding.level == "pass" and "(nfs4)" in finding.text and "fsync 2 ms" in finding.text
    assert "link 0.3 ms (at most 1.1)" in finding.text and "sees what another writes at once" in finding.text
    assert finding.facts["milliseconds"]["one"]["fsync"] == [2.0, 2.0]


@pytest.mark.parametrize(
    ("finding", "level", "said"),
    [
        (found({DRIVER: timed(), "one": timed(exclusive=False)}), "FAIL", "one: a link replaces a name that is taken"),
        (found(won={DRIVER: [0, 1], "one": [1]}), "FAIL", "1 names were taken by two participants at once"),
        (found(won={DRIVER: [0, 1], "one": OSError("gone")}), "FAIL", "one: OSError: gone"),
        (found(soon=seen(new=3.0)), "FAIL", "one sees a new file of the driver after 3.0 s"),
        (found(soon=seen(new=0.2)), "warn", "one sees a new file of the driver after 0.2 s"),
        (found(soon=seen(awaited=30.0)), "warn", "takes over so much later"),
        (found(soon=seen(replaced=None)), "warn", "not within 20.0 s: `status` may take a living driver for a dead"),
        (found({DRIVER: timed(fsync=0.3)}), "warn", "the driver: an fsync takes 300 ms"),
    ],
)
def test_what_a_folder_cannot_do_is_said_with_its_times(finding: Finding, level: str, said: str) -> None:
    assert finding.level == level and said in finding.text and finding.cure and "link 0." in finding.text


class Hosts:
    """Nodes as threads, at the examiner's seam; `of` may have one answer otherwise."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes, self.probes = nodes, list[str]()
        self.of: Callable[[str, str, Any], Any] = lambda probe, name, answer: answer

    def storage(self, probe: str, arguments: Sequence[Any], limit: float, alone: bool) -> dict[Node | None, Any]:
        self.probes.append(probe)

        def on_nodes(function: Callable[..., Any], *all_of: Any, timeout: float) -> dict[Node, Any]:
            def answer(node: Node) -> Any:
                mine = [one.get(node.name) if isinstance(one, dict) else one for one in all_of]
                try:
                    return self.of(probe, node.name, function(*mine))
                except OSError as error:
                    return error

            with ThreadPoolExecutor() as pool:
                return dict(zip(self.nodes, pool.map(answer, self.nodes), strict=True))

        return everywhere(getattr(storage, probe), arguments, limit, None if alone else on_nodes)


def test_a_real_folder_is_tried_from_everywhere(tmp_path: Path) -> None:
    hosts = Hosts(ONE, TWO)
    finding = examine_storage(tmp_path, hosts, hosts.nodes, 30.0, SHARED)  # type: ignore[arg-type]
    assert finding.level == "pass", finding
    pairs = {(one["writer"], one["reader"]) for one in finding.facts["seen_after_seconds"]}
    names = {DRIVER, "one", "two"}
    assert pairs == {(a, b) for a in names for b in names if a != b}
    assert len(list(tmp_path.glob("race-*"))) == 20, "each name was taken"


def test_the_driver_alone_is_tried_where_there_is_no_cluster(tmp_path: Path) -> None:
    hosts = Hosts()
    finding = examine_storage(tmp_path, hosts, [], 30.0, Finding("warn", "/runs"))  # type: ignore[arg-type]
    assert finding.level == "warn" and "fsync" in finding.text


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    hosts = Hosts(ONE)
    (tmp_path / "times-one").mkdir()  # in the way, as another's file would be
    finding = examine_storage(tmp_path, hosts, hosts.nodes, 30.0, SHARED)  # type: ignore[arg-type]
    assert finding.level == "FAIL" and "one: FileExistsError" in finding.text and hosts.probes == ["times"]


def test_a_late_sight_ends_the_examination_early(tmp_path: Path) -> None:
    hosts = Hosts(ONE, TWO)
    hosts.of = lambda probe, _, answer: answer | {"awaited": 12.0} if probe == "notice" else answer
    finding = examine_storage(tmp_path, hosts, hosts.nodes, 30.0, SHARED)  # type: ignore[arg-type]
    assert finding.level == "warn" and "after 12.0 s" in finding.text and hosts.probes.count("notice") == 1


def test_a_writer_that_lies_is_not_seen(tmp_path: Path) -> None:
    """The probe itself: what is not there, or is another text, is not taken for it."""
    storage.look(str(tmp_path), "w")
    assert storage.notice(str(tmp_path), "w", "text", 0.1) == {"new": None, "awaited": None, "replaced": None}
    storage.write_if(str(tmp_path), "w", "another", True)
    assert set(storage.notice(str(tmp_path), "w", "text", 0.1).values()) == {None}
    storage.write_if(str(tmp_path), "w", "text", None)
    assert set(storage.notice(str(tmp_path), "w", "text", 0.1).values()) == {None}
    storage.write_if(str(tmp_path), "w", "text", True)
    assert storage.notice(str(tmp_path), "w", "text", 0.1) == {"new": 0.0, "awaited": 0.0, "replaced": 0.0}


def test_an_archive_is_written_read_and_left_as_it_was(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path / "project", archive=f"{tmp_path}/archive")).job
    finding = examine_archive(job, tmp_path / "project/run")
    assert finding.level == "pass" and "has nothing yet; 1 MiB written" in finding.text
    assert list((tmp_path / "archive").iterdir()) == []
    two_rounds(tmp_path / "other")
    send(tmp_path / "other", tmp_path / "archive")
    before = sorted(os.listdir(tmp_path / "archive"))
    finding = examine_archive(job, tmp_path / "project/run")
    assert finding.level == "FAIL" and "the archive of another run (sample)" in finding.text
    assert sorted(os.listdir(tmp_path / "archive")) == before
    assert "and not be archived" in archive_line(job, tmp_path / "project/run")
    records = len(os.listdir(tmp_path / "other/ledger"))
    assert f"has {records} records of this run" in archive_line(job, tmp_path / "other")


def test_an_archive_that_is_not_there_fails_with_its_cure(tmp_path: Path) -> None:
    job = load_job(make_project(tmp_path / "project", archive=f"{tmp_path}/not/mounted")).job
    finding = examine_archive(job, tmp_path / "project/run")
    assert finding.level == "FAIL" and "mount its disk" in finding.text and finding.cure
