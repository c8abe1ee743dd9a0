"""A tiny model of the same structure as a large one, from its configuration alone. Imports torch alone.

Widths, heads, experts and the vocabulary shrink; what says how the layers are made stays: their number and kinds,
windows, rotary embeddings, tied weights, norms, routing. Weights are drawn at random, large enough that every part of
the model shows in what it computes: as small as models begin, attention is nearly uniform, and a wrong position would
not be seen.
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import torch
from torch import nn

VOCABULARY = 160
FIRST_ID = 32
"""Token ids below it are left to special tokens."""
SEEN = 8
"""Tokens of a window that is to be seen."""
_HIDDEN, _HEAD, _INNER_SIZE, _MOST_LAYERS, _MOST_EXPERTS = 64, 32, 96, 96, 8

_WIDTHS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size"), _HIDDEN),
    **dict.fromkeys(("word_embed_proj_dim", "attention_hidden_size", "lru_width"), _HIDDEN),
    **dict.fromkeys(("head_dim", "global_head_dim", "swa_head_dim", "attention_head_dim", "kv_channels"), _HEAD),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank", "hidden_size_per_layer_input"), _HEAD),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), _HEAD // 2),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    "qk_head_dim": _HEAD,
    "kv_n_heads": 2,
}
_INNER = re.compile(
    r".*intermediate.*|(inner|ffn|mlp|feed_forward)_(hidden_)?(dim|size)|dim_ff|dff|n_inner|router_.*size"
)
_NUM_EXPERTS = re.compile(r"(n|num|moe_num|zero)_?(routed_|local_)?experts?(_num)?")
_ASKED_EXPERTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k_experts")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
_KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "num_query_groups", "multi_query_group_num")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_WINDOW = re.compile(r".*window(_size)?|local_attention|(attention_)?chunk_size")

Fields = dict[str, Any]


def tiny_config(config: Any, shrink_windows: bool = False) -> Any:
    """A copy of a transformers configuration with small sizes. With `shrink_windows` whatever is named like a window
    of attention has SEEN tokens, so that one shows that nobody knows of."""
    made = copy.deepcopy(config)
    _shrink(made, shrink_windows)
    return made


def _shrink(config: Any, shrink_windows: bool) -> None:
    given: Fields = dict(vars(config))
    made = dict(given)
    for name, value in given.items():
        if hasattr(value, "to_dict"):
            _shrink(value, shrink_windows)
        elif type(value) is int:
            made[name] = _size(name, value, shrink_windows)
        elif isinstance(value, list) and value and all(type(entry) is int for entry in value):
            made[name] = [_size(name, entry, shrink_windows) for entry in value]
    _share_heads(given, made)
    _ask_fewer_experts(made)
    _cut_depth(given, made)
    _shorten_rotations(made)
    for name, value in made.items():
        if value is not given[name]:
            setattr(config, name, value)


def _size(name: str, value: int, shrink_windows: bool) -> int:
    if name.endswith(("token_id", "token_index")):
        return min(value, FIRST_ID - 1)
    if name in _WIDTHS:
        return _WIDTHS[name] if value else 0
    if _INNER.fullmatch(name):
        return min(value, _INNER_SIZE)
    if _NUM_EXPERTS.fullmatch(name):
        return min(value, _MOST_EXPERTS)
    if shrink_windows and _WINDOW.fullmatch(name):
        return min(value, SEEN)
    return value


def _share_heads(given: Fields, made: Fields) -> None:
    """One, two or four heads, which share keys and values where the many do."""
    for name in (n for n in _HEADS if type(given.get(n)) is int):
        heads = given[name]
        groups = next((given[n] for n in _KEY_HEADS if type(given.get(n)) is int), heads)
        made |= {n: min(2, groups) for n in _KEY_HEADS if type(given.get(n)) is int}
        made[name] = min(2, groups) * min(2, max(1, heads // groups))
        if given.get("head_dim") and given["head_dim"] * heads == given.get("hidden_size"):
            made["head_dim"] = made["hidden_size"] // made[name]
    if given.get("head_dim") and given["head_dim"] == given.get("qk_rope_head_dim"):
        made["head_dim"] = made["qk_rope_head_dim"]


def _ask_fewer_experts(made: Fields) -> None:
    made |= {name: min(made[name], 2) for name in _ASKED_EXPERTS if type(made.get(name)) is int}
    if type(made.get("n_group")) is int:
        made["n_group"] = min(made["n_group"], 2)
        made["topk_group"] = min(made.get("topk_group") or 1, made["n_group"])


def _cut_depth(given: Fields, made: Fields) -> None:
    """Very many layers become the first of them."""
    for name in _LAYERS:
        layers = given.get(name)
        if type(layers) is int and layers > _MOST_LAYERS:
            made[name] = _MOST_LAYERS
            for key, value in made.items():
                if isinstance(value, list) and len(value) == layers:
                    made[key] = value[:_MOST_LAYERS]


def _shorten_rotations(made: Fields) -> None:
    """Lists of a rotary embedding are as long as half of what it turns of a head."""
    head = made.get("qk_rope_head_dim") or made.get("head_dim")
    if not head and type(made.get("num_attention_heads")) is int:
        head = made.get("hidden_size", _HIDDEN) // made["num_attention_heads"]
    for key in ("rope_parameters", "rope_scaling"):
        if head and isinstance(made.get(key), dict):
            made[key] = _rotation(made[key], head, made.get("partial_rotary_factor") or 1.0)


def _rotation(rope: Fields, head: int, share: float) -> Fields:
    share = rope.get("partial_rotary_factor") or share
    half, found = int(head * share) // 2, dict(rope)
    for name, value in rope.items():
        if isinstance(value, dict):
            found[name] = _rotation(value, head, share)
        elif name in ("long_factor", "short_factor") and isinstance(value, list):
            found[name] = value[:half]
        elif name == "mrope_section" and isinstance(value, list):
            part = half // len(value)
            found[name] = [half - part * (len(value) - 1), *[part] * (len(value) - 1)]
    return found


@torch.no_grad()
def draw(model: nn.Module, seed: int) -> None:
    """Draw a model's weights anew: matrices whose outputs are about as large as their inputs; vectors near what they
    are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim < 2:
            parameter.add_(0.2 * noise)
        else:
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
