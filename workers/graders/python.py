"""A function of the user's: `python:MODULE:FUNCTION`.

The function takes the gold answer and the answer, both text, and returns True (correct), False (wrong) or
None (it cannot tell). It is trusted, as the job file is; what it is given is not. It is imported in the
grader's process alone, and what it raises makes the answer ungradable.
"""

from __future__ import annotations

from importlib import import_module

from orchestrator.errors import cut
from workers.graders import guard
from workers.graders.combine import Grader
from workers.graders.judgement import CORRECT, Judgement


def make(argument: str) -> Grader:
    """The grader of MODULE:FUNCTION. Raises ValueError where there is no such function, or its import fails."""
    module_name, _, name = argument.partition(":")
    try:
        function = getattr(import_module(module_name), name)
    except BaseException as error:  # whatever the module raises; SystemExit would end the process without a word
        raise ValueError(f"python:{argument}: {type(error).__name__}: {_said(error)}") from error
    if not callable(function):
        raise ValueError(f"python:{argument}: {name} is no function")

    def grade(gold: str, answer: str) -> Judgement:
        with guard.lifted():
            said = function(gold, answer)
        if said is None:
            return Judgement("ungradable", "the function cannot tell")
        if not isinstance(said, bool):
            return Judgement("ungradable", f"the function returned {type(said).__name__}, not True, False or None")
        return CORRECT if said else Judgement("wrong", "the function says so")

    return grade


def _said(error: BaseException) -> str:
    try:
        return cut(str(error))
    except Exception:  # an error of the module's own, which need not be able to say what it is
        return "it cannot be said"
