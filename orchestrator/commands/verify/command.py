"""`ratchet verify`: is a run folder what its ledger says? Reads only, and serves a copy as well as the original.

It may come from somebody else, so nothing that a record says is believed: what cannot be checked is a finding. And it
may be driven meanwhile (see reports/living.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from orchestrator.commands.verify import gate_again, history
from orchestrator.commands.verify.bounds import beyond
from orchestrator.commands.verify.differences import count, differences
from orchestrator.commands.verify.reading import Reading
from orchestrator.commands.verify.recount import LEFT, Recount, left_here, told_of
from orchestrator.commands.verify.strays import added_files, count_strays, is_aside_here, set_aside
from orchestrator.config import Job
from orchestrator.errors import Damaged, cut
from orchestrator.files import durable
from orchestrator.files.inside import read_regular, regular_size
from orchestrator.files.lack import require_enough, require_reachable
from orchestrator.files.rights import reason
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.borders import leading_out
from orchestrator.ledger.columns import require_bounded, require_masks
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.run import Facts
from orchestrator.models.named import model_digest
from orchestrator.reports.lineage import follow
from orchestrator.reports.living import gone, looked_at_again
from orchestrator.rounds.run_files import Gone, RunFiles
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Sources
from orchestrator.text.counts import many
from orchestrator.text.terminal import Screen

_MOST_CURRENT = 4096


@dataclass
class Report:
    """What was checked, and what is wrong: a line each."""

    findings: list[str] = field(default_factory=list)
    artifacts: int = 0
    files: int = 0
    bytes: int = 0
    facts: int = 0
    """Facts of records that were computed once more from the files."""
    followed: list[int] = field(default_factory=list)
    """Promoted rounds whose checkpoint was followed back to its prompts."""
    discarded: int = 0
    """Committed artifacts that were removed on purpose."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be checked here: a base model outside the run that is not on this machine."""
    strays: int = 0
    """Files below `baseline`, `ledger` and `rounds` that no record names. They do no harm."""

    def as_json(self) -> dict[str, Any]:
        return {"sound": not self.findings} | vars(self)

    def summary(self) -> str:
        """What was checked, in one line for people."""
        followed = f"{len(self.followed)} promoted checkpoints followed to their prompts"
        return (
            f"{many(self.artifacts, 'artifact')}, {many(self.files, 'file')}, {many(self.bytes, 'byte')}; "
            f"{many(self.facts, 'fact')} computed again; {followed}; {self.discarded} discarded; "
            f"{many(self.strays, 'stray')}; {many(len(self.findings), 'finding')}"
        )


def verify(run_dir: Path, show: bool = False, sources: Sources = SOURCES) -> Report:
    """Check every ledger record and every committed file, the facts that records tell of files, the gate's decisions,
    and the way from each promoted checkpoint to its prompts. `show` draws a progress bar on stderr.
    `sources` are those of pairs, by name.

    Raises:
        BadInput: there is no run in this folder, or a newer Ratchet wrote it; or its path is too long to look.
        Lack: this process has too little memory, or too few open files, to say anything.
    """
    return Verification(run_dir, show, sources).report()


class Verification:
    """One `ratchet verify`. A subclass may watch what is looked at."""

    def __init__(self, run_dir: Path, show: bool = False, sources: Sources = SOURCES) -> None:
        self.root, self._show, self._sources = run_dir, show, sources
        self.reading = Reading(run_dir / "ledger")
        self.at, self._report, self._bad = Artifacts(run_dir), Report(), set[str]()
        self._files: tuple[int, RunFiles] | None = None
        self._recount: Recount | None = None
        self._facts: dict[tuple[str, int | None], int] = {}
        self._paths: tuple[int, set[str]] | None = None

    @property
    def state(self) -> State:
        return self.reading.state

    def report(self) -> Report:
        report = self._report
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._tell(lambda: leading_out(self.root, self.state))
        require_reachable(self.root, (f"{one.path}/{name}" for one in self.state.artifacts() for name in one.files))
        with Progress(*columns, console=Screen(err=True), transient=True, disable=not self._show) as progress:
            self._check_files(progress)
            self._check_offers()
            self._check_facts(progress)
        self._tell(self._check_promotions, "promotions: ")
        self._tell(self._check_current, "CURRENT: ")
        self._tell(self._check_base_model)
        self._follow()
        try:
            report.strays = count_strays(self.at, self.state)
        except FileNotFoundError as error:
            raise gone(self.root) or error from error
        report.findings[:0] = self.reading.findings
        report.facts = sum(self._facts.values())
        report.discarded = len(self.state.discarded)
        return report

    # Looking, beside a driver

    def look(self, what: Callable[[], Iterable[str]]) -> list[str]:
        """What is wrong by one check. Whatever a stranger's run makes of it is a finding."""
        try:
            return list(what())
        except Gone:
            return []
        except Exception as error:  # the other checks are still to be made
            require_enough(error)
            return [f"cannot be checked ({_said(error)})"]

    def _settled(self, what: Callable[[], Iterable[str]]) -> list[str]:
        return looked_at_again(lambda: self.look(what), self.reading.refresh)

    def _tell(self, what: Callable[[], Iterable[str]], where: str = "") -> list[str]:
        lines = self._settled(what)
        self._report.findings += [f"{where}{line}" for line in lines]
        return lines

    # Files

    def _check_files(self, progress: Progress) -> None:
        """Hash every committed file."""
        artifacts = [*self.state.artifacts(), *self._set_aside()]
        files = [(artifact, name) for artifact in artifacts for name in artifact.files]
        total = sum(_size(artifact, name) for artifact, name in files)
        bar = progress.add_task("hashing", total=total)
        for artifact, name in files:
            self._report.files += 1
            whole = f"{artifact.path}/{name}".rstrip("/")
            if self._tell(partial(self._problem, artifact, name), f"{whole}: "):
                self._bad.add(whole)
            else:
                self._report.bytes += _size(artifact, name)
            progress.advance(bar, _size(artifact, name))
        self._report.artifacts = len(artifacts)
        for artifact in artifacts:
            if self._tell(partial(self._added, artifact), f"{artifact.path}: "):
                self._bad.add(artifact.path)

    def _added(self, artifact: Artifact) -> Iterator[str]:
        if self._is_current(artifact):
            yield from added_files(self.at.place(artifact), artifact)

    def _problem(self, artifact: Artifact, name: str) -> Iterator[str]:
        if self._is_current(artifact):
            place = self.at.place(artifact)
            file = place / name if name else place
            yield from (found := list(_problem(file, artifact.files[name], self.root)))
            if not found and file.suffix == ".parquet":
                require_bounded(file, self.root)
                yield from _misfit(file)

    def _is_current(self, artifact: Artifact) -> bool:
        """Whether it is committed and not discarded, by the newest state; or set aside, and `gc` has not come by."""
        if self._paths is None or self._paths[0] != self.reading.next:
            self._paths = (self.reading.next, {artifact.path for artifact in self.state.artifacts()})
        return artifact.path in self._paths[1] or is_aside_here(self.root, self.state, artifact)

    def _set_aside(self) -> Iterator[Artifact]:
        """What rollbacks have set aside, as far as `ratchet gc` has not removed it."""
        return set_aside(self.root, self.state)

    def _check_offers(self) -> None:
        """Files of offers that are still to be taken."""
        for key, offer in list(self.state.offers.items()):
            for artifact in offer.artifacts:
                for name in artifact.files:
                    where = f"offer of {offer.step}: {artifact.hidden}/{name}".rstrip("/")
                    self._tell(partial(self._problem_of_offer, key, artifact, name), f"{where}: ")

    def _problem_of_offer(self, key: tuple[str, int | None], artifact: Artifact, name: str) -> Iterator[str]:
        step, index = key
        hidden, over = self.root / artifact.hidden, self.state.finished
        taken = step in self.state.commits or index in self.state.shards.get(step, {})
        if not over and not taken and hidden.exists():
            yield from _problem(hidden / name if name else hidden, artifact.files[name], self.root)

    # Facts

    def files(self) -> RunFiles:
        """The run's files by what its ledger says up to now; made anew once more records were read."""
        if self._files is None or self._files[0] != self.reading.next:
            self._files = (self.reading.next, RunFiles(self.root, self.state, self._bad))
        return self._files[1]

    def recount(self) -> Recount:
        files = self.files()
        if self._recount is None or self._recount.files is not files:
            self._recount = Recount(files, Job.model_validate(self.state.configs[-1]["job"]), self._sources)
        return self._recount

    def _unknown_job(self) -> Iterator[str]:
        self.recount()
        yield from ()

    def _check_facts(self, progress: Progress) -> None:
        if not self.state.configs:
            return
        if self._tell(self._unknown_job, "the job of the last config record: "):
            return
        shards = [(step, index) for step, shards in self.state.shards.items() for index in shards]
        everything: list[tuple[str, int | None]] = [*shards, *((step, None) for step in self.state.commits)]
        bar = progress.add_task("computing facts", total=len(everything))
        for step, index in everything:
            where = self.reading.record_of.get(("commit" if index is None else "shard", step, index), "ledger")
            shard = "" if index is None else f", shard {index}"
            self._tell(partial(self._wrong_facts, step, index), f"{where}: {step}{shard}: ")
            progress.advance(bar)

    def _wrong_facts(self, step: str, index: int | None) -> Iterator[str]:
        if index is not None:
            if (shard := self.state.shards.get(step, {}).get(index)) is None:
                return
            recorded, computed = shard.facts, self.recount().shard(step, index)
            recipe = int(recorded.get("recipe", 1))
        else:
            if (commit := self.state.commits.get(step)) is None:
                return  # a rollback has set it aside
            computed = self.recount().commit(step)
            recorded, recipe = commit.facts, commit.recipe
        if (recounted := computed) is None:
            yield "is no step of a run" if index is None else "is no kind of shard that a run has"
            return
        self._facts[step, index] = count(recorded, recounted)
        # Earlier versions told less: a record by their recipe is compared in what it tells.
        whole = recipe > 2
        recounted = told_of(recipe, recorded, recounted)
        if not recounted.get("disputed") and "disputed" not in recorded:  # told where graders are audited
            recounted = {key: value for key, value in recounted.items() if key != "disputed"}
        yield from map(str, differences(recorded, recounted, whole=whole))
        if whole:
            yield from history.untold(step, index, recorded, recounted, LEFT | left_here(step, recorded, recounted))
            if index is None:
                yield from beyond(step, recorded, self.files(), self.recount().job)

    # Promotions

    def _check_promotions(self) -> Iterator[str]:
        committed = {artifact.path for commit in self.state.commits.values() for artifact in commit.artifacts}
        known = history.model_names(self.state)
        for promotion in self.state.promotions:
            # A base model outside the run has an absolute path: it is not the run's to keep.
            path, number = str(promotion["reference"]), promotion["round"]
            where = f"round {number} ({self._record_of_promotion(number)})"
            if path not in committed and path not in known:
                yield f"{where}: its reference {path} is not committed"
            elif promotion is self.state.promotions[-1] and path in self.state.discarded:
                yield f"{where}: its reference {path}, the current one, was discarded"
        for number, found in gate_again.decisions(self.files()):
            where = f"round {number} ({self._record_of_promotion(number)})"
            yield from (f"{where}: {difference}" for difference in found)

    def _record_of_promotion(self, number: Any) -> str:
        return self.reading.record_of.get(("promotion", str(number), None), "ledger")

    def _check_current(self) -> Iterator[str]:
        file = self.root / "CURRENT"
        with suppress(FileNotFoundError):  # the next start writes it
            text = read_regular(file, _MOST_CURRENT, self.root).decode(errors="replace").strip()
            if problem := history.current(text, self.state, self.reading.after_promotion):
                yield problem

    def _check_base_model(self) -> Iterator[str]:
        """The base model in a folder of its own. One that the run has kept is among its files."""
        config = self.state.configs[-1] if self.state.configs else {}
        digest, folder = config.get("model_digest"), Path(str(config.get("model")))
        if digest is None or not folder.is_absolute():
            return
        self._report.unchecked.clear()
        try:
            if not (folder / "config.json").is_file():
                self._report.unchecked.append(f"{folder}: the base model is not here, and could not be checked")
            elif model_digest(str(folder)) != digest:
                yield f"{folder}: the base model here is not the one that this run was made from"
        except (OSError, Damaged) as error:
            require_enough(error)
            self._report.unchecked.append(f"{folder}: the base model could not be checked ({_said(error)})")

    def _follow(self) -> None:
        for number in [promotion["round"] for promotion in self.state.promotions if promotion.get("promoted")]:
            folder = f"rounds/{number:02d}"
            replays = f"{folder}/replay" in self.state.commits
            if any(name.startswith(f"{folder}/") or (replays and "/pairs/" in name) for name in self._bad):
                continue  # told already, and such files may not even be readable
            found = self._settled(partial(self._astray, number))
            self._report.findings += [f"{folder}: {line}" if line.startswith("cannot be") else line for line in found]
            if self._is_promoted(number):
                self._report.followed.append(number)

    def _astray(self, number: int) -> list[str]:
        return follow(self.root, self.state, number, self._sources) if self._is_promoted(number) else []

    def _is_promoted(self, number: int) -> bool:
        """By the newest state: a rollback may have set the round aside meanwhile."""
        return any(promotion["round"] == number for promotion in self.state.promotions)


def _size(artifact: Artifact, name: str) -> int:
    recorded = artifact.files[name]
    size = recorded.get("size") if isinstance(recorded, dict) else 0
    return size if isinstance(size, int) else 0


def _misfit(file: Path) -> Iterator[str]:
    """What is wrong with the masks of a table; what is no table, or a damaged one, is told by those who read it."""
    try:
        require_masks(file)
    except Damaged as error:
        yield str(error).removeprefix(f"{file}: ")
    except (pa.ArrowException, ValueError) as error:
        require_enough(error)


def _problem(file: Path, recorded: Facts, root: Path) -> Iterator[str]:
    """What is wrong with a committed file. Only one of the committed size is opened."""
    try:
        size = regular_size(file, root)
        if size != recorded["size"]:
            yield f"{size:,} bytes, and {recorded['size']:,} were committed"
        elif durable.sha256(file) != recorded["sha256"]:
            yield "other bytes than were committed (sha256 differs)"
    except Damaged as error:
        yield str(error).removeprefix(f"{file}: ")
    except (FileNotFoundError, NotADirectoryError):
        yield "missing"
    except OSError as error:
        require_enough(error)
        yield f"cannot be read ({reason(error)})"


def _said(error: Exception) -> str:
    """Why something could not be looked at. A file that is closed to us, or ill, is named; what a stranger's files make
    of the code is told by its kind, too."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {reason(error)}"
    return str(error) if isinstance(error, Damaged) else cut(repr(error))
