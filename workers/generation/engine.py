"""What an engine is: all that the pool, and whatever stands above it, knows of the software that samples.

`vllm.py` implements it, and so does the tests' engine without a model; one test runs against both. An engine serves one
model, from one process, to several threads at once. Token ids go in and token ids come out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from orchestrator.config import Generate
from orchestrator.records.model_folder import weight_files
from orchestrator.records.rows import SamplingPlan, Shard


class EngineBroken(Exception):
    """The engine stopped with an error of its own, or was closed, and serves nobody any more."""


class RequestRefused(ValueError):
    """The engine refuses a request, such as one that is too long; it goes on with others."""


class NoDeviceMemory(RuntimeError):
    """An engine found less of a device's memory free than its share when it was started."""


class OtherModel(ValueError):
    """A folder does not differ in its weights alone from the model that an engine was started with."""


class Scored(NamedTuple):
    """What a model says of a completion after its prompt."""

    logprob: float
    """Summed over its tokens, in nats."""
    greedy: bool
    """Whether each of its tokens is the likeliest in its place."""


class Engine(Protocol):
    """One engine. Every method may be called from several threads at once, and while others are under way."""

    def pid(self) -> int:
        """The process that the engine lives in. Answered as soon as it has loaded its model."""

    def progress(self) -> int:
        """A count that grows for as long as the engine does something: one that has work and does not count hangs."""

    def generate(
        self, shard: Shard, plan: SamplingPlan, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> dict[str, Any] | None:
        """Sample prompts of a shard and, with the last of them, write its file; see `shard.sample_shard`.

        With `plan.seeding` "sample" each sample is drawn with `shard.sample_seed`, so that it is the same whatever
        else the engine does, but for rounding. EOS stands at the end of a sample exactly when it was sampled.

        Raises:
            EngineBroken: the engine stopped with an error, or is closed.
            RequestRefused: so it is with one of the samples; those of other calls are none the worse.
        """

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[float | None]:
        """The log-probability of each completion after its prompt (token ids), summed over its tokens, in nats; None
        where the two leave no room in the engine's context for one more token.

        Raises:
            EngineBroken: as above.
        """

    def score(self, prompts: list[list[int]], completions: list[list[int]]) -> list[Scored | None]:
        """As `logprobs`, and whether the completion is what the model would have said.

        Raises:
            EngineBroken: as above.
        """

    def load_weights(self, model: str) -> None:
        """Serve the weights of another folder, without a new start.

        What was asked for before is answered with the old weights, what is asked for after the return with the new,
        as a fresh engine would; nothing is answered with some of each, and nothing is kept that the old ones computed.

        Raises:
            OtherModel: more than the weights differs (see `BesidesWeights`); the old ones are served on.
            EngineBroken: the weights could not be read or do not fit; then none are served.
        """

    def sleep(self) -> bool:
        """Give the devices back, when what was asked for is answered, and the weights up; nothing but `load_weights`
        and `progress` may be asked for then. Returns whether it has: where not, nothing is changed.

        Raises:
            EngineBroken: it failed, or the engine was so before.
        """

    def held(self) -> dict[str, str]:
        """A digest of each piece that it computes with, by name: of two engines with the same settings these are the
        same exactly where both serve the same weights, however these were loaded.

        Raises:
            EngineBroken: as above.
        """

    def close(self) -> None:
        """Give the devices back, when what was asked for is answered. Harmless when repeated; other methods raise
        EngineBroken afterwards. What the process itself holds, such as a device's context, goes when that ends. One
        that hangs gives nothing back: end its process, as the pool does."""


@dataclass(frozen=True)
class EngineKind:
    """An implementation, as it is known before an engine of it is started; to say this takes no heavy import."""

    name: str
    """For people, and for fingerprints: that of its `EngineArguments` (orchestrator.config.engines)."""
    make: Callable[[str, Generate, int, bool], Engine]
    """A class that can be imported, of which the pool makes an actor, from the model's folder, the settings, a seed
    and whether accelerators are to be used. It raises what it likes where it cannot serve the model, and
    NoDeviceMemory where it could if others gave memory back."""
    prepare: Callable[[bool], None] = lambda accelerated: None
    """Loads the libraries that an engine needs, on accelerators or not, which takes seconds; harmless when repeated."""
    devices: Callable[[Generate], int] = lambda settings: settings.spread
    """How many accelerators an engine is spread over. Its actor holds them all, so they are those of one node."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its process needs in its environment from the start."""
    loopback: Mapping[str, str] = field(default_factory=dict)
    """What keeps the engines of one host to its loopback interface, in their environment."""
    packages: tuple[str, ...] = ()
    """Packages that bring it, one of which a node needs."""
    cpu_packages: tuple[str, ...] = ()
    """Those of them that are built for torch's CPU build."""
    memory_argument: str = ""
    """Its argument (a key of `generate.engine`) for the share of an accelerator's memory that it takes."""
    memory_share: float = 0.0
    """The share that it takes where the argument is not given."""
    host_cache: int = 0
    """Bytes of its cache of keys and values where it works on processors."""
    context_arguments: tuple[str, ...] = ()
    """Its arguments that can give a model another context than its folder says."""
    process_title: str = ""
    """How the titles of processes begin that it starts itself and that do not tell whose they are; empty: none do."""


_NOT_THE_MODEL = ("_name_or_path", "transformers_version")  # keys of config.json that say who wrote it


class BesidesWeights:
    """What an engine reads of a model's folder besides weights, configuration and tokenizer, as it was when it read it:
    the folder may be gone when the next model comes, as those of candidates are once one of them is chosen."""

    def __init__(self, served: str | Path) -> None:
        self._served, self._said = served, _settings(Path(served))

    def must_be_those_of(self, model: str | Path) -> None:
        """Another model's folder has the same.

        Raises:
            OtherModel: it has not, or has no weights, or others beside them; the message names the file.
        """
        found = sorted(Path(model).glob("*.safetensors"))
        if not found:
            raise OtherModel(f"{model}: no weights (*.safetensors) are there")
        if others := set(found) - set(weight_files(Path(model))):  # an engine would load these, too
            raise OtherModel(f"{min(others)}: stands beside the model's weights, so that takes a new engine")
        theirs = _settings(Path(model))
        for name in sorted(self._said.keys() | theirs.keys()):
            if self._said.get(name) != theirs.get(name):
                file = Path(model) / name
                raise OtherModel(f"{file}: it differs from that of {self._served}, so that takes a new engine")


def _settings(folder: Path) -> dict[str, Any]:
    """What the files of a model's folder say that are read besides the weights, by name."""
    found: dict[str, Any] = {}
    for file in folder.iterdir():
        if file.suffix not in (".json", ".jinja", ".model", ".tiktoken", ".txt") or file.name.endswith(".index.json"):
            continue
        content = file.read_bytes()
        found[file.name] = hashlib.sha256(content).digest()
        if file.name == "config.json":
            said = json.loads(content)
            found[file.name] = {key: value for key, value in said.items() if key not in _NOT_THE_MODEL}
    return found
