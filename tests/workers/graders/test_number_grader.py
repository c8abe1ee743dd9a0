"""Numbers in answers: labelled phrases, what they are made of, and text that means harm."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.graders import exact, number
from workers.graders.combine import build
from workers.graders.numbers import arithmetic, bases, lead, times, units
from workers.graders.numbers.phrase import read
from workers.graders.numbers.quantity import Quantity
from workers.graders.numbers.words import digits
from workers.graders.reading.normalise import normalise

CASES = [json.loads(line) for line in (Path(__file__).parent / "grading_numbers.jsonl").read_text().splitlines()]
"""(gold, answer, label): "ungradable" where the answer is no number of one meaning, and says nothing certain."""
GRADE = build(["exact", "number"])


@pytest.mark.parametrize("label", ["correct", "wrong", "ungradable"])
def test_labelled_numbers(label: str) -> None:
    cases = [case for case in CASES if case["label"] == label]
    assert len(cases) > 100
    different = [(case, GRADE(case["gold"], case["answer"])) for case in cases]
    assert [pair for pair in different if pair[1].verdict != label] == []


def test_a_wrong_number_is_final_and_an_unread_one_is_marked() -> None:
    for case in CASES:
        judgement = number.grade(case["gold"], case["answer"])
        assert judgement.final or judgement.verdict != "wrong", case
        assert judgement.verdict != "ungradable" or judgement.unreadable, case
        assert (judgement.reason is None) == (judgement.verdict == "correct"), case


_LEADS = st.sampled_from(
    ["", "Ann has ", "The total is ", "Total cost: ", "a total of ", "x = ", "So, he paid ", "about "]
)
_DENIALS = st.sampled_from(
    ["not ", "anything but ", "It isn't ", "any number other than ", "at least ", "up to ", "It is wrong to say "]
)
_CHANGES = st.sampled_from(["a multiple of ", "the square of ", "Step ", "twice ", "the sum of ", "maybe ", "almost "])
_TAILS = st.sampled_from(["", " apples", " in total", " of the apples", " more marbles", " is the answer", " (total)"])
_NUMBERS = st.integers(2, 10**6)


@settings(max_examples=200, deadline=None)
@given(_LEADS, _NUMBERS, _TAILS)
def test_a_stated_number_is_itself_and_no_other(before: str, value: int, after: str) -> None:
    assert number.grade(str(value), f"{before}{value}{after}").verdict == "correct"
    assert number.grade(str(value + 1), f"{before}{value}{after}").final


@settings(max_examples=100, deadline=None)
@given(_DENIALS, _NUMBERS, _TAILS)
def test_a_denied_or_bounded_number_is_wrong(before: str, value: int, after: str) -> None:
    assert number.grade(str(value), f"{before}{value}{after}").verdict == "wrong"


@settings(max_examples=100, deadline=None)
@given(_CHANGES, _NUMBERS)
def test_a_number_that_is_only_spoken_of_is_not_judged(before: str, value: int) -> None:
    assert number.grade(str(value), f"{before}{value}").unreadable


@settings(max_examples=100, deadline=None)
@given(_NUMBERS, _NUMBERS, st.sampled_from([" or ", ", ", " and ", "; "]))
def test_several_values_are_wrong(one: int, other: int, between: str) -> None:
    if one != other:
        for gold in (one, other):
            assert number.grade(str(gold), f"{one}{between}{other}").verdict == "wrong"


def test_a_quantity_says_what_it_is_of() -> None:
    assert read("$1,234.50", sentence=False) == Quantity(Fraction(2469, 2), unit="dollar", places=2)
    assert read("12 square metres", sentence=False) == Quantity(Fraction(12), unit="meter^2")
    assert read("7 apples", sentence=False) == Quantity(Fraction(7), counted=True)
    assert read("2 h 30 min", sentence=False) == Quantity(
        Fraction(5, 2), unit="hour", also=((Fraction(150), "minute"),)
    )


def test_a_gold_answer_is_no_sentence() -> None:
    judgement = number.grade("Ann has 72 clips", "72")
    assert judgement.verdict == "ungradable"
    assert not judgement.unreadable
    assert number.grade("72", "Ann has 72 clips").verdict == "correct"


def test_what_stands_before_a_number() -> None:
    for text in ("", "It takes Bob", "Total:", "a distance of", "He sold it for", "The sum is", "only about"):
        assert lead.said(text) == "stated", text
    for text in ("It is not", "anything but", "no more than", "between", "The wrong answer is"):
        assert lead.said(text) == "denied", text
    for text in ("Question", "The reciprocal of", "I think it is", "the answer has", "x +", "Solve for", "no,"):
        assert lead.said(text) == "unclear", text


def test_units_have_one_name() -> None:
    for names in (["km/h", "kph", "kilometers per hour"], ["m^2", "square metres", "sq. m", "meters squared"]):
        assert len({units.known(name) for name in names}) == 1
    assert units.known("kg·m/s") == units.known("m kg/s") == "kilogram·meter·second^-1"
    assert units.known("mW") != units.known("MW")
    assert units.known("apples") is None
    assert units.may_be_same(units.known("pounds"), units.known("£"))
    assert not units.may_be_same(units.known("€"), units.known("£"))


def test_arithmetic_is_exact_and_bounded() -> None:
    for text, value in [
        ("2 \\times (3 + 4)", 14),
        ("10^{-17}", Fraction(1, 10**17)),
        ("\\frac{1}{2^{99}}", Fraction(1, 2**99)),
        ("4!", 24),
        ("-2^2", -4),
        ("3\\frac{1}{2}", Fraction(7, 2)),
        ("6 ÷ 4", Fraction(3, 2)),
    ]:
        assert arithmetic.value(text) == value, text
    for text in ("9^9^9", "9999!", "1/0", "0^0", "--5", "3 4", "x + 1", "(" * 150 + "1" + ")" * 150, "", "2^(1/2)"):
        assert arithmetic.value(text) is None, text


def test_words_become_digits() -> None:
    for words, written in [
        ("seven twelfths of it", "7/12 of it"),
        ("two and a half cups", "2 1/2 cups"),
        ("three point one four", "3.14"),
        ("half an hour", "1/2 hour"),
        ("one thousand, two hundred", "1200"),
        ("fifth place", "5th place"),
        ("two three", "two three"),
        ("an apple", "an apple"),
    ]:
        assert digits(words) == written


def test_times_ratios_and_bases() -> None:
    assert times.clock("3:30 p.m.") == times.clock("15:30") == (15 * 3600 + 1800, "known")
    assert times.clock("noon") == times.clock("12 PM")
    assert times.clock("7") is None
    assert times.ratio("6 : 4 : 2") == times.ratio("3 to 2 to 1") == (1, Fraction(2, 3), Fraction(1, 3))
    assert times.ratio("0:0") is None
    assert bases.based("(1010)_{2}") == bases.based("01010 in binary") == ("1010", 2)
    assert bases.based("12_2") is None


@pytest.mark.parametrize(
    "part",
    [
        *(
            "one ",
            "one and ",
            "1 ",
            "1,000",
            "1.000",
            "5 or ",
            "= 5 ",
            "(",
            "((5))",
            "5 apples, ",
            "so 5 ",
            "not ",
            "9",
            "- ",
        ),
        *(
            "$",
            "5 = ",
            "half ",
            "0.12",
            "\\frac{1}{2}",
            "5 feet ",
            "x = 5, ",
            "**",
            "5!",
            "^5",
            "e5",
            " and 5",
            "a ",
            "ii",
        ),
    ],
)
def test_any_repetition_is_read_in_bounded_time(part: str) -> None:
    # What takes the square of a length of a thousand is unnoticed; what takes its cube, or doubles, would never end.
    for length in (300, 990, 100_000):
        text = (part * length)[:length]
        for answer in (text, f"Ann has {text}", f"{text} 7"):
            number.grade("7", answer)
            exact.grade("7", answer)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["5", " ", "or", "=", "$", "x", "half", "(", ")", ".", ","])).map("".join)
)
def test_any_text_gets_a_judgement_and_agrees_with_itself(text: str) -> None:
    number.grade("7", text)
    if normalise(text).strip():
        assert number.grade(text, text).verdict != "wrong" or number.parse(text) is not None


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("30", "30 less than before", "ungradable"),
        ("12", "12 fewer than the last", "ungradable"),
        ("8", "|x| = 8", "ungradable"),
        ("8", "xyz = 8", "ungradable"),
        ("6", "$ab = 6$", "ungradable"),
        ("5", "AB = 5", "correct"),
        ("5", "|AB| = 5", "correct"),
        ("45^\\circ", "45'", "ungradable"),
        ("45^\\circ", "45°", "correct"),
        ("1250", "1.250 €", "correct"),
        ("1250", "€1.250", "correct"),
        ("1.25", "1.250 €", "correct"),
        ("1250", "1.250 kg", "wrong"),
        ("1251", "1.250 €", "wrong"),
        ("18", "18,00 R$", "correct"),
        ("7:45", "07:45", "correct"),
        ("7:45 AM", "07:45", "correct"),
        ("7:45 PM", "07:45", "ungradable"),
        ("7", "She has 7 cookies left over.", "correct"),
        ("7", "The train arrives after 7 minutes", "correct"),
        ("7", "Seven!", "correct"),
        ("5040", "7!", "correct"),
        ("1200", "1 thousand 2 hundred", "correct"),
        ("2300000", "2 million and 300 thousand", "correct"),
        ("42", "42 (= 6 × 7)", "correct"),
        ("42", "42 (= 6 × 8)", "ungradable"),
        ("17", "\\underline{17}", "correct"),
    ],
)
def test_what_is_said_in_unusual_words(gold: str, answer: str, verdict: str) -> None:
    assert build(["exact", "number", "math"])(gold, answer).verdict == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("8/3", "8/3, or about 2.67", "correct"),
        ("2.67", "8/3 or 2.67", "correct"),
        ("8/3", "8/3 or 2.66", "correct"),
        ("3", "8/3, about 3", "correct"),
        ("1/3", "33% (1/3)", "correct"),
        ("1000", "999.9 (approximately 1000)", "correct"),
        ("90", "1.5 hours or 90 minutes", "correct"),
        ("90", "90 minutes (1.5 hours)", "correct"),
        ("100", "$100 or 10000 cents", "correct"),
        ("50", "$50 or €45", "ungradable"),
        ("150", "150 or 150.5", "wrong"),
        ("150", "150.4 or 150", "wrong"),
        ("250", "250 or 252 people", "wrong"),
        ("150", "150 (151)", "ungradable"),
        ("150", "150 = 151", "ungradable"),
        ("31.4", "2 * 3.14 * 5 = 31", "ungradable"),
    ],
)
def test_two_values_are_one_where_one_is_the_other_rounded(gold: str, answer: str, verdict: str) -> None:
    assert number.grade(gold, answer).verdict == verdict


@settings(max_examples=100, deadline=None)
@given(
    st.integers(100, 10**6),
    st.integers(1, 3),
    st.sampled_from(["{0} or {1}", "either {0} or {1}", "{0} ({1})", "{0} = {1}"]),
)
def test_two_integers_never_agree(one: int, apart: int, form: str) -> None:
    for answer in (form.format(one, one + apart), form.format(one + apart, one)):
        assert number.grade(str(one), answer).verdict != "correct"
        assert number.grade(str(one), form.format(one, one)).verdict != "wrong"


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("3:30", "03:30", "correct"),
        ("03:30", "3:30", "correct"),
        ("3:30 PM", "15:30", "correct"),
        ("3:30 AM", "03:30", "correct"),
        ("9:05", "9:05 am", "ungradable"),
        ("3:30 PM", "3:30", "ungradable"),
        ("3:30", "15:30", "ungradable"),
        ("3:30 PM", "3:30 AM", "wrong"),
        ("3:30", "03:31", "wrong"),
        ("15:30", "3:30 AM", "wrong"),
        ("2.5", "2:30 hours", "correct"),
    ],
)
def test_times_whose_half_of_the_day_is_not_said(gold: str, answer: str, verdict: str) -> None:
    assert build(["number", "math"])(gold, answer).verdict == verdict


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("2 MB", "2 Mb", "wrong"),
        ("2 MB", "2 mb", "correct"),
        ("8 nickels", "8 dimes", "wrong"),
        ("8 nickels", "8 quarters", "wrong"),
        ("8 quarters", "8", "correct"),
        ("2", "8 quarters", "correct"),
        ("7 bushels", "7 pecks", "wrong"),
        ("4 furlongs", "4 miles", "wrong"),
        ("9 ohms", "9 \\Omega", "correct"),
        ("18", "R18", "correct"),
        ("64", "¢64", "correct"),
        ("1200", "zł 1200", "correct"),
        ("5", "5 left over", "correct"),
        ("1250", "€ 1.250", "correct"),
        ("1250", "1.250 euros", "correct"),
    ],
)
def test_units_and_money(gold: str, answer: str, verdict: str) -> None:
    assert build(["exact", "number", "math"])(gold, answer).verdict == verdict


def test_a_dash_before_words_may_be_a_minus() -> None:
    assert number.grade("150", "150 - cost").unreadable
    assert number.grade("150", "150 - that's it").verdict == "correct"


@pytest.mark.parametrize("name", ["xyz", "abc", "pqr", "abcd", "x(x+1)", "a(b+1)", "n(n-1)", "|x|"])
def test_a_product_of_unknowns_is_no_name(name: str) -> None:
    assert build(["exact", "number", "math"])("12", f"{name} = 12").unreadable


@pytest.mark.parametrize("name", ["x", "f(x+1)", "P(A)", "AB", "|AB|", "x_1", "f(3)"])
def test_a_name_before_a_value_does_not_count(name: str) -> None:
    assert build(["exact", "number", "math"])("12", f"{name} = 12").verdict == "correct"


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        ("150", "~~150~~", "wrong"),
        ("150", "~~140~~ 150", "correct"),
        ("140", "~~140~~ 150", "wrong"),
        ("36", "Assume the answer is 36, then contradiction", "ungradable"),
        ("36", "36, which is a contradiction", "ungradable"),
        ("84", "42 per side, 84 altogether", "correct"),
        ("42", "42 per side, 84 altogether", "wrong"),
        ("96", "48 boys, 48 girls, 96 total", "correct"),
        ("15", "15 (not 14)", "correct"),
        ("14", "15 (not 14)", "wrong"),
        ("1234567", "1_234_567", "correct"),
        ("42", "<42>", "correct"),
        ("150", "150 [apples]", "correct"),
        ("150", "150. ∎", "correct"),
        ("150", "150 – that's it!", "correct"),
        ("7/2", "3 & 1/2", "correct"),
        ("5", "the fifth", "correct"),
        ("36", "We find that she has 36 apples", "correct"),
    ],
)
def test_marks_and_remarks_around_a_number(gold: str, answer: str, verdict: str) -> None:
    assert build(["exact", "number", "math"])(gold, answer).verdict == verdict
