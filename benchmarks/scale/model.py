"""The cost model: what work takes on a cluster, how often what fails, and three clusters. docs/scale.md names the
source of each figure, and which are assumptions."""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
DAY = 86_400.0


@dataclass(frozen=True)
class Model:
    """A model, and how fast one engine serves it."""

    name: str
    parameters: float
    engine_gpus: int
    full_batch: int
    """Sequences at once at which `full_rate` was measured."""
    full_rate: float
    """Tokens a second that an engine gives with a full batch."""
    alone_step: float
    """Seconds of a decoding step with a single sequence: the weights are read once."""

    @property
    def weights(self) -> float:
        """Bytes of the weights in bfloat16."""
        return 2 * self.parameters

    @property
    def step_each(self) -> float:
        """Seconds that each sequence adds to a decoding step."""
        return (self.full_batch / self.full_rate - self.alone_step) / self.full_batch

    def sequence_rate(self, sequences: int) -> float:
        """Tokens a second of each of so many sequences."""
        return 1 / (self.alone_step + self.step_each * sequences)


HBM = 3.35e12 * 0.6
"""Bytes a second that decoding reads of an H100's memory, of 3.35 TB/s."""
M8 = Model("8B", 8.0e9, 1, 256, 8088.0, 2 * 8.0e9 / HBM)
M70 = Model("70B", 70.6e9, 4, 256, 3543.0, 2 * 70.6e9 / (4 * HBM))


@dataclass(frozen=True)
class Costs:
    """Seconds, bytes a second and shares."""

    peak: float = 989e12
    """FLOP a second of a GPU in bfloat16."""
    mfu: float = 0.35
    """Share of it that training uses; the reference pass likewise."""
    read: float = 2 * GB
    """Bytes a second that a node reads of the shared storage, and `write` those that it writes."""
    write: float = 1 * GB
    storage: float = 50 * GB
    """Bytes a second of the shared storage, for all nodes together."""
    process: float = 30.0
    """From the start of a worker's process to its imports' end."""
    engine: float = 60.0
    """What an engine does besides reading weights: compiling, profiling, capturing graphs."""
    connect: float = 10.0
    connect_each: float = 0.02
    """Ranks find each other: so long, and so long for each."""
    state_bytes: float = 12.0
    """Bytes a parameter of a saved state: float32 weights and two moments."""
    ending: float = 5.0
    """Until the processes of a phase are gone, and their memory is free."""
    tokenise: float = 2e-4
    """Seconds a prompt, in a process of the cluster."""
    grade: float = 1.5e-3
    graders: int = 64
    """Seconds of a processor an answer, and how many grader processes there are."""
    hash: float = 2 * GB
    """Bytes a second that the driver hashes of a checkpoint: what its node reads. Files here are empty, so that this is
    added."""
    ray_call: float = 1e-4
    """Seconds of the driver's for submitting a call or fetching an answer, `ray_wait` for waiting for references, and
    `ray_wait_each` for each reference."""
    ray_wait: float = 1e-4
    ray_wait_each: float = 3e-7

    def reading(self, size: float, nodes: int) -> float:
        """Seconds in which so many nodes read a file of so many bytes, each all of it."""
        return size / min(self.read, self.storage / max(nodes, 1))

    def writing(self, size: float, nodes: int) -> float:
        """Seconds in which so many nodes write a file together, each a part of it."""
        return size / min(self.write * nodes, self.storage)


@dataclass(frozen=True)
class Failures:
    """How often what fails, and how long it takes until it is found out and mended."""

    per_node_day: float = 6.5e-3
    node_share: float = 0.8
    """Of the failures, those that take the node out; the others take one worker's process."""
    hang_share: float = 0.1
    """Of the others, those that leave the process there, without progress."""
    found_process: float = 1.0
    found_node: float = 40.0
    """Seconds until Ray tells of the death."""
    replaced: float = 1800.0
    """Seconds until another node stands in the place of a lost one, in the mean (exponential)."""


@dataclass(frozen=True)
class Case:
    """A cluster, a model and a job."""

    name: str
    model: Model
    nodes: int
    rounds: int
    prompts: int
    samples: int
    held_out: int = 1000
    """Problems of gate and test, each."""
    mean_tokens: float = 800.0
    sigma: float = 0.8
    """Lengths of samples are lognormal, with this mean before the cut at `max_tokens`."""
    alike: float = 0.0
    """Share of the variance of their logarithms that is the prompt's, and the same in every round."""
    max_tokens: int = 4096
    prompt_tokens: int = 150
    pairs: int = 4
    batch_pairs: int = 64
    shard_prompts: int = 32
    save_minutes: float = 10.0
    node_gpus: int = 8
    rate_factor: float = 1.0
    """Times the rate of failures."""
    costs: Costs = Costs()
    failures: Failures = Failures()
    restart: float = 120.0
    """Seconds until a driver that was killed is started again."""

    @property
    def gpus(self) -> int:
        return self.nodes * self.node_gpus

    @property
    def engines(self) -> int:
        return self.gpus // self.model.engine_gpus

    @property
    def mean_time_between_failures(self) -> float:
        """Seconds, of the whole cluster; infinite without failures."""
        rate = self.failures.per_node_day * self.rate_factor * self.nodes / DAY
        return 1 / rate if rate else float("inf")

    @property
    def saving(self) -> float:
        """Seconds that saving a training's state takes."""
        return self.costs.writing(self.costs.state_bytes * self.model.parameters, self.nodes)


CASES = {
    "8b": Case("8b", M8, nodes=1, rounds=3, prompts=7_500, samples=16),
    "70b": Case("70b", M70, nodes=8, rounds=3, prompts=7_500, samples=16, batch_pairs=128),
    "1000": Case("1000", M70, nodes=125, rounds=2, prompts=40_000, samples=16, batch_pairs=1024),
}
