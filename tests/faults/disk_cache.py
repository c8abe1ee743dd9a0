"""What a power cut could take away at some moment, from a trace of system calls (strace -f -y).

POSIX promises a file's bytes after an fsync of the file, and its name after an fsync of the folder that has it; no
order holds between what is not synced. Most file systems promise more. What is durable here is so on all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = "openat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir"
CALLS += ",write,pwrite64,writev,ftruncate,fsync,fdatasync"
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)")
_NAME = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"')
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded. `paths` are absolute; two for a link or a rename."""

    name: str
    paths: tuple[str, ...]
    arguments: str


def calls(trace: Path) -> Iterator[Call]:
    halves: dict[str, str] = {}
    with open(trace, errors="replace") as lines:
        for line in lines:
            if half := _UNFINISHED.match(line):
                halves[half[1]] = f"{half[1]} {half[2]}"
                continue
            if rest := _RESUMED.match(line):
                line = halves.pop(rest[1], "") + rest[2]
            found = _LINE.match(line)
            if not found or int(found[4]) < 0:
                continue
            name, arguments = found[2], found[3]
            if name in ("write", "pwrite64", "writev", "ftruncate", "fsync", "fdatasync"):
                descriptor = _DESCRIPTOR.match(arguments)
                paths = (descriptor[1],) if descriptor else ()
            else:
                paths = tuple(os.path.normpath(os.path.join(at or "/", path)) for at, path in _NAME.findall(arguments))
            yield Call(name, paths, arguments)


@dataclass
class DiskCache:
    """Which bytes and which names are not on the disk yet, below `root`."""

    root: str
    bytes: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    _known: set[str] = field(default_factory=set)

    def apply(self, call: Call) -> None:
        paths = call.paths
        if not paths or not any(path.startswith(self.root) for path in paths):
            return
        match call.name:
            case "openat" if "O_CREAT" in call.arguments:
                self._create(paths[0])
                if "O_TRUNC" in call.arguments or "O_EXCL" in call.arguments:
                    self.bytes.add(paths[0])
            case "mkdir" | "mkdirat":
                self._create(paths[0])
            case "write" | "pwrite64" | "writev" | "ftruncate":
                self.bytes.add(paths[0])
            case "fsync" | "fdatasync":
                self.bytes.discard(paths[0])
                self.names = {name for name in self.names if os.path.dirname(name) != paths[0]}
            case "link" | "linkat":
                self._create(paths[1])
                if paths[0] in self.bytes:
                    self.bytes.add(paths[1])
            case "rename" | "renameat" | "renameat2":
                self._forget(paths[1])
                for found in (self.bytes, self.names, self._known):
                    for path in [path for path in found if _within(path, paths[0])]:
                        found.remove(path)
                        found.add(paths[1] + path.removeprefix(paths[0]))
                self.names.add(paths[1])
            case "unlink" | "unlinkat" | "rmdir":
                self._forget(paths[0])

    def lost(self, path: str) -> list[str]:
        """What of this file, or of its way from the root, a power cut would take."""
        way = [path]
        while way[-1] != self.root:
            way.append(os.path.dirname(way[-1]))
        return [f"bytes of {p}" for p in way if p in self.bytes] + [f"name of {p}" for p in way if p in self.names]

    def _create(self, path: str) -> None:
        if path not in self._known:
            self._known.add(path)
            self.names.add(path)

    def _forget(self, path: str) -> None:
        for found in (self.bytes, self.names, self._known):
            found -= {p for p in found if _within(p, path)}


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
