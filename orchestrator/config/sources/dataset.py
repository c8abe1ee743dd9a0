"""Preference data, a chunk a round (sDPO, arXiv 2403.19270)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import Count
from orchestrator.config.data import SourceOrPath
from orchestrator.config.sources.base import SourceSettings, no_correct_samples

if TYPE_CHECKING:
    from orchestrator.config.job import Job


class Stages(SourceSettings):
    """Preference data, trained on chunk by chunk, one a round (sDPO, arXiv 2403.19270); for `source: dataset`."""

    type: Literal["dataset"] = "dataset"

    section: ClassVar[str] = "stages"
    what: ClassVar[str] = "preference data"
    reads: ClassVar[frozenset[str]] = frozenset({"pairs.append_eos"})
    reads_anyway: ClassVar[frozenset[str]] = frozenset({"data.date", "reference"})
    only: ClassVar[Mapping[str, str]] = {
        "stages": "`stages` is for `source: dataset` (method sdpo); with `source: {source}` nothing reads it"
    }
    needs_problems: ClassVar[bool] = False
    files: ClassVar[tuple[str, ...]] = ("sources",)
    kept_as: ClassVar[Mapping[str, str]] = {"stages.sources": "baseline/preferences"}

    sources: list[SourceOrPath] = Field(min_length=1)
    """Preference data, one chunk each: rows with `chosen`, `rejected` and `prompt`, as plain text or as lists of
    messages with `role` and `content`. The prompt may also be `question`, `query`, `problem`, `instruction` (followed
    by `input`, if there is one) or `input`, with the system message in `system`. Where the sides of every row repeat
    it, they are taken without it; where most but not all do, the data are refused. Where no column may be it, it is
    what both sides begin with (as in TRL). With `initial_reason_steps` (Step-DPO's data), the sides are single steps
    that follow these; that needs `pairs.append_eos: false`. A row that is none of these is refused; one with an empty
    or equal sides, or that is too long, is left out and counted. Messages need a model with a chat template; plain text
    becomes messages where `data.chat` is true."""
    template: str = "{prompt}"
    """Text of a prompt where the rows have plain text; `{prompt}` is the row's own, `{system}` its column `system`."""
    split: Count | None = None
    """Cut a single source into so many chunks, at random; rows with the same prompt stay together."""
    order: Literal["easy_first", "given", "random"] = "easy_first"
    """Order of the chunks: `easy_first` begins with the one of which the base model ranks most pairs right, that is,
    finds the chosen side likelier than the rejected one."""
    drop_seen: bool = False
    """A stage's reference must not know the stage's data. Pairs with a completion that the reference has been trained
    on are refused, or, with this, left out and counted."""

    @field_validator("template")
    @classmethod
    def _has_the_prompt(cls, value: str) -> str:
        if "{prompt}" not in value:
            raise ValueError("it has no {prompt}, where the row's own prompt stands")
        return value

    @property
    def chunks(self) -> int:
        """Number of chunks, which is the number of stages."""
        return self.split or len(self.sources)

    @model_validator(mode="after")
    def _one_source(self) -> Stages:
        if self.split is not None and len(self.sources) > 1:
            raise ValueError("`split` cuts a single source; several sources are a chunk each")
        return self

    @classmethod
    def incomplete(cls) -> str:
        return f"{super().incomplete()}, the files or data sets with preference data"

    @classmethod
    def rounds(cls, settings: Any) -> int | None:
        """A stage is a round; 1 where what is said is no number of chunks, which is refused at its own key."""
        if not isinstance(settings, Mapping):
            return None
        sources = settings.get("sources")
        try:
            return max(1, int(settings.get("split") or (len(sources) if isinstance(sources, list) else 1)))
        except (TypeError, ValueError, OverflowError):
            return 1

    @property
    def stages(self) -> Stages:
        return self

    def templates(self, job: Job) -> Mapping[str, str]:
        return {"stages.template": self.template}

    def contradictions(self, job: Job) -> Iterator[str]:
        """Samples that there are none of, data that the reference has seen, and more rounds than chunks."""
        yield from no_correct_samples(job)
        if job.reference == "previous" and job.pairs.replay:
            yield (
                "`pairs.replay` trains on earlier stages' data again, which the reference has seen by then: a "
                "reference must not know its stage's data. Set `pairs.replay: 0`, or `reference: base`"
            )
        if job.rounds > self.chunks:
            yield f"`rounds` is {job.rounds}, and `stages` gives {self.chunks} chunks, one a round"
