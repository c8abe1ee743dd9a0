"""Of workers that were asked to rest (resting.py is their side): who has given its memory back, and who lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from orchestrator.errors import last_line
from workers.supervision.calls import Calls

_REST_SECONDS = 60.0  # to close a model of any size
_ANSWER_SECONDS = 10.0
_GIB = 2**30


def after_rest(calls: Calls, asked: Sequence[Any]) -> list[str]:
    """What became of each worker that was asked to rest: nothing to tell where it gave its memory back. `asked` are the
    calls, which return the bytes that were not given back."""
    answered, _ = calls.wait(list(asked), _REST_SECONDS, len(asked)) if asked else ([], [])
    late = f"does not give its memory back within {_REST_SECONDS:g} s"
    return [_told(calls, call) if call in answered else late for call in asked]


def _told(calls: Calls, call: Any) -> str:
    try:
        kept = calls.get(call)
    except ray.exceptions.RayError as error:
        return f"could not give its memory back ({last_line(getattr(error, 'cause', None) or error)})"
    return f"gives back its memory but for {kept / _GIB:.1f} GiB" if kept else ""


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
