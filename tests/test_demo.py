"""The demo's files: as the generator writes them, right to the last step, nothing held out in training."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).resolve().parents[1] / "jobs" / "demo"
PARTS = ("train", "gate", "test")
STEP = re.compile(r"Step (\d+): (\d+) ([-+*/]) (\d+) = (\d+)")
# The operation each sentence of a story stands for, written down anew: not read from the generator.
MEANINGS = {
    "+": ("finds", "buys", "A friend gives", "come in the post"),
    "-": ("loses", "gives away", "sells", "break"),
    "*": ("times as many", "times that number"),
    "/": ("equal piles", "equally among", "only one in"),
}


def read(part: str) -> list[dict]:
    return [json.loads(line) for line in (DEMO / f"{part}.jsonl").read_text().splitlines()]


def chain_of(solution: str) -> tuple[str, ...]:
    """The operations as the solution's own lines tell them."""
    steps = STEP.findall(solution)
    return (steps[0][1], *(sign + k for _, _, sign, k, _ in steps))


def chain_told(question: str) -> tuple[str, ...]:
    """The operations as the story tells them."""
    first, *stories, _ = re.split(r"(?<=[.?]) ", question)
    chain = re.findall(r"\d+", first)
    for story in stories:
        signs = [sign for sign, marks in MEANINGS.items() if any(mark in story for mark in marks)]
        assert len(signs) == 1, story
        chain += [signs[0] + k for k in re.findall(r"\d+", story)]
    return tuple(chain)


def final_value(solution: str) -> str:
    """The answer found by working every line again; fails where a line is wrong or does not follow."""
    *lines, last = solution.split("\n")
    value = None
    for number, line in enumerate(lines, 1):
        match = STEP.fullmatch(line)
        assert match, line
        k, left, sign, right, result = match.groups()
        a, b = int(left), int(right)
        worked = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
        assert int(k) == number and worked == int(result) and value in (None, a), line
        value = int(result)
    assert last == f"Final answer: {value}"
    return str(value)


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_problems", DEMO / "problems.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def seed_chains(generator: ModuleType) -> set[tuple[str, ...]]:
    return {chain_told(problem.question) for problem in generator.base_problems()}


def test_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DEMO / "problems.py"), "--out", str(tmp_path)], check=True)
    for part in PARTS:
        assert (tmp_path / f"{part}.jsonl").read_bytes() == (DEMO / f"{part}.jsonl").read_bytes()


def test_prompts_are_the_training_problems_of_which_every_fifth_has_its_answer(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DEMO / "make_prompts.py"), "--out", str(tmp_path)], check=True)
    assert (tmp_path / "prompts.jsonl").read_bytes() == (DEMO / "prompts.jsonl").read_bytes()
    prompts, problems = read("prompts"), read("train")
    assert [row["question"] for row in prompts] == [row["question"] for row in problems]
    kept = {number: row["answer"] for number, row in enumerate(prompts) if "answer" in row}
    assert kept == {number: row["answer"] for number, row in enumerate(problems) if number % 5 == 0}
    assert not any("solution" in row or "operations" in row for row in prompts)


@pytest.mark.parametrize(("part", "num_rows"), [("train", 1800), ("gate", 400), ("test", 640)])
def test_rows_are_complete_and_distinct(part: str, num_rows: int) -> None:
    rows = read(part)
    assert len(rows) == num_rows
    assert len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == num_rows
    assert all(set(row) == {"id", "question", "answer", "solution", "operations"} for row in rows)
    assert all(row["question"].endswith("?") for row in rows)


@pytest.mark.parametrize("part", PARTS)
def test_story_solution_and_answer_agree(part: str) -> None:
    for row in read(part):
        assert chain_told(row["question"]) == chain_of(row["solution"]) == tuple(row["operations"]), row["id"]
        assert final_value(row["solution"]) == row["answer"], row["id"]


def test_base_problems_are_right_too(generator: ModuleType) -> None:
    problems = generator.base_problems(500)
    assert problems == generator.base_problems(500)
    for problem in problems:
        assert chain_told(problem.question) == chain_of(problem.solution) == problem.operations
        assert final_value(problem.solution) == str(problem.answer)
        assert problem.direct == f"Final answer: {problem.answer}"


def test_nothing_held_out_occurs_in_training(seed_chains: set[tuple[str, ...]]) -> None:
    chains = {part: {chain_told(row["question"]) for row in read(part)} for part in PARTS}
    trained_on = seed_chains | chains["train"]
    assert not chains["gate"] & trained_on
    assert not chains["test"] & trained_on
    assert not chains["gate"] & chains["test"]


def test_prompts_of_several_steps_are_new_to_the_base_model(seed_chains: set[tuple[str, ...]]) -> None:
    chains = {chain_told(row["question"]) for row in read("train")}
    assert {len(chain) for chain in chains & seed_chains} == {2}  # start and one operation


def test_held_out_chains_are_long_and_come_once() -> None:
    for part in ("gate", "test"):
        chains = Counter(chain_told(row["question"]) for row in read(part))
        assert max(chains.values()) == 1
        assert {len(chain) for chain in chains} == {3, 4}


def test_an_inexact_division_is_refused(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match="'/2' to 5"):
        generator.apply(5, "/2")


def test_base_model_is_small_and_plain() -> None:
    files = {path.name: path.stat().st_size for path in (DEMO / "base").iterdir()}
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 10 * 2**20


def test_base_model_loads_and_answers_in_the_asked_format() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    model = AutoModelForCausalLM.from_pretrained(DEMO / "base")
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    answers = []
    for row in read("test")[:12]:
        prompt = tokenizer(row["question"] + "\n", return_tensors="pt")
        ids = model.generate(**prompt, max_new_tokens=48, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        assert ids[-1] == tokenizer.eos_token_id
        answers.append(tokenizer.decode(ids[:-1]))
    assert all(re.search(r"(^|\n)Final answer: \d+$", answer) for answer in answers), answers
    # Both ways of answering must be alive in the base model: the gap between them is what training closes.
    assert {answer.startswith("Final answer") for answer in answers} == {True, False}


def test_prompt_and_response_can_be_tokenised_apart() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    for row in read("test"):
        prompt, response = row["question"] + "\n", row["solution"]
        apart = tokenizer(prompt)["input_ids"] + tokenizer(response)["input_ids"]
        assert apart == tokenizer(prompt + response)["input_ids"]
        assert tokenizer.decode(apart) == prompt + response
        assert len(tokenizer(response)["input_ids"]) + 1 <= 48
    odd = "Zoë — 東京 12?!\n\n  ok"
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd
