"""How large a model is, and in what numbers: told from its config.json and the headers of its weights. No weights are
loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config import Lora
from orchestrator.models.checks import check_config, first_format, tensors

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, by the names that configurations have for formats."""
_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Names of the same thing in configurations, the first that is there counts.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head")
_TOO_MANY = 2**40  # of anything that a configuration counts
_INNER = ("intermediate_size", "n_inner", "ffn_dim")


@dataclass(frozen=True)
class ModelSize:
    """What decides how much memory a model takes.

    Example: ModelSize(parameters=7_241_732_096, layers=32, hidden=4096, inner=14336, heads=32, kv_heads=8,
    head_dim=128, vocabulary=32000, context=32768, number_bytes=2)
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    """Width of a layer's MLP; of one expert, where there are several."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    """Longest text in tokens, where the configuration says it."""
    number_bytes: int = 2
    """Bytes of a weight as it is in the model's folder."""
    adapter: int | None = None
    """Parameters of the adapter that is trained; None where all weights are."""

    @property
    def trained(self) -> int:
        """Parameters that have gradients and moments."""
        return self.parameters if self.adapter is None else self.adapter


def size_of(folder: Path, where: str = "model") -> ModelSize | None:
    """The size of the model in a folder; None where its configuration does not tell it in names that are known here.
    Weights that are not there yet are counted from the configuration.

    Raises:
        BadInput: a file of the folder is damaged.
    """
    config = check_config(folder, where)
    size = from_config(config)
    if size is None or not any(folder.glob("*.safetensors")):
        return size
    return ModelSize(**vars(size) | {"parameters": sum(math.prod(shape) for shape in tensors(folder, where).values())})


def size_trained(folder: Path, lora: Lora | None) -> ModelSize | None:
    """The same with the size of the adapter that is trained, if one is.

    Raises:
        BadInput: a file of the folder is damaged.
    """
    size = size_of(folder)
    if lora is None or size is None:
        return size
    if any(folder.glob("*.safetensors")):
        return replace(size, adapter=adapter_parameters(tensors(folder, "model"), size.vocabulary, lora))
    return replace(size, adapter=size.layers * adapter_parameters(_layer_of(size), size.vocabulary, lora))


def adapter_parameters(shapes: Mapping[str, Sequence[int]], vocabulary: int, lora: Lora) -> int:
    """Parameters of an adapter to a model whose weights have these shapes: rank * (in + out) a layer. With `all-linear`
    every matrix counts that is none of tokens, such as embeddings and the head."""
    total = 0
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if layer == name or len(shape) != 2 or vocabulary in shape:
            continue
        if lora.targets == "all-linear" or any(f".{layer}".endswith(f".{target}") for target in lora.targets):
            total += lora.rank * sum(shape)
    return total


def _layer_of(size: ModelSize) -> dict[str, tuple[int, int]]:
    """The first layer of a decoder with gated MLPs and its usual names, for weights that are not there yet: how many
    layers there are is a word of whoever wrote the configuration."""
    heads, kv_heads = size.heads * size.head_dim, size.kv_heads * size.head_dim
    one = {
        "self_attn.q_proj": (heads, size.hidden),
        "self_attn.k_proj": (kv_heads, size.hidden),
        "self_attn.v_proj": (kv_heads, size.hidden),
        "self_attn.o_proj": (size.hidden, heads),
        "mlp.gate_proj": (size.inner, size.hidden),
        "mlp.up_proj": (size.inner, size.hidden),
        "mlp.down_proj": (size.hidden, size.inner),
    }
    return {f"layers.0.{name}.weight": of for name, of in one.items()}


def number_format(folder: Path, where: str = "model") -> str | None:
    """The number format of the model in a folder: as its configuration says, else that of its first tensor; None where
    neither says it.

    Raises:
        BadInput: a file of the folder is damaged.
    """
    return said_format(folder, where) or _FORMATS.get(str(first_format(folder, where)))


def said_format(folder: Path, where: str = "model") -> str | None:
    """The number format that a model's configuration says, if any; that of a checkpoint of a training does.

    Raises:
        BadInput: it is damaged.
    """
    config = check_config(folder, where)
    config = config | (config.get("text_config") or {})
    named = config.get("dtype") or config.get("torch_dtype")
    return str(named) if named else None


def from_config(config: Mapping[str, Any]) -> ModelSize | None:
    """The size that a configuration describes, for a decoder with gated MLPs and without experts; biases and norms,
    some thousandth of all, are not counted."""
    config = config.get("text_config") or config
    found = [_number(config, names) for names in (_LAYERS, _HIDDEN, _HEADS, ("vocab_size",))]
    if None in found:
        return None
    layers, hidden, heads, vocabulary = (number or 0 for number in found)
    inner = _number(config, _INNER) or 4 * hidden
    kv_heads = _number(config, ("num_key_value_heads",)) or heads
    head_dim = _number(config, ("head_dim",)) or hidden // heads
    tied = config.get("tie_word_embeddings", False)
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    return ModelSize(
        parameters=vocabulary * hidden * (1 if tied else 2) + layers * (attention + 3 * hidden * inner),
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=vocabulary,
        context=_number(config, ("max_position_embeddings", "n_positions")),
        number_bytes=BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2),
    )


def _number(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    found = next((config[name] for name in names if config.get(name) is not None), None)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < _TOO_MANY else None
