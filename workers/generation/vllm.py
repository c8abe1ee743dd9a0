"""vLLM as an engine: one in one process, prompts in and samples out, many shards at once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config import Generate, engines
from orchestrator.config.sampling import OWN
from orchestrator.records.model_folder import weight_files
from orchestrator.records.rows import SamplingPlan, Shard
from workers import cuda
from workers.generation.engine import BesidesWeights, EngineKind, NoDeviceMemory, RequestRefused, Scored
from workers.generation.held import digests
from workers.generation.one_path import PATH, anchored, one_path
from workers.generation.shard import Request, Sample, sample_seed, sample_shard
from workers.generation.stepper import Stepper
from workers.supervision.devices import devices_short_of
from workers.supervision.failures import memory_taken
from workers.supervision.named_devices import takes_turns

if __name__ == "vllm":  # the package's own name: Python looks into this folder first, and would find this file for it
    raise ImportError(f"{__file__} is found in place of the package vllm: run it from another folder")

_HOST_CACHE = 1  # GiB of keys and values on processors
_MOST_SCHEDULED_AHEAD = 8  # steps; vLLM schedules one ahead, where any


_WEIGHT_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class VllmEngine:
    """See `engine.Engine`.

    Raises (at construction): whatever vLLM raises when it cannot serve the model.
    """

    def __init__(self, model: str, settings: Generate, seed: int, accelerated: bool) -> None:
        prepare(accelerated)
        from vllm import EngineArgs, LLMEngine
        from vllm.exceptions import VLLMClientError  # which is no ValueError
        from vllm.usage.usage_lib import UsageContext

        dtype = _own_dtype(model) if settings.dtype in (None, OWN) else settings.dtype
        with one_path(model) as folder:
            given = settings.model_copy(update={"engine": anchored(settings.engine, folder)})
            arguments = engine_arguments(PATH, given, seed, accelerated, dtype)
            if accelerated and takes_turns(os.environ) and _can_sleep():
                arguments = {"enable_sleep_mode": True} | arguments
            _compile(accelerated or not arguments["enforce_eager"])
            with telling_of_memory(settings, accelerated):
                # As `LLM.generate` has it: the numbers of sequences and of tokens in a step are made for throughput.
                engine = LLMEngine.from_engine_args(EngineArgs(**arguments), UsageContext.LLM_CLASS)
            if devices(settings) > 1:  # processes of its own, which were started where that path leads somewhere
                engine.collective_rpc(_go, args=(str(folder),))
        self._context = int(engine.model_config.max_model_len)
        self._besides, self._asleep = BesidesWeights(model), False
        self._can_sleep = bool(arguments.get("enable_sleep_mode"))
        self._stepper = Stepper(engine, ValueError, VLLMClientError)

    def pid(self) -> int:
        return os.getpid()

    def progress(self) -> int:
        """How many steps the engine has done. That an engine steps and computes nonsense is not seen here: the probe
        compares each new checkpoint with the trainer."""
        return self._stepper.steps

    def generate(
        self, shard: Shard, plan: SamplingPlan, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> dict[str, Any] | None:
        def draw(requests: Sequence[Request]) -> Iterator[tuple[int, Sample]]:
            for place, output in self._stepper.outputs(list(_asked(requests, plan))):
                yield place, _as_sample(output.outputs[0])

        return sample_shard(shard, plan, only, without, draw)

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        return [scored and scored.logprob for scored in self.score(prompts, completions)]

    def score(self, prompts: list[list[int]], completions: list[list[int]]) -> list[Scored | None]:
        from vllm import SamplingParams, TokensPrompt

        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        rows = list(zip(prompts, completions, strict=True))
        fits = [len(p) + len(c) < self._context for p, c in rows]
        fitting = [p + c for (p, c), fit in zip(rows, fits, strict=True) if fit]
        drawn = dict(self._stepper.outputs([(TokensPrompt(prompt_token_ids=ids), parameters) for ids in fitting]))
        outputs = iter([drawn[place] for place in range(len(fitting))])
        return [_scored(p, c, next(outputs)) if fit else None for (p, c), fit in zip(rows, fits, strict=True)]

    def load_weights(self, model: str) -> None:
        self._besides.must_be_those_of(model)

        def load(engine: Any) -> None:
            if self._asleep:
                engine.wake_up(tags=["weights"])  # room for them, and for all but the cache of keys and values
            else:
                _forget(engine)
            engine.collective_rpc(_reload, args=(model,))
            if self._asleep:
                engine.wake_up(tags=["kv_cache"])
            self._asleep = False

        self._stepper.do(load)

    def sleep(self) -> bool:
        def rest(engine: Any) -> None:
            _forget(engine)
            engine.sleep(level=2)  # which gives the weights up: others come
            self._asleep = True

        if self._can_sleep:
            self._stepper.do(rest)
        return self._can_sleep

    def held(self) -> dict[str, str]:
        found: dict[str, str] = {}

        def look(engine: Any) -> None:
            for part, told in enumerate(engine.collective_rpc(_digests)):
                found.update({f"{part}/{name}": digest for name, digest in told.items()})

        self._stepper.do(look)
        return found

    def close(self) -> None:
        self._stepper.close(lambda engine: engine.engine_core.shutdown())
        _empty_caches()


def prepare(accelerated: bool) -> None:
    """Import vLLM, which takes ten seconds and more; see `EngineKind.prepare`."""
    if accelerated:
        os.environ.update(without_compiler(os.environ))
    from vllm import LLMEngine  # noqa: F401  # whose import is the long one


def _compile(what_asks_for_it: bool) -> None:
    """Whether this process compiles what is marked for torch's compiler. `enforce_eager` keeps it from the model, and
    not from vLLM's helpers: the first probe would compile one that counts the ranks of tokens, for many seconds."""
    import torch

    torch.compiler.set_stance("default" if what_asks_for_it else "force_eager")


def _can_sleep() -> bool:
    """Whether engines can give the memory of a device back and live, on the platform that there is."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available() and current_platform.is_cumem_allocator_available())


def _empty_caches() -> None:
    """Give back what torch keeps of a device's memory, for whoever asks next in this process."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _asked(requests: Sequence[Request], plan: SamplingPlan) -> Iterator[tuple[Any, Any]]:
    """Prompt and parameters of each request, as vLLM wants them."""
    from vllm import SamplingParams, TokensPrompt  # once, since each time costs as much as a request
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    common: dict[str, Any] = {"top_p": plan.top_p, "top_k": plan.top_k, "max_tokens": plan.max_tokens}
    common["output_kind"] = RequestOutputKind.FINAL_ONLY
    for prompt_id, index, token_ids in requests:
        temperature = plan.temperature_of(index)
        seeded = temperature != 0 and plan.seeding == "sample"
        seed = sample_seed(plan.seed, prompt_id, index) if seeded else None
        try:
            parameters = SamplingParams(temperature=temperature, seed=seed, stop=list(plan.stop), **common)
        except VLLMClientError as error:  # a class that a driver without vLLM could not read
            raise RequestRefused(str(error)) from None
        yield TokensPrompt(prompt_token_ids=token_ids), parameters


def _forget(engine: Any) -> None:
    """Empty what is kept of the weights' work, and see to it that nothing is under way in the engine any more."""
    for _ in range(_MOST_SCHEDULED_AHEAD):
        if engine.reset_prefix_cache():
            engine.reset_mm_cache()
            engine.reset_encoder_cache()
            return
        engine.step()  # what was scheduled ahead still holds parts of the cache
    raise RuntimeError("the cache of prefixes cannot be emptied")


@contextlib.contextmanager
def telling_of_memory(settings: Generate, accelerated: bool) -> Iterator[None]:
    """Around a start that may fail since others hold memory. Its own words tell so where vLLM computes in this process;
    of the processes of a wider engine nothing comes up but that one has failed.

    Raises:
        NoDeviceMemory: it did; with who held it before.
    """
    share = settings.engine.get(VLLM.memory_argument, VLLM.memory_share)
    short = devices_short_of(share, os.environ) if accelerated and isinstance(share, int | float) else []
    try:
        yield
    except Exception as error:
        if short or memory_taken(error):
            raise NoDeviceMemory("; ".join([" ".join(str(error).split()), *short])) from error
        raise


def _go(_: Any, folder: str) -> None:
    os.chdir(folder)


def _reload(worker: Any, model: str) -> None:
    """Load a folder's weights in place, in each of the processes that an engine is spread over."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

    worker.reload_weights(weights_path=model)
    for module in worker.get_model().modules():
        # A head that is tied to the embedding stands in no file. On CPU it computes with a packed copy of its own,
        # which vLLM makes when it starts and leaves as it was when it loads anew.
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            if not isinstance(module.quant_method, UnquantizedEmbeddingMethod):
                raise RuntimeError("a quantised head on CPU cannot be loaded anew")
            module.quant_method.process_weights_after_loading(module)


def _digests(worker: Any) -> dict[str, str]:
    return digests(worker.get_model())


def engine_arguments(model: str, settings: Generate, seed: int, accelerated: bool, dtype: str | None) -> dict[str, Any]:
    """The arguments of a vLLM engine; the user's own go before ours."""
    arguments: dict[str, Any] = {
        "model": model,
        "tensor_parallel_size": settings.spread,
        "seed": seed % 2**31,
        "enable_prefix_caching": True,  # samples of one prompt share its prefill
        "disable_log_stats": True,
        "load_format": "safetensors",  # left to itself, vLLM would take pickled weights too
        "trust_remote_code": False,
    }
    if devices(settings) > 1:
        # Left to itself, vLLM takes Ray inside of a placement group, and finds no bundle of one GPU each there.
        arguments["distributed_executor_backend"] = "mp"
    if dtype:
        arguments["dtype"] = dtype
    if settings.max_num_seqs:
        arguments["max_num_seqs"] = settings.max_num_seqs
    if settings.max_model_len:
        arguments["max_model_len"] = settings.max_model_len
    if not accelerated:
        # A seeded request whose prefill is split into chunks kills the CPU engine. Compiling costs 12 s at
        # every start, and buys a small model nothing.
        arguments |= {"enable_chunked_prefill": False, "enforce_eager": True}
    given = {name: value for name, value in settings.engine.items() if (name, value) != ("dtype", "auto")}
    return arguments | given


def devices(settings: Generate) -> int:
    """Over how many accelerators an engine is spread, all of one node."""
    stages = settings.engine.get("pipeline_parallel_size", 1)
    return settings.spread * (stages if isinstance(stages, int) and stages > 0 else 1)  # vLLM refuses others


def without_compiler(environment: Mapping[str, str]) -> dict[str, str]:
    """What an engine's environment needs besides, before vLLM is imported: where there is no nvcc, its warm-up must not
    ask for a kernel that is compiled then. What is set already stays."""
    name = "VLLM_USE_FLASHINFER_SAMPLER"
    return {} if name in environment or cuda.nvcc(environment) else {name: "0"}


def _own_dtype(model: str) -> str | None:
    """The number format a model folder is in: as its config says, else that of its first tensor. Left to itself, vLLM
    serves float32 weights in what the device likes, and one greedy answer in twenty is another model's."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config().dtype
    return _dtype_of_weights(model) if dtype is None else str(dtype).removeprefix("torch.")


def _dtype_of_weights(model: str) -> str | None:
    from safetensors import safe_open

    for file in weight_files(Path(model)):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - a safetensors file is no mapping
                return _WEIGHT_TYPES.get(weights.get_slice(name).get_dtype())
    return None


def _scored(prompt: list[int], completion: list[int], output: Any) -> Scored:
    positions = output.prompt_logprobs[len(prompt) :]
    said = [at[token] for at, token in zip(positions, completion, strict=True)]
    return Scored(float(sum(token.logprob for token in said)), all(token.rank == 1 for token in said))


def _as_sample(completion: Any) -> Sample:
    # What cannot be written as UTF-8 is shown as a replacement; the ids stay exact.
    text = completion.text.encode("utf-8", "replace").decode()
    return Sample(text, list(completion.token_ids), completion.finish_reason)


VLLM = EngineKind(
    name=engines.VLLM.name,
    make=VllmEngine,
    prepare=prepare,
    devices=devices,
    environment={
        # The engine lives in this process: it starts ten times faster and dies with the actor.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # vLLM would pin threads itself and keep a core free; the cores are Ray's to give.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(_HOST_CACHE),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    },
    loopback={"VLLM_HOST_IP": "127.0.0.1"},
    packages=("vllm", "vllm-cpu"),
    cpu_packages=("vllm-cpu",),
    memory_argument="gpu_memory_utilization",
    memory_share=0.92,
    host_cache=_HOST_CACHE * 2**30,
    context_arguments=("hf_overrides",),
    process_title="VLLM::",  # written over the environment that would tell whose a process is
)
