"""Stages over preference data: their order, the guard against references that know their data, and what is told."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import pairs_schema, step_pairs_schema
from orchestrator.reports.lineage import follow
from orchestrator.rounds.round import NoPairs
from orchestrator.rounds.space import round_need
from orchestrator.sources.dataset import deal, seen_rows
from orchestrator.sources.registry import SOURCES
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, pair, right, write_rows, wrong
from tests.support.stand_ins import make_project, run_job


def committed(folder: Path, step: str) -> dict[str, Any]:
    return Ledger(folder / "run/ledger").state.commits[step].facts


def chunks(folder: Path) -> list[str]:
    """Names of the chunks in the order of the stages."""
    commits = Ledger(folder / "run/ledger").state.commits
    steps = [f"rounds/{number:02d}/pairs" for number in range(1, 9)]
    return [commits[step].facts["chunk"] for step in steps if step in commits]


def prompts(folder: Path, stage: int) -> list[str]:
    return pq.read_table(folder / f"run/rounds/{stage:02d}/pairs/00000.parquet")["prompt"].to_pylist()


# Order


def test_the_chunk_that_the_base_model_ranks_best_comes_first(tmp_path: Path) -> None:
    mixed = right("m", 3) + wrong("n", 3)
    job = make_stages(tmp_path, {"hard": wrong("h", 4), "mixed": mixed, "easy": right("e", 4)})
    workers = PreferenceStandIns()
    run_job(job, workers)
    assert chunks(tmp_path) == ["easy.jsonl", "mixed.jsonl", "hard.jsonl"]
    assert [committed(tmp_path, f"rounds/{n:02d}/pairs")["ranking_accuracy"] for n in (1, 2, 3)] == [1.0, 0.5, 0.0]
    # One pass a chunk to rank it, one a stage by its reference, one a stage by its policy.
    assert workers.calls == Counter(tokenize_preferences=3, reference=6, policy=3, train=3)
    assert committed(tmp_path, "rounds/02/policy")["reward_accuracy"] == 0.5


def test_the_order_as_given_asks_no_model(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"hard": wrong("h", 4), "easy": right("e", 4)}, {"order": "given"})
    workers = PreferenceStandIns()
    run_job(job, workers)
    assert chunks(tmp_path) == ["hard.jsonl", "easy.jsonl"]
    assert workers.calls["reference"] == 2


def test_a_random_order_is_the_seeds(tmp_path: Path) -> None:
    sources = {name: right(name, 2) for name in "abcde"}
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run_job(make_stages(folder, sources, {"order": "random"}, seed=seed), PreferenceStandIns())
        orders.append(chunks(folder))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{name}.jsonl" for name in "abcde"]


def test_a_single_source_is_split_with_its_prompts_whole(tmp_path: Path) -> None:
    rows = [pair(f"p{i}?", "1", str(k)) for i in range(10) for k in (2, 3)]
    run_job(make_stages(tmp_path, {"one": rows}, {"split": 3}), PreferenceStandIns())
    parts = [prompts(tmp_path, stage) for stage in (1, 2, 3)]
    assert sorted(prompt for part in parts for prompt in part) == sorted(row["prompt"] for row in rows)
    assert all(set(Counter(part).values()) == {2} for part in parts)
    assert not set(parts[0]) & set(parts[1]) | set(parts[1]) & set(parts[2]) | set(parts[0]) & set(parts[2])
    assert chunks(tmp_path)[0].startswith("one.jsonl, part ")


@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(1, 5), st.integers(0, 9))
def test_rows_are_dealt_out_once(prompt_ids: list[str], count: int, seed: int) -> None:
    dealt = deal(prompt_ids, count, seed)
    assert len(dealt) == count
    assert sorted(row for chunk in dealt for row in chunk) == list(range(len(prompt_ids)))
    of = [{prompt_ids[row] for row in chunk} for chunk in dealt]
    assert sum(map(len, of)) == len(set(prompt_ids))
    assert deal(prompt_ids, count, seed) == dealt


def test_fewer_prompts_than_chunks_are_refused(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"one": right("a", 2)}, {"split": 3})
    with pytest.raises(BadInput, match=r"stages.split: one.jsonl has 2 prompts, too few for 3 chunks"):
        run_job(job, PreferenceStandIns())


# The guard


def test_a_reference_that_knows_its_data_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    # The same completion of the same prompt, spaced otherwise and against another one.
    leak = [pair("e 1?", " 1 ", "3")]
    job = make_stages(tmp_path, {"easy": right("e", 4), "hard": wrong("h", 4) + leak}, {"order": "given"})
    workers = PreferenceStandIns()
    with pytest.raises(BadInput) as refused:
        run_job(job, workers)
    assert "the reference of stage 2 has been trained on 1 of the 5 pairs of hard.jsonl" in str(refused.value)
    assert "such as pair '2/5' (prompt 'e 1?')" in str(refused.value)
    assert "stages.drop_seen: true" in str(refused.value)
    assert "train" not in workers.calls


def test_what_the_reference_knows_is_left_out_and_counted(tmp_path: Path) -> None:
    leak = [pair("e 1?", "1", "3")]
    sources = {"easy": right("e", 4), "hard": wrong("h", 4) + leak}
    said = run_job(make_stages(tmp_path, sources, {"order": "given", "drop_seen": True}), PreferenceStandIns())
    facts = committed(tmp_path, "rounds/02/pairs")
    assert (facts["pairs"], facts["seen"]) == (4, 1)
    assert "e 1?" not in prompts(tmp_path, 2)
    assert any("left out: 1 that the reference has seen" in line for line in said)


@pytest.mark.parametrize("chat", [False, True])
def test_pairs_of_steps_are_known_as_data_too(tmp_path: Path, chat: bool) -> None:
    """A run's own pairs have the right steps beside the prompt; read as preference data, they are in it."""
    step = {"pair_id": "p/0", "prompt_id": "p", "prompt": "2 + 2 + 2?", "chosen": " 6", "rejected": " 7", "step": 2}
    step |= {"initial_reason_steps": "Step 1: 4\nStep 2:", "chosen_source": "rounds/01", "dataset": "", "answer": "6"}
    ids = {f"{part}_token_ids": [1] for part in ("prompt", "chosen", "rejected")}
    step |= ids | {"full_chosen": " 6", "full_rejected": " 7"}
    pq.write_table(pa.Table.from_pylist([step], step_pairs_schema()), tmp_path / "own.parquet")
    made: list[dict[str, Any]] = []
    for number, steps in enumerate(("Step 1: 4\nStep 2:", "Step 1: 5\nStep 2:")):
        row: dict[str, Any] = {"prompt": f"2 + 2 + 2?\n{steps}", "chosen": " 6", "rejected": " 8"}
        if chat:
            row = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
            asked = {"role": "user", "content": "2 + 2 + 2?"}
            row["prompt"] = [asked, {"role": "assistant", "content": steps}]
        made.append(row | ids | {"pair_id": f"1/{number}", "prompt_id": "p"})
    pq.write_table(pa.Table.from_pylist(made, pairs_schema(chat)), tmp_path / "data.parquet")
    assert seen_rows(tmp_path / "data.parquet", [tmp_path / "own.parquet"]) == ["1/0"]


def test_a_prompt_alone_is_no_leak(tmp_path: Path) -> None:
    sources = {"easy": right("e", 4), "again": [pair("e 1?", "5", "6")]}
    run_job(make_stages(tmp_path, sources, {"order": "given"}), PreferenceStandIns())
    assert committed(tmp_path, "rounds/02/pairs")["seen"] == 0


def test_data_that_are_known_whole_leave_nothing(tmp_path: Path) -> None:
    sources = {"a": right("e", 3), "b": right("e", 3)}
    job = make_stages(tmp_path, sources, {"order": "given", "drop_seen": True})
    with pytest.raises(NoPairs, match=r"its reference has seen all of b.jsonl"):
        run_job(job, PreferenceStandIns())


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"reference": "base"}, False),  # the base model has seen nothing
        ({"init": "base"}, False),  # stage 3's reference was trained on stage 2's data alone
        ({}, True),
    ],
)
def test_only_what_the_reference_descends_from_counts(tmp_path: Path, changes: dict[str, str], refused: bool) -> None:
    sources = {"a": right("a", 3), "b": right("b", 3), "again": right("a", 1)}
    job = make_stages(tmp_path, sources, {"order": "given"}, **changes)
    if refused:
        with pytest.raises(BadInput, match="the reference of stage 3 has been trained on 1 of the 1 pairs"):
            run_job(job, PreferenceStandIns())
    else:
        run_job(job, PreferenceStandIns())
        assert len(chunks(tmp_path)) == 3


def test_a_base_model_that_another_run_has_trained_on_the_data(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    run_job(make_stages(first, {"a": right("a", 3)}), PreferenceStandIns())
    sources = {"b": right("b", 3), "a": right("a", 1)}
    job = make_stages(second, sources, {"order": "given"}, model=f"run:{first / 'run'}@round1")
    with pytest.raises(BadInput, match=r"the reference of stage 2 has been trained on 1 of the 1 pairs of a\.jsonl"):
        run_job(job, PreferenceStandIns())
    with pytest.raises(BadInput, match="the reference of stage 2"):  # the base is that model
        run_job(job, PreferenceStandIns(), "reference=base", f"run_dir={second / 'base'}")
    run_job(job, PreferenceStandIns(), "rounds=1", "stages.sources=[b.jsonl]", f"run_dir={second / 'other'}")


# Steps of a run


def test_an_interrupted_run_goes_on_and_comes_out_the_same(tmp_path: Path) -> None:
    sources = {"hard": wrong("h", 4), "easy": right("e", 4)}
    folders = [tmp_path / "whole", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    run_job(make_stages(folders[0], sources), PreferenceStandIns())
    job, calls = make_stages(folders[1], sources), Counter[str]()

    def fail(name: str) -> None:
        calls[name] += 1
        if (name, calls[name]) in (("reference", 2), ("policy", 1), ("train", 2)):
            raise RuntimeError(name)

    for _ in range(3):
        with pytest.raises(RuntimeError):
            run_job(job, PreferenceStandIns(on_call=fail))
    last = PreferenceStandIns()
    run_job(job, last)
    assert last.calls == Counter(train=1, policy=1)  # all else was committed
    states = [Ledger(folder / "run/ledger").state for folder in folders]
    assert list(states[0].commits) == list(states[1].commits)
    for step, commit in states[0].commits.items():
        assert [a.files for a in commit.artifacts] == [a.files for a in states[1].commits[step].artifacts], step
    assert not verify(folders[1] / "run").findings


def test_other_data_are_refused_on_a_resume(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"a": right("a", 3), "b": right("b", 3)}, {"order": "given"})
    run_job(job, PreferenceStandIns(), "rounds=1")
    write_rows(tmp_path / "b.jsonl", right("c", 3))
    with pytest.raises(Exception, match="baseline/preferences was committed from other inputs"):
        run_job(job, PreferenceStandIns())


def test_a_fork_takes_over_what_other_settings_leave_alone(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"hard": wrong("h", 4), "easy": right("e", 4)})
    run_job(job, PreferenceStandIns())
    fork(tmp_path / "run", tmp_path / "child", ["loss.beta=[0.1, 0.5]"])
    workers = PreferenceStandIns()
    run_job(tmp_path / "child/job.yaml", workers)
    assert workers.calls == Counter(train=1)  # which the stand-in does the same with any beta
    fork(tmp_path / "run", tmp_path / "other", ["stages.order=given"])
    workers = PreferenceStandIns()
    run_job(tmp_path / "other/job.yaml", workers)
    assert workers.calls == Counter(reference=2, train=2, policy=2)


def test_the_best_of_several_checkpoints_is_what_the_policy_pass_scores(tmp_path: Path) -> None:
    make_project(tmp_path)
    data, train = {"gate": "gate.jsonl", "test": "test.jsonl"}, {"eval_every": 1, "select": "best"}
    job = make_stages(tmp_path, {"a": right("a", 3), "b": right("b", 3)}, data=data, train=train)
    workers = PreferenceStandIns(steps=2, peak=1)
    run_job(job, workers)
    assert workers.calls["policy"] == 2
    facts = committed(tmp_path, "rounds/01/policy")
    assert facts["gamma"] == pytest.approx(0.6), "the first step's skill, not the second's"


def test_verify_follows_a_stage_back_to_the_data(tmp_path: Path) -> None:
    run_job(make_stages(tmp_path, {"a": right("a", 3), "b": right("b", 3)}), PreferenceStandIns())
    run = tmp_path / "run"
    assert verify(run).followed == [1, 2] and not verify(run).findings
    file = run / "rounds/02/pairs/00000.parquet"
    table = pq.read_table(file)
    chosen = table["chosen_token_ids"].to_pylist()
    column = table.schema.get_field_index("chosen_token_ids")
    other = pa.array([[7], *chosen[1:]], table.schema.field("chosen_token_ids").type)
    pq.write_table(table.set_column(column, table.schema.field("chosen_token_ids"), other), file)
    assert follow(run, Ledger(run / "ledger").state, 2, SOURCES) == [
        "rounds/02/pairs: pair '2/1' is no pair of baseline/chunks"
    ]


def test_a_stage_needs_room_for_its_pairs(tmp_path: Path) -> None:
    job = load_job(make_stages(tmp_path, {"a": right("a", 3)}, train={"batch_pairs": 4})).job
    (tmp_path / "seed/config.json").write_text(json.dumps({"dtype": "float32"}))
    assert round_need(job, 1, tmp_path / "seed", {"stages": (10, 100.0)}, SOURCES["dataset"].disk).rows == 3000
