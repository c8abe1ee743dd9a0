"""Secrets for an actor's process, as an argument of the actor: its environment Ray writes and shows, arguments not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def knowing(actor: Any, secrets: Mapping[str, str]) -> Any:
    """An actor's class whose process has secrets in its environment before anything is loaded; it takes them before its
    other arguments. Where there are none, it is the class as it was."""

    class Knowing(actor):
        def __init__(self, secrets: Mapping[str, str], *arguments: Any) -> None:
            os.environ.update(secrets)
            super().__init__(*arguments)

    Knowing.__name__ = Knowing.__qualname__ = actor.__name__  # by which Ray calls the process
    return Knowing if secrets else actor
