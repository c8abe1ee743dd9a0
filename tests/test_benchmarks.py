"""Benchmarks print one form of report, and a report is compared with a recorded one figure by figure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, dispatch, driver, grading, ledger, localisation, measured, memory, peers, watch
from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger

PROJECT = Path(__file__).parent.parent


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: Any, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", [module.__name__, *words, "--json"])
    module.main()
    return json.loads(capsys.readouterr().out)


def test_ratios_of_all_figures_and_what_was_not_alike(tmp_path: Path) -> None:
    old = measured.report("ledger", {"records": 10}, {"cpu_seconds": {"read": 2.0, "gone": 1.0}, "errors": 0})
    new = measured.report("ledger", {"records": 20}, {"cpu_seconds": {"read": 3.0, "added": 1.0}, "errors": 0})
    new["machine"] |= {"cpu": "another", "load_per_core": 7.5}
    lines = [line.split() for line in compare.compare(old, new).splitlines()]
    assert ["cpu_seconds", "/", "read", "2", "3", "1.500"] in lines and ["errors", "0", "0", "same"] in lines
    assert ["cpu_seconds", "/", "gone", "1", "-", "-"] in lines and [
        "cpu_seconds",
        "/",
        "added",
        "-",
        "1",
        "-",
    ] in lines
    text = compare.compare(old, new)
    assert "setting records: 10 -> 20" in text and f"machine cpu: {old['machine']['cpu']} -> another" in text
    assert "7.5 tasks a core (busy)" in text
    with pytest.raises(ValueError, match="nothing to compare"):
        compare.compare(old, new | {"benchmark": "grading"})


def test_a_new_report_is_read_from_a_pipe_and_what_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(measured.report("ledger", {}, {"seconds": 4.0})))
    new = json.dumps(measured.report("ledger", {}, {"seconds": 1.0}))

    def run(given: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.compare", str(file)]
        return subprocess.run(command, input=given, capture_output=True, text=True, cwd=PROJECT, check=False)

    assert run(new).stdout.splitlines()[-1].split() == ["seconds", "4", "1", "0.250"]
    for bad in ("[]", "{}", "nothing"):
        assert (refused := run(bad)).returncode == 2 and "Traceback" not in refused.stderr


def test_figures_are_held_to_the_tolerance_of_their_baseline() -> None:
    old = {"figures": {"a": {"x": 2.0, "y": 10.0}, "gone": 1.0, "free": 5.0}}
    old["tolerance"] = {"a / x": [0.9, 1.5], "a / y": [1, 1], "gone": [0, 9], "never": [0, 9]}
    new = {"figures": {"a": {"x": 3.0, "y": 10.0}, "free": 500.0}}
    assert list(watch.out_of_bounds(old, new)) == [
        "gone: it is not measured any more",
        "never: no figure of this name is recorded",
    ]
    new["figures"]["a"] = {"x": 3.1, "y": 9.9}
    assert list(watch.out_of_bounds(old, new))[:2] == [
        "a / x: 3.1, and 0.9 to 1.5 of 2 is allowed",
        "a / y: 9.9, and 1 to 1 of 10 is allowed",
    ]


@pytest.mark.parametrize("name", watch.known())
def test_a_baseline_says_how_it_is_made_again(name: str) -> None:
    baseline = compare.read(str(watch.known()[name]))
    command, tolerance = baseline["command"], baseline["tolerance"]
    assert command[0] == f"benchmarks.{baseline['benchmark']}" and (PROJECT / f"benchmarks/{name}.py").is_file()
    assert tolerance and list(watch.out_of_bounds(baseline, baseline)) == [], "each names figures that are recorded"


def test_a_baseline_that_is_not_known_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["watch", "nothing"])
    with pytest.raises(SystemExit, match="2"):
        watch.main()
    assert "nothing: not among dispatch" in capsys.readouterr().err


def test_cpu_seconds_count_children_that_live_and_that_have_ended() -> None:
    def of_others() -> float:
        own = time.process_time()
        return measured.cpu_seconds() - own

    before = of_others()
    work = "sum(range(3_000_000)); print(flush=True); input()"  # and the interpreter's own start
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        alive = of_others()
        child.communicate(b"\n")
    assert before + 0.01 < alive <= of_others() + 0.02  # clock ticks of a hundredth


LONG = {"generation", "round", "driver"}  # which take minutes, or have a test of their own
RECORDED = {file.stem for file in (PROJECT / "benchmarks/baselines").glob("*.json")}


@pytest.mark.parametrize("name", sorted(RECORDED - LONG))
def test_recorded_baselines_have_the_figures_that_the_benchmark_prints(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "ledger": (ledger, "--records", "50"),
        "localisation": (localisation, "--chains", "5"),
        "grading": (grading, "--samples", "8", "--repeats", "1"),
        "dispatch": (dispatch, "--prompts", "20"),
    }
    recorded = json.loads((PROJECT / f"benchmarks/baselines/{name}.json").read_text())
    now = printed(capsys, monkeypatch, *small[name])
    assert recorded["benchmark"] == name and recorded["machine"].keys() == now["machine"].keys()
    assert [figure for figure, _ in compare.numbers(recorded["figures"])] == [
        figure for figure, _ in compare.numbers(now["figures"])
    ]


def test_the_documented_sizes_are_those_that_are_printed() -> None:
    lines = (PROJECT / "docs/clusters.md").read_text().splitlines()
    shown = [line for line in lines if line.startswith(tuple(f"| {name} |" for name in memory.MODELS))]
    assert len(shown) > 5 and set(shown) <= set(memory.sizes())


def test_pairs_for_the_trainer_and_its_peer_are_zipped_from_worked_solutions(tmp_path: Path) -> None:
    problems = [{"question": f"What is {n} + 1?", "answer": f"It is <<{n}+1>>{n}1.\n#### {n}1"} for n in range(9)]
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    words = ["--gsm8k", str(file), "--prompts", "3", "--samples", "5", "--pairs-per-prompt", "4"]
    rows = peers.make_rows(peers.parse(words))
    assert rows == peers.make_rows(peers.parse(words)) and len(rows) == 12
    assert len({tuple(prompt) for _, prompt, _, _ in rows}) == 3
    for _, prompt, chosen, rejected in rows:
        assert chosen != rejected and peers.EOS not in (*prompt, *chosen[:-1], *rejected[:-1])
        assert chosen[-1] == rejected[-1] == peers.EOS


def test_the_trainer_beside_its_peer_in_ratios_of_the_same_turn() -> None:
    def passed(seconds: float, peak: float) -> dict[str, Any]:
        parts = {"reference": seconds / 4, "train": seconds * 3 / 4}
        return {"parts": parts, "cpu_seconds": seconds, "peak_gib": peak, "loss": 1.0}

    turns = {
        "trl": [passed(40, 8), passed(60, 9), passed(90, 8)],
        "pairs": [passed(10, 4), passed(20, 4), passed(15, 3)],
    }
    found = peers.figures(turns)
    assert found["pairs"]["times_as_fast_as_trl"] == 4.0 and found["pairs"]["memory_of_trl"] == 0.44
    assert found["trl"]["cpu_seconds"] == 60 and found["trl"]["reference_cpu_seconds"] == 15
    assert not any("times" in name for name in found["trl"])


@pytest.mark.full
def test_what_the_driver_costs_is_measured_on_a_real_run(tmp_path: Path) -> None:
    found = driver.figures(tmp_path / "project", prompts=300, samples=2)
    assert list(found) == list(driver.STEPS)
    assert all(row["cpu_seconds"] > 0 and row["peak_gib"] > 0.01 for row in found.values())
    recorded = json.loads((PROJECT / "benchmarks/baselines/driver.json").read_text())
    assert [name for name, _ in compare.numbers(recorded["figures"])] == [name for name, _ in compare.numbers(found)]
    half = {step: row | {"peak_gib": row["peak_gib"] / 2} for step, row in found.items()}
    more = driver.a_prompt(found, 300, half, 200)
    assert more["verify"] == round(found["verify"]["peak_gib"] * 2**30 / 200)
    commits = Ledger(tmp_path / "project/run/ledger").state.commits
    assert commits["rounds/01/samples"].facts["samples"] == 600 and commits["rounds/01/pairs"].facts["pairs"] > 0
    assert verify(tmp_path / "project/run").findings == []
