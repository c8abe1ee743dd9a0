"""Grading: Ratchet's graders beside plain math-verify, on the same answers in one run; and how often each is right.

    python benchmarks/grading.py [--gsm8k FILE] [--prompts 300] [--samples 8] [--repeats 3] [--json]
    python benchmarks/grading.py --agreement [--json]
    python benchmarks/grading.py --cases FILE [--conventions] [--show] [--json]

The answers are made from the worked solutions of GSM8K (`--gsm8k`, its train.jsonl), or of a few problems in
this file: as they are, written differently (boxed, as money, with units, as decimals), and with other numbers.
Plain math-verify is `parse` of gold and of completion and `verify`, one after the other, as its own
introduction has it. Ratchet is a pool of grader processes with the default graders, started beforehand; each
repetition has a pool of its own, so that no verdict is known. Without `--agreement` the verdicts are compared,
and each difference is listed.

`--agreement` takes the same answers, whose labels are known because they were made ("solutions"), and the
labelled cases of the tests (grading_cases.jsonl), and counts each side's false negatives (a correct answer that is not
called so) and false positives. In the hand-made cases math-verify is given the answer that Ratchet found, as
LaTeX; it is not asked about options, and about where an answer is.

`--cases` grades a file of labelled answers (JSONL: suite, kind, graders, gold, text, label, and convention: true
where the label is one of several conventions) with the job's default rules. It counts by suite the false positives
(labelled wrong, called correct), the false negatives (labelled correct, called wrong) and the abstentions on either
side; `--conventions` has the rows marked so as well, and `--show` lists each verdict that is not the label.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Grade
from workers.grading.pool import GraderPool

CASES = Path(__file__).parents[1] / "tests/workers/graders/grading_cases.jsonl"
SOLUTIONS = [
    ("Tom has 3 bags of 4 apples and eats 2. 3*4=12 apples, 12-2=10 apples are left.", "10"),
    ("She earns 15*8=120 dollars a day and 120*5=600 dollars a week.", "600"),
    ("Half of 250 is 250/2=125, and 125+1,100=1225.", "1,225"),
    ("The temperature falls by 8 from 5, so 5-8=-3 degrees.", "-3"),
    ("A share of 3 in 8 is 3/8=0.375 of it.", "0.375"),
]
Answer = tuple[str, str, bool]
"""(gold answer, completion, whether it is correct)"""


def solutions(file: str | None, prompts: int) -> list[tuple[str, str]]:
    """(worked solution, gold answer) of as many problems as there are, at most `prompts`."""
    if file is None:
        return SOLUTIONS[:prompts]
    rows = [json.loads(line)["answer"] for line in Path(file).read_text(encoding="utf-8").splitlines()[:prompts]]
    return [(solution.strip(), gold.strip()) for solution, _, gold in (row.rpartition("####") for row in rows)]


def completions(solved: Sequence[tuple[str, str]], samples: int) -> list[Answer]:
    """So many completions a problem: the first ones right in other clothes, the rest mostly wrong."""
    dice = random.Random(0)
    found = []
    for solution, gold in solved:
        number = gold.replace(",", "")
        wrong = str(float(number) + dice.choice([1, -1, 10, 0.5])).removesuffix(".0")
        whole = "." not in number
        clothes = [
            (f"Final answer: {gold}", True),
            (f"The answer is $\\boxed{{{gold}}}$.", True),
            (f"Final answer: ${gold}{'.00' if whole else ''}", True),
            (f"Final answer: $x = {number}$", True),
            (f"Final answer: {wrong}", False),
            (f"The answer is $\\boxed{{{wrong}}}$.", False),
            (f"Final answer: $\\frac{{{number}}}{{1}}$" if whole else f"Final answer: {number}", True),
            (f"Final answer: ${wrong}$", False),
        ]
        for end, correct in (clothes[n % len(clothes)] for n in range(samples)):
            found.append((gold, f"{solution}\n{end}", correct))
    return found


def plain(answers: Sequence[Answer]) -> list[bool]:
    from math_verify import parse, verify

    return [bool(verify(parse(f"${gold}$"), parse(text))) for gold, text, _ in answers]


def ours(answers: Sequence[Answer], graders: Sequence[Any] = ("exact", "number", "math")) -> tuple[list[Any], float]:
    """Verdicts, and the seconds that they took once the processes were there."""
    with GraderPool(Grade(graders=list(graders))) as pool:
        pool.grade([(f"{n}", f"\\boxed{{{n}}}", "stop") for n in range(10_000, 10_256)])  # starts every process
        started = time.perf_counter()
        graded = pool.grade((gold, text, "stop") for gold, text, _ in answers)
        return graded, time.perf_counter() - started


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    solved = solutions(arguments.gsm8k, arguments.prompts)
    answers = completions(solved, arguments.samples)
    plain(answers[:8])  # imports, and fills tables
    seconds: dict[str, list[float]] = {"math-verify": [], "ratchet": []}
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        theirs = plain(answers)
        seconds["math-verify"].append(time.perf_counter() - started)
        graded, spent = ours(answers)
        seconds["ratchet"].append(spent)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    different = [
        {"gold": gold, "completion_end": text[-60:], "math_verify": their, "ratchet": one.verdict}
        for (gold, text, _), their, one in zip(answers, theirs, graded, strict=True)
        if their != (one.verdict == "correct")
    ]
    return {
        "data": arguments.gsm8k or "built in",
        "prompts": len(solved),
        "answers": len(answers),
        "seconds": {name: round(value, 3) for name, value in middle.items()},
        "answers_per_second": {name: round(len(answers) / value) for name, value in middle.items()},
        "times_faster": round(middle["math-verify"] / middle["ratchet"], 1),
        "different": different,
    }


def agreement(arguments: argparse.Namespace) -> dict[str, Any]:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    rows = [(case["kind"], (case["gold"], case["text"], case["label"] == "correct")) for case in cases]
    solved = solutions(arguments.gsm8k, arguments.prompts)
    rows += [("solutions", answer) for answer in completions(solved, arguments.samples)]
    counts: dict[str, dict[str, Counter[str]]] = {"ratchet": {}, "math-verify": {}}
    different: list[dict[str, Any]] = []
    for kind in dict.fromkeys(kind for kind, _ in rows):
        answers = [answer for its_kind, answer in rows if its_kind == kind]
        graded, _ = ours(answers, ("choice",) if kind == "choice" else ("exact", "number", "math"))
        said = {"ratchet": [one.verdict == "correct" for one in graded]}
        if kind == "solutions":
            said["math-verify"] = plain(answers)
        elif kind in ("number", "math"):  # the bare answer as LaTeX, so that equality alone is compared
            bare = [(gold, f"${one.extracted}$", label) for (gold, _, label), one in zip(answers, graded, strict=True)]
            said["math-verify"] = plain(bare)
        for (gold, _, _), one, theirs in zip(answers, graded, said.get("math-verify", []), strict=False):
            if theirs != (one.verdict == "correct"):
                different.append({"gold": gold, "answer": one.extracted, "math_verify": theirs, "ratchet": one.verdict})
        for side, verdicts in said.items():
            for (_, _, label), correct in zip(answers, verdicts, strict=True):
                _count(counts[side].setdefault(kind, Counter()), label, correct)
    table = {side: {kind: dict(counter) for kind, counter in kinds.items()} for side, kinds in counts.items()}
    return {"table": table, "different": different}


def _count(counter: Counter[str], label: bool, correct: bool) -> None:
    counter.update(
        cases=1,
        correct=int(label),
        false_negatives=int(label and not correct),
        false_positives=int(correct and not label),
    )


def labelled(arguments: argparse.Namespace) -> dict[str, Any]:
    """Verdicts beside the labels of a file, counted by suite, and by kind where one differs."""
    cases = [json.loads(line) for line in Path(arguments.cases).read_text(encoding="utf-8").splitlines()]
    cases = [case for case in cases if arguments.conventions or not case.get("convention")]
    suites: dict[str, Counter[str]] = {}
    kinds: dict[str, Counter[str]] = {}
    different = []
    for graders in dict.fromkeys(case["graders"] for case in cases):
        asked = [case for case in cases if case["graders"] == graders]
        answers = [(str(case["gold"]), case["text"], case["label"] == "correct") for case in asked]
        settings = Grade() if graders == "default" else Grade(graders=[graders])
        for case, one in zip(asked, ours(answers, settings.graders)[0], strict=True):
            outcome = _outcome(case["label"], one.verdict)
            for counter in (
                suites.setdefault("all", Counter()),
                suites.setdefault(case["suite"], Counter()),
                kinds.setdefault(f"{case['suite']}: {case['kind']}", Counter()),
            ):
                counter.update([f"labelled {case['label']}", outcome])
            if outcome != "right":
                place = {name: case[name] for name in ("suite", "kind", "gold", "label")}
                different.append({**place, "answer": one.extracted, "verdict": one.verdict, "reason": one.reason})
    noted = {kind: dict(counted) for kind, counted in kinds.items() if counted["right"] < counted.total() / 2}
    return {"suites": {suite: dict(counted) for suite, counted in suites.items()}, "kinds": noted, "rows": different}


OUTCOMES = ("false positive", "false negative", "abstained of correct", "abstained of wrong")


def _outcome(label: str, verdict: str) -> str:
    if label == verdict:
        return "right"
    if verdict == "ungradable":
        return f"abstained of {label}"
    return "false positive" if verdict == "correct" else "false negative"


def show_labelled(result: dict[str, Any], rows: bool) -> None:
    columns = ("labelled correct", "labelled wrong", *OUTCOMES)
    for what in ("suites", "kinds"):
        print(f"{what:28} " + " ".join(f"{name:>{len(name)}}" for name in columns))
        for name, counted in result[what].items():
            print(f"{name:28} " + " ".join(f"{counted.get(column, 0):{len(column)}}" for column in columns))
        print()
    for one in sorted(result["rows"], key=lambda one: _outcome(one["label"], one["verdict"])) if rows else []:
        outcome = _outcome(one["label"], one["verdict"])
        print(f"{outcome:20} {one['suite']}: {one['kind']}: gold {one['gold']!r}, {one['answer']!r}: {one['reason']}")


def show_speed(result: dict[str, Any]) -> None:
    print(f"{result['answers']} answers to {result['prompts']} problems ({result['data']})\n")
    print(f"{'':12} {'seconds':>9} {'answers/s':>10}")
    for name, seconds in result["seconds"].items():
        print(f"{name:12} {seconds:9.3f} {result['answers_per_second'][name]:10}")
    print(f"\n{result['times_faster']} times faster; {len(result['different'])} verdicts differ")
    for one in result["different"][:20]:
        print(
            f"  gold {one['gold']!r}, ...{one['completion_end']!r}: math-verify {one['math_verify']}, {one['ratchet']}"
        )


def show_agreement(result: dict[str, Any]) -> None:
    print(f"{'':12} {'':10} {'cases':>7} {'correct':>8} {'false negatives':>16} {'false positives':>16}")
    for side, kinds in result["table"].items():
        for kind, counted in kinds.items():
            numbers = [counted[name] for name in ("cases", "correct", "false_negatives", "false_positives")]
            print("{:12} {:10} {:7} {:8} {:16} {:16}".format(side, kind, *numbers))
    print(f"\n{len(result['different'])} verdicts differ:")
    for one in result["different"]:
        print(f"  gold {one['gold']!r}, {one['answer']!r}: math-verify {one['math_verify']}, {one['ratchet']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", help="GSM8K's train.jsonl; without it a few built-in problems")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--cases", help="labelled answers (JSONL)")
    parser.add_argument("--conventions", action="store_true", help="with --cases: those marked as conventions too")
    parser.add_argument("--show", action="store_true", help="with --cases: list each verdict that is not the label")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    count = labelled if arguments.cases else agreement if arguments.agreement else speed
    result = count(arguments)
    if arguments.json:
        print(json.dumps(result))
    elif arguments.cases:
        show_labelled(result, arguments.show)
    else:
        (show_agreement if arguments.agreement else show_speed)(result)


if __name__ == "__main__":
    main()
