"""Which accelerators a worker has that takes turns with another one on them. Ray, in whose books it has none (Share of
orchestrator/driver/placement.py), names it none: so it asks which those of its bundle are, wherever that lies by now,
before a library looks for any."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from workers.supervision.ending import VARIABLE as _PHASE

VARIABLE = "RATCHET_DEVICES"
"""Set by orchestrator.driver.placement: bundle, first of its devices, how many, of how many."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_SECONDS = 300.0  # for a process of Ray's that says it


class NoDevices(RuntimeError):
    """Ray does not say which accelerators a bundle has; the message says why."""


def takes_turns(environment: MutableMapping[str, str]) -> bool:
    """Whether this process has accelerators by turns."""
    return bool(environment.get(VARIABLE))


def name_devices(environment: MutableMapping[str, str]) -> list[str]:
    """Have this process see its accelerators and no others; returns their names. Nothing where Ray has given it what it
    has.

    Raises:
        NoDevices: Ray does not say which they are.
    """
    if not takes_turns(environment):
        return []
    bundle, first, count, of = map(int, environment[VARIABLE].split())
    given = _of_bundle(bundle, of)
    if len(given) != of:
        raise NoDevices(f"bundle {bundle} has {of} accelerators, and Ray names {given}")
    named = given[first : first + count]
    environment[_VISIBLE] = ",".join(named)
    return named


def _of_bundle(bundle: int, count: int) -> list[str]:
    """The names of all accelerators of a bundle of the placement group that this process lives in. Nobody has one of
    them in Ray's books but who asks this, for a moment."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    where = PlacementGroupSchedulingStrategy(ray.util.get_current_placement_group(), bundle)
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": count, "scheduling_strategy": where}
    # Ray keeps the process that answers for a while: it is none of those that must end with the phase.
    options["runtime_env"] = {"env_vars": {_PHASE: "", VARIABLE: ""}}
    try:
        named: list[str] = ray.get(ray.remote(_given).options(**options).remote(), timeout=_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise NoDevices(f"Ray does not say within {_SECONDS:g} s which accelerators bundle {bundle} has") from None
    return named


def _given() -> list[str]:
    import ray

    return sorted(map(str, ray.get_gpu_ids()))
