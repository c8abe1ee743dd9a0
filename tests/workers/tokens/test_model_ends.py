"""The tokens that a model's files say it ends by."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from workers.tokens.prompts import ends_beyond


def test_a_kind_of_model_that_says_nothing_of_an_end_is_taken(tmp_path: Path) -> None:
    assert ends_beyond(SimpleNamespace(vocab_size=10), str(tmp_path)) == ""


def test_a_generation_config_that_cannot_be_read_is_left_to_the_engine(tmp_path: Path) -> None:
    for content in (b"[" * 100_000, b"\xff", b"[]", b""):
        (tmp_path / "generation_config.json").write_bytes(content)
        assert ends_beyond(SimpleNamespace(vocab_size=10, eos_token_id=3), str(tmp_path)) == ""
