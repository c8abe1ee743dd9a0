"""What a plan says: of machines, work, steps that are there, memory and hours; and that nothing of it starts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from orchestrator.commands.fork.command import fork
from orchestrator.commands.plan import hours, steps, work
from orchestrator.commands.plan.command import Plan, _left, as_json, plan
from orchestrator.commands.plan.devices import DEVICES, Asked, cluster, named
from orchestrator.commands.plan.earlier import Earlier, find
from orchestrator.commands.plan.hours import READING, TRAINING, Clock
from orchestrator.commands.plan.steps import Step
from orchestrator.commands.plan.told import lines
from orchestrator.commands.plan.work import Amount, Texts
from orchestrator.commands.validate import check
from orchestrator.config import Grade, Job
from orchestrator.config.load import load_job
from orchestrator.driver.fitting import Gpus
from orchestrator.driver.memory import rank_memory
from orchestrator.driver.wiring import opinions_on_golds
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.models.sizes import ModelSize
from orchestrator.sources.registry import SOURCES
from tests.support.stand_ins import StandIns, make_project, run_job

PROJECT = Path(__file__).parents[3]
GIB = 2**30
LARGE: dict[str, Any] = {
    **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768},
}
PARAMETERS = 7_241_732_096
SIZE = ModelSize(1000, 2, 8, 8, 2, 2, 4, 100, None)
HERE = [Gpus(0, host=16 * GIB)]
TEXTS = Texts(prompt=10, sample=4, answer=6, pair=None, pairs=None, rests_on="")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def planned(job: Path, *overrides: str, asked: Asked | None = None) -> Plan:
    return plan(check(load_job(job, overrides)), asked, HERE)


def large(tmp_path: Path, **changes: Any) -> Path:
    """A job with the shape of a model of seven billion parameters, whose weights are a file of holes."""
    job = make_project(tmp_path, **changes)
    (tmp_path / "seed/config.json").write_text(json.dumps(LARGE))
    bytes_ = 2 * PARAMETERS
    about = {"weight": {"dtype": "BF16", "shape": [PARAMETERS], "data_offsets": [0, bytes_]}}
    header = json.dumps(about).encode()
    with open(tmp_path / "seed/model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + bytes_)
    return job


# Machines


def test_clusters_are_read_by_their_names() -> None:
    asked = cluster("8xH100")
    assert list(asked.nodes) == [Gpus(8, DEVICES["H100"].memory)] and str(asked) == "8 x H100"
    assert len(cluster("4x8xa100-80gb").nodes) == 4 and str(cluster("2x8xH200")) == "2 nodes with 8 x H200"
    assert cluster("L4").nodes[0].count == 1
    for wrong in ("8xH900", "8 H100", "0xH100", "x", "999999x8xH100", "-1xH100"):
        with pytest.raises(BadInput, match=r"^--cluster: "):
            cluster(wrong)


@pytest.mark.parametrize(
    ("driver", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", None),
    ],
)
def test_a_drivers_name_tells_the_device(driver: str, device: str | None) -> None:
    found = named(driver)
    assert (found.name if found else None) == device


def test_what_processors_do_is_tried() -> None:
    found = hours.here()
    assert found.flops > 1e8 and found.bandwidth > 1e7


# Work and hours


def job_of(tmp_path: Path, *overrides: str) -> Job:
    return load_job(make_project(tmp_path), overrides).job


def test_what_a_round_handles_is_counted(tmp_path: Path) -> None:
    sizes = {"train": (20, 5.0), "gate": (16, 5.0), "test": (16, 5.0)}
    job = job_of(tmp_path)
    found = work.of_round(job, 1, sizes, SOURCES["sample"], TEXTS)
    assert found == [
        Amount("samples", 32, 80, 128),
        Amount("reference", 16, 16 * (10 + 2 * 4)),
        Amount("train", 16, 16 * (10 + 2 * 4)),
        Amount("evaluation", 32, 320, 192),
    ]
    longer = job_of(tmp_path, "train.epochs=2", "loss.dpo=0", "pairs.rule=correct", "evaluate.samples=3")
    found = work.of_round(longer, 1, sizes, SOURCES["sample"], TEXTS)
    assert [amount.phase for amount in found] == ["samples", "train", "evaluation", "repeated"]
    assert found[1].read == 16 * (10 + 4) * 2 and found[3].samples == 3 * 16
    free = job_of(tmp_path, "loss.form=simpo")
    found = work.of_round(free, 1, sizes, SOURCES["sample"], TEXTS)
    assert [amount.phase for amount in found] == ["samples", "train", "evaluation"]
    assert "rounds/01/train" in (named := list(steps.steps_of(free, SOURCES["sample"], sizes)))
    assert "rounds/01/reference" not in named
    known = Texts(10, 4, 6, pair=7, pairs=1.5, rests_on="")
    assert work.of_round(job, 1, sizes, SOURCES["sample"], known)[2] == Amount("train", 12, 84)
    budget = job_of(tmp_path, "train.token_budget=1000")
    assert work.of_round(budget, 1, sizes, SOURCES["sample"], TEXTS)[2].read == pytest.approx(1000, abs=1)


def test_rewards_are_read_by_models_of_their_own_size(tmp_path: Path) -> None:
    models = "reward.models=[{model: reward}, {model: style}]"
    job = job_of(tmp_path, models, "pairs.rule=best_worst", "train.ranks=4", "reward.workers=2")
    found = work.of_round(job, 1, {"train": (8, 5.0)}, SOURCES["sample"], TEXTS)
    rewards = found[1:3]
    assert rewards == [Amount(phase, 32, 32 * 14) for phase in ("rewards", "reward/2/rewards")]
    named = [name for name in steps.steps_of(job, SOURCES["sample"], {"train": ()}) if name.startswith("rounds/01/")]
    assert named[3:7] == [f"rounds/01/{phase}" for phase in ("reward/2/rewards", "rewards", "scores", "pairs")]
    device = DEVICES["H100"]
    clock = Clock(job, SIZE, "cuda", device, "", TEXTS, 0, rewards={"rewards": 10})
    timed = clock.phase(Amount("rewards", 10, 10**9))
    assert timed and timed.seconds == pytest.approx(2 * 10 * 10**9 / (2 * device.flops * READING))
    earlier = Earlier("before", True, "cuda", sampling_rate=100.0, rewarding_rate=50.0)
    known = Clock(job, SIZE, "cuda", device, "", TEXTS, 0, earlier).phase(Amount("rewards", 10, 1000))
    assert known and known.seconds == 20.0


def test_stages_share_the_preference_data_and_pairs_that_are_there_need_no_samples(tmp_path: Path) -> None:
    sdpo = load_job(PROJECT / "jobs/sdpo.yaml").job
    sizes = {"stages": (800, 90.0), "gate": (400, 60.0), "test": (640, 60.0)}
    for number in (1, 2):
        trained = work.of_round(sdpo, number, sizes, SOURCES["dataset"], TEXTS)
        assert [a.samples for a in trained if a.phase == "train"] == [400]
    steps = load_job(PROJECT / "jobs/step_dpo.yaml").job
    phases = [a.phase for a in work.of_round(steps, 1, {"train": (20, 5.0)}, SOURCES["steps"], TEXTS)]
    assert phases[:3] == ["samples", "search", "rectify"]
    rounds = [[], [Amount(phase) for phase in phases]]
    there = [Step("rounds/01/pairs", "done", ""), Step("rounds/01/train", "to do", "")]
    assert [amount.phase for amount in _left(rounds, there)[1]] == ["reference", "train"]


def test_texts_are_as_long_as_earlier_or_as_solutions_or_as_they_may_be(tmp_path: Path) -> None:
    job, lengths = job_of(tmp_path), {"data.train": {"prompt": 10.0}, "data.gate": {"prompt": 20.0}}
    bound = work.texts(job, lengths, None)
    assert (bound.prompt, bound.sample, bound.answer) == (15, 8, 8) and "generate.max_tokens" in bound.rests_on
    worked = work.texts(job, {"data.train": {"prompt": 10.0, "solution": 6.0}}, None)
    assert worked.sample == 6 and "solutions" in worked.rests_on
    earlier = Earlier("before", True, "cpu", sample_tokens=3.0, answer_tokens=30.0, pairs=2.0, pair_tokens=17.0)
    known = work.texts(job, lengths, earlier)
    assert (known.sample, known.answer, known.pair, known.pairs) == (3.0, 8.0, 17.0, 2.0)


def test_hours_are_sums_over_operations_and_bytes_or_as_they_were(tmp_path: Path) -> None:
    device, job = DEVICES["H100"], job_of(tmp_path, "train.ranks=4", "generate.engines=2")
    clock = Clock(job, SIZE, "cuda", device, "the data sheet", TEXTS, 10**9)
    training = clock.phase(Amount("train", 10, 10**9))
    assert training and training.seconds == pytest.approx(6 * 1000 * 10**9 / (4 * device.flops * TRAINING))
    scoring = clock.phase(Amount("reference", 10, 10**9))
    assert scoring and scoring.seconds == pytest.approx(2 * 1000 * 10**9 / (4 * device.flops * READING))
    again = Clock(job_of(tmp_path, "train.activation_checkpointing=true"), SIZE, "cuda", device, "", TEXTS, 0)
    longer = again.phase(Amount("train", 10, 10**9))
    assert longer and longer.seconds == pytest.approx(training.seconds * 4 * 8 / 6)
    drawn = clock.phase(Amount("samples", 20, 0, 10**6))
    assert drawn and drawn.seconds >= 10**6 / (2 * 10) * hours.STEP["cuda"] and drawn.rests_on == "the data sheet"
    earlier = Earlier("before", True, "cpu", sampling_rate=100.0, training_rate=50.0, starting=7.0, between=3.0)
    known = Clock(job, SIZE, "cpu", device, "", TEXTS, 0, earlier)
    assert [known.start().seconds, known.between().seconds] == [7.0, 3.0]
    for amount, seconds in ((Amount("samples", 1, 5, 1000), 10.0), (Amount("train", 1, 1000), 20.0)):
        timed = known.phase(amount)
        assert timed and timed.seconds == seconds and "before" in timed.rests_on
    unknown = Clock(job, SIZE, "cuda", None, "", TEXTS, 0)
    assert unknown.phase(Amount("train", 1, 1000)) is None


def test_an_earlier_run_tells_lengths_and_pairs(tmp_path: Path) -> None:
    job = make_project(tmp_path, run_dir=str(tmp_path / "home/runs/before"), name="before")
    run_job(job, StandIns())
    state, file = Ledger(tmp_path / "home/runs/before/ledger").state, load_job(job)
    model = str(tmp_path / "seed")
    found = find(tmp_path / "none", Ledger(tmp_path / "none/ledger").state, file.job, model, tmp_path / "home/runs")
    assert found and found.name == "before" and found.here
    samples = [state.commits[f"rounds/{n:02d}/samples"].facts for n in (1, 2)]
    assert found.sample_tokens == sum(f["tokens"] for f in samples) / sum(f["samples"] for f in samples)
    pairs = [state.commits[f"rounds/{n:02d}/pairs"].facts["pairs"] for n in (1, 2)]
    assert found.pairs == sum(pairs) / 16
    empty = Ledger(tmp_path / "none/ledger").state
    assert find(tmp_path / "none", empty, file.job, "another model", tmp_path / "home/runs") is None
    other = load_job(job, ["source=gold", "data.solution=answer", "loss.dpo=0"]).job
    assert find(tmp_path / "none", empty, other, model, tmp_path / "home/runs") is None


# Steps


def standings(found: Plan) -> dict[str, str]:
    return {step.name: step.standing for step in found.steps}


def test_what_is_committed_is_not_done_again(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    before = planned(job)
    assert (
        set(standings(before).values()) == {"to do"} and before.rounds[1] and before.steps[0].why.startswith("no run")
    )

    def cut(name: str) -> None:
        if name == "train" and (tmp_path / "run/rounds/02").is_dir():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job, StandIns(on_call=cut))
    records = len(list((tmp_path / "run/ledger").iterdir()))
    found = planned(job)
    said = standings(found)
    assert said["rounds/01/gate"] == said["rounds/02/reference"] == "done" and said["rounds/02/train"] == "to do"
    assert [amount.phase for amount in found.rounds[2]] == ["train", "evaluation"] and not found.rounds[1]
    assert found.held > 0 and len(list((tmp_path / "run/ledger").iterdir())) == records, "a plan writes nothing"
    run_job(job, StandIns())
    done = planned(job)
    assert set(standings(done).values()) == {"done"} and done.seconds == 0


def test_of_a_fork_it_is_told_what_is_taken_and_what_is_not(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns())
    fork(tmp_path / "run", tmp_path / "hot", ["loss.beta=0.3"])
    found = standings(planned(tmp_path / "hot/job.yaml"))
    assert found["rounds/01/samples"] == "taken" and found["rounds/01/train"] == "anew"
    assert found["rounds/02/pairs"] == "perhaps"
    shutil.rmtree(tmp_path / "run")
    assert standings(planned(tmp_path / "hot/job.yaml"))["rounds/01/samples"] == "perhaps"


# Memory, disk, and what does not fit


def test_memory_is_the_sum_by_which_training_is_fitted(tmp_path: Path) -> None:
    found = planned(large(tmp_path), asked=cluster("8xH100"))
    rank, engine = found.holdings
    assert rank.workers == engine.workers == 8
    assert [line for line in found.refusals if not line.startswith("keep: the disk")] == [], "whatever this disk has"
    size = ModelSize(PARAMETERS, 32, 4096, 14336, 32, 8, 128, 32000, 32768)
    train = load_job(tmp_path / "tiny.yaml", ["train.zero=2", "train.ranks=8"]).job.train
    sums = rank_memory(size, train, 8, 2)
    assert {name: rank.parts[name] for name in ("weights", "gradients", "masters", "moments")} == {
        name: getattr(sums, name) for name in ("weights", "gradients", "masters", "moments")
    }
    assert engine.parts["weights"] == 2 * PARAMETERS and engine.fits
    assert found.seconds > 0 and not found.untold


def test_what_cannot_fit_is_said_and_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = large(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["plan", str(job), "--cluster", "1xL4", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert left.value.code == 1 and not said["fits"] and "does not fit" in said["refusals"][0]
    every = ["train.ranks=1", "train.zero=1", "train.tokens_per_microbatch=512", "train.activation_checkpointing=true"]
    with pytest.raises(SystemExit) as left:
        main(["plan", str(job), *every, "--cluster", "1xH100"])
    out = capsys.readouterr().out
    assert left.value.code == 1 and re.search(r"^fits      no: train.ranks.*: each rank takes about", out, re.M)
    with pytest.raises(SystemExit) as left:
        main(["plan", str(job), "--cluster", "9xZ1"])
    assert left.value.code == 2 and "--cluster" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_said(tmp_path: Path) -> None:
    found = planned(large(tmp_path, keep={"training_states": 10**9}), asked=cluster("8xH100"))
    assert any(line.startswith("keep: the disk has") for line in found.refusals)


def test_a_cluster_that_would_have_to_be_asked_is_refused(tmp_path: Path) -> None:
    job = make_project(tmp_path, cluster={"address": "10.0.0.1:6379"})
    with pytest.raises(BadInput, match=r"^cluster.address: 10.0.0.1:6379 is a cluster"):
        planned(job)
    assert planned(job, asked=cluster("8xH100")).machine == "8 x H100"


# All of it


def test_graders_say_what_they_make_of_a_gold_answer() -> None:
    grade = Grade(graders=["number", {"all_of": ["exact", "number"]}, "judge"])
    [first, second] = opinions_on_golds(grade, ["17", "a frog"])
    assert first[:2] == [("number", "correct", ""), ("all_of: exact, number", "correct", "")]
    assert first[2] == ("judge", "not asked", "")
    assert second[0][1] == "ungradable" and second[0][2]


def test_the_demo_is_planned_without_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", str(PROJECT / "jobs/irpo.yaml"), "--price", "2"])
    out = capsys.readouterr().out
    assert left.value.code == 0 and not (tmp_path / "home").exists()
    assert re.findall(r"^prompt    train '(train-\d+)', \d+ tokens: ", out, re.M) == [
        "train-0001",
        "train-0002",
        "train-0003",
    ]
    assert out.count("number: correct") == 3 and "\ntrainer   fits" in out
    for start in ("valid", "plan", "steps", "samples", "training", "lengths", "disk", "price", "fits      yes"):
        assert f"\n{start}" in f"\n{out}", start
    assert re.search(r"^memory    1 x rank: .*gradients.*moments.*activations", out, re.M)
    assert re.search(r"^memory    1 x engine: .*weights.*cache", out, re.M)


def test_lines_and_json_say_the_same(tmp_path: Path) -> None:
    found = planned(large(tmp_path), asked=cluster("2x8xH100"))
    told, said = "\n".join(lines(found, 3.0)), as_json(found, 3.0)
    assert said["cost"] == pytest.approx(3 * said["hours"]) and f"{said['cost']:,.2f} at 3.00 an hour" in told
    assert said["disk"]["need"] == found.need.total and said["machine"] in told
    json.dumps(said)


@pytest.mark.full
def test_a_real_run_takes_what_was_planned_within_the_stated_factors(tmp_path: Path) -> None:
    """Seconds too: a factor of some is no measure of speed."""
    from benchmarks import planned as measured

    found = measured.figures(PROJECT / "jobs/irpo.yaml", 1, tmp_path)
    for name, factor in (("first", measured.FIRST), ("later", measured.LATER)):
        assert set(found[name]["memory_factor"]) == {"rank", "engine"}
        assert max(found[name]["memory_factor"].values()) < measured.MEMORY, found[name]
        assert found[name]["seconds_factor"] < factor, found[name]
    assert found["later"]["rests_on"] == "the run first"


def test_rounds_without_end_are_refused_and_not_gone_through(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rounds: 1,000,000,000 are more than a plan goes through, 1,000"):
        planned(make_project(tmp_path), "rounds=1000000000")
