"""The real training stack on CPU: DeepSpeed ranks in Ray actors against plain torch, pair by pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")
ray = pytest.importorskip("ray")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from orchestrator.config import Train  # noqa: E402
from orchestrator.records import PROBE, LossWeights, TrainingPlan, pairs_schema  # noqa: E402
from workers import batching  # noqa: E402
from workers.pair_data import read_pairs  # noqa: E402
from workers.train_step import learning_rate  # noqa: E402
from workers.trainer_group import TrainerGroup  # noqa: E402

pytestmark = pytest.mark.real

VOCAB = 97
WEIGHTS = LossWeights(beta=0.5, dpo=1.0, nll=1.0)
SETTINGS: dict[str, Any] = {
    "precision": "fp32",
    "learning_rate": 1e-2,
    # A large epsilon keeps an update proportional to its gradient, so that rounding stays rounding.
    "epsilon": 1e-2,
    "batch_pairs": 8,
    "tokens_per_microbatch": 80,
    "max_grad_norm": 0.5,
    "weight_decay": 0.1,
    "warmup_steps": 1,
}


class OneCore:
    """A placement: one CPU core a rank."""

    def actor_options(self, index: int) -> dict[str, Any]:
        return {"num_cpus": 1}


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # A short folder: the path of a Unix socket must stay under 108 characters.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def make_model(folder: Path, tied: bool = True, dtype: torch.dtype = torch.float32) -> str:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    (folder / "tokenizer.json").write_text('{"kept": "as it is"}')
    return str(folder)


def make_pairs(file: Path, num_prompts: int = 5, pairs_per_prompt: int = 3) -> str:
    rng = np.random.default_rng(5)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(0, VOCAB, rng.integers(low, high)).tolist()

    rows = []
    for p in range(num_prompts):
        prompt, winners, losers = ids(2, 12), [ids(1, 15) for _ in range(2)], [ids(1, 15) for _ in range(3)]
        for k in range(pairs_per_prompt):
            chosen, rejected = winners[k % 2], losers[k % 3]
            rows.append((f"{p}-{k}", f"{p}", "x", "y", "z", k, k, prompt, chosen, rejected))
    schema = pairs_schema(conversational=False)
    pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema), file)
    return str(file)


def make_plan(folder: Path, model: str, pairs: str, **changes: Any) -> TrainingPlan:
    fields: dict[str, Any] = {
        "init": model,
        "reference": model,
        "pairs": (pairs,),
        "loss": WEIGHTS,
        "learning_rate": SETTINGS["learning_rate"],
        "seed": 11,
        "state_dir": str(folder / "state"),
        "metrics_file": str(folder / ".metrics.parquet"),
        "probe_file": str(folder / ".probe.parquet"),
        "checkpoint_dir": str(folder / ".checkpoint"),
    }
    return TrainingPlan(**(fields | changes))


def sequence_logprob(model: Any, prompt: Any, completion: Any) -> torch.Tensor:
    """Summed log-probability of a completion, one sequence at a time through the ordinary model."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
    logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()


def plain_torch(plan: TrainingPlan, settings: Train) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The same training in plain torch: weights, and the losses and gradient norms of the steps."""
    policy = AutoModelForCausalLM.from_pretrained(plan.init, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(plan.reference, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        policy.parameters(), betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay
    )
    pairs = read_pairs(plan.pairs, VOCAB)
    batches = batching.epoch_batches(pairs, plan.seed, 0, settings.batch_pairs, settings.order)
    losses, norms = [], []
    for step, rows in enumerate(batches, start=1):
        total = torch.zeros(())
        for pair in (pairs[row] for row in rows):
            chosen, rejected = (sequence_logprob(policy, pair.prompt, c) for c in (pair.chosen, pair.rejected))
            with torch.no_grad():
                old = [sequence_logprob(reference, pair.prompt, c) for c in (pair.chosen, pair.rejected)]
            margin = plan.loss.beta * ((chosen - old[0]) - (rejected - old[1]))
            dpo = -torch.nn.functional.logsigmoid(margin)
            total = total + plan.loss.dpo * dpo - plan.loss.nll * chosen / len(pair.chosen)
        loss = total / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), plan.learning_rate, "linear", settings.warmup_steps, 0.0)
        optimizer.step()
        losses.append(loss.item())
    return {name: p.detach() for name, p in policy.named_parameters()}, losses, norms


def run(plan: TrainingPlan, settings: Train, chunk_logits: int = 2**26) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    steps: list[dict[str, Any]] = []
    with TrainerGroup(settings, OneCore(), chunk_logits) as group:
        file = str(Path(plan.state_dir).parent / ".reference.parquet")
        group.reference(plan, file)
        facts = group.train(plan, file, steps.append)
    return facts, steps


def difference(folder: str, expected: dict[str, torch.Tensor]) -> float:
    found = load_file(Path(folder) / "model.safetensors")
    assert found.keys() == expected.keys()
    return max(float((found[name].float() - expected[name]).abs().max()) for name in expected)


def compare(tmp_path: Path, chunk_logits: int = 2**26, **changes: Any) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | changes))
    plan = make_plan(tmp_path, model, pairs)
    expected, losses, norms = plain_torch(plan, settings)
    facts, steps = run(plan, settings, chunk_logits)
    moved = difference(model + "", expected)
    assert moved > 1e-3, "the test would prove nothing if training moved no weight"
    assert [row["loss"] for row in steps] == pytest.approx(losses, abs=2e-6, rel=2e-6)
    assert [row["grad_norm"] for row in steps] == pytest.approx(norms, rel=2e-5)
    assert difference(plan.checkpoint_dir, expected) < 2e-5 * moved / 1e-2 + 1e-6
    assert facts["steps"] == 2 and facts["pairs"] == 15 and facts["tokens"] < facts["padded_tokens"]
    assert facts["first_step"]["mean_difference"] < 1e-5
    assert pq.read_table(plan.metrics_file).to_pylist() == steps
    check_probe(plan, expected_folder=plan.checkpoint_dir)


def check_probe(plan: TrainingPlan, expected_folder: str, tolerance: float = 1e-4) -> None:
    """The exported folder, loaded by transformers, agrees with what the trainer wrote into the probe."""
    model = AutoModelForCausalLM.from_pretrained(expected_folder, dtype=torch.float32)
    rows = pq.read_table(plan.probe_file)
    assert rows.schema.equals(PROBE) and rows.num_rows > 0
    with torch.no_grad():
        for row in rows.to_pylist():
            prompt, completion = (np.asarray(row[f"{n}_token_ids"]) for n in ("prompt", "completion"))
            assert float(sequence_logprob(model, prompt, completion)) == pytest.approx(row["logprob"], abs=tolerance)


@pytest.mark.parametrize(("zero", "ranks"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_two_steps_equal_plain_torch(local_ray: Any, tmp_path: Path, zero: int, ranks: int) -> None:
    compare(tmp_path, zero=zero, ranks=ranks)


@pytest.mark.full
@pytest.mark.parametrize(
    "changes",
    [
        {"zero": 0, "ranks": 2},
        {"zero": 1, "ranks": 1},
        {"zero": 1, "ranks": 2, "offload_optimizer": True},
        {"zero": 2, "ranks": 2, "offload_optimizer": True},
        {"zero": 3, "ranks": 2, "offload_optimizer": True},
        {"zero": 3, "ranks": 1},
        {"zero": 3, "ranks": 2, "activation_checkpointing": True},
        {"zero": 3, "ranks": 2, "chunk_logits": 7 * VOCAB},
        {"zero": 2, "ranks": 2, "chunk_logits": 7 * VOCAB, "activation_checkpointing": True},
        {"zero": 1, "ranks": 2, "order": "prompts", "tokens_per_microbatch": 20},
        {"zero": 2, "ranks": 2, "tokens_per_microbatch": 10_000},
        {"zero": 3, "ranks": 2, "tokens_per_microbatch": 30},
    ],
    ids=str,
)
def test_other_settings_equal_plain_torch(local_ray: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    compare(tmp_path, **changes)


@pytest.mark.full
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bf16_keeps_float32_master_weights(local_ray: Any, tmp_path: Path, zero: int) -> None:
    """At rate 0 the float32 seed comes out bit for bit though the training computes in bfloat16; at a
    rate below bfloat16's precision the float32 weights still move."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"precision": "bf16", "zero": zero, "ranks": 2}))
    seed = load_file(Path(model) / "model.safetensors")
    still = make_plan(tmp_path / "still", model, pairs, learning_rate=0.0)
    run(still, settings)
    assert difference(still.checkpoint_dir, seed) == 0.0
    slow = make_plan(tmp_path / "slow", model, pairs, learning_rate=1e-4)
    run(slow, settings)
    assert 0 < difference(slow.checkpoint_dir, seed) < 2e-4
    check_probe(slow, slow.checkpoint_dir, tolerance=0.5)
