"""The wheel, installed where no checkout is: the commands work, and the demo comes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from orchestrator.driver.resume import load
from orchestrator.errors import BadInput

PROJECT = Path(__file__).parent.parent
BUILT_FROM = ("orchestrator", "workers", "jobs", "pyproject.toml", "README.md", "LICENSE")
SMALL = (
    *("rounds=1", "data.prompts_per_round=48", "data.gate.limit=48", "data.test.limit=48", "generate.samples=4"),
    *("generate.shard_prompts=16", "tracking.enabled=false"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy, since building leaves files beside what it builds."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in BUILT_FROM:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, source / name)
    pip("wheel", "--no-build-isolation", "--wheel-dir", made, source)
    [file] = made.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--target", target, wheel)
    return target


def pip(command: str, *arguments: str | Path) -> None:
    """Without a network, and without what the project depends on: that is here."""
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    subprocess.run([sys.executable, "-m", "pip", command, *options, *arguments], check=True)


def ratchet(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a folder; the checkout is on no path of its process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RATCHET_"))}
    return subprocess.run(
        [sys.executable, installed / "bin/ratchet", *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_has_every_module_and_no_other_code(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = {path.relative_to(PROJECT).as_posix() for room in BUILT_FROM[:2] for path in (PROJECT / room).rglob("*.py")}
    demo = "orchestrator/demo/"
    assert {name for name in names if name.endswith(".py") and not name.startswith(demo)} == {
        name for name in ours if not name.startswith(demo)
    }
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"orchestrator", "workers"}


def test_the_demo_is_that_of_the_project(installed: Path) -> None:
    jobs, packaged = PROJECT / "jobs", installed / "orchestrator/demo"
    assert not any(path.is_symlink() for path in packaged.rglob("*"))
    assert (packaged / "irpo.yaml").read_bytes() == (jobs / "irpo.yaml").read_bytes()
    files = [path.relative_to(jobs) for path in (jobs / "demo").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert Path("demo/base/model.safetensors") in files and Path("demo/make_base.py") in files
    assert all((packaged / file).read_bytes() == (jobs / file).read_bytes() for file in files)


@pytest.mark.full
def test_the_demo_is_valid_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = ratchet(installed, tmp_path, "validate", "demo")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "valid     demo"
    assert f"model     {installed}/orchestrator/demo/demo/base" in lines
    assert "problems  1800 train, 400 gate, 640 test" in lines
    assert any(line.startswith("prompt ") and " tokens: " in line for line in lines)
    assert lines[-1] == f"run       {tmp_path / 'runs/irpo'}"
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_run_of_it_is_told(installed: Path, tmp_path: Path) -> None:
    done = ratchet(installed, tmp_path, "run", "demo", "generate.sample=3")
    assert done.returncode == 2 and "did you mean `samples`" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real
@pytest.mark.full
def test_the_demo_runs(installed: Path, tmp_path: Path) -> None:
    done = ratchet(installed, tmp_path, "run", "demo", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    done = ratchet(installed, tmp_path, "verify", "runs/irpo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_name_of_the_demo_is_that_of_a_file_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(Path("demo")).path == PROJECT / "jobs/irpo.yaml"
    (tmp_path / "demo").write_text("- mine\n")
    with pytest.raises(BadInput, match=r"^demo: a job file is a mapping"):
        load(Path("demo"))
