"""What somebody who looks after a run has: its numbers on a port, and what its workers print, found by one command."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.reports.worker_logs import Wanted, tell
from tests.deploy.services import free_port
from tests.support.real import (
    PATIENCE,
    abroad,
    all_gone,
    committed,
    end,
    finish,
    listening,
    log_of,
    records,
    start,
    wait_for,
)

pytestmark = [pytest.mark.real, pytest.mark.full]
SMALL = (
    "rounds=1", "data.prompts_per_round=16", "data.gate.limit=8", "data.test.limit=8", "generate.samples=8",
    "generate.shard_prompts=4", "train.max_steps=2", "tracking.enabled=false", "cluster.env.VLLM_LOGGING_LEVEL=INFO",
)  # fmt: skip


def shown(port: int) -> dict[str, float]:
    """The run's metrics, by name and labels other than Ray's own."""
    opener, found = urllib.request.build_opener(urllib.request.ProxyHandler({})), {}
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    for name, labels, value in re.findall(r"^(ray_ratchet_\w+)\{(.*)\} (\S+)$", text, re.M):
        ours = [
            f'{key}="{said}"'
            for key, said in re.findall(r'(\w+)="([^"]*)"', labels)
            if key in ("kind", "phase", "role", "run")
        ]
        found[f"{name}{{{','.join(sorted(ours))}}}"] = float(value)
    return found


def test_a_run_shows_its_numbers_and_what_its_workers_print_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, port = tmp_path / "irpo", free_port()
    monkeypatch.setenv("RATCHET_METRICS_PORT", str(port))
    process = start(run, *SMALL)
    try:
        wait_for(process, run, committed("rounds/01/verdicts"))
        shards = Counter(r.data["step"].rpartition("/")[2] for r in records(run) if r.kind == "shard")
        assert shards == {"samples": 4, "verdicts": 4}
        sampled = 'ray_ratchet_shards_total{phase="samples",role="engine",run="irpo"}'
        graded = 'ray_ratchet_shards_total{phase="verdicts",role="grader",run="irpo"}'
        deadline = time.monotonic() + PATIENCE
        while not {(sampled, 4.0), (graded, 4.0)} <= shown(port).items():
            assert time.monotonic() < deadline and process.poll() is None, (shown(port), log_of(run))
            time.sleep(0.5)
        assert not abroad(listening(process))
        assert finish(process, run) == 0, log_of(run)
    finally:
        end(process)
        all_gone()
    found: list[str] = []
    tell(run, Wanted(round=1, step="samples", shard=2), lambda line: found.append(line.shown()))
    assert [line for line in found if re.search(r"^e1/engine-0  rounds/01/samples shard 2: begins ", line)]
    assert [line for line in found if re.search(r"^e1/engine-0  rounds/01/samples shard 2: ends ", line)]
    every: list[str] = []
    tell(run, Wanted(), lambda line: every.append(line.shown()))
    assert [line for line in every if line.startswith("e1/engine-0  ") and "vllm" in line.lower()], "what vLLM says"
    began = {re.sub(r": begins .*", "", line) for line in every if ": begins " in line}
    assert {f"e1/grader-0  rounds/01/verdicts shard {n}" for n in range(4)} <= began
    assert {"e1/rank-0  rounds/01/reference", "e1/rank-0  rounds/01/train"} <= began
    assert [line for line in began if line.startswith("e1/engine-0  rounds/01/evaluation shard")]
    assert [line for line in began if line.startswith("e1/engine-0  baseline/evaluation shard")]
    assert not [line for line in every if ": fails " in line]
