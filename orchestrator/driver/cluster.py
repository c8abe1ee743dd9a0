"""Ray: connect, reserve, start actors. The only file of the orchestrator that knows Ray.

A cluster is joined only where the job or RAY_ADDRESS names one; otherwise a private one is started,
with a temporary folder and a token of its own, reached from this host alone, never whatever happens to run there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Cluster as ClusterSettings
from orchestrator.driver.private_folder import PrivateFolder, remove_leftovers, require_short_place
from orchestrator.errors import BadInput, RatchetError

_RENDEZVOUS = "RATCHET_RENDEZVOUS"  # tells training ranks a folder to find each other in (workers.training.group)
_PRIVATE = ("", "local")  # addresses that mean a private cluster
_STARTS = 3
_CALL_SECONDS = 3600.0  # for tokenising a round's prompts and the like, which takes seconds
_OBJECT_STORE_BYTES = 256 * 2**20  # rows travel in files; only small messages pass through Ray's store


@dataclass(frozen=True)
class Node:
    """A living node of the cluster: its name for people, and what Ray gives out there in all."""

    id: str
    name: str
    cpus: int
    gpus: int


def room(nodes: Sequence[Node], cpus: int, gpus: int) -> int:
    """How many workers of so many cores and accelerators fit on the nodes, each on one of them."""
    return sum(min(node.cpus // cpus, node.gpus // gpus if gpus else node.cpus) for node in nodes)


@dataclass(frozen=True)
class Placement:
    """Reserved resources: bundle `i` holds what worker `i` of a group may use."""

    group: Any
    count: int
    cpus: int
    gpus: int

    def actor_options(self, index: int) -> dict[str, Any]:
        """Options for `ActorClass.options(**...)` that put worker `index` into its bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "scheduling_strategy": strategy,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(self.cpus)}},
            "max_restarts": 0,
        }


class Cluster:
    """A connected Ray cluster. Use as a context manager: leaving it ends what it started."""

    def __init__(self, settings: ClusterSettings, logs: Path, loopback: Mapping[str, str] | None = None) -> None:
        """`loopback` is what the workers need in their environment to be reached from this host alone, as those of a
        private Ray shall be.

        Raises:
            BadInput: a private Ray would have no room for its sockets' names.
        """
        self.settings = settings
        self.logs = logs
        """Where the workers' logs are kept when a run on a private cluster fails."""
        self._loopback = dict(loopback or {})
        self._folder: PrivateFolder | None = None
        self._helper: Any = None
        if self._address in _PRIVATE:
            require_short_place()

    @property
    def _address(self) -> str:
        return self.settings.address or os.environ.get("RAY_ADDRESS") or ""

    def __enter__(self) -> Cluster:
        if self._address in _PRIVATE:
            self._start_private()
        else:
            self._join(self._address)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._folder and kind is not None and issubclass(kind, Exception) and not issubclass(kind, BadInput):
            with contextlib.suppress(OSError):  # a disk that is full does not keep Ray from ending
                self._folder.keep_logs(self.logs)
        self._end()

    def _end(self) -> None:
        import ray

        ray.shutdown()
        if self._folder:
            self._folder.remove()

    def _start_private(self) -> None:
        place = require_short_place()
        remove_leftovers(place)
        # Set before Ray is imported, which reads it once. The token lives in this process tree alone.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # as on a Mac: every server listens on loopback alone
        os.environ.pop("RAY_ADDRESS", None)
        self._folder = PrivateFolder(place)
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            with _environment(_private_environment(self._folder, self._loopback)):
                self._init_private(self._folder.ray)
        except BaseException:
            self._end()
            raise
        finally:
            signal.signal(signal.SIGTERM, on_terminate)  # Ray puts its own in place, which exits at once

    def _init_private(self, folder: Path) -> None:
        """Ray gives its processes 30 s to start, which a busy machine can take; so it is tried again."""
        import ray

        for attempt in range(1, _STARTS + 1):
            try:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    _temp_dir=str(folder),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    num_gpus=0 if self.settings.accelerators == "none" else None,
                )
                return
            except Exception as error:  # Ray raises plain ones
                ray.shutdown()
                if attempt == _STARTS:
                    why = str(error).splitlines()[0] if str(error) else repr(error)
                    raise RatchetError(f"a local Ray did not start in {_STARTS} tries: {why}") from error

    def _join(self, address: str) -> None:
        key = "cluster.address" if self.settings.address else "RAY_ADDRESS"
        if address.startswith("http"):
            raise BadInput(
                f"{key}: {address!r} is the address of Ray's dashboard, which takes jobs (`ray job submit`). To join "
                "the cluster from here give Ray's own address, such as host:6379."
            )
        import ray

        failure: list[BaseException] = []

        def connect() -> None:
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except BaseException as error:
                failure.append(error)

        # Ray retries an address that does not answer for longer than anybody wants to wait.
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(self.settings.timeout)
        if thread.is_alive() or failure:
            within = f"within {self.settings.timeout:.0f} s"
            if failure:
                why = [*str(failure[0]).splitlines(), repr(failure[0])][0]
            elif _listens(address):
                why = (
                    f"something listens there and did not let us in {within}: is it Ray's own port, of the same "
                    "version, and do RAY_AUTH_MODE and the token fit the cluster's?"
                )
            else:
                why = f"nothing answers there {within}"
            raise BadInput(
                f"{key}: cannot join Ray at {address!r} ({why}). Start it, correct `cluster.address` or RAY_ADDRESS, "
                "or remove both to use a local one."
            )

    @property
    def accelerated(self) -> bool:
        """Whether work goes to GPUs."""
        import ray

        return self.settings.accelerators == "auto" and ray.cluster_resources().get("GPU", 0) >= 1

    def cpus_for(self, workers: int, asked: int | None, gpus_each: int) -> int:
        """CPU cores of each of `workers` workers: as asked, or a fair share of a machine without GPUs."""
        import ray

        if asked is not None:
            return asked
        if gpus_each:
            return gpus_each
        return max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a worker process that holds no devices; its own exception is raised here.

        One process serves all calls, so that what they import is imported once. Should it die or hang, the call is
        made again in another, once.

        Raises:
            RatchetError: the second process was lost, too.
        """
        import ray

        for _ in range(2):
            if self._helper is None:
                self._helper = ray.remote(_Helper).options(num_cpus=0).remote()
            running = self._helper.call.remote(function, *arguments)
            try:
                if ray.wait([running], timeout=_CALL_SECONDS)[0]:
                    return ray.get(running)
                lost = f"gave no answer within {_CALL_SECONDS:.0f} s"
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from None
            except ray.exceptions.RayActorError:
                lost = "died"
            ray.kill(self._helper)
            self._helper = None
        raise RatchetError(f"{function.__name__}: two processes in a row were lost over it; the last one {lost}")

    @property
    def job_id(self) -> str:
        """Ray's own id of this driver, which its workers carry in their environment."""
        import ray

        return str(ray.get_runtime_context().get_job_id())

    def free(self) -> tuple[int, int]:
        """Cores and accelerators that nobody has reserved now."""
        import ray

        free = ray.available_resources()
        return int(free.get("CPU", 0)), int(free.get("GPU", 0))

    def nodes(self) -> list[Node]:
        """The living nodes, by name; names are unique."""
        import ray

        found = []
        for node in ray.nodes():
            if node["Alive"]:
                name, have = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", node["Resources"]
                found.append(Node(node["NodeID"], name, int(have.get("CPU", 0)), int(have.get("GPU", 0))))
        return sorted(found, key=lambda node: (node.name, node.id))

    def on_nodes(self, function: Callable[..., Any], *arguments: Any, timeout: float) -> dict[Node, Any]:
        """What a function returns on every node; the exception where it raises, or does not end in `timeout` s.

        An argument that is a dict is by node's name: each node gets its own part, None where there is none."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        running = {}
        for node in self.nodes():
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            mine = [a.get(node.name) if isinstance(a, dict) else a for a in arguments]
            running[task.remote(*mine)] = node
        results: dict[Node, Any] = {}
        ready, late = ray.wait(list(running), num_returns=len(running), timeout=timeout)
        for reference in ready:
            try:
                results[running[reference]] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                results[running[reference]] = error.cause if isinstance(error.cause, Exception) else error
            except ray.exceptions.RayError as error:
                results[running[reference]] = error
        for reference in late:
            ray.cancel(reference, force=True)
            results[running[reference]] = TimeoutError(f"no answer within {timeout:.0f} s")
        return {node: results[node] for node in running.values()}

    def check_room(self, what: str, count: int, cpus: int, gpus: int) -> None:
        """Refuse what would never fit, however long one waits.

        Raises:
            BadInput: the nodes have no room for `count` workers of `cpus` cores and `gpus` accelerators each.
        """
        nodes = self.nodes()
        if (fit := room(nodes, cpus, gpus)) < count:
            have = ", ".join(f"{n.cpus} CPU and {n.gpus} GPU on {n.name}" for n in nodes[:8])
            more = f" and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
            raise BadInput(
                f"{what}: {count} x {cpus} CPU{f' and {gpus} GPU' if gpus else ''} asked for, and the cluster has room "
                f"for {fit} ({have}{more}). Ask for fewer, or add nodes."
            )

    @contextlib.contextmanager
    def reserve(self, what: str, count: int, cpus: int, gpus: int) -> Iterator[Placement]:
        """Hold `count` bundles of `cpus` cores and `gpus` accelerators each.

        Raises:
            BadInput: the cluster does not have as much, or not free within `cluster.timeout`.
        """
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group

        self.check_room(what, count, cpus, gpus)
        bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        group = placement_group([bundle] * count, strategy="PACK")
        try:
            if not group.wait(self.settings.timeout):
                free = ray.available_resources()
                raise BadInput(
                    f"{what}: {count} x {bundle} did not become free within {self.settings.timeout:.0f} s "
                    f"(free now: {free.get('CPU', 0):.0f} CPU, {free.get('GPU', 0):.0f} GPU). Ask for fewer, wait "
                    "for other jobs, or raise `cluster.timeout`."
                )
            yield Placement(group, count, cpus, gpus)
        finally:
            remove_placement_group(group)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError, OverflowError), socket.create_connection((host, int(port)), 5):
        return True
    return False


class _Helper:
    """An actor for small pieces of work."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _private_environment(folder: PrivateFolder, also: Mapping[str, str]) -> dict[str, str]:
    """What the processes of a private Ray get: files that they leave behind go with the folder, and what they listen
    on is reached from this host alone. What a user has set himself stays, but for the place of such files."""
    found = dict(also)
    if loopback := [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]:
        found |= {"GLOO_SOCKET_IFNAME": loopback[0], "NCCL_SOCKET_IFNAME": loopback[0]}
    with contextlib.suppress(RuntimeError):  # no home. What torch has compiled serves the next run, too
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        found["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "ratchet" / "torchinductor")
    temporary = str(folder.temporary)
    return found | {k: os.environ[k] for k in found if k in os.environ} | {"TMPDIR": temporary, _RENDEZVOUS: temporary}


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Changes to this process's environment, which what it starts inherits, for a while."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
