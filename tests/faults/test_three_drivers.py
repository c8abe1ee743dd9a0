"""Three drivers of one run folder in any interleaving, also in the middle of one another's steps.

test_ledger.py does so with records alone; here they carry files, and every driver writes other bytes, so that
whoever overwrites what another one has committed is found out.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.errors import Damaged, Displaced
from orchestrator.files.durable import put_if_absent, sha256
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records.rows import SAMPLES

STEPS = [f"rounds/{number:02d}/{phase}" for number in range(1, 6) for phase in ("pairs", "train")]
SHARDED = "rounds/01/samples"
REFUSALS = (Displaced, Damaged, FileNotFoundError)
"""What a driver that was overtaken may meet: its successor's claim, or that its files were tidied away."""

drivers = st.integers(0, 2)
others = st.none() | drivers


class Drivers(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.runs: dict[int, Run] = {}
        self.newest: int | None = None  # who claimed last
        self.num_claims = self.num_written = 0
        self.committed: dict[str, bytes] = {}
        self.discarded: set[str] = set()
        self.records: dict[str, bytes] = {}
        for i in (0, 1, 2):
            self.claim(i)

    def content(self) -> bytes:
        """A file of samples, though of none: its number alone makes it another."""
        self.num_written += 1
        buffer = io.BytesIO()
        pq.write_table(SAMPLES.empty_table().replace_schema_metadata({"number": str(self.num_written)}), buffer)
        return buffer.getvalue()

    @rule(i=drivers)
    def claim(self, i: int) -> None:
        run = Run(self.root)
        run.claim({"pid": i})
        self.num_claims += 1
        assert run.epoch == self.num_claims
        self.runs[i], self.newest = run, i

    @rule(i=drivers, name=st.sampled_from(STEPS), intruder=others, claims=st.booleans(), works=st.booleans())
    def step(self, i: int, name: str, intruder: int | None, claims: bool, works: bool) -> None:
        """Driver i does a step; while it works, another one may claim the run, and may do the same step."""
        run = self.runs[i]
        mine, worked = self.content(), False

        def work(hidden: Path) -> dict[str, Any]:
            nonlocal worked
            worked = True
            hidden.mkdir()
            (hidden / "x").write_bytes(mine)
            if intruder is not None and intruder != i:
                if claims:
                    self.claim(intruder)
                if works:
                    self.step(intruder, name, None, False, False)
            return {}

        try:
            run.step(name, {"of": name}, work)
        except REFUSALS:
            assert self.newest != i or self.runs[i] is not run
            return
        if worked:
            assert self.newest == i and self.runs[i] is run and name not in self.committed
            self.committed[name] = mine

    @rule(i=drivers, index=st.integers(0, 2), intruder=others, version=st.sampled_from([None, 1, 2]))
    def shard(self, i: int, index: int, intruder: int | None, version: int | None) -> None:
        """Driver i makes a shard; those that are by another version of the graders, if there is one, are discarded."""
        run = self.runs[i]
        mine = self.content()
        before = run.ledger.state.shards.get(SHARDED, {}).values()
        try:
            step = run.sharded(SHARDED, {}, version=version)
            if version is not None:
                others = {s.artifact.path for s in before if s.facts.get("graders_version", 1) != version}
                assert not others or self.newest == i
                assert sum(step.outdated.values()) == len(others)
                self.discarded |= others
            known, path = step.has(index), os.path.relpath(step.path(index), self.root)
            hidden = step.hidden(index)
            hidden.write_bytes(mine)
            file = {"size": len(mine), "sha256": sha256(hidden)}
            if intruder is not None:
                self.claim(intruder)
            step.commit(index, {"file": file} | ({"graders_version": version} if version else {}))
        except REFUSALS:
            assert self.newest != i or self.runs[i] is not run
            return
        if not known:
            assert self.newest == i and self.runs[i] is run and path not in self.committed
            self.committed[path] = mine

    @rule(i=drivers, name=st.sampled_from(STEPS))
    def discard(self, i: int, name: str) -> None:
        run = self.runs[i]
        if run.committed(name) is None:
            return
        known = name in run.ledger.state.discarded
        try:
            run.discard(name)
        except Displaced:
            assert self.newest != i
            return
        if not known:
            assert self.newest == i
            self.discarded.add(name)

    @rule(i=drivers)
    def end(self, i: int) -> None:
        run = self.runs[i]
        said = run.ledger.state.end is not None
        try:
            run.end("finished", "")
        except Displaced:
            assert self.newest != i
        else:
            assert said or self.newest == i

    @rule(i=drivers)
    def read(self, i: int) -> None:
        self.runs[i].ledger.refresh()

    @rule(number=st.integers(0, 40))
    def put_in_its_place(self, number: int) -> None:
        """A name that is taken stays as it is."""
        if (path := self.root / f"ledger/{number:08d}.json").exists():
            assert not put_if_absent(path, b"another")

    @invariant()
    def the_ledger_only_grows(self) -> None:
        reader = Ledger(self.root / "ledger")
        assert [record.number for record in reader.records] == list(range(len(reader.records)))
        epochs = [record.epoch for record in reader.records]
        assert epochs == sorted(epochs)
        claims = [record.epoch for record in reader.records if record.kind == "claim"]
        assert claims == list(range(1, self.num_claims + 1))
        now = {path.name: path.read_bytes() for path in (self.root / "ledger").glob("*.json")}
        assert now | self.records == now, "a record was changed or has gone"
        self.records = now

    @invariant()
    def what_is_committed_stays(self) -> None:
        at, state = Artifacts(self.root), Ledger(self.root / "ledger").state
        assert state.discarded == self.discarded
        found = {artifact.path: artifact for artifact in state.artifacts()}
        assert set(found) == set(self.committed) - self.discarded
        for path, artifact in found.items():
            place = at.verify(artifact)
            assert (place / "x" if place.is_dir() else place).read_bytes() == self.committed[path]
        assert not any((self.root / path).exists() for path in self.discarded)

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


class DriversForLonger(Drivers):
    pass


TestThreeDrivers = Drivers.TestCase
TestThreeDrivers.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestThreeDriversForLonger = pytest.mark.faults(DriversForLonger.TestCase)
TestThreeDriversForLonger.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
