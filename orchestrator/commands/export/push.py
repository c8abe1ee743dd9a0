"""A checkpoint, or pairs, put on a Hub: in one commit, so that a repository has all of it or none.

Through `huggingface_hub`, with its address (HF_ENDPOINT) and its token (HF_TOKEN, or what `hf auth login` has kept).
Neither a job file nor an option holds a token.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.commands.export.command import Exported, export_model, export_pairs
from orchestrator.config.addresses import without_password
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files import durable, unfinished
from orchestrator.inputs.hub import PATIENCE, is_offline, library, short, within
from orchestrator.models.files import enclosing_run
from orchestrator.models.hub import hub_model, status_of
from orchestrator.text.counts import many

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_REPLACED = {"model": _WEIGHTS, "dataset": ("data/*.parquet",)}
"""What of an earlier push has no place beside this one: readers would take it for a part of it."""
_UNKNOWN = "Whether the commit was made is not known; {} has all files, or none. The same command tries again."
_NOTHING = "Nothing is published: a repository gets all files in one commit, or none. The same command tries again."


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is on the Hub now."""

    what: str
    url: str
    commit: str
    private: bool
    files: int
    bytes: int

    def line(self) -> str:
        """For people."""
        seen = "private" if self.private else "public"
        size = f"{many(self.files, 'file')}, {many(self.bytes, 'byte')}"
        return f"pushed    {self.what} to {self.url} ({seen}), commit {self.commit}: {size}"


def push(run: str, repository: str, pairs: bool = False, public: bool = False) -> Pushed:
    """Put a checkpoint of a run, NAME@roundN or the current reference of NAME, into a model repository; or with `pairs`
    its pairs into one of data. A repository that is not there is made, private unless `public`.

    Raises:
        BadInput: no such run, round or checkpoint; no repository's name; no token, or one that may not write there; or
            the repository is public, and `public` does not say so.
        Damaged: a record or a file is not what was committed.
        RatchetError: the Hub does not answer, or refuses; nothing is published then.
    """
    where = f"--push {repository}"
    named = hub_model(repository)
    if named is None or named.revision is not None:
        raise BadInput(f"{where}: name a repository as ORG/NAME")
    hub = _hub(where)
    if hub.get_token() is None:
        address = without_password(hub.constants.ENDPOINT)
        raise BadInput(
            f"{where}: there is no token for {address}: set HF_TOKEN to one that may write to {named.id}, or log in "
            "with `hf auth login`"
        )
    kind = "dataset" if pairs else "model"
    with _made(lambda folder: (export_pairs if pairs else export_model)(run, folder)) as (exported, folder):
        return _Repository(hub, named.id, kind, where).put(exported, folder, public)


def _hub(where: str) -> Any:
    try:
        hub = library("huggingface_hub", where)
    except BadInput as error:
        raise BadInput(f"{where}: pushing needs the package `huggingface_hub`: install it") from error
    if is_offline(where):
        raise BadInput(f"{where}: HF_HUB_OFFLINE is set, with which nothing is sent: unset it")
    if not sys.stderr.isatty():
        library("huggingface_hub.utils", where).disable_progress_bars()
    return hub


@contextlib.contextmanager
def _made(export: Callable[[Path], Exported]) -> Iterator[tuple[Exported, Path]]:
    """What is to be sent, in a folder of its own beside the current one, which is removed in the end."""
    above, label = Path.cwd(), "ratchet-push"
    folder = unfinished.hidden(above, label)
    if (around := enclosing_run(folder)) is not None:
        raise BadInput(f"--push makes its files in the current folder, which lies in the run {around}: go to another")
    unfinished.tidy(above, label)
    try:
        yield export(folder), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Repository:
    """One of a Hub."""

    def __init__(self, hub: Any, name: str, kind: str, where: str) -> None:
        self._hub, self._name, self._kind, self._where = hub, name, kind, where
        self._api = hub.HfApi()

    def put(self, exported: Exported, folder: Path, public: bool) -> Pushed:
        """Commit all files of a folder, and look whether they are there."""
        before = self._there(public)
        files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stale = [name for name in before.files if name not in files and self._is_replaced(name)]
        operations = [
            *(self._hub.CommitOperationAdd(name, str(path)) for name, path in files.items()),
            *(self._hub.CommitOperationDelete(name) for name in stale),
        ]
        message = f"{exported.what}, by Ratchet"
        commit = self._committed(operations, message, before)
        self._require_there(files, commit)
        sizes = sum(path.stat().st_size for path in files.values())
        return Pushed(exported.what, before.url, commit, before.private, len(files), sizes)

    def _committed(self, operations: Sequence[Any], message: str, before: _There) -> str:
        """The commit that was made. Where the answer to it is lost, the Hub is asked whether there is a newer one,
        which is then looked at as if it had answered."""
        about = {"commit_message": message, "repo_type": self._kind, "parent_commit": before.commit}
        try:
            return str(self._api.create_commit(self._name, operations, **about).oid)
        except Exception as error:  # of many kinds
            if status_of(error) is not None:
                raise self._refusal(error) from error
            try:
                now = self._info().sha
            except Exception:
                raise self._refusal(error, _UNKNOWN.format(before.url)) from error
            if now == before.commit:
                raise self._refusal(error) from error
            return str(now)

    def _there(self, public: bool) -> _There:
        """The repository as it is before the commit; it is made where there is none."""
        made = self._asked(
            lambda: self._api.create_repo(self._name, private=not public, repo_type=self._kind, exist_ok=True)
        )
        url = without_password(str(made))
        info = self._asked(self._info)
        if not info.private and not public:
            raise BadInput(
                f"{self._where}: this repository is there and public: everybody would see what is pushed. Say "
                "--public, or name another"
            )
        names = tuple(file.rfilename for file in info.siblings or ())
        return _There(url, bool(info.private), str(info.sha) if info.sha else None, names)

    def _info(self) -> Any:
        return self._api.repo_info(self._name, repo_type=self._kind, timeout=PATIENCE)

    def _is_replaced(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in _REPLACED[self._kind])

    def _require_there(self, files: dict[str, Path], commit: str) -> None:
        """Each file has in the commit the bytes that were sent."""
        told = self._asked(
            lambda: self._api.get_paths_info(self._name, list(files), repo_type=self._kind, revision=commit),
            f"Commit {commit} is there, and whether it is whole could not be asked: the same command looks again.",
        )
        found = {file.path: (file.size, file.lfs.sha256 if file.lfs else file.blob_id) for file in told}
        wrong = [name for name, path in files.items() if found.get(name) not in _ids(path)]
        if wrong:
            raise RatchetError(
                f"{self._where}: commit {commit} has not the bytes that were sent for {', '.join(wrong)}. Do not use "
                "it: the same command makes another commit."
            )

    def _asked(self, ask: Callable[[], Any], then: str = _NOTHING) -> Any:
        """What the Hub answers, within some minutes; `then` says what it means where it does not.

        Raises:
            BadInput, RatchetError: why it does not.
        """
        try:
            return within(10 * PATIENCE, ask)
        except Exception as error:  # of many kinds
            raise self._refusal(error, then) from error

    def _refusal(self, error: Exception, then: str = _NOTHING) -> RatchetError:
        said, status, address = short(error), status_of(error), without_password(self._hub.constants.ENDPOINT)
        if status == 401:
            return BadInput(
                f"{self._where}: {address} does not know the token ({said}): set HF_TOKEN to one that may write to "
                f"{self._name}, or log in with `hf auth login`. {then}"
            )
        if status in (402, 403, 404):
            return BadInput(
                f"{self._where}: {address} refuses it ({said}): the token may not write there, or there is no such "
                f"user or organisation. Check both. {then}"
            )
        if status in (409, 412):
            return RatchetError(f"{self._where}: somebody else has committed meanwhile ({said}). {then}")
        if status is not None:
            return RatchetError(f"{self._where}: {address} could not take it ({said}). {then}")
        return RatchetError(
            f"{self._where}: {address} does not answer, or broke off ({said}). Check HF_ENDPOINT and the connection; "
            f"set HF_HUB_DISABLE_XET=1 for a Hub without Xet storage. {then}"
        )


@dataclass(frozen=True, slots=True)
class _There:
    """A repository before a commit."""

    url: str
    private: bool
    commit: str | None
    """Its newest; None of one that has none."""
    files: tuple[str, ...]


def _ids(path: Path) -> tuple[tuple[int, str], ...]:
    """How a Hub tells a file: by its size, and git's id or, of a large one, its sha256."""
    size = path.stat().st_size
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            blob.update(block)
    return (size, durable.sha256(path)), (size, blob.hexdigest())
