"""Prompts drawn by their pass rates: decided by the verdicts of the rounds before, and committed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import Curriculum
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput, Damaged, Interrupted
from orchestrator.ledger.ledger import Ledger
from orchestrator.rounds.curriculum import Tally, draw
from tests.orchestrator.commands.test_verify import forge
from tests.orchestrator.commands.test_verify_facts import records, seal
from tests.orchestrator.sources.test_sources import rows
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.files import write_table

RULE = Curriculum(lowest=0.25, highest=0.75, others=0.25)
DRAWN = "data.curriculum={lowest: 0.25, highest: 0.75, others: 0.25}"

tallies = st.builds(lambda n, c, r: Tally(r, n, min(n, c)), st.integers(0, 4), st.integers(0, 4), st.integers(1, 5))


# The draw


@given(st.dictionaries(st.integers(0, 29), tallies), st.integers(1, 40), st.integers(0, 99))
def test_so_many_different_problems_are_drawn_and_counted(known: dict[int, Tally], size: int, seed: int) -> None:
    drawn = draw(known, 30, size, RULE, seed)
    assert len(set(drawn.order)) == len(drawn.order) == min(size, 30) and set(drawn.order) <= set(range(30))
    kinds = ["new" if n not in known else "others" if known[n].too(RULE) else "fitting" for n in drawn.order]
    assert [drawn.facts[kind] for kind in ("fitting", "new", "others")] == [
        kinds.count(kind) for kind in ("fitting", "new", "others")
    ]
    assert drawn == draw(known, 30, size, RULE, seed)
    others = sum(tally.too(RULE) is not None for tally in known.values())
    within = drawn.facts["others"] - drawn.facts["filled"]
    assert within == min(round(0.25 * len(drawn.order)), others), "the share, or all that there are"
    if drawn.facts["filled"]:  # nothing that fits is left out
        assert {n for n in range(30) if n not in known or not known[n].too(RULE)} <= set(drawn.order)


def test_what_fits_and_what_is_new_have_the_same_chance_and_the_oldest_others_come_first() -> None:
    known = {n: Tally(1, 4, 2) for n in range(10)}  # 10 to 19 are new
    known |= {20: Tally(1, 4, 4), 21: Tally(3, 4, 0), 22: Tally(2, 4, 0), 23: Tally(4, 0, 0)}
    seen = [draw(known, 24, 8, RULE, seed).order for seed in range(200)]
    assert {tuple(sorted(n for n in order if n >= 20)) for order in seen} == {(20, 22)}
    share = sum(n < 10 for order in seen for n in order) / sum(n < 20 for order in seen for n in order)
    assert 0.45 < share < 0.55
    assert len({order[0] for order in seen}) > 15, "the others do not stand at the end"


@pytest.mark.parametrize(
    ("samples", "correct", "too"),
    [(4, 0, "hard"), (4, 1, None), (4, 3, None), (4, 4, "easy"), (0, 0, "unknown")],
)
def test_bounds_are_within(samples: int, correct: int, too: str | None) -> None:
    assert Tally(1, samples, correct).too(RULE) == too


# A run


def project(folder: Path, **changes: Any) -> Path:
    return make_project(folder, skill=0.5, **changes)


def drawn_in(folder: Path, number: int) -> list[dict[str, Any]]:
    found = [row for row in rows(folder, f"rounds/{number:02d}/curriculum") if row["place"] is not None]
    return sorted(found, key=lambda row: int(row["place"]))


def pass_rates(folder: Path, number: int) -> dict[str, float]:
    found: dict[str, list[bool]] = {}
    for row in rows(folder, f"rounds/{number:02d}/verdicts"):
        found.setdefault(row["prompt_id"], []).append(row["verdict"] == "correct")
    return {name: sum(right) / len(right) for name, right in found.items()}


def test_each_round_draws_by_the_pass_rates_of_those_before(tmp_path: Path) -> None:
    said = run_job(project(tmp_path), StandIns(gain=0.1), "rounds=4", "promotion.rule=always", DRAWN)
    known: dict[str, float] = {}
    for number in (2, 3, 4):
        known |= pass_rates(tmp_path, number - 1)
        drawn = drawn_in(tmp_path, number)
        assert [row["prompt_id"] for row in drawn] == [
            row["prompt_id"] for row in rows(tmp_path, f"rounds/{number:02d}/prompts")
        ]
        facts = Ledger(tmp_path / "run/ledger").state.commits[f"rounds/{number:02d}/curriculum"].facts
        rates = [known.get(row["prompt_id"]) for row in drawn]
        assert facts["new"] == rates.count(None)
        assert facts["fitting"] == sum(rate is not None and 0.25 <= rate <= 0.75 for rate in rates)
        assert facts["fitting"] + facts["new"] + facts["others"] == facts["prompts"] == len(drawn) == 8
        assert facts["too_easy"] == sum(rate > 0.75 for rate in known.values())
        told = f"8 prompts: {facts['fitting']} with 25 to 75 % right samples, {facts['new']} never drawn before"
        assert any(f"rounds/{number:02d}" in line and told in " ".join(line.split()) for line in said)
    assert "rounds/01/curriculum" not in Ledger(tmp_path / "run/ledger").state.commits
    report = (tmp_path / "run/report.md").read_text()
    assert "## Curriculum" in report and re.search(r"\| lowest pass rate of prompts \| 0\.25 \|", report)
    found = verify(tmp_path / "run")
    assert found.findings == [] and found.followed


@pytest.mark.parametrize("stop", [9, 12, 16, 30, 38])
def test_a_resumed_run_draws_the_same(tmp_path: Path, stop: int) -> None:
    options = ("rounds=3", "promotion.rule=always", DRAWN)
    run_job(project(tmp_path / "undisturbed"), StandIns(), *options)
    job = project(tmp_path / "resumed")
    with pytest.raises(Interrupted):
        run_job(job, StandIns(on_call=StopAt(stop, Interrupted("SIGTERM"))), *options)
    run_job(job, StandIns(), *options)
    assert history(tmp_path / "resumed/run") == history(tmp_path / "undisturbed/run")


def test_too_few_that_fit_are_told_and_others_fill_up(tmp_path: Path) -> None:
    options = ("rounds=4", "promotion.rule=always", "data.curriculum={lowest: 0.5, highest: 0.5, others: 0}")
    said = run_job(make_project(tmp_path, skill=1.0), StandIns(), *options, "pairs.rule=correct", *IMITATED)
    commits = Ledger(tmp_path / "run/ledger").state.commits
    facts = commits["rounds/04/curriculum"].facts
    assert (facts["fitting"], facts["new"], facts["others"], facts["filled"]) == (0, 0, 8, 8)
    told = "Too few fit, so that 8 of the others fill up: of those drawn before 20 are too easy and 0 too hard"
    assert any(told in " ".join(line.split()) for line in said)
    first = {row["prompt_id"] for row in rows(tmp_path, "rounds/01/prompts")}
    assert {row["prompt_id"] for row in drawn_in(tmp_path, 4)} <= first | {
        row["prompt_id"] for row in drawn_in(tmp_path, 2)
    }, "those first that were drawn longest ago"


IMITATED = ("loss.dpo=0", "loss.nll=1")


def test_in_waves_the_first_one_counts_and_all_problems_may_be_drawn(tmp_path: Path) -> None:
    waves = ("generate.wave_samples=2", "pairs.per_prompt=1", "data.prompts_per_round=20")
    run_job(project(tmp_path), StandIns(), "promotion.rule=always", DRAWN, *waves)
    drawn = drawn_in(tmp_path, 2)
    assert len(drawn) == 20 and {row["samples"] for row in drawn} == {2}
    assert sorted(row["number"] for row in drawn) == list(range(20))
    assert verify(tmp_path / "run").findings == []


def test_a_fork_takes_over_what_draws_the_same(tmp_path: Path) -> None:
    run_job(project(tmp_path), StandIns(), "promotion.rule=always", DRAWN)
    run = tmp_path / "run"
    fork(run, tmp_path / "same", ["rounds=3"])
    fork(run, tmp_path / "other", ["data.curriculum.lowest=0.5"])
    fork(run, tmp_path / "none", ["data.curriculum=null"])
    same, other, none = StandIns(), StandIns(), StandIns()
    run_job(tmp_path / "same/job.yaml", same, "rounds=2")
    run_job(tmp_path / "other/job.yaml", other)
    run_job(tmp_path / "none/job.yaml", none)
    assert not same.calls and other.calls["generate"] and none.calls["tokenize"] == 1
    assert "rounds/02/curriculum" not in Ledger(tmp_path / "none/ledger").state.commits
    for name in ("same", "other", "none"):
        assert verify(tmp_path / name).findings == []


def easier(table: list[dict[str, Any]]) -> None:
    row = next(row for row in table if row["round"])
    row["correct"] = 4 - row["correct"] if row["correct"] != 2 else 4


def another(table: list[dict[str, Any]]) -> None:
    one, other = (row for row in table if row["place"] in (0, 1))
    one["place"], other["place"] = other["place"], one["place"]


def left_out(table: list[dict[str, Any]]) -> None:
    table.remove(next(row for row in table if row["round"] and row["place"] is None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (easier, "its pass rates are not those of the verdicts"),
        (another, "what it draws is not what the pass rates and the seed decide"),
        (left_out, "it leaves out problems that the round before has sampled"),
    ],
)
def test_verify_finds_a_draw_that_was_not_decided(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    run_job(project(tmp_path), StandIns(), "promotion.rule=always", DRAWN)
    forge(tmp_path / "run", "rounds/02/curriculum/00000.parquet", change)
    assert any(said in line for line in verify(tmp_path / "run").findings)


def test_verify_takes_no_strangers_number_for_the_size_of_a_list(tmp_path: Path) -> None:
    run_job(project(tmp_path), StandIns(), "promotion.rule=always", DRAWN)
    run = tmp_path / "run"
    path, document = next(r for r in records(run).items() if r[1]["data"].get("step") == "rounds/02/curriculum")
    for key, value in (("problems", 2**62), ("prompts", 2**40), ("problems", 3)):
        facts = document["data"]["facts"]
        seal(path, document | {"data": document["data"] | {"facts": facts | {key: value}}})
        assert any("another number of prompts than it draws" in line for line in verify(run).findings)


def test_a_run_that_draws_what_is_not_there_ends_with_a_word(tmp_path: Path) -> None:
    job = project(tmp_path)
    run_job(job, StandIns(), "promotion.rule=always", DRAWN)
    forge(tmp_path / "run", "rounds/02/curriculum/00000.parquet", lambda table: table[-1].update(number=99, place=0))
    with pytest.raises(Damaged, match=r"draws a problem twice, or one that data\.train does not have"):
        run_job(job, StandIns(), "promotion.rule=always", "rounds=3", DRAWN)


def test_prompts_of_another_draw_are_found(tmp_path: Path) -> None:
    run_job(project(tmp_path), StandIns(), "promotion.rule=always", DRAWN)
    run = tmp_path / "run"
    known = {row["prompt_id"] for row in drawn_in(tmp_path, 2)}
    stranger = next(f"train-{i}" for i in range(20) if f"train-{i}" not in known)
    forge(run, "rounds/02/prompts/train.parquet", lambda table: table[0].update(prompt_id=stranger))
    assert any("are not among those that it draws" in line for line in verify(run).findings)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.curriculum={}", "data.prompts=same"], "`prompts: same` says otherwise: set `prompts: split`"),
        (["data.curriculum={lowest: 0.8, highest: 0.7}"], "its `lowest` (0.8) must not be above its `highest` (0.7)"),
        (["data.curriculum={others: 1}"], "data.curriculum.others: must be a number of at least 0 and below 1"),
        (["data.curriculum={}", "source=gold", "data.solution=answer", *IMITATED], "with `source: sample` only"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_job(project(tmp_path), overrides)
    assert said in str(refused.value)


def test_a_prompt_that_was_drawn_and_has_no_sample_counts_as_one_of_the_others(tmp_path: Path) -> None:
    class Short(StandIns):
        def tokenize(self, problems: Any, plan: Any, output: str) -> dict[str, Any]:
            told = super().tokenize(problems, plan, output)
            if output.endswith("train.parquet") and len(problems) > 1:
                table = pq.read_table(output).slice(1)
                return {"prompts": len(table), "dropped": 1, "file": write_table(table, output)}
            return told

    run_job(project(tmp_path), Short(), "promotion.rule=always", DRAWN)
    [missing] = [row for row in rows(tmp_path, "rounds/02/curriculum") if row["round"] and not row["samples"]]
    assert missing["prompt_id"] not in pass_rates(tmp_path, 1)
    assert verify(tmp_path / "run").findings == []
