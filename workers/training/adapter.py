"""Low-rank adapters through peft (LoRA, arXiv 2106.09685): put into a model, merged into its weights, written down.

    model.layers.0.self_attn.q_proj                          a linear layer of the model, in whose place peft puts
    model.layers.0.self_attn.q_proj.base_layer.weight   W    what was there, frozen
    model.layers.0.self_attn.q_proj.lora_A.default.weight    A, [rank, in]
    model.layers.0.self_attn.q_proj.lora_B.default.weight    B, [out, rank]

The truth of a training is its base and the float32 values of A and B. What is served is W + (alpha / rank) B A,
computed in float32 from the base's own file and rounded once, to the checkpoint's number format. Where that format
rounds away what was learnt, `Merge.kept` says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.config import Lora
from orchestrator.records.adapters import BASE, CONFIG, WEIGHTS, AdapterPlan
from workers.numerics.attention import UnsupportedModel
from workers.training.export import ExportError, full_weight, kept_buffers
from workers.training.loading import Weights

_NAME = "default"  # peft's, of a model's first adapter
_PREFIX = "base_model.model."  # of the names in peft's files


def inject(model: nn.Module, lora: Lora) -> None:
    """Put an adapter without values (on the meta device) beside each layer that `lora` names, and freeze all else.

    Raises:
        UnsupportedModel: the model has no such layer, or one that cannot have an adapter here; or there is no peft.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise UnsupportedModel(
            f"lora: adapters need the package peft ({error}); install it as requirements/ have it, or set `lora: null`"
        ) from error

    targets = lora.targets
    found: Any = model
    head, embedding = found.get_output_embeddings(), found.get_input_embeddings()
    for name, module in model.named_modules():
        if module in (head, embedding) and isinstance(targets, list) and _is_named(name, targets):
            raise UnsupportedModel(
                f"lora.targets: {name} turns tokens into numbers or back, and has no adapter here: name layers in "
                "between, or take `all-linear`"
            )
    try:
        inject_adapter_in_model(_config(lora), model, low_cpu_mem_usage=True)
    except ValueError as error:
        linear = (name for name, module in model.named_modules() if _is_linear(module) and module is not head)
        names = sorted({name.rpartition(".")[2] for name in linear})
        raise UnsupportedModel(
            f"lora.targets: {lora.targets}: {type(model).__name__} has no layer of such a name that can have an "
            f"adapter; it has {', '.join(names)}"
        ) from error
    made = [name for name, _ in layers(model)]
    for target in targets if isinstance(targets, list) else ():
        if not any(_is_named(name, [target]) for name in made):  # which peft passes over where another one is there
            raise UnsupportedModel(
                f"lora.targets: {target}: {type(model).__name__} has no layer of this name; take it out"
            )


def _config(lora: Lora) -> Any:
    """peft's configuration of such an adapter."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,  # which it divides by r, and may be no whole number
        target_modules=lora.targets,
        lora_dropout=0.0,
        bias="none",
    )


def layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that have an adapter, by their names."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def begin(model: nn.Module, plan: AdapterPlan) -> dict[str, Tensor]:
    """The float32 values that the adapter begins with, by the model's names of them: those of the adapter that it goes
    on from, or new ones as peft makes them, of the plan's seed alone.

    Raises:
        UnsupportedModel: the adapter that it goes on from is another one.
    """
    if plan.start is not None:
        return _read(model, Path(plan.start))
    values = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        for name, layer in layers(model):
            for side in (layer.lora_A, layer.lora_B):
                side[_NAME].to_empty(device="cpu").float()
            layer.reset_lora_parameters(_NAME, True)
            for letter, side in (("A", layer.lora_A), ("B", layer.lora_B)):
                values[f"{name}.lora_{letter}.{_NAME}.weight"] = side[_NAME].weight.detach()
                side[_NAME].to("meta")
    return values


def _read(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    values = {}
    with safe_open(folder / WEIGHTS, framework="pt") as found:
        stored = set(found.keys())
        for name, parameter in model.named_parameters():
            if not is_adapter(name):
                continue
            key = _file_name(name)
            if key not in stored or list(found.get_slice(key).get_shape()) != list(parameter.shape):
                raise UnsupportedModel(f"{folder / WEIGHTS}: is not the adapter that goes on (no {key} of its size)")
            values[name] = found.get_tensor(key).float()
    return values


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is the adapter's."""
    return name.endswith(f".{_NAME}.weight") and (".lora_A." in name or ".lora_B." in name)


def plain(name: str) -> str:
    """A parameter's name without the adapter around its layer."""
    return name.replace(".base_layer.", ".")


@contextmanager
def without(model: nn.Module) -> Iterator[None]:
    """Let the model compute without its adapter; where it has none, as it does."""
    found = [layer for _, layer in layers(model)]
    for layer in found:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in found:
            layer.enable_adapters(True)


class Merge:
    """The weights of a folder with an adapter merged into them, one by one. Collective: every rank goes through
    `tensors`; rank 0 alone has values."""

    def __init__(self, model: nn.Module, base: str, dtype: torch.dtype, sharded: bool, has_master: bool) -> None:
        self._model, self._weights, self._dtype = model, Weights(base), dtype
        self._sharded, self._has_master = sharded, has_master
        self._served = self._learnt = 0.0
        self.adapter: dict[str, Tensor] = {}
        """Float32 values of the adapter, by peft's names in a file."""

    @property
    def kept(self) -> float | None:
        """How much of what was learnt is in the merged weights, by its direction: 1 where all is, 0 where rounding to
        the number format took it away; None where nothing was learnt. Known when all tensors were made."""
        return self._served / self._learnt if self._learnt else None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each weight and kept buffer, under the names of the model without an adapter."""
        found = {f"{name}.base_layer.weight": layer for name, layer in layers(self._model)}
        names: dict[nn.Parameter, list[str]] = {}
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            if not is_adapter(name):
                names.setdefault(parameter, []).append(name)
        for aliases in names.values():
            layer = found.get(aliases[0])
            sides = None if layer is None else self._sides(aliases[0].removesuffix(".base_layer.weight"), layer)
            if dist.get_rank() != 0:
                yield plain(aliases[0]), torch.empty(0)
                continue
            value = self._weights.read(self._weights.stored(aliases), torch.float32)
            yield plain(aliases[0]), value if sides is None else self._merged(value, layer, *sides)
        yield from kept_buffers(self._model)

    def _sides(self, name: str, layer: Any) -> tuple[Tensor, Tensor]:
        """A and B of a layer, whole and in float32, in the host's memory."""
        sides = []
        for letter, side in (("A", layer.lora_A), ("B", layer.lora_B)):
            value = full_weight(side[_NAME].weight, self._sharded, self._has_master).float().cpu()
            self.adapter[f"{_PREFIX}{name}.lora_{letter}.weight"] = value.clone()
            sides.append(value)
        return sides[0], sides[1]

    def _merged(self, base: Tensor, layer: Any, a: Tensor, b: Tensor) -> Tensor:
        change = (b @ a) * layer.scaling[_NAME]
        if layer.fan_in_fan_out:  # transformers' Conv1D has its weight the other way round
            change = change.T
        merged = base + change
        served = merged.to(self._dtype).float() - base.to(self._dtype).float()
        self._served += float((served.double() * change.double()).sum())
        self._learnt += float(change.double().square().sum())
        return merged


def write(folder: Path, lora: Lora, adapter: dict[str, Tensor], base: dict[str, str]) -> None:
    """Write an adapter as peft reads it, and what it is one to; nothing of it says where anything lies.

    Raises:
        ExportError: a value is not finite.
    """
    if bad := [name for name, value in adapter.items() if not bool(torch.isfinite(value).all())]:
        raise ExportError(f"{bad[0]} holds a value that is not finite after training; nothing was published")
    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in sorted(adapter.items())}, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(folder.stat().st_mode & 0o666)  # else it is its owner's alone
    said = _config(lora).to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    said["target_modules"] = sorted({name[len(_PREFIX) :].rpartition(".lora_")[0] for name in adapter})
    (folder / CONFIG).write_text(json.dumps(said, indent=2, sort_keys=True, default=_as_json) + "\n")
    (folder / BASE).write_text(json.dumps({"sha256": base}, indent=2, sort_keys=True) + "\n")


def put(model: nn.Module, folder: str, everything: bool, sharded: bool) -> None:
    """Give the frozen weights of a model's adapted layers, or all frozen ones, the values of a folder, as rank 0 reads
    them. Collective."""
    weights = Weights(folder)
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not is_adapter(name) and (everything or ".base_layer." in name):
            names.setdefault(parameter, []).append(name)
    for parameter, aliases in names.items():
        with _whole(parameter, sharded), torch.no_grad():
            if dist.get_rank() == 0:
                parameter.data.copy_(weights.read(weights.stored(aliases), parameter.dtype))
            if not sharded:
                dist.broadcast(parameter.data, 0)


@contextmanager
def _whole(parameter: nn.Parameter, sharded: bool) -> Iterator[None]:
    if not sharded:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        yield


def _file_name(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.weight", ".weight")


def _is_named(name: str, targets: list[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _as_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)
