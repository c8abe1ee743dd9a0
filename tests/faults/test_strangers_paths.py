"""A run from somebody else whose records or links lead out of it: no command touches what is there."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.gc import waste
from orchestrator.errors import Damaged
from orchestrator.files.durable import canonical, fingerprint
from orchestrator.files.inside import remove, rename
from orchestrator.ledger.borders import leading_out
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from tests.faults.children import Case, small_project
from tests.faults.conftest import Shelf
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, run_job

# The link leads to a folder of somebody else, in which a file and a folder have just such names.
FINAL, HIDDEN = "rounds/09/link/precious", "rounds/09/link/.precious-e1"
ARTIFACT: dict[str, Any] = {"path": FINAL, "hidden": HIDDEN, "files": {"file": {"size": 8, "sha256": "0" * 64}}}


def put(run: Path, kind: str, data: dict[str, Any], number: int | None = None) -> None:
    """A record as a stranger writes it: with a right check, and past what a ledger of ours would refuse."""
    number = len(list((run / "ledger").glob("*.json"))) if number is None else number
    record = {"schema": 1, "number": number, "epoch": 1, "kind": kind, "time": 1.0, "data": data}
    (run / f"ledger/{number:08d}.json").write_bytes(canonical(record | {"check": fingerprint(record)}))


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def promotion(run: Path, outside: Path) -> None:
    """Of a spare checkpoint, by an absolute path."""
    records = Ledger(run / "ledger").records
    first, second, *_ = [record for record in records if record.kind == "promotion"]
    for record in (first, second):  # one of them is the best, and stays
        put(run, "promotion", record.data | {"reference": str(outside)}, record.number)
    config = next(record for record in records if record.kind == "config")
    job = config.data["job"] | {"keep": {"checkpoints": 1, "training_states": 1}}
    put(run, "config", config.data | {"job": job}, config.number)


def offer(run: Path, outside: Path) -> None:
    link(run / "rounds/09/link", outside)
    said = {"step": "rounds/09/pairs", "index": None, "fingerprint": "f" * 32, "recipe": 1, "facts": {}}
    put(run, "offer", said | {"artifacts": [ARTIFACT], "discarded": []})


def commit(run: Path, outside: Path) -> None:
    link(run / "rounds/09/link", outside)
    said = {"step": "rounds/09/pairs", "fingerprint": "f" * 32, "recipe": 1, "facts": {}}
    put(run, "commit", said | {"artifacts": [ARTIFACT]})


def discard(run: Path, outside: Path) -> None:
    link(run / "rounds/09/link", outside)
    put(run, "discard", {"paths": [FINAL]})


def moved(folder: str) -> Callable[[Path, Path], None]:
    """A folder of the run stands outside, with what looks left behind, and a link is in its place."""

    def move(run: Path, outside: Path) -> None:
        (run / folder).mkdir(exist_ok=True)
        shutil.move(run / folder, outside / "moved")
        (outside / "moved/.pairs-e1").mkdir()
        (outside / "moved/.pairs-e1/x").write_text("precious")
        link(run / folder, outside / "moved")

    move.__name__ = folder
    return move


def counter(run: Path, outside: Path) -> None:
    """What a judge's client appends to."""
    link(run / "judge/requests", outside / "precious/file")


TRAPS = [promotion, offer, commit, discard, counter]
TRAPS += [moved(folder) for folder in ("rounds/01", "rounds", "baseline", "ledger", "failures", "logs")]
COMMANDS: dict[str, Callable[[Case], int]] = {
    "gc --dry-run": lambda case: ratchet("gc", case.run, "--dry-run"),
    "gc": lambda case: ratchet("gc", case.run),
    "resume": lambda case: ratchet("resume", case.run, "tracking.enabled=false"),
    "fork": lambda case: ratchet("fork", case.run, case.folder / "forked", "loss.beta=0.3"),
    "rescore": lambda case: ratchet("rescore", case.run, case.folder / "rescored", "grade.strict=false"),
}


@pytest.fixture(scope="module")
def finished(shelf: Shelf) -> Case:
    case = Case(small_project(shelf.folder(), rounds=3), shelf.folder())
    assert case.drive() == 0, case.output
    return case


@pytest.fixture
def case(finished: Case, space: Path) -> Case:
    shutil.copytree(finished.run, space / "case/run", symlinks=True)
    for name in ("precious", ".precious-e1"):
        (space / "outside" / name).mkdir(parents=True)
        (space / "outside" / name / "file").write_text("precious")
    return Case(finished.job, space / "case")


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Each file and folder below, with its inode and bytes."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_ino, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: trap.__name__)
def test_no_command_touches_what_a_strangers_run_leads_to(
    case: Case, space: Path, trap: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    outside = space / "outside"
    trap(case.run, outside)
    before, ledger = everything(outside), len(list((case.run / "ledger").iterdir()))
    told = {}
    for name, command in COMMANDS.items():
        assert command(case) in (1, 2), f"{name} said nothing\n{capsys.readouterr().out}"
        told[name] = capsys.readouterr().err
        assert everything(outside) == before, name
    with pytest.raises(Damaged):
        run_job(case.job, StandIns(), f"run_dir={case.run}", "rounds=4")
    assert everything(outside) == before
    assert len(list((case.run / "ledger").iterdir())) == ledger
    assert told["gc"] == told["gc --dry-run"] and "Traceback" not in str(told)
    which = {"promotion": "promotion of round 1", "counter": "judge/requests", "offer": "offer of rounds/09/pairs"}
    which |= {"commit": "commit of rounds/09/pairs"}
    assert all(which.get(trap.__name__, trap.__name__) in text or "damaged" in text for text in told.values()), told


def test_a_run_of_our_own_leads_nowhere(finished: Case, space: Path) -> None:
    assert list(leading_out(finished.run, Ledger(finished.run / "ledger").state)) == []
    (space / "link").symlink_to(finished.run)  # a run may be reached by a link
    assert waste(space / "link") == []


def test_a_dry_run_counts_no_bytes_behind_a_link(case: Case, space: Path) -> None:
    (space / "outside/large").write_bytes(bytes(1_000_000))
    (case.run / "rounds/02/.none-e1").mkdir()
    link(case.run / "rounds/02/.none-e1/folder", space / "outside")
    link(case.run / "rounds/02/.none-e1/file", space / "outside/large")
    link(case.run / "rounds/02/.other-e1", space / "outside")
    assert {item.path: item.size for item in waste(case.run)} == {"rounds/02/.none-e1": 0, "rounds/02/.other-e1": 0}
    assert ratchet("gc", case.run) == 0
    assert waste(case.run) == [] and (space / "outside/large").exists()


def test_a_run_does_not_go_on_through_a_link_into_a_round_that_no_record_names(case: Case, space: Path) -> None:
    link(case.run / "rounds/04", space / "outside")
    before = everything(space / "outside")
    with pytest.raises(Damaged, match="leads out of the run"):
        run_job(case.job, StandIns(), f"run_dir={case.run}", "rounds=4")
    assert everything(space / "outside") == before


@pytest.mark.parametrize("odd", ["link", "inner link", "pipe"])
def test_saved_states_with_links_or_pipes_are_not_gone_on_with(case: Case, space: Path, odd: str) -> None:
    states = case.run / "rounds/04/.train-state-of-1"
    match odd:
        case "link":
            link(states, space / "outside")
        case "inner link":
            link(states / "exports", space / "outside")
        case "pipe":
            (states / "000001").mkdir(parents=True)
            os.mkfifo(states / "000001/manifest.json")
    before = everything(space / "outside")
    run_job(case.job, StandIns(gain=0.1, steps=2, peak=1), f"run_dir={case.run}", "rounds=4")
    assert everything(space / "outside") == before and not os.path.lexists(states)


def test_what_leads_out_of_a_run_is_neither_renamed_nor_removed(space: Path) -> None:
    run, outside = space / "run", space / "outside"
    for folder in (run / "own", outside):
        folder.mkdir(parents=True)
        (folder / "file").write_text("text")
    link(run / "link", outside)
    link(run / "circle", run / "circle")
    for path in (run / "link/file", outside / "file", run, run / "own/../../outside/file", run / "circle/file"):
        with pytest.raises(Damaged):
            remove(run, path)
        with pytest.raises(Damaged):
            rename(run, path, run / "new")
        with pytest.raises(Damaged):
            rename(run, run / "own/file", path)
    remove(run, run / "link")
    remove(run, run / "nothing/there")
    rename(run, run / "own/file", run / "new")
    assert (outside / "file").exists() and (run / "new").exists() and not (run / "link").is_symlink()


_SWAP: dict[str, Callable[[], None]] = {}
"""What is done once, just before the operation of this audit event, or of "open" and a folder."""


def _swaps(event: str, arguments: tuple[Any, ...]) -> None:
    if _SWAP and (swap := _SWAP.pop(f"{event} {arguments[0]}" if event == "open" else event, None)):
        swap()


DEEDS: dict[str, Callable[[Path], None]] = {
    "os.remove": lambda run: remove(run, run / "own/file"),
    "shutil.rmtree": lambda run: remove(run, run / "own/folder"),
    "os.rename": lambda run: rename(run, run / "own/file", run / "own/new"),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("moment", ["after the look", "before the deed"])
def test_a_folder_that_is_swapped_for_a_link_meanwhile_is_no_way_out(space: Path, deed: str, moment: str) -> None:
    run, outside = space / "run", space / "outside"
    for place in (run / "own", outside):
        (place / "folder").mkdir(parents=True)
        (place / "folder/inner").write_text("text")
        (place / "file").write_text("text")
    before, aside = everything(outside), run / "aside"

    def swap() -> None:
        os.rename(run / "own", aside)
        link(run / "own", outside)

    if not hasattr(sys, "_ratchet_swaps"):
        sys._ratchet_swaps = True  # type: ignore[attr-defined]  # a hook can't be taken back
        sys.addaudithook(_swaps)
    if moment == "after the look":
        _SWAP[f"open {run}"] = swap
        with pytest.raises(OSError):
            DEEDS[deed](run)
        assert sorted(os.listdir(aside)) == ["file", "folder"]
    else:
        _SWAP[deed] = swap
        DEEDS[deed](run)
        left = {"os.remove": ["folder"], "shutil.rmtree": ["file"], "os.rename": ["folder", "new"]}
        assert sorted(os.listdir(aside)) == left[deed]
    assert everything(outside) == before and not _SWAP


def test_a_discard_through_a_link_is_not_even_written_down(case: Case, space: Path) -> None:
    run = Run(case.run)
    run.claim({"host": "here"})
    link(case.run / "rounds/09/link", space / "outside")
    with pytest.raises(Damaged):
        run.discard(HIDDEN)
    assert json.dumps(HIDDEN) not in Ledger(case.run / "ledger").records[-1].data.get("paths", [])


# No call site may forget it.

WAYS = {"rmtree", "move", "rename", "renames", "replace", "unlink", "remove", "rmdir", "removedirs"}
MAY = {
    "orchestrator/files/inside.py": "the two ways by which something of a run goes or gets another name",
    "orchestrator/files/durable.py": "temporary files of its own, beside what it writes",
    "orchestrator/ledger/ledger.py": "its own probe",
    "orchestrator/records/problem_files.py": "problems on their way to another process, beside a hidden output",
    "workers/generation/pool.py": "a method that renames the model it serves, and no file",
    "workers/generation/in_place.py": "calls it",
    "orchestrator/driver/cluster.py": "Ray's folders, outside of any run",
    "orchestrator/commands/doctor/command.py": "its own folder for trials",
    "orchestrator/commands/grade/file.py": "the user's output",
    "orchestrator/commands/export/command.py": "empty folders that it has made above the export",
    "orchestrator/commands/export/push.py": "the temporary folder that it has exported to, outside of any run",
    "orchestrator/commands/compare/command.py": "a comparison's own files",
    "orchestrator/tracking/database.py": "MLflow's database, beside the runs, gets its name",
    "orchestrator/ledger/sharing.py": "a copy of its own that came out too long",
    "workers/generation/dispatch.py": "the attempt of an engine that has won gets the name that was asked for",
    "workers/generation/parts.py": "parts of a shard, beside its hidden output, when that is written",
    "workers/grading/group.py": "the attempt of a grader, the same",
    "workers/generation/scoring.py": "the attempt of an engine that scores, the same",
    "workers/reward/pool.py": "the attempt of a reward worker, the same",
    "workers/training/attempts.py": "the attempt of the ranks, the same",
    "orchestrator/archive/disk.py": "an archive on another disk, whose names are looked at and lead out by no link",
    "orchestrator/archive/receiver.py": "the folder of a fetch of its own, which becomes the run",
    "workers/storage.py": "the doctor's own folder for trials",
    "orchestrator/files/unfinished.py": "what commands make outside of runs, under names of their own",
    "orchestrator/driver/private_folder.py": "Ray's folders, outside of any run",
    "workers/files.py": "a worker's attempt at its output",
    "workers/judge/cache.py": "an answer's temporary file",
    "workers/training/export.py": "weights in the hidden output of this attempt",
    "workers/generation/shard.py": "the samples so far, beside the hidden output",
    "workers/generation/one_path.py": "a private folder with links to what an engine loads, outside of any run",
    "workers/training/publishing.py": "exports in the folder of states, which the driver has looked at",
    "workers/training/states.py": "saved states, the same",
}


@functools.cache
def ways_and_writes() -> tuple[set[str], set[str]]:
    """The product's files in which something goes or is renamed, and those in which a file is opened to be written."""
    root, ways, writes = Path(__file__).parents[2], set(), set()
    for file in [*root.glob("orchestrator/**/*.py"), *root.glob("workers/**/*.py")]:
        nodes, name = list(ast.walk(ast.parse(file.read_text()))), str(file.relative_to(root))
        if any(map(_is_way, nodes)):
            ways.add(name)
        if any(map(_writes, nodes)):
            writes.add(name)
    return ways, writes


def test_files_go_and_are_renamed_in_few_places() -> None:
    found, _ = ways_and_writes()
    assert found <= MAY.keys(), f"use orchestrator.files.inside: {sorted(found - MAY.keys())}"
    assert {"orchestrator/files/inside.py", "orchestrator/files/durable.py", "workers/training/states.py"} <= found


WALKS = {
    "orchestrator/commands/export/command.py": "the folder that it has made",
    "orchestrator/commands/export/push.py": "the temporary folder that it has exported to, outside of any run",
    "orchestrator/files/unfinished.py": "the folder that it builds",
    "orchestrator/ledger/artifacts.py": "what a worker has just written",
}


def test_a_run_is_walked_by_one_function_alone() -> None:
    """Python's own walks end in a traceback where folders are nested deeply, or vanish meanwhile."""
    root = Path(__file__).parents[2]
    files = {str(file.relative_to(root)): file.read_text() for file in root.glob("orchestrator/**/*.py")}
    assert {name for name, text in files.items() if re.search(r"os\.walk\(|\.rglob\(", text)} == WALKS.keys()


WRITES = {
    "orchestrator/files/inside.py": "a copy in a new folder, by descriptors, where nothing has the name",
    "orchestrator/text/terminal.py": "the null device",
    "orchestrator/text/own_terminal.py": "the terminal that was standard output",
    "orchestrator/sources/steps/people.py": "the hidden output of a step",
    "orchestrator/rounds/training.py": "the hidden output of a step",
    "orchestrator/commands/doctor/command.py": "its own folder for trials",
    "workers/doctor.py": "the same",
    "workers/storage.py": "the same",
    "orchestrator/archive/receiver.py": "a part of a file in the folder of a fetch of its own",
    "workers/generation/shard.py": "the samples so far, beside the hidden output",
    "workers/harness/serve.py": "the hidden output of a step",
    "workers/judge/cache.py": "a regular file that no link leads to, and an answer's temporary file",
    "workers/training/export.py": "weights in the hidden output of this attempt",
    "workers/training/adapter.py": "the adapter, the same",
    "workers/training/rank.py": "what a training failed on, where the driver has looked",
    "orchestrator/commands/compare/command.py": "opened by `inside.open_to_write`",
    "orchestrator/reports/journal.py": "the same",
    "orchestrator/tracking/tensorboard.py": "opened by `inside.open_to_write`",
    "orchestrator/tracking/versions.py": "a temporary folder of its own, for MLflow",
}


def test_files_are_opened_to_be_written_in_few_places() -> None:
    """A name may be a link, or a pipe, in a folder from somebody else. Mode "x" takes none that is there."""
    _, found = ways_and_writes()
    assert found <= WRITES.keys(), f"use inside.open_to_write, or mode x: {sorted(found - WRITES.keys())}"


def _writes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    said = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    modes = [mode.value for mode in said if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    if name in ("write_text", "write_bytes"):
        return True
    return name in ("open", "fdopen") and any(set(mode) & set("wa+") and set(mode) <= set("wab+t") for mode in modes)


def _is_way(node: ast.AST) -> bool:
    """Whether this may remove or rename something on the disk: by a function of `os` or `shutil`, or a method of a
    path. Texts and lists have methods of such names, too: `remove`, and `replace` with two arguments."""
    if isinstance(node, ast.ImportFrom):
        return node.module in ("os", "shutil") and any(name.name in WAYS for name in node.names)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in WAYS:
        return False
    name, of = node.func.attr, node.func.value.id if isinstance(node.func.value, ast.Name) else ""
    if of in ("os", "shutil", "run", "inside"):
        return of in ("os", "shutil")
    return name in ("unlink", "rmdir", "rename") or (name == "replace" and len(node.args) == 1 and not node.keywords)
