"""What a round of millions holds of each prompt, pair or record: a few bytes of a digest or a number, and no set, list
or dictionary of them. Counted by what Python allocates, at two sizes."""

from __future__ import annotations

import ast
import gc
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.load import load_job
from orchestrator.driver.kept import read_all_problems
from orchestrator.driver.same_job import problem_digests
from orchestrator.inputs.gold_check import check_golds
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records import counts
from orchestrator.records.digests import Places, digest_of, repeated
from orchestrator.records.groups import Units
from orchestrator.records.pair_ids import completion_key
from orchestrator.records.parquet import BYTES_A_GROUP, GROUPS_OF_A_TABLE, TableWriter, streamed
from orchestrator.records.rows import PROMPTS, REFERENCE
from orchestrator.rounds.prompt_rows import Prompts
from orchestrator.rounds.recount import Logprobs, Pair
from orchestrator.sources.lineage import _Prompts
from tests.support.stand_ins import all_read, make_project
from workers.files import write_table

ROOT = Path(__file__).parents[2]
FEW, MANY = 3_000, 9_000
Make = Callable[[Path, int], Callable[[], object]]


def problems(folder: Path, number: int) -> Callable[[], object]:
    """As `ratchet validate` and a first start read them; one for three, but so long that all need a file."""
    file = load_job(make_project(folder))
    rows = (json.dumps({"id": f"{n}", "question": f"{n}? {'x' * 1200}", "answer": "1"}) for n in range(number // 3))
    (folder / "train.jsonl").write_text("\n".join(rows))

    def read() -> object:
        found = read_all_problems(file)
        problem_digests(found)
        check_golds(file, found, all_read)
        return found

    return read


def prompts(folder: Path, number: int) -> Callable[[], object]:
    """Four for one: some thousand are read at a time."""
    number *= 4
    rows = {"prompt_id": [f"p{n}" for n in range(number)], "text": ["?"] * number, "token_ids": [[1]] * number}
    rows["gold"] = ["1"] * number
    none = pa.nulls(number)
    table = pa.table([rows.get(name, none) for name in PROMPTS.names], names=PROMPTS.names)
    pq.write_table(table.cast(PROMPTS), folder / "file", row_group_size=100)
    return lambda: Prompts(folder / "file")


def pairs(number: int, per_prompt: int = 4) -> Iterator[Pair]:
    for n in range(number):
        yield from (Pair([n], [n, i], [n, 1000 + i]) for i in range(per_prompt))


def trained(_: Path, number: int) -> Callable[[], object]:
    return lambda: counts.trained_pairs(lambda: pairs(number), 0)


def units(_: Path, number: int) -> Callable[[], object]:
    return lambda: Units().add(itertools.repeat(None, 4 * number))


def logprobs(folder: Path, number: int) -> Callable[[], object]:
    keys = [completion_key([n], [n]) for n in range(number)]
    table = pa.table([keys, [-1.0 - n for n in range(number)], [1] * number], schema=REFERENCE)
    pq.write_table(table, folder / "file", row_group_size=100)
    return lambda: Logprobs(folder / "file")


def followed(_: Path, number: int) -> Callable[[], object]:
    def make() -> object:
        rows = ({"prompt_id": f"p{n}", "token_ids": [n], "solution_token_ids": None} for n in range(number))
        found = _Prompts(rows)
        for n in range(number):
            found.note_shard(f"p{n}", n // 256)
        return found

    return make


@pytest.mark.parametrize(
    ("make", "most"),
    [
        pytest.param(problems, 60, id="problems that are read"),
        pytest.param(prompts, 4 * 35, id="prompts by id"),
        pytest.param(trained, 80, id="completions that are counted"),
        pytest.param(units, 4, id="pairs that are counted"),
        pytest.param(logprobs, 90, id="log-probabilities by completion"),
        pytest.param(followed, 130, id="prompts that pairs are followed to"),
    ],
)
def test_a_prompt_more_takes_few_bytes(make: Make, most: float, tmp_path: Path) -> None:
    """At most, while it is made: sets and dictionaries of the same take from 60 to 1,000."""
    peaks = []
    for number in (FEW, MANY):
        (folder := tmp_path / str(number)).mkdir()
        measured = make(folder, number)
        measured()  # once before: what is imported and cached
        gc.collect()
        tracemalloc.start()
        kept = measured()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del kept
    slope = (peaks[1] - peaks[0]) / (MANY - FEW)
    assert slope < most


def test_who_follows_a_driver_holds_no_records_of_his_own(tmp_path: Path) -> None:
    driver = Ledger(tmp_path / "ledger")
    driver.claim({})
    follower = driver.as_it_is()
    for number in range(3):
        driver.append("commit", {"step": str(number), "fingerprint": "f", "artifacts": [], "facts": {"pairs": number}})
    assert [record.number for record in follower.refresh()] == [1, 2, 3] and follower.refresh() == []
    assert all(one is other for one, other in zip(follower.records, driver.records, strict=True))
    assert follower.state == driver.state and follower.state is not driver.state
    Ledger(tmp_path / "ledger").claim({})  # which the driver does not know yet
    assert follower.refresh()[0].number == 4 and follower.state.epoch == 2


def test_of_shards_those_in_flight_are_held(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.claim({"host": "here", "pid": 1, "process_start": 1.0, "version": "0"})
    samples = run.sharded("rounds/01/samples", {"plan": 7})
    verdicts = run.sharded("rounds/01/verdicts", {"plan": 8}, samples)
    for index in range(3):
        said: dict[str, Any] = {"file": write_table(pa.table({"x": [index]}), samples.hidden(index))}
        samples.commit(index, {"samples": 1} | said)
        hidden = verdicts.hidden(index)
        assert [*verdicts._hidden] == [*verdicts._check_of] == [index] and not samples._hidden
        verdicts.commit(index, {"correct": 1} | {"file": write_table(pa.table({"x": [index]}), hidden)})
    assert not verdicts._hidden and not verdicts._check_of


# Parquet files


def test_small_tables_are_written_together_once_there_are_many(tmp_path: Path) -> None:
    schema = pa.schema({"id": pa.string(), "ids": pa.list_(pa.int32())})
    tables = [pa.table([[f"{n}"] * 8, [[n] * 400] * 8], schema=schema) for n in range(4 * GROUPS_OF_A_TABLE)]
    with TableWriter(tmp_path / "file", schema) as writer:
        for table in tables:
            writer.write(table)
    assert pq.read_table(tmp_path / "file").equals(pa.concat_tables(tables))
    size = sum(table.nbytes for table in tables[GROUPS_OF_A_TABLE:])
    assert size > BYTES_A_GROUP
    groups = pq.read_metadata(tmp_path / "file").num_row_groups
    assert groups == GROUPS_OF_A_TABLE + -(-size // (-(-BYTES_A_GROUP // tables[0].nbytes) * tables[0].nbytes))


def test_few_tables_have_the_bytes_that_they_always_had(tmp_path: Path) -> None:
    """A fork of a run by an earlier version makes its pairs anew, and takes over the training of the same bytes."""
    tables = [pa.table({"id": [f"{n}", "x"]}) for n in range(9)]
    with TableWriter(tmp_path / "file", tables[0].schema) as writer:
        for table in tables:
            writer.write(table)
    with pq.ParquetWriter(tmp_path / "before", tables[0].schema, compression="zstd") as before:
        for table in tables:
            before.write_table(table)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "before").read_bytes()


def test_what_was_read_of_a_file_is_not_held(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    table = pa.table({"x": rng.integers(0, 2**60, 200_000)})
    pq.write_table(table, tmp_path / "file", row_group_size=1000)
    held, before = 0, pa.total_allocated_bytes()
    with streamed(tmp_path / "file") as parquet:
        for batch in parquet.iter_batches(1000):
            del batch
            held = max(held, pa.total_allocated_bytes() - before)
    assert held < table.nbytes / 4


def test_whoever_reads_batch_by_batch_opens_the_file_for_that() -> None:
    found = 0
    for path in itertools.chain((ROOT / "orchestrator").rglob("*.py"), (ROOT / "workers").rglob("*.py")):
        functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
        for function in functions:
            names = {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
            found += "iter_batches" in names
            assert not {"iter_batches", "ParquetFile"} <= names, f"{path}, {function.name}: open it by `streamed`"
    assert found > 8


# Digests


def test_digests_are_found_where_they_stand_last() -> None:
    digests = [digest_of(str(n % 50).encode()) for n in range(60)]
    places = Places(b"".join(digests))
    for n in range(50):
        assert places.of(digest_of(str(n).encode())) == (n + 50 if n < 10 else n)
    assert places.of(digest_of(b"none")) is None and Places(b"").of(digests[0]) is None and len(places) == 60
    assert repeated(b"".join(digests)) == set(digests[:10]) and repeated(b"") == set()


def test_all_bytes_of_a_digest_count() -> None:
    """Two of which 8 bytes are the same are no more the same than others; also where bytes are zero."""
    alike = [bytes(8) + bytes([0, n, 0, 0, 0, 0, 0, 0]) for n in (3, 0, 7)]
    places = Places(b"".join(alike))
    assert [places.of(one) for one in alike] == [0, 1, 2]
    assert places.of(bytes(8) + bytes([0, 9, 0, 0, 0, 0, 0, 0])) is None
    assert repeated(b"".join(alike)) == set() and repeated(b"".join([*alike, alike[1]])) == {alike[1]}


def test_completions_of_a_prompt_that_comes_again_are_counted_once() -> None:
    def given() -> Iterator[Pair]:
        yield from (Pair([1], [2], [3]), Pair([1], [2], [4]), Pair([5], [2], None), Pair([1], [2], [9]))
        yield Pair([5], [2, 2], [3], chosen_mask=[False, True])

    every = {
        completion_key(pair.prompt, side, mask)
        for pair in given()
        for side, mask in ((pair.chosen, pair.chosen_mask), (pair.rejected, None))
        if side is not None
    }
    assert counts.trained_pairs(given, 2) == {"pairs": 5, "dropped_pairs": 2, "distinct_completions": len(every)}
    assert len(every) == 7


def test_units_are_the_same_with_groups_and_without() -> None:
    for groups in ([None] * 4, [None, None, "a", "a", None, "b", None], ["a", "a", "b"], [None], []):
        made = Units().add(groups)
        wanted = [
            [place for place, _ in rows]
            for _, rows in itertools.groupby(enumerate(groups), lambda row: row[1] or row[0])
        ]
        assert [[*unit] for unit in made] == wanted and len(made) == len(wanted) and made.pairs == len(groups)
        assert made.pairs_of(range(len(wanted))) == [*range(len(groups))]
