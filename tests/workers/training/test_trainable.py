"""What the trainer says of a job's models before a run, from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file  # noqa: E402

from workers.training.trainable import answer  # noqa: E402

BASE = Path(__file__).parents[3] / "jobs/demo/base"
SMALL = {"num_hidden_layers": 2, "max_position_embeddings": 131072}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 1e4}
PHI = SMALL | {"rope_parameters": LONG | {"original_max_position_embeddings": 4096}}
NULL = {"train.max_tokens": None, "generate.max_model_len": None}


def ask(folder: Path, tokens: int | None = None, context: int | None = None, **more: Any) -> dict[str, list[str]]:
    paths = {"train.max_tokens": tokens, "generate.max_model_len": context}
    engine = {"key": "generate.max_model_len", "tokens": context}
    asked = {"models": {"model": str(folder)}, "activation_checkpointing": False, "paths": paths, "engine": engine}
    return answer(asked | more)


def folder_of(folder: Path, kind: str, **settings: Any) -> Path:
    transformers.AutoConfig.for_model(kind, **settings).save_pretrained(folder)
    return folder


def test_the_demos_model_is_fit() -> None:
    assert ask(BASE, activation_checkpointing=True) == {"refused": [], "warned": []}


def test_what_the_machine_may_decide_is_tried_and_no_reason_to_refuse(tmp_path: Path) -> None:
    """CTRL cannot be trained with its activations computed again."""
    assert ask(BASE, activation_checkpointing=None) == {"refused": [], "warned": []}
    folder = folder_of(tmp_path, "ctrl", n_positions=256)
    found = ask(folder, activation_checkpointing=None)
    assert found["refused"] == [] and found["warned"][0].startswith(f"model: {folder}: ctrl: it cannot be trained with")
    assert "`train.activation_checkpointing: false`" in found["warned"][0]
    (refused,) = ask(folder, activation_checkpointing=True)["refused"]
    assert "with train.activation_checkpointing" in refused
    assert ask(folder, activation_checkpointing=False) == {"refused": [], "warned": []}


def test_a_refusal_names_key_folder_kind_and_cure(tmp_path: Path) -> None:
    wrong = folder_of(tmp_path, "roberta")
    (said,) = ask(BASE, models={"model": str(BASE), "reference": str(wrong)})["refused"]
    assert said.startswith(f"reference: {wrong}: roberta: its tokens attend to those that come after them")
    assert "choose one that is" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "nobody-knows"}, "transformers cannot use its config.json ("),
        ({"model_type": "t5"}, "t5: transformers has no causal language model of this kind; choose another model"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}},
            "llama: its weights are quantized (fp8), and those are not trained; take the model in bfloat16 or float32",
        ),
    ],
)
def test_what_is_no_trainable_configuration_is_refused(tmp_path: Path, config: Any, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (refused,) = ask(tmp_path)["refused"]
    assert refused.startswith(f"model: {tmp_path}: {said}") and "\n" not in refused


def test_paths_beyond_a_window_are_refused_with_the_number_to_set(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "mistral", num_hidden_layers=2, sliding_window=4096, max_position_embeddings=32768)
    (said,) = ask(folder)["refused"]
    assert "mistral: a prompt with its completion may have up to 32768 tokens (train.max_tokens: null, " in said
    assert (
        "window is 4096" in said and "set `train.max_tokens: 4096`" in said and "generate.max_model_len: 4096" in said
    )
    assert ask(folder, 4096)["refused"] == ask(folder, None, 4096)["refused"] == []
    assert "up to 5000 tokens (train.max_tokens: 5000" in ask(folder, 5000)["refused"][0]
    (staged,) = ask(folder, paths={"train.max_tokens": None})["refused"]
    assert "generate" not in staged


def test_longrope_beyond_its_original_context_is_refused_and_engines_must_use_the_same(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "phi3", **PHI)
    path, engine = ask(folder)["refused"]
    assert "beyond 4096 tokens the model's rotary embedding (longrope) depends on the longest path of a pack" in path
    assert "generate.max_model_len: null lets engines take 131072 tokens" in engine
    (engine,) = ask(folder, 4096)["refused"]
    assert "set `generate.max_model_len: 4096`" in engine
    assert ask(folder, None, 4096) == {"refused": [], "warned": []}
    assert ask(folder, 4096, engine=None)["refused"] == []


def test_weights_of_other_names_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama", num_hidden_layers=1, hidden_size=64, num_attention_heads=2, vocab_size=99)
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    assert ask(folder)["refused"] == []
    weights = load_file(folder / "model.safetensors")
    weights["model.final.weight"] = weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (said,) = ask(folder)["refused"]
    assert said.startswith(f"model: {folder}: the loaded model names 1 of its weights differently") and "norm" in said


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_prj"], "no layer of such a name that can have an adapter; it has down_proj, gate_proj, k_proj, o_proj"),
        (["q_proj", "x_proj"], "lora.targets: x_proj: LlamaForCausalLM has no layer of this name; take it out"),
        (["lm_head"], "lora.targets: lm_head turns tokens into numbers or back"),
        (["q_proj", "mlp.up_proj"], None),
        ("all-linear", None),
    ],
)
def test_layers_that_are_to_have_an_adapter_are_looked_for(targets: Any, said: str | None) -> None:
    pytest.importorskip("peft")
    found = ask(BASE, lora={"rank": 4, "targets": targets})["refused"]
    assert (said in found[0]) if said else not found
