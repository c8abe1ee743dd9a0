"""Where tokens end in their text, and answers cut between them, with the demo's own tokenizer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from orchestrator.records.masks import masked
from orchestrator.records.rows import DECODED, Problem, TokenizingPlan
from orchestrator.sources.steps.answers import Answer
from workers.tokens.ends import decode, token_ends
from workers.tokens.prompts import tokenize

BASE = Path(__file__).parents[3] / "jobs" / "demo" / "base"
PROMPT = "Ben has 6 pens.\n"
OPENING = "Step 1:"
TEXT = " 6 + 2 = 8\nStep 2: 8 * 2 = 18\nFinal answer: 18"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BASE)


def answer_of(tokenizer: Any, text: str, opening: str = OPENING) -> tuple[Answer, list[int]]:
    prompt = tokenizer(PROMPT + opening)["input_ids"]
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    shown, ends = decode(tokenizer.backend_tokenizer, prompt, ids)
    return Answer(opening, shown, ends), ids


def test_prefixes_and_steps_are_slices_of_the_sampled_ids(tokenizer: Any) -> None:
    found, ids = answer_of(tokenizer, TEXT)
    assert found.text == TEXT
    assert tokenizer.decode(ids[: found.prefix_tokens(1)]) == " 6 + 2 = 8\nStep 2:"
    assert tokenizer.decode(ids[: found.step_tokens(1)]) == " 6 + 2 = 8"
    last = ids[found.prefix_tokens(1) : found.step_tokens(2)]
    assert tokenizer.decode(last) == " 8 * 2 = 18\nFinal answer: 18"
    assert tokenizer.eos_token_id not in last and ids[-1] == tokenizer.eos_token_id


def test_any_ids_have_ends_that_a_decoder_agrees_with(tokenizer: Any) -> None:
    """Also those that no text would give, of which a model may sample any."""
    dice = random.Random(0)
    vocabulary = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.all_special_ids]
    whole = 0
    for _ in range(400):
        ids = dice.choices(vocabulary, k=dice.randint(1, 8))
        text, ends = decode(tokenizer.backend_tokenizer, [], ids)
        assert len(ends) == len(ids) and ends == sorted(ends) and ends[-1] == len(text)
        if "\ufffd" in (shown := tokenizer.decode(ids, clean_up_tokenization_spaces=False)):
            continue  # half characters
        whole += 1
        assert text == shown
        for count in range(len(ids)):
            part = tokenizer.decode(ids[: count + 1], clean_up_tokenization_spaces=False)
            if "\ufffd" not in part:
                assert ends[count] == len(part)
    assert whole > 50


def test_a_character_of_several_tokens_ends_with_the_last_one(tokenizer: Any) -> None:
    found, ids = answer_of(tokenizer, " 5 €\nStep 2: 6")
    if tokenizer.unk_token_id in ids:
        pytest.skip("the tokenizer does not know the character at all")
    assert found.text == " 5 €\nStep 2: 6"
    assert tokenizer.decode(ids[: found.step_tokens(1)]) == " 5 €"


def test_files_get_text_and_ends(tmp_path: Path, tokenizer: Any) -> None:
    ids = [*tokenizer(TEXT, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    row = {"source": "rounds/01", "prompt_id": "p", "sample_index": 3, "prompt_token_ids": [1], "token_ids": ids}
    schema = pa.schema([DECODED.field(name) for name in DECODED.names[:5]])
    pq.write_table(pa.Table.from_pylist([row, row | {"token_ids": []}], schema), tmp_path / "in.parquet")
    facts = token_ends(str(BASE), str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"))
    found = pq.read_table(tmp_path / "out.parquet")
    assert facts["rows"] == 2 and found.schema.names == DECODED.names
    first, second = found.to_pylist()
    assert first["text"] == TEXT and first["token_ends"][-1] == len(TEXT)
    assert {name: first[name] for name in row} == row
    assert (second["text"], second["token_ends"]) == ("", [])


def test_masks_go_along(tmp_path: Path) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    row = {"source": "s", "prompt_id": "p", "sample_index": 0, "prompt_token_ids": [300], "token_ids": [301, 302]}
    schema = pa.schema([DECODED.field(name) for name in DECODED.names[:-2]])
    pq.write_table(pa.Table.from_pylist([row | {"mask": [True, False]}, row], masked(schema)), source)
    token_ends(str(BASE), str(source), str(output))
    table = pq.read_table(output)
    assert table.schema == masked(DECODED) and table["mask"].to_pylist() == [[True, False], None]


def test_the_opening_follows_the_prompts_own_ids(tmp_path: Path, tokenizer: Any) -> None:
    problems = [Problem("a", PROMPT, "6", None)]
    plain = TokenizingPlan(str(BASE), chat=False, system=None, max_model_len=None, max_tokens=48)
    opened = TokenizingPlan(str(BASE), False, None, None, 48, opening=OPENING)
    tokenize(problems, plain, str(tmp_path / "plain.parquet"))
    tokenize(problems, opened, str(tmp_path / "opened.parquet"))
    (without,) = pq.read_table(tmp_path / "plain.parquet").to_pylist()
    (having,) = pq.read_table(tmp_path / "opened.parquet").to_pylist()
    ids = tokenizer(OPENING, add_special_tokens=False)["input_ids"]
    assert having["token_ids"] == [*without["token_ids"], *ids]
    assert having["text"] == PROMPT + OPENING
