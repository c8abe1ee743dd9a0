"""Variables of the workers' environment: given by value (`cluster.env`), or, where they are secrets, by name alone.

That none by value is a secret is seen to before (addresses.py), so that no message shows it.
"""

from __future__ import annotations

import re
from typing import Any

from orchestrator.config.engines import ENGINE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_CHARACTERS = 4096  # of a value; a whole environment is to fit into the arguments of a process

_OURS = {
    "OMP_NUM_THREADS": "it follows from `cluster.cpus_per_engine` and `cluster.cpus_per_rank`",
    **ENGINE.environment,
    "DS_ACCELERATOR": "it follows from `cluster.accelerators`",
    **dict.fromkeys(
        ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
        "Ray gives each worker its devices; `cluster.accelerators: none` leaves them out",
    ),
    **dict.fromkeys(
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        "training ranks find each other by themselves; `cluster.interface` says where",
    ),
}
"""What Ratchet sets itself, and what says it instead."""
_FAMILIES = {"RAY_": "set it where Ray is started", "RATCHET_": "it is Ratchet's own"}


def variables(given: dict[str, Any]) -> dict[str, str]:
    """Names and values as they stand in the job, checked; figures become texts.

    Raises:
        ValueError: a name or value that none can have, or one that Ratchet sets; with the cure.
    """
    return {_named(name): _value(name, value) for name, value in given.items()}


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f'`{name}` needs a text; put it in quotes, such as "1"')
    if len(text := str(value)) > _MOST_CHARACTERS or "\0" in text:
        raise ValueError(f"`{name}`: no value of a variable, which has at most {_MOST_CHARACTERS} characters")
    return text


def names(given: list[str]) -> list[str]:
    """Names of secrets as they stand in the job, checked.

    Raises:
        ValueError: a name that no variable has, or that Ratchet sets; with the cure.
    """
    return [_named(name) for name in given]


def _named(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise ValueError(f"{name[:200]!r} is no name of an environment variable: letters, digits and _")
    why = _OURS.get(name) or next((why for family, why in _FAMILIES.items() if name.startswith(family)), None)
    if why:
        raise ValueError(f"`{name}` is not yours to set here: {why}")
    return name
