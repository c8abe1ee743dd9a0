"""Models that are loaded weight by weight are those that transformers loads whole."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from workers.training.loading import Weights, fill, load_model, load_whole  # noqa: E402


def make(folder: Path, tied: bool) -> str:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="5KB")
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_filled_it_is_the_model_that_is_loaded_whole(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    folder = make(tmp_path / "seed", tied)
    whole, model = load_whole(folder, dtype), load_model(folder, dtype)
    assert all(parameter.is_meta for parameter in model.parameters()), "none is loaded before its turn"
    seen: list[int] = []
    filled = [p.shape for p in fill(model, Weights(folder), dtype, torch.device("cpu"), True, lambda: seen.append(1))]
    assert len(filled) == len(seen) == len(list(whole.parameters()))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
        found = dict([*model.named_parameters(), *model.named_buffers()])[name]
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name
    ids = torch.arange(7)[None]
    assert torch.equal(model(ids).logits, whole(ids).logits)


def test_one_weight_is_made_at_a_time(tmp_path: Path) -> None:
    folder = make(tmp_path / "seed", tied=False)
    model = load_model(folder, torch.float32)
    for number, _ in enumerate(fill(model, Weights(folder), torch.float32, torch.device("cpu"), True, lambda: None), 1):
        assert sum(not parameter.is_meta for parameter in model.parameters()) == number


def test_a_folder_with_other_names_is_loaded_whole(tmp_path: Path) -> None:
    """As transformers does it, which knows of such names: here those of the decoder alone."""
    folder = make(tmp_path / "seed", tied=True)
    tensors: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "seed").glob("*.safetensors*"):
        tensors |= load_file(file) if file.suffix == ".safetensors" else {}
        file.unlink()
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "seed/model.safetensors", metadata={"format": "pt"})
    model = load_model(folder, torch.float32)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model.model.norm.weight, tensors["model.norm.weight"])
