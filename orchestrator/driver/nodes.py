"""The nodes of a cluster, and how many workers they have room for. A worker never reaches over two of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.text.counts import many

_MOST_NAMED = 8


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


def too_many(nodes: Sequence[Node], bundles: Sequence[Sequence[int]]) -> bool:
    """Whether bundles (how many, and each one's cores and accelerators) ask for more than all nodes have together."""
    cpus, gpus = (sum(count * each[kind] for count, *each in bundles) for kind in (0, 1))
    return cpus > sum(node.cpus for node in nodes) or gpus > sum(node.gpus for node in nodes)


def shared(nodes: Sequence[Node], one: Sequence[int], other: Sequence[int]) -> tuple[int, int, int] | None:
    """Bundles in which the workers of two roles can live and take turns: how many, and each one's cores and
    accelerators, as `one` and `other` say what the roles need. None where the nodes have no room for such bundles,
    though they may have for each role."""
    fitting, gpus = [], max(one[2], other[2])
    for cpus in range(max(one[1], other[1]), max((node.cpus for node in nodes), default=0) + 1):
        count = max(-(-role[0] // abreast((1, cpus, gpus), role)) for role in (one, other))
        if room(nodes, cpus, gpus) >= count:
            fitting.append((count * gpus, count * cpus, count, cpus))
    return (*min(fitting)[2:], gpus) if fitting else None


def holds(bundles: Sequence[int], need: Sequence[int]) -> bool:
    """Whether such bundles have room for workers that need so much."""
    return bundles[0] * abreast(bundles, need) >= need[0]


def abreast(bundles: Sequence[int], need: Sequence[int]) -> int:
    """How many workers that need so much have room in one of such bundles."""
    by_cpus = bundles[1] // need[1]
    return min(by_cpus, bundles[2] // need[2]) if need[2] else by_cpus


def share(nodes: Sequence[Node], workers: int, gpus: int = 0) -> int:
    """The most cores that each of so many workers can have; 1 where they do not fit in any way."""
    most = max((node.cpus for node in nodes), default=1)
    return next((cpus for cpus in range(most, 1, -1) if room(nodes, cpus, gpus) >= workers), 1)


def amount(count: int, cpus: int, gpus: int) -> str:
    """So many workers of so many cores and accelerators, for people."""
    return f"{count} x {cpus} CPU{f' and {gpus} GPU' if gpus else ''}"


def have(nodes: Sequence[Node]) -> str:
    """What the nodes have in all, for people."""
    named = ", ".join(f"{n.cpus} CPU and {n.gpus} GPU on {n.name}" for n in nodes[:_MOST_NAMED])
    return named + (f" and {many(len(nodes) - _MOST_NAMED, 'more node')}" if len(nodes) > _MOST_NAMED else "")


def refusal(what: str, nodes: Sequence[Node], count: int, cpus: int, gpus: int, fit: int) -> str:
    """Why so many workers never fit, of which there is room for `fit`; with the cure."""
    asked, most = amount(count, cpus, gpus), max((node.gpus for node in nodes), default=0)
    if gpus > max(1, most):  # an engine that is spread over several
        return (
            f"{what}: {asked} asked for; an engine lies on one node, and the largest has {most} GPU ({have(nodes)}). "
            f"Lower generate.tensor_parallel to at most {max(1, most)}, or add a node that has {gpus} GPU."
        )
    return (
        f"{what}: {asked} asked for, and the cluster has room for {fit} ({have(nodes)}). Ask for fewer, or add nodes."
    )


def scales(status: bytes | None) -> bool:
    """Whether what Ray's autoscaler says of itself (JSON) is said by one that adds nodes. In a cluster that was put
    together by hand one is running, too, but there each node is a type of its own, named after it."""
    report = json.loads(status or b"{}").get("autoscaler_report") or {}
    kinds = [kind for key in ("active_nodes", "idle_nodes", "pending_launches") for kind in report.get(key) or {}]
    return any(not kind.startswith("node_") for kind in kinds)
