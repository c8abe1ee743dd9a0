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
import time
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Generate
from orchestrator.records import SAMPLES, SamplingPlan, Shard
from workers.files import write_table

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


@dataclass
class _Batch:
    """Requests that one caller waits for together."""

    missing: int
    outputs: list[Any]
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def finish_one(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.done.set()


@dataclass(frozen=True)
class _Request:
    token_ids: list[int]
    parameters: Any
    batch: _Batch
    place: int


class Generator:
    """One engine. Methods may be called from several threads at once.

    Raises (at construction): whatever vLLM raises when it cannot serve the model.
    """

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        from vllm import EngineArgs, LLMEngine

        arguments: dict[str, Any] = {
            "model": model,
            "tensor_parallel_size": settings.tensor_parallel,
            "max_num_seqs": settings.max_num_seqs,
            "seed": seed % 2**31,
            "enable_prefix_caching": True,  # samples of one prompt share its prefill
            "disable_log_stats": True,
        }
        if dtype := _own_dtype(model):
            arguments["dtype"] = dtype
        if settings.max_model_len:
            arguments["max_model_len"] = settings.max_model_len
        if not accelerated:
            # A seeded request whose prefill is split into chunks kills the CPU engine. Compiling costs 12 s at
            # every start, and buys a small model nothing.
            arguments |= {"enable_chunked_prefill": False, "enforce_eager": True}
        self._engine = LLMEngine.from_engine_args(EngineArgs(**(arguments | settings.engine)))
        self._inbox: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._running: dict[str, _Request] = {}
        self._broken: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def pid(self) -> int:
        return os.getpid()

    def generate(self, shard: Shard, plan: SamplingPlan) -> dict[str, Any]:
        """Sample every prompt of the shard, and write the rows to `shard.output` (schema SAMPLES).

        Returns facts: samples, tokens, truncated, seconds, and the file's size and sha256.
        """
        started = time.monotonic()
        rows = pq.read_table(shard.source, columns=["prompt_id", "token_ids"]).slice(
            shard.start, shard.stop - shard.start
        )
        keys = [(p, i) for p in rows["prompt_id"].to_pylist() for i in range(plan.samples)]
        prompts = {p: t for p, t in zip(rows["prompt_id"].to_pylist(), rows["token_ids"].to_pylist(), strict=True)}
        outputs = self._sample([(prompts[prompt], self._parameters(plan, prompt, index)) for prompt, index in keys])
        table = _samples_table(keys, outputs)
        reasons = table["finish_reason"].to_pylist()
        return {
            "samples": table.num_rows,
            "tokens": sum(table["num_tokens"].to_pylist()),
            "truncated": reasons.count("length"),
            "seconds": time.monotonic() - started,
            "file": write_table(table, shard.output),
        }

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        """Summed log-probability of each completion (token ids) after its prompt, in nats; None where the two
        leave no room in the model's context for the token that an engine must sample."""
        from vllm import SamplingParams

        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        rows = list(zip(prompts, completions, strict=True))
        fits = [len(p) + len(c) < self._engine.model_config.max_model_len for p, c in rows]
        fitting = [p + c for (p, c), fit in zip(rows, fits, strict=True) if fit]
        outputs = iter(self._sample([(token_ids, parameters) for token_ids in fitting]))
        return [_logprob(p, c, next(outputs)) if fit else None for (p, c), fit in zip(rows, fits, strict=True)]

    def _parameters(self, plan: SamplingPlan, prompt_id: str, index: int) -> Any:
        from vllm import SamplingParams

        greedy = plan.temperature == 0
        return SamplingParams(
            temperature=plan.temperature,
            top_p=plan.top_p,
            top_k=plan.top_k,
            max_tokens=plan.max_tokens,
            stop=list(plan.stop),
            seed=None if greedy or plan.seeding == "engine" else sample_seed(plan.seed, prompt_id, index),
        )

    def _sample(self, requests: list[tuple[list[int], Any]]) -> list[Any]:
        """Run requests through the engine, returning their outputs in order."""
        batch = _Batch(missing=len(requests), outputs=[None] * len(requests))
        for place, (token_ids, parameters) in enumerate(requests):
            self._inbox.put(_Request(token_ids, parameters, batch, place))
        if requests:
            batch.done.wait()
        if self._broken:
            raise RuntimeError(f"the engine stopped: {self._broken!r}") from self._broken
        if batch.error:
            raise batch.error
        return batch.outputs

    def _run(self) -> None:
        """Step the engine for as long as there are requests; new ones join between two steps."""
        try:
            for number in itertools.count():
                self._admit(number)
                for output in self._engine.step():
                    if output.finished:
                        request = self._running.pop(output.request_id)
                        request.batch.outputs[request.place] = output
                        request.batch.finish_one()
        except BaseException as error:
            self._broken = error
            for request in self._running.values():
                request.batch.done.set()
            while True:  # whoever asks later learns of it too
                self._inbox.get().batch.done.set()

    def _admit(self, step: int) -> None:
        from vllm import TokensPrompt

        block = not self._engine.has_unfinished_requests()
        while True:
            try:
                request = self._inbox.get(block=block)
            except queue.Empty:
                return
            name = f"{step}-{len(self._running)}-{request.place}"
            block = False
            try:
                self._engine.add_request(name, TokensPrompt(prompt_token_ids=request.token_ids), request.parameters)
                self._running[name] = request
            except ValueError as error:  # the engine refuses the request; others are none the worse
                request.batch.error = error
                request.batch.finish_one()
                block = not self._engine.has_unfinished_requests()


def _own_dtype(model: str) -> str | None:
    """The number format a model folder is in. Left to itself, vLLM serves float32 weights in bfloat16, and one
    greedy answer in twenty is another model's."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(model).get_text_config().dtype
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _logprob(prompt: list[int], completion: list[int], output: Any) -> float:
    positions = output.prompt_logprobs[len(prompt) :]
    return float(sum(at[token].logprob for at, token in zip(positions, completion, strict=True)))


def _samples_table(keys: list[tuple[str, int]], outputs: list[Any]) -> pa.Table:
    completions = [output.outputs[0] for output in outputs]
    return pa.table(
        {
            "prompt_id": [prompt for prompt, _ in keys],
            "sample_index": [index for _, index in keys],
            # What cannot be written as UTF-8 is shown as a replacement; the ids stay exact.
            "text": [c.text.encode("utf-8", "replace").decode() for c in completions],
            "token_ids": [list(c.token_ids) for c in completions],
            "finish_reason": [c.finish_reason for c in completions],
            "num_tokens": [len(c.token_ids) for c in completions],
        },
        schema=SAMPLES,
    )
