"""A run in numbers for Prometheus: what its ledger's records count, and what its driver waits for.

Every meter is a counter, and tells of the whole run: a driver that resumes it begins with what the ledger has, so that
a total is the same whichever driver tells it. What was taken over from another run is not counted. Waiting for room is
in no record: that is the driver's own. Nothing of a prompt, a path or a shard is in a tag, so that a run of any size
has a few dozen series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.errors import BadInput, first_line
from orchestrator.ledger.ledger import Ledger, State
from orchestrator.ledger.record_files import Record
from orchestrator.ledger.taken import taken
from orchestrator.reports.rounds import round_and_phase

PREFIX = "ray_"
"""What Ray puts before the name of each metric that Prometheus reads."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A counter. `tags` are its labels besides `run`, the run's name."""

    name: str
    tags: tuple[str, ...]
    says: str

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return PREFIX + self.name


ROUNDS = Meter("ratchet_rounds_total", ("outcome",), "Rounds that the gate has decided: promoted, refused")
SHARDS = Meter("ratchet_shards_total", ("phase", "role"), "Shards that are committed, by phase and kind of worker")
TOKENS = Meter("ratchet_tokens_total", ("phase", "role"), "Tokens that engines sampled and ranks trained on or scored")
LOST = Meter("ratchet_workers_lost_total", ("role",), "Engines and graders that were replaced; restarts of all ranks")
APPENDS = Meter("ratchet_ledger_appends_total", ("kind",), "Records of the ledger, by kind")
WAITING = Meter(
    "ratchet_waiting_seconds_total", ("role",), "Seconds without work: for room on the cluster, and for graders"
)
STEPS = Meter("ratchet_step_seconds_total", ("phase",), "Seconds that committed steps took, by phase")
METERS = (ROUNDS, SHARDS, TOKENS, LOST, APPENDS, WAITING, STEPS)

_MAKERS = {"samples": "engine", "verdicts": "grader", "rewards": "rewarder"}
"""Who makes which kind of shards (records/shards.py)."""
Count = tuple[Meter, Mapping[str, str], float]
Metric = Callable[[float, dict[str, str]], None]
"""A metric that can be counted up, by an amount above 0 and with all its tags."""


METRICS_PORT = "RATCHET_METRICS_PORT"
"""Where a private Ray shows metrics, on loopback; without it on a port that is free."""


def metrics_port(environment: Mapping[str, str]) -> int | None:
    """The port that METRICS_PORT asks for; None where it does not.

    Raises:
        BadInput: it is no port.
    """
    if not (given := environment.get(METRICS_PORT)):
        return None
    if not (given.isascii() and given.isdigit() and 0 < int(given[:6]) < 2**16):
        raise BadInput(f"{METRICS_PORT}: {given!r} is no port. Give a number from 1 to 65535, such as 9464.")
    return int(given)


class Show(Protocol):
    """Whoever makes a metric that is shown (driver/cluster.py)."""

    def __call__(self, name: str, says: str, tags: tuple[str, ...]) -> Metric: ...


def counted(record: Record, state: State) -> Iterator[Count]:
    """What a record counts; `state` is the fold of the ledger up to it or further."""
    yield APPENDS, {"kind": record.kind}, 1
    match record.kind:
        case "promotion":
            yield ROUNDS, {"outcome": "promoted" if record.data["promoted"] else "refused"}, 1
        case "shard":
            yield from _of_shard(record.data, state)
        case "commit":
            yield from _of_commit(record.data, state)


def _of_shard(data: Mapping[str, Any], state: State) -> Iterator[Count]:
    step, facts = data["step"], data["facts"]
    offer, made = state.offers.get((step, data["index"])), data["artifact"]
    if offer is not None and [artifact.as_json() for artifact in offer.artifacts] == [made]:
        return  # taken over; see ledger/taken.py
    phase, role = _phase(step), _MAKERS.get(step.rpartition("/")[2], "worker")
    yield SHARDS, {"phase": phase, "role": role}, 1
    yield TOKENS, {"phase": phase, "role": role}, facts.get("tokens", 0)
    yield WAITING, {"role": role}, facts.get("waited", 0)
    yield from _lost(facts)


def _of_commit(data: Mapping[str, Any], state: State) -> Iterator[Count]:
    step, facts = data["step"], data["facts"]
    if taken(state, step):
        return
    phase = _phase(step)
    yield STEPS, {"phase": phase}, facts.get("seconds", 0)
    if step in state.shards:  # whose shards have told the rest
        return
    yield from _lost(facts)
    if "train.ranks" in facts.get("executed", {}):
        yield LOST, {"role": "rank"}, facts.get("restarts", 0)
        yield TOKENS, {"phase": phase, "role": "rank"}, facts.get("tokens", 0)


def _lost(facts: Mapping[str, Any]) -> Iterator[Count]:
    for role in ("engine", "grader", "rewarder"):
        yield LOST, {"role": role}, len(facts.get(f"{role}s_lost", ()))


def _phase(step: str) -> str:
    """The phase of a step, without the numbers below it, which have no bound."""
    return round_and_phase(step)[1].partition("/")[0]


class Meters:
    """The totals of one run, shown as soon as somebody can show them: a driver connects to Ray when it has work, and a
    run that is finished has none. That they cannot be shown ends no run."""

    def __init__(self, run: str, say: Callable[[str], None] = lambda line: None) -> None:
        """`run` is the run's name, a tag of all; `say` is told why they cannot be shown, once."""
        self._run, self._say, self._seen = run, say, 0
        self._totals: dict[tuple[Meter, tuple[tuple[str, str], ...]], float] = {}
        self._shown: dict[tuple[Meter, tuple[tuple[str, str], ...]], float] = {}
        self._metrics: dict[Meter, Metric] = {}

    def follow(self, ledger: Ledger) -> None:
        """Count the records that are new."""
        new, self._seen = ledger.records[self._seen :], len(ledger.records)
        for record in new:
            for count in counted(record, ledger.state):
                self._add(*count)
        self._tell()

    def waited(self, role: str, seconds: float) -> None:
        """A worker of this role had no room on the cluster for so long."""
        self._add(WAITING, {"role": role}, seconds)
        self._tell()

    def show_by(self, show: Show | None) -> None:
        """Show the totals by these metrics from now on; None: no more."""
        made = {} if show is None else {m: show(m.name, m.says, ("run", *m.tags)) for m in METERS}
        self._metrics, self._shown = made, {}
        self._tell()

    def totals(self) -> dict[str, dict[tuple[str, ...], float]]:
        """By a meter's name: by the values of its tags, without the run's."""
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for (meter, tags), total in self._totals.items():
            found.setdefault(meter.name, {})[tuple(value for _, value in tags)] = total
        return found

    def _add(self, meter: Meter, tags: Mapping[str, str], amount: float) -> None:
        if amount > 0:
            key = (meter, tuple((name, tags[name]) for name in meter.tags))
            self._totals[key] = self._totals.get(key, 0) + amount

    def _tell(self) -> None:
        if not self._metrics:
            return
        try:
            for key, total in self._totals.items():
                if (more := total - self._shown.get(key, 0)) > 0:
                    self._metrics[key[0]](more, {"run": self._run, **dict(key[1])})
                    self._shown[key] = total
        except Exception as error:  # Ray's, of any kind: the run goes on without being shown
            self._metrics = {}
            self._say(f"metrics   cannot be shown any more: {first_line(error)}")
