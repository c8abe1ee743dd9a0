"""What is asked of every node and of the driver at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.driver.nodes import Node

DRIVER = "the driver"
"""By which the driver's own part of an argument is known, beside those of the nodes."""


def everywhere(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    limit: float,
    on_nodes: Callable[..., Mapping[Node, Any]] | None,
) -> dict[Node | None, Any]:
    """What a function returns on each node and, under None, here; the exception where it raises, or does not end within
    `limit` seconds. An argument that is a dict has each one's part by its name. `on_nodes` is `Cluster.on_nodes`."""
    answers = list[Any]()

    def here() -> None:
        try:
            answers.append(function(*(one.get(DRIVER) if isinstance(one, dict) else one for one in arguments)))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=here, daemon=True)  # a folder that hangs holds nobody up
    thread.start()
    there = on_nodes(function, *arguments, timeout=limit) if on_nodes else {}
    thread.join(limit)
    told: dict[Node | None, Any] = {None: answers[0] if answers else TimeoutError(f"no answer within {limit:.0f} s")}
    return told | {node: answer for node, answer in there.items()}
