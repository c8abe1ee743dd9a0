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
from workers.generation.shard import Request, Sample, sample_shard
from workers.generation.vllm import EngineBroken


class StandInEngine:
    """`model` is a folder, where it notes what it does. A prompt's id says what becomes of the engine: poison kills
    it; stop, hang and break do so the first time only, each in its way; a refused request does it no harm.

    A file named `start` in the folder says how it starts: "fails", "hangs", "fails after N" starts, or "is
    killed N" times.
    """

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        self.folder = Path(model)
        self.steps = 0
        self.note("start")
        how = (self.folder / "start").read_text() if (self.folder / "start").exists() else ""
        if how.startswith("fails") and noted(self.folder).count("start") > int(how.partition("after ")[2] or 0):
            raise RuntimeError("no kernel image\nfor this device")
        if how.startswith("is killed") and noted(self.folder).count("start") <= int(how.rpartition(" ")[2]):
            os.kill(os.getpid(), signal.SIGKILL)
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
        self.note(f"write {shard.written}")
        return sample_shard(shard, plan, only, without, self.draw)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        self.harm("hang" if (self.folder / "hang").exists() else "")
        return [-float(len(completion)) for completion in completions]

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
        """Samples, one after the other, of which one can tell whose they are."""
        for place, request in enumerate(requests):
            if request.index == 0:
                self.note(f"draw {request.prompt_id} {len({r.prompt_id for r in requests})}")
                self.harm(request.prompt_id.partition("-")[0])
            self.steps += 1
            yield place, Sample(f"{request.prompt_id}/{request.index}", [*request.token_ids, request.index], "stop")

    def harm(self, how: str) -> None:
        if how == "refuse":
            raise ValueError("this prompt is refused")
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


def noted(folder: Path) -> list[str]:
    return (folder / "notes").read_text().splitlines()
