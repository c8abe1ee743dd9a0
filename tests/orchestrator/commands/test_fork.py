"""`ratchet fork`: what the changed settings do not touch is taken over, the rest is done again, and nothing is shared
that could hurt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from orchestrator.commands.fork.command import fork
from orchestrator.commands.gc import clean, waste
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.status import status
from orchestrator.rounds.round import GateStopped
from tests.orchestrator.commands.test_verify import files_of
from tests.orchestrator.models.test_hub_model import STAND_INS, TINY, closed_port, process
from tests.orchestrator.rounds.test_selection import SELECT
from tests.orchestrator.test_cli import ratchet
from tests.orchestrator.test_loop import StopAt, history
from tests.support.hub_server import MODEL, serve
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    run_job(make_project(tmp_path), StandIns())
    return tmp_path / "run"


def work_of(workers: StandIns) -> dict[str, int]:
    return {name: workers.calls[name] for name in ("tokenize", "generate", "grade", "reference", "train")}


def inode(run: Path, name: str) -> int:
    return (run / name).stat().st_ino


def from_scratch(tmp_path: Path, *overrides: str) -> Path:
    run_job(make_project(tmp_path / "scratch"), StandIns(), *overrides)
    return tmp_path / "scratch/run"


NOTHING = {"tokenize": 0, "generate": 0, "grade": 0, "reference": 0, "train": 0}


def test_without_changes_everything_is_taken_over(parent: Path, tmp_path: Path) -> None:
    before = files_of(parent)
    made = fork(parent, tmp_path / "child")
    assert made.removed == [] and made.offered["rounds/01/samples"] == 2
    assert status(tmp_path / "child")["state"] == "not started"
    assert verify(tmp_path / "child").strays == 0
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    assert work_of(workers) == NOTHING
    assert history(tmp_path / "child") == history(parent)
    assert files_of(parent) == before
    report = verify(tmp_path / "child")
    assert (report.findings, report.followed, report.strays) == ([], [1, 2], 0)
    names = [p.relative_to(parent) for folder in ("rounds", "baseline") for p in (parent / folder).rglob("*.parquet")]
    assert names and all(inode(parent, str(name)) == inode(tmp_path / "child", str(name)) for name in names)


class OtherEngines(StandIns):
    """Workers with engines of a kind that is not the first."""

    engine = "other"


def test_the_samples_of_another_kind_of_engine_are_not_taken_over(tmp_path: Path) -> None:
    job, parent = make_project(tmp_path), tmp_path / "run"
    run_job(job, made := StandIns())
    with pytest.raises(RatchetError, match="baseline/evaluation was committed from other inputs"):
        run_job(job, OtherEngines())
    child = tmp_path / "child"
    fork(parent, child)
    run_job(child / "job.yaml", workers := OtherEngines())
    assert workers.calls["generate"] == made.calls["generate"] and not workers.calls["tokenize"]
    for name, taken in (("prompts/train", True), ("samples/00000", False)):
        file = f"rounds/01/{name}.parquet"
        assert (inode(parent, file) == inode(child, file)) == taken


def test_another_loss_trains_anew_on_the_same_pairs(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["loss.beta=0.2"])
    workers = StandIns(gain=0.3)  # another loss gives another model
    run_job(child / "job.yaml", workers)
    shared = ("prompts/train", "samples/00000", "samples/00001", "verdicts/00000", "pairs/00000", "reference/00000")
    assert all(inode(parent, f"rounds/01/{n}.parquet") == inode(child, f"rounds/01/{n}.parquet") for n in shared)
    assert inode(parent, "baseline/evaluation/gate.parquet") == inode(child, "baseline/evaluation/gate.parquet")
    own = ("checkpoint/model.safetensors", "evaluation/gate.parquet")
    assert all(inode(parent, f"rounds/01/{name}") != inode(child, f"rounds/01/{name}") for name in own)
    # Round 1 is trained and evaluated, round 2 done from its (shared) prompts on.
    rounds = {"tokenize": 0, "reference": 1, "train": 2}
    assert {name: workers.calls[name] for name in rounds} == rounds
    assert verify(child).findings == [] and verify(parent).findings == []
    assert not list(child.rglob("*-offered"))


def test_a_reference_pass_that_dropped_other_pairs_is_not_taken_over(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["train.max_tokens=1000"])
    run_job(child / "job.yaml", StandIns())
    for name, same in (("pairs/00000", True), ("reference/00000", False)):
        numbers = {inode(run, f"rounds/01/{name}.parquet") for run in (parent, child)}
        assert (len(numbers) == 1) == same, name


def test_pairs_with_other_gold_solutions_are_not_taken_over(tmp_path: Path) -> None:
    """The samples are the same, and so are their verdicts; the winners are not."""
    job, child = make_project(tmp_path, rounds=1), tmp_path / "child"
    for split in ("train", "gate", "test"):
        file = tmp_path / f"{split}.jsonl"
        rows = [json.loads(line) | {"solution": "Think."} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_job(job, StandIns(), "data.solution=solution", "pairs.gold_as_chosen=true")
    fork(tmp_path / "run", child, ["data.solution_template=Thus {answer}"])
    run_job(child / "job.yaml", StandIns())
    chosen = pq.read_table(child / "rounds/01/pairs/00000.parquet")["chosen"].to_pylist()
    assert any(text.startswith("Thus ") for text in chosen) and "Think." not in chosen
    assert verify(child).findings == []


def test_a_fork_is_what_a_run_from_scratch_would_be(parent: Path, tmp_path: Path) -> None:
    expected = history(from_scratch(tmp_path, "pairs.per_prompt=[2, 3]"))
    fork(parent, tmp_path / "child", ["pairs.per_prompt=[2, 3]"])
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    assert history(tmp_path / "child") == expected
    assert work_of(workers) == NOTHING | {"reference": 1, "train": 1}


def test_of_the_rounds_only_those_before_the_given_one_are_offered(parent: Path, tmp_path: Path) -> None:
    made = fork(parent, tmp_path / "child", from_round=2)
    assert {step.partition("/")[0] for step in made.offered} == {"baseline", "rounds"}
    assert not [step for step in made.offered if step.startswith("rounds/02")]
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    assert workers.calls["train"] == workers.calls["reference"] == 1
    assert history(tmp_path / "child") == history(parent)
    first = "rounds/{}/checkpoint/model.safetensors"
    assert inode(parent, first.format("01")) == inode(tmp_path / "child", first.format("01"))
    assert inode(parent, first.format("02")) != inode(tmp_path / "child", first.format("02"))


def test_another_grader_setting_keeps_the_samples(parent: Path, tmp_path: Path) -> None:
    fork(parent, tmp_path / "child", ["grade.timeout=9", "rounds=1"])
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    # Pairs are made from files with the same hashes, so that training is not repeated either. Evaluations are.
    assert workers.calls["train"] == workers.calls["reference"] == 0
    assert workers.calls["generate"] == 2 * 8 and workers.calls["grade"] == 2 + 2 * 8
    assert inode(parent, "rounds/01/samples/00000.parquet") == inode(
        tmp_path / "child", "rounds/01/samples/00000.parquet"
    )


@pytest.mark.parametrize("stop", [14, 21, 22, 24])
def test_an_unfinished_run_is_forked_and_finished(tmp_path: Path, stop: int) -> None:
    job = make_project(tmp_path)
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(stop, RuntimeError("a bug"))))
    fork(tmp_path / "run", tmp_path / "child")
    run_job(tmp_path / "child/job.yaml", StandIns())
    run_job(job, StandIns())
    assert history(tmp_path / "child") == history(tmp_path / "run")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")], ids=["interrupted", "failed"])
def test_stopped_anywhere_a_fork_ends_as_if_undisturbed(tmp_path: Path, error: BaseException) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns(), "rounds=1")
    parent = tmp_path / "run"
    expected = history(from_scratch(tmp_path, "loss.beta=0.2"))
    fork(parent, tmp_path / "child", ["loss.beta=0.2", "rounds=2"])
    for number in range(2, 200, 9):  # an evaluation is one piece, so that every attempt must get further
        workers = StandIns(on_call=StopAt(number, error))
        try:
            run_job(tmp_path / "child/job.yaml", workers)
            break
        except type(error):
            continue
    assert history(tmp_path / "child") == expected
    assert verify(tmp_path / "child").findings == []


def test_killed_between_the_record_and_the_final_name(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(parent, child)
    ledger = Ledger(child / "ledger")
    ledger.claim(identity())
    offer = ledger.state.offers["baseline/prompts", None]
    data = {"step": offer.step, "fingerprint": offer.fingerprint, "recipe": offer.recipe, "facts": offer.facts}
    ledger.append("commit", data | {"artifacts": [a.as_json() for a in offer.artifacts]})
    run_job(child / "job.yaml", StandIns())
    assert history(child) == history(parent)


@pytest.mark.parametrize("first", ["parent", "child"])
def test_either_run_can_be_deleted(parent: Path, tmp_path: Path, first: str) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["loss.beta=0.2"])
    if first == "parent":
        shutil.rmtree(parent)  # before the child has taken anything
    run_job(child / "job.yaml", StandIns())
    if first == "child":
        shutil.rmtree(child)
    assert verify(child if first == "parent" else parent).findings == []


def test_a_damaged_offer_is_not_taken(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["rounds=1"])
    for name in ("rounds/01/.pairs-offered/00000.parquet", "rounds/01/samples/.00001.parquet-offered"):
        (child / name).unlink()
        (child / name).write_bytes(b"rubbish")
    workers = StandIns()
    run_job(child / "job.yaml", workers)
    # Drawn again, samples may come out otherwise: their old verdicts are not taken either.
    assert work_of(workers) == NOTHING | {"generate": 1, "grade": 1}
    assert verify(child).findings == []


def test_a_gate_that_stopped_is_decided_anew(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.7)
    with pytest.raises(GateStopped):
        run_job(job, StandIns(gain=-0.6), "rounds=1")
    fork(tmp_path / "run", tmp_path / "child", ["promotion.rule=always"])
    workers = StandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    assert work_of(workers) == NOTHING
    assert [r["promoted"] for r in status(tmp_path / "child")["rounds"]] == [True]


# Files that the parent has removed


def trained(ledger: Path) -> list[str]:
    """Which rounds have a training of their own, not one that was taken over."""
    commits = Ledger(ledger / "ledger").state.commits.values()
    own = [c for c in commits if c.step.endswith("/train") and not c.artifacts[0].hidden.endswith("-offered")]
    return [commit.step.split("/")[1] for commit in own]


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("loss.nll=1", []),
        ("loss.beta=[0.1, 0.1, 0.1, 0.1, 0.2]", ["05"]),  # round 4 has the reference's checkpoint
        ("loss.beta=[0.1, 0.1, 0.1, 0.2]", ["02", "03", "04"]),  # round 1 has the best's
        ("train.learning_rate=[7.0e-7, 7.0e-7, 7.0e-7, 1.0e-7]", ["02", "03", "04"]),
    ],
)
def test_removed_checkpoints_are_made_again_only_where_they_are_needed(
    tmp_path: Path, override: str, again: list[str]
) -> None:
    job = make_project(tmp_path, skill=0.2)
    every = [f"train.learning_rate={[7.0e-7] * 3}"] if "learning" in override else []
    settings = ["promotion.rule=always", "keep.checkpoints=1", *every]
    # The first round is the best on the gate.
    run_job(job, StandIns(gain=0.5), "rounds=1", *settings)
    run_job(job, StandIns(gain=-0.1), "rounds=4", *settings)
    parent, child = tmp_path / "run", tmp_path / "child"
    assert sorted(p.parent.name for p in parent.glob("rounds/*/checkpoint")) == ["01", "04"]
    made = fork(parent, child, [override, "rounds=5" if "05" in again else "rounds=4"])
    assert made.removed == [f"rounds/{number}/train" for number in again if number in ("02", "03")]
    run_job(child / "job.yaml", StandIns(gain=-0.1))
    assert trained(child) == again
    assert verify(child).findings == []


def test_candidates_that_were_not_chosen_are_not_needed(tmp_path: Path) -> None:
    job = make_project(tmp_path, skill=0.3, train=SELECT)
    settings = {"gain": 0.1, "steps": 5, "peak": 4}
    run_job(job, StandIns(**settings))  # type: ignore[arg-type]
    fork(tmp_path / "run", tmp_path / "child", ["loss.beta=[0.1, 0.2]"])
    workers = StandIns(**settings)  # type: ignore[arg-type]
    run_job(tmp_path / "child/job.yaml", workers)
    assert workers.calls["train"] == 1
    assert history(tmp_path / "child") == history(tmp_path / "run")
    made = fork(tmp_path / "run", tmp_path / "other", ["grade.timeout=9"])
    assert made.removed == ["rounds/01/train", "rounds/02/train"]


def test_a_fork_of_a_fork(parent: Path, tmp_path: Path) -> None:
    fork(parent, tmp_path / "one", ["loss.beta=[0.1, 0.2]"])
    run_job(tmp_path / "one/job.yaml", StandIns())
    fork(tmp_path / "one", tmp_path / "two", ["loss.beta=[0.1, 0.3]"])
    shutil.rmtree(parent)
    shutil.rmtree(tmp_path / "one")
    workers = StandIns()
    run_job(tmp_path / "two/job.yaml", workers)
    assert workers.calls["train"] == 1 and verify(tmp_path / "two").findings == []


# Clean up


def test_offers_go_with_gc_once_nobody_can_take_them(parent: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    fork(parent, child, ["loss.beta=0.2"])
    assert waste(child) == []  # all may be taken yet
    with pytest.raises(RuntimeError):
        run_job(child / "job.yaml", StandIns(on_call=StopAt(2, RuntimeError("a bug"))))
    gone = {item.path for item in clean(child, identity()) if item.why == "offer that was not taken"}
    assert gone == {"rounds/01/.train-offered", "rounds/01/.checkpoint-offered"}
    run_job(child / "job.yaml", StandIns())
    assert verify(child).strays == 0 and verify(parent).findings == []


# The new run's job


def test_the_job_has_absolute_paths_an_id_and_a_name_of_its_own(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "test.jsonl", tmp_path / "elsewhere/more.jsonl")
    monkeypatch.chdir(tmp_path / "elsewhere")
    fork(parent, Path("child"), ["data.test=more.jsonl", "name=hot", "loss.beta=0.2"])
    child = tmp_path / "elsewhere/child"
    job = load_job(child / "job.yaml").job
    assert (job.model, job.data.train.path) == (str(tmp_path / "seed"), str(tmp_path / "train.jsonl"))
    assert job.data.test.path == str(tmp_path / "elsewhere/more.jsonl")
    assert (job.name, job.run_dir, job.loss.beta, job.tracking.experiment) == ("hot", str(child), 0.2, None)
    records = [Ledger(run / "ledger").state.configs[0] for run in (parent, child)]
    assert records[0]["run_id"] != records[1]["run_id"] == records[1]["run_id"]
    assert records[1]["parent"] == {"run": str(parent), "run_id": records[0]["run_id"]}
    assert not [path for path in (tmp_path / "elsewhere").iterdir() if path.name.startswith(".")]


@pytest.mark.full
def test_a_model_of_the_hub_is_taken_over_from_the_run_that_kept_it(tmp_path: Path) -> None:
    job, parent, child = make_project(tmp_path, model=f"{MODEL}@v1"), tmp_path / "run", tmp_path / "child"
    with serve({}, TINY) as address:
        assert process(tmp_path / "home", address, "-c", STAND_INS, job, "rounds=1").returncode == 0
    fork(parent, child, ["loss.beta=0.2"])
    shutil.rmtree(parent)
    done = process(tmp_path / "nothing", closed_port(), "-c", STAND_INS, child / "job.yaml", "rounds=1")
    assert done.returncode == 0, done.stderr
    assert load_job(child / "job.yaml").job.model == f"{MODEL}@v1"
    assert status(child)["reference"] == str(child / "rounds/01/checkpoint") and verify(child).findings == []


def test_what_cannot_be_is_refused_and_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").write_text("precious")
    before = sorted(path.name for path in tmp_path.iterdir())
    for source, child, overrides, from_round, said in (
        (tmp_path / "nowhere", "child", [], None, "no such run"),
        (tmp_path, "child", [], None, "not a run"),
        (parent, "used", [], None, "exists already"),
        (parent, "child", [], 7, "there is no round 7; its rounds are 1, 2"),
        (parent, "child", ["loss.beta=-1", "rouns=3"], None, "override 'loss.beta=-1': must be a number above 0"),
        (parent, "child", ["loss.beta=-1", "rouns=3"], None, "override 'rouns=3': unknown key"),
        (parent, "child", ["run_dir=x"], None, "run_dir: the new run's folder is"),
        (parent, "child", ["method=sft"], None, "a method's row would change nothing"),
    ):
        with pytest.raises(BadInput) as refused:
            fork(source, tmp_path / child, overrides, from_round)
        assert said in str(refused.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    (parent / "rounds/01/pairs/00000.parquet").unlink()
    with pytest.raises(Damaged, match=r"pairs/00000\.parquet: committed, but missing"):
        fork(parent, tmp_path / "child")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_command_and_the_hint_that_leads_to_it(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match=f"ratchet fork {parent} NEWRUN KEY=VALUE"):
        run_job(tmp_path / "tiny.yaml", StandIns(), "loss.beta=0.2")
    assert ratchet("fork", parent, tmp_path / "child", "loss.beta=0.2", "--from-round", "2") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "taken     baseline: evaluation, prompts",
        "taken     rounds/01: pairs, prompts, reference, samples (2 shards), verdicts (2 shards)",
    ]
    assert said[-1] == f"go on     ratchet resume {tmp_path / 'child'}"
    assert yaml.safe_load((tmp_path / "child/job.yaml").read_text())["loss"]["beta"] == 0.2
    assert ratchet("status", tmp_path / "child", "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "child"
    assert ratchet("fork", tmp_path / "child", tmp_path / "grandchild") == 0, "of one that has made nothing yet"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"nothing   is taken over: {tmp_path / 'child'} has committed no step that could be"


def test_rounds_that_the_new_run_does_not_have_are_taken_only_if_it_is_given_more(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = tmp_path / "child"
    assert ratchet("fork", parent, child, "rounds=1") == 0
    said = capsys.readouterr().out.splitlines()
    later = [line for line in said if "rounds/02" in line]
    assert later and all(line.startswith("later ") for line in later)
    assert [line for line in said if line.startswith("later means")]
    assert [line for line in said if line.startswith("taken ") and "rounds/01" in line]
    assert fork(parent, tmp_path / "finished", ["rounds=1"]).fit["rounds/02/samples"] == "later"
    run_job(tmp_path / "finished/job.yaml", StandIns())
    assert not list((tmp_path / "finished").rglob("*-offered")) and not (tmp_path / "finished" / ROUND_2).exists()
    run_job(child / "job.yaml", workers := StandIns(), "rounds=2")
    assert work_of(workers) == NOTHING and inode(parent, ROUND_2) == inode(child, ROUND_2)


ROUND_2 = "rounds/02/samples/00000.parquet"
