"""The value of a SymPy expression at a point: exact where it is rational, else to many digits.

SymPy's own evaluation is not bounded: a tower of powers fills the memory. Here a number stays within MAX_BITS, or
is no number. Roots of negative numbers and logarithms of them have no real value, but for odd roots, so that an
identity is tried only where both sides are real, as a person would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from math import factorial
from typing import Any

import mpmath
import sympy
from sympy.core.function import AppliedUndef

Number = Any
"""Fraction where the value is exact, else mpmath's mpf or mpc."""
MAX_BITS = 20_000
"""Largest exact integers; larger powers are computed to the digits of the context."""
MAX_LOG = 10**6
"""Largest binary logarithm of any value."""
_UNDONE = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)


class NoValue(ValueError):
    """There is no value: a pole, no real number, or nothing that is known here."""


class TooLarge(Exception):
    """A value, or the work for it, is out of bounds."""


_CONTEXTS: dict[int, Any] = {}


def context(digits: int) -> Any:
    """An mpmath context of its own with so many decimal digits."""
    if digits not in _CONTEXTS:
        _CONTEXTS[digits] = mpmath.mp.clone()
        _CONTEXTS[digits].dps = digits
    return _CONTEXTS[digits]


def prepared(expression: Any) -> Any:
    """`expression` with sums, integrals, limits and derivatives solved; it may take long."""
    if expression.has(*_UNDONE):
        expression = expression.doit()
        if expression.has(*_UNDONE):
            raise NoValue("not solved")
    return expression


def is_complex(expression: Any) -> bool:
    """Whether the imaginary unit occurs in it."""
    return bool(expression.has(sympy.I)) or any(symbol.name == "i" for symbol in expression.free_symbols)


def is_infinite(expression: Any) -> bool:
    """Whether infinity, or what is no number, occurs in it."""
    return bool(expression.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan))


def names(expression: Any) -> frozenset[str]:
    """Of its variables, and of its unknown functions such as f(x); e and i are numbers."""
    undefined = expression.atoms(AppliedUndef)
    inside = frozenset(symbol.name for symbol in expression.free_symbols if symbol.name not in ("e", "i"))
    return inside | {str(function) for function in undefined}


def evaluate(expression: Any, point: Mapping[str, Number], digits: int, real: bool = True) -> Number:
    """The value where variables have the values of `point`; `real` allows no detour over complex numbers.

    A capital letter that `point` does not have is the small one.

    Raises:
        NoValue: there is none.
        TooLarge: it is out of bounds.
    """
    try:
        value = _Evaluator(point, context(digits), real).value(expression)
    except (ZeroDivisionError, OverflowError, ValueError, TypeError, RecursionError, mpmath.mp.NoConvergence) as error:
        raise NoValue(str(error)) from None
    if not isinstance(value, Fraction) and not context(digits).isfinite(value):
        raise NoValue("infinite")
    return value


class _Evaluator:
    def __init__(self, point: Mapping[str, Number], mp: Any, real: bool) -> None:
        self._point = point
        self._mp = mp
        self._real = real

    def value(self, node: Any) -> Number:
        if node.is_Rational:
            return Fraction(int(node.p), int(node.q))
        if node.is_Symbol:
            return self._symbol(node.name)
        if node.is_Add:
            return self._sum(node)
        if node.is_Mul:
            return self._product(node)
        if node.is_Pow:
            return self._power(node)
        constant = _CONSTANTS.get(node)
        if constant is not None:
            return constant(self._mp)
        if isinstance(node, AppliedUndef):
            return self._symbol(str(node))
        if isinstance(node, sympy.UnevaluatedExpr):
            return self.value(node.args[0])
        return self._function(node)

    def _symbol(self, name: str) -> Number:
        if name in self._point:
            return self._point[name]
        if name == "e":
            return +self._mp.e
        if name == "i":
            return self._mp.mpc(0, 1)
        if name.lower() in self._point:
            return self._point[name.lower()]
        raise NoValue(f"{name} has no value")

    def _float(self, value: Number) -> Any:
        if isinstance(value, Fraction):
            return self._mp.mpf(value.numerator) / value.denominator
        return value

    def _bounded(self, value: Number) -> Number:
        if isinstance(value, Fraction):
            if max(value.numerator.bit_length(), value.denominator.bit_length()) <= MAX_BITS:
                return value
            return self._float(value)
        if value and abs(self._mp.mag(value)) > MAX_LOG:
            raise TooLarge
        return value

    def _combined(self, one: Number, other: Number, operation: Callable[[Any, Any], Any]) -> Number:
        if isinstance(one, Fraction) != isinstance(other, Fraction):
            one, other = self._float(one), self._float(other)
        return self._bounded(operation(one, other))

    def _sum(self, node: Any) -> Number:
        total: Number = Fraction(0)
        for part in node.args:
            total = self._combined(total, self.value(part), lambda a, b: a + b)
        return total

    def _product(self, node: Any) -> Number:
        product: Number = Fraction(1)
        for part in node.args:
            product = self._combined(product, self.value(part), lambda a, b: a * b)
        return product

    def _power(self, node: Any) -> Number:
        base, exponent = self.value(node.args[0]), self.value(node.args[1])
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            exact = self._exact_power(base, exponent)
            if exact is not None:
                return exact
        if base == 0:
            if self._mp.re(self._float(exponent)) > 0:
                return Fraction(0)
            raise NoValue("a pole")
        if isinstance(exponent, Fraction) and self._is_negative(base):
            if exponent.denominator % 2:  # an odd root
                size = self._limited_power(-self._float(base), self._float(exponent))
                return -size if exponent.numerator % 2 else size
            if self._real:
                raise NoValue("no real power")
        elif self._real and self._is_negative(base):
            raise NoValue("no real power")
        return self._limited_power(self._float(base), self._float(exponent))

    @staticmethod
    def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
        if exponent.denominator != 1:
            return None
        power = exponent.numerator
        if base == 0 and power < 0:
            raise NoValue("a pole")
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) == 1 or bits * abs(power) <= MAX_BITS:
            return base ** (power if abs(base) != 1 else power % 2)
        return None

    def _limited_power(self, base: Any, exponent: Any) -> Any:
        if abs(self._mp.mag(exponent)) > 64:
            if base == 1:
                return base
            raise TooLarge
        if abs(self._mp.log(base) * exponent) > MAX_LOG:
            raise TooLarge
        return self._bounded(self._mp.power(base, exponent))

    def _is_negative(self, value: Number) -> bool:
        if isinstance(value, Fraction):
            return value < 0
        return not isinstance(value, self._mp.mpc) and bool(value < 0)

    def _function(self, node: Any) -> Number:
        values = [self.value(part) for part in node.args]
        exact = _EXACT.get(type(node))
        if exact is not None and all(isinstance(value, Fraction) for value in values):
            result = exact(*values)
            if result is not None:
                return self._bounded(result)
        function = _FUNCTIONS.get(type(node))
        if function is None:
            raise NoValue(f"{type(node).__name__} is not known")
        floats = [self._float(value) for value in values]
        if any(value and abs(self._mp.mag(value)) > 4000 for value in floats):
            raise TooLarge
        result = function(self._mp, *floats)
        if self._real and isinstance(result, self._mp.mpc) and not any(isinstance(v, self._mp.mpc) for v in floats):
            raise NoValue("not real")
        return self._bounded(result)


def _exact_factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1:
        return None
    if value < 0:
        raise NoValue("a pole")
    return Fraction(factorial(int(value))) if value <= 1000 else None


def _exact_binomial(top: Fraction, bottom: Fraction) -> Fraction | None:
    if top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= top <= 1000:
        return None
    return _exact_factorial(top) / (_exact_factorial(bottom) * _exact_factorial(top - bottom))  # type: ignore[operator]


def _factorial(mp: Any, value: Any) -> Any:
    if abs(value) > 10**7:
        raise TooLarge
    return mp.factorial(value)


def _binomial(mp: Any, top: Any, bottom: Any) -> Any:
    if max(abs(top), abs(bottom)) > 10**7:
        raise TooLarge
    return mp.binomial(top, bottom)


_CONSTANTS: Mapping[Any, Callable[[Any], Any]] = {
    sympy.pi: lambda mp: +mp.pi,
    sympy.E: lambda mp: +mp.e,
    sympy.I: lambda mp: mp.mpc(0, 1),
    sympy.EulerGamma: lambda mp: +mp.euler,
    sympy.GoldenRatio: lambda mp: +mp.phi,
}
_EXACT: Mapping[Any, Callable[..., Any]] = {
    sympy.factorial: _exact_factorial,
    sympy.binomial: _exact_binomial,
    sympy.Abs: abs,
    sympy.floor: lambda value: Fraction(value.__floor__()),
    sympy.ceiling: lambda value: Fraction(value.__ceil__()),
    sympy.Max: max,
    sympy.Min: min,
    sympy.Mod: lambda one, other: one % other,
}
_NAMES = """
exp sin cos tan cot sec csc sinh cosh tanh coth sech csch asin acos atan acot asec acsc asinh acosh atanh acoth
"""


def _named(name: str) -> Callable[..., Any]:
    return lambda mp, value: getattr(mp, name)(value)


_FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    **{getattr(sympy, name): _named(name) for name in _NAMES.split()},
    sympy.log: lambda mp, value, *base: mp.log(value, *base),
    sympy.Abs: lambda mp, value: abs(value),
    sympy.floor: lambda mp, value: mp.floor(value),
    sympy.ceiling: lambda mp, value: mp.ceil(value),
    sympy.factorial: _factorial,
    sympy.gamma: lambda mp, value: _factorial(mp, value - 1),
    sympy.binomial: _binomial,
    sympy.Max: lambda mp, *values: max(values),
    sympy.Min: lambda mp, *values: min(values),
    sympy.sign: lambda mp, value: mp.sign(value),
    sympy.re: lambda mp, value: mp.re(value),
    sympy.im: lambda mp, value: mp.im(value),
    sympy.arg: lambda mp, value: mp.arg(value),
    sympy.conjugate: lambda mp, value: mp.conj(value),
}


_STARTS = (13, 3, -9, 29, -5, 7)
_SIGNS_OF_STEPS = (1, 1, -1, -1, 1, 1)
_STEPS = (29, 43, 71, 101, 37, 83, 61, 127, 53, 109, 31, 89, 67, 139, 47, 97, 73, 113, 59, 103, 41, 131, 79, 107)
"""In no order, so that no sum of variables is the sum of others at every point."""


@lru_cache(maxsize=64)
def points(variables: frozenset[str], kind: str) -> list[dict[str, Fraction]]:
    """Where identities in these variables are tried: "real" points or "whole" ones; they never change.

    Real points have even denominators, so that (-1)^n has a value at whole points alone.
    """
    order = list(enumerate(sorted(variables)))
    made = []
    for row, (start, sign) in enumerate(zip(_STARTS, _SIGNS_OF_STEPS, strict=True)):
        steps = [_STEPS[(7 * at + 5 * row) % len(_STEPS)] for at, _ in order]
        if kind == "whole":
            made.append({name: Fraction(steps[at] % 11 + 2 * at + row + 1) for at, name in order})
        else:
            made.append({name: Fraction(3 * start + 2 * sign * at * steps[at], 24) for at, name in order})
    return made
