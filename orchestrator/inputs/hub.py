"""What every reader of the Hugging Face Hub needs: libraries on demand, bounded waits, errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.config.addresses import without_password
from orchestrator.errors import BadInput, first_line

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for the Hub to name a commit; a download has the library's own time limits."""
COMMIT = re.compile(r"[0-9a-f]{40}")


def library(name: str, where: str) -> Any:
    """An imported module; `where` opens the message.

    Raises:
        BadInput: it is not installed, or refuses what the environment says.
    """
    with contextlib.suppress(ImportError):
        try:
            return importlib.import_module(name)
        except ValueError as error:  # it reads its variables as it is imported
            why = f"`{name}` does not start ({short(error)})"
            raise BadInput(f"{where}: {why}: check HF_ENDPOINT and other HF_... variables") from error
    raise BadInput(f"{where}: reading from the Hub needs the package `{name}`: install it, or give a local path")


def is_offline(where: str) -> bool:
    """Whether HF_HUB_OFFLINE is set: what is in the cache is all there is."""
    return bool(library("huggingface_hub.constants", where).HF_HUB_OFFLINE)


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of `work`, or TimeoutError; a name server that does not answer knows no time limit of its own."""
    result: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return result[0]


def short(error: Exception) -> str:
    """The error's first line, without passwords: what follows is advice for programmers, and addresses."""
    name = type(error).__name__
    return name if (said := without_password(first_line(error))) == name else f"{name}: {said}"
