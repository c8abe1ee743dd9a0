"""How many ranks suit a model and a cluster, and how much each computes at once: what `train.ranks`, `train.zero`,
`train.tokens_per_microbatch` and `train.activation_checkpointing` come to where they are left to the machine. Pure;
sums of memory are in memory.py.

`ranks`: one on each GPU, at most `train.batch_pairs` of them, since a rank without a pair of its own has nothing to do.
Without GPUs one: more would share the same cores.

`zero`: the smallest stage from 1 whose sum fits; a higher one spares memory and talks more. Without GPUs 1. Where no
stage fits on `train.batch_pairs` ranks, all GPUs are tried.

`tokens_per_microbatch`: the most of `MICROBATCHES` with which a rank fits; on processors at most 4096, since more are
no faster there. `activation_checkpointing`: off where a rank fits without it, with micro-batches that are worth it. To
compute activations again costs a quarter of the time, small micro-batches some tenths, and ZeRO 3 gathers weights for
each. So tried in this order are, with stages 1 and 2 and then with 3: 4096 tokens or more, without and with smaller
ones (with ZeRO 3 none that is smaller), without checkpointing; the same with it.

A rank may take nine tenths of a GPU, the smallest that has one; on processors an equal share of six tenths of the
memory that is free on the fullest node before the work begins, since engines that rest stay there, and of nine tenths
with the least that there is. Where memory is not
known, or the size of the model, ZeRO is 1, and a micro-batch has 4096 tokens without checkpointing. What a user sets is
taken as it is; where all four are set, whether the sums fit or not. A single pair that is larger than a micro-batch is
in no sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from orchestrator.config import Train
from orchestrator.config.learning import USUAL_MICROBATCH
from orchestrator.driver.fitting import NO_GPUS, Fit, Gpus, gib, or_words, smallest_gpu
from orchestrator.driver.memory import LIBRARIES, rank_memory
from orchestrator.errors import BadInput
from orchestrator.models.sizes import ModelSize

USABLE = 0.9
"""Of a GPU's memory, for a rank: the rest goes to the context, the network and to gaps. Of a host's at most."""
HOST_USABLE = 0.6
"""Of the memory that is free on a node without GPUs, for all ranks there: the rest is left to engines that rest, to
graders and to files."""
MICROBATCHES = (16384, 8192, 4096, 2048, 1024, 512)
"""Tokens of a micro-batch, the largest first."""
_WORTH = {True: 2048, False: 1024}
"""The fewest for which activations are kept, with GPUs and without: fewer cost more than to compute them again."""
_MOST_GPUS = 4096


def fit_ranks(size: ModelSize | None, settings: Train, nodes: Sequence[Gpus]) -> Fit:
    """(ranks, zero, tokens_per_microbatch, activation_checkpointing) for the nodes; what the settings say stays.

    Raises:
        BadInput: nothing that is left to the machine makes it fit.
    """
    gpus = sum(node.count for node in nodes)
    if not gpus:
        return _on_processors(size, settings, nodes)
    ranks = settings.ranks or min(gpus, settings.batch_pairs)
    memory = smallest_gpu(nodes)
    if settings.ranks is not None and _all_set(settings):
        return _usual(settings, ranks, "as it is set")
    if size is None or memory is None:
        return _usual(settings, ranks, f"{'the model' if size is None else 'their memory'} could not be measured")
    room = USABLE * memory
    for number in dict.fromkeys((ranks, settings.ranks or gpus)):
        for stage, chosen in _choices(settings, True):
            if (need := rank_memory(size, chosen, number, stage).total) <= room:
                why = f"a rank takes about {gib(need)} of its GPU, and may take {gib(room)}"
                if settings.zero is None and stage > 1:
                    why += f"; with ZeRO {stage - 1} {gib(rank_memory(size, chosen, number, stage - 1).total)}"
                return Fit((number, stage, chosen.microbatch, chosen.checkpointing), why)
    if _all_set(settings):
        return _usual(settings, ranks, "as ZeRO is set, though by the sums it does not fit")
    raise BadInput(_refusal(size, settings, settings.ranks or gpus, room))


def fits_rank(size: ModelSize | None, settings: Train, nodes: Sequence[Gpus]) -> bool:
    """Whether a rank's sum fits with the settings' ranks and ZeRO, as far as it is known and with any of what they
    leave to the machine. On processors what was resolved stays: how much is free changes from minute to minute."""
    memory = smallest_gpu(nodes)
    if size is None or memory is None:
        return True
    needs = (rank_memory(size, chosen, settings.num_ranks, stage).total for stage, chosen in _choices(settings, True))
    return any(need <= USABLE * memory for need in needs)


def _all_set(settings: Train) -> bool:
    return None not in (settings.zero, settings.tokens_per_microbatch, settings.activation_checkpointing)


def _usual(settings: Train, ranks: int, why: str) -> Fit:
    return Fit((ranks, settings.stage, settings.microbatch, settings.checkpointing), why)


def _choices(settings: Train, gpus: bool) -> Iterator[tuple[int, Train]]:
    """ZeRO stages, and settings with what is left of micro-batch and checkpointing filled in: the best first."""
    stages = ((1, 2), (3,)) if settings.zero is None and gpus else ((settings.stage,),)
    for group in stages:
        for checkpointing, sizes in _work(settings, gpus, USUAL_MICROBATCH if group == (3,) else _WORTH[gpus]):
            for stage in group:
                for tokens in sizes:
                    filled = {"tokens_per_microbatch": tokens, "activation_checkpointing": checkpointing}
                    yield stage, settings.model_copy(update=filled)


def _work(settings: Train, gpus: bool, worth: int) -> Iterator[tuple[bool, list[int]]]:
    """Whether activations are computed again, and sizes of micro-batches, the largest first. They are kept where that
    can be with `worth` tokens."""
    asked, given = settings.activation_checkpointing, settings.tokens_per_microbatch
    for checkpointing in (False, True) if asked is None else (asked,):
        if given is not None:
            yield checkpointing, [given]
            continue
        sizes = [tokens for tokens in MICROBATCHES if gpus or tokens <= USUAL_MICROBATCH]
        least = worth if asked is None and not checkpointing else 0
        yield checkpointing, [tokens for tokens in sizes if tokens >= USUAL_MICROBATCH]
        yield checkpointing, [tokens for tokens in sizes if least <= tokens < USUAL_MICROBATCH]


# Processors


def _on_processors(size: ModelSize | None, settings: Train, nodes: Sequence[Gpus]) -> Fit:
    ranks, usual = settings.num_ranks, _usual(settings, settings.num_ranks, NO_GPUS)
    free = min((node.host for node in nodes if node.host is not None), default=None)
    if size is None or free is None or _all_set(settings.model_copy(update={"zero": settings.stage})):
        return usual
    share, choices = free / -(-ranks // len(nodes)), list(_choices(settings, False))
    for part, tried in ((HOST_USABLE, choices), (USABLE, choices[-1:])):
        for stage, chosen in tried:
            if (need := _on_host(size, chosen, ranks, stage)) <= part * share:
                fit = Fit((ranks, stage, chosen.microbatch, chosen.checkpointing), NO_GPUS)
                spared = f"a rank takes about {gib(need)}, and may take {gib(part * share)} of the memory that is free"
                return fit if fit == usual else Fit(fit.values, spared)
    raise BadInput(_refusal_on_host(size, settings, ranks, free, USABLE * share))


def _on_host(size: ModelSize, settings: Train, ranks: int, stage: int) -> int:
    """What a rank's process takes there. The host's memory is where offloading would move anything to."""
    there = settings.model_copy(update={"offload_optimizer": False})
    return rank_memory(size, there, ranks, stage).total + LIBRARIES


# What is said where nothing fits


def _least(settings: Train, gpus: bool) -> Train:
    """The settings with the least that is left to the machine."""
    return list(_choices(settings, gpus))[-1][1]


def _parts(size: ModelSize, settings: Train, ranks: int, stage: int) -> str:
    parts = rank_memory(size, settings, ranks, stage).parts()
    return ", ".join(f"{name} {gib(part)}" for name, part in parts.items() if part)


def _left(settings: Train) -> Iterator[str]:
    """The keys that are left to the machine."""
    for name in ("zero", "tokens_per_microbatch", "activation_checkpointing"):
        if getattr(settings, name) is None:
            yield f"train.{name}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _with(settings: Train) -> str:
    """What a refusal was tried with."""
    words = "" if not settings.checkpointing else " and train.activation_checkpointing: true"
    return f"train.tokens_per_microbatch: {settings.microbatch}{words}"


def _refusal(size: ModelSize, settings: Train, gpus: int, room: float) -> str:
    stage, least = 3 if settings.zero is None else settings.zero, _least(settings, True)
    left = list(_left(settings))
    return (
        f"{left[0]}: the training does not fit: on {gpus} GPU with ZeRO {stage}, {_with(least)} a rank takes about "
        f"{gib(rank_memory(size, least, gpus, stage).total)} ({_parts(size, least, gpus, stage)}), and may take "
        f"{gib(room)}. Would fit: {or_words(_fitting(size, least, gpus, stage, room))}. These are sums: set "
        f"{_and(left)} to try it all the same."
    )


def _fitting(size: ModelSize, least: Train, gpus: int, stage: int, room: float) -> Iterator[str]:
    """What would do, the least change first."""
    spare: dict[str, Any] = {"activation_checkpointing": True}
    choices = [spare, {"offload_optimizer": True}, spare | {"offload_optimizer": True}]
    for changes in (change for change in choices if not any(getattr(least, key) for key in change)):
        if rank_memory(size, least.model_copy(update=changes), gpus, stage).total <= room:
            yield " with ".join(f"train.{key}: true" for key in changes)
    for changes in ({},) if least.checkpointing else ({}, spare):
        more = gpus
        while more < _MOST_GPUS:
            more *= 2
            if rank_memory(size, least.model_copy(update=changes), more, stage).total <= room:
                yield f"{more} such GPUs" + (" with train.activation_checkpointing: true" if changes else "")
                break


def _refusal_on_host(size: ModelSize, settings: Train, ranks: int, free: int, room: float) -> str:
    least, left = _least(settings, False), list(_left(settings.model_copy(update={"zero": settings.stage})))
    need = _on_host(size, least, ranks, settings.stage)
    return (
        f"{left[0]}: the training does not fit: with {_with(least)} a rank takes about {gib(need)} (libraries "
        f"{gib(LIBRARIES)}, {_parts(size, least, ranks, settings.stage)}), and may take {gib(room)} of the {gib(free)} "
        f"that are free. Have {gib(need / room * free)} free, or choose a smaller model. These are sums: set "
        f"{_and(left)} to try it all the same."
    )
