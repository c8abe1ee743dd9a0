"""What is shown and refused before a run: prompts and pairs, looked at with real tokenizers and chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config.load import load_job
from orchestrator.driver.drive import identity
from orchestrator.driver.kept import keep_problems, read_all_preferences, read_all_problems
from orchestrator.driver.own_process import rendered
from orchestrator.driver.preview import Preview, preview
from orchestrator.driver.start_checks import check_start, previewed
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.run import Run
from orchestrator.records.golds import joined
from orchestrator.records.rows import Problem
from tests.support.made_tokenizers import CHATML, DATED, NO_SYSTEM, THINKING, byte_level, metaspace
from tests.support.stand_ins import StandIns, all_read, make_project, run_job
from workers.tokens.rendering import answer, context_of

PROJECT = Path(__file__).parents[3]
HINT = ["generate.hint=true", "pairs.rule=correct", "loss.dpo=0"]
JUDGE = ["source=judge", "pairs.rule=best_worst", "self_judge.max_tokens=16"]
HALF, ENDLESS = "{{ '\\ud800' }}", "{{ raise_exception('x' * 3000000) }}"
CHAT = {"chat_template": CHATML, "bos": False, "eos_token": "<|im_end|>"}


def look(folder: Path, *overrides: str, make: Any = byte_level, rows: list[Any] | None = None, **model: Any) -> Preview:
    """The preview of a small job; with `rows`, preference data, of one over these and no problems."""
    path = make_project(folder, model="model")
    make(folder / "model", **model)
    if rows is not None:
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        job = {"name": "tiny", "method": "sdpo", "model": "model", "stages": {"sources": ["rows.jsonl"]}}
        path.write_text(yaml.safe_dump(job | {"run_dir": str(folder / "run"), "tracking": {"enabled": False}}))
    file = load_job(path, overrides)
    problems = read_all_problems(file)
    return preview(file.job, folder / "model", problems, read_all_preferences(file, problems), answer)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


MESSAGES = [{"prompt": [user("1 + 1?")], "chosen": [assistant("2")], "rejected": [assistant("3")]}]


# What is shown


def test_a_prompt_and_its_gold_answer_are_shown_as_the_model_gets_them(tmp_path: Path) -> None:
    seen = look(tmp_path)
    assert not seen.refusals and not seen.warnings
    prompt, gold = seen.shown
    assert prompt.startswith("prompt    train 'train-0', ") and '"<s>train 0?\\n" [1 ' in prompt
    assert gold == 'gold      "1"'


def test_accepted_answers_are_shown_apart(tmp_path: Path) -> None:
    look(tmp_path)
    file = load_job(tmp_path / "tiny.yaml", [])
    row = Problem("p", "1 + 1?", joined(["2", "two"]), None)
    gold = preview(file.job, tmp_path / "model", {"train": [row]}, [], answer).shown[1]
    assert gold == 'gold      "2 | two"'


def test_a_pair_is_shown_as_it_is_trained(tmp_path: Path) -> None:
    seen = look(tmp_path, rows=MESSAGES, **CHAT)
    assert not seen.refusals and not seen.warnings
    pair, prompt, chosen, rejected = seen.shown
    assert pair == "pair      1/1 of rows.jsonl"
    assert '"<|im_start|>user\\n1 + 1?<|im_end|>\\n<|im_start|>assistant\\n"' in prompt
    assert '"2<|im_end|>\\n"' in chosen and '"3<|im_end|>\\n"' in rejected


@pytest.mark.parametrize("job", ["irpo", "sdpo", "step_dpo", "sft"])
def test_the_demos_jobs_are_sound(job: str) -> None:
    """The first in a process of its own, as users have it."""
    file = load_job(PROJECT / f"jobs/{job}.yaml")
    problems = read_all_problems(file)
    preferences = read_all_preferences(file, problems)
    seen = preview(file.job, PROJECT / "jobs/demo/base", problems, preferences, rendered if job == "irpo" else answer)
    assert not seen.refusals and not seen.warnings
    names = [line.split()[0] for line in seen.shown]
    assert names[:2] == ["prompt", "gold"] and ("rejected" in names) == (job == "sdpo")
    assert job != "step_dpo" or 'Step 1:"' in seen.shown[0]


def test_the_same_jobs_of_a_comparison_are_looked_at_once(tmp_path: Path) -> None:
    file = load_job(make_project(tmp_path, model="model"))
    model, problems = byte_level(tmp_path / "model"), read_all_problems(file)
    first = preview(file.job, model, problems, [], rendered)
    (model / "tokenizer.json").write_text("nobody reads this")
    assert first.shown and preview(file.job, model, problems, [], rendered) == first


# What is refused


def test_a_chat_template_does_not_get_all_memory_of_the_machine(tmp_path: Path) -> None:
    greedy = "{{ 'x' * 9000000000 }}" + CHATML
    file = load_job(make_project(tmp_path, model="model"), ["data.chat=true"])
    model = byte_level(tmp_path / "model", **CHAT | {"chat_template": greedy})
    seen = preview(file.job, model, read_all_problems(file), [], rendered)
    assert "cannot take the messages (MemoryError)" in str(seen.refusals)


@pytest.mark.parametrize(
    ("overrides", "model", "said"),
    [
        (['data.template="<s>{question}"'], {}, "data.train: problem 'train-0' begins with '<s>', which the tokenizer"),
        (['data.template="<s>{question}"'], {"make": metaspace}, "begins with '<s>', which the tokenizer writes by"),
        (["data.chat=true"], CHAT | {"chat_template": "<s><s>" + CHATML}, "begins with '<s>' twice after the chat"),
        (['data.template="{question}</s>"'], {}, "ends in EOS, '</s>', after which nothing is asked"),
        (
            ["data.chat=true"],
            CHAT | {"chat_template": CHATML.partition("{% if")[0]},
            "ends in '<|im_end|>': the chat template of",
        ),
        (["data.chat=true"], {}, "has no chat template; use `chat: false` and `template`"),
        (
            ["data.chat=true", "data.system=Add."],
            CHAT | {"chat_template": NO_SYSTEM + CHATML},
            "data.system: the chat template of",
        ),
        (["data.chat=true"], CHAT | {"chat_template": DATED + CHATML}, "data.date: the chat template of"),
        (
            ["data.chat=true"],
            CHAT | {"chat_template": CHATML + HALF},
            "chat_template.jinja: its chat template writes '\\ud800', half of a surrogate pair, which is no",
        ),
        (
            ["data.chat=true"],
            CHAT | {"chat_template": DATED.replace("%d %b %Y", "%H:%M") + CHATML},
            "writes the date or the time into every prompt",
        ),
        (
            ["data.chat=true", "data.system=Add.<|im_end|>"],
            CHAT,
            "data.system: holds '<|im_end|>', which the chat template writes around messages: take it out",
        ),
        (
            ["data.chat=true", "data.examples=[{prompt: Two, completion: 2<|im_start|>}]"],
            CHAT,
            "data.examples: holds '<|im_start|>', which the chat template writes around messages",
        ),
        (["data.chat=true", 'data.template="{question}</s><|im_end|>"'], CHAT, "data.template: holds '<|im_end|>'"),
        (
            [*HINT, 'data.hint_template="<s>{question} {answer}"'],
            {},
            "data.hint_template: problem 'train-0' begins with '<s>', which the tokenizer writes by itself",
        ),
        (
            [*JUDGE, 'self_judge.template="{prompt} {response}</s>"'],
            {},
            "self_judge.template: problem 'train-0' ends in EOS",
        ),
        (
            [*JUDGE, f'self_judge.template="{{prompt}} {{response}} {"pens " * 300}"'],
            {},
            "self_judge.template: every prompt is too long",
        ),
        (
            ["data.chat=true", "data.examples=[{prompt: Two, completion: <think>so</think>3}]"],
            CHAT | {"chat_template": THINKING},
            "loses text of the role 'assistant' in the chat template of",
        ),
        (["generate.max_tokens=100000"], {}, "generate.max_tokens: 100000 leaves no room for a prompt in the context"),
        (["evaluate.max_tokens=256"], {}, "evaluate.max_tokens: 256 leaves no room for a prompt in the context"),
        (["generate.max_model_len=512"], {}, "generate.max_model_len: 512 is more than the context of"),
        (["generate.max_model_len=10"], {}, "data.train: every prompt is too long: with 8 more tokens"),
        (
            ["source=judge", "pairs.rule=best_worst", "self_judge.max_tokens=300"],
            {},
            "self_judge.max_tokens: 300 leaves no room",
        ),
    ],
)
def test_what_would_spoil_a_run_is_refused(
    tmp_path: Path, overrides: list[str], model: dict[str, Any], said: str
) -> None:
    seen = look(tmp_path, *overrides, **model)
    assert any(said in refusal for refusal in seen.refusals), seen
    with pytest.raises(BadInput):
        seen.check()


@pytest.mark.parametrize("rows", [None, MESSAGES])
def test_what_a_template_raises_is_cut(tmp_path: Path, rows: list[Any] | None) -> None:
    seen = look(tmp_path, *([] if rows else ["data.chat=true"]), rows=rows, **CHAT | {"chat_template": ENDLESS})
    (refusal,) = seen.refusals
    assert "xxx... (3000000 characters))" in refusal and len(refusal) < 1000


def test_a_day_makes_a_template_that_asks_for_it_sound(tmp_path: Path) -> None:
    seen = look(tmp_path, "data.chat=true", "data.date=2024-07-26", **(CHAT | {"chat_template": DATED + CHATML}))
    assert not seen.refusals and "Today is 26 Jul 2024." in seen.shown[0]


def test_lengths_are_those_that_an_engine_reckons_with(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256, "rope_theta": 1e4}
    assert not look(tmp_path / "a", "generate.max_model_len=1024", rope_parameters=yarn).refusals
    assert look(tmp_path / "b", "generate.max_model_len=1025", rope_parameters=yarn).refusals

    overrides = "generate.engine={hf_overrides: {max_position_embeddings: 1024}}"
    assert not look(tmp_path / "c", "generate.max_model_len=1024", overrides).refusals
    rows = [{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}]
    [refusal] = look(tmp_path / "d", "generate.max_model_len=1024", rows=rows).refusals
    assert "generate.max_model_len: 1024 is more than the context of" in refusal
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert context_of(SimpleNamespace(max_position_embeddings=131072, rope_parameters=llama3)) == 131072
    assert context_of(SimpleNamespace()) is None


def special_row(folder: Path, text: str, **model: Any) -> Preview:
    path = make_project(
        folder, model="model", data={"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl"}
    )
    rows = [json.loads(line) for line in (folder / "gate.jsonl").read_text().splitlines()]
    for number in (3, 5):
        rows[number]["question"] += text
    (folder / "gate.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    byte_level(folder / "model", **model)
    overrides = ["data.chat=true"] if model else ['data.template="<|im_start|>user\n{question}<|im_end|>\n"']
    file = load_job(path, overrides)
    return preview(file.job, folder / "model", read_all_problems(file), [], answer)


def test_a_special_token_in_a_message_is_refused_with_its_row(tmp_path: Path) -> None:
    seen = special_row(tmp_path, " <|im_end|>\n<|im_start|>assistant", **CHAT)
    assert len(seen.refusals) == 2
    assert seen.refusals[0].startswith(
        "data.gate: problem 'gate-3' holds '<|im_end|>', which becomes that special token"
    )
    assert seen.refusals[0].endswith("take it out of the data (2 rows in all)")


def test_a_special_token_in_plain_text_is_told_where_the_job_did_not_put_it(tmp_path: Path) -> None:
    """A template of plain text writes a conversation's turns itself."""
    assert not special_row(tmp_path / "own", " and").warnings
    seen = special_row(tmp_path, " <|im_end|>")
    assert not seen.refusals and "data.gate: problem 'gate-3' holds '<|im_end|>'" in seen.warnings[0]


@pytest.mark.parametrize(
    ("rows", "model", "said"),
    [
        (
            [{"prompt": "<s>2 + 2?\n", "chosen": "4", "rejected": "5"}],
            {},
            "stages.sources: rows.jsonl: pair '1/1' begins with '<s>' twice",
        ),
        (MESSAGES, {}, "stages.sources: the rows are messages, and the model"),
        (MESSAGES, CHAT | {"chat_template": DATED + CHATML}, "data.date: the chat template of"),
        (
            MESSAGES,
            CHAT | {"chat_template": CHATML + HALF},
            "jinja: its chat template writes '\\ud800', half",
        ),
        (
            [{"prompt": [{"role": "system", "content": "Add."}, user("1?")]} | {"chosen": "2", "rejected": "3"}],
            CHAT | {"chat_template": NO_SYSTEM + CHATML},
            "cannot take it (System role not supported). Where it takes no system message, put",
        ),
        (
            [MESSAGES[0] | {"chosen": [assistant("<think>one and one</think>2")]}],
            CHAT | {"chat_template": THINKING.replace("<think>", "")},
            "loses text of 'chosen' in the chat template of",
        ),
        (MESSAGES, CHAT | {"chat_template": THINKING}, "a text at the end that stands before no answer in the chat"),
        (
            [MESSAGES[0] | {"rejected": [assistant("3<|im_end|>4")]}],
            CHAT,
            "pair '1/1' holds '<|im_end|>', which becomes that special token",
        ),
        (
            [{"prompt": "pens " * 300, "chosen": "4", "rejected": "5"}],
            {},
            "rows.jsonl has no pair that can be used",
        ),
    ],
)
def test_preference_data_that_would_be_trained_otherwise_are_refused(
    tmp_path: Path, rows: list[Any], model: dict[str, Any], said: str
) -> None:
    seen = look(tmp_path, rows=rows, **model)
    assert any(said in refusal for refusal in seen.refusals), seen


def test_one_fault_is_told_once_however_many_rows_have_it(tmp_path: Path) -> None:
    """Each row loses another text to such a template."""
    rows = [
        {
            "prompt": [user(f"{n} + 1?")],
            "chosen": [assistant(f"<think>it is {n}</think>2")],
            "rejected": [assistant(f"<think>not {n}</think>3")],
        }
        for n in range(30)
    ]
    refusals = look(tmp_path, rows=rows, **(CHAT | {"chat_template": THINKING})).refusals
    assert len(refusals) == 3 and sum(map(len, refusals)) < 2000
    assert "pair '1/1' loses text of 'chosen'" in refusals[0] and '"<think>it is 0</think>' in refusals[0]
    assert all(refusal.endswith("(30 rows in all)") for refusal in refusals)


def test_what_the_job_writes_itself_is_asked_about_where_it_may_be_meant(tmp_path: Path) -> None:
    chat = ["data.chat=true", "data.system=<unk> Add."]
    seen = look(tmp_path / "a", *chat, **CHAT)
    assert not seen.refusals
    assert seen.warnings == ["data.system: holds '<unk>', which becomes that special token: is it meant to be one?"]
    seen = look(tmp_path / "b", *chat, rows=[{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}], **CHAT)
    assert not seen.refusals and len(seen.warnings) == 1
    template = 'stages.template="<|im_start|>user\n{prompt}<|im_end|>\n"'
    seen = look(tmp_path / "c", template, rows=[{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}])
    assert not seen.refusals and not seen.warnings
    examples = "data.examples=[{prompt: Two, completion: 2<|im_end|>}]"
    [warning] = look(tmp_path / "d", examples).warnings
    assert warning.startswith("data.examples: holds '<|im_end|>'")


def test_prompts_that_a_run_makes_of_its_own_are_shown(tmp_path: Path) -> None:
    hint = [*HINT, 'data.hint_template="{question} It is {answer}.\n"']
    *_, line = look(tmp_path / "a", *hint).shown
    assert line.startswith("hint      'train-0', ") and "train 0? It is 1." in line
    judge = [*JUDGE, 'self_judge.template="{prompt} -> {response}\n"']
    *_, line = look(tmp_path / "b", *judge).shown
    assert line.startswith("judge     'train-0', ") and "train 0? -> 1" in line


def test_pairs_that_are_left_out_are_counted_before_the_run(tmp_path: Path) -> None:
    sound = {"prompt": "2 + 2?\n", "chosen": "4", "rejected": "5</s>"}
    long, closed = sound | {"prompt": "pens " * 300}, sound | {"chosen": "4", "rejected": "4</s>"}
    seen = look(tmp_path, rows=[sound, long, long, closed])
    assert not seen.refusals
    [warning] = seen.warnings
    assert warning.startswith(
        "stages.sources: rows.jsonl: of 4 pairs will be left out as token ids: 1 with equal sides"
    )
    assert "2 too long (train.max_tokens, or the model's context)" in warning


def test_prompts_that_are_left_out_are_counted_before_the_run(tmp_path: Path) -> None:
    seen = look(tmp_path, "generate.max_model_len=15")
    assert not seen.refusals and seen.warnings[0].startswith("data.train: 1 of 20 prompts are too long and will be")


def test_an_eos_that_the_tokenizer_appends_is_told(tmp_path: Path) -> None:
    seen = look(tmp_path, eos=True)
    assert not seen.refusals and "closes every text with its EOS token; it is left off the prompts" in seen.warnings[0]
    assert '"<s>train 0?\\n"' in seen.shown[0]


# Where it is told


def ratchet(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_command_refuses_before_anything_is_started(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = [f"run_dir={tmp_path / 'run'}", "generate.max_tokens=100000", "generate.max_model_len=null"]
    assert ratchet(command, PROJECT / "jobs/irpo.yaml", *overrides) == 2
    said = capsys.readouterr()
    assert "generate.max_tokens: 100000 leaves no room" in said.err and "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_tokenizer_is_said_to_be_unseen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("validate", make_project(tmp_path)) == 0
    assert f"prompt    not looked at: {tmp_path / 'seed'} has no tokenizer" in capsys.readouterr().out.splitlines()
    assert Ledger(tmp_path / "run/ledger").state.configs == []


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_that_the_embedding_has_no_row_for_is_told(tmp_path: Path, file: str) -> None:
    job = load_job(make_project(tmp_path, model="model"))
    model = byte_level(tmp_path / "model")
    said = json.loads((model / file).read_text()) if (model / file).exists() else {}
    rows = json.loads((model / "config.json").read_text())["vocab_size"]
    for eos, is_told in (([1, rows], True), (rows - 1, False), (None, False)):
        (model / file).write_text(json.dumps(said | {"eos_token_id": eos}))
        [*warned] = preview(job.job, model, read_all_problems(job), [], answer).warnings
        told = f"{model}/{file}: `eos_token_id` {rows} is no token of a model with {rows} rows of embedding"
        assert any(line.startswith(told) for line in warned) == is_told, warned


def test_a_run_that_has_begun_is_warned_of_what_a_new_one_is_refused_for(tmp_path: Path) -> None:
    path, template = make_project(tmp_path, rounds=1), 'data.template="<s>{question}"'
    byte_level(tmp_path / "model")
    file, model = load_job(path, [template]), tmp_path / "model"
    problems = read_all_problems(file)
    fresh = Run(tmp_path / "fresh")
    run_job(path, StandIns(), template)
    begun = Run(tmp_path / "run")
    assert previewed(file, fresh, model, problems, [], answer).refusals
    seen = previewed(file, begun, model, problems, [], answer)
    assert not seen.refusals and any("begins with '<s>'" in warning for warning in seen.warnings)


def test_prompts_of_problems_that_a_fork_has_taken_over_are_looked_at(tmp_path: Path) -> None:
    """A run keeps problems of the Hub; a fork of it may make prompts of them with another model."""
    sources: dict[str, Any] = {split: {"hub": "a/b", "split": split} for split in ("train", "gate", "test")}
    file = load_job(make_project(tmp_path, data=sources, rounds=1))
    rows = {split: [Problem(f"{split}-{i}", f"{split} {i}?", str(i), None) for i in range(4)] for split in sources}
    run = Run(tmp_path / "run")
    run.claim(identity())
    keep_problems(run, file.job, file.job.data, rows)
    (tmp_path / "seed/tokenizer.json").write_text("{}")

    def render(request: Mapping[str, Any]) -> dict[str, Any]:
        counts = [f"{given['key']}: {given['of']}" for given in request["sets"]]
        return {"shown": [], "warned": [], "refused": counts}

    with pytest.raises(BadInput, match=r"data\.train: 4\ndata\.gate: 4\ndata\.test: 4"):
        check_start(file, run, tmp_path / "seed", {}, [], lambda _: None, all_read, render)
