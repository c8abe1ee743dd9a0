"""Records the ledgers beside this file: `python -m tests.faults.ledgers.record`, once a version and never again.

A run of two rounds with the stand-ins of the tests, interrupted and resumed, and a fork of it with another loss:
between them they have every kind of record. Paths and names of the machine are replaced.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.commands.fork.command import fork
from orchestrator.errors import Interrupted
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.reports.status import status
from tests.faults.children import small_project
from tests.support.stand_ins import StandIns, run_job

HERE = Path(__file__).parent
FOLDER = "/home/somebody/project"


def folded(state: State) -> dict[str, Any]:
    """What a ledger says, as a JSON value."""
    return {
        "epoch": state.epoch,
        "driver": state.driver,
        "jobs": [config["job"]["name"] for config in state.configs],
        "commits": {
            name: {"fingerprint": commit.fingerprint, "facts": commit.facts, "files": files_of(commit.artifacts)}
            for name, commit in state.commits.items()
        },
        "shards": {
            name: {str(i): {"facts": s.facts, "files": files_of([s.artifact])} for i, s in shards.items()}
            for name, shards in state.shards.items()
        },
        "promotions": state.promotions,
        "discarded": sorted(state.discarded),
        "end": state.end,
    }


def files_of(artifacts: Any) -> dict[str, str]:
    return {f"{a.path}/{name}".rstrip("/"): said["sha256"] for a in artifacts for name, said in a.files.items()}


def status_of(folder: Path) -> dict[str, Any]:
    """`ratchet status`, its one absolute path without the folder."""
    found = status(folder)
    return found | {"reference": found["reference"].removeprefix(f"{folder.absolute()}/")}


def stop_at(number: int) -> Callable[[str], None]:
    left = iter(range(number, 0, -1))

    def on_call(_: str) -> None:
        if next(left) == 1:
            raise Interrupted("SIGTERM")

    return on_call


def copy(run: Path, folder: Path, project: Path) -> None:
    """The same records, by other people elsewhere."""
    (folder / "ledger").mkdir(parents=True)
    copied = Ledger(folder / "ledger")
    for record in Ledger(run / "ledger").records:
        said = json.dumps(record.data).replace(str(project), f"{FOLDER}/jobs").replace(str(Path.cwd()), FOLDER)
        data = json.loads(said)
        if record.kind == "claim":
            data |= {"host": "a-host", "pid": 1000 + record.epoch, "process_start": 10.0 * record.epoch}
            copied.claim(data)
        else:
            copied.append(record.kind, data)
    expected = {"folded": folded(Ledger(folder / "ledger").state), "status": status_of(folder)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    text = "".join(path.read_text() for path in folder.rglob("*.json"))
    for private in (str(project), str(Path.cwd()), str(Path.home()), f'"{socket.gethostname()}"'):
        assert private not in text, private


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary)
        job = small_project(project)
        try:
            run_job(job, StandIns(gain=0.1, steps=2, peak=1, on_call=stop_at(17)))
        except Interrupted:
            run_job(job, StandIns(gain=0.1, steps=2, peak=1))
        fork(project / "run", project / "fork", ["loss.beta=0.2"])
        run_job(project / "fork/job.yaml", StandIns(gain=0.1, steps=2, peak=1))
        for name in ("run", "fork"):
            copy(project / name, HERE / __version__ / name, project)


if __name__ == "__main__":
    main()
