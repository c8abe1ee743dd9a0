"""Extraction and the graders themselves, in this process and on harmless input."""

from __future__ import annotations

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.graders import exact, math, number, python, regex
from workers.graders.combine import build
from workers.graders.extraction.extraction import boxed, extract, rules_of
from workers.graders.judgement import Judgement
from workers.graders.mathematics.sentence import mathematics_in

ALL = ("exact", "number", "math")
RULES = ("final_answer", "boxed", "hash")
GSM8K = os.environ.get("RATCHET_GSM8K")

SEVEN = [
    *(
        "7",
        "7 apples",
        "$7",
        "7.0",
        "7.00",
        "\\frac{14}{2}",
        "x=7",
        "$7$",
        "\\$7",
        "7 dollars",
        "7.",
        "**7**",
        "7cm",
    ),
    *(
        "+7",
        "\\boxed{7}",
        "7\\text{ cm}",
        "7^\\circ",
        "€7",
        "(7)",
        "x = 7 apples",
        "７",
        "٧",
        "\\sqrt{49}",
        "3+4=7",
    ),
    *("0.7e1", "7 × 10^0", "7 apples left", "{7}", "7\x00", "7\ud800", "\\dfrac{7}{1}", "7%"),
]
NOT_SEVEN = [
    *("70", "seventy", "7 or 8", "7 million", "7k", "7½", "-7", "1/7", "7 halves", "7 and a half", "0.07", ""),
]
NOT_READ_AS_SEVEN = ["7!", "7 squared", "3 4", "7:30", "7 more than x", "7 dozen", "tea", "a multiple of 7", "3x = 7"]
EQUAL = [
    ("1,234", "1234"),
    ("1,234", "1\\,234"),
    ("1,234", "$1,234.00"),
    ("1,234", "1.234 \\times 10^{3}"),
    ("1.5 million", "1,500,000"),
    ("-5", "−5"),
    ("50%", "0.5"),
    ("50%", "\\frac12"),
    ("50", "50%"),
    ("50%", "50 percent"),
    ("7 cm", "7"),
    ("7 cm^2", "7 square centimetres"),
    ("3.5", "3½"),
    ("3\\frac12", "7/2"),
    ("x^2-1", "(x-1)(x+1)"),
    ("\\frac{\\sqrt{3}}{2}", "√3/2"),
    ("\\sqrt{2}", "2^(1/2)"),
    ("\\{1,2\\}", "\\{2,1\\}"),
    ("2\\pi", "2π"),
    ("x<3", "3>x"),
    ("\\text{yes}", "Yes."),
    ("A", "a"),
    ("12.75", "12,75"),
    ("0,125", "0.125"),
    ("40\\%", "$40$ %"),
    ("12", "12\\textnormal{ miles}"),
    ("12345", "12,\\! 345"),
    ("12345", "12 {, }345"),
    ("12", "12\\"),
    ("x \\ge 5", "The solution is $x \\geq 5$."),
    ("2\\pi cm", "The length is $2\\pi$ cm."),
    ("(7,6)", "The pair $(x, y)$ that solves both is $(7, 6)$."),
    ("So $x$ is even, and the answer is $\\boxed{12}$. Done", "12"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
]
DIFFERENT = [
    ("50", "0.5"),
    ("0.5", "50"),
    ("50%", "5"),
    ("7 cm", "7 m"),
    ("7 cm^2", "7 cm"),
    ("$7", "€7"),
    ("7 am", "7 pm"),
    ("tea", "eat"),
    ("no", "on"),
    ("1/3", "0.33"),
    ("52", "5²"),
    ("15.5", "31/3"),
    ("1.234", "1,234"),
    ("1.5", "1, 5"),
    ("1.5", "(1,5)"),
    ("(1,5)", "1.5"),
    ("2\\pi cm", "The length is $2\\pi$ m."),
    ("x \\ge 5", "It is not $x \\ge 5$."),
    ("(1,2)", "(2,1)"),
    ("x^2+1", "x^2-1"),
    ("Paris", "London"),
]


def judge(graders: tuple[str, ...], gold: str, answer: str) -> Judgement:
    return build(graders)(gold, answer)


@pytest.mark.parametrize("answer", SEVEN)
def test_seven_in_many_clothes_is_correct(answer: str) -> None:
    assert judge(ALL, "7", answer).verdict == "correct"


@pytest.mark.parametrize("answer", NOT_SEVEN)
def test_what_is_not_seven_is_wrong(answer: str) -> None:
    judgement = judge(ALL, "7", answer)
    assert judgement.verdict == "wrong"
    assert judgement.reason


@pytest.mark.parametrize("answer", NOT_READ_AS_SEVEN)
def test_what_is_not_read_as_a_number_is_not_judged(answer: str) -> None:
    judgement = judge(ALL, "7", answer)
    assert judgement.verdict == "ungradable"
    assert judgement.unreadable
    assert judgement.reason


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_correct(gold: str, answer: str) -> None:
    assert judge(ALL, gold, answer).verdict == "correct"


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_are_wrong(gold: str, answer: str) -> None:
    assert judge(ALL, gold, answer).verdict == "wrong"


def test_a_plain_text_gold_is_judged_by_text_alone() -> None:
    assert number.grade("Paris", "London").verdict == "ungradable"
    assert math.grade("Paris", "London").verdict == "wrong"
    assert math.grade("\\text{Paris}", "paris").verdict == "correct"
    assert judge(("number", "exact"), "Paris", "London").reason == "exact: 'London' is not 'Paris'"


def test_a_gold_that_no_grader_reads_is_ungradable_but_equal_to_itself() -> None:
    assert math.grade("\\frac{", "7").verdict == "ungradable"
    assert math.grade("\\frac{", "\\frac{").verdict == "correct"
    assert judge(("number", "math"), "\\frac{", "7").reason.startswith(
        "number: the gold answer '\\\\frac{' is no number; math"
    )


def test_an_empty_gold_is_ungradable() -> None:
    assert exact.grade(" $ $ ", "7").verdict == "ungradable"
    assert judge(ALL, "", "7").verdict == "ungradable"


def test_only_named_graders_are_asked() -> None:
    assert judge(("exact",), "7", "7.0").verdict == "wrong"
    assert judge(("number",), "x^2-1", "x^2-1").verdict == "ungradable"
    assert judge(("math",), "x^2-1", "(x-1)(x+1)").verdict == "correct"


@pytest.mark.parametrize("huge", ["1e999999999", "9" * 1_000_000, "1" + ",000" * 300_000, "1/" + "0" * 900])
def test_huge_or_impossible_numbers_are_no_numbers(huge: str) -> None:
    assert number.parse(huge) is None
    assert number.grade("7", huge).unreadable
    assert number.grade(huge, "7").verdict == "ungradable"


def test_every_gsm8k_gold_agrees_with_itself() -> None:
    if not GSM8K:
        pytest.skip("set RATCHET_GSM8K to GSM8K's train.jsonl")
    rows = [json.loads(line)["answer"] for line in Path(GSM8K).read_text(encoding="utf-8").splitlines()]
    golds = [extract(row, ["hash"])[0] for row in rows]
    assert len(golds) > 7000
    for gold in golds:
        for grader in (exact, number):
            assert grader.grade(gold, gold).verdict == "correct", (grader.__name__, gold)
    for gold in sorted(set(golds)):
        assert math.grade(gold, gold).verdict == "correct", gold


def _clothes(value: Fraction) -> list[str]:
    """Ways to write `value`, which has a short decimal expansion."""
    sign, size = ("-", -value) if value < 0 else ("", value)
    decimal = f"{float(size):,.3f}"
    return [
        f"{sign}{decimal}",
        f"{sign}{decimal.replace(',', '')}00",
        f"{sign}{decimal.replace(',', ' ')}",
        f"{sign}\\frac{{{size.numerator}}}{{{size.denominator}}}",
        f"$ {sign}{size.numerator}/{size.denominator} $",
        f"{sign}${decimal}",
        f"x = {sign}{decimal} apples.",
        f"{float(value * 100):.3f}\\%",
        f"{float(value * 1000):.3f} \\times 10^{{-3}}",
    ]


_VALUES = st.integers(-(10**9), 10**9).map(lambda n: Fraction(n, 1000))


@settings(max_examples=150, deadline=None)
@given(_VALUES, st.data())
def test_equal_numbers_in_different_clothes_agree(value: Fraction, data: st.DataObject) -> None:
    gold, answer = data.draw(st.sampled_from(_clothes(value))), data.draw(st.sampled_from(_clothes(value)))
    if {_measure(gold), _measure(answer)} in ({"money", "percent"}, {"apples", "percent"}):
        assert number.grade(gold, answer).verdict != "correct"
    else:
        assert number.grade(gold, answer).verdict == "correct"


def _measure(text: str) -> str:
    """What a text of `_clothes` says that its number is of."""
    if "%" in text:
        return "percent"
    return "apples" if "apples" in text else "money" if re.match(r"-?\$[0-9]", text) else ""


@settings(max_examples=150, deadline=None)
@given(_VALUES, _VALUES, st.data())
def test_different_numbers_differ_in_any_clothes(one: Fraction, two: Fraction, data: st.DataObject) -> None:
    if one == two or one == 100 * two or two == 100 * one:  # the last two agree where one is a percentage
        return
    gold, answer = data.draw(st.sampled_from(_clothes(one))), data.draw(st.sampled_from(_clothes(two)))
    judgement = number.grade(gold, answer)
    assert judgement.verdict == "wrong"
    assert judgement.final


def test_numbers_that_are_written_out() -> None:
    for words, value in [
        ("seven", 7),
        ("Twenty-five", 25),
        ("three hundred and six", 306),
        ("one million", 10**6),
        ("a dozen", 12),
    ]:
        assert number.grade(str(value), words).verdict == "correct"
    for words, value in [("one half", "1/2"), ("two-thirds", "2/3"), ("A quarter", "0.25"), ("half", "50%")]:
        assert number.grade(value, words).verdict == "correct"
    for words in ["two three", "two hundred hundred", "zero one"]:
        assert number.parse(words) is None, words


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("1/3", "0.333333", "correct"),
        ("1/3", "0.33333", "wrong"),
        ("1/3", "0.333334", "wrong"),
        ("2/3", "0.666667", "correct"),
        ("2/3", "66.6667%", "correct"),
        ("1/6", "0.1\\overline{6}", "correct"),
        ("3", "3.0000001", "wrong"),
        ("0.0000001", "0.0000002", "wrong"),  # equal to math-verify, which rounds to six places
        ("0.1234567", "0.12345678", "correct"),
    ],
)
def test_how_near_is_equal(gold: str, answer: str, verdict: str) -> None:
    assert judge(ALL, gold, answer).verdict == verdict


@pytest.mark.parametrize(
    ("sentence", "mathematics"),
    [
        ("The solution is $x > 5$.", "x > 5"),
        ("So $f(x)$ has its minimum at \\(\\frac{1}{2}\\)", "\\frac{1}{2}"),
        ("The angle is $x$", "x"),
        ("$2$ or $3$", ""),
        ("It is at most $2$", ""),
        ("That is not $2$", ""),
        ("It can't be $x > 2$", ""),
        ("$x + 1$ squared", ""),
        ("The square of $x + 1$", ""),
        ("The value of $x$ is $2$", "2"),
        ("The factors are $x$ and $x + 1$", ""),
        ("The roots are \\(\\pi\\), \\(3\\)", ""),
        ("I have $5 and $7 more", ""),
        ("for all 3 of them, $2$", ""),
        ("no mathematics", ""),
    ],
)
def test_the_mathematics_of_a_sentence(sentence: str, mathematics: str) -> None:
    assert mathematics_in(sentence) == mathematics


def test_a_gold_answer_is_no_sentence() -> None:
    assert number.grade("Ann has 72 clips", "72").verdict == "ungradable"
    assert number.grade("72", "Ann has 72 clips").verdict == "correct"


def test_a_pattern_compares_what_its_group_finds() -> None:
    grade = regex.make(r"(\d+) km")
    assert grade("it is 7 km", "about 7 km, I think").verdict == "correct"
    assert grade("it is 7 km", "about 8 km").reason == "'8' is not '7'"
    assert grade("it is 7 km", "7 m").verdict == "wrong"
    assert grade("far", "7 km").verdict == "ungradable"
    for bad in ("(", "no group", "(a)(b)"):
        with pytest.raises(ValueError, match="regex:"):
            regex.make(bad)


def same_length(gold: str, answer: str) -> bool | None:
    if answer == "text as code":
        return eval("True")
    return None if not answer else len(gold) == len(answer) if answer != "number" else 1


def test_a_function_of_the_users() -> None:
    grade = python.make(f"{__name__}:same_length")
    assert grade("abc", "xyz").verdict == "correct"
    assert grade("abc", "xy").verdict == "wrong"
    assert grade("abc", "").reason == "the function cannot tell"
    assert grade("abc", "number").reason == "the function returned int, not True, False or None"
    assert judge((f"python:{__name__}:same_length",), "x", 7).reason == (
        "python failed: TypeError: object of type 'int' has no len()"
    )
    for bad in ("no_such_module:f", f"{__name__}:nothing", f"{__name__}:ALL"):
        with pytest.raises(ValueError, match="python:"):
            python.make(bad)


def test_graders_combine() -> None:
    both = ({"all_of": ["number", "exact"]},)
    assert judge(both, "7", "7").verdict == "correct"
    assert judge(both, "7", "7.0").reason == "exact: '7.0' is not '7'"
    assert judge(both, "7", "8").reason == "number: '8' is not '7'"
    assert judge(both, "Paris", "Paris").reason == "number: the gold answer 'Paris' is no number"
    nested = ({"any_of": ["choice", {"all_of": ["exact", "number"]}]},)
    assert judge(nested, "7", "(7)").verdict == "correct"
    assert judge(nested, "x1", "x1").verdict == "correct"


def test_a_grader_that_fails_makes_no_answer_wrong() -> None:
    failing = f"python:{__name__}:no_good"
    assert judge(("exact", failing), "7", "7").verdict == "correct"
    assert judge(("exact", failing), "7", "8").reason == "python failed: RecursionError: too deep"
    assert judge((failing, "number"), "7", "8").verdict == "wrong"  # the value is certain
    assert judge(({"all_of": ["exact", failing]},), "7", "8").verdict == "wrong"
    assert judge(({"all_of": ["exact", failing]},), "7", "7").verdict == "ungradable"


def no_good(gold: str, answer: str) -> bool:
    raise RecursionError("too deep")


def test_labelled_cases() -> None:
    # The cases that may take long run in tests/workers/grading/test_grader_pool.py; none of these does.
    cases = [json.loads(line) for line in (Path(__file__).parent / "grading_cases.jsonl").read_text().splitlines()]
    assert len(cases) > 300
    unread = 0
    for case in cases:
        found = extract(case["text"], RULES)
        graders = ("choice",) if case["grader"] == "choice" else ALL
        verdict = judge(graders, case["gold"], found[0]).verdict if found else "wrong"
        unread += verdict == "ungradable"
        assert verdict == case["label"] or (verdict, case["label"]) == ("ungradable", "wrong"), case
    assert unread < len(cases) / 16


def test_where_a_lenient_job_looks_besides() -> None:
    assert rules_of(["boxed"], strict=True) == ["boxed"]
    lenient = rules_of(["boxed"], strict=False)
    assert lenient == ["boxed", "answer_is", "last_number"]
    for completion, answer, rule in [
        ("\\boxed{1} The answer is 2, or 3.", "1", "boxed"),
        ("The answer is B. It is clear.", "B. It is clear", "answer_is"),
        ("**Answer:** $7$ apples", "$7$ apples", "answer_is"),
        ("The answer is\n\n7\n", "7", "answer_is"),
        ("from 20 - 5 we get -15.", "-15", "last_number"),
        ("we have 20-5", "5", "last_number"),
        ("it costs $1,234.50.", "$1,234.50", "last_number"),
        ("so 3/4 of it, 75%", "75%", "last_number"),
        ("so $\\frac{3}{4}$ of it", "\\frac{3}{4}", "last_number"),
        ("about .5 of it", ".5", "last_number"),
    ]:
        assert extract(completion, lenient) == (answer, rule)
    assert extract("no number", lenient) is None
    assert extract(" all of it.\n", ["whole"]) == ("all of it", "whole")


_TEXTS = st.lists(
    st.sampled_from([*"{}\\$#*.:7x/^%\n\x00\ud800", "\\boxed{", "Final answer:", "\\frac"]) | st.text(max_size=5)
).map("".join)


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_extraction_never_raises_and_finds_what_is_there(content: str) -> None:
    found = extract(content, RULES)
    assert found is None or (found[0].strip() == found[0] != "" and found[1] in RULES)
    assert extract(content + "\nFinal answer: 7.", RULES) == ("7", "final_answer")
    exact.grade(content, content)
    number.grade(content, content)


@pytest.mark.parametrize(
    ("completion", "answer", "rule"),
    [
        ("Final answer: 3\nno, wait\nFinal answer: 7", "7", "final_answer"),
        ("**Final Answer:** 7.", "7", "final_answer"),
        ("**FINAL ANSWER**: **7**", "7", "final_answer"),
        ("final answer: x = 0.5.\nThanks", "x = 0.5", "final_answer"),
        ("Final answer: $\\boxed{7}$ apples", "7", "final_answer"),
        ("Final answer:\n7 or \\boxed{8}", "8", "final_answer"),
        ("**Final Answer**:\n\n\\[\n\\boxed{8}\n\\]", "8", "final_answer"),
        ("Final answer:\n\n7 apples\nThanks", "7 apples", "final_answer"),
        ("Final Answer: The final answer is $7$. I hope it is correct.", "$7$", "final_answer"),
        ("Final answer: 7. The rest follows.", "7", "final_answer"),
        ("Final answer: St. Louis", "St. Louis", "final_answer"),
        ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "boxed"),
        ("\\boxed{1} and \\boxed{2}", "1, 2", "boxed"),
        ("\\[\n\\boxed{(1, 2)}, \\boxed{(2, 1)}\n\\]", "(1, 2), (2, 1)", "boxed"),
        ("$\\boxed{x = 1} \\quad \\text{and} \\quad y = \\boxed{2}$", "x = 1, 2", "boxed"),
        ("\\boxed{1} cat or \\boxed{2} dogs", "1, 2", "boxed"),
        ("\\boxed{2}, and so, checked again, \\boxed{3}", "3", "boxed"),
        ("\\boxed{2} and \\boxed{ 2}", "2", "boxed"),
        ("\\boxed{1}, \\boxed{2}, and \\boxed{3}", "1, 2, 3", "boxed"),
        ("\\boxed{} and \\boxed{2}", "2", "boxed"),
        ("(a) \\boxed{2}\n(b) \\boxed{3}", "3", "boxed"),
        ("\\boxed{2 and \\boxed{3}}", "3", "boxed"),
        (
            "Final answer: Jane began 3 hours ago. I hope it is correct.<|im_end|>user",
            "Jane began 3 hours ago",
            "final_answer",
        ),
        ("#### 7<|eot_id|>", "7", "hash"),
        ("\\boxed{3} and cut off \\boxed{\\frac{1", "3", "boxed"),
        ("2 + 5 = <<2+5=7>>7\n#### 7\n", "7", "hash"),
    ],
)
def test_where_the_answer_is(completion: str, answer: str, rule: str) -> None:
    assert extract(completion, RULES) == (answer, rule)


@pytest.mark.parametrize("completion", ["", "the result is 7", "Final answer: ", "\\boxed{}", "\\boxed{7", "####"])
def test_no_answer_is_guessed(completion: str) -> None:
    assert extract(completion, RULES) is None


def test_rules_are_tried_in_order_and_a_pattern_takes_its_last_match() -> None:
    completion = "<a>1</a> <a>2</a> \\boxed{3}"
    assert extract(completion, ["boxed", "pattern:<a>(.*?)</a>"]) == ("3", "boxed")
    assert extract(completion, ["pattern:<a>(.*?)</a>", "boxed"]) == ("2", "pattern:<a>(.*?)</a>")
    assert extract("x", ["pattern:(y)?"]) is None


def test_a_long_run_of_spaces_is_read_like_one() -> None:
    # Trying every start and every split of the run would take 10^14 steps.
    assert exact.grade("7 8", "7" + " " * 50_000 + "8").verdict == "correct"
    assert exact.grade("7 8", "7" + "\\quad" * 50_000 + "8").verdict == "correct"


def test_megabytes_of_braces_are_read_in_one_pass() -> None:
    # A scan per brace would take 10^11 steps here, so that this test would never end.
    for flood in (
        "\\boxed{" * 150_000,
        "{" * 1_000_000,
        "}" * 1_000_000,
        "\\boxed{" + "{}" * 500_000,
        "*." * 500_000,
    ):
        assert extract(flood + "\\boxed{7}", RULES) == ("7", "boxed")
        extract(f"Final answer: {flood}", RULES)
    assert boxed("{" * 100_000 + "\\boxed{7}") == "7"
