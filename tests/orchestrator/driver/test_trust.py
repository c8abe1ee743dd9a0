"""A stranger's settings are code: nothing of them that needs trust is used by any command before it is approved."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.fork.command import fork
from orchestrator.commands.rescore import rescore
from orchestrator.config import Generate, Grade, Job, Source
from orchestrator.config.load import load_job
from orchestrator.config.places import own_code, own_code_environment
from orchestrator.driver import trust
from orchestrator.driver.resume import load, resumed
from orchestrator.driver.wiring import unread_golds
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files import user_state
from orchestrator.files.inside import run_around
from tests.orchestrator.test_cli import PROJECT, ratchet
from tests.orchestrator.test_deciding_settings import settings_of
from tests.orchestrator.test_loop import StopAt
from tests.support.judge_server import JudgeServer, serve
from tests.support.stand_ins import StandIns, make_project, run_job
from workers.generation.vllm import engine_arguments

DATA = {
    *("name", "method", "source", "rounds", "seed", "init"),
    *("data.id", "data.answer", "data.choices", "data.answer_marker", "data.solution", "data.solution_strip"),
    *("data.solution_template", "data.template", "data.hint_template", "data.chat", "data.system", "data.date"),
    *("data.examples.prompt", "data.examples.completion", "data.example_separator", "data.prompts"),
    *("data.prompts_per_round", "data.allow_overlap"),
    *("generate.samples", "generate.temperature", "generate.temperature_mix", "generate.hint", "generate.top_p"),
    *(f"generate.adapt_temperature.{key}" for key in ("mixed", "step", "lowest", "highest")),
    "generate.wave_samples",
    *(f"data.curriculum.{key}" for key in ("lowest", "highest", "others")),
    *("generate.top_k", "generate.max_tokens", "generate.stop", "generate.seeding", "generate.engines"),
    *("generate.tensor_parallel", "generate.shard_prompts", "generate.max_model_len", "generate.max_num_seqs"),
    *("generate.start_timeout", "generate.stall_timeout", "generate.dtype", "regrade.round"),
    *(f"{grade}.{key}" for grade in ("grade", "regrade.grade") for key in ("answer", "strict", "thoughts", "audit")),
    *(f"{grade}.{key}" for grade in ("grade", "regrade.grade") for key in ("unreadable", "timeout", "memory")),
    *(f"{grade}.{key}" for grade in ("grade", "regrade.grade") for key in ("processes", "max_characters")),
    *("stages.template", "stages.split", "stages.order", "stages.drop_seen"),
    *("steps.opening", "steps.split", "steps.localiser", "steps.rollouts", "steps.threshold"),
    *("steps.rectifications", "steps.filter", "steps.open_evaluation"),
    *(f"steps.process.{key}" for key in ("threshold", "separator", "max_tokens", "dtype", "workers", "per_gpu")),
    *(f"steps.process.{key}" for key in ("cpus", "device", "stall_timeout")),
    *("judge.model", "judge.max_requests", "judge.concurrency", "judge.timeout", "judge.retries"),
    *("judge.temperature", "judge.max_tokens"),
    *(f"reward.{key}" for key in ("verdict_weight", "normalisation", "workers", "per_gpu", "cpus", "device")),
    "reward.stall_timeout",
    *("cluster.cpus_per_engine", "cluster.cpus_per_rank", "cluster.accelerators", "cluster.timeout"),
    *("cluster.idle_release", "cluster.warm"),
    *(f"evaluate.{key}" for key in ("max_tokens", "samples", "temperature", "probe_tolerance")),
    *(f"evaluate.harness.{key}" for key in ("tasks", "limit", "num_fewshot", "chat")),
    "cluster.placement",
    "cluster.interface",
    *("tracking.enabled", "tracking.experiment"),
}
"""Settings that are data: they can waste time and room, and run, open and send nothing."""
SECTIONS_OF_DATA = ("pairs", "self_judge", "loss", "train", "lora", "promotion", "keep")

EXAMPLES = {
    "grade.graders": ["grade.graders=[{any_of: [exact, 'python:evil:f']}]"],
    "regrade.grade.graders": ["regrade={round: 1, grade: {graders: ['python:evil:f']}}"],
    "evaluate.harness.include_path": ["evaluate.harness={tasks: [own], include_path: linked}"],
    "generate.engine": ["generate.engine={tokenizer: /etc}"],
    "cluster.env": ["cluster.env={LD_PRELOAD: evil.so}"],
    "cluster.secrets": ["cluster.secrets=[AWS_SECRET_ACCESS_KEY]"],
    "judge.base_url": ["judge={model: m, base_url: 'http://evil/v1'}"],
    "judge.api_key_env": ["judge={model: m, api_key_env: AWS_SECRET_ACCESS_KEY}"],
    "tracking.uri": ["tracking.uri=http://evil"],
    "tracking.sinks": ["tracking.sinks=[wandb]"],
    "cluster.address": ["cluster.address='ray://evil:10001'"],
    "model": ["model=../outside/model"],
    "reference": ["reference=../outside/model"],
    "reward.models": ["reward.models=[{model: ../outside/model}]", "pairs.rule=best_worst"],
    "steps.process.model": ["steps.process={model: ../outside/model}"],
    "data.train.path": ["data.train=../outside/secret.jsonl"],
    "data.gate.path": ["data.gate={path: ../outside/secret.jsonl, limit: 2}"],
    "data.test.path": ["data.test=link.jsonl"],
    "data.tests": ["data.tests=[{name: math, path: ../outside/secret.jsonl}]"],
    "stages.sources": ["source=dataset", "stages.sources=[own.jsonl, ../outside/secret.jsonl]"],
    "steps.verdicts": ["steps.verdicts=../outside/any.jsonl"],
    "run_dir": ["run_dir=../outside/run"],
    "archive": ["archive=s3://evil/{name}"],
}


def test_every_setting_is_sorted() -> None:
    """A new one must be among those that need trust, or be said here to be data."""
    assert {f"data.{split}" for split in ("train", "gate", "test")} <= {*settings_of(Job)}
    assert {*Source.model_fields} == {"path", "hub", "config", "split", "revision", "limit"}, "is the new one data?"
    for key in settings_of(Job):
        needing = key in trust.KEYS or f"{key}.path" in trust.KEYS
        assert needing != (key in DATA or key.partition(".")[0] in SECTIONS_OF_DATA), key
    document = (PROJECT / "docs/threats.md").read_text()
    assert all(f"`{key}`" in document for key in trust.KEYS)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A job whose files are all in its own folder; beside it lies what is no business of its."""
    (tmp_path / "outside/model").mkdir(parents=True)
    (tmp_path / "outside/secret.jsonl").write_text("")
    job = make_project(tmp_path / "run", run_dir=None)
    (job.parent / "own.jsonl").write_text("")
    (job.parent / "link.jsonl").symlink_to(tmp_path / "outside/secret.jsonl")
    (job.parent / "linked").mkdir()
    (job.parent / "linked/tokenizer.json").symlink_to(tmp_path / "outside/secret.jsonl")
    return job


def test_a_plain_job_needs_no_trust(plain: Path) -> None:
    assert trust.needs_trust(load_job(plain), plain.parent) == []


@pytest.mark.parametrize("key", trust.KEYS)
def test_what_needs_trust_is_found(plain: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plain.parent)
    found = trust.needs_trust(load_job(plain, EXAMPLES[key]), plain.parent)
    others = {"judge.base_url", "judge.api_key_env"} if key.startswith("judge.") else {key}
    named = {item: item.key.removesuffix(".tokenizer").removesuffix(".LD_PRELOAD") for item in found}
    assert {*named.values()} == others
    assert all(item.why == trust.KEYS[key] for item, key in named.items())


def test_a_model_is_no_better_than_its_links_and_a_home_is_outside(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "outside"))
    secret = str(tmp_path / "outside/secret.jsonl")
    (plain.parent / "verdicts").mkdir()
    for override in ("model=linked", "data.train=~/secret.jsonl", f"reference={tmp_path}/outside/secret.jsonl"):
        [item] = trust.needs_trust(load_job(plain, [override]), plain.parent)
        assert item.value == secret, override
    file = load_job(plain, ["data.train=secret.jsonl"])
    assert trust.needs_trust(file, plain.parent) == [], "nothing is there"
    [item] = trust.needs_trust(replace(file, recorded=(tmp_path / "outside",)), plain.parent)
    assert item.value == secret, "a run says itself where its paths are looked for"
    (plain.parent / "verdicts/round-01.jsonl").symlink_to(secret)
    assert [item.key for item in trust.needs_trust(load_job(plain), plain.parent)] == ["steps.verdicts"]
    (plain.parent / "verdicts/round-01.jsonl").unlink()
    os.symlink(os.fsencode(tmp_path) + b"/outside/\xff", plain.parent / "linked/odd.json")
    assert len({item.digest for item in trust.needs_trust(load_job(plain, ["model=linked"]), plain.parent)}) == 2
    (plain.parent / "ledger").mkdir()
    shutil.copytree(plain.parent, tmp_path / "outside/run", symlinks=True)
    [item] = trust.needs_trust(load_job(plain, [f"model=run:{tmp_path}/outside/run"]), plain.parent)
    assert item.value == str(tmp_path / "outside/run")


def test_what_is_shown_is_plain_text() -> None:
    item = trust.Item("generate.engine.\x1b[2Jx", '"\x1b]52;c;AAAA\a\u202e\n"', trust.ARGUMENT)
    assert str(item).isprintable() and str(item).isascii() and "\\u001b]52" in str(item)


# Who said it


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state folder, not made yet."""
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


class Stranger:
    """A run from somebody else, with code, an address, a path to a secret, and a comparison; the user's current folder
    is the run's, where Python would find the code."""

    def __init__(self, folder: Path, server: JudgeServer) -> None:
        self.run, self.marker, self.server = folder / "run", folder / "executed", server
        self.secret = folder / "secret.jsonl"
        judge = {"model": "m", "base_url": server.address, "retries": 0}
        job = make_project(folder / "author", run_dir=str(self.run), judge=judge)
        shutil.move(folder / "author/train.jsonl", self.secret)
        overrides = [f"data.train={self.secret}", "grade.graders=['python:evil:f', judge]", "model=seed"]
        with pytest.raises(RuntimeError):
            run_job(job, StandIns(on_call=StopAt(24, RuntimeError("a bug"))), *overrides)
        for name in ("seed", "gate.jsonl", "test.jsonl"):
            shutil.move(folder / "author" / name, self.run / name)
        (self.run / "evil.py").write_text(f"import os\nos.makedirs({str(self.marker)!r}, exist_ok=True)\nf = None\n")
        (self.run / "other.yaml").write_text(yaml.safe_dump(load(self.run / "job.yaml").job.model_dump(mode="json")))
        (self.run / "compare.yaml").write_text("name: c\njob: other.yaml\narms: {irpo: {}}\n")

    @property
    def untouched(self) -> bool:
        return not self.marker.exists() and not self.server.asked


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "the author's state"))
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_KEY", "a secret")
    with serve(lambda asked: {"verdict": "yes"}) as server:
        made = Stranger(tmp_path, server)
        monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.chdir(made.run)
        yield made


COMMANDS = {
    "run": ["run", "job.yaml"],
    "run another file of it": ["run", "other.yaml"],
    "resume": ["resume", "."],
    "resume for longer": ["resume", ".", "rounds=3"],
    "rescore": ["rescore", ".", "../new", "grade.strict=false"],
    "compare": ["compare", "compare.yaml"],
    "validate": ["validate", "job.yaml"],
    "validate another file of it": ["validate", "other.yaml", "--resolved"],
    "doctor": ["doctor", "job.yaml"],
    "doctor as JSON": ["doctor", "resolved.yaml", "--json"],
}


def test_no_command_uses_a_strangers_settings_before_they_are_approved(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that use none of them work at once."""
    for words in COMMANDS.values():
        assert ratchet(*words) == 2, words
        said = capsys.readouterr()
        for shown in ("python:evil:f", stranger.server.address, "OPENAI_API_KEY", str(stranger.secret)):
            assert f'"{shown}"' in said.err, (words, shown)
        assert "--trust" in said.err and "Traceback" not in said.err and not said.out
        assert stranger.untouched and not (tmp_path / "new").exists() and not (tmp_path / "home").exists(), words
    for words, code in ((["status", "."], 0), (["verify", "."], 0), (["gc", "."], 0), (["fork", ".", "../fork"], 0)):
        assert ratchet(*words) == code, words
        assert stranger.untouched
    assert "--trust" in capsys.readouterr().out.splitlines()[-1]
    assert ratchet("resume", "../fork") == 2 and ratchet("validate", "../fork/job.yaml") == 2
    assert stranger.untouched and not (tmp_path / "state/trusted").exists()


def test_with_trust_they_are_shown_used_and_remembered(
    stranger: Stranger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet("validate", "job.yaml", "--trust") == 0
    assert str(stranger.secret) in capsys.readouterr().err
    with pytest.raises(BadInput, match="f is no function"):
        unread_golds(Grade(graders=["python:evil:f"]), ["1"])
    assert stranger.marker.exists(), "this is what the others are kept from"
    [approved] = (tmp_path / "state/trusted").iterdir()
    assert (approved.stat().st_mode | approved.parent.stat().st_mode) & 0o77 == 0
    assert all(word not in approved.read_text() for word in ("evil", "secret", "127.0.0.1"))
    assert resumed(stranger.run).job.judge and load(stranger.run / "job.yaml", ["rounds=3"]).job.rounds == 3
    assert fork(stranger.run, tmp_path / "fork", ["cluster.address=local"]).trusted and resumed(tmp_path / "fork")
    with pytest.raises(BadInput, match=r"nobody has approved(.|\n)*python:other:f"):
        other = (stranger.run / "other.yaml").read_text()
        (stranger.run / "other.yaml").write_text(other.replace("python:evil", "python:other"))
        load(stranger.run / "other.yaml")


def test_what_is_too_long_to_be_shown_is_not_approved(tmp_path: Path, state: Path) -> None:
    """The end of it would be approved unseen."""
    job = make_project(tmp_path / "project", run_dir=str(tmp_path / "run"), rounds=1)
    run_job(job, StandIns(), f"generate.engine={{hf_overrides: [{'a' * 9000}, more]}}")
    shutil.rmtree(state)
    told = list[str]()
    with pytest.raises(BadInput, match=r"hf_overrides: .*too long to be shown.* Give another value \(generate"):
        resumed(tmp_path / "run", tell=told.append)
    assert not told and not state.exists()
    assert resumed(tmp_path / "run", ["generate.engine={}"], tell=told.append)


def test_the_users_own_overrides_need_no_approval(stranger: Stranger) -> None:
    own = ["grade.graders=[exact]", "judge=null", f"data.train.path={stranger.secret}"]
    job = (stranger.run / "other.yaml").read_text().replace("reference: previous", "reference: base")
    (stranger.run / "other.yaml").write_text(job)
    assert load(stranger.run / "other.yaml", own).job.grade.graders == ["exact"]
    with pytest.raises(BadInput) as refused:
        load(stranger.run / "other.yaml", [own[2], "tracking.uri=http://mine"])
    assert "python:evil:f" in str(refused.value) and "http://mine" not in str(refused.value)


def test_a_run_that_was_started_by_its_job_file_is_the_users_own(tmp_path: Path, state: Path) -> None:
    """Also what it was forked to and rescored to; one from before is approved by `tell`, as by naming the file."""
    job = make_project(tmp_path / "project", run_dir=str(tmp_path / "run"))
    overrides = ["tracking.uri=http://mine", "generate.engine={enforce_eager: true}"]
    run_job(job, StandIns(), *overrides)
    assert fork(tmp_path / "run", tmp_path / "child", ["loss.beta=0.3"]).trusted
    rescore(tmp_path / "run", tmp_path / "new", 1, ["grade.strict=false"], print, [], lambda _job, _logs: StandIns())
    runs = [tmp_path / name for name in ("run", "child", "new")]
    for run in runs:
        assert resumed(run) and load(run / "job.yaml") and resumed(run, ["judge={model: m}"])
    shutil.rmtree(state)
    for run in runs:
        with pytest.raises(BadInput, match=r"nobody has approved(.|\n)*http://mine"):
            resumed(run)
    shown = list[str]()
    assert resumed(runs[0], tell=shown.append) and "enforce_eager" in shown[0]
    assert resumed(runs[0])
    shutil.rmtree(state)
    run_job(job, StandIns(), *overrides)
    assert resumed(runs[0])


def test_a_run_beside_a_strangers_needs_trust(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run:NAME` is looked for beside the run that names it, which may lie outside of the folder of all runs."""
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run_job(make_project(tmp_path / "project", run_dir=str(tmp_path / "runs/private"), rounds=1), StandIns())
    stranger = tmp_path / "runs/stranger"
    for key in ("model", "reference"):
        job = make_project(tmp_path / key, run_dir=str(stranger), rounds=1, **{key: "run:private"})
        run_job(job, StandIns())
        shutil.rmtree(state)
        with pytest.raises(BadInput, match=f'nobody has approved(.|\n)*{key}: "{tmp_path}/runs/private"'):
            resumed(stranger)
        shutil.rmtree(stranger)


def test_a_link_is_no_way_around(tmp_path: Path, state: Path) -> None:
    tracking = {"enabled": False, "uri": "http://theirs"}
    run_job(make_project(tmp_path / "project", run_dir=str(tmp_path / "run"), tracking=tracking), StandIns())
    shutil.rmtree(state)
    (tmp_path / "mine.yaml").symlink_to(tmp_path / "run/job.yaml")
    (tmp_path / "run/yours.yaml").symlink_to(tmp_path / "project/tiny.yaml")
    (tmp_path / "run/below").mkdir()
    shutil.copy(tmp_path / "project/tiny.yaml", tmp_path / "run/below/deep.yaml")
    for file in ("mine.yaml", "run/yours.yaml", "run/below/deep.yaml"):
        assert run_around(tmp_path / file) == tmp_path / "run"
    assert run_around(tmp_path / "project/tiny.yaml") is None
    (tmp_path / "run/compare.yaml").write_text(f"name: c\njob: {tmp_path}/project/tiny.yaml\narms: {{irpo: {{}}}}\n")
    with pytest.raises(BadInput, match="nobody has approved"):
        load(tmp_path / "mine.yaml")
    with pytest.raises(BadInput, match="nobody has approved"):
        load(tmp_path / "run/below/deep.yaml")
    with pytest.raises(BadInput, match="leads out of the run"):
        load(tmp_path / "run/yours.yaml")
    with pytest.raises(BadInput, match="leads out of the run"):
        load_plan(tmp_path / "run/compare.yaml")
    os.unlink(tmp_path / "run/job.yaml")
    os.mkfifo(tmp_path / "run/job.yaml")
    with pytest.raises(BadInput, match="is no regular file"):
        load(tmp_path / "run/job.yaml")


def test_a_folder_of_accounts_makes_no_run_of_what_it_is_in(tmp_path: Path, state: Path) -> None:
    """Many a home has a folder `ledger`. What is below it is the user's own, links of the Hub's cache included."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger/2026.journal").write_text("")
    job = make_project(tmp_path / "project", rounds=1)
    cached = tmp_path / "cache/snapshot"
    cached.mkdir(parents=True)
    for file in (tmp_path / "project/seed").iterdir():
        (cached / file.name).symlink_to(file)
    assert run_around(job) is None
    run_job(job, StandIns(), f"model={cached}", "tracking.uri=http://mine")
    assert run_around(tmp_path / "run/job.yaml") is None and resumed(tmp_path / "project/run")


def test_a_path_that_goes_up_and_out_of_a_run_is_not_in_it(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As somebody gives it who looks around in a run; one that goes up and comes back is in it."""
    run_job(make_project(tmp_path / "project", rounds=1, tracking={"enabled": False, "uri": "http://mine"}), StandIns())
    shutil.rmtree(state)
    monkeypatch.chdir(tmp_path / "project/run/rounds")
    assert load(Path("../../tiny.yaml")).job.tracking.uri
    with pytest.raises(BadInput, match="nobody has approved"):
        load(Path("../../run/rounds/../resolved.yaml"))


# The user's state


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATCHET_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert user_state.state_folder() == tmp_path / ".local/state/ratchet"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert user_state.state_folder() == tmp_path / "x/ratchet"
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "own"))
    assert user_state.state_folder() == tmp_path / "own"


def test_less_than_what_was_approved_is_approved_and_more_is_not(state: Path) -> None:
    user_state.approve(["a", "b"])
    user_state.approve(["c"])
    assert user_state.is_approved([]) and user_state.is_approved(["b"]) and user_state.is_approved(["b", "a"])
    assert not user_state.is_approved(["a", "c"]), "never together"
    for number, content in enumerate(("{", "[]", '{"items": 3}', "9" * 5000, "[" * 90_000)):
        (state / f"trusted/{number}").write_text(content)
    os.mkfifo(state / "trusted/pipe")
    assert user_state.is_approved(["c"]) and not user_state.is_approved(["d"])


def test_a_state_that_others_can_write_is_not_believed(state: Path) -> None:
    user_state.approve(["a"])
    key = user_state.sealing_key()
    assert stat.S_IMODE(state.stat().st_mode) == 0o700 and stat.S_IMODE((state / "key").stat().st_mode) == 0o600
    assert key == user_state.sealing_key() and len(key) == 32
    state.chmod(0o777)
    assert not user_state.is_approved(["a"]) and user_state.sealing_key() != key
    with pytest.raises(RatchetError, match=r"others can write to it(.|\n)*chmod 700"):
        user_state.approve(["b"])
    state.chmod(0o700)
    assert user_state.is_approved(["a"]) and user_state.sealing_key() == key


def test_without_a_state_folder_a_job_runs_and_says_that_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RATCHET_STATE_HOME", str(tmp_path / "file/state"))
    said = run_job(make_project(tmp_path / "project", run_dir=str(tmp_path / "run")), StandIns())
    [line] = [line for line in said if line.startswith("trust")]
    assert "not remembered" in line and "RATCHET_STATE_HOME" in line
    with pytest.raises(BadInput, match="nobody has approved"):
        resumed(tmp_path / "run")
    shown = list[str]()
    assert resumed(tmp_path / "run", tell=shown.append) and "not remembered" in shown[-1]


# Code that comes with models, and what lies in the current folder


def test_no_model_brings_code() -> None:
    """transformers asks on the terminal where it is not told; vLLM would take pickled weights."""
    calls = 0
    for file in (PROJECT / "workers").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("trust_remote_code") == "False", f"{file}:{node.lineno}"
                is_model = "Model" in ast.unparse(node.func)
                assert not is_model or given["use_safetensors"] == "True", f"{file}:{node.lineno}"
                calls += 1
    assert calls >= 6
    arguments: dict[str, Any] = engine_arguments("model", Generate(), 0, accelerated=True, dtype=None)
    assert arguments["trust_remote_code"] is False and arguments["load_format"] == "safetensors"


def test_own_processes_take_no_code_from_the_current_folder(tmp_path: Path) -> None:
    for module in ("orchestrator", "typer", "json"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    command, environment = [*own_code("orchestrator"), "version"], own_code_environment()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout and not (tmp_path / "executed").exists()
    subprocess.run([sys.executable, "-m", "json"], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "executed").exists(), "Python's own way"


# Saved states of a training


class Saving(StandIns):
    """Leaves a state in the plan's folder, and is interrupted at the first training."""

    def watch(self, plan: Any) -> None:
        assert plan.state_key and str(plan.state_key) not in repr(plan)
        state = Path(plan.state_dir) / "000001"
        self.found = state.exists()
        state.mkdir(parents=True, exist_ok=True)
        (state / "of this driver").write_text("")


def test_a_strangers_folder_of_states_is_not_written_through_nor_passed_on(tmp_path: Path, state: Path) -> None:
    job = make_project(tmp_path, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, StandIns(on_call=lambda name: stop_at_training(name)))
    victim, planted = tmp_path / "victim", tmp_path / "run/rounds/01/.train-state-of-7"
    (victim / "000001").mkdir(parents=True)
    planted.symlink_to(victim)
    for name in ("x", "\u0663", "-1"):
        (tmp_path / f"run/rounds/01/.train-state-of-{name}").mkdir()
    fork(tmp_path / "run", tmp_path / "child")
    assert not list((tmp_path / "child").rglob(".train-state*"))
    run_job(job, workers := Saving())
    assert not workers.found and [path.name for path in victim.rglob("*")] == ["000001"]


def test_a_state_without_a_seal_is_told_and_removed(tmp_path: Path, state: Path) -> None:
    job = make_project(tmp_path, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        run_job(job, StandIns(on_call=lambda name: stop_at_training(name)))
    planted = tmp_path / "run/rounds/01/.train-state-of-1/000001"
    planted.mkdir(parents=True)
    (planted / "manifest.json").write_text(json.dumps({"identity": "any", "files": {}, "seal": "0" * 64}))
    said = run_job(job, workers := Saving())
    assert [line for line in said if "no seal of this user" in line] and not workers.found


def stop_at_training(name: str) -> None:
    if name == "train":
        raise KeyboardInterrupt
