"""What every engine must do: the same test for vLLM and for the stand-in, which other tests rely on."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config import Generate
from orchestrator.records.rows import PROBE, PROMPTS, SAMPLES, SamplingPlan, Shard
from orchestrator.rounds.evaluation import EXACT, ProbeFailed, check_probe
from tests.support.placements import ForEngines
from tests.support.stand_in_engine import WEIGHTS, StandInEngine, weight_of
from workers.files import write_table
from workers.generation.engine import BesidesWeights, Engine, EngineBroken, OtherModel, RequestRefused
from workers.generation.one_path import PATH
from workers.generation.vllm import VLLM, VllmEngine
from workers.supervision.resting import Kept

DEMO = Path(__file__).parents[3] / "jobs/demo"
CONTEXT, MAX_TOKENS = 64, 12
SETTINGS = Generate(max_model_len=CONTEXT, max_tokens=MAX_TOKENS)
SAMPLED = SamplingPlan(samples=3, temperature=1.0, top_p=1.0, top_k=0, max_tokens=MAX_TOKENS, stop=(), seed=5)
GREEDY = SamplingPlan(samples=1, temperature=0.0, top_p=1.0, top_k=0, max_tokens=MAX_TOKENS, stop=(), seed=5)
PROMPT_IDS = ("a", "b", "c", "d")
TOKEN_IDS = {
    "a": [433, 280, 316, 412, 15, 319, 200],
    "b": [433, 280, 295, 388, 15, 478, 300, 200],
    "c": [343, 345, 347, 32, 200],
    "d": [316, 412, 200],
}
COMPLETIONS = [[270, 258, 27, 295], [265, 20, 1]]


@dataclass(frozen=True)
class Case:
    """An engine that serves `served`; `other` differs in its weights alone. `expected` computes log-probabilities of a
    folder's model in another way."""

    engine: Engine
    served: Path
    other: Path
    expected: Callable[[Path, list[list[int]], list[list[int]]], list[float]]


class Remote:
    """An engine in an actor, as a plain engine."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        import ray

        def ask(*arguments: Any) -> Any:
            answer = ray.get(getattr(self._actor, name).remote(*arguments))
            return answer[0] if name == "generate" else answer  # its process says, too, what it has left to draw

        return ask


def stand_in(folder: Path) -> Iterator[Case]:
    for name, weight in (("served", 1.0), ("other", 0.5)):
        (folder / name).mkdir()
        (folder / name / WEIGHTS).write_text(str(weight))
        (folder / name / "config.json").write_text('{"layers": 1}')

    def expected(model: Path, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
        return [-weight_of(model) * len(completion) for completion in completions]

    served, other = folder / "served", folder / "other"
    yield Case(StandInEngine(str(served), SETTINGS, 5, False), served, other, expected)


def vllm(folder: Path) -> Iterator[Case]:
    """In a process of its own, as in a run: it does things to torch that other tests would not survive."""
    from tests.support.local_ray import local_ray
    from workers.generation.pool import GeneratorPool

    served, other = folder / "served", folder / "other"
    shutil.copytree(DEMO / "base", served)
    shutil.copytree(DEMO / "base", other)
    _disturb(other / WEIGHTS)
    with local_ray(), GeneratorPool(str(served), SETTINGS, 5, ForEngines(), VLLM) as pool:
        pool.wait_ready()
        engine = Remote(pool._slots[0].actor)
        path = engine.__ray_call__(lambda host: host._engine._stepper.engine.model_config.model)
        assert path == PATH, "what it compiles for this model serves the next"
        yield Case(engine, served, other, _by_transformers)


def _disturb(file: Path) -> None:
    """Other weights for a model, those of the embedding, to which its head is tied, among them."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(1)
    weights = load_file(file)
    for name, weight in sorted(weights.items()):
        noise = torch.randn(weight.shape, generator=generator)
        weights[name] = weight + 0.3 * weight.std().nan_to_num() * noise
    save_file(weights, file, metadata={"format": "pt"})


def _by_transformers(model: Path, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32, trust_remote_code=False)
    sums = []
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.no_grad():
            logprobs = loaded(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        sums.append(sum(float(logprobs[len(prompt) - 1 + i, t]) for i, t in enumerate(completion)))
    return sums


@pytest.fixture(scope="module", params=[stand_in, pytest.param(vllm, marks=pytest.mark.real)], ids=lambda p: p.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield from request.param(tmp_path_factory.mktemp("engine"))


def shard_of(folder: Path, prompts: dict[str, list[int]] = TOKEN_IDS) -> Shard:
    """A new shard of all these prompts but the first and the last, which are in the file alone."""
    rows = [{"prompt_id": "x", "text": "x", "token_ids": [3], "gold": "1"}]
    rows = [*rows, *({"prompt_id": p, "text": p, "token_ids": ids, "gold": "1"} for p, ids in prompts.items()), *rows]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist(rows, PROMPTS), folder / "prompts.parquet")
    return Shard(0, str(folder / "prompts.parquet"), 1, 1 + len(prompts), str(folder / ".0.parquet-e1"), attempt=1)


def sampled(engine: Engine, folder: Path, plan: SamplingPlan = GREEDY) -> list[list[int]]:
    """The tokens of each sample of a whole shard."""
    shard = shard_of(folder)
    assert engine.generate(shard, plan) is not None
    tokens: list[list[int]] = pq.read_table(shard.written)["token_ids"].to_pylist()
    return tokens


def near(ours: Sequence[float], theirs: Sequence[float], nats: float = 2e-3) -> bool:
    return all(math.isclose(o, t, abs_tol=nats) for o, t in zip(ours, theirs, strict=True))


def scored(case: Case) -> list[float]:
    found = case.engine.logprobs([TOKEN_IDS["a"], TOKEN_IDS["b"]], COMPLETIONS)
    assert None not in found
    return [value for value in found if value is not None]


def expected(case: Case, model: Path) -> list[float]:
    return case.expected(model, [TOKEN_IDS["a"], TOKEN_IDS["b"]], COMPLETIONS)


def test_a_shard_is_sampled_into_its_file(case: Case, tmp_path: Path) -> None:
    shard = shard_of(tmp_path)
    facts = case.engine.generate(shard, SAMPLED)
    table = pq.read_table(shard.written)
    assert facts is not None and table.schema == SAMPLES
    rows = table.to_pylist()
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [(p, i) for p in PROMPT_IDS for i in range(3)]
    lengths = [len(row["token_ids"]) for row in rows]
    assert lengths == [row["num_tokens"] for row in rows]
    assert all(0 < length <= MAX_TOKENS for length in lengths)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert all((row["finish_reason"] == "length") <= (row["num_tokens"] == MAX_TOKENS) for row in rows)
    assert (facts["samples"], facts["tokens"]) == (12, sum(lengths))
    assert facts["file"]["size"] == os.path.getsize(shard.written)
    assert "quarantined" not in facts


def test_a_sample_has_its_own_seed_and_comes_again(case: Case, tmp_path: Path) -> None:
    once, again = (sampled(case.engine, tmp_path / name, SAMPLED) for name in ("once", "again"))
    assert once == again
    assert len({tuple(tokens) for tokens in once[:3]}) > 1, "the samples of a prompt differ"


def test_a_wave_of_samples_is_what_all_of_them_have_there(case: Case, tmp_path: Path) -> None:
    every, shard = sampled(case.engine, tmp_path / "every", SAMPLED), shard_of(tmp_path / "wave")
    assert case.engine.generate(shard, replace(SAMPLED, first_sample=1, samples=2)) is not None
    rows = pq.read_table(shard.written).to_pylist()
    assert [(row["prompt_id"], row["sample_index"]) for row in rows] == [(p, i) for p in PROMPT_IDS for i in (1, 2)]
    assert [row["token_ids"] for row in rows] == [ids for place, ids in enumerate(every) if place % 3]


def test_prompts_are_chosen_and_left_out(case: Case, tmp_path: Path) -> None:
    shard = shard_of(tmp_path)
    assert case.engine.generate(shard, SAMPLED, ["b"]) is None
    assert not Path(shard.written).exists()
    assert case.engine.generate(shard, SAMPLED, ["a", "c"], ["d"]) is not None
    facts = case.engine.generate(shard_of(tmp_path / "empty"), SAMPLED, None, PROMPT_IDS)
    assert facts is not None and facts["quarantined"] == list(PROMPT_IDS) and facts["samples"] == 0
    assert set(pq.read_table(shard.written)["prompt_id"].to_pylist()) == {"a", "b", "c"}


def test_several_shards_at_once_and_progress_is_seen(case: Case, tmp_path: Path) -> None:
    before = case.engine.progress()
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda i: sampled(case.engine, tmp_path / str(i)), range(3)))
    assert [len(tokens) for tokens in found] == [len(PROMPT_IDS)] * 3
    assert case.engine.progress() > before
    assert case.engine.pid() > 1


def test_log_probabilities_are_sums_over_the_completion(case: Case) -> None:
    ours = scored(case)
    assert near(ours, expected(case, case.served))
    whole, start, rest = case.engine.logprobs(
        [TOKEN_IDS["a"], TOKEN_IDS["a"], TOKEN_IDS["a"] + COMPLETIONS[0][:2]],
        [COMPLETIONS[0], COMPLETIONS[0][:2], COMPLETIONS[0][2:]],
    )
    assert whole is not None and start is not None and rest is not None
    assert math.isclose(whole, start + rest, abs_tol=2e-3)


def test_a_completion_is_scored_and_told_from_what_the_model_would_have_said(case: Case, tmp_path: Path) -> None:
    """What it draws greedily it calls greedy; with another last token it does not, and the sums are as of logprobs."""
    prompts, rows = list(TOKEN_IDS.values()), sampled(case.engine, tmp_path)
    if isinstance(case.engine, StandInEngine):  # which draws and scores by different rules
        rows = [[prompt[-1] + 1, prompt[-1] + 2] for prompt in prompts]
    others = [[*row[:-1], row[-1] + 1] for row in rows]
    for completions, greedy in ((rows, True), (others, False)):
        found = case.engine.score(prompts, completions)
        assert [scored is not None and scored.greedy for scored in found] == [greedy] * len(prompts)
        sums = case.engine.logprobs(prompts, completions)
        assert [scored and scored.logprob for scored in found] == pytest.approx(sums, abs=1e-4)
    assert case.engine.score([[7] * (CONTEXT - 1)], [[8]]) == [None]


def test_what_does_not_fit_the_context(case: Case, tmp_path: Path) -> None:
    fits, too_long = [7] * (CONTEXT - 4), [7] * (CONTEXT - 3)
    found = case.engine.logprobs([fits, too_long, [7]], [[8, 9, 10]] * 3)
    assert [value is None for value in found] == [False, True, False]
    with pytest.raises(RequestRefused, match=r"\S"):
        case.engine.generate(shard_of(tmp_path / "long", {"a": [7] * CONTEXT}), GREEDY)
    assert len(sampled(case.engine, tmp_path / "others")) == len(PROMPT_IDS)


def test_other_weights_are_loaded_in_place(case: Case, tmp_path: Path) -> None:
    scores, tokens, held = scored(case), sampled(case.engine, tmp_path / "before"), case.engine.held()
    case.engine.load_weights(str(case.other))
    assert case.engine.held().keys() == held.keys() and case.engine.held() != held
    assert near(scored(case), expected(case, case.other)) and not near(scored(case), expected(case, case.served))
    assert sampled(case.engine, tmp_path / "other") != tokens
    case.engine.load_weights(str(case.served))
    assert near(scored(case), scores, nats=1e-4) and case.engine.held() == held, "as from the fresh engine"
    assert sampled(case.engine, tmp_path / "after") == tokens


def test_what_is_asked_for_while_weights_are_loaded_is_answered_with_one_of_the_two(case: Case) -> None:
    models = [case.other, case.served] * 2
    with ThreadPoolExecutor(2) as threads:
        loading = threads.submit(lambda: [case.engine.load_weights(str(model)) for model in models])
        found = [scored(case)]
        while not loading.done():
            found.append(scored(case))
    loading.result()
    old, new = expected(case, case.served), expected(case, case.other)
    assert all(near(scores, old) or near(scores, new) for scores in found)
    assert near(scored(case), old)


def test_a_folder_that_differs_in_more_than_weights_is_refused(case: Case, tmp_path: Path) -> None:
    scores = scored(case)
    for number, harm in enumerate((_another_config, _no_weights, _another_layout)):
        folder = tmp_path / str(number)
        shutil.copytree(case.other, folder)
        harm(folder)
        with pytest.raises(OtherModel, match=str(folder)):
            case.engine.load_weights(str(folder))
    assert near(scored(case), scores, nats=1e-4)


def _another_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))


def _no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def _another_layout(folder: Path) -> None:
    shutil.copyfile(folder / WEIGHTS, folder / "consolidated.safetensors")


@pytest.mark.parametrize("engine", [VllmEngine, StandInEngine])
def test_an_engine_has_the_protocol_s_methods(engine: type) -> None:
    methods = {name: method for name, method in vars(Engine).items() if inspect.isfunction(method) and name[0] != "_"}
    serving = {"pid", "progress", "generate", "logprobs", "score"}
    assert methods.keys() == serving | {"load_weights", "sleep", "held", "close"}
    for name, method in methods.items():
        both = (method, getattr(engine, name))
        theirs, ours = ([(p.name, p.default) for p in inspect.signature(of).parameters.values()] for of in both)
        # Ray gives the methods of every class of which it has made an actor one more.
        assert theirs == [parameter for parameter in ours if parameter != ("_ray_trace_ctx", None)]


def test_the_file_that_is_named_as_the_package_does_not_pass_for_it() -> None:
    """Python looks into the current folder first, and so do Ray's workers of a driver that was started there."""
    folder = Path(__file__).parents[3] / "workers/generation"
    done = subprocess.run(
        [sys.executable, "-c", "import vllm"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "in place of the package vllm: run it from another folder" in done.stderr


def test_what_wrote_a_folder_is_no_difference(tmp_path: Path) -> None:
    for name, version in (("one", "5.1"), ("two", "5.2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_text("1")
        (tmp_path / name / "config.json").write_text(json.dumps({"layers": 1, "transformers_version": version}))
        (tmp_path / name / f"{WEIGHTS}.index.json").write_text(version)
        (tmp_path / name / "README.md").write_text(version)
    BesidesWeights(tmp_path / "one").must_be_those_of(tmp_path / "two")
    (tmp_path / "two/tokenizer.json").write_text("{}")
    with pytest.raises(OtherModel, match=r"two/tokenizer\.json"):
        BesidesWeights(tmp_path / "one").must_be_those_of(tmp_path / "two")


def test_weights_are_taken_after_those_before_are_gone(tmp_path: Path) -> None:
    """Candidates are removed once one of them is chosen, which is served next: engines were made anew from there on."""
    for name in ("candidate", "chosen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / WEIGHTS).write_text(name)
        (tmp_path / name / "config.json").write_text("{}")
    besides = BesidesWeights(tmp_path / "candidate")
    shutil.rmtree(tmp_path / "candidate")
    besides.must_be_those_of(tmp_path / "chosen")
    (tmp_path / "chosen/config.json").write_text(json.dumps({"layers": 2}))
    with pytest.raises(OtherModel, match=r"chosen/config\.json: it differs from that of .*candidate"):
        besides.must_be_those_of(tmp_path / "chosen")


def test_a_process_that_served_one_model_serves_the_next_as_a_fresh_one_would(case: Case, tmp_path: Path) -> None:
    """The same prompts before and after, as evaluations ask them, with a rest between; and an engine that still had the
    old weights, as one whose caches did, is found out by the probe."""
    if isinstance(case.engine, StandInEngine):
        pytest.skip("a process is around engines of a run only")
    host: Any = case.engine
    process, scores, tokens = host.pid(), scored(case), sampled(host, tmp_path / "before")
    frames = host.__ray_call__(lambda _: dict(importlib.import_module("torch._dynamo.utils").counters["frames"]))
    assert not any(frames.values()), "neither the model nor what serves the probe is compiled on CPU"
    probe, texts = tmp_path / "probe.parquet", [[TOKEN_IDS["a"], TOKEN_IDS["b"]], COMPLETIONS]
    write_table(pa.table([*texts, expected(case, case.other), expected(case, case.served)], schema=PROBE), str(probe))
    stale: Any = SimpleNamespace(logprobs=lambda *asked: [host.logprobs(*asked)])
    with pytest.raises(ProbeFailed):
        check_probe(stale, probe, EXACT)
    assert host.rest() == Kept() and host.serve(str(case.other)) == process
    assert near(scored(case), expected(case, case.other)) and check_probe(stale, probe, EXACT)
    others, held = sampled(host, tmp_path / "other"), host.held()
    assert any(name.endswith(".cpu_linear") for name in held), "what CPUs compute with is packed away"
    host.load_weights(str(case.served))  # as each test of this file leaves it
    host.load_weights(str(case.other))
    assert sampled(host, tmp_path / "in-place") == others != tokens and host.held() == held
    assert host.rest(True) == Kept(), "on CPU an engine does not sleep"
    assert host.serve(str(case.served)) == process
    assert near(scored(case), scores, nats=1e-4) and sampled(host, tmp_path / "after") == tokens


def test_an_engine_that_is_closed_serves_nobody(case: Case, tmp_path: Path) -> None:
    """The last one of this file: the engine is the same in all of them."""
    case.engine.close()
    case.engine.close()
    for ask in (
        lambda: case.engine.generate(shard_of(tmp_path), GREEDY),
        lambda: scored(case),
        lambda: case.engine.score([[1]], [[2]]),
        lambda: case.engine.load_weights(str(case.other)),
        lambda: case.engine.held(),
    ):
        with pytest.raises(EngineBroken, match="closed"):
            ask()
    assert case.engine.pid() > 1
