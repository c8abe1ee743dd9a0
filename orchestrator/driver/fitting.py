"""How many engines and ranks suit a model and a cluster: what `generate.engines`, `generate.tensor_parallel`,
`train.ranks` and `train.zero` come to where they are left to the machine. Pure; sums of memory are in memory.py.

Without GPUs: one engine, one rank, ZeRO 1. More of them would share the same cores.

`tensor_parallel`: the smallest power of two that divides the model's attention heads and with which an engine fits on
GPUs of one node: weights in the type that it serves in, and a cache for 32 sequences at once (fewer, where
`generate.max_num_seqs` is lower) of twice `generate.max_tokens`, or at least one of the longest that it must take, in
the share of a GPU's memory that an engine takes. Fewer sequences at once would leave it idle for most of a step, and
several small engines do more than one that talks to itself.

`engines`: as many as there are GPUs for, each on one node.

`ranks`: one on each GPU, at most `train.batch_pairs` of them, since a rank without a pair of its own has nothing to do.

`zero`: the smallest stage from 1 whose sum fits in nine tenths of a GPU, the smallest that has a rank; a higher one
spares memory and talks more. Where no stage fits on `train.batch_pairs` ranks, all GPUs are tried.

Where the memory of GPUs is not known, or the size of the model, an engine has one GPU, and ZeRO is 1. What a user sets
is taken as it is, whether the sums fit or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Generate, Train
from orchestrator.driver.memory import GIB, engine_memory, rank_memory
from orchestrator.errors import BadInput
from orchestrator.models.sizes import ModelSize

USABLE = 0.9
"""Of a GPU's memory, for a rank: the rest goes to the context, the network and to gaps."""
_SEQUENCES = 32
_CONTEXT = 4096  # tokens, where neither job nor model says how long a text may be
_MOST_GPUS = 4096


@dataclass(frozen=True)
class Gpus:
    """A node's GPUs: how many there are to give out, and the bytes of the smallest; None where that is not known."""

    count: int
    memory: int | None = None


@dataclass(frozen=True)
class Fit:
    """Numbers, and why it is these, for people."""

    values: tuple[int, int]
    why: str


def _smallest(nodes: Sequence[Gpus]) -> int | None:
    known = [node.memory for node in nodes if node.count]
    return min((memory for memory in known if memory is not None), default=None)


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"


# Engines


def fit_engines(
    size: ModelSize | None, settings: Generate, number_bytes: int, share: float, nodes: Sequence[Gpus], stages: int = 1
) -> Fit:
    """(engines, tensor_parallel) for the nodes; what the settings say stays. `share` is that of a GPU's memory which an
    engine takes, `stages` its pipeline-parallel size.

    Raises:
        BadInput: an engine fits on no node.
    """
    most = max((node.count for node in nodes), default=0)
    if not most:
        return Fit((settings.engines or 1, settings.tensor_parallel or 1), "there are no GPUs")
    memory = _smallest(nodes)
    spread, why = settings.tensor_parallel, "as it is set"
    if spread is None and (size is None or memory is None):
        spread = 1
        why = f"one GPU each, since {'the model' if size is None else 'their memory'} could not be measured"
    elif spread is None and size is not None and memory is not None:
        spread, why = _spread(size, settings, number_bytes, share, share * memory, most // stages, stages)
    each = (spread or 1) * stages
    engines = settings.engines or max(1, sum(node.count // each for node in nodes))
    return Fit((engines, spread or 1), why)


def _spread(
    size: ModelSize, settings: Generate, number_bytes: int, share: float, room: float, most: int, stages: int
) -> tuple[int, str]:
    needs = {}
    for devices in _powers(max(most, 1), size.heads):
        needs[devices] = engine_memory(size, number_bytes, devices * stages, cached_tokens(size, settings))
        if needs[devices] <= room:
            return devices, (
                f"an engine on {devices * stages} GPU takes {_gib(needs[devices])} of each, and may take {_gib(room)}"
            )
    on, least = list(needs.items())[-1]
    raise BadInput(
        f"generate.tensor_parallel: an engine does not fit on the GPUs of one node: spread over {on * stages} it takes "
        f"about {_gib(least)} of each, and may take {_gib(room)}. Would fit: "
        f"{_or(_fitting_engines(size, settings, number_bytes, share, room, on, stages))}. These are sums: set "
        "generate.tensor_parallel to try it all the same."
    )


def cached_tokens(size: ModelSize, settings: Generate) -> int:
    """Tokens that an engine's cache should have room for."""
    context = settings.max_model_len or size.context or _CONTEXT
    usual = min(context, 2 * settings.max_tokens)
    return max(min(settings.max_num_seqs or _SEQUENCES, _SEQUENCES) * usual, context)


def _fitting_engines(
    size: ModelSize, settings: Generate, number_bytes: int, share: float, room: float, on: int, stages: int
) -> Iterator[str]:
    for devices in _powers(_MOST_GPUS, size.heads):
        if engine_memory(size, number_bytes, devices * stages, cached_tokens(size, settings)) <= room:
            yield f"nodes with {devices * stages} GPU"
            break
    least = engine_memory(size, number_bytes, on * stages, cached_tokens(size, settings))
    yield f"GPUs with {_gib(least / share)} each"
    shorter = settings.model_copy(update={"max_model_len": 2 * settings.max_tokens})
    least = engine_memory(size, number_bytes, on * stages, cached_tokens(size, shorter))
    if settings.max_model_len is None and least <= room:
        yield f"generate.max_model_len: {2 * settings.max_tokens}"


def _powers(most: int, heads: int) -> Iterator[int]:
    devices = 1
    while devices <= most and heads % devices == 0:
        yield devices
        devices *= 2


# Ranks


def fit_ranks(size: ModelSize | None, settings: Train, nodes: Sequence[Gpus]) -> Fit:
    """(ranks, zero) for the nodes; what the settings say stays.

    Raises:
        BadInput: no stage fits.
    """
    gpus = sum(node.count for node in nodes)
    if not gpus:
        return Fit((settings.ranks or 1, 1 if settings.zero is None else settings.zero), "there are no GPUs")
    ranks = settings.ranks or min(gpus, settings.batch_pairs)
    if settings.zero is not None and settings.ranks is not None:
        return Fit((ranks, settings.zero), "as it is set")
    memory = _smallest(nodes)
    if size is None or memory is None:
        what = "the model" if size is None else "their memory"
        return Fit((ranks, 1 if settings.zero is None else settings.zero), f"{what} could not be measured")
    room = USABLE * memory
    stages = (1, 2, 3) if settings.zero is None else (settings.zero,)
    for number in dict.fromkeys((ranks, settings.ranks or gpus)):
        for stage in stages:
            if (need := rank_memory(size, settings, number, stage).total) <= room:
                why = f"a rank takes about {_gib(need)} of its GPU, and may take {_gib(room)}"
                if stage > stages[0]:
                    why += f"; with ZeRO {stage - 1} {_gib(rank_memory(size, settings, number, stage - 1).total)}"
                return Fit((number, stage), why)
    if settings.zero is not None:
        return Fit((ranks, settings.zero), "as ZeRO is set, though by the sums it does not fit")
    raise BadInput(_no_ranks(size, settings, settings.ranks or gpus, room))


def fits_rank(size: ModelSize | None, settings: Train, nodes: Sequence[Gpus], ranks: int, stage: int) -> bool:
    """Whether a rank's sum fits, as far as it is known."""
    memory = _smallest(nodes)
    if size is None or memory is None:
        return True
    return rank_memory(size, settings, ranks, stage).total <= USABLE * memory


def _no_ranks(size: ModelSize, settings: Train, gpus: int, room: float) -> str:
    least = rank_memory(size, settings, gpus, 3)
    parts = ", ".join(f"{name} {_gib(part)}" for name, part in least.parts().items() if part)
    return (
        f"train.zero: the training does not fit: on {gpus} GPU with ZeRO 3 a rank takes about {_gib(least.total)} "
        f"({parts}), and may take {_gib(room)}. Would fit: {_or(_fitting_ranks(size, settings, gpus, room))}. These "
        "are sums: set train.zero to try it all the same."
    )


def _fitting_ranks(size: ModelSize, settings: Train, gpus: int, room: float) -> Iterator[str]:
    """What would do, the least change first."""
    spare: dict[str, Any] = {"activation_checkpointing": True}
    choices = [spare, {"offload_optimizer": True}, spare | {"offload_optimizer": True}]
    for changes in (change for change in choices if any(getattr(settings, key) != True for key in change)):  # noqa: E712
        if rank_memory(size, settings.model_copy(update=changes), gpus, 3).total <= room:
            yield " with ".join(f"train.{key}: true" for key in changes)
    for changes in ({}, spare):
        more = gpus
        while more < _MOST_GPUS:
            more *= 2
            if rank_memory(size, settings.model_copy(update=changes), more, 3).total <= room:
                yield f"{more} such GPUs" + (" with train.activation_checkpointing: true" if changes else "")
                break


def _or(choices: Iterator[str]) -> str:
    return "; or ".join(choices) or "a smaller model"
