"""How long a run will still take, by the times of records."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.ledger.ledger import Artifact, Offer, ShardCommit, State
from orchestrator.ledger.record_files import Record
from orchestrator.reports.progress.estimate import Durations, timed_as

STEPS = {"samples": 10, "verdicts": 2, "pairs": 1, "train": 30, "evaluation": 6}
ROUND = sum(STEPS.values()) + 1  # and the gate


def records(rounds: int, start: float = 1000.0) -> list[Record]:
    """Of so many whole rounds, each phase of which takes its time twice over in the second one, and so on."""
    made, now = [Record(0, 1, "claim", start, {})], start
    for number in range(1, rounds + 1):
        for phase, seconds in STEPS.items():
            now += seconds * number
            made.append(Record(len(made), 1, "commit", now, {"step": f"rounds/{number:02d}/{phase}"}))
        now += number
        made.append(Record(len(made), 1, "promotion", now, {"round": number}))
    return made


def durations(*given: Record) -> Durations:
    found = Durations()
    found.follow(given, State())
    return found


def left(found: Durations, number: int, rounds: int, **changes: Any) -> float | None:
    arguments = {"done": (), "running": None, "elapsed": 0.0, "by_rate": None} | changes
    return found.left(number, rounds, **arguments)


def test_in_the_first_round_nobody_knows() -> None:
    assert left(durations(*records(0)), 0, 3) is None
    assert left(durations(*records(1)[:-1]), 1, 3) is None


def test_a_round_takes_what_earlier_ones_took_in_the_mean() -> None:
    assert left(durations(*records(1)), 2, 3) == 2 * ROUND
    assert left(durations(*records(2)), 3, 3) == 1.5 * ROUND
    assert durations(*records(2)).of(2) == 2 * ROUND


def test_what_is_done_of_a_round_is_not_left_and_what_runs_goes_by_its_own_rate() -> None:
    found = durations(*records(1))
    rest = STEPS["evaluation"] + 1
    done = ("samples", "pairs")
    assert left(found, 3, 3, done=done, running="train", elapsed=10.0) == 20 + rest
    assert left(found, 3, 3, done=done, running="train", elapsed=500.0) == rest
    assert left(found, 3, 3, done=done, running="train", elapsed=10.0, by_rate=77.0) == 77 + rest


def test_the_time_between_two_drivers_counts_for_nothing() -> None:
    one = records(1)
    later = [*one[:3], Record(3, 2, "claim", one[2].time + 9999, {})]
    later += [Record(r.number + 1, 2, r.kind, r.time + 9999, r.data) for r in one[3:]]
    assert durations(*later).of(1) == ROUND


def test_samples_and_verdicts_are_one_time() -> None:
    assert timed_as("verdicts") == "samples" and timed_as("hinted/verdicts") == "hinted/samples"
    assert durations(*records(1)).usual()["samples"] == pytest.approx(12)


class Asked(dict[Any, Any]):
    """Offers that count how often they are asked for one."""

    times = 0

    def get(self, key: Any, default: Any = None) -> Any:
        self.times += 1
        return super().get(key, default)


@pytest.mark.parametrize("own", ["all", "none"])
def test_a_shard_is_not_compared_with_all_others_of_its_step(own: str) -> None:
    """A round of a million prompts has thousands."""
    step, state, number = "rounds/01/samples", State(offers=Asked()), 50
    shards = [ShardCommit(step, i, Artifact(f"{step}/{i}", f"{step}/.{i}", {}), {}) for i in range(number)]
    state.shards[step] = dict(enumerate(shards))
    if own == "none":
        for shard in shards:
            offered = (shard.artifact,)
            state.offers[step, shard.index] = Offer(step, shard.index, "", offered, (), {})
    found = Durations()
    found.follow([Record(i, 1, "shard", float(i), {"step": step}) for i in range(number)], state)
    assert isinstance(state.offers, Asked) and 0 < state.offers.times <= number
    assert found.of(1) == (number - 1 if own == "all" else None)
