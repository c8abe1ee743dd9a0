"""The project of a case: problems, a model that is one number, and a job file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from benchmarks.scale.model import Case


def make_model(folder: Path, skill: float) -> Path:
    """A model's folder holds its skill, the mean chance that a sample is right."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(json.dumps({"skill": skill}))
    return folder


def skill_of(folder: str) -> float:
    return float(json.loads((Path(folder) / "model.safetensors").read_text())["skill"])


def words(beginning: str, length: int) -> str:
    """A text of so many characters, of words."""
    return (beginning + " of a train that leaves at" * (length // 26 + 1))[:length]


def job_of(case: Case, folder: Path) -> dict[str, Any]:
    """The job of a case, as its file says it."""
    return {
        "name": "scale",
        "rounds": case.rounds,
        "seed": 5,
        "model": "base",
        "run_dir": str(folder / "run"),
        "data": {"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl", "prompts": "split"}
        | {"prompts_per_round": case.prompts},
        "generate": {"samples": case.samples, "max_tokens": case.max_tokens, "max_num_seqs": case.model.full_batch}
        | {"shard_prompts": case.shard_prompts, "engines": case.engines, "tensor_parallel": case.model.engine_gpus}
        | {"dtype": "bfloat16"},
        "pairs": {"per_prompt": case.pairs},
        "train": {"batch_pairs": case.batch_pairs, "ranks": case.gpus, "zero": 3, "save_minutes": case.save_minutes},
        "promotion": {"rule": "not_worse"},
        "cluster": {"timeout": 4 * 3600.0},
        "tracking": {"enabled": False},
    }


def make_project(case: Case, folder: Path) -> Path:
    """Write it all; returns the job file."""
    make_model(folder / "base", 0.5)
    chance, problem = random.Random(5), 0
    vocabulary = ["".join(chance.choices("aeionrtls", k=4)) for _ in range(2000)]
    for split, count in (("train", case.prompts), ("gate", case.held_out), ("test", case.held_out)):
        with open(folder / f"{split}.jsonl", "w") as file:
            for number in range(count):
                problem += 1
                text = " ".join([f"{problem} men", *chance.choices(vocabulary, k=case.prompt_tokens * 4 // 5)])
                row = {"id": f"{split}-{number}", "question": text, "answer": str(number + 1)}
                file.write(json.dumps(row) + "\n")
    path = folder / "scale.yaml"
    path.write_text(yaml.safe_dump(job_of(case, folder)))
    return path
