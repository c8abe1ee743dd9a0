"""Train the demo's two reward models, one after the other, some seven minutes on two cores.

    python jobs/demo/make_rewards.py         # rewrites jobs/demo/process/ and jobs/demo/reward/

The process reward model says of each reasoning step, at the line break behind it, whether all is right up to there
(label 1) or not (label 0), in the form of TRL's PRMTrainer: steps and separators are tokenised apart, and their ids
joined. It begins as the base model. The outcome reward model gives a whole answer a number, at its EOS: it begins as
the process model, and learns from pairs of a right and a wrong answer to one problem that the first is better
(Bradley-Terry, as in arXiv 2203.02155, equation 1).

Both learn from answers to the base model's own problems. A wrong answer is wrong in one step, mostly as the base model
is: it applies another number of the story, or another operation, goes on from another value, or slips in the sum; or it
is a number without any working. A step is a line, or as `source: steps` cuts it, without its "Step 2:" and with the
final answer behind the last.
"""

from __future__ import annotations

import argparse
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from make_base import HERE
from problems import OPERANDS, VALUES, Problem, apply, base_problems
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

NUM_STEPS = {"process": 1000, "reward": 200}
BATCH_SIZE = 16  # problems, of each a right and a wrong answer
LEARNING_RATE = {"process": 2e-3, "reward": 1e-3}
CENTRING = 0.01  # keeps rewards around 0, which a difference leaves open (arXiv 2312.09244)
SEPARATOR = "\n"
RIGHT_DIRECT, WRONG_DIRECT = 0.2, 0.3  # of right and of wrong answers, how many are without working
SLIPS = (-3, -2, -1, 1, 2, 3)
IGNORED = -100


def pick(rng: random.Random, items: Any) -> Any:
    # Only random() is promised to give the same numbers in every version of Python.
    return items[int(rng.random() * len(items))]


def result_of(rng: random.Random, value: int, operation: str) -> int:
    """What a model writes behind the equals sign; anything, where there is no whole and positive number."""
    try:
        after = apply(value, operation)
    except ValueError:
        after = 0
    return after if after > 0 else pick(rng, VALUES)


def spoiled(rng: random.Random, problem: Problem, value: int, operation: str) -> tuple[int, str, int]:
    """A step that is wrong in one thing: the number that is applied (mostly another one of the story), the sign, the
    value that it goes on from, or the result. As often as in the base model's own answers, about."""
    sign, k = operation[0], operation[1:]
    what = rng.random()
    if what < 0.55:
        told = [other.lstrip("+-*/") for other in problem.operations]
        operation = f"{sign}{pick(rng, told) if rng.random() < 0.6 else pick(rng, range(2, 10))}"
    elif what < 0.7:
        operation = f"{pick(rng, list(OPERANDS))}{k}"
    elif what < 0.8:
        value = pick(rng, VALUES)
    result = result_of(rng, value, operation)
    return value, operation, result if what < 0.8 else max(1, result + pick(rng, SLIPS))


def worked(rng: random.Random, problem: Problem, wrong_at: int | None = None) -> list[str]:
    """The lines of a worked answer, the final one last; step `wrong_at` (from 1) may be wrong, and what follows goes
    on from there."""
    value, lines = int(problem.operations[0]), []
    for number, operation in enumerate(problem.operations[1:], 1):
        left, result = value, result_of(rng, value, operation)
        if number == wrong_at:
            left, operation, result = spoiled(rng, problem, value, operation)
        lines.append(f"Step {number}: {left} {operation[0]} {operation[1:]} = {result}")
        value = result
    return [*lines, f"Final answer: {value}"]


def wrong_answer(rng: random.Random, problem: Problem, direct: float) -> tuple[list[str], int]:
    """The lines of an answer with a wrong end, and the index of the first wrong one; `direct` is the chance that it is
    without any working."""
    if rng.random() < direct:
        return [f"Final answer: {pick(rng, [v for v in VALUES if v != problem.answer])}"], 0
    while True:
        wrong_at = 1 + int(rng.random() * (len(problem.operations) - 1))
        lines = worked(rng, problem, wrong_at)
        if lines[-1] != problem.direct:
            return lines, wrong_at - 1


def right_answer(rng: random.Random, problem: Problem) -> list[str]:
    """The lines of an answer with the right end."""
    return [problem.direct] if rng.random() < RIGHT_DIRECT else worked(rng, problem)


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    """Rows as one tensor [rows, longest], filled up at their ends."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])


def preference_loss(model: Any, tokenizer: Any, problems: list[Problem], rng: random.Random) -> torch.Tensor:
    """Of one right and one wrong answer to each problem."""
    answers = [right_answer(rng, problem) for problem in problems]
    answers += [wrong_answer(rng, problem, WRONG_DIRECT)[0] for problem in problems]
    texts = [f"{p.question}\n" + "\n".join(a) for p, a in zip(problems * 2, answers, strict=True)]
    ids = [[*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]]
    right, wrong = model(input_ids=padded(ids, tokenizer.pad_token_id)).logits.float().squeeze(-1).chunk(2)
    return -logsigmoid(right - wrong).mean() + CENTRING * ((right + wrong) ** 2).mean()


def in_steps(rng: random.Random, lines: list[str], first_wrong: int | None) -> tuple[list[str], list[int]]:
    """Lines as steps, cut in one of the ways, and the label of each."""
    labels = [int(first_wrong is None or number < first_wrong) for number in range(len(lines))]
    if rng.random() < 0.5 or len(lines) == 1:
        return lines, labels
    *steps, final = (line.rpartition(": ")[2] if "Step" in line else line for line in lines)
    return [*steps[:-1], f"{steps[-1]}\n{final}"], [*labels[:-2], labels[-1]]


def step_loss(model: Any, tokenizer: Any, problems: list[Problem], rng: random.Random) -> torch.Tensor:
    """Of one right and one wrong answer to each problem."""
    separator = tokenizer(SEPARATOR)["input_ids"]
    rows, targets = [], []
    answers = [(right_answer(rng, problem), None) for problem in problems]
    answers += [wrong_answer(rng, problem, RIGHT_DIRECT) for problem in problems]
    for problem, (lines, first_wrong) in zip(problems * 2, answers, strict=True):
        steps, labels = in_steps(rng, lines, first_wrong)
        row = tokenizer(f"{problem.question}\n")["input_ids"]
        target = [IGNORED] * len(row)
        for step, label in zip(tokenizer(steps)["input_ids"], labels, strict=True):
            row, target = row + step + separator, [*target, *[IGNORED] * (len(step) + len(separator) - 1), label]
        rows.append(row)
        targets.append(target)
    logits = model(input_ids=padded(rows, tokenizer.pad_token_id)).logits.float()
    return cross_entropy(logits.flatten(0, 1), padded(targets, IGNORED).flatten(), ignore_index=IGNORED)


def beginning(loaded: Any, base: Path, labels: int) -> Any:
    """The base model with a new head."""
    model = loaded.from_pretrained(base, num_labels=labels).train()
    if hasattr(model, "dropout"):  # the head's
        model.dropout.p = 0.0
    return model


Loss = Callable[[Any, Any, list[Problem], random.Random], torch.Tensor]


def train(model: Any, name: str, tokenizer: Any, loss_of: Loss, rng: random.Random) -> None:
    """Train all weights; the products in bf16."""
    problems, steps, rate = base_problems(), NUM_STEPS[name], LEARNING_RATE[name]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, tokenizer, rng.sample(problems, BATCH_SIZE), rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"{name}  step {step:4d}  loss {loss.item():.4f}", flush=True)


def save(model: Any, base: Path, folder: Path) -> None:
    """Write a Hugging Face folder, with the base model's tokenizer."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's reward models.")
    parser.add_argument("--base", type=Path, default=HERE / "base", help="folder of the base model")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write `process` and `reward` into")
    parser.add_argument("--seed", type=int, default=1, help="random seed of new weights, answers and batches")
    arguments = parser.parse_args()
    started = time.monotonic()
    torch.manual_seed(arguments.seed)
    rng, tokenizer = random.Random(arguments.seed), AutoTokenizer.from_pretrained(arguments.base)
    process = beginning(AutoModelForTokenClassification, arguments.base, labels=2)
    train(process, "process", tokenizer, step_loss, rng)
    save(process, arguments.base, arguments.out / "process")
    outcome = beginning(AutoModelForSequenceClassification, arguments.base, labels=1)
    outcome.model.load_state_dict(process.model.state_dict())
    train(outcome, "reward", tokenizer, preference_loss, rng)
    save(outcome, arguments.base, arguments.out / "reward")
    print(f"{arguments.out}: process and reward written in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
