"""Test problems that are answered several times: pass@k, the majority, their intervals, and the step of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipys

from orchestrator.commands.verify.command import verify
from orchestrator.config import Grade
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.repeated import bootstrap, ks, majority, pass_at
from orchestrator.records.rows import PROMPTS, SAMPLES, SamplingPlan, Shard
from orchestrator.reports.status import status
from orchestrator.rounds.repeated import draw
from orchestrator.rounds.watched import Answers
from tests.support.preference_stand_ins import make_stages, right
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.grading.pool import GraderPool


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(counts: tuple[int, int, int]) -> None:
    n, right, k = counts
    draws = [any(i < right for i in draw) for draw in combinations(range(n), k)]
    assert pass_at(k, n, right) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_of_what_cannot_be() -> None:
    for impossible in ((0, 4, 1), (5, 4, 1), (1, 4, 5), (1, 4, -1)):
        with pytest.raises(ValueError, match="cannot be"):
            pass_at(*impossible)
    assert pass_at(64, 10_000, 3) == pytest.approx(1 - math.prod((1 - 64 / (10_000 - i)) for i in range(3)))


def test_of_which_k_it_is_told() -> None:
    assert [ks(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


def test_the_majority() -> None:
    assert majority([0, 0, 1]) == 1 and majority([0, 1, 1]) == 0
    assert majority([0, 1, 2, 3]) == 0.25 and majority([0, 0, 1, 1, 2]) == 0.5
    assert majority([None, None, 0]) == 1 and majority([None]) == majority([]) == 0


def test_the_bootstrap_is_as_wide_as_scipys_and_repeats_to_the_last_bit() -> None:
    values = np.random.RandomState(1).rand(200) ** 3
    [found] = bootstrap([values], seed=7)
    drawn = scipys((values,), np.mean, method="percentile", n_resamples=20_000, random_state=5)
    expected = drawn.confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))
    assert bootstrap([values], seed=7) == [found] != bootstrap([values], seed=8)
    assert bootstrap([values, values], seed=7) == [pytest.approx(found)] * 2
    assert bootstrap([[1.0] * 9], seed=1) == [(1.0, 1.0)] and bootstrap([[]], seed=1) == [(0.0, 1.0)]


class Given:
    """Engines that answer with given texts, by prompt; None: the prompt takes them down."""

    def __init__(self, texts: dict[str, list[str] | None]) -> None:
        self._texts = texts

    def generate(self, shards: list[Shard], plan: SamplingPlan) -> Iterator[tuple[Shard, dict[str, Any]]]:
        for shard in shards:
            prompts = pq.read_table(shard.source)["prompt_id"].to_pylist()[shard.start : shard.stop]
            rows = [(prompt, i, text) for prompt in prompts for i, text in enumerate(self._texts[prompt] or ())]
            columns = [list(column) for column in zip(*rows, strict=True)]
            ended = ["length" if text.endswith("...") else "stop" for text in columns[2]]
            columns += [[[1]] * len(rows), ended, [1] * len(rows)]
            pq.write_table(pa.table(columns, schema=SAMPLES), shard.output)
            yield shard, {"samples": len(rows), "tokens": len(rows)}

    def logprobs(self, prompts: Any, completions: Any) -> Any:
        raise NotImplementedError


class Real:
    """The real graders, without a cluster."""

    def __init__(self, pool: GraderPool) -> None:
        self._pool, self._todo, self.asked = pool, list[tuple[Shard, dict[str, str]]](), 0

    def submit(self, shard: Shard, golds: dict[str, str]) -> None:
        self._todo.append((shard, golds))

    def finished(self) -> list[tuple[Shard, dict[str, Any]]]:
        return []

    def drain(self) -> Iterator[tuple[Shard, dict[str, Any]]]:
        todo, self._todo = self._todo, []
        for shard, golds in todo:
            self.asked += 1
            yield shard, self._pool.grade_shard(shard, golds)


def test_wrong_answers_are_one_where_the_graders_say_so(tmp_path: Path) -> None:
    said = {
        "split": ["7", "7", "0.5", "1/2", "\\frac{1}{2}"],  # three for a half, in three forms
        "tied": ["7", "7", "8", "8.0", "cut..."],
        "right": ["7", "7.0", "7", "1", "2"],
        "lost": ["7", "3", "3", "3", "3"],
        "silent": ["no answer", "none", "nothing...", "7", "odd"],
        "gone": None,
    }
    texts = {
        prompt: answers and [f"Final answer: {a}" if a[-1].isdigit() or "}" in a else a for a in answers]
        for prompt, answers in said.items()
    }
    row = {"text": "", "token_ids": [1], "messages": None, "gold": "7", "solution": None, "solution_token_ids": None}
    pq.write_table(pa.Table.from_pylist([{"prompt_id": p} | row for p in said], PROMPTS), tmp_path / "p")
    plan = SamplingPlan(samples=5, temperature=1.0, top_p=1.0, top_k=0, max_tokens=9, stop=(), seed=1)
    with GraderPool(Grade(graders=["number", "math"], processes=1)) as pool:
        graders, out = Real(pool), tmp_path / "out"
        facts = draw(Given(texts), graders, {"test": tmp_path / "p"}, plan, 9, out, 3, Answers())
    votes: dict[str, list[int | None]] = {}
    for found in pq.read_table(out / "test.parquet").to_pylist():
        votes.setdefault(found["prompt_id"], []).append(found["answer"])
    assert votes == {
        "split": [0, 0, 1, 1, 1],
        "tied": [0, 0, 1, 1, None],
        "right": [0, 0, 0, 1, 2],
        "lost": [0, 1, 1, 1, 1],
        "silent": [None, None, None, 0, None],
        "gone": [None],
    }
    figures = facts["sets"]["test"]
    assert (figures["problems"], figures["samples"], figures["truncated"]) == (6, 5, 2)
    assert figures["majority"]["share"] == pytest.approx((0 + 0.5 + 1 + 0 + 1 + 0) / 6)
    assert figures["pass_at"]["1"]["share"] == pytest.approx((2 + 2 + 3 + 1 + 1) / 30)
    assert figures["pass_at"]["5"]["share"] == pytest.approx(5 / 6)
    assert graders.asked == 2 and sorted(tmp_path.iterdir()) == [out, tmp_path / "p"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repeated")
    said = run_job(make_project(folder, evaluate={"samples": 4}), StandIns())
    assert sum(" repeated " in line for line in said) == 3
    return folder / "run"


def test_a_run_answers_its_test_problems_and_verify_counts_them_again(run: Path) -> None:
    commits = Ledger(run / "ledger").state.commits
    steps = [step for step in commits if step.endswith("/repeated")]
    assert steps == ["baseline/repeated", "rounds/01/repeated", "rounds/02/repeated"]
    assert len({json.dumps(commits[step].facts["sets"]) for step in steps}) == 3
    assert verify(run).findings == []
    [first, second] = (row["health"] for row in status(run)["rounds"])
    assert first["repeated_pass_1"] < second["repeated_pass_1"] <= second["repeated_pass_n"]
    table = (run / "report.md").read_text().partition("## Test problems answered several times")[2]
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][:4] == [
        "round", "base", "1", "2",
    ]  # fmt: skip


def test_what_it_draws_is_in_its_fingerprint_and_in_no_other(run: Path, tmp_path: Path) -> None:
    run_job(make_project(tmp_path, evaluate={"samples": 4, "temperature": 0.5}), StandIns())
    one, two = (Ledger(folder / "ledger").state.commits for folder in (run, tmp_path / "run"))
    assert one["baseline/repeated"].fingerprint != two["baseline/repeated"].fingerprint
    assert one["baseline/evaluation"].facts["gate"] == two["baseline/evaluation"].facts["gate"]


def test_without_test_problems_there_is_nothing_to_answer(tmp_path: Path) -> None:
    job = make_stages(tmp_path, {"hard": right("h", 3)})
    with pytest.raises(BadInput, match=r"`evaluate\.samples` answers the test problems, and there is no `data\.test`"):
        load_job(job, ["data.test=null", "evaluate.samples=2"])
