"""The `math` grader on math-verify's own test-suite: where the two disagree.

    pip download --no-deps --no-binary :all: math-verify==0.9.0   # and unpack it
    python -m benchmarks.math_verify_suite FOLDER [--json]

math-verify's tests compare a gold text with an answer text, both as a model or a data set wrote them. Each
comparison that they make is recorded while pytest runs them, with what they expect. Ratchet is asked the same with
the graders `exact`, `number` and `math`, and finds the answer with the rules `final_answer`, `boxed`, `answer_is`
and `whole`. Differences are listed. The tests are other people's code, run as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.measured import report
from orchestrator.config import Grade
from workers.grading.pool import GraderPool

RULES = ["final_answer", "boxed", "answer_is", "whole"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a test compares. Example: test_percent_notation, "28%" with "28 percent", equal."""

    test: str
    gold: str
    text: str
    equal: bool


class Recorder:
    """A plugin of pytest that takes the parameters of the tests which compare two texts."""

    def __init__(self) -> None:
        self.comparisons: list[Comparison] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
        if call.when == "call" and call.excinfo is None and {"gold", "pred", "expected"} <= parameters.keys():
            gold, text = parameters["gold"], parameters["pred"]
            if isinstance(gold, str) and isinstance(text, str):
                equal = bool(parameters["expected"])
                self.comparisons.append(Comparison(item.name.partition("[")[0], gold, text, equal))


def recorded(folder: Path) -> list[Comparison]:
    """The comparisons of the tests that pass with the math-verify that is installed."""
    recorder = Recorder()
    package = ModuleType("tests")  # this checkout has a package of that name, too
    package.__path__ = [str(folder / "tests")]
    sys.modules["tests"] = package
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(
            ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder / "tests")], plugins=[recorder]
        )
    return recorder.comparisons


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratchet's math grader on math-verify's own tests")
    parser.add_argument("folder", type=Path, help="math-verify's source distribution, unpacked")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    comparisons = recorded(options.folder)
    if not comparisons:
        sys.exit(f"{options.folder} has no tests with gold, pred and expected that pass")
    with GraderPool(Grade(graders=["exact", "number", "math"], answer=RULES)) as pool:
        graded = pool.grade([(one.gold, one.text, "stop") for one in comparisons])
    counts: Counter[str] = Counter()
    differences = []
    for one, verdict in zip(comparisons, graded, strict=True):
        kind = {True: "false negative", False: "false positive"}[one.equal]
        agrees = (verdict.verdict == "correct") == one.equal
        counts["agree" if agrees else kind] += 1
        if not agrees:
            differences.append(
                {"kind": kind, "test": one.test, "gold": one.gold, "text": one.text[-200:], "reason": verdict.reason}
            )
    if options.json:
        figures = {"comparisons": len(comparisons), **counts}
        print(json.dumps(report("math_verify_suite", {"rules": RULES}, figures, differences=differences)))
        return
    for difference in differences:
        print("{kind}  {test}\n    gold {gold!r}\n    text {text!r}\n    {reason}".format(**difference))
    print(f"{len(comparisons)} comparisons: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))


if __name__ == "__main__":
    main()
