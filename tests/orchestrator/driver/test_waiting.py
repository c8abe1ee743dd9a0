"""Waiting for room: told, and given up in the end."""

from __future__ import annotations

import pytest

from orchestrator.driver.waiting import Wait
from orchestrator.errors import NoRoom


def test_a_wait_is_told_at_once_every_minute_and_where_it_is_over() -> None:
    now, told = [1000.0], list[str]()
    wait = Wait("train.ranks: 2 x 1 CPU", 130, told.append, lambda: now[0])
    for second, reason in ((0, "a"), (5, "b"), (59, "c"), (60, "d"), (65, "e"), (125, "f")):
        now[0] = 1000.0 + second
        wait.look(reason)
    assert [line.rpartition(": ")[2] for line in told] == ["a", "d", "f"]
    assert told[1] == "waiting   train.ranks: 2 x 1 CPU, for 60 of 130 s: d"
    wait.over()
    assert told[-1] == "waiting   over after 125 s: train.ranks: 2 x 1 CPU"


def test_what_is_free_at_once_is_not_told() -> None:
    told = list[str]()
    Wait("train.ranks: 2 x 1 CPU", 130, told.append).over()
    assert told == []


def test_a_wait_that_is_given_up_says_that_the_run_can_go_on() -> None:
    now = [0.0]
    wait = Wait("train.ranks: 2 x 1 CPU", 130, lambda line: None, lambda: now[0])
    wait.look("one holds it")
    now[0] = 130.0
    with pytest.raises(NoRoom, match=r"within 130 s \(cluster.timeout\): one holds it.* goes on from here") as failed:
        wait.look("one holds it")
    assert failed.value.exit_code == 75
