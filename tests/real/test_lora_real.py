"""Adapters on the real training stack on CPU, against peft in plain torch."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.real import test_trainer_real as real

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from orchestrator.config import Lora, Train  # noqa: E402
from orchestrator.records.adapters import FOLDER, AdapterPlan  # noqa: E402
from orchestrator.records.rows import TrainingPlan  # noqa: E402

pytestmark = pytest.mark.real
cluster, one_rank, two_ranks = real.cluster, real.one_rank, real.two_ranks
FULL = real.FULL

LORA = Lora(rank=4, alpha=8.0)
SETTINGS: dict[str, Any] = real.SETTINGS | {"learning_rate": 0.5, "max_grad_norm": 0.05}


def adapter_plan(folder: Path, lora: Lora = LORA, **changes: Any) -> TrainingPlan:
    model, pairs = real.make_model(folder / "seed"), real.make_pairs(folder / "pairs.parquet")
    adapter = AdapterPlan(lora, seed=7, base={"model.safetensors": "its sha256"})
    return real.make_plan(folder, model, pairs, **({"learning_rate": 0.5, "adapter": adapter} | changes))


def in_peft(plan: TrainingPlan) -> Any:
    """The policy that the plan starts from."""
    assert plan.adapter is not None
    lora, base = plan.adapter.lora, AutoModelForCausalLM.from_pretrained(plan.init, dtype=torch.float32)
    if plan.adapter.start is not None:
        return peft.PeftModel.from_pretrained(base, plan.adapter.start, is_trainable=True)
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    model = peft.get_peft_model(base, config)
    torch.manual_seed(plan.adapter.seed)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.reset_lora_parameters("default", True)
    return model


def sides(model: Any) -> dict[str, torch.Tensor]:
    """A and B of all layers, by peft's names in a file."""
    return dict(peft.get_peft_model_state_dict(model))


def merged(model: Any) -> dict[str, torch.Tensor]:
    weights = copy.deepcopy(model).merge_and_unload()
    return {name: parameter.detach() for name, parameter in weights.named_parameters()}


def far(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name].float() - expected[name]).abs().max()) for name in expected)


def compare(plan: TrainingPlan, runner: real.Runner, settings: Train, reference: Any = None) -> dict[str, Any]:
    """Two updates leave the adapter, and the merged weights, that peft in plain torch leaves, up to rounding."""
    policy = in_peft(plan)
    began = {name: value.clone() for name, value in sides(policy).items()}
    _, losses, norms = real.plain_torch(plan, settings, policy, reference)
    facts, steps = runner(plan, settings)
    moved = far(began, sides(policy))
    assert moved > 1e-3
    assert [row["loss"] for row in steps] == pytest.approx(losses, abs=2e-6, rel=2e-6)
    assert [row["grad_norm"] for row in steps] == pytest.approx(norms, rel=2e-5)
    checkpoint = Path(plan.checkpoint_dir)
    assert far(load_file(checkpoint / FOLDER / "adapter_model.safetensors"), sides(policy)) < 2e-3 * moved
    assert far(load_file(checkpoint / "model.safetensors"), merged(policy)) < 2e-3 * moved
    assert facts["merge_kept"] == pytest.approx(1.0, abs=1e-4)
    return facts


@pytest.mark.parametrize("zero", [0, 1, pytest.param(2, marks=FULL), 3])
def test_one_rank_equals_peft(one_rank: real.Runner, tmp_path: Path, zero: int) -> None:
    plan = adapter_plan(tmp_path)
    facts = compare(plan, one_rank, Train(**(SETTINGS | {"zero": zero})))
    assert facts["first_step"]["mean_difference"] < 1e-5, "a new adapter changes nothing"
    real.check_probe(plan, plan.checkpoint_dir)


@pytest.mark.parametrize("zero", [pytest.param(0, marks=FULL), pytest.param(1, marks=FULL), 2, 3])
def test_two_ranks_equal_peft(two_ranks: real.Runner, tmp_path: Path, zero: int) -> None:
    plan = adapter_plan(tmp_path, Lora(rank=2, alpha=3.0, targets=["q_proj", "down_proj"]))
    compare(plan, two_ranks, Train(**(SETTINGS | {"zero": zero, "tokens_per_microbatch": 30})))
    real.check_probe(plan, plan.checkpoint_dir)


@pytest.mark.parametrize("zero", [1, pytest.param(3, marks=FULL)])
def test_it_goes_on_from_the_adapter_before(one_rank: real.Runner, tmp_path: Path, zero: int) -> None:
    """The reference is the base with the adapter of the round before, and where the job says so the base alone; both
    are scored by the weights that are there for the training."""
    settings = Train(**(SETTINGS | {"zero": zero}))
    first = adapter_plan(tmp_path)
    one_rank(first, settings)
    second = replace(first, adapter=replace(first.adapter, start=str(Path(first.checkpoint_dir, FOLDER))))
    for name, adapted in (("previous", True), ("base", False)):
        plan = replace(second, checkpoint_dir=str(tmp_path / name), adapted=adapted)
        reference = in_peft(plan) if adapted else None
        facts = compare(plan, one_rank, settings, reference)
        assert (facts["first_step"]["mean_difference"] < 1e-5) == adapted


@pytest.mark.parametrize(("zero", "precision"), [(3, "fp32"), (1, "bf16"), pytest.param(0, "bf16", marks=FULL)])
def test_checkpoints_on_the_way_and_a_resume_change_nothing(
    one_rank: real.Runner, tmp_path: Path, zero: int, precision: str
) -> None:
    """The merged weights are in the model for the probe alone; saved states hold the adapter alone."""
    settings = Train(**(SETTINGS | {"zero": zero, "precision": precision, "epochs": 2, "save_every": 2}))
    plan = adapter_plan(tmp_path, identity="one")
    changed = {"disturbed": {}, "exporting": {"export_every": 1}}
    calm, disturbed, exporting = (
        replace(plan, checkpoint_dir=str(tmp_path / name), state_dir=str(tmp_path / f"{name}-state"), **more)
        for name, more in {"calm": {}, **changed}.items()
    )
    one_rank(calm, settings)
    one_rank(disturbed, settings, stop_after=4)
    states = [file for file in Path(disturbed.state_dir).rglob("*.safetensors")]
    assert states and all(".lora_" in key for file in states for key in load_file(file))
    facts, _ = one_rank(disturbed, settings)
    assert facts["resumed_from"] == 2
    one_rank(exporting, settings)
    for folder in (disturbed.checkpoint_dir, f"{exporting.checkpoint_dir}/000004/checkpoint"):
        for file in ("model.safetensors", f"{FOLDER}/adapter_model.safetensors"):
            assert far(load_file(Path(folder, file)), load_file(Path(calm.checkpoint_dir, file))) == 0.0
        for file in ("adapter_config.json", "base.json"):
            assert Path(folder, FOLDER, file).read_bytes() == Path(calm.checkpoint_dir, FOLDER, file).read_bytes()


def test_a_merge_that_rounds_a_round_away_is_seen(one_rank: real.Runner, tmp_path: Path) -> None:
    """The probe is of the merged weights as they were rounded, not of base and adapter."""
    found = {}
    for name, changes in {"rounded": {}, "wide": {"export_dtype": "float32"}}.items():
        plan = adapter_plan(tmp_path / name, learning_rate=1e-5)
        base = real.make_model(tmp_path / name / "seed", dtype=torch.bfloat16)
        facts, _ = one_rank(plan, Train(**(SETTINGS | changes | {"epsilon": 1e-8})))
        served = load_file(Path(plan.checkpoint_dir, "model.safetensors"))
        moved = far(served, load_file(Path(base, "model.safetensors")))
        rows = pq.read_table(plan.probe_file).to_pylist()
        apart = max(abs(row["logprob"] - row["reference_logprob"]) for row in rows)
        found[name] = (facts["merge_kept"], moved, apart)
        real.check_probe(plan, plan.checkpoint_dir, tolerance=1e-3)
    (lost, _, hardly), (kept, moved, apart) = found["rounded"], found["wide"]
    assert kept == pytest.approx(1.0, abs=1e-3) and moved > 0 and apart > 1e-3
    assert lost < 0.1 and hardly < apart / 10, "only weights near zero are fine enough"


def test_the_adapter_is_as_peft_reads_it_and_names_no_path(one_rank: real.Runner, tmp_path: Path) -> None:
    plan = adapter_plan(tmp_path)
    one_rank(plan, Train(**SETTINGS))
    folder = Path(plan.checkpoint_dir, FOLDER)
    base = AutoModelForCausalLM.from_pretrained(plan.init, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, str(folder))
    assert far(merged(loaded), load_file(Path(plan.checkpoint_dir, "model.safetensors"))) < 1e-6
    said = (folder / "adapter_config.json").read_text()
    assert str(tmp_path) not in said and json.loads(said)["base_model_name_or_path"] is None
    assert json.loads((folder / "base.json").read_text()) == {"sha256": {"model.safetensors": "its sha256"}}
    # What loads the checkpoint takes no notice of it.
    AutoModelForCausalLM.from_pretrained(plan.checkpoint_dir)
    assert not any("lora" in name for name in load_file(Path(plan.checkpoint_dir, "model.safetensors")))
