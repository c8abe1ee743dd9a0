"""Signals that wait for the end of something."""

from __future__ import annotations

import signal

import pytest

from orchestrator.driver.signals import held, signals
from orchestrator.errors import Interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_what_holds_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals() as received:
        with pytest.raises(Interrupted, match=number.name), held():
            signal.raise_signal(number)
            assert received == []
        assert received == [number.name]
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_so_and_no_signal_is_made_up() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with held():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
