"""deploy/slurm: what the batch script does by signals and exit codes, with stand-ins for SLURM's and Ray's programs.

The script itself runs as it is. `srun` runs its command once, on the one node that there is, `ray symmetric-run` what
stands behind `--`, `ratchet` is a run that saves when it is told to leave.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy.tools import DEPLOY

STAND_INS = {
    "srun": 'export SLURM_NODEID=3; while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "ray": """
        echo "$@" >>"$LOG/ray"
        stat -c '%a' "$RAY_AUTH_TOKEN_PATH" >"$LOG/token"
        [ -z "${RAY_USE_TLS:-}" ] || {
            openssl verify -CAfile "$RAY_TLS_CA_CERT" "$RAY_TLS_SERVER_CERT" | sed 's/.*: //'
            stat -c '%a' "$RAY_TLS_SERVER_KEY"
        } >"$LOG/tls"
        while [ "$1" != -- ]; do shift; done; shift
        [ -z "${HIGHER:-}" ] || { "$@"; exit 137; }
        exec "$@" """,
    "scontrol": """
        echo "$@" >>"$LOG/scontrol"
        [ "$1" != show ] || echo "JobId=7 JobName=ratchet JobState=$STATE Reason=None" """,
    "ratchet": """
        echo "$@" >>"$LOG/ratchet"
        [ "$CODE" != wait ] || {
            trap 'echo saved >"$LOG/saved"; exit 130' TERM
            touch "$LOG/begun"
            while :; do sleep 0.1; done
        }
        exit "$CODE" """,
    "getent": 'echo "10.0.0.1 STREAM node1"',
}


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the batch script as SLURM would; what the stand-ins were told is in tmp_path/log."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "log").mkdir()
    for name, text in STAND_INS.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/usr/bin/env bash\n{text}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    def start(code: str, **changes: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RATCHET", "RAY"))}
        environment |= {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "STATE": "RUNNING",
            "CODE": code,
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_ON_NODE": "4",
        } | changes
        return subprocess.Popen(
            [DEPLOY / "slurm/ratchet.sbatch", "jobs/a.yaml", "name=a b"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )

    return start


def logged(folder: Path, name: str) -> list[str]:
    file = folder / "log" / name
    return file.read_text().splitlines() if file.exists() else []


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = process.communicate(timeout=60)
    return process.returncode, text


Batch = Callable[..., subprocess.Popen[str]]


def test_a_signal_before_the_limit_saves_and_puts_the_job_back(batch: Batch, tmp_path: Path) -> None:
    process = batch("wait")
    while not logged(tmp_path, "ratchet") or not (tmp_path / "log/begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, text = ended(process)
    assert code == 130 and "put back into the queue" in text
    assert logged(tmp_path, "saved") == ["saved"] and logged(tmp_path, "scontrol")[-1] == "requeue 7"
    again = batch("0", SLURM_RESTART_COUNT="1")
    assert ended(again) == (0, "")
    assert logged(tmp_path, "ratchet") == ["run jobs/a.yaml name=a b"] * 2, "the same command goes on"
    assert len(logged(tmp_path, "scontrol")) == 2, "what has finished is not put back"


@pytest.mark.parametrize(("code", "back"), [("0", False), ("1", False), ("2", False), ("3", False), ("75", True)])
def test_only_what_may_go_on_is_put_back(batch: Batch, tmp_path: Path, code: str, back: bool) -> None:
    assert ended(batch(code))[0] == int(code)
    assert ("requeue 7" in logged(tmp_path, "scontrol")) == back


def test_the_drivers_code_counts_and_not_that_of_the_other_nodes(batch: Batch, tmp_path: Path) -> None:
    assert ended(batch("75", HIGHER="yes"))[0] == 75
    assert "requeue 7" in logged(tmp_path, "scontrol")
    assert ended(batch("0", HIGHER="yes"))[0] == 0


def test_what_somebody_has_cancelled_is_not_put_back(batch: Batch, tmp_path: Path) -> None:
    assert ended(batch("130", STATE="CANCELLED"))[0] == 130
    assert logged(tmp_path, "scontrol") == ["show job --oneliner 7"]


def test_a_job_is_not_put_back_for_ever(batch: Batch, tmp_path: Path) -> None:
    code, text = ended(batch("75", SLURM_RESTART_COUNT="100"))
    assert code == 75 and "put back 100 times already" in text and logged(tmp_path, "scontrol") == []


def test_a_name_that_stands_for_loopback_is_told(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "bin/getent").write_text("#!/usr/bin/env bash\necho '127.0.1.1 STREAM node1'\n")
    code, text = ended(batch("0"))
    assert code == 2 and "RATCHET_HEAD" in text
    assert ended(batch("0", RATCHET_HEAD="10.0.0.9"))[0] == 0
    assert "--address 10.0.0.9:6379 --min-nodes 2" in logged(tmp_path, "ray")[0]


def test_the_token_is_ones_own_and_goes_with_the_job(batch: Batch, tmp_path: Path) -> None:
    assert ended(batch("0"))[0] == 0
    assert logged(tmp_path, "token") == ["600"]
    assert list((tmp_path / ".slurm").iterdir()) == []


def test_with_tls_each_node_makes_its_certificate_and_it_goes_with_the_job(batch: Batch, tmp_path: Path) -> None:
    assert ended(batch("0"))[0] == 0 and logged(tmp_path, "tls") == []
    (tmp_path / "deploy").symlink_to(DEPLOY)
    code, text = ended(batch("0", RATCHET_TLS="yes"))
    assert (code, logged(tmp_path, "tls")) == (0, ["OK", "600"]), text
    assert logged(tmp_path, "ratchet") == ["run jobs/a.yaml name=a b"] * 2
    assert list((tmp_path / ".slurm").iterdir()) == []
    code, text = ended(batch("0", RATCHET_TLS="1"))
    assert code == 2 and "RATCHET_TLS is yes or no, and not 1" in text
