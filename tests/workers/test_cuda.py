"""What a host has of CUDA, and what of it does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workers import cuda
from workers.generation.vllm import without_compiler

SMI = "| NVIDIA-SMI 580.65.06    Driver Version: 580.65.06    CUDA Version: {}     |"


def facts(**changes: Any) -> dict[str, Any]:
    return {"driver": "13.0", "wheels": "13.0", "nvcc": "/usr/local/cuda/bin/nvcc", "shm": 2**34} | changes


@pytest.mark.parametrize(("said", "version"), [(SMI.format("13.0"), "13.0"), (SMI.format("N/A"), None), ("", None)])
def test_the_drivers_version_is_read(said: str, version: str | None) -> None:
    assert cuda.driver_of(said) == version


@pytest.mark.parametrize(
    ("changes", "said", "fatal"),
    [
        ({"driver": "12.8"}, "the driver takes CUDA 12.8, and the packages need 13.0", True),
        ({"wheels": None}, "built without CUDA", True),
        ({"nvcc": None}, "without nvcc", False),
        ({"shm": 2**26}, "/dev/shm has 64 MiB", False),
    ],
)
def test_what_does_not_fit_is_told_with_its_cure(changes: dict[str, Any], said: str, fatal: bool) -> None:
    [problem] = cuda.problems(facts(**changes))
    assert said in problem.text and problem.cure and problem.fatal == fatal
    [line] = cuda.lines(facts(**changes))
    assert said in line and line.startswith("ERROR: ") == fatal


def test_what_fits_is_no_problem() -> None:
    for changes in ({}, {"driver": "13.2"}, {"driver": "14.0"}, {"wheels": "13.5"}):
        assert cuda.problems(facts(**changes)) == [], changes


def test_a_host_without_a_driver_is_none_either() -> None:
    bare = facts(driver=None, wheels=None, nvcc=None, shm=0)
    assert cuda.problems(bare) == []
    assert "nothing is checked" in cuda.lines(bare)[0]


def test_the_compiler_is_found_where_flashinfer_looks(tmp_path: Path) -> None:
    (program := tmp_path / "bin/nvcc").parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    assert cuda.nvcc({"CUDA_HOME": str(tmp_path), "PATH": ""}) == str(program)
    assert cuda.nvcc({"PATH": str(program.parent)}) == str(program)
    assert cuda.nvcc({"CUDA_HOME": str(tmp_path / "none"), "PATH": str(program.parent)}) is None


def test_without_a_compiler_vllm_compiles_nothing_unless_the_user_says_so(tmp_path: Path) -> None:
    bare = {"CUDA_HOME": str(tmp_path), "PATH": ""}
    assert without_compiler(bare) == {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    assert without_compiler(bare | {"VLLM_USE_FLASHINFER_SAMPLER": "1"}) == {}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").write_text("")
    (tmp_path / "bin/nvcc").chmod(0o755)
    assert without_compiler(bare) == {}


def test_setup_says_what_it_sees_here() -> None:
    """The line of deploy/setup.sh; it imports nothing large and ends well, with a driver or without."""
    script = (Path(__file__).parents[2] / "deploy/setup.sh").read_text()
    [command] = [line for line in script.splitlines() if "workers import cuda" in line]
    code = command.partition("-c '")[2].partition("'")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("setup: ")
