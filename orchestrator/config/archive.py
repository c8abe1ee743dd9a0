"""The address of a run's archive, as a job names it."""

from __future__ import annotations

import re

from orchestrator.config.addresses import secret_in

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_NOT_KEPT = {
    "memory": "is gone with the process",
    "http": "cannot be written to",
    "https": "cannot be written to",
    "data": "is no place",
} | dict.fromkeys(("zip", "tar", "libarchive"), "is inside of one file")
_CURE = "name a folder, /DISK/{name}, or one in an object store, s3://BUCKET/{name}"
_FILLED = ("name", "seed")


def split(address: str) -> tuple[str, str]:
    """Scheme, in small letters, and the rest of an address; the scheme of a path is `file`."""
    found = _ADDRESS.fullmatch(address)
    return (found[1].lower(), found[2]) if found else ("file", address)


def archive_address(address: str) -> str:
    """An archive's address, where it is one: a path from the root on, or SCHEME://PLACE.

    Raises:
        ValueError: with what is wanted.
    """
    scheme, rest = split(address)
    if secret_in(address):
        raise ValueError("an archive's address must hold no password")
    if not address.strip() or not address.isprintable() or "::" in address:
        raise ValueError("must be an address such as s3://BUCKET/runs/{name}, or a path")
    if scheme in _NOT_KEPT:
        raise ValueError(f"an archive cannot be there, since what is at {scheme}:// {_NOT_KEPT[scheme]}: {_CURE}")
    if scheme == "file" and not rest.startswith(("/", "~")):
        raise ValueError("must be an address such as s3://BUCKET/runs/{name}, or a path from the root on: /DISK/{name}")
    if scheme != "file" and re.search(r"[?#\\]", rest):
        raise ValueError("an archive's address has no `?`, `#` or `\\` in it: options are set in the environment")
    if not rest.strip("/") or ".." in rest.split("/"):
        raise ValueError("an archive's address names a place, without `..`")
    if left := re.search(r"\{[^{}]*\}|[{}]", filled_address(address, "", 0)):
        known = " and ".join(f"`{{{key}}}`" for key in _FILLED)
        raise ValueError(f"`{left[0]}` is no placeholder of an archive's address: use {known}, or take it out")
    return address


def filled_address(address: str, name: str, seed: int) -> str:
    """The address of one run's archive, without a slash at its end: `{name}` and `{seed}` are the job's."""
    for key, value in zip(_FILLED, (name, str(seed)), strict=True):
        address = address.replace(f"{{{key}}}", value)
    return address.rstrip("/")


def is_shared(address: str) -> bool:
    """Whether jobs of other names have the same address."""
    return "{name}" not in address
