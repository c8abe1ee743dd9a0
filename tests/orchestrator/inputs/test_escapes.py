"""LaTeX whose backslashes a program took for control characters, told from ordinary text."""

from __future__ import annotations

import pytest

from orchestrator.inputs.escapes import broken_latex


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("\frac{1}{2}", "frac"),
        ("-\frac12", "frac"),
        ("for all x: \forall x", "forall"),
        ("2\times 3", "times"),
        ("2 \times10^3", "times"),
        ("\theta", "theta"),
        ("the angle $\theta$ is", "theta"),
        ("\text{Final answer:} 7", "text"),
        ("5 \textbf{cm}", "textbf"),
        ("x \to 0", "to"),
        (r"n \\to \infty".replace(r"\\to", "\to"), "to"),
        ("$\tau$", "tau"),
        ("\tau_1", "tau"),
        ("\tan x", "tan"),
        ("= \tan(x)", "tan"),
        ("\tan^2 x", "tan"),
        ("A^\top A", "top"),
        ("\triangle ABC", "triangle"),
        ("x \neq 2", "neq"),
        ("x \ne 2", "ne"),
        ("\nu", "nu"),
        ("the frequency $\nu$", "nu"),
        ("E_\nu", "nu"),
        ("x \notin A", "notin"),
        ("\nabla f", "nabla"),
        ("\nicefrac{1}{2}", "nicefrac"),
        ("\beta", "beta"),
        ("\boxed{7}", "boxed"),
        ("The answer is \boxed{7}", "boxed"),
        ("\binom{5}{2}", "binom"),
        ("\rho", "rho"),
        ("a \rightarrow b", "rightarrow"),
        ("\\left(1, 2\right)", "right"),
        ("{\rm cm}", "rm"),
        ("\vec{v}", "vec"),
        ("\varphi", "varphi"),
        ("\alpha + 1", "alpha"),
        ("\approx 3", "approx"),
    ],
)
def test_a_lost_backslash_is_told_with_the_command(text: str, command: str) -> None:
    assert f"where \\{command} was meant" in (broken_latex(text) or "nothing")


@pytest.mark.parametrize(
    "text",
    [
        "\\frac{1}{2} \\times \\theta \\neq \\nu \\to \\beta",
        "Tom has 3 pens.\nHe buys 2.\r\nHow many has he in the end?",
        "v = 5\nu = 3\na = 2\ne = 7",
        "$$\nu = 3\n$$",
        "\\[\ne = mc^2\n\\]",
        "pi\t3.14\ne\t2.718",
        "pi 3.14\ne 2.718",
        "- fruit\n\to apples\n\to pears",
        "name\tage\nann\t5\ntom\t6",
        "A\tan apple\tthe pear",
        "\tan 8-year-old has 3 pens",
        "\tan x-ray, an 11 and an n-gon",
        "Il va\tau marche, et\tau parc",
        "tel.\text. 5",
        "a chapter\x0cThe next page\x0crates of growth\x0clat and long",
        "one\vdown, one\vertical",
        "see\neq. (3), and\neq (4)\neqs. 5",
        "x is\nnot 5\nothers are",
        "not\notherwise\near\new\nothing\n",
        "first\ri have\rbut the rest is right\ron time",
        "the\title and\tag, a\table",
        "if x:\n\treturn y\n\telse:\n\t\traise",
        "a\tb\tc\td\te\tf\to\tu",
        "1\to\t2",
        "N\bNA\bAM\bME\bE",
    ],
)
def test_ordinary_text_is_let_be(text: str) -> None:
    assert broken_latex(text) is None


def test_the_cure_is_named() -> None:
    told = broken_latex("\frac{1}{2}")
    assert told == r"a form feed where \frac was meant: in JSON every backslash is written twice (\\frac)"
