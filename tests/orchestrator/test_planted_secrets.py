"""Secrets of the environment stand nowhere afterwards: commands and a run with stand-ins for workers.

With the real workers, as processes: tests/real/test_planted_secrets_real.py.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.orchestrator.test_cli import ratchet
from tests.support import planted
from tests.support.stand_ins import StandIns, make_project, run_job


def broken(name: str) -> None:
    raise RuntimeError(f"the stand-in is broken at {name}")


def test_what_a_run_and_every_command_leave_and_say_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets, run, state = planted.environment(), tmp_path / "run", tmp_path / "state"
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RATCHET_SECRETS", "HF_TOKEN")
    monkeypatch.setenv("RATCHET_STATE_HOME", str(state))
    judge = {"model": "judge-1", "base_url": "http://127.0.0.1:9/v1", "api_key_env": "JUDGE_KEY"}
    job = make_project(tmp_path, judge=judge, cluster={"secrets": ["HF_TOKEN"], "env": {"NCCL_DEBUG": "WARN"}})
    assert ratchet("validate", job, "--resolved") == 0
    with pytest.raises(RuntimeError) as crashed:
        run_job(job, StandIns(on_call=broken))
    print("".join(traceback.format_exception(crashed.value)))
    print("\n".join(run_job(job, StandIns(), "rounds=1")))
    for command in ("status", "verify"):
        assert ratchet(command, run, "--json") == 0
    assert ratchet("fork", run, tmp_path / "child", "loss.beta=0.2") == 0
    assert ratchet("gc", run) == 0
    for override in (f"judge.api_key={secrets['JUDGE_KEY']}", f"tracking.uri={secrets['DATABASE_URL']}"):
        assert ratchet("validate", job, override) == 2

    search, said = planted.Search(secrets), "".join(capfd.readouterr())
    for expected in ("api_key_env: JUDGE_KEY", "the stand-in is broken", "judge.api_key=...", "tracking.uri="):
        assert expected in said
    assert search.text("said", said.encode()) == []
    assert search.folder(tmp_path) == [] and search.files > 30


@pytest.mark.parametrize("form", planted.forms("x" * 9))
def test_a_secret_is_found_in_every_form(tmp_path: Path, form: str) -> None:
    name, secret = next(iter(planted.environment().items()))
    (tmp_path / "log").write_bytes(b"before " + planted.forms(secret)[form] + b" behind")
    assert f"{tmp_path / 'log'}: {name}, {form}" in planted.Search({name: secret}).folder(tmp_path)


def test_a_secret_is_found_in_a_column_that_is_packed_and_in_a_name(tmp_path: Path) -> None:
    secret = "planted-secret"
    table = pa.table({"text": [f"it is {secret}, {number}" for number in range(99)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="gzip", write_statistics=False)
    (tmp_path / secret).mkdir()
    found = planted.Search({"A": secret}).folder(tmp_path)
    assert {line.partition(":")[0] for line in found} == {str(tmp_path), str(tmp_path / "a.parquet")}
    assert secret.encode() not in (tmp_path / "a.parquet").read_bytes()


def test_a_secret_in_a_command_line_is_found() -> None:
    code = "import sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, "planted-secret"], stdin=subprocess.PIPE)
    with planted.Search({"A": "planted-secret"}).command_lines(process.pid) as seen:
        while not seen:
            pass
        process.communicate()
    assert any("A, raw" in what for found in seen.values() for what in found)
