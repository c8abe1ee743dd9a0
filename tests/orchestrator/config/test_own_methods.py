"""Methods that are rows of the user's own file: what a job makes of one, what is refused, what a run keeps of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.fork.command import fork
from orchestrator.config import Job
from orchestrator.config.idle import idle
from orchestrator.config.load import load_job, resolved_yaml
from orchestrator.config.methods import PRESETS
from orchestrator.driver.resume import load, resumed
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.tracking.described import tags
from tests.orchestrator.config.test_methods import DATA
from tests.orchestrator.test_cli import PROJECT, ratchet
from tests.support.stand_ins import StandIns, make_project, run_job

ROWS: dict[str, Any] = {
    "mild": {
        "paper": "Ours, section 3",
        "what": "a looser pull",
        "like": "dpo",
        "settings": {"rounds": 2, "loss": {"beta": 0.05}, "train": {"batch_pairs": 4}},
    },
    "milder": {"like": "mild", "settings": {"loss": {"beta": 0.01}}},
    "bare": {"settings": {"init": "base"}},
    "mixed": {"like": "iterative_dpo", "settings": {"generate": {"temperature": 0.5}}},
    "steps": {"settings": {"source": {"type": "steps", "rollouts": 9}, "loss": {"nll": 0}}},
}


def write(folder: Path, method: str = "mine.yaml#mild", rows: Any = None, **said: Any) -> Path:
    """A job file with a method of the file beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(ROWS if rows is None else rows, sort_keys=False))
    path = folder / "job.yaml"
    path.write_text(
        yaml.safe_dump({"name": "job", "method": method, "model": "seed", "data": DATA} | said, sort_keys=False)
    )
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(BadInput) as error:
        load_job(path, overrides)
    return str(error.value)


# What a job makes of a row


def test_a_job_goes_before_its_row_and_a_row_before_what_it_is_like(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, train={"batch_pairs": 7}, loss={"nll": 0.5})).job
    assert (job.method, job.rounds, job.init, job.reference) == ("mild", 2, "base", "base")
    assert (job.loss.beta, job.loss.nll, job.train.batch_pairs) == (0.05, 0.5, 7)
    milder = load_job(write(tmp_path, "mine.yaml#milder")).job
    assert (milder.method, milder.loss.beta, milder.train.batch_pairs, milder.init) == ("milder", 0.01, 4, "base")
    bare = load_job(write(tmp_path, "mine.yaml#bare")).job
    assert bare.model_dump(exclude={"method", "init"}) == Job(
        name="job", model="seed", data=DATA
    ).model_dump(exclude={"method", "init"})  # fmt: skip


def test_a_row_gives_way_as_rows_of_ratchet_do(tmp_path: Path) -> None:
    mixed = load_job(write(tmp_path, "mine.yaml#mixed")).job.generate
    assert (mixed.temperature, mixed.temperature_mix) == (0.5, None)
    path = write(tmp_path, "mine.yaml#steps", steps={"opening": "Step 1:"})
    job = load_job(path, ["source.threshold=0.5"]).job
    assert job.source.model_dump() | {"rollouts": 9, "opening": "Step 1:", "threshold": 0.5} == job.source.model_dump()


def test_an_override_names_a_row_too_and_goes_before_it(tmp_path: Path) -> None:
    path = write(tmp_path, "irpo")
    file = load_job(path, ["loss.beta=0.3", "method=mine.yaml#mild"])
    assert (file.job.method, file.job.loss.beta, file.job.init) == ("mild", 0.3, "base")
    assert file.overrides == ("loss.beta=0.3", "method=mild"), "a run does without the file"
    assert load_job(write(tmp_path), ["method=dpo"]).own is None


def test_it_is_found_beside_the_job_file_then_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "jobs")
    write(tmp_path, rows={"mild": {"settings": {"rounds": 9}}})
    monkeypatch.chdir(tmp_path)
    assert load_job(path).job.rounds == 2
    (tmp_path / "jobs/mine.yaml").unlink()
    assert load_job(path).job.rounds == 9
    (tmp_path / "mine.yaml").unlink()
    assert f"job.yaml:2:1: method: 'mine.yaml' does not exist: nothing at {tmp_path}/jobs/mine.yaml" in refused(path)


def test_a_job_that_is_written_out_is_one_without_the_file(tmp_path: Path) -> None:
    file = load_job(write(tmp_path))
    (tmp_path / "mine.yaml").unlink()
    out = tmp_path / "out.yaml"
    out.write_text(resolved_yaml(file.job))
    assert load_job(out).job == file.job


def test_the_rows_of_papers_that_come_with_ratchet_are_jobs(tmp_path: Path) -> None:
    rows = yaml.safe_load((PROJECT / "jobs/methods.yaml").read_text())
    assert {"dpo_vp", "sppo", "simpo", "orpo", "ssd"} <= rows.keys()
    for name, row in rows.items():
        path = write(tmp_path, f"{PROJECT}/jobs/methods.yaml#{name}", data=DATA | {"solution": "solution"})
        file = load_job(path)
        assert file.job.loss.nll == (1 if name in ("orpo", "ssd") else 0)
        assert file.own and (row["paper"] in str(file.own)) and row["what"] in str(file.own)
        assert idle(file.job, file.own) == []
    simpo = load_job(PROJECT / "jobs/simpo.yaml").job
    assert (simpo.loss.form, simpo.loss.beta, simpo.loss.target_margin, simpo.rounds) == ("simpo", 2.0, 1.0, 1)


# What is refused


def test_rows_that_are_like_one_another_without_end_are_refused_before_the_stack_is_full(tmp_path: Path) -> None:
    rows = {f"m{number}": {"like": f"m{number + 1}"} for number in range(3000)} | {"m3000": {"like": "irpo"}}
    assert "m99.like: `m0` is like 100 others" in refused(write(tmp_path, "mine.yaml#m0", rows))
    assert load_job(write(tmp_path, "mine.yaml#m2950", rows)).job.method == "m2950"


def test_a_value_of_a_row_is_not_said_whole_and_a_file_that_cannot_be_named_is_told(tmp_path: Path) -> None:
    assert len(refused(write(tmp_path, rows={"mild": {"paper": ["x" * 90_000]}}))) < 2000
    assert len(refused(write(tmp_path, rows={"mild": {"like": "x" * 90_000}}))) < 2000
    assert "File name too long" in refused(write(tmp_path, f"{'x' * 300}.yaml#mild"))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"like": "grpo"}, "mine.yaml:2:3: mild.like: there is no method `grpo`"),
        ({"like": "irp"}, "mine.yaml:2:3: mild.like: there is no method `irp`; did you mean `irpo`?"),
        ({"like": "mild"}, "mine.yaml:2:3: mild.like: `mild`, which is like `mild`: one of them must"),
        ({"like": ["irpo"]}, "mine.yaml:2:3: mild.like: must be text that is not empty, or null (it is ['irpo'])"),
        ({"method": "irpo"}, "mine.yaml:2:3: mild.method: a row names no method: what it builds on is its `like`"),
        ({"settings": {"method": "irpo"}}, "mine.yaml:3:5: mild.settings.method: a row names no method"),
        ({"loss": {}}, "mine.yaml:2:3: mild.loss: that is a setting of a job: it belongs into the row's `settings`"),
        ({"setings": {}}, "mine.yaml:2:3: mild.setings: unknown key; did you mean `settings`?"),
        ({"settings": []}, "mine.yaml:2:3: mild.settings: must be a mapping of names to values (it is [])"),
        ("irpo", "mine.yaml:1:1: mild: must be a section of keys: paper, what, like, settings"),
        ({"settings": {"model": "m"}}, "mine.yaml:3:5: mild.settings.model: that is a job's own"),
        ({"settings": {"reward": {"models": []}}}, "mine.yaml:4:7: mild.settings.reward.models: that is a job's own"),
        ({"settings": {"evaluate": {"harness": {}}}}, "mild.settings.evaluate.harness: that is a job's own"),
        ({"settings": {"data": {"train": "t"}}}, "mine.yaml:4:7: mild.settings.data.train: that is a job's own"),
        (
            {"settings": {"loss": {"bta": 1}}},
            "mine.yaml:4:7: mild.settings: loss.bta: unknown key; did you mean `beta`?",
        ),
        ({"settings": {"loss": {"beta": 0}}}, "mine.yaml:4:7: mild.settings: loss.beta: must be a number above 0"),
        ({"settings": {"los": {}}}, "mine.yaml:3:5: mild.settings: los: unknown key; did you mean `loss`?"),
        (
            {"settings": {"tracking": {"uri": "http://me:hush@host"}}},
            "mild.settings: tracking.uri: this address holds a name or password",
        ),
        (
            {"settings": {"source": {"type": "steps", "rollouts": 3}, "steps": {"rollouts": 4}}},
            "mild.settings: source.rollouts: `steps.rollouts` stands twice",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_told_with_file_row_key_and_cure(tmp_path: Path, row: Any, said: str) -> None:
    told = refused(write(tmp_path, rows={"mild": row}))
    assert said in told and "\n" not in told and "hush" not in told


def test_what_is_no_row_is_told(tmp_path: Path) -> None:
    assert "there is no method `mildd`; did you mean `mild`?" in refused(write(tmp_path, "mine.yaml#mildd"))
    assert "there is no method `x`; known here: mild, milder" in refused(write(tmp_path, "mine.yaml#x"))
    assert "`dpo` is a method of Ratchet: give this one another" in refused(
        write(tmp_path, "mine.yaml#dpo", {"dpo": {}})
    )
    assert "`-x` is no name of the form" in refused(write(tmp_path, "mine.yaml#-x", {"-x": {}}))
    assert "write `FILE#NAME`, such as" in refused(write(tmp_path, "#mild"))
    assert "override 'method=mine.yaml#': 'mine.yaml#': write `FILE#NAME`" in refused(
        write(tmp_path), "method=mine.yaml#"
    )
    assert "a file of methods is a mapping of names to rows" in refused(write(tmp_path, rows=["mild"]))
    circle = {"mild": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}
    assert "c.like: `b`, which is like `c`, which is like `b`: one of them" in refused(write(tmp_path, rows=circle))
    (tmp_path / "mine.yaml").write_text("mild: {}\nmild: {}\n")
    assert "mine.yaml:2:1: `mild` stands at line 1 already" in refused(tmp_path / "job.yaml")
    (tmp_path / "mine.yaml").write_bytes(b"\xff")
    assert "mine.yaml: not UTF-8" in refused(tmp_path / "job.yaml")
    unknown = refused(write(tmp_path, "mild"))
    assert "job.yaml:2:1: method: must be `irpo`, `sdpo`" in unknown and "or a row of a file of your own" in unknown


def test_errors_of_a_row_stand_beside_those_of_the_job_file(tmp_path: Path) -> None:
    path = write(tmp_path, rows={"mild": {"settings": {"loss": {"beta": 0}}}}, rounds=0)
    first, second = refused(path, "seed=-1").splitlines()[0::2]
    assert "job.yaml:" in first and "rounds" in first and "mild.settings: loss.beta" in second


# What a run keeps of it


def driven(folder: Path) -> Path:
    job = make_project(folder, method="mine.yaml#mild", rounds=1)
    (folder / "mine.yaml").write_text(yaml.safe_dump(ROWS))
    run_job(job, StandIns())
    return job


def test_a_run_goes_on_without_the_file_and_tells_a_row_that_changed(tmp_path: Path) -> None:
    job, run = driven(tmp_path), tmp_path / "run"
    assert yaml.safe_load((run / "job.yaml").read_text())["loss"]["beta"] == 0.05
    config = Ledger(run / "ledger").state.configs[-1]
    assert config["job"]["method"] == "mild" and tags(config)["method"] == "mild"
    workers = StandIns()
    run_job(job, workers)
    assert not workers.calls, "nothing is done again"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ROWS | {"mild": ROWS["mild"] | {"settings": {}}}))
    with pytest.raises(BadInput, match=r"other settings:\n  loss\.beta: 0\.05 in the run, 0\.1 now\n  train\.batch"):
        run_job(job, StandIns())
    (tmp_path / "mine.yaml").unlink()
    recorded = Job.model_validate(config["job"])
    for file in (resumed(run), load(run / "job.yaml"), load(run / "resolved.yaml")):
        assert file.job == recorded
    (run / "job.yaml").write_text((run / "job.yaml").read_text().replace("rounds: 1", "rounds: 2"))
    assert load(run / "job.yaml").job == recorded.model_copy(update={"rounds": 2})
    fork(run, tmp_path / "child", ["loss.beta=0.2"])
    child = load(tmp_path / "child/job.yaml").job
    assert (child.method, child.loss.beta, child.train.batch_pairs) == ("mild", 0.2, 4)


def test_a_file_in_a_run_reads_no_other_and_is_taken_for_nobodys_word(tmp_path: Path) -> None:
    driven(tmp_path)
    run = tmp_path / "run"
    (run / "theirs.yaml").write_text((tmp_path / "tiny.yaml").read_text().replace("mine.yaml", "../mine.yaml"))
    with pytest.raises(BadInput, match=r"lies in the run .*: what a run's own file names is not read"):
        load(run / "theirs.yaml")
    compared = {"name": "c", "job": "../tiny.yaml", "arms": {"a": {"method": "../mine.yaml#mild"}}}
    (run / "compare.yaml").write_text(yaml.safe_dump(compared))
    with pytest.raises(BadInput, match="leads out of the run"):
        load_plan(run / "compare.yaml")
    (run / "tiny.yaml").write_text((tmp_path / "tiny.yaml").read_text().replace("mine.yaml#mild", "dpo"))
    (run / "compare.yaml").write_text(yaml.safe_dump(compared | {"job": "tiny.yaml"}))
    with pytest.raises(BadInput, match=r"arms\.a\.method: .* is not read"):
        load_plan(run / "compare.yaml")
    (run / "mine.yaml").write_text((tmp_path / "mine.yaml").read_text())
    with pytest.raises(BadInput, match="may be a stranger's: name a copy outside of it"):
        load_job(tmp_path / "tiny.yaml", [f"method={run}/mine.yaml#mild"])


def test_arms_of_a_comparison_name_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    make_project(tmp_path / "jobs", method="../mine.yaml#mild", loss={"beta": 0.7, "nll": 0.5})
    write(tmp_path)
    arms = {"mild": {"method": "mine.yaml#mild"}, "looser": {"method": "mine.yaml#milder", "seeds": [1, 2]}, "dpo": {}}
    arms["set"] = {"method": "mine.yaml#mixed", "set": {"generate.temperature": 0.9, "loss.beta": 0.4}}
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump({"name": "c", "job": "jobs/tiny.yaml", "arms": arms}, sort_keys=False))
    found = {planned.name: planned.file.job for planned in load_plan(path).runs}
    mild, looser, dpo, both = (found[f"{name}-seed1"] for name in arms)
    assert (mild.method, mild.loss.beta, mild.loss.nll) == ("mild", 0.7, 0.5), "the shared file is of this very method"
    assert (looser.method, looser.loss.beta, looser.loss.nll, looser.train.batch_pairs) == ("milder", 0.01, 0, 4)
    assert (dpo.method, dpo.loss.beta, dpo.loss.nll) == ("dpo", 0.1, 0)
    assert (both.generate.temperature, both.generate.temperature_mix, both.loss.beta) == (0.9, None, 0.4)
    path.write_text(path.read_text().replace("mine.yaml#milder", "mine.yaml#mil"))
    with pytest.raises(BadInput, match=r"there is no method `mil`; did you mean `mild`\? \[arms: looser\]"):
        load_plan(path)
    path.write_text(path.read_text().replace("mine.yaml#mil\n", "mil\n"))
    with pytest.raises(BadInput, match=r"arms\.looser\.method: must be `irpo`.* or a row of a file of your own"):
        load_plan(path)


def test_validate_tells_the_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_project(tmp_path, method="mine.yaml#mild")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(ROWS))
    ratchet("validate", str(job), "--resolved")
    assert "method: mild\n" in capsys.readouterr().out
    assert str(load_job(job).own) == f"mild of {tmp_path}/mine.yaml: a looser pull (Ours, section 3)"
    ratchet("schema")
    method = json.loads(capsys.readouterr().out)["properties"]["method"]
    assert {*method["anyOf"][0]["enum"]} == {*PRESETS} and "#" in method["anyOf"][1]["pattern"]
