"""Reading problems: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config import Data
from orchestrator.data import check_disjoint, prompts_of_round, read_problems
from orchestrator.errors import BadInput
from orchestrator.records import Problem

ROWS = [
    {"id": f"p{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i), "work": f"#### {2 * i}"} for i in range(10)
]


def settings(**changes: Any) -> Data:
    return Data.model_validate({"train": "t", "gate": "g", "test": "e"} | changes)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **changes: Any) -> list[Problem]:
    return read_problems(settings(**changes), "train", {"train": path})


def test_jsonl_and_parquet_read_alike(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read(jsonl(tmp_path / "a.jsonl", ROWS)) == read(tmp_path / "a.parquet")


def test_a_row_becomes_a_prompt(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    found = read(path, template="{{Q}}: {question} ({id})\n", answer="work", answer_marker="####", solution="work")
    assert found[3] == Problem("p3", "{Q}: What is 3 + 3? (p3)\n", "6", "#### 6")


def test_rows_without_ids_are_numbered_and_limits_cut(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    assert [p.prompt_id for p in read(path, id=None, train={"path": "t", "limit": 2})] == ["0", "1"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "x", "answer": "1"}, r"no field 'question' \(data.template\)"),
        ({"id": "x", "question": "q"}, r"no field 'answer' \(data.answer\)"),
        ({"id": "x", "question": "q", "answer": "  "}, "gold answer .* is empty"),
        ({"id": "x", "question": "q", "answer": None}, "field 'answer' .* is null"),
        ({"id": "x", "question": ["q"], "answer": "1"}, "must be text or a number, not list"),
        ({"id": "p0", "question": "q", "answer": "1"}, "id 'p0' stands at .*line 1 too"),
        (["no object"], "an object is needed, not list"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [ROWS[0], row])
    with pytest.raises(BadInput, match=said) as error:
        read(path)
    assert f"{path}, line 2" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no rows"),
        (b"\n \n", "has no rows"),
        (b'{"a": "\xff"}\n', "line 1: not UTF-8"),
        (b"{\n", "line 1: not JSON"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        read(path)


def test_a_row_of_many_megabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "' + b"x" * (17 << 20) + b'"}\n')
    with pytest.raises(BadInput, match="line 1: longer than 16 MiB"):
        read(path)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match=r"give a \.jsonl or \.parquet"):
        read(jsonl(tmp_path / "a.csv", ROWS))
    with pytest.raises(BadInput, match="not a Parquet file"):
        read(jsonl(tmp_path / "a.parquet", ROWS))


def test_templates_know_plain_fields_only(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    for template in ("{question.__class__}", "{question!r}", "{question:>9}", "{", "{0[x]}"):
        with pytest.raises(BadInput, match=r"data\.template"):
            read(path, template=template)


def test_the_same_text_in_two_splits_is_refused() -> None:
    train, test = Problem("a", "What  is it?\n", "1", None), Problem("b", "what is it?", "1", None)
    with pytest.raises(BadInput, match=r"'b' has the same text as 'a' in data\.train"):
        check_disjoint({"train": [train], "gate": [], "test": [test]})


def test_rounds_take_fresh_prompts_and_wrap() -> None:
    problems = [Problem(str(i), str(i), "1", None) for i in range(10)]
    data = settings(prompts="split", prompts_per_round=4)
    rounds = [[p.prompt_id for p in prompts_of_round(problems, data, n, seed=5)] for n in (1, 2, 3)]
    assert len({*rounds[0], *rounds[1]}) == 8
    assert set(rounds[2]) & set(rounds[0]) == set(rounds[0][:2])
    same = settings(prompts_per_round=4)
    assert prompts_of_round(problems, same, 1, 5) == prompts_of_round(problems, same, 3, 5)
    assert prompts_of_round(problems, settings(), 2, 5) == problems
