"""The trainer beside TRL's DPOTrainer: the same pairs, the same model, the reference pass included.

    python -m benchmarks.peers --gsm8k train.jsonl
    python -m benchmarks.peers --gsm8k train.jsonl --prompts 12 --repeats 1 --sides trl-bf16 pairs prompts --json

Each side has a process of its own for each pass, of one thread, and they take turns. Counted are the CPU seconds of the
whole process from where it has its model and its data up to the last update, and the most memory that it ever held;
what comes before (imports, loading, tokenising) and after (saving) is not. The model has the shape of SmolLM2-135M with
random weights in bfloat16, 16 pairs are an update, and the loss is DPO and NLL.

The prompts are GSM8K's questions behind the instruction and the example of jobs/irpo-smollm2-gsm8k.yaml, a prompt's N
samples worked solutions of other problems, a random part of them correct, and K pairs zipped with wrapping. Tokens are
words, digits and signs, about as many as SmolLM2's tokenizer makes.

- trl: as it comes, which is float32 weights under autocast, activations computed again, and the reference model beside
  the policy; two micro-batches of eight pairs an update.
- trl-tuned: without computing again, and with the reference's log-probabilities in advance.
- trl-bf16: the same with everything in bfloat16, the optimizer's state and its updates too.
- pairs, prompts: `train.order` of this project, as a rank of a run computes it. --train gives other settings.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.measured import report
from orchestrator.records.rows import REFERENCE, ScoringPlan, TrainingPlan, pairs_schema

ROOT = Path(__file__).parent.parent
EOS, PAD, VOCAB = 0, 1, 49152
TRL: dict[str, dict[str, Any]] = {
    "trl": {"dtype": "float32"},
    "trl-tuned": {"dtype": "float32", "gradient_checkpointing": False, "precompute_ref_log_probs": True},
    "trl-bf16": {
        **{"dtype": "bfloat16", "gradient_checkpointing": False, "precompute_ref_log_probs": True},
        "bf16": False,
    },
}
ORDERS = ("pairs", "prompts")
BATCH_PAIRS, LEARNING_RATE, BETA = 16, 1e-6, 0.1

# The data


class Words:
    """Token ids of words, digits and signs, given out as they come."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def ids(self, text: str) -> list[int]:
        parts = re.findall(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+", text)
        return [self._ids.setdefault(part, 2 + len(self._ids) % (VOCAB - 2)) for part in parts]


def make_rows(options: argparse.Namespace) -> list[tuple[str, list[int], list[int], list[int]]]:
    """(pair id, prompt, chosen, rejected) in token ids; completions end in EOS."""
    rng = np.random.default_rng(options.seed)
    job = yaml.safe_load((ROOT / "jobs/irpo-smollm2-gsm8k.yaml").read_text())["data"]
    example = "\n".join(job["examples"][0][part] for part in ("prompt", "completion"))
    problems = [json.loads(line) for line in Path(options.gsm8k).read_text().splitlines()]
    words, rows = Words(), []
    for p, at in enumerate(rng.choice(len(problems), options.prompts, replace=False)):
        prompt = words.ids(example + "\n" + job["template"].format(question=problems[at]["question"]))
        taken = rng.choice(len(problems), options.samples, replace=False)
        texts = [re.sub(r"<<[^>]*>>", "", problems[t]["answer"]) for t in taken]
        samples = [[*words.ids(text.replace("####", "Final answer:")), EOS] for text in texts]
        cut = int(rng.integers(1, options.samples))
        right, wrong = samples[:cut], samples[cut:]
        for k in range(options.pairs_per_prompt):
            rows.append((f"{p}-{k}", prompt, right[k % len(right)], wrong[k % len(wrong)]))
    return rows


def write_inputs(options: argparse.Namespace, folder: Path) -> None:
    """Pairs for both, and the model."""
    rows = make_rows(options)
    schema = pairs_schema(conversational=False)
    table = [(name, name.split("-")[0], "x", "y", "z", 0, 0, *ids) for name, *ids in rows]
    pq.write_table(pa.table([list(column) for column in zip(*table, strict=True)], schema=schema), folder / "pairs")
    (folder / "rows.json").write_text(json.dumps(rows))
    write_model(folder / "model", options.layers, options.seed)


def write_model(folder: Path, layers: int = 30, seed: int = 0) -> None:
    """A model of SmolLM2-135M's shape with random weights in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **{"vocab_size": VOCAB, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": layers},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192},
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


# The sides, each in its process


class Meter:
    """CPU seconds of this process and its children since it began, by what they went to."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._at = self._now()

    @staticmethod
    def _now() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    def restart(self) -> None:
        self._at = self._now()

    def note(self, part: str) -> None:
        now = self._now()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._at
        self._at = now


def train_trl(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """TRL's trainer; where it scores the reference in advance, the constructor does."""
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    plain = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t1"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=f"t{EOS}", pad_token=f"t{PAD}")
    meter = Meter()

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:
            meter.restart()
            found = super()._precompute_ref_logps(*given, **named)
            meter.note("reference")
            return found

    own = dict(TRL[side])
    settings = DPOConfig(
        output_dir=str(folder / side),
        **{"beta": BETA, "loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "learning_rate": LEARNING_RATE},
        **{
            "per_device_train_batch_size": options.trl_pairs,
            "gradient_accumulation_steps": BATCH_PAIRS // options.trl_pairs,
        },
        **{"num_train_epochs": 1, "max_length": None, "use_cpu": True, "save_strategy": "no", "report_to": "none"},
        **{"seed": options.seed, "disable_tqdm": True, "model_init_kwargs": {"dtype": own.pop("dtype")}},
        **own,
    )
    texts = [
        {part: " ".join(f"t{i}" for i in ids) for part, ids in zip(("prompt", "chosen", "rejected"), row, strict=True)}
        for _, *row in json.loads((folder / "rows.json").read_text())
    ]
    rows = [row | {part: " " + row[part] for part in ("chosen", "rejected")} for row in texts]
    data = datasets.Dataset.from_list(rows)
    trainer = Timed(str(folder / "model"), args=settings, train_dataset=data, processing_class=tokenizer)
    meter.restart()
    loss = trainer.train().training_loss
    meter.note("train")
    return {"parts": meter.parts, "loss": loss, "updates": trainer.state.global_step}


def train_ours(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A rank of a run, alone."""
    from orchestrator.config import RoundLoss, Train
    from workers.training.rank import Trainer

    given = yaml.safe_load(f"{{{options.train}}}")
    settings = Train(order=side, batch_pairs=BATCH_PAIRS, learning_rate=LEARNING_RATE, **given)
    trainer = Trainer(settings, 0, 1)
    trainer.connect(f"file://{folder / f'rendezvous-{os.getpid()}'}")
    model, pairs, own = str(folder / "model"), (str(folder / "pairs"),), folder / f"{side}-{os.getpid()}"
    own.mkdir()
    trainer._engine(model, None)
    known, _ = trainer._read_pairs(pairs, model)
    meter = Meter()
    scored = trainer.reference_logprobs(ScoringPlan(model, model, pairs))
    pq.write_table(
        pa.table([list(column) for column in zip(*scored, strict=True)], schema=REFERENCE), own / "reference"
    )
    meter.note("reference")
    plan = TrainingPlan(
        **{"init": model, "reference": model, "pairs": pairs, "loss": RoundLoss(beta=BETA, dpo=1.0, nll=1.0)},
        **{"learning_rate": LEARNING_RATE, "seed": options.seed, "state_dir": str(own / "state")},
        **{name: str(own / name) for name in ("failure_file", "metrics_file", "probe_file", "checkpoint_dir")},
        keep_states=False,
    )
    updates = -(-len(known) // BATCH_PAIRS)
    training, losses, tokens = trainer.train(plan, str(own / "reference")), [], 0
    for _ in range(updates):
        _, row = next(training)
        losses.append(row["loss"])
        tokens += row["tokens"]
    meter.note("train")
    return {"parts": meter.parts, "loss": statistics.mean(losses), "updates": updates, "tokens": tokens}


def one_pass(side: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What one side does in this process."""
    import torch

    torch.set_num_threads(1)
    found = (train_trl if side in TRL else train_ours)(side, folder, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found | {"cpu_seconds": sum(found["parts"].values()), "peak_gib": peak}


# Both beside one another


def measure(options: argparse.Namespace, arguments: list[str]) -> dict[str, list[dict[str, Any]]]:
    """All passes of all sides."""
    passes: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as name:
        write_inputs(options, Path(name))
        for _ in range(options.repeats):
            for side in options.sides:
                words = [sys.executable, "-m", "benchmarks.peers", *arguments, "--pass", side, "--folder", name]
                done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                passes[side].append(json.loads(done.stdout.splitlines()[-1]))
                shown = {key: round(value, 3) for key, value in passes[side][-1].items() if key != "parts"}
                print(side, shown, file=sys.stderr, flush=True)
    return passes


def figures(passes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each side, and how many times as fast each is as each of TRL's: medians of the turns' ratios."""
    found: dict[str, Any] = {}
    for side, rows in passes.items():
        found[side] = {
            "cpu_seconds": round(statistics.median(row["cpu_seconds"] for row in rows), 2),
            "reference_cpu_seconds": round(statistics.median(row["parts"].get("reference", 0.0) for row in rows), 2),
            "peak_gib": round(max(row["peak_gib"] for row in rows), 2),
            "loss": rows[-1]["loss"],
        }
    for peer in (side for side in passes if side in TRL):
        for side in (side for side in passes if side not in TRL):
            ratios = [t["cpu_seconds"] / o["cpu_seconds"] for t, o in zip(passes[peer], passes[side], strict=True)]
            found[side][f"times_as_fast_as_{peer}"] = round(statistics.median(ratios), 2)
            found[side][f"memory_of_{peer}"] = round(found[side]["peak_gib"] / found[peer]["peak_gib"], 2)
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", required=True, help="GSM8K's training split: JSON lines with question and answer")
    parser.add_argument("--sides", nargs="+", choices=[*TRL, *ORDERS], default=[*TRL, *ORDERS])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=12, help="N, distinct completions a prompt")
    parser.add_argument("--pairs-per-prompt", type=int, default=6, help="K")
    parser.add_argument("--layers", type=int, default=30, help="of the model; SmolLM2-135M has 30")
    parser.add_argument("--train", default="", help="settings of `train`, such as 'tokens_per_microbatch: 2048'")
    parser.add_argument("--trl-pairs", type=int, default=8, help="pairs of TRL's micro-batch; 8 is what comes with it")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pass", dest="one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    arguments = sys.argv[1:]
    options = parse(arguments)
    if options.one:
        print(json.dumps(one_pass(options.one, options.folder, options)))
        return
    with contextlib.redirect_stdout(sys.stderr):  # what libraries say
        passes = measure(options, arguments)
    found = figures(passes)
    if options.json:
        told = {name: value for name, value in vars(options).items() if name not in ("json", "one", "folder", "gsm8k")}
        print(json.dumps(report("peers", told, found)))
        return
    for side, row in found.items():
        print(f"{side:10}" + "".join(f"  {name} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
