"""`ratchet compare` goes on after something was changed that its runs are made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands import validate
from orchestrator.commands.compare.command import check, compare
from orchestrator.commands.compare.comparison import figures
from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.compare.table import markdown
from orchestrator.commands.rollback import roll_back
from orchestrator.config.load import load_job
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput
from tests.orchestrator.commands.test_compare import Runner, project, run
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, right, write_rows


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    return tmp_path


def arms(folder: Path, **arms: Any) -> Path:
    """The comparison with other arms."""
    path = folder / "compare.yaml"
    document = yaml.safe_load(path.read_text()) | {"arms": arms}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def cut_test(folder: Path) -> None:
    lines = (folder / "test.jsonl").read_text().splitlines(keepends=True)
    (folder / "test.jsonl").write_text("".join(lines[:4]))


def one_gold(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows[3] |= {"answer": "77", "solution": "Final answer: 77"}
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def other_weights(folder: Path) -> None:
    (folder / "seed/model.safetensors").write_text(json.dumps({"skill": 0.5}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut_test, r"data\.test: test\.jsonl has other problems than when .*irpo-seed1 was started"),
        (one_gold, r"data\.train: train\.jsonl has other problems than when .*irpo-seed1 was started"),
        (other_weights, r"seed is not the model that .*irpo-seed1 was started with"),
    ],
)
def test_an_arm_more_is_not_compared_with_runs_of_other_problems_or_models(
    tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    run(project(tmp_path, arms={"irpo": {"seeds": [1, 2]}}), Runner())
    plan = load_plan(arms(tmp_path, irpo={"seeds": [1, 2]}, dpo={}))
    check(plan)
    change(tmp_path)
    runner = Runner()
    with pytest.raises(BadInput, match=told) as refused:
        compare(plan, print, runner)
    assert runner.calls == {} and "irpo-seed2" in str(refused.value), "each run that is there is named"
    arms(tmp_path, dpo={})
    _, failed, _ = run(tmp_path / "compare.yaml", runner)
    assert failed == [] and list(runner.calls) == ["dpo-seed1"], "alone it is no comparison with the others"


def test_a_run_that_started_from_what_another_arm_had_come_to_is_told_of(tmp_path: Path) -> None:
    after = {"method": "dpo", "start": "irpo"}
    plan, _, said = run(project(tmp_path, arms={"irpo": {}, "after": after}), Runner())
    assert "since" not in markdown(plan, figures(plan)) + "".join(said)

    plan, failed, said = run(arms(tmp_path, irpo={"set": {"rounds": 3}}, after=after), Runner())
    told = "started from round 2 of irpo-seed1, which has come to round 3 since"
    assert failed == [] and said[1].endswith(told)
    assert f"- after-seed1 {told}: it is made anew where its folder is removed." in markdown(plan, figures(plan))

    roll_back(plan.folder / "irpo-seed1", 0, identity())
    assert "which has gone back to its base model since" in markdown(plan, figures(plan))
    (plan.folder / "irpo-seed1").rename(tmp_path / "away")
    assert "which is not there any more" in markdown(plan, figures(plan))
    _, _, said = run(tmp_path / "compare.yaml", Runner())
    assert said[1].endswith("started from round 2 of irpo-seed1, in whose place there is another run now")


def test_stages_that_have_changed_are_found_by_compare_and_validate(tmp_path: Path) -> None:
    """The run keeps a copy of its preference data, which a new arm would not read."""
    job = make_stages(tmp_path, {"easy": right("e", 4)})
    job.write_text(job.read_text().replace("method: sdpo\n", "method: sdpo\nrounds: 1\n"))
    document = {"name": "compare", "job": job.name, "arms": {"sdpo": {}}}
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(document))
    runner = Runner(lambda name: PreferenceStandIns())
    plan, failed, _ = run(tmp_path / "compare.yaml", runner)
    assert failed == [] and list(runner.calls) == ["sdpo-seed1"]
    check(plan)
    write_rows(tmp_path / "easy.jsonl", right("other", 4))
    told = r"stages\.sources: .*easy\.jsonl: other preference data than when .*sdpo-seed1 was started"
    with pytest.raises(BadInput, match=told):
        check(plan)
    with pytest.raises(BadInput, match=told):
        validate.check(load_job(plan.folder / "sdpo-seed1.yaml"))
