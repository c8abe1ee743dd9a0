"""What a model in memory is, as digests: whether weights that were loaded in place are those of a fresh start."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

_NOT_WEIGHTS = ("kv_cache",)  # tensors of a module that hold what is being computed


def digests(model: Any) -> dict[str, str]:
    """A digest of each tensor that the modules of a torch model hold: parameters, buffers, and what was made of them
    when they were loaded. Matrices that are packed away on CPU, where nothing but their product can be had, are told by
    that, with a vector that is the same each time."""
    return {f"{name}.{key}": _digest(tensor) for name, module in model.named_modules() for key, tensor in _of(module)}


def _of(module: Any) -> Iterator[tuple[str, Any]]:
    import torch

    for held in (module._parameters, module._buffers, vars(module)):
        for key, value in held.items():
            if isinstance(value, torch.Tensor) and key not in _NOT_WEIGHTS:
                yield key, value
    if hasattr(module, "cpu_linear"):
        yield "cpu_linear", _product(module)


def _product(module: Any) -> Any:
    """What a layer of vLLM's makes of a vector on CPU, by the packed copy of its weights that it computes with."""
    import torch

    weight = module.weight
    width = weight.shape[-1] if weight.ndim > 1 else module.input_size_per_partition
    vector = torch.randn(1, width, generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    return module.cpu_linear(vector, weight, None)


def _digest(tensor: Any) -> str:
    import torch

    said = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    held = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()
    return hashlib.blake2b(held, digest_size=16, key=hashlib.sha256(said).digest()).hexdigest()
