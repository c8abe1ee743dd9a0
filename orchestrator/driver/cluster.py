"""Ray: connect, reserve, start actors. With placement.py the only file of the orchestrator that knows Ray.

A cluster is joined only where the job or RAY_ADDRESS names one; otherwise a private one is started,
with a temporary folder and a token of its own, reached from this host alone, never whatever happens to run there.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config import Cluster as ClusterSettings
from orchestrator.driver.import_paths import job_config
from orchestrator.driver.nodes import Node, amount, have, refusal, room, scales, share, too_many
from orchestrator.driver.placement import Bundles, Placement, give_way, holders_beside, others_wait, reserved
from orchestrator.driver.private_folder import (
    OBJECT_STORE_BYTES,
    PrivateFolder,
    environment,
    private_environment,
    remove_leftovers,
    require_short_place,
)
from orchestrator.driver.signals import kept
from orchestrator.driver.waiting import Wait
from orchestrator.errors import BadInput, RatchetError, first_line
from orchestrator.reports.meters import METRICS_PORT, Metric, metrics_port

_PRIVATE = ("", "local")  # addresses that mean a private cluster
_STARTS = 3
_CALL_SECONDS = 3600.0  # for tokenising a round's prompts and the like, which takes seconds
_MOST_NAMED = 4
_ROLES = {"generate.engines": "engine", "train.ranks": "rank", "reward.workers": "rewarder"}  # by what is reserved
_LOOK_SECONDS = 5.0  # between two looks whether there is room


class Cluster:
    """A connected Ray cluster. Use as a context manager: leaving it ends what it started."""

    def __init__(self, settings: ClusterSettings, logs: Path, loopback: Mapping[str, str] | None = None) -> None:
        """`loopback` is what the workers need in their environment to be reached from this host alone, as those of a
        private Ray shall be.

        Raises:
            BadInput: a private Ray would have no room for its sockets' names, or is to show metrics at what is no port.
        """
        self.settings = settings
        self.logs = logs
        """The run's folder for logs; Ray's own of the workers are kept there when a run on a private cluster fails."""
        self.say: Callable[[str], None] = lambda line: None
        """Is told what is waited for."""
        self.waited: Callable[[str, float], None] = lambda role, seconds: None
        """Is told for how many seconds more a kind of worker has had no room."""
        self._loopback = dict(loopback or {})
        self._folder: PrivateFolder | None = None
        self._helper: Any = None
        self._reserved = 0
        self._began = False  # whether anything was ever reserved
        self._metrics_port = metrics_port(os.environ)
        if self._address in _PRIVATE:
            require_short_place()

    @property
    def is_private(self) -> bool:
        """Whether it is started here, and is on this host alone."""
        return self._address in _PRIVATE

    @property
    def _address(self) -> str:
        return self.settings.address or os.environ.get("RAY_ADDRESS") or ""

    @property
    def _of_the_job(self) -> dict[str, Any]:
        """What Ray is told of this driver; the environment is every worker's, of those that hold no devices too."""
        from ray.job_config import JobConfig

        env, quiet = self.settings.env, {"logging_level": logging.ERROR, "log_to_driver": False}
        return quiet | {"runtime_env": {"env_vars": dict(env)} if env else None, "job_config": job_config(JobConfig)}

    def __enter__(self) -> Cluster:
        if self._address in _PRIVATE:
            self._start_private()
        else:
            self._join(self._address)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._folder and kind is not None and issubclass(kind, Exception) and not issubclass(kind, BadInput):
            with contextlib.suppress(OSError):  # a disk that is full does not keep Ray from ending
                self._folder.keep_logs(self.logs / "ray")
        self._end()

    @property
    def private(self) -> bool:
        """Whether it is this machine alone, by a Ray of its own."""
        return self._folder is not None

    def _end(self) -> None:
        import ray

        with kept():
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
        os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112 - one that dies would hold us up
        os.environ["RAY_USE_TLS"] = "0"  # which is for a cluster, whose certificate need not name loopback
        os.environ.pop("RAY_ADDRESS", None)
        if self._metrics_port and _listens(f"127.0.0.1:{self._metrics_port}"):
            self.say(f"metrics   {METRICS_PORT}: {self._metrics_port} is taken, so that they are not shown there")
            self._metrics_port = None
        self._folder = PrivateFolder(place)
        with kept():
            try:
                with environment(private_environment(self._folder, self._loopback)):
                    self._init_private(self._folder)
            except BaseException:
                self._end()
                raise

    def _init_private(self, folder: PrivateFolder) -> None:
        """Ray gives its processes 30 s to start, which a busy machine can take; so it is tried again."""
        import ray

        for attempt in range(1, _STARTS + 1):
            try:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    _temp_dir=str(folder.ray),
                    object_store_memory=OBJECT_STORE_BYTES,
                    num_gpus=0 if self.settings.accelerators == "none" else None,
                    _metrics_export_port=self._metrics_port,
                    **self._of_the_job,
                )
                return
            except Exception as error:  # Ray raises plain ones
                ray.shutdown()
                if attempt == _STARTS:
                    why = first_line(error) + folder.last_words()
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
                ray.init(address=address, **self._of_the_job)
            except BaseException as error:
                failure.append(error)

        # Ray retries an address that does not answer for longer than anybody wants to wait.
        thread = threading.Thread(target=connect, daemon=True)
        thread.start()
        thread.join(self.settings.timeout)
        if thread.is_alive() or failure:
            within = f"within {self.settings.timeout:.0f} s"
            if failure:
                why = first_line(failure[0])
            elif _listens(address):
                why = (
                    f"something listens there and did not let us in {within}: is it Ray's own port, of the same "
                    "version, and do RAY_AUTH_MODE, the token and RAY_USE_TLS fit the cluster's?"
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

    def cpus_for(self, workers: int, gpus_each: int) -> int:
        """CPU cores of each of `workers` workers: a fair share of the nodes of a cluster without GPUs."""
        return gpus_each or share(self.nodes(), workers)

    def call(self, function: Callable[..., Any], *arguments: Any, over: str | None = None, cure: str = "") -> Any:
        """Run a function in a worker process that holds no devices; its own exception is raised here.

        One process serves all calls, so that what they import is imported once. Should it die or hang, the call is
        made again in another, once: if that is lost, `over` is what it was lost over, and `cure` what to look at.

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
        raise RatchetError(f"{over or function.__name__}: two processes were lost over it; the last one {lost}{cure}")

    def metric(self, name: str, says: str, tags: tuple[str, ...]) -> Metric:
        """A counter that the driver's node shows to Prometheus, where it runs the agent that does."""
        from ray.util.metrics import Counter

        counted: Metric = Counter(name, description=says, tag_keys=tags).inc
        return counted

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

    def others_wait(self) -> bool:
        """Whether anybody waits for what we may hold."""
        return others_wait()

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
        """Refuse what would never fit, however long one waits: nodes are not added, and none was lost since work began.

        Raises:
            BadInput: the nodes have no room for `count` workers of `cpus` cores and `gpus` accelerators each.
        """
        nodes = self.nodes()
        if not self._began and (fit := room(nodes, cpus, gpus)) < count and not self._scales():
            raise BadInput(refusal(what, nodes, count, cpus, gpus, fit))

    def _scales(self) -> bool:
        """Whether Ray's autoscaler adds nodes for what is reserved and finds no room."""
        from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
        from ray.autoscaler.v2.utils import is_autoscaler_v2
        from ray.experimental.internal_kv import _internal_kv_get

        return is_autoscaler_v2(fetch_from_server=True) or scales(_internal_kv_get(DEBUG_AUTOSCALING_STATUS))

    @contextlib.contextmanager
    def reserve(
        self,
        what: str,
        count: int,
        cpus: int,
        gpus: int,
        again: Callable[[], Bundles] | None = None,
        beside: Bundles | None = None,
    ) -> Iterator[Placement]:
        """Hold `count` bundles of `cpus` cores and `gpus` accelerators each, and those `beside`; why it waits is told.
        `again` says how many of which size they should be where nodes were lost and they have no room any more.

        Raises:
            BadInput: the cluster does not have as much, and no work has begun.
            NoRoom: they did not become free within `cluster.timeout`.
        """
        from ray.util.placement_group import remove_placement_group

        self.check_room(what, count, cpus, gpus)
        bundles = (count, cpus, gpus)
        every = [bundles, beside] if beside else [bundles]
        nodes = self.nodes()
        if beside and too_many(nodes, every) and not self._began and not self._scales():
            asked = " and ".join(amount(*each) for each in every)
            raise BadInput(
                f"cluster.placement: `split` asks for {asked}, and the cluster has {have(nodes)}. Ask for fewer, add "
                "nodes, or have engines and ranks take turns with `shared`."
            )
        give_way()
        wait = functools.partial(self._wait, what, again)
        given = (self.settings.interface, self.settings.env, beside)
        placement = Placement(bundles, self._group(what, *every), wait, *given)
        try:
            placement.wait()
            self._began = True
            yield placement
        finally:
            remove_placement_group(placement.group)

    def _group(self, what: str, *bundles: Bundles) -> Any:
        self._reserved += 1
        # For whoever waits for it, and reads who holds it.
        who = f"process {os.getpid()} on {socket.gethostname()}, no. {self._reserved}"
        return reserved(f"{what} of {self.logs.parent} ({who})", *bundles)

    def _wait(self, what: str, again: Callable[[], Bundles] | None, placement: Placement) -> None:
        """Until there is room for a placement."""
        from ray.util.placement_group import remove_placement_group

        asked = (placement.count, placement.cpus, placement.gpus)
        waited = functools.partial(self.waited, _ROLES.get(what, "worker"))
        beside = f" and {amount(*placement.beside)}" if placement.beside[0] else ""
        wait = Wait(f"{what}: {amount(*asked)}{beside}", self.settings.timeout, self.say, meter=waited)
        while not (placement.group.wait(_LOOK_SECONDS) and all(placement.placed())):
            wait.look(self._why_no_room(placement))
            if again and room(self.nodes(), 1, placement.gpus) >= placement.count and (now := again()) != asked:
                asked = now
                self.say(f"waiting   {what}: {amount(*asked)} from now on, which the nodes that live have room for")
                remove_placement_group(placement.group)
                placement.group = self._group(what, asked)
                placement.count, placement.cpus, placement.gpus = asked
        wait.over()

    def _why_no_room(self, placement: Placement) -> str:
        """What there is, what of it is free, and who holds the rest, as far as it is known."""
        nodes, (cpus, gpus) = self.nodes(), self.free()
        free = f"free are {cpus} CPU{f' and {gpus} GPU' if placement.gpus else ''} of {have(nodes)}"
        if (fit := room(nodes, placement.cpus, placement.gpus)) < placement.count:
            asked = "; Ray's autoscaler is asked for more" if self._scales() else ""
            return f"the nodes that live have room for {fit} in all{asked}; {free}"
        holders = holders_beside(placement)
        return free + (f"; held by {'; '.join(holders[:_MOST_NAMED])}" if holders else "")


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError, ValueError, OverflowError), socket.create_connection((host, int(port)), 5):
        return True
    return False


class _Helper:
    """An actor for small pieces of work."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)
