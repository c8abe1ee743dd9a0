"""A round of Ratchet beside one that is glued together: vLLM, math-verify and TRL in scripts of their own.

    python -m benchmarks.glued [--prompts 300] [--json]

Ratchet's side is `ratchet run jobs/irpo.yaml rounds=1` from its beginning, with the evaluation of the base model. The
glued side does the same work in four processes, one after the other, that hand each other JSON files, as one would
write them by hand:

- sample: `LLM.generate` on the very prompts of the run, as many samples each; and greedy answers of the base model to
  the gate and test problems
- grade: math-verify, and K pairs a prompt of right and wrong samples
- train: TRL's DPOTrainer on these pairs, with the job's loss, batch and learning rate in float32
- evaluate: an engine for what was trained, and greedy answers again

Engines have the arguments and the environment that Ratchet gives its own. `train` is done twice: with TRL as it comes,
and tuned, which is without computing activations again and with the reference's log-probabilities in advance. The glued
side keeps no record, cannot be resumed and has no gate. Each side's samples are its own, so that its pairs are, too;
ratios are of whole processes, what they start included.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.measured import report
from benchmarks.round import measured
from orchestrator.config import Generate, Job
from orchestrator.config.load import load_job
from orchestrator.ledger.ledger import Ledger

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs/irpo.yaml"
BASE = ROOT / "jobs/demo/base"
STEPS = ("sample", "grade", "train", "evaluate")
TUNED = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
SPLITS = ("gate", "test")

# What is glued, each in a process of its own


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value), encoding="utf-8")


def llm(model: Path, job: Job) -> Any:
    """vLLM's own class."""
    from workers.generation.vllm import VLLM, engine_arguments

    os.environ.update(VLLM.environment | {"VLLM_LOGGING_LEVEL": "ERROR"})
    from vllm import LLM

    settings = Generate(**job.generate.model_dump())
    return LLM(**engine_arguments(str(model), settings, 0, False, "float32"))


def greedy(engine: Any, folder: Path, job: Job) -> dict[str, list[str]]:
    """Answers to the problems of both splits."""
    from vllm import SamplingParams, TokensPrompt

    found = {}
    for split in SPLITS:
        prompts = json.loads((folder / f"{split}.json").read_text())
        given = [TokensPrompt(prompt_token_ids=row["ids"]) for row in prompts]
        plan = SamplingParams(temperature=0.0, max_tokens=job.generate.max_tokens)
        found[split] = [answer.outputs[0].text for answer in engine.generate(given, plan, use_tqdm=False)]
    return found


def sample(folder: Path, job: Job) -> None:
    """Samples of the round's prompts, and the base model's answers."""
    engine = llm(BASE, job)
    from vllm import SamplingParams, TokensPrompt

    given = [TokensPrompt(prompt_token_ids=row["ids"]) for row in json.loads((folder / "train.json").read_text())]
    settings = job.generate
    plan = SamplingParams(n=settings.samples, temperature=1.0, max_tokens=settings.max_tokens, seed=job.seed)
    found = engine.generate(given, plan, use_tqdm=False)
    write(folder / "samples.json", [[one.text for one in row.outputs] for row in found])
    write(folder / "base.json", greedy(engine, folder, job))


def right(gold: str, answers: list[str]) -> list[bool]:
    """Which answers math-verify takes for the gold one."""
    from math_verify import parse, verify

    wanted = parse(gold)
    return [verify(wanted, parse(answer)) for answer in answers]


def grade(folder: Path, job: Job) -> None:
    """Pairs of right and wrong samples, and how often the base model is right."""
    prompts, pairs = json.loads((folder / "train.json").read_text()), []
    for row, answers in zip(prompts, json.loads((folder / "samples.json").read_text()), strict=True):
        verdicts = right(row["gold"], answers)
        good, bad = ([a for a, v in zip(answers, verdicts, strict=True) if v is wanted] for wanted in (True, False))
        if good and bad:
            both = zip(itertools.cycle(good), itertools.cycle(bad), range(int(str(job.pairs.per_prompt))), strict=False)
            pairs += [{"prompt": row["text"], "chosen": chosen, "rejected": rejected} for chosen, rejected, _ in both]
    write(folder / "pairs.json", pairs)
    write(folder / "base-right.json", accuracies(folder, "base.json"))


def accuracies(folder: Path, answers: str) -> dict[str, float]:
    """Shares of answers that are right, by split."""
    found = {}
    for split, told in json.loads((folder / answers).read_text()).items():
        golds = [row["gold"] for row in json.loads((folder / f"{split}.json").read_text())]
        verdicts = [right(gold, [answer])[0] for gold, answer in zip(golds, told, strict=True)]
        found[split] = round(sum(verdicts) / len(verdicts), 4)
    return found


def train(folder: Path, job: Job, **more: Any) -> None:
    """TRL on the pairs."""
    import datasets
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    ours, name = job.train, "tuned" if more else "trained"
    settings = DPOConfig(
        output_dir=str(folder / name),
        **{"beta": job.loss.beta, "loss_type": ["sigmoid", "sft"], "loss_weights": [job.loss.dpo, job.loss.nll]},
        **{"per_device_train_batch_size": 8, "gradient_accumulation_steps": ours.batch_pairs // 8},
        **{"learning_rate": ours.learning_rate, "warmup_steps": ours.warmup_steps, "num_train_epochs": 1},
        **{"use_cpu": True, "bf16": False, "save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        **{"seed": job.seed, "model_init_kwargs": {"dtype": "float32"}},
        **more,
    )
    data = datasets.Dataset.from_list(json.loads((folder / "pairs.json").read_text()))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    trainer = DPOTrainer(str(BASE), args=settings, train_dataset=data, processing_class=tokenizer)
    loss = trainer.train().training_loss
    trainer.save_model(str(folder / name / "model"))
    write(folder / f"{name}.json", {"updates": trainer.state.global_step, "loss": loss})


def train_tuned(folder: Path, job: Job) -> None:
    """The same, tuned."""
    train(folder, job, **TUNED)


def evaluate(folder: Path, job: Job) -> None:
    """What was trained, on the same problems, in a new engine."""
    write(folder / "candidate.json", greedy(llm(folder / "trained/model", job), folder, job))
    write(folder / "candidate-right.json", accuracies(folder, "candidate.json"))


SCRIPTS: dict[str, Callable[[Path, Job], None]] = {
    **{"sample": sample, "grade": grade, "train": train, "train, tuned": train_tuned, "evaluate": evaluate}
}

# Both


def ratchet(folder: Path, prompts: int) -> dict[str, float]:
    """Ratchet's round, and what the glued side starts from: its prompts as JSON."""
    run = folder / "run"
    given = [f"run_dir={run}", "rounds=1", f"data.prompts_per_round={prompts}", "tracking.enabled=false"]
    found = measured([sys.executable, "-m", "orchestrator", "run", "--plain", str(JOB), *given])
    places = {"train": "rounds/01/prompts/train", **{split: f"baseline/prompts/{split}" for split in SPLITS}}
    for name, place in places.items():
        rows = pq.read_table(run / f"{place}.parquet", columns=["text", "token_ids", "gold"]).to_pylist()
        write(folder / f"{name}.json", [{"text": r["text"], "ids": r["token_ids"], "gold": r["gold"]} for r in rows])
    return found


def facts_of(run: Path) -> dict[str, float]:
    """What the run did, from its ledger."""
    commits = Ledger(run / "ledger").state.commits
    return {
        "pairs": commits["rounds/01/pairs"].facts["pairs"],
        "updates": commits["rounds/01/train"].facts["steps"],
        **{
            f"{who} {split}": round(commits[f"{place}/evaluation"].facts[split]["accuracy"], 4)
            for who, place in (("base", "baseline"), ("candidate", "rounds/01"))
            for split in SPLITS
        },
    }


def figures(prompts: int) -> dict[str, Any]:
    """Each step and both rounds: seconds, CPU seconds, the most memory at once; and how many times as much the glued
    ones took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = {"ratchet": ratchet(folder, prompts)}
        words = [sys.executable, "-m", "benchmarks.glued", "--prompts", str(prompts), "--folder", name, "--step"]
        steps = {step: measured([*words, step]) for step in SCRIPTS}
        ours = found["ratchet"]
        for side, chosen in (("glued", "train"), ("glued, tuned", "train, tuned")):
            each = [steps[chosen if step == "train" else step] for step in STEPS]
            total = {key: round(sum(step[key] for step in each), 1) for key in ("seconds", "cpu_seconds")}
            found[side] = total | {"gib": max(step["gib"] for step in each)}
            found[f"{side} / ratchet"] = {key: round(value / ours[key], 3) for key, value in found[side].items()}
        found["steps"] = steps
        read = {file: json.loads((folder / f"{file}.json").read_text()) for file in ("base-right", "candidate-right")}
        found["work"] = {
            "ratchet": facts_of(folder / "run"),
            "glued": {
                "pairs": len(json.loads((folder / "pairs.json").read_text())),
                "updates": json.loads((folder / "trained.json").read_text())["updates"],
                **{f"base {split}": read["base-right"][split] for split in SPLITS},
                **{f"candidate {split}": read["candidate-right"][split] for split in SPLITS},
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=SCRIPTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        job = load_job(JOB, [f"data.prompts_per_round={options.prompts}"]).job
        SCRIPTS[options.step](options.folder, job)
        return
    # As Ratchet has it for its own: threads that wait by turning would count as work.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    found = figures(options.prompts)
    if options.json:
        print(json.dumps(report("glued", {"job": JOB.name, "prompts": options.prompts}, found)))
        return
    for name, row in found.items():
        print(f"{name:24}" + "".join(f"  {key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
