"""Tiny reward models with random weights, and shards of answers for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from orchestrator.records.rewards import ANSWER_STEPS, RewardKind, RewardTask
from orchestrator.records.rows import PROMPTS, SAMPLES
from tests.support.made_tokenizers import byte_level, texts
from workers.files import write_table

ENCODERS = ("bert", "roberta")


def make_reward_model(
    folder: Path, family: str = "llama", kind: RewardKind = "outcome", labels: int | None = None, **changes: Any
) -> Path:
    """`family` is `llama`, `qwen2`, `bert` or `roberta`; `changes` are to its configuration, or a `chat_template`."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

    template = changes.pop("chat_template", None)
    if family in ENCODERS:
        size, own = _encoder_tokenizer(folder), {"pad_token_id": 0 if family == "bert" else 1}
        own |= {"max_position_embeddings": 128 if family == "bert" else 130}
    else:
        byte_level(folder, bos=False, chat_template=template)
        size, own = 900, {"pad_token_id": None, "max_position_embeddings": 256, "num_key_value_heads": 2}
    torch.manual_seed(7)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    labels = labels or (1 if kind == "outcome" else 2)
    config = AutoConfig.for_model(family, vocab_size=size, num_labels=labels, **(shape | own | changes))
    loaded = AutoModelForSequenceClassification if kind == "outcome" else AutoModelForTokenClassification
    model = loaded.from_config(config)
    for weight in model.parameters():  # of the usual scale all rewards would be the same to some digits
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def _encoder_tokenizer(folder: Path) -> int:
    """As BERT's: [CLS] text [SEP] further text [SEP]; returns how many tokens it has."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    ids = [(text, tokenizer.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    both = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=both, special_tokens=ids)
    from transformers import PreTrainedTokenizerFast

    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, special, strict=True)))
    found.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def reward_task(
    folder: Path,
    answers: Mapping[str, Sequence[Any]],
    messages: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    index: int = 0,
) -> RewardTask:
    """A shard of `answers` by prompt, whose text is its id with a line break behind; each answer is a text, or a list
    of steps."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [
        {"prompt_id": name, "text": f"{name}\n", "token_ids": [1], "gold": "1", "messages": (messages or {}).get(name)}
        for name in answers
    ]
    rows = [
        {"prompt_id": name, "sample_index": number, "text": answer, "steps": answer, "token_ids": [1]}
        | {"finish_reason": "stop", "num_tokens": 1}
        for name, found in answers.items()
        for number, answer in enumerate(found)
    ]
    in_steps = not isinstance(rows[0]["steps"], str)
    files = (folder / f"{name}-{index}.parquet" for name in ("prompts", "samples", "rewards"))
    prompts_file, samples, output = files
    write_table(pa.Table.from_pylist(prompts, PROMPTS), prompts_file)
    schema = ANSWER_STEPS if in_steps else SAMPLES
    write_table(pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema), samples)
    return RewardTask(index, str(prompts_file), 0, len(prompts), str(samples), str(output))
