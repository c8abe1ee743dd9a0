"""From LaTeX to SymPy, without evaluating anything as Python.

math-verify's parser hands each number that it finds to SymPy as text, which SymPy evaluates as Python. The grammar
lets digits alone come that far, but nothing that a model wrote should, and evaluating is slow. So numbers are
converted here, and exactly: 0.1 is 1/10. Only single expressions come here; what is a set, a pair or an equation is
decided before, see kind_reader.py.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
from sympy import Expr, Rational, UnevaluatedExpr

from workers.graders.mathematics.arguments import closed

_SETTINGS = ConversionConfig(lowercase_symbols=False)
_PERCENT = re.compile(r"(?<!\\)%")
_PI_BESIDE = re.compile(r"\\pi\s*(?=\()")
"""A factor, which the grammar takes for the name of a function: \\pi(6)^2."""
_LONGEST_NUMBER = 400
"""Most digits of one number: huge ones take time that grows with their square."""


class _Converter(_Latex2Sympy):
    def parse_number(self, text: str) -> Any:
        if len(text) > _LONGEST_NUMBER or not re.fullmatch(r"[0-9,]*\.?[0-9,]*", text):
            raise ValueError("no number")
        return Rational(text.replace(",", ""))

    def convert_postfix(self, postfix: Any) -> Any:
        # The grammar adds any two numbers side by side: 2(3) would be 5, as 2\frac{1}{2} is 5/2.
        value = super().convert_postfix(postfix)
        if isinstance(value, Rational) and not 0 < value < 1 and not postfix.getText().isdecimal():
            return UnevaluatedExpr(value)
        return value


@lru_cache(maxsize=2048)
def read(latex: str, loose: bool = False) -> Any:
    """The SymPy expression, not evaluated, that `latex` stands for; i is a symbol in it.

    With `loose` a function without parentheses takes all that is multiplied or divided behind it.
    Raises whatever ANTLR and SymPy raise where it is none.
    """
    expression = _parsed(latex if loose else closed(latex))
    if not isinstance(expression, Expr):
        raise TypeError(f"{type(expression).__name__} is no expression")
    return expression


def read_matrix(latex: str) -> Any:
    """As `read`, of sums and products of matrices."""
    return _parsed(closed(latex))


def _parsed(latex: str) -> Any:
    return _Converter(is_real=None, config=_SETTINGS).parse(_PI_BESIDE.sub(r"\\pi\\cdot ", _PERCENT.sub(r"\\%", latex)))
