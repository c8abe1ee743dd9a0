"""Engines that die, hang and do not start, under a real Ray; the engines themselves have no model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from orchestrator.config import Generate
from orchestrator.errors import NoRoom
from orchestrator.records.harness import REQUESTS
from orchestrator.records.rows import PROMPTS, SAMPLES, SamplingPlan, Shard
from tests.support.local_ray import local_ray
from tests.support.placements import ForEngines
from tests.support.stand_in_engine import STAND_IN, noted
from workers.files import write_table
from workers.generation.pool import GeneratorPool
from workers.generation.shard import Partial, Sample
from workers.generation.slot import GenerationFailed

pytestmark = pytest.mark.real  # its limits are seconds, which starting Ray's processes may take on a full machine

PLAN = SamplingPlan(samples=2, temperature=1.0, top_p=1.0, top_k=0, max_tokens=4, stop=(), seed=5)
INTERVAL = 0.2  # seconds between two looks at the engines


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


class Lost(ForEngines):
    """As of two nodes, of which some are gone."""

    def __init__(self, *gone: int) -> None:
        super().__init__(2)
        self.gone = gone

    def actor_options(self, index: int) -> dict[str, Any]:
        return super().actor_options(index) | {"resources": {"gone": 1} if index in self.gone else {}}

    def placed(self) -> list[bool]:
        return [index not in self.gone for index in range(self.count)]

    def wait(self) -> None:
        if all(index in self.gone for index in range(self.count)):
            raise NoRoom("no room for two")


def pool_of(folder: Path, engines: int = 1, **settings: Any) -> GeneratorPool:
    return GeneratorPool(
        str(folder), Generate.model_validate(settings), 5, ForEngines(engines), STAND_IN, interval=INTERVAL
    )


def shards_of(folder: Path, *shards: Sequence[str]) -> list[Shard]:
    """Shards of prompts with these ids, as slices of one file."""
    ids = [prompt_id for shard in shards for prompt_id in shard]
    rows = [{"prompt_id": p, "text": p, "token_ids": [i], "gold": "1"} for i, p in enumerate(ids)]
    source = folder / "prompts.parquet"
    write_table(pa.Table.from_pylist(rows, PROMPTS), source)
    (folder / "samples").mkdir()
    found, start = [], 0
    for index, shard in enumerate(shards):
        output = folder / f"samples/.{index:05d}.parquet-e1"
        found.append(Shard(index, str(source), start, start + len(shard), str(output)))
        start += len(shard)
    return found


def sampled(folder: Path) -> list[tuple[str, int, str]]:
    files = sorted((folder / "samples").glob(".*.parquet-e1"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    assert table.schema == SAMPLES
    return [(row["prompt_id"], row["sample_index"], row["text"]) for row in table.to_pylist()]


def expected(*ids: str) -> list[tuple[str, int, str]]:
    return [(p, i, f"{p}/{i}") for p in ids for i in range(PLAN.samples)]


def draws(folder: Path) -> dict[str, int]:
    """How often each prompt was drawn."""
    counts: dict[str, int] = {}
    for line in noted(folder):
        if line.startswith("draw "):
            counts[line.split()[1]] = counts.get(line.split()[1], 0) + 1
    return counts


def partial_files(folder: Path) -> list[Path]:
    return list((folder / "samples").glob(".*partial*"))


def test_what_was_finished_before_an_engine_died_is_not_drawn_again(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, ["a", "b", "break-1", "c"], ["d", "e"])
    with pool_of(tmp_path) as pool:
        facts = {shard.index: facts for shard, facts in pool.generate(shards, PLAN)}
    assert sampled(tmp_path) == expected("a", "b", "break-1", "c", "d", "e")
    assert draws(tmp_path) | {"d": 1, "e": 1} == {"a": 1, "b": 1, "break-1": 2, "c": 1, "d": 1, "e": 1}
    assert [facts[i]["samples"] for i in (0, 1)] == [8, 4]
    assert noted(tmp_path).count("start") == 2
    [lost] = [reason for f in facts.values() for reason in f.get("engines_lost", [])]
    assert lost.startswith("engine 0: the engine stopped: OutOfMemoryError('CUDA out of memory")
    assert "generate.max_num_seqs" in lost
    assert not partial_files(tmp_path)


def requests_of(folder: Path, *prompts: Sequence[int], size: int = 2) -> list[Shard]:
    """Shards of so many requests: prompts, each with a completion of two tokens that its last one foretells."""
    rows = [(str(i), [*prompt], [prompt[-1] + 1, prompt[-1] + 2]) for i, prompt in enumerate(prompts)]
    columns = dict(zip(REQUESTS.names, map(list, zip(*rows, strict=True)), strict=True))
    write_table(pa.table(columns, schema=REQUESTS), folder / "requests.parquet")
    starts = range(0, len(rows), size)
    source, stop = str(folder / "requests.parquet"), len(rows)
    return [Shard(i, source, s, min(s + size, stop), str(folder / f".{i}.parquet-e1")) for i, s in enumerate(starts)]


def test_completions_are_scored_once_each_whatever_becomes_of_the_engines(tmp_path: Path) -> None:
    shards = requests_of(tmp_path, [1, 2], [3, 4], [13, 6], [5, 6, 7], [8])
    with pool_of(tmp_path, engines=2) as pool:
        facts = {shard.index: facts for shard, facts in pool.score(shards)}
    rows = [row for shard in shards for row in pq.read_table(shard.output).to_pylist()]
    assert rows == [{"prompt_id": str(i), "logprob": -2.0, "greedy": True} for i in range(5)]
    assert [facts[i]["requests"] for i in range(3)] == [2, 2, 1] and facts[2]["tokens"] == 3
    [lost] = [reason for told in facts.values() for reason in told.get("engines_lost", [])]
    assert "OutOfMemoryError" in lost


def test_requests_that_take_down_every_engine_end_the_pass(tmp_path: Path) -> None:
    (tmp_path / "always").touch()
    with (
        pool_of(tmp_path) as pool,
        pytest.raises(GenerationFailed, match=r"requests 2 to 3 of .* taken down 3 engines"),
    ):
        list(pool.score(requests_of(tmp_path, [1, 2], [3, 4], [13, 6], [5, 6])))


def test_an_engine_that_was_given_up_writes_where_nobody_looks(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, ["a", "break-1", "b"])
    with pool_of(tmp_path) as pool:
        assert len(list(pool.generate(shards, PLAN))) == 1
    written = [line.removeprefix("write ") for line in noted(tmp_path) if line.startswith("write ")]
    assert len(written) == len(set(written)) >= 2
    for name in written:
        Path(name).write_bytes(b"late")
    assert sampled(tmp_path) == expected("a", "break-1", "b")


def test_a_prompt_that_takes_down_three_engines_is_left_out_and_no_other(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, ["a", "b"], ["c", "d", "poison-1", "e", "f"], ["g"])
    with pool_of(tmp_path) as pool:
        facts = {shard.index: facts for shard, facts in pool.generate(shards, PLAN)}
    assert sampled(tmp_path) == expected("a", "b", "c", "d", "e", "f", "g")
    assert {i: f.get("quarantined") for i, f in facts.items()} == {0: None, 1: ["poison-1"], 2: None}
    assert facts[1]["samples"] == 8
    assert draws(tmp_path)["poison-1"] == 3
    last = [line for line in noted(tmp_path) if "poison-1" in line][-1]
    assert last == "draw poison-1 1", "the third time it was in the engine alone"
    assert not partial_files(tmp_path)


@pytest.mark.full
def test_two_culprits_in_two_shards_on_two_engines(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, ["a", "poison-1"], ["b", "c"], ["poison-2", "d"], ["e", "f"])
    with pool_of(tmp_path, engines=2) as pool:
        pool.wait_ready()
        facts = {shard.index: facts for shard, facts in pool.generate(shards, PLAN)}
    assert sampled(tmp_path) == expected("a", "b", "c", "d", "e", "f")
    assert [facts[i].get("quarantined") for i in range(4)] == [["poison-1"], None, ["poison-2"], None]


@pytest.mark.full
def test_culprits_side_by_side_are_left_out_one_after_the_other(tmp_path: Path) -> None:
    """No prompt is finished between their deaths; the engines are not to blame."""
    shards = shards_of(tmp_path, ["a", "poison-1", "poison-2", "poison-3"], ["b"])
    with pool_of(tmp_path) as pool:
        facts = {shard.index: facts for shard, facts in pool.generate(shards, PLAN)}
    assert sampled(tmp_path) == expected("a", "b")
    assert {i: f.get("quarantined") for i, f in facts.items()} == {0: ["poison-1", "poison-2", "poison-3"], 1: None}
    # Two culprits can be drawn at once, and share a death.
    assert len(facts[0]["engines_lost"]) in (4, 5)


@pytest.mark.full
def test_an_engine_that_no_prompt_survives_ends_the_run(tmp_path: Path) -> None:
    """Whatever it is given: nothing says that the prompts are the culprits. Shards that end empty are no progress."""
    shards = shards_of(tmp_path, *([f"poison-{number}-{i}" for i in range(4)] for number in range(3)))
    with pool_of(tmp_path) as pool, pytest.raises(GenerationFailed, match=r"10 times in a row with one prompt alone"):
        list(pool.generate(shards, PLAN))
    given_up = {line.split()[1] for line in noted(tmp_path) if line.startswith("draw ")}
    assert len(given_up) >= 10


@pytest.mark.parametrize("how", [pytest.param("hang-1", marks=pytest.mark.full), "stop-1"])
def test_an_engine_that_hangs_is_replaced(tmp_path: Path, how: str) -> None:
    """One whose counter stands still, and one whose process is stopped and answers nothing."""
    shards = shards_of(tmp_path, ["a", how, "b"], ["c", "d"])
    with pool_of(tmp_path, stall_timeout=4.0) as pool:
        pool.wait_ready()
        [first] = [psutil.Process(ray.get(slot.started)) for slot in pool._slots]
        facts = [facts for _, facts in pool.generate(shards, PLAN)]
        psutil.wait_procs([first], timeout=30)
        assert not first.is_running()
    assert sampled(tmp_path) == expected("a", how, "b", "c", "d")
    [lost] = [reason for f in facts for reason in f.get("engines_lost", [])]
    assert "no progress for 4 s (generate.stall_timeout)" in lost
    assert draws(tmp_path)["a"] == 1
    assert not partial_files(tmp_path)


def test_an_engine_whose_process_is_killed(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, *[[f"p{i}"] for i in range(12)])
    with pool_of(tmp_path, engines=2) as pool:
        pool.wait_ready()
        done = []
        for shard, _ in pool.generate(shards, PLAN):
            if not done:
                os.kill(ray.get(pool._slots[0].started), signal.SIGKILL)
            done.append(shard.index)
    assert sorted(done) == list(range(12))
    assert sampled(tmp_path) == expected(*[f"p{i}" for i in range(12)])


def test_an_engine_that_does_not_start_tells_why(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("fails")
    with pool_of(tmp_path) as pool, pytest.raises(GenerationFailed, match=r"stand-in cannot serve .*for this device"):
        pool.wait_ready()


def test_an_engine_that_is_killed_while_it_starts_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("is killed 2")
    with pool_of(tmp_path) as pool:
        pool.wait_ready()
        assert noted(tmp_path).count("start") == 3


def test_an_engine_that_takes_too_long_to_start_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("hangs")
    with (
        pool_of(tmp_path, start_timeout=2) as pool,
        pytest.raises(GenerationFailed, match=r"within 2 s.*generate\.start_timeout"),
    ):
        pool.wait_ready()


def test_engines_that_cannot_be_started_again_end_the_run_and_blame_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("fails after 1")
    shards = shards_of(tmp_path, ["a", "break-1"])
    with pool_of(tmp_path) as pool, pytest.raises(GenerationFailed, match=r"5 times in a row .*for this device"):
        list(pool.generate(shards, PLAN))
    assert draws(tmp_path) == {"a": 1, "break-1": 1}


def test_an_error_that_an_engine_survives_ends_the_run_with_its_words(tmp_path: Path) -> None:
    shards = shards_of(tmp_path, ["a", "refuse-1"])
    with (
        pool_of(tmp_path) as pool,
        pytest.raises(GenerationFailed, match="shard 0 on engine 0: this prompt is refused"),
    ):
        list(pool.generate(shards, PLAN))
    assert noted(tmp_path).count("start") == 1


def test_an_engine_that_hangs_over_the_probe_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    with pool_of(tmp_path, engines=2, stall_timeout=4.0) as pool:
        assert pool.logprobs([[1], [1]], [[2, 3], [4]]) == [[-2.0, -1.0], [-2.0, -1.0]]


def test_torn_and_repeated_lines_of_a_partial_file_do_no_harm(tmp_path: Path) -> None:
    partial = Partial(str(tmp_path / ".00000.parquet-e1"))
    assert partial.read(1) == {}
    partial.append("a", [Sample("schön\n", [1, 2], "stop")])
    with open(partial.path, "ab") as file:
        file.write(b'["torn", [["x", [1')
    partial.append("b", [Sample("", [], "length")])
    partial.append("a", [Sample("later", [3], "stop")])
    partial.append("few", [])
    assert partial.read(1) == {"a": [Sample("schön\n", [1, 2], "stop")], "b": [Sample("", [], "length")]}


def test_an_engine_without_a_place_is_not_waited_for_nor_blamed(tmp_path: Path) -> None:
    settings = Generate(start_timeout=0.5)
    shards = shards_of(tmp_path, *([f"p{number}"] for number in range(8)))
    with GeneratorPool(str(tmp_path), settings, 5, Lost(1), STAND_IN, interval=INTERVAL) as pool:
        pool.wait_ready()
        assert pool.logprobs([[1]], [[2, 3]]) == [[-2.0]]
        for shard in shards:  # each time there is time enough to give the other one up
            time.sleep(0.3)
            [(_, facts)] = pool.generate([shard], PLAN)
            assert "engines_lost" not in facts
    assert sampled(tmp_path) == expected(*(f"p{number}" for number in range(8)))


def test_where_no_engine_has_a_place_there_must_be_room_first(tmp_path: Path) -> None:
    with (
        GeneratorPool(str(tmp_path), Generate(start_timeout=600), 5, Lost(0, 1), STAND_IN, interval=INTERVAL) as pool,
        pytest.raises(NoRoom, match="no room for two"),
    ):
        pool.wait_ready()


def test_an_engine_that_finds_too_little_memory_is_started_again_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("finds too little 2")
    told: list[str] = []
    with waiting_pool(tmp_path, told) as pool:
        pool.wait_ready()
        assert pool.logprobs([[1]], [[2, 3]]) == [[-2.0]]
    assert noted(tmp_path).count("start") == 3
    first, second = told
    assert first.startswith("waiting   memory: start 2 of 4 of engine 0 in 0.1 s; ") and "start 3 of 4" in second
    assert "held by process 7 (other)" in first


@pytest.mark.full
def test_memory_that_does_not_come_back_ends_the_run_for_now(tmp_path: Path) -> None:
    (tmp_path / "start").write_text("finds too little 99")
    with (
        waiting_pool(tmp_path, []) as pool,
        pytest.raises(
            NoRoom, match=r"too little memory 4 times .*held by process 7.* the same command goes on"
        ) as raised,
    ):
        pool.wait_ready()
    assert raised.value.exit_code == 75 and noted(tmp_path).count("start") == 4


@pytest.mark.full
def test_an_engine_that_is_replaced_waits_for_memory_too_and_no_prompt_is_blamed(tmp_path: Path) -> None:
    """What the dead engine held may be given back later than its successor asks for it."""
    told: list[str] = []
    shards = shards_of(tmp_path, ["a", "break-1"])
    with waiting_pool(tmp_path, told) as pool:
        pool.wait_ready()
        (tmp_path / "start").write_text("finds too little 4")
        [(_, facts)] = pool.generate(shards, PLAN)
    assert len(told) == 3 and noted(tmp_path).count("start") == 5
    assert len(facts["engines_lost"]) == 1 and "quarantined" not in facts
    assert sampled(tmp_path) == expected("a", "break-1")


def waiting_pool(folder: Path, told: list[str]) -> GeneratorPool:
    waits = (0.1, 0.2, 0.3)
    return GeneratorPool(
        str(folder), Generate(), 5, ForEngines(), STAND_IN, interval=INTERVAL, say=told.append, waits=waits
    )
