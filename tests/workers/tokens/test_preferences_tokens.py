"""Token ids of preference pairs, against TRL's own, and what a model makes of the pairs."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from orchestrator.inputs.preferences import write_preferences
from orchestrator.records import counts, pair_ids
from orchestrator.records.rows import PreferencePlan
from tests.support.preference_rows import STEP, assistant, parts, read, user
from workers.numerics.batching import PairTokens
from workers.tokens.preferences import tokenize_preferences
from workers.tokens.tokenizer import UnusableModel

BASE = Path(__file__).parents[3] / "jobs" / "demo" / "base"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_model(folder: Path, template: str = CHAT) -> str:
    model = folder / "model"
    shutil.copytree(BASE, model)
    (model / "chat_template.jinja").write_text(template)
    return str(model)


def tokens(
    folder: Path, rows: list[Any], model: str = str(BASE), max_tokens: int | None = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The facts and the pairs."""
    found = read(folder, *rows, **settings)
    shutil.rmtree(folder / "kept", ignore_errors=True)
    write_preferences([found], folder / "kept")
    plan = PreferencePlan(model, settings.get("pairs", {}).get("append_eos", True), max_tokens)
    output = folder / "pairs.parquet"
    facts = tokenize_preferences(str(folder / "kept/00000.parquet"), None, plan, str(output))
    return facts, pq.read_table(output).to_pylist()


def of_trl(folder: Path, rows: list[Any], model: str) -> list[tuple[list[int], list[int], list[int]]]:
    """The same rows as TRL's DPO trainer prepares them."""
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer
    from trl.data_utils import maybe_extract_prompt

    settings = DPOConfig(output_dir=str(folder / "trl"), max_length=None, use_cpu=True, bf16=False, report_to="none")
    data = datasets.Dataset.from_list([maybe_extract_prompt(row) for row in rows])
    policy, reference = (LlamaForCausalLM.from_pretrained(model) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(model)
    made = DPOTrainer(policy, reference, settings, train_dataset=data, processing_class=tokenizer).train_dataset
    return [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in made]


def ids(row: dict[str, Any]) -> tuple[list[int], list[int], list[int]]:
    return row["prompt_token_ids"], row["chosen_token_ids"], row["rejected_token_ids"]


TEXTS = [
    {"prompt": "Ben has 6 pens. Ben buys 2.\n", "chosen": "Step 1: 6 + 2 = 8", "rejected": "Final answer: 7"},
    {"prompt": "How many?", "chosen": " 8", "rejected": " 9<|endoftext|>"},
    {"prompt": "tokens mer", "chosen": "ge here", "rejected": "ely"},
]
BARE = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in TEXTS]
ASKED = [{"role": "system", "content": "Add."}, user("6 + 2?"), assistant("8"), user("And 2 more?")]
CHATS = [
    {"prompt": ASKED, "chosen": [assistant("10")], "rejected": [assistant("Final answer: 11")]},
    {"prompt": [user("1 + 1?")], "chosen": [assistant("2")], "rejected": [assistant("3")]},
]
WHOLE = [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]} for row in CHATS]
MIXED = [row | {"prompt": row["chosen"][-2]["content"]} for row in WHOLE]


BEGUN = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: How many?\n\nAssistant:"
HH = [{"chosen": f"{BEGUN} Eight.", "rejected": f"{BEGUN} No."}]


def test_whole_dialogues_of_text_are_cut_as_trl_does(tmp_path: Path) -> None:
    """Anthropic's data; whatever other columns there are."""
    assert parts(tmp_path, HH[0] | {"context": "helpful"}) == (BEGUN, " Eight.", " No.")
    model = chat_model(tmp_path)
    _, made = tokens(tmp_path, HH, model)
    assert [ids(made_row) for made_row in made] == of_trl(tmp_path, HH, model)


@pytest.mark.parametrize("rows", [TEXTS, BARE, CHATS, WHOLE, MIXED], ids=["texts", "bare", "chats", "whole", "mixed"])
def test_token_ids_are_those_of_trl(tmp_path: Path, rows: list[Any]) -> None:
    model = chat_model(tmp_path)
    facts, made = tokens(tmp_path, rows, model)
    assert facts["pairs"] == len(rows)
    assert [ids(row) for row in made] == of_trl(tmp_path, rows, model)


def test_answers_that_a_template_leaves_open_are_closed(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    open_ended = CHAT.replace("<|endoftext|>", "")
    model = chat_model(tmp_path, open_ended)
    _, [first, _] = tokens(tmp_path, CHATS, model)
    expected = of_trl(tmp_path, CHATS, model)[0]
    eos = AutoTokenizer.from_pretrained(model).eos_token_id
    assert ids(first) == (expected[0], [*expected[1], eos], [*expected[2], eos])
    _, [first, _] = tokens(tmp_path, CHATS, model, pairs={"append_eos": False})
    assert ids(first) == expected


@pytest.mark.parametrize("steps", [STEP["initial_reason_steps"], ""])
@pytest.mark.parametrize("chat", [False, True])
def test_a_step_is_what_follows_and_nothing_closes_it(tmp_path: Path, chat: bool, steps: str) -> None:
    from transformers import AutoTokenizer

    model = chat_model(tmp_path)
    step = STEP | {"initial_reason_steps": steps}
    _, [row] = tokens(tmp_path, [step], model, pairs={"append_eos": False}, data={"chat": chat})
    tokenizer = AutoTokenizer.from_pretrained(model)
    begin = f"<user>{STEP['prompt']}<|endoftext|>\n<assistant>" if chat else STEP["prompt"]
    begin += f"\n{steps}" if steps and not chat else steps
    assert tokenizer.decode(row["prompt_token_ids"] + row["chosen_token_ids"]) == begin + STEP["chosen"]
    assert tokenizer.decode(row["rejected_token_ids"]).endswith("7")
    assert tokenizer.eos_token_id not in row["chosen_token_ids"] + row["rejected_token_ids"]


def test_long_pairs_are_left_out_and_counted(tmp_path: Path) -> None:
    _, made = tokens(tmp_path, TEXTS)
    sizes = [len(p) + max(len(c), len(r)) for p, c, r in map(ids, made)]
    facts, kept = tokens(tmp_path, TEXTS, max_tokens=sorted(sizes)[1])
    assert (facts["pairs"], facts["too_long"]) == (2, 1)
    assert len(kept) == 2
    facts, _ = tokens(tmp_path, [*TEXTS, TEXTS[0] | {"prompt": "pens " * 300}])
    assert facts["too_long"] == 1, "the model's own 256 tokens count, too"


def test_messages_need_a_chat_template(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"stages.sources: the rows are messages, and the model .* no chat"):
        tokens(tmp_path, CHATS)
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT
    with pytest.raises(UnusableModel, match=r"pair '1/1': the chat template of .* cannot take it \(no system\)"):
        tokens(tmp_path, CHATS, chat_model(tmp_path, picky))


# What a model makes of pairs


def test_facts_of_pairs_are_means_over_pairs() -> None:
    def array(*values: int) -> Any:
        return np.array(values, dtype=np.int32)

    pairs = [
        PairTokens("a", array(1), array(2), array(3)),
        PairTokens("b", array(1), array(3), array(4)),
        PairTokens("c", array(1), array(3), array(4)),  # stands twice, and counts twice
    ]
    by_token = {2: -1.0, 3: -3.0, 4: -2.0}
    logprobs = {pair_ids.completion_key(array(1), array(token)): value for token, value in by_token.items()}
    before = {
        pair_ids.completion_key(array(1), array(token)): value for token, value in {2: -1.0, 3: -4.0, 4: -2.5}.items()
    }
    facts = counts.preferences(pairs, logprobs, before)
    assert facts == pytest.approx(
        {"ranking_accuracy": 1 / 3, "gamma": 0.0, "chosen_logprob": -7 / 3, "rejected_logprob": -7 / 3}
        | {"reward_accuracy": 2 / 3}
    )
    assert all(map(math.isfinite, facts.values()))
    assert counts.preferences([PairTokens("d", array(1), array(2), None)], logprobs) == {}
