"""How busy the nodes are, looked at now and then while a run is driven, in a thread of its own."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator, Mapping

from orchestrator.driver.cluster import Cluster
from orchestrator.records.progress import NODES, Watch

SECONDS = 15.0
"""Between two looks."""
PATIENCE = 5.0
"""Seconds that nodes have to answer, for which the end of a run may wait."""

Loads = Callable[[], Mapping[str, Mapping[str, float]]]


def loads_of(cluster: Cluster, load: Callable[..., dict[str, float]]) -> Loads:
    """How busy the nodes of a cluster are, each as `load` (workers.supervision.load) tells on it. Of this host it is
    known without Ray, whose tasks would start a process for it."""
    if cluster.is_private:
        return lambda: {socket.gethostname(): load()}
    told = functools.partial(cluster.on_nodes, load, 0.2, timeout=PATIENCE)

    def of_all() -> dict[str, dict[str, float]]:
        # "vm (10.0.0.2)", as a part of a metric's name
        named = {node.name.replace(" (", "-").rstrip(")"): said for node, said in told().items()}
        return {name: said for name, said in named.items() if isinstance(said, dict)}

    return of_all


@contextlib.contextmanager
def sampling(loads: Loads, watch: Watch, seconds: float = SECONDS) -> Iterator[None]:
    """Tell `watch` every so many seconds what `loads` says of each node, by its name. Nobody needs it to go on: where
    it fails, it is asked again the next time."""
    stop = threading.Event()

    def look() -> None:
        with contextlib.suppress(Exception):
            loads()  # shares of cores are those since the last call of a thread
        while not stop.wait(seconds):
            with contextlib.suppress(Exception):
                for node, load in loads().items():
                    watch.measure(f"{NODES}/{node}", 0, load)

    thread = threading.Thread(target=look, name="load", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * PATIENCE)
