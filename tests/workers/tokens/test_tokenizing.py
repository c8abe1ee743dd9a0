"""Problems to token ids with real tokenizers: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.records.rows import Problem, TokenizingPlan
from tests.support.made_tokenizers import CHATML, DATED, NO_SYSTEM, byte_level, metaspace
from workers.tokens.prompts import tokenize
from workers.tokens.tokenizer import UnusableModel

BASE = Path(__file__).parents[3] / "jobs" / "demo" / "base"
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAN = TokenizingPlan(str(BASE), chat=False, system=None, max_model_len=None, max_tokens=48)
ROWS = [Problem("a", "Ben has 6 pens.\n", "6", "Final answer: 6"), Problem("b", "Ada has 2.\n", "2", None)]


def run(
    tmp_path: Path, plan: TokenizingPlan, rows: list[Problem] = ROWS
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    output = tmp_path / "out.parquet"
    facts = tokenize(rows, plan, str(output))
    return facts, pq.read_table(output).to_pylist()


def changed_model(tmp_path: Path, file: str, **changes: Any) -> TokenizingPlan:
    """A plan for a copy of the base model in which some keys of a JSON file are changed; None removes a key."""
    folder = tmp_path / "model"
    shutil.copytree(BASE, folder)
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return dataclasses.replace(PLAN, model=str(folder))


def decode(ids: list[int]) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(BASE).decode(ids))


def test_prompts_and_gold_solutions_get_their_ids(tmp_path: Path) -> None:
    facts, rows = run(tmp_path, PLAN)
    assert (facts["prompts"], facts["dropped"]) == (2, 0)
    assert decode(rows[0]["token_ids"]) == "Ben has 6 pens.\n"
    assert decode(rows[0]["solution_token_ids"]) == "Final answer: 6<|endoftext|>"
    assert rows[1]["solution_token_ids"] is None and rows[0]["messages"] is None


def test_a_prompt_that_leaves_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    _, rows = run(tmp_path, PLAN)
    longest = len(rows[1]["token_ids"]) + PLAN.max_tokens
    assert len(rows[0]["token_ids"]) + PLAN.max_tokens > longest
    facts, kept = run(tmp_path, dataclasses.replace(PLAN, max_model_len=longest))
    assert (facts["prompts"], facts["dropped"]) == (1, 1)
    assert [row["prompt_id"] for row in kept] == ["b"]
    # Without a limit in the job the model's own counts: 256 tokens here.
    facts, _ = run(tmp_path, PLAN, [Problem("c", "pens " * 300, "1", None)])
    assert facts["dropped"] == 1


def test_chat_messages_go_through_the_template(tmp_path: Path) -> None:
    plan = changed_model(tmp_path, "tokenizer_config.json", chat_template=TEMPLATE)
    _, rows = run(tmp_path, dataclasses.replace(plan, chat=True, system="Be brief."))
    assert rows[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Ada has 2.\n"},
    ]
    assert rows[1]["text"] == "<system>Be brief.\n<user>Ada has 2.\n\n<assistant>"
    assert decode(rows[1]["token_ids"]) == rows[1]["text"]


def test_examples_are_turns_of_a_chat_and_text_otherwise(tmp_path: Path) -> None:
    examples = (("Has 1.\n", "Final answer: 1"), ("Has 4.\n", "Final answer: 4"))
    _, rows = run(tmp_path, dataclasses.replace(PLAN, examples=examples, example_separator="\n--\n"))
    assert rows[1]["text"] == "Has 1.\nFinal answer: 1\n--\nHas 4.\nFinal answer: 4\n--\nAda has 2.\n"
    assert decode(rows[1]["token_ids"]) == rows[1]["text"]
    plan = changed_model(tmp_path, "tokenizer_config.json", chat_template=TEMPLATE)
    _, rows = run(tmp_path, dataclasses.replace(plan, chat=True, system="Be brief.", examples=examples))
    assert [m["role"] for m in rows[1]["messages"]] == ["system", *["user", "assistant"] * 2, "user"]
    assert rows[1]["text"].startswith("<system>Be brief.\n<user>Has 1.\n\n<assistant>Final answer: 1\n<user>Has 4.")
    assert rows[1]["text"].endswith("<user>Ada has 2.\n\n<assistant>")


def test_no_chat_template(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"data\.chat: .* has no chat template; use `chat: false`"):
        run(tmp_path, dataclasses.replace(PLAN, chat=True))


def test_no_eos(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="has no EOS token"):
        run(tmp_path, changed_model(tmp_path, "tokenizer_config.json", eos_token=None))


def test_no_tokenizer(tmp_path: Path) -> None:
    plan = changed_model(tmp_path, "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (Path(plan.model) / name).unlink()
    with pytest.raises(UnusableModel, match="no usable tokenizer"):
        run(tmp_path, plan)


def test_a_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"has ids up to \d+, its embedding \(vocab_size\) only 300 rows"):
        run(tmp_path, changed_model(tmp_path, "config.json", vocab_size=300))


def test_an_added_token_beyond_the_embedding_is_refused_only_where_it_is_used(tmp_path: Path) -> None:
    plan = changed_model(tmp_path, "config.json")
    file = Path(plan.model) / "tokenizer.json"
    content = json.loads(file.read_text())
    vocab_size = json.loads((BASE / "config.json").read_text())["vocab_size"]
    content["added_tokens"].append(content["added_tokens"][0] | {"id": vocab_size, "content": "<|image|>"})
    file.write_text(json.dumps(content))
    assert run(tmp_path, plan)[0]["prompts"] == 2
    with pytest.raises(UnusableModel, match=rf"prompt 'c' holds '<\|image\|>', token {vocab_size}"):
        run(tmp_path, plan, [Problem("c", "See <|image|>.", "1", None)])


def test_an_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"no usable config\.json"):
        run(tmp_path, changed_model(tmp_path, "config.json", model_type="no-such-kind"))


# In their place


KINDS = pytest.mark.parametrize("make", [metaspace, byte_level])


def made(tmp_path: Path, make: Any, text: str, solution: str, opening: str = "", **settings: Any) -> tuple[str, str]:
    """A prompt and its solution as tokens, joined by spaces."""
    plan = dataclasses.replace(PLAN, model=str(make(tmp_path / "model", **settings)), opening=opening)
    _, [row] = run(tmp_path, plan, [Problem("a", text, "8", solution)])
    vocabulary = json.loads((tmp_path / "model/tokenizer.json").read_text())["model"]["vocab"]
    tokens = {number: token for token, number in vocabulary.items()}
    prompt, answer = (" ".join(tokens[i] for i in row[name]) for name in ("token_ids", "solution_token_ids"))
    return prompt, answer


@pytest.mark.parametrize(
    ("make", "prompt", "solution"),
    [
        (metaspace, "<s> ▁Ben ▁has ▁6 ▁pens. <0x0A>", "S tep ▁1: ▁6 </s>"),
        (byte_level, "<s> Ben Ġhas Ġ6 Ġpens . Ċ", "Step Ġ1 : Ġ6 </s>"),
    ],
)
def test_a_solution_has_the_tokens_that_follow_its_prompt(
    tmp_path: Path, make: Any, prompt: str, solution: str
) -> None:
    """By itself, "Step" would get a space in front from a tokenizer like Llama 2's."""
    assert made(tmp_path, make, "Ben has 6 pens.\n", "Step 1: 6") == (prompt, solution)


@KINDS
def test_an_opening_goes_on_with_the_prompt_and_leaves_the_prompt_as_it_is(tmp_path: Path, make: Any) -> None:
    whole, _ = made(tmp_path / "whole", make, "Ben has 6 pens.\nStep 1:", "8")
    opened, _ = made(tmp_path / "opened", make, "Ben has 6 pens.\n", "8", opening="Step 1:")
    assert opened == whole


@pytest.mark.parametrize(("make", "space"), [(metaspace, "▁"), (byte_level, "Ġ")])
def test_where_a_token_would_join_prompt_and_solution_the_prompt_stays(tmp_path: Path, make: Any, space: str) -> None:
    """The prompt ends in a space that its tokenizer would draw to the next word."""
    prompt, solution = made(tmp_path, make, "How many pens are there? ", "8 pens")
    assert prompt.endswith(f" {space}") and solution == f"8 {space}pens </s>"


@KINDS
def test_an_eos_that_the_tokenizer_appends_is_left_off(tmp_path: Path, make: Any) -> None:
    said = [made(tmp_path / str(eos), make, "Ben has 6 pens.\n", "Step 1: 6", "Step", eos=eos) for eos in (False, True)]
    assert said[0] == said[1] and "</s>" not in said[0][0] and said[0][1].endswith(" </s>")


def test_a_solution_that_has_its_eos_gets_no_second(tmp_path: Path) -> None:
    said = [made(tmp_path / str(len(end)), byte_level, "How many?\n", f"8{end}") for end in ("", "</s>")]
    assert said[0] == said[1] and said[0][1] == "8 </s>"


def test_the_ids_of_the_demo_are_what_they_were(tmp_path: Path) -> None:
    """Runs of earlier versions go on: prompts, openings and solutions tokenised by themselves gave the same ids."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    lines = (BASE.parent / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    problems = [Problem(row["id"], row["question"] + "\n", row["answer"], row["solution"]) for row in rows]
    _, found = run(tmp_path, dataclasses.replace(PLAN, opening="Step 1:", max_tokens=1), problems)
    assert len(found) == len(rows) > 1000
    for problem, row in zip(problems, found, strict=True):
        parts = [tokenizer(text)["input_ids"] for text in (problem.text, "Step 1:", problem.solution)]
        assert row["token_ids"] == parts[0] + parts[1]
        assert row["solution_token_ids"] == [*parts[2], tokenizer.eos_token_id]


def test_a_chat_template_that_refuses_the_system_role_is_told_with_the_cure(tmp_path: Path) -> None:
    plan = changed_model(tmp_path, "tokenizer_config.json", chat_template=NO_SYSTEM + TEMPLATE)
    plan = dataclasses.replace(plan, chat=True)
    assert run(tmp_path, plan)[0]["prompts"] == 2
    with pytest.raises(UnusableModel, match=r"data.system: .*\(System role not supported\).* leave `data.system` out"):
        run(tmp_path, dataclasses.replace(plan, system="Be brief."))
    broken = dataclasses.replace(
        plan, model=str(metaspace(tmp_path / "b", chat_template="{{ messages[5].content.x }}"))
    )
    with pytest.raises(UnusableModel, match=r"data.chat: the chat template of .* cannot take the messages"):
        run(tmp_path, dataclasses.replace(broken, system="Be brief."))


def test_a_chat_template_that_writes_without_measure_is_refused_before_its_text_is_tokenised(tmp_path: Path) -> None:
    model = str(byte_level(tmp_path / "model", chat_template="{{ 'x' * 70000000 }}" + CHATML, bos=False))
    with pytest.raises(UnusableModel, match=r"cannot take the messages \(it writes 70,000,\d+ characters"):
        run(tmp_path, dataclasses.replace(PLAN, model=model, chat=True))


def test_a_template_that_asks_for_today_is_told_the_jobs_day(tmp_path: Path) -> None:
    model = str(byte_level(tmp_path / "model", chat_template=DATED + CHATML, bos=False))
    _, rows = run(tmp_path, dataclasses.replace(PLAN, model=model, chat=True, date="2024-07-26"))
    assert rows[0]["text"].startswith("<|im_start|>system\nToday is 26 Jul 2024.<|im_end|>\n<|im_start|>user\nBen")
