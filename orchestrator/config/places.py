"""Where runs live."""

from __future__ import annotations

import importlib.resources
import os
import re
import sys
import unicodedata
from pathlib import Path

from orchestrator.config import Job
from orchestrator.config.addresses import without_password
from orchestrator.errors import BadInput
from orchestrator.files.inside import is_run
from orchestrator.files.lack import MOST_OF_A_PATH, ROOM_FOR_A_RUN
from orchestrator.files.named import named_path, real, whole

DEMO = "demo"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)/+(?=[^/])")
"""That of an archive, as a path spells it: with one slash where there were two."""
_CONTROLS = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters, and of what ends lines and paragraphs."""
_OTHER_FORM = re.compile(r"run:|[A-Za-z][A-Za-z0-9+.-]*://")


def job_path(given: Path) -> Path:
    """A job file as it was given; `demo`, where nothing of that name is there, is the one that comes with Ratchet."""
    if given != Path(DEMO) or given.exists():
        return given
    return Path(str(importlib.resources.files("orchestrator"))).joinpath("demo", "irpo.yaml").resolve()


def home() -> Path:
    """Folder that holds `runs/`: RATCHET_HOME, else the project around the current folder, else that folder."""
    if named := os.environ.get("RATCHET_HOME"):
        return real(named_path(named, "RATCHET_HOME"))
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "pyproject.toml").is_file()), here)


def run_folder(job: Job) -> Path:
    """Where the job's run lives.

    Raises:
        BadInput: that is no folder's name, or is inside Ray's copy of the project, which changes with every edit.
    """
    folder = named_path(job.run_dir, "run_dir") if job.run_dir else home() / "runs" / job.name
    folder = whole(real(folder))
    if job.run_dir and _OTHER_FORM.match(job.run_dir) and not folder.exists():
        raise BadInput(
            f"run_dir: {without_password(job.run_dir)!r} is no folder: a run lives in one of this machine, or one that "
            "all nodes share. `archive` is for a copy elsewhere, and `model: run:NAME` for a start from another run; a "
            "folder of this name is written ./NAME"
        )
    if folder.exists() and not folder.is_dir():
        what = "a file" if folder.is_file() else "a pipe or device"
        raise BadInput(f"{folder}: a run needs a folder, and this is {what}. Choose another `name` or `run_dir`.")
    if in_ray_package(folder):
        raise BadInput(
            f"{folder}: a run inside Ray's package folder would be lost with it. Set RATCHET_HOME to a folder that "
            'all nodes share (ray job submit --runtime-env-json \'{"env_vars": {"RATCHET_HOME": "..."}}\'), or run_dir.'
        )
    return folder


def run_named(run: Path) -> Path:
    """The folder of a run as a command names it: as given, else below the project, else by its name alone. A folder
    of that name that is no run, such as that of its job, does not stand before it.

    Raises:
        BadInput: its name is not in UTF-8, or it is the address of an archive.
    """
    if run.is_absolute() or is_run(run):  # which needs no current folder
        return whole(run)
    found = next((place for place in (home() / run, home() / "runs" / run) if is_run(place)), None)
    if found is None and _ADDRESS.match(str(run)) and not run.exists():
        address = without_password(_ADDRESS.sub(r"\1//", str(run), count=1))
        raise BadInput(f"{address}: is an address, and a run is a folder: `ratchet fetch` brings an archived one here")
    return whole(found or (run if run.exists() else home() / run))


def require_room(folder: Path) -> Path:
    """`folder`, a run's, where it is there or can be made.

    Raises:
        BadInput: it cannot, names what is in the way; it would lie in another run; its path leaves too little for
            those of the files in it; or a name that would be made has a line break in it, or another control character.
    """
    if (size := len(os.fsencode(folder))) > MOST_OF_A_PATH - ROOM_FOR_A_RUN:
        raise BadInput(
            f"{folder}: this path has {size:,} bytes, and that of a run may have {MOST_OF_A_PATH - ROOM_FOR_A_RUN:,}, "
            "or those of its files are too long. Choose another `run_dir`, or move the run."
        )
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir():
        raise BadInput(f"{folder}: a run needs a folder, and {above} is none. Choose another `name` or `run_dir`.")
    made = str(folder)[len(str(above)) :]
    if any(unicodedata.category(letter) in _CONTROLS for letter in made):
        raise BadInput(
            f"{str(folder)!r}: the name of a run's folder has no line break or other control character in it. Choose "
            "another; `run_dir` of a job file is written on one line, in quotes"
        )
    around = next((place for place in real(folder).parents if is_run(place)), None)
    if around is not None and not is_run(folder):  # one that is there already goes on
        raise BadInput(
            f"{folder}: lies in the run {around}, among files that it counts. Choose a folder outside of it."
        )
    if above != folder and not os.access(above, os.W_OK | os.X_OK):
        raise BadInput(
            f"{folder}: a run needs a folder, and none can be made in {above}, which may not be written to. Choose "
            "another `run_dir`, or set RATCHET_HOME."
        )
    return folder


def own_code(module: str) -> list[str]:
    """The command that runs a module of this project. Without -P the current folder, which may be a stranger's run,
    would come first on the import path."""
    return [sys.executable, "-P", "-m", module]


def own_code_environment() -> dict[str, str]:
    """The environment of such a command, which finds the project wherever it stands, and writes what is read here as
    UTF-8, whatever the streams of this process are encoded in."""
    here = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": search, "PYTHONIOENCODING": "utf-8"}


def in_ray_package(folder: Path) -> bool:
    """Whether a folder lies inside a copy that Ray made of a job's working directory, which is gone after the job."""
    return "runtime_resources" in folder.parts and "working_dir_files" in folder.parts
