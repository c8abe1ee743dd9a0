"""Files that change while the driver lives: what is used is what was committed, or nothing comes of it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import RoundLoss
from orchestrator.errors import Damaged, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import SamplingPlan, Shard, TrainingPlan
from tests.faults.children import Case, Kind, Undisturbed, Workers
from tests.faults.test_damage import put
from tests.orchestrator.test_loop import history
from tests.support.stand_ins import StandInEngines, skill_of
from workers.files import write_table
from workers.training.attempts import Attempts


def in_place(path: Path) -> None:
    """Other bytes in the same file, of the same size and the same time of writing."""
    times, content = path.stat(), bytearray(path.read_bytes())
    if found := re.search(rb"\d(?=\D*$)", content) if path.name == "model.safetensors" else None:
        content[found.start()] = ord(b"1") + (content[found.start()] == ord(b"1"))  # another number
    else:
        content[len(content) // 2] ^= 16
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file in its place, that can be read as well."""
    other = path.with_name(f"{path.name}.other")
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.slice(0, table.num_rows - 1) if table.num_rows else table, other, compression="none")
    else:
        other.write_text('{"skill": 0.9}')
    os.replace(other, path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


HARMS: Sequence[Callable[[Path], None]] = (in_place, replaced, cut)

BASE = "seed/model.safetensors"
"""The base model, which lies beside the run."""
LIVING: dict[str, list[tuple[str, tuple[str, int]]]] = {
    "sample": [
        (BASE, ("generate", 3)),
        (BASE, ("train", 1)),
        ("baseline/prompts/gate.parquet", ("generate", 6)),
        ("rounds/01/prompts/train.parquet", ("generate", 4)),
        ("rounds/01/samples/00000.parquet", ("grade", 4)),
        ("rounds/01/samples/00001.parquet", ("grade", 4)),
        ("rounds/01/verdicts/00000.parquet", ("grade", 4)),
        ("rounds/01/pairs/00000.parquet", ("tokenize", 4)),
        ("rounds/01/pairs/00000.parquet", ("grade", 11)),
        ("rounds/01/reference/00000.parquet", ("train", 1)),
        ("rounds/01/candidates/000001/checkpoint/model.safetensors", ("grade", 6)),
        ("rounds/01/retrain/probe.parquet", ("generate", 8)),
        ("rounds/01/checkpoint/model.safetensors", ("generate", 8)),
        ("rounds/01/checkpoint/model.safetensors", ("grade", 9)),
        ("rounds/01/checkpoint/model.safetensors", ("generate", 11)),
        ("rounds/02/replay/00000.parquet", ("train", 3)),
    ],
    "steps": [
        ("rounds/01/errors/00000.parquet", ("generate", 6)),
        ("rounds/01/search/01/samples/00000.parquet", ("grade", 6)),
        ("rounds/01/rectification/02/verdicts/00000.parquet", ("token_ends", 2)),
    ],
    "dataset": [
        ("baseline/model/model.safetensors", ("reference", 1)),
        ("baseline/preferences/00000.parquet", ("tokenize_preferences", 2)),
        ("baseline/chunks/00000.parquet", ("reference", 1)),
        ("rounds/01/pairs/00000.parquet", ("generate", 3)),
    ],
    "judge": [
        ("rounds/01/samples/00000.parquet", ("grade", 6)),
        ("rounds/01/judged/verdicts/00000.parquet", ("grade", 6)),
        ("baseline/reference/model.safetensors", ("train", 1)),
    ],
    "rewards": [
        ("baseline/reward/1/model.safetensors", ("reward", 2)),
        ("baseline/reward/2/model.safetensors", ("reward", 2)),
        ("rounds/01/rewards/00000.parquet", ("reward", 3)),
        ("rounds/01/verdicts/00000.parquet", ("reward", 1)),
    ],
    "steps, process": [
        ("baseline/process/model.safetensors", ("reward", 1)),
        ("rounds/01/errors/00000.parquet", ("reward", 1)),
    ],
    "curriculum": [
        ("rounds/01/verdicts/00000.parquet", ("harness", 2)),
        ("rounds/01/checkpoint/model.safetensors", ("harness", 2)),
    ],
}
"""Of each source, files with the piece of work that begins when they are changed: some are in use then, and others are
used later."""
CASES = [
    pytest.param(source, *case, how, id=f"{source}-{case[0]}-{'-'.join(map(str, case[1]))}-{how.__name__}")
    if number < 7 and how is HARMS[number % 3] and (source == "sample" or number == 0)
    else pytest.param(
        *(source, *case, how),
        id=f"{source}-{case[0]}-{'-'.join(map(str, case[1]))}-{how.__name__}",
        marks=pytest.mark.faults,
    )
    for source, cases in LIVING.items()
    for number, case in enumerate(cases)
    for how in HARMS
]


def harming(kind: Kind, case: Case, when: tuple[str, int], harm: Callable[[], None]) -> Workers:
    """Workers in this process, under which something happens when a piece of work begins."""
    workers = kind.workers(case)
    note, done = workers._on_call, list[bool]()

    def on_call(name: str) -> None:
        note(name)
        if (name, workers.calls[name]) == when and not done:
            done.append(True)
            harm()

    workers._on_call = on_call
    return workers


@pytest.fixture
def living(calm: Undisturbed, space: Path) -> Iterator[Case]:
    """A run of this process, from a copy of the job's folder, in which a base model may be harmed."""
    shutil.copytree(calm.job.parent, space / "job", ignore=shutil.ignore_patterns("undisturbed", "run"))
    case = Case(space / "job" / calm.job.name, space / "living", calm.kind.workers)
    case.folder.mkdir()
    yield case


@pytest.mark.parametrize(("source", "name", "when", "how"), CASES)
def test_nothing_is_made_of_a_file_that_changed_while_the_driver_lives(
    calm: Undisturbed, living: Case, name: str, when: tuple[str, int], how: Callable[[Path], None]
) -> None:
    path = living.job.parent / name if name == BASE else living.run / name
    content: list[bytes] = []

    def harm() -> None:
        content.append(path.read_bytes())
        how(path)

    with pytest.raises(Damaged, match=re.escape(f"{path}: ")):
        harming(calm.kind, living, when, harm).drive()
    assert content and path.read_bytes() != content[0]
    assert [item for item in history(living.run) if item not in calm.history] == []
    path.write_bytes(content[0])
    calm.kind.workers(living).drive()
    calm.require_same(living.run)
    assert verify(living.run).findings == []


def test_a_file_that_was_written_to_and_back_while_it_was_in_use_counts_as_changed(
    calm: Undisturbed, living: Case
) -> None:
    path = living.run / "rounds/01/reference/00000.parquet"

    def there_and_back() -> None:
        shutil.copyfile(path, f"{path}.x")
        os.replace(f"{path}.x", path)

    with pytest.raises(Damaged, match=re.escape(f"{path}: was written to while it was in use")):
        harming(calm.kind, living, ("train", 1), there_and_back).drive()
    calm.kind.workers(living).drive()
    calm.require_same(living.run)


def test_a_fork_of_a_living_run_changes_no_file_of_it(calm: Undisturbed, living: Case, space: Path) -> None:
    """Its links change the time of the last change, and that alone."""
    numbers = itertools.count()
    for when in (("generate", 8), ("train", 3)):
        harming(calm.kind, living, when, lambda: fork_to(living.run, space / f"child-{next(numbers)}")).drive()
    calm.require_same(living.run)


def fork_to(run: Path, child: Path) -> None:
    fork(run, child)


def test_a_file_that_appears_in_a_checkpoint_is_named(calm: Undisturbed, living: Case) -> None:
    """An engine loads all weights that it finds in the folder."""
    more = living.run / "rounds/01/checkpoint/model-2.safetensors"
    with pytest.raises(Damaged, match=re.escape(f"{more}: is no part of this model")):
        harming(calm.kind, living, ("generate", 10), lambda: put(more)).drive()
    more.unlink()
    calm.kind.workers(living).drive()
    calm.require_same(living.run)


def test_verify_finds_a_base_model_that_is_another_one_now(calm: Undisturbed, living: Case) -> None:
    calm.kind.workers(living).drive()
    base = living.job.parent / BASE
    assert verify(living.run).unchecked == []
    in_place(base)
    [finding] = verify(living.run).findings
    assert finding == f"{base.parent}: the base model here is not the one that this run was made from"
    shutil.rmtree(base.parent)
    found = verify(living.run)
    assert found.findings == []
    assert found.unchecked == [f"{base.parent}: the base model is not here, and could not be checked"]


# Workers that were given up and still live


class LateEngines(StandInEngines):
    """An engine that writes a shard, and writes to it again when it has told its hash."""

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard, facts in super().generate(shards, plan):
            if self.workers.calls["generate"] == 3:
                in_place(Path(shard.output))
            yield shard, facts


class LateWorkers(Workers):
    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        return LateEngines(self, skill_of(model))


class ReplacedEngines(StandInEngines):
    """An engine that was replaced, and finishes its shard when another has done so."""

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard, facts in super().generate(shards, plan):
            yield shard, facts
            write_table(pq.read_table(self.workers.prompts), Shard(0, "", 0, 0, shard.output, attempt=1).written)


class ReplacedWorkers(Workers):
    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        self.prompts = self.case.run / "baseline/prompts/gate.parquet"
        return ReplacedEngines(self, skill_of(model))


def test_a_write_between_hash_and_commit_is_found(calm: Undisturbed, living: Case) -> None:
    with pytest.raises(RatchetError, match="was changed after it was hashed"):
        LateWorkers(living).drive()
    assert "rounds/01/samples" not in Ledger(living.run / "ledger").state.shards
    calm.kind.workers(living).drive()
    calm.require_same(living.run)


def test_an_engine_that_was_replaced_writes_where_nobody_looks(calm: Undisturbed, living: Case) -> None:
    ReplacedWorkers(living).drive()
    calm.require_committed(living.run)
    assert verify(living.run).findings == []
    Workers(living).drive()
    calm.require_same(living.run)


def test_ranks_that_were_replaced_write_where_nobody_looks(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "round")
    Path(plan.metrics_file).parent.mkdir(parents=True)
    attempts = Attempts(plan)
    late = attempts.next()
    Path(late.state_dir, "000001").mkdir(parents=True)
    winner = attempts.next()
    assert Path(winner.state_dir, "000001").is_dir(), "it goes on from there"
    for attempt, content in ((winner, "winner"), (late, "late")):
        write(attempt, content)
        if attempt is winner:
            attempts.publish()
    assert Path(plan.metrics_file).read_text() == "winner" == Path(plan.checkpoint_dir, "config.json").read_text()
    attempts.remove()
    left = [".checkpoint-e1", ".state", ".state.2", ".train-e1"]
    assert sorted(path.name for path in (tmp_path / "round").iterdir()) == left
    assert [p.name for p in Path(plan.metrics_file).parent.iterdir()] == ["metrics.parquet"]


def plan_of(folder: Path) -> TrainingPlan:
    train = folder / ".train-e1"
    return TrainingPlan(
        init="seed",
        reference="seed",
        pairs=(),
        loss=RoundLoss(beta=0.1, dpo=1.0, nll=0.0),
        learning_rate=0.1,
        seed=1,
        state_dir=str(folder / ".state"),
        failure_file=str(folder / "failure.json"),
        metrics_file=str(train / "metrics.parquet"),
        probe_file=str(train / "probe.parquet"),
        checkpoint_dir=str(folder / ".checkpoint-e1"),
    )


def write(plan: Any, content: str) -> None:
    for file in (Path(plan.metrics_file), Path(plan.checkpoint_dir, "config.json"), Path(plan.state_dir, "x")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
