"""Reading problems: what is read, what is refused, and in which words."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from orchestrator.config import Data
from orchestrator.config.load import load_job
from orchestrator.driver.kept import read_all_problems
from orchestrator.errors import BadInput
from orchestrator.inputs.fields import gold_of
from orchestrator.inputs.overlap import normalise, overlaps
from orchestrator.inputs.problems import check_disjoint, read_problems
from orchestrator.records.rows import Problem
from orchestrator.rounds.round import prompts_of_round
from tests.support.stand_ins import make_project

ROWS = [
    {"id": f"p{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i), "work": f"#### {2 * i}"} for i in range(10)
]


def settings(**changes: Any) -> Data:
    return Data.model_validate({"train": "t", "gate": "g", "test": "e"} | changes)


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **changes: Any) -> list[Problem]:
    return list(read_problems(settings(**changes), "train", {"train": path}))


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
        ({"id": "x", "question": "\ud800", "answer": "1"}, "half a surrogate pair"),
        ({"id": "x", "question": "q", "answer": float("nan")}, "is nan, which is no number"),
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


def test_a_byte_order_mark_at_the_start_is_none_of_the_text(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    plain = read(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == plain


def test_a_row_of_many_megabytes_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "' + b"x" * (17 << 20) + b'"}\n')
    with pytest.raises(BadInput, match="line 1: longer than 16 MiB"):
        read(path)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match=r"give a \.jsonl, \.json or \.parquet file; a table"):
        read(jsonl(tmp_path / "a.csv", ROWS))
    with pytest.raises(BadInput, match="not a Parquet file"):
        read(jsonl(tmp_path / "a.parquet", ROWS))


def test_a_template_of_a_hundred_thousand_fields_is_filled_or_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"id": "p", "question": "why? " * size, "answer": "1"} for size in (1, 1000)]
    path.write_text(json.dumps(rows[0]) + "\n")
    assert read(path, template="{question}" * 100_000)[0].text == "why? " * 100_000
    path.write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(BadInput, match=r"line 1: data\.template: its text is longer than 16 MiB"):
        read(path, template="{question}" * 100_000)


def test_templates_know_plain_fields_only(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    for template in ("{question.__class__}", "{question!r}", "{question:>9}", "{", "{0[x]}"):
        with pytest.raises(BadInput, match=r"data\.template"):
            read(path, template=template)


def test_the_same_text_in_two_splits_is_refused() -> None:
    train, test = Problem("a", "What  is it?\n", "1", None), Problem("b", "what is it?", "1", None)
    with pytest.raises(BadInput, match=r"'b' has the same text as 'a' in data\.train"):
        check_disjoint({"train": [train], "gate": [], "test": [test]})


def problem(prompt_id: str, text: str) -> Problem:
    return Problem(prompt_id, text, "1", None)


EXAMPLE = "Solve it.\nProblem: Sam has 4 balls and wins 9. How many?\n13\n\nProblem: "
STORY = "Nora has 8 shells in a blue bucket. Later that day Nora finds 5 more. How many shells does Nora have now?"


@pytest.mark.parametrize(
    ("other", "similarity"),
    [
        (STORY, 1.0),
        (STORY.upper().replace(".", " .").replace(" ", "  "), 1.0),
        (STORY.replace("Later that day", "Later, that day —"), 1.0),
        (STORY.replace("Later that day Nora", "Later that very day Nora"), None),
        (STORY.replace("8", "9"), 0.0),
        (STORY.replace("finds 5 more", "throws 5 away"), 0.0),
        ("Omar has 8 pens. A friend gives Omar 5 more. How many pens are there in the end?", 0.0),
    ],
)
def test_which_problems_are_near_duplicates(other: str, similarity: float | None) -> None:
    """1: the same text, 0: different, None: nearly the same. Long shared instructions change nothing."""
    train = [problem("t", EXAMPLE + STORY), problem("u", EXAMPLE + "What is 2 + 2?")]
    found = overlaps({"train": train, "test": [problem("x", EXAMPLE + other)]})
    if similarity == 0.0:
        assert found == []
        return
    assert [(o.problem_id, o.split, o.other_id, o.other_split) for o in found] == [("x", "test", "t", "train")]
    assert found[0].similarity == similarity or (similarity is None and 0.8 <= found[0].similarity < 1)


def test_signs_and_numbers_make_another_problem() -> None:
    texts = ("3 + 4", "3 - 4", "-3 + 4", "34", "3.4", "(3 + 4) * 2", "3 + (4 * 2)", "3,4", "x-y", "x+y", "3 % 4")
    splits = {str(i): [problem(text, f"What is {text}?")] for i, text in enumerate(texts)}
    assert overlaps(splits) == []
    assert " ".join(normalise("A well-known “rule”: 3-4, isn't it?")) == "a well known rule 3 - 4 isn t it"


def test_the_search_finds_what_comparing_all_pairs_finds() -> None:
    rng = random.Random(7)
    words = [a + b for a in "abcdefgh" for b in "vwxyz"]
    base = [[rng.choice(words) for _ in range(rng.randrange(12, 30))] for _ in range(60)]

    def edited(tokens: list[str]) -> str:
        changed = list(tokens)
        for _ in range(rng.randrange(3)):
            changed[rng.randrange(len(changed))] = rng.choice(words)
        return " ".join(changed)

    train = [problem(f"t{i}", " ".join(tokens)) for i, tokens in enumerate(base)]
    test = [problem(f"x{i}", edited(tokens)) for i, tokens in enumerate(base)]

    def shingles(p: Problem) -> set[tuple[str, ...]]:
        tokens = p.text.split()
        return {tuple(tokens[i : i + 2]) for i in range(len(tokens) - 1)}

    near = {
        x.prompt_id
        for x in test
        if any(len(shingles(x) & shingles(t)) >= 0.8 * len(shingles(x) | shingles(t)) for t in train)
    }
    assert 5 < len(near) < 55
    assert {o.problem_id for o in overlaps({"train": train, "test": test})} == near


def test_the_first_of_the_likest_in_earlier_splits_is_told() -> None:
    """As comparing each text with all before it tells, whatever is in memory at a time."""
    counted = 0
    for seed in range(150):
        rng = random.Random(seed)
        words = [a + b for a in "abcd" for b in "xyz"] + ["1"]
        base = [[rng.choice(words) for _ in range(rng.randrange(3, 36))] for _ in range(3)]
        splits = {
            split: [problem(f"{split}{i}", _edited(rng, rng.choice(base), words)) for i in range(rng.randrange(9))]
            for split in rng.choice([("train", "gate", "test"), ("gate", "test"), ("train",)])
        }
        cut = _without_common_ends([p.text.split() for rows in splits.values() for p in rows])
        texts = [(split, p.prompt_id, next(cut)) for split, rows in splits.items() for p in rows]
        found = {(o.problem_id, o.other_id, o.similarity) for o in overlaps(splits)}
        assert found == set(_compared(texts)), seed
        counted += len(found)
    assert counted > 100


def _edited(rng: random.Random, tokens: list[str], words: list[str]) -> str:
    changed = list(tokens)
    for _ in range(rng.randrange(2)):
        changed[rng.randrange(len(changed))] = rng.choice(words)
    return " ".join(changed)


def _without_common_ends(texts: list[list[str]]) -> Iterator[list[str]]:
    shortest = min(map(len, texts), default=0)
    start = next((n for n in range(shortest) if len({text[n] for text in texts}) > 1), shortest)
    end = next((n for n in range(shortest) if len({text[-1 - n] for text in texts}) > 1), shortest)
    end = min(end, shortest - start)
    return (text[start : len(text) - end] for text in texts)


def _compared(texts: list[tuple[str, str, list[str]]]) -> Iterator[tuple[str, str, float]]:
    """Of a text that stands word for word before it, and of one that is alike: problem, counterpart, similarity."""
    known: list[tuple[str, str, list[str]]] = []
    for split, name, tokens in texts:
        owner = next((text for text in known if text[2] == tokens), None)
        if owner is None:
            before = [(_similarity(tokens, text[2]), text[1]) for text in known if text[0] != split]
            likest = max(before, key=lambda pair: pair[0], default=(0.0, ""))
            if likest[0] >= 0.8:
                yield name, likest[1], likest[0]
            known.append((split, name, tokens))
        elif owner[0] != split:
            yield name, owner[1], 1.0


def _similarity(a: list[str], b: list[str]) -> float:
    if [t for t in a if t.isdigit()] != [t for t in b if t.isdigit()]:
        return 0.0
    one, other = ({tuple(t[i : i + 2]) for i in range(max(1, len(t) - 1))} for t in (a, b))
    return len(one & other) / len(one | other)


def test_what_all_texts_end_with_makes_no_two_alike() -> None:
    """Without the common end these two differ in all; one that is nothing else is cut no shorter than it is."""
    end = " Think of every step, write it down, and give the answer in a sentence of its own at the very end."
    questions = {"train": "Who painted the ceiling?", "gate": "Where do swallows sleep?", "test": ""}
    assert overlaps({split: [problem(split, text + end)] for split, text in questions.items()}) == []
    alike = overlaps({"train": [problem("a", "Who sang?" + end)], "test": [problem("b", "Who sang?" + end)]})
    assert [(o.problem_id, o.other_id, o.similarity) for o in alike] == [("b", "a", 1.0)]


@pytest.mark.parametrize("folder", ["demo", "smollm2"])
def test_the_shipped_problems_do_not_overlap(folder: str) -> None:
    path = Path(__file__).parents[3] / "jobs" / folder
    check_disjoint({s: read_problems(settings(), s, {s: path / f"{s}.jsonl"}) for s in ("train", "gate", "test")})


def test_a_near_duplicate_is_refused_with_the_cure() -> None:
    near = STORY.replace("that day", "that very day")
    train = [problem("a", STORY), problem("z", "What is 2 + 2?")]
    splits = {"train": train, "gate": [problem("b", near)], "test": [problem("c", STORY)]}
    with pytest.raises(
        BadInput, match=r"'c' has the same text as 'a' in data\.train \(2 problems in all\).*allow_overl"
    ):
        check_disjoint(splits)
    with pytest.raises(BadInput, match=r"data\.gate: problem 'b' has nearly the same text as 'a' in data\.train\."):
        check_disjoint(splits | {"test": []})


def test_an_overlap_can_be_allowed(tmp_path: Path) -> None:
    job = make_project(tmp_path, data={"train": "test.jsonl", "gate": "gate.jsonl", "test": "test.jsonl"})
    with pytest.raises(BadInput, match="has the same text as"):
        read_all_problems(load_job(job))
    problems = read_all_problems(load_job(job, ["data.allow_overlap=true"]))
    assert list(problems["train"]) == list(problems["test"])


GSM8K = {
    "id": "g",
    "question": "How much?",
    "answer": "He sold 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72",
}
GSM8K_SETTINGS = {
    "answer_marker": "####",
    "solution": "answer",
    "solution_strip": ["<<[^>]*>>", r"\s*####.*"],
    "solution_template": "{solution}\nFinal answer: {answer}",
}


def test_a_solution_is_put_into_the_asked_format(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [GSM8K])
    found = read(path, **GSM8K_SETTINGS)[0]
    assert found.gold == "72"
    assert found.solution == "He sold 48/2 = 24 clips.\nIn all 72.\nFinal answer: 72"


def test_solutions_that_come_to_nothing_and_settings_that_do_not_fit(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [GSM8K])
    with pytest.raises(BadInput, match=r"line 1: the solution \(field 'answer'\) is empty"):
        read(path, **GSM8K_SETTINGS | {"solution_strip": ["(?s).*"], "solution_template": None})
    with pytest.raises(BadInput, match=r"no field 'answr' \(data\.solution_template\)"):
        read(path, **GSM8K_SETTINGS | {"solution_template": "{answr}"})
    with pytest.raises(ValidationError, match=r"'\(' is no regular expression"):
        settings(solution="answer", solution_strip=["("])
    with pytest.raises(ValidationError, match="need `solution`"):
        settings(solution_template="{answer}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "give either `path`, a file, or `hub`"),
        ({"path": "a.jsonl", "hub": "a/b", "split": "train"}, "give either `path`, a file, or `hub`"),
        ({"hub": "a/b"}, "`hub` needs `split`"),
        ({"path": "a.jsonl", "revision": "main"}, "belong to `hub`, not to `path`"),
    ],
)
def test_a_source_is_a_file_or_a_data_set(source: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(train=source)


def test_huge_and_broken_parquet_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[0], ROWS[1] | {"question": "x" * (17 << 20)}]), path)
    with pytest.raises(BadInput, match=r"row 2: field 'question' .* is longer than 16 MiB"):
        read(path)
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")])
    pq.write_table(pa.table({"id": ["a"], "question": broken, "answer": ["1"]}), path)
    with pytest.raises(BadInput, match="not UTF-8"):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="not a Parquet file, or a damaged one"):
        read(path)


def test_rounds_take_fresh_prompts_and_wrap() -> None:
    problems = [Problem(str(i), str(i), "1", None) for i in range(10)]
    data = settings(prompts="split", prompts_per_round=4)
    rounds = [[p.prompt_id for p in prompts_of_round(problems, data, n, seed=5)] for n in (1, 2, 3)]
    assert len({*rounds[0], *rounds[1]}) == 8
    assert set(rounds[2]) & set(rounds[0]) == set(rounds[0][:2])
    same = settings(prompts_per_round=4)
    assert prompts_of_round(problems, same, 1, 5) == prompts_of_round(problems, same, 3, 5)
    assert prompts_of_round(problems, settings(), 2, 5) == problems


def test_a_line_of_nested_brackets_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("[" * 100_000 + "\n")
    with pytest.raises(BadInput, match="line 1: not JSON"):
        read(path)


def test_a_whole_number_of_any_length_is_an_answer() -> None:
    """Beyond what a float can hold, too."""
    assert gold_of(10**400, "field 'answer'", None, "data.answer_marker") == str(10**400)
