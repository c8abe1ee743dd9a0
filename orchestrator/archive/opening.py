"""The store that an address names."""

from __future__ import annotations

import difflib
import os

from orchestrator.archive.disk import DiskStore
from orchestrator.archive.objects import ObjectStore
from orchestrator.archive.store import Store, said
from orchestrator.config.addresses import without_password
from orchestrator.config.archive import split
from orchestrator.errors import BadInput
from orchestrator.files.named import named_path


def open_store(address: str) -> Store:
    """The folder at an address; nothing is connected to yet.

    Raises:
        BadInput: fsspec knows no such addresses, the package that they need is not installed, or it is no folder.
    """
    scheme, rest = split(address)
    if scheme == "file":
        folder = named_path(rest, "archive")
        if os.path.lexists(folder) and not folder.is_dir():
            raise BadInput(f"{folder}: is no folder, which an archive on a disk is: give another name")
        return DiskStore(folder)
    import fsspec
    from fsspec.registry import known_implementations

    known = known_implementations.get(scheme, {})
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        package = str(known.get("class", "")).partition(".")[0]
        cure = f": pip install {package}" if package != "fsspec" else ""
        raise BadInput(
            f"archive: {without_password(address)}: a Python package is not installed here ({said(error)}){cure}"
        ) from error
    except ValueError as error:
        near = difflib.get_close_matches(scheme, [*known_implementations], n=1)
        hint = f"did you mean {near[0]}://?" if near else "such as s3://BUCKET/{name}, or a path from the root on"
        raise BadInput(
            f"archive: {without_password(address)}: fsspec knows no addresses that begin with {scheme}://; {hint}"
        ) from error
    return ObjectStore(address, scheme)
