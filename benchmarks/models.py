"""Which kinds of model can be trained: `python -m benchmarks.models > docs/models.md`.

Every kind that transformers has a causal language model of is tried as at the start of a run: on a tiny model with the
structure of its class's default configuration. Takes two minutes of one core.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from workers.numerics.agreement import NotTried, check_agreement
from workers.numerics.attention import UnsupportedModel
from workers.numerics.limits import path_limit

_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
# What a class's default configuration lacks, though no model can be without it.
LACKING: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 8, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    "hunyuan_v1_dense": _ROPE | {"head_dim": 128},
    "hunyuan_v1_moe": _ROPE | {"head_dim": 128},
    "lfm2": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"] * 8},
    "ministral": _ROPE | {"head_dim": 128},
    "nemotron": _ROPE | {"head_dim": 128, "num_key_value_heads": 8},
}

_HEAD = """# Which models can be trained

Preference pairs that share a prompt are computed as a tree: the prompt once, and each completion attends to it and to
itself. That is exact for models in which attention alone carries text from token to token, and wrong for others. So a
run tries its model before it starts, and refuses it in one line, with exit code 2: a tiny model with random weights and
the structure that `config.json` describes computes a pack of two trees, and each of their paths alone; the two must
agree to rounding. No weights are loaded for it, and it takes some seconds. `ratchet validate` and `ratchet doctor` say
the same. A run that has begun is not tried again.

Two kinds of model have a limit on prompt and completion together; longer pairs are dropped with `train.max_tokens`, and
a job that sets neither that nor `generate.max_model_len` low enough is refused, with the number to set:

- Attention windows (Mistral 7B v0.1, Gemma 3, OLMo 3 ...): up to the window, attention is full and trees are exact.
- Rotary embeddings that depend on the length of a batch (`longrope`, as Phi-3 128k and Phi-4-mini have, and `dynamic`):
  up to the context that the model was first trained with (4096 tokens for these Phi). For `longrope` set
  `generate.max_model_len`, since engines choose the frequencies by it.

Also refused: quantized weights, and models whose weights transformers renames while loading, since the checkpoint must
have the names of the folder that training started from; that needs the weights, so it is not in the table.

"""


def tried(kind: str) -> str:
    """What is said of a kind: empty where it is right; else the reason."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.for_model(kind, **LACKING.get(kind, {}))
    except Exception:  # of several models, of which none is the default
        return f"{kind}: not tried, since its class has no default configuration; choose another model"
    try:
        check_agreement(config)
    except (UnsupportedModel, NotTried) as error:
        return str(error)
    return ""


def kinds() -> list[str]:
    """The kinds of model that this version of transformers has a causal language model of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def limited(kind: str) -> bool:
    """Whether the default configuration of a kind limits the length of a path."""
    from transformers import AutoConfig

    return path_limit(AutoConfig.for_model(kind, **LACKING.get(kind, {}))) is not None


def reason(said: str) -> str:
    """A refusal without what it is of, and without the cure."""
    text = re.sub(r"^[\w.-]+(:| (?=does not ))", "", said).strip().partition("; choose")[0].partition("; train")[0]
    return re.sub(r" \(by [\d.e-]+ nats a token.*?\)|\(ValueError.*\)", "", text)


def document(found: dict[str, str], version: str) -> Iterator[str]:
    """The page, from what was said of each kind."""
    right = [kind for kind, said in found.items() if not said]
    yield _HEAD
    yield f"{len(right)} of {len(found)} kinds (`model_type`) of transformers {version} are right, in the default\n"
    yield "configuration of each; made by `python -m benchmarks.models > docs/models.md`.\n\n"
    yield "| | kinds |\n|---|---|\n"
    yield f"| right | {', '.join(kind for kind in right if not limited(kind))} |\n"
    yield f"| right up to their window | {', '.join(kind for kind in right if limited(kind))} |\n"
    groups = defaultdict(list)
    for kind, said in found.items():
        if said:
            groups[reason(said)].append(kind)
    for text, of in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
        yield f"| refused: {text.replace('|', '/')} | {', '.join(of)} |\n"


def main() -> None:
    """Write the page."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found = {}
    for kind in kinds():
        print(kind, file=sys.stderr)
        found[kind] = tried(kind)
    sys.stdout.writelines(document(found, transformers.__version__))


if __name__ == "__main__":
    main()
