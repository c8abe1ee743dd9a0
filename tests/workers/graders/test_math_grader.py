"""The math grader: kinds of answers, which of them are compared, and when two values are one."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import Grade
from workers.graders import math
from workers.graders.mathematics.equality import Outcome, same_value
from workers.graders.mathematics.evaluation import TooLarge, evaluate
from workers.graders.mathematics.kind_compare import compare
from workers.graders.mathematics.kind_reader import read
from workers.graders.mathematics.kinds import (
    EMPTY,
    REALS,
    Definition,
    Family,
    Group,
    Matrix,
    Named,
    Relation,
    Scalar,
    title,
)
from workers.graders.mathematics.regions import region, same_region
from workers.graders.mathematics.spelling import spelled
from workers.graders.mathematics.sympy_reader import read as expression
from workers.grading.pool import GraderPool

CASES = Path(__file__).parent / "grading_math.jsonl"


def verdict(gold: str, answer: str) -> str:
    judgement = math.grade(gold, answer)
    assert (judgement.reason is None) == (judgement.verdict == "correct")
    assert not judgement.unreadable or judgement.verdict == "ungradable"
    return judgement.verdict


def test_labelled_cases_of_every_kind() -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert len(cases) > 700
    assert len({case["kind"] for case in cases}) > 20
    with GraderPool(Grade(graders=["math"])) as pool:
        graded = pool.grade([(case["gold"], case["text"], "stop") for case in cases])
    abstained = 0
    for case, one in zip(cases, graded, strict=True):
        if case["label"] == "wrong" and one.verdict == "ungradable":
            abstained += 1  # no evidence is no fault
        else:
            assert one.verdict == case["label"], (case, one)
    assert abstained < 20


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("(2,5)", "2,5"),  # a pair or an interval
        ("3\\sqrt{2}", "x^2 = 18"),
        ("x^2+1", "x^2+1 = 0"),
        ("2x+4y-3=0", "2x+4y"),
        ("x^2", "about the square"),
        ("x^2", "\\frac{x"),
        ("(1,2)", "somewhere on the line"),
        ("\\sqrt{x^2}", "x"),  # equal where x is a length
        ("\\frac{\\pi}{4} + k\\pi, k \\in \\mathbb{Z}", "\\frac{5\\pi}{4}"),
        ("3 \\pmod{7}", "10"),
        ("\\text{(C)}", "the third one"),
        ("\\emptyset", "the empty bag"),
        ("x^2", "y" * 1500),
    ],
)
def test_what_is_not_read_as_the_gold_s_kind_is_no_evidence(gold: str, answer: str) -> None:
    judgement = math.grade(gold, answer)
    assert judgement.verdict == "ungradable"
    assert judgement.unreadable and judgement.reason


@pytest.mark.parametrize("gold", ["x^2", "(1,2)", "x > 2", "\\{1,2\\}"])
def test_a_refusal_and_several_values_are_wrong(gold: str) -> None:
    for answer in ("I don't know", "It cannot be determined.", "We can't solve this", "no idea"):
        assert verdict(gold, answer) == "wrong", answer
    assert verdict("x^2", "x^3 or x^2") == "wrong"


@pytest.mark.parametrize(
    "answer", ["5 kg\\cdot m/s", "5 Hz", "5 so far", "5!", "A$5", "5 (five)", "5 weeks and 0 days"]
)
def test_letters_that_may_be_a_unit_or_a_word_are_no_evidence(answer: str) -> None:
    wanted, got = read("5"), read(answer)
    assert wanted is not None
    assert got is None or title(got) == "prose" or compare(wanted, got) is not Outcome.DIFFERENT


def test_a_gold_that_is_not_read_is_no_evidence() -> None:
    judgement = math.grade("\\frac{", "7")
    assert judgement.verdict == "ungradable" and not judgement.unreadable
    assert verdict("\\frac{", "\\frac{") == "correct"


def test_a_value_out_of_bounds_is_not_computed() -> None:
    for huge in ("5^{5^{5^{5^5}}}", "10^{10^{10}}", "9!!!!", "x^{10^{9}}"):
        judgement = math.grade("x^2", huge)
        assert judgement.verdict == "ungradable" and judgement.failed, huge
    with pytest.raises(TooLarge):
        evaluate(expression("2^{2^{100}}"), {}, 60)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("2\\pi cm", Scalar("2\\pi", "centimeter")),
        ("x = 1, y = 2", Named((("x", Scalar("1")), ("y", Scalar("2"))))),
        ("x = 1 or x = 2", Definition("x", Group("", (Scalar("1"), Scalar("2"))))),
        ("f(t) = 2t", Definition("f", Scalar("2t"), "t")),
        ("]2,5]", Group("(]", (Scalar("2"), Scalar("5")))),
        ("x \\in (2;5)", Group("()", (Scalar("2"), Scalar("5")), interval=True)),
        ("A(1,2)", Group("()", (Scalar("1"), Scalar("2")), name="A")),
        ("{1; 2}", Group("{}", (Scalar("1"), Scalar("2")))),
        ("\\{x \\mid x \\le 3\\}", Relation(("x", "3"), ("\\le",))),
        ("k\\pi, where k is an integer", Family(Scalar("k\\pi"), "k")),
        ("\\begin{bmatrix}1 & 2\\\\[2pt]\\end{bmatrix}", Matrix(((Scalar("1"), Scalar("2")),))),
        ("There are no real solutions.", EMPTY),
        ("ℝ", REALS),
        ("1,234", Scalar("1234")),
        ("1,00,000", None),
        ("", None),
    ],
)
def test_the_kind_of_a_text(text: str, kind: object) -> None:
    assert read(text) == kind


def test_deep_nesting_and_long_lists_are_no_kind() -> None:
    assert read("(1," * 30 + "2" + ")" * 30) is None
    assert read("1," * 300) is None


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("x ⩽ \\boldsymbol{√2}", "x \\le \\sqrt{2}"),
        ("\\left.42\\right.", "42"),
        ("\\textcolor{red}{\\nicefrac12}", "{\\frac{1}{2}}"),
        ("2sqrt(3)/2", "2\\sqrt{3}/2"),
        ("6.63e-34", "6.63 \\times 10^{-34}"),
        ("4cos20^\\circ", "4\\cos 20°"),
        ("\\\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\begin{cases}x=1\\\\y=2\\end{cases}", "x=1, y=2"),
        ("{10 \\choose 3}", "\\binom{10}{3}"),
        ("\\underbrace{42}_{n}", "42"),
        ("0.\\overline{3}", "0.\\overline{3}"),
    ],
)
def test_one_spelling(text: str, latex: str) -> None:
    assert spelled(text) == latex


@pytest.mark.parametrize(
    ("one", "other", "outcome"),
    [
        ("10^{-17}", "10^{-18}", "different"),
        ("\\pi 10^{-300}", "0", "different"),
        ("\\pi^{20}", "\\pi^{20}+10^{-40}", "different"),
        ("e^{\\pi\\sqrt{163}}", "262537412640768744", "different"),  # nearly whole
        ("\\frac{2^{2005}+1}{3 \\cdot 2^{2006}}", "\\frac{1}{6}", "different"),
        ("\\sin^2 1+\\cos^2 1-1", "0", "equal"),
        ("2(3)", "6", "equal"),  # to the grammar's own reader it is 5
        ("2\\frac{1}{2}", "2.5", "equal"),
        ("\\frac{1}{2}x", "1/2x", "equal"),
        ("|x|", "x", "different"),
        ("\\sqrt{ab}", "\\sqrt{a}\\sqrt{b}", "equal"),
        ("\\frac{r}{R}", "1", "different"),
        ("2X", "2x", "equal"),
        ("(-1)^n", "\\cos(n\\pi)", "equal"),
        ("\\lfloor \\frac{n}{2} \\rfloor", "n/2", "different"),
        ("i^2", "-1", "equal"),
        ("2i", "2j", "different"),
        ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}", "equal"),
        ("\\arcsin 2", "7", "different"),
        ("\\unknown{x}", "x", "unclear"),
    ],
)
def test_when_two_expressions_have_one_value(one: str, other: str, outcome: str) -> None:
    assert same_value(one, other).value == outcome
    assert same_value(other, one).value == outcome


_ENDS = st.fractions(-9, 9, max_denominator=4)


@settings(max_examples=60, deadline=None)
@given(_ENDS, _ENDS, st.sampled_from("(["), st.sampled_from(")]"))
def test_an_interval_is_the_inequality_that_says_so(one: Fraction, other: Fraction, left: str, right: str) -> None:
    low, high = min(one, other), max(one, other)
    if low == high:
        return
    interval = f"{left}{low},{high}{right}"
    signs = {"(": "<", "[": "\\le", ")": "<", "]": "\\le"}
    assert verdict(interval, f"{low} {signs[left]} x {signs[right]} {high}") == "correct"
    assert verdict(interval, f"{low} {signs['(' if left == '[' else '[']} x {signs[right]} {high}") == "wrong"
    assert verdict(interval, f"{low} {signs[left]} x {signs[right]} {high + 1}") == "wrong"
    assert verdict(interval, f"\\{{{low},{high}\\}}") == "wrong"


def test_regions_are_compared_by_what_they_contain() -> None:
    def same(one: str, other: str) -> bool:
        first, second = read(one), read(other)
        assert first is not None and second is not None
        regions = region(first), region(second)
        assert regions[0] is not None and regions[1] is not None
        return same_region(*regions)

    assert same("x^2 < 4", "(-2,2)")
    assert same("|2x-1| \\ge 3", "(-\\infty,-1]\\cup[2,\\infty)")
    assert same("\\frac{1}{x} > 0", "x > 0")
    assert same("\\mathbb{R}\\setminus\\{0\\}", "x \\ne 0")
    assert same("[0,2]\\cap[1,3]", "1 \\le x \\le 2")
    assert not same("[0,1)\\cup(1,2]", "[0,2]")
    assert not same("(0,1)", "(0,1]")
    assert not same("x \\le \\sqrt{2}", "x \\le 1.414213562373095")


_ITEMS = st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True)


@settings(max_examples=60, deadline=None)
@given(_ITEMS, st.randoms())
def test_a_tuple_has_an_order_and_a_set_has_none(items: list[int], random: object) -> None:
    shuffled = sorted(items, reverse=items == sorted(items))
    assert verdict(f"({','.join(map(str, items))})", f"({', '.join(f'{item}.0' for item in items)})") == "correct"
    as_set = f"\\{{{', '.join(map(str, shuffled))}\\}}"
    assert verdict(f"\\{{{','.join(map(str, items))}\\}}", as_set) == "correct"
    assert verdict(f"({','.join(map(str, items))})", as_set) == "wrong"
    if shuffled != items:
        assert verdict(f"({','.join(map(str, items))})", f"({','.join(map(str, shuffled))})") == "wrong"
    names = "wxyz"[-len(items) :]
    named = [f"{name}={item}" for name, item in zip(names, items, strict=True)]
    assert verdict(f"({','.join(map(str, items))})", ", ".join(reversed(named))) == "correct"
    moved = [f"{name}={item}" for name, item in zip(names, [*items[1:], items[0]], strict=True)]
    assert verdict(f"({','.join(map(str, items))})", ", ".join(moved)) == "wrong"


@settings(max_examples=40, deadline=None)
@given(st.integers(-5, 5), st.integers(1, 5), st.integers(-5, 5), st.integers(2, 4))
def test_an_equation_and_its_multiples(a: int, b: int, c: int, factor: int) -> None:
    equation = f"{a}x+{b}y={c}".replace("+-", "-")
    assert verdict(equation, f"{factor * a}x+{factor * b}y={factor * c}".replace("+-", "-")) == "correct"
    assert verdict(equation, f"y=\\frac{{{c}-({a})x}}{{{b}}}") == "correct"
    assert verdict(equation, f"{a}x+{b}y={c + 1}".replace("+-", "-")) == "wrong"


@pytest.mark.parametrize("answer", ["\\mathbf{R}", "\\mathbf R", "$\\mathbf{R}$", "R", "\\mathbb{R}"])
def test_the_reals_in_bold(answer: str) -> None:
    assert math.grade("\\mathbb{R}", answer).verdict == "correct"
    assert math.grade("\\mathbf{R}", "\\mathbf{C}").verdict != "correct"


def test_html_names_of_signs() -> None:
    assert math.grade("x < 2", "x &lt; 2").verdict == "correct"
    assert math.grade("x < 2", "x &gt; 2").verdict == "wrong"
    assert math.grade("x \\le 2", "x &le; 2").verdict == "correct"
