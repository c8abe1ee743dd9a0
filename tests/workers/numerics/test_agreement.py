"""Models that trees fit, and those that they do not, told apart on tiny ones of their kind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import numpy as np  # noqa: E402

from benchmarks import models  # noqa: E402
from workers.numerics import agreement, batching, layout, limits, tiny  # noqa: E402
from workers.numerics.agreement import LIMIT, check_agreement  # noqa: E402
from workers.numerics.attention import UnsupportedModel  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer, disable_dropout  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs/models.md"

LONG = {"rope_type": "longrope", "short_factor": [1.1] * 48, "long_factor": [2.5] * 48, "rope_theta": 10000.0}
PHI3 = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_parameters": LONG | {"original_max_position_embeddings": 4096},
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Phi-3-mini-128k": ("phi3", PHI3),
    "Phi-4-mini": (
        "phi3",
        PHI3
        | {"num_attention_heads": 24, "num_key_value_heads": 8}
        | {"rope_parameters": LONG | {"original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75}},
    ),
    "Llama-3.1-405B": (
        "llama",
        {
            "hidden_size": 16384,
            "intermediate_size": 53248,
            "num_hidden_layers": 126,
            "num_attention_heads": 128,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "eos_token_id": [128001, 128008, 128009],
            "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 8192},
        },
    ),
    "Qwen2.5-7B": (
        "qwen2",
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "sliding_window": 131072,
            "use_sliding_window": False,
            "max_window_layers": 28,
        },
    ),
}

RIGHT = ["gpt2", "llama", "qwen3", "mistral", "gemma3_text", "cohere", "granite", "olmo2", "mixtral"]
ALL_RIGHT = {
    *RIGHT,
    *("gemma", "gemma3", "phi3", "qwen2", "smollm3", "qwen3_moe", "deepseek_v3"),
}
WRONG = {
    "recurrent_gemma",
    *("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "roberta", "roberta-prelayernorm"),
    *("roc_bert", "xlm-roberta", "xlm-roberta-xl"),
}
RAW = {
    *("llama4", "llama4_text", "gpt_oss", "mimo_v2_flash", "granite_swa", "granitemoe_swa", "mllama"),
    "modernbert-decoder",
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_trees_fit_agrees(kind: str) -> None:
    assert models.tried(kind) == ""


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bert", "bert: its tokens attend to those that come after them, so it is no causal language model; choose"),
        ("recurrent_gemma", "recurrent_gemma: completions that share a prompt get other log-probabilities than each"),
        ("granite_swa", "GraniteSWAForCausalLM: its attention is more than scaled products and a softmax"),
        ("llama4_text", "llama4_text: tree batching does not fit what it computes (AttributeError: "),
        ("modernbert-decoder", "modernbert-decoder: tree batching does not fit what it computes (TypeError: "),
        ("doge", "doge: completions that share a prompt get other log-probabilities than each alone"),
        ("gemma2", "gemma2: attn_logit_softcapping is not supported"),
        ("bloom", "BloomForCausalLM does not take attention functions from outside"),
        ("xmod", "xmod: ValueError: Input language unknown"),
    ],
)
def test_what_they_do_not_fit_is_refused_in_one_line_with_a_cure(kind: str, said: str) -> None:
    found = models.tried(kind)
    assert found.startswith(said) and "choose " in found and "\n" not in found


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_of_published_models_shrink(name: str) -> None:
    kind, settings = PUBLISHED[name]
    config = transformers.AutoConfig.for_model(kind, **settings)
    assert check_agreement(config, activation_checkpointing=True) < LIMIT
    model = transformers.AutoModelForCausalLM.from_config(tiny.tiny_config(config))
    assert sum(p.numel() for p in model.parameters()) < 6e6
    assert config.hidden_size == settings["hidden_size"]  # the one given stays as it is


@pytest.mark.full
def test_every_kind_is_right_or_refused_as_the_page_says() -> None:
    torch.set_num_threads(1)
    found = {kind: models.tried(kind) for kind in models.kinds()}
    right = {kind for kind, said in found.items() if not said}
    assert right >= ALL_RIGHT and not right & (WRONG | RAW)
    refused = [said for said in found.values() if said]
    assert all("\n" not in said and re.search("choose |train a model", said) for said in refused)
    assert "".join(models.document(found, transformers.__version__)) == PAGE.read_text()


def test_the_page_names_those_that_were_wrong_or_ended_in_errors() -> None:
    right, refused = [], []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| r"):
            title, kinds = line.removeprefix("| ").removesuffix(" |").rsplit(" | ", 1)
            (right if title.startswith("right") else refused).extend(kinds.split(", "))
    assert set(right) >= ALL_RIGHT and set(refused) >= WRONG | RAW
    assert not set(right) & set(refused)


# What the tiny models show


def make(kind: str, **settings: Any) -> Any:
    config = transformers.AutoConfig.for_model(kind, **settings)
    disable_dropout(config)
    model = transformers.AutoModelForCausalLM.from_config(tiny.tiny_config(config)).eval()
    tiny.draw(model, seed=0)
    return model


@pytest.mark.parametrize("kind", RIGHT)
def test_a_tiny_model_shows_wrong_positions_and_completions_that_see_each_other(kind: str) -> None:
    trees = [batching.pair_trees([pair], [0], 10**6)[0] for pair in agreement._pairs()]
    pack = layout.lay_out(trees)
    positions = pack.position_ids.clone()
    positions[pack.spans[1, 0] : pack.spans[1, 1]] += 3
    spans = pack.spans.copy()
    spans[2, 2:] = spans[1, :2]  # the second completion sees the first instead of the prompt
    scorer = PackScorer(make(kind))
    with torch.no_grad():
        right, moved, crossed = (
            scorer(each) for each in (pack, replace(pack, position_ids=positions), replace(pack, spans=spans))
        )
    assert (right - moved).abs().max() > 10 * LIMIT and (right - crossed).abs().max() > 10 * LIMIT


def test_dropout_within_the_configs_of_a_model_of_several_parts_and_noise_of_routing_are_switched_off() -> None:
    config = transformers.Emu3Config()
    config.text_config.attention_dropout = 0.1
    disable_dropout(config)
    assert config.text_config.attention_dropout == 0.0
    config = transformers.PhimoeConfig(router_jitter_noise=0.01, input_jitter_noise=0.01)
    disable_dropout(config)
    assert config.router_jitter_noise == config.input_jitter_noise == 0.0


# Rotary embeddings that depend on the pack

SHORT = {"original_max_position_embeddings": 16, "max_position_embeddings": 128}
ROPES = {
    "longrope": ("phi3", PHI3 | SHORT | {"rope_parameters": LONG | {"original_max_position_embeddings": 16}}, 16),
    "dynamic": (
        "llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        },
        16,
    ),
}


def pack_of(*lengths: int) -> layout.Pack:
    ids = np.arange(tiny.FIRST_ID, tiny.VOCABULARY, dtype=np.int32)
    pairs = [PairTokens(f"{n}", ids[n : n + 4], ids[n + 9 : n + 5 + n_], None) for n, n_ in enumerate(lengths)]
    return layout.lay_out([batching.pair_trees([pair], [0], 10**6)[0] for pair in pairs])


@pytest.mark.parametrize("kind", ROPES)
def test_a_pack_within_the_original_context_is_right_and_one_beyond_it_is_refused(kind: str) -> None:
    family, settings, original = ROPES[kind]
    model = make(family, num_hidden_layers=2, **{k: v for k, v in settings.items() if k != "num_hidden_layers"})
    assert limits.rope_limit(model.config) == (original, kind)
    scorer = PackScorer(model)
    with torch.no_grad():
        short = scorer(pack_of(10))[0]
        assert scorer(pack_of(10, 16))[0] == pytest.approx(float(short), rel=1e-5)
        with pytest.raises(UnsupportedModel, match=rf"17 tokens.*beyond 16 tokens.*\({kind}\).*train\.max_tokens: 16"):
            scorer(pack_of(10, 17))
    limit = limits.path_limit(make("mistral", sliding_window=8, num_hidden_layers=1).config)
    assert limit is not None and limit[0] == 8
    assert limits.path_limit(make("llama", num_hidden_layers=1).config) is None
