"""The user's state folder: what this user of this machine has approved, and the key that seals saved training states.

    trusted/HASH      an approved set of settings (driver/trust.py): the hashes of its items, nothing of their text
    key               32 random bytes

It is $RATCHET_STATE_HOME, else $XDG_STATE_HOME/ratchet, else ~/.local/state/ratchet. It belongs to no run: what others
write into a run cannot be in it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from orchestrator.errors import BadInput, Damaged, RatchetError
from orchestrator.files import durable
from orchestrator.files.inside import read_regular
from orchestrator.files.named import named_path
from orchestrator.files.rights import reason

_KEY_BYTES = 32
_LARGEST = 1 << 24
"""Bytes that an approval may have."""


class Unusable(RatchetError):
    """The state folder cannot be used; the message names it, the reason and the cure."""


def state_folder() -> Path:
    """Where the state is, or would be.

    Raises:
        Unusable: there is no home folder, of this user or of the one that RATCHET_STATE_HOME names.
    """
    if named := os.environ.get("RATCHET_STATE_HOME"):
        try:
            return named_path(named, "RATCHET_STATE_HOME").absolute()
        except BadInput as error:
            raise Unusable(str(error)) from error
    shared = Path(os.environ.get("XDG_STATE_HOME", ""))
    if shared.is_absolute():  # as the specification wants it; others are to be ignored
        return shared / "ratchet"
    try:
        return Path.home() / ".local/state/ratchet"
    except RuntimeError as error:
        raise Unusable("this user has no home folder: set RATCHET_STATE_HOME to a private folder") from error


def _private(folder: Path) -> Path:
    """The folder, which nobody else can write to.

    Raises:
        Unusable: it is somebody else's, others can write to it, or it is none.
        OSError: there is none.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise Unusable(f"{folder}: is no folder. Set RATCHET_STATE_HOME to a private folder")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unusable(
            f"{folder}: others can write to it, so that nothing in it is believed. If all of it is yours: "
            f"`chmod 700 {folder}`, or set RATCHET_STATE_HOME to a private folder"
        )
    return folder


def _made(name: str = "") -> Path:
    """The state folder, or one below it, made where it is missing, with rights for this user alone."""
    folder = state_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _private(folder)
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        return _private(folder / name)
    except OSError as error:
        raise Unusable(
            f"{folder}: cannot be written ({reason(error)}). Set RATCHET_STATE_HOME to a private folder that can"
        ) from error


def is_approved(items: Collection[str]) -> bool:
    """Whether all of these hashes are in one approved set."""
    return not items or any(set(items) <= approved for approved in _approvals())


def _approvals() -> Iterator[set[str]]:
    """The approved sets, as the hashes of their items. What cannot be read is no approval."""
    try:
        files = sorted(_private(_private(state_folder()) / "trusted").iterdir())
    except (OSError, Unusable):
        return
    for file in files:
        with contextlib.suppress(OSError, Damaged, ValueError, TypeError, KeyError, RecursionError):
            yield set(json.loads(read_regular(file, _LARGEST))["items"])


def approve(items: Collection[str]) -> None:
    """Remember a set of settings as approved, by the hashes of its items.

    Raises:
        Unusable: it cannot be remembered.
    """
    ordered = sorted(set(items))
    if not ordered or is_approved(ordered):
        return
    file = _made("trusted") / durable.fingerprint(ordered)
    try:
        durable.replace(file, json.dumps({"items": ordered}).encode())
        file.chmod(0o600)
    except OSError as error:
        raise Unusable(
            f"{file}: cannot be written ({reason(error)}). Set RATCHET_STATE_HOME to a private folder that can"
        ) from error


def sealing_key() -> bytes:
    """The key that seals saved training states, made at its first use. Where it cannot be kept, one of this process:
    then no later driver loads what this one saves."""
    try:
        file = _made() / "key"
        if not file.exists() and durable.put_if_absent(file, secrets.token_bytes(_KEY_BYTES)):
            file.chmod(0o600)
        key = read_regular(file, _KEY_BYTES)
    except (OSError, Damaged, Unusable):
        return _passing_key()
    return key if len(key) == _KEY_BYTES else _passing_key()


@functools.cache
def _passing_key() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)
