"""A model from a Hugging Face folder, tensor by tensor: host memory holds one weight beside what the rank keeps.

The model is made without weights (on torch's meta device), and each of them is read when it is its turn: in ZeRO 0 to 2
straight to where it is computed with, in ZeRO 3 by rank 0 alone, which shares it out over the ranks. Models whose
weights transformers renames or rearranges while it loads are left to it, and loaded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from orchestrator.records.model_folder import weight_files
from workers.numerics.logprobs import disable_dropout

Beat = Callable[[], None]


class IncompleteModel(ValueError):
    """A folder's weights do not fill the model; the message names the folder and a weight."""


class Weights:
    """The tensors of a folder's safetensors files, by name. A file is mapped only while one of them is read."""

    def __init__(self, folder: str) -> None:
        self._files: dict[str, Path] = {}
        self._held: dict[str, Tensor] = {}
        self.shapes: dict[str, list[int]] = {}
        for file in weight_files(Path(folder)):
            with safe_open(file, framework="pt") as found:
                for name in found.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    self._files[name], self.shapes[name] = file, found.get_slice(name).get_shape()

    def read(self, name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """A copy of a tensor."""
        if name in self._held:
            return self._held[name].to(device, dtype, copy=True)
        with safe_open(self._files[name], framework="pt") as found:
            tensor: Tensor = found.get_tensor(name)
            return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Have some more, which are in no file."""
        self._held |= tensors
        self.shapes |= {name: list(tensor.shape) for name, tensor in tensors.items()}

    def stored(self, names: Iterable[str]) -> str:
        """The first of a parameter's names that there is a tensor of; around a layer there may be an adapter, of which
        a folder knows nothing."""
        return next(own for name in names for own in (name, name.replace(".base_layer.", ".")) if own in self.shapes)

    def fits(self, name: str, tensor: Tensor) -> bool:
        return self.shapes.get(name) == list(tensor.shape)


def load_model(folder: str, dtype: torch.dtype, beat: Beat = lambda: None) -> nn.Module:
    """A causal language model from a Hugging Face folder, safetensors only, without dropout: without its weights, on
    the meta device, where `fill` can bring them, and whole otherwise. `beat` is called for every weight.

    Raises IncompleteModel when the folder lacks weights, which would otherwise be filled at random.
    """
    model = _hollow(folder, dtype, beat)
    return model if _simply_named(model, Weights(folder)) else load_whole(folder, dtype, beat)


def load_whole(folder: str, dtype: torch.dtype, beat: Beat = lambda: None) -> nn.Module:
    """The same with all weights in host memory, as transformers loads it."""
    from transformers import AutoModelForCausalLM

    with _registering(lambda parameter: beat()):
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=_config(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        raise IncompleteModel(
            f"{folder}: its weights lack {missing[0]} (and {len(missing) - 1} more); the checkpoint is incomplete, "
            "so take another one or write it again"
        )
    return model


def fill(model: nn.Module, weights: Weights, dtype: torch.dtype, device: torch.device, read: bool, beat: Beat) -> Any:
    """Yield each parameter of a model from `load_model` with its weight, in place of the empty one; what is yielded may
    be sharded before the next is asked for. Where `read` is false its values are left open. Buffers that the folder has
    come first."""
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in persistent and name in weights.shapes:
            buffer.data = weights.read(name, buffer.dtype)
    for parameter, names in list(aliases(model).items()):
        if not parameter.is_meta:
            yield parameter
            continue
        stored = weights.stored(names)
        value = (
            weights.read(stored, dtype, device) if read else torch.empty(parameter.shape, dtype=dtype, device=device)
        )
        filled = nn.Parameter(value, requires_grad=parameter.requires_grad)
        del value
        for name in names:
            owner, _, own = name.rpartition(".")
            model.get_submodule(owner).register_parameter(own, filled)
        beat()
        yield filled


class OneByOne(nn.Module):
    """Parameters that come into being when they are asked for: `deepspeed.zero.Init` shards each as it comes."""

    def __init__(self, made: Iterator[nn.Parameter]) -> None:
        super().__init__()
        self._made = made

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return self._made


def aliases(model: nn.Module) -> dict[nn.Parameter, list[str]]:
    """All names of each parameter; a tied one has several, and its file has any of them."""
    found: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(parameter, []).append(name)
    return found


def _config(folder: str) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    disable_dropout(config)
    config.use_cache = False
    return config


def _hollow(folder: str, dtype: torch.dtype, beat: Beat) -> nn.Module:
    """The model with its buffers, and with parameters that take no memory."""
    from transformers import AutoModelForCausalLM

    def emptied(parameter: nn.Parameter | None) -> nn.Parameter | None:
        beat()
        if parameter is None or parameter.is_meta:
            return parameter
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    with _registering(emptied):
        model: nn.Module = AutoModelForCausalLM.from_config(_config(folder), dtype=dtype, trust_remote_code=False)
    return model.eval()


def _simply_named(model: Any, weights: Weights) -> bool:
    """Whether the folder has each weight as it is in the model."""
    if getattr(model, "_keep_in_fp32_modules_strict", None) or getattr(model, "_keep_in_fp32_modules", None):
        return False
    buffers = [name for name in model.state_dict() if name in dict(model.named_buffers())]
    return all(
        any(weights.fits(name, parameter) for name in names) for parameter, names in aliases(model).items()
    ) and all(name in weights.shapes for name in buffers)


@contextmanager
def _registering(seen: Callable[[nn.Parameter | None], nn.Parameter | None]) -> Iterator[None]:
    """Show `seen` every parameter that any module is given in the meantime; what it returns takes its place."""
    hook = register_module_parameter_registration_hook(lambda module, name, parameter: seen(parameter))
    try:
        yield
    finally:
        hook.remove()
