"""A model's tokenizer: loaded, and asked to encode and decode, within bounds. Its files may be a stranger's, and are a
program: patterns that find no end, replacements that make a gigabyte of a letter.

What breaks or would take too much in Python ends in `UnusableModel`; what does so in a library ends its process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import loads
from typing import Any

from orchestrator.errors import BadInput, first_line
from workers.tokens import bounds

_LOADING = 120.0
"""Seconds of computing that loading has; the largest tokenizers take ten."""
_SLOWEST = 20_000.0
"""Characters or tokens a second: a tokenizer in Python does some hundred thousand."""
_BYTES_EACH = 256
"""Of memory for each of them: a token's id, text, place and masks take a hundred."""
LONGEST_TOKEN = 1 << 16
"""Characters of text that one token may become; the longest known have some hundreds. Engines decode what a model
samples, and it may sample that token alone."""


class UnusableModel(BadInput):
    """The model's folder or tokenizer cannot do what the job asks."""


def load_tokenizer(model: str) -> Any:
    """A model's tokenizer, which has an EOS token.

    Raises:
        UnusableModel: there is none.
    """
    tokenizer = any_tokenizer(model, "model: ")
    if tokenizer.eos_token_id is None:
        raise UnusableModel(f"model: {model}: its tokenizer has no EOS token: no completion could end")
    return tokenizer


def any_tokenizer(model: str, key: str = "") -> Any:
    """The tokenizer in a model's folder; `key` opens each message.

    Raises:
        UnusableModel: there is none, it finds no end or takes gigabytes, or its tokens are no tokens.
    """
    from transformers import AutoTokenizer

    try:
        with bounds.time_bounded(_LOADING), bounds.memory_bounded():
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False, local_files_only=True)
            longest = _longest(tokenizer)
    except BaseException as error:  # whatever the libraries make of a stranger's files
        if not isinstance(error, Exception) and not _breaks(error):
            raise
        raise UnusableModel(f"{key}{model}: no usable tokenizer ({first_line(error)})") from error
    if longest > LONGEST_TOKEN:
        raise UnusableModel(
            f"{key}{model}: one token of its tokenizer can become a text of {longest:,} characters, and at most "
            f"{LONGEST_TOKEN:,} are read: look at the vocabulary and the decoder in its tokenizer.json"
        )
    return tokenizer


def encoded(tokenizer: Any, *texts: str | list[str], seconds: float = bounds.SECONDS, **how: Any) -> Any:
    """What a tokenizer, called so, makes of a text, of a pair of texts, or of a list of them. It has so many `seconds`,
    and more for long texts.

    Raises:
        UnusableModel: it finds no end, or breaks.
    """
    size = sum(len(part) for text in texts for part in ([text] if isinstance(text, str) else text))
    with bounded(tokenizer.name_or_path, f"take a text of {size:,} characters", size, seconds):
        return tokenizer(*texts, **how)


def decoded(tokenizer: Any, ids: Sequence[int], seconds: float = bounds.SECONDS) -> str:
    """The text of token ids, special tokens included.

    Raises:
        UnusableModel: as `encoded`.
    """
    with bounded(tokenizer.name_or_path, f"make a text of {len(ids):,} tokens", len(ids), seconds):
        return str(tokenizer.decode(list(ids)))


@contextmanager
def bounded(model: str, what: str, size: int, seconds: float = bounds.SECONDS) -> Iterator[None]:
    """Around what a model's tokenizer is asked to do, in words, with so many characters or tokens.

    Raises:
        UnusableModel: it finds no end, takes gigabytes, or breaks.
    """
    try:
        with bounds.time_bounded(seconds + size / _SLOWEST), bounds.memory_bounded(_BYTES_EACH * size):
            yield
    except BaseException as error:
        if not isinstance(error, TimeoutError | MemoryError) and not _breaks(error):
            raise
        raise UnusableModel(
            f"model: {model}: its tokenizer cannot {what} ({first_line(error)}): look at the regular expressions of "
            "its tokenizer.json"
        ) from error


def _breaks(error: BaseException) -> bool:
    """Whether a library in Rust breaks, such as over a regular expression: that is no Exception."""
    return type(error).__name__ == "PanicException"


def _longest(tokenizer: Any) -> int:
    """At most so many characters does one token become where it is decoded."""
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return longest * (1 if decoder is None else _growth(loads(decoder.__getstate__())))


def _growth(decoder: Mapping[str, Any]) -> int:
    """At most so many characters does a decoder make of one; those that replace nothing by a text of their own make a
    space or two."""
    growth = 1
    for part in decoder.get("decoders", ()):
        growth *= _growth(part)
    if decoder.get("type") == "Replace":
        growth *= 1 + len(decoder["content"])
    return growth
