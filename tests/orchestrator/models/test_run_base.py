"""A base model that another run has trained: `model: run:NAME@roundN`."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.drive import identity
from orchestrator.driver.kept import base_model_of
from orchestrator.errors import BadInput, Damaged
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.models.named import locate_model, model_digest, on_hub
from orchestrator.reports.lineage import pair_files_trained_on
from orchestrator.reports.status import render, status
from orchestrator.rounds.round import GateStopped
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of two rounds, where runs live."""
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    root = tmp_path / "home" / "runs" / "first"
    run_job(make_project(tmp_path / "one", name="first", run_dir=str(root)), StandIns(gain=0.1))
    return root


def second(tmp_path: Path, model: str, **changes: Any) -> Path:
    """A job file that starts from such a model; its run goes to tmp_path/two/run."""
    job = make_project(tmp_path / "two", model=model, **changes)
    shutil.rmtree(tmp_path / "two" / "seed")
    return job


def refused(job: Path) -> str:
    with pytest.raises(BadInput) as error:
        locate_model(load_job(job))
    assert str(error.value).startswith(f"{job}: model: ")
    return str(error.value)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_goes_on_from_a_round_of_another_and_outlives_it(tmp_path: Path, first: Path) -> None:
    checkpoint, own = files_of(first / "rounds/01/checkpoint"), Ledger(first / "ledger").state.configs[0]
    wanted = [pq.read_table(first / "rounds/01/pairs/00000.parquet")]
    job, root = second(tmp_path, "run:first@round1"), tmp_path / "two" / "run"
    said = run_job(job, StandIns(), "rounds=1")
    assert said[0] == f"model     round 1 of the run first ({first / 'rounds/01/checkpoint'})"
    kept = root / "baseline/model"
    assert files_of(kept) == checkpoint
    assert all(file.stat().st_nlink == 2 for file in kept.iterdir())
    state = Ledger(root / "ledger").state
    facts = state.commits["baseline/model"].facts
    assert (facts["run"], facts["run_id"], facts["round"]) == ("first", own["run_id"], 1)
    assert facts["digest"] == model_digest(str(first / "rounds/01/checkpoint"))
    assert state.configs[0]["model"] == "baseline/model"
    shutil.rmtree(first)
    run_job(job, StandIns())  # a resume asks for no other run
    assert (root / "CURRENT").read_text() == "rounds/02/checkpoint\n"
    assert [pq.read_table(file) for file in pair_files_trained_on(root, 0)] == wanted
    assert verify(root).findings == []
    shown = status(root)
    assert shown["seed"] == {key: value for key, value in facts.items() if key != "seconds"}
    console = Console(width=100, file=io.StringIO())
    console.print(render(shown))
    assert "\nbase model: round 1 of the run first\n" in console.file.getvalue()


def test_without_a_round_it_is_the_current_reference(tmp_path: Path, first: Path) -> None:
    assert locate_model(load_job(second(tmp_path, "run:first"))).folder == first / "rounds/02/checkpoint"
    job = tmp_path / "one/tiny.yaml"
    with pytest.raises(GateStopped):
        run_job(job, StandIns(gain=-1.0), "rounds=3")
    assert (first / "rounds/03/checkpoint").is_dir()
    assert locate_model(load_job(second(tmp_path, "run:first"))).folder == first / "rounds/02/checkpoint"
    # A refused checkpoint is one all the same.
    assert locate_model(load_job(second(tmp_path, "run:first@round3"))).folder == first / "rounds/03/checkpoint"


@pytest.mark.parametrize("where", ["run:{home}/runs/first", "run:../home/runs/first@round2", "run:runs/first@round2"])
def test_a_run_may_be_named_by_its_folder(tmp_path: Path, first: Path, where: str) -> None:
    job = second(tmp_path, where.format(home=tmp_path / "home"))
    assert locate_model(load_job(job)).folder == first / "rounds/02/checkpoint"


def test_a_run_beside_the_jobs_own_is_found_by_name(tmp_path: Path, first: Path) -> None:
    first.rename(tmp_path / "two-first")
    job = second(tmp_path, "run:two-first", run_dir=str(tmp_path / "mine"))
    assert locate_model(load_job(job)).folder == tmp_path / "two-first/rounds/02/checkpoint"


def test_validate_shows_it(tmp_path: Path, first: Path) -> None:
    shown = CliRunner().invoke(app, ["validate", str(second(tmp_path, "run:first@round2"))]).output
    assert f"model     round 2 of the run first ({first / 'rounds/02/checkpoint'})" in shown.replace("\n", " ")


def test_run_is_no_folder_and_no_hub_id(tmp_path: Path, first: Path) -> None:
    job = second(tmp_path, "run:first")
    shutil.copytree(first / "rounds/01/checkpoint", job.parent / "run:first")
    file = load_job(job)
    assert on_hub(file) is None and locate_model(file).folder == first / "rounds/02/checkpoint"
    assert on_hub(load_job(second(tmp_path, "run:org/name@main"))) is None


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("run:frist@round1", "no such run. Runs in {home}/runs: first. Did you mean first?"),
        ("run:/nowhere/first", "/nowhere/first: no such run. /nowhere holds no runs."),
        ("run:first@round7", "round 7 has no checkpoint. Rounds that have one: 1, 2."),
        ("run:first@7", "'run:first@7' names no run: write run:NAME, or run:NAME@round2 for round 2's checkpoint"),
        (f"run:first@round{'9' * 5000}", "names no run: write run:NAME"),
        ("run:", "'run:' names no run"),
        ("run:@round1", "'run:@round1' names no run"),
    ],
)
def test_what_is_not_there(tmp_path: Path, first: Path, model: str, said: str) -> None:
    assert said.format(home=tmp_path / "home") in refused(second(tmp_path, model))


def test_a_job_cannot_start_from_its_own_run(tmp_path: Path, first: Path) -> None:
    assert "is this job's own run" in refused(second(tmp_path, "run:first", name="first", run_dir=None))


def test_a_run_that_has_promoted_nothing(tmp_path: Path, first: Path) -> None:
    with pytest.raises(GateStopped):
        run_job(make_project(tmp_path / "three", run_dir=str(first.parent / "third")), StandIns(gain=-1.0))
    said = refused(second(tmp_path, "run:third"))
    assert "promoted no checkpoint: its reference is still its base model. Name a round (1), or that model." in said
    assert locate_model(load_job(second(tmp_path, "run:third@round1"))).folder.name == "checkpoint"


def test_a_checkpoint_that_was_cleaned_away(tmp_path: Path, first: Path) -> None:
    run_job(tmp_path / "one/tiny.yaml", StandIns(), "rounds=3", "keep.checkpoints=1")
    clean(first, identity())
    said = refused(second(tmp_path, "run:first@round1"))
    assert "the checkpoint of round 1 was removed (`keep.checkpoints` of that run, `ratchet gc`)" in said
    here = [f"{n}" for n in (1, 2, 3) if (first / f"rounds/{n:02d}/checkpoint").exists()]
    assert said.endswith(f"Rounds whose checkpoint is there: {', '.join(here)}.")


@pytest.mark.parametrize("name", ["checkpoint/model.safetensors", "pairs/00000.parquet"])
def test_a_damaged_or_missing_file(tmp_path: Path, first: Path, name: str) -> None:
    file, job = first / "rounds/02" / name, second(tmp_path, "run:first")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    said = refused(job)
    wrong = "not what was committed" if file.suffix != ".parquet" else "committed, but it is no Parquet file"
    assert f"{file}: {wrong}" in said and f"`ratchet verify {first}`" in said
    file.unlink()
    assert f"{file}: committed, but missing" in refused(job)


def test_nothing_of_a_run_is_begun_with_a_model_that_is_not_there(tmp_path: Path, first: Path) -> None:
    with pytest.raises(BadInput):
        run_job(second(tmp_path, "run:first@round9"), StandIns())
    assert not (tmp_path / "two/run").exists()


def test_pairs_are_followed_through_rounds_and_runs(tmp_path: Path, first: Path) -> None:
    pairs = [first / f"rounds/{n:02d}/pairs/00000.parquet" for n in (1, 2)]
    assert pair_files_trained_on(first, 0) == []
    assert pair_files_trained_on(first, 1) == pairs[:1]
    assert pair_files_trained_on(first, 2) == pairs
    root = tmp_path / "two" / "run"
    run_job(
        second(tmp_path, "run:first@round2", init="base", pairs={"per_prompt": 2, "replay": 1.0}), StandIns(gain=0.1)
    )
    seen = [root / f"baseline/seen/{n:05d}.parquet" for n in (0, 1)]
    assert [file.read_bytes() for file in seen] == [file.read_bytes() for file in pairs]
    # `init: base`: round 2 does not descend from round 1, but it replays its pairs.
    own = [root / f"rounds/02/{step}/00000.parquet" for step in ("pairs", "replay")]
    assert pair_files_trained_on(root, 2) == [*seen, *own]
    third = make_project(tmp_path / "three", model=f"run:{root}@round1")
    run_job(third, StandIns(gain=0.1), "rounds=1")
    kept = pair_files_trained_on(tmp_path / "three/run", 0)
    expected = [*pairs, root / "rounds/01/pairs/00000.parquet"]
    assert [file.read_bytes() for file in kept] == [file.read_bytes() for file in expected]


def test_a_fork_keeps_it_too(tmp_path: Path, first: Path) -> None:
    run_job(second(tmp_path, "run:first@round2"), StandIns(), "rounds=1")
    child = tmp_path / "home/runs/child"
    made = fork(tmp_path / "two/run", child, ["loss.beta=0.3"])
    assert "baseline/model" in made.offered
    shutil.rmtree(first)
    assert json.loads((child / "ledger/00000001.json").read_text())["data"]["model"] == "baseline/model"
    run_job(child / "job.yaml", StandIns())
    assert len(pair_files_trained_on(child, 0)) == 2
    assert verify(child).findings == []


def test_a_fork_may_start_from_another_run(tmp_path: Path, first: Path) -> None:
    job = make_project(tmp_path / "two")
    run_job(job, StandIns(), "rounds=1")
    (job.parent / "run:first").mkdir()
    child = tmp_path / "home/runs/child"
    fork(tmp_path / "two/run", child, ["model=run:first"])
    assert load_job(child / "job.yaml").job.model == "run:first"
    run_job(child / "job.yaml", StandIns(gain=0.1))
    assert files_of(child / "baseline/model") == files_of(first / "rounds/02/checkpoint")


def test_a_driver_that_dies_between_the_files_of_the_model_goes_on(tmp_path: Path, first: Path) -> None:
    job, root = second(tmp_path, "run:first"), tmp_path / "two" / "run"

    def die(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, StandIns(on_call=die))
    run_job(tmp_path / "one/tiny.yaml", StandIns(), "rounds=3")  # the other run's reference moves on
    kept = files_of(root / "baseline/model")
    run_job(job, StandIns())
    assert files_of(root / "baseline/model") == kept == files_of(first / "rounds/02/checkpoint")


def test_a_kept_model_whose_files_lead_out_of_it_is_not_looked_at(tmp_path: Path, first: Path) -> None:
    job = second(tmp_path, "run:first@round1")
    run_job(job, StandIns(), "rounds=1")
    said = {"fast_tokenizer_files": ["../../../tokenizer.4.0.json"]}
    (tmp_path / "two/run/baseline/model/tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(Damaged, match="`fast_tokenizer_files` leads to"):
        base_model_of(load_job(job), Run(tmp_path / "two/run"))
