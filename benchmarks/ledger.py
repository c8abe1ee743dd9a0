"""Reading a long ledger: record by record, and by the cache of its fold.

    python -m benchmarks.ledger [--records 100000] [--json]

The ledger is made up: shards as a run writes them, a thousand a step. CPU seconds of this process, each the least of
three; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measured import report
from orchestrator.files import durable
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.record_files import SCHEMA


def write(folder: Path, records: int) -> None:
    """As a driver writes them, but without syncing each."""
    folder.mkdir(parents=True)
    for number in range(records):
        kind, data = ("shard", shard(number - 1)) if number else ("claim", {"host": "benchmark", "pid": 1})
        document = {"schema": SCHEMA, "number": number, "epoch": 1, "kind": kind, "time": 1.0, "data": data}
        content = durable.canonical(document | {"check": durable.fingerprint(document)})
        (folder / f"{number:08d}.json").write_bytes(content + b"\n")


def shard(number: int) -> dict[str, Any]:
    step, name = f"rounds/{number // 1000 + 1:02d}/samples", f"{number % 1000:05d}.parquet"
    file = {"size": 123_456, "sha256": f"{number:064x}"}
    facts = {"prompts": 32, "samples": 256, "tokens": 12_345, "seconds": 1.25, "fingerprint": "0" * 32, "recipe": 2}
    artifact = {"path": f"{step}/{name}", "hidden": f"{step}/.{name}-e1", "files": {"": file}}
    return {"step": step, "index": number % 1000, "artifact": artifact, "facts": facts}


def least(work: Callable[[], Any]) -> float:
    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(once() for _ in range(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "run" / "ledger"
        write(ledger, arguments.records)
        found = {"read": least(lambda: Ledger(ledger))}
        reader = Ledger(ledger)
        found["make the cache"] = least(lambda: reader.cache(again=True))
        found["read the cache"] = least(lambda: Ledger(ledger))
        found["another reader"] = least(reader.as_it_is)
    if arguments.json:
        print(json.dumps(report("ledger", {"records": arguments.records}, {"cpu_seconds": found})))
        return
    print(f"{'records':<16}{arguments.records:>9,}")
    for what, seconds in found.items():
        print(f"{what:<16}{seconds:>9.2f} s")


if __name__ == "__main__":
    main()
