"""Of workers that were asked to rest (resting.py is their side): who has given its memory back, and who lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from orchestrator.errors import last_line
from workers.supervision.calls import Calls
from workers.supervision.resting import CONTEXT, Kept

_REST_SECONDS = 60.0  # to close a model of any size
_ANSWER_SECONDS = 10.0
_GIB = 2**30


def after_rest(calls: Calls, asked: Sequence[Any]) -> list[Kept | str]:
    """What each worker that was asked to rest keeps; where it did not give its memory back, a word on that. `asked` are
    the calls, which return a `Kept`."""
    answered, _ = calls.wait(list(asked), _REST_SECONDS, len(asked)) if asked else ([], [])
    late = f"does not give its memory back within {_REST_SECONDS:g} s"
    return [_judged(calls, call) if call in answered else late for call in asked]


def _judged(calls: Calls, call: Any) -> Kept | str:
    try:
        kept: Kept = calls.get(call)
    except ray.exceptions.RayError as error:
        return f"could not give its memory back ({last_line(getattr(error, 'cause', None) or error)})"
    if kept.device is None:
        return "gives back no memory of its device that could be measured, since nvidia-smi does not tell"
    if kept.device > CONTEXT:
        return f"gives back the memory of its device but for {kept.device / _GIB:.1f} GiB"
    return f"gives back its memory but for {kept.host / _GIB:.1f} GiB" if kept.host else kept


def of_devices(kept: Sequence[Kept | str]) -> str:
    """What those that rest keep of devices, for people; empty where that is nothing."""
    most = max((one.device or 0 for one in kept if isinstance(one, Kept)), default=0)
    return f"{most / _GIB:.1f} GiB of a device at most" if most else ""


def answering(calls: Calls, asked: Sequence[Any]) -> list[bool | None]:
    """Of each call, whether its worker answers; None where it did not in time: it hangs, or loads its libraries still.
    One that has died while it rested is nobody's fault."""
    answered, _ = calls.wait(list(asked), _ANSWER_SECONDS, len(asked)) if asked else ([], [])
    return [_answers(calls, call) if call in answered else None for call in asked]


def _answers(calls: Calls, call: Any) -> bool:
    try:
        calls.get(call)
    except ray.exceptions.RayError:
        return False
    return True
