"""The rule that combines graders."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from workers.graders.judgement import Judgement


def judge(names: Sequence[str], gold: str, answer: str) -> Judgement:
    """Ask the named graders in order; the first "correct" wins.

    Otherwise the answer is wrong if any grader could judge it, for the reason that the last such
    grader gave, and ungradable if none could. A "wrong" marked final ends the search: once both sides
    are read as numbers, their values decide. A grader that raises could not judge; running out of
    memory is not caught here, because the process is then no longer to be trusted.
    """
    wrong: Judgement | None = None
    failures: list[str] = []
    for name in names:
        try:
            judgement: Judgement = import_module(f"workers.graders.{name}").grade(gold, answer)
        except MemoryError:
            raise
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}")
            continue
        if judgement.verdict == "correct":
            return judgement
        if judgement.verdict == "ungradable":
            failures.append(f"{name}: {judgement.reason}")
            continue
        wrong = Judgement("wrong", f"{name}: {judgement.reason}")
        if judgement.final:
            break
    return wrong or Judgement("ungradable", "; ".join(failures))
