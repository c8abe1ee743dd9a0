"""Where the answer is, in the many forms that models give it, and what is not taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from orchestrator.config import THOUGHTS, Grade
from workers.graders.extraction.boxes import boxed
from workers.graders.extraction.extraction import extract, rules_of
from workers.graders.extraction.text import is_placeholder, tidy
from workers.graders.extraction.thoughts import opening_of, without_thoughts
from workers.grading.pool import GraderPool

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "extraction_cases.jsonl").read_text("utf-8").splitlines()
]
RULES = rules_of(["final_answer", "boxed", "hash"], strict=True)


def found(text: str) -> str | None:
    place = extract(text, RULES)
    return place[0] if place else None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['kind']}|{case['text']}")
def test_what_is_found(case: dict[str, str]) -> None:
    kind, text, answer = case["kind"], case["text"], case["answer"]
    assert found(text) == answer
    if kind == "final answer":
        assert found(f"First 3+4.\n{text}") == answer
    if kind in ("declared", "option"):
        assert found(f"3+4\n{text}") == answer
        assert extract(f"{text}\nso \\boxed{{8}}", RULES) == ("8", "boxed")  # a plain declaration counts last
        assert extract(text, ["boxed", "hash"]) is None  # a job that asks for boxes alone gets boxes alone


@pytest.mark.parametrize(
    "turn",
    [
        "Question: What is 2+2?",
        "Q: And now?",
        "Human: thanks",
        "User: 2+2?",
        "### Question: x",
        "Problem 2: x",
        "**Question:** x",
        "Question 2: x",
        "<|im_start|>user\nx",
        "<|im_end|>\nx",
        "[INST] x",
    ],
)
@pytest.mark.parametrize("answer", ["Final answer: {}", "\\boxed{{{}}}", "#### {}", "The answer is {}."])
def test_what_a_model_asks_and_answers_besides_does_not_count(turn: str, answer: str) -> None:
    text = f"Question: What is 3+4?\n3+4=7\n{answer.format(7)}\n\n{turn}\n{answer.format(4)}"
    assert found(text) == "7"
    assert found(f"{turn}\n{answer.format(7)}") == "7"


def test_which_rules_a_job_has() -> None:
    default = Grade().answer
    assert rules_of(default, strict=True) == [*default, "answer_is"]
    for named in (["final_answer"], ["final_answer", "boxed"], default[::-1]):  # there the form is what is learned
        assert rules_of(named, strict=True) == named
        assert extract("The answer is 7.", rules_of(named, strict=True)) is None
    assert extract("The answer is 7.", rules_of(default, strict=True)) == ("7", "answer_is")
    assert rules_of(["boxed"], strict=True) == ["boxed"]
    assert rules_of(["boxed"], strict=False) == ["boxed", "answer_is", "last_number"]
    assert rules_of(["answer_is", "final_answer"], strict=True) == ["answer_is", "final_answer"]
    text = "<a>1</a>\nQuestion: x\n<a>2</a> \\boxed{3}"
    assert extract(text, ["pattern:<a>(.)</a>", "boxed"]) == ("2", "pattern:<a>(.)</a>")
    assert extract("#### 3\nQuestion: x\nall", ["whole"]) == ("#### 3\nQuestion: x\nall", "whole")


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("<think>4</think>7", "7"),
        ("4</think>7", "7"),
        ("<think>1</think><think>2</think>7", "7"),
        ("<think>4", ""),
        ("hm <think>4", "hm "),
        ("7", "7"),
        ("", ""),
        ("<think>a</think>7<think>b", "7"),
        ("<think></think>7", "7"),
        ("<thinking>4</thinking>7", "7"),
        ("<|begin_of_thought|>4<|end_of_thought|>7", "7"),
        ("<|begin_of_thought|>4", ""),
        ("[THINK]4[/THINK]7", "7"),
        ("◁think▷4◁/think▷7", "7"),
        ("<reasoning>4</reasoning>7", "7"),
        ("<|channel|>analysis<|message|>4<|end|><|start|>assistant<|channel|>final<|message|>7", "7"),
    ],
)
def test_thoughts_are_left_out(text: str, rest: str) -> None:
    assert without_thoughts(text, THOUGHTS) == rest


def test_a_job_can_name_its_own_mark() -> None:
    assert without_thoughts("a DONE b</think>c", ["DONE"]) == " b</think>c"
    assert without_thoughts("<think>a</think>b", []) == "<think>a</think>b"
    assert opening_of("DONE") is None
    assert Grade(thoughts="</mind>").thoughts == ["</mind>"]
    assert Grade(thoughts=[]).thoughts == []
    for bad in ("", " ", ["</think>", "\n"], 7):
        with pytest.raises(ValidationError):
            Grade(thoughts=bad)


def test_thoughts_through_the_pool() -> None:
    long = "Final answer: 4. " * 50
    items = [
        ("7", "<think>Final answer: 4</think>\\boxed{7}", "stop"),
        ("7", "Final answer: 4</think>\\boxed{7}", "stop"),
        ("4", "<think>Final answer: 4</think>", "stop"),
        ("4", "<think>Final answer: 4", "stop"),
        ("4", f"<think>{long}", "stop"),  # the mark lies before what is read
        ("7", f"<think>{long}</think>Final answer: 7", "stop"),
        ("7", "<think>Final answer: 7", "length"),
    ]
    with GraderPool(Grade(graders=["exact"], processes=1, max_characters=100)) as pool:
        graded = pool.grade(items)
    assert [one.verdict for one in graded] == ["correct", "correct", "wrong", "wrong", "wrong", "correct", "ungradable"]
    assert [one.reason for one in graded[2:5]] == ["no answer found"] * 3
    with GraderPool(Grade(graders=["exact"], processes=1, thoughts=[])) as pool:
        assert pool.grade(items[3:4])[0].verdict == "correct"


def test_placeholders() -> None:
    for text in (
        "",
        " ",
        "...",
        "…",
        "___",
        "your answer",
        "<number>",
        "[answer]",
        "{final answer}",
        "\\text{answer}",
        "<your answer here>",
        "(your answer)",
        "?",
        "\\ldots",
        "number",
        "the answer",
        "letter of the correct option",
    ):
        assert is_placeholder(text), text
    for text in (
        "7",
        "x",
        "Paris",
        "[0, 1]",
        "{1, 2}",
        "(a, b)",
        "<x, y>",
        "answering machine",
        "A",
        "the sun",
        "number 7",
        "\\pi",
        "x < y > z",
        "no",
        "-",
        "X",
    ):
        assert not is_placeholder(text), text


def test_decoration_goes_and_meaning_stays() -> None:
    for text in (
        "**7**",
        "**7.**",
        "*7*",
        "__7__",
        "_7_",
        "==7==",
        "`7`",
        "```7```",
        "7.",
        "7。",
        "<b>7</b>",
        "7 <|eot_id|>",
        "7</s></s>",
        "**7",
        "7**",
        "「7」",
        "7 ✅",
        "✔️ 7",
    ):
        assert tidy(text) == "7", text
    for text in ("a*", "(ab)*", "x_", "7..", "7...", "a**b", "*", "✗ 7", "x_1", "a_b_", "3 < x", "7!", "f'"):
        assert tidy(text) == text, text


FLOODS = [
    *(
        "Final answer:",
        "Final answer: \n",
        '"Final answer: ',
        "final answer (",
        "final answer to ",
        "answer ",
        "answer is ",
        "answer to ",
    ),
    *(
        "\\boxed",
        "\\boxed ",
        "\\boxed7",
        "\\boxed{}",
        "\\boxed{7} or ",
        "\\begin{align}",
        "#### ",
        "####\n",
        "\nQuestion:",
        "<think>",
        "</think>",
    ),
    *(
        "- a\n",
        "\n- ",
        "> ",
        "| ",
        "<b>",
        "because ",
        "答案",
        "答案是",
        "réponse ",
        "... ",
        "\\\\ ",
        "💡",
        " \n",
        "\t",
        "**",
        "_",
        '"',
        "\xa0",
        "~~",
        "~~a~~ ",
        "&lt;",
        "&",
        "<7>",
        "∎",
        "that's ",
        "Option A is correct. ",
        "option A ",
        "the correct option is ",
        "so A ",
        "if the answer is ",
    ),
]


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_marks_is_read_in_one_pass(flood: str) -> None:
    # Looking behind each mark for the rest of the text, or for the end of each environment, would take hours.
    text = flood * (150_000 // len(flood))
    extract(text, RULES)
    extract(f"Final answer: {text}", RULES)
    extract(f"answer: {text}", RULES)
    extract(f"\\boxed{{{text}}}", RULES)
    without_thoughts(text, THOUGHTS)
    assert extract(f"{text}\n\nFinal answer: 7\n", RULES) == ("7", "final_answer")
    assert boxed(f"{text}\n\n so, \\boxed{{7}}") == "7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("####\n7", "7"),
        ("3+4\n####\n\n7\n", "7"),
        ("####\nStep 1\nwe add", None),
        ("Final answer: 7\n(The format is Final answer: <number>.)", "7"),
        ("Final answer:\n\\underline{17}", "\\underline{17}"),
        ("Final answer: \\underline{\\qquad}", None),
        ("Final answer: \\underline{answer}", None),
    ],
)
def test_blanks_and_what_is_underlined(text: str, answer: str | None) -> None:
    assert found(text) == answer


def test_the_first_box_is_found_whatever_stands_before_it() -> None:
    for before in ("", "{", "}", "\\\\", "\\{", "x", "{\\text{a} "):
        for box in ("\\boxed{7}", "\\fbox{7}", "\\framebox{7}", "\x08oxed{7}", " boxed{7}"):
            assert boxed(f"{before}{box}") == "7", (before, box)
