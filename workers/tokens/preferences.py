"""Preference data to pairs of token ids, as TRL 1.16's DPO trainer makes them: prompt and answer are tokenised as one
text, and the answer begins where that departs from the prompt's own tokens.

Two things differ. An answer whose chat template writes no end gets the EOS token, since nothing else would teach the
model to stop; and a pair that is too long is left out, not cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import first_line
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import PreferencePlan, pairs_schema
from workers.tokens.prompts import NoText, check_vocabulary, load_config, no_text, templated
from workers.tokens.tokenizer import UnusableModel, decoded, encoded, load_tokenizer

_BATCH_ROWS = 256


def tokenize_preferences(source: str, rows: list[int] | None, plan: PreferencePlan, output: str) -> dict[str, Any]:
    """Write the `rows` (None: all, in order) of a file of preference data as pairs (schema `pairs_schema`).

    Returns how many there are (`pairs`), and how many were left out: `too_long`, `empty`, `equal` and `no_prompt`, the
    last three where only the token ids show it.

    Raises:
        UnusableModel: no tokenizer, no EOS, no chat template for messages, or ids beyond the embedding.
    """
    tokens = Pairs(plan)
    table = read_table(source)
    table = table if rows is None else table.take(pa.array(rows, pa.int64()))
    conversational = not pa.types.is_string(table.schema.field("prompt").type)
    tokens.check_template(conversational)
    schema = pairs_schema(conversational)
    counts = Counter(pairs=0, too_long=0, empty=0, equal=0, no_prompt=0)
    with pq.ParquetWriter(output, schema, compression="zstd") as writer:
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            made = []
            rows_of_batch = batch.to_pylist()
            for row, pair in zip(rows_of_batch, tokens.pairs(rows_of_batch), strict=True):
                fault = tokens.fault(pair)
                counts[fault or "pairs"] += 1
                if fault is None:
                    ids = {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
                    made.append(row | {f"{name}_token_ids": value for name, value in ids.items()})
            writer.write_table(pa.Table.from_pylist(made, schema))
    return dict(counts)


@dataclass(frozen=True, slots=True)
class Pair:
    """Token ids of a prompt and of the two answers that follow it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Pairs:
    """A model's tokenizer, and its limits.

    Raises:
        UnusableModel: as `tokenize_preferences`.
    """

    def __init__(self, plan: PreferencePlan) -> None:
        config = load_config(plan.model)
        self.plan, self.tokenizer, self._vocabulary = plan, load_tokenizer(plan.model), config.vocab_size
        check_vocabulary(self.tokenizer, config, plan.model)
        limits = (plan.max_tokens, getattr(config, "max_position_embeddings", None))
        self._longest = min((limit for limit in limits if limit is not None), default=2**31)
        self._special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}

    def check_template(self, conversational: bool) -> None:
        """
        Raises:
            UnusableModel: rows are messages (`conversational`), and the model has no chat template.
        """
        if conversational and not self.tokenizer.chat_template:
            raise UnusableModel(
                f"stages.sources: the rows are messages, and the model {self.plan.model} has no chat template"
            )

    def pairs(self, rows: Sequence[dict[str, Any]]) -> list[Pair]:
        """The token ids of rows that are all text, or all messages.

        Raises:
            UnusableModel: the chat template cannot take one, or an id is beyond the embedding.
        """
        templated = not isinstance(rows[0]["prompt"], str)
        texts = [text for row in rows for text in self.texts(row)]
        # A chat template writes BOS itself where the model wants it.
        ids = encoded(self.tokenizer, texts, add_special_tokens=not templated)["input_ids"]
        return [self._pair(row, *ids[3 * n : 3 * n + 3], templated=templated) for n, row in enumerate(rows)]

    def _pair(self, row: dict[str, Any], prompt: list[int], *wholes: list[int], templated: bool) -> Pair:
        start = min(_common(prompt, whole) for whole in wholes)
        sides = [self._closed(whole[start:], templated) for whole in wholes]
        if (largest := max(max(ids, default=0) for ids in (prompt, *sides))) >= self._vocabulary:
            raise UnusableModel(
                f"stages.sources: pair {row['pair_id']!r} holds {decoded(self.tokenizer, [largest])!r}, token "
                f"{largest}, and the embedding of {self.plan.model} has only {self._vocabulary} rows (vocab_size): "
                "take it out of the data"
            )
        return Pair(prompt[:start], *sides)

    def fault(self, pair: Pair) -> str | None:
        """Why nothing can be learned from a pair; None for one that is sound."""
        if not pair.prompt:
            return "no_prompt"
        if not pair.chosen or not pair.rejected:
            return "empty"
        if pair.chosen == pair.rejected:
            return "equal"
        longest = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        return "too_long" if longest > self._longest else None

    def texts(self, row: dict[str, Any], date: str | None = None) -> list[str]:
        """The prompt, and the prompt with each side; on another day than the plan's, where one is given."""
        prompt, sides = row["prompt"], (row["chosen"], row["rejected"])
        if isinstance(prompt, str):
            return [prompt, *(prompt + side for side in sides)]
        try:
            if not _opens(prompt):
                asked = self._templated(prompt, date, add_generation_prompt=True)
                return [asked, *(self._templated([*prompt, *side], date) for side in sides)]
            # The answer is begun: what follows is text alone, whatever the template would close it with.
            begun = self._templated(prompt[:-1], date, add_generation_prompt=True) + prompt[-1]["content"]
            return [begun, *(begun + "".join(message["content"] for message in side) for side in sides)]
        except NoText as error:
            raise UnusableModel(f"stages.sources: {no_text(self.plan.model, error)}") from error
        except Exception as error:  # a template is a program of the model's, and may raise anything
            cure = ""
            if prompt[0]["role"] == "system":
                cure = ". Where it takes no system message, put that text into the user's (and leave `data.system` out)"
            raise UnusableModel(
                f"stages.sources: pair {row['pair_id']!r}: the chat template of {self.plan.model} cannot take it "
                f"({first_line(error)}){cure}"
            ) from error

    def _templated(self, messages: list[dict[str, str]], date: str | None, add_generation_prompt: bool = False) -> str:
        return templated(self.tokenizer, messages, date or self.plan.date, add_generation_prompt)

    def _closed(self, ids: list[int], templated: bool) -> list[int]:
        """With EOS at its end, where the job wants it and nothing closes it yet: EOS itself, or a template's own token
        (`<|im_end|>`, perhaps with a line break behind)."""
        closing, end = (self._special if templated else {self.tokenizer.eos_token_id}), len(ids)
        while templated and end and ids[end - 1] not in closing and not decoded(self.tokenizer, [ids[end - 1]]).strip():
            end -= 1
        closed = end > 0 and ids[end - 1] in closing
        return ids if closed or not ids or not self.plan.append_eos else [*ids, self.tokenizer.eos_token_id]


def _opens(prompt: Any) -> bool:
    """Whether a prompt ends in the beginning of the answer."""
    return not isinstance(prompt, str) and prompt[-1]["role"] == "assistant"


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    for number, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return number
    return min(len(a), len(b))
