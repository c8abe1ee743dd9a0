"""Where tokens end in the text that they decode to, so that a text can be cut without tokenising it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.records.masks import fitted, mask_columns, masked
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import DECODED
from workers.files import write_table
from workers.tokens.tokenizer import UnusableModel, bounded, load_tokenizer


def token_ends(model: str, source: str, output: str) -> dict[str, Any]:
    """Copy the samples of a Parquet file (schema DECODED without its last two columns) to `output`, and add those.
    Masks, where there are any, are copied too.

    Returns `rows` and `file`, its size and sha256.

    Raises:
        UnusableModel: the model has no tokenizer that decodes token by token.
    """
    tokenizer = load_tokenizer(model)
    if not tokenizer.is_fast:
        raise UnusableModel(
            f"model: {model}: its tokenizer has no fast version (tokenizer.json), which `source: steps` needs to cut "
            "answers between two tokens"
        )
    table = read_table(source)
    texts: list[str] = []
    ends: list[list[int]] = []
    for batch in table.select(["prompt_token_ids", "token_ids"]).to_batches(max_chunksize=256):
        for row in batch.to_pylist():
            ids, size = row["token_ids"], len(row["prompt_token_ids"]) + len(row["token_ids"])
            with bounded(model, f"make a text of {size:,} tokens", size):
                text, at = decode(tokenizer.backend_tokenizer, row["prompt_token_ids"], ids)
            texts.append(text)
            ends.append(at)
    table = table.append_column(DECODED.field("text"), pa.array(texts, pa.string()))
    table = table.append_column(DECODED.field("token_ends"), pa.array(ends, DECODED.field("token_ends").type))
    schema = masked(DECODED) if mask_columns(table.schema) else DECODED
    return {"rows": table.num_rows, "file": write_table(fitted(table, schema), output)}


def decode(tokenizer: Any, prompt: Sequence[int], token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of token ids that follow a prompt, without special tokens, and for each token how many characters are
    complete with it. `tokenizer` is a tokenizers.Tokenizer; the text is what an engine shows of the same ids."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)
    parts: list[str] = []
    ends: list[int] = []
    length = 0
    for token in token_ids:
        try:
            part = stream.step(tokenizer, token)
        except Exception as error:
            if "Invalid prefix" not in str(error):  # its own class is not exported
                raise
            # Bytes that are no UTF-8 confuse the stream. The engine begins a new one as well.
            stream = DecodeStream(skip_special_tokens=True)
            part = stream.step(tokenizer, token)
        parts.append(part or "")
        length += len(parts[-1])
        ends.append(length)
    return "".join(parts), ends
