"""How much disk a job's rounds need, at most, and whether there is so much."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Job, at_round
from orchestrator.config.learning import GROUPING
from orchestrator.errors import RatchetError
from orchestrator.inputs.problem_set import characters_of
from orchestrator.models.checks import check_config
from orchestrator.models.sizes import from_config, size_trained
from orchestrator.records.limits import weight_bytes
from orchestrator.records.rows import Problem

GIB = 2**30
BYTES_A_TOKEN = 10  # in a Parquet file, at most: four for the id, and its text
BYTES_A_VERDICT = 200
BYTES_A_REWARD = 60
_LOOKED_AT = 1000  # rounds; those after them, which may be any number, are as the last of them
_CHARACTERS_A_TOKEN = 8  # at most, over a whole prompt
_BYTES_A_PARAMETER = 12  # in a saved training state: float32 weights and two moments
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


Sizes = Mapping[str, tuple[int, float]]
"""Number and mean characters of each set's problems; preference data are the set "stages"."""


@dataclass(frozen=True)
class Disk:
    """What a source of pairs writes in a round, at most."""

    rows: Callable[[Job, int, Sizes], tuple[int, int]]
    """How many pairs of a round, and bytes of all that they come from, but for the answers to gate and test."""
    prompts_of: str = "train"
    """The set that its prompts are of."""
    begins: str = "prompts"
    """The step that a round begins with."""


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
    """A size in bytes for people, in GiB, or in MiB where it is small."""
    return f"{size / GIB:.1f} GiB" if size >= 0.05 * GIB else f"{size / 2**20:.1f} MiB"


def sizes(problems: Mapping[str, Sequence[Problem]]) -> dict[str, tuple[int, float]]:
    """Number and mean characters of each set's problems. Preference data are the set "stages", where there are any."""
    return {split: (len(rows), characters_of(rows) / max(1, len(rows))) for split, rows in problems.items()}


def round_need(job: Job, number: int, base_model: Path, problems: Sizes, disk: Disk) -> Need:
    """What one round writes, at most. `problems` is as `sizes` gives it."""
    stored, weights = _weights(base_model)
    exported = job.train.export_dtype
    checkpoint = int(weights * (_BYTES[exported] / _BYTES[stored] if exported and stored in _BYTES else 1.0))
    parameters = weights / _BYTES.get(stored or "", 4)
    size = size_trained(base_model, job.lora) if job.lora else None
    if size is not None and size.adapter is not None:  # saved states are of what is trained
        parameters = size.adapter
        checkpoint += 4 * size.adapter
    pairs, rows = _rows(job, number, problems, disk)
    # A new state is written before the one it replaces goes.
    kept = job.keep.training_states
    states = parameters * _BYTES_A_PARAMETER * (kept + 1 if kept else 0)
    return Need(checkpoint * (1 + _exports(job, number, pairs, problems, disk)), int(states), rows)


def job_need(job: Job, base_model: Path, problems: Sizes, disk: Disk) -> Need:
    """What all rounds leave on the disk, and the most that any of them needs besides for a while."""
    looked_at = min(job.rounds, _LOOKED_AT)
    rounds = [round_need(job, number, base_model, problems, disk) for number in range(1, looked_at + 1)]
    rows = sum(need.rows for need in rounds) + (job.rounds - looked_at) * rounds[-1].rows
    widest = max(rounds, key=lambda need: need.checkpoints)
    exports = 1 + _exports(job, 1, _rows(job, 1, problems, disk)[0], problems, disk)
    # The newest are kept, and besides them the best.
    left_behind = rounds[0].checkpoints // exports * min(job.rounds - 1, (job.keep.checkpoints or job.rounds) + 1)
    return Need(left_behind + widest.checkpoints, rounds[0].states, rows)


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


def _rows(job: Job, number: int, problems: Sizes, disk: Disk) -> tuple[int, int]:
    """Pairs and bytes of a round. Parquet compresses; every completion counts as long as it may be."""
    held_out = sum(size[0] for split, size in problems.items() if split not in ("train", "stages"))
    pairs, written = disk.rows(job, number, problems)
    answers = held_out + (held_out - problems.get("gate", (0, 0.0))[0]) * job.evaluate.samples
    return pairs, written + answers * (job.evaluate.max_tokens or job.generate.max_tokens) * BYTES_A_TOKEN


def prompted(job: Job, number: int, problems: Sizes) -> tuple[int, int]:
    """How many prompts a round has, and the bytes of one: its text, and ids of some two characters each."""
    num_train, characters = problems.get("train", (0, 0.0))
    num_prompts = min(job.data.prompts_per_round or num_train, num_train)
    if job.train.retrain:
        num_prompts += problems.get("gate", (0, 0.0))[0]
    return num_prompts, int(characters * 3)


def paired(job: Job, number: int, problems: Sizes, samples: int, per_prompt: int) -> tuple[int, int]:
    """Pairs of a round with so many samples and pairs a prompt, and the bytes of its prompts, samples and pairs."""
    tokens, (num_prompts, prompt) = job.generate.max_tokens, prompted(job, number, problems)
    drawn = per_prompt if job.pairs.rule in GROUPING else 1  # groups are drawn whole
    pairs = min(num_prompts * per_prompt, (job.pairs.max_pairs or num_prompts * per_prompt) * drawn)
    pairs += int(pairs * job.pairs.replay * min(number - 1, job.pairs.replay_rounds or number))
    written = num_prompts * (prompt + samples * (tokens * BYTES_A_TOKEN + BYTES_A_VERDICT))
    return pairs, written + pairs * (prompt + 2 * tokens * BYTES_A_TOKEN)


def sampled(job: Job, number: int, problems: Sizes) -> tuple[int, int]:
    """The same, as `generate` and `pairs` have it."""
    return paired(job, number, problems, at_round(job.generate.samples, number), at_round(job.pairs.per_prompt, number))


def rejected_of_row(job: Job, number: int) -> int:
    """How many pairs at most are one row of a round's training: more than one where the loss reads groups."""
    return at_round(job.pairs.per_prompt, number) if job.loss.of_round(number).reads_groups else 1


def _exports(job: Job, number: int, pairs: int, problems: Sizes, disk: Disk) -> int:
    """Checkpoints on the way of a round's training, at most."""
    if job.train.eval_every is None:
        return 0
    pairs = math.ceil(pairs / rejected_of_row(job, number))
    steps = math.ceil(pairs / job.train.batch_pairs) * job.train.epochs
    if job.train.token_budget is not None:
        # A prompt's pairs share it, and each has at least one token of its own.
        batch = min(job.train.batch_pairs, max(1, pairs))
        _, characters = problems.get(disk.prompts_of, (0, 0.0))
        tokens = batch + math.ceil(batch / at_round(job.pairs.per_prompt, number)) * characters / _CHARACTERS_A_TOKEN
        steps = math.ceil(job.train.token_budget / tokens)
    return math.ceil(min(steps, job.train.max_steps or steps) / job.train.eval_every)


def _weights(folder: Path) -> tuple[str | None, int]:
    """Number format and bytes of a model folder's weights."""
    config = check_config(folder, "model")
    size = weight_bytes(folder)
    if not size and (told := from_config(config)) is not None:  # of the Hub, and not there yet
        size = told.parameters * told.number_bytes
    config = config | (config.get("text_config") or {})
    return config.get("dtype") or config.get("torch_dtype"), size
