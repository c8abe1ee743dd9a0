"""How many workers fit on nodes, and how cores are shared out: by node, since no worker reaches over two."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.driver.nodes import Node, have, refusal, room, scales, share


def nodes(*shapes: tuple[int, int]) -> list[Node]:
    return [Node(str(number), f"node-{number}", cpus, gpus) for number, (cpus, gpus) in enumerate(shapes)]


@pytest.mark.parametrize(
    ("shapes", "cpus", "gpus", "fit"),
    [
        ([(1, 0), (1, 0)], 1, 0, 2),
        ([(1, 0), (1, 0)], 2, 0, 0),
        ([(8, 0), (2, 0)], 4, 0, 2),
        ([(8, 0), (2, 0)], 2, 0, 5),
        ([(64, 8), (64, 4), (64, 0)], 8, 1, 12),
        ([(64, 8), (64, 4)], 8, 8, 1),
        ([(4, 8)], 1, 1, 4),
        ([(0, 8)], 1, 1, 0),
        ([], 1, 0, 0),
    ],
)
def test_room_is_counted_node_by_node(shapes: list[tuple[int, int]], cpus: int, gpus: int, fit: int) -> None:
    assert room(nodes(*shapes), cpus, gpus) == fit


@pytest.mark.parametrize(
    ("shapes", "workers", "cores"),
    [
        ([(1, 0), (1, 0)], 1, 1),  # not 2, which no node has
        ([(1, 0), (1, 0)], 2, 1),
        ([(8, 0)], 1, 8),
        ([(8, 0)], 3, 2),
        ([(8, 0), (2, 0)], 1, 8),
        ([(8, 0), (2, 0)], 2, 4),
        ([(8, 0), (2, 0)], 3, 2),
        ([(6, 0), (4, 0), (4, 0)], 3, 4),
        ([(0, 0), (4, 0)], 2, 2),
        ([(2, 0)], 5, 1),
        ([], 1, 1),
    ],
)
def test_a_share_is_the_most_with_which_all_fit(shapes: list[tuple[int, int]], workers: int, cores: int) -> None:
    assert share(nodes(*shapes), workers) == cores


def test_every_share_fits_where_anything_does() -> None:
    for shapes in itertools.product([(0, 0), (1, 0), (3, 0), (8, 2)], repeat=3):
        for workers, gpus in itertools.product(range(1, 7), (0, 1)):
            found, cores = nodes(*shapes), share(nodes(*shapes), workers, gpus)
            fits = room(found, cores, gpus) >= workers
            assert fits or room(found, 1, gpus) < workers
            assert not fits or room(found, cores + 1, gpus) < workers


def test_many_nodes_are_not_all_named() -> None:
    assert have(nodes((2, 0))) == "2 CPU and 0 GPU on node-0"
    assert have(nodes(*[(1, 0)] * 11)).endswith("on node-7 and 3 more nodes")


@pytest.mark.parametrize(
    ("status", "adds"),
    [
        (None, False),
        (b"{}", False),
        (b'{"autoscaler_report": null}', False),
        (b'{"autoscaler_report": {"active_nodes": {"node_16a2": 1}, "idle_nodes": null}}', False),
        (b'{"autoscaler_report": {"active_nodes": {"ray.head.default": 1}, "pending_launches": {}}}', True),
        (b'{"autoscaler_report": {"active_nodes": {}, "idle_nodes": {"gpu-group": 2}}}', True),
    ],
)
def test_an_autoscaler_that_only_looks_on_adds_no_nodes(status: bytes | None, adds: bool) -> None:
    assert scales(status) == adds


def test_more_accelerators_than_a_node_has_are_refused_with_the_key_to_change() -> None:
    said = refusal("generate.engines", nodes((64, 8), (64, 4)), 1, 12, 12, 0)
    assert said.startswith("generate.engines: 1 x 12 CPU and 12 GPU asked for; an engine lies on one node, and")
    assert "Lower generate.tensor_parallel to at most 8" in said and "\n" not in said
    fewer = refusal("generate.engines", nodes((64, 8)), 3, 4, 4, 2)
    assert "room for 2" in fewer and "tensor_parallel" not in fewer
    assert "tensor_parallel" not in refusal("train.ranks", nodes((4, 0)), 1, 1, 1, 0)
