"""Long lists of like cases, of which the gate takes a sample and `make full` all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def every(nth: int, cases: Sequence[Any]) -> list[Any]:
    """The cases for `pytest.mark.parametrize`: every `nth` as it is, the others as slow ones. A case of several values
    is a tuple."""
    full = pytest.mark.full
    return [
        case if at % nth == 0 else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=full)
        for at, case in enumerate(cases)
    ]
