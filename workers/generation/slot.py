"""One engine's place in the pool: the actor that is there now, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orchestrator.config import Generate
from orchestrator.errors import RatchetError
from workers.supervision.calls import RAY, Calls
from workers.supervision.failures import why, wordless
from workers.supervision.kernel import Kills
from workers.supervision.patience import Patience, Pulse

MOST_DEATHS = 5
"""Engines lost in a row at one place, without one finished prompt, before the run gives up."""
MOST_GIVEN_UP = 10
"""Prompts given up in a row at one place, without one that was finished: then it is rather the engine's fault."""


class GenerationFailed(RatchetError):
    """An engine could not be started, was lost again and again, or failed in a way that another would too."""


class EngineHangs(Exception):
    """An engine does not start, or has work and makes no progress."""


class Slot:
    """`start` starts an engine's actor (host.EngineHost), which may take `start_limit` seconds to load the model; where
    none is given it waits for `serve`. Nothing is dispatched to an engine before it is `ready`, so that one that dies
    while it starts takes no prompt with it."""

    def __init__(
        self,
        index: int,
        start: Callable[[], Any],
        model: str | None,
        settings: Generate,
        start_limit: float,
        interval: float,
        kills: Kills,
        calls: Calls = RAY,
    ) -> None:
        self.index = index
        self._kills, self._calls = kills, calls
        self._model = model
        self._start, self._settings, self._start_limit, self._interval = start, settings, start_limit, interval
        self.deaths = 0
        """Engines lost here in a row, without a prompt that was finished or given up."""
        self._given_up = 0  # in a row, likewise
        self._begin()

    def _begin(self) -> None:
        self.actor = self._start()
        self.asleep = False
        """Whether it rests with an engine that can take weights again."""
        self.new = True
        """Whether the actor has never answered: its process may be on its way."""
        self.ready = False
        if self._model is not None:
            self._load()

    def _load(self) -> None:
        actor = self.actor
        self.began = self._calls.clock()
        self.started = actor.serve.remote(self._model)
        """Answered once the engine has loaded the model."""
        self.ready = False
        self.load = 0
        """Calls under way."""
        self.exclusive = False
        """Whether the calls under way must remain the only ones."""
        self._pulse = Pulse(lambda: actor.progress.remote(), self._calls)
        self._patience = Patience(self._interval, self._calls.clock)

    def loaded(self) -> None:
        """The engine has loaded the model."""
        self.ready, self.new = True, False

    def taken(self, exclusive: bool = False) -> Any:
        """The engine's actor, for one call, which is under way from now on until `done`."""
        if self.load == 0:
            self._patience.rest()
        self.load += 1
        self.exclusive = exclusive
        return self.actor

    def done(self) -> None:
        """A call has come back."""
        self.load -= 1
        self.exclusive = self.exclusive and self.load > 0

    def progressed(self) -> None:
        """The engine has finished what it was asked."""
        self.deaths = self._given_up = 0

    def restart(self) -> None:
        """Start the engine anew, where it had no place to start in."""
        self.kill()
        self._begin()

    def wait_for_place(self) -> None:
        """It has no place to start in, and is not to blame for it."""
        self._patience.rest()

    def serve(self, model: str, start_limit: float, kills: Kills, lives: bool) -> None:
        """Have the place serve another model; the process that is there does it if it `lives`, else another one. An
        engine that sleeps can take weights, and nothing else: it goes with its process."""
        self._model, self._start_limit, self._kills = model, start_limit, kills
        if lives and not self.asleep:
            self._load()
        else:
            self.restart()

    def rename(self, model: str, start_limit: float, kills: Kills) -> None:
        """The engine serves what is in this folder, and so shall one that replaces it."""
        self._model, self._start_limit, self._kills, self.asleep = model, start_limit, kills, False

    def stalled(self) -> EngineHangs | None:
        """What is wrong when the engine has used up its time; to be asked every few seconds."""
        if not self.ready:
            limit = self._start_limit
            if self._patience.seconds("starting") > limit:
                return EngineHangs(f"it did not start within {limit:g} s (generate.start_timeout)")
        elif self.load and self._patience.seconds(self._pulse.count()) > self._settings.stall_timeout:
            limit = self._settings.stall_timeout
            return EngineHangs(f"it made no progress for {limit:g} s (generate.stall_timeout)")
        return None

    def was_killed(self, error: Exception) -> bool:
        """Whether something ended it from outside, and not for want of memory: another may have better luck."""
        return wordless(error) and not self._kills.since(error)

    def why(self, error: Exception) -> str:
        return why(error, "engine", self._kills.since(error))

    def replace(self, error: Exception, progressed: bool, given_up: bool = False) -> str:
        """End the engine and start another; returns why. `progressed`: it had finished a prompt since the last death;
        `given_up`: its death settles whose fault that was, so that the next engine is spared it.

        Raises:
            GenerationFailed: that was the last of MOST_DEATHS deaths in a row, or of MOST_GIVEN_UP prompts given up.
        """
        reason = f"engine {self.index}: {self.why(error)}"
        self.deaths = 1 if progressed else self.deaths + (not given_up)
        self._given_up = given_up + (0 if progressed else self._given_up)
        if self._given_up >= MOST_GIVEN_UP:
            raise GenerationFailed(
                f"an engine was lost {MOST_GIVEN_UP} times in a row with one prompt alone, another one each time, and "
                f"finished none. That is rather the engine's fault than the prompts'; the last time, {reason}"
            ) from error
        if self.deaths >= MOST_DEATHS:
            raise GenerationFailed(
                f"an engine was lost {MOST_DEATHS} times in a row without finishing a prompt; the last time, {reason}"
            ) from error
        self.restart()
        return reason

    def kill(self) -> None:
        self._calls.kill(self.actor)
