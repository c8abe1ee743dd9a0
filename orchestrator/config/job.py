"""One job, all of its sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Optional, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from orchestrator.config.archive import archive_address
from orchestrator.config.base import Count, CountOrZero, Seconds, Settings, Words
from orchestrator.config.data import Data
from orchestrator.config.environment import names, variables
from orchestrator.config.learning import Loss, Pairs, Promotion, Train
from orchestrator.config.lora import Lora
from orchestrator.config.marks import Executing, mark_at
from orchestrator.config.reward import Reward
from orchestrator.config.rules import contradictions
from orchestrator.config.sampling import Evaluate, Generate, Grade, Judge, Regrade
from orchestrator.config.sources import KINDS, Sample, SourceSettings, Stages, form, kind_named, sections


def _variables(given: Any) -> Any:
    return variables(given) if isinstance(given, dict) and all(isinstance(name, str) for name in given) else given


METHOD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
Method = Literal["irpo", "sdpo", "step_dpo", "dpo", "sft", "star", "rft", "rest_em", "iterative_dpo", "self_rewarding"]
_OwnMethod = Annotated[
    str,
    Field(pattern=rf"^{METHOD_NAME}$", max_length=40),
    WithJsonSchema({"type": "string", "pattern": rf"^([^#]+#)?{METHOD_NAME}$"}),
    Words("a row of a file of your own, `FILE#NAME`"),
]


class Keep(Settings):
    """What stays on the disk."""

    checkpoints: Count | None = None
    """Promoted checkpoints that are kept, the newest first; the reference and the best always are. Null keeps all."""
    training_states: CountOrZero = 1
    """Saved states of an unfinished training that are kept; 0 saves none, and a crash costs the round's training."""


class Cluster(Settings):
    """Which Ray cluster to use, and how much of it."""

    address: str | None = None
    """Ray address to join; null joins `RAY_ADDRESS` if that is set, and starts a local one otherwise."""
    cpus_per_engine: Count | None = None
    """CPU cores of an engine; null shares out the cores of a machine without accelerators."""
    cpus_per_rank: Count | None = None
    """CPU cores of a training rank; null shares out likewise."""
    accelerators: Literal["auto", "none"] = "auto"
    """`none` stays on CPU even where the cluster has accelerators."""
    placement: Literal["shared", "split"] = "shared"
    """`shared` has engines and ranks take turns on the same devices. `split` gives each role devices of its own, for as
    long as the run: nothing is started or given back between two phases, and one of the two always has nothing to
    do."""
    warm: bool | None = None
    """Whether engines and ranks that take turns keep their processes: who has had its turn gives the memory back and
    rests, so that a change of phase starts no process and loads no library. Null has it so on CPU and not on
    accelerators, where nobody has tried it yet; `true` has it there, too, and `false` nowhere."""
    timeout: Seconds = 120.0
    """Seconds to wait for the cluster to answer, and to have the resources free: other jobs hold them, or a node was
    lost and none has come in its place. Then the run ends with exit code 75, and the same command goes on."""
    idle_release: Seconds | None = 300.0
    """Seconds without work for engines or ranks, since a judge is waited for, after which they are ended and their
    place is given back; they are started again when they are needed. null keeps them."""
    interface: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Network interface over which training ranks talk, by name (`ib0`) or, where its name differs between nodes, by
    its network (`10.1.0.0/16`). Null is the one that has the address which the node is known to Ray by; the
    environment variables GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME of a node go before. A local Ray keeps to
    loopback."""
    env: Annotated[dict[str, str], BeforeValidator(_variables)] = {}
    """Environment variables of the workers, by name: `NCCL_*`, `HF_*`, the engine's own. They are written into the run:
    no secrets. What Ratchet sets itself is refused, with the key that says it instead."""
    secrets: Annotated[list[str], AfterValidator(names)] = []
    """Names of environment variables that engines and training ranks get from the driver's environment. It must list
    them in RATCHET_SECRETS (names with commas between), and their values are written nowhere."""


Store = Literal["tensorboard", "wandb", "trackio"]


class Tracking(Settings):
    """Where a run is shown while it goes on: in MLflow, and in further stores."""

    enabled: bool = True
    """Track the run in MLflow."""
    uri: str | None = None
    """Tracking address; null is `mlflow.db` (SQLite) in the folder of runs. It must hold no password, which would be
    written into the run: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, are read from
    the environment, and a database's client has a file of its own (`~/.pgpass`, `my.cnf`)."""
    experiment: str | None = None
    """Experiment's name; null is that of the project, which has the name of its folder, and for a run that is in MLflow
    already the one that it is in."""
    sinks: list[Store] = []
    """Further stores that get the figures, each by a process of its own, which can neither slow nor stop the run:
    `tensorboard` (event files in the run's folder `tensorboard`), `wandb` (Weights & Biases) and `trackio`. Each is an
    extra: `pip install 'ratchet-orchestrator[tensorboard]'`. Their keys and addresses are read from the environment
    (WANDB_API_KEY, WANDB_MODE, TRACKIO_SPACE_ID, ...) and written nowhere; the project is the `experiment`."""


OWN_REFERENCES = ("previous", "base")
"""Values of `reference` that name no model outside the run."""


BESIDE = "sections of other sources"
"""By which they are given to `Job`; no key of a job file."""


def _source(said: Any) -> Any:
    """A source with its settings, which are given beside its name where its section says anything."""
    if isinstance(said, SourceSettings):
        return said
    name, settings = said if isinstance(said, tuple) else (said, {})
    kind = kind_named(name)
    if kind is None:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(KINDS)})
    if kind.usual() is None and not isinstance(said, tuple):
        raise ValueError(kind.incomplete())
    return kind.model_validate(settings)


def _section(said: Any) -> Any:
    name, settings = said
    return sections()[name].model_validate(settings)


def _field_of(kind: type[SourceSettings]) -> FieldInfo:
    usual, annotation = kind.usual(), cast(Any, kind)
    return FieldInfo(annotation=annotation if usual else Optional[annotation], default=usual)  # noqa: UP045


class Job(Settings):
    """One job: rounds of generate, score, pair, train, evaluate, promote."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the job and of its run folder `runs/<name>`."""
    method: Method | _OwnMethod = "irpo"
    """Which method's settings are the defaults; see below. A row of your own is named by its file and its name, and a
    run keeps its name."""
    source: Annotated[SourceSettings, BeforeValidator(_source)] = Sample()
    """Its settings are in the section that is named beside it. They may also stand here, with the name as `type`:
    `source: {type: steps, localiser: judge}` is `source: steps` with `steps: {localiser: judge}`."""
    beside: Annotated[
        dict[str, Annotated[SourceSettings, BeforeValidator(_section)]], Field(exclude=True, validation_alias=BESIDE)
    ] = {}
    """Sections of other sources that the job file has. Nothing reads them; what they would open needs trust."""
    rounds: Executing[Count] = 3
    """Number of rounds. A finished run goes on from where it is when this is raised."""
    seed: CountOrZero = 0
    """Seed of everything random; each part derives its own from it."""
    run_dir: Executing[str | None] = None
    """Run folder; null is `runs/<name>` in RATCHET_HOME, else in the project's or the current folder."""
    archive: Executing[Annotated[str, AfterValidator(archive_address)] | None] = None
    """Where a copy of the run is kept up to date while it goes on: an address that fsspec knows, such as
    `s3://BUCKET/runs/{name}` or `/DISK/runs/{name}`, in which `{name}` and `{seed}` are the job's. It belongs to this
    run. Credentials come from the environment and from files of the store's client; see [storage.md](storage.md)."""
    model: str
    """The base model: a Hugging Face folder (relative to the job file's folder, else the current one), or a model on
    the Hub, `ORG/NAME` or `ORG/NAME@REVISION` (branch, tag or commit), or a checkpoint of another run,
    `run:NAME@roundN`, or `run:NAME` for its current reference; NAME is the run's name or, with a `/`, its folder. A run
    keeps a model of the Hub or of another run as it was at its start."""
    init: Literal["previous", "base"] = "previous"
    """What a round's training starts from: the current reference, or the base model."""
    reference: Literal["previous", "base"] | str = "previous"
    """The reference model of a round's loss: `previous` (the last promoted checkpoint), `base` (the base model), or one
    and the same model for all rounds, named as `model` is; a folder of one of these two names is written `./base`. It
    must have the base model's vocabulary. A run keeps it as it was at its start."""
    data: Data = Data()
    generate: Generate = Generate()
    grade: Grade = Grade()
    regrade: Regrade | None = None
    pairs: Pairs = Pairs()
    judge: Judge | None = None
    reward: Reward | None = None
    loss: Loss = Loss()
    train: Train = Train()
    lora: Lora | None = None
    evaluate: Evaluate = Evaluate()
    promotion: Promotion = Promotion()
    keep: Executing[Keep] = Keep()
    cluster: Executing[Cluster] = Cluster()
    tracking: Executing[Tracking] = Tracking()

    @classmethod
    def file_fields(cls) -> dict[str, FieldInfo]:
        """With the settings of each source as a section, and of the source its name."""
        names: Any = Literal[tuple(KINDS)]
        told = [
            f"`{name}` ({kind.what}{f', see `{kind.section}`' if kind.section else ''})" for name, kind in KINDS.items()
        ]
        found: dict[str, FieldInfo] = {}
        for name, field in cls.model_fields.items():
            found[name] = field
            if name == "source":
                text = f"What a round trains on: {', '.join(told[:-1])}, or {told[-1]}. {field.description}"
                found[name] = FieldInfo(annotation=names, default=Sample.name(), description=text)
            if name == "pairs":
                found |= {section: _field_of(kind) for section, kind in sections().items()}
        del found["beside"]
        return found

    @property
    def stages(self) -> Stages | None:
        """The preference data that the job learns from, where it does."""
        return self.source.stages

    def sources(self) -> Iterator[SourceSettings]:
        """The settings of its own source, and then of those that the file has beside it."""
        yield from (self.source, *self.beside.values())

    @property
    def fixed_reference(self) -> str | None:
        """The model that `reference` names; None where it is one of the run's own."""
        return None if self.reference in OWN_REFERENCES else self.reference

    @model_validator(mode="before")
    @classmethod
    def _from_its_file(cls, said: Any) -> Any:
        """In a file the settings of a source are a section (or stand with its name, see sources/form.py)."""
        if not isinstance(said, Mapping) or isinstance(said.get("source"), SourceSettings):
            return said
        if BESIDE in said:
            raise ValueError(f"unknown key `{BESIDE}`")
        job, known = form.in_sections(said), sections()
        given = {key: job.pop(key) for key in list(job) if key in known}
        given = {key: value for key, value in given.items() if value is not None or known[key].usual()}
        name = job.get("source", Sample.name())
        own = next((key for key in given if known[key].name() == name), None)
        source = {"source": name if own is None else (name, given.pop(own))}
        return job | source | {BESIDE: {key: (key, value) for key, value in given.items()}}

    @field_validator("beside")
    @classmethod
    def _that_say_anything(cls, value: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        return {key: said for key, said in value.items() if said != said.usual()}

    @model_serializer(mode="wrap")
    def _as_in_its_file(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """With a section for every source that has one, whichever source it is."""
        own = {said.section: said.model_dump(mode=info.mode, exclude={"type"}) for said in self.sources()}
        made: dict[str, Any] = {}
        for key, value in handler(self).items():
            made[key] = self.source.type if key == "source" else value
            if key == "pairs":
                for section, kind in sections().items():
                    usual = kind.usual()
                    made[section] = own.get(section, usual and usual.model_dump(mode=info.mode, exclude={"type"}))
        return made

    @model_validator(mode="after")
    def _makes_sense(self) -> Job:
        for problem in contradictions(self):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _untrained_gate(self) -> Job:
        if self.train.retrain and self.promotion.rule != "always":
            raise ValueError(
                "`train.retrain` trains on the gate problems, which can decide nothing after that: set "
                "`promotion.rule: always`, or leave `retrain` out"
            )
        return self

    @field_validator("seed")
    @classmethod
    def _seed_fits(cls, value: int) -> int:
        if value >= 2**31:
            raise ValueError("must be below 2147483648")
        return value


def is_executing(key: str) -> bool:
    """Whether a dotted key only says how the work is executed, whatever its value is."""
    mark, _ = mark_at(Job, key)
    return mark is not None and mark.wholly


def only_executes(key: str, old: Any, new: Any) -> bool:
    """Whether two values of a dotted key come to the same result, or to the same but for rounding."""
    mark, below = mark_at(Job, key)
    if mark is None or mark.wholly:
        return mark is not None
    for name in reversed(below):
        old, new = {name: old}, {name: new}
    return bool(mark.decides(old) == mark.decides(new))
