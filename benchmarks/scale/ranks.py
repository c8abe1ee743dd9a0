"""Training ranks that take as long as a cost model says, save their state, and lose what was not saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.scale.cluster import Worker
from benchmarks.scale.files import make_model, skill_of
from benchmarks.scale.simulation import Event, Ref, Simulation, Stream
from orchestrator.records import counts
from orchestrator.records.pair_ids import completion_key
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import PROBE, ScoringPlan, TrainingPlan
from workers.files import write_table

GAIN = 0.03
"""What a round adds to a model's skill."""
_LARGEST_SHARE = 0.02  # of the time that saving may take (workers.training.states.LARGEST_SHARE)


class Pairs:
    """What a training needs to know of its pairs."""

    def __init__(self, files: Sequence[str]) -> None:
        prompts: list[np.ndarray] = []
        sides: dict[str, int] = {}
        names: list[tuple[str, str]] = []
        lengths: list[np.ndarray] = []
        for file in files:
            table = read_table(file, columns=[f"{side}_token_ids" for side in ("prompt", "chosen", "rejected")])
            columns = [table[name] for name in table.column_names]
            prompts.append(pc.list_value_length(columns[0]).to_numpy())
            lengths.append(sum(pc.list_value_length(column).to_numpy() for column in columns))
            for batch in table.to_batches():
                arrays = [_lists(batch.column(i)) for i in range(3)]
                for prompt, chosen, rejected in zip(*arrays, strict=True):
                    pair = completion_key(prompt, chosen), completion_key(prompt, rejected)
                    sides |= {pair[0]: len(chosen), pair[1]: len(rejected)}
                    names.append(pair)
        self.lengths, self.sides, self.names = np.concatenate(lengths), sides, names
        self.prompt = float(np.concatenate(prompts).mean())


def _lists(column: pa.Array) -> list[np.ndarray]:
    values, offsets = column.values.to_numpy(), column.offsets.to_numpy()
    return [values[start:stop] for start, stop in pairwise(offsets)]


class Group:
    """The ranks that were started together, and what they are at."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.ranks = simulation, list[SimulatedRank]()
        self.size = 0
        self.policy: str | None = None
        self.at_work = False
        self._pairs: tuple[Sequence[str], Pairs] | None = None
        self._connecting: list[Ref] = []
        self._scoring: list[Ref] = []
        self._training: list[Ref] = []
        self._event: Event | None = None
        self._unsaved = 0.0
        self._began, self._state = 0.0, ""

    def pairs(self, files: Sequence[str]) -> Pairs:
        if self._pairs is None or self._pairs[0] != files:
            self._pairs = files, Pairs(files)
        return self._pairs[1]

    # Phases

    def connect(self, ref: Ref) -> None:
        self._connecting.append(ref)
        if len(self._connecting) == self.size:
            costs, found = self.simulation.case.costs, self._connecting
            self.phase("starting ranks", costs.connect + costs.connect_each * self.size, lambda: _all(found, 1))

    def score(self, plan: ScoringPlan, ref: Ref) -> None:
        self._scoring.append(ref)
        if len(self._scoring) < self.size:
            return
        found, pairs = self._scoring, self.pairs(plan.pairs)
        self._scoring = []
        tokens = sum(pairs.sides.values()) + pairs.prompt * len(pairs.sides)
        skill = skill_of(plan.model)
        rows = [(key, -skill * length, length) for key, length in pairs.sides.items()]

        def scored() -> None:
            found[0].complete(rows)
            _all(found[1:], [])

        self._load(plan.policy, lambda: self.phase("reference pass", self.compute(tokens, 2), scored))

    def train(self, plan: TrainingPlan, ref: Ref) -> None:
        self._training.append(ref)
        if len(self._training) == self.size:
            found, self._training = self._training, []
            stream = next(ref for ref in found if isinstance(ref, Stream))
            training = Training(self, plan, stream, [ref for ref in found if ref is not stream])
            self._load(plan.init, lambda: training.resume())

    def _load(self, folder: str, then: Callable[[], None]) -> None:
        """The weights, unless they are there; what was trained is the policy no longer."""
        costs, model = self.simulation.case.costs, self.simulation.case.model
        seconds = 0.0 if self.policy == folder else costs.reading(model.weights, self.simulation.case.nodes)
        self.policy = folder
        self.phase("starting ranks", seconds, then)

    def compute(self, tokens: float, passes: float) -> float:
        """Seconds for so many tokens, at so many FLOP a token and parameter."""
        case = self.simulation.case
        return passes * case.model.parameters * tokens / (self.size * case.costs.peak * case.costs.mfu)

    def phase(self, state: str, seconds: float, then: Callable[[], None]) -> None:
        """All ranks are at one thing for so long."""
        for rank in self.ranks:
            rank.become(state)
        self.at_work, self._began, self._state = True, self.simulation.now, state

        def over() -> None:
            self.at_work = False
            for rank in self.ranks:
                rank.become("engine idle")
            then()

        self._event = self.simulation.after(seconds, over)

    def keep(self, seconds: float) -> None:
        """An update is done, and not saved yet."""
        self._unsaved += seconds

    def saved(self) -> None:
        self._unsaved = 0.0

    def broken(self) -> None:
        """A rank is gone: the others wait for it. What was trained since the last state is lost."""
        if not self.at_work or self._event is None:
            return
        self._event.off, self.at_work = True, False
        accounts, now = self.simulation.accounts, self.simulation.now
        accounts.settle(now)
        if self._state in ("training", "reference pass"):
            accounts.move(self._state, "lost training", (now - self._began) * self.size)
        accounts.move("training", "lost training", self._unsaved * self.size)
        self._unsaved = 0.0
        for rank in self.ranks:
            if not rank.dead:
                rank.become("lost peers")


class Training:
    """One attempt at a training, from its last saved state on."""

    def __init__(self, group: Group, plan: TrainingPlan, stream: Stream, followers: list[Ref]) -> None:
        self.group, self.plan, self.stream, self.followers = group, plan, stream, followers
        case = group.simulation.case
        lengths = group.pairs(plan.pairs).lengths
        size = case.batch_pairs
        self.updates = [int(lengths[i : i + size].sum()) for i in range(0, len(lengths), size)]
        self._state = Path(plan.state_dir) / "updates"
        self.done = self.resumed_from = int(self._state.read_text()) if self._state.exists() else 0
        self._since = self._took = 0.0

    def resume(self) -> None:
        case = self.group.simulation.case
        size = case.costs.state_bytes * case.model.parameters
        reading = size / min(case.costs.read * case.nodes, case.costs.storage) if self.done else 0.0
        self.group.phase("starting ranks", reading, self._begin)

    def _begin(self) -> None:
        self._since = self.group.simulation.now
        self._next()

    def _next(self) -> None:
        simulation = self.group.simulation
        if self.done == len(self.updates):
            case = simulation.case
            self.group.phase("exporting", case.model.weights / case.costs.write, self._publish)
            return
        seconds = self.group.compute(self.updates[self.done], 6)
        self.group.phase("training", seconds, lambda: self._updated(seconds))

    def _updated(self, seconds: float) -> None:
        simulation = self.group.simulation
        self.done += 1
        self.group.keep(seconds)
        self.stream.give(("step", self._row(self.done)))
        case = simulation.case
        due = max(60 * case.save_minutes, self._took / _LARGEST_SHARE)
        if simulation.now - self._since >= due and self.done < len(self.updates):
            self.group.phase("saving", case.saving, self._save)
        else:
            self._next()

    def _save(self) -> None:
        self._state.parent.mkdir(parents=True, exist_ok=True)
        self._state.write_text(str(self.done))
        self._since, self._took = self.group.simulation.now, self.group.simulation.case.saving
        self.group.saved()
        self._next()

    def _row(self, step: int) -> dict[str, Any]:
        row: dict[str, Any] = {"step": step, "loss": 0.6, "learning_rate": self.plan.learning_rate}
        return row | {"tokens_per_second": 1.0, "tokens": self.updates[step - 1], "padded_tokens": 0}

    def _publish(self) -> None:
        plan, pairs = self.plan, self.group.pairs(self.plan.pairs)
        self.group.saved()
        skill = min(0.95, skill_of(plan.init) + GAIN)
        make_model(Path(plan.checkpoint_dir), skill)
        probe = [{"prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprob": -2 * skill}]
        write_table(pa.Table.from_pylist(probe, PROBE), plan.probe_file)
        rows = [self._row(step) for step in range(1, self.done + 1)]
        write_table(pa.Table.from_pylist(rows), plan.metrics_file)
        told = {"pairs": len(pairs.names), "dropped_pairs": 0, "distinct_completions": len(pairs.sides)}
        facts = counts.metrics(rows) | told | {"tokens_per_second": 1.0, "resumed_from": self.resumed_from}
        self.stream.give(("facts", facts))
        self.stream.complete()
        _all(self.followers, None)


class SimulatedRank(Worker):
    """A rank; see workers.training.group._Rank."""

    gpus = 1
    starts_as = "starting ranks"

    def __init__(
        self, simulation: Simulation, options: Mapping[str, Any], settings: Any, rank: int, ranks: int
    ) -> None:
        super().__init__(simulation, options)
        if rank == 0:
            simulation.group = Group(simulation)
        self.group: Group = simulation.group
        self.group.ranks.append(self)
        self.group.size = ranks
        self._beats = 0

    def starting(self) -> float:
        return 0.0

    def answer(self, name: str, arguments: tuple[Any, ...], ref: Ref) -> None:
        if name == "beats":
            self._beats += self.group.at_work and not self.hangs
            ref.complete(self._beats)
        elif self.hangs:
            return
        elif name == "rendezvous":
            ref.complete("here")
        elif name == "connect":
            self.group.connect(ref)
        elif name == "reference_logprobs":
            self.group.score(arguments[0], ref)
        elif name == "preference_facts":
            ref.complete(self._preferences(*arguments))
        else:
            self.group.train(arguments[0], ref)

    def _preferences(self, plan: ScoringPlan, logprobs: dict[str, float], against: str | None) -> dict[str, float]:
        gammas = [logprobs[chosen] - logprobs[rejected] for chosen, rejected in self.group.pairs(plan.pairs).names]
        chosen, rejected = (
            float(np.mean([logprobs[p[i]] for p in self.group.pairs(plan.pairs).names])) for i in (0, 1)
        )
        accuracy = float(np.mean(np.array(gammas) > 0))
        means = {"ranking_accuracy": accuracy, "gamma": float(np.mean(gammas))}
        return means | {"chosen_logprob": chosen, "rejected_logprob": rejected}

    def stopped(self) -> None:
        self.group.broken()


def _all(refs: Sequence[Ref], value: Any) -> None:
    for ref in refs:
        ref.complete(value)
