"""Preference data: what is read, left out and refused; and their token ids, against TRL's own."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config import Job
from orchestrator.errors import BadInput
from orchestrator.preferences import Preferences, read_preferences, write_preferences
from orchestrator.records import PreferencePlan, preferences_schema
from workers.batching import PairTokens, completion_key
from workers.pair_data import preference_facts
from workers.preference_tokens import tokenize_preferences
from workers.tokenizing import UnusableModel

SEED = Path(__file__).resolve().parents[1] / "jobs" / "demo" / "seed"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def job(data: dict[str, Any] | None = None, pairs: dict[str, Any] | None = None, **stages: Any) -> Job:
    sources = stages.pop("sources", ["rows.jsonl"])
    return Job.model_validate(
        {"name": "p", "model": "m", "source": "dataset", "rounds": 1, "promotion": {"rule": "always"}}
        | {"loss": {"dpo": 1.0, "nll": 0.0}, "data": data or {}, "pairs": pairs or {}}
        | {"stages": {"sources": sources} | stages}
    )


def read(folder: Path, *rows: Any, **settings: Any) -> Preferences:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    [found] = read_preferences(job(**settings), lambda path, key: folder / path)
    return found


def parts(folder: Path, *rows: Any, **settings: Any) -> tuple[Any, Any, Any]:
    """Prompt and sides of the first row."""
    row = read(folder, *rows, **settings).rows[0]
    return row.prompt, row.chosen, row.rejected


# Forms


def test_texts_with_a_prompt(tmp_path: Path) -> None:
    row = {"prompt": "2 + 2?\n", "chosen": "4", "rejected": "5", "other": None}
    assert parts(tmp_path, row) == ("2 + 2?\n", "4", "5")


def test_texts_without_a_prompt_begin_with_it(tmp_path: Path) -> None:
    row = {"chosen": "2 + 2 is four", "rejected": "2 + 2 is five"}
    assert parts(tmp_path, row) == ("2 + 2 is f", "our", "ive")
    # A space before the answer belongs to the answer.
    assert parts(tmp_path, {"chosen": "2 + 2 = 4", "rejected": "2 + 2 = 5"}) == ("2 + 2 =", " 4", " 5")


def test_messages_with_a_prompt(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Add."}, user("2 + 2?")]
    row = {"prompt": prompt, "chosen": [assistant("4")], "rejected": [assistant("5")]}
    assert parts(tmp_path, row) == (prompt, [assistant("4")], [assistant("5")])
    whole = {"prompt": prompt, "chosen": [*prompt, assistant("4")], "rejected": [*prompt, assistant("5")]}
    assert parts(tmp_path, whole) == parts(tmp_path, row)


def test_messages_without_a_prompt_begin_with_it(tmp_path: Path) -> None:
    begin = [user("Hello"), assistant("Hi"), user("2 + 2?")]
    row = {"chosen": [*begin, assistant("4")], "rejected": [*begin, assistant("5")]}
    assert parts(tmp_path, row) == (begin, [assistant("4")], [assistant("5")])
    # UltraFeedback repeats the first message as a prompt of text.
    assert parts(tmp_path, row | {"prompt": "Hello"}) == parts(tmp_path, row)


def test_a_prompt_of_text_with_sides_of_messages_and_the_other_way_round(tmp_path: Path) -> None:
    row = {"prompt": "2 + 2?", "chosen": [assistant("4")], "rejected": [assistant("5")]}
    assert parts(tmp_path, row) == ([user("2 + 2?")], [assistant("4")], [assistant("5")])
    row = {"prompt": [user("2 + 2?")], "chosen": "4", "rejected": "5"}
    assert parts(tmp_path, row) == ([user("2 + 2?")], [assistant("4")], [assistant("5")])


def test_texts_become_messages_and_are_templated_where_the_job_says_so(tmp_path: Path) -> None:
    row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    asked = [{"role": "system", "content": "Add."}, user("Q: 2 + 2?")]
    chat = {"chat": True, "system": "Add."}
    assert parts(tmp_path, row, data=chat, template="Q: {prompt}") == (asked, [assistant("4")], [assistant("5")])
    assert parts(tmp_path, row, template="Q: {prompt}\n")[0] == "Q: 2 + 2?\n"
    with pytest.raises(BadInput, match=r"no field 'question' \(stages.template\)"):
        read(tmp_path, row, template="{prompt} {question}")


STEP = {
    "dataset": "made up",
    "prompt": "2 + 2 + 2?",
    "initial_reason_steps": "Let's think step by step.\nStep 1: 2 + 2 = 4\nStep 2:",
    "chosen": " 4 + 2 = 6",
    "rejected": " 4 + 2 = 7",
    "full_chosen": " 4 + 2 = 6\nFinal answer: 6",
    "full_rejected": " 4 + 2 = 7\nFinal answer: 7",
    "answer": "6",
}


def test_single_steps_follow_the_right_ones_before_them(tmp_path: Path) -> None:
    steps = STEP["initial_reason_steps"]
    no_eos = {"append_eos": False}
    sides = (STEP["chosen"], STEP["rejected"])
    assert parts(tmp_path, STEP, pairs=no_eos) == (f"2 + 2 + 2?\n{steps}", *sides)
    first = STEP | {"initial_reason_steps": ""}
    assert parts(tmp_path, first, pairs=no_eos) == ("2 + 2 + 2?", *sides)
    prompt, chosen, _ = parts(tmp_path, STEP, pairs=no_eos, data={"chat": True})
    assert (prompt, chosen) == ([user("2 + 2 + 2?"), assistant(steps)], [assistant(STEP["chosen"])])
    with pytest.raises(BadInput, match=r"line 1: .* single steps, .* set `pairs.append_eos: false`"):
        read(tmp_path, STEP)


@pytest.mark.parametrize("chat", [False, True])
def test_single_steps_that_teach_nothing_are_left_out(tmp_path: Path, chat: bool) -> None:
    equal, empty = (STEP | {"rejected": side} for side in ("4 + 2 = 6\n", " "))
    found = read(tmp_path, STEP, equal, empty, pairs={"append_eos": False}, data={"chat": chat})
    assert str(found) == "rows.jsonl: 1 pairs; left out: 1 with an empty side, 1 with equal sides"


def test_ids_tell_source_and_row_and_the_same_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "chosen": "1", "rejected": "2"},
        {"prompt": "a", "chosen": "", "rejected": "2"},
        {"prompt": "a", "chosen": "1", "rejected": "3"},
        {"prompt": "b", "chosen": "1", "rejected": "2"},
    ]
    found = read(tmp_path, *rows).rows
    assert [row.pair_id for row in found] == ["1/1", "1/3", "1/4"]
    assert found[0].prompt_id == found[1].prompt_id != found[2].prompt_id


# Prompts of other names

TOTAL = {"question": "How many?", "chosen": "The total is 8.", "rejected": "The total is 7."}
CHAT_JOB = {"chat": True}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (TOTAL, "How many?"),
        ({"query": "How many?"}, "How many?"),
        ({"problem": "How many?", "source": "made up"}, "How many?"),
        ({"instruction": "Add."}, "Add."),
        ({"instruction": "Add.", "input": ""}, "Add."),
        ({"instruction": "Add.", "input": "2 and 6"}, "Add.\n2 and 6"),
        ({"input": "How many?", "system": ""}, "How many?"),
        ({"question": "How many?", "query": " ", "instruction": None}, "How many?"),
        ({"prompt": "How many?", "question": "Another."}, "How many?"),
    ],
)
def test_a_prompt_by_another_name_is_the_prompt(tmp_path: Path, row: Any, prompt: str) -> None:
    """And not "The total is", which both sides begin with."""
    sides = {"chosen": TOTAL["chosen"], "rejected": TOTAL["rejected"]}
    assert parts(tmp_path, row | sides) == (prompt, "The total is 8.", "The total is 7.")
    assert read(tmp_path, row | sides).begun == 0
    sides_of_messages = {name: [assistant(text)] for name, text in sides.items()}
    assert parts(tmp_path, row | sides_of_messages)[0] == [user(prompt)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"question": "a?", "instruction": "b"},
            "no field 'prompt', and 'question' and 'instruction' could each be it",
        ),
        ({"question": "a?", "input": "b"}, "'question' and 'input' could each be it: rename the one that is"),
        ({"user": "x", "post": "A story."}, "no field 'prompt', and 'user' and 'post' may be it: rename it to"),
        ({"context": "x", "conversation": ["a"]}, "'context' and 'conversation' may be it: rename it to 'prompt', or"),
        ({"text": "How many are there?"}, "no field 'prompt', and 'text' may be it: rename it to 'prompt', or leave"),
        ({"task": "2+6=?", "id": "row 7"}, "no field 'prompt', and 'task' may be it"),
        ({"body": "How many?", "q": "how"}, "no field 'prompt', and 'body' may be it"),
        ({"q": "多少?"}, "no field 'prompt', and 'q' may be it"),
        ({"userTurn": "How many?"}, "no field 'prompt', and 'userTurn' may be it"),
        ({"question": "a?", "system": ["x"]}, "field 'system' must be text, not list"),
        ({"question": "a?", "system": "Add."}, "set `data.chat: true`, or write {system} into `stages.template`"),
        ({"question": "a \frac{1}{2}?"}, "field 'question': holds a form feed where \\frac was meant"),
    ],
)
def test_a_prompt_that_is_not_plain_is_refused_with_the_cure(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(BadInput) as error:
        read(tmp_path, TOTAL, {k: v for k, v in TOTAL.items() if k != "question"} | row)
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ") and said in str(error.value)


def test_columns_that_are_no_prompt_do_not_matter(tmp_path: Path) -> None:
    other = {"id": "7", "prompt_id": "x", "source": "flan", "score_chosen": 4.0, "task_type": "add", "user_id": "u"}
    row = {k: v for k, v in TOTAL.items() if k != "question"} | other
    assert parts(tmp_path, row)[0] == "The total is"
    assert str(read(tmp_path, row)) == "rows.jsonl: 1 pairs; the prompt of 1 is the text that both sides begin with"


def test_a_column_that_both_sides_repeat_is_no_lost_prompt(tmp_path: Path) -> None:
    sides = {"chosen": "Q: How many? A: 8", "rejected": "Q: How many? A: 7"}
    assert parts(tmp_path, sides | {"text": "How many?", "context": "How many?"})[0] == "Q: How many? A:"
    about = {"chosenModel": "a b", "full_rejected": "It is 7.", "final_answer": "8 pens", "quality": "good", "n": "7"}
    assert parts(tmp_path, sides | about)[0] == "Q: How many? A:"


def test_a_system_column_is_the_system_message(tmp_path: Path) -> None:
    row, system = TOTAL | {"system": "Be careful."}, {"role": "system", "content": "Be careful."}
    asked = [system, user("How many?")]
    assert parts(tmp_path, row, data=CHAT_JOB)[0] == asked
    # The job's own is for rows without one.
    own = CHAT_JOB | {"system": "Add."}
    assert parts(tmp_path, row, data=own)[0] == asked
    assert parts(tmp_path, row | {"system": " "}, data=own)[0][0]["content"] == "Add."
    messages = {"chosen": [assistant("8")], "rejected": [assistant("7")], "system": "Be careful."}
    assert parts(tmp_path, messages | {"question": "How many?"})[0] == asked
    assert parts(tmp_path, messages | {"prompt": [user("How many?")]})[0] == asked
    assert parts(tmp_path, messages | {"prompt": asked})[0] == asked
    whole = {"chosen": [user("How many?"), assistant("8")], "rejected": [user("How many?"), assistant("7")]}
    assert parts(tmp_path, whole | {"system": "Be careful."})[0] == asked
    with pytest.raises(BadInput, match="field 'system' differs from the system message of the prompt"):
        read(tmp_path, messages | {"prompt": [system | {"content": "Add."}, user("How many?")]})


def test_a_template_may_place_the_system_text(tmp_path: Path) -> None:
    template = "{system}\n\n### Question: {prompt}\n"
    row = TOTAL | {"system": "Be careful."}
    assert parts(tmp_path, row, template=template)[0] == "Be careful.\n\n### Question: How many?\n"
    assert parts(tmp_path, TOTAL, template=template)[0] == "\n\n### Question: How many?\n"
    assert [m["role"] for m in parts(tmp_path, row, template=template, data=CHAT_JOB)[0]] == ["user"]


def test_sides_that_repeat_the_prompt_are_without_it(tmp_path: Path) -> None:
    row = {"prompt": "How many?\n", "chosen": "How many?\n8", "rejected": "How many?\n7"}
    assert parts(tmp_path, row) == ("How many?\n", "8", "7")
    asked = {"question": "How many?", "chosen": "How many? 8", "rejected": "How many? 7"}
    assert parts(tmp_path, asked, row) == ("How many?", " 8", " 7")
    # One answer that quotes its question is an answer; many of one form and some of another are a mistake.
    other = {"prompt": "Who?", "chosen": "Ben", "rejected": "Ada"}
    assert parts(tmp_path, row, other) == ("How many?\n", "How many?\n8", "How many?\n7")
    with pytest.raises(BadInput, match=r"line 3: .* in 2 of 3 rows of rows.jsonl they do: take the prompt out"):
        read(tmp_path, row, row, other)


BEGUN = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How many?\n\nAssistant:"
HH = [{"chosen": f"{BEGUN} Eight.", "rejected": f"{BEGUN} No."}]


def test_whole_dialogues_of_text_are_cut_as_trl_does(tmp_path: Path) -> None:
    """Anthropic's data; whatever other columns there are."""
    assert parts(tmp_path, HH[0] | {"context": "helpful"}) == (BEGUN, " Eight.", " No.")
    model = chat_model(tmp_path)
    _, made = tokens(tmp_path, HH, model)
    assert [ids(made_row) for made_row in made] == of_trl(tmp_path, HH, model)


def test_rows_as_they_were_reported_have_their_questions_as_prompts(tmp_path: Path) -> None:
    """The columns of Orca's pairs: the first had "The total is" for a prompt."""
    rows = [
        TOTAL | {"system": "You are a careful assistant."},
        {"system": "", "question": "Ines buys 4 more. How many?", "chosen": "Step 1: 15", "rejected": "Step 1: 17"},
        {"system": "", "question": "Ann has 3.", "chosen": "Three", "rejected": "Two"},
    ]
    found = read(tmp_path, *rows, data=CHAT_JOB).rows
    assert [row.prompt[-1]["content"] for row in found] == [row["question"] for row in rows]
    assert [m["role"] for m in found[0].prompt] == ["system", "user"] and len(found[1].prompt) == 1
    assert parts(tmp_path, *rows[1:]) == ("Ines buys 4 more. How many?", "Step 1: 15", "Step 1: 17")


# What teaches nothing, and what is wrong


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": " ", "rejected": "2"}, "with an empty side"),
        ({"prompt": "a", "chosen": "1", "rejected": ""}, "with an empty side"),
        ({"prompt": [user("a")], "chosen": [], "rejected": [assistant("2")]}, "with an empty side"),
        ({"chosen": "2 + 2", "rejected": "2 + 2 = 4"}, "with an empty side"),
        ({"prompt": "a", "chosen": "1", "rejected": " 1\n"}, "with equal sides"),
        ({"prompt": "", "chosen": "1", "rejected": "2"}, "without a prompt"),
        ({"prompt": [], "chosen": [assistant("1")], "rejected": [assistant("2")]}, "without a prompt"),
        ({"chosen": "1", "rejected": "2"}, "without a prompt"),
        ({"chosen": [assistant("1")], "rejected": [assistant("2")]}, "without a prompt"),
    ],
)
def test_rows_that_teach_nothing_are_left_out_and_counted(tmp_path: Path, row: Any, reason: str) -> None:
    sound = {"prompt": "q", "chosen": "1", "rejected": "2"}
    found = read(tmp_path, sound, row, row)
    assert len(found.rows) == 1
    assert str(found) == f"rows.jsonl: 1 pairs; left out: 2 {reason}"
    with pytest.raises(BadInput, match=rf"stages.sources.0: rows.jsonl has no pair .*1 {reason}"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "chosen": "1"}, "no field 'rejected'; the row has 'prompt', 'chosen'"),
        ({"prompt": "a", "chosen": "1", "rejected": None}, "field 'rejected' is null"),
        ({"prompt": "a", "chosen": 1, "rejected": "2"}, "field 'chosen' must be text or a list of messages, not int"),
        ({"prompt": {"a": 1}, "chosen": "1", "rejected": "2"}, "field 'prompt' must be text or a list of messages"),
        ({"prompt": "a", "chosen": "1", "rejected": [assistant("2")]}, "one of 'chosen' and 'rejected' is text"),
        ({"prompt": "a", "chosen": ["1"], "rejected": ["2"]}, "field 'chosen', message 1: a message has 'role' and"),
        (
            {"prompt": [user("a")], "chosen": [{"role": "gpt", "content": "1"}], "rejected": [assistant("2")]},
            "field 'chosen', message 1: the role is 'gpt', and must be one of 'system', 'user', 'assistant'",
        ),
        (
            {"prompt": [user("a")], "chosen": [assistant("1")], "rejected": [{"role": "assistant", "content": None}]},
            "field 'rejected', message 1: 'content' must be text, not NoneType",
        ),
        (
            {"prompt": [user("a")], "chosen": [user("1")], "rejected": [assistant("2")]},
            "after the prompt, 'chosen' has a message of the role 'user', not 'assistant'",
        ),
        (
            {"prompt": [user("a"), assistant("b")], "chosen": [assistant("1")], "rejected": [assistant("2")]},
            "the prompt ends in a message of the role 'assistant', not 'user'",
        ),
        (
            {"prompt": [user("a"), {"role": "system", "content": "s"}, user("b")], "chosen": "1", "rejected": "2"},
            "a message of the role 'system' stands after another message",
        ),
        ({"prompt": "a", "chosen": "\ud800", "rejected": "2"}, "field 'chosen': holds half a surrogate pair"),
        (STEP | {"chosen": [assistant("1")], "rejected": [assistant("2")]}, "all fields are plain text"),
        ([1, 2], "an object is needed, not list"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(BadInput) as error:
        read(tmp_path, {"prompt": "q", "chosen": "1", "rejected": "2"}, row)
    assert str(error.value).startswith(f"{tmp_path / 'rows.jsonl'}, line 2: ")
    assert said in str(error.value)


def test_a_source_holds_one_form(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "1", "rejected": "2"}, {"prompt": [user("a")], "chosen": "1", "rejected": "2"}]
    with pytest.raises(BadInput, match=r"line 2: is messages, and what stands before it plain text"):
        read(tmp_path, *rows)
    with pytest.raises(BadInput, match=r"line 2: is plain text, and what stands before it messages"):
        read(tmp_path, *reversed(rows))
    assert len(read(tmp_path, *rows, data={"chat": True}).rows) == 2


def test_files_of_parquet_and_limits(tmp_path: Path) -> None:
    rows = [{"prompt": [user(str(i))], "chosen": [assistant("1")], "rejected": [assistant("2")]} for i in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    sources = [{"path": "rows.parquet", "limit": 3}, "rows.parquet"]
    found = read_preferences(job(sources=sources), lambda path, key: tmp_path / path)
    assert [len(source.rows) for source in found] == [3, 5]
    assert found[1].rows[0].pair_id == "2/1"
    facts = write_preferences(found, tmp_path / "kept")
    assert facts["pairs"] == 8 and facts["sources"][0]["name"] == "rows.parquet"
    kept = pq.read_table(tmp_path / "kept/00000.parquet")
    assert kept.schema == preferences_schema(conversational=True)
    assert kept.to_pylist()[2]["prompt"] == [user("2")]


TEXT = st.text(max_size=8) | st.sampled_from(["", " ", "same", "\ud800"])
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": TEXT})
ODD = st.none() | st.integers() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=2)
FIELD = TEXT | st.lists(MESSAGE | ODD, max_size=4) | ODD
NAMES = st.sampled_from(["prompt", "chosen", "rejected", "initial_reason_steps", "x"])


@given(st.lists(st.dictionaries(NAMES, FIELD, max_size=5) | ODD, min_size=1, max_size=4), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_strange_rows_are_read_left_out_or_named(tmp_path: Path, rows: list[Any], chat: bool, eos: bool) -> None:
    try:
        found = read(tmp_path, *rows, data={"chat": chat}, pairs={"append_eos": eos})
    except BadInput as error:
        assert "rows.jsonl" in str(error)
        return
    assert len(found.rows) + sum(found.left_out.values()) == len(rows)
    table = pa.Table.from_pylist(
        [{"pair_id": r.pair_id, "prompt_id": r.prompt_id, "prompt": r.prompt, "chosen": r.chosen}
         | {"rejected": r.rejected} for r in found.rows],
        preferences_schema(found.conversational),
    )  # fmt: skip
    for row in table.to_pylist():
        assert row["prompt"] and row["chosen"] and row["rejected"] and row["chosen"] != row["rejected"]
        if found.conversational:
            assert {m["role"] for m in (*row["chosen"], *row["rejected"])} == {"assistant"}


# Token ids


def chat_model(folder: Path, template: str = CHAT) -> str:
    model = folder / "model"
    shutil.copytree(SEED, model)
    (model / "chat_template.jinja").write_text(template)
    return str(model)


def tokens(
    folder: Path, rows: list[Any], model: str = str(SEED), max_tokens: int | None = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The facts and the pairs."""
    found = read(folder, *rows, **settings)
    shutil.rmtree(folder / "kept", ignore_errors=True)
    write_preferences([found], folder / "kept")
    plan = PreferencePlan(model, settings.get("pairs", {}).get("append_eos", True), max_tokens)
    output = folder / "pairs.parquet"
    facts = tokenize_preferences(str(folder / "kept/00000.parquet"), None, plan, str(output))
    return facts, pq.read_table(output).to_pylist()


def of_trl(folder: Path, rows: list[Any], model: str) -> list[tuple[list[int], list[int], list[int]]]:
    """The same rows as TRL's DPO trainer prepares them."""
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer
    from trl.data_utils import maybe_extract_prompt

    settings = DPOConfig(output_dir=str(folder / "trl"), max_length=None, use_cpu=True, bf16=False, report_to="none")
    data = datasets.Dataset.from_list([maybe_extract_prompt(row) for row in rows])
    policy, reference = (LlamaForCausalLM.from_pretrained(model) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(model)
    made = DPOTrainer(policy, reference, settings, train_dataset=data, processing_class=tokenizer).train_dataset
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in made]


def ids(row: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    return row["prompt_token_ids"], row["chosen_token_ids"], row["rejected_token_ids"]


TEXTS = [
    {"prompt": "Ben has 6 pens. Ben buys 2.\n", "chosen": "Step 1: 6 + 2 = 8", "rejected": "Final answer: 7"},
    {"prompt": "How many?", "chosen": " 8", "rejected": " 9<|endoftext|>"},
    {"prompt": "tokens mer", "chosen": "ge here", "rejected": "ely"},
]
BARE = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in TEXTS]
ASKED = [{"role": "system", "content": "Add."}, user("6 + 2?"), assistant("8"), user("And 2 more?")]
CHATS = [
    {"prompt": ASKED, "chosen": [assistant("10")], "rejected": [assistant("Final answer: 11")]},
    {"prompt": [user("1 + 1?")], "chosen": [assistant("2")], "rejected": [assistant("3")]},
]
WHOLE = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in CHATS]
MIXED = [row | {"prompt": row["chosen"][-2]["content"]} for row in WHOLE]


@pytest.mark.parametrize("rows", [TEXTS, BARE, CHATS, WHOLE, MIXED], ids=["texts", "bare", "chats", "whole", "mixed"])
def test_token_ids_are_those_of_trl(tmp_path: Path, rows: list[Any]) -> None:
    model = chat_model(tmp_path)
    facts, made = tokens(tmp_path, rows, model)
    assert facts["pairs"] == len(rows)
    assert [ids(row) for row in made] == of_trl(tmp_path, rows, model)


def test_answers_that_a_template_leaves_open_are_closed(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    open_ended = CHAT.replace("<|endoftext|>", "")
    model = chat_model(tmp_path, open_ended)
    _, [first, _] = tokens(tmp_path, CHATS, model)
    expected = of_trl(tmp_path, CHATS, model)[0]
    eos = AutoTokenizer.from_pretrained(model).eos_token_id
    assert ids(first) == (expected[0], [*expected[1], eos], [*expected[2], eos])
    _, [first, _] = tokens(tmp_path, CHATS, model, pairs={"append_eos": False})
    assert ids(first) == expected


@pytest.mark.parametrize("steps", [STEP["initial_reason_steps"], ""])
@pytest.mark.parametrize("chat", [False, True])
def test_a_step_is_what_follows_and_nothing_closes_it(tmp_path: Path, chat: bool, steps: str) -> None:
    from transformers import AutoTokenizer

    model = chat_model(tmp_path)
    step = STEP | {"initial_reason_steps": steps}
    _, [row] = tokens(tmp_path, [step], model, pairs={"append_eos": False}, data={"chat": chat})
    tokenizer = AutoTokenizer.from_pretrained(model)
    begin = f"<user>{STEP['prompt']}<|endoftext|>\n<assistant>" if chat else STEP["prompt"]
    begin += f"\n{steps}" if steps and not chat else steps
    assert tokenizer.decode(row["prompt_token_ids"] + row["chosen_token_ids"]) == begin + STEP["chosen"]
    assert tokenizer.decode(row["rejected_token_ids"]).endswith("7")
    assert tokenizer.eos_token_id not in row["chosen_token_ids"] + row["rejected_token_ids"]


def test_long_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    _, made = tokens(tmp_path, TEXTS)
    sizes = [len(p) + max(len(c), len(r)) for p, c, r in map(ids, made)]
    facts, kept = tokens(tmp_path, TEXTS, max_tokens=sorted(sizes)[1])
    assert (facts["pairs"], facts["too_long"]) == (2, 1)
    assert len(kept) == 2
    facts, _ = tokens(tmp_path, [*TEXTS, TEXTS[0] | {"prompt": "pens " * 300}])
    assert facts["too_long"] == 1, "the model's own 256 tokens count, too"


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"stages.sources: the rows are messages, and the model .* no chat"):
        tokens(tmp_path, CHATS)
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
    with pytest.raises(UnusableModel, match=r"pair '1/1': the chat template of .* cannot take it \(no system\)"):
        tokens(tmp_path, CHATS, chat_model(tmp_path, picky))


# What a model makes of pairs


def test_facts_of_pairs_are_means_over_pairs() -> None:
    def array(*values: int) -> Any:
        return np.array(values, dtype=np.int32)

    pairs = [
        PairTokens("a", array(1), array(2), array(3)),
        PairTokens("b", array(1), array(3), array(4)),
        PairTokens("c", array(1), array(3), array(4)),  # stands twice, and counts twice
    ]
    by_token = {2: -1.0, 3: -3.0, 4: -2.0}
    logprobs = {completion_key(array(1), array(token)): value for token, value in by_token.items()}
    before = {completion_key(array(1), array(token)): value for token, value in {2: -1.0, 3: -4.0, 4: -2.5}.items()}
    facts = preference_facts(pairs, logprobs, before)
    assert facts == pytest.approx(
        {"ranking_accuracy": 1 / 3, "gamma": 0.0, "chosen_logprob": -7 / 3, "rejected_logprob": -7 / 3}
        | {"reward_accuracy": 2 / 3}
    )
    assert all(map(math.isfinite, facts.values()))
    assert preference_facts([PairTokens("d", array(1), array(2), None)], logprobs) == {}
