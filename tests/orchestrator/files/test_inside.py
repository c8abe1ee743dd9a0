"""Files that a run names: regular ones inside of it."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import Damaged
from orchestrator.files.inside import read_regular, regular_size, require_below


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, 5, tmp_path) == b"12345"
    assert regular_size(file, tmp_path) == 5
    with pytest.raises(Damaged, match="larger than the 4 bytes"):
        read_regular(file, 4)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    with pytest.raises(Damaged, match="is no regular file"):
        read_regular(path, 10)


def test_a_link_may_lead_to_a_file_of_the_run_and_nowhere_else(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "secret"
    run.mkdir()
    outside.write_bytes(b"secret")
    (run / "file").write_bytes(b"own")
    (run / "in").symlink_to("file")
    (run / "out").symlink_to(outside)
    assert read_regular(run / "in", 10, run) == b"own"
    with pytest.raises(Damaged, match="leads out of the run"):
        read_regular(run / "out", 10, run)


def test_nothing_is_named_or_removed_through_a_link_out_of_the_run(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (run / "link").symlink_to(outside)
    require_below(run, run / "link")  # the link itself is the run's
    for path in (run / "link/file", run / "../outside/file", outside / "file", run, run / "x/.."):
        with pytest.raises(Damaged, match="leads out of the run"):
            require_below(run, path)
