"""Rows of a data set on the Hugging Face Hub, at one commit. `datasets` is imported only when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Source
from orchestrator.errors import BadInput
from orchestrator.inputs.digits import Columns
from orchestrator.inputs.hub import COMMIT, PATIENCE, is_offline, library, short, within
from orchestrator.inputs.rows import Choose

_CURE = "Check the id and the connection, or give a local file (`path`)."


def pinned(source: Source, key: str) -> Source:
    """The source with its revision resolved to a commit. Unchanged for a file, for a revision that is a commit
    already, and where HF_HUB_OFFLINE is set, which uses what was downloaded before.

    Raises:
        BadInput: the Hub cannot be reached, or has no such data set or revision.
    """
    if not source.hub or (source.revision and COMMIT.fullmatch(source.revision)):
        return source
    hub = library("huggingface_hub", f"{key}.hub")
    if is_offline(f"{key}.hub"):
        return source

    def ask() -> str:
        return str(hub.HfApi().dataset_info(source.hub, revision=source.revision, timeout=PATIENCE).sha)

    try:
        commit = within(PATIENCE, ask)
    except Exception as error:  # of many libraries' kinds; whatever it is, it is this line of the job
        raise BadInput(f"{key}.hub: {named(source)}: the Hub gave no answer ({short(error)}). {_CURE}") from error
    return source.model_copy(update={"revision": commit})


def rows(source: Source, key: str, choose: Choose) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place in words, at the commit that the source names; of the columns that `choose` names.

    Raises:
        BadInput: the data set cannot be loaded, has no such split or configuration, or is of another commit.
    """
    source = pinned(source, key)
    datasets = library("datasets", f"{key}.hub")
    datasets.disable_progress_bars()
    try:
        # The prefix keeps a local folder of that name from being read instead.
        builder = datasets.load_dataset_builder(f"hf://datasets/{source.hub}", source.config, revision=source.revision)
        _require_own_files(source, builder.config.data_files or {}, key)
        builder.download_and_prepare()
        found = builder.as_dataset(split=source.split)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{key}.hub: {named(source)} cannot be loaded ({short(error)}). {_CURE}") from error
    _check_commit(source, found, key)
    names = choose(found.features.arrow_schema)
    found = found.select_columns([name for name in found.column_names if name in names])
    columns, number = Columns(found.features.arrow_schema), 0
    try:
        for number, row in enumerate(found, 1):
            yield f"{named(source)}, row {number}", columns.row(row)
    except Exception as error:  # a picture that is none, a time out of range, a file that is gone
        raise BadInput(
            f"{key}.hub: {named(source)}: what follows row {number} cannot be read ({short(error)}). Give a local file "
            "(`path`) with the columns that are needed."
        ) from error


def _require_own_files(source: Source, files: Mapping[str, Sequence[str]], key: str) -> None:
    """The library also takes `text`, `json` and the like, which read what lies in the current folder; and a data set
    may name files of this machine, or of anywhere."""
    ours = f"hf://datasets/{source.hub}@"
    for file in sorted(str(file) for part in files.values() for file in part):
        if not file.startswith(ours):
            raise BadInput(
                f"{key}.hub: {named(source)}: it would be read from {file[:200]!r}, which is no file of a data set of "
                "that name on the Hub. Give a data set's id, `owner/name`, or a local file (`path`)."
            )


def _check_commit(source: Source, found: Any, key: str) -> None:
    """The library falls back, silently, to any commit that it has in its cache."""
    commits = {Path(file["filename"]).parent.name for file in found.cache_files}
    asked = source.revision or ""
    with_names = {name for name in commits if COMMIT.fullmatch(name)}
    if COMMIT.fullmatch(asked) and with_names and with_names != {asked}:
        raise BadInput(
            f"{key}.revision: {named(source)}: asked for commit {asked}, but only {', '.join(sorted(with_names))} is "
            "in the local cache and the Hub cannot be reached. Give that revision, or connect."
        )


def named(source: Source) -> str:
    """A data set for people, with its part: "openai/gsm8k (main, train)"."""
    parts = [part for part in (source.config, source.split) if part]
    return f"{source.hub} ({', '.join(parts)})"
