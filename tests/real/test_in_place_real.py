"""vLLM engines that take one model's weights after another in place, and some that only say so."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Generate
from tests.support.local_ray import local_ray
from tests.support.placements import ForEngines
from workers.generation.engine import EngineKind
from workers.generation.in_place import InPlace, Served
from workers.generation.pool import GeneratorPool
from workers.generation.vllm import VLLM, VllmEngine, _reload

pytestmark = pytest.mark.full

DEMO = Path(__file__).parents[2] / "jobs/demo"
SETTINGS = Generate(max_model_len=64, max_tokens=12)
PROMPTS = [[433, 280, 316, 412, 15, 319, 200], [433, 280, 295, 388, 15, 478, 300, 200], [343, 345, 347, 32, 200]]
COMPLETIONS = [[270, 258, 27, 295], [265, 20, 1], [285, 27, 265, 17, 1]]


class Stale(VllmEngine):
    """Goes on with the weights that it has."""

    def load_weights(self, model: str) -> None:
        pass


class StaleHead(VllmEngine):
    """Loads all but the matrix that it computes the head's product with."""

    def load_weights(self, model: str) -> None:
        self._stepper.do(lambda engine: engine.collective_rpc("reload_weights", kwargs={"weights_path": model}))


class Unchanged(VllmEngine):
    """Leaves one small tensor as it was, which the probe hardly sees."""

    def load_weights(self, model: str) -> None:
        self._stepper.do(lambda engine: engine.collective_rpc(_keep_one, args=(model,)))


def _keep_one(worker: Any, model: str) -> None:
    weight = worker.get_model().model.norm.weight
    before = weight.detach()[0].clone()
    _reload(worker, model)
    worker.get_model().model.norm.weight.data[0] = before


class Sleeping(VllmEngine):
    """Sleeps, though nothing is given back on CPU: the calls are those that a device would see."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._can_sleep = True


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    """Four models, each some updates further than the one before, and what transformers says of them."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    found = []
    generator = torch.Generator().manual_seed(1)
    weights = load_file(DEMO / "base/model.safetensors")
    for number in range(4):
        folder = tmp_path_factory.mktemp("models") / str(number)
        shutil.copytree(DEMO / "base", folder)
        for name, weight in sorted(weights.items()):
            noise = torch.randn(weight.shape, generator=generator)
            weights[name] = weight + 0.02 * weight.std().nan_to_num() * noise
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, trust_remote_code=False)
        probe = {}
        for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            told = sum(float(logprobs[len(prompt) - 1 + i, t]) for i, t in enumerate(completion))
            probe[tuple(prompt), tuple(completion)] = (told, None)
        found.append(Served(str(folder), str(number), probe))
    return found


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


def served(
    make: Callable[..., Any], models: list[Served], rests: bool = False
) -> tuple[list[bool], list[str], InPlace]:
    """Whether each model was taken in place by engines of this class; the last one's weights are those of the file
    in any case. What was said, too. `rests`: they rest between two models."""
    said: list[str] = []
    weights, taken = InPlace(said.append), []
    kind: EngineKind = replace(VLLM, make=make)
    with GeneratorPool(None, SETTINGS, 5, ForEngines(), kind) as pool:
        for model in models:
            taken.append(weights.change(pool, model))
            if not taken[-1]:
                pool.serve(model.model)
                pool.wait_ready()
                weights.made(pool, model)
            [sums] = pool.logprobs(PROMPTS, COMPLETIONS)
            assert sums == pytest.approx([logprob for logprob, _ in model.probe.values()], abs=2e-3)
            pool.may_sleep = weights.may_sleep
            if rests:
                pool.rest()
        assert pool.num_starts == 1, "one process, whatever it serves"
    return taken, said, weights


def test_one_model_after_another_in_place(models: list[Served]) -> None:
    control = replace(models[3], model=models[2].model, digest="another", probe=models[2].probe)
    taken, said, weights = served(VllmEngine, [*models[:3], models[2], control, models[3]])
    assert taken == [False, False, True, True, False, True], "the distance of a control run stands for nothing"
    assert weights.told.startswith("in place, slope 1.00") or weights.told.startswith("in place, slope 0.99")
    assert len(said) == 1 and "loaded in place from now on (slope " in said[0]


def test_one_model_after_another_where_engines_sleep_between_them(models: list[Served]) -> None:
    taken, said, weights = served(Sleeping, [*models, models[0]], rests=True)
    assert taken == [False, False, True, True, True] and weights.told == "in place, after a sleep"
    assert len(said) == 1 and said[0].endswith("(after a sleep, and as in new engines)")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Stale, "with a slope of 0.000 instead of 1"),
        (StaleHead, "with a slope of "),
        (Unchanged, "is not what new ones hold: 1 tensors differ, such as 0/model.norm.weight"),
    ],
    ids=["stale", "stale head", "one number"],
)
def test_engines_with_old_weights_are_found_out_and_made_anew(
    make: Callable[..., Any], why: str, models: list[Served]
) -> None:
    taken, said, weights = served(make, models[:3])
    assert taken == [False, False, False]
    assert len(said) == 1 and why in said[0] and not weights.told
    assert said[0].startswith("weights   cannot be loaded in place, and engines are made anew: ")
