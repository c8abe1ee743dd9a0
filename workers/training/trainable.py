"""Can the trainer train the models of a job? `python -m workers.training.trainable` reads a request as JSON from its
input and writes what it found, before anything is sampled.

A process of its own, since the driver imports neither torch nor transformers. No weights are loaded: the configuration
is enough, and where weights are there, their names.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from orchestrator.config import Lora
from orchestrator.errors import first_line
from workers.numerics import limits
from workers.numerics.agreement import NotTried, check_agreement
from workers.numerics.attention import UnsupportedModel
from workers.numerics.logprobs import disable_dropout
from workers.supervision.parent import end_with_parent
from workers.tokens.rendering import context_of
from workers.training.adapter import inject
from workers.training.export import ExportError, check_exportable, weight_names


def answer(request: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is `refused`, and what `warned` of. `models` are folders by key of the job, of which that of `model` is to
    be trained; `activation_checkpointing` is as in the job, of which null may come to either; `paths` are what bounds a
    prompt with its completion, in tokens by key (null where nothing is set). `engine` is what engines take at most, as
    {"key", "tokens"}, of which the tokens may be null; or null, where that is not known. `lora` is as in the job."""
    refused: list[str] = []
    warned: list[str] = []
    folders: dict[str, str] = {}
    for key, folder in request["models"].items():
        if folder in folders.values():
            continue
        folders[key] = folder
        try:
            config = _config(folder)
            refused += [f"{key}: {folder}: {line}" for line in _beyond(config, request["paths"], request["engine"])]
            with _small_work():
                warned += [f"{key}: {folder}: {line}" for line in _agrees(config, request["activation_checkpointing"])]
                if key == "model":
                    _check_names(folder)
                    if request.get("lora") is not None:
                        inject(_without_memory(config), Lora.model_validate(request["lora"]))
        except NotTried as why:
            warned.append(
                f"{key}: {folder}: whether trees fit this model could not be tried on a tiny one of its kind ({why}); "
                "the first round's probe will tell"
            )
        except UnsupportedModel as error:
            refused.append(f"{key}: {folder}: {error}")
        except ExportError as error:
            refused.append(f"{key}: {error}")
    return {"refused": refused, "warned": warned}


def _agrees(config: Any, checkpointing: bool | None) -> Iterator[str]:
    """What to say of a model that trees fit. Where it is left to the machine whether activations are computed again,
    that is tried too.

    Raises:
        UnsupportedModel, NotTried: see `check_agreement`.
    """
    try:
        check_agreement(config, checkpointing is not False)
    except UnsupportedModel:
        if checkpointing is not None:
            raise
        check_agreement(config)
        yield (
            f"{config.model_type}: it cannot be trained with its activations computed again, which the machine would "
            "decide for where memory is short; set `train.activation_checkpointing: false`"
        )


def _config(folder: str) -> Any:
    """
    Raises:
        UnsupportedModel: it is none of transformers', or its weights are of a kind that is not trained.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except MemoryError:  # of this process, which says nothing of the model
        raise
    except Exception as error:  # of many kinds; whatever it is, it is this file
        said = first_line(error)
        raise UnsupportedModel(f"transformers cannot use its config.json ({said}); choose another model") from error
    if (quantized := getattr(config, "quantization_config", None)) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else type(quantized).__name__
        raise UnsupportedModel(
            f"{config.model_type}: its weights are quantized ({method}), and those are not trained; take the model in "
            "bfloat16 or float32"
        )
    return config


def _beyond(config: Any, paths: Mapping[str, int | None], engine: Mapping[str, Any] | None) -> Iterator[str]:
    """What lets a path be longer than trees can compute."""
    limit, context = limits.path_limit(config), context_of(config.get_text_config())
    if limit is None:
        return
    longest = min((tokens for tokens in (*paths.values(), context) if tokens is not None), default=None)
    if longest is None or longest > limit[0]:
        said = ", ".join(f"{key}: {'null' if tokens is None else tokens}" for key, tokens in paths.items())
        upto = "any length" if longest is None else f"up to {longest} tokens"
        yield (
            f"{config.model_type}: a prompt with its completion may have {upto} ({said}), but {limit[1]}; set "
            f"`train.max_tokens: {limit[0]}` to drop longer pairs"
            + (f", or `generate.max_model_len: {limit[0]}`" if "generate.max_model_len" in paths else "")
            + ", or choose a model without this limit"
        )
    rope = limits.rope_limit(config)
    if engine is None or rope is None or rope[1] == "dynamic":
        return
    taken = engine["tokens"] or context
    if taken is not None and taken > rope[0]:
        yield (
            f"{config.model_type}: {engine['key']}: {engine['tokens'] or 'null'} lets engines take {taken} tokens, and "
            f"then they use other rotary frequencies ({rope[1]}) than training does up to {rope[0]}; set "
            f"`{engine['key']}: {rope[0]}`"
        )


def _check_names(folder: str) -> None:
    """
    Raises:
        ExportError: see `check_exportable`.
        NotTried: the model's names are not known.
    """
    if weight_names(folder):  # else it is a model that is not downloaded yet
        check_exportable(_without_memory(_config(folder)), folder)


def _without_memory(config: Any) -> Any:
    """The model of a configuration, without memory for its weights.

    Raises:
        NotTried: it cannot be made so.
    """
    from transformers import AutoModelForCausalLM

    disable_dropout(config)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:
        raise NotTried(f"{type(error).__name__} without memory for weights") from error


@contextlib.contextmanager
def _small_work() -> Iterator[None]:
    """One thread, which is the fastest for tiny models, and no word of transformers'."""
    import transformers

    threads, verbosity = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        transformers.logging.set_verbosity(verbosity)


def main() -> None:
    """Answer the request of the input."""
    end_with_parent()
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(json.load(sys.stdin))
    json.dump(found, output)


if __name__ == "__main__":
    main()
