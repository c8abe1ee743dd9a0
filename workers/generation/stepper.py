"""The thread that steps an engine whose requests come from many others.

New requests join between two steps, so that the engine never waits for one shard to end before it sees the next one.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from workers.generation.engine import EngineBroken, RequestRefused


class Stepped(Protocol):
    """An engine that somebody must step, as `vllm.LLMEngine`."""

    def has_unfinished_requests(self) -> bool:
        """Whether a step has anything to do."""

    def add_request(self, request_id: str, prompt: Any, params: Any) -> Any:
        """Take a request, whose outputs `step` gives."""

    def step(self) -> Sequence[Any]:
        """Outputs; each has a `request_id` and says whether it is `finished`."""


@dataclass(frozen=True)
class _Request:
    """One sequence for the engine; its output, or the error that came instead, goes to whoever asked for it."""

    prompt: Any
    parameters: Any
    place: int
    answers: queue.SimpleQueue[list[tuple[int, Any]]]

    def answer(self, output: Any) -> None:
        self.answers.put([(self.place, output)])


@dataclass(frozen=True)
class _Errand:
    """What is done with the engine between requests: those before it are finished, those after it wait."""

    do: Callable[[Any], None]
    closes: bool
    answers: queue.SimpleQueue[Exception | None]

    def run(self, engine: Stepped | None) -> None:
        try:
            if engine is not None:
                self.do(engine)
        except BaseException as error:
            self.answer(EngineBroken(f"the engine stopped: {error!r}"))
            raise

    def answer(self, error: Exception | None) -> None:
        self.answers.put(error)


class Stepper:
    """Methods may be called from several threads. The engine is this object's alone, and is let go at `close`.

    `refusals` are the errors with which it refuses a request that is added, and is none the worse.
    """

    def __init__(self, engine: Stepped, *refusals: type[Exception]) -> None:
        self.engine: Stepped | None = engine
        self._refusals = refusals
        self.steps = 0
        """How many steps were done."""
        self._inbox: queue.SimpleQueue[list[_Request] | _Errand] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._errand: _Errand | None = None
        self._names = itertools.count()
        threading.Thread(target=self._run, daemon=True).start()

    def outputs(self, requests: Sequence[tuple[Any, Any]]) -> Iterator[tuple[int, Any]]:
        """Run requests (prompt, parameters) through the engine, all before or all after anything that `do` is asked
        for; yields each one's place and output as it is finished.

        Raises:
            EngineBroken: the engine stopped with an error, or is closed.
            RequestRefused: it refuses a request.
        """
        answers: queue.SimpleQueue[list[tuple[int, Any]]] = queue.SimpleQueue()
        self._inbox.put([_Request(*request, place, answers) for place, request in enumerate(requests)])
        left = len(requests)
        while left:
            for place, output in answers.get():
                if isinstance(output, Exception):
                    raise output
                yield place, output
                left -= 1

    def do(self, what: Callable[[Any], None]) -> None:
        """Do something with the engine when what was asked for before is answered, and before anything else is begun.

        Raises:
            EngineBroken: it failed, or the engine serves nobody any more.
        """
        self._send(what, closes=False)

    def close(self, what: Callable[[Any], None]) -> None:
        """Likewise, for the last time: then the engine is let go. Also done with one that is broken."""
        self._send(what, closes=True)

    def _send(self, what: Callable[[Any], None], closes: bool) -> None:
        answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._inbox.put(_Errand(what, closes, answers))
        if (error := answers.get()) is not None:
            raise error

    def _run(self) -> None:
        try:
            while self._admit():
                self._step()
            broken = EngineBroken("the engine is closed")
        except BaseException as error:
            broken = EngineBroken(f"the engine stopped: {error!r}")
        self._serve_nobody(broken)

    def _step(self) -> None:
        """Each thread that waits is woken once a step, however much of its own is finished: whoever wakes takes the
        interpreter from this thread, which must have it back before the engine goes on."""
        assert self.engine is not None
        finished: dict[queue.SimpleQueue[list[tuple[int, Any]]], list[tuple[int, Any]]] = {}
        for output in self.engine.step():
            if output.finished:
                request = self._running.pop(output.request_id)
                finished.setdefault(request.answers, []).append((request.place, output))
        for answers, outputs in finished.items():
            answers.put(outputs)
        self.steps += 1

    def _admit(self) -> bool:
        """Give the engine what was asked for, and wait where it has nothing to do; returns whether there is an engine
        still. No local variable here or above holds it, so that `close` lets it go."""
        while self.engine is not None:
            idle = not self.engine.has_unfinished_requests()
            if self._errand is not None and not idle:
                break
            if self._errand is not None:
                errand, self._errand = self._errand, None
                self._run_errand(errand)
                continue
            try:
                asked = self._inbox.get(block=idle)
            except queue.Empty:
                break
            if isinstance(asked, _Errand):
                self._errand = asked
                continue
            for request in asked:
                self._add(self.engine, request)
        return self.engine is not None

    def _add(self, engine: Stepped, request: _Request) -> None:
        name = str(next(self._names))
        self._running[name] = request
        try:
            engine.add_request(name, request.prompt, request.parameters)
        except self._refusals as error:
            self._running.pop(name).answer(RequestRefused(str(error)))

    def _run_errand(self, errand: _Errand) -> None:
        try:
            errand.run(self.engine)
        finally:
            if errand.closes:
                self.engine = None
                gc.collect()  # an engine is in circles of references, and its memory with it
        self.steps += 1
        errand.answer(None)

    def _serve_nobody(self, broken: EngineBroken) -> None:
        """Tell whoever waits, and whoever asks later. What a broken engine holds can still be given back."""
        asked: list[_Request] | _Errand = list(self._running.values())
        if self._errand is not None:
            self._inbox.put(self._errand)
        while True:
            if isinstance(asked, list):
                for request in asked:
                    request.answer(broken)
            elif asked.closes:
                with contextlib.suppress(Exception):  # told to whoever asked
                    self._run_errand(asked)
            else:
                asked.answer(broken)
            asked = self._inbox.get()
