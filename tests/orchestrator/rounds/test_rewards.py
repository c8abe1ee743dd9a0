"""Rounds that go by rewards, with stand-in workers: pairs, resume, `verify`, problems without gold answers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput, RatchetError
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rewards import RewardPlan, RewardWorkers
from orchestrator.rounds.round import NoPairs
from tests.orchestrator.commands.test_verify import cut_behind, forge
from tests.orchestrator.sources.test_sources import facts, rows
from tests.orchestrator.test_loop import StopAt, history
from tests.support.stand_ins import StandInRewarders, StandIns, make_project, make_reward_model, run_job

REWARDS = "rounds/01/rewards/00000.parquet"
ALWAYS = {"promotion": {"rule": "always"}}


def project(folder: Path, *models: dict[str, Any], golds: bool = True, **changes: Any) -> Path:
    """A job that goes by these reward models, one of weight 1 unless told otherwise."""
    reward = {"models": list(models) or [{"model": "reward"}]} | changes.pop("reward", {})
    usual: dict[str, Any] = {"pairs": {"rule": "best_worst"}, "loss": {"nll": 0}, "rounds": 1}
    job = make_project(folder, reward=reward, **usual | changes)
    for model in reward["models"]:
        make_reward_model(folder / model["model"])
    if not golds:
        problems = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        kept = [{key: row[key] for key in ("id", "question")} for row in problems]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return job


def by_sample(folder: Path, step: str, column: str) -> dict[tuple[str, int], Any]:
    return {(row["prompt_id"], row["sample_index"]): row[column] for row in rows(folder, step)}


def by_prompt(scores: dict[tuple[str, int], float]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for (prompt, index), given in scores.items():
        found.setdefault(prompt, {})[index] = given
    return found


def test_the_highest_reward_is_preferred_to_the_lowest(tmp_path: Path) -> None:
    job, workers = project(tmp_path, rounds=2), StandIns()
    run_job(job, workers)
    rewards, scores = (
        by_sample(tmp_path, "rounds/01/rewards", "reward"),
        by_sample(tmp_path, "rounds/01/scores", "score"),
    )
    mean, spread = fmean(rewards.values()), pstdev(rewards.values())
    assert scores == {key: pytest.approx((reward - mean) / spread) for key, reward in rewards.items()}
    pairs, of = rows(tmp_path, "rounds/01/pairs"), by_prompt(rewards)
    assert len(pairs) == len(of) == 8
    for pair in pairs:
        mine = of[pair["prompt_id"]]
        assert mine[pair["chosen_sample"]] == max(mine.values())
        assert mine[pair["rejected_sample"]] == min(mine.values())
    verdicts = by_sample(tmp_path, "rounds/01/verdicts", "verdict")
    assert {verdicts[p["prompt_id"], p["chosen_sample"]] for p in pairs} == {"correct", "wrong"}, "rewards alone decide"
    report = verify(tmp_path / "run")
    assert report.findings == [] and report.followed == [1, 2]
    done = workers.calls.copy()
    run_job(job, workers)
    assert workers.calls == done, "what is committed is not done again"


def test_models_and_the_verdict_are_weighed_together(tmp_path: Path) -> None:
    models = [{"model": "reward"}, {"model": "style", "weight": -0.5}]
    changes = {"reward": {"verdict_weight": 4.0, "normalisation": "none"}, "pairs": {"rule": "margin", "margin": 3}}
    run_job(project(tmp_path, *models, **changes), StandIns())
    first, second = (by_sample(tmp_path, f"rounds/01/{step}", "reward") for step in ("rewards", "reward/2/rewards"))
    right = by_sample(tmp_path, "rounds/01/verdicts", "verdict")
    scores = by_sample(tmp_path, "rounds/01/scores", "score")
    weighed = {key: first[key] - 0.5 * second[key] + 4.0 * (right[key] == "correct") for key in first}
    assert scores == pytest.approx(weighed)
    for pair in rows(tmp_path, "rounds/01/pairs"):
        chosen, rejected = (scores[pair["prompt_id"], pair[f"{side}_sample"]] for side in ("chosen", "rejected"))
        assert chosen - rejected >= 3
    told = facts(tmp_path, "rounds/01/scores")
    assert len(told["rewards"]) == 2 and told["combined"]["rewarded"] == 32
    assert told["combined"]["agreement"] < 1, "of the rewards alone, without the verdicts"
    assert verify(tmp_path / "run").findings == []


def test_the_best_sample_alone_is_imitated(tmp_path: Path) -> None:
    run_job(project(tmp_path, pairs={"rule": "best"}, loss={"dpo": 0, "nll": 1}), StandIns())
    of = by_prompt(by_sample(tmp_path, "rounds/01/rewards", "reward"))
    pairs = rows(tmp_path, "rounds/01/pairs")
    assert len(pairs) == len(of) and all(pair["rejected_token_ids"] is None for pair in pairs)
    assert all(of[p["prompt_id"]][p["chosen_sample"]] == max(of[p["prompt_id"]].values()) for p in pairs)
    assert verify(tmp_path / "run").findings == []


def test_problems_need_no_gold_answers_and_nothing_held_out(tmp_path: Path) -> None:
    data = {"train": "train.jsonl", "prompts": "split", "prompts_per_round": 8}
    said = run_job(project(tmp_path, golds=False, data=data, rounds=2, **ALWAYS), StandIns())
    assert any("20 of 20 problems have no gold answer" in line for line in said)
    assert facts(tmp_path, "rounds/01/verdicts")["gold"] == 32 and len(rows(tmp_path, "rounds/02/pairs")) == 8
    assert "agreement" not in facts(tmp_path, "rounds/01/scores")["rewards"][0]
    assert not (tmp_path / "run/baseline/evaluation").exists()
    assert verify(tmp_path / "run").findings == []


def test_where_verdicts_count_a_problem_without_a_gold_answer_is_refused(tmp_path: Path) -> None:
    job = project(tmp_path, golds=False, reward={"verdict_weight": 1.0})
    with pytest.raises(BadInput, match=r"train\.jsonl, line 1: no field 'answer' \(data\.answer\)"):
        run_job(job, StandIns())
    held_out = [json.loads(line) for line in (tmp_path / "gate.jsonl").read_text().splitlines()]
    (tmp_path / "gate.jsonl").write_text("".join(json.dumps(row | {"answer": None}) + "\n" for row in held_out))
    with pytest.raises(BadInput, match=r"gate\.jsonl, line 1: field 'answer' \(data\.answer\) is null"):
        run_job(job, StandIns(), "reward.verdict_weight=0")


def test_what_a_model_cannot_read_joins_no_pair(tmp_path: Path) -> None:
    job = project(tmp_path, {"model": "reward", "max_tokens": 34})
    run_job(job, StandIns())
    causes, scores = (by_sample(tmp_path, f"rounds/01/{s}", c) for s, c in (("rewards", "cause"), ("scores", "score")))
    unread = {key for key, cause in causes.items() if cause}
    assert unread and {key for key, given in scores.items() if given is None} == unread
    paired = {(p["prompt_id"], p[f"{side}_sample"]) for p in rows(tmp_path, "rounds/01/pairs") for side in SIDES}
    assert paired and not paired & unread
    assert verify(tmp_path / "run").findings == []
    with pytest.raises(NoPairs, match="no sample has a score"):
        run_job(project(tmp_path / "none", {"model": "reward", "max_tokens": 3}), StandIns())


SIDES = ("chosen", "rejected")


def test_a_crash_costs_the_shards_in_flight_alone(tmp_path: Path) -> None:
    """At every other piece of work in turn; a resume comes to what an undisturbed run comes to."""
    models = [{"model": "reward"}, {"model": "style", "weight": 0.3}]
    workers = StandIns()
    run_job(project(tmp_path / "whole", *models), workers)
    total, whole = sum(workers.calls.values()), history(tmp_path / "whole/run")
    assert workers.calls["reward"] == 4, "two shards by two models"
    for stop in range(1, total + 1, 2):
        folder = tmp_path / str(stop)
        job = project(folder, *models)
        with pytest.raises(RuntimeError):
            run_job(job, StandIns(on_call=StopAt(stop, RuntimeError("a bug"))))
        again = StandIns()
        run_job(job, again)
        assert history(folder / "run") == whole
        assert verify(folder / "run").findings == []
        shutil.rmtree(folder)


def edit_reward(table: list[dict[str, Any]]) -> None:
    table[0]["reward"] += 5.0


def edit_score(table: list[dict[str, Any]]) -> None:
    for row in table:
        row["score"] *= -1


def another_loser(table: list[dict[str, Any]]) -> None:
    """Which is worse than the chosen one, and not the worst."""
    pair = table[0]
    pair["rejected_sample"] = next(i for i in range(4) if i not in (pair["chosen_sample"], pair["rejected_sample"]))


def huge_rewards(table: list[dict[str, Any]]) -> None:
    """Whose sum, and squares, no float holds."""
    for row in table:
        row["reward"] = 1e308


def no_number(table: list[dict[str, Any]]) -> None:
    table[0]["reward"] = math.nan


def no_reward(table: list[dict[str, Any]]) -> None:
    table[0]["reward"] = None


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        (REWARDS, edit_reward, "its scores are not those that the job makes of the rewards"),
        (REWARDS, edit_reward, "mean_reward is "),
        (REWARDS, huge_rewards, "some of its rewards are no numbers that a model gives"),
        (REWARDS, no_number, "some of its rewards are no numbers that a model gives"),
        (REWARDS, no_reward, "have both a reward and a cause why they have none, or neither"),
        ("rounds/01/scores/00000.parquet", edit_score, "its scores are not those that the job makes of the rewards"),
        ("rounds/01/scores/00000.parquet", edit_score, "its pairs are not those that the job makes of the samples"),
        ("rounds/01/pairs/00000.parquet", another_loser, "its pairs are not those that the job makes of the samples"),
    ],
)
def test_verify_finds_an_edited_reward(
    tmp_path: Path, file: str, edit: Callable[[list[dict[str, Any]]], None], said: str
) -> None:
    run_job(project(tmp_path), StandIns())
    forge(tmp_path / "run", file, edit)
    found = verify(tmp_path / "run").findings
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (REWARDS, "its rows are not those of its samples, in their order"),
        ("rounds/01/scores/00000.parquet", "not one verdict or score a sample"),
    ],
)
@pytest.mark.parametrize("edit", [list.pop, lambda rows: rows[0].update(sample_index=99)], ids=["fewer", "others"])
def test_rewards_and_scores_that_are_not_those_of_the_samples_are_not_used(
    tmp_path: Path, file: str, said: str, edit: Callable[[list[dict[str, Any]]], object]
) -> None:
    job = project(tmp_path)
    run_job(job, StandIns())
    cut_behind(tmp_path / "run", file.rpartition("/")[0])
    forge(tmp_path / "run", file, edit)
    with pytest.raises(RatchetError, match=said):
        run_job(job, StandIns())


@pytest.mark.parametrize(("rule", "said"), [("best_worst", "its rejected one"), ("best", "the highest of its prompt")])
def test_verify_follows_a_pair_to_its_scores(tmp_path: Path, rule: str, said: str) -> None:
    """Another sample of the prompt in the place of the chosen one, with its own ids."""
    loss = {"dpo": 0, "nll": 1} if rule == "best" else {"nll": 0}
    run_job(project(tmp_path, pairs={"rule": rule}, loss=loss), StandIns())
    ids, scores = (by_sample(tmp_path, f"rounds/01/{s}", c) for s, c in (("samples", "token_ids"), ("scores", "score")))

    def edit(table: list[dict[str, Any]]) -> None:
        pair = table[0]
        mine = by_prompt(scores)[pair["prompt_id"]]
        lowest = min(mine, key=lambda index: mine[index])
        pair |= {"chosen_sample": lowest, "chosen_token_ids": ids[pair["prompt_id"], lowest]}

    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", edit)
    assert any(said in line for line in verify(tmp_path / "run").findings)


class Asked(StandIns):
    """Remembers how each reward model was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[RewardPlan, RewardWorkers]] = []

    def rewarders(self, plan: RewardPlan, how: RewardWorkers) -> StandInRewarders:
        self.asked.append((plan, how))
        return super().rewarders(plan, how)


def test_a_model_is_asked_as_its_section_says_from_the_folder_that_the_run_keeps(tmp_path: Path) -> None:
    job = project(tmp_path, {"model": "reward", "max_tokens": 500, "form": "join", "dtype": "float32"})
    workers = Asked()
    run_job(job, workers, "reward.workers=2", "reward.device=cpu", "reward.stall_timeout=9")
    kept = str(tmp_path / "run/baseline/reward/1")
    plan = RewardPlan(kept, "outcome", 500, "join", dtype="float32")
    assert workers.asked == [(plan, RewardWorkers(2, 1, None, "cpu", 9.0))]


def test_each_setting_of_a_model_makes_other_rewards(tmp_path: Path) -> None:
    """A fork takes over the rewards of models that are asked as before, and no others; weights ask nothing anew."""
    models = [{"model": "reward"}, {"model": "style", "weight": 0.3}]
    run_job(project(tmp_path, *models), StandIns())
    for number, (change, anew) in enumerate(
        [({"weight": 0.9}, 0), ({"max_tokens": 900}, 2), ({"form": "pair"}, 2), ({"dtype": "float16"}, 2)]
    ):
        child, now = tmp_path / f"child-{number}", json.dumps([models[0], models[1] | change])
        fork(tmp_path / "run", child, [f"reward.models={now}"])
        workers = StandIns()
        run_job(child / "job.yaml", workers)
        assert workers.calls["reward"] == anew, change
        assert workers.calls["generate"] <= 8, "the candidate's evaluation at most"
        assert verify(child).findings == []


def test_a_model_that_is_named_twice_in_two_ways_is_refused(tmp_path: Path) -> None:
    job = project(tmp_path, {"model": "reward"}, {"model": "./style/../reward", "weight": 0.5})
    with pytest.raises(BadInput, match=r"reward\.models\.1\.model: .* as reward\.models\.0\.model is: give it once"):
        run_job(job, StandIns())


def test_a_run_keeps_its_reward_models(tmp_path: Path) -> None:
    job = project(tmp_path, rounds=2)
    with pytest.raises(RuntimeError):
        run_job(job, StandIns(on_call=StopAt(12, RuntimeError("a bug"))))
    shutil.rmtree(tmp_path / "reward")
    run_job(job, StandIns())
    assert Ledger(tmp_path / "run/ledger").state.commits["baseline/reward/1"].facts.keys() == {"seconds"}
    assert verify(tmp_path / "run").findings == []


def test_rounds_without_rewards_are_as_they_were(tmp_path: Path) -> None:
    """A job that says nothing of rewards has none of their steps."""
    run_job(make_project(tmp_path, rounds=1), StandIns())
    state = Ledger(tmp_path / "run/ledger").state
    assert not any("reward" in step or "scores" in step for step in (*state.commits, *state.shards))
    assert load_job(tmp_path / "tiny.yaml").job.model_dump()["reward"] is None
