"""Train the demo's base model: half a million parameters, under 90 seconds on two cores.

    python jobs/demo/make_base.py            # rewrites jobs/demo/base/

The base model first learns to answer step by step. In the last part of its training some answers are given
directly, how often depending on the wording of the closing question. A model this small can rarely work a
whole chain out in its head, so the result often picks a worse way of answering than the one it is good at.
That is the room that preference optimisation has: it moves the base model to the better way, it teaches it no new
arithmetic.

Text format: the prompt is the question and a newline, the response follows and closes with EOS. Prompt and
response are tokenised apart and their ids joined, here as in every later use.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from problems import Problem, base_problems
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
PAD, EOS = "<|pad|>", "<|endoftext|>"
MAX_LENGTH = 256

NUM_STEPS, BATCH_SIZE, WARM_UP_STEPS = 900, 32, 30
LEARNING_RATE, LAST_RATE_SHARE = 3e-3, 0.1
STEPPED_SHARE = 0.8  # of the updates see worked solutions only
DIRECT_CHANCE = (0.9, 0.5, 0.1)  # afterwards, by the index of the closing question


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE in which every digit is a token, alone or with the space before it."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r" ?[0-9]| ?[A-Za-z]+| ?[^\sA-Za-z0-9]+|\s"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,  # an upper bound: the words of the problems are used up well before
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh two-layer Llama with tied embeddings."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            intermediate_size=384,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_batch(
    problems: list[Problem], responses: list[str], tokenizer: PreTrainedTokenizerFast
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both [batch, length]; -100 marks the prompt and the padding."""
    prompts = tokenizer([f"{problem.question}\n" for problem in problems])["input_ids"]
    answers = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(responses)["input_ids"]]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(problems), length), tokenizer.pad_token_id)
    labels = torch.full((len(problems), length), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def gold_response(problem: Problem, step: int, rng: random.Random) -> str:
    """The target at a step: worked at first, later now and then direct, by the wording of the question."""
    mixed = step >= STEPPED_SHARE * NUM_STEPS
    return problem.direct if mixed and rng.random() < DIRECT_CHANCE[problem.closing] else problem.solution


def rate_at(step: int) -> float:
    """The share of the learning rate at a step: a linear climb, then a linear fall to LAST_RATE_SHARE."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    done = (step - WARM_UP_STEPS) / (NUM_STEPS - WARM_UP_STEPS)
    return 1 - (1 - LAST_RATE_SHARE) * done


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: list[Problem], rng: random.Random
) -> None:
    """Supervised training on the response; float32 weights, the products in bf16."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_at)
    for step in range(NUM_STEPS):
        batch = rng.sample(problems, BATCH_SIZE)
        ids, labels = make_batch(batch, [gold_response(p, step, rng) for p in batch], tokenizer)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == NUM_STEPS - 1:
            print(f"step {step:4d}  loss {loss.item():.4f}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a Hugging Face folder that transformers and vLLM load by themselves."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # The class name that every version of transformers knows for "what tokenizer.json says, nothing else".
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's base model.")
    parser.add_argument("--out", type=Path, default=HERE / "base", help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="random seed of weights and batches")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(arguments.seed)
    problems = base_problems()
    tokenizer = make_tokenizer([f"{p.question}\n{p.solution}" for p in problems])
    model = make_model(tokenizer)
    num_parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{len(tokenizer)} tokens, {num_parameters:,} parameters")
    train(model, tokenizer, problems, random.Random(arguments.seed))
    save(model, tokenizer, arguments.out)
    print(f"{arguments.out} written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
