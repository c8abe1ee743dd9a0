"""Are all numbers of a model's weights finite? One NaN spreads to whatever is computed with it: such a model writes
nothing, and a run would end hours later by an error that does not name it. All weights are read, in pieces, and no
number is computed with: a format has a pattern of bits for what is not finite.

Of what a core takes to hash a file, this takes a fifth.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from orchestrator.errors import BadInput, cut
from orchestrator.files.identity import at_once, look_once
from orchestrator.files.rights import reason
from orchestrator.models.checks import header_of, read_object, tensors, weight_files

_PIECE = 2**20  # bytes, which a core's cache holds


class _Format(NamedTuple):
    """A number is not finite where it has the bits `pattern` among those of `mask`."""

    bits: str
    """Name of numpy's type of as many bits."""
    mask: int
    pattern: int


_FORMATS = {
    "F64": _Format("<u8", 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0000),
    "F32": _Format("<u4", 0x7F80_0000, 0x7F80_0000),
    "C64": _Format("<u4", 0x7F80_0000, 0x7F80_0000),  # two of them
    "F16": _Format("<u2", 0x7C00, 0x7C00),
    "BF16": _Format("<u2", 0x7F80, 0x7F80),
    "F8_E5M2": _Format("u1", 0x7C, 0x7C),
    "F8_E4M3": _Format("u1", 0x7F, 0x7F),  # has no infinity
    "F8_E8M0": _Format("u1", 0xFF, 0xFF),
    "F8_E5M2FNUZ": _Format("u1", 0xFF, 0x80),
    "F8_E4M3FNUZ": _Format("u1", 0xFF, 0x80),
}
"""By their names in safetensors; all others have finite numbers only."""


def check_finite(folder: Path, where: str) -> None:
    """Look at each number in a model folder's weights; `where` opens each message. A file that was found finite and
    has not been touched since is not read again.

    Raises:
        BadInput: one is NaN or infinite, or a file is damaged or cannot be read.
    """
    if "model_type" not in read_object(folder / "config.json", where):  # as in `check_weights`
        return
    tensors(folder, where)  # refuses headers that do not fit their files

    def look(file: Path) -> None:
        look_once(file, "finite", functools.partial(_check_file, file, where))

    at_once(look, weight_files(folder, where))


def _check_file(file: Path, where: str) -> None:
    header, length, _ = header_of(file, where)
    try:
        for name, tensor in header.items():
            if name == "__metadata__" or (kind := _FORMATS.get(str(tensor.get("dtype")))) is None:
                continue
            begin, stop = map(int, tensor["data_offsets"])
            if bad := sum(_not_finite(file, 8 + length + begin, stop - begin, kind)):
                count = (stop - begin) // np.dtype(kind.bits).itemsize
                raise BadInput(
                    f"{where}: {file}: {bad} of the {count} numbers of the tensor {cut(name)} are NaN or infinite, of "
                    "which no text comes. Download the model again, convert it anew to a format that holds its "
                    "numbers, or take an earlier checkpoint of the training that made it."
                )
    except OSError as error:
        raise BadInput(f"{where}: {file}: cannot be read ({reason(error)})") from error


def _not_finite(file: Path, begin: int, size: int, kind: _Format) -> Iterator[int]:
    """How many numbers are not finite in each piece of a file's `size` bytes from `begin` on."""
    whole = np.dtype(kind.bits)
    mask, pattern = whole.type(kind.mask), whole.type(kind.pattern)
    piece = bytearray(min(_PIECE, size))
    with open(file, "rb") as stream:
        stream.seek(begin)
        while size > 0 and (got := stream.readinto(memoryview(piece)[:size])):
            size -= got
            numbers = np.frombuffer(piece, whole, got // whole.itemsize)
            yield int(np.count_nonzero((numbers & mask) == pattern))
