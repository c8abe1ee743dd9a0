"""Rows of data: numbers in the digits that a person wrote, arrays, classes, lists of answers, options, and what is
refused."""

from __future__ import annotations

import json
import random
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config import Data
from orchestrator.errors import BadInput
from orchestrator.inputs.digits import Written, digits
from orchestrator.inputs.problems import read_problems
from orchestrator.inputs.rows import rows_of, these
from orchestrator.records.golds import accepted
from orchestrator.records.rows import Problem
from tests.orchestrator.test_cli import ratchet


def read(path: Path, **changes: Any) -> list[Problem]:
    data = Data.model_validate({"train": "t", "id": None} | changes)
    return list(read_problems(data, "train", {"train": path}))


def golds(path: Path, **changes: Any) -> list[str]:
    return [problem.gold for problem in read(path, **changes)]


def jsonl(path: Path, *answers: str) -> Path:
    """A file whose answers are these, as JSON."""
    path.write_text("".join(f'{{"question": "q", "answer": {answer}}}\n' for answer in answers))
    return path


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("18", "18"),
        ("18.0", "18"),
        ("18.90", "18.90"),
        ("0.5", "0.5"),
        ("-0.0", "0"),
        ("-3.50", "-3.50"),
        ("1e16", "10000000000000000"),
        ("1E+3", "1000"),
        ("1e-7", "0.0000001"),
        ("6.02e23", "6.02e23"),
        ("1.6e-19", "1.6e-19"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1234567890123456.0", "1234567890123456"),
        ("0.0000152587890625", "0.0000152587890625"),  # 2^-16, which a float of 32 bits would cut
        ("3.14159265358979312", "3.14159265358979312"),  # more digits than a float has: somebody meant them
        # The digits of a machine, of which the last ones are noise.
        ("0.30000000000000004", "0.3"),
        ("18.899999999999999", "18.9"),
        ("18.899999618530273", "18.9"),
        ("3.3333333333333335", "3.33333333333333"),
        ("66.66666666666667", "66.6666666666667"),
    ],
)
def test_numbers_of_json_keep_what_was_written(tmp_path: Path, number: str, text: str) -> None:
    assert golds(jsonl(tmp_path / "a.jsonl", number)) == [text]
    [problem] = read(jsonl(tmp_path / "a.jsonl", number), template="{answer}")
    assert problem.text == text


def test_what_somebody_wrote_in_few_digits_comes_back_from_every_kind_of_column(tmp_path: Path) -> None:
    chance = random.Random(5)
    written = [f"{chance.randint(1, 999999)}e-{chance.randint(0, 4)}" for _ in range(300)]
    plain = [digits(Decimal(text)) for text in written]
    numbers = [float(text) for text in written]
    for kind in (pa.float32(), pa.float64(), pa.decimal128(20, 8)):
        column = pa.array([Decimal(text) for text in written] if kind == pa.decimal128(20, 8) else numbers, kind)
        pq.write_table(pa.table({"question": ["q"] * 300, "answer": column}), tmp_path / "a.parquet")
        assert golds(tmp_path / "a.parquet") == plain
    assert golds(jsonl(tmp_path / "a.jsonl", *map(json.dumps, numbers))) == plain
    # A program that had 32 bits, and wrote all that Python shows of them.
    narrow = [struct.unpack("f", struct.pack("f", number))[0] for number in numbers]
    shown = [text for text in map(repr, narrow) if len(text.replace(".", "").lstrip("0")) > 15]
    assert len(shown) > 100
    for text in shown:
        assert len(digits(Written(text)).replace(".", "").strip("0")) <= 6, text


def test_a_half_float_and_a_list_of_floats(tmp_path: Path) -> None:
    columns = {
        "question": ["q"],
        "answer": pa.array([0.1], pa.float32()).cast(pa.float16()),
        "answers": pa.array([[18.9, 0.1]], pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert golds(tmp_path / "a.parquet") == ["0.1"]
    assert accepted(golds(tmp_path / "a.parquet", answer="answers")[0]) == ["18.9", "0.1"]


@pytest.mark.parametrize("start", ["", "\ufeff", " \n\t"])
def test_an_array_of_objects_is_read_like_one_a_line(tmp_path: Path, start: str) -> None:
    rows = [{"question": f"q{n}", "answer": n + 0.5} for n in range(3)]
    lines, array = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("\n".join(map(json.dumps, rows)))
    array.write_text(start + json.dumps(rows, indent=2), encoding="utf-8")
    assert read(array) == read(lines)
    assert [place for place, _ in rows_of(array, "k")] == [f"{array}, entry {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"question": "q", "answer": "1"}, 7]', "a.json, entry 2: an object is needed, not int"),
        ("a.json", '[\n{"question": "q"},\n{"question"}]', "a.json, line 3: not JSON"),
        ("a.json", '{\n  "data": []\n}', "write one object a line, or one array of objects"),
        ("a.jsonl", '{"answer": "\\sqrt{2}"}', "in JSON a backslash, such as one of LaTeX, is written twice"),
        ("a.csv", "question,answer\n", "give a .jsonl, .json or .parquet file; a table of texts has no types"),
        ("a.jsonl.gz", "", "unpack it first"),
        ("a.jsonl", '{"question": "q", "answer": []}', "field 'answer' (data.answer) is an empty list"),
        ("a.jsonl", '{"question": "q", "answer": ["1", null]}', "entry 2, must be text or a number, not null"),
        ("a.jsonl", '{"question": "q", "answer": ["1", " "]}', "the gold answer (field 'answer') is empty"),
        ("a.jsonl", '{"question": "q", "answer": "a\\u001eb"}', "the control character U+001E"),
        ("a.jsonl", '{"question": "q", "answer": 1e400}', "is inf, which is no number"),
    ],
)
def test_what_cannot_be_read_is_told_with_the_cure(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput) as error:
        read(tmp_path / name)
    assert said in str(error.value)


def test_a_gold_answer_may_be_a_list(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", '["18", " eighteen ", 18.0]', '"[1, 2]"', "[7]")
    assert [accepted(gold) for gold in golds(path)] == [["18", "eighteen"], ["[1, 2]"], ["7"]]
    marked = jsonl(tmp_path / "b.jsonl", '["so #### 1", "or #### 2"]')
    [problem] = read(marked, answer_marker="####", hint_template="It is {answer}.", solution="question")
    assert accepted(problem.gold) == ["1", "2"] and problem.hint == "It is 1."


@pytest.mark.parametrize("field", ["question", "answer", "work"])
def test_latex_that_lost_its_backslashes_is_refused_with_the_cure(tmp_path: Path, field: str) -> None:
    row = {"question": "What is it?\n\tIt is one.", "answer": "1", "work": "a\tb\n#### 1"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert len(read(tmp_path / "a.jsonl", solution="work")) == 1
    for broken in ("\frac{1}{2}", "2\times 3", "x \neq 2", "\boxed{7}", "\rho"):
        (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {field: broken}))
        with pytest.raises(BadInput, match=rf"a.jsonl, line 2: field '{field}' .* was meant: in JSON every backslash"):
            read(tmp_path / "a.jsonl", solution="work")


MMLU = {"question": "Where?", "choices": ["Paris", "Rome", "Oslo", "Bern"]}
ARC = {"question": "Where?", "choices": {"text": ["Paris", "Rome", "Oslo", "Bern"], "label": ["1", "2", "3", "4"]}}
NUMBERS = {"question": "Where?", "choices": ["1", "2", "7"]}
TEMPLATE = "{question}\n{choices}\n"


@pytest.mark.parametrize(
    ("row", "answer", "gold"),
    [
        *[(MMLU, 0, "A"), (MMLU, 3, "D"), (MMLU, "2", "C"), (MMLU, "B", "B"), (MMLU, "Oslo", "C"), (ARC, "1", "1")],
        *[(NUMBERS, 1, "B"), (NUMBERS, "7", "C"), (NUMBERS, "B", "B"), (NUMBERS, "0", "A")],
    ],
)
def test_options_become_lines_and_the_gold_answer_a_letter(tmp_path: Path, row: Any, answer: Any, gold: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row | {"answer": answer}))
    [problem] = read(tmp_path / "a.jsonl", choices="choices", template=TEMPLATE)
    assert problem.gold == gold
    first, last = ("(1) Paris", "(4) Bern") if row is ARC else ("(A) 1", "(C) 7")
    first, last = ("(A) Paris", "(D) Bern") if row is MMLU else (first, last)
    assert problem.text.startswith(f"Where?\n{first}\n") and problem.text.endswith(f"{last}\n")


def test_options_in_a_template_need_their_key(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(MMLU | {"answer": 0}))
    with pytest.raises(BadInput, match=r"field 'choices' .* must be text or a number, not list: .* as `data.choices`"):
        read(tmp_path / "a.jsonl", template=TEMPLATE)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for row, said in (
        (MMLU | {"answer": 4}, "is '4', which is none of the options (A, B, C, D), no number of one (from 0 to 3)"),
        (MMLU | {"answer": "Rom"}, "is 'Rom', which is none of the options"),
        (MMLU | {"answer": "rome"}, "and no text of one, letter by letter (such as 'Paris')"),
        (NUMBERS | {"answer": "1"}, "is '1', by which the options B, A could be meant: their labels, numbers or texts"),
        (NUMBERS | {"answer": ["7", "2"]}, "is '2', by which the options C, B could be meant"),
        (MMLU | {"choices": ["Rome", "Oslo", "Rome"], "answer": "Rome"}, "is 'Rome', by which the options A, C could"),
        (MMLU | {"answer": 0, "choices": "Paris"}, "must be a list of texts, or an object with the lists"),
        (MMLU | {"answer": 0, "choices": ["Paris"]}, "from 2 to 26"),
        ({"question": "Where?", "answer": 0}, "no field 'choices' (data.choices)"),
    ):
        (tmp_path / "a.jsonl").write_text(json.dumps(row))
        with pytest.raises(BadInput) as error:
            read(tmp_path / "a.jsonl", choices="choices", template=TEMPLATE)
        assert said in str(error.value)


def test_classes_with_names_are_their_names(tmp_path: Path) -> None:
    features = {"answer": {"names": ["A", "B"], "_type": "ClassLabel"}, "question": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"question": ["q", "q", "q"], "answer": [1, 0, -1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    assert golds(tmp_path / "a.parquet") == ["B", "A", "-1"]


def test_a_file_of_answers_is_read_in_the_same_way(tmp_path: Path) -> None:
    rows = [
        {"gold": 18.9, "text": "Final answer: $18.90"},
        {"gold": 0.30000000000000004, "text": "Final answer: 0.3"},
        {"gold": ["Bob", "Robert"], "text": "Final answer: robert"},
        {"gold": "so it is 7 #### 7", "text": "Final answer: 7"},
        {"gold": "7", "text": "\text{Final answer:} 7\n\x08oxed{8}\nFinal answer: 7"},
    ]
    table = pa.table({"gold": pa.array([18.9, 29.99], pa.float32()), "text": ["#### 18.90", "#### $29.99"]})
    pq.write_table(table, tmp_path / "floats.parquet")
    (tmp_path / "in.json").write_text(json.dumps(rows))
    for name in ("in.json", "floats.parquet"):
        for output in (tmp_path / "out.jsonl", tmp_path / "out.parquet"):
            if name == "in.json" and output.suffix == ".parquet":
                continue  # a column with texts and lists is none
            assert ratchet("grade", tmp_path / name, "-o", output) == 0
            assert {row["verdict"] for _, row in rows_of(output, "k")} == {"correct"}


def test_a_broken_gold_answer_in_a_file_of_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"gold": "\frac{1}{2}", "text": "Final answer: 0.5"}))
    assert ratchet("grade", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl") == 2
    assert "in.jsonl, line 1: field 'gold' has a form feed where \\frac was meant" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"question": "q", "answer": "1", "answer": "2"}'),
        ("a.jsonl", '{"question": "q", "answer": "1", "more": {"x": 1, "x": 2}}'),
        ("a.json", '[{"question": "q", "answer": "1", "answer": "2"}]'),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, name: str, text: str) -> None:
    """Python would take the last, without a word."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BadInput, match=rf"{name}, line 1: not JSON \(the key '(answer|x)' stands twice in an object\)"):
        list(rows_of(file, "data.train"))


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["1"]), pa.array(["2"])], names=["answer", "answer"]), file)
    with pytest.raises(BadInput, match="the column 'answer' stands there twice"):
        list(rows_of(file, "data.train"))


@pytest.mark.parametrize("kind", [pa.date32(), pa.duration("s"), pa.time64("us")], ids=str)
def test_a_time_that_python_has_none_for_is_named_with_its_column(tmp_path: Path, kind: pa.DataType) -> None:
    """Where rows are read whole."""
    file = tmp_path / "a.parquet"
    values = pa.array([1, 2**31 - 1 if kind == pa.date32() else 2**62], kind)
    pq.write_table(pa.table({"question": ["q"] * 2, "answer": ["1"] * 2, "when": values}), file)
    with pytest.raises(BadInput, match=r"a day, time or duration is out of range .* columns 'when': leave it out"):
        list(rows_of(file, "data.train"))


def test_columns_that_a_job_does_not_name_are_not_read(tmp_path: Path) -> None:
    """One of them cannot be."""
    file = tmp_path / "a.parquet"
    known = {"id": ["1", "2"], "answer": [3, 4], "a.b": ["x", "y"], "why": ["p", "q"]}
    known |= {"choices": [{"text": ["5", "3"], "label": ["3", "4"]}] * 2, "level": pa.array([1.1, 2.5], pa.float32())}
    others = {"when": pa.array([1, 2**62], pa.duration("s")), "page": ["a", "b"]}
    pq.write_table(pa.table(known | others), file)
    settings = {"id": "id", "choices": "choices", "template": "{choices} {level}", "hint_template": "{why} {answer}"}
    first, second = read(file, **settings)
    assert (first.prompt_id, first.text, first.gold, first.hint) == ("1", "(3) 5\n(4) 3 1.1", "3", "p 3")
    assert second.gold == "4"
    assert set(next(rows_of(file, "data.train", these(["a.b"])))[1]) == {"a.b"}
    with pytest.raises(BadInput, match="is out of range"):
        read(file, **settings | {"template": "{when}"})
    pq.write_table(pa.table(known | {"page": ["a", "b"]}), file)
    with pytest.raises(BadInput, match=r"no field 'nowhere' .*; the row has 'id', .* 'page'"):
        read(file, **settings | {"template": "{nowhere}"})


def test_a_text_that_is_the_value_of_each_row_is_counted_as_often_and_not_read(tmp_path: Path) -> None:
    """None of the fields is large; all of them together are four gigabytes."""
    file = tmp_path / "bomb.parquet"
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["a" * (1 << 20)]))
    pq.write_table(pa.table({"question": large, "answer": ["1"] * 4000}), file, compression="zstd")
    with pytest.raises(BadInput, match=r"bytes whose texts unpack to 4,194,30\d,\d{3} are no file of data"):
        next(rows_of(file, "data.train"))


def test_a_column_that_unpacks_to_far_more_than_the_file_is_refused_and_not_read(tmp_path: Path) -> None:
    """A text of 65 MiB stands once in the dictionary of a file, and in each of its rows."""
    file = tmp_path / "bomb.parquet"
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int8()), pa.array(["a" * (65 << 20)]))
    table = pa.table({"question": huge, "answer": ["1"] * 5000})
    options: dict[str, Any] = {"store_schema": False, "write_statistics": False, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(table, file, compression="zstd", **options)
    assert file.stat().st_size < 100_000
    with pytest.raises(BadInput, match="one of its fields has 68,157,440 bytes"):
        list(rows_of(file, "data.train"))
