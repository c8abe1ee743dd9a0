"""A judge: a model behind any OpenAI-compatible endpoint, asked for verdicts of a given form.

What it answered is cached by content, so that a resumed run asks only what it has not asked yet. The key is read from
the environment when it is needed. No message, file or cached verdict contains it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import openai
from pydantic import BaseModel, ValidationError

from orchestrator.config import Judge
from orchestrator.errors import BadInput, RatchetError
from workers.judge.cache import JudgeCache

Verdict = TypeVar("Verdict", bound=BaseModel)
Result = TypeVar("Result")

_IN_A_ROW = 20
"""So many questions without a reply, one after the other, and the judge counts as out of order."""
_LONGEST_PAUSE = 60.0  # seconds
_LONGEST_REPLY = 100_000  # characters
_MOST_TOKENS = 10**9
"""That an endpoint is believed about one reply: a record takes their sum, and no number below 0."""
_SHORTEST_SECRET = 8  # characters; what local servers take for a key, such as "EMPTY", is none
_FORM = "Reply with one JSON object and nothing else. It must follow this JSON schema:\n"


class JudgeFailed(RatchetError):
    """There is no verdict on one question. Among the answers of `ask_many` it stands in the verdict's place."""


class JudgeBudgetSpent(RatchetError):
    """The run has sent as many requests as `judge.max_requests` allows."""


class JudgeDown(RatchetError):
    """The endpoint answers nothing."""


class _NoVerdict(Exception):
    """There was no reply, or (`replied`) one without a verdict of the right form. `again` says whether it is worth
    another try, `after` for how many seconds the endpoint asks to wait before."""

    def __init__(self, why: str, *, replied: bool = False, again: bool = True, after: float = 0.0) -> None:
        super().__init__(why)
        self.replied, self.again, self.after = replied, again, after


@dataclass(frozen=True)
class _Question:
    system: str
    text: str
    verdict: type[BaseModel]

    @cached_property
    def schema(self) -> dict[str, Any]:
        # The library's public way to the strict schemas that its endpoints want.
        return dict(openai.pydantic_function_tool(self.verdict)["function"]["parameters"])

    def key(self, settings: Judge) -> str:
        """The name of its answer: a hash of all that the answer depends on."""
        content = [settings.model, settings.temperature, self.system, self.text, self.schema]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Form:
    """How this endpoint wants to be asked."""

    schema: bool = True
    """With a JSON schema as response format. The system message has the schema in any case."""
    limit: str = "max_tokens"
    """Its name for the longest reply."""


class JudgeClient:
    """Asks the judge of a job. It may be used by several threads, and its cache by several processes.

    `cache` is a folder for its answers and the count of requests; None keeps neither. `pause` is the first pause before
    a question is asked again, in seconds; each further one is twice as long.
    """

    def __init__(self, settings: Judge, cache: Path | None, *, pause: float = 1.0) -> None:
        self._settings, self._cache, self._pause = settings, JudgeCache(cache), pause
        self._form = _Form()
        self._lock = threading.Lock()
        self._facts: Counter[str] = Counter()
        self._silent = 0  # questions without a reply since the last reply
        address = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        if address and not address.startswith(("http://", "https://")):  # the job's own has been checked
            raise BadInput(f"OPENAI_BASE_URL: {address!r} is no address; write one such as http://localhost:8000/v1")

    def ask(self, system: str, question: str, verdict: type[Verdict]) -> Verdict:
        """The judge's verdict on one question.

        Raises:
            JudgeFailed: there is none.
            JudgeBudgetSpent, JudgeDown, BadInput: as `ask_many`.
        """
        (answer,) = self.ask_many([(system, question)], verdict)
        if isinstance(answer, JudgeFailed):
            raise answer
        return answer

    def ask_many(
        self, questions: Sequence[tuple[str, str]], verdict: type[Verdict] | Sequence[type[Verdict]]
    ) -> list[Verdict | JudgeFailed]:
        """The judge's verdicts on (system message, question), in order; `verdict` is one form for all, or one each.
        Equal questions are asked once. Not to be called where an asyncio loop runs.

        Raises:
            JudgeBudgetSpent: `judge.max_requests` are sent. Answers so far are in the cache, as with the others.
            JudgeDown: the endpoint answers nothing.
            BadInput: it does not take the key, or does not know the model, or is none.
        """
        forms = [verdict] * len(questions) if isinstance(verdict, type) else verdict
        asked = [_Question(system, text, form) for (system, text), form in zip(questions, forms, strict=True)]
        known = {question: self._cached(question) for question in asked}
        answers: dict[_Question, Any] = {question: answer for question, answer in known.items() if answer is not None}
        self._count(cached=len(answers))
        if missing := [question for question in known if question not in answers]:
            answers |= _run(self._ask_all(missing))
        return [answers[question] for question in asked]

    def facts(self) -> dict[str, int]:
        """What this client has done: `requests`, `cached` (questions that cost none), `failures` (questions without a
        verdict), `prompt_tokens` and `completion_tokens`."""
        names = ("requests", "cached", "failures", "prompt_tokens", "completion_tokens")
        with self._lock:
            return {name: self._facts[name] for name in names}

    async def _ask_all(self, questions: Sequence[_Question]) -> dict[_Question, BaseModel | JudgeFailed]:
        places = asyncio.Semaphore(self._settings.concurrency)
        # Its own repetitions would escape the count of requests.
        client = openai.AsyncOpenAI(api_key=self._key or "none", base_url=self._settings.base_url, max_retries=0)

        async def ask(question: _Question) -> BaseModel | JudgeFailed:
            async with places:
                return await self._answer(client, question)

        try:
            async with client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(question)) for question in questions]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None
        answers = dict(zip(questions, (task.result() for task in tasks), strict=True))
        if not self._has_answered:
            raise self._down(client, answers[questions[0]])
        return answers

    async def _answer(self, client: openai.AsyncOpenAI, question: _Question) -> BaseModel | JudgeFailed:
        """Ask, if need be several times."""
        tries = 0
        while True:
            tries += 1
            try:
                verdict = _read(await self._reply(client, question, self._form), question.verdict)
            except _NoVerdict as error:
                if not error.again or tries > self._settings.retries:
                    return self._failed(client, error, tries)
                pause = min(self._pause * 2 ** (tries - 1), _LONGEST_PAUSE) * random.uniform(0.8, 1.2)
                await asyncio.sleep(max(error.after, pause))
            else:
                self._cache.put(question.key(self._settings), verdict.model_dump(mode="json"))
                return verdict

    def _failed(self, client: openai.AsyncOpenAI, error: _NoVerdict, tries: int) -> JudgeFailed:
        """Give one question up; or all of them, where no question has had a reply for long."""
        self._count(failures=1)
        failed = JudgeFailed(f"{error} (asked {tries} times)" if tries > 1 else str(error))
        # An endpoint that answers others may well refuse one question for good.
        if not error.replied and (error.again or not self._has_answered):
            self._silent += 1
        if self._silent >= _IN_A_ROW:
            raise self._down(client, failed)
        return failed

    async def _reply(self, client: openai.AsyncOpenAI, question: _Question, form: _Form) -> str:
        """The text of one reply, without the key.

        Raises:
            _NoVerdict: there is none.
        """
        try:
            completion = await self._request(client, question, form)
        except openai.APIStatusError as error:
            if (other := _other_form(form, error)) is not None:
                return await self._reply(client, question, other)
            raise self._refusal(client, error) from None
        except (openai.APIError, TimeoutError, ValueError, RecursionError) as error:  # the last of JSON that is deep
            what = "no reply in time" if isinstance(error, TimeoutError | openai.APITimeoutError) else self._said(error)
            raise _NoVerdict(f"{client.base_url}: {what}") from None
        if (text := _text(completion)) is None:
            raise _NoVerdict(f"{client.base_url}: what it sends is no chat completion; check judge.base_url")
        self._silent, self._form = 0, form
        usage = getattr(completion, "usage", None)
        tokens = {name: getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens")}
        self._count(replies=1, **{name: n for name, n in tokens.items() if type(n) is int and 0 <= n <= _MOST_TOKENS})
        return self._hidden(text)

    async def _request(self, client: openai.AsyncOpenAI, question: _Question, form: _Form) -> Any:
        settings = self._settings
        if not self._cache.count_request(settings.max_requests):
            raise JudgeBudgetSpent(
                f"judge.max_requests: all {settings.max_requests} requests of this run are spent. What was judged is "
                "kept: raise it, or set it to null, and the same command goes on."
            )
        self._count(requests=1)
        system = f"{question.system}\n\n{_FORM}{json.dumps(question.schema)}".strip()
        schema = {"name": question.verdict.__name__, "strict": True, "schema": question.schema}
        more: dict[str, Any] = {form.limit: settings.max_tokens}
        if form.schema:
            more["response_format"] = {"type": "json_schema", "json_schema": schema}
        async with asyncio.timeout(settings.timeout):  # the library's is for each read, not for all
            return await client.chat.completions.create(
                model=settings.model,
                temperature=settings.temperature,
                messages=[{"role": "system", "content": system}, {"role": "user", "content": question.text}],
                timeout=settings.timeout,
                **more,
            )

    def _refusal(self, client: openai.AsyncOpenAI, error: openai.APIStatusError) -> Exception:
        """What an HTTP status means: for the whole job, or for one question."""
        settings, status = self._settings, error.status_code
        if status in (401, 403):
            does = "does not take the key in" if self._key else "wants a key, and there is none in"
            variable = f"the environment variable {settings.api_key_env} (judge.api_key_env)"
            return BadInput(f"judge: {client.base_url} {does} {variable}: set it to one that may use {settings.model}")
        if status == 404:
            return BadInput(
                f"judge: {client.base_url} has no model {settings.model!r}, or is no such endpoint (HTTP 404: "
                f"{self._said(error)}). Check judge.model and judge.base_url, which mostly ends in /v1."
            )
        if error.code == "insufficient_quota":
            return BadInput(f"judge: {client.base_url}: the account has no quota left ({self._said(error)})")
        again, why = status in (408, 409, 429) or status >= 500, f"HTTP {status}: {self._said(error)}"
        return _NoVerdict(f"{client.base_url}: {why}", again=again, after=_wait(error.response.headers))

    def _down(self, client: openai.AsyncOpenAI, last: BaseModel | JudgeFailed) -> JudgeDown:
        return JudgeDown(
            f"judge: {self._settings.model} at {client.base_url} answers nothing: {last}. What was judged is kept: "
            "once it answers, the same command goes on."
        )

    @property
    def _has_answered(self) -> bool:
        """Whether this endpoint has ever replied, as far as the cache and this client tell."""
        return bool(self._facts["replies"] or self._facts["cached"])

    def _cached(self, question: _Question) -> BaseModel | None:
        try:
            return question.verdict.model_validate(self._cache.get(question.key(self._settings)))
        except ValidationError:
            return None

    @property
    def _key(self) -> str:
        return os.environ.get(self._settings.api_key_env, "").strip()

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= _SHORTEST_SECRET else text

    def _said(self, error: Exception) -> str:
        """An error in a few words on one line."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, Mapping) else None
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else None
        return self._hidden(" ".join(str(said or cause or error).split()))[:300]

    def _count(self, **more: int) -> None:
        with self._lock:
            self._facts.update(more)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end in a thread of its own. Signals are raised in the main thread; were asyncio at work there, it
    would swallow some."""
    with asyncio.Runner() as runner, ThreadPoolExecutor(1) as thread:
        loop = runner.get_loop()
        task = loop.create_task(work)
        try:
            done = thread.submit(loop.run_until_complete, task)
            while not done.done():  # in pieces: a signal that another thread got does not wake this one
                wait([done], timeout=0.5)
            return done.result()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            raise


def _other_form(form: _Form, error: openai.APIStatusError) -> _Form | None:
    """How else to ask an endpoint that refuses this form, if there is another way."""
    if error.status_code not in (400, 422):
        return None
    if form.limit == "max_tokens" and "max_completion_tokens" in str(error):
        return replace(form, limit="max_completion_tokens")
    return replace(form, schema=False) if form.schema else None


def _wait(headers: Mapping[str, str]) -> float:
    """Seconds that an endpoint asks to wait before the next request."""
    try:
        wanted = float(headers.get("retry-after", 0.0))
    except ValueError:  # a date
        return 0.0
    return min(wanted, _LONGEST_PAUSE) if wanted > 0 else 0.0  # which NaN is not


def _text(completion: Any) -> str | None:
    """The text of a chat completion, which may be empty; None for anything else that an endpoint has sent."""
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list):
        return None
    text = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    return text if isinstance(text, str) else ""


def _read(reply: str, verdict: type[BaseModel]) -> BaseModel:
    """The verdict in a reply: its last JSON object of that form, since a judge may think aloud, or quote, before it."""
    found, fault = None, "no JSON object (judge.max_tokens may cut it short)"
    for value in _objects(reply[:_LONGEST_REPLY]):
        try:
            found = verdict.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            fault = f"another form: {'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}"
    if found is None:
        raise _NoVerdict(f"the judge's reply has {fault}", replied=True)
    return found


def _objects(text: str) -> Iterator[Any]:
    """The JSON objects in a text, one behind the other."""
    decoder, start = json.JSONDecoder(), text.find("{")
    while start >= 0:
        try:
            found, end = decoder.raw_decode(text, start)
            json.dumps(found, ensure_ascii=False).encode()  # half a character, such as \ud800, fits in no file
        except (ValueError, RecursionError):
            end = start + 1
        else:
            yield found
        start = text.find("{", end)
