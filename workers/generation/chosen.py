"""The kind of engine that runs use: the one place that chooses."""

from workers.generation.vllm import VLLM

ENGINE = VLLM
