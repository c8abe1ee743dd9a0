"""From LaTeX to SymPy, without evaluating anything as Python.

math-verify's own way there hands every number that it finds to SymPy as text, which SymPy evaluates as
Python. The grammar lets digits alone come that far, but nothing that a model wrote should, and evaluating is
slow. So numbers are converted here, and everything else is as in math-verify.
"""

from __future__ import annotations

import re
from typing import Any

from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy, normalize_latex
from math_verify import LatexExtractionConfig
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_last_eq
from sympy import Float, Integer

_SETTINGS = LatexExtractionConfig().normalization_config
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")


class _Converter(_Latex2Sympy):
    def parse_number(self, text: str) -> Any:
        text = text.replace(",", "")
        return Integer(int(text)) if text.isdecimal() else Float(text)


def read(latex: str) -> Any:
    """The SymPy object that math-verify would make of `latex`, or a bare Exception where it cannot read it."""
    latex = normalize_latex(latex, _SETTINGS)
    if _THOUSANDS.fullmatch(latex):
        latex = latex.replace(",", "")
    try:
        return _convert(latex)
    except Exception:
        if (last := get_last_eq(latex)) == latex:
            raise
        return _convert(last)  # of a chain of equations the last side


def _convert(latex: str) -> Any:
    return _Converter(is_real=not should_treat_as_complex(latex), convert_degrees=False).parse(latex)
