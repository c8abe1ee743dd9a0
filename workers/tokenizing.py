"""Data rows to prompts: templated and tokenised once, with the seed model's own tokenizer."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from orchestrator.errors import BadInput
from orchestrator.records import PROMPTS, Problem, TokenizingPlan
from workers.files import write_table


class UnusableModel(BadInput):
    """The model's folder or tokenizer cannot do what the job asks."""


def tokenize(rows: list[Problem], plan: TokenizingPlan, output: str) -> dict[str, Any]:
    """Write prompts (schema PROMPTS) to `output`; returns the counts of prompts kept and dropped.

    Raises:
        UnusableModel: no tokenizer, no EOS, no chat template where one is asked for, or ids beyond the embedding.
    """
    config = load_config(plan.model)
    tokenizer = load_tokenizer(plan.model)
    if plan.chat and not tokenizer.chat_template:
        raise UnusableModel(f"data.chat: {plan.model} has no chat template; use `chat: false` and `template`")
    check_vocabulary(tokenizer, config, plan.model)
    longest = (plan.max_model_len or getattr(config, "max_position_embeddings", None) or 2**31) - plan.max_tokens
    table: dict[str, list[Any]] = {name: [] for name in PROMPTS.names}
    dropped = 0
    for row in rows:
        messages = _messages(row, plan)
        if messages:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            # The template writes BOS itself where the model wants it.
            token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            text = "".join(p + c + plan.example_separator for p, c in plan.examples) + row.text
            token_ids = tokenizer(text)["input_ids"]
        if plan.opening:
            text += plan.opening
            token_ids = [*token_ids, *tokenizer(plan.opening, add_special_tokens=False)["input_ids"]]
        if len(token_ids) > longest:
            dropped += 1
            continue
        if (largest := max(token_ids, default=0)) >= config.vocab_size:
            raise UnusableModel(
                f"model: {plan.model}: prompt {row.prompt_id!r} holds {tokenizer.decode([largest])!r}, token "
                f"{largest}, and the embedding has only {config.vocab_size} rows (vocab_size): take it out of the data"
            )
        solution_ids = None
        if row.solution is not None:
            solution_ids = [
                *tokenizer(row.solution, add_special_tokens=False)["input_ids"],
                tokenizer.eos_token_id,
            ]
        values = (row.prompt_id, text, token_ids, messages, row.gold, row.solution, solution_ids)
        for name, value in zip(PROMPTS.names, values, strict=True):
            table[name].append(value)
    file = write_table(pa.table(table, schema=PROMPTS), output)
    return {"prompts": len(rows) - dropped, "dropped": dropped, "file": file}


def _messages(row: Problem, plan: TokenizingPlan) -> list[dict[str, str]] | None:
    if not plan.chat:
        return None
    system = [{"role": "system", "content": plan.system}] if plan.system is not None else []
    turns = [
        {"role": role, "content": content}
        for example in plan.examples
        for role, content in zip(("user", "assistant"), example, strict=True)
    ]
    return [*system, *turns, {"role": "user", "content": row.text}]


def load_config(model: str) -> Any:
    """The configuration of a model's language part.

    Raises:
        UnusableModel: there is none that transformers knows.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(f"model: {model}: no usable config.json ({str(error).splitlines()[0]})") from error


def check_vocabulary(tokenizer: Any, config: Any, model: str) -> None:
    """Tokens that the embedding has no row for would end the engine, or a GPU's whole process."""
    # Some models list added tokens beyond the embedding that no text contains; those are checked where they occur.
    largest = max(tokenizer.vocab_size - 1, tokenizer.eos_token_id)
    if largest >= config.vocab_size:
        raise UnusableModel(
            f"model: {model}: its tokenizer has ids up to {largest}, its embedding (vocab_size) only "
            f"{config.vocab_size} rows. Tokenizer and weights belong to different models, or the embedding was not "
            "resized after tokens were added."
        )


def load_tokenizer(model: str) -> Any:
    """A model's tokenizer, which has an EOS token.

    Raises:
        UnusableModel: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise UnusableModel(f"model: {model}: no usable tokenizer ({str(error).splitlines()[0]})") from error
    if tokenizer.eos_token_id is None:
        raise UnusableModel(f"model: {model}: its tokenizer has no EOS token: no completion could end")
    return tokenizer
