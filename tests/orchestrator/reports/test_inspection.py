"""`ratchet inspect`: what a run has in it is found again, and is what the files have."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import Damaged
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.parquet import read_table
from orchestrator.records.updates import epoch_batches
from orchestrator.reports.inspection import pairs
from orchestrator.reports.inspection.checkpoints import checkpoint
from orchestrator.reports.inspection.pairs import updates_with
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import Wanted, reference_before, samples
from orchestrator.rounds.evaluation import solved
from tests.orchestrator.test_cli import ratchet
from tests.support.preference_stand_ins import PreferenceStandIns, make_stages, right
from tests.support.stand_ins import StandIns, make_project, run_job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_job(make_project(folder, rounds=2, train={"batch_pairs": 3, "epochs": 2}), StandIns())
    return folder / "run"


@pytest.fixture
def asked(made: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(*arguments: str) -> dict[str, Any]:
        assert ratchet("inspect", made, *arguments, "--json") == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return ask


def verdicts(run: Path, number: int) -> list[dict[str, Any]]:
    files = sorted((run / f"rounds/{number:02d}/verdicts").glob("*.parquet"))
    return [row for file in files for row in read_table(file).to_pylist()]


def test_every_verdict_of_a_round_is_found(made: Path, asked: Any) -> None:
    for verdict in ("correct", "wrong", "ungradable"):
        expected = [(v["prompt_id"], v["sample_index"]) for v in verdicts(made, 1) if v["verdict"] == verdict]
        found = asked("--round", "1", "--verdict", verdict, "--limit", "1000")
        assert found["found"] == len(expected)
        assert [(row["prompt_id"], row["sample"]) for row in found["samples"]] == expected
    assert len(asked("--round", "1", "--limit", "3")["samples"]) == 3
    first = asked("--round", "1", "--limit", "1")["samples"][0]
    assert first["gold"] in first["text"] or first["verdict"] != "correct"
    assert asked("--round", "1", "--text", first["text"][:8].upper())["found"] > 0
    assert asked("--round", "1", "--text", "nobody writes this")["found"] == 0
    assert asked("--round", "1", "--cause", "truncated")["found"] == 0


def test_flips_are_the_difference_of_two_evaluations(made: Path, asked: Any) -> None:
    state = RunReader(made).state
    for number, split in itertools.product((1, 2), ("gate", "test")):
        before = reference_before(state, number)
        folder = "baseline" if before == 0 else f"rounds/{before:02d}"
        then = solved(made / folder / f"evaluation/{split}.parquet")
        now = solved(made / f"rounds/{number:02d}/evaluation/{split}.parquet")
        found = asked("--flipped", "--round", str(number), "--split", split, "--limit", "1000")
        told = {flip["prompt_id"]: flip["change"] for flip in found["flips"]}
        assert told == {name: "won" if now[name] else "lost" for name in now if now[name] != then[name]}
        assert found["won"] + found["lost"] == len(told) and found["against"] == before
        if split == "gate":
            decision = next(p for p in state.promotions if p["round"] == number)
            assert (found["won"], found["lost"]) == (decision["won"], decision["lost"])


def test_a_pair_leads_to_its_samples_and_back(made: Path, asked: Any) -> None:
    rows = pq.read_table(made / "rounds/01/pairs/00000.parquet").to_pylist()
    for row in rows[:3]:
        pair = asked("--round", "1", f"--pair={row['pair_id']}")
        problem = asked(f"--problem={row['prompt_id']}")
        in_round = next(each for each in problem["rounds"] if each["round"] == 1)
        for side in ("chosen", "rejected"):
            assert pair["sides"][side]["text"] == row[side]
            sample = next(s for s in in_round["samples"] if s["sample"] == row[f"{side}_sample"])
            assert row["pair_id"] in sample["pairs"][side] and sample["text"] == row[side]
            assert pair["sides"][side]["verdict"] == sample["verdict"] == {"chosen": "correct"}.get(side, "wrong")
    newest = asked(f"--pair={rows[0]['pair_id']}")["round"]
    assert newest == max(
        number
        for number in (1, 2)
        if rows[0]["pair_id"] in read_table(made / f"rounds/{number:02d}/pairs/00000.parquet")["pair_id"].to_pylist()
    )


def test_pairs_are_found_in_whichever_rows_of_the_file_they_are(made: Path) -> None:
    rows = [
        row for number in (1, 2) for row in read_table(made / f"rounds/{number:02d}/pairs/00000.parquet").to_pylist()
    ]
    names = sorted({row["prompt_id"] for row in rows})
    assert pq.read_metadata(made / "rounds/01/pairs/00000.parquet").num_row_groups > 1
    for wanted in ({names[0]}, {names[-1]}, set(names[::2]), {"a", names[1], "z"}, {"a"}, {"z"}, set[str]()):
        found = [row["pair_id"] for number in (1, 2) for row in RunReader(made).pairs(number, wanted)]
        assert found == [row["pair_id"] for row in rows if row["prompt_id"] in wanted]


def test_the_updates_of_a_pair_are_those_of_the_training(made: Path, tmp_path: Path) -> None:
    """Each pair once an epoch: of as many updates as the training says it has done."""
    run = tmp_path / "run"
    shutil.copytree(made, run)
    reader = RunReader(run)
    file = run / "rounds/01/pairs/00000.parquet"
    names = read_table(file)["pair_id"].to_pylist()
    batches = -(-len(names) // 3)
    reader.state.commits["rounds/01/train"].facts["steps"] = 2 * batches
    told = {name: updates_with(reader, 1, name) for name in names}
    for updates in told.values():
        assert updates is not None and len(updates) == 2 and updates[0] <= batches < updates[1] <= 2 * batches
    reader.state.commits["rounds/01/train"].facts["steps"] = 1
    assert sum(updates_with(reader, 1, name) == [1] for name in names) == 3
    reader.state.commits["rounds/01/train"].facts["steps"] = 10**15  # as a stranger's record may say
    assert updates_with(reader, 1, names[0]) is None, "and it does not go through them until the memory is full"


@pytest.mark.parametrize("order", ["pairs", "prompts"])
def test_updates_are_named_as_ranks_take_them(order: str) -> None:
    """By the same function: what it is given of a file here is what `workers/numerics/batching.py` gives it."""
    prompts = [np.array(ids, dtype=np.int32) for ids in ([1, 2], [1, 2], [70000], [3, 4, 5])]
    column = pa.array([ids.tolist() for ids in prompts], pa.list_(pa.int32()))
    ours = [np.asarray(ids, dtype="<i4").tobytes() for ids in column.to_pylist()]
    assert ours == [ids.tobytes() for ids in prompts]
    batches = epoch_batches(list("abcd"), ours, 7, 0, 2, order)
    assert sorted(itertools.chain(*batches)) == [0, 1, 2, 3]


def test_samples_of_later_waves_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_job(
        make_project(tmp_path, rounds=1, generate={"samples": 8, "wave_samples": 4}, pairs={"per_prompt": 1}),
        StandIns(),
    )
    files = sorted((tmp_path / "run/rounds/01").glob("**/verdicts/*.parquet"))
    assert any("wave" in str(file) for file in files)
    assert ratchet("inspect", tmp_path / "run", "--round", "1", "--limit", "1000", "--json") == 0
    found = json.loads(capsys.readouterr().out)["samples"]
    expected = {(row["prompt_id"], row["sample_index"]) for file in files for row in read_table(file).to_pylist()}
    assert {(row["prompt_id"], row["sample"]) for row in found} == expected


def test_a_pipe_gets_every_line_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = " ".join(f"word{number}" for number in range(40))
    data = {split: f"{split}.jsonl" for split in ("train", "gate", "test")} | {"template": f"{long} {{question}}\n"}
    run_job(make_project(tmp_path, rounds=1, data=data), StandIns())
    for arguments in (["--round", "1", "--limit", "2"], ["--flipped"], ["--pair=train-0/0"]):
        assert ratchet("inspect", tmp_path / "run", *arguments) == 0
        assert f"\n    {long} " in capsys.readouterr().out


def test_a_checkpoint_says_what_it_comes_from(made: Path, asked: Any) -> None:
    found = asked("--checkpoint", "--round", "2")
    assert (found["started_from"], found["reference"], found["promoted"], found["there"]) == (1, 1, True, True)
    assert found["files"].keys() == {path.name for path in (made / "rounds/02/checkpoint").iterdir()}
    assert asked("--checkpoint", "--round", "1")["started_from"] == 0


def test_a_checkpoint_is_told_in_the_words_of_the_report(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("inspect", made, "--checkpoint", "--round", "2") == 0
    said = " ".join(capsys.readouterr().out.split())
    [gate] = re.findall(r"^- Round 2, (promoted: .*)\.$", (made / "report.md").read_text(), re.M)
    assert gate in said and re.search(r"trained on .* updates, ", said) and " steps" not in said


def test_the_overview_asks_questions_that_have_answers(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("inspect", made) == 0
    said = capsys.readouterr().out.splitlines()
    questions = [line.split()[1:] for line in said if line.startswith("  ratchet")]
    assert len(questions) == 5
    for question in questions:
        assert ratchet(*question) == 0
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("part", ["", "verdicts", "pairs", "train", "selection/000001"])
def test_the_overview_of_a_run_that_stopped_in_a_round_asks_no_more_than_there_is(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run_job(make_project(tmp_path, rounds=2, train={"eval_every": 1}, promotion={"rule": "always"}), StandIns())
    numbers = [record.data.get("step") for record in Ledger(run / "ledger").records]
    for number in range(numbers.index(f"rounds/02/{part}" if part else "baseline/evaluation") + 1, len(numbers)):
        (run / f"ledger/{number:08d}.json").unlink()
    assert ratchet("inspect", run) == 0
    questions = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ratchet")]
    assert len(questions) == (5 if part else 1)
    for question in [*questions, *([["inspect", str(run), "--checkpoint"]] if part else [])]:
        assert ratchet(*question) == 0, capsys.readouterr().err


def test_without_gate_problems_no_flips_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_stages(tmp_path, {"pairs": right("a", 4)}, data={}, promotion={"rule": "always"})
    run_job(job, PreferenceStandIns())
    assert ratchet("inspect", tmp_path / "run") == 0
    questions = [line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.startswith("  ratchet")]
    assert questions
    for question in questions:
        assert ratchet(*question) == 0, capsys.readouterr().err


@pytest.mark.parametrize("retrain", [False, True])
def test_of_several_checkpoints_the_chosen_one_says_what_made_it(tmp_path: Path, retrain: bool) -> None:
    run = tmp_path / "run"
    train = {"eval_every": 1, "select": "best", "retrain": retrain}
    run_job(make_project(tmp_path, rounds=1, train=train, promotion={"rule": "always"}), StandIns(steps=3, peak=2))
    found = checkpoint(reader := RunReader(run), 1)
    made = reader.state.commits["rounds/01/retrain" if retrain else "rounds/01/train"].facts
    assert found["training"] == {key: made[key] for key in found["training"]}
    assert found["training"]["steps"] == (2 if retrain else 3)
    assert found["chosen"] == (None if retrain else {"steps": 2, "candidates": 3})
    assert ratchet("export", run, tmp_path / "away") == 0
    assert f"| {'2' if retrain else '2 of 3'} |" in (tmp_path / "away/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--round", "9"], "round 9 has no verdicts: it has those of round 1, 2"),
        (["--verdict", "good"], "--verdict: 'good' is none. Give correct, wrong or ungradable."),
        (["--split", "dev"], "--split: 'dev' is none."),
        (["--pair", "x/0"], "no round has a pair 'x/0'"),
        (["--round", "1", "--pair", "x/0"], "round 1 has no pair 'x/0'"),
        (["--problem", "x"], "no problem is called 'x'"),
        (["--problem", "x", "--flipped"], "--problem and --flipped: each is a view of its own"),
        (["--checkpoint", "--round", "7"], "round 7 has no checkpoint; rounds that have one: 1, 2"),
        *(
            ([f"--{option}=a\udcff"], f"--{option}: 'a\\udcff' is no text in UTF-8")
            for option in ("problem", "pair", "rule", "text")
        ),
        (["--limit=99999999999999999999", "--round", "1"], "--limit"),
    ],
)
def test_mistakes_have_one_message(
    made: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet("inspect", made, *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("what", ["header", "page", "twice"])
@pytest.mark.parametrize(
    "view", ["--round=1", "--flipped", "--pair=train-1/0", "--problem=train-2", "--problem=gate-1"]
)
def test_a_damaged_file_is_named(
    made: Path, tmp_path: Path, what: str, view: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrow has an OSError for what it cannot unpack, and a KeyError where a name stands twice."""
    run = tmp_path / "run"
    shutil.copytree(made, run)
    split = "evaluation/gate.parquet" if view in ("--flipped", "--problem=gate-1") else "pairs/00000.parquet"
    for file in (run / "rounds").glob(f"*/{'verdicts/*.parquet' if view == '--round=1' else split}"):
        table, content = read_table(file), bytearray(file.read_bytes())
        if what == "twice":
            pq.write_table(table.append_column("prompt_id", table["prompt_id"]), file)
            continue
        for place in range(4, 400) if what == "page" else range(len(content) - 300, len(content) - 8):
            content[place] ^= 255
        file.write_bytes(content)
    assert ratchet("inspect", run, view) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"ratchet: {run}/rounds/0") and "Traceback" not in said


def test_of_shards_without_the_problem_no_row_is_read(made: Path, tmp_path: Path) -> None:
    """As a file that cannot be read shows, beside those that are asked for."""
    run = Path(shutil.copytree(made, tmp_path / "run"))
    files = sorted((run / "rounds/01/samples").glob("*.parquet"))
    pair = read_table(run / "rounds/01/pairs/00000.parquet").to_pylist()[0]
    for file in files:
        if pair["prompt_id"] not in read_table(file)["prompt_id"].to_pylist():
            file.write_bytes(b"nothing")
    assert sum(file.read_bytes() == b"nothing" for file in files) == len(files) - 1 > 0
    found = pairs.pair(RunReader(run), 1, pair["pair_id"])
    assert [found["sides"][side]["verdict"] for side in ("chosen", "rejected")] == ["correct", "wrong"]
    wanted = Wanted(1, problem=pair["prompt_id"])
    assert samples(RunReader(run), wanted, 100)["found"] > 1
    with pytest.raises(Damaged):
        samples(RunReader(run), Wanted(1), 100)
