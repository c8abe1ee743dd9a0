"""Saved states of a training across ZeRO stages and numbers of ranks, with DeepSpeed's own engines."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
# Not imported here: that takes seconds, and only the ranks' own processes need it.
if importlib.util.find_spec("deepspeed") is None:
    pytest.skip("DeepSpeed is not installed", allow_module_level=True)

from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from orchestrator.config import Train  # noqa: E402

pytestmark = pytest.mark.real

KEY, MOMENTS, UPDATES = b"the user's key", ("exp_avg", "exp_avg_sq"), 3
PRECISIONS = ("fp32", "bf16")
EXECUTED = [
    *({"zero": zero} for zero in range(4)),
    *({"zero": zero, "offload_optimizer": True} for zero in (1, 2, 3)),
]


class Tiny(nn.Module):
    """Sizes that no number of ranks divides, one of them tied."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 7)
        self.middle = nn.Linear(7, 7)
        self.head = nn.Linear(7, 13, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, ids: Any) -> Any:
        return self.head(torch.tanh(self.middle(self.embedding(ids))) * self.scale)


class Rank:
    """What runs in a process of its own; every method is called on all ranks at once."""

    def __init__(self, rank: int, ranks: int, rendezvous: str) -> None:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(1)
        from workers.training.rank import Trainer

        self.ranks = ranks
        Trainer(Train(), rank, ranks).connect(rendezvous)

    def engine(self, changes: dict[str, Any]) -> Any:
        import deepspeed

        from workers.training.deepspeed_config import deepspeed_config

        torch.manual_seed(1)
        settings = Train(**changes)
        model = Tiny()
        if settings.precision == "bf16" and settings.zero > 0:
            model = model.to(torch.bfloat16)
        config = deepspeed_config(settings, self.ranks, 200)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 50
        if settings.zero == 3:
            deepspeed.zero.Init(module=model, config_dict_or_path=config)
        return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]

    def update(self, engine: Any, number: int) -> None:
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.1
        ids = torch.tensor([[1, 5, 9, 12], [0, number, 3, 7]])
        loss = nn.functional.cross_entropy(engine(ids).float().flatten(0, 1), ids.roll(1, 1).flatten())
        engine.backward(loss, scale_wrt_gas=False)
        engine.step()

    def whole(self, engine: Any) -> dict[str, Any]:
        """Weights and moments by kind and name, as DeepSpeed puts them together from all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        found = {}
        for name, parameter in engine.module.named_parameters():
            if engine.zero_optimization_stage() == 0:
                state = engine.optimizer.state[parameter]
                values = [parameter.detach(), *(state[kind] for kind in MOMENTS)]
            else:
                if engine.zero_optimization_stage() < 3:
                    engine.optimizer._lazy_init_hp_params_optimizer_state()
                values = [safe_get_full_fp32_param(parameter)]
                values += [safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS]
            for kind, value in zip(("weight", *MOMENTS), values, strict=True):
                found[f"{kind}/{name}"] = value.detach().clone()
        return found

    def computing(self, engine: Any) -> dict[str, Any]:
        """The weights that the forward pass computes with."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            return {name: parameter.detach().clone() for name, parameter in engine.module.named_parameters()}

    def states(self, folder: str) -> Any:
        from workers.training.states import TrainingStates

        return TrainingStates(folder, "this training", 1, KEY, lambda: None)

    def save(self, changes: dict[str, Any], folder: str) -> None:
        """Train for some updates, and save the state; the whole of it goes into a file beside it."""
        from workers.training.states import Progress

        engine = self.engine(changes)
        for number in range(UPDATES):
            self.update(engine, number)
        self.states(folder).save(engine, Progress([{"step": n + 1} for n in range(UPDATES)]))
        whole = self.whole(engine)
        if torch.distributed.get_rank() == 0:
            save_file(whole, f"{folder}.safetensors")
        torch.distributed.barrier()

    def load(self, changes: dict[str, Any], folder: str) -> list[str]:
        """Load the state into a fresh engine; returns the names of what is not as it was."""
        engine = self.engine(changes)
        progress = self.states(folder).load(engine)
        expected, found = load_file(f"{folder}.safetensors"), self.whole(engine)
        assert expected.keys() == found.keys()
        wrong = [name for name in expected if not torch.equal(expected[name], found[name])]
        if len(progress.metrics) != UPDATES:
            wrong.append(f"{len(progress.metrics)} steps")
        steps = {float(state["step"]) for state in engine.basic_optimizer.state.values()}
        if steps != {float(UPDATES)}:
            wrong.append(f"{steps} updates")
        wrong += [
            f"computing {name}"
            for name, value in self.computing(engine).items()
            if not torch.equal(value, expected[f"weight/{name}"].to(value.dtype))
        ]
        self.update(engine, UPDATES)
        return wrong

    def go_on(self, changes: dict[str, Any], folder: str) -> dict[str, Any]:
        """The whole after the state in `folder`, or no state, and three more updates."""
        engine = self.engine(changes)
        done = len(self.states(folder).load(engine).metrics)
        for number in range(done, UPDATES + 3):
            self.update(engine, number)
        return self.whole(engine)


def serve(rank: int, ranks: int, rendezvous: str, pipe: Any) -> None:
    try:
        worker = Rank(rank, ranks, rendezvous)
        while (call := pipe.recv()) is not None:
            pipe.send(getattr(worker, call[0])(*call[1:]))
    except EOFError:
        pass


Call = Callable[..., Any]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Call]]:
    """Functions that call all ranks of a group of one, and of a group of two, and give rank 0's answer."""
    spawn, started, calls = multiprocessing.get_context("spawn"), [], {}
    for ranks in (1, 2):
        rendezvous = f"file://{tmp_path_factory.mktemp('ranks')}/store"
        pipes = [spawn.Pipe() for _ in range(ranks)]
        for rank, (_, theirs) in enumerate(pipes):
            started.append(spawn.Process(target=serve, args=(rank, ranks, rendezvous, theirs), daemon=True))
            started[-1].start()
            theirs.close()  # so that a rank that dies is heard of

        def call(*what: Any, pipes: Any = tuple(ours for ours, _ in pipes)) -> Any:
            for pipe in pipes:
                pipe.send(what)
            return [pipe.recv() for pipe in pipes][0]

        calls[ranks] = call
    yield calls
    for process in started:
        process.terminate()
        process.join()


def named(changes: dict[str, Any]) -> str:
    return f"{changes['zero']}{'-offload' if changes.get('offload_optimizer') else ''}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_fits_any_stage_and_number_of_ranks(group: dict[int, Call], tmp_path: Path, precision: str) -> None:
    """Saved with each of stages 0 to 3 on one rank and on two, it is loaded into each of them, exactly."""
    saved = list(product((1, 2), EXECUTED))
    for ranks, changes in saved:
        group[ranks]("save", changes | {"precision": precision}, str(tmp_path / f"{ranks}-{named(changes)}"))
    wrong = {}
    for (ranks, changes), loading, other in product(saved, (1, 2), EXECUTED):
        folder = str(tmp_path / f"{ranks}-{named(changes)}")
        if found := group[loading]("load", other | {"precision": precision}, folder):
            wrong[f"{Path(folder).name} in {loading}-{named(other)}"] = found
    assert not wrong


@pytest.mark.parametrize("changes", [*EXECUTED, {"zero": 1, "precision": "fp32"}], ids=str)
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_goes_on_alike_comes_to_the_same_bits(
    group: dict[int, Call], tmp_path: Path, changes: dict[str, Any], ranks: int
) -> None:
    group[ranks]("save", changes, str(tmp_path / "state"))
    resumed, calm = (group[ranks]("go_on", changes, str(tmp_path / name)) for name in ("state", "none"))
    assert all(torch.equal(resumed[name], calm[name]) for name in calm)


def test_the_files_hold_tensors_and_no_pickle(group: dict[int, Call], tmp_path: Path) -> None:
    group[2]("save", {"zero": 2}, str(tmp_path / "state"))
    names = sorted(path.name for path in (tmp_path / "state" / f"{UPDATES:06d}").iterdir())
    parts = ["00000-00000.safetensors", "00001-00000.safetensors"]
    assert names == [*parts, "manifest.json", "progress.json"]
    for part in parts:
        tensors = load_file(tmp_path / "state" / f"{UPDATES:06d}" / part)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
