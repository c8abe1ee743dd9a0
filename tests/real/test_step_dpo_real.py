"""Step-DPO on the real stack (Ray, vLLM, DeepSpeed): one small round, killed in its search and resumed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import step_pairs_schema
from tests.support.real import PROJECT, all_gone, end, finish, has_shard, log_of, start, wait_for

pytestmark = [pytest.mark.real, pytest.mark.full]

SMALL = (
    "rounds=1",
    "data.prompts_per_round=120",
    "data.gate.limit=32",
    "data.test.limit=32",
    "generate.shard_prompts=16",
    "tracking.enabled=false",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "step_dpo"
    process = start(folder, *SMALL, job="jobs/step_dpo.yaml")
    wait_for(process, folder, has_shard("rounds/01/search/01/samples"))
    end(process)
    assert finish(start(folder, *SMALL, job="jobs/step_dpo.yaml"), folder) == 0, log_of(folder)
    all_gone()
    return folder


def test_pairs_are_pieces_of_what_was_sampled(run: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "jobs/demo/base")
    table = pq.read_table(run / "rounds/01/pairs/00000.parquet")
    assert table.schema.equals(step_pairs_schema()) and table.num_rows > 10
    samples = {(r["prompt_id"], r["sample_index"]): r for r in pq.read_table(run / "rounds/01/samples").to_pylist()}
    prompts = {row["prompt_id"]: row["token_ids"] for row in pq.read_table(run / "rounds/01/prompts").to_pylist()}
    for pair in table.to_pylist():
        prompt, sample = prompts[pair["prompt_id"]], samples[pair["prompt_id"], pair["rejected_sample"]]
        behind = pair["prompt_token_ids"] + pair["rejected_token_ids"]
        assert [*prompt, *sample["token_ids"]][: len(behind)] == behind
        assert tokenizer.decode(pair["prompt_token_ids"]) == pair["prompt"] + pair["initial_reason_steps"]
        assert tokenizer.decode(pair["chosen_token_ids"]) == pair["chosen"]
        assert tokenizer.decode(pair["rejected_token_ids"]) == pair["rejected"]
        assert pair["chosen"].strip() != pair["rejected"].strip()
        assert tokenizer.eos_token_id not in pair["chosen_token_ids"] + pair["rejected_token_ids"]
        assert not re.search(r"\nStep \d+:", pair["chosen"] + pair["rejected"])
        assert pair["initial_reason_steps"].endswith(f"Step {pair['step']}:")


def test_the_search_went_on_where_it_was_killed(run: Path) -> None:
    state = Ledger(run / "ledger").state
    assert state.epoch == 2
    located = state.commits["rounds/01/located"].facts
    assert 0 < located["located"] <= located["errors"]
    assert located["rollout_tokens"] > 0


def test_the_run_verifies_and_has_learned_from_its_pairs(run: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "verify", str(run), "--json"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["followed"] == [1]
    metrics = pq.read_table(run / "rounds/01/train/metrics.parquet").to_pydict()
    assert metrics["dpo_loss"][0] == pytest.approx(0.6931, abs=1e-3)
    assert metrics["margin"][-1] > 0
