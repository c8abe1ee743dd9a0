"""How many engines suit a model and a cluster; the models are configurations alone, the GPUs numbers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import Generate
from orchestrator.driver.fitting import Gpus, cached_tokens, fit_engines
from orchestrator.driver.memory import GIB, cache_bytes, engine_memory
from orchestrator.errors import BadInput
from orchestrator.models.sizes import ModelSize, from_config

SHARE = 0.92


def size(**config: Any) -> ModelSize:
    found = from_config(config)
    assert found is not None
    return found


SMALL = size(
    **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
    **{"intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192},
)
SEVEN = size(
    **{"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    **{"intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768},
)
SEVENTY = size(
    **{"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8},
    **{"intermediate_size": 28672, "vocab_size": 32000, "max_position_embeddings": 4096},
)
ONE = [Gpus(1, 24 * GIB)]
EIGHT = [Gpus(8, 80 * GIB)]
SIXTEEN = EIGHT * 2
MIXED = [Gpus(0), Gpus(4, 80 * GIB), Gpus(2, 40 * GIB)]


def test_a_configuration_tells_the_number_of_parameters() -> None:
    """As the models' own cards have it: SmolLM2-135M, Mistral-7B, Llama-2-70B."""
    assert [round(s.parameters / 1e9, 2) for s in (SMALL, SEVEN, SEVENTY)] == [0.13, 7.24, 68.98]
    assert from_config({"vocab_size": 5}) is None


@pytest.mark.parametrize(
    ("model", "nodes", "engines", "spread"),
    [
        (SMALL, [], 1, 1),
        (SEVENTY, [Gpus(0)], 1, 1),
        (SMALL, ONE, 1, 1),
        (SMALL, SIXTEEN, 16, 1),
        (SEVEN, EIGHT, 8, 1),
        (SMALL, MIXED, 6, 1),
        (SEVEN, [Gpus(4, 141 * GIB), Gpus(4, 80 * GIB)], 8, 1),
        (SEVENTY, EIGHT, 4, 2),
        (SEVENTY, SIXTEEN, 8, 2),
        (SEVENTY, [Gpus(8, 40 * GIB)], 2, 4),
        (None, EIGHT, 8, 1),
        (SEVENTY, [Gpus(8)], 8, 1),
    ],
)
def test_what_suits_a_model_and_a_cluster(
    model: ModelSize | None, nodes: list[Gpus], engines: int, spread: int
) -> None:
    assert fit_engines(model, Generate(), 2, SHARE, nodes).values == (engines, spread)


def test_what_fits_is_the_smallest_that_does() -> None:
    tokens = cached_tokens(SEVENTY, Generate())
    assert engine_memory(SEVENTY, 2, 2, tokens) <= SHARE * 80 * GIB < engine_memory(SEVENTY, 2, 1, tokens)
    assert fit_engines(SEVEN, Generate(), 2, SHARE, [Gpus(1, 24 * GIB)]).values == (1, 1)
    with pytest.raises(BadInput, match="Would fit: nodes with 2 GPU"):
        fit_engines(SEVEN, Generate(), 4, SHARE, [Gpus(1, 24 * GIB)])


def test_engines_that_are_set_stay() -> None:
    assert fit_engines(SEVEN, Generate(engines=2), 2, SHARE, EIGHT).values == (2, 1)
    assert fit_engines(SEVEN, Generate(tensor_parallel=4), 2, SHARE, EIGHT).values == (2, 4)
    for spread, why in ((1, "an engine for every GPU"), (4, "an engine for every 4 GPUs of a node")):
        assert fit_engines(SEVEN, Generate(tensor_parallel=spread), 2, SHARE, EIGHT).why == why
    assert fit_engines(SEVENTY, Generate(), 2, SHARE, SIXTEEN, stages=2).values == (8, 1)
    assert fit_engines(SEVENTY, Generate(tensor_parallel=1), 2, SHARE, EIGHT).values == (8, 1), "though it does not fit"


def test_an_engine_that_fits_on_no_node_is_refused_with_what_would_fit() -> None:
    with pytest.raises(BadInput) as refusal:
        fit_engines(SEVENTY, Generate(), 2, SHARE, [Gpus(2, 40 * GIB)])
    said = str(refusal.value)
    assert said.startswith("generate.tensor_parallel: an engine does not fit on the GPUs of one node: spread over 2")
    assert "nodes with 4 GPU; or GPUs with" in said and "\n" not in said
    assert fit_engines(SEVENTY, Generate(), 2, SHARE, [Gpus(4, 40 * GIB)]).values == (1, 4)


def test_a_cache_is_divided_by_heads_of_keys() -> None:
    assert cache_bytes(SEVEN, 2, 1) == 131072 == 8 * cache_bytes(SEVEN, 2, 8) == 8 * cache_bytes(SEVEN, 2, 16)
