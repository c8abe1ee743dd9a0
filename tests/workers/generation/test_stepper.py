"""Many threads, one engine that is stepped: what is answered, in which order, and what becomes of a broken one."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from workers.generation.engine import EngineBroken, RequestRefused
from workers.generation.stepper import Stepper


class Output(NamedTuple):
    request_id: str
    finished: bool
    text: str


class TooLong(Exception):
    """The engine's own error, which is no ValueError; nor is vLLM's."""


class CountingEngine:
    """Takes as many steps for a request as its parameters say, and answers with its prompt."""

    def __init__(self) -> None:
        self.left: dict[str, tuple[str, int]] = {}
        self.log: list[str] = []
        self.itself = self  # real ones are in circles of references, too

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def add_request(self, request_id: str, prompt: str, params: int) -> None:
        if prompt == "refused":
            raise TooLong("too long")
        self.log.append(prompt)
        self.left[request_id] = (prompt, params)

    def step(self) -> Sequence[Output]:
        if any(prompt == "poison" for prompt, _ in self.left.values()):
            raise RuntimeError("no kernel image")
        self.left = {name: (prompt, left - 1) for name, (prompt, left) in self.left.items()}
        done = [Output(name, left == 0, prompt) for name, (prompt, left) in self.left.items()]
        self.left = {name: held for name, held in self.left.items() if held[1]}
        return done


def test_outputs_come_as_they_are_finished() -> None:
    stepper = Stepper(CountingEngine())
    found = list(stepper.outputs([("a", 3), ("b", 1), ("c", 2)]))
    assert [(place, output.text) for place, output in found] == [(1, "b"), (2, "c"), (0, "a")]
    assert stepper.steps == 3
    assert list(stepper.outputs([])) == []


def test_what_one_step_finishes_goes_to_each_that_asked_for_it_in_order() -> None:
    stepper, both = Stepper(CountingEngine()), threading.Barrier(2)

    def ask(name: str) -> list[tuple[int, str]]:
        both.wait()
        asked = [(f"{name}{place}", 2 + place % 2) for place in range(6)]
        return [(place, output.text) for place, output in stepper.outputs(asked)]

    with ThreadPoolExecutor(2) as threads:
        found = dict(zip("ab", threads.map(ask, "ab"), strict=True))
    assert found == {name: [(place, f"{name}{place}") for place in (0, 2, 4, 1, 3, 5)] for name in "ab"}


def test_a_refused_request_harms_no_other() -> None:
    stepper = Stepper(CountingEngine(), KeyError, TooLong)
    with pytest.raises(RequestRefused, match="too long"):
        list(stepper.outputs([("refused", 1), ("a", 1)]))
    assert [place for place, _ in stepper.outputs([("b", 1)])] == [0]


class Interrupted(list[tuple[str, int]]):
    """Requests, between the first and the second of which somebody else has something done."""

    def __init__(self, stepper: Stepper, *requests: tuple[str, int]) -> None:
        super().__init__(requests)
        self.stepper = stepper

    def __iter__(self) -> Iterator[tuple[str, int]]:
        yield self[0]
        self.stepper.do(lambda held: held.log.append("errand"))
        yield from self[1:]


def test_the_requests_of_a_call_are_asked_for_together() -> None:
    engine = CountingEngine()
    stepper = Stepper(engine)
    assert len(list(stepper.outputs(Interrupted(stepper, ("a", 1), ("b", 1))))) == 2
    assert engine.log == ["errand", "a", "b"]


def test_what_is_done_with_the_engine_waits_for_all_that_was_asked_before() -> None:
    engine = CountingEngine()
    stepper = Stepper(engine)

    def errand(number: int) -> None:
        def note(held: CountingEngine) -> None:
            assert held is engine and not held.left
            held.log.append("errand")

        stepper.do(note)

    def ask(number: int) -> list[str]:
        return sorted(output.text for _, output in stepper.outputs([(f"{number}", 1 + i) for i in range(5)]))

    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit((errand, ask)[number % 2], number) for number in range(100)]
    assert [call.result() for call in calls] == [[str(n)] * 5 if n % 2 else None for n in range(100)]
    assert engine.log.count("errand") == 50 and len(engine.log) == 50 + 5 * 50


def test_a_broken_engine_tells_whoever_waits_and_whoever_comes_later() -> None:
    engine = CountingEngine()
    stepper = Stepper(engine)
    for _ in range(2):
        with pytest.raises(EngineBroken, match="no kernel image"):
            list(stepper.outputs([("poison", 1), ("a", 1)]))
    with pytest.raises(EngineBroken, match="no kernel image"):
        stepper.do(lambda held: held.log.append("done"))
    assert "done" not in engine.log
    stepper.close(lambda held: held.log.append("given back"))
    assert engine.log[-1] == "given back" and stepper.engine is None


def test_an_errand_that_fails_breaks_the_engine() -> None:
    stepper = Stepper(CountingEngine())

    def fail(engine: CountingEngine) -> None:
        raise OSError("half of the weights are read")

    for _ in range(2):
        with pytest.raises(EngineBroken, match="half of the weights"):
            stepper.do(fail)
    with pytest.raises(EngineBroken, match="half of the weights"):
        list(stepper.outputs([("a", 1)]))


def test_a_closed_engine_is_let_go_and_closing_twice_is_harmless() -> None:
    engine = CountingEngine()
    gone = weakref.ref(engine)
    stepper = Stepper(engine)
    closed = threading.Event()
    assert len(list(stepper.outputs([("a", 2)]))) == 1
    del engine
    stepper.close(lambda held: closed.set())
    assert closed.is_set() and gone() is None
    stepper.close(lambda held: pytest.fail("there is none"))
    with pytest.raises(EngineBroken, match="closed"):
        list(stepper.outputs([("b", 1)]))
