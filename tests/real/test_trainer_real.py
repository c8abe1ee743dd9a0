"""The real training stack on CPU: DeepSpeed ranks in Ray actors against plain torch, pair by pair."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
ray = pytest.importorskip("ray")
# Not imported here: that takes seconds, and only the ranks' own processes need it.
if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed", allow_module_level=True)

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from orchestrator.config import RoundLoss, Train  # noqa: E402
from orchestrator.records.groups import FURTHER, further  # noqa: E402
from orchestrator.records.rows import PROBE, REFERENCE, ScoringPlan, TrainingPlan, pairs_schema  # noqa: E402
from orchestrator.records.seals import state_seal  # noqa: E402
from tests.support.local_ray import local_ray  # noqa: E402
from tests.support.placements import ForRanks  # noqa: E402
from workers.files import file_facts  # noqa: E402
from workers.numerics import batching  # noqa: E402
from workers.numerics.step import learning_rate  # noqa: E402
from workers.supervision.resting import Kept  # noqa: E402
from workers.training.checks import ReferenceMismatch  # noqa: E402
from workers.training.group import TrainerGroup, _Rank  # noqa: E402
from workers.training.lost import TrainingFailed  # noqa: E402
from workers.training.pair_data import TrainingDataError, read_pairs  # noqa: E402
from workers.training.rank import TrainingError  # noqa: E402

pytestmark = pytest.mark.real

VOCAB = 97
WEIGHTS_FILE = "model.safetensors"
STATE_FILE = "00000-00000.safetensors"
WEIGHTS = RoundLoss(beta=0.5, dpo=1.0, nll=1.0)
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


FULL = pytest.mark.full
Outcome = tuple[dict[str, Any], list[dict[str, Any]]]
Runner = Callable[..., Outcome]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with local_ray():
        yield


def make_model(folder: Path, tied: bool = True, dtype: torch.dtype = torch.float32, seed: int = 3) -> str:
    torch.manual_seed(seed)
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


def make_pairs(
    file: Path, num_prompts: int = 5, pairs_per_prompt: int = 3, rejected: bool = True, grouped: bool = False
) -> str:
    """With `grouped` a prompt's pairs are one group, of which each has another difference of scores."""
    rng = np.random.default_rng(5)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(0, VOCAB, rng.integers(low, high)).tolist()

    rows = []
    for p in range(num_prompts):
        prompt, winners, losers = ids(2, 12), [ids(1, 15) for _ in range(2)], [ids(1, 15) for _ in range(3)]
        for k in range(pairs_per_prompt):
            chosen, loser = winners[0 if grouped else k % 2], losers[k % 3] if rejected else None
            further_values = (f"{p}-0", 4.0, 3.5 - k) if grouped else ()
            rows.append((f"{p}-{k}", f"{p}", "x", "y", "z", k, k, prompt, chosen, loser, *further_values))
    schema = further(pairs_schema(conversational=False), FURTHER if grouped else ())
    pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema), file)
    return str(file)


def make_plan(folder: Path, model: str, pairs: str, **changes: Any) -> TrainingPlan:
    folder.mkdir(exist_ok=True)
    fields: dict[str, Any] = {
        "init": model,
        "reference": model,
        "pairs": (pairs,),
        "loss": WEIGHTS,
        "learning_rate": SETTINGS["learning_rate"],
        "seed": 11,
        "state_dir": str(folder / "state"),
        "failure_file": str(folder / "not_finite.json"),
        "metrics_file": str(folder / ".metrics.parquet"),
        "probe_file": str(folder / ".probe.parquet"),
        "checkpoint_dir": str(folder / ".checkpoint"),
        "state_key": b"a key",
    }
    return TrainingPlan(**(fields | changes))


def scoring(plan: TrainingPlan) -> ScoringPlan:
    """The reference pass of a training."""
    return ScoringPlan(plan.reference, plan.init, plan.pairs, adapter=plan.adapter, adapted=plan.adapted)


def sequence_logprob(model: Any, prompt: Any, completion: Any) -> torch.Tensor:
    """Summed log-probability of a completion, one sequence at a time through the ordinary model."""
    ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
    logprobs = model(ids).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum()


def plain_torch(
    plan: TrainingPlan, settings: Train, policy: Any = None, reference: Any = None
) -> tuple[dict[str, torch.Tensor], list[float], list[float]]:
    """The same training in plain torch: weights, and the losses and gradient norms of the steps. The models are those
    of the plan unless they are given."""
    policy = policy or AutoModelForCausalLM.from_pretrained(plan.init, dtype=torch.float32)
    reference = reference or AutoModelForCausalLM.from_pretrained(plan.reference, dtype=torch.float32)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, betas=settings.betas, eps=settings.epsilon, weight_decay=settings.weight_decay
    )
    pairs = read_pairs(plan.pairs, VOCAB)
    pairs = batching.grouped(pairs) if plan.loss.form == "softmax" else pairs
    batches = batching.epoch_batches(pairs, plan.seed, 0, settings.batch_pairs, settings.order)
    losses, norms = [], []
    for step, rows in enumerate(batches, start=1):
        total = torch.zeros(())
        for pair in (pairs[row] for row in rows):
            chosen = sequence_logprob(policy, pair.prompt, pair.chosen)
            total = total - plan.loss.nll * chosen / len(pair.chosen)
            if pair.rejected is None:
                continue
            rejected = sequence_logprob(policy, pair.prompt, pair.rejected)
            with torch.no_grad():
                old = [sequence_logprob(reference, pair.prompt, c) for c in (pair.chosen, pair.rejected)]
            won, lost, beta = chosen - old[0], rejected - old[1], plan.loss.beta
            if plan.loss.form == "squared":
                dpo = (won - 0.5 / beta) ** 2 + (lost + 0.5 / beta) ** 2
            elif plan.loss.form == "simpo":
                apart = chosen / len(pair.chosen) - rejected / len(pair.rejected)
                dpo = -torch.nn.functional.logsigmoid(beta * apart - plan.loss.target_margin)
            elif plan.loss.form == "softmax":
                rewards = [beta * won, beta * lost]
                for other in pair.more:
                    with torch.no_grad():
                        before = sequence_logprob(reference, pair.prompt, other.tokens)
                    rewards.append(beta * (sequence_logprob(policy, pair.prompt, other.tokens) - before))
                dpo = -torch.stack(rewards).log_softmax(0)[0]
            elif plan.loss.form == "odpo":
                offset = plan.loss.score_scale * math.log(pair.score_gap)
                dpo = -torch.nn.functional.logsigmoid(beta * (won - lost) - offset)
            else:
                dpo = -torch.nn.functional.logsigmoid(beta * (won - lost))
            total = total + plan.loss.dpo * dpo
        loss = total / len(rows)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), plan.learning_rate, "linear", settings.warmup_steps, 0.0)
        optimizer.step()
        losses.append(loss.item())
    return {name: p.detach() for name, p in policy.named_parameters()}, losses, norms


def through(group: TrainerGroup) -> Runner:
    """As the driver does it."""

    def outcome(plan: TrainingPlan, settings: Train) -> Outcome:
        assert settings == group.settings
        steps: list[dict[str, Any]] = []
        group.score(scoring(plan), reference_file(plan))
        return group.train(plan, reference_file(plan), steps.append), steps

    return outcome


def reference_file(plan: TrainingPlan) -> str:
    return str(Path(plan.state_dir).parent / ".reference.parquet")


def start_ranks(ranks: int) -> tuple[list[Any], Runner]:
    """Ranks that many tests use in turn, since starting DeepSpeed takes seconds; the group's own actors
    live for one phase."""

    class Rank:
        def connect(self, rank: int, port: int) -> None:
            from workers.training.rank import Trainer

            self.place = (rank, ranks)
            Trainer(Train(), rank, ranks).connect(f"tcp://127.0.0.1:{port}")

        def score(self, plan: TrainingPlan, settings: Train) -> Any:
            from workers.training.rank import Trainer

            self.trainer = Trainer(settings, *self.place)
            return self.trainer.reference_logprobs(scoring(plan)) if plan.loss.reads_reference else []

        def train(self, plan: TrainingPlan, file: str | None, stop_after: int | None) -> Any:
            return list(islice(self.trainer.train(plan, file), stop_after))

    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    made = ray.remote(Rank).options(num_cpus=0, runtime_env={"env_vars": environment})
    actors = [made.remote() for _ in range(ranks)]
    port = find_port()
    ray.get([actor.connect.remote(rank, port) for rank, actor in enumerate(actors)])

    def outcome(
        plan: TrainingPlan,
        settings: Train,
        file: str | None = None,
        stop_after: int | None = None,
    ) -> Outcome:
        """Facts and metrics; with `stop_after`, training is given up after so many steps, and there are no facts."""
        shares = ray.get([actor.score.remote(plan, settings) for actor in actors])
        if file is None and plan.loss.reads_reference:
            file = reference_file(plan)
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            columns = [list(column) for column in zip(*(row for rows in shares for row in rows), strict=True)]
            pq.write_table(pa.table(columns, schema=REFERENCE), file)
        said = ray.get([actor.train.remote(plan, file, stop_after) for actor in actors])[0]
        return next((row for kind, row in said if kind == "facts"), {}), [row for kind, row in said if kind == "step"]

    return actors, outcome


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def one_rank(cluster: None) -> Any:
    (actor,), outcome = start_ranks(1)
    yield outcome
    ray.kill(actor)


@pytest.fixture(scope="module")
def two_ranks(cluster: None) -> Any:
    actors, outcome = start_ranks(2)
    yield outcome
    for actor in actors:
        ray.kill(actor)


def difference(folder: str, expected: dict[str, torch.Tensor]) -> float:
    found = load_file(Path(folder) / "model.safetensors")
    assert found.keys() == expected.keys()
    return max(float((found[name].float() - expected[name]).abs().max()) for name in expected)


def compare(tmp_path: Path, runner: Runner, loss: RoundLoss = WEIGHTS, **changes: Any) -> None:
    """Two steps under these settings leave the weights that plain torch leaves, up to rounding."""
    compared, preferred, grouped = loss.reads_reference, loss.dpo > 0, loss.reads_groups or loss.reads_scores
    model = make_model(tmp_path / "seed")
    pairs = make_pairs(tmp_path / "pairs.parquet", rejected=preferred, grouped=grouped)
    settings = Train(**(SETTINGS | changes))
    plan = make_plan(tmp_path, model, pairs, loss=loss)
    expected, losses, norms = plain_torch(plan, settings)
    facts, steps = runner(plan, settings)
    moved = difference(model, expected)
    assert moved > 1e-3, "the test would prove nothing if training moved no weight"
    assert [row["loss"] for row in steps] == pytest.approx(losses, abs=2e-6, rel=5e-6)
    assert [row["grad_norm"] for row in steps] == pytest.approx(norms, rel=2e-5)
    assert min(norms) > settings.max_grad_norm, "clipping must have something to do"
    assert difference(plan.checkpoint_dir, expected) < 2e-3 * moved
    assert facts["steps"] == 2 and facts["pairs"] == 15 and facts["tokens"] < facts["padded_tokens"]
    if compared:
        assert facts["first_step"]["mean_difference"] < 1e-5
    told_of_pairs = {"dpo_loss", "margin", "reward_accuracy", "rejected_logprob"} & steps[-1].keys()
    assert len(told_of_pairs) == (4 if preferred else 0)
    table = pq.read_table(plan.metrics_file).to_pylist()
    told = [{name: value for name, value in row.items() if value is not None} | {"updates": 2} for row in table]
    assert told == steps
    check_probe(plan, expected_folder=plan.checkpoint_dir, compared=compared)


def check_probe(plan: TrainingPlan, expected_folder: str, tolerance: float = 1e-4, compared: bool = True) -> None:
    """The exported folder, loaded by transformers, agrees with what the trainer wrote into the probe."""
    model = AutoModelForCausalLM.from_pretrained(expected_folder, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(plan.reference, dtype=torch.float32) if compared else None
    rows = pq.read_table(plan.probe_file)
    assert rows.schema.equals(PROBE) and rows.num_rows > 0
    with torch.no_grad():
        for row in rows.to_pylist():
            prompt, completion = (np.asarray(row[f"{n}_token_ids"]) for n in ("prompt", "completion"))
            assert float(sequence_logprob(model, prompt, completion)) == pytest.approx(row["logprob"], abs=tolerance)
            if reference:
                told = float(sequence_logprob(reference, prompt, completion))
                assert row["reference_logprob"] == pytest.approx(told, abs=tolerance)
            else:
                assert row["reference_logprob"] is None


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_rank_equals_plain_torch(one_rank: Runner, tmp_path: Path, zero: int) -> None:
    compare(tmp_path, one_rank, zero=zero)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_two_ranks_equal_plain_torch(two_ranks: Runner, tmp_path: Path, zero: int) -> None:
    compare(tmp_path, two_ranks, zero=zero)


@pytest.mark.parametrize("zero", [2, 3])
def test_two_ranks_whose_gradients_are_summed_up_on_the_way_equal_plain_torch(
    two_ranks: Runner, tmp_path: Path, zero: int
) -> None:
    compare(tmp_path, two_ranks, zero=zero, overlap=True, tokens_per_microbatch=30)


@pytest.mark.full
def test_compiled_layers_equal_plain_torch(one_rank: Runner, tmp_path: Path) -> None:
    compare(tmp_path, one_rank, zero=1, compile=True)


@pytest.mark.parametrize(("precision", "share"), [("fp32", 2e-3), pytest.param("bf16", 0.1, marks=FULL)])
def test_executed_otherwise_a_training_gives_the_same_but_for_rounding(
    one_rank: Runner, two_ranks: Runner, tmp_path: Path, precision: str, share: float
) -> None:
    """Ranks, ZeRO 1 to 3 and micro-batches may change at every start. `share` is of how far training moves a weight."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    first = make_plan(tmp_path / "first", model, pairs)
    one_rank(first, Train(**(SETTINGS | {"precision": precision, "zero": 1})))
    expected = load_file(Path(first.checkpoint_dir) / WEIGHTS_FILE)
    for zero in (2, 3):
        plan = make_plan(tmp_path / str(zero), model, pairs)
        two_ranks(plan, Train(**(SETTINGS | {"precision": precision, "zero": zero, "tokens_per_microbatch": 40})))
        assert difference(plan.checkpoint_dir, expected) < share * difference(model, expected)


@pytest.mark.parametrize("zero", [pytest.param(0, marks=FULL), 3])
def test_imitation_equals_plain_torch(two_ranks: Runner, tmp_path: Path, zero: int) -> None:
    """Rows without a rejected side, and no reference pass."""
    compare(tmp_path, two_ranks, loss=RoundLoss(beta=0.1, dpo=0.0, nll=1.0), zero=zero)


def test_the_squared_form_equals_plain_torch(one_rank: Runner, tmp_path: Path) -> None:
    compare(tmp_path, one_rank, loss=RoundLoss(beta=0.5, dpo=0.5, nll=0.0, form="squared"))


@pytest.mark.parametrize("zero", [pytest.param(0, marks=FULL), 3])
def test_a_form_without_a_reference_equals_plain_torch(two_ranks: Runner, tmp_path: Path, zero: int) -> None:
    """No reference pass, and no reference in the probe."""
    compare(tmp_path, two_ranks, loss=RoundLoss(beta=20, dpo=0.5, nll=0.2, form="simpo", target_margin=3), zero=zero)


@pytest.mark.parametrize("zero", [1, 3])
def test_groups_equal_plain_torch_on_one_rank_and_on_two(
    one_rank: Runner, two_ranks: Runner, tmp_path: Path, zero: int
) -> None:
    """Three rejected completions each, in micro-batches that are smaller than a prompt with all of its completions."""
    for number, runner in enumerate((one_rank, two_ranks)):
        loss = RoundLoss(beta=0.5, dpo=1.0, nll=0.3, form="softmax")
        more = {"zero": zero, "batch_pairs": 3, "tokens_per_microbatch": 40}
        (tmp_path / str(number)).mkdir()
        compare(tmp_path / str(number), runner, loss=loss, **more)


def test_a_form_of_scores_equals_plain_torch(two_ranks: Runner, tmp_path: Path) -> None:
    compare(tmp_path, two_ranks, loss=RoundLoss(beta=0.5, dpo=1.0, nll=0.2, form="odpo", score_scale=0.7))


def test_a_form_of_scores_without_them_says_so(one_rank: Runner, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet"))
    with pytest.raises(TrainingDataError, match=r"pair 0-0 has no scores, by which this `loss\.form` goes"):
        one_rank(replace(plan, loss=RoundLoss(beta=0.5, dpo=1.0, nll=0.0, form="scaled")), Train(**SETTINGS))


def test_a_budget_of_tokens_is_spent_in_as_many_passes_as_it_takes(one_rank: Runner, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    once, _ = one_rank(make_plan(tmp_path / "once", model, pairs), Train(**SETTINGS))
    budget = 3 * once["tokens"] + 1
    facts, steps = one_rank(make_plan(tmp_path / "more", model, pairs), Train(**(SETTINGS | {"token_budget": budget})))
    assert facts["steps"] == len(steps) > 2 * 2
    assert sum(row["tokens"] for row in steps[:-1]) < budget <= facts["tokens"]


def test_a_number_of_steps_goes_before_a_budget(one_rank: Runner, tmp_path: Path) -> None:
    """The training with the gate's pairs takes the steps that were found without them, though its batches differ."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = replace(make_plan(tmp_path / "again", model, pairs), steps=5, schedule_steps=9)
    facts, _ = one_rank(plan, Train(**(SETTINGS | {"token_budget": 1})))
    assert facts["steps"] == 5


def test_ranks_with_different_numbers_of_chunks_do_not_wait_for_each_other(two_ranks: Runner, tmp_path: Path) -> None:
    """Under ZeRO 3 every use of a weight is collective, and so would every chunk of the head be."""
    compare(tmp_path, two_ranks, zero=3, chunk_logits=7 * VOCAB)


@pytest.mark.parametrize("zero", [pytest.param(0, marks=FULL), pytest.param(1, marks=FULL), 3])
def test_checkpoints_on_the_way_change_nothing(two_ranks: Runner, tmp_path: Path, zero: int) -> None:
    """The last is the one of an undisturbed training, and that on the way the one of a shorter training."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"zero": zero}))
    plain, exporting, short = (make_plan(tmp_path / name, model, pairs) for name in ("plain", "exporting", "short"))
    two_ranks(plain, settings)
    two_ranks(replace(exporting, export_every=1), settings)
    facts, _ = two_ranks(replace(short, steps=1, schedule_steps=2), settings)
    assert facts["steps"] == 1
    for step, undisturbed in ((1, short), (2, plain)):
        folder = Path(exporting.checkpoint_dir) / f"{step:06d}"
        assert difference(str(folder / "checkpoint"), load_file(Path(undisturbed.checkpoint_dir, WEIGHTS_FILE))) == 0.0
        assert pq.read_table(folder / "probe.parquet").equals(pq.read_table(undisturbed.probe_file))
    assert difference(short.checkpoint_dir, load_file(Path(plain.checkpoint_dir, WEIGHTS_FILE))) > 1e-4


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=FULL), "bf16"])
def test_rate_zero_leaves_every_bit(one_rank: Runner, tmp_path: Path, precision: str) -> None:
    """In bfloat16 too, where DeepSpeed's own float32 weights would be rounded ones."""
    model, pairs = make_model(tmp_path / "seed", tied=False), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs, learning_rate=0.0)
    facts, steps = one_rank(plan, Train(**(SETTINGS | {"precision": precision})))
    assert facts["steps"] == len(steps) == 2 and {row["learning_rate"] for row in steps} == {0.0}
    assert difference(plan.checkpoint_dir, load_file(Path(model) / "model.safetensors")) == 0.0


def test_a_policy_that_does_not_start_from_the_reference(one_rank: Runner, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", seed=4)
    plan = make_plan(tmp_path, make_model(tmp_path / "seed"), make_pairs(tmp_path / "p.parquet"), reference=other)
    settings = Train(**SETTINGS)
    expected, losses, _ = plain_torch(plan, settings)
    _, steps = one_rank(plan, settings)
    assert [row["loss"] for row in steps] == pytest.approx(losses, rel=1e-5)
    assert difference(plan.checkpoint_dir, expected) < 1e-5


@pytest.mark.parametrize(
    ("zero", "dtype"),
    [
        (3, torch.float32),
        (1, torch.bfloat16),
        *(pytest.param(*case, marks=FULL) for case in ((0, torch.float32), (1, torch.float32), (3, torch.bfloat16))),
    ],
)
def test_a_reference_is_computed_as_the_policy_is(
    one_rank: Runner, tmp_path: Path, zero: int, dtype: torch.dtype
) -> None:
    """The policy's own weights in another folder give, to the bit, what they give in its own."""
    base, pairs = make_model(tmp_path / "seed", dtype=dtype), make_pairs(tmp_path / "pairs.parquet")
    shutil.copytree(base, tmp_path / "copy")
    settings = Train(**(SETTINGS | {"precision": "bf16", "zero": zero, "max_steps": 1}))
    found = []
    for name, reference in (("same", base), ("other", str(tmp_path / "copy"))):
        facts, steps = one_rank(make_plan(tmp_path / name, base, pairs, reference=reference), settings)
        found.append((facts["first_step"]["mean_difference"], steps[0]["margin"]))
        # Where policy and reference are known to be the same, which margins are above zero is chance.
        assert ("reward_accuracy" in steps[0]) == (name == "other")
    assert found[0] == found[1]


def test_what_a_model_of_bfloat16_becomes(one_rank: Runner, tmp_path: Path) -> None:
    """Its own dtype unless another is asked for, and the config says so."""
    model = make_model(tmp_path / "seed", dtype=torch.bfloat16)
    pairs = make_pairs(tmp_path / "pairs.parquet")
    for named, dtype in ((None, torch.bfloat16), ("float32", torch.float32)):
        plan = make_plan(tmp_path / str(named), model, pairs)
        one_rank(plan, Train(**(SETTINGS | {"precision": "bf16", "export_dtype": named})))
        weights = load_file(Path(plan.checkpoint_dir) / "model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {dtype}
        config = json.loads((Path(plan.checkpoint_dir) / "config.json").read_text())
        assert config["dtype"] == str(dtype).removeprefix("torch.") and "torch_dtype" not in config
        assert (Path(plan.checkpoint_dir) / "tokenizer.json").read_text() == '{"kept": "as it is"}'
        check_probe(plan, plan.checkpoint_dir, tolerance=0.5)


def test_long_pairs_are_dropped_and_counted(one_rank: Runner, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    longest = sorted(pair.longest for pair in read_pairs([pairs], VOCAB))
    plan = make_plan(tmp_path, model, pairs)
    facts, _ = one_rank(plan, Train(**(SETTINGS | {"max_tokens": longest[7]})))
    kept = sum(length <= longest[7] for length in longest)
    assert (facts["pairs"], facts["dropped_pairs"]) == (kept, 15 - kept) and kept < 15
    with pytest.raises(TrainingDataError, match=r"no pairs left.*train\.max_tokens = 2"):
        one_rank(plan, Train(**(SETTINGS | {"max_tokens": 2})))


def test_a_reference_of_another_model_is_noticed(one_rank: Runner, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    other = make_plan(tmp_path / "other", make_model(tmp_path / "m", seed=4), pairs, learning_rate=0.0)
    one_rank(other, Train(**SETTINGS))
    plan = make_plan(tmp_path, model, pairs)
    with pytest.raises(ReferenceMismatch, match="belongs to another checkpoint"):
        one_rank(plan, Train(**SETTINGS), str(tmp_path / "other" / ".reference.parquet"))
    assert not Path(plan.checkpoint_dir).exists()


@pytest.mark.parametrize("zero", [pytest.param(0, marks=FULL), pytest.param(1, marks=FULL), 3])
def test_training_that_explodes_stops_and_names_the_pairs(one_rank: Runner, tmp_path: Path, zero: int) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"step 2: .*not finite.*lower train\.learning_rate"):
        one_rank(plan, Train(**(SETTINGS | {"zero": zero})))
    report = json.loads(Path(plan.failure_file).read_text())
    assert report["step"] == 2 and len(report["pair_ids"]) == 7
    assert not Path(plan.checkpoint_dir).exists()


DISTURBED = [
    {"zero": 1, "precision": "bf16"},
    {"zero": 3},
    *(
        pytest.param(changes, marks=FULL)
        for changes in (
            {"zero": 0},
            {"zero": 1},
            {"zero": 2},
            {"zero": 0, "precision": "bf16"},
            {"zero": 3, "precision": "bf16"},
            {"offload_optimizer": True},
        )
    ),
]


@pytest.mark.parametrize("changes", DISTURBED, ids=str)
def test_a_resumed_training_gives_the_same_bits(two_ranks: Runner, tmp_path: Path, changes: dict[str, Any]) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"epochs": 2, "save_every": 2} | changes))
    calm, disturbed = (make_plan(tmp_path / name, model, pairs, identity="one") for name in ("calm", "disturbed"))
    facts, steps = two_ranks(calm, settings)
    assert facts["resumed_from"] == 0
    two_ranks(disturbed, settings, stop_after=4)  # gone after step 4, before its state is saved
    facts, again = two_ranks(disturbed, settings)
    assert facts["resumed_from"] == 2 and [row["step"] for row in again] == [3, 4]
    assert difference(disturbed.checkpoint_dir, load_file(Path(calm.checkpoint_dir, WEIGHTS_FILE))) == 0.0
    assert pq.read_table(disturbed.probe_file).equals(pq.read_table(calm.probe_file))
    timing = ["seconds", "tokens_per_second"]
    metrics = [pq.read_table(plan.metrics_file).drop_columns(timing) for plan in (calm, disturbed)]
    assert metrics[0].equals(metrics[1]) and metrics[0].num_rows == len(steps) == 4


def test_checkpoints_on_the_way_survive_a_resume(two_ranks: Runner, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"epochs": 2, "save_every": 2}))
    plan = make_plan(tmp_path, model, pairs, export_every=1)
    two_ranks(plan, settings, stop_after=4)
    facts, _ = two_ranks(plan, settings)
    assert facts["resumed_from"] == 2
    exported = Path(plan.checkpoint_dir)
    assert sorted(path.name for path in exported.iterdir()) == ["000001", "000002", "000003", "000004"]
    assert all((path / "checkpoint" / WEIGHTS_FILE).is_file() for path in exported.iterdir())
    shutil.rmtree(exported)  # as after a crash between the end of the training and its commit
    facts, _ = two_ranks(plan, settings)
    assert facts["resumed_from"] == 2 and len(list(exported.iterdir())) == 4


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "resumed_from"),
    [
        (lambda states: None, 3),
        (lambda states: flip(states / "000003" / STATE_FILE), 2),
        (lambda states: (states / "000003/progress.json").unlink(), 2),
        (lambda states: (states / "000003/manifest.json").write_text("{"), 2),
        (lambda states: (states / "000009").mkdir(), 3),
        (lambda states: (states / ".000004-unfinished").mkdir(), 3),
        (lambda states: [flip(file) for file in states.rglob(STATE_FILE)], 0),
        pytest.param(lambda states: plant(states / "000003", b"another key"), 2, marks=FULL),
        (lambda states: [plant(states / name, None) for name in ("000002", "000003", "000009")], 0),
    ],
    ids=[
        *("intact", "flipped bit", "missing file", "torn manifest", "stray", "unfinished", "all damaged"),
        *("another's seal", "all a stranger's"),
    ],
)
def test_a_damaged_state_is_never_loaded(
    one_rank: Runner, tmp_path: Path, harm: Callable[[Path], Any], resumed_from: int
) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs, keep_states=2)
    settings = Train(**(SETTINGS | {"epochs": 2, "save_every": 1}))
    one_rank(plan, settings, stop_after=4)
    states = Path(plan.state_dir)
    assert sorted(path.name for path in states.iterdir()) == ["000002", "000003"]
    harm(states)
    facts, _ = one_rank(plan, settings)
    assert facts["resumed_from"] == resumed_from and facts["steps"] == 4
    assert {path.name for path in states.iterdir()} <= {"000001", "000002", "000003"}


def plant(state: Path, key: bytes | None) -> None:
    """Other weights in a state; the hashes are right, and so is the training that it is said to be of."""
    if not state.exists():
        shutil.copytree(max(path for path in state.parent.iterdir() if path.name.isdigit()), state)
    manifest = json.loads((state / "manifest.json").read_text())
    save_file({name: tensor + 1 for name, tensor in load_file(state / STATE_FILE).items()}, state / STATE_FILE)
    manifest["files"][STATE_FILE] = file_facts(state / STATE_FILE)
    manifest.pop("seal", None)
    (state / "manifest.json").write_text(
        json.dumps(manifest | ({"seal": state_seal(key, manifest)} if key is not None else {}))
    )


def test_a_state_of_another_training_is_not_used(one_rank: Runner, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs, identity="one")
    settings = Train(**(SETTINGS | {"save_every": 1}))
    one_rank(plan, settings, stop_after=2)
    assert (Path(plan.state_dir) / "000001/manifest.json").is_file()
    assert one_rank(replace(plan, identity="another"), settings)[0]["resumed_from"] == 0


@pytest.mark.parametrize(("precision", "share"), [("fp32", 2e-3), ("bf16", 0.1)])
def test_a_training_goes_on_with_other_ranks_and_another_stage(
    one_rank: Runner, two_ranks: Runner, tmp_path: Path, precision: str, share: float
) -> None:
    """Each step executed otherwise than the one before it. `share` is of how far training moves a weight."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = SETTINGS | {"precision": precision, "epochs": 2, "save_every": 1}
    calm, changed = (make_plan(tmp_path / name, model, pairs, identity="one") for name in ("calm", "changed"))
    one_rank(calm, Train(**settings))
    expected = load_file(Path(calm.checkpoint_dir, WEIGHTS_FILE))
    two_ranks(changed, Train(**settings, zero=2), stop_after=2)
    one_rank(changed, Train(**settings, zero=3, offload_optimizer=True), stop_after=2)
    facts, steps = two_ranks(changed, Train(**settings, zero=3))
    assert facts["resumed_from"] == 2 and [row["step"] for row in steps] == [3, 4] and facts["steps"] == 4
    assert difference(changed.checkpoint_dir, expected) < share * difference(model, expected)


def test_a_group_equals_plain_torch_and_goes_on_without_a_lost_rank(cluster: None, tmp_path: Path) -> None:
    """Two things, since starting a group is what costs. The second: it goes on from its last saved state. The lost
    rank's peer waits in a collective, and must not make the driver wait too."""
    changes: dict[str, Any] = {"ranks": 2, "zero": 3, "save_every": 2}
    settings = Train(**(SETTINGS | changes))
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet", num_prompts=20)
    calm, disturbed = (make_plan(tmp_path / name, model, pairs) for name in ("calm", "disturbed"))
    steps: list[int] = []
    with TrainerGroup(settings, ForRanks()) as group:
        compare(tmp_path / "compared", through(group), **changes)
        group.score(scoring(calm), reference_file(calm))
        group.train(calm, reference_file(calm))
        victim = group.pids[1]

        def kill(row: dict[str, Any]) -> None:
            steps.append(row["step"])
            if row["step"] == 5 and steps.count(5) == 1:
                os.kill(victim, signal.SIGKILL)

        facts = group.train(disturbed, reference_file(calm), kill)
    assert facts["restarts"] == 1 and facts["resumed_from"] >= 4 and facts["steps"] == 8
    assert set(steps) == set(range(1, 9))
    assert difference(disturbed.checkpoint_dir, load_file(Path(calm.checkpoint_dir, WEIGHTS_FILE))) == 0.0


@FULL
class Leaving(_Rank):
    """Leaves its process group when it rests, as ranks on accelerators do."""

    def rest(self) -> Kept:
        kept = super().rest()
        self.trainer.disconnect()
        return kept


@pytest.mark.full
@pytest.mark.parametrize("zero", [1, 3])
def test_ranks_that_left_their_process_group_join_another_one(cluster: None, tmp_path: Path, zero: int) -> None:
    how = {"ranks": 2, "zero": zero}
    place = ForRanks()
    place.gpus = 1  # in the group's eyes
    with TrainerGroup(Train(**(SETTINGS | how)), place, rank=Leaving) as group:
        compare(tmp_path / "first", through(group), **how)
        before = list(group.pids)
        group.rest()
        compare(tmp_path / "second", through(group), **how)
        assert group.pids == before and not group.ended


def test_a_rank_that_dies_in_the_middle_of_saving_leaves_the_state_before_it(cluster: None, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"ranks": 2, "zero": 3, "epochs": 4, "save_every": 2}))
    calm, disturbed = (make_plan(tmp_path / name, model, pairs) for name in ("calm", "disturbed"))
    done, killed = threading.Event(), []

    def kill_while_saving(victim: int) -> None:
        while not done.is_set() and not killed:
            if any(path.name.startswith(".000004") for path in Path(disturbed.state_dir).glob(".*")):
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    with TrainerGroup(settings, ForRanks()) as group:
        group.score(scoring(calm), reference_file(calm))
        group.train(calm, reference_file(calm))
        watcher = threading.Thread(target=kill_while_saving, args=(group.pids[1],))
        watcher.start()
        facts = group.train(disturbed, reference_file(calm))
        done.set()
        watcher.join()
    assert killed and facts["restarts"] == 1 and facts["resumed_from"] in (2, 4)
    assert difference(disturbed.checkpoint_dir, load_file(Path(calm.checkpoint_dir, WEIGHTS_FILE))) == 0.0


@FULL
def test_ranks_that_die_again_and_again_end_the_training(cluster: None, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs)
    settings = Train(**(SETTINGS | {"ranks": 1, "epochs": 500}))
    with TrainerGroup(settings, ForRanks()) as group:
        group.score(scoring(plan), reference_file(plan))
        with pytest.raises(TrainingFailed, match=r"(?s)training rank 0 died.*3 times with no saved state in between"):
            group.train(plan, reference_file(plan), lambda row: os.kill(group.pids[0], signal.SIGKILL))
        assert group.pids == []


@FULL
def test_a_hung_rank_is_noticed_and_replaced(cluster: None, tmp_path: Path) -> None:
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    plan = make_plan(tmp_path, model, pairs)
    settings = Train(**(SETTINGS | {"ranks": 2, "epochs": 4, "save_every": 2, "stall_timeout": 45}))
    with TrainerGroup(settings, ForRanks()) as group:
        group.score(scoring(plan), reference_file(plan))
        victim = group.pids[1]
        facts = group.train(
            plan,
            reference_file(plan),
            lambda row: os.kill(victim, signal.SIGSTOP) if row["step"] == 3 and victim in group.pids else None,
        )
    assert facts["restarts"] == 1 and facts["steps"] == 8


@FULL
@pytest.mark.parametrize(
    "changes",
    [
        {"zero": 1, "offload_optimizer": True},
        {"zero": 2, "offload_optimizer": True},
        {"zero": 3, "offload_optimizer": True},
        {"zero": 3, "activation_checkpointing": True},
        {"zero": 2, "chunk_logits": 7 * VOCAB, "activation_checkpointing": True},
        {"zero": 1, "order": "prompts", "tokens_per_microbatch": 20},
        {"zero": 2, "tokens_per_microbatch": 10_000},
        {"zero": 2, "compile": True, "overlap": True, "activation_checkpointing": True},
        {"zero": 3, "tokens_per_microbatch": 30},
    ],
    ids=str,
)
def test_other_settings_equal_plain_torch(two_ranks: Runner, tmp_path: Path, changes: dict[str, Any]) -> None:
    compare(tmp_path, two_ranks, **changes)


@FULL
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_bf16_keeps_float32_master_weights(two_ranks: Runner, tmp_path: Path, zero: int) -> None:
    """At rate 0 the float32 model comes out bit for bit though the training computes in bfloat16; at a
    rate below bfloat16's precision the float32 weights still move."""
    model, pairs = make_model(tmp_path / "seed"), make_pairs(tmp_path / "pairs.parquet")
    settings = Train(**(SETTINGS | {"precision": "bf16", "zero": zero}))
    weights = load_file(Path(model) / "model.safetensors")
    still = make_plan(tmp_path / "still", model, pairs, learning_rate=0.0)
    two_ranks(still, settings)
    assert difference(still.checkpoint_dir, weights) == 0.0
    slow = make_plan(tmp_path / "slow", model, pairs, learning_rate=1e-4)
    two_ranks(slow, settings)
    assert 0 < difference(slow.checkpoint_dir, weights) < 2e-4
    check_probe(slow, slow.checkpoint_dir, tolerance=0.5)
