"""The GPU hour itself, with a script in place of nvidia-smi: what is tried, what is told, and what becomes of a part
that fails, hangs, or keeps device memory."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).parent.parent
SCRIPT = PROJECT / "deploy/gpu/hour.py"


@pytest.fixture(scope="module")
def hour() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hour", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hour"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with the MiB that the device of a made-up nvidia-smi has in use."""
    used, tool = tmp_path / "used", tmp_path / "bin/nvidia-smi"
    used.write_text("10")
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\n[ "$1" = topo ] && exit 0\necho "0, $(cat {used})"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    return used


def attempt(hour: ModuleType, folder: Path, code: str, seconds: float = 60.0, **more: object):  # type: ignore[no-untyped-def]
    part = hour.Part("try", "something", more.pop("needs", ()), [[sys.executable, "-c", code]], 60.0, **more)
    return hour.attempt(part, folder / "try.log", seconds, dict(os.environ))


def test_a_part_that_needs_more_devices_is_left_out(hour: ModuleType, tmp_path: Path, device: Path) -> None:
    assert attempt(hour, tmp_path, "", devices=2).outcome == "left out: it needs 2 devices"


def test_figures_and_the_end_of_what_was_said_are_kept(hour: ModuleType, tmp_path: Path) -> None:
    result = attempt(hour, tmp_path, "print('hello'); print('{\"figures\": 1}'); print('{no json')")
    assert result.outcome == "passed" and result.figures == [{"figures": 1}] and "hello" in result.tail


def test_a_part_that_fails_is_told(hour: ModuleType, tmp_path: Path) -> None:
    assert attempt(hour, tmp_path, "import sys; sys.exit(3)").outcome.startswith("failed: exit code 3")


def test_a_part_whose_packages_are_missing_is_left_out(hour: ModuleType, tmp_path: Path) -> None:
    assert attempt(hour, tmp_path, "", needs=("no_such",)).outcome == "left out: no_such not installed"


def test_a_part_that_hangs_is_ended_with_what_it_started(hour: ModuleType, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\n"
        "time.sleep(600)"
    )
    assert attempt(hour, tmp_path, code, seconds=3.0).outcome == "out of time"
    status = Path(f"/proc/{pid.read_text()}/stat")
    for _ in range(100):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("what the part started lives on")


@pytest.mark.parametrize(("after", "outcome"), [("60", "passed"), ("5000", "failed: memory of device 0 was not")])
def test_memory_that_is_not_given_back_is_told(
    hour: ModuleType, tmp_path: Path, device: Path, after: str, outcome: str
) -> None:
    code = f"import pathlib, time; f = pathlib.Path({str(device)!r}); f.write_text('9000'); time.sleep(2.5)\n"
    code += f"f.write_text('{after}')"
    result = attempt(hour, tmp_path, code, memory_back=True)
    assert result.outcome.startswith(outcome)
    assert result.memory_mib == {"0": [10, 9000, int(after)]}


def test_a_machine_without_a_device_is_told(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--out", tmp_path / "out"]
    told = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""})
    assert told.returncode == 2 and "nvidia-smi shows no device" in told.stdout and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--only", "lop"],
            "no such part; there are numerics, training, doctor, generation, loop, again, warm, spread",
        ),
        (["--only", "gsm8k"], "gsm8k needs --model and --data"),
        (["--model", "nowhere"], "there is no config.json in it"),
    ],
)
def test_what_cannot_be_is_refused(
    hour: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        hour.parse(arguments)
    assert said in capsys.readouterr().err


def test_the_report_has_each_part_and_is_made_where_there_is_no_gpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = subprocess.run(
        [sys.executable, SCRIPT, "--cpu", "--out", out, "--only", "numerics"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "numerics: left out: torch sees no CUDA device" in told.stdout
    report = json.loads((out / "report.json").read_text())
    assert [part["name"] for part in report["parts"]] == ["numerics"] and report["machine"]["cores"] > 0
    assert "| numerics |" in (out / "report.md").read_text()


def test_what_engines_served_in_and_how_far_from_the_trainer_is_a_figure(hour: ModuleType, tmp_path: Path) -> None:
    from tests.support.stand_ins import StandIns, make_project, run_job

    class Serving(StandIns):
        def execution(self, of: str) -> dict[str, object]:
            return super().execution(of) | {"generate.dtype": "bfloat16"}

    out = tmp_path / "out"
    run_job(make_project(tmp_path, rounds=1, run_dir=str(out / "runs/small")), Serving())
    [loop] = [part for part in hour.parts(hour.parse(["--out", str(out)])) if part.name == "loop"]
    said = subprocess.run(loop.commands[-1], capture_output=True, text=True, check=True).stdout
    [figure] = hour.objects(said)
    assert figure["step"] == "rounds/01/evaluation" and figure["dtype"] == "bfloat16"
    assert figure["probe"]["mean_difference"] == 0 and figure["probe"]["tokens"] == 2


def test_runs_with_and_without_warm_processes_are_compared(hour: ModuleType, tmp_path: Path) -> None:
    from tests.support.stand_ins import StandIns, make_project, run_job

    class Warm(StandIns):
        def execution(self, of: str) -> dict[str, object]:
            told = {"weights": "in place, after a sleep", "ended": "engine 0 keeps it: its process is ended"}
            return super().execution(of) | (told if of == "generate" else {})

    out = tmp_path / "out"
    [part] = [part for part in hour.parts(hour.parse(["--out", str(out)])) if part.name == "warm"]
    assert [command[-1] for command in part.commands[:2]] == ["cluster.warm=false", "cluster.warm=true"]
    for command, workers in zip(part.commands, (StandIns(), Warm()), strict=False):
        [run] = [word.removeprefix("run_dir=") for word in command if word.startswith("run_dir=")]
        run_job(make_project(tmp_path / Path(run).name, rounds=1, run_dir=run), workers)
    said = subprocess.run(part.commands[-1], capture_output=True, text=True, check=True).stdout
    cold, warm = hour.objects(said)
    assert (cold["run"], cold["weights"], cold["ended"]) == ("cold", [], []) and cold["seconds"] >= 0
    assert (warm["run"], warm["weights"]) == ("warm", ["in place, after a sleep"]) and len(warm["ended"]) == 1


def test_the_round_of_gsm8k_has_settings_of_the_job(hour: ModuleType, tmp_path: Path) -> None:
    from orchestrator.config.load import load_job

    (tmp_path / "data").mkdir()
    rows = "".join(json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(200))
    (tmp_path / "data/train.jsonl").write_text(rows)
    model = ["--model", str(PROJECT / "jobs/demo/base"), "--data", str(tmp_path / "data")]
    options = hour.parse(["--out", str(tmp_path / "out"), *model])
    hour.cut(options.data / "train.jsonl", options.out / "data")
    command = hour.parts(options)[-1].commands[0]
    assert command[1:5] == ["-m", "orchestrator", "run", "jobs/irpo-gsm8k.yaml"]
    loaded = load_job(PROJECT / command[4], command[5:]).job
    assert loaded.rounds == 1 and loaded.train.max_steps == 8
    assert len((tmp_path / "out/data/gate.jsonl").read_text().splitlines()) == 64
