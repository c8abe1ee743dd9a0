"""What files of a stranger's model have a process compute ends: templates that loop or take all memory, and regular
expressions that look at a text for hours."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.config.load import load_job
from orchestrator.driver.kept import read_all_problems
from orchestrator.driver.own_process import rendered
from orchestrator.driver.preview import preview
from orchestrator.errors import RatchetError
from orchestrator.records.rewards import RewardPlan
from orchestrator.records.rows import PreferencePlan
from tests.support.made_tokenizers import CHATML, PROJECT, byte_level, growing, metaspace, with_parts
from tests.support.stand_ins import make_project
from tests.workers.tokens.test_tokenizing import PLAN, run
from workers.reward.reading import Question, Reader
from workers.tokens import bounds
from workers.tokens.preferences import Pairs
from workers.tokens.tokenizer import UnusableModel, decoded, encoded, load_tokenizer

GREEDY, ENDLESS = "{{ 'x' * 9000000000 }}", "{{ 10 ** (10 ** 9) }}"
MESSAGES = {
    "pair_id": "1",
    "prompt": [{"role": "user", "content": "1 + 1?"}],
    "chosen": [{"role": "assistant", "content": "2"}],
    "rejected": [{"role": "assistant", "content": "3"}],
}


def greedy(folder: Path) -> str:
    return str(byte_level(folder, chat_template=GREEDY + CHATML, bos=False))


def splitting_at(folder: Path, pattern: str) -> str:
    """A model whose tokenizer first looks for a pattern."""
    file = byte_level(folder) / "tokenizer.json"
    said = json.loads(file.read_text())
    first = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    said["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [first, said["pre_tokenizer"]]}
    file.write_text(json.dumps(said))
    return str(folder)


def test_a_template_gets_little_memory_wherever_it_is_rendered(tmp_path: Path) -> None:
    model = greedy(tmp_path / "model")
    with pytest.raises(UnusableModel, match=r"cannot take the messages \(MemoryError\)"):
        run(tmp_path, dataclasses.replace(PLAN, model=model, chat=True))
    with pytest.raises(UnusableModel, match=r"cannot take it \(MemoryError\)"):
        Pairs(PreferencePlan(model, True, 100)).pairs([MESSAGES])
    with pytest.raises(UnusableModel, match=r"cannot take the messages \(MemoryError\)"):
        Reader(RewardPlan(model, "outcome")).answer(Question("1 + 1?"), "2")


ASKED = {
    ".apply_chat_template(": "prompts.py",
    "okenizer.encode(": None,
    "okenizer(*": "tokenizer.py",
    "okenizer.decode(": "tokenizer.py",
    "batch_decode(": None,
    "convert_ids_to": None,
    "AutoTokenizer.from_pretrained(": "tokenizer.py",
    "DecodeStream(": "ends.py",
}
"""The one place of `workers/tokens` in which a template or tokenizer is asked so: where the bounds are."""


def test_templates_and_tokenizers_are_asked_in_one_place_each() -> None:
    files = {str(file.relative_to(PROJECT)): file.read_text() for file in (PROJECT / "workers").rglob("*.py")}
    asking = {call: [name for name, text in files.items() if call in text] for call in ASKED}
    assert asking == {call: [f"workers/tokens/{name}"] if name else [] for call, name in ASKED.items()}


def test_what_loops_is_ended() -> None:
    began = time.process_time()
    with pytest.raises(TimeoutError, match="no end within 0 s of computing"), bounds.time_bounded(0.2):
        while True:
            pass
    assert time.process_time() - began < 2
    with bounds.time_bounded(0.2):
        time.sleep(0.5)  # is no computing
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


def test_what_cannot_be_interrupted_ends_with_its_process() -> None:
    program = "from workers.tokens.bounds import time_bounded\nwith time_bounded(0.2): sum(range(10**12))"
    assert subprocess.run([sys.executable, "-c", program], cwd=PROJECT, timeout=60).returncode == -signal.SIGPROF


@pytest.mark.full
def test_a_power_without_end_in_a_template_is_told(tmp_path: Path) -> None:
    file = load_job(make_project(tmp_path, model="model"), ["data.chat=true"])
    model = byte_level(tmp_path / "model", chat_template=ENDLESS + CHATML, bos=False)
    with pytest.raises(RatchetError, match="no end"):  # in Python's words, or the kernel's
        preview(file.job, model, read_all_problems(file), [], rendered).check()


def test_a_tokenizer_that_breaks_over_its_regular_expression_is_named(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model := splitting_at(tmp_path / "model", "(a+)+b"))
    assert encoded(tokenizer, "1 + 1")["input_ids"]
    with pytest.raises(
        UnusableModel, match=rf"model: {model}: its tokenizer cannot take a text of 51 char.*retry-limit"
    ):
        encoded(tokenizer, "a" * 50 + "!")


class Endless:
    """A tokenizer in Python."""

    name_or_path = "models/base"

    def __call__(self, text: str) -> None:
        while True:
            pass


def test_a_token_that_becomes_a_text_without_end_is_refused_where_a_tokenizer_is_loaded(tmp_path: Path) -> None:
    """Engines would decode it by themselves."""
    model = with_parts(tmp_path / "model", decoder=growing(3, "decoders"))
    said = rf"{model}: one token of its tokenizer can become a text of [\d,]{{13,}} characters, and at most 65,536"
    with pytest.raises(UnusableModel, match=f"^model: {said}"):
        load_tokenizer(model)
    with pytest.raises(UnusableModel, match=f"^{said}"):
        Reader(RewardPlan(model, "outcome"))
    vocabulary = json.loads((tmp_path / "model/tokenizer.json").read_text())["model"]
    vocabulary["vocab"]["b" * 70_000] = len(vocabulary["vocab"])
    with pytest.raises(UnusableModel, match="can become a text of 70,000 characters"):
        load_tokenizer(with_parts(tmp_path / "other", model=vocabulary))


def test_usual_decoders_are_no_such(tmp_path: Path) -> None:
    assert load_tokenizer(str(metaspace(tmp_path / "metaspace"))).is_fast
    assert load_tokenizer(str(PROJECT / "jobs/demo/base")).is_fast


@pytest.mark.full
def test_a_text_that_grows_without_end_is_told_with_the_tokenizers_file(tmp_path: Path) -> None:
    file = load_job(make_project(tmp_path, model="model"), ["data.template=q {question}"])
    model = with_parts(tmp_path / "model", normalizer=growing(4, "normalizers"))
    with pytest.raises(RatchetError, match=r"the prompts could not be looked at: .*replacements of its tokenizer.json"):
        preview(file.job, Path(model), read_all_problems(file), [], rendered).check()


class Decoding(Endless):
    """Likewise, of ids."""

    def decode(self, ids: list[int]) -> str:
        while True:
            pass


def test_decoding_without_end_is_named() -> None:
    with pytest.raises(UnusableModel, match=r"models/base: its tokenizer cannot make a text of 2 tokens \(no end"):
        decoded(Decoding(), [1, 2], seconds=0.1)


def test_a_tokenizer_without_end_is_named() -> None:
    with pytest.raises(UnusableModel, match=r"models/base: its tokenizer cannot take a text of 5 .* \(no end within"):
        encoded(Endless(), "1 + 1", seconds=0.1)
