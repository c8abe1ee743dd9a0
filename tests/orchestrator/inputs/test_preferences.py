"""Preference data: what is read, left out and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import BadInput
from orchestrator.inputs.preference_rows import _may_be_prompt, read_columns
from orchestrator.inputs.preferences import read_preferences, write_preferences
from orchestrator.records.rows import preferences_schema
from tests.support.preference_rows import STEP, assistant, job, parts, read, user

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


def test_single_steps_follow_the_right_ones_before_them(tmp_path: Path) -> None:
    steps = STEP["initial_reason_steps"]
    no_eos = {"append_eos": False}
    sides = (STEP["chosen"], STEP["rejected"])
    assert parts(tmp_path, STEP, pairs=no_eos) == (f"2 + 2 + 2?\n{steps}", *sides)
    first = STEP | {"initial_reason_steps": ""}
    assert parts(tmp_path, first, pairs=no_eos) == ("2 + 2 + 2?", *sides)
    prompt, chosen, _ = parts(tmp_path, STEP, pairs=no_eos, data={"chat": True})
    assert (prompt, chosen) == ([user("2 + 2 + 2?"), assistant(steps)], [assistant(STEP["chosen"])])
    with pytest.raises(BadInput, match=r"line 1: .* single reasoning steps, .* set `pairs.append_eos: false`"):
        read(tmp_path, STEP)


@pytest.mark.parametrize("chat", [False, True])
def test_single_steps_that_teach_nothing_are_left_out(tmp_path: Path, chat: bool) -> None:
    equal, empty = (STEP | {"rejected": side} for side in ("4 + 2 = 6\n", " "))
    found = read(tmp_path, STEP, equal, empty, pairs={"append_eos": False}, data={"chat": chat})
    assert str(found) == "rows.jsonl: 1 pair; left out: 1 with an empty side, 1 with equal sides"


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
    assert str(found) == f"rows.jsonl: 1 pair; left out: 2 {reason}"
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


def test_columns_that_can_hold_no_prompt_are_not_read(tmp_path: Path) -> None:
    """One of them cannot be."""
    messages = [[user("1?"), assistant("1")]]
    columns: dict[str, Any] = {"when": pa.array([2**62], pa.duration("s")), "messages": messages, "score_chosen": ["9"]}
    columns |= {"prompt": ["1?"], "chosen": ["1"], "picture": [b"\0"], "ids": [["a"]], "rejected": ["2"]}
    columns |= {"info": [{"prompt": "2?"}], "system": [""], "source": ["a"], "story": ["Once"], "tokens": [[1]]}
    table = pa.table(columns)
    assert read_columns(table.schema) == ["messages", "prompt", "chosen", "rejected", "system", "story"]
    pq.write_table(table, tmp_path / "rows.parquet")
    [found] = read_preferences(job(sources=["rows.parquet"]), lambda path, key: tmp_path / path)
    assert [(row.prompt, row.chosen) for row in found.rows] == [("1?", "1")]
    pq.write_table(table.drop_columns(["chosen"]), tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match="is out of range"):
        read_preferences(job(sources=["rows.parquet"]), lambda path, key: tmp_path / path)


@given(
    st.sampled_from(["text", "source", "user_input", "rejectedPrompt", "title", "id", "messages", "ids"]),
    st.text(max_size=4) | st.lists(st.text(max_size=3), max_size=2) | st.integers(0, 9) | st.booleans() | st.binary(),
    st.none() | st.text(max_size=3),
)
@settings(deadline=None)
def test_whatever_may_be_the_prompt_is_read(name: str, value: Any, shared: str | None) -> None:
    schema = pa.table({"chosen": ["1"], name: pa.array([value]), "rejected": ["2"]}).schema
    assert name in read_columns(schema) or not _may_be_prompt(name, value, shared)


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
