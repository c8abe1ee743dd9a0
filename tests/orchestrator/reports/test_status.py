"""`status`, the terminal's table and the report, over ledgers written through the real ledger."""

from __future__ import annotations

import io
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.commands.gc import waste
from orchestrator.config import Loss, SelfRewarding
from orchestrator.driver.drive import identity
from orchestrator.errors import BadInput
from orchestrator.files.processes import pid_namespace, process_start
from orchestrator.ledger.run import Run
from orchestrator.reports.report import write_report
from orchestrator.reports.status import intervals, render, status
from orchestrator.sources.registry import SOURCES
from tests.support.sample_run import DEAD_PID, NUM_STEPS, SampleRun, training_metrics, two_rounds


def sign_of_life(run: SampleRun, **changes: Any) -> Path:
    driver = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": process_start(os.getpid())}
    file = run.root / "driver.json"
    file.write_text(json.dumps({**driver, "started": "2025-01-01T00:00:00Z", **changes}))
    return file


def test_a_finished_run(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "runs" / "sample")
    found = status(run.root)
    keys = ["name", "state", "reason", "reference", "seed", "parent", "archive", "dashboard"]
    keys += ["baseline", "baseline_unsolved", "rounds", "rollbacks"]
    assert list(found) == keys and found["archive"] is None
    assert found["name"] == "sample" and found["state"] == "finished" and found["baseline"] == 0.4
    assert found["reference"] == str(tmp_path / "runs/sample/rounds/02/checkpoint")
    assert [row["round"] for row in found["rounds"]] == [1, 2]
    second = found["rounds"][1]
    phases, figures = second.pop("seconds"), second.pop("health")
    assert figures["pass_1"] == 0.5 and figures["pass_n"] == pytest.approx(5 / 6) and figures["sample_tokens"] == 21.0
    assert second == {
        "round": 2,
        "promoted": True,
        "samples": 24,
        "correct": 12,
        "wrong": 6,
        "ungradable": 6,
        "causes": {},
        "pairs": 6,
        "accuracy": 0.75,
        "tests": {},
        "unsolved": {"truncated": 1},
        "taken_over": [],
        "halved": {},
        "gate": "promoted: 12 problems newly solved, 3 lost, of 100; +9.0 points (95 % interval [1.1, 16.6])",
        "warnings": [
            "25 % of the samples are ungradable (truncated, or the grader failed): look at their reasons, and at "
            "`generate.max_tokens`."
        ],
    }
    assert phases["samples"] == 3.0 and phases["train"] == 6.0 and phases["evaluation"] == 2.0
    json.dumps(found, allow_nan=False)


def test_a_round_in_progress_is_counted_by_its_shards(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    assert status(run.root)["rounds"] == [] and status(run.root)["baseline"] is None
    assert status(run.root)["reference"] == "/models/seed"
    run.baseline()
    run.prompts(1)
    run.samples_and_verdicts(1, num_shards=1, finish=False)
    row = status(run.root)["rounds"][0]
    assert (row["samples"], row["correct"], row["wrong"], row["ungradable"]) == (12, 3, 6, 3)
    assert row["pairs"] is None and row["promoted"] is None and row["accuracy"] is None
    assert "samples" not in row["seconds"]


def test_committed_facts_replace_the_shards(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.samples_and_verdicts(1)
    assert status(run.root)["rounds"][0]["samples"] == 24


def test_the_reference_after_a_refusal_and_of_a_kept_base_model(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    assert status(run.root)["reference"] == "/models/seed"
    run.promote(1, promoted=False, reference="baseline/model")
    found = status(run.root)
    assert found["reference"] == str(run.root / "baseline/model") and found["rounds"][0]["promoted"] is False
    run.promote(2)
    assert status(run.root)["reference"] == str(run.root / "rounds/02/checkpoint")


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed", "stopped"])
def test_a_driver_that_says_how_it_ended_is_believed(tmp_path: Path, state: str) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.end(state)
    sign_of_life(run)
    assert status(run.root)["state"] == state
    run.claim(pid=os.getpid(), host=socket.gethostname(), process_start=process_start(os.getpid()))
    assert status(run.root)["state"] == "running"
    (run.root / "driver.json").unlink()  # an older driver took it away: the claim names the process too
    assert status(run.root)["state"] == "running"


def test_running_is_told_from_dead_by_process_and_start(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    assert status(run.root)["state"] == "interrupted"  # no sign of life
    sign_of_life(run)
    assert status(run.root)["state"] == "running"
    sign_of_life(run, process_start=process_start(os.getpid()) - 5)  # the number was given out again
    assert status(run.root)["state"] == "interrupted"
    sign_of_life(run, pid=DEAD_PID)
    assert status(run.root)["state"] == "interrupted"
    (run.root / "driver.json").write_text("{half")
    assert status(run.root)["state"] == "interrupted"


def test_a_driver_elsewhere_is_alive_while_its_file_is_fresh(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    file = sign_of_life(run, host="elsewhere", pid=DEAD_PID)
    assert status(run.root)["state"] == "running"
    old = time.time() - 120
    os.utime(file, (old, old))
    assert status(run.root)["state"] == "interrupted"


def test_a_driver_in_a_container_that_has_its_hosts_name_is_none_of_our_processes(tmp_path: Path) -> None:
    """Its number is another process's here, or nobody's: it is alive while its file is fresh, and `gc` lets it be."""
    run, elsewhere = SampleRun(tmp_path / "sample"), 1 + (pid_namespace() or 0)
    run.claim()
    for pid in (os.getpid(), DEAD_PID):
        file = sign_of_life(run, pid=pid, pid_namespace=elsewhere)
        assert status(run.root)["state"] == "running"
        with pytest.raises(BadInput, match="is driving this run"):
            waste(run.root)
        old = time.time() - 120
        os.utime(file, (old, old))
        assert status(run.root)["state"] == "interrupted"
    sign_of_life(run, pid_namespace=pid_namespace())
    assert status(run.root)["state"] == "running"


def test_what_a_driver_says_of_itself_names_its_process(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.claim(identity())
    assert status(run.root)["state"] == "running"
    assert identity().items() >= {"pid": os.getpid(), "pid_namespace": pid_namespace()}.items()


def test_a_zombie_is_dead() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        deadline = time.monotonic() + 10
        while process_start(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process_start(pid) is None
    finally:
        os.waitpid(pid, 0)


def test_no_such_run_names_those_nearby(tmp_path: Path) -> None:
    two_rounds(tmp_path / "runs" / "irpo-small")
    with pytest.raises(BadInput, match=r"no such run.*irpo-small.*Did you mean irpo-small\?"):
        status(tmp_path / "runs" / "irpo-smal")
    with pytest.raises(BadInput, match=r"no ledger.*irpo-small"):
        status(tmp_path / "runs")
    (tmp_path / "runs" / "file").write_text("")
    with pytest.raises(BadInput, match="a run is a folder"):
        status(tmp_path / "runs" / "file")
    (tmp_path / "begins/ledger").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"its ledger has no record yet: .* `ratchet run JOB` begins it"):
        status(tmp_path / "begins")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no runs"):
        status(tmp_path / "empty" / "x" / "y")
    assert not (tmp_path / "empty" / "x").exists()


def text_of(renderable: Any) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_the_table_shows_accuracy_interval_and_gain(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    text = text_of(render(status(run.root), intervals(run.root)))
    lines = [line for line in text.splitlines() if line.strip().startswith(("1", "2", "base"))]
    assert "40.0" in lines[0] and "[30.9, 49.8]" in lines[0]
    assert "60.0" in lines[1] and "+20.0" in lines[1] and "yes" in lines[1]
    assert "75.0" in lines[2] and "+15.0" in lines[2] and lines[2].split()[-2:] == ["s", "yes"]
    assert "–" not in text_of(render(status(run.root)))


def test_the_table_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.samples_and_verdicts(1, num_shards=1, finish=False)
    assert "interrupted" in text_of(render(status(run.root), intervals(run.root)))


def test_what_has_not_run_is_not_told_as_none(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.prompts(1)
    counts = ("samples", "correct", "wrong", "ungradable", "pairs")
    [row] = status(run.root)["rounds"]
    assert [row[key] for key in counts] == [None] * 5
    [line] = [line for line in text_of(render(status(run.root))).splitlines() if line.strip().startswith("1 ")]
    assert line.split()[1:6] == ["–"] * 5
    assert "| 1 | – | – | – | – |" in write_report(run.root, SOURCES).read_text()


def test_the_report(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    file = write_report(run.root, SOURCES)
    text = file.read_text()
    assert file == run.root / "report.md"
    assert "40.0 [30.9, 49.8] before, 75.0 [65.7, 82.5] after round 2 (+35.0 points)" in text
    assert "| 2 | 75.0 [65.7, 82.5] | 75.0 [65.7, 82.5] | 21.0 | 1 |  | 0.0031 |" in text
    found_by = "number 6, pattern:answer=(\\\\d+)% 0"
    assert f"| 1 | 24 | 6 | 12 | 6 |  | {found_by} | 83.3 | 3.00 | 21.0 | 7 |  | 4 / 1 / 1 |" in text
    assert "| 1 | yes | not_worse | 12 | 3 | 0.97 | 0.05 | 5.0 points |" in text
    assert f"| 1 | 7 | {NUM_STEPS} | 5,000 | 9,000 | 833 | 20.5 | 22.2 |" in text
    [training] = [line for line in text.splitlines() if line.startswith(f"| 1 | 7 | {NUM_STEPS} |")]
    assert training.endswith("| 0.94 |"), "the reward accuracy of the last quarter, and not of the first"
    assert "25 % of the samples are ungradable" in text
    file.unlink()
    assert write_report(run.root, SOURCES).read_text() == text


def test_the_report_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    assert "State: interrupted" in write_report(run.root, SOURCES).read_text()
    run.configure()
    run.baseline()
    run.prompts(1)
    text = write_report(run.root, SOURCES).read_text()
    assert "| base | 40.0 [30.9, 49.8]" in text and "None shows" in text


def test_the_report_outlives_its_files(tmp_path: Path) -> None:
    run = two_rounds(tmp_path / "sample")
    (run.root / "rounds/01/train/metrics.parquet").unlink()
    assert "| 1 | 7 | 12 | 5,000 |" in write_report(run.root, SOURCES).read_text()


def warnings_of(run: SampleRun) -> str:
    return write_report(run.root, SOURCES).read_text().partition("## Known ways")[2]


def test_symptoms_in_training(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.train(1)
    assert "None shows" in warnings_of(run)
    falling = [-20.0 - step for step in range(NUM_STEPS)]
    late_start = [0.2] * NUM_STEPS
    broken = [float("nan"), *[1.0] * (NUM_STEPS - 1)]
    bad = {"chosen_logprob": falling, "dpo_loss": late_start, "nll_loss": broken}
    run.train(2, {**training_metrics(), **bad})
    found = warnings_of(run)
    assert "Round 2: the chosen completions' log-probability fell" in found
    assert "Round 2: the first update's DPO loss is 0.200, not log 2" in found
    assert "Round 2: nll_loss is no finite number in 1 update:" in found
    assert "Round 1" not in found


def test_symptoms_in_samples_and_evaluation(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.baseline()
    for number, mixed, right, tokens, correct in [(1, 90, 5, 2000, 60), (2, 10, 70, 3000, 20)]:
        wrong = 100 - mixed - right
        split = {"prompts_mixed": mixed, "prompts_all_correct": right, "prompts_all_wrong": wrong}
        solved = {"pass_any": (mixed + right) / 100}
        run.commit(f"rounds/{number:02d}/samples", {"samples": 100, "tokens": tokens, "seconds": 1.0})
        run.commit(f"rounds/{number:02d}/pairs", {"pairs": mixed, **split, **solved, "seconds": 1.0})
        run.evaluate(number, correct)
    found = warnings_of(run)
    assert "Round 2: only 10 % of the prompts give pairs, most others' samples are all right" in found
    assert "Round 2: samples have grown from 20 to 30 tokens" in found
    assert "Round 2: pass@N fell from 95.0 to 80.0 %" in found
    assert "Round 2: test accuracy fell to 20.0 %" in found
    assert "Round 1" not in found


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"prompts_mixed": 2, "prompts_all_correct": 90, "prompts_all_wrong": 8, "prompts_paired": 92}, None),
        ({"prompts_mixed": 3, "prompts_all_correct": 1, "prompts_all_wrong": 96, "prompts_paired": 4}, "all wrong"),
        ({"prompts_mixed": 9, "prompts_tied": 91, "prompts_paired": 9}, "all of the same score"),
        ({"prompts_mixed": 60, "prompts_tied": 40, "prompts_paired": 60}, None),
    ],
    ids=["imitation", "few to imitate", "a judge that likes all", "a judge"],
)
def test_pairs_run_dry_where_prompts_give_none(tmp_path: Path, facts: dict[str, int], said: str | None) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    run.commit("rounds/01/pairs", {"pairs": facts["prompts_paired"], **facts, "seconds": 1.0})
    found = warnings_of(run)
    assert (f"give pairs, most others' samples are {said}" in found) if said else "None shows" in found


def test_prompts_with_pairs_of_steps_are_not_taken_for_the_mixed_ones(tmp_path: Path) -> None:
    """Any prompt with a wrong sample gives pairs of its steps; earlier versions told of mixed ones alone."""
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure()
    facts = {"prompts_mixed": 3, "prompts_all_correct": 1, "prompts_all_wrong": 96, "pass_any": 0.04, "errors": 400}
    run.commit("rounds/01/pairs", {"pairs": 90, **facts, "seconds": 1.0})
    assert "None shows" in warnings_of(run)
    assert "prompts_paired" not in status(run.root)["rounds"][0]["health"]
    run.commit("rounds/02/pairs", {"pairs": 90, **facts, "prompts_paired": 80, "seconds": 1.0})
    assert "None shows" in warnings_of(run) and status(run.root)["rounds"][1]["health"]["prompts_paired"] == 0.8
    run.commit("rounds/03/pairs", {"pairs": 4, **facts, "prompts_paired": 4, "seconds": 1.0})
    assert "only 4 % of the prompts give pairs of reasoning steps: pairs run dry" in warnings_of(run)


def test_the_squared_loss_begins_elsewhere_than_log_2(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure(loss=Loss(form="squared"))
    run.train(1, {**training_metrics(), "dpo_loss": [500_000.0] * NUM_STEPS})
    assert "None shows" in warnings_of(run)


def test_the_report_tells_the_settings_that_count(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    job = run.job
    run.configure(
        generate=job.generate.model_copy(update={"temperature_mix": [1.0, 0.7]}),
        train=job.train.model_copy(update={"token_budget": 5000}),
    )
    settings = write_report(run.root, SOURCES).read_text().partition("## Job")[2].partition("## Accuracy")[0]
    assert "| temperatures in turn | 1.0, 0.7 |" in settings and "| temperature |" not in settings
    assert "| training tokens a round | 5000 |" in settings and "| epochs |" not in settings
    assert "| source | sample |" in settings


def test_a_model_that_hardly_judges_is_told(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "sample")
    run.claim()
    run.configure(source=SelfRewarding())
    for number, scored in ((1, 60), (2, 40)):
        folder = f"rounds/{number:02d}"
        run.commit(f"{folder}/judged/samples", {"samples": 100, "quarantined": ["p#0"] * (number - 1), "seconds": 1.0})
        run.commit(f"{folder}/scores", {"judgements": scored, "scored": 30, "mean_score": 3.0, "seconds": 1.0})
    found = warnings_of(run)
    assert "Round 2: only 40 % of the model's judgements hold a score" in found
    assert "Round 2: 1 prompt without the judgement that they ask for, since" in found
    assert "Round 1" not in found


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (80, ["round", "samples", "correct", "wrong", "ungr.", "pairs", "test", "95", "%", "gain", "time", "promoted"]),
        (60, ["round", "pairs", "test", "95", "%", "gain", "time", "promoted"]),
        (40, ["round", "test", "gain", "promoted"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_whole_figures(tmp_path: Path, width: int, headings: list[str]) -> None:
    run, text = two_rounds(tmp_path / "r"), io.StringIO()
    Console(file=text, width=width).print(render(status(run.root), intervals(run.root)))
    assert headings in [line.split() for line in text.getvalue().splitlines()]
    assert "…" not in text.getvalue() and "75.0" in text.getvalue()


def test_why_a_run_ended_so(tmp_path: Path) -> None:
    run = SampleRun(tmp_path / "r")
    run.claim()
    assert status(run.root)["reason"] == "its driver died without a word"
    assert "None" not in text_of(render(status(run.root)))  # there is no reference yet
    run.configure()
    run.end("failed", "no pairs: \x1b[31mnone")
    assert status(run.root)["reason"] == "no pairs: \x1b[31mnone"
    assert "failed: no pairs: " in text_of(render(status(run.root))).splitlines()[0]
    assert "\x1b" not in text_of(render(status(run.root)))
    assert status(two_rounds(tmp_path / "finished").root)["reason"] is None
