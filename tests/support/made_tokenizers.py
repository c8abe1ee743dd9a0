"""Model folders with small tokenizers of the kinds that models have, made with the `tokenizers` library; no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

PROJECT = Path(__file__).parents[2]
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
DATED = "<|im_start|>system\nToday is {{ strftime_now('%d %b %Y') }}.<|im_end|>\n"
# Thoughts are taken out of answers, and begun where an answer is asked for, as R1's template does.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def texts() -> list[str]:
    rows = [json.loads(line) for line in (PROJECT / "jobs/demo/train.jsonl").read_text().splitlines()]
    return [part for row in rows for part in (row["question"], row["solution"])]


def metaspace(folder: Path, **settings: Any) -> Path:
    """As Llama 2's: words begin with ▁, and a text by itself gets one in front; what is unknown goes by bytes."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL + bytes_, show_progress=False)
    # Without their line breaks, which Llama's has as bytes.
    tokenizer.train_from_iterator([line for text in texts() for line in text.splitlines()], trainer)
    said = json.loads(tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(said))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return write(folder, tokenizer, **settings)


def byte_level(folder: Path, **settings: Any) -> Path:
    """As GPT-2's and Llama 3's: no text gets anything in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return write(folder, tokenizer, **settings)


def with_parts(folder: Path, **parts: Any) -> str:
    """As `byte_level`, with these parts in its tokenizer.json."""
    file = byte_level(folder) / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return str(folder)


def growing(times: int, parts: str) -> dict[str, Any]:
    """A part of a tokenizer that makes a thousand letters q of one, so many times over; `parts` names parts in it."""
    one = {"type": "Replace", "pattern": {"String": "q"}, "content": "q" * 1000}
    return {"type": "Sequence", parts: [{"type": "Sequence", parts: [one]}] * times}


def write(
    folder: Path,
    tokenizer: Tokenizer,
    bos: bool = True,
    eos: bool = False,
    chat_template: str | None = None,
    eos_token: str = "</s>",
    **config: Any,
) -> Path:
    """`bos`, `eos`: what the tokenizer writes around a text by itself."""
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    template = [*(["<s>"] if bos else []), "$A", *([eos_token] if eos else [])]
    ids = [(text, tokenizer.token_to_id(text)) for text in ("<s>", eos_token)]
    tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(template), special_tokens=ids)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": eos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"unk_token": "<unk>"}))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    model = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 256}
    model |= {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": 16, "num_hidden_layers": 1}
    model |= {"num_attention_heads": 2, "intermediate_size": 16}
    (folder / "config.json").write_text(json.dumps(model | config))
    return folder
