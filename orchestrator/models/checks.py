"""Do a model folder's weights fit its configuration, and have two models the same vocabulary? Told from names, shapes
and tokens; no weights are loaded.

A mismatch that a loader does not notice is the worst kind: layers that the configuration does not count are
silently left out, and tensors it has no name for leave others at random.

Format of the header: https://huggingface.co/docs/safetensors (8 bytes of length, then JSON).
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from orchestrator.errors import BadInput, Damaged, first_line
from orchestrator.files.inside import read_regular, regular_size
from orchestrator.files.rights import reason
from orchestrator.records import model_folder
from orchestrator.records.model_folder import leads_out
from orchestrator.records.rewards import RewardKind

_LONGEST_HEADER = 100 * 2**20  # bytes; the format's own limit
_LARGEST_FILE = 512 * 2**20  # bytes; the largest tokenizers have some 40 MiB
_CAUSAL = re.compile(r"CausalLM|LMHead|ConditionalGeneration")
_LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "smollm3", "granite", "olmo2")
# How a kind of model names its token embedding.
_EMBEDDINGS = {"gpt2": "wte.weight", "gpt_neox": "embed_in.weight"} | dict.fromkeys(_LLAMA_LIKE, "embed_tokens.weight")

# Files that say which token an id is. Merges, templates and the like only decide how text becomes ids.
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "added_tokens.json", "*.tiktoken")
# What is asked of a configuration, where it is there and not null; `text_config` is one, too.
_KINDS = {
    "model_type": (str, "a text"),
    "architectures": (list, "a list of names"),
    "text_config": (dict, "an object"),
    "dtype": (str, "a text"),
    "torch_dtype": (str, "a text"),
}

Shapes = dict[str, list[int]]


def check_weights(folder: Path, where: str, reward: RewardKind | None = None) -> None:
    """Compare `folder`'s config.json with the headers of its *.safetensors files; `where` opens each message. It is of
    a model that writes text, or gives a `reward`.

    A configuration that names no `model_type` is left to the libraries, which refuse it in their own words.

    Raises:
        BadInput: a file is damaged or missing, or a tensor is not what the configuration says.
    """
    config = check_config(folder, where, reward)
    if "model_type" not in config:
        return
    text = config.get("text_config") or config
    for tensor, found, expected in _misfits(text, tensors(folder, where)):
        raise BadInput(
            f"{where}: {folder}: the weights are not those of its config.json ({config['model_type']}): {tensor} is "
            f"{found}, the configuration says {expected}. Put the config.json and the *.safetensors of one model there."
        )


def check_config(folder: Path, where: str, reward: RewardKind | None = None) -> dict[str, Any]:
    """The folder's config.json, which must be that of a causal language model, or of a `reward` model, where it says
    what it is of.

    Raises:
        BadInput: it is not, or files of the folder lead to what is none of the model's.
    """
    file = folder / "config.json"
    config = read_object(file, where)
    if out := list(leads_out(folder)):
        raise BadInput("\n".join(f"{where}: {line}" for line in out))
    for said in (config, config.get("text_config") or {}):
        for key, (kind, words) in _KINDS.items():
            if said.get(key) is not None and not isinstance(said[key], kind):
                raise BadInput(f"{where}: {file}: `{key}` must be {words}, and is {str(said[key])[:80]!r}")
    architectures = config.get("architectures") or []
    if "model_type" in config and reward:
        _check_outputs(config, architectures, reward, f"{where}: {folder}")
    elif "model_type" in config and architectures and not any(_CAUSAL.search(str(name)) for name in architectures):
        raise BadInput(f"{where}: {folder} is a {architectures[0]}, which writes no text; give a causal language model")
    return config


def _check_outputs(config: Mapping[str, Any], architectures: Sequence[Any], kind: RewardKind, what: str) -> None:
    """What a reward model of a kind gives, and how much of it; a configuration that says nothing of its outputs has
    two."""
    ending, wanted, words = _REWARDING[kind]
    if not any(str(name).endswith(ending) for name in architectures):
        named = architectures[0] if architectures else f"a {config['model_type']} without `architectures`"
        raise BadInput(f"{what} is {named}, which gives no reward: give {words}")
    labels = config.get("id2label")
    outputs = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if outputs != wanted:
        raise BadInput(f"{what} has {outputs} outputs, and is to be {words}")


_REWARDING: Mapping[RewardKind, tuple[str, int, str]] = {
    "outcome": ("ForSequenceClassification", 1, "a sequence classifier with one output (num_labels: 1)"),
    "process": ("ForTokenClassification", 2, "a token classifier with two labels, wrong and right (num_labels: 2)"),
}
"""By kind: the end of the architecture's name, how many outputs it has, and the same in words."""


def tensors(folder: Path, where: str) -> Shapes:
    """The shape of every tensor in a model folder's *.safetensors files, by name, as their headers say.

    Raises:
        BadInput: a file is damaged or missing.
    """
    shapes: Shapes = {}
    for file in weight_files(folder, where):
        shapes |= _shapes(file, where)
    return shapes


def weight_files(folder: Path, where: str) -> list[Path]:
    """As `model_folder.weight_files`.

    Raises:
        BadInput: the index is damaged, or names a file that is not there.
    """
    index, files = folder / model_folder.INDEX, model_folder.weight_files(folder)
    if not index.exists():
        return files
    if not isinstance(read_object(index, where).get("weight_map"), dict):
        raise BadInput(f"{where}: {index}: no `weight_map`; download the model again")
    if missing := [file.name for file in files if not file.is_file()]:
        raise BadInput(f"{where}: {folder} lacks {', '.join(missing)}, which its index names; download the model again")
    return files


def first_format(folder: Path, where: str) -> str | None:
    """The number format of the first tensor that the weights' headers name, by its safetensors name (`F32`); None where
    there are no weights.

    Raises:
        BadInput: a file is damaged or missing.
    """
    for file in weight_files(folder, where):
        for name, tensor in header_of(file, where)[0].items():
            if name != "__metadata__" and isinstance(tensor, dict):
                return str(tensor.get("dtype"))
    return None


def header_of(file: Path, where: str) -> tuple[dict[str, Any], int, int]:
    """The header of a safetensors file, its length, and the file's.

    Raises:
        BadInput: there is none, or the file cannot be read.
    """
    with _telling(file, where):
        size = regular_size(file)
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
                raise BadInput(
                    f"{where}: {file} is no safetensors file, or only a part of one; download the model again"
                )
            return json_object(stream.read(length), f"{where}: {file}"), length, size


def _shapes(file: Path, where: str) -> Shapes:
    """Shape of every tensor of a file, from its header."""
    header, length, size = header_of(file, where)
    shapes: Shapes = {}
    end = taken = 0
    try:
        for name, tensor in header.items():
            if name != "__metadata__":
                shapes[name] = shape = [int(size) for size in tensor["shape"]]
                begin, stop = (int(offset) for offset in tensor["data_offsets"])
                if min(shape, default=0) < 0 or math.prod(shape) > 8 * (stop - begin):  # a number has a bit at least
                    raise ValueError(f"{name} has not the bytes that its shape says")
                end, taken = max(end, stop), taken + stop - begin
        if taken > end:
            raise ValueError("tensors share bytes, so that reading them might never end")
    except (TypeError, LookupError, ValueError, OverflowError) as error:
        raise BadInput(f"{where}: {file}: its header is damaged; download the model again") from error
    if size != 8 + length + end:
        raise BadInput(f"{where}: {file} has {size} bytes and its header says {8 + length + end}; download it again")
    return shapes


def _misfits(config: Mapping[str, Any], shapes: Shapes) -> Iterator[tuple[str, str, str]]:
    """What does not fit: the tensor, what is found, what the configuration says."""
    kind = config.get("model_type")
    endings = [_EMBEDDINGS[kind]] if kind in _EMBEDDINGS else sorted(set(_EMBEDDINGS.values()))
    embedding = next((name for ending in endings for name in shapes if name.endswith(ending)), None)
    if embedding is None:
        if kind in _EMBEDDINGS:
            yield f"*{_EMBEDDINGS[kind]}", "missing", "that there is one"
        return
    hidden = config.get("hidden_size", config.get("n_embd"))
    expected = {embedding: [config.get("vocab_size"), hidden]}
    if kind in _LLAMA_LIKE:
        stem = embedding.removesuffix("embed_tokens.weight")
        expected |= _first_layer(config, f"{stem}layers.0.")
        numbers = {found[1] for name in shapes if (found := re.match(rf"{re.escape(stem)}layers\.(\d+)\.", name))}
        if len(numbers) != config.get("num_hidden_layers", len(numbers)):
            yield f"{stem}layers", f"{len(numbers)} layers", f"{config['num_hidden_layers']}"
    for name, shape in expected.items():
        if name in shapes and None not in shape and shapes[name] != shape:
            yield name, f"{shapes[name]}", f"{shape}"


def _first_layer(config: Mapping[str, Any], stem: str) -> dict[str, list[Any]]:
    hidden, heads, inner = (config.get(k) for k in ("hidden_size", "num_attention_heads", "intermediate_size"))
    if not (isinstance(hidden, int) and isinstance(heads, int) and heads > 0):
        return {}
    head = config.get("head_dim") or hidden // heads
    groups = config.get("num_key_value_heads") or heads
    if not (isinstance(head, int) and isinstance(groups, int)):
        return {}
    return {
        f"{stem}self_attn.q_proj.weight": [heads * head, hidden],
        f"{stem}self_attn.k_proj.weight": [groups * head, hidden],
        f"{stem}mlp.down_proj.weight": [hidden, inner],
    }


def read_file(file: Path, where: str) -> bytes:
    """A file of a model folder that is no weights; `where` opens each message.

    Raises:
        BadInput: it is no file that can be read, or far too large.
    """
    with _telling(file, where):
        return read_regular(file, _LARGEST_FILE)


def read_object(file: Path, where: str) -> dict[str, Any]:
    """The JSON object in such a file.

    Raises:
        BadInput: it holds none, or as `read_file`.
    """
    return json_object(read_file(file, where), f"{where}: {file}")


@contextlib.contextmanager
def _telling(file: Path, where: str) -> Iterator[None]:
    """A pipe or a folder in a file's place, or a file that may not be read, in words."""
    try:
        yield
    except Damaged as error:
        raise BadInput(f"{where}: {error}; download the model again") from error
    except OSError as error:
        raise BadInput(f"{where}: {file}: cannot be read ({reason(error)})") from error


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object that a file holds; `where` names it in messages.

    Raises:
        BadInput: it is no JSON, or no object.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where}: a JSON object is needed, not {type(value).__name__}")
    return value


# Two models with one vocabulary: one must say how likely the other's token ids are.


def check_vocabulary(folder: Path, base: Path, where: str) -> None:
    """Compare the model in `folder` with the base model: vocab_size of config.json, and the tokenizer's tokens by id,
    as far as both have the same files. `where` opens each message.

    Raises:
        BadInput: they differ, or only the base model has a tokenizer.
    """
    for difference in _vocabulary_differences(folder, base, where):
        raise BadInput(
            f"{where}: {folder} has not the vocabulary of the base model {base}: {difference}. A reference is asked "
            "about the base model's token ids: give a model with the same tokenizer."
        )
    names = _vocabulary_names(base)
    if names and not names & _vocabulary_names(folder):
        raise BadInput(
            f"{where}: {folder} has none of {', '.join(sorted(names))}, so that its vocabulary cannot be compared with "
            f"that of the base model {base}. If it is the same, put the base model's files there, too."
        )


def _vocabulary_differences(folder: Path, base: Path, where: str) -> Iterator[str]:
    found, expected = (_vocab_size(model, where) for model in (folder, base))
    if found != expected:
        yield f"`vocab_size` of its config.json is {found}, not {expected}"
    for name in sorted(_vocabulary_names(folder) & _vocabulary_names(base)):
        same = filecmp.cmp(folder / name, base / name, shallow=False)
        if not same and _tokens(folder / name, where) != _tokens(base / name, where):
            yield f"{folder / name} and {base / name} give other tokens or other ids"


def _vocab_size(folder: Path, where: str) -> Any:
    config = check_config(folder, where)
    return (config.get("text_config") or config).get("vocab_size")


def _vocabulary_names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if any(fnmatch(file.name, name) for name in _VOCABULARY_FILES)}


def _tokens(file: Path, where: str) -> Any:
    """What a file says of tokens and ids, to be compared."""
    if file.suffix != ".json":
        return read_file(file, where)
    said = read_object(file, where)
    if file.name != "tokenizer.json":
        return said
    model, added = said.get("model"), said.get("added_tokens")
    tokens = [(token.get("id"), token.get("content")) for token in added or () if isinstance(token, dict)]
    return (model.get("vocab") if isinstance(model, dict) else None), tokens
