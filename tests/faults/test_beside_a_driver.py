"""Readers beside a running driver: what changes under their eyes is no damage, and nothing ends in a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.commands.export.command import export_model, export_pairs
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import waste
from orchestrator.commands.rollback import roll_back
from orchestrator.commands.verify.command import Verification, verify
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import Artifact, Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.other_run import RunModel, find
from orchestrator.reports.lineage import pair_files_trained_on
from orchestrator.reports.living import settled
from orchestrator.reports.report import report_text
from orchestrator.reports.status import status
from orchestrator.sources.registry import SOURCES
from tests.faults.children import Case, is_alive, running, scratch, small_project, wait_for
from tests.support.stand_ins import StandIns, run_job

CHECKPOINT = "rounds/01/checkpoint"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run_job(small_project(folder), StandIns(gain=0.3, steps=2, peak=1))
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def discard(run: Path) -> None:
    """What a driver does that comes by, told to keep one checkpoint."""
    driven = Run(run)
    driven.claim(identity())
    config = driven.ledger.state.configs[-1]
    driven.append("config", config | {"job": config["job"] | {"keep": config["job"]["keep"] | {"checkpoints": 1}}})
    driven.discard(CHECKPOINT)


class Meanwhile(Verification):
    """Something happens between the reading of the ledger and the first look at a file."""

    def __init__(self, run: Path, act: Callable[[Path], None]) -> None:
        super().__init__(run)
        self._act: Callable[[Path], None] | None = act

    def look(self, what: Any) -> list[str]:
        act, self._act = self._act, None
        if act:
            act(self.root)
        return super().look(what)


def test_what_is_discarded_meanwhile_is_not_missing(run: Path) -> None:
    report = Meanwhile(run, discard).report()
    assert not (run / CHECKPOINT).exists() and report.findings == []


def test_what_is_missing_without_a_record_is(run: Path) -> None:
    report = Meanwhile(run, lambda root: shutil.rmtree(root / CHECKPOINT)).report()
    assert report.findings and all(line.startswith(CHECKPOINT) for line in report.findings)


class Later(Meanwhile):
    """It happens at a later look."""

    def __init__(self, run: Path, act: Callable[[Path], None], at: int) -> None:
        super().__init__(run, act)
        self.looks, self._at = 0, at

    def look(self, what: Any) -> list[str]:
        self.looks += 1
        return super().look(what) if self.looks > self._at else Verification.look(self, what)


@pytest.mark.parametrize("to", [0, 1])
def test_what_a_rollback_sets_aside_meanwhile_is_not_damaged(run: Path, tmp_path: Path, to: int) -> None:
    """Whichever look it comes before, of a sample, and of the last ones."""
    undisturbed = Later(run, lambda _: None, 0)
    undisturbed.report()
    for number, at in enumerate((*range(0, undisturbed.looks, 40), undisturbed.looks - 2, undisturbed.looks - 1)):
        copy = Path(shutil.copytree(run, tmp_path / f"{number}"))
        report = Later(copy, lambda root: roll_back(root, to, identity()) and None, at).report()
        assert report.findings == [], f"before look {at}"
        assert Ledger(copy / "ledger").state.rolled_back


def test_a_run_that_is_moved_meanwhile_is_not_called_damaged(run: Path) -> None:
    with pytest.raises(BadInput, match="was moved or removed while it was looked at"):
        Meanwhile(run, lambda root: root.rename(root.with_name("elsewhere")) and None).report()


class FolderMeanwhile(type(Path())):  # type: ignore[misc]
    """A folder that something happens beside, once: where it is first looked at, or where it is made."""

    absolutely: Callable[[], None] | None = None
    below: Callable[[], None] | None = None

    def absolute(self) -> FolderMeanwhile:
        act, self.absolutely = self.absolutely, None
        if act:
            act()
        return self

    @property
    def parent(self) -> Path:
        act, self.below = self.below, None
        if act and not self.absolutely:
            act()
        return Path(self).parent


@pytest.mark.parametrize("moment", ["absolutely", "below"])
@pytest.mark.parametrize("what", [export_model, export_pairs])
def test_an_export_of_what_a_rollback_sets_aside_meanwhile_says_so(
    run: Path, tmp_path: Path, what: Callable[[str, Path], object], moment: str
) -> None:
    folder = FolderMeanwhile(tmp_path / "taken")
    setattr(folder, moment, lambda: roll_back(run, 1, identity()))
    with pytest.raises(BadInput, match=r"round 2 has no .*a rollback has set"):
        what(f"{run}@round2", folder)
    assert Ledger(run / "ledger").state.rolled_back and not (tmp_path / "taken").exists()


class Asked:
    """Another run's checkpoint as a job names it; something happens as its round is asked for, which is after that
    run's ledger was read."""

    def __init__(self, run: Path, act: Callable[[], object]) -> None:
        self.run, self._act = str(run), act

    @property
    def round(self) -> int:
        self._act()
        self._act = bool
        return 2


def test_a_model_of_another_run_that_a_rollback_sets_aside_meanwhile_is_not_damaged(run: Path, tmp_path: Path) -> None:
    asked = cast(RunModel, Asked(run, lambda: roll_back(run, 1, identity())))
    with pytest.raises(BadInput, match="round 2 has no checkpoint: a rollback has set it aside"):
        find(asked, "model", [], tmp_path)


class Revealing(Artifacts):
    """A driver gives a file its final name when somebody knows where it was and has not looked there yet."""

    def place(self, artifact: Artifact) -> Path:
        found, hidden = super().place(artifact), self.root / artifact.hidden
        if hidden.exists():
            hidden.rename(self.root / artifact.path)
        return found


def test_what_gets_its_final_name_meanwhile_is_not_missing(run: Path) -> None:
    [artifact] = Ledger(run / "ledger").state.commits["rounds/02/evaluation"].artifacts
    (run / artifact.path).rename(run / artifact.hidden)
    verification = Verification(run)
    verification.at = Revealing(run)
    assert verification.report().findings == [] and (run / artifact.path).exists()


class MeanwhileOverrides(list[str]):
    """Overrides of a fork that somebody drives the parent beside: they are read when its ledger was."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(["rounds=3"])
        self._acts = [act]

    def __iter__(self) -> Iterator[str]:
        while self._acts:
            self._acts.pop()()
        return super().__iter__()


def test_a_fork_of_what_is_discarded_meanwhile_begins_anew(run: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(run, child, MeanwhileOverrides(lambda: discard(run)))
    offers = Ledger(child / "ledger").state.offers
    assert offers["rounds/01/retrain", None].discarded == (CHECKPOINT,)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".child")] == []


def test_a_fork_of_what_is_missing_says_so(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / CHECKPOINT)
    with pytest.raises(Damaged, match="committed, but missing"):
        fork(run, tmp_path / "child", ["rounds=3"])


def test_damage_by_a_ledger_that_stands_still_is_told_after_two_looks(run: Path) -> None:
    seen = []

    def damaged(ledger: Ledger) -> None:
        seen.append(len(ledger.records))
        if len(seen) == 1:
            discard(run)
        raise Damaged("so it is")

    with pytest.raises(Damaged):
        settled(run, damaged)
    assert len(seen) == 3 and seen[0] < seen[1] == seen[2]


def test_readers_beside_a_driver_tell_of_no_damage(tmp_path: Path) -> None:
    """A run of several rounds that keeps one checkpoint, so that others vanish all the time."""
    looked = 0
    with scratch(tmp_path) as folder:
        data = {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts_per_round": 6}
        job = small_project(folder, rounds=6, keep={"checkpoints": 1}, data=data | {"prompts": "same"})
        case = Case(job, folder / "case")
        with running(case) as driver:
            wait_for(case.run / "ledger/00000002.json", driver)
            while is_alive(driver):
                assert verify(case.run).findings == []
                assert status(case.run)["state"] in ("running", "finished")
                assert report_text(case.run, SOURCES)
                with suppress(BadInput):  # it is being driven
                    waste(case.run)
                if (done := status(case.run)["rounds"]) and done[-1]["promoted"]:
                    pair_files_trained_on(case.run, done[-1]["round"])
                fork(case.run, folder / f"child-{looked}", ["rounds=7"])
                assert verify(folder / f"child-{looked}").findings == []
                looked += 1
        assert driver.exitcode == 0, case.output
        discarded = Ledger(case.run / "ledger").state.discarded
        assert {f"rounds/{number:02d}/checkpoint" for number in range(1, 6)} & discarded
        assert json.loads(json.dumps(verify(case.run).as_json()))["sound"] and looked
