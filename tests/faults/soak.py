"""Random kills over a whole job on the real stack: `python -m tests.faults.soak --minutes 15`.

Every few seconds one process of the job is killed with SIGKILL: the driver, an engine, a training rank, the grader
actor or one of its processes. A driver that is gone is started again by the same command, as a user would. A job that
finishes early gets another round, unless it is another one than jobs/irpo.yaml (`--job`). After the given time it is
left alone to finish. Then the run is checked: finished, nothing committed twice, every sample there once, and
`ratchet verify` finds nothing. It prints one JSON object.

An undisturbed run of as many rounds comes last, for its time (`--undisturbed SECONDS` if that is known).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from tests.support.real import all_gone, end, family, finish, log_of, start

VICTIMS = {
    "driver": "orchestrator",
    "engine": "ray::Generator",
    "rank": "ray::_Rank",
    "grader actor": "GraderActor",
    "grader process": "workers.grading.serve",
}

IRPO = "jobs/irpo.yaml"
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="for how long to kill")
    parser.add_argument("--every", type=float, default=30.0, help="mean seconds between two kills")
    parser.add_argument("--undisturbed", type=float, help="seconds that the undisturbed job takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", default=IRPO, help="a job file of the project")
    parser.add_argument("overrides", nargs="*", help="key=value for the job")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ratchet-soak-") as folder:
        os.environ["RATCHET_STATE_HOME"] = f"{folder}/state"
        found = storm(Path(folder) / "stormy", options, random.Random(options.seed))
        seconds = options.undisturbed or timed(Path(folder) / "calm", options, found["rounds"])
        kills = sum(found["kills"].values())
        found |= {"undisturbed_seconds": round(seconds), "kills_in_all": kills}
        found["seconds_lost_a_kill"] = round((found["seconds"] - seconds) / max(kills, 1), 1)
        print(json.dumps(found | check(Path(folder) / "stormy"), indent=2))


def begin(run: Path, options: argparse.Namespace, rounds: int | None) -> subprocess.Popen[str]:
    # No gate: a run that it stops would be over.
    overrides = ["promotion.rule=always", *([f"rounds={rounds}"] if rounds else []), *options.overrides]
    return start(run, *overrides, job=options.job)


def timed(run: Path, options: argparse.Namespace, rounds: int | None) -> float:
    started = time.monotonic()
    assert finish(begin(run, options, rounds), run) == 0, log_of(run)
    return time.monotonic() - started


def storm(run: Path, options: argparse.Namespace, draw: random.Random) -> dict[str, Any]:
    """Run the job to its end under kills."""
    started, kills, starts, code = time.monotonic(), Counter[str](), 0, None
    rounds = ROUNDS if options.job == IRPO else None  # None: as many as the job has
    process, failures, left = None, list[str](), list[str]()
    while code is None:
        if process is None:
            process, starts = begin(run, options, rounds), starts + 1
        storming = time.monotonic() - started < 60 * options.minutes
        code = wait(process, draw.expovariate(1 / options.every) if storming else 600.0)
        if code is None and storming and (victim := pick(process, draw)):
            name, target = victim
            kills[name] += 1
            if name == "driver":
                left += ended(process)
                process = None
            else:
                target.send_signal(signal.SIGKILL)
        elif code == 0 and storming and rounds:
            process, code, rounds = None, None, rounds + 1
        elif code == 1 and storming:  # what a kill in an unlucky moment may leave: a message, and the next start
            failures.append(log_of(run).rstrip().splitlines()[-1][:300])
            left += ended(process)
            process, code = None, None
    assert code == 0, f"exit code {code}\n{log_of(run)}"
    all_gone()
    seconds = round(time.monotonic() - started)
    told = {"seconds": seconds, "rounds": rounds, "drivers_started": starts, "kills": dict(kills)}
    return told | {"failures": failures, "left_running": left}


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Kill the driver; what it had started and does not go by itself is told (and ended)."""
    try:
        end(process)
    except AssertionError as error:  # a head that Ray was just forking, which the next start would end as well
        return [str(error)[:200]]
    return []


def wait(process: subprocess.Popen[str], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def pick(process: subprocess.Popen[str], draw: random.Random) -> tuple[str, psutil.Process] | None:
    """One kind of victim that is there, and one of that kind."""
    there: dict[str, list[psutil.Process]] = {}
    for candidate in family(process):
        try:
            line = " ".join(candidate.cmdline())
        except psutil.Error:
            continue
        for name, mark in VICTIMS.items():
            if mark in line and (name != "driver" or candidate.pid == process.pid):
                there.setdefault(name, []).append(candidate)
    if not there:
        return None
    name = draw.choice(sorted(there))
    return name, draw.choice(there[name])


def check(run: Path) -> dict[str, Any]:
    """What must hold however often anything was killed."""
    ledger = Ledger(run / "ledger")
    assert ledger.state.end is not None and ledger.state.end["state"] == "finished"
    done = Counter(
        (r.kind, r.data["step"], r.data.get("index")) for r in ledger.records if r.kind in ("commit", "shard")
    )
    assert set(done.values()) == {1}, "something was committed twice"
    samples = 0
    for folder in sorted(found.parent for found in (run / "rounds").glob("*/samples")):
        prompts = pq.read_table(folder / "prompts").num_rows
        rows = pq.read_table(folder / "samples", columns=["prompt_id", "sample_index"]).to_pylist()
        keys = {(row["prompt_id"], row["sample_index"]) for row in rows}
        assert len(keys) == len(rows) and len({prompt for prompt, _ in keys}) == prompts
        assert pq.read_table(folder / "verdicts").num_rows == len(rows)
        samples += len(rows)
    report = verify(run)
    assert not report.findings, report.findings
    restarts = sum(c.facts.get("restarts", 0) for c in ledger.state.commits.values())
    resumed = [c.facts["resumed_from"] for c in ledger.state.commits.values() if c.facts.get("resumed_from")]
    return {
        "samples": samples,
        "verified_files": report.files,
        "gang_restarts": restarts,
        "resumed_after_steps": resumed,
    }


if __name__ == "__main__":
    main()
