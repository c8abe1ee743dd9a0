"""Sampling, verdicts and evaluation."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from orchestrator.config.base import (
    Count,
    CountOrZero,
    CountSchedule,
    Fraction,
    NonEmpty,
    NonNegative,
    NonNegativeSchedule,
    Positive,
    Seconds,
    Settings,
    compiled,
)
from orchestrator.config.engines import ENGINE
from orchestrator.config.marks import Executes, Executing
from orchestrator.files import strict_json

_ENGINE = Executes(
    since=3,
    decides=ENGINE.deciding,
    words=f"May change at every start: {', '.join(f'`{name}`' for name in sorted(ENGINE.executing))}.",
)


TaskName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.+()-]*$", max_length=200)]
"""Of lm-evaluation-harness, which takes paths and patterns, too."""

OWN = "own"
"""The value of `generate.dtype` that serves each checkpoint in its own number format."""


class AdaptTemperature(Settings):
    """A temperature that follows the share of mixed prompts, those with right and wrong samples. Where a round has
    fewer than wanted, the next one samples hotter if more of the others have only right samples, and else cooler, for
    then most have no right one."""

    mixed: Fraction = 0.5
    """Share of the prompts with samples that should be mixed; a round that reaches it keeps its temperature."""
    step: Positive = 0.1
    """By how much a round's temperature differs from that of the round before, at most."""
    lowest: Positive = 0.5
    """Lowest temperature."""
    highest: Positive = 1.5
    """Highest temperature."""


class Generate(Settings):
    """Sampling with a pool of engines."""

    samples: CountSchedule = 8
    """Samples a prompt (N), by round."""
    temperature: NonNegativeSchedule = 1.0
    """Sampling temperature, by round."""
    temperature_mix: list[NonNegative] | None = Field(default=None, min_length=1)
    """Temperatures that a prompt's samples take in turn, instead of `temperature`: `[1.0, 0.7]` draws half of them
    at each."""
    wave_samples: Count | None = None
    """Draw a prompt's samples in waves of so many, and stop asking it once its pairs are decided: no further sample
    could change them. They are those that all samples would give. Of the samples that are drawn the share of correct
    ones is biased, which the report says beside the unbiased one of the first wave. null draws all at once."""
    adapt_temperature: AdaptTemperature | None = None
    """Have each round's verdicts decide the next one's temperature, in place of a list; `{}` takes all defaults below.
    null keeps to `temperature`."""
    hint: bool = False
    """Sample once more, with `data.hint_template`, what no sample solved; what is correct then is paired with the
    prompt without the hint (STaR's rationalisation, arXiv 2203.14465)."""
    top_p: Fraction = 1.0
    """Nucleus sampling: keep the smallest set of tokens with this much probability."""
    top_k: CountOrZero = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    max_tokens: Count = 512
    """Longest completion, in tokens. A sample that reaches it is truncated and joins no pair."""
    stop: list[NonEmpty] = []
    """Texts that end a completion."""
    seeding: Literal["sample", "engine"] = "sample"
    """`sample`: each sample has a seed of its own, so that a fresh run repeats exactly.
    `engine`: one seed an engine, which is faster on GPU and repeats only by distribution."""
    engines: Executing[Count | None] = None
    """Number of engines. null is as many as the cluster has accelerators for; on CPU one."""
    tensor_parallel: Executing[Count | None] = None
    """Accelerators (or CPU ranks) an engine is spread over, all on one node. null is as few as the model fits on; on
    CPU one."""
    shard_prompts: Count = 32
    """Prompts that are generated, graded and committed together."""
    max_model_len: Count | None = None
    """Longest prompt and completion together, in tokens; null takes the model's."""
    max_num_seqs: Executing[Count | None] = None
    """Most sequences an engine works on at once. null is what the engine takes for throughput on its device."""
    dtype: Literal["own", "float32", "bfloat16", "float16"] | None = None
    """Number format in which engines serve: `own` is each checkpoint's own. null is `own`, but on accelerators
    `bfloat16` where the model or its checkpoints are in float32, for which there is no fast attention. It is resolved
    once: the run and its forks keep it, on another device too."""
    engine: Annotated[dict[str, Any], _ENGINE] = {}
    """Further arguments of the engine (vLLM), by its own names; those that have a key here are set there."""
    start_timeout: Executing[Seconds | None] = None
    """Seconds that an engine may take to load the model; null takes 1800, or as long as it takes to read the model's
    weights at 50 MB/s, where that is longer."""
    stall_timeout: Executing[Seconds] = 300.0
    """Seconds after which an engine that has work and makes no progress is taken for hung and replaced."""

    @field_validator("engine")
    @classmethod
    def _further(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, key in ENGINE.keys.items():
            if name in value:
                raise ValueError(f"`{name}` is the job's `{key}`, which is where to set it")
        try:
            strict_json.loads(json.dumps({"data": {"job": {"generate": {"engine": value}}}}, allow_nan=False).encode())
        except UnicodeEncodeError:
            pass  # which is told of every text of a job: document.unwritable
        except (TypeError, ValueError) as error:  # what a run writes down would be something else
            raise ValueError(f"it must hold texts, numbers, true, false, null, lists and mappings ({error})") from error
        return value

    @property
    def num_engines(self) -> int:
        """`engines`; where it is left to the machine, what it comes to on CPU."""
        return self.engines or 1

    @property
    def spread(self) -> int:
        """`tensor_parallel`; where it is left to the machine, what it comes to on CPU."""
        return self.tensor_parallel or 1

    @model_validator(mode="after")
    def _fits(self) -> Generate:
        if self.dtype is not None and "dtype" in self.engine:
            raise ValueError(
                f"`dtype` ({self.dtype}) and `engine.dtype` ({self.engine['dtype']}) are one setting: give `dtype`"
            )
        if self.adapt_temperature is not None:
            self._adapts(self.adapt_temperature)
        if self.max_model_len is not None and self.max_tokens >= self.max_model_len:
            raise ValueError(
                f"`max_tokens` ({self.max_tokens}) leaves no room for a prompt in `max_model_len` "
                f"({self.max_model_len})"
            )
        return self

    def _adapts(self, adapt: AdaptTemperature) -> None:
        if self.temperature_mix is not None or isinstance(self.temperature, list):
            key = "temperature" if self.temperature_mix is None else "temperature_mix"
            raise ValueError(
                f"`adapt_temperature` decides the temperature of every round but the first, and `{key}` lists them: "
                "give one `temperature`, or leave `adapt_temperature` out"
            )
        if not adapt.lowest <= self.temperature <= adapt.highest:
            raise ValueError(
                f"`temperature` ({self.temperature:g}), from which `adapt_temperature` starts, must be from its "
                f"`lowest` ({adapt.lowest:g}) to its `highest` ({adapt.highest:g})"
            )


GRADERS = ("exact", "number", "choice", "math", "regex", "python", "judge")
ANSWER_RULES = ("final_answer", "boxed", "hash", "answer_is", "whole")
THOUGHTS = (
    *("</think>", "</thinking>", "</thought>", "</thoughts>", "</reasoning>", "</seed:think>", "[/THINK]", "◁/think▷"),
    *("<|end_of_thought|>", "<|channel|>final<|message|>"),
)
"""Marks that reasoning models end their thoughts with."""
Grader = str | dict[str, list[Any]]
"""An entry of `grade.graders`: a name, `name:argument`, or {"all_of" or "any_of": entries}."""


def _checked_grader(grader: Any) -> None:
    """Raise ValueError for what is no grader, with what would be one."""
    if isinstance(grader, dict):
        if len(grader) != 1 or not (members := next(iter(grader.values()))) or not set(grader) <= {"all_of", "any_of"}:
            raise ValueError(f"{grader!r} must be {{all_of: [...]}} or {{any_of: [...]}}, with graders in the list")
        if "judge" in members:
            raise ValueError("`judge` is asked what no other grader settles: put it last, not into a combination")
        for member in members:
            _checked_grader(member)
        return
    name, colon, argument = str(grader).partition(":")
    if name not in GRADERS:
        raise ValueError(f"{grader!r} is no grader; use {', '.join(f'`{known}`' for known in GRADERS)}")
    if name == "regex":
        if (groups := compiled(argument).groups) != 1:
            raise ValueError(
                f"{grader!r} has {groups} groups and needs one; write regex:PATTERN, (?:...) for the others"
            )
    elif name == "python":
        if not re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*", argument):
            raise ValueError(f"{grader!r} must be `python:MODULE:FUNCTION`, such as `python:my_package.scores:same`")
    elif colon:
        raise ValueError(f"{grader!r}: {name} takes no argument; write `{name}`")


class Grade(Settings):
    """Scoring completions against gold answers in killable processes; see docs/grading.md."""

    graders: list[Grader] = Field(default=["exact", "number", "math"], min_length=1)
    """Asked in order until one settles it: `exact` (equal text after normalising), `number` (equal value), `choice`
    (the same option, by letter or text), `math` (equal as expressions, equations, sets, intervals and the like),
    `regex:PATTERN` (the pattern's one group is the same in both), `python:MODULE:FUNCTION` (a function of gold answer
    and answer that returns true, false or None), `judge` (a model's opinion, asked last, where no other grader settles
    it; see the section `judge`). An entry may also be `{all_of: [...]}`, which wants all of its graders to say correct,
    or `{any_of: [...]}`."""
    answer: list[str] = Field(default=["final_answer", "boxed", "hash"], min_length=1)
    """Where the answer is, tried in order: `final_answer` (what follows "Final answer:"), `boxed` (the last
    \\boxed{}), `hash` (what follows `####`), `answer_is` (what follows "answer is" or "Answer:"), `whole` (all of
    the text), or `pattern:REGEX` with one group. Where the default is left as it is, `answer_is` is tried last; a list
    of other rules is taken as it stands, since a job that names its rules wants that form."""
    strict: bool = True
    """False tries `answer_is` and then the last number of the text, a guess, where no rule of `answer` finds one."""
    thoughts: list[str] = list(THOUGHTS)
    """Marks that end a model's thoughts: the answer is looked for behind the last of them. Thoughts that are begun
    (`<think>` for `</think>`) and never ended have no answer behind them. `[]` reads all of the text."""
    unreadable: Literal["ungradable", "wrong"] = "ungradable"
    """What an answer is that was found and that no grader can read as the gold answer's kind, such as half a sentence
    for a number: `ungradable`, so that it joins no pair, or `wrong`, the binary reward of the papers. What is
    truncated, or a grader failed on, stays ungradable either way."""
    audit: bool = False
    """Ask every grader about every answer, also where an earlier one has settled it. The verdicts stay what they are;
    the run's report lists where the graders differ."""
    timeout: Annotated[Positive, Field(le=86_400)] = 5.0
    """Seconds after which a grader's process is killed; at most a day."""
    memory: Annotated[Positive, Field(le=1_000_000_000)] = 1.0
    """GiB of memory that a grader's process may take beyond what it has after starting."""
    processes: Executing[Annotated[Count, Field(le=4096)] | None] = None
    """Number of grader processes; null takes one a core."""
    max_characters: Count = 20_000
    """Longest completion that is looked at; only its end is, when it is longer."""

    @field_validator("graders")
    @classmethod
    def _known_graders(cls, value: list[Grader]) -> list[Grader]:
        for grader in value:
            _checked_grader(grader)
        if "judge" in value[:-1]:
            raise ValueError("`judge` is asked what no other grader settles: put it last")
        return value

    @field_validator("thoughts", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _marks(cls, value: Any) -> Any:
        marks = [value] if isinstance(value, str) else value
        if isinstance(marks, list) and any(isinstance(mark, str) and not mark.strip() for mark in marks):
            raise ValueError(f"{value!r} has a mark without characters; write `[]` to read all of the text")
        return marks

    @field_validator("answer")
    @classmethod
    def _known_places(cls, value: list[str]) -> list[str]:
        for place in value:
            name, _, pattern = place.partition(":")
            if name == "pattern":
                if (groups := compiled(pattern).groups) != 1:
                    raise ValueError(f"{place!r} has {groups} groups and needs one; write (?:...) for the others")
            elif place not in ANSWER_RULES:
                raise ValueError(f"{place!r} must be {', '.join(f'`{r}`' for r in ANSWER_RULES)} or `pattern:REGEX`")
        return value


class Regrade(Settings):
    """Another grading of the samples from some round on; `ratchet rescore` writes it. Evaluations stay with `grade`, so
    that rounds can be compared: to change these too, fork with another `grade`."""

    round: Count
    """The first round whose samples are graded so."""
    grade: Grade
    """As the section `grade`, all of it."""


class Judge(Settings):
    """A model behind an OpenAI-compatible endpoint that judges what others have written."""

    model: NonEmpty
    """Its name at the endpoint."""
    base_url: Executing[str | None] = None
    """Address of the endpoint, such as `http://localhost:8000/v1`; null takes OPENAI_BASE_URL, else OpenAI's own."""
    api_key_env: Executing[str] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never written anywhere."""
    max_requests: Executing[Count | None] = None
    """Most requests of a run, repeated ones included; null sets no limit. What is in the cache costs none."""
    concurrency: Executing[Count] = 8
    """Requests under way at once."""
    timeout: Executing[Seconds] = 60.0
    """Seconds that one request may take."""
    retries: Executing[CountOrZero] = 4
    """How often a request that failed is repeated, with growing pauses."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge."""
    max_tokens: Count = 1024
    """Longest reply, in tokens."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Judge:
        # Of the whole section: an error about a single key would show its value.
        if self.base_url is not None:
            try:
                address = urlsplit(self.base_url)
                known = address.scheme in ("http", "https") and address.hostname and address.port != 0
            except ValueError:  # a port that is none, an open bracket
                known = None
            if not known:
                raise ValueError("`base_url` is no address; write one such as http://localhost:8000/v1")
            if address.username is not None:
                raise ValueError(
                    "`base_url` must hold no name or password: what a job file holds is written into the run"
                )
        return self


class Harness(Settings):
    """Tasks of lm-evaluation-harness, asked of the base model and of each candidate by the run's own engines; needs the
    extra `harness`. Their figures are told, and decide nothing. Their data come from the Hub, or from its cache."""

    tasks: list[TaskName] = Field(min_length=1)
    """Names of tasks, groups or tags, such as `gsm8k`, `mmlu`, `ai2_arc`. Those that execute what the model has written
    are refused."""
    limit: Count | None = None
    """Documents of each task, its first ones; null takes all."""
    num_fewshot: CountOrZero | None = None
    """Examples before each document; null takes each task's own number."""
    chat: bool = False
    """Put the model's chat template around the prompts (`--apply_chat_template`)."""
    include_path: NonEmpty | None = None
    """Folder of further tasks, as YAML, which may name functions and are code. Relative paths in them are below it."""


class Evaluate(Settings):
    """Greedy evaluation on gate and test, before round 1 and after each round."""

    max_tokens: Count | None = None
    """Longest answer in tokens; null takes `generate.max_tokens`."""
    samples: CountOrZero = 0
    """Answers to each test problem that are sampled beside the greedy one, for pass@k and the vote of the majority.
    They decide nothing. 0 samples none."""
    temperature: Positive = 1.0
    """Temperature of these; `generate.top_p` and `generate.top_k` hold for them, too."""
    harness: Harness | None = None
    """Tasks of lm-evaluation-harness besides; null asks none."""
    probe_tolerance: Positive | None = None
    """Largest mean difference of a token's log-probability between trainer and engine, in nats. null is 0.005 where
    both compute in float32, and 0.05 where one of them rounds to 16 bits."""
