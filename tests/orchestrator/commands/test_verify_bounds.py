"""`ratchet verify` holds what a run tells against its job, also where no file says it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.verify.bounds import beyond
from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from orchestrator.rounds.run_files import RunFiles
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.support.sample_run import SampleRun, prompts
from tests.support.stand_ins import StandIns, make_project, run_job

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bounds")
    run_job(make_project(folder), StandIns())
    return folder / "run"


def of_facts(step: str, **said: Any) -> Change:
    return lambda data: data["facts"].update(said) if data.get("step") == step else None


def of_probe(**said: Any) -> Change:
    return lambda data: data["facts"]["probe"].update(said) if data.get("step") == "rounds/02/evaluation" else None


def of_job(section: str, **said: Any) -> Change:
    return lambda data: data["job"][section].update(said) if "job" in data else None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_facts("rounds/01/prompts", dropped=7), "prompts and dropped are 15 together, and the job has at most 8"),
        (of_job("data", prompts_per_round=3), "prompts and dropped are 8 together, and the job has at most 3"),
        (of_job("data", prompts="new", prompts_per_round=9), "and the job has 9 problems for it"),
        (of_job("generate", samples=[4, 3]), "rounds/02/samples: samples is 32, and the job asks for 3 to each of 8"),
        (of_probe(mean_difference=0.06), r"probe.mean_difference is 0.06, and nothing is committed .* above 0.05"),
        (of_probe(tokens=3), "probe.tokens is 3, and its completions have 2"),
        (of_probe(tokens=0), "probe.tokens is 0, and its completions have 2"),
    ],
)
def test_what_the_job_does_not_allow_is_found(finished: Path, tmp_path: Path, change: Change, said: str) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert verify(run).findings == []
    for path, document in records(run).items():
        change(document["data"])
        seal(path, document)
    assert any(re.search(said, finding) for finding in verify(run).findings)


def test_of_problems_that_a_run_keeps_each_is_asked_or_left_out(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.commit("baseline/data", {}, {f"{split}.parquet": prompts(split) for split in ("train", "gate", "test")})
    state = Ledger(run.root / "ledger").state
    for step, facts, few in (
        ("baseline/prompts", {"prompts": 11, "gate": 6, "test": 5}, 12),
        ("rounds/01/prompts", {"prompts": 5, "train": 5}, 6),
    ):
        right, wrong = (facts | {"dropped": dropped} for dropped in (1, 0))
        files = RunFiles(run.root, state, ())
        assert list(beyond(step, right, files, run.job)) == []
        told = f"prompts and dropped are {few - 1} together, and the job has {few} problems for it"
        assert list(beyond(step, wrong, files, run.job)) == [told]
