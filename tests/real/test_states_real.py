"""Saved states of a training across ZeRO stages and numbers of ranks, with DeepSpeed's own engines."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator
from itertools import product
from multiprocessing import connection
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

KEY, KINDS = b"the user's key", ("weight", "exp_avg", "exp_avg_sq")
STAGES = [{"zero": zero} for zero in range(4)]
PLAIN = [{"zero": zero, "plain": True} for zero in range(4)]
"""As on CUDA; torch has that AdamW for processors too."""
OFFLOADED = [{"zero": zero, "offload_optimizer": True} for zero in (1, 2, 3)]


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
        self.engines: dict[str, Any] = {}
        self.linear = {False: nn.functional.linear}
        """Ours and, once there is one, ZeRO 3's, which adds the bias in a step of its own and so rounds otherwise: it
        takes the place of torch's for all that the process does. Runs have one stage a process."""
        Trainer(Train(), rank, ranks).connect(rendezvous)

    def engine(self, changes: dict[str, Any]) -> Any:
        """An engine of these settings, `plain` being none of the job's: AdamW in more than one kernel, as earlier
        versions had it. What it has done before must not show after a state was loaded."""
        if (name := str(changes)) not in self.engines:
            settings = {key: value for key, value in changes.items() if key != "plain"}
            self.engines[name] = self.new_engine(Train(**settings), changes.get("plain", False))
        return self.engines[name]

    def new_engine(self, settings: Train, plain: bool = False, **bf16: Any) -> Any:
        import deepspeed

        from workers.training.deepspeed_config import deepspeed_config

        torch.manual_seed(1)
        model = Tiny()
        if settings.precision == "bf16" and settings.zero > 0:
            model = model.to(torch.bfloat16)
        config = deepspeed_config(settings, self.ranks, 200)
        config["optimizer"]["params"]["fused"] = not plain
        config["bf16"] |= bf16
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 50  # some are above it, some below
        if settings.zero == 3:
            deepspeed.zero.Init(module=model, config_dict_or_path=config)
            self.linear[True] = nn.functional.linear
        engine = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
        assert {group["fused"] for group in engine.basic_optimizer.param_groups} == {not plain}
        return engine

    def update(self, engine: Any, *salts: int) -> None:
        """One update, with a micro-batch for each salt."""
        nn.functional.linear = self.linear[engine.zero_optimization_stage() == 3]
        for group in engine.optimizer.param_groups:
            group["lr"] = 0.1
        for salt in salts:
            ids = torch.tensor([[1, 5, 9, 12], [0, salt % 13, 3, 7]])
            loss = nn.functional.cross_entropy(engine(ids).float().flatten(0, 1), ids.roll(1, 1).flatten())
            engine.backward(loss, scale_wrt_gas=False)
        engine.step()

    def gradients_are_rounded(self, changes: dict[str, Any]) -> bool:
        """Whether all gradients of two micro-batches, as the optimizer gets them, are values that bfloat16 has."""
        engine, found = self.engine(changes), list[bool]()

        def look(optimizer: Any, *_: Any) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            found.extend(torch.equal(g, g.bfloat16().to(g.dtype)) for g in gradients)

        hook = engine.basic_optimizer.register_step_pre_hook(look)
        self.update(engine, 1, 2)
        hook.remove()
        assert found
        return all(found)

    def keeping_gradients_differs(self, changes: dict[str, Any]) -> list[str]:
        """What three updates of two micro-batches make other bits of where each gradient is kept until all are there;
        "not less" where one is kept all the same."""
        results, kept = [], []
        for now in (True, False):
            engine = self.new_engine(Train(**changes), immediate_grad_update=now)
            for salt in (1, 2, 3):
                self.update(engine, salt, salt + 4)
            ids = torch.tensor([[1, 5, 9, 12]])
            engine.backward(nn.functional.cross_entropy(engine(ids).float()[0], ids[0]), scale_wrt_gas=False)
            kept.append(sum(p.grad is not None for p in engine.module.parameters()))
            results.append(self.whole(engine))
        return different(*results) + ([] if kept[0] == 0 < kept[1] else ["not less"])

    def whole(self, engine: Any) -> dict[str, Any]:
        """Weights and moments by kind and name, as DeepSpeed puts them together from all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        stage, found = engine.zero_optimization_stage(), {}
        if stage in (1, 2):  # it does so by itself at the first update
            engine.optimizer._hp_optimizer_states_linked = False
            engine.optimizer._lazy_init_hp_params_optimizer_state()
        for name, parameter in engine.module.named_parameters():
            if stage == 0:
                state = engine.optimizer.state[parameter]
                values = [parameter.detach(), *(state[kind] for kind in KINDS[1:])]
            else:
                values = [safe_get_full_fp32_param(parameter)]
                values += [safe_get_full_optimizer_state(parameter, kind) for kind in KINDS[1:]]
            found |= {f"{kind}/{name}": value.detach().clone() for kind, value in zip(KINDS, values, strict=True)}
        return found

    def computing(self, engine: Any) -> dict[str, Any]:
        """The weights that the forward pass computes with."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
            return {name: parameter.detach().clone() for name, parameter in engine.module.named_parameters()}

    def steps(self, engine: Any) -> set[float]:
        return {float(state["step"]) for state in engine.basic_optimizer.state.values()}

    def states(self, folder: str) -> Any:
        from workers.training.states import TrainingStates

        return TrainingStates(folder, "this training", 1, KEY, lambda: None)

    def save(self, changes: dict[str, Any], folder: str, salt: int) -> None:
        """Train a little and save the state. Beside it, in files: the whole of it, and what one more update gives."""
        from workers.training.states import Progress

        engine = self.engine(changes)
        for number in range(2):
            self.update(engine, salt + number)
        [steps] = self.steps(engine)
        self.states(folder).save(engine, Progress([{"step": n + 1} for n in range(int(steps))]))
        self.note(engine, f"{folder}.safetensors")
        self.update(engine, salt)
        self.note(engine, f"{folder}-next.safetensors")

    def note(self, engine: Any, file: str) -> None:
        whole = self.whole(engine)
        if torch.distributed.get_rank() == 0:
            save_file(whole, file)
        torch.distributed.barrier()

    def load(self, changes: dict[str, Any], folder: str, salt: int | None) -> list[str]:
        """Load the state; returns the names of what is not as it was. With the salt of what saved it, and the same
        execution, the next update must give the same bits."""
        engine = self.engine(changes)
        progress = self.states(folder).load(engine)
        expected = load_file(f"{folder}.safetensors")
        wrong = different(expected, self.whole(engine))
        if self.steps(engine) != {float(len(progress.metrics))}:
            wrong.append(f"{self.steps(engine)} updates, {len(progress.metrics)} steps")
        computing = self.computing(engine)
        masters = {name: expected[f"weight/{name}"].to(value.dtype) for name, value in computing.items()}
        wrong += [f"computing {name}" for name in different(masters, computing)]
        if salt is not None:
            self.update(engine, salt)
            wrong += [f"next {name}" for name in different(load_file(f"{folder}-next.safetensors"), self.whole(engine))]
        return wrong


def different(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    assert expected.keys() == found.keys()
    return [name for name in expected if not torch.equal(expected[name], found[name])]


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
            waiting, answers = list(pipes), []
            while waiting:
                for pipe in connection.wait(waiting):
                    answers.append(pipe.recv())  # EOFError: it died, and its peer may wait for it
                    waiting.remove(pipe)
            return answers[0]

        calls[ranks] = call
    yield calls
    for process in started:
        process.terminate()
        process.join()


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.full), "bf16"])
@pytest.mark.parametrize(
    ("saving", "loading"),
    [
        *((STAGES, STAGES), (OFFLOADED, [*OFFLOADED, {"zero": 3}]), (STAGES[1:2], OFFLOADED)),
        pytest.param(PLAIN, PLAIN, marks=pytest.mark.full),
        pytest.param(PLAIN[2:3], STAGES, marks=pytest.mark.full),
        pytest.param(STAGES[2:3], PLAIN, marks=pytest.mark.full),
    ],
    ids=["stages", "offloaded", "to offloaded", "plain", "from plain", "to plain"],
)
def test_a_state_fits_any_stage_and_number_of_ranks(
    group: dict[int, Call], tmp_path: Path, precision: str, saving: list[Any], loading: list[Any]
) -> None:
    """What each stage saves on one rank and on two is in each other exactly what it was."""
    wrong: dict[str, Any] = {}
    saved = list(product((1, 2), saving))
    for salt, (ranks, changes) in enumerate(saved):
        group[ranks]("save", changes | {"precision": precision}, str(tmp_path / str(salt)), salt)
    for (salt, origin), other in product(enumerate(saved), product((1, 2), loading)):
        ranks, changes = other
        alike = salt if origin == other else None
        if found := group[ranks]("load", changes | {"precision": precision}, str(tmp_path / str(salt)), alike):
            wrong[f"{origin} in {other}"] = found
    assert not wrong


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_gradients_are_summed_and_reduced_in_float32(group: dict[int, Call], ranks: int, zero: int) -> None:
    assert not group[ranks]("gradients_are_rounded", {"precision": "bf16", "zero": zero, "max_grad_norm": None})


@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_that_are_given_up_at_once_give_the_same_bits(group: dict[int, Call], ranks: int) -> None:
    assert group[ranks]("keeping_gradients_differs", {"precision": "bf16", "zero": 1}) == []


def test_the_files_hold_tensors_and_no_pickle(group: dict[int, Call], tmp_path: Path) -> None:
    group[2]("save", {"zero": 2}, str(tmp_path / "state"), 0)
    [state] = (tmp_path / "state").iterdir()
    parts = ["00000-00000.safetensors", "00001-00000.safetensors"]
    assert sorted(path.name for path in state.iterdir()) == [*parts, "manifest.json", "progress.json"]
    for part in parts:
        assert {tensor.dtype for tensor in load_file(state / part).values()} == {torch.float32}
