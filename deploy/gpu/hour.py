#!/usr/bin/env python3
"""The GPU hour: what only a GPU can show, tried part by part, in one report.

    make gpu-hour
    python deploy/gpu/hour.py [--out FOLDER] [--only PART ...] [--model FOLDER --data FOLDER] [--minutes 60]

It needs Python alone. A part whose packages are missing is left out and the report says which, so that a machine with
no more than torch, transformers and pytest shows the numerical ones. The report is written again after every part:
whoever runs out of time has what there was. Device memory is read each second, so that a part's peak, and what is
still taken after it, stand beside its result. `--cpu` tries the parts themselves on a machine without a GPU, as small
as can be: its figures mean nothing.

`report.md` is for people and `report.json` holds the same, with what each benchmark printed; `PART.log` is all that a
part said. The exit code is 1 where a part failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
NUMERICAL = ("torch", "transformers", "pyarrow", "psutil")
STACK = (*NUMERICAL, "ray", "vllm", "deepspeed", "pydantic")
LINES = 40
"""Of the end of a part's log, in the report."""


SERVED = """
import json, pathlib, sys
for file in sorted(pathlib.Path(sys.argv[1], "ledger").glob("*.json")):
    data = json.loads(file.read_text())["data"]
    facts = data.get("facts", {})
    if facts.get("probe"):
        served = facts["executed"].get("generate.dtype")
        print(json.dumps({"step": data["step"], "dtype": served, "probe": facts["probe"]}))
"""
"""Prints of a run in what number format its engines served, and how far they were from the trainer, in nats a token."""

WARM = """
import json, pathlib, sys
for run in map(pathlib.Path, sys.argv[1:]):
    records = [json.loads(file.read_text()) for file in sorted((run / "ledger").glob("*.json"))]
    executed = [record["data"].get("facts", {}).get("executed", {}) for record in records]
    told = {key: sorted({one[key] for one in executed if one.get(key)}) for key in ("weights", "ended")}
    print(json.dumps({"run": run.name, "seconds": round(records[-1]["time"] - records[0]["time"], 1), **told}))
"""
"""Prints of runs how many seconds they took from the first record to the last, how weights came into engines, and which
processes ended since they gave no memory back."""


@dataclass(frozen=True)
class Part:
    """One thing to try: the commands that do it, one after the other."""

    name: str
    shows: str
    needs: tuple[str, ...]
    commands: list[list[str]]
    seconds: float
    """Most that it may take."""
    memory_back: bool = False
    """Whether all device memory must be free again after it."""
    devices: int = 0
    """So many it needs."""


@dataclass
class Result:
    """What came of a part."""

    name: str
    shows: str
    outcome: str
    """`passed`, `failed`, `out of time`, or `left out` with the reason."""
    seconds: float = 0.0
    memory_mib: dict[str, list[int]] = field(default_factory=dict)
    """Of each device what was taken before the part, at most, and after it."""
    figures: list[Any] = field(default_factory=list)
    """The JSON objects that its benchmarks printed."""
    tail: str = ""


def parts(options: argparse.Namespace) -> list[Part]:
    """What is tried, cheap and certain things first."""
    python, out = sys.executable, options.out
    small = ["--prompts", "4", "--repeats", "1"] if options.cpu else []
    device = ["--device", "cpu" if options.cpu else "cuda"]
    long = [] if options.cpu else ["--prompt-tokens", "200", "--completion-tokens", "300", "--tokens-per-microbatch"]
    ladder = [["demo", *(["16384"] if long else [])]]
    ladder += [[name, tokens] for name in ("135m", "1b") for tokens in ("4096", "16384") if long]
    ladder += [["1b", "16384", *how] for how in (["--compile"], ["--attention", "varlen"]) if long]
    training = [
        [python, "-m", "benchmarks.training", "--json", *device, *small, "--model", name, *long, *tokens]
        for name, *tokens in ladder
    ]
    generation = [[python, "-m", "benchmarks.generation", "--json", *device, *small]]
    if options.model:
        generation.append([*generation[0], "--model", str(options.model)])
    run = out / "runs/small"
    job = [python, "-m", "orchestrator", "run", "jobs/irpo.yaml", "tracking.enabled=false"]
    job += ["data.prompts_per_round=48", "generate.samples=4"] if options.cpu else []
    verify = [python, "-m", "orchestrator", "verify", str(run)]
    small_run, wide_run = [*job, f"run_dir={run}"], [*job, f"run_dir={run}-2", "generate.tensor_parallel=2"]
    cold, warm = out / "runs/cold", out / "runs/warm"
    found = [
        Part("numerics", "compiled attention, forward and backward, against sdpa and a CPU", (*NUMERICAL, "pytest"),
             [[python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/workers/numerics/test_gpu.py"]], 900),
        Part("training", "trees of completions against padded pairs, at several sizes", NUMERICAL, training, 1200),
        Part("doctor", "what the cluster and its drivers say of the job", STACK,
             [[python, "-m", "orchestrator", "doctor", "jobs/irpo.yaml", "tracking.enabled=false"]], 600),
        Part("generation", "the generator against the raw engine", STACK, generation, 900),
        Part("loop", "one round: engine (in bfloat16) and ranks take turns, and memory is given back", STACK,
             [[*small_run, "rounds=1"], verify, [python, "-c", SERVED, str(run)]], 900, memory_back=True),
        Part("again", "a second round of the same run: what was compiled for the first serves its engines, too", STACK,
             [[*small_run, "rounds=2"], verify], 900, memory_back=True),
        Part("warm", "two rounds with new processes for each phase, and two with processes that outlive it: which is"
             " faster, what each leaves on the device, and whether engines wake with the right weights", STACK,
             [[*job, f"run_dir={cold}", "rounds=2", "cluster.warm=false"],
              [*job, f"run_dir={warm}", "rounds=2", "cluster.warm=true"],
              [python, "-c", WARM, str(cold), str(warm)]], 1800, memory_back=True),
        Part("spread", "a round whose engine is spread over two devices", STACK,
             [[*wide_run, "rounds=1"]], 900, memory_back=True, devices=2),
    ]  # fmt: skip
    if options.model and options.data:
        found.append(gsm8k(options))
    return found


def gsm8k(options: argparse.Namespace) -> Part:
    """One small round of jobs/irpo-gsm8k.yaml on one device."""
    run, data = options.out / "runs/gsm8k", options.out / "data"
    settings = {
        "model": Path(options.model).resolve(),
        "data.train": data / "train.jsonl",
        "data.gate": data / "gate.jsonl",
        "data.test": data / "test.jsonl",
        "data.id": None,
        "rounds": 1,
        "generate.samples": 8,
        "generate.temperature": 0.8,
        "generate.engines": 1,
        "train.ranks": 1,
        "train.zero": 1,
        "train.max_steps": 8,
        "train.eval_every": None,
        "train.select": "last",
        "train.retrain": False,
        "tracking.enabled": False,
        "run_dir": run,
    }
    told = [f"{key}={value if isinstance(value, str | Path) else json.dumps(value)}" for key, value in settings.items()]
    python = [sys.executable, "-m", "orchestrator"]
    commands = [[*python, "run", "jobs/irpo-gsm8k.yaml", *told], [*python, "verify", str(run)]]
    return Part("gsm8k", "a small round of jobs/irpo-gsm8k.yaml", STACK, commands, 1800, memory_back=True)


def cut(file: Path, folder: Path, count: int = 64) -> None:
    """Write a file's first problems as those to train on, the next as the gate's, those after as the test's."""
    folder.mkdir(parents=True)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, name in enumerate(("train", "gate", "test")):
        rows = lines[number * count : (number + 1) * count]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")


def asked(*command: str) -> str:
    """What a command of the system says; empty where there is none, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except subprocess.TimeoutExpired:
        return ""


def machine() -> dict[str, Any]:
    """Driver, devices and what is between them, compiler, shared memory, versions."""
    code = "import torch as t; print(t.__version__, t.version.cuda, t.cuda.is_available(), t.cuda.device_count())"
    fit = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from workers import cuda; print(*cuda.lines(cuda.seen()))"
    shared = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    names = ("torch", "transformers", "ray", "vllm", "deepspeed", "pydantic", "mlflow", "pytest")
    return {
        "devices": asked(
            "nvidia-smi", "--query-gpu=index,name,driver_version,memory.total,compute_cap", "--format=csv"
        ),
        "interconnect": asked("nvidia-smi", "topo", "-m"),
        "torch, its CUDA, available, devices": asked(sys.executable, "-c", code),
        "what workers/cuda.py says": asked(sys.executable, "-c", fit),
        "nvcc": (asked("nvcc", "--version").splitlines() or [""])[-1],
        "/dev/shm, GiB": round(shared.total / 2**30, 1) if shared else None,
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "packages found": [name for name in names if importlib.util.find_spec(name)],
    }


def taken() -> dict[str, int]:
    """Device memory in use by device, in MiB."""
    rows = asked("nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits").splitlines()
    return {
        index.strip(): int(used) for index, _, used in (row.partition(",") for row in rows) if used.strip().isdigit()
    }


class MemoryWatch:
    """Reads device memory each second, from a thread, while it is entered."""

    def __enter__(self) -> MemoryWatch:
        self.rows = {index: [used, used, used] for index, used in taken().items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.rows:
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self._read()

    def _read(self) -> None:
        for index, used in taken().items():
            before, most, _ = self.rows.setdefault(index, [used, used, used])
            self.rows[index] = [before, max(most, used), used]

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.rows:
            self._thread.join()
            self._read()


SPARE_MIB = 200
"""So much more than before may be taken after a part: what the driver itself keeps."""


def attempt(part: Part, log: Path, seconds: float, environment: dict[str, str]) -> Result:
    """Try one part, for so long at most."""
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if missing:
        return Result(part.name, part.shows, f"left out: {', '.join(missing)} not installed")
    if seconds <= 0:
        return Result(part.name, part.shows, "left out: no time was left")
    if len(taken()) < part.devices:
        return Result(part.name, part.shows, f"left out: it needs {part.devices} devices")
    began = time.monotonic()
    outcome = "passed"
    with MemoryWatch() as memory, log.open("w") as lines:
        for command in part.commands:
            code = finish(command, lines, seconds - (time.monotonic() - began), environment)
            if code is None or code:
                outcome = "out of time" if code is None else f"failed: exit code {code} of {' '.join(command[1:5])}"
                break
    said = log.read_text(errors="replace")
    kept = [index for index, (before, _, after) in memory.rows.items() if after > before + SPARE_MIB]
    if outcome == "passed" and part.memory_back and kept:
        outcome = f"failed: memory of device {', '.join(kept)} was not given back"
    if outcome == "passed" and part.name == "numerics" and " skipped" in said:
        outcome = "left out: torch sees no CUDA device"
    tail = "\n".join(said.splitlines()[-LINES:])
    seconds = round(time.monotonic() - began, 1)
    return Result(part.name, part.shows, outcome, seconds, memory.rows, list(objects(said)), tail)


def finish(command: list[str], lines: Any, seconds: float, environment: dict[str, str]) -> int | None:
    """The exit code of a command; None where it took too long. Then it is told to end, and whatever it started."""
    print(f"$ {' '.join(command)}", file=lines, flush=True)
    process = subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=lines, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        for number, patience in ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0)):
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        return None


def objects(said: str) -> Iterator[Any]:
    """JSON objects that stand on a line of their own."""
    for line in said.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


def markdown(told: dict[str, Any], results: list[Result]) -> str:
    """The report for people."""
    lines = ["# GPU hour", "", told["when"], "", "## Machine", ""]
    lines += [f"- {name}: {value}" for name, value in told["machine"].items() if "\n" not in str(value)]
    for name, value in told["machine"].items():
        if "\n" in str(value):
            lines += ["", f"{name}:", "", "```", str(value), "```"]
    lines += [
        "",
        "## Parts",
        "",
        "| part | what it shows | outcome | seconds | MiB before, at most, after |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        memory = "; ".join(f"device {index}: {', '.join(map(str, row))}" for index, row in result.memory_mib.items())
        lines.append(f"| {result.name} | {result.shows} | {result.outcome} | {result.seconds:.0f} | {memory or '-'} |")
    for result in results:
        if result.tail:
            lines += ["", f"## {result.name}", "", "```", result.tail.replace("```", "'''"), "```"]
    return "\n".join(lines) + "\n"


def write(folder: Path, told: dict[str, Any], results: list[Result]) -> None:
    """The report in both forms."""
    (folder / "report.md").write_text(markdown(told, results))
    (folder / "report.json").write_text(json.dumps(told | {"parts": [asdict(r) for r in results]}, indent=2) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options; ends with a message where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
    parser.add_argument("--out", type=Path, default=PROJECT / f"runs/gpu-hour-{stamp}", help="folder of the report")
    parser.add_argument("--only", nargs="+", metavar="PART", help="try these parts alone")
    parser.add_argument("--model", type=Path, help="folder of a model, for generation and the round of GSM8K")
    parser.add_argument("--data", type=Path, help="folder with GSM8K's train.jsonl")
    parser.add_argument("--minutes", type=float, default=60.0, help="most that all parts may take")
    parser.add_argument("--cpu", action="store_true", help="try the parts themselves, without a GPU")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    known = [part.name for part in parts(options)]
    unknown = set(options.only or ()) - set(known)
    if unknown:
        hint = "" if "gsm8k" not in unknown else "; gsm8k needs --model and --data"
        parser.error(f"--only {' '.join(sorted(unknown))}: no such part; there are {', '.join(known)}{hint}")
    for name, needed in (("model", "config.json"), ("data", "train.jsonl")):
        given = getattr(options, name)
        if given and not (given / needed).is_file():
            parser.error(f"--{name} {given}: there is no {needed} in it")
    return options


def main(say: Callable[[str], None] = print) -> int:
    """Try all parts; returns the exit code."""
    options = parse()
    if not options.cpu and not taken():
        say("gpu-hour: nvidia-smi shows no device. On a machine without a GPU, --cpu tries the parts themselves.")
        return 2
    options.out.mkdir(parents=True)
    if options.data:
        cut(options.data / "train.jsonl", options.out / "data")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    }
    told = {"when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "machine": machine()}
    results: list[Result] = []
    end = time.monotonic() + 60 * options.minutes
    for part in parts(options):
        if options.only and part.name not in options.only:
            continue
        seconds = min(part.seconds, end - time.monotonic())
        results.append(attempt(part, options.out / f"{part.name}.log", seconds, environment))
        write(options.out, told, results)
        say(f"{part.name}: {results[-1].outcome} ({results[-1].seconds:.0f} s)")
    say(f"gpu-hour: the report is {options.out / 'report.md'}")
    return int(any(not result.outcome.startswith(("passed", "left out")) for result in results))


if __name__ == "__main__":
    sys.exit(main())
