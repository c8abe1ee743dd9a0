"""Step-DPO with stand-ins at the loop's seam: the way of an error to a pair, resumed, asked of people, refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import Judge, Steps
from orchestrator.config.load import load_job
from orchestrator.driver.wiring import RealWorkers
from orchestrator.errors import BadInput, Interrupted
from orchestrator.files.durable import canonical, fingerprint
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.reasoning_steps import StepItem
from orchestrator.records.rows import VERDICTS, step_pairs_schema
from orchestrator.rounds.pair_files import Scored
from orchestrator.rounds.round import NoPairs
from orchestrator.rounds.space import round_need
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.steps import lineage as step_lineage
from orchestrator.sources.steps.answers import Answer
from orchestrator.sources.steps.files import Sampled, prompt_kinds
from orchestrator.sources.steps.pairing import Continuation, Error, StepPair, pairs_of_problem, step_pair
from orchestrator.sources.steps.people import VerdictsNeeded
from tests.orchestrator.test_loop import history
from tests.support.judge_server import Asked, serve
from tests.support.stand_ins import EOS, StandInGraders, StandIns, chance, make_project, run_job
from tests.support.step_stand_ins import STEPS, StepStandIns, first_slip
from workers.judge.client import JudgeClient

ROUND = "run/rounds/01"
PROJECT = Path(__file__).parents[3]


def project(folder: Path, skill: float = 0.6, judge: dict[str, Any] | None = None, **steps: Any) -> Path:
    folder.mkdir(exist_ok=True)
    changes: dict[str, Any] = {"judge": judge} if judge else {}
    changes |= {"method": "step_dpo", "steps": STEPS | steps, "promotion": {"rule": "always"}, "rounds": 1, "seed": 8}
    return make_project(folder, skill, **changes, generate={"samples": 3, "max_tokens": 400, "shard_prompts": 4})


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / ROUND / name).to_pylist()
    return found


def facts(folder: Path, step: str) -> dict[str, Any]:
    return Ledger(folder / "run/ledger").state.commits[f"rounds/01/{step}"].facts


def test_every_first_wrong_step_is_found_and_paired_with_a_right_one(tmp_path: Path) -> None:
    said = run_job(project(tmp_path), StepStandIns())
    opening = STEPS["opening"]
    truth = {}
    for error in rows(tmp_path, "errors"):
        truth[f"{error['prompt_id']}/{error['sample_index']}"] = first_slip(opening + error["text"])
    assert len(truth) > 6 and len(set(truth.values())) > 2
    located = {row["error_id"]: row["first_wrong"] for row in rows(tmp_path, "located")}
    assert located == truth
    pairs = rows(tmp_path, "pairs")
    assert pq.read_schema(tmp_path / ROUND / "pairs/00000.parquet").equals(step_pairs_schema())
    assert len(pairs) > 5 and max(Counter(pair["prompt_id"] for pair in pairs).values()) <= 2
    prompts = {row["prompt_id"]: row for row in rows(tmp_path, "prompts")}
    for pair in pairs:
        k = truth[f"{pair['prompt_id']}/{pair['rejected_sample']}"]
        assert pair["step"] == k
        last = f"\nFinal answer: {k}" if k == int(pair["answer"]) else ""
        assert pair["chosen"] == f" {k}{last}"
        assert pair["rejected"] == f" {-k}{last.replace(str(k), str(-k))}"
        assert pair["initial_reason_steps"].endswith(f"Step {k}:")
        assert pair["full_chosen"].endswith(f"Final answer: {pair['answer']}")
        assert pair["full_rejected"].endswith(f"Final answer: -{pair['answer']}")
        # What is trained on is what the texts say, and no side ends in EOS.
        assert prompts[pair["prompt_id"]]["text"] == pair["prompt"] + opening
        assert bytes(pair["prompt_token_ids"]).decode() == pair["prompt"] + pair["initial_reason_steps"]
        assert bytes(pair["chosen_token_ids"]).decode() == pair["chosen"]
        assert bytes(pair["rejected_token_ids"]).decode() == pair["rejected"]
        assert EOS not in pair["chosen_token_ids"] + pair["rejected_token_ids"]
    assert any("located" in line and re.search(r"\d+ prefixes in \d+ passes, [\d,]+ tokens$", line) for line in said)


class Reticent(StepStandIns):
    """Graders that say nothing of every third continuation, and nothing at all of those that begin in some way."""

    def graders(self, settings: Any) -> ReticentGraders:
        return ReticentGraders(self)


class ReticentGraders(StandInGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        found, prefix = super()._verdict(sample, gold), ":" in sample["prompt_id"]
        if prefix and (sample["sample_index"] % 3 == 0 or chance(sample["prompt_id"]) < 0.2):
            found |= {"verdict": "ungradable", "cause": "unreadable"}
        return found


def test_rollouts_without_a_verdict_move_no_first_wrong_step(tmp_path: Path) -> None:
    said = run_job(project(tmp_path), Reticent())
    errors = rows(tmp_path, "errors")
    truth = {f"{e['prompt_id']}/{e['sample_index']}": first_slip(STEPS["opening"] + e["text"]) for e in errors}
    located = {row["error_id"]: row["first_wrong"] for row in rows(tmp_path, "located")}
    assert located == {error: truth[error] for error in located} and len(located) > 4
    found = facts(tmp_path, "located")
    assert found["undecided"] == len(truth) - len(located) > 0
    assert found["probes_unknown"] > 0 and found["rollouts_ungradable"] > found["probes_unknown"] * STEPS["rollouts"]
    assert any(f"{found['probes_unknown']} prefixes left out" in line for line in said)
    cells = [found[key] for key in ("rollouts_ungradable", "probes_unknown", "probes")]
    assert "| " + " | ".join(f"{cell:,}" for cell in cells) + " |" in (tmp_path / "run/report.md").read_text()
    assert verify(tmp_path / "run").findings == []


class FirstReticent(Reticent):
    def graders(self, settings: Any) -> ReticentGraders:
        return FirstReticentGraders(self)


class FirstReticentGraders(ReticentGraders):
    version: ClassVar[dict[str, int]] = {"graders_version": 1}


class Harsh(Reticent):
    """What the others say nothing of is wrong."""

    def graders(self, settings: Any) -> ReticentGraders:
        return HarshGraders(self)


class HarshGraders(ReticentGraders):
    def _verdict(self, sample: dict[str, Any], gold: str) -> dict[str, Any]:
        found = super()._verdict(sample, gold)
        return found | {"verdict": "wrong", "cause": None} if found["verdict"] == "ungradable" else found


@pytest.mark.parametrize("until", ["search/02/prompts", "located"])
def test_a_search_that_the_first_version_has_begun_ends_as_it_would_have_ended(tmp_path: Path, until: str) -> None:
    """There, rollouts without a verdict count as failures: what a search asks next must be what it has asked."""
    run_job(project(tmp_path / "whole"), Harsh())
    job, run = project(tmp_path / "begun"), tmp_path / "begun/run"

    def stop(name: str) -> None:
        if (run / "rounds/01" / until).exists():
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        run_job(job, FirstReticent(on_call=stop))
    run_job(job, Reticent())
    assert rows(tmp_path / "begun", "located") == rows(tmp_path / "whole", "located")
    assert verify(run).findings == []


def test_prompts_are_counted_by_the_verdicts_that_there_are(tmp_path: Path) -> None:
    verdicts = {
        "p": ["correct", "ungradable"],
        "q": ["wrong", "ungradable"],
        "r": ["ungradable"],
        "s": ["correct", "wrong"],
    }
    keys = [(prompt, i, said) for prompt, every in verdicts.items() for i, said in enumerate(every)]
    names = ("prompt_id", "sample_index", "verdict")
    pq.write_table(pa.Table.from_pylist([dict(zip(names, key, strict=True)) for key in keys]), tmp_path / "verdicts")
    samples = [dict(zip(names[:2], key[:2], strict=True)) | {"token_ids": [1], "num_tokens": 1} for key in keys]
    pq.write_table(pa.Table.from_pylist(samples), tmp_path / "samples")
    kinds = prompt_kinds(Sampled("", tmp_path, [Scored(tmp_path / "samples", tmp_path / "verdicts")]))
    of_each = {"prompts_mixed": 1, "prompts_all_correct": 1, "prompts_all_wrong": 1, "prompts_ungradable": 1}
    assert kinds == of_each | {"pass_any": 0.5}


def test_prompts_with_pairs_are_told_before_a_cap_and_computed_again(tmp_path: Path) -> None:
    """Records of earlier versions do not tell it, and are right without."""
    run_job(project(tmp_path / "whole"), StepStandIns())
    run_job(project(tmp_path / "capped"), StepStandIns(), "pairs.max_pairs=1")
    whole, capped = facts(tmp_path / "whole", "pairs"), facts(tmp_path / "capped", "pairs")
    paired = {row["prompt_id"] for row in rows(tmp_path / "whole", "pairs")}
    assert whole["prompts_paired"] == capped["prompts_paired"] == len(paired) > capped["pairs"] == 1
    run = tmp_path / "whole/run"
    for told, findings in ((len(paired) + 1, 1), (None, 0)):
        record = next(path for path in (run / "ledger").glob("*.json") if '"prompts_paired"' in path.read_text())
        document = json.loads(record.read_text())
        document["data"]["facts"]["prompts_paired"] = told
        if told is None:
            del document["data"]["facts"]["prompts_paired"]
        del document["check"]
        record.write_bytes(canonical(document | {"check": fingerprint(document)}) + b"\n")
        assert len(found := verify(run).findings) == findings, found


def test_a_level_of_the_search_is_one_pass(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    found = facts(tmp_path, "located")
    searched = [c for c in Ledger(tmp_path / "run/ledger").state.commits if re.fullmatch(r".*/search/\d+/samples", c)]
    assert len(searched) == found["levels"] <= 5  # problems have up to 20 steps
    drawn = [pq.read_table(tmp_path / "run" / step) for step in searched]
    prompts = [row for step in searched for row in pq.read_table(tmp_path / "run" / step / "../prompts").to_pylist()]
    assert all(bytes(prompt["token_ids"]).decode() == prompt["text"] for prompt in prompts)
    assert sum(table.num_rows for table in drawn) == found["probes"] * STEPS["rollouts"]
    assert sum(sum(table["num_tokens"].to_pylist()) for table in drawn) == found["rollout_tokens"]


def test_the_report_tells_what_the_search_has_cost(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    found = facts(tmp_path, "located")
    report = (tmp_path / "run/report.md").read_text()
    cells = [found[key] for key in ("probes", "rollout_tokens")]
    assert "| " + " | ".join(f"{cell:,}" for cell in cells) + " |" in report.split("## First wrong reasoning steps")[1]


def test_rollouts_from_the_last_right_prefix_are_rectifications_already(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    commits = Ledger(tmp_path / "run/ledger").state.commits
    drawn = {step.split("/")[3] for step in commits if "/rectification/" in step}
    # Of ten, eight were drawn by the search; from the beginning there are the three samples.
    assert drawn == {"02", "07"}
    sources = {re.sub(r"/\d+$", "", row["source"]) for row in rows(tmp_path, "rectified")}
    assert sources == {"rounds", "rounds/01/search", "rounds/01/rectification"}


def test_a_run_that_is_killed_all_the_time_comes_to_the_same_end(tmp_path: Path) -> None:
    """From the first sample to the pairs every driver lives for two pieces of work, of which it does one."""
    run_job(project(tmp_path / "whole"), StepStandIns())
    job, run = project(tmp_path / "stopped"), tmp_path / "stopped/run"
    calls: list[str] = []

    def stop(name: str) -> None:
        if (run / "baseline/evaluation").exists() and not (run / "rounds/01/pairs").exists():
            calls.append(name)
            if len(calls) % 2 == 0:
                raise Interrupted("SIGTERM")

    lives = 1
    while True:
        try:
            run_job(job, StepStandIns(on_call=stop))
            break
        except Interrupted:
            lives += 1
    assert lives > 10
    assert history(run) == history(tmp_path / "whole/run")
    again = StepStandIns()
    run_job(job, again)
    assert not again.calls


def test_a_finished_run_verifies(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    report = verify(tmp_path / "run")
    assert report.findings == [] and report.followed == [1]


def test_problems_with_the_same_text_verify(tmp_path: Path) -> None:
    job, file = project(tmp_path), tmp_path / "train.jsonl"
    problems = [json.loads(line) for line in file.read_text().splitlines()]
    twice = [problem | {"id": problem["id"] + more} for problem in problems for more in ("", "-again")]
    file.write_text("".join(json.dumps(problem) + "\n" for problem in twice))
    run_job(job, StepStandIns(), "data.prompts_per_round=16")
    assert len({row["prompt"] for row in rows(tmp_path, "pairs")}) > 3
    assert verify(tmp_path / "run").findings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pair: {"chosen_token_ids": [*pair["chosen_token_ids"], 7]}, "chosen side has other token ids"),
        (lambda pair: {"rejected_token_ids": [7]}, "rejected side have other token ids"),
        (lambda pair: {"prompt_token_ids": pair["prompt_token_ids"][1:]}, "chosen side is of no committed sample"),
        (lambda pair: {"chosen_sample": 99}, "chosen side is of no committed sample"),
        (lambda pair: {"rejected_sample": 99}, "rejected side is of no committed sample"),
    ],
)
def test_pairs_that_are_not_made_of_the_samples_are_found(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    run_job(project(tmp_path), StepStandIns())
    first, *others = rows(tmp_path, "pairs")
    forged = tmp_path / ROUND / "pairs/00000.parquet"
    forged.unlink()
    pq.write_table(pa.Table.from_pylist([first | change(first), *others], step_pairs_schema()), forged)
    found = list(step_lineage.findings(tmp_path / "run", Ledger(tmp_path / "run/ledger").state, "rounds/01"))
    assert len(found) >= 1 and all(repr(first["pair_id"]) in line for line in found)
    assert any(message in line for line in found)


def test_a_step_of_a_sample_that_was_judged_otherwise_is_found(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    pair, run = rows(tmp_path, "pairs")[0], tmp_path / "run"
    for file in (tmp_path / ROUND / "verdicts").glob("*.parquet"):
        table = pq.read_table(file).to_pylist()
        for row in table:
            if (row["prompt_id"], row["sample_index"]) == (pair["prompt_id"], pair["rejected_sample"]):
                row["verdict"] = "correct"
        pq.write_table(pa.Table.from_pylist(table, VERDICTS), file)
    found = list(step_lineage.findings(run, Ledger(run / "ledger").state, "rounds/01"))
    assert found and all("judged correct, not wrong" in line for line in found)


def answers(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROUND / "questions/00000.jsonl").read_text().splitlines()]


def test_people_say_which_step_is_wrong(tmp_path: Path) -> None:
    job = project(tmp_path, localiser="file")
    with pytest.raises(VerdictsNeeded, match=r"verdicts/round-01\.jsonl"):
        run_job(job, StepStandIns())
    questions = answers(tmp_path)
    assert questions[0].keys() == {"id", "problem", "gold", "solution", "steps"}
    lines = []
    for question in questions:
        values = [int(step["text"].split()[0]) for step in question["steps"]]
        wrong = next(number for number, value in enumerate(values, start=1) if value != number)
        assert [step["number"] for step in question["steps"]] == list(range(1, len(values) + 1))
        lines.append({"id": question["id"], "first_wrong": wrong})
    lines[0]["first_wrong"] = None
    file = tmp_path / "run/verdicts/round-01.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = StepStandIns()
    run_job(job, again)
    assert facts(tmp_path, "located")["none_wrong"] == 1
    assert {f"{p['prompt_id']}/{p['rejected_sample']}" for p in rows(tmp_path, "pairs")} <= {q["id"] for q in lines[1:]}
    file.unlink()  # what was read is committed
    run_job(job, StepStandIns())


def test_a_file_of_verdicts_may_be_an_editors(tmp_path: Path) -> None:
    job, file = project(tmp_path, localiser="file", verdicts="verdicts.jsonl"), tmp_path / "run/verdicts.jsonl"
    with pytest.raises(VerdictsNeeded):
        run_job(job, StepStandIns())
    lines = [json.dumps({"id": question["id"], "first_wrong": None}) for question in answers(tmp_path)]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    with pytest.raises(NoPairs, match="no wrong step was found in its answers"):
        run_job(job, StepStandIns())
    assert facts(tmp_path, "located")["none_wrong"] == len(lines)


def test_a_file_of_verdicts_is_for_one_round(tmp_path: Path) -> None:
    job = project(tmp_path, localiser="file", verdicts="verdicts.jsonl")
    with pytest.raises(BadInput, match=r"`steps.verdicts` is one file, and each of 2 rounds asks about other answers"):
        run_job(job, StepStandIns(), "rounds=2")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("nonsense", ":2: no JSON"),
        ('{"id": ID, "first_wrong": 1, "first_wrong": 2}', ":2: no JSON .the key 'first_wrong' stands twice"),
        ('{"id": "train-9/9", "first_wrong": 1}', ":2: id 'train-9/9' is none of the questions"),
        ('{"first_wrong": 1}', ':2: must be an object with "id"'),
        ('{"id": ID, "first_wrong": 99}', ":2: first_wrong must be a step from 1 to"),
        ('{"id": ID, "first_wrong": true}', ":2: first_wrong must be a step from 1 to"),
        ('{"id": FIRST, "first_wrong": 1}', ":2: .* has a verdict on line 1 already"),
        ("", "answers have no verdict"),
    ],
)
def test_verdicts_that_cannot_be_used_are_refused_by_line(tmp_path: Path, broken: str, message: str) -> None:
    job = project(tmp_path, localiser="file", verdicts=str(tmp_path / "verdicts.jsonl"))
    with pytest.raises(VerdictsNeeded):
        run_job(job, StepStandIns())
    first, second = (json.dumps(question["id"]) for question in answers(tmp_path)[:2])
    lines = [f'{{"id": {first}, "first_wrong": 1}}', broken.replace("ID", second).replace("FIRST", first)]
    (tmp_path / "verdicts.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=message):
        run_job(job, StepStandIns())


def judge(asked: Asked) -> dict[str, Any]:
    """It knows what is right, and likes no answer to an even problem."""
    gold = int(re.search(r"final answer: (\d+)", asked.question)[1])  # type: ignore[index]
    values = [int(value) for value in re.findall(r"\[Step \d+\]\n(-?\d+)", asked.question)]
    right = [value == number and (gold % 2 or values[-1] < 0) for number, value in enumerate(values, start=1)]
    verdicts = ["correct" if fine else "incorrect" for fine in right]
    steps = [{"step": number, "reason": "", "verdict": v} for number, v in enumerate(verdicts, start=1)]
    return {"steps": steps[: verdicts.index("incorrect") + 1] if "incorrect" in verdicts else steps}


def judged(folder: Path, address: str, script: StepStandIns, **steps: Any) -> Path:
    section = {"model": "judge-1", "base_url": address, "retries": 0}
    script.client = JudgeClient(Judge(**section), folder / "judge", pause=0.001)
    return project(folder, judge=section, **steps)


def test_a_judge_finds_the_first_wrong_steps(tmp_path: Path) -> None:
    workers = StepStandIns()
    with serve(judge) as server:
        run_job(judged(tmp_path, server.address, workers, localiser="judge"), workers)
    truth = {
        f"{error['prompt_id']}/{error['sample_index']}": first_slip(STEPS["opening"] + error["text"])
        for error in rows(tmp_path, "errors")
    }
    assert {row["error_id"]: row["first_wrong"] for row in rows(tmp_path, "located")} == truth
    assert facts(tmp_path, "located")["judge"]["requests"] == len(server.asked) == len(truth)
    assert all("search" not in pair["chosen_source"] for pair in rows(tmp_path, "pairs"))
    assert verify(tmp_path / "run").findings == []


def test_the_workers_of_a_run_ask_its_judge_and_keep_the_replies(tmp_path: Path) -> None:
    items = [StepItem("1, 2, 3?", None, "3", ("1", "-2", "-3")), StepItem("1?", None, "1", ("1",))]
    with serve(judge) as server:
        section = {"model": "judge-1", "base_url": server.address}
        job = load_job(project(tmp_path, judge=section, localiser="judge")).job
        (tmp_path / "run").mkdir()
        for requests in (2, 0):
            with RealWorkers(job, tmp_path / "run/logs") as workers:
                judgements, cost = workers.judge_steps(items)
            assert [judgement.first_wrong for judgement in judgements] == [1, None]
            assert cost["requests"] == requests


def test_errors_without_a_judgement_are_left_out(tmp_path: Path) -> None:
    workers = StepStandIns()
    with serve(lambda asked: judge(asked) if asked.number else "I cannot say") as server:
        run_job(judged(tmp_path, server.address, workers, localiser="judge"), workers)
    found = facts(tmp_path, "located")
    assert found["undecided"] == 1 and found["located"] == found["errors"] - 1


def test_a_judge_sorts_out_answers_that_are_right_by_luck(tmp_path: Path) -> None:
    workers = StepStandIns()
    with serve(judge) as server:
        run_job(judged(tmp_path, server.address, workers, filter="judge"), workers)
    found, pairs = facts(tmp_path, "pairs"), rows(tmp_path, "pairs")
    assert pairs and all(int(pair["answer"]) % 2 for pair in pairs)
    assert found["refused_lucky"] > 0 and found["pairs"] == len(pairs)


def test_without_errors_or_without_a_right_continuation_there_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(NoPairs, match="none of its samples is wrong"):
        run_job(project(tmp_path / "a", skill=1.0), StepStandIns())
    with pytest.raises(NoPairs, match="have no right continuation"):
        run_job(project(tmp_path / "b", skill=0.0), StepStandIns())


def test_evaluation_is_opened_only_where_that_is_asked_for(tmp_path: Path) -> None:
    run_job(project(tmp_path / "plain"), StepStandIns())
    run_job(project(tmp_path / "opened", open_evaluation=True), StepStandIns())
    for folder, opened in (("plain", False), ("opened", True)):
        texts = pq.read_table(tmp_path / folder / "run/baseline/prompts/gate.parquet")["text"].to_pylist()
        assert all(text.endswith(STEPS["opening"]) is opened for text in texts)


def test_a_fork_takes_over_the_search(tmp_path: Path) -> None:
    run_job(project(tmp_path), StepStandIns())
    fork(tmp_path / "run", tmp_path / "other", ["pairs.per_prompt=1"])
    workers = StepStandIns()
    run_job(tmp_path / "other/job.yaml", workers)
    before, after = (Ledger(tmp_path / run / "ledger").state.commits for run in ("run", "other"))
    searched = [step for step in before if "/search/" in step or "/rectification/" in step]
    assert searched and all(before[step].fingerprint == after[step].fingerprint for step in searched)
    pairs = pq.read_table(tmp_path / "other/rounds/01/pairs")["prompt_id"].to_pylist()
    assert len(set(pairs)) == len(pairs) < before["rounds/01/pairs"].facts["pairs"]
    assert workers.calls["train"] == 1 and not workers.calls["generate"]  # such a candidate has answered before


def test_a_fork_with_other_prompts_takes_over_no_pairs(tmp_path: Path) -> None:
    """Not even where the model answers them in the very same words, as this one does."""
    run_job(project(tmp_path), StepStandIns())
    fork(tmp_path / "run", tmp_path / "other", ["steps.opening='So, let us see. Step 1:'"])
    run_job(tmp_path / "other/job.yaml", StepStandIns())
    assert verify(tmp_path / "other").findings == []
    errors = pq.read_table(tmp_path / "other/rounds/01/errors").to_pylist()
    assert errors and all(b"let us see" in bytes(error["prompt_token_ids"]) for error in errors)


def test_a_round_takes_no_more_space_than_was_asked_for_before(tmp_path: Path) -> None:
    file = project(tmp_path)
    run_job(file, StepStandIns())
    folder = tmp_path / ROUND
    written = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    need = round_need(
        load_job(file).job, 1, tmp_path / "seed", {"train": (20, 10.0), "gate": (16, 9.0)}, SOURCES["steps"].disk
    )
    assert need.rows > written


@pytest.mark.parametrize("split", ["paragraphs", "pattern:(", "pattern:x*"])
def test_a_split_that_cannot_work_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(BadInput, match=r"steps\.split"):
        run_job(project(tmp_path, split=split), StandIns())


def test_the_paper_jobs_settings() -> None:
    job = load_job(PROJECT / "jobs/step_dpo-qwen2.yaml").job
    assert (job.source.type, job.rounds, job.generate.samples, job.generate.temperature) == ("steps", 1, 2, 0.8)
    assert (job.generate.top_p, Steps.of(job).rectifications, Steps.of(job).localiser) == (0.95, 20, "judge")
    assert Steps.of(job).opening == "Let's think step by step.\nStep 1:" and job.data.template.endswith("Response:\n")
    assert (job.loss.beta, job.loss.dpo, job.loss.nll) == (0.4, 1.0, 0.0)
    assert (job.train.learning_rate, job.train.schedule, job.train.warmup_ratio) == (5e-7, "cosine", 0.1)
    assert (job.train.batch_pairs, job.train.epochs, job.train.max_tokens) == (128, 8, 1024)


def test_whole_gold_solutions_are_no_steps(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="leave it out"):
        run_job(project(tmp_path), StandIns(), "pairs.gold_as_chosen=true", "data.solution=answer")


def error_of(text: str, sample: int = 0) -> Error:
    ids = list(text.encode())
    return Error("p", sample, [1, 2], ids, Answer("Step 1:", text, list(range(1, len(ids) + 1))))


def continuation_of(error: Error, right: int, text: str) -> Continuation:
    ids = list(text.encode())
    return Continuation("search/01", 0, error.prefix(right), ids, text, list(range(1, len(ids) + 1)))


def test_pairs_that_would_teach_nothing_are_refused() -> None:
    error = error_of(" 1\nStep 2: -2\nFinal answer: -2")
    assert step_pair(error, 2, continuation_of(error, 1, " -2\nFinal answer: -2 ")) == "equal"
    assert step_pair(error, 2, continuation_of(error, 1, "\nStep 3: 2")) == "empty"
    assert step_pair(error_of(" 1\nStep 2:"), 2, continuation_of(error_of(" 1\nStep 2:"), 1, " 2")) == "empty"
    assert step_pair(error, 2, continuation_of(error, 0, " 2")) == "not_a_prefix"
    other = error_of(" 9\nStep 2: -2")
    assert step_pair(error, 2, continuation_of(other, 1, " 2")) == "not_a_prefix"


def test_each_error_of_a_problem_has_a_pair_before_any_has_two() -> None:
    first, second, third = error_of(" -1\nStep 2: 0"), error_of(" -3\nStep 2: 0", 1), error_of(" -3\nStep 2: 1", 2)
    found = [continuation_of(first, 0, text) for text in (" 1", " 1.0", " 1\nStep 2: 2")]
    refused: Counter[str] = Counter()
    pairs, count = pairs_of_problem([(first, 1), (second, 1), (third, 1)], {"p": found}, 3, refused)
    assert [(p.error.sample_index, p.chosen) for p in pairs] == [(0, " 1"), (1, " 1"), (0, " 1.0")]
    assert count == 4
    # Two that say " 1" twice, and all three of the last, whose wrong step is the second's.
    assert refused == {"duplicate": 5, "not_rectified": 0}
    _, none = pairs_of_problem([(second, 2)], {"p": found}, 3, refused)
    assert none == 0 and refused["not_rectified"] == 1


def sampled(*tokens: str) -> tuple[list[int], str, list[int]]:
    """Ids, text, and where each token ends in it."""
    text = "".join(tokens)
    return list(range(len(tokens))), text, [len("".join(tokens[: i + 1])) for i in range(len(tokens))]


def test_a_piece_of_a_marker_is_no_step() -> None:
    ids, text, ends = sampled(" 1", "\n", "Step", " 2", ":\n", "Step", " 3", ":", " x")
    error = Error("p", 0, [1], ids, Answer("Step 1:", text, ends))
    assert error.answer.prefix_text(1) == " 1\nStep 2"  # the colon's token reaches into the step
    ids, text, ends = sampled(":", " 2")
    assert step_pair(error, 2, Continuation("search/01", 0, error.prefix(1), ids, text, ends)) == "empty"


def test_a_continuation_that_goes_on_with_the_step_before_is_refused() -> None:
    ids, text, ends = sampled(" 1", "\n", "Step", " 2: so", " x")
    error = Error("p", 0, [1], ids, Answer("Step 1:", text, ends))
    assert error.answer.prefix_text(1) == " 1\nStep"
    ids, text, ends = sampled("s", " are", " fine", "\nStep 2:", " y")
    assert step_pair(error, 2, Continuation("search/01", 0, error.prefix(1), ids, text, ends)) == "not_a_prefix"
    ids, text, ends = sampled(" 2", ":", " y")
    pair = step_pair(error, 2, Continuation("search/01", 0, error.prefix(1), ids, text, ends))
    assert isinstance(pair, StepPair) and (pair.chosen, pair.rejected) == (" 2: y", " 2: so x")


def test_white_space_before_the_right_step_is_no_other_prefix() -> None:
    ids, text, ends = sampled("1", "\n", "-2")
    error = Error("p", 0, [1], ids, Answer("So:\n", text, ends, "lines"))
    ids, text, ends = sampled("\n", "2", "\n", "3")
    pair = step_pair(error, 2, Continuation("search/01", 0, error.prefix(1), ids, text, ends))
    assert isinstance(pair, StepPair) and (pair.chosen, pair.rejected) == ("\n2", "-2")


def test_an_opening_without_a_marker_wastes_no_first_step(tmp_path: Path) -> None:
    run_job(project(tmp_path, opening="Let's think.\n"), StepStandIns())
    first = [pair for pair in rows(tmp_path, "pairs") if pair["step"] == 1]
    assert first and facts(tmp_path, "pairs")["refused_not_a_prefix"] == 0
    assert any(pair["chosen_source"] == "rounds/01" for pair in first)
    for pair in first:
        assert pair["initial_reason_steps"] == "Let's think.\n"
        assert pair["chosen"].startswith("\nStep 1: 1") and pair["rejected"].startswith("\nStep 1: -1")
    assert verify(tmp_path / "run").findings == []
