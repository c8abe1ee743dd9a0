"""From a trained DeepSpeed engine to a Hugging Face folder, one parameter at a time.

Weights are written from the float32 master weights, whatever the training computed in, and cast to
the checkpoint's dtype at the end. Rank 0 never holds more than one shard file's worth of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.records.model_folder import weight_files
from workers.files import sync

SHARD_BYTES = 4 * 10**9
"""Largest shard file; a single larger tensor has a file of its own."""

COPIED_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken")
"""Configuration and tokenizer files beside the weights, copied as they are."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ExportError(RuntimeError):
    """The trained weights cannot be published; the message names the tensor or file."""


def weight_names(folder: str | Path) -> set[str]:
    """Names of all tensors in a folder's safetensors files."""
    names: set[str] = set()
    for file in weight_files(Path(folder)):
        with safe_open(file, framework="pt") as weights:
            names.update(weights.keys())
    return names


def folder_dtype(folder: str | Path) -> torch.dtype:
    """The number format of a folder's weights, as its config says; that of its first tensor otherwise."""
    config = json.loads((Path(folder) / "config.json").read_bytes())
    named = config.get("dtype") or config.get("torch_dtype")
    if named in DTYPES:
        return DTYPES[named]
    for file in weight_files(Path(folder)):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
                return weights.get_tensor(name).dtype
    raise ExportError(f"{folder}: has no safetensors weights")


def full_weight(parameter: nn.Parameter, sharded: bool, has_master: bool) -> Tensor:
    """A parameter's whole value, from its float32 master where there is one. Collective under ZeRO."""
    if has_master or sharded:
        from deepspeed.utils import safe_get_full_fp32_param

        value = safe_get_full_fp32_param(parameter)
        if value is None:
            raise ExportError("DeepSpeed gives no float32 weight for a parameter; its version is not supported")
        return value.detach().view(getattr(parameter, "ds_shape", parameter.shape))
    return parameter.detach()


def _whole_tensors(model: nn.Module, sharded: bool, has_master: bool) -> Iterator[tuple[str, Tensor]]:
    """Name and whole value of all that a checkpoint holds; a tied tensor once. Collective under ZeRO."""
    yield from ((name, full_weight(p, sharded, has_master)) for name, p in model.named_parameters())
    yield from kept_buffers(model)


def kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a checkpoint holds, by name."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    persistent = model.state_dict().keys() - parameters
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


def export_checkpoint(
    model: nn.Module,
    init: str,
    target: str,
    dtype: torch.dtype,
    rank: int,
    zero_stage: int,
    has_master: bool,
    shard_bytes: int = SHARD_BYTES,
    beat: Callable[[], None] = lambda: None,
    merged: Iterable[tuple[str, Tensor]] | None = None,
) -> None:
    """Write the model to `target` in the layout of save_pretrained; call it on every rank.

    `init` is the folder the training started from; config, generation config and tokenizer come from
    there. `beat` is called for every weight that is gathered and every file that is written. `merged` are names and
    values to write in place of the model's own; of those rank 0's count. Raises ExportError for a weight that is not
    finite in `dtype`.
    """
    folder = Path(target)
    if rank == 0:
        folder.mkdir(exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    files: list[set[str]] = []
    size = total = 0
    for name, whole in merged if merged is not None else _whole_tensors(model, zero_stage == 3, has_master):
        beat()
        if rank != 0:
            continue
        published = whole.to(dtype) if whole.is_floating_point() else whole
        if not bool(torch.isfinite(published).all()):  # which float16 can make of a number that was
            raise ExportError(_not_finite(name, whole, dtype))
        kept = published.to("cpu", copy=published is whole).contiguous()
        num_bytes = kept.numel() * kept.element_size()
        if shards[-1] and size + num_bytes > shard_bytes:
            files.append(_write_shard(folder, len(files), shards.pop()))
            beat()
            shards.append({})
            size = 0
        shards[-1][name] = kept
        size, total = size + num_bytes, total + num_bytes
    if rank == 0:
        files.append(_write_shard(folder, len(files), shards.pop()))
        _name_shards(folder, files, total)
        _copy_settings(Path(init), folder, dtype)
        for path in [*folder.iterdir(), folder]:
            sync(path)
            beat()


def _not_finite(name: str, whole: Tensor, dtype: torch.dtype) -> str:
    if bool(torch.isfinite(whole).all()):
        largest, most = float(whole.abs().max()), torch.finfo(dtype).max
        said = f"{name} holds a value of {largest:.4g} after training, and {dtype} none above {most:.4g}"
        return f"{said}; nothing was published. Give a base model in bfloat16 or float32."
    return (
        f"{name} holds a value that is not finite after training; nothing was published. Lower train.learning_rate "
        "in a fork of the run."
    )


def check_exportable(model: nn.Module, init: str) -> None:
    """Raise ExportError where the loaded model names its weights otherwise than its files do: transformers
    rearranged them while loading, and writing them back as they are would give a folder nobody can read."""
    stored = weight_names(init)
    aliases: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), set()).add(name)
    # A tied head may be stored under either of its names.
    if missing := sorted(min(names) for names in aliases.values() if not names & stored):
        raise ExportError(
            f"{init}: the loaded model names {len(missing)} of its weights differently from its files "
            f"(such as {missing[0]}); such a model cannot be exported, so train one whose names agree"
        )


def _write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> set[str]:
    file = folder / f"shard-{number:05d}.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(folder.stat().st_mode & 0o666)  # it is written for its owner alone; now it is as readable as its folder
    return set(tensors)


def _name_shards(folder: Path, files: list[set[str]], total_bytes: int) -> None:
    """Give the shards their final names, and write the index where there are several."""
    if len(files) == 1:
        (folder / "shard-00000.safetensors").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(files):
        final = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        (folder / f"shard-{number:05d}.safetensors").rename(folder / final)
        weight_map |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _copy_settings(init: Path, folder: Path, dtype: torch.dtype) -> None:
    for file in sorted(init.iterdir()):
        if file.is_file() and file.suffix in COPIED_SUFFIXES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    config: dict[str, Any] = json.loads((init / "config.json").read_bytes())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
