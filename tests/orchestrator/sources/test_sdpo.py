"""sDPO's job files: the paper's settings (arXiv 2403.19270), and the demo's data."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.load import load_job
from orchestrator.inputs.preferences import read_preferences

JOBS = Path(__file__).parents[3] / "jobs"


@pytest.mark.parametrize("name", ["sdpo", "sdpo-solar"])
def test_the_method_is_the_papers(name: str) -> None:
    job = load_job(JOBS / f"{name}.yaml").job
    assert (job.method, job.source, job.init, job.reference) == ("sdpo", "dataset", "previous", "previous")
    assert (job.loss.beta, job.loss.dpo, job.loss.nll) == (0.1, 1.0, 0.0)
    assert (job.train.schedule, job.train.warmup_ratio) == ("linear", 0.1)
    assert job.stages is not None and job.stages.order == "easy_first" and not job.stages.drop_seen
    assert job.promotion.rule == "always"
    assert job.rounds == job.stages.chunks == 2


def test_settings_of_solar_are_the_papers() -> None:
    job = load_job(JOBS / "sdpo-solar.yaml").job
    assert (job.train.learning_rate, job.train.batch_pairs) == (5e-7, 32)
    assert 1 <= job.train.epochs <= 3
    assert job.stages is not None
    assert [source.hub.partition("/")[2] for source in job.stages.sources] == [
        "orca_dpo_pairs",
        "ultrafeedback_binarized_cleaned",
    ]
    assert not job.data.sources


def test_rows_as_these_data_sets_have_them(tmp_path: Path) -> None:
    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    asked = [message("system", "You are an AI assistant."), message("user", "Sum up: ...")]
    orca = {"prompt": "Sum up: ..."} | {
        side: [*asked, message("assistant", text)] for side, text in (("chosen", "Short."), ("rejected", "Long."))
    }
    user = message("user", "Why is the sky blue?")
    sides = {"chosen": [user, message("assistant", "Rayleigh.")], "rejected": [user, message("assistant", "Paint.")]}
    ultra: dict[str, Any] = {"prompt": user["content"], "prompt_id": "x", "score_chosen": 8.0, "messages": []} | sides
    job = load_job(JOBS / "sdpo-solar.yaml", [f"stages.sources=[{tmp_path}/orca.jsonl, {tmp_path}/ultra.jsonl]"]).job
    for name, row in (("orca", orca), ("ultra", ultra)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    first, second = read_preferences(job, lambda path, key: Path(path))
    assert first.rows[0].prompt == asked and first.rows[0].rejected == [message("assistant", "Long.")]
    assert second.rows[0].prompt == [user] and second.rows[0].chosen == [message("assistant", "Rayleigh.")]


def test_the_demos_data_are_what_the_script_writes(tmp_path: Path) -> None:
    script = runpy.run_path(str(JOBS / "demo/make_preferences.py"))
    script["write"](tmp_path)
    for kind in ("slip", "direct"):
        name = f"preferences-{kind}.jsonl"
        assert (tmp_path / name).read_bytes() == (JOBS / "demo" / name).read_bytes()


def test_the_demos_data_are_right_and_wrong(tmp_path: Path) -> None:
    rows = {
        kind: [json.loads(line) for line in (JOBS / f"demo/preferences-{kind}.jsonl").read_text().splitlines()]
        for kind in ("slip", "direct")
    }
    problems = [json.loads(line) for line in (JOBS / "demo/train.jsonl").read_text().splitlines()]
    known = {f"{row['question']}\n": row for row in problems}
    for kind, found in rows.items():
        assert len({row["prompt"] for row in found}) == len(found) == 400
        for row in found:
            problem = known[row["prompt"]]
            assert row["chosen"] == problem["solution"]
            lines = row["rejected"].split("\n")
            assert row["rejected"] != row["chosen"]
            assert len(lines) == (1 if kind == "direct" else len(problem["solution"].split("\n")))
            if kind == "slip":
                assert sum(not _holds(line) for line in lines[:-1]) == 1, row
                assert lines[-1] == f"Final answer: {lines[-2].rpartition(' = ')[2]}"
            else:
                assert lines[0].startswith("Final answer: ") and lines[0] != f"Final answer: {problem['answer']}"
    assert not {row["prompt"] for row in rows["slip"]} & {row["prompt"] for row in rows["direct"]}


def _holds(step: str) -> bool:
    left, sign, right, _, result = step.partition(": ")[2].split(" ")
    a, b = int(left), int(right)
    return {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign] == int(result)
