"""How many ranks suit a model and a cluster, and how much each computes at once; the models are configurations alone,
the nodes numbers. tests/real/test_memory_real.py holds the sums against real ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config import Train
from orchestrator.driver.fitting import NO_GPUS, Gpus
from orchestrator.driver.memory import GIB, LIBRARIES, rank_memory
from orchestrator.driver.rank_fitting import HOST_USABLE, USABLE, fit_ranks, fits_rank
from orchestrator.errors import BadInput
from orchestrator.models.sizes import ModelSize
from tests.orchestrator.driver.test_fitting import EIGHT, MIXED, ONE, SEVEN, SEVENTY, SIXTEEN, SMALL

SPARED: dict[str, Any] = {"tokens_per_microbatch": 512, "activation_checkpointing": True}
SET: dict[str, Any] = {"tokens_per_microbatch": 4096, "activation_checkpointing": False}


@pytest.mark.parametrize(
    ("model", "nodes", "values"),
    [
        (SMALL, [], (1, 1, 4096, False)),
        (SEVENTY, [Gpus(0)], (1, 1, 4096, False)),
        (SMALL, ONE, (1, 1, 16384, False)),
        (SMALL, SIXTEEN, (16, 1, 16384, False)),
        (SEVEN, EIGHT, (8, 2, 4096, False)),
        (SMALL, MIXED, (6, 1, 16384, False)),
        (SEVEN, [Gpus(4, 141 * GIB), Gpus(4, 80 * GIB)], (8, 2, 4096, False)),
        (SEVEN, [Gpus(4, 80 * GIB)], (4, 2, 2048, False)),
        (SEVEN, [Gpus(8, 40 * GIB)], (8, 2, 8192, True)),
        (None, EIGHT, (8, 1, 4096, False)),
        (SEVENTY, [Gpus(8)], (8, 1, 4096, False)),
    ],
)
def test_what_suits_a_model_and_a_cluster(model: ModelSize | None, nodes: list[Gpus], values: tuple[int, ...]) -> None:
    assert fit_ranks(model, Train(), nodes).values == values


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (Train(ranks=2, **SET), (2, 1)),
        (Train(zero=3, **SET), (8, 3)),
        (Train(zero=0, **SET), (8, 0)),
        (Train(ranks=3, zero=1, **SET), (3, 1)),
        (Train(batch_pairs=4, **SET), (4, 3)),
        (Train(offload_optimizer=True, **SET), (8, 2)),
        (Train(**SPARED), (8, 1)),
        (Train(batch_pairs=1, **SET), (8, 2)),
    ],
)
def test_what_is_set_stays_and_decides_the_rest(settings: Train, values: tuple[int, int]) -> None:
    """A batch of one pair has more ranks than pairs, since fewer do not fit."""
    nodes = [Gpus(8, 141 * GIB)] if settings.ranks == 2 else EIGHT
    found = fit_ranks(SEVEN, settings, nodes).values
    assert found == (*values, settings.tokens_per_microbatch, settings.activation_checkpointing)


def room_for(size: ModelSize, ranks: int, stage: int, tokens: int, checkpointing: bool) -> list[Gpus]:
    """So many GPUs on which a rank just fits with these."""
    settings = Train(tokens_per_microbatch=tokens, activation_checkpointing=checkpointing)
    return [Gpus(ranks, int(rank_memory(size, settings, ranks, stage).total / USABLE) + 1)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_micro_batch_is_the_most_that_fits_and_activations_are_kept_where_that_is_worth_it(stage: int) -> None:
    left = Train(zero=stage)
    for tokens, checkpointing in ((16384, False), (8192, False), (4096, False), (16384, True), (8192, True)):
        nodes = room_for(SEVEN, 8, stage, tokens, checkpointing)
        assert fit_ranks(SEVEN, left, nodes).values == (8, stage, tokens, checkpointing)
        less = [Gpus(8, (nodes[0].memory or 0) - 10)]
        assert fit_ranks(SEVEN, left, less).values != (8, stage, tokens, checkpointing)
    small = fit_ranks(SEVEN, left, room_for(SEVEN, 8, stage, 2048, False)).values
    assert small[2:] == (2048, False) if stage < 3 else small[3], "with ZeRO 3 that is not worth it"
    least = room_for(SEVEN, 8, stage, 512, True)
    assert fit_ranks(SEVEN, left, least).values[3]
    with pytest.raises(BadInput, match=r"^train.tokens_per_microbatch: the training does not fit"):
        fit_ranks(SEVEN, left, [Gpus(8, (least[0].memory or 0) - 10)])
    kept = room_for(SEVEN, 8, stage, 512, False)
    assert fit_ranks(SEVEN, Train(zero=stage, activation_checkpointing=False), kept).values[2:] == (512, False)
    assert fit_ranks(SEVEN, Train(zero=stage, tokens_per_microbatch=512), kept).values[2:] == (512, False)
    assert fit_ranks(SEVEN, left, kept).values[3], "computed again, micro-batches are larger"


def test_zero_3_gathers_weights_and_comes_last() -> None:
    """Where ZeRO 2 fits with checkpointing and 3 without, it is 2."""
    nodes = room_for(SEVENTY, 64, 2, 16384, True)
    left = Train(batch_pairs=64)
    assert rank_memory(SEVENTY, left, 64, 3).total <= USABLE * (nodes[0].memory or 0), "3 would fit without"
    assert fit_ranks(SEVENTY, left, nodes).values == (64, 2, 16384, True)
    assert fit_ranks(SEVENTY, left.model_copy(update={"zero": 3}), nodes).values == (64, 3, 4096, False)


def test_what_was_resolved_holds_as_long_as_it_fits() -> None:
    assert fits_rank(SEVEN, Train(ranks=8, zero=2), EIGHT) and not fits_rank(SEVEN, Train(ranks=1, zero=1), EIGHT)
    assert fits_rank(SEVEN, Train(ranks=8, zero=2, tokens_per_microbatch=8192), EIGHT), "with checkpointing"
    assert not fits_rank(
        SEVEN, Train(ranks=8, zero=2, tokens_per_microbatch=8192, activation_checkpointing=False), EIGHT
    )
    assert fits_rank(SEVENTY, Train(ranks=1, zero=1), [Gpus(0, host=GIB)]), "on processors it stays"


# Processors


def host(size: ModelSize, tokens: int, checkpointing: bool, part: float = HOST_USABLE) -> list[Gpus]:
    settings = Train(tokens_per_microbatch=tokens, activation_checkpointing=checkpointing)
    return [Gpus(0, host=int((rank_memory(size, settings, 1, 1).total + LIBRARIES) / part) + 1)]


def test_on_processors_the_memory_that_is_free_decides() -> None:
    plenty = fit_ranks(SMALL, Train(), [Gpus(0, host=64 * GIB)])
    assert plenty.values == (1, 1, 4096, False) and plenty.why == NO_GPUS
    for tokens, checkpointing in ((2048, False), (1024, False), (4096, True), (2048, True)):
        found = fit_ranks(SMALL, Train(), host(SMALL, tokens, checkpointing))
        assert found.values == (1, 1, tokens, checkpointing) and found.why.startswith("a rank takes about ")
    least = host(SMALL, 512, True, USABLE)
    assert fit_ranks(SMALL, Train(), least).values[2:] == (512, True)
    with pytest.raises(BadInput, match="the training does not fit"):
        fit_ranks(SMALL, Train(), [Gpus(0, host=(least[0].host or 0) - 10)])
    two = [Gpus(0, host=2 * (least[0].host or 0))]
    assert fit_ranks(SMALL, Train(ranks=2, zero=0), two * 2).values[0] == 2, "each on a node"


def test_ranks_of_a_node_share_its_memory() -> None:
    nodes = host(SMALL, 4096, False)
    assert fit_ranks(SMALL, Train(), nodes).values[2:] == (4096, False)
    shared = fit_ranks(SMALL, Train(ranks=2), nodes).values
    assert shared[2:] != (4096, False) and fit_ranks(SMALL, Train(ranks=2), nodes * 2).values[2:] == (4096, False)


def test_what_does_not_fit_a_host_is_refused_with_what_it_takes() -> None:
    nodes = [Gpus(0, host=3 * GIB)]
    with pytest.raises(BadInput) as refusal:
        fit_ranks(SMALL, Train(), nodes)
    said = str(refusal.value)
    assert said.startswith(
        "train.tokens_per_microbatch: the training does not fit: with train.tokens_per_microbatch: 512 and "
        "train.activation_checkpointing: true a rank takes about "
    )
    assert "libraries 0.5 GiB" in said and "of the 3.0 GiB that are free" in said and "\n" not in said
    assert said.endswith("set train.tokens_per_microbatch and train.activation_checkpointing to try it all the same.")
    assert fit_ranks(SMALL, Train(**SET), nodes).values == (1, 1, 4096, False), "as it is set"
    with pytest.raises(BadInput, match=r"^train\.activation_checkpointing: .* set train\.activation_checkpointing to"):
        fit_ranks(SMALL, Train(tokens_per_microbatch=4096), nodes)
    with pytest.raises(BadInput, match="libraries"):
        fit_ranks(SMALL, Train(offload_optimizer=True), nodes)  # the host's memory is where it would go to
    assert fit_ranks(None, Train(), nodes).values == fit_ranks(SMALL, Train(), [Gpus(0)]).values == (1, 1, 4096, False)


# What is said


def test_a_training_that_fits_nowhere_is_refused_with_what_would_fit() -> None:
    with pytest.raises(BadInput) as refusal:
        fit_ranks(SEVENTY, Train(), SIXTEEN)
    said = str(refusal.value)
    assert said.startswith(
        "train.zero: the training does not fit: on 16 GPU with ZeRO 3, train.tokens_per_microbatch: 512 and "
        "train.activation_checkpointing: true a rank takes about"
    )
    assert "Would fit: train.offload_optimizer: true; or 32 such GPUs." in said and "\n" not in said
    assert said.endswith(
        "set train.zero, train.tokens_per_microbatch and train.activation_checkpointing to try it all the same."
    )
    changes = {"activation_checkpointing": True, "offload_optimizer": True}
    assert fit_ranks(SEVENTY, Train(**changes), SIXTEEN).values[:2] == (16, 3)
    assert fit_ranks(SEVENTY, Train(activation_checkpointing=True, batch_pairs=32), EIGHT * 4).values[:2] == (32, 3)
    with pytest.raises(BadInput) as refusal:
        fit_ranks(SEVENTY, Train(**SET), SIXTEEN)
    said = str(refusal.value)
    assert "train.activation_checkpointing: true with train.offload_optimizer: true" in said
    assert "32 such GPUs with train.activation_checkpointing: true" in said and said.endswith(
        "set train.zero to try it all the same."
    )


def test_why_it_is_so_is_told() -> None:
    assert "with ZeRO 1" in fit_ranks(SEVEN, Train(), EIGHT).why
    assert fit_ranks(SEVENTY, Train(zero=1, **SET), SIXTEEN).why == (
        "as ZeRO is set, though by the sums it does not fit"
    )


def test_the_sums_of_a_rank_are_those_of_its_stage() -> None:
    p = SEVEN.parameters
    by_stage = [rank_memory(SEVEN, Train(), 8, stage) for stage in range(4)]
    assert [m.moments for m in by_stage] == [8 * p, *[8 * (-(-p // 8))] * 3]
    assert by_stage[1].weights + by_stage[1].gradients == 6 * p and by_stage[0].masters == 0
    assert [m.kept for m in by_stage] == sorted((m.kept for m in by_stage), reverse=True)
    assert rank_memory(SEVEN, Train(offload_optimizer=True), 8, 2).moments == 0
    assert rank_memory(SEVEN, Train(precision="fp32"), 1, 1).weights == 4 * p


def test_of_an_adapter_the_sums_are_its_own() -> None:
    small, p = replace(SEVEN, adapter=20_000_000), SEVEN.parameters
    for stage in range(4):
        whole, own = (rank_memory(size, Train(), 8, stage) for size in (SEVEN, small))
        assert own.weights == whole.weights and own.activations == whole.activations, "all weights are there"
        assert own.moments == (8 * small.trained if stage == 0 else small.trained)
        assert own.gradients < whole.gradients / 100 and own.update < whole.update / 100
    assert rank_memory(small, Train(), 1, 1).total < rank_memory(SEVEN, Train(), 1, 1).total - 15 * p
