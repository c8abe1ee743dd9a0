"""Job files: schedules, overrides, and errors that a user can act on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.commands.compare.file import load_plan
from orchestrator.config import at_round
from orchestrator.config.load import changed_keys, load_job, resolved_yaml
from orchestrator.config.yaml_text import MOST_VALUES
from orchestrator.errors import BadInput

GOOD = """\
name: tiny
model: seed
data:
  train: a.jsonl
  gate: {path: b.jsonl, limit: 5}
  test: c.jsonl
train:
  learning_rate: 1e-6
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(GOOD)
    return path


def errors_of(path: Path, text: str, *overrides: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        load_job(path, overrides)
    return str(error.value).splitlines()


def test_exponents_without_a_point_are_numbers(job: Path) -> None:
    assert load_job(job).job.train.learning_rate == 1e-6
    assert load_job(job, ["train.learning_rate=5e-7"]).job.train.learning_rate == 5e-7


def test_schedules_are_cut_and_repeat_their_last_value(job: Path) -> None:
    schedule = load_job(job, ["generate.temperature=[0.8, 1.3]"]).job.generate.temperature
    assert [at_round(schedule, n) for n in (1, 2, 3)] == [0.8, 1.3, 1.3]
    assert at_round(0.7, 9) == 0.7


def test_overrides_reach_sections_nulls_and_short_forms(job: Path) -> None:
    found = load_job(job, ["pairs.max_pairs=7", "train.max_grad_norm=null", "data.train.limit=3", "rounds=9"]).job
    assert (found.pairs.max_pairs, found.train.max_grad_norm, found.rounds) == (7, None, 9)
    assert (found.data.train.path, found.data.train.limit) == ("a.jsonl", 3)


def test_all_errors_at_once_each_with_its_place(job: Path) -> None:
    lines = errors_of(
        job,
        GOOD.replace("1e-6", "fast").replace("name: tiny", "nmae: tiny")
        + "  zero: 7\ngenerate:\n  temperature: [0.8, -1]\n  samples: 0\n  top_p: on\npairs:\n  per_promt: 0\n",
    )
    said = "\n".join(lines)
    for place in (
        r"tiny\.yaml:1:1: nmae: unknown key; did you mean `name`\?",
        r"tiny\.yaml: name: missing; it has no default",
        r"tiny\.yaml:8:3: train\.learning_rate: .*'fast'",
        r"tiny\.yaml:9:3: train\.zero: must be a whole number from 0 to 3, or null \(it is 7\)",
        r"tiny\.yaml:11:22: generate\.temperature\.1: .*-1",
        r"tiny\.yaml:12:3: generate\.samples: .*0",
        r"tiny\.yaml:13:3: generate\.top_p: must be a number above 0 and at most 1 \(it is true: YAML reads yes",
        r"tiny\.yaml:15:3: pairs\.per_promt: unknown key; did you mean `per_prompt`\?",
    ):
        assert re.search(place, said), f"{place} not in\n{said}"
    assert len(lines) == 8
    places = [tuple(map(int, found.groups())) for line in lines if (found := re.search(r"yaml:(\d+):(\d+):", line))]
    assert places == sorted(places) and len(places) == 7 and "missing" in lines[-1]


SCHEDULE = "must be a number above 0, or a list of such numbers, one a round"


@pytest.mark.parametrize(
    ("text", "overrides", "error"),
    [
        ("loss: {beta: x}\n", [], f"tiny.yaml:9:8: loss.beta: {SCHEDULE} (it is 'x')"),
        ("loss: {beta: -1}\n", [], f"tiny.yaml:9:8: loss.beta: {SCHEDULE} (it is -1)"),
        ("loss: {beta: []}\n", [], f"tiny.yaml:9:8: loss.beta: {SCHEDULE} (it is [])"),
        ("loss: {beta: [0.1, x]}\n", [], "tiny.yaml:9:20: loss.beta.1: must be a number above 0 (it is 'x')"),
        ("pairs:\n", [], "tiny.yaml:9:1: pairs: must be a section of keys (it is null; remove the key to take the "),
        (
            "",
            ["data.template={question}"],
            "must be text (it is {'question': None}; put it in quotes: YAML reads braces",
        ),
        ("run_dir: 2026-12-05\n", [], "run_dir: must be text, or null (it is 2026-12-05; put it in quotes)"),
        ("rounds: 1\nrounds: 2\n", [], "tiny.yaml:10:1: `rounds` stands at line 9 already"),
        ("keep: {<<: {checkpoints: 2}, <<: {checkpoints: 3}}\n", [], "`<<` stands at line 9 already"),
        ("temperature: 1\n", [], "temperature: unknown key; did you mean `generate.temperature`?"),
        (
            "pairs: {per_prompt: [4, 10001]}\n",
            [],
            "`rule: zip` repeats a prompt's pairs until there are `per_prompt` of ",
        ),
        ("grade: {answer: [boxd]}\n", [], "`answer_is`, `whole` or `pattern:REGEX`"),
        ("grade: {answer: ['pattern:(a)(b)']}\n", [], "has 2 groups and needs one"),
        ("? [a]\n: 1\n", [], "tiny.yaml:9:3: not YAML: found unhashable key"),
        ("a: \tb\n\tc: 1\n", [], "tiny.yaml:9:4: not YAML: "),
        ("seed: 010\n", [], "tiny.yaml:9:7: 010 is another number to YAML: 0 at its start means base 8"),
        ("generate: {stall_timeout: 1:30}\n", [], "tiny.yaml:9:27: 1:30 is another number to YAML"),
        ("run_dir: 2020-13-45\n", [], "tiny.yaml:9:10: not YAML: month must be in 1..12"),
        (f"seed: 0x{'f' * 5000}\n", [], "tiny.yaml:9:7: not YAML: Exceeds the limit (4300 digits)"),
        ("", [f"seed=0b{'1' * 20000}"], "not YAML: Exceeds the limit (4300 digits) for integer string conversion"),
        ("cluster: {timeout: 1e300}\n", [], "must be a number above 0 and at most 1000000000"),
        ("generate: {start_timeout: 1e10}\n", [], "must be a number above 0 and at most 1000000000, or null (it is"),
        ("grade: {memory: 1e300}\n", [], "must be a number above 0 and at most 1000000000 (it is '1e300')"),
        ("seed: !!int ''\n", [], "tiny.yaml:9:7: not YAML: '' is no value of the tag 'tag:yaml.org,2002:int'"),
        ("seed: !!bool x\n", [], "tiny.yaml:9:7: not YAML: 'x' is no value of the tag 'tag:yaml.org,2002:bool'"),
        ("seed: !!float ''\n", [], "tiny.yaml:9:7: not YAML: '' is no value of the tag"),
        ('seed: "\\U00110000"\n', [], "tiny.yaml:9:10: not YAML: an escape that is no character"),
        ("", [r'name="\Uffffffff"'], "not YAML: an escape that is no character"),
        ("seed: !!timestamp x\n", [], "tiny.yaml:9:7: not YAML: 'x' is no value of the tag"),
        (
            'grade: {thoughts: ["\\ud800"]}\n',
            [],
            "grade.thoughts.0: it has half of a surrogate pair in it",
        ),
        ('generate: {engine: {"\\ud800": 1}}\n', [], "it has half of a surrogate pair in it, which is no character"),
        (f"generate: {{shard_prompts: 1{'0' * 100}}}\n", [], "shard_prompts: it has more than 100 digits"),
        (
            f"generate: {{engine: {{a: {'[' * 70}{']' * 70}}}}}\n",
            [],
            "engine: it must hold texts, numbers, true, false",
        ),
        ("", ['run_dir="\\ud800"'], "override 'run_dir=...': run_dir: it has half of a surrogate pair in it"),
        ("yes: 4\n", [], "tiny.yaml:9:1: `yes` is no text to YAML, as keys are: put it in quotes"),
        ("generate: {engine: {3: 4}}\n", [], "tiny.yaml:9:21: `3` is no text to YAML"),
        ("loss.beta: 4\n", [], "dotted keys are for the command line; here write `loss: {beta: ...}`"),
        ("data.train.path: x\n", [], "here write `data: {train: {path: ...}}`"),
        ("arms: {irpo: {}}\n", [], "tiny.yaml: this is a comparison, with `arms`, and no job: `ratchet compare "),
        ("generate: {engine: &a {x: *a}}\n", [], "tiny.yaml: too many levels, or an alias (`*name`) that contains"),
        ("", ["train.zero=7"], "override 'train.zero=7': must be a whole number from 0 to 3, or null (it is 7)"),
        (
            "",
            ["train={zero: 7}"],
            "override 'train={zero: 7}': train.zero: must be a whole number from 0 to 3, or null (it is",
        ),
        ("", ["generate.temperature=0.5", "generate.samples=1"], "override 'generate.samples=1': job: `generate.sam"),
        ("", ["seed=3", "generate={samples: 1}"], "override 'generate={samples: 1}': job: `generate.samples` is 1"),
        ("", ["seed=3", "loss.dpo=0", "loss.nll=0"], "override 'loss.dpo=0': job: `loss.dpo` and `loss.nll` are both"),
        ("", ["seed=3", "generate.temperature=0"], "override 'generate.temperature=0': job: `generate.temperature`"),
        ("generate: {samples: 1}\n", ["seed=3", "generate.temperature=0.5"], "tiny.yaml: job: `generate.samples` is 1"),
        ("", ["train.precision=fp32", "train.select=best"], "override 'train.select=best': train: `select: best`"),
        ("", ["rounds=0", "rounds="], "override 'rounds=': must be a whole number of at least 1 (it is null)"),
        ("", ["trian.zero=1"], "override 'trian.zero=1': trian: unknown key; did you mean `train`?"),
        ("", ["rounds=["], "override 'rounds=[': not YAML: expected the node content, but found '<stream end>'"),
        ("", ["seed=010"], "override 'seed=010': 010 is another number to YAML"),
        ("", ["train={zero: 1, zero: 2}"], "override 'train={zero: 1, zero: 2}': `zero` stands at line 1 already"),
        ("", ["rounds"], "override 'rounds': write key=value, such as train.learning_rate=1e-6"),
    ],
)
def test_an_error_is_one_line_with_place_key_value_and_cure(
    job: Path, text: str, overrides: list[str], error: str
) -> None:
    lines = errors_of(job, GOOD + text, *overrides)
    assert len(lines) == 1
    assert error in lines[0]


def test_rows_of_methods_are_told_from_a_job(job: Path) -> None:
    [said] = errors_of(job, "mine: {like: irpo, settings: {rounds: 1}}\n")
    assert said.endswith("these are rows of methods, and no job: a job file names one, `method: tiny.yaml#mine`")


def test_only_a_rule_that_repeats_pairs_has_a_most_of_them(job: Path) -> None:
    """Where a run may be a stranger's, `verify` pairs its samples anew."""
    assert load_job(job, ["pairs={per_prompt: 10000}"]).job.pairs.per_prompt == 10_000
    assert load_job(job, ["pairs={rule: margin, per_prompt: 1000000000}"]).job.pairs.per_prompt == 10**9


def test_errors_come_in_the_order_of_the_file_then_of_the_overrides(job: Path) -> None:
    text = "train: {zero: 7}\nname: 3\nmodel: m\ndata: {train: a, gate: b, test: c, chat: 2}\n"
    lines = errors_of(job, text, "rounds=0", "loss.beta=x")
    assert [re.sub(r"^.*?(\d:\d+: \w+|override '\w+).*", r"\1", line) for line in lines] == [
        "1:9: train", "2:1: name", "4:36: data", "override 'rounds", "override 'loss",
    ]  # fmt: skip


def test_an_override_leaves_other_users_of_an_alias_alone(job: Path) -> None:
    text = GOOD.replace("gate: {path: b.jsonl, limit: 5}", "gate: &held {path: b.jsonl, limit: 5}")
    job.write_text(text.replace("test: c.jsonl", "test: *held"))
    found = load_job(job, ["data.gate.limit=9"]).job.data
    assert (found.gate.limit, found.test.limit) == (9, 5)


def test_aliases_that_stand_for_a_billion_entries_are_refused(job: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert errors_of(job, GOOD + bomb) == [f"{job}: {MOST_VALUES} keys and entries or more, aliases included"]


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "a: [\n", "a: !!python/object:os.system x\n"])
def test_what_is_no_job_file_is_refused(job: Path, text: str) -> None:
    assert len(errors_of(job, text)) == 1


def test_a_missing_file_suggests_its_neighbour(job: Path) -> None:
    with pytest.raises(BadInput, match=r"Did you mean .*tiny\.yaml\?"):
        load_job(job.with_name("tinny.yaml"))


@pytest.mark.parametrize("override", ["rounds", "=3", "a..b=1", "rounds=[", "nosuch.key=1", "rounds=0"])
def test_bad_overrides_are_refused(job: Path, override: str) -> None:
    with pytest.raises(BadInput):
        load_job(job, [override])


def test_a_resolved_job_resolves_to_itself(job: Path) -> None:
    first = load_job(job).job
    job.write_text(resolved_yaml(first))
    assert load_job(job).job == first


def test_changes_are_listed_by_key(job: Path) -> None:
    before = load_job(job).job.model_dump(mode="json")
    after = load_job(job, ["train.zero=2", "rounds=4"]).job.model_dump(mode="json")
    assert changed_keys(before, after) == [("rounds", 3, 4), ("train.zero", None, 2)]


def test_files_are_found_beside_the_job_file(job: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    file = load_job(job)
    assert file.find("a.jsonl", "data.train") == tmp_path / "a.jsonl"
    with pytest.raises(BadInput, match=r"data\.test: 'none\.jsonl' does not exist: nothing at .* nor at none\.jsonl"):
        file.find("none.jsonl", "data.test")


def test_shipped_jobs_are_valid_and_executable() -> None:
    jobs = sorted(path for path in Path("jobs").glob("*.yaml") if path.name != "methods.yaml")
    assert jobs
    for path in jobs:
        command = "compare" if path.name.startswith("compare") else "run"
        assert path.read_text().startswith(f"#!/usr/bin/env -S python -m orchestrator {command}\n")
        assert path.stat().st_mode & 0o111
        name = load_plan(path).name if command == "compare" else load_job(path).job.name
        assert yaml.safe_load(path.read_text())["name"] == name
