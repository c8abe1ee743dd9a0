"""What the machine makes of settings that are left to it: resolved once, recorded in the ledger, and kept.

Most of them decide no result; but the same kernel and the same number of threads give the same bits. A value is kept at
the next start as long as its setting is left to the machine still, what it depends on is the same, and the machine can
do it. On another device all are resolved anew, what suits a processor need not suit an accelerator, but for those that
decide (`LASTING`): these stay as they are, in a fork too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from orchestrator.config import Job
from orchestrator.config.sampling import OWN

V = TypeVar("V")
DTYPE, MICROBATCH = "generate.dtype", "train.tokens_per_microbatch"
CHECKPOINTING = "train.activation_checkpointing"
_ANY = object()
Record = Callable[[Mapping[str, Any]], None]
"""Is told device and settings whenever one is resolved (kinds.ResolvedData)."""

LEFT: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "train.attention": ("auto", ()),
    "train.ranks": (None, ("train.zero",)),
    "train.zero": (
        None,
        ("train.ranks", MICROBATCH, CHECKPOINTING, "train.offload_optimizer"),
    ),
    "generate.tensor_parallel": (None, ("generate.engine", "generate.max_num_seqs")),
    "generate.engines": (None, ("generate.engine", "generate.tensor_parallel")),
    DTYPE: (None, ()),
    MICROBATCH: (
        _ANY,
        (MICROBATCH, "train.ranks", "train.zero", CHECKPOINTING, "train.offload_optimizer"),
    ),
    CHECKPOINTING: (None, ("train.ranks", "train.zero", MICROBATCH, "train.offload_optimizer")),
    "cluster.cpus_per_rank": (None, ("train.ranks",)),
    "cluster.cpus_per_engine": (None, ("generate.engines", "generate.tensor_parallel")),
}
"""By key: the value that leaves it to the machine, and keys that what comes of it depends on. Of a micro-batch what is
kept is also half of any value, where a rank has run out of memory. Not among them is `grade.processes`: how many grade
changes nothing at all."""


LASTING = frozenset({DTYPE})
"""Those of them that decide what comes out."""


class Settled:
    """What is resolved so far. `kept` is as `kept_of` gives it."""

    def __init__(self, kept: Mapping[str, Any] | None = None, record: Record = lambda _: None) -> None:
        self._device = (kept or {}).get("device")
        self._settings = dict((kept or {}).get("settings", {}))
        self._record = record

    def value(self, key: str, device: str, resolve: Callable[[], V], fits: Callable[[Any], bool]) -> V:
        """What a setting has come to on this device: as it was, where that `fits` here."""
        found: V | None = self.known(key, device)
        if found is None or not fits(found):
            found = resolve()
            self.note(key, device, found)
        return found

    def known(self, key: str, device: str) -> Any:
        """What a setting has come to on this device so far; None for nothing."""
        return self._settings.get(key) if self._device == device else None

    def lasting(self, key: str, device: Callable[[], str], resolve: Callable[[], V]) -> V:
        """What a setting that decides has come to, on whatever device; `device` is asked only where it is resolved."""
        if key not in self._settings:
            self.note(key, device(), resolve())
        found: V = self._settings[key]
        return found

    def note(self, key: str, device: str, value: Any) -> None:
        """Record what a setting has come to on this device."""
        if self._device != device:
            self._settings = {known: found for known, found in self._settings.items() if known in LASTING}
        self._device = device
        self._settings[key] = value
        self._record({"device": device, "settings": dict(self._settings)})


def kept_of(config: Mapping[str, Any], job: Job) -> dict[str, Any] | None:
    """What of a `config` record holds for a job that goes on from there; None where it says nothing."""
    before, now = config["job"], job.model_dump(mode="json")
    resolved = config.get("resolved") or {"device": None, "settings": {}}
    left = [key for key, (value, _) in LEFT.items() if value in (_ANY, _at(now, key))]
    same = [key for key in left if all(_at(before, k) == _at(now, k) for k in LEFT[key][1])]
    holds = {key: value for key, value in resolved["settings"].items() if key in same}
    if _at(now, DTYPE) is None and "dtype" not in before.get("generate", {}):
        holds[DTYPE] = OWN  # as every version did that did not know the key
    return {"device": resolved["device"], "settings": holds} if holds or "resolved" in config else None


def _at(job: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    return job.get(section, {}).get(name)
