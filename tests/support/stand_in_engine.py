"""An engine without a model, for the pool: it draws samples at once, and some prompts do it harm."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Generate
from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.engine import (
    BesidesWeights,
    EngineBroken,
    EngineKind,
    NoDeviceMemory,
    RequestRefused,
    Scored,
)
from workers.generation.shard import Request, Sample, sample_shard

WEIGHTS = "model.safetensors"
"""Holds the one weight of a stand-in's model, in figures; where it is not there, that is 1."""


class StandInEngine:
    """`model` is a folder, where it notes what it does. A prompt's id says what becomes of the engine: poison kills
    it; stop, hang and break do so the first time only, each in its way; a refused request does it no harm.

    A file named `sleeps` has it sleep when it is asked to, or break where that says so. A file named `keeps` in the
    folder has it keep as many MiB when it is closed, for good, or "hang" then. A file named
    `start` says how it starts: "fails", "hangs", "fails after N" starts, or "is
    killed N" or "finds too little N" times. Each token's log-probability is the model's weight, negative.
    """

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        self.folder = self.served = Path(model)
        self.context = settings.max_model_len or 2**20
        self.weight, self.besides = weight_of(self.served), BesidesWeights(model)
        self.closed = self.asleep = False
        self.steps = 0
        self.note("start")
        how = (self.folder / "start").read_text() if (self.folder / "start").exists() else ""
        if how.startswith("fails") and noted(self.folder).count("start") > int(how.partition("after ")[2] or 0):
            raise RuntimeError("no kernel image\nfor this device")
        if how.startswith("is killed") and noted(self.folder).count("start") <= int(how.rpartition(" ")[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        if how.startswith("finds too little") and noted(self.folder).count("start") <= int(how.rpartition(" ")[2]):
            raise NoDeviceMemory("Free memory on device cuda:0 (1.0/79.1 GiB) is less; held by process 7 (other)")
        if how == "hangs":
            threading.Event().wait()

    def note(self, line: str) -> None:
        with open(self.folder / "notes", "a") as file:
            file.write(line + "\n")

    def pid(self) -> int:
        return os.getpid()

    def progress(self) -> int:
        return self.steps

    def generate(
        self, shard: Shard, plan: SamplingPlan, only: Sequence[str] | None = None, without: Sequence[str] = ()
    ) -> dict[str, Any] | None:
        self.must_serve()
        self.note(f"write {shard.written}")
        return sample_shard(shard, plan, only, without, lambda requests: self.draw(requests, plan))

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        self.must_serve()
        self.harm("hang" if (self.folder / "hang").exists() else "")
        self.steps += 1
        rows, weight = zip(prompts, completions, strict=True), self.weight
        return [-weight * len(c) if len(p) + len(c) < self.context else None for p, c in rows]

    def score(self, prompts: list[list[int]], completions: list[list[int]]) -> list[Scored | None]:
        """The likeliest token is that before it, plus one. A prompt that begins with 13 breaks the engine, the first
        time only, or each time where there is a file `always` in the folder."""
        if any(prompt[0] == 13 for prompt in prompts):
            if (self.folder / "always").exists():
                raise EngineBroken("the engine stopped: RuntimeError('an illegal memory access')")
            self.harm("break")
        greedy = [c == list(range(p[-1] + 1, p[-1] + 1 + len(c))) for p, c in zip(prompts, completions, strict=True)]
        said = self.logprobs(prompts, completions)
        return [None if one is None else Scored(one, best) for one, best in zip(said, greedy, strict=True)]

    def load_weights(self, model: str) -> None:
        self.asleep, slept = False, self.asleep
        self.must_serve()
        self.besides.must_be_those_of(model)
        self.served, self.weight = Path(model), weight_of(Path(model))
        if slept:
            self.note("wake")

    def sleep(self) -> bool:
        if not (file := self.folder / "sleeps").exists():
            return False
        if file.read_text() == "breaks":
            raise EngineBroken("the engine stopped: AssertionError('Memory usage increased after sleeping.')")
        self.note("sleep")
        self.asleep = True
        return True

    def held(self) -> dict[str, str]:
        self.must_serve()
        return {"weight": str(self.weight)}

    def close(self) -> None:
        self.closed = True
        if (file := self.folder / "keeps").exists():
            if (how := file.read_text()) == "hang":
                threading.Event().wait()
            _KEPT.append(b"x" * (int(how) * 2**20))

    def must_serve(self) -> None:
        if self.closed or self.asleep:
            raise EngineBroken("the engine is closed, or asleep")

    def draw(self, requests: Sequence[Request], plan: SamplingPlan) -> Iterator[tuple[int, Sample]]:
        """Samples, one after the other, of which one can tell whose they are."""
        weight = self.weight
        for place, request in enumerate(requests):
            if len(request.token_ids) >= self.context:
                raise RequestRefused(f"a prompt of {len(request.token_ids)} tokens leaves no room for a sample")
            if request.sample_index == 0:
                self.note(f"draw {request.prompt_id} {len({r.prompt_id for r in requests})}")
                self.harm(request.prompt_id.partition("-")[0])
            self.steps += 1
            token_ids = [round(10 * weight), request.sample_index, *request.token_ids]
            cut = len(token_ids) > plan.max_tokens
            text = f"{request.prompt_id}/{request.sample_index}"
            yield place, Sample(text, token_ids[: plan.max_tokens], "length" if cut else "stop")

    def harm(self, how: str) -> None:
        if how == "refuse":
            raise RequestRefused("this prompt is refused")
        if how == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if how not in ("stop", "hang", "break") or how in noted(self.folder):
            return
        self.note(how)
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "hang":
            threading.Event().wait()
        else:
            raise EngineBroken("the engine stopped: OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')")


def weight_of(folder: Path) -> float:
    file = folder / WEIGHTS
    return float(file.read_text()) if file.exists() else 1.0


_KEPT: list[bytes] = []  # of this process

STAND_IN = EngineKind("the stand-in", StandInEngine)


def noted(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()
