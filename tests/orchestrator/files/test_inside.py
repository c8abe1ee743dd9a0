"""Files that a run names: regular ones inside of it."""

import os
import shutil
import subprocess
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from orchestrator.errors import Damaged
from orchestrator.files.inside import read_regular, regular_size, remove, remove_rest, rename, require_below, walk
from tests.support.layers import layered


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert read_regular(file, 5, tmp_path) == b"12345"
    assert regular_size(file, tmp_path) == 5
    with pytest.raises(Damaged, match="larger than the 4 bytes"):
        read_regular(file, 4)


def test_a_file_that_is_too_large_takes_no_memory(tmp_path: Path) -> None:
    """A stranger's cache of a terabyte, of which nothing is on the disk."""
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(Damaged, match="larger than the 268,435,456 bytes"):
            read_regular(tmp_path / "file", 1 << 28)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


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


def nest(folder: Path, depth: int) -> None:
    """Folders in folders, deeper than a path can name."""
    folder.mkdir(parents=True, exist_ok=True)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=here)
        inner = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def unnest(folder: Path) -> None:
    subprocess.run(["rm", "-rf", folder], check=True)  # which pytest's own tidying could not


def test_a_walk_sees_what_os_walk_does(tmp_path: Path) -> None:
    for name in ("a/b/file", "a/other", "c/left/file", "c/file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "circle").symlink_to("circle")

    def seen(steps: Iterable[tuple[str, list[str], list[str]]]) -> list[tuple[str, list[str], list[str]]]:
        found = []
        for folder, folders, files in steps:
            found.append((folder, sorted(folders), sorted(files)))
            folders[:] = [name for name in folders if name != "left"]
        return sorted(found)

    assert seen(walk(tmp_path)) == seen(os.walk(tmp_path))


def test_a_walk_passes_over_what_vanishes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name / "below").mkdir(parents=True)
    steps = walk(tmp_path)
    next(steps)
    shutil.rmtree(tmp_path / "b")
    assert {Path(folder).name for folder, *_ in steps} == {"a", "c", "below"}


@pytest.mark.parametrize("depth", [1500, 3000])
def test_folders_of_any_depth_are_walked_and_none_too_deep_is_removed(tmp_path: Path, depth: int) -> None:
    nest(tmp_path / "run/.left", depth)
    try:
        deepest = max(len(os.path.join(folder, name)) for folder, names, _ in walk(tmp_path) for name in names)
        assert min(4000, depth * 2) < deepest < 4096
        with pytest.raises(Damaged, match=r"\.left: folders are nested too deeply"):
            remove(tmp_path / "run", tmp_path / "run/.left")
    finally:
        unnest(tmp_path / "run")


def test_a_folder_of_an_image_gets_another_name_with_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "image/run/old/inner/empty").mkdir(parents=True)
    (tmp_path / "image/run/old/inner/file").write_bytes(b"x" * 3_000_000)
    (tmp_path / "image/run/old/script").write_text("text")
    (tmp_path / "image/run/old/script").chmod(0o750)
    with layered(tmp_path / "image", tmp_path / "mounted") as top:
        run = top / "run"
        rename(run, run / "old", run / "new")
        assert [path.name for path in run.iterdir()] == ["new"] and (run / "new/inner/empty").is_dir()
        assert (run / "new/inner/file").stat().st_size == 3_000_000
        assert (run / "new/script").stat().st_mode & 0o777 == 0o750
        rename(run, run / "new", run / "old")


@pytest.mark.parametrize("odd", ["link", "pipe"])
def test_a_folder_of_an_image_with_what_cannot_be_copied_stays_as_it_is(tmp_path: Path, odd: str) -> None:
    (tmp_path / "image/run/old/inner").mkdir(parents=True)
    (tmp_path / "image/run/old/file").write_text("text")
    (tmp_path / "precious").write_text("text")
    place = tmp_path / "image/run/old/inner/odd"
    os.mkfifo(place) if odd == "pipe" else place.symlink_to(tmp_path / "precious")
    with layered(tmp_path / "image", tmp_path / "mounted") as top:
        run = top / "run"
        before = sorted(run.rglob("*"))
        with pytest.raises(OSError, match="cross-device"):
            rename(run, run / "old", run / "new")
        assert sorted(run.rglob("*")) == before


def test_a_rest_is_removed_and_not_what_gets_its_name_meanwhile(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("rest", "other"):
        (run / name / "inner").mkdir(parents=True)
        (run / name / "inner/file").write_text(name)

    def late() -> bool:
        """As for a driver that sleeps until another one has done all of it, and works there."""
        (run / "rest").rename(run / "gone")
        (run / "other").rename(run / "rest")
        return True

    remove_rest(run, run / "rest", lambda: False)
    assert (run / "rest/inner/file").exists()
    with pytest.raises(OSError, match="not empty"):
        remove_rest(run, run / "rest", late)
    assert (run / "rest/inner/file").read_text() == "other" and list((run / "gone").iterdir()) == []
    (run / "link").symlink_to(run / "rest")
    for name in ("link", "nothing"):
        remove_rest(run, run / name, lambda: True)
    assert (run / "link").is_symlink() and (run / "rest/inner/file").exists()
    remove_rest(run, run / "rest", lambda: True)
    assert not (run / "rest").exists()
