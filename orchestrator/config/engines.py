"""What the job file knows of the kinds of engines: what it calls their arguments, and which of these only execute.

What the pool must know of a kind is in workers/generation/engine.py (`EngineKind`). There is one kind. With a second
one, the job would name its kind by a key of `generate`, whose validators would look its arguments up here by that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FIRST_KIND = "vLLM"
"""The kind that every run had before its name was among the inputs of steps. Never to be changed: fingerprints name
any other."""


@dataclass(frozen=True)
class EngineArguments:
    """A kind of engine, as far as its arguments say what comes out."""

    name: str
    """As in its `EngineKind`; an input of every step that samples."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Its own names of what the job has keys for, with these keys."""
    executing: frozenset[str] = frozenset()
    """Its arguments of which it is known that they only execute. Any other one decides."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its environment that are not the user's to set, and why."""

    def deciding(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the given arguments that decide what comes out."""
        return {name: value for name, value in given.items() if name not in self.executing}


VLLM = EngineArguments(
    name="vLLM",
    keys={
        "model": "model",
        "seed": "seed",
        "tensor_parallel_size": "generate.tensor_parallel",
        "max_num_seqs": "generate.max_num_seqs",
        "max_model_len": "generate.max_model_len",
    },
    # Shares of memory, batching, kernels and graphs, parallel sizes. What decides are types, quantisation, what weights
    # are loaded, what is sampled.
    executing=frozenset(
        {
            *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "swap_space"),
            *("cpu_offload_gb", "max_num_batched_tokens", "max_num_partial_prefills", "enable_chunked_prefill"),
            *("enable_prefix_caching", "enforce_eager", "cudagraph_capture_sizes", "max_cudagraph_capture_size"),
            *("attention_backend", "async_scheduling", "pipeline_parallel_size", "enable_expert_parallel"),
            *("disable_custom_all_reduce", "max_parallel_loading_workers", "disable_log_stats", "use_tqdm_on_load"),
        }
    ),
    environment={
        "VLLM_CPU_OMP_THREADS_BIND": "it follows from `cluster.cpus_per_engine`",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "an engine lives in the process that watches it",
    },
)
ENGINE = VLLM
"""The kind that runs use, as `ENGINE` of driver/wiring.py says to the workers."""
