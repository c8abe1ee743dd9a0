"""What each kind of ledger record says, as typed models: a run may come from somebody else, and a `check` is no
signature.

A record is held against its model when it is read and before it is written. It is kept as it is: keys that no model
has were written by another version and stay, and nothing is filled in or converted. What a step tells of itself stands
in step_facts.py, and the job in recorded_job.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict

from orchestrator.config import Rule
from orchestrator.ledger import recorded_job, step_facts

Kind = Literal["claim", "config", "offer", "shard", "commit", "promotion", "rollback", "discard", "end"]
EndState = Literal["finished", "interrupted", "failed", "stopped", "not started"]

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_EPOCH = 10**9
MAX_ROUND = 10**6
MAX_REASON = 10_000
"""Characters of what a person says of a rollback."""
_MAX_TOLD = 3
_SUBJECT = re.compile(r"^(Value error, )?(Input|String|List|Dictionary|Value)? ?(?=should )")
_MAX_SHOWN = 80
_MOST_NAMED = 1000  # folders and overrides: each is tried with each path, or put into the job
# No part of a path begins with a dot, so that none is `..` or hidden; no control characters, no backslash.
_PART = r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*"
_FINAL = re.compile(rf"{_PART}(?:/{_PART})*")
_HIDDEN = re.compile(rf"(?:{_PART}/)*\.{_PART}")
_FILE = re.compile(rf"(?:\.?{_PART}(?:/\.?{_PART})*)?")
_ROUND = re.compile(r"rounds(?:/[0-9]{1,6}/.+|/[0-9]{1,6})?|(?!rounds/).*")


def _inside(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if not pattern.fullmatch(name) or len(name) > 4096:
            raise ValueError(what)
        if name[:6].casefold() == "ledger" and name[6:7] in ("", "/"):
            raise ValueError("should be a path outside of the ledger's own folder")
        return name

    return check


def _plain(text: str) -> str:
    if "\0" in text:
        raise ValueError("should be a path without a null character")
    return text


def _of_round(step: str) -> str:
    if not _ROUND.fullmatch(step):
        raise ValueError("should be the name of a step, such as rounds/01/pairs, of a round below 1,000,000")
    return step


FinalPath = Annotated[
    str, AfterValidator(_inside(_FINAL, "should be a path inside the run, with no hidden name in it"))
]
HiddenPath = Annotated[
    str, AfterValidator(_inside(_HIDDEN, "should be the path of a hidden file or folder inside the run"))
]
FileName = Annotated[str, AfterValidator(_inside(_FILE, "should be the name of a file inside its folder"))]
Step = Annotated[FinalPath, AfterValidator(_of_round)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Place = Annotated[str, Field(max_length=4096), AfterValidator(_plain)]
"""A path of the machine that the run was driven on; it may lie outside of the run."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Recipe = Annotated[int, Field(ge=1, le=1000)]
Index = Annotated[int, Field(ge=0, lt=10**9)]
Facts = dict[str, Any]


class RecordModel(BaseModel):
    """Base of all models: frozen, no conversions, and keys of other versions are let be."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


class FileData(RecordModel):
    """A committed file."""

    size: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Digest


class ArtifactData(RecordModel):
    """A folder of committed files, or one file, whose name in `files` is empty. What is hidden stands beside it."""

    path: FinalPath
    hidden: HiddenPath
    files: Annotated[dict[FileName, FileData], Field(min_length=1)]

    @model_validator(mode="after")
    def _belongs_together(self) -> ArtifactData:
        if self.path.rpartition("/")[0] != self.hidden.rpartition("/")[0]:
            raise ValueError("should be an artifact whose hidden name is in the folder of its final one")
        if "" in self.files and len(self.files) > 1:
            raise ValueError("should be an artifact that is one file, or a folder of files, and not both")
        return self


class ClaimData(RecordModel):
    """The process that became the run's driver; `driver.json` says the same, and `run`, where that is."""

    host: Annotated[str, Field(max_length=1000)] | None = None
    pid: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    process_start: Annotated[float, Field(ge=0, le=1e12)] | None = None
    pid_namespace: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    version: Annotated[str, Field(max_length=1000)] | None = None
    run: Place | None = None
    purpose: Literal["gc"] | None = None
    """Why it was claimed, where that was not to drive it."""
    paths: list[FinalPath] = []
    """Of a cleaning: committed artifacts that it removes."""


class ParentData(RecordModel):
    """The run that this one was made from."""

    run: Place
    run_id: Name | None = None


class ExecutedData(RecordModel):
    """Settings that only execute now and that an earlier recipe of fingerprints counted (recipes.as_recorded)."""

    ranks: Annotated[int, Field(ge=1)] = 1
    zero: Annotated[int, Field(ge=0, le=3)] = 1
    offload_optimizer: bool = False
    tokens_per_microbatch: Annotated[int, Field(ge=1)] = 1
    activation_checkpointing: bool = False
    attention: str = ""
    engine: dict[str, Any] = {}


_Cores = Annotated[int, Field(ge=1, le=10**6)]
_Many = Annotated[int, Field(ge=1, le=10**6)]
Resolved = TypedDict(
    "Resolved",
    {
        "train.attention": Literal["sdpa", "matmul", "flex"],
        "train.ranks": _Many,
        "train.zero": Annotated[int, Field(ge=1, le=3)],
        "train.tokens_per_microbatch": Annotated[int, Field(ge=1, lt=2**63)],
        "train.activation_checkpointing": bool,
        "generate.engines": _Many,
        "generate.tensor_parallel": _Many,
        "generate.dtype": Literal["own", "float32", "bfloat16", "float16"],
        "cluster.cpus_per_rank": _Cores,
        "cluster.cpus_per_engine": _Cores,
    },
    total=False,
)


class ResolvedData(RecordModel):
    """What a machine made of settings that were left to it, by key of the job (driver/settled.py)."""

    device: Literal["cpu", "cuda"] | None
    """None where only is said what an earlier version did on any device."""
    settings: Resolved


class ConfigData(RecordModel):
    """The job as it was then, with every default, and what it was started with."""

    run_id: Name
    job: dict[str, Any]
    job_file: Place
    versions: dict[str, str]
    model: Place | None = None
    """The folder of the base model; 0.1.0 wrote none at first."""
    folders: Annotated[list[Place], Field(max_length=_MOST_NAMED)] = []
    overrides: Annotated[list[str], Field(max_length=_MOST_NAMED)] = []
    parent: Annotated[ParentData, Field(default=None)]
    executed: list[ExecutedData] = []
    resolved: Annotated[ResolvedData, Field(default=None)]
    model_digest: str = ""
    problems: dict[str, str] = {}
    reading: Annotated[int, Field(ge=1)] = 1


class OfferData(RecordModel):
    """What another run has committed, at the hidden name of each artifact."""

    step: Step
    index: Index | None
    fingerprint: Name
    recipe: Recipe = 1
    artifacts: list[ArtifactData]
    discarded: list[FinalPath]
    facts: Facts

    @model_validator(mode="after")
    def _one_file_a_shard(self) -> OfferData:
        if self.index is not None and len(self.artifacts) != 1:
            raise ValueError("should be an offer of a shard with one artifact")
        return self


class ShardData(RecordModel):
    """A finished shard of a step, which is one file."""

    step: Step
    index: Index
    artifact: ArtifactData
    facts: Facts


class CommitData(RecordModel):
    """A finished step."""

    step: Step
    fingerprint: Name
    recipe: Recipe = 1
    artifacts: list[ArtifactData]
    facts: Facts
    discarded: list[FinalPath] = []


class PromotionData(RecordModel):
    """The gate's word. Whether an absolute `reference` or `best` is the base model's own folder is seen by the fold."""

    round: Annotated[int, Field(ge=1, lt=MAX_ROUND)]
    promoted: bool
    reference: Place
    best: Place | None = None
    reason: str
    rule: Rule
    alpha: Annotated[float, Field(ge=0, le=1)]
    p_value: Annotated[float, Field(ge=0, le=1)]
    won: Annotated[int, Field(ge=0, lt=2**63)]
    lost: Annotated[int, Field(ge=0, lt=2**63)]
    smallest_detectable_drop: Annotated[float, Field(ge=0, le=1)] | None = None
    graders_version: Annotated[int, Field(ge=0, le=10**6)] = 1

    @model_validator(mode="after")
    def _models_of_the_run(self) -> PromotionData:
        for name in (self.reference, self.best):
            if name is not None and not name.startswith("/") and not _FINAL.fullmatch(name):
                raise ValueError(
                    "should be a promotion whose models are paths inside the run, with no hidden name in them"
                )
        return self


class RollbackData(RecordModel):
    """A person's word that an earlier reference is the reference again."""

    round: Annotated[int, Field(ge=0, lt=MAX_ROUND)]
    """Whose checkpoint that is; 0 is the base model."""
    before: Place
    """The reference until then."""
    rounds: Annotated[list[Annotated[int, Field(ge=1, lt=MAX_ROUND)]], Field(max_length=MAX_ROUND)]
    """Those of which something is committed, and that are set aside."""
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""

    @model_validator(mode="after")
    def _goes_back(self) -> RollbackData:
        if any(number <= self.round for number in self.rounds) or sorted(set(self.rounds)) != self.rounds:
            raise ValueError("should be a rollback that sets rounds aside, in order, which follow the one it names")
        return self


class DiscardData(RecordModel):
    """Committed artifacts that were removed on purpose."""

    paths: list[FinalPath]


class EndData(RecordModel):
    """How a driver ended."""

    state: EndState
    reason: str = ""
    goal: Step | None = None
    """The step that it was to come as far as, where that is not all of its rounds."""


MODELS: Mapping[str, type[RecordModel]] = {
    "claim": ClaimData,
    "config": ConfigData,
    "offer": OfferData,
    "shard": ShardData,
    "commit": CommitData,
    "promotion": PromotionData,
    "rollback": RollbackData,
    "discard": DiscardData,
    "end": EndData,
}
_VALIDATE = {kind: model.__pydantic_validator__.validate_python for kind, model in MODELS.items()}


def check_data(kind: str, data: Any) -> None:
    """Hold the data of a record against the model of its kind.

    Raises:
        ValueError: it does not fit: with key, value and what is wanted.
    """
    if kind not in _VALIDATE:
        raise ValueError(
            f"its kind is {quoted(kind)}, which this version does not know: a newer Ratchet or somebody else wrote it"
        )
    at = ""
    try:
        _VALIDATE[kind](data)
        if kind in ("commit", "shard", "offer"):
            at = "facts."
            step_facts.check(data["step"], data["facts"])
        elif kind == "config":
            at = "job."
            recorded_job.check(data["job"])
    except ValidationError as error:
        raise ValueError(error_text(error, f"data.{at}")) from None


def error_text(error: ValidationError, at: str = "") -> str:
    """What is wrong with a value, for people: each key with the value that was found, and what it must be."""
    problems = error.errors(include_url=False, include_context=False)
    problems.sort(key=lambda problem: problem["type"] == "missing")  # what is there and wrong says more
    lines = []
    for problem in problems[:_MAX_TOLD]:
        key = (at + ".".join(map(str, problem["loc"]))).rstrip(".")
        said = _SUBJECT.sub("", problem["msg"])
        if problem["type"] == "missing":
            lines.append(f"`{key}` is missing")
        else:
            lines.append(f"`{key}` is {quoted(problem['input'])} and {said}")
    more = len(problems) - _MAX_TOLD
    return "; ".join(lines) + (f"; and {more} more like that" if more > 0 else "")


def quoted(value: Any) -> str:
    """A value that was found, cut where it is long. Control characters and the like are written out."""
    text = repr(value) if not isinstance(value, str) else repr(value[: 2 * _MAX_SHOWN])
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
