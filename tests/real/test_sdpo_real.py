"""Two tiny stages of sDPO on the real stack: ranked by the trainers, trained, and told."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.ledger.ledger import Ledger
from orchestrator.reports.report import report_text
from orchestrator.sources.registry import SOURCES
from tests.support.real import PROJECT, finish, log_of, start

DEMO = PROJECT / "jobs/demo"


@pytest.mark.real
@pytest.mark.full
def test_two_stages(tmp_path: Path) -> None:
    run = tmp_path / "run"
    files = []
    for kind in ("direct", "slip"):
        file = tmp_path / f"{kind}.jsonl"
        with open(DEMO / f"preferences-{kind}.jsonl") as rows:
            file.write_text("".join(islice(rows, 40)))
        files.append(str(file))
    settings = [f"stages.sources={json.dumps(files)}", "data={}", "train.epochs=1", "train.batch_pairs=8"]
    settings += ["train.learning_rate=1e-4", "generate.dtype=bfloat16"]
    process = start(run, *settings, "tracking.enabled=false", job="jobs/sdpo.yaml")
    assert finish(process, run) == 0, log_of(run)

    commits = Ledger(run / "ledger").state.commits
    ranking = [commits[f"baseline/ranking/{number:02d}"].facts["ranking_accuracy"] for number in (0, 1)]
    assert ranking[1] > ranking[0], "the base model finds slipped steps unlikely, and wrong direct answers less so"
    names = [commits[f"rounds/{number:02d}/pairs"].facts["chunk"] for number in (1, 2)]
    assert names == ["slip.jsonl", "direct.jsonl"]

    assert (ranking[1], commits["rounds/01/reference"].facts["gamma"]) == pytest.approx(_of_plain_torch(run), rel=1e-4)
    before, after = (commits[f"rounds/01/{step}"].facts for step in ("reference", "policy"))
    assert before["ranking_accuracy"] == ranking[1], "the base model is the first stage's reference"
    for facts in (before, after):
        assert facts["gamma"] == pytest.approx(facts["chosen_logprob"] - facts["rejected_logprob"])
    assert after["gamma"] > before["gamma"] and after["reward_accuracy"] > 0.5

    # Training checks at its first step that the policy is the reference whose log-probabilities it was given.
    assert commits["rounds/02/train"].facts["first_step"] is not None
    # Checkpoints are in float32, as is the base model; an engine that served them so would differ by some 1e-7.
    served = commits["rounds/02/evaluation"].facts
    assert 1e-5 < served["probe"]["mean_difference"] < 0.05 and served["executed"]["generate.dtype"] == "bfloat16"
    assert "gate" not in commits["rounds/02/evaluation"].facts
    assert not verify(run).findings
    assert "## Stages" in report_text(run, SOURCES)


def _of_plain_torch(run: Path) -> tuple[float, float]:
    """How the base model ranks the first stage's pairs: share that is right, and mean gamma."""
    import torch
    from transformers import AutoModelForCausalLM

    model, gammas = AutoModelForCausalLM.from_pretrained(DEMO / "base"), []

    def logprob(prompt: list[int], completion: list[int]) -> float:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        return float(logits.log_softmax(-1)[range(len(completion)), completion].sum())

    for row in pq.read_table(run / "rounds/01/pairs/00000.parquet").to_pylist():
        chosen, rejected = (logprob(row["prompt_token_ids"], row[f"{s}_token_ids"]) for s in ("chosen", "rejected"))
        gammas.append(chosen - rejected)
    return sum(gamma > 0 for gamma in gammas) / len(gammas), sum(gammas) / len(gammas)
