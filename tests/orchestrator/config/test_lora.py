"""What adapters take, and what is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.load import load_job
from orchestrator.errors import BadInput

JOB = Path(__file__).parents[3] / "jobs/lora.yaml"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{load_in_4bit: true}", "QLoRA keeps the base in 4 bits through bitsandbytes.*`train.precision: bf16`"),
        ("{dropout: 0.1}", "`dropout`: there is none.*leave it out"),
        ("{targets: []}", "targets"),
        ("{rank: 0}", "rank"),
        ("{alpha: true}", "alpha"),
        ("{between_rounds: stack}", "`?merge`?"),
    ],
)
def test_what_is_not_there_is_refused_in_words(given: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_job(JOB, ["lora=null", f"lora={given}"])


def test_a_word_of_others_is_known() -> None:
    with pytest.raises(BadInput, match=r"lora\.rank"):
        load_job(JOB, ["train.lora_r=8"])


def test_null_trains_all_weights() -> None:
    assert load_job(JOB).job.lora is not None and load_job(JOB, ["lora=null"]).job.lora is None
