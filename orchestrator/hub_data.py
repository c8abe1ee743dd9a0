"""Rows of a data set on the Hugging Face Hub, at one commit. `datasets` is imported only when one is asked for."""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.config import Source
from orchestrator.errors import BadInput

T = TypeVar("T")

_PATIENCE = 30.0  # seconds for the Hub to name a commit; a download has the library's own time limits
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CURE = "Check the id and the connection, or give a local file (`path`)."


def pinned(source: Source, key: str) -> Source:
    """The source with its revision resolved to a commit. Unchanged for a file, for a revision that is a commit
    already, and where HF_HUB_OFFLINE is set, which uses what was downloaded before.

    Raises:
        BadInput: the Hub cannot be reached, or has no such data set or revision.
    """
    if not source.hub or (source.revision and _COMMIT.fullmatch(source.revision)):
        return source
    hub = _library("huggingface_hub", key)
    if _library("huggingface_hub.constants", key).HF_HUB_OFFLINE:
        return source

    def ask() -> str:
        return str(hub.HfApi().dataset_info(source.hub, revision=source.revision, timeout=_PATIENCE).sha)

    try:
        commit = _within(_PATIENCE, ask)
    except Exception as error:  # of many libraries' kinds; whatever it is, it is this line of the job
        raise BadInput(f"{key}.hub: {_named(source)}: the Hub gave no answer ({_short(error)}). {_CURE}") from error
    return source.model_copy(update={"revision": commit})


def rows(source: Source, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place in words, at the commit that the source names.

    Raises:
        BadInput: the data set cannot be loaded, has no such split or configuration, or is of another commit.
    """
    source = pinned(source, key)
    library = _library("datasets", key)
    library.disable_progress_bars()
    try:
        # The prefix keeps a local folder of that name from being read instead.
        found = library.load_dataset(
            f"hf://datasets/{source.hub}", source.config, split=source.split, revision=source.revision
        )
    except Exception as error:
        raise BadInput(f"{key}.hub: {_named(source)} cannot be loaded ({_short(error)}). {_CURE}") from error
    _check_commit(source, found, key)
    for number, row in enumerate(found, 1):
        yield f"{_named(source)}, row {number}", row


def _check_commit(source: Source, found: Any, key: str) -> None:
    """The library falls back, silently, to any commit that it has in its cache."""
    commits = {Path(file["filename"]).parent.name for file in found.cache_files}
    asked = source.revision or ""
    with_names = {name for name in commits if _COMMIT.fullmatch(name)}
    if _COMMIT.fullmatch(asked) and with_names and with_names != {asked}:
        raise BadInput(
            f"{key}.revision: {_named(source)}: asked for commit {asked}, but only {', '.join(sorted(with_names))} is "
            "in the local cache and the Hub cannot be reached. Give that revision, or connect."
        )


def _library(name: str, key: str) -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    raise BadInput(f"{key}.hub: reading from the Hub needs the package `{name}`: install it, or give a local file")


def _within(seconds: float, work: Callable[[], T]) -> T:
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


def _named(source: Source) -> str:
    parts = [part for part in (source.config, source.split) if part]
    return f"{source.hub} ({', '.join(parts)})"


def _short(error: Exception) -> str:
    """The error's first line: what follows is advice for programmers, and addresses."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
