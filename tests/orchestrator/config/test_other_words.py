"""The words of other programs lead to our keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.load import load_job
from orchestrator.config.other_words import _KEYS, _WORDS, key_for
from orchestrator.config.words import fields_at, wanted_at
from orchestrator.errors import BadInput


def test_each_word_leads_to_one_key_that_there_is() -> None:
    for key, words in _WORDS.items():
        first, *below = key.split(".")
        assert first in fields_at(()) and (not below or below[0] in fields_at((first,))), key
        assert below[1:] or wanted_at(tuple(key.split(".")))
        assert all(key_for(word) == key for word in words.split()), f"a word of {key} stands twice"
    assert key_for("LR") == key_for("lr") and key_for("max-new-tokens") == "generate.max_tokens"
    assert key_for("per_promt") is None


def test_no_word_hides_a_key_of_ours() -> None:
    """But `alpha`, which the paper of IRPO calls the weight of the NLL."""
    ours = {*fields_at(()), *(key for section in fields_at(()) for key in fields_at((section,)))}
    assert ours & _KEYS.keys() == {"alpha"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr: 1e-6\n", "tiny.yaml:4:1: lr: unknown key; that is `train.learning_rate` here"),
        ("train: {lr: 1e-6}\n", "tiny.yaml:4:9: train.lr: unknown key; that is `train.learning_rate` here"),
        ("loss: {alpha: 1}\n", "loss.alpha: unknown key; that is `loss.nll` here"),
        ("num_generations: 8\n", "that is `generate.samples` here"),
        ("train: {batch_size: 8}\n", "that is `train.batch_pairs` here"),
        ("generate: {max_new_tokens: 8}\n", "that is `generate.max_tokens` here"),
    ],
)
def test_an_unknown_key_that_others_know_is_told_by_our_name(tmp_path: Path, text: str, said: str) -> None:
    (job := tmp_path / "tiny.yaml").write_text(f"name: tiny\nmodel: m\ndata: {{train: a, gate: b, test: c}}\n{text}")
    with pytest.raises(BadInput) as error:
        load_job(job)
    assert said in str(error.value)
