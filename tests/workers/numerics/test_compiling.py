"""Compiled decoder layers and packs that are filled up, against the same without."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch._dynamo.backends.registry import lookup_backend  # noqa: E402

from tests.workers.numerics.test_logprobs import gradients, make_model, random_pairs  # noqa: E402
from workers.numerics import attention, batching, layout  # noqa: E402
from workers.numerics.attention import UnsupportedModel  # noqa: E402
from workers.numerics.compiling import compile_layers  # noqa: E402
from workers.numerics.layout import Pack  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402


def make_pack(seed: int, **shape: int) -> Pack:
    pairs = random_pairs(seed, **shape)
    ((trees,),) = batching.divide_batch(pairs, range(len(pairs)), 10**6, 1)
    return layout.lay_out(trees, score_prompts=True)


def scored(scorer: PackScorer, pack: Pack) -> tuple[Any, Any]:
    """Log-probabilities, and gradients of their sum."""
    found = scorer(pack)
    found.sum().backward()
    return found.detach(), gradients(scorer.model)


def assert_alike(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> None:
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-4)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("kernel", [attention.SDPA, attention.FLEX])
@pytest.mark.parametrize("multiple", [4, 64])
def test_a_pack_that_is_filled_up_gives_the_same(kernel: str, multiple: int) -> None:
    scorer, pack = PackScorer(make_model(), kernel), make_pack(3)
    filled = layout.pad(pack, multiple)
    assert filled.num_tokens % multiple == 0 and 0 < filled.num_tokens - pack.num_tokens < multiple
    assert layout.pad(filled, multiple) is filled and layout.pad(pack, 1) is pack
    with torch.no_grad():
        torch.testing.assert_close(scorer(filled), scorer(pack), rtol=1e-5, atol=1e-4)
    if kernel == attention.SDPA:  # FlexAttention has no backward on CPU
        assert_alike(scored(scorer, filled), scored(scorer, pack))


def test_packs_are_filled_up_where_kernels_are_compiled() -> None:
    asked = [
        attention.multiple(attention.FLEX, "cuda", False),
        attention.multiple(attention.SDPA, "cuda", False),
        attention.multiple(attention.SDPA, "cpu", True),
        attention.multiple(attention.FLEX, "cpu", False),
    ]
    assert asked == [attention.BLOCK, 1, attention.BLOCK, 1]


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.full)])
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_lengths(checkpointing: bool) -> None:
    """By the parts of torch.compile before its code generator, which takes minutes here."""
    model, graphs = make_model(max_position_embeddings=2048).train(), list[Any]()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    packs = [make_pack(seed, num_prompts=1 + seed, longest=30 * (1 + seed)) for seed in range(4)]
    assert len({layout.pad(pack, attention.BLOCK).num_tokens for pack in packs}) == 4
    plain = [scored(PackScorer(model), pack) for pack in packs]

    def counting(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, examples)

    scorer = PackScorer(model)
    compile_layers(scorer.decoder, counting)
    scorer.compiled, known = True, []
    for pack, wanted in zip(packs, plain, strict=True):
        assert_alike(scored(scorer, pack), wanted)
        known.append(len(graphs))
    scorer.eval()
    for pack, wanted in zip(packs, plain, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(scorer(pack), wanted[0], rtol=1e-5, atol=1e-4)
        known.append(len(graphs))
    training, scoring = known[:4], known[4:]
    assert 0 < training[1] == training[3] < scoring[1] == scoring[3], "two lengths, and none is compiled any more"


def test_a_scorer_has_its_layers_compiled_where_it_is_asked_to() -> None:
    model = make_model()
    for asked in (False, True):
        PackScorer(model, compiled=asked)
        assert all((layer._compiled_call_impl is not None) is asked for layer in model.model.layers)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"train\.compile: the layers of Linear .* set it to false"):
        compile_layers(torch.nn.Linear(2, 2))
