"""Resources of a Ray cluster that are reserved as a whole, for one phase of a run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.driver.nodes import abreast

Bundles = tuple[int, int, int]
"""How many workers, and each one's cores and accelerators."""
_INTERFACE = "RATCHET_INTERFACE"  # tells ranks which network interface to use (workers.training.network)
_PHASE = "RATCHET_PHASE"  # tells a phase's processes from all others (workers.supervision.ending)
_DEVICES = "RATCHET_DEVICES"  # tells a worker that Ray gives none which are its (workers.supervision.named_devices)
SPINS = "1000"
"""How often a thread of GNU's OpenMP looks for the others before it sleeps."""
_TURN_SECONDS = 5  # that who waits already is given; there may never be room for it


class Placement:
    """Reserved resources: bundle `i` holds what worker `i` of a group may use. Where nodes are lost, Ray finds other
    ones for their bundles as soon as there is room."""

    def __init__(
        self,
        bundles: Bundles,
        group: Any,
        wait: Callable[[Placement], None],
        interface: str | None,
        environment: Mapping[str, str] | None = None,
        beside: Bundles | None = None,
    ) -> None:
        """`beside` are further bundles, of another size, which come after the others."""
        self.group = group
        self.count, self.cpus, self.gpus = bundles
        self.beside = beside or (0, 0, 0)
        self._wait = wait
        self.mark = uuid.uuid4().hex
        """Stands in the environment of all that runs here, and of all that it starts."""
        given = dict(environment or {}) | ({_INTERFACE: interface} if interface else {})
        self._environment = given | {_PHASE: self.mark}

    def actor_options(self, index: int) -> dict[str, Any]:
        """Options for `ActorClass.options(**...)` that put worker `index` into its bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
        cpus, gpus = (self.cpus, self.gpus) if index < self.count else self.beside[1:]
        return {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "scheduling_strategy": strategy,
            "runtime_env": self.environment(cpus),
            "max_restarts": 0,
        }

    def environment(self, cpus: int) -> dict[str, Any]:
        """What actors find in their environment, as Ray is told it. Threads that wait for each other by spinning, as
        they would for milliseconds, keep each other from the cores as soon as anything else runs there."""
        threads = {"OMP_NUM_THREADS": str(cpus), "GOMP_SPINCOUNT": SPINS}
        return {"env_vars": threads | self._environment}

    def placed(self) -> list[bool]:
        """Of each bundle, whether it lies on a living node."""
        import ray
        from ray.util import placement_group_table

        living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        where = placement_group_table(self.group).get("bundles_to_node_id", {})
        return [where.get(index) in living for index in range(self.count + self.beside[0])]

    def wait(self) -> None:
        """Return when every bundle lies on a living node; why it waits is told. Nothing may run in the bundles where
        nodes were lost: where there is no room for them as they are, they may become smaller.

        Raises:
            NoRoom: after `cluster.timeout` seconds.
        """
        self._wait(self)


class Share:
    """The places of one role in a reservation that two roles share, for as long as it is held: the workers of both live
    there and take turns with it, so that Ray counts none of their cores, and gives them none of its accelerators: which
    of a bundle's are theirs, each asks where it starts. A bundle may have room for several."""

    def __init__(self, placement: Placement, need: Callable[[], Bundles]) -> None:
        """`need` says how many workers there are, and what each takes; asked again where nodes were lost."""
        self._placement, self._need = placement, need
        self.count, self.cpus, self.gpus = need()

    def actor_options(self, index: int) -> dict[str, Any]:
        """As `Placement.actor_options`."""
        bundle, place = divmod(index, self._abreast)
        options = self._placement.actor_options(bundle) | {"num_cpus": 0, "num_gpus": 0}
        variables = options["runtime_env"]["env_vars"] | {"OMP_NUM_THREADS": str(self.cpus)}
        if self.gpus:
            variables[_DEVICES] = f"{bundle} {place * self.gpus} {self.gpus} {self._placement.gpus}"
        return options | {"runtime_env": {"env_vars": variables}}

    def placed(self) -> list[bool]:
        """Of each worker, whether its place is on a living node."""
        bundles = self._placement.placed()
        return [bundles[index // self._abreast] for index in range(self.count)]

    def wait(self) -> None:
        """As `Placement.wait`; where bundles become smaller, workers that rest there end."""
        self._placement.wait()
        self.count, self.cpus, self.gpus = self._need()

    @property
    def _abreast(self) -> int:
        placement = self._placement
        return abreast((placement.count, placement.cpus, placement.gpus), (self.count, self.cpus, self.gpus))


class Part:
    """The places of one role in a reservation that has places for each: so many of its bundles, from one on."""

    def __init__(self, placement: Placement, first: int, need: Bundles) -> None:
        self._placement, self._first = placement, first
        self.count, self.cpus, self.gpus = need

    def actor_options(self, index: int) -> dict[str, Any]:
        """As `Placement.actor_options`."""
        return self._placement.actor_options(self._first + index)

    def placed(self) -> list[bool]:
        """Of each worker, whether its place is on a living node."""
        return self._placement.placed()[self._first : self._first + self.count]

    def wait(self) -> None:
        """As `Placement.wait`."""
        self._placement.wait()


def reserved(name: str, *bundles: Bundles) -> Any:
    """A placement group, which Ray makes as a whole as soon as there is room."""
    from ray.util.placement_group import placement_group

    asked = [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for count, cpus, gpus in bundles for _ in range(count)]
    return placement_group(asked, strategy="PACK", name=name)


def holders_beside(placement: Placement) -> list[str]:
    """The names of other placement groups that hold something now."""
    from ray.util import placement_group_table

    others = [group for key, group in placement_group_table().items() if key != placement.group.id.hex()]
    return sorted({group["name"] or "a group without a name" for group in others if group["state"] == "CREATED"})


def others_wait() -> bool:
    """Whether anybody waits for room."""
    from ray.util import placement_group_table

    return any(group["state"] == "PENDING" for group in placement_group_table().values())


def give_way() -> None:
    """Let whoever waits already come first. Ray looks at them again within a second after there is room, and would give
    it to one who asks meanwhile: a job with many phases could keep another from ever beginning."""
    for _ in range(_TURN_SECONDS):
        if not others_wait():
            return
        time.sleep(1)
