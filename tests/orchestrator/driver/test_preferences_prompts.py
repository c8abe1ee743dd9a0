"""Preference rows whose prompt has another name, stands in the sides, or has a system message beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import BadInput
from tests.support.preference_rows import assistant, parts, read, user

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
    assert str(read(tmp_path, row)) == "rows.jsonl: 1 pair; the prompt of 1 is the text that both sides begin with"


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
