"""Jobs submitted to a real Ray head, and drivers that join one: a head of our own, with and without a token."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.ledger.ledger import Ledger
from tests.support.ray_head import Head, ray_head
from tests.support.real import PATIENCE, PROJECT

TINY = (
    "rounds=1",
    "data.prompts=same",
    "data.prompts_per_round=8",
    "data.gate.limit=8",
    "data.test.limit=8",
    "generate.samples=4",
    "generate.temperature=[1.0, 1.2]",
    "train.max_steps=1",
)


def submit(head: Head, *entrypoint: str, options: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """`ray job submit` from the project, to its end: exit code and output."""
    done = head.ray("job", "submit", *options, *entrypoint, cwd=PROJECT, **environment)
    return done.returncode, done.stdout


def records(run: Path) -> list[tuple[str, str]]:
    found = Ledger(run / "ledger").records if (run / "ledger").is_dir() else []
    return [(r.kind, str(r.data.get("state") or r.data.get("step", ""))) for r in found]


def join(head: Head, run: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ratchet run` on this machine, told to join the head."""
    command = [sys.executable, "-m", "orchestrator", "run", "jobs/irpo.yaml", f"run_dir={run}", *TINY, *overrides]
    return subprocess.run(
        command, cwd=PROJECT, env=head.environment | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.real
def test_a_job_goes_through_the_front_door(tmp_path: Path) -> None:
    """The cheap one: nothing but validation is submitted, to a head that wants a token."""
    validate = ("--working-dir", ".", "--", "python", "-m", "orchestrator", "validate", "jobs/irpo.yaml", *TINY)
    with ray_head(PROJECT, token=True) as head:
        code, output = submit(head, *validate)
        assert code != 0
        assert "a run inside Ray's package folder would be lost with it. Set RATCHET_HOME" in output
        assert "Traceback" not in output
        home = f'{{"env_vars": {{"RATCHET_HOME": "{tmp_path}"}}}}'
        code, output = submit(head, *validate, options=("--runtime-env-json", home))
        assert code == 0, output
        assert f"run       {tmp_path}/runs/irpo" in output
        assert re.search(r"model     .*/working_dir_files/.*/jobs/demo/base", output)


@pytest.fixture(scope="module", params=[False, True], ids=["open", "token"])
def head(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    with ray_head(PROJECT, token=request.param, RATCHET_HOME=str(home)) as found:
        yield found


@pytest.mark.full
def test_a_submitted_job_is_stopped_and_resumed_by_every_form(head: Head) -> None:
    runs = Path(head.environment["RATCHET_HOME"]) / "runs/irpo"
    tiny = ("rounds=2", *TINY[1:])  # more to do than `ray job stop` takes to start
    bare = ("jobs/irpo.yaml", *tiny)
    code, output = submit(head, *bare, options=("--no-wait", "--submission-id", "first"))
    assert code == 0, output
    deadline = time.monotonic() + PATIENCE
    while ("shard", "rounds/01/samples") not in records(runs):
        assert time.monotonic() < deadline, head.ray("job", "logs", "first", cwd=PROJECT).stdout
        time.sleep(0.1)
    assert head.ray("job", "stop", "first", cwd=PROJECT).returncode == 0
    assert records(runs)[-1] == ("end", "interrupted"), head.ray("job", "logs", "first", cwd=PROJECT).stdout
    done = {step for kind, step in records(runs) if kind == "commit"}
    # Resumed as the shipped copy, whose workers import what was shipped; then finished already in every other form.
    direct, module = ("./jobs/irpo.yaml", *tiny), ("python", "-m", "orchestrator", "run", *bare)
    for form in (("--working-dir", ".", "--", *bare), bare, ("--", *direct), ("--", *module)):
        code, output = submit(head, *form)
        assert code == 0, output
        assert f"finished; the report is {runs}/report.md" in output
        assert records(runs)[-1] == ("end", "finished")
    commits = [step for kind, step in records(runs) if kind == "commit"]
    assert len(commits) == len(set(commits)) and done < set(commits)


@pytest.mark.full
def test_a_head_that_dies_in_mid_round_costs_the_work_in_flight(tmp_path: Path) -> None:
    run = tmp_path / "runs/irpo"
    with ray_head(PROJECT, token=False, RATCHET_HOME=str(tmp_path)) as head:
        code, output = submit(head, "jobs/irpo.yaml", *TINY, options=("--no-wait",))
        assert code == 0, output
        deadline = time.monotonic() + PATIENCE
        while ("shard", "rounds/01/samples") not in records(run):
            assert time.monotonic() < deadline, output
            time.sleep(0.1)
        left = head.crash()
        # The driver and the workers notice and end by themselves; Ray's agents wait for it a minute longer.
        _, alive = psutil.wait_procs(left, timeout=180)
        names = [" ".join(process.cmdline()) for process in alive]
        for process in alive:
            process.kill()
        assert not [name for name in names if "orchestrator" in name or "ray::" in name], names
    before = records(run)
    with ray_head(PROJECT, token=False, RATCHET_HOME=str(tmp_path)) as head:
        code, output = submit(head, "jobs/irpo.yaml", *TINY)
    assert code == 0, output
    assert records(run)[: len(before)] == before and records(run)[-1] == ("end", "finished")
    commits = [step for kind, step in records(run) if kind == "commit"]
    assert len(commits) == len(set(commits))


@pytest.mark.full
def test_a_driver_joins_a_named_cluster_or_says_why_not(head: Head, tmp_path: Path) -> None:
    asked_too_much = {
        (
            "generate.engines=3",
        ): "generate.engines: 3 x 1 CPU asked for, and the cluster has room for 2 (2 CPU and 0 GPU",
        ("train.ranks=3",): "train.ranks: 3 x 1 CPU asked for, and the cluster has room for 2 (2 CPU and 0 GPU",
        ("cluster.cpus_per_engine=5",): "generate.engines: 1 x 5 CPU asked for, and the cluster has room for 0 (2 CPU",
    }
    for number, (overrides, message) in enumerate(asked_too_much.items()):
        done = join(head, tmp_path / str(number), f"cluster.address={head.address}", "cluster.timeout=30", *overrides)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    done = join(head, tmp_path / "dashboard", RAY_ADDRESS=head.dashboard)
    assert done.returncode == 2
    assert f"RAY_ADDRESS: '{head.dashboard}' is the address of Ray's dashboard" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("auth", ["disabled", "token"])
def test_a_cluster_that_lets_nobody_in_is_given_up(tmp_path: Path, auth: str) -> None:
    (tmp_path / "token").write_text("0" * 64)
    with ray_head(PROJECT, token=True) as head:
        wrong = {"RAY_AUTH_MODE": auth, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        done = join(head, tmp_path / "run", f"cluster.address={head.address}", "cluster.timeout=5", **wrong)
    assert done.returncode == 2, done.stderr
    assert f"cluster.address: cannot join Ray at '{head.address}' (" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
def test_an_address_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    nobody = Head("127.0.0.1:1", "", {"PATH": "/usr/bin:/bin"})
    done = join(nobody, tmp_path / "run", f"cluster.address={nobody.address}", "cluster.timeout=2")
    assert done.returncode == 2, done.stderr
    assert "cluster.address: cannot join Ray at '127.0.0.1:1' (nothing answers there within 2 s)" in done.stderr
    assert "Traceback" not in done.stderr
