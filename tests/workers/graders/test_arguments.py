"""Where the argument of a function ends."""

from __future__ import annotations

import pytest

from workers.graders.mathematics.arguments import closed


@pytest.mark.parametrize(
    ("latex", "with_parentheses"),
    [
        ("\\sin x / 2", "\\sin(x) / 2"),
        ("\\sin 2x \\cdot 3", "\\sin(2x) \\cdot 3"),
        ("\\log_2 3 \\times 5", "\\log_2(3) \\times 5"),
        ("\\sin^2 x/2", "\\sin^2(x)/2"),
        ("\\ln|x|/2", "\\ln(|x|)/2"),
        ("\\ln{x}/2", "\\ln({x})/2"),
        ("\\ln\\frac{a}{b} \\div c", "\\ln(\\frac{a}{b}) \\div c"),
        ("\\ln \\sin x / 2", "\\ln(\\sin x) / 2"),
        ("\\sin x \\cdot \\cos x / 2", "\\sin(x) \\cdot \\cos(x) / 2"),
        ("\\frac{\\ln 2 \\cdot 3}{4}", "\\frac{\\ln(2) \\cdot 3}{4}"),
        ("\\sin x (x+1)", "\\sin(x) (x+1)"),
        ("\\sin \\pi/6", "\\sin(\\pi/6)"),
        ("\\cos 2\\pi/3 \\cdot 2", "\\cos(2\\pi/3) \\cdot 2"),
        ("\\log_2 1/8", "\\log_2(1/8)"),
        ("\\arctan 3/4", "\\arctan(3/4)"),
        ("\\cos^{-1} 4/5", "\\cos^{-1}(4/5)"),
    ],
)
def test_an_argument_that_a_sign_follows_gets_parentheses(latex: str, with_parentheses: str) -> None:
    assert closed(latex) == with_parentheses
    assert closed(with_parentheses) == with_parentheses


@pytest.mark.parametrize(
    "latex",
    [
        "x/2",
        "\\sin x",
        "\\sin(x)/2",
        "\\sin x\\cos x",
        "\\sin 2(x+1)",
        "\\int \\sin x dx",
        "\\sqrt{x}/2",
        "\\ln x + 1/2",
    ],
)
def test_what_needs_none_stays(latex: str) -> None:
    assert closed(latex) == latex


@pytest.mark.parametrize(
    "latex", ["", "\\ln", "\\ln /", "\\sin ^", "\\ln \\frac{1/2", "\\sin^{2/3", "\\ln|x/2", "\\ln(x/2"]
)
def test_what_is_broken_off_stays(latex: str) -> None:
    assert closed(latex) == latex
