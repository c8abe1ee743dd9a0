"""How much disk a job's rounds need, at most, and whether there is so much."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Job, SelfJudge, Steps, at_round
from orchestrator.errors import RatchetError
from orchestrator.records.rows import Problem

GIB = 2**30
_BYTES_A_TOKEN = 10  # in a Parquet file, at most: four for the id, and its text
_BYTES_A_VERDICT = 200
_TOKENS_A_MARKER = 4  # "\nStep 2:"
_OWN_TEMPLATE = 1000  # characters of the prompt for a judgement, where the job has none
_CHARACTERS_A_TOKEN = 8  # at most, over a whole prompt
_BYTES_A_PARAMETER = 14  # in a saved training state: weights, float32 master weights and two moments
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class DiskFull(RatchetError):
    """A round would not fit on the disk; the run pauses before it."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes, at most. Example: Need(checkpoints=16 * 2**30, states=224 * 2**30, rows=2**30)"""

    checkpoints: int
    """Exported weights; with `train.eval_every` also those that are discarded after the choice."""
    states: int
    """Saved states of the training, which are removed when the round is trained."""
    rows: int
    """Prompts, samples, verdicts, pairs and answers."""

    @property
    def total(self) -> int:
        return self.checkpoints + self.states + self.rows


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / 2**20:.1f} MiB"


def sizes(problems: Mapping[str, Sequence[Problem]]) -> dict[str, tuple[int, float]]:
    """Number and mean characters of each set's problems. Preference data are the set "stages", where there are any."""
    return {k: (len(rows), sum(len(row.text) for row in rows) / max(1, len(rows))) for k, rows in problems.items()}


def round_need(job: Job, number: int, seed_model: Path, problems: Mapping[str, tuple[int, float]]) -> Need:
    """What one round writes, at most. `problems` is as `sizes` gives it."""
    stored, weights = _weights(seed_model)
    exported = job.train.export_dtype
    checkpoint = int(weights * (_BYTES[exported] / _BYTES[stored] if exported and stored in _BYTES else 1.0))
    parameters = weights / _BYTES.get(stored or "", 4)
    pairs, rows = _rows(job, number, problems)
    # A new state is written before the one it replaces goes.
    kept = job.keep.training_states
    states = parameters * _BYTES_A_PARAMETER * (kept + 1 if kept else 0)
    return Need(checkpoint * (1 + _exports(job, number, pairs, problems)), int(states), rows)


def job_need(job: Job, seed_model: Path, problems: Mapping[str, tuple[int, float]]) -> Need:
    """What all rounds leave on the disk, and the most that any of them needs besides for a while."""
    rounds = [round_need(job, number, seed_model, problems) for number in range(1, job.rounds + 1)]
    widest = max(rounds, key=lambda need: need.checkpoints)
    exports = 1 + _exports(job, 1, _rows(job, 1, problems)[0], problems)
    # The newest are kept, and besides them the best.
    left_behind = rounds[0].checkpoints // exports * min(job.rounds - 1, (job.keep.checkpoints or job.rounds) + 1)
    return Need(left_behind + widest.checkpoints, rounds[0].states, sum(need.rows for need in rounds))


def require_space(root: Path, need: Need, what: str) -> None:
    """Raise DiskFull where `need` does not fit beside `root`."""
    free = shutil.disk_usage(root).free
    if free < need.total:
        raise DiskFull(
            f"{root}: {what} needs up to {gib(need.total)} ({gib(need.checkpoints)} of checkpoints, {gib(need.states)} "
            f"of saved training states, {gib(need.rows)} of samples and pairs), and {gib(free)} are free. The run "
            f"pauses here: free some space (`ratchet gc {root}`), or do with less (keep.training_states=0, "
            f"keep.checkpoints), and the same command goes on, or `ratchet resume {root}`."
        )


def _rows(job: Job, number: int, problems: Mapping[str, tuple[int, float]]) -> tuple[int, int]:
    """Pairs and bytes of a round. Parquet compresses; every completion counts as long as it may be."""
    generate, tokens = job.generate, job.generate.max_tokens
    held_out = sum(problems.get(split, (0, 0.0))[0] for split in ("gate", "test"))
    answers = held_out * (job.evaluate.max_tokens or tokens) * _BYTES_A_TOKEN
    if job.source.type == "dataset":  # a stage may be all of it
        pairs, characters = problems.get("stages", (0, 0.0))
        return pairs, answers + int(pairs * characters * 3)  # its text, and ids of some two characters each
    num_train, characters = problems.get("train", (0, 0.0))
    num_prompts = job.data.prompts_per_round or num_train
    if job.train.retrain:
        num_prompts += problems.get("gate", (0, 0.0))[0]
    prompt = int(characters * 3)  # its text, and ids of some two characters each
    gold = job.source.type == "gold"
    samples = 0 if gold else num_prompts * at_round(generate.samples, number)
    pairs = num_prompts * (1 if gold else at_round(job.pairs.per_prompt, number))
    pairs = min(pairs, job.pairs.max_pairs or pairs)
    pairs += int(pairs * job.pairs.replay * min(number - 1, job.pairs.replay_rounds or number))
    written = num_prompts * prompt + samples * (tokens * _BYTES_A_TOKEN + _BYTES_A_VERDICT)
    written += pairs * (prompt + 2 * tokens * _BYTES_A_TOKEN)
    if job.source.type == "steps":
        written += _steps(job, samples, prompt)
    if job.source.type == "judge":
        written += _judgements(job, samples, prompt)
    if job.generate.hint:  # were no prompt solved
        written += num_prompts * (prompt + tokens * _BYTES_A_TOKEN + _BYTES_A_VERDICT)
    return pairs, written + answers


def _judgements(job: Job, samples: int, prompt: int) -> int:
    """Bytes of the prompts that show the samples to the model, and of what it says about them."""
    settings, shown = SelfJudge.of(job), job.generate.max_tokens * _BYTES_A_TOKEN
    asked = prompt + 3 * max(len(settings.template), _OWN_TEMPLATE) + shown
    return samples * (asked + settings.samples * (settings.max_tokens * _BYTES_A_TOKEN + _BYTES_A_VERDICT))


def _steps(job: Job, errors: int, prompt: int) -> int:
    """Bytes of the search for first wrong steps and of the continuations, were every sample wrong."""
    settings, text = Steps.of(job), job.generate.max_tokens * _BYTES_A_TOKEN
    # A step has its marker at least.
    levels = math.ceil(math.log2(max(2, job.generate.max_tokens / _TOKENS_A_MARKER)))
    drawn = errors * (levels * settings.rollouts + settings.rectifications)
    prefixes = errors * (levels + 1) * (prompt + text)
    copied = errors * (1 + settings.rollouts + settings.rectifications) * (prompt + 2 * text)
    return drawn * (text + _BYTES_A_VERDICT) + prefixes + copied


def _exports(job: Job, number: int, pairs: int, problems: Mapping[str, tuple[int, float]]) -> int:
    """Checkpoints on the way of a round's training, at most."""
    if job.train.eval_every is None:
        return 0
    steps = math.ceil(pairs / job.train.batch_pairs) * job.train.epochs
    if job.train.token_budget is not None:
        # A prompt's pairs share it, and each has at least one token of its own.
        batch = min(job.train.batch_pairs, max(1, pairs))
        _, characters = problems.get("stages" if job.source.type == "dataset" else "train", (0, 0.0))
        tokens = batch + math.ceil(batch / at_round(job.pairs.per_prompt, number)) * characters / _CHARACTERS_A_TOKEN
        steps = math.ceil(job.train.token_budget / tokens)
    return math.ceil(min(steps, job.train.max_steps or steps) / job.train.eval_every)


def _weights(folder: Path) -> tuple[str | None, int]:
    """Number format and bytes of a model folder's weights."""
    config = json.loads((folder / "config.json").read_text())
    config = config | (config.get("text_config") or {})
    return config.get("dtype") or config.get("torch_dtype"), sum(f.stat().st_size for f in folder.glob("*.safetensors"))
