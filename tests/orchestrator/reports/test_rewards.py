"""What a report says of rewards, and when it says that one is gamed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.reports.evidence import Evidence, by_ledger
from orchestrator.reports.health import health, words
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.shown import Pages
from orchestrator.reports.inspection.views import Wanted, samples
from orchestrator.reports.report import report_text
from orchestrator.reports.rewards import GAMED, REWARDS
from orchestrator.reports.rounds import RoundStatus
from orchestrator.reports.symptoms import symptoms
from orchestrator.sources.registry import SOURCES
from tests.orchestrator.rounds.test_rewards import by_sample, project
from tests.support.stand_ins import StandIns, run_job

BASE = Evidence(RoundStatus(0))


def figures(mean: float, agreement: float | None = None, rewarded: int = 400) -> dict[str, Any]:
    quantiles = {share: mean + (int(share) - 50) / 100 for share in ("5", "25", "50", "75", "95")}
    told: dict[str, Any] = {"rewarded": rewarded, "mean": mean, "deviation": 1.0, "quantiles": quantiles}
    agreed = {} if agreement is None else {"agreement": agreement, "error": 0.02, "prompts": 80}
    return told | agreed | {"right": mean + 0.1, "wrong": mean - 0.1}


def evidence(
    number: int, *models: dict[str, Any], right: int = 0, wrong: int = 0, test: float | None = None
) -> Evidence:
    facts: dict[str, dict[str, Any]] = {"scores": {"scored": 400, "rewards": list(models)}}
    facts["verdicts"] = {
        "correct": right,
        "wrong": wrong,
        "ungradable": 400 - right - wrong,
        "gold": 400 - right - wrong,
    }
    if test is not None:
        told = {"problems": 400, "correct": int(400 * test), "accuracy": test, "low": test - 0.05, "high": test + 0.05}
        facts["evaluation"] = {"test": told}
    return Evidence(RoundStatus(number, facts), golds=False)


def test_a_share_is_no_more_than_all_whatever_a_record_counts() -> None:
    false = Evidence(RoundStatus(1, {"verdicts": {"correct": 9, "wrong": 1, "ungradable": 0, "gold": 7}}), golds=False)
    none = Evidence(RoundStatus(1, {"verdicts": {"correct": 9, "wrong": 1, "ungradable": 0, "gold": 70}}), golds=False)
    assert false.pass_one == 1.0 and (none.graded, none.pass_one) == (0, None)
    false.round.facts["scores"] = {"scored": 10, "rewards": [figures(0.0)]}
    now = evidence(2, figures(1.0), right=200, wrong=200)
    assert "the share of right samples fell" in " ".join(symptoms(BASE, [false, now], GAMED))


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (
            evidence(1, figures(0.0, 0.8)),
            evidence(2, figures(1.0, 0.6)),
            "its agreement with verdicts fell from 80.0 to 60.0",
        ),
        (
            evidence(1, figures(0.0), right=300, wrong=100),
            evidence(2, figures(1.0), right=200, wrong=200),
            "the share of right samples fell from 75.0 to 50.0 %",
        ),
        (
            evidence(1, figures(0.0), test=0.8),
            evidence(2, figures(1.0), test=0.6),
            "test accuracy fell from 80.0 to 60.0",
        ),
    ],
)
def test_a_reward_that_rises_while_what_it_stands_for_falls_is_gamed(then: Evidence, now: Evidence, said: str) -> None:
    found = [line for line in symptoms(BASE, [then, now], GAMED) if "the mean reward" in line]
    assert len(found) == 1 and found[0].startswith(
        "Round 2: the mean reward of reward.models.0 rose from 0.000 to 1.000"
    )
    assert said in found[0]


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (evidence(1, figures(0.0, 0.8)), evidence(2, figures(0.1, 0.6))),  # no more than two standard errors
        (evidence(1, figures(1.0, 0.8)), evidence(2, figures(0.0, 0.6))),
        (evidence(1, figures(0.0, 0.8)), evidence(2, figures(1.0, 0.78))),
        (evidence(1, figures(0.0)), evidence(2, figures(1.0))),  # nothing is known of right and wrong
        (evidence(1, figures(0.0, 0.8), test=0.6), evidence(2, figures(1.0, 0.9), test=0.7)),
    ],
)
def test_a_reward_that_rises_with_it_or_not_at_all_is_not(then: Evidence, now: Evidence) -> None:
    assert not any("the mean reward" in line for line in symptoms(BASE, [then, now], GAMED))


def test_a_model_that_prefers_wrong_answers_is_told_and_a_missing_gold_answer_is_not() -> None:
    found = symptoms(BASE, [evidence(1, figures(0.0, 0.7), figures(0.0, 0.45))], GAMED)
    assert [line for line in found if "prefers wrong answers" in line] == [line for line in found if "models.1" in line]
    assert len(found) == 1, "that problems have no gold answer is as it should be"
    few = evidence(1, figures(0.0), right=30, wrong=10)
    assert few.pass_one == 0.75, "of those that have one"
    assert symptoms(BASE, [evidence(1, figures(0.0, 0.47))], GAMED) == [], "which may be chance"


def test_samples_that_a_model_cannot_read_are_told() -> None:
    said = evidence(1, figures(0.0))
    said.round.facts["rewards"] = {"answers": 400, "rewarded": 300, "too_long": 100}
    [line] = symptoms(BASE, [said], GAMED)
    assert "25 % of the samples are longer than the reward model may read" in line and "max_tokens" in line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewards")
    run_job(project(folder, {"model": "reward"}, {"model": "style", "weight": 0.3, "max_tokens": 34}), StandIns())
    return folder / "run"


def test_a_round_tells_how_its_rewards_are_spread(run: Path) -> None:
    _, [round_] = by_ledger(RunReader(run).state)
    told, [first, second] = health(round_), round_.round.facts["scores"]["rewards"]
    assert told["reward_mean"] == first["mean"] and told["reward_q95_2"] == second["quantiles"]["95"]
    assert told["reward_agreement"] == first["agreement"]
    assert f"reward {first['mean']:.2f} (" in " ".join(words(told))
    text = report_text(run, SOURCES)
    assert f"## {REWARDS.heading}" in text and f"{first['mean']:.3f} / {second['mean']:.3f}" in text
    assert "| reward models | reward, style |" in text


def test_a_sample_is_shown_with_what_each_model_gives_it(run: Path) -> None:
    found = samples(RunReader(run), Wanted(1), limit=100)
    first, second = (by_sample(run.parent, f"rounds/01/{step}", "reward") for step in ("rewards", "reward/2/rewards"))
    given = {(row["prompt_id"], row["sample"]): row["rewards"] for row in found["samples"]}
    assert given == {key: [first[key], second[key]] for key in first}
    unread = next(key for key, reward in second.items() if reward is None)
    shown = StringIO()
    Console(file=shown, width=200).print(Pages(full=True).samples(found))
    assert f"rewards {first[unread]:.3f}, none" in shown.getvalue()
