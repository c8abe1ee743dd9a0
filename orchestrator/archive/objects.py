"""A folder in an object store, or wherever else fsspec reaches. Credentials and options are those of fsspec and of the
store's own client: its environment variables and files.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.archive.checksums import chunk_of
from orchestrator.archive.store import Moved, Told, Unreachable, said
from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError

_PARTS_AT_ONCE = 4
_S3 = ("s3", "s3a")


class ObjectStore:
    """A folder that fsspec reaches; see `store.Store`."""

    def __init__(self, address: str, scheme: str) -> None:
        self.address, self._scheme = address.rstrip("/"), scheme
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        if self._opened is None:
            import fsspec

            logging.getLogger("botocore").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told once
            # Some take the host from the address, such as SFTP.
            named = fsspec.get_filesystem_class(self._scheme)._get_kwargs_from_urls(self.address)
            options = {key: value for key, value in named.items() if value is not None}
            self._opened = fsspec.filesystem(
                self._scheme, skip_instance_cache=True, use_listings_cache=False, **options
            )
        self._opened.invalidate_cache()
        return self._opened

    def told(self, name: str) -> Told | None:
        try:
            with self._doing():
                found = self._files.info(self._at(name))
        except FileNotFoundError:
            return None
        if found.get("type") == "directory":
            return None
        etag = found.get("ETag") if self._scheme in _S3 else None
        return Told(int(found["size"]), str(etag).strip('"').lower() if etag else None)

    def names(self) -> list[str]:
        return []  # there may be millions, and credentials need no right to list them

    def read(self, name: str, start: int, end: int) -> bytes:
        with self._doing():
            return bytes(self._files.cat_file(self._at(name), start=start, end=end))

    def write(self, name: str, content: bytes) -> None:
        with self._doing(writes=True):
            self._files.pipe_file(self._at(name), content)

    def send(self, file: Path, name: str, moved: Moved) -> None:
        from fsspec.callbacks import Callback

        class Progress(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                moved(inc)

        size = file.stat().st_size
        parts = {"chunksize": chunk_of(size), "max_concurrency": _PARTS_AT_ONCE} if self._scheme in _S3 else {}
        with self._doing(writes=True):
            self._files.put_file(str(file), self._at(name), callback=Progress(), **parts)

    def remove(self, name: str) -> None:
        with self._doing():
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._files._strip_protocol(self.address)}/{name}"

    @contextlib.contextmanager
    def _doing(self, writes: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise Unreachable(f"{self._shown}: {_words(error.__cause__)}") from error  # as fsspec tells it of HTTP
            if not writes:
                raise
            raise Unreachable(f"{self._shown}: is not there: make the bucket or folder first") from error
        except RatchetError:
            raise
        except Exception as error:
            raise Unreachable(f"{self._shown}: {_words(error)}") from error

    @property
    def _shown(self) -> str:
        return without_password(self.address)


def _words(error: BaseException) -> str:
    """What a client says, with its cure where that is known."""
    names = {type(one).__name__ for one in _causes(error)}
    if "NoCredentialsError" in names:
        return "there are no credentials for it (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws)"
    if isinstance(error, PermissionError):
        return f"access denied ({said(error)})"
    return said(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
