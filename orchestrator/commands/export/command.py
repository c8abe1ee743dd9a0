"""A checkpoint or the pairs of a run, copied out of it into a folder of their own, every file checked against the
ledger. The copy shares nothing with the run: it can be changed, moved and published."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.commands.export.card import dataset_card, model_card
from orchestrator.config.places import run_named
from orchestrator.errors import BadInput, Damaged
from orchestrator.files import durable, unfinished
from orchestrator.files.disk import one_message
from orchestrator.files.named import real, whole
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.ledger import Artifact, Ledger
from orchestrator.ledger.sharing import Giver, check_sizes
from orchestrator.models.files import enclosing_run
from orchestrator.models.other_run import Checkpoint, RunModel, committed_checkpoint, find, place_of, run_model
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.living import settled
from orchestrator.reports.tables import round_step
from orchestrator.text.counts import many
from orchestrator.text.shown import as_json

_NOWHERE = Path("/nowhere")
"""The run that asks for a checkpoint: none."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was taken away."""

    folder: Path
    what: str
    """Such as "round 2 of irpo"."""
    files: int
    bytes: int
    rows: int | None = None
    """Pairs, of a data set."""

    def line(self) -> str:
        """For people."""
        rows = "" if self.rows is None else f"{many(self.rows, 'pair')}, "
        return f"exported  {self.what} to {self.folder}: {rows}{many(self.files, 'file')}, {many(self.bytes, 'byte')}"


def export_model(run: str, folder: Path) -> Exported:
    """Copy a checkpoint of a run, NAME@roundN or the current reference of NAME, to a new folder, with a model card
    (README.md) and what it was made by (ratchet.json).

    Raises:
        BadInput: no such run, round or checkpoint, or the folder is taken.
        Damaged: a record or a file is not what was committed.
    """
    found = find(_named(run), "", [], _NOWHERE)
    folder = _free(folder)
    return settled(found.root, lambda ledger: _export_model(run, found, ledger, folder))


def _export_model(run: str, found: Checkpoint, ledger: Ledger, folder: Path) -> Exported:
    root, number = found.root, int(found.origin["round"])
    # It was found by an earlier reading, and a rollback may have come since.
    artifact = committed_checkpoint(ledger.state, number, f"{run}: {root}")
    card = model_card(RunReader(root, ledger), number)
    with _making(folder) as building:
        giver = Giver(root, sum(said["size"] for said in artifact.files.values()), links=False)
        _give(giver, root, artifact, building, {name: name for name in artifact.files})
        durable.replace(building / "ratchet.json", as_json(card.made_by).encode() + b"\n")
        durable.replace(building / "README.md", card.text.encode())
    return Exported(folder, f"round {number} of {found.origin['run']}", len(artifact.files) + 2, _size(folder))


def export_pairs(run: str, folder: Path) -> Exported:
    """Copy the pairs of a run's rounds, or of round N of NAME@roundN, to a new folder with a card (README.md) by which
    `datasets.load_dataset` reads them: one split, a file a round.

    Raises:
        BadInput: no such run or round, no pairs yet, or the folder is taken.
        Damaged: a record or a file is not what was committed.
    """
    named = _named(run)
    root = place_of(named.run, [], _NOWHERE)
    return settled(root, lambda ledger: _export_pairs(root, ledger, named.round, folder))


def _export_pairs(root: Path, ledger: Ledger, number: int | None, folder: Path) -> Exported:
    reader = RunReader(root, ledger)
    require_borders(root, reader.state)
    numbers = reader.rounds("pairs") if number is None else [reader.require(number, "pairs")]
    if not numbers:
        raise BadInput(f"{root}: no round has pairs yet")
    folder = _free(folder)
    commits = {each: reader.state.commits[round_step(each, "pairs")] for each in numbers}
    artifacts = {each: commit.artifacts[0] for each, commit in commits.items()}
    total = sum(check_sizes(artifact, root / artifact.path, root) for artifact in artifacts.values())
    with _making(folder) as building:
        giver = Giver(root, total, links=False)
        for each, artifact in artifacts.items():
            _give(giver, root, artifact, building, _names(each, artifact))
        durable.replace(building / "README.md", dataset_card(reader, list(artifacts)).encode())
    rows = sum(int(commit.facts["pairs"]) for commit in commits.values())
    what = f"pairs of {_rounds(list(artifacts))} of {root.name}"
    return Exported(folder, what, sum(len(a.files) for a in artifacts.values()) + 1, _size(folder), rows)


def _named(run: str) -> RunModel:
    """A run as a command names it, with @roundN behind it or not."""
    name = run.removeprefix("run:")
    folder, at, number = name.rpartition("@")
    place = real(run_named(Path(folder if at else name)))  # where every command looks for it
    found = run_model(f"run:{place}{at}{number}" if at else f"run:{place}", "RUN")
    assert found is not None
    return found


def _free(folder: Path) -> Path:
    """The folder, if it can be made.

    Raises:
        BadInput: it cannot.
    """
    folder = whole(folder).absolute()
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        raise BadInput(_taken(folder))
    if (run := enclosing_run(folder)) is not None:
        raise BadInput(f"{folder}: lies in the run {run}, among files that it counts. Choose a folder outside of it.")
    above = next(place for place in folder.parents if place.exists())
    if not above.is_dir():
        raise BadInput(f"{folder}: {above} is no folder")
    return folder


def _taken(folder: Path) -> str:
    return f"{folder}: exists already, and is left alone. Choose another folder."


@contextlib.contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """Make the folder, and those above it that are not there; all of them, or none."""
    told = "Nothing was exported: see to the disk, and the same command does it."
    above = [place for place in folder.parents if not place.exists()]
    try:
        with one_message(folder, told, next(place for place in folder.parents if place.exists())):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.whole_folder(folder, f"{folder.name}.export", told, lambda: _taken(folder)) as building:
            yield building
    except BaseException:
        for place in above:
            with contextlib.suppress(OSError):  # somebody else's file may be in it by now
                place.rmdir()
        raise


def _names(number: int, artifact: Artifact) -> Mapping[str, str]:
    """How a round's files are called in a data set."""
    several = len(artifact.files) > 1
    return {
        name: f"data/round-{number:02d}{f'-{place:05d}' if several else ''}.parquet"
        for place, name in enumerate(sorted(artifact.files))
    }


def _give(giver: Giver, root: Path, artifact: Artifact, building: Path, names: Mapping[str, str]) -> None:
    for name, new in names.items():
        said = artifact.files[name]
        file = root / artifact.path / name if name else root / artifact.path
        durable.make_folder((building / new).parent, building.parent)
        giver.give(file, building / new, said["size"])
        if durable.sha256(building / new) != said["sha256"]:
            raise Damaged(f"{file}: is not what was committed. `ratchet verify {root}` names all that is wrong.")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _rounds(numbers: list[int]) -> str:
    return f"round {numbers[0]}" if len(numbers) == 1 else f"rounds {', '.join(map(str, numbers))}"
