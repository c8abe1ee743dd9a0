"""A rank's pieces of a training in safetensors files, and from the files of any number of ranks back to any other.

A tensor of a file is a run of one parameter's elements, named KIND/PARAMETER@START, such as
`exp_avg/model.layers.0.mlp.up_proj.weight@4096`: one-dimensional, float32. Every element of every parameter stands once
in the files of a state, in each kind (shards.KINDS).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from workers.files import write_file
from workers.training.shards import KINDS, Piece, Shard

FILE_BYTES = 2**28
"""About how large a file is: what is copied into memory at once, and between two signs of life."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: elements `start` to `stop` of a parameter."""

    file: Path
    key: str
    kind: str
    name: str
    start: int
    stop: int


def write(
    shard: Shard, folder: Path, rank: int, ranks: int, beat: Callable[[], None], file_bytes: int = FILE_BYTES
) -> dict[str, dict[str, Any]]:
    """Write what this rank answers for to `folder`, synced; returns each file's size and sha256 by its name. `beat` is
    called after every file."""
    facts: dict[str, dict[str, Any]] = {}
    for tensors in _files(shard.own(rank, ranks), shard, file_bytes):
        name = f"{rank:05d}-{len(facts):05d}.safetensors"
        facts[name] = write_file(save(tensors), folder / name)
        beat()
    return facts


def _files(pieces: Iterable[Piece], shard: Shard, file_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of each file, in the host's memory."""
    tensors: dict[str, Tensor] = {}
    room = most = max(file_bytes // 4, 1)
    for piece in pieces:
        for kind, values in shard.tensors(piece).items():
            done = 0
            while done < len(values):
                part = values[done : done + room]
                tensors[f"{kind}/{piece.name}@{piece.start + done}"] = part.to("cpu", copy=True)
                done, room = done + len(part), room - len(part)
                if not room:
                    yield tensors
                    tensors, room = {}, most
    if tensors:
        yield tensors


def stored(files: Iterable[Path]) -> list[Stored]:
    """What files hold, as their headers say. Raises SafetensorError, OSError or ValueError for one that is no such
    file."""
    found = []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                kind, _, rest = key.partition("/")
                name, _, start = rest.rpartition("@")
                [size] = tensors.get_slice(key).get_shape()
                found.append(Stored(file, key, kind, name, int(start), int(start) + size))
    return found


def cover(found: Iterable[Stored], pieces: Iterable[Piece]) -> bool:
    """Whether all elements of the pieces are there, in each kind."""
    runs: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for tensor in found:
        runs[tensor.kind, tensor.name].append((tensor.start, tensor.stop))
    for piece in pieces:
        for kind in KINDS:
            reached = piece.start
            for start, stop in sorted(runs[kind, piece.name]):
                reached = max(reached, stop) if start <= reached else reached
            if reached < piece.stop:
                return False
    return True


def read(found: Iterable[Stored], shard: Shard, beat: Callable[[], None]) -> None:
    """Give this rank's pieces the values that files hold; only what they need is read. `beat` is called for every
    tensor that is. Call it when `cover` says that all are there, between Shard.begin and Shard.finish."""
    wanted: dict[str, list[Piece]] = defaultdict(list)
    for piece in shard.held():
        wanted[piece.name].append(piece)
    needed: dict[Path, list[tuple[Stored, Piece]]] = defaultdict(list)
    for tensor in found:
        for piece in wanted[tensor.name]:
            if max(tensor.start, piece.start) < min(tensor.stop, piece.stop):
                needed[tensor.file].append((tensor, piece))
    for file, reads in needed.items():
        with safe_open(file, framework="pt") as tensors:
            for tensor, piece in reads:
                start, stop = max(tensor.start, piece.start), min(tensor.stop, piece.stop)
                values = tensors.get_slice(tensor.key)[start - tensor.start : stop - tensor.start]
                target = shard.tensors(piece)[tensor.kind]
                target[start - piece.start : stop - piece.start].copy_(values)
                beat()
