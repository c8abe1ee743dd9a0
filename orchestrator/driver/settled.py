"""What the machine makes of settings that are left to it: resolved once, recorded in the ledger, and kept.

None of them decides a result; but the same kernel and the same number of threads give the same bits. A value is kept at
the next start as long as its setting is left to the machine still, what it depends on is the same, and the machine can
do it. On another device all are resolved anew: what suits a processor need not suit an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.config import Job

V = TypeVar("V")
Record = Callable[[Mapping[str, Any]], None]
"""Is told device and settings whenever one is resolved (kinds.ResolvedData)."""

LEFT: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "train.attention": ("auto", ()),
    "train.ranks": (None, ("train.zero",)),
    "train.zero": (
        None,
        ("train.ranks", "train.tokens_per_microbatch", "train.activation_checkpointing", "train.offload_optimizer"),
    ),
    "generate.tensor_parallel": (None, ("generate.engine", "generate.max_num_seqs")),
    "generate.engines": (None, ("generate.engine", "generate.tensor_parallel")),
    "cluster.cpus_per_rank": (None, ("train.ranks",)),
    "cluster.cpus_per_engine": (None, ("generate.engines", "generate.tensor_parallel")),
}
"""By key: the value that leaves it to the machine, and other keys that what comes of it depends on. Not among them is
`grade.processes`: how many grade changes nothing at all."""


class Settled:
    """What is resolved so far. `kept` is as `kept_of` gives it."""

    def __init__(self, kept: Mapping[str, Any] | None = None, record: Record = lambda _: None) -> None:
        self._device = (kept or {}).get("device")
        self._settings = dict((kept or {}).get("settings", {}))
        self._record = record

    def value(self, key: str, device: str, resolve: Callable[[], V], fits: Callable[[Any], bool]) -> V:
        """What a setting has come to on this device: as it was, where that `fits` here."""
        if self._device != device:
            self._device, self._settings = device, {}
        if key not in self._settings or not fits(self._settings[key]):
            self._settings[key] = resolve()
            self._record({"device": device, "settings": dict(self._settings)})
        found: V = self._settings[key]
        return found


def kept_of(config: Mapping[str, Any], job: Job) -> dict[str, Any] | None:
    """What of a `config` record holds for a job that goes on from there; None where it says nothing."""
    if (resolved := config.get("resolved")) is None:
        return None
    before, now = config["job"], job.model_dump(mode="json")
    holds = {
        key: value
        for key, value in resolved["settings"].items()
        if key in LEFT and _at(now, key) == LEFT[key][0] and all(_at(before, k) == _at(now, k) for k in LEFT[key][1])
    }
    return {"device": resolved["device"], "settings": holds}


def _at(job: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return job.get(section, {}).get(name)
