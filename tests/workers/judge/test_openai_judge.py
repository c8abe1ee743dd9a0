"""The judge's client against a real HTTP server on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from orchestrator.config import Judge
from orchestrator.config.load import parse_job
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput, Damaged, Interrupted, RatchetError
from tests.support.judge_server import Answer, Asked, JudgeServer, Script, completion, refusal, serve
from workers.judge.cache import JudgeCache
from workers.judge.client import JudgeBudgetSpent, JudgeClient, JudgeDown, JudgeFailed, _wait

KEY = "sk-a-very-secret-key-0123456789"


class Opinion(BaseModel):
    verdict: Literal["right", "wrong"]
    reason: str = Field(max_length=200)


RIGHT = {"verdict": "right", "reason": "it adds up"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def settings(server: JudgeServer, **changes: Any) -> Judge:
    return Judge(model="judge-1", base_url=server.address, timeout=5.0).model_copy(update=changes)


def client(server: JudgeServer, cache: Path | None = None, **changes: Any) -> JudgeClient:
    return JudgeClient(settings(server, **changes), cache, pause=0.001)


def asks(server: JudgeServer, *questions: str, cache: Path | None = None, **changes: Any) -> list[Any]:
    return client(server, cache, **changes).ask_many([("You judge.", question) for question in questions], Opinion)


def first_then(first: Any, then: Any = RIGHT) -> Script:
    return lambda asked: first if asked.number == 0 else then


def echo(asked: Asked) -> dict[str, str]:
    return {"verdict": "right", "reason": asked.question}


def test_a_verdict_and_what_is_asked_for_it() -> None:
    with serve(lambda asked: RIGHT) as server:
        judge = client(server, temperature=0.5, max_tokens=77)
        assert judge.ask("You judge.", "1 + 1 = 2?", Opinion) == Opinion(**RIGHT)
    (asked,) = server.asked
    assert asked.question == "1 + 1 = 2?" and asked.system.startswith("You judge.\n\n")
    assert '"verdict"' in asked.system and asked.key == "none"
    sent = {key: asked.body[key] for key in ("model", "temperature", "max_tokens")}
    assert sent == {"model": "judge-1", "temperature": 0.5, "max_tokens": 77}
    schema = asked.body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["additionalProperties"] is False
    assert judge.facts() == {
        "requests": 1,
        "cached": 0,
        "failures": 0,
        "prompt_tokens": 10,
        "completion_tokens": 3,
    }


def test_order_is_kept_and_so_is_the_limit_of_requests_at_once() -> None:
    def script(asked: Asked) -> Answer:
        return Answer(text=json.dumps(echo(asked)), seconds=0.05 if asked.number % 3 == 0 else 0.01)

    questions = [f"question {n}" for n in range(24)]
    with serve(script) as server:
        answers = asks(server, *questions, concurrency=4)
    assert [answer.reason for answer in answers] == questions
    assert 2 <= server.most_at_once <= 4


def test_equal_questions_are_asked_once() -> None:
    with serve(echo) as server:
        answers = asks(server, "a", "b", "a")
    assert [answer.reason for answer in answers] == ["a", "b", "a"] and len(server.asked) == 2


def test_each_question_may_have_a_form_of_its_own() -> None:
    class Number(BaseModel):
        number: int

    with serve(lambda asked: {"number": 7} if '"number"' in asked.system else RIGHT) as server:
        assert client(server).ask_many([("", "a"), ("", "a")], [Number, Opinion]) == [
            Number(number=7),
            Opinion(**RIGHT),
        ]


def test_an_endpoint_without_schemas_is_asked_without() -> None:
    def script(asked: Asked) -> Any:
        if asked.has_schema:
            return refusal(400, "response_format json_schema is not supported")
        return f"Let me see {{as one does}}.\n```json\n{json.dumps(echo(asked))}\n```\nDone."

    with serve(script) as server:
        answers = asks(server, "a", "b", "c", concurrency=1)
    assert [answer.reason for answer in answers] == ["a", "b", "c"]
    assert [asked.has_schema for asked in server.asked] == [True, False, False, False]


def test_one_question_that_is_refused_costs_no_other_its_schema() -> None:
    with serve(lambda asked: refusal(400, "too long") if asked.question == "long" else RIGHT) as server:
        first, failed, last = asks(server, "a", "long", "c", concurrency=1)
    assert (first, last) == (Opinion(**RIGHT),) * 2
    assert isinstance(failed, JudgeFailed) and str(failed).endswith("HTTP 400: too long")
    assert [asked.has_schema for asked in server.asked] == [True, True, False, True]


@pytest.mark.parametrize(
    "before",
    [
        "x^{} and {1, 2}",
        '{"type": "object"}',
        '<think>perhaps {"verdict": "wrong", "reason": "?"}</think>',
        '{"a": {"b"',
    ],
)
def test_a_judge_may_think_aloud_before_its_verdict(before: str) -> None:
    with serve(lambda asked: f"{before}\n{json.dumps(RIGHT)}") as server:
        assert asks(server, "a", retries=0) == [Opinion(**RIGHT)]


def test_newer_models_name_the_limit_otherwise() -> None:
    def script(asked: Asked) -> Any:
        return refusal(400, "use 'max_completion_tokens'") if "max_tokens" in asked.body else RIGHT

    with serve(script) as server:
        asks(server, "a", max_tokens=9)
    assert server.asked[-1].body["max_completion_tokens"] == 9 and server.asked[-1].has_schema


TROUBLE = [
    *(refusal(status) for status in (408, 409, 429, 500, 503)),
    Answer(body=b"<html>", headers={"Content-Type": "text/html"}),
    Answer(body=b"{not json"),
    Answer(body={"choices": []}),
    Answer(body={"choices": [{"message": {"content": None, "refusal": "I will not"}}]}),
    "",
    "I think it is right.",
    '{"verdict": "right", "reas',
    {"verdict": "perhaps", "reason": ""},
    {"verdict": "right"},
    ["right"],
    '{"verdict": "right", "reason": "\\ud800"}',
    '{"a":' * 5000,
    '{"verdict": ' + "9" * 5000 + "}",
    Answer(body=b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
]


@pytest.mark.parametrize("trouble", TROUBLE, ids=range(len(TROUBLE)))
def test_passing_trouble_is_met_with_another_request(trouble: Any) -> None:
    with serve(first_then(trouble)) as server:
        judge = client(server)
        assert judge.ask("", "a", Opinion) == Opinion(**RIGHT)
    assert judge.facts()["requests"] == len(server.asked) == 2


def test_a_late_reply_is_not_waited_for() -> None:
    with serve(first_then(Answer(seconds=60.0, text=json.dumps(RIGHT)))) as server:
        assert asks(server, "a", timeout=1.0) == [Opinion(**RIGHT)]
    assert len(server.asked) == 2


def test_pauses_grow_and_the_endpoints_own_wish_is_met() -> None:
    stamps: list[float] = []

    def script(asked: Asked) -> Any:
        stamps.append(time.monotonic())
        return [refusal(500), refusal(500), refusal(429, retry_after="0.3"), RIGHT][asked.number]

    with serve(script) as server:
        JudgeClient(settings(server), None, pause=0.05).ask("", "a", Opinion)
    # A sleep is never too short, however slow the machine.
    first, second, third = (after - before for before, after in itertools.pairwise(stamps))
    assert first >= 0.04 and second >= 0.08 and third >= 0.3


@pytest.mark.parametrize("wish", ["nan", "-inf", "-1", "soon", ""])
def test_a_wish_that_is_no_time_is_none(wish: str) -> None:
    assert _wait({"retry-after": wish}) == 0.0


@pytest.mark.parametrize("told", [-1, 10**400, 2**63, True, 1.5, "7", [7], None])
def test_tokens_that_no_record_could_hold_are_not_counted(told: Any) -> None:
    """Facts of a step: a run whose record was refused would end."""
    usage = {"prompt_tokens": told, "completion_tokens": 3}
    with serve(lambda asked: Answer(body=completion(json.dumps(RIGHT)) | {"usage": usage})) as server:
        judge = client(server)
        assert judge.ask("", "a", Opinion) == Opinion(**RIGHT)
    assert judge.facts() | {"prompt_tokens": 0, "completion_tokens": 3} == judge.facts()


def test_a_question_is_given_up_and_the_others_are_not() -> None:
    with serve(lambda asked: "who knows" if asked.question == "b" else RIGHT) as server:
        judge = client(server, retries=2)
        answers = judge.ask_many([("", "a"), ("", "b"), ("", "c")], Opinion)
        assert [isinstance(answer, JudgeFailed) for answer in answers] == [False, True, False]
        assert "no JSON object" in str(answers[1]) and str(answers[1]).endswith("(asked 3 times)")
        with pytest.raises(JudgeFailed, match="no JSON object"):
            judge.ask("", "b", Opinion)
    assert judge.facts()["failures"] == 2 and judge.facts()["requests"] == len(server.asked) == 2 + 3 + 3


def test_a_malformed_reply_is_told_with_the_place() -> None:
    with serve(lambda asked: {"verdict": "maybe", "reason": ""}) as server:
        (failed,) = asks(server, "a", retries=0)
    assert str(failed) == "the judge's reply has another form: verdict: Input should be 'right' or 'wrong'"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_missing_or_wrong(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda asked: refusal(status, f"not {asked.key}")) as server:
        with pytest.raises(BadInput, match=r"wants a key, and there is none in the environment variable JUDGE_KEY"):
            asks(server, "a", api_key_env="JUDGE_KEY")
        monkeypatch.setenv("JUDGE_KEY", KEY)
        with pytest.raises(BadInput, match="does not take the key in the environment variable JUDGE_KEY") as error:
            asks(server, *"abcdef", api_key_env="JUDGE_KEY")
    assert server.asked[1].key == KEY and KEY not in str(error.value) and error.value.__cause__ is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"api_key_env": KEY}, r"`api_key_env` must be the name of an environment variable"),
        ({"base_url": f"http://me:{KEY}@localhost/v1"}, r"`base_url` must hold no name or password"),
    ],
)
def test_a_key_in_a_job_file_is_refused_and_not_shown(section: dict[str, str], message: str) -> None:
    text = yaml.safe_dump({"name": "a", "judge": {"model": "judge-1"} | section})
    with pytest.raises(BadInput, match=message) as error:
        parse_job(text, Path("job.yaml"))
    assert KEY not in str(error.value)


def test_the_key_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda asked: RIGHT) as server:
        judge = client(server)
        for key in ("the first key", "another key"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            judge.ask("", key, Opinion)
    assert [asked.key for asked in server.asked] == ["the first key", "another key"]


def test_a_model_or_an_address_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda asked: refusal(404, "The model does not exist")) as server:
        with pytest.raises(
            BadInput, match=r"has no model 'judge-1', or is no such endpoint \(HTTP 404: The model does"
        ):
            asks(server, "a")
        with pytest.raises(BadInput, match=r"Check judge.model and judge.base_url, which mostly ends in /v1"):
            asks(server, "a", base_url=server.address.removesuffix("/v1"))
    assert len(server.asked) == 2
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(BadInput, match=r"OPENAI_BASE_URL: 'localhost:8000' is no address"):
        JudgeClient(Judge(model="m"), None)


def test_an_account_without_quota_is_no_rate_limit() -> None:
    spent = refusal(429, "You exceeded your quota", code="insufficient_quota")
    with serve(lambda asked: spent) as server, pytest.raises(BadInput, match="the account has no quota left"):
        asks(server, "a")
    assert len(server.asked) == 1


@pytest.mark.parametrize("trouble", [refusal(400, "temperature must be 1"), refusal(503), None])
def test_an_endpoint_that_answers_nothing_ends_the_run(trouble: Answer | None) -> None:
    with serve(lambda asked: trouble) as server:
        address = server.address
        if trouble is not None:
            with pytest.raises(JudgeDown, match=r"judge-1 at .* answers nothing: .*HTTP (400|503)"):
                asks(server, "a", retries=1)
    if trouble is None:  # nobody listens there any more
        judge = JudgeClient(Judge(model="judge-1", base_url=address, retries=1), None, pause=0.001)
        with pytest.raises(JudgeDown, match=r"answers nothing: .*onnect.*\(asked 2 times\)"):
            judge.ask("", "a", Opinion)


def test_an_endpoint_that_goes_away_ends_the_run_and_keeps_its_answers(tmp_path: Path) -> None:
    questions = [f"{n}" for n in range(60)]
    with serve(lambda asked: RIGHT if asked.number < 10 else refusal(500)) as server:
        with pytest.raises(JudgeDown):
            asks(server, *questions, cache=tmp_path, retries=0, concurrency=1)
        assert len(server.asked) == 30
    with serve(lambda asked: RIGHT) as server:
        assert asks(server, *questions, cache=tmp_path) == [Opinion(**RIGHT)] * 60
        assert len(server.asked) == 50


@pytest.mark.parametrize(("trouble", "is_hit"), [(500, lambda n: n % 2), (400, lambda n: n > 0)])
def test_an_endpoint_that_answers_some_is_not_given_up(trouble: int, is_hit: Callable[[int], bool]) -> None:
    questions = [f"{n}" for n in range(50)]
    with serve(lambda asked: refusal(trouble) if is_hit(int(asked.question)) else RIGHT) as server:
        answers = asks(server, *questions, retries=0, concurrency=1)
    assert [isinstance(answer, JudgeFailed) for answer in answers] == [bool(is_hit(n)) for n in range(50)]


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    with serve(echo) as server:
        first = asks(server, "a", "b", cache=tmp_path)
        judge = client(server, tmp_path)
        assert judge.ask_many([("You judge.", "a"), ("You judge.", "b")], Opinion) == first
        assert judge.facts()["cached"] == 2 and len(server.asked) == 2
        # Whatever an answer depends on is part of its name.
        asks(server, "a", cache=tmp_path, model="judge-2")
        asks(server, "a", cache=tmp_path, temperature=1.0)
        judge.ask("You judge well.", "a", Opinion)
        judge.ask("You judge.", "a", type("Opinion", (Opinion,), {"__annotations__": {"more": str}, "more": ""}))
        asks(server, "a", cache=tmp_path, concurrency=1, timeout=9.0, retries=0)
    assert len(server.asked) == 6


@pytest.mark.parametrize("torn", [b"", b'{"verdict": "rig', b'{"verdict": "perhaps"}', b"[]", b"\xff\xfe", b"null"])
def test_a_torn_file_of_the_cache_is_asked_again(tmp_path: Path, torn: bytes) -> None:
    with serve(echo) as server:
        asks(server, "a", cache=tmp_path)
        (file,) = tmp_path.rglob("*.json")
        whole = file.read_bytes()
        file.write_bytes(torn)
        asks(server, "a", cache=tmp_path)
        assert len(server.asked) == 2 and file.read_bytes() == whole


def test_the_budget_holds_over_resumes_and_counts_repetitions(tmp_path: Path) -> None:
    with serve(lambda asked: refusal(500) if asked.number % 2 == 0 else RIGHT) as server:
        with pytest.raises(JudgeBudgetSpent, match=r"judge.max_requests: all 5 requests of this run are spent"):
            asks(server, *"abcd", cache=tmp_path, max_requests=5, concurrency=1)
        assert len(server.asked) == 5
        with pytest.raises(JudgeBudgetSpent):
            asks(server, *"abcd", cache=tmp_path, max_requests=5)
        assert asks(server, *"ab", cache=tmp_path, max_requests=5) == [Opinion(**RIGHT)] * 2  # these cost nothing
        assert len(server.asked) == 5
        assert asks(server, *"abcd", cache=tmp_path, max_requests=20) == [Opinion(**RIGHT)] * 4


def test_a_budget_without_a_cache() -> None:
    with serve(lambda asked: RIGHT) as server:
        judge = client(server, max_requests=2, concurrency=2)
        with pytest.raises(JudgeBudgetSpent):
            judge.ask_many([("", question) for question in "abcd"], Opinion)
    assert len(server.asked) <= 2


def test_requests_of_several_processes_are_counted_one_after_the_other(tmp_path: Path) -> None:
    cache, counted = JudgeCache(tmp_path), []
    cache.count_request(None)
    thread = threading.Thread(target=lambda: counted.append(cache.count_request(2)))
    with open(tmp_path / "requests", "ab") as file:  # as another process would
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.1)
        assert not counted
        file.write(b".")
    thread.join()
    assert counted == [False]


def _spend(folder: Path, times: int) -> None:
    cache = JudgeCache(folder)
    sent = sum(cache.count_request(500) for _ in range(times))
    cache.put("ab", {"value": "x" * 10_000})
    (folder / f"sent-{multiprocessing.current_process().name}").write_text(str(sent))


def test_processes_share_a_budget_and_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spend, args=(tmp_path, 300), name=f"p{n}") for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sum(int(file.read_text()) for file in tmp_path.glob("sent-*")) == 500
    assert JudgeCache(tmp_path).get("ab") == {"value": "x" * 10_000}


@pytest.mark.parametrize("where", ["folder", "part", "answer", "requests"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_strangers_folder_leads_nowhere(tmp_path: Path, where: str, kind: str) -> None:
    folder, outside = tmp_path / "run" / "judge", tmp_path / "outside"
    outside.mkdir()
    (outside / "abc.json").write_text('"theirs"')
    names = {"folder": folder, "part": folder / "ab", "answer": folder / "ab" / "abc.json"}
    place = names.get(where, folder / "requests")
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(outside if where in ("folder", "part") else outside / "abc.json")
    with pytest.raises(Damaged):
        cache = JudgeCache(folder)
        cache.get("abc")
        cache.count_request(None)
    with contextlib.suppress(Damaged):  # an answer's own link is replaced by the answer
        cache = JudgeCache(folder)
        cache.put("abc", "ours")
    assert [path.name for path in outside.iterdir()] == ["abc.json"]
    assert (outside / "abc.json").read_text() == '"theirs"'


def test_threads_may_share_a_client(tmp_path: Path) -> None:
    answers: dict[str, Any] = {}
    with serve(echo) as server:
        judge = client(server, tmp_path, max_requests=30)

        def work(name: str) -> None:
            answers[name] = judge.ask_many([("", f"{name}{n}") for n in range(10)], Opinion)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [[a.reason for a in answers[name]] for name in "abc"] == [
        [f"{name}{n}" for n in range(10)] for name in "abc"
    ]
    assert judge.facts()["requests"] == 30


@pytest.mark.parametrize("late", [60.0, 0.0])
def test_an_interruption_waits_for_no_reply_and_no_pause(late: float) -> None:
    def script(asked: Asked) -> Answer:
        if asked.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return replace(refusal(500), seconds=late)

    with serve(script) as server, signals(), pytest.raises(Interrupted):
        JudgeClient(settings(server, timeout=60.0), None, pause=60.0).ask_many([("", q) for q in "abcdef"], Opinion)


def test_the_key_is_in_no_file_and_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    def script(asked: Asked) -> Any:  # an endpoint that repeats the key wherever it can
        if asked.question == "reply":
            return {"verdict": "right", "reason": f"you are {asked.key}"}
        if asked.question == "malformed":
            return {asked.key: asked.key}
        if asked.question == "page":
            return Answer(body=asked.key.encode())
        return refusal(int(asked.question), f"bad key {asked.key}")

    with serve(script) as server:
        judge = client(server, tmp_path, retries=1)
        told.append(judge.ask("", "reply", Opinion).reason)
        for question in ("malformed", "page", "400", "401", "403", "404", "422", "429", "500"):
            with pytest.raises(RatchetError) as error:
                judge.ask("", question, Opinion)
            told += [str(error.value), repr(error.value), repr(error.value.__cause__)]
    assert server.asked[0].key == KEY and told[0] == "you are ***"
    told += [str(judge.facts()), repr(judge), caplog.text, *capfd.readouterr()]
    told += [file.read_text() + file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert len(told) > 30 and not any(KEY in text for text in told)


def test_a_chat_completion_of_the_server_is_one() -> None:
    """The server's own form, which the other tests rest on, is that of the library."""
    from openai.types.chat import ChatCompletion

    assert ChatCompletion.model_validate(completion("x"), strict=True).choices[0].message.content == "x"
