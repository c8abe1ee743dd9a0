"""How many engines suit a model and a cluster: what `generate.engines` and `generate.tensor_parallel` come to where
they are left to the machine. Pure; sums of memory are in memory.py. rank_fitting.py does the same for ranks.

Without GPUs: one engine. More of them would share the same cores.

`tensor_parallel`: the smallest power of two that divides the model's attention heads and with which an engine fits on
GPUs of one node: weights in the type that it serves in, and a cache for 32 sequences at once (fewer, where
`generate.max_num_seqs` is lower) of twice `generate.max_tokens`, or at least one of the longest that it must take, in
the share of a GPU's memory that an engine takes. Fewer sequences at once would leave it idle for most of a step, and
several small engines do more than one that talks to itself.

`engines`: as many as there are GPUs for, each on one node.

Where the memory of GPUs is not known, or the size of the model, an engine has one GPU. What a user sets is taken as it
is, whether the sums fit or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.config import Generate
from orchestrator.driver.memory import GIB, engine_memory
from orchestrator.errors import BadInput
from orchestrator.models.sizes import ModelSize

_SEQUENCES = 32
_CONTEXT = 4096  # tokens, where neither job nor model says how long a text may be
_MOST_GPUS = 4096


@dataclass(frozen=True)
class Gpus:
    """A node's GPUs: how many there are to give out, and the bytes of the smallest; None where that is not known."""

    count: int
    memory: int | None = None
    host: int | None = None
    """Bytes of the node's own memory that are free, where it has no GPUs and that is known."""


@dataclass(frozen=True)
class Fit:
    """Numbers, and why it is these, for people."""

    values: tuple[int, ...]
    why: str


NO_GPUS = "there are no GPUs"
"""Why numbers are those that suit processors."""


def smallest_gpu(nodes: Sequence[Gpus]) -> int | None:
    """Bytes of the smallest GPU whose memory is known."""
    known = [node.memory for node in nodes if node.count]
    return min((memory for memory in known if memory is not None), default=None)


def gib(size: float) -> str:
    """An amount of memory for people."""
    return f"{size / GIB:.1f} GiB"


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
        return Fit((settings.engines or 1, settings.tensor_parallel or 1), NO_GPUS)
    memory = smallest_gpu(nodes)
    spread = settings.tensor_parallel
    if spread is not None:
        why = "an engine for every " + ("GPU" if spread * stages == 1 else f"{spread * stages} GPUs of a node")
    elif size is None or memory is None:
        spread = 1
        why = f"one GPU each, since {'the model' if size is None else 'their memory'} could not be measured"
    else:
        spread, why = _spread(size, settings, number_bytes, share, share * memory, most // stages, stages)
    engines = settings.engines or max(1, sum(node.count // (spread * stages) for node in nodes))
    return Fit((engines, spread), why)


def _spread(
    size: ModelSize, settings: Generate, number_bytes: int, share: float, room: float, most: int, stages: int
) -> tuple[int, str]:
    needs = {}
    for devices in _powers(max(most, 1), size.heads):
        needs[devices] = engine_memory(size, number_bytes, devices * stages, cached_tokens(size, settings))
        if needs[devices] <= room:
            return devices, (
                f"an engine on {devices * stages} GPU takes {gib(needs[devices])} of each, and may take {gib(room)}"
            )
    on, least = list(needs.items())[-1]
    raise BadInput(
        f"generate.tensor_parallel: an engine does not fit on the GPUs of one node: spread over {on * stages} it takes "
        f"about {gib(least)} of each, and may take {gib(room)}. Would fit: "
        f"{or_words(_fitting_engines(size, settings, number_bytes, share, room, on, stages))}. These are sums: set "
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
    yield f"GPUs with {gib(least / share)} each"
    shorter = settings.model_copy(update={"max_model_len": 2 * settings.max_tokens})
    least = engine_memory(size, number_bytes, on * stages, cached_tokens(size, shorter))
    if settings.max_model_len is None and least <= room:
        yield f"generate.max_model_len: {2 * settings.max_tokens}"


def or_words(choices: Iterator[str]) -> str:
    """What would fit, for people."""
    return "; or ".join(choices) or "a smaller model"


def _powers(most: int, heads: int) -> Iterator[int]:
    devices = 1
    while devices <= most and heads % devices == 0:
        yield devices
        devices *= 2
