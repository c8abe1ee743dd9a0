"""The process of lm-evaluation-harness, beside the harness's own backend for transformers: the same model, the same
tasks, the same answers. The engine is a plain loop over that model; tests/real asks vLLM."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.errors import RatchetError
from orchestrator.records.harness import HARNESS, RESULTS, SCORES
from orchestrator.records.harness import SAMPLES as SAMPLES_FILE
from orchestrator.records.rows import SAMPLES
from orchestrator.rounds.harness import facts_of
from tests.support.harness_tasks import (
    CHOICE,
    DEMO,
    NUM_DOCUMENTS,
    ROLLING,
    TASKS,
    WORDS,
    assert_alike,
    by_transformers,
    make_tasks,
    needs_harness,
    responses,
    told_responses,
)
from workers.harness.process import environment, evaluate, refused

CONTEXT = 128
Answered = Callable[[dict[str, Any]], list[str]]


@cache
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    folder = str(DEMO / "base")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def logits(ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return model()[0](torch.tensor([ids])).logits[0].log_softmax(-1)


def scored(prompt: list[int], completion: list[int]) -> tuple[float, bool]:
    assert len(prompt) + len(completion) < CONTEXT, "one more token must fit"
    said = logits([*prompt, *completion])[len(prompt) - 1 : -1]
    greedy = said.argmax(-1).tolist() == completion
    return float(sum(said[i, token] for i, token in enumerate(completion))), greedy


def completed(prompt: list[int], sampling: dict[str, Any]) -> str:
    assert sampling["temperature"] == 0 and len(prompt) + sampling["max_tokens"] <= CONTEXT
    tokenizer, ids, text = model()[1], list[int](), ""
    while len(ids) < sampling["max_tokens"]:
        ids.append(int(logits([*prompt, *ids])[-1].argmax()))
        text = tokenizer.decode(ids, skip_special_tokens=True)
        stops = [text.index(stop) for stop in sampling["stop"] if stop in text]
        if ids[-1] == tokenizer.eos_token_id or stops:
            return text[: min(stops)] if stops else text
    return text


class Engines:
    """Answers in files of ten, the later ones first written, as engines do that finish when they do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[dict[str, Any]]()

    def answer(self, asked: dict[str, Any]) -> list[str]:
        self.asked.append(asked)
        rows = pq.read_table(asked["file"]).to_pylist()
        assert len(rows) == asked["requests"]
        files = []
        for start in range(0, len(rows), 10):
            files.append(str(self.folder / f"answers-{len(self.asked)}-{start}.parquet"))
            pq.write_table(self._table(rows[start : start + 10], asked["sampling"]), files[-1])
        return files

    def _table(self, rows: list[dict[str, Any]], sampling: dict[str, Any] | None) -> pa.Table:
        if sampling is None:
            said = [scored(row["token_ids"], row["completion_token_ids"]) for row in rows]
            names = [row["prompt_id"] for row in rows]
            return pa.table([names, [s for s, _ in said], [g for _, g in said]], schema=SCORES)
        rest = {"sample_index": 0, "token_ids": [1], "finish_reason": "stop", "num_tokens": 1}
        texts = [{"prompt_id": r["prompt_id"], "text": completed(r["token_ids"], sampling)} | rest for r in rows]
        return pa.Table.from_pylist(texts, SAMPLES)


def request_of(folder: Path, **changes: Any) -> dict[str, Any]:
    for name in ("work", "output"):
        (folder / name).mkdir(parents=True)
    return {
        "model": str(DEMO / "base"),
        "max_model_len": CONTEXT,
        "tasks": list(TASKS),
        "limit": None,
        "num_fewshot": None,
        "chat": False,
        "work": str(folder / "work"),
        "output": str(folder / "output"),
    } | changes


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tasks(tmp_path_factory.mktemp("harness") / "tasks")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


def test_what_is_printed_goes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run/logs/e1").mkdir(parents=True)
    (log := tmp_path / "run/logs/e1/harness-0.log").symlink_to(tmp_path / "mine")
    request = request_of(tmp_path, tasks=["there_is_none"], include_path=None)
    with pytest.raises(RatchetError) as failed:  # with the extra or without
        evaluate(request, lambda asked: [], str(log))
    assert str(log) not in str(failed.value) and (tmp_path / "mine").read_text() == "mine"


@needs_harness
def test_answers_and_figures_are_those_of_the_harness_s_own_backend(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, engines = request_of(tmp_path, include_path=str(tasks)), Engines(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    evaluate(request, engines.answer, str(tmp_path / "logs/harness.log"))
    monkeypatch.chdir(tasks)
    theirs = by_transformers(tasks, DEMO / "base", CONTEXT)
    output = tmp_path / "output"
    assert_alike(told_responses(output / SAMPLES_FILE), responses(theirs["samples"]), nats=1e-3)
    facts = facts_of(output)
    for task, said in theirs["results"].items():
        told = facts["tasks"][task]
        assert told["documents"] == NUM_DOCUMENTS and told["shots"] == 0 and told["version"] == "1.0"
        for key, value in said.items():
            name = key.removesuffix(",none")
            if "," in key and "_stderr" not in key:
                assert told["figures"][name]["value"] == pytest.approx(value, rel=1e-4), (task, key)
    assert facts["tasks"][CHOICE]["figures"]["acc"]["error"] == pytest.approx(
        theirs["results"][CHOICE]["acc_stderr,none"]
    )
    assert facts["tasks"][WORDS]["figures"].keys() == {"exact_match,answer"}
    assert 0 < facts["tasks"][WORDS]["figures"]["exact_match,answer"]["value"] < 1
    kinds = [asked["sampling"] is None for asked in engines.asked]
    assert sorted(kinds) == [False, True, True], "each kind of request is asked for once"


@needs_harness
def test_what_does_not_fit_is_cut_from_the_left_and_examples_stand_before(tasks: Path, tmp_path: Path) -> None:
    """Five examples are longer than the context, whose last token but one is the completion's."""
    engines = Engines(tmp_path)
    request = request_of(tmp_path, include_path=str(tasks), tasks=[CHOICE], num_fewshot=5, limit=3)
    evaluate(request, engines.answer, None)
    [asked] = engines.asked
    rows = pq.read_table(asked["file"]).to_pylist()
    assert len(rows) == 9 and {len(row["token_ids"] + row["completion_token_ids"]) for row in rows} == {CONTEXT - 1}
    told = facts_of(tmp_path / "output")["tasks"][CHOICE]
    assert (told["documents"], told["shots"]) == (3, 5)


@needs_harness
def test_the_same_is_asked_for_once_and_nothing_of_what_is_drawn(tasks: Path, tmp_path: Path) -> None:
    more = tmp_path / "tasks"
    make_tasks(more)
    text = (more / f"{WORDS}.yaml").read_text()
    drawn = text.replace("max_gen_toks: 40", "max_gen_toks: 8\n  do_sample: true\n  temperature: 0.7\n  top_p: 0.9")
    (more / f"{WORDS}.yaml").write_text(drawn + "repeats: 3\n")
    (more / "problems.jsonl").write_text((more / "problems.jsonl").read_text().splitlines()[0].join(["", "\n"]) * 2)
    engines = Engines(tmp_path)

    def answer(asked: dict[str, Any]) -> list[str]:
        if asked["sampling"]:
            assert asked["requests"] == 6
            assert asked["sampling"]["temperature"] == 0.7 and asked["sampling"]["top_p"] == 0.9
            asked = asked | {"sampling": asked["sampling"] | {"temperature": 0.0}}
        else:
            assert asked["requests"] == 3
        return engines.answer(asked)

    evaluate(request_of(tmp_path / "run", include_path=str(more), tasks=[CHOICE, WORDS]), answer, None)
    assert len(engines.asked) == 2


@needs_harness
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"chat": True}, r"evaluate\.harness\.chat: the model has no chat template"),
        ({"tasks": ["no_such"]}, "no_such: lm-evaluation-harness has no task of that name"),
        ({"max_model_len": 24}, r"tiny_words: 40 tokens of an answer leave no room"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(tasks: Path, tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(RatchetError, match=what) as raised:
        evaluate(request_of(tmp_path, include_path=str(tasks)) | change, Engines(tmp_path).answer, None)
    assert "\n" not in str(raised.value)


@needs_harness
def test_a_task_s_own_error_is_the_last_word_and_the_rest_is_in_the_log(tasks: Path, tmp_path: Path) -> None:
    broken = make_tasks(tmp_path / "tasks")
    (broken / "texts.py").write_text(
        "import os\ndef text(doc):\n    raise LookupError(str(os.environ.get('HF_TOKEN')))\n"
    )
    log = tmp_path / "harness.log"
    os.environ["HF_TOKEN"] = "hf_secret"
    try:
        with pytest.raises(RatchetError, match=r"evaluate\.harness: LookupError: None.*harness\.log"):
            evaluate(request_of(tmp_path / "run", include_path=str(broken)), Engines(tmp_path).answer, str(log))
    finally:
        del os.environ["HF_TOKEN"]
    assert "Traceback" in log.read_text()


@needs_harness
def test_an_error_of_the_engines_ends_the_process(tasks: Path, tmp_path: Path) -> None:
    def fail(asked: dict[str, Any]) -> list[str]:
        raise KeyError("engine")

    with pytest.raises(KeyError, match="engine"):
        evaluate(request_of(tmp_path, include_path=str(tasks)), fail, None)
    assert not [child for child in psutil.Process().children() if "workers.harness.serve" in child.cmdline()]


@needs_harness
def test_names_are_looked_at_before_anything_is_loaded(tasks: Path, tmp_path: Path) -> None:
    own = make_tasks(tmp_path / "tasks")
    (own / "texts.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    unsafe = (own / f"{WORDS}.yaml").read_text().replace(WORDS, "tiny_unsafe") + "unsafe_code: true\n"
    (own / "unsafe.yaml").write_text(unsafe)
    (own / "group.yaml").write_text(f"group: tiny\ntask:\n  - {ROLLING}\n  - tiny_unsafe\n")
    found = refused([CHOICE, ROLLING, "tiny", "tiny_choise", "humaneval", "gsm8k", "mmlu"], str(own))
    assert [line.partition(":")[0] for line in found] == ["tiny", "tiny_choise", "humaneval"]
    assert "its task tiny_unsafe executes code" in found[0] and "near it are tiny_choice" in found[1]
    assert not (tmp_path / "executed").exists()


def test_the_process_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RATCHET_SECRETS"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in environment().values() and environment()["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("text", ["[]", "{}", '{"results": []}', '{"results": {"a": 1}, "lm_eval_version": 1}', "NaN"])
def test_results_that_the_harness_has_not_written_are_refused(tmp_path: Path, text: str) -> None:
    pq.write_table(HARNESS.empty_table(), tmp_path / SAMPLES_FILE)
    (tmp_path / RESULTS).write_text(text)
    with pytest.raises(RatchetError, match=r"results\.json"):
        facts_of(tmp_path)
