"""Which training problems a round draws, where pass rates decide (`data.curriculum`)."""

from __future__ import annotations

import pyarrow as pa

CURRICULUM = pa.schema(
    [
        pa.field("number", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("round", pa.int32()),
        pa.field("samples", pa.int32(), nullable=False),
        pa.field("correct", pa.int32(), nullable=False),
        pa.field("place", pa.int32()),
    ]
)
"""One row a training problem that was drawn so far, or is now: its number among all, from 0; the last round that has
drawn it, if one has, with how many samples it had there and how many correct ones; and its place among those that are
drawn now, if it is."""
