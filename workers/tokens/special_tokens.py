"""Special tokens in texts: in rows of data, and in what a job writes around them itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def special_texts(tokenizer: Any) -> list[str]:
    """Texts that become a special token wherever they stand."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens))


def beyond(known: Iterable[str], text: str, literal: str) -> Iterator[str]:
    """Special tokens that stand in a text more often than in the part of it that may hold them."""
    yield from (token for token in known if text.count(token) > literal.count(token))


def special_in(known: Iterable[str], row: Mapping[str, Any], eos: str, literal: str, system: str | None) -> set[str]:
    """Special tokens that a row of preference data brings with it: not those of the job's own texts, `literal` around
    a prompt and the `system` message. EOS at a side's end closes it, as is usual with plain text."""
    found: set[str] = set()
    for name in ("prompt", "chosen", "rejected"):
        side, own = row[name], literal if name == "prompt" else ""
        if isinstance(side, str):
            found.update(beyond(known, side.removesuffix(eos) if name != "prompt" else side, own))
            continue
        texts = (m["content"] for m in side if m["role"] != "system" or m["content"] != system)
        found.update(token for text in texts for token in beyond(known, text, own))
    return found


def in_written(written: Mapping[str, str], tokenizer: Any, turns: Iterable[str] | None) -> Iterator[tuple[str, bool]]:
    """What the job's own texts, by key, hold of special tokens, and whether that may be meant. `turns` are those that
    the chat template writes itself; None where there is none, and texts write their own."""
    known = special_texts(tokenizer)
    closing = {*turns, tokenizer.bos_token, tokenizer.eos_token} if turns is not None else set()
    for key, text in written.items():
        for token in (token for token in known if token in text):
            if token in closing:
                yield f"{key}: holds {token!r}, which the chat template writes around messages: take it out", False
            else:
                yield f"{key}: holds {token!r}, which becomes that special token: is it meant to be one?", True
