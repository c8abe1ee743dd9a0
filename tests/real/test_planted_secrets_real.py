"""Secrets of the environment stand nowhere while a run lives, nor afterwards: real Ray, vLLM, DeepSpeed and MLflow.

Looked at are every byte of the run, of what Ray and the workers keep in their temporary folder, of the user's home and
state, of MLflow's database and artifacts, what commands say, and the command line of every process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import planted
from tests.support.judge_server import serve
from tests.support.real import PATIENCE, PROJECT, all_gone, committed, end, family, finish, wait_for

pytestmark = [pytest.mark.real, pytest.mark.full]

SMALL = (
    *("rounds=1", "data.prompts=same", "data.prompts_per_round=8", "data.gate.limit=8", "data.test.limit=8"),
    *("generate.samples=4", "generate.shard_prompts=2", "train.max_steps=1", "cluster.secrets=[HF_TOKEN]"),
)


@pytest.fixture
def place() -> Iterator[Path]:
    """Short, since Ray puts sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="rs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(environment: dict[str, str], log: Path, *command: str | Path) -> subprocess.Popen[str]:
    with open(log, "a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *map(str, command)],
            cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, text=True,
            start_new_session=True,
        )  # fmt: skip


def one_of(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """A process of this name, once there is one."""
    deadline = time.monotonic() + PATIENCE
    while not (found := [each for each in family(process) if each.name().startswith(name)]):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    return found[0]


def test_no_secret_stands_anywhere_while_a_run_lives_and_afterwards(tmp_path: Path, place: Path) -> None:
    secrets, run = planted.environment(), tmp_path / "irpo"
    own = {name: str(place / name[0].lower()) for name in ("HOME", "TMPDIR")}
    for folder in own.values():
        Path(folder).mkdir()
    own |= {"RATCHET_STATE_HOME": str(place / "s"), "XDG_CACHE_HOME": str(place / "h/.cache")}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "VLLM_"))}
    environment = kept | secrets | own | {"RATCHET_SECRETS": "HF_TOKEN"}
    search = planted.Search(secrets)

    def judged(asked: object) -> dict[str, str]:
        number = asked.number  # type: ignore[attr-defined]
        return {"verdict": "same" if number % 2 else "different", "reason": ""}

    with serve(judged) as server:
        judge = f"judge={{model: judge-1, base_url: '{server.address}', api_key_env: JUDGE_KEY}}"
        job = ("jobs/irpo.yaml", f"run_dir={run}", *SMALL, "grade.graders=[judge]", judge)
        process = start(environment, run.with_suffix(".log"), "run", *job)
        try:
            with search.command_lines(process.pid) as lines:
                wait_for(process, run, committed("baseline/prompts"))
                raylet = one_of(process, "raylet")
                token = raylet.environ()["RAY_AUTH_TOKEN"]
                assert token not in secrets.values(), "a private Ray has a token of its own"
                one_of(process, "ray::VllmEngine").kill()
                wait_for(process, run, committed("rounds/01/samples"))
                living = planted.Search(secrets | {"the token of the private Ray": token})
                assert living.folder(place) == [] and living.files > 20
                assert finish(process, run) == 0, run.with_suffix(".log").read_text()
        finally:
            end(process)
        assert {asked.key for asked in server.asked} == {secrets["JUDGE_KEY"]}, "it was used"
        assert len(lines) > 10 and [what for found in lines.values() for what in found] == []
        assert any("raylet" in line for line in lines)

        broken = tmp_path / "broken"
        failing = ("generate.engine={kv_cache_dtype: nonsense}", f"run_dir={broken}")
        process = start(environment, broken.with_suffix(".log"), "run", *job, *failing)
        assert finish(process, broken) not in (0, 2), broken.with_suffix(".log").read_text()
        assert "nonsense" in "".join(file.read_text(errors="replace") for file in broken.rglob("logs/**/*.*"))
        for command in (
            ("doctor", *job, "--json"),
            ("validate", *job, "--resolved"),
            ("verify", run, "--json"),
            ("status", run, "--json"),
            ("fork", run, tmp_path / "child", "loss.beta=0.2"),
        ):
            log = tmp_path / f"{command[0]}.log"
            process = start(environment, log, *command)
            assert process.wait(PATIENCE) == 0, log.read_text()
    all_gone()

    after = planted.Search(secrets | {"the token of the private Ray": token})
    assert after.folder(tmp_path) == [] and after.folder(place) == []
    assert (tmp_path / "mlflow.db").stat().st_size > 2**16 and after.files > 60
