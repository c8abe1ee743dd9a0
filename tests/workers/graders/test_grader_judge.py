"""The grader that asks a model, against a real HTTP server on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest

from orchestrator.config import Grade, Judge
from orchestrator.errors import BadInput
from orchestrator.records.rows import SAMPLES, Shard
from tests.orchestrator.test_cli import ratchet
from tests.support.judge_server import Asked, JudgeServer, serve
from workers.files import write_table
from workers.grading.pool import Graded, GraderActor, GraderPool
from workers.judge.client import JudgeBudgetSpent


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def opinion(asked: Asked) -> object:
    """Same initial letters are the same answer; a question mark is unclear; nonsense gets nonsense."""
    pair = json.loads(asked.question)
    gold, given = pair["correct answer"], pair["given answer"]
    if "nonsense" in given:
        return "what?"
    verdict = "unclear" if "?" in given else "same" if gold[0] == given[0] else "different"
    return {"reason": f"{given} and {gold}", "verdict": verdict}


def judge(server: JudgeServer, **changes: object) -> Judge:
    return Judge(model="judge-1", base_url=server.address, timeout=5.0, retries=0).model_copy(update=changes)


def boxed(*answers: str, gold: str = "Paris") -> list[tuple[str, str, str]]:
    return [(gold, f"\\boxed{{{answer}}}", "stop") for answer in answers]


def test_a_judge_is_asked_what_no_other_grader_settles() -> None:
    settings = Grade(graders=["number", "exact", "judge"], processes=1)
    with serve(opinion) as server, GraderPool(settings, judge(server)) as pool:
        graded = pool.grade(
            [*boxed("paris", "Paname", "London", "Lyon?", "nonsense", "Paname"), ("Paris", "no", "stop")]
        )
        assert graded[:4] == [
            Graded("correct", "paris", "boxed", None),
            Graded("correct", "Paname", "boxed", None),
            Graded("wrong", "London", "boxed", "judge: London and Paris"),
            Graded("ungradable", "Lyon?", "boxed", "judge: Lyon? and Paris", "unreadable"),
        ]
        assert (graded[4].verdict, graded[4].cause) == ("ungradable", "failed") and graded[4].reason.startswith(
            "judge: the judge's reply has no JSON"
        )
        assert graded[5].verdict == "correct" and graded[6].reason == "no answer found"
        # Two numbers of different value need no opinion.
        assert pool.grade(boxed("8", gold="7"))[0].reason == "number: '8' is not '7'"
        assert len(server.asked) == 4


@pytest.mark.parametrize("unreadable", ["ungradable", "wrong"])
def test_a_judge_is_asked_where_no_other_grader_can_read_the_answer(unreadable: Literal["ungradable", "wrong"]) -> None:
    """Its word counts, whatever the job takes unreadable answers for; of a truncated one there is nothing to ask."""
    said = {"what she had": "same", "what he had": "different", "what they had": "unclear"}

    def asked_of(asked: Asked) -> object:
        given = json.loads(asked.question)["given answer"]
        return {"reason": given, "verdict": said[given]} if given in said else "what?"

    settings = Grade(graders=["number", "judge"], answer=["boxed"], processes=1, unreadable=unreadable)
    items = boxed(*said, "what nobody had", gold="60")
    with serve(asked_of) as server, GraderPool(settings, judge(server)) as pool:
        graded = pool.grade([*items, ("60", "\\boxed{what we had", "length")])
        assert len(server.asked) == 4
    assert [one.verdict for one in graded] == ["correct", "wrong", unreadable, "ungradable", "ungradable"]
    unclear = "unreadable" if unreadable == "ungradable" else None
    assert [one.cause for one in graded] == [None, None, unclear, "failed", "truncated"]


def test_what_a_judge_said_is_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": "p", "sample_index": n, "text": text, "token_ids": [1], "finish_reason": "stop", "num_tokens": 1}
        for n, text in enumerate(["\\boxed{Paname}", "\\boxed{London}"])
    ]
    write_table(pa.Table.from_pylist(rows, SAMPLES), tmp_path / "samples.parquet")
    shard = Shard(0, str(tmp_path / "samples.parquet"), 0, 2, str(tmp_path / "verdicts.parquet"))
    with serve(opinion) as server:
        for cached in (0, 2):
            actor = GraderActor(Grade(graders=["judge"], processes=1), judge(server), str(tmp_path / "judge"))
            facts = actor.grade_shard(shard, {"p": "Paris"})
            actor.close()
            assert (facts["correct"], facts["wrong"]) == (1, 1)
            assert (facts["judge"]["requests"], facts["judge"]["cached"]) == (2 - cached, cached)


def test_a_judge_that_may_not_be_asked_ends_the_grading(tmp_path: Path) -> None:
    settings = Grade(graders=["judge"], processes=1)
    with serve(opinion) as server:
        pool = GraderPool(settings, judge(server, max_requests=1), tmp_path)
        with pool, pytest.raises(JudgeBudgetSpent, match=r"judge\.max_requests"):
            pool.grade(boxed("London", "Lyon"))
    with pytest.raises(BadInput, match=r"judge\.model"):
        GraderPool(settings)


def test_a_file_with_a_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"gold": "Paris", "text": "Paname"}) + "\n")
    common = ("grade", source, "-o", tmp_path / "out.jsonl", "--grader", "judge", "--answer", "whole")
    assert ratchet(*common) == 2
    assert "--judge-model" in capsys.readouterr().err
    with serve(opinion) as server:
        assert ratchet(*common, "--judge-model", "judge-1", "--judge-url", server.address, "--processes", "1") == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["verdict"] == "correct"


@pytest.mark.parametrize("graders", [["judge", "exact"], [{"all_of": ["exact", "judge"]}]])
def test_a_judge_comes_last(graders: list[object]) -> None:
    with pytest.raises(ValueError, match="put it last"):
        Grade(graders=graders)


def test_an_audit_asks_the_judge_too_and_changes_no_verdict() -> None:
    answers = boxed("paris", "Paname", "London", "Lutetia")
    settings = Grade(graders=["exact", "judge"], processes=1)
    with serve(opinion) as server:
        with GraderPool(settings, judge(server)) as pool:
            plain = pool.grade(answers)
        with GraderPool(settings.model_copy(update={"audit": True}), judge(server)) as pool:
            audited = pool.grade(answers)
    assert audited == plain
    assert [dict(one.opinions or {}) for one in audited] == [
        {"exact": "correct", "judge": "wrong"},
        {"exact": "wrong", "judge": "correct"},
        {"exact": "wrong", "judge": "wrong"},
        {"exact": "wrong", "judge": "wrong"},
    ]
    assert [one.disputed for one in audited] == [True, True, False, False]
