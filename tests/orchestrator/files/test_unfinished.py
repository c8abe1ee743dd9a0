"""What a killed command leaves is known by its maker: removed where that is dead, let be where it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.files.unfinished import hidden, maker, replace, tidy
from tests.support.sample_run import DEAD_PID

LABELS = ["out.jsonl.grade", "x" * 250]


def of_process(folder: Path, label: str, pid: int, start: int | None = None) -> Path:
    """The hidden name as another process of this host has it."""
    stem, host, _, own_start = hidden(folder, label).name.rsplit("-", 3)
    return folder / f"{stem}-{host}-{pid}-{own_start if start is None else start}"


@pytest.mark.parametrize("label", LABELS)
def test_what_dead_processes_left_is_removed(tmp_path: Path, label: str) -> None:
    dead_file, dead_folder = of_process(tmp_path, label, DEAD_PID), of_process(tmp_path, label, DEAD_PID, 7)
    of_process(tmp_path, label, DEAD_PID, 0).write_text("of one that could open no file to see when it began")
    namesake = of_process(tmp_path, label, os.getppid(), 1)  # a number that was given out again
    dead_file.write_text("half")
    (dead_folder / "rounds").mkdir(parents=True)
    os.symlink(tmp_path, namesake)
    (tmp_path / "precious").write_text("precious")
    assert maker(tmp_path, label) is None
    tidy(tmp_path, label)
    assert os.listdir(tmp_path) == ["precious"]


@pytest.mark.parametrize("label", LABELS)
def test_what_is_being_made_is_let_be(tmp_path: Path, label: str) -> None:
    code = "import sys, orchestrator.files.unfinished as u; from pathlib import Path\n"
    code += "u.hidden(Path(sys.argv[1]), sys.argv[2]).touch(); print('made', flush=True); input()"
    arguments = [sys.executable, "-c", code, str(tmp_path), label]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "made\n"
        tidy(tmp_path, label)
        assert len(os.listdir(tmp_path)) == 1 and maker(tmp_path, label) == other.pid
        other.kill()
    tidy(tmp_path, label)
    assert os.listdir(tmp_path) == []


def test_other_names_and_other_hosts_are_let_be(tmp_path: Path) -> None:
    elsewhere = of_process(tmp_path, "a.fork", DEAD_PID).name.replace(hidden(tmp_path, "a.fork").name[8:16], "0" * 8)
    names = [elsewhere, ".a.fork", ".a.fork-1-2", of_process(tmp_path, "a.fork-b", DEAD_PID).name, "a.fork"]
    for name in names:
        (tmp_path / name).touch()
    tidy(tmp_path, "a.fork")
    assert sorted(os.listdir(tmp_path)) == sorted(names) and "00000000" in elsewhere


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    of_process(tmp_path, "x.json.new", DEAD_PID).write_text("half")
    for content in (b"one", b"two"):
        replace(tmp_path / "x.json", content)
        assert (tmp_path / "x.json").read_bytes() == content and os.listdir(tmp_path) == ["x.json"]
