"""What is taken from a run, which may be somebody else's: regular files inside of it, and no more bytes than its ledger
says; for `fork`, for `run:NAME` models, and for models in a run's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.sharing import Giver
from orchestrator.models.files import link_model
from tests.faults.children import scratch
from tests.support.stand_ins import StandIns, make_model, make_project, run_job

FILE = "rounds/01/checkpoint/model.safetensors"
SECRET = "PRIVATE KEY"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stranger")
    run_job(make_project(folder, rounds=1, promotion={"rule": "always"}), StandIns())
    return folder / "run"


@pytest.fixture
def stranger(run: Path, tmp_path: Path) -> Path:
    """A run from somebody else, and a private file beside it that has the size of one of the run's."""
    shutil.copytree(run, tmp_path / "strangers/run")
    (tmp_path / "key").write_text(SECRET.ljust((run / FILE).stat().st_size))
    return tmp_path / "strangers/run"


@pytest.fixture(params=["same disk", "another disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for the new run."""
    if request.param == "same disk":
        (tmp_path / "mine").mkdir()
        yield tmp_path / "mine"
        return
    with scratch(tmp_path) as memory, TemporaryDirectory() as disk:
        others = [folder for folder in (memory, Path(disk)) if folder.stat().st_dev != tmp_path.stat().st_dev]
        if not others:
            pytest.skip("there is one disk only")
        yield others[0]


def link_out(stranger: Path) -> None:
    (stranger / FILE).unlink()
    os.symlink(stranger.parent.parent / "key", stranger / FILE)


def link_inside(stranger: Path) -> None:
    os.rename(stranger / FILE, stranger / "moved")
    os.symlink(stranger / "moved", stranger / FILE)


def link_in_a_circle(stranger: Path) -> None:
    (stranger / FILE).unlink()
    os.symlink("model.safetensors", stranger / FILE)


def pipe(stranger: Path) -> None:
    (stranger / FILE).unlink()
    os.mkfifo(stranger / FILE)


def device(stranger: Path) -> None:
    (stranger / FILE).unlink()
    os.symlink("/dev/zero", stranger / FILE)


def folder_out(stranger: Path) -> None:
    shutil.move(stranger / "rounds", stranger.parent / "elsewhere")
    os.symlink(stranger.parent / "elsewhere", stranger / "rounds")


def larger(stranger: Path) -> None:
    with open(stranger / FILE, "ab") as file:
        file.truncate(2**40)  # with holes: it takes no room here


def folder_instead(stranger: Path) -> None:
    (stranger / FILE).unlink()
    (stranger / FILE).mkdir()


TRICKS = [link_out, link_inside, link_in_a_circle, pipe, device, folder_out, larger, folder_instead]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_fork_takes_nothing_but_the_runs_own_files(
    stranger: Path, place: Path, trick: Callable[[Path], None]
) -> None:
    trick(stranger)
    with pytest.raises(Damaged, match=r"model\.safetensors|rounds/"):
        fork(stranger, place / "child")
    assert os.listdir(place) == []


def test_a_fork_is_made_across_disks_too(stranger: Path, place: Path) -> None:
    fork(stranger, place / "child")
    shutil.rmtree(stranger)
    workers = StandIns()
    run_job(place / "child/job.yaml", workers, f"model={make_model(place / 'seed', 0.4)}")
    assert workers.calls["train"] == workers.calls["generate"] == 0
    assert verify(place / "child").findings == []


def test_a_file_that_is_exchanged_while_it_is_taken(stranger: Path, place: Path) -> None:
    """What is looked at need not be what is taken a moment later."""
    file = stranger / FILE
    with pytest.raises(Damaged, match="is being written, or has another size"):
        Giver(stranger, 10**6).give(file, place / "file", file.stat().st_size + 1)
    link_out(stranger)
    with pytest.raises(Damaged, match="is a link"):
        Giver(stranger, 10**6).give(file, place / "file", file.stat().st_size)
    assert os.listdir(place) == []


MODEL_TRICKS = [link_out, link_in_a_circle, pipe, device, folder_out, larger]


def uncommitted(stranger: Path) -> None:
    """A file of a model that no record knows."""
    os.symlink(stranger.parent.parent / "key", (stranger / FILE).with_name("vocab.json"))


def uncommitted_pipe(stranger: Path) -> None:
    os.mkfifo((stranger / FILE).with_name("more.safetensors"))


@pytest.mark.parametrize("trick", [*MODEL_TRICKS, uncommitted, uncommitted_pipe])
@pytest.mark.parametrize("key", ["model", "reference"])
@pytest.mark.parametrize("named", ["run", "folder"])
def test_a_model_of_a_run_is_its_own_files(
    stranger: Path, tmp_path: Path, trick: Callable[[Path], None], key: str, named: str
) -> None:
    if named == "folder" and trick in (larger, folder_out):
        pytest.skip("no ledger is asked for a folder, and one that lies elsewhere is no run's")
    trick(stranger)
    model = f"run:{stranger}@round1" if named == "run" else str(stranger / "rounds/01/checkpoint")
    job = make_project(tmp_path / "mine", **{key: model})
    with pytest.raises(BadInput, match=rf"{key}: .*(is a link|is no regular file|leads out of the run|bytes, while)"):
        run_job(job, StandIns())
    assert not (tmp_path / "mine/run/baseline").exists()


def test_what_a_run_did_not_commit_is_not_kept(stranger: Path, tmp_path: Path) -> None:
    (stranger / FILE).with_name("chat_template.jinja").write_text("a stranger's")
    run_job(make_project(tmp_path / "mine", model=f"run:{stranger}@round1"), StandIns())
    assert sorted(os.listdir(tmp_path / "mine/run/baseline/model")) == ["config.json", "model.safetensors"]


def test_a_folder_of_links_outside_of_runs_is_a_model(tmp_path: Path) -> None:
    """The Hub's cache is one."""
    make_model(tmp_path / "blobs", 0.4)
    (tmp_path / "snapshot").mkdir()
    for name in os.listdir(tmp_path / "blobs"):
        os.symlink(f"../blobs/{name}", tmp_path / "snapshot" / name)
    link_model(tmp_path / "snapshot", tmp_path / "kept")
    assert not any(path.is_symlink() for path in (tmp_path / "kept").iterdir())
    assert (tmp_path / "kept/config.json").read_text() == "{}"


FEW_FILES = """
import resource, sys
from pathlib import Path
from orchestrator.commands.fork.command import fork
from orchestrator.errors import RatchetError

run, place = map(Path, sys.argv[1:])
fork(run, place / "first")  # has everything imported
for limit in range(3, 21):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        fork(run, place / f"child{limit}")
        said = "made"
    except (RatchetError, OSError) as error:  # the command line says both in one message
        said = str(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(sorted(path.name for path in place.glob("*child*")), said.replace("\\n", " "))
"""


def test_where_no_more_files_may_be_opened_a_fork_is_made_or_nothing_is_left(run: Path, place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FEW_FILES, str(run), str(place)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 18, done.stderr
    made = [line for line in lines if line.endswith(" made")]
    assert made == lines[-len(made) :] and 2 < len(made) < 18
    for line in (line for line in lines if line not in made):
        assert line.startswith("[] ") and "too many open files" in line.lower()
