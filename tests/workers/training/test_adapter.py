"""An adapter in a model: what it begins with, merged as peft merges, and written as peft reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
import torch.distributed as dist  # noqa: E402

from orchestrator.config import Lora  # noqa: E402
from orchestrator.records.adapters import AdapterPlan  # noqa: E402
from workers.numerics.attention import UnsupportedModel  # noqa: E402
from workers.training import adapter  # noqa: E402
from workers.training.loading import Weights, fill, load_model  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True},
    # Its layers have their weights the other way round.
    "gpt2": {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 2},
}
LORA = Lora(rank=3, alpha=7.5)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def folder_of(folder: Path, kind: str) -> str:
    torch.manual_seed(2)
    config = transformers.AutoConfig.for_model(kind, **KINDS[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def adapted(folder: str, plan: AdapterPlan) -> Any:
    """The model with its adapter, as a rank has it."""
    model, weights = load_model(folder, torch.float32), Weights(folder)
    adapter.inject(model, plan.lora)
    weights.hold(adapter.begin(model, plan))
    for _ in fill(model, weights, torch.float32, torch.device("cpu"), True, lambda: None):
        pass
    return model


def values(model: Any) -> dict[str, Any]:
    return {name: parameter.detach() for name, parameter in model.named_parameters() if adapter.is_adapter(name)}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_written_and_gone_on_with(alone: None, tmp_path: Path, kind: str) -> None:
    base = folder_of(tmp_path / "base", kind)
    model = adapted(base, AdapterPlan(LORA, seed=1))
    assert {name for name, p in model.named_parameters() if p.requires_grad} == values(model).keys() != set()
    for name, value in values(model).items():
        assert (".lora_B." in name) == (not value.any()), "a new adapter changes nothing"
        value.add_(torch.randn(value.shape) / 10)
    merge = adapter.Merge(model, base, torch.float32, False, False)
    found = dict(merge.tensors())
    assert merge.kept == pytest.approx(1.0, abs=1e-5)
    adapter.write(tmp_path / "adapter", LORA, merge.adapter, {})
    plain = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert found.keys() == dict(plain.named_parameters()).keys()
    expected = peft.PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).merge_and_unload().state_dict()
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
    again = adapted(base, AdapterPlan(LORA, seed=9, start=str(tmp_path / "adapter")))
    assert all(torch.equal(values(again)[name], value) for name, value in values(model).items())
    with pytest.raises(UnsupportedModel, match="is not the adapter that goes on"):
        adapted(base, AdapterPlan(Lora(rank=2), seed=1, start=str(tmp_path / "adapter")))


def test_a_new_one_is_of_its_seed_alone(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "base", "llama")
    one, same, other = (values(adapted(base, AdapterPlan(LORA, seed))) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_merge_is_asked_how_much_it_keeps(alone: None, tmp_path: Path) -> None:
    base = folder_of(tmp_path / "base", "llama")
    model = adapted(base, AdapterPlan(LORA, seed=1))
    nothing = adapter.Merge(model, base, torch.bfloat16, False, False)
    list(nothing.tensors())
    assert nothing.kept is None
    for name, value in values(model).items():
        if ".lora_B." in name:
            value.fill_(0.05)
    much = adapter.Merge(model, base, torch.bfloat16, False, False)
    list(much.tensors())
    assert much.kept == pytest.approx(1.0, abs=0.05)
