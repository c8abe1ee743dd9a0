"""Paths on which trees compute what a model computes alone: windows, and rotary embeddings that depend on length."""

from __future__ import annotations

from typing import Any

from workers.numerics.attention import UnsupportedModel


def attention_window(config: Any) -> int | None:
    """Longest path (prompt and one completion, in tokens) on which the model's attention is full.

    None means no limit. Raises UnsupportedModel for layers that are no attention over all earlier
    tokens at any length (recurrent, convolutional), and for score changes that are not reproduced.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    name = getattr(config, "model_type", "model")
    kinds = set(getattr(config, "layer_types", None) or ())
    strange = kinds - {"full_attention", "sliding_attention", "chunked_attention", "attention"}
    if strange:
        raise UnsupportedModel(
            f"{name}: layers of type {', '.join(sorted(strange))} carry state from token to token, or attend "
            "to some of them, so completions cannot share one prompt; choose a model whose layers all attend in full"
        )
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UnsupportedModel(
            f"{name}: attn_logit_softcapping is not supported by tree attention; choose another model"
        )
    windows = []
    if (not kinds or "sliding_attention" in kinds) and getattr(config, "use_sliding_window", True):
        windows.append(getattr(config, "sliding_window", None))
    if "chunked_attention" in kinds:
        windows.append(getattr(config, "attention_chunk_size", None))
    return min((int(w) for w in windows if w), default=None)


def rope_limit(config: Any) -> tuple[int, str] | None:
    """Longest path (in tokens) whose rotary embedding does not depend on what else is in the pack, and the kind of
    embedding that sets it; None where none depends.

    transformers takes the frequencies of `dynamic` and `longrope` from the longest path of a batch as soon as that
    passes the context that the model was first trained with, so shorter paths beside it would get others than alone.
    """
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = []
    for rope in rotations(config):
        kind, original = str(rope.get("rope_type", rope.get("type"))), rope.get("original_max_position_embeddings")
        if "dynamic" in kind or kind in ("longrope", "su"):
            original = original or getattr(config, "original_max_position_embeddings", None)
            found.append((int(original or config.max_position_embeddings), kind))
    return min(found, default=None)


def rotations(config: Any) -> list[dict[str, Any]]:
    """The rotary embeddings of a config: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


def path_limit(config: Any) -> tuple[int, str] | None:
    """Longest path that trees compute as the model does alone, in tokens, and why; None where there is no limit.

    Raises UnsupportedModel as `attention_window`.
    """
    window, rope = attention_window(config), rope_limit(config)
    limits = []
    if window is not None:
        limits.append((window, f"the model's attention window is {window}, and tree attention is full"))
    if rope is not None:
        of = f"beyond {rope[0]} tokens the model's rotary embedding ({rope[1]}) depends on the longest path of a pack"
        limits.append((rope[0], of))
    return min(limits, default=None)


def check_window(config: Any, longest: int) -> None:
    """Raise UnsupportedModel when a path of `longest` tokens is longer than `path_limit` allows."""
    limit = path_limit(config)
    if limit is not None and longest > limit[0]:
        raise UnsupportedModel(
            f"{getattr(config, 'model_type', 'model')}: a prompt with its completion has {longest} tokens, but "
            f"{limit[1]}; set `train.max_tokens: {limit[0]}` to drop longer pairs, or choose a model without this limit"
        )
