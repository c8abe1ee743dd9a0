"""A run in numbers: what its records count, whole, whoever tells it; and that showing it ends no run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.driver.waiting import Wait
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.meters import METERS, METRICS_PORT, Meters, metrics_port
from tests.support.stand_ins import StandIns, make_project, run_job


class Shown:
    """Metrics that add up what they are told."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.made: list[str] = []

    def __call__(self, name: str, says: str, tags: tuple[str, ...]) -> Any:
        self.made.append(name)

        def count(amount: float, given: dict[str, str]) -> None:
            assert amount > 0 and tuple(given) == tags and says
            key = (name, tuple(given.items()))
            self.found[key] = self.found.get(key, 0) + amount

        return count

    def get(self, name: str, **tags: str) -> float:
        return sum(n for (made, given), n in self.found.items() if made == name and tags.items() <= dict(given).items())


class Unlucky(StandIns):
    """An engine was lost over each shard of samples, the ranks once in each training, and there was no room."""

    def engines(self, model: str, probe: Path | None = None) -> Any:
        engines = super().engines(model)
        sample = engines.generate

        def generate(*given: Any) -> Any:
            for shard, facts in sample(*given):
                yield shard, facts | {"engines_lost": ["engine 0: it died"]}

        engines.generate = generate  # type: ignore[method-assign]
        return engines

    def trainers(self) -> Any:
        trainers = super().trainers()
        train = trainers.train
        trainers.train = lambda *given: train(*given) | {"restarts": 2}  # type: ignore[method-assign]
        return trainers


def by_hand(run: Path) -> Counter[str]:
    """What the records of a run come to."""
    found: Counter[str] = Counter()
    for record in Ledger(run / "ledger").records:
        found["records"] += 1
        facts = record.data.get("facts", {})
        if record.kind == "shard":
            found[f"{record.data['step'].rpartition('/')[2]} shards"] += 1
            found["sampled"] += facts.get("tokens", 0)
        elif record.kind == "commit" and record.data["step"].endswith("/train"):
            found["trained"] += facts["tokens"]
        elif record.kind == "promotion":
            found["rounds"] += 1
    return found


def test_the_numbers_are_those_of_the_ledger_also_where_it_was_resumed(tmp_path: Path) -> None:
    job, told, whole = make_project(tmp_path), Shown(), Meters("tiny")
    whole.show_by(told)
    run_job(job, Unlucky(), "rounds=1")
    ledger = Ledger(tmp_path / "run/ledger")
    whole.follow(ledger)
    run_job(job, Unlucky(), "rounds=2")
    ledger.refresh()
    whole.follow(ledger)
    late = Shown()
    resumed = Meters("tiny")
    resumed.follow(Ledger(tmp_path / "run/ledger"))
    resumed.show_by(late)
    assert late.found == pytest.approx(told.found)
    expected = by_hand(tmp_path / "run")
    assert told.get("ratchet_ledger_appends_total") == expected["records"]
    assert told.get("ratchet_rounds_total", outcome="promoted") == expected["rounds"] == 2
    assert told.get("ratchet_shards_total", phase="samples", role="engine") == expected["samples shards"] > 0
    assert told.get("ratchet_shards_total", phase="verdicts", role="grader") == expected["verdicts shards"] > 0
    assert told.get("ratchet_tokens_total", role="engine") == expected["sampled"] > 0
    assert told.get("ratchet_tokens_total", phase="train", role="rank") == expected["trained"] > 0
    assert told.get("ratchet_workers_lost_total", role="rank") == 4
    # Those of the evaluations are told by their commits; those of the samples by their shards, and not once more.
    evaluations = 3 * 8
    assert told.get("ratchet_workers_lost_total", role="engine") == expected["samples shards"] + evaluations
    assert {dict(tags)["run"] for _, tags in told.found} == {"tiny"}


def test_what_a_fork_took_over_is_not_counted_as_its_work(tmp_path: Path) -> None:
    job = make_project(tmp_path)
    run_job(job, StandIns(), "rounds=1")
    fork(tmp_path / "run", tmp_path / "forked", ["loss.beta=0.2"])
    workers = StandIns()
    run_job(tmp_path / "forked/job.yaml", workers)
    meters = Meters("tiny")
    meters.follow(Ledger(tmp_path / "forked/ledger"))
    totals = meters.totals()
    assert "ratchet_shards_total" not in totals
    assert totals["ratchet_tokens_total"] == {("train", "rank"): 10} and workers.calls["train"] == 1
    assert totals["ratchet_ledger_appends_total"]["shard",] > 0, "they are records of this run all the same"


def test_numbers_have_a_bounded_set_of_tags(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), Unlucky(), "rounds=1")
    meters = Meters("tiny")
    meters.follow(Ledger(tmp_path / "run/ledger"))
    values = {value for found in meters.totals().values() for tags in found for value in tags}
    assert not [value for value in values if any(letter.isdigit() or letter == "/" for letter in value)]


def test_names_are_as_prometheus_wants_them() -> None:
    assert len({meter.name for meter in METERS}) == len(METERS)
    for meter in METERS:
        assert meter.name.startswith("ratchet_") and meter.name.endswith("_total")
        assert ("second" in meter.says.lower()) == meter.name.endswith("_seconds_total")


def test_waiting_is_told_while_it_lasts() -> None:
    clock, shown = iter([0.0, 5.0, 10.0, 12.5]), Shown()
    meters = Meters("tiny")
    meters.show_by(shown)
    wait = Wait("ranks", 60, lambda line: None, lambda: next(clock), lambda s: meters.waited("rank", s))
    wait.look("")
    assert shown.get("ratchet_waiting_seconds_total", role="rank") == 5
    wait.look("")
    wait.over()
    assert shown.get("ratchet_waiting_seconds_total", role="rank") == 12.5


def test_that_they_cannot_be_shown_ends_nothing(tmp_path: Path) -> None:
    run_job(make_project(tmp_path), StandIns(), "rounds=1")

    def broken(name: str, says: str, tags: tuple[str, ...]) -> Any:
        def count(amount: float, given: dict[str, str]) -> None:
            raise ValueError("no agent\nat all")

        return count

    said: list[str] = []
    meters = Meters("tiny", said.append)
    meters.show_by(broken)
    meters.follow(Ledger(tmp_path / "run/ledger"))
    meters.waited("engine", 2)
    assert said == ["metrics   cannot be shown any more: no agent"]
    assert meters.totals()["ratchet_rounds_total"] == {("promoted",): 1}


@pytest.mark.parametrize("given", ["0", "65536", "x", "-1", "9.5", "٣", "1" * 5000])
def test_a_port_that_is_none_is_named(given: str) -> None:
    with pytest.raises(BadInput, match=METRICS_PORT):
        metrics_port({METRICS_PORT: given})
    assert metrics_port({METRICS_PORT: "9464"}) == 9464 and metrics_port({METRICS_PORT: ""}) is None
