"""A container's file system (overlayfs): a folder that comes from its image gets no other name.

`layered` mounts one, where that is allowed. `of_an_image` and `refuse_renames` stand in for it in child processes: the
sticky bit, which nothing of the product sets, tells a folder of the image.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def layered(image: Path, folder: Path) -> Iterator[Path]:
    """The folder `image` as the lower layer of what is mounted in `folder`."""
    layers, top = folder / "layers", folder / "container"
    for made in (layers, top):
        made.mkdir(parents=True)
    options = f"lowerdir={image},upperdir={layers}/upper,workdir={layers}/work"
    mounts = [["-t", "tmpfs", "tmpfs", str(layers)], ["-t", "overlay", "-o", options, "overlay", str(top)]]
    done: list[str] = []
    try:
        for mount in mounts:
            if subprocess.run(["mount", *mount], capture_output=True).returncode:
                pytest.skip("mounting an overlay needs root")
            done.insert(0, mount[-1])
            for made in (layers / "upper", layers / "work"):
                made.mkdir(exist_ok=True)
        yield top
    finally:
        for mounted in done:
            subprocess.run(["umount", "-l", mounted], check=True)


def of_an_image(run: Path) -> None:
    """Say that all folders of a run come from an image."""
    for folder in (run, *(path for path in run.rglob("*") if path.is_dir())):
        folder.chmod(folder.stat().st_mode | stat.S_ISVTX)


def refuse_renames() -> None:
    """Have this process rename no folder of an image."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "os.rename":
        return
    old, _, folder, _ = arguments
    try:
        mode = os.stat(old, dir_fd=folder if folder >= 0 else None, follow_symlinks=False).st_mode
    except OSError:
        return
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), old)
