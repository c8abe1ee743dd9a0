"""One vLLM engine in one process: prompts in, samples out, a shard at a time and many shards at once.

The engine is fed from several threads (one a shard in flight) and stepped by one of its own, so that
it never waits for a shard to end before it sees the next one. Token ids go in and token ids come out:
EOS stands at the end of a sample exactly when it was sampled.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Generate
from orchestrator.records.rows import SamplingPlan, Shard
from workers.generation.shard import Request, Sample, sample_shard

ENVIRONMENT = {
    # The engine lives in this process: it starts ten times faster and dies with the actor.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # vLLM would pin threads itself and keep a core free; the cores are Ray's to give.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def sample_seed(seed: int, prompt_id: str, sample_index: int) -> int:
    """A sample's own seed: a stable hash of the round's seed, the prompt and the sample's index."""
    text = f"{seed}\x1f{prompt_id}\x1f{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") >> 1


_WEIGHT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class EngineBroken(Exception):
    """The engine stopped with an error of its own, and serves nobody any more."""


@dataclass(frozen=True)
class _Request:
    """One sequence for the engine; its output, or the error that came instead, goes to whoever asked for it."""

    token_ids: list[int]
    parameters: Any
    place: int
    answers: queue.SimpleQueue[tuple[int, Any]]

    def answer(self, output: Any) -> None:
        self.answers.put((self.place, output))


class Generator:
    """One engine. Methods may be called from several threads at once.

    Raises (at construction): whatever vLLM raises when it cannot serve the model.
    """

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        from vllm import EngineArgs, LLMEngine

        arguments = engine_arguments(model, settings, seed, accelerated, _own_dtype(model))
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._inbox: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._names = itertools.count()
        self._steps = 0
        threading.Thread(target=self._run, daemon=True).start()

    def pid(self) -> int:
        return os.getpid()

    def progress(self) -> int:
        """How many steps the engine has done. One that has work and does not step hangs. That an engine steps and
        computes nonsense is not seen here: the probe compares each new checkpoint with the trainer."""
        return self._steps

    def generate(
        self, shard: Shard, plan: SamplingPlan, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> dict[str, Any] | None:
        """Sample prompts of the shard and, with the last of them, write its file; see `sample_shard`.

        Raises:
            EngineBroken: the engine stopped with an error.
            ValueError: the engine refuses a request.
        """

        def draw(requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
            asked = [(r.token_ids, self._parameters(plan, r.prompt_id, r.index)) for r in requests]
            for place, output in self._sample(asked):
                yield place, _as_sample(output.outputs[0])

        return sample_shard(shard, plan, only, without, draw)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        """Summed log-probability of each completion (token ids) after its prompt, in nats; None where the two
        leave no room in the model's context for the token that an engine must sample."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        rows = list(zip(prompts, completions, strict=True))
        fits = [len(p) + len(c) < self._engine.model_config.max_model_len for p, c in rows]
        fitting = [p + c for (p, c), fit in zip(rows, fits, strict=True) if fit]
        drawn = dict(self._sample([(token_ids, parameters) for token_ids in fitting]))
        outputs = iter([drawn[place] for place in range(len(fitting))])
        return [_logprob(p, c, next(outputs)) if fit else None for (p, c), fit in zip(rows, fits, strict=True)]

    def _parameters(self, plan: SamplingPlan, prompt_id: str, index: int) -> Any:
        from vllm import SamplingParams

        temperature = plan.temperature_of(index)
        return SamplingParams(
            temperature=temperature,
            top_p=plan.top_p,
            top_k=plan.top_k,
            max_tokens=plan.max_tokens,
            stop=list(plan.stop),
            seed=None if temperature == 0 or plan.seeding == "engine" else sample_seed(plan.seed, prompt_id, index),
        )

    def _sample(self, requests: Sequence[tuple[list[int], Any]]) -> Iterator[tuple[int, Any]]:
        """Run requests through the engine; yields each one's place and output as it is finished."""
        answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for place, (token_ids, parameters) in enumerate(requests):
            self._inbox.put(_Request(token_ids, parameters, place, answers))
        for _ in requests:
            place, output = answers.get()
            if isinstance(output, Exception):
                raise output
            yield place, output

    def _run(self) -> None:
        """Step the engine for as long as there are requests; new ones join between two steps."""
        try:
            while True:
                self._admit()
                for output in self._engine.step():
                    if output.finished:
                        self._running.pop(output.request_id).answer(output)
                self._steps += 1
        except BaseException as error:
            broken = EngineBroken(f"the engine stopped: {error!r}")
            for request in self._running.values():
                request.answer(broken)
            while True:  # whoever asks later learns of it too
                self._inbox.get().answer(broken)

    def _admit(self) -> None:
        from vllm import TokensPrompt

        block = not self._engine.has_unfinished_requests()
        while True:
            try:
                request = self._inbox.get(block=block)
            except queue.Empty:
                return
            name = str(next(self._names))
            block = False
            self._running[name] = request
            try:
                self._engine.add_request(name, TokensPrompt(prompt_token_ids=request.token_ids), request.parameters)
            except ValueError as error:  # the engine refuses the request; others are none the worse
                self._running.pop(name).answer(error)
                block = not self._engine.has_unfinished_requests()


def engine_arguments(model: str, settings: Generate, seed: int, accelerated: bool, dtype: str | None) -> dict[str, Any]:
    """The arguments of a vLLM engine; the user's own go before ours."""
    arguments: dict[str, Any] = {
        "model": model,
        "tensor_parallel_size": settings.tensor_parallel,
        "max_num_seqs": settings.max_num_seqs,
        "seed": seed % 2**31,
        "enable_prefix_caching": True,  # samples of one prompt share its prefill
        "disable_log_stats": True,
        "load_format": "safetensors",  # left to itself, vLLM would take pickled weights too
        "trust_remote_code": False,
    }
    if dtype:
        arguments["dtype"] = dtype
    if settings.max_model_len:
        arguments["max_model_len"] = settings.max_model_len
    if not accelerated:
        # A seeded request whose prefill is split into chunks kills the CPU engine. Compiling costs 12 s at
        # every start, and buys a small model nothing.
        arguments |= {"enable_chunked_prefill": False, "enforce_eager": True}
    given = {name: value for name, value in settings.engine.items() if (name, value) != ("dtype", "auto")}
    return arguments | given


def _own_dtype(model: str) -> str | None:
    """The number format a model folder is in: as its config says, else that of its first tensor. Left to itself, vLLM
    serves float32 weights in what the device likes, and one greedy answer in twenty is another model's."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config().dtype
    return _dtype_of_weights(model) if dtype is None else str(dtype).removeprefix("torch.")


def _dtype_of_weights(model: str) -> str | None:
    from safetensors import safe_open

    for file in sorted(Path(model).glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
                return _WEIGHT_TYPES.get(weights.get_slice(name).get_dtype())
    return None


def _logprob(prompt: list[int], completion: list[int], output: Any) -> float:
    positions = output.prompt_logprobs[len(prompt) :]
    return float(sum(at[token].logprob for at, token in zip(positions, completion, strict=True)))


def _as_sample(completion: Any) -> Sample:
    # What cannot be written as UTF-8 is shown as a replacement; the ids stay exact.
    text = completion.text.encode("utf-8", "replace").decode()
    return Sample(text, list(completion.token_ids), completion.finish_reason)
