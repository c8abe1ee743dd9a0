"""What an archive needs of the place where it is: a folder at an address, on a disk or in an object store.

Names are relative, with `/` between their parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.config.addresses import without_password
from orchestrator.errors import RatchetError, cut
from orchestrator.files.disk import unusable

Moved = Callable[[int], None]
"""Told of bytes that were sent or read; may raise, which ends the operation."""


class Unreachable(RatchetError):
    """The store did not do what was asked of it; the message has the address and the reason."""


def said(error: BaseException) -> str:
    """An error in a short line, without passwords: these go first, since half a password is one, too."""
    told = (isinstance(error, OSError) and unusable(error)) or error
    lines = str(told).strip().splitlines() or [type(error).__name__]
    return cut(without_password(lines[0]))


@dataclass(frozen=True)
class Told:
    """What a store says of an object, without reading it."""

    size: int
    etag: str | None = None
    """Its checksum, as S3 tells it, where it does."""


class Store(Protocol):
    """A folder at an address. FileNotFoundError and Unreachable are what its methods raise."""

    address: str

    def told(self, name: str) -> Told | None:
        """What is said of an object; None where there is none."""

    def names(self) -> list[str]:
        """What is at the top of it, as far as that is known without asking for all objects."""

    def read(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, which it has."""

    def write(self, name: str, content: bytes) -> None:
        """Put an object there, whole."""

    def send(self, file: Path, name: str, moved: Moved) -> None:
        """Put a file's bytes there, without holding them in memory."""

    def remove(self, name: str) -> None:
        """Take away an object."""
