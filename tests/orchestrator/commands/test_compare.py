"""`ratchet compare`: the jobs that a comparison makes, what its runs share, how it goes on, and its table."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.compare.command import check, compare, in_a_process
from orchestrator.commands.compare.comparison import figures
from orchestrator.commands.compare.file import Arm, Comparison, Plan, load_plan
from orchestrator.commands.compare.table import markdown, plot, write
from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.archive import filled_address
from orchestrator.config.load import load_job
from orchestrator.config.methods import PRESETS
from orchestrator.errors import BadInput, Interrupted, RatchetError
from orchestrator.files.disk import CURE, one_message
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import GRADERS_VERSION
from orchestrator.reports.status import run_state
from orchestrator.rounds.round import GateStopped
from tests.orchestrator.test_cli import PROJECT, ratchet
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandIns, chance, make_project, run_job
from tests.support.version_stand_ins import First

SOLVED = {"data.solution": "solution", "data.hint_template": "{question} Hint: {answer}\n"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    return tmp_path


def project(folder: Path, **said: Any) -> Path:
    """A comparison over the stand-ins' project, whose problems have solutions."""
    make_project(folder, method="irpo")
    for file in folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(r | {"solution": f"Final answer: {r['answer']}"}) + "\n" for r in rows))
    path = folder / "compare.yaml"
    document = {"name": "compare", "job": "tiny.yaml", "set": {"promotion.rule": "always", **SOLVED}} | said
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def gain_of(name: str) -> float:
    return 0.1 + 0.1 * chance(name)


class Runner:
    """Runs a job file in this process, with stand-ins; `calls` counts their work by run. No two runs train to the same
    model."""

    def __init__(self, workers: Callable[[str], StandIns] | None = None) -> None:
        self.calls: dict[str, Counter[str]] = {}
        self._workers = workers or (lambda name: StandIns(gain=gain_of(name)))

    def __call__(self, job_file: Path, log: Path) -> int:
        workers = self._workers(job_file.stem)
        self.calls[job_file.stem] = workers.calls
        try:
            run_job(job_file, workers)
        except GateStopped:
            return 0 if load_job(job_file).job.promotion.stop_succeeds else 3
        except Interrupted:
            return 130
        except RatchetError as error:
            log.write_text(f"noise\nratchet: {error}\n")
            return error.exit_code
        return 0


def run(path: Path, runner: Runner) -> tuple[Plan, list[str], list[str]]:
    """The plan, the runs that failed, and what was said."""
    plan, said = load_plan(path), list[str]()
    return plan, compare(plan, said.append, runner), said


ARMS = {"sft": {}, "irpo": {"seeds": [1, 2]}, "dpo": {}, "star": {}}


@dataclass(frozen=True)
class Finished:
    """A comparison of ARMS, for tests that only read it."""

    plan: Plan
    failed: list[str]
    said: list[str]
    runner: Runner


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home, runner = tmp_path_factory.mktemp("finished"), Runner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATCHET_HOME", str(home))
        return Finished(*run(project(home, arms=ARMS), runner), runner)


# The jobs


def jobs(path: Path) -> dict[str, Any]:
    return {planned.name: planned.file.job for planned in load_plan(path).runs}


def test_a_method_goes_before_the_shared_file_and_set_before_the_method(tmp_path: Path) -> None:
    arms = {
        "irpo": {},
        "star": {"set": {"rounds": 1}},
        "mild": {"method": "dpo", "set": {"loss": {"beta": 0.5}, "pairs.per_prompt": 3}, "seeds": [1, 2]},
    }
    path = project(tmp_path, arms=arms, set=SOLVED | {"train": {"batch_pairs": 5}, "generate.temperature": 0.9})
    shared = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    shared |= {"loss": {"beta": 0.7, "dpo": 0.5, "nll_scope": "prompt+response"}, "init": "previous"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(shared))
    found = jobs(path)
    assert list(found) == ["irpo-seed1", "star-seed1", "mild-seed1", "mild-seed2"]
    irpo, star, mild = found["irpo-seed1"], found["star-seed1"], found["mild-seed2"]
    assert (irpo.loss.beta, irpo.loss.dpo, irpo.rounds) == (0.7, 0.5, 2), "the shared file is of this very method"
    assert (star.loss.dpo, star.loss.nll, star.init, star.generate.hint, star.rounds) == (0, 1, "base", True, 1)
    assert (mild.loss.beta, mild.loss.dpo, mild.loss.nll, mild.rounds) == (0.5, 1, 0, 1)
    assert mild.pairs.per_prompt == 3 and star.pairs.per_prompt == 2
    assert {job.loss.nll_scope for job in found.values()} == {"prompt+response"}, "no row names it"
    assert {(job.train.batch_pairs, job.generate.temperature) for job in found.values()} == {(5, 0.9)}
    assert [job.seed for job in found.values()] == [1, 1, 1, 2]
    assert mild.run_dir == str(tmp_path / "runs/compare/mild-seed2")
    assert {(job.tracking.experiment, job.tracking.uri) for job in found.values()} == {
        ("compare", f"sqlite:///{tmp_path}/runs/mlflow.db")
    }


def test_an_arm_can_be_made_of_another_with_a_merge_key(tmp_path: Path) -> None:
    path = project(tmp_path)
    path.write_text(
        "name: compare\njob: tiny.yaml\narms:\n"
        "  irpo: &irpo\n    set: {train: &train {batch_pairs: 5}}\n"
        "  more: {<<: *irpo, method: irpo, seeds: [2]}\n"
        "  zero: {method: irpo, set: {train: {<<: *train, zero: 0}}}\n"
    )
    found = jobs(path)
    assert [(job.train.batch_pairs, job.train.zero) for job in found.values()] == [(5, None), (5, None), (5, 0)]
    path.write_text(path.read_text().replace("batch_pairs: 5", "batch_pairs: x"))
    with pytest.raises(BadInput, match=r"compare\.yaml:6:3: train\.batch_pairs: must be .* \[arms: more\]"):
        load_plan(path)


def test_a_job_is_no_comparison(tmp_path: Path) -> None:
    path = make_project(tmp_path)
    with pytest.raises(BadInput, match=r"this is a job, without `arms`, and no comparison: `ratchet run "):
        load_plan(path)


def test_each_run_has_an_archive_of_its_own(tmp_path: Path) -> None:
    path = project(tmp_path, arms={"irpo": {"seeds": [1, 2]}}, set={"archive": "s3://bucket/{seed}"})
    with pytest.raises(BadInput, match="archive: each run needs an address of its own"):
        load_plan(path)
    both = jobs(project(tmp_path, arms={"irpo": {"seeds": [1, 2]}}, set={"archive": "s3://bucket/{name}"}))
    filled = {filled_address(job.archive, job.name, job.seed) for job in both.values()}
    assert filled == {"s3://bucket/compare-irpo-seed1", "s3://bucket/compare-irpo-seed2"}


def test_a_list_of_temperatures_gives_way_to_the_one_that_all_arms_have(tmp_path: Path) -> None:
    arms = {"iterative_dpo": {}}
    assert jobs(project(tmp_path, arms=arms))["iterative_dpo-seed1"].generate.temperature_mix == [1.0, 0.7]
    path = project(tmp_path / "b", arms=arms, set={"generate.temperature": 0.8})
    assert jobs(path)["iterative_dpo-seed1"].generate.temperature_mix is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"arms": {"irpo": {"sett": {}}}}, "arms.irpo.sett: unknown key; known here: method, set, seeds, start"),
        ({"arms": {"irp": {}}}, "arms.irp: no method has this name; give `method`"),
        ({"arms": {}}, "arms: "),
        ({"arms": {"irpo": {}}, "seeds": [1, 1]}, "seeds: a seed stands twice"),
        ({"arms": {"irpo": {"set": {"seed": 2}}}}, "arms.irpo.set: `seed` cannot be set here: `seeds` decide it"),
        ({"arms": {"irpo": {"set": {"name": "x"}}}}, "`name` cannot be set here: the arm's name decides it"),
        ({"arms": {"irpo": {"seeds": [2**31]}}}, "arms.irpo.seeds: a seed must be below 2147483648"),
        ({"arms": {"irpo": {}}, "set": {"train.zero": 1, "train": {"zero": 2}}}, "set: `train.zero` stands twice"),
        ({"arms": {"irpo": {}}, "set": {".zero": 1}}, "set: `.zero` is no key"),
        ({"arms": {"irpo": {}}, "set": {"tracking": "mine"}}, "tracking: must be a section of keys (it is 'mine')"),
        (
            {"arms": {"sft": {}, "irpo": {"start": "sft", "set": {"model": "seed"}}}},
            "arms.irpo: `start` gives the base model",
        ),
        ({"arms": {"irpo": {"start": "sft"}, "sft": {}}}, "arms.irpo.start: 'sft' is no arm above this one"),
        (
            {"arms": {"sft": {}, "irpo": {"start": "sft", "seeds": [1, 9]}}},
            "arms.irpo.start: 'sft' has no run with seed 9",
        ),
        ({"arms": {"irpo": {}}, "job": "tini.yaml"}, "job: 'tini.yaml' does not exist"),
        ({"arms": {"irpo": {}}, "set": {"train": {"zero": 7}}}, "train.zero: must be a whole number from 0 to 3"),
        (
            {"arms": {"irpo": {}, "sft": {"set": {"data.solution": None}}}},
            "tiny.yaml: job: `source: gold` needs `data.solution`, the field with the worked gold solution [arms: sft]",
        ),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, said: dict[str, Any], expected: str) -> None:
    path = project(tmp_path, **said)
    with pytest.raises(BadInput) as refused:
        load_plan(path)
    assert expected in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path))


def test_all_mistakes_are_told_at_once_and_nothing_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"irpo": {"set": {"train.epoch": 1}}, "dpo": {"set": {"loss": {"beta": -1}}}}
    path = project(tmp_path, arms=arms)
    assert ratchet("compare", path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "did you mean `epochs`?" in lines[0] and "loss.beta: must be a number above 0" in lines[1]
    path = project(tmp_path, arms={"irpo": {}, "dpo": {"set": {"data.train": "nowhere.jsonl"}}})
    assert ratchet("compare", path) == 2
    told = capsys.readouterr()
    assert "data.train: 'nowhere.jsonl' does not exist" in told.err and told.out == "looking at the jobs of 2 runs\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.full
def test_the_prompts_of_every_arm_are_looked_at_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"irpo": {}, "dpo": {"start": "irpo", "set": {"data.chat": True}}}
    path = project(tmp_path, arms=arms)
    shared = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(shared | {"model": str(PROJECT / "jobs/demo/base")}))
    assert ratchet("compare", path) == 2
    assert "has no chat template; use `chat: false` and `template`" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# Running


def test_runs_take_over_what_is_the_same(finished: Finished) -> None:
    plan, failed, said, runner = finished.plan, finished.failed, finished.said, finished.runner
    assert failed == [] and len(said) == 5
    # 16 shards of gate and test are generated in an evaluation; a round has 2 shards of samples.
    shards = {name: calls["generate"] for name, calls in runner.calls.items()}
    evaluation = 8
    assert shards["sft-seed1"] == 2 * evaluation
    assert shards["irpo-seed1"] == 2 * (2 + evaluation), "the base model's answers are those of the first run"
    assert shards["irpo-seed2"] == 2 * (2 + evaluation)
    assert shards["dpo-seed1"] == evaluation, "and the samples of the first round those of IRPO"
    assert runner.calls["dpo-seed1"]["tokenize"] == 0
    assert {name: verify(plan.folder / name).findings for name in shards} == {name: [] for name in shards}
    by_arm = {arm.arm: arm.runs[0] for arm in figures(plan)}
    assert (by_arm["irpo"].samples, by_arm["irpo"].shared) == (64, 0)
    assert (by_arm["dpo"].samples, by_arm["dpo"].shared) == (32, 32)
    # What was not sampled right was asked for again with a hint, which nobody else does.
    assert by_arm["star"].shared == 32 < by_arm["star"].samples < 64 + 16
    assert "32 samples, 32 of them shared" in next(line for line in said if line.startswith("dpo-seed1"))


def test_sharing_changes_no_result(tmp_path: Path, finished: Finished) -> None:
    run(project(tmp_path, arms={"star": {}}, name="alone"), Runner())
    assert history(tmp_path / "runs/alone/star-seed1") == history(finished.plan.folder / "star-seed1")


def test_an_arm_starts_from_what_another_has_trained(tmp_path: Path) -> None:
    arms = {"sft": {"seeds": [1, 2]}, "after": {"method": "irpo", "start": "sft", "seeds": [2], "set": {"rounds": 1}}}
    plan, failed, _ = run(project(tmp_path, arms=arms), Runner())
    assert failed == []
    kept = Ledger(plan.folder / "after-seed2/ledger").state.commits["baseline/model"]
    assert (kept.facts["run"], kept.facts["round"]) == ("compare-sft-seed2", 1)
    after = figures(plan)[1]
    assert after.start == "sft"
    assert after.runs[0].rounds[0].accuracy == figures(plan)[0].runs[1].rounds[1].accuracy


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    arms: dict[str, Any] = {"sft": {}, "all_right": {"method": "irpo", "start": "sft"}}
    arms |= {"after": {"method": "dpo", "start": "all_right"}, "star": {}}
    path = project(tmp_path, arms=arms)
    runner = Runner(lambda name: StandIns(gain=1.0 if name == "sft-seed1" else 0.2))
    plan, failed, said = run(path, runner)
    assert failed == ["all_right-seed1", "after-seed1"]
    assert "failed: no pairs: round 1 gives no pairs: 8 of its prompts have only correct samples" in said[1]
    assert "cannot start: all_right-seed1 has failed" in said[2]
    assert " finished: " in said[3]
    table = markdown(plan, figures(plan))
    assert "- all_right-seed1: failed: no pairs: round 1" in table and "- after-seed1: missing" in table


@pytest.mark.parametrize("stop_succeeds", [False, True])
def test_the_gates_refusal_is_a_result(tmp_path: Path, stop_succeeds: bool) -> None:
    gate = {"promotion.rule": "not_worse", "promotion.stop_succeeds": stop_succeeds}
    path = project(tmp_path, arms={"irpo": {}}, set=gate)
    shared = make_project(tmp_path, skill=0.9, method="irpo")
    assert shared.exists()
    plan, failed, said = run(path, Runner(lambda name: StandIns(gain=-0.9)))
    assert failed == [] and "stopped by the gate" in said[0]
    arm = figures(plan)[0]
    assert [accuracy.promoted for accuracy in arm.runs[0].rounds] == [True, False]
    assert "\\*" in markdown(plan, [arm])
    again = Runner()
    _, _, said = run(path, again)
    assert again.calls == {} and said[0].startswith("irpo-seed1") and "done before" in said[0]


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, finished: Finished) -> None:
    path = project(tmp_path, arms=ARMS)
    # The third run, in the middle of its only training.
    stop = StopAt(1, Interrupted("SIGTERM"))

    def workers(name: str) -> StandIns:
        here = name == "irpo-seed2"
        return StandIns(gain=gain_of(name), on_call=lambda what: stop(what) if here and what == "train" else None)

    interrupting = Runner(workers)
    with pytest.raises(Interrupted, match="irpo-seed2"):
        run(path, interrupting)
    assert list(interrupting.calls) == ["sft-seed1", "irpo-seed1", "irpo-seed2"]
    runner = Runner()
    plan, failed, said = run(path, runner)
    assert failed == [] and list(runner.calls) == ["irpo-seed2", "dpo-seed1", "star-seed1"]
    assert runner.calls["irpo-seed2"]["generate"] == 8 + 2 + 8, "its first round was sampled already"
    assert all("done before" in line for line in said[:2])
    for planned in plan.runs:
        assert history(plan.folder / planned.name) == history(finished.plan.folder / planned.name)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_moved_away_meanwhile_is_not_made_again(tmp_path: Path, replaced: bool, last: bool) -> None:
    """Also where a run that just began has made another one in its place."""
    plan = load_plan(project(tmp_path, arms={"sft": {}, "dpo": {}}))
    runner = Runner()

    def moved(job_file: Path, log: Path) -> int:
        if job_file.stem == ("dpo-seed1" if last else "sft-seed1"):
            plan.folder.rename(tmp_path / "elsewhere")
            if replaced:
                plan.folder.mkdir()
            return 1
        return runner(job_file, log)

    said = "another folder is in its place" if replaced else "the folder was moved, deleted or unmounted: put it back"
    with pytest.raises(RatchetError, match=said), one_message(plan.folder, CURE):
        compare(plan, str, moved)
    assert plan.folder.exists() == replaced and not (replaced and any(plan.folder.iterdir()))
    for make in (write, plot):
        shutil.rmtree(plan.folder, ignore_errors=True)
        with pytest.raises(FileNotFoundError):
            make(plan, figures(plan))
        assert not plan.folder.exists()


def test_more_rounds_go_on_and_other_settings_are_refused(tmp_path: Path) -> None:
    run(project(tmp_path, arms={"irpo": {"set": {"rounds": 1}}}), Runner())
    runner = Runner()
    plan, _, _ = run(project(tmp_path, arms={"irpo": {"set": {"rounds": 2}}}), runner)
    assert runner.calls["irpo-seed1"]["train"] == 1
    assert [accuracy.round for accuracy in figures(plan)[0].runs[0].rounds] == [0, 1, 2]
    with pytest.raises(BadInput, match=r"irpo-seed1: this run was started with other settings:\n  loss\.beta"):
        run(project(tmp_path, arms={"irpo": {"set": {"loss.beta": 0.3}}}), Runner())


def test_a_run_that_is_driven_is_left_alone(tmp_path: Path) -> None:
    path = project(tmp_path, arms={"irpo": {}})
    refused: list[str] = []

    def during(what: str) -> None:
        if what == "train":
            with pytest.raises(BadInput, match="is driving this run"):
                run(path, Runner())
            refused.append(what)

    run(path, Runner(lambda name: StandIns(on_call=during)))
    assert refused


# Processes


def test_a_process_ends_with_the_exit_code_of_the_run(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("name: x\n")
    assert in_a_process(job, tmp_path / "log") == 2
    assert "ratchet: " in (tmp_path / "log").read_text()


_WAITS = """
import sys
from pathlib import Path
from orchestrator.commands.compare.command import in_a_process
from orchestrator.config.load import load_job
from orchestrator.errors import Interrupted
from orchestrator.driver.signals import signals
sys.executable = sys.argv[1]
with signals():
    try:
        in_a_process(Path("job.yaml"), Path(sys.argv[2]))
    except Interrupted as interrupted:
        print("interrupted by", interrupted)
"""
_CHILD = """#!/bin/sh
trap 'echo told once; exit 130' TERM
echo ready
while :; do sleep 0.05; done
"""


def test_a_signal_reaches_the_run_once_and_its_end_is_waited_for(tmp_path: Path) -> None:
    child, log = tmp_path / "child", tmp_path / "log"
    child.write_text(_CHILD)
    child.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITS, str(child), str(log)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted by SIGINT\n"
    assert log.read_text().splitlines() == ["ready", "told once"]


# The table


def test_the_figures_are_those_of_the_ledgers(finished: Finished) -> None:
    plan = finished.plan
    for arm in figures(plan):
        for found in arm.runs:
            state = Ledger(plan.folder / found.run / "ledger").state
            facts = {step: commit.facts for step, commit in state.commits.items()}
            rounds = range(1, state.configs[-1]["job"]["rounds"] + 1)
            steps = ["baseline/evaluation", *(f"rounds/{n:02d}/evaluation" for n in rounds)]
            assert [accuracy.correct for accuracy in found.rounds] == [facts[step]["test"]["correct"] for step in steps]
            assert found.training_tokens == sum(facts[f"rounds/{n:02d}/train"]["tokens"] for n in rounds)
            assert found.pairs == sum(facts[f"rounds/{n:02d}/pairs"]["pairs"] for n in rounds)
            sampled = [said["samples"] for step, said in facts.items() if step.endswith("/samples")]
            assert found.samples == sum(sampled) and (sampled or arm.arm == "sft")
            assert run_state(plan.folder / found.run, state) == found.state == "finished"


def test_the_table_has_means_over_seeds_and_intervals_of_single_ones(finished: Finished) -> None:
    plan = finished.plan
    irpo, dpo = figures(plan)[1:3]
    each = [found.rounds[2].accuracy for found in irpo.runs]
    assert irpo.points[2].seeds == each and irpo.points[2].accuracy == sum(each) / 2
    assert (irpo.points[2].low, irpo.points[2].high) == (min(each), max(each))
    only = dpo.runs[0].rounds[1]
    assert (dpo.points[1].low, dpo.points[1].high) == (only.low, only.high)
    assert len(irpo.points[0].seeds) == 1, "one base model, answered once"
    lines = markdown(plan, figures(plan)).splitlines()
    row = next(line for line in lines if line.startswith("| irpo "))
    assert f"| {50 * sum(each):.1f} ({100 * each[0]:.1f}, {100 * each[1]:.1f}) |" in row
    row = next(line for line in lines if line.startswith("| dpo "))
    assert f"| {100 * only.accuracy:.1f} [{100 * only.low:.1f}, {100 * only.high:.1f}] |  | 32 | 32 |" in row


def test_the_table_is_made_again_without_running(
    tmp_path: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project(tmp_path, arms=ARMS)
    assert ratchet("compare", path, "--table") == 0, "nothing is there yet"
    assert "–" in capsys.readouterr().out
    plan = load_plan(path)
    shutil.copytree(finished.plan.folder, plan.folder, dirs_exist_ok=True)
    assert ratchet("compare", path, "--table") == 0
    assert "irpo" in capsys.readouterr().out
    files = {name: (plan.folder / name).read_bytes() for name in ("compare.md", "compare.json", "accuracy.svg")}
    assert b"| irpo | irpo | 1, 2 |" in files["compare.md"] and b"<svg" in files["accuracy.svg"]
    arms = json.loads(files["compare.json"])["arms"]
    assert [arm["arm"] for arm in arms] == list(ARMS) and arms[1]["runs"][1]["run"] == "irpo-seed2"
    for name in files:
        (plan.folder / name).unlink()
    write(plan, figures(plan))
    plot(plan, figures(plan))
    assert {name: (plan.folder / name).read_bytes() for name in files} == files


_WITHOUT_MATPLOTLIB = """\
import sys
sys.modules["matplotlib"] = None  # as if it were not installed
from orchestrator.cli import main
main(sys.argv[1:])
"""


def test_without_matplotlib_all_but_the_plot_is_made_and_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    path = project(tmp_path, arms={"sft": {}})
    plan, _, _ = run(path, Runner())
    command = [sys.executable, "-c", _WITHOUT_MATPLOTLIB, "compare", path, "--table"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr
    [said] = [line for line in done.stdout.splitlines() if "not installed" in line]
    assert "pip install 'ratchet-orchestrator[plot]'" in said
    assert sorted(file.name for file in plan.folder.glob("[!.]*.*")) == [
        "compare.json", "compare.md", "sft-seed1.yaml",
    ]  # fmt: skip
    table = (plan.folder / "compare.md").read_text()
    assert "| sft | sft | 1 |" in table and ".svg" not in table
    assert ratchet("compare", path, "--table") == 0
    assert "![Test accuracy by round](accuracy.svg)" in (plan.folder / "compare.md").read_text()
    assert (plan.folder / "accuracy.svg").exists()


def test_accuracies_by_different_versions_of_the_graders_are_told_apart(tmp_path: Path) -> None:
    """Some arms were run by an earlier Ratchet, the others by this one."""
    said = {"method": "irpo", "set": {"rounds": 1}}
    plan = load_plan(project(tmp_path, arms={"one": said, "two": said}))
    one, two = (planned.name for planned in plan.runs)
    compare(plan, lambda _: None, Runner())
    assert "versions of the graders" not in markdown(plan, figures(plan))
    shutil.rmtree(plan.folder)
    compare(plan, lambda _: None, Runner(lambda name: First() if name == one else StandIns(gain=gain_of(name))))
    told = f"graders (version 1: {one}; version {GRADERS_VERSION}: {two}) are not to be compared."
    assert told in markdown(plan, figures(plan))


def test_what_nobody_has_done_is_no_zero(tmp_path: Path) -> None:
    """Of an arm that has not begun, one that was only made, one that failed on its way, and one that is done."""
    path = project(tmp_path, arms={"sft": {}, "irpo": {}, "dpo": {"seeds": [1, 2]}})

    def workers(name: str) -> StandIns:
        return StandIns(on_call=StopAt(1, RuntimeError("a bug")) if name != "sft-seed1" else lambda _: None)

    with pytest.raises(RuntimeError):
        run(path, Runner(workers))
    plan = load_plan(path)
    fork(plan.folder / "sft-seed1", plan.folder / "dpo-seed2")
    write(plan, figures(plan))
    arms = {arm["arm"]: arm["runs"] for arm in json.loads((plan.folder / "compare.json").read_text())["arms"]}
    spent = ("samples", "shared", "training_tokens", "pairs", "seconds")
    states = {found["run"]: found["state"] for runs in arms.values() for found in runs}
    expected = {"sft-seed1": "finished", "irpo-seed1": "failed", "dpo-seed1": "missing", "dpo-seed2": "not started"}
    assert states == expected
    for found in (*arms["irpo"], *arms["dpo"]):
        assert [found[what] for what in spent] == [None] * 5
    assert (arms["sft"][0]["samples"], arms["sft"][0]["shared"]) == (0, 0) and arms["sft"][0]["training_tokens"] > 0
    lines = (plan.folder / "compare.md").read_text().splitlines()
    rows = {line.split()[1]: [cell.strip() for cell in line.split("|")[-6:-1]] for line in lines if line[:2] == "| "}
    assert rows["dpo"] == rows["irpo"] == ["–"] * 5
    assert rows["sft"][:2] == ["0", "0"] and "–" not in rows["sft"]


def budget(job: Any, rounds: int = 1) -> tuple[Any, ...]:
    return (rounds * job.data.prompts_per_round, job.generate.samples, rounds * job.train.token_budget)


def shared(jobs: Iterable[Any]) -> set[str]:
    """What must be the same in all arms."""
    parts = {"data", "evaluate", "grade", "promotion"}
    return {json.dumps(job.model_dump(mode="json", include=parts)) for job in jobs}


def rate(job: Any) -> tuple[float, int, int]:
    return (job.train.learning_rate, job.train.batch_pairs, job.train.warmup_steps)


def test_the_comparison_of_the_demo_has_every_method_and_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    plan = load_plan(Path("jobs/compare.yaml"))
    by_arm = {planned.arm: planned.file.job for planned in plan.runs}
    assert {job.method for job in by_arm.values()} == set(PRESETS)
    assert budget(by_arm.pop("irpo_at_once")) == budget(by_arm["irpo"], rounds=by_arm["irpo"].rounds)
    del by_arm["judge"]  # teaches the base model something else first
    assert len({budget(job) for job in by_arm.values()}) == len(shared(by_arm.values())) == 1
    assert {rate(job) for job in by_arm.values()} == {(3e-5, 32, 5)}


def test_the_comparison_of_variants_has_every_row_and_the_same_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    methods, variants = (load_plan(Path(f"jobs/{name}.yaml")) for name in ("compare", "compare-variants"))
    of_methods = next(planned.file.job for planned in methods.runs if planned.arm == "irpo")
    by_arm = {planned.arm: planned.file.job for planned in variants.runs}
    rows = yaml.safe_load(Path("jobs/methods.yaml").read_text())
    assert {*rows} <= {job.method.rpartition("#")[2] for job in by_arm.values()}
    assert {budget(job) for job in by_arm.values()} == {budget(of_methods)}
    drawn = by_arm.pop("irpo_curriculum")
    undrawn = drawn.model_copy(update={"data": drawn.data.model_copy(update={"curriculum": None})})
    assert drawn.data.curriculum and shared([*by_arm.values(), undrawn]) == shared([of_methods])
    assert rate(by_arm.pop("irpo_lora")) == (1e-3, 32, 5)
    assert {rate(job) for job in by_arm.values()} == {rate(of_methods)}


@pytest.mark.full
def test_the_prompts_of_every_arm_of_the_demo_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    for name in ("compare", "compare-variants"):
        check(load_plan(Path(f"jobs/{name}.yaml")))


def test_every_key_is_in_the_documentation() -> None:
    text = (PROJECT / "docs/compare.md").read_text()
    keys = [*Comparison.model_fields, *(f"arms.NAME.{key}" for key in Arm.model_fields)]
    assert re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE) == keys
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    comparison = Comparison.model_validate(yaml.safe_load(example[1]))
    assert list(comparison.arms) == ["irpo", "dpo", "hot", "step_dpo"]


# What stands in its folder already, which may have been somebody else's


def odd(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        path.symlink_to(path.parent.parent.parent / "victim")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_or_a_log_that_is_no_file_is_not_written_to(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plan = load_plan(project(tmp_path, arms={"irpo": {}}))
    odd(plan.folder / ".lock", kind)
    with pytest.raises(BadInput, match=r"\.lock: is no regular file, and nothing is written there; remove it"):
        compare(plan, print, Runner())
    odd(plan.folder / "irpo-seed1.log", kind)
    with pytest.raises(BadInput, match=r"irpo-seed1\.log: is no regular file, and nothing is written there; remove it"):
        in_a_process(tmp_path / "job.yaml", plan.folder / "irpo-seed1.log")
    assert victim.read_text() == "precious"
