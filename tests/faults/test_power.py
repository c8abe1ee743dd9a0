"""A power cut: whenever a record is written, all that it speaks of is on the disk, names as well as bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Artifact, Ledger
from orchestrator.ledger.record_files import Record
from tests.faults.children import note
from tests.faults.disk_cache import CALLS, DiskCache, calls
from tests.faults.jobs import KINDS, SAMPLE

DRIVE = """
import sys
from pathlib import Path
from tests.faults.children import Case
from tests.faults.jobs import KINDS
folder, kind = Path(sys.argv[1]), KINDS[sys.argv[2]]
case = Case(kind.make(folder), folder, kind.workers)
case.workers(case).drive()
"""


def traced_run(folder: Path, source: str) -> Path:
    """A whole run under strace; returns the trace."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    trace = folder / "trace"
    strace = ["strace", "-f", "-y", "-s", "500", "-e", f"trace={CALLS}", "-o", str(trace)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*strace, sys.executable, "-c", DRIVE, str(folder), source], capture_output=True, text=True, env=environment
    )
    if "ptrace" in done.stderr and not (folder / "run/ledger").exists():
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr
    return trace


def artifacts_of(record: Record) -> list[Artifact]:
    found = record.data.get("artifacts") or ([record.data["artifact"]] if "artifact" in record.data else [])
    return [Artifact.from_json(artifact) for artifact in found]


OTHERS = [pytest.param(source, marks=pytest.mark.faults) for source in KINDS if source != SAMPLE]


@pytest.mark.parametrize("source", [SAMPLE, *OTHERS])
def test_a_record_speaks_of_nothing_that_a_power_cut_could_take(tmp_path: Path, source: str) -> None:
    trace, run = traced_run(tmp_path, source), tmp_path / "run"
    records = {str(run / f"ledger/{r.number:08d}.json"): r for r in Ledger(run / "ledger").records}
    finals = {str(run / a.path): path for path, r in records.items() for a in artifacts_of(r)}
    disk = DiskCache(str(tmp_path))
    losses, seen, files = [], 0, 0
    for call in calls(trace):
        if call.name.startswith("link") and call.paths[1] in records:
            record = records[call.paths[1]]
            seen += 1
            at_risk = [loss for loss in disk.lost(call.paths[0]) if not loss.startswith("name of") or "/.0" not in loss]
            for artifact in artifacts_of(record):
                for name in artifact.files:
                    files += 1
                    at_risk += disk.lost(os.path.join(str(run), artifact.hidden, name).rstrip("/"))
            losses += [f"record {record.number} ({record.kind}): {loss}" for loss in dict.fromkeys(at_risk)]
        if call.name.startswith("rename") and call.paths[1] in finals:
            losses += [f"{call.paths[1]} got its name before: {loss}" for loss in disk.lost(finals[call.paths[1]])]
        disk.apply(call)
    assert seen == len(records) and files > 15
    for path in (*records, *(os.path.join(f, name) for f, r in finals.items() for name in _names(records[r], f, run))):
        if Path(path).exists():
            losses += [f"at the end: {loss}" for loss in disk.lost(path.rstrip("/"))]
    note("power cut", {"source": source, "records": seen, "files": files, "losses": len(losses)})
    assert losses == []


def _names(record: Record, final: str, run: Path) -> list[str]:
    return [name for a in artifacts_of(record) if str(run / a.path) == final for name in a.files]
