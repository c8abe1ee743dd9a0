"""What every source of pairs says of itself: its settings, what of the job it reads, and which other settings make no
sense with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic.fields import FieldInfo

from orchestrator.config.base import Settings, at_round

if TYPE_CHECKING:
    from orchestrator.config.data import Source
    from orchestrator.config.job import Job
    from orchestrator.config.reward import ProcessModel
    from orchestrator.config.sources.dataset import Stages

PROBLEMS = ("data.train", "data.prompts", "data.prompts_per_round", "pairs.max_pairs")
"""Read by sources whose pairs are made of problems."""
SAMPLING = (
    *("generate.samples", "generate.temperature", "generate.temperature_mix", "generate.top_p", "generate.top_k"),
    "pairs.per_prompt",
)
"""Read by those that draw several samples a prompt."""
PAIRING = ("pairs.rule", "pairs.margin", "pairs.gold_as_chosen", "pairs.rejected", "pairs.distinct")
"""Read by those that pair whole samples."""


@dataclass(frozen=True)
class Condition:
    """Keys of a source's own section that count only under another setting of it."""

    keys: tuple[str, ...]
    where: str
    """That setting, in the job's own words."""
    read: Callable[[Any], bool]
    """Whether the settings of the source are so."""


class SourceSettings(Settings):
    """A source of pairs: its name, and the settings that are its own. Each has a file here, and is in the registry."""

    type: str
    """Its name, as `source` in the job file."""

    section: ClassVar[str] = ""
    """The section of the job file with its settings; "" where it has none."""
    what: ClassVar[str]
    """What a round trains on, for the documentation."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """What of the job it reads, of the keys that not all sources do."""
    reads_anyway: ClassVar[frozenset[str]] = frozenset()
    """What it reads even where nothing else of the job asks for it."""
    conditions: ClassVar[Sequence[Condition]] = ()
    only: ClassVar[Mapping[str, str]] = {}
    """Keys that are refused beside other sources, and the words for it."""
    needs_problems: ClassVar[bool] = True
    """Whether there must be problems: those that prompts are drawn from, and held-out ones."""
    imitates: ClassVar[bool] = False
    """Whether its pairs have no rejected side."""
    compares_golds: ClassVar[bool] = False
    """Whether samples of the training problems are compared with gold answers."""
    takes_rewards: ClassVar[bool] = False
    """Whether reward models may score its samples (`reward`), in place of verdicts."""
    names_data: ClassVar[bool] = False
    """Whether the name of the file with the training problems stands in its pairs."""
    files: ClassVar[tuple[str, ...]] = ()
    """Its settings that are lists of sources of rows."""
    kept_as: ClassVar[Mapping[str, str]] = {}
    """Its keys that name data which a run keeps, and the step that keeps them."""
    judged_by: ClassVar[Mapping[str, str]] = {}
    """Steps of a round that a judge may decide, and the setting that says so where it is `judge`."""

    @classmethod
    def file_fields(cls) -> dict[str, FieldInfo]:
        """Its own settings, without its name, which stands elsewhere."""
        return {name: field for name, field in cls.model_fields.items() if name != "type"}

    @classmethod
    def of(cls, job: Job) -> Self:
        """The settings of a job whose source this is.

        Raises:
            TypeError: the job has another source.
        """
        if not isinstance(job.source, cls):
            raise TypeError(f"{cls.__name__} is asked of a job with `source: {job.source.type}`")
        return job.source

    @classmethod
    def name(cls) -> str:
        """As `type`, of the class."""
        named: str = cls.model_fields["type"].default
        return named

    @classmethod
    def usual(cls) -> Self | None:
        """Its settings at their defaults; None where one has none."""
        needed = any(field.is_required() for field in cls.file_fields().values())
        return None if needed else cls.model_validate({})

    @classmethod
    def incomplete(cls) -> str:
        """What is said where a job has the source, and nothing of its section."""
        needed = [f"`{cls.section}.{key}`" for key, field in cls.file_fields().items() if field.is_required()]
        return f"`source: {cls.name()}` needs {' and '.join(needed)}"

    @classmethod
    def rounds(cls, settings: Any) -> int | None:
        """How many rounds a job has that does not say; `settings` is what its file has in the section, unchecked."""
        return None

    @property
    def scores(self) -> tuple[float, float]:
        """Lowest and highest score that a sample can have."""
        return 0.0, 1.0

    @property
    def opens_with(self) -> str:
        """Text that the prompts end in, with which answers begin."""
        return ""

    @property
    def evaluation_opens_with(self) -> str:
        """The same, of gate and test."""
        return ""

    @property
    def stages(self) -> Stages | None:
        """The preference data that it learns from, where it does."""
        return None

    def has_scores(self, job: Job) -> bool:
        """Whether its samples have scores by which forms of the loss can go; verdicts are none."""
        return False

    @property
    def process_model(self) -> ProcessModel | None:
        """The process reward model that it asks, where it does."""
        return None

    def asks_judge(self) -> bool:
        """Whether it needs the section `judge`."""
        return False

    def lengths(self) -> Mapping[str, int]:
        """Keys with a longest answer, in tokens, beside those of the samples."""
        return {}

    def templates(self, job: Job) -> Mapping[str, str]:
        """Texts of the job that become parts of messages, by key."""
        return {"data.template": job.data.template}

    def rows(self) -> Iterator[tuple[str, Source]]:
        """Sources of rows beside the problems, with their keys."""
        for field in self.files:
            yield from ((f"{self.section}.{field}", source) for source in getattr(self, field))

    def paths_in_run(self) -> Iterator[tuple[str, str]]:
        """Files and folders below the run that others write and it reads, with their keys."""
        yield from ()

    def contradictions(self, job: Job) -> Iterator[str]:
        """What of the job makes no sense with it, each with the reason and the cure."""
        yield from ()


def no_correct_samples(job: Job) -> Iterator[str]:
    """Of sources whose samples are not to be imitated."""
    if job.pairs.imitates:
        yield f"`pairs.rule: {job.pairs.rule}` imitates samples of `source: sample`, and not of `{job.source.type}`"


def gold_solutions(job: Job, key: str) -> Iterator[str]:
    """What imitating gold solutions needs; `key` is the setting that asks for it."""
    if job.data.solution is None:
        yield f"`{key}` needs `data.solution`, the field with the worked gold solution"
    if not job.pairs.append_eos:
        yield "`pairs.append_eos: false` is for preference data: a model that imitates gold solutions must learn to end"


def rounds_that_differ(job: Job, *schedules: Any) -> range:
    """Rounds that can differ in how samples are drawn, and in the values of further `schedules`."""
    every: tuple[Any, ...] = (job.generate.samples, job.generate.temperature, *schedules)
    lists = [schedule for schedule in every if isinstance(schedule, list)]
    return range(1, min(job.rounds, max(map(len, lists), default=1)) + 1)


def single_samples(job: Job) -> Iterator[str]:
    """Rounds in which a prompt has no second sample, where pairs are of two samples."""
    for number in rounds_that_differ(job):
        if at_round(job.generate.samples, number) == 1:
            why = "a pair takes a better and a worse sample of a prompt"
            why = "the best of one sample is no choice" if job.pairs.rule == "best" else why
            yield f"`generate.samples` is 1 in round {number}, and {why}"


def same_samples(job: Job) -> Iterator[str]:
    """Rounds in which all samples of a prompt are the same, where pairs are of different ones."""
    for number in rounds_that_differ(job):
        if not any(job.generate.temperature_mix or [at_round(job.generate.temperature, number)]):
            key = "generate.temperature_mix" if job.generate.temperature_mix else "generate.temperature"
            yield f"`{key}` is 0 in round {number}: all samples of a prompt are then the same, and make no pair"
