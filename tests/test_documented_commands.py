"""Every command in the documents can be given as it stands; those that are cheap are given, on a run of stand-ins."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config import Job, Settings
from orchestrator.config.marks import sections_in
from tests.orchestrator.test_cli import ratchet
from tests.support.documented import commands_in, programs_in, words_of
from tests.support.stand_ins import StandIns, make_project, run_job
from tests.support.typed_commands import commands
from tests.test_documents import DOCUMENTS
from tests.test_house import PROJECT

SHOWN = sorted({line for document in DOCUMENTS for line in commands_in(document.read_text())})
RATCHET = [line for line in SHOWN if words_of(line)[0] == "ratchet" and len(words_of(line)) > 1]
NAMED = [
    line
    for line in RATCHET
    if words_of(line)[1] in commands() and all(word.startswith("--") for word in words_of(line)[2:])
]
"""The name of a command, or of an option of one, and nothing else: what stands in a sentence."""
GIVEN = [line for line in RATCHET if line not in NAMED or line in ("ratchet list", "ratchet docs")]

NOT_GIVEN = {
    r"ratchet (run|resume) .*": "starts Ray, engines and ranks: tests/real does, and tests/real/test_tutorial_real.py",
    r"ratchet validate .*": "reads a model with the real tokenizer: tests/orchestrator/driver/test_preview.py",
    r"ratchet plan .*": "the same: tests/orchestrator/commands/test_plan.py, tests/real/test_tutorial_real.py",
    r"ratchet doctor .*": "starts Ray, an engine and ranks: tests/real/test_operations_real.py",
    r"ratchet export .* --push": "writes to a Hub: tests/orchestrator/commands/test_push.py",
    r"ratchet rescore .*": "starts grader processes in a Ray: tests/real/test_operations_real.py",
    r"ratchet ui .*": "serves until it is interrupted: tests/orchestrator/commands/test_ui.py, tests/browser",
    r"ratchet track .*": "waits for MLflow's database: tests/orchestrator/tracking/test_tracking_moved.py",
    r"ratchet (archive|fetch) .*": "wants an address: tests/orchestrator/archive",
    r"ratchet logs .*": "shows what real workers printed: tests/orchestrator/reports/test_worker_logs.py",
    r"ratchet compare (FILE|jobs/compare[\w-]*.yaml).*": "runs every arm: tests/orchestrator/commands/test_compare.py",
}
"""Patterns of commands that are not given here, each with the reason, and where something of the kind is."""


OTHERS = {
    "make": "sets up an environment, or runs suites, of which this is one; its targets are looked at below",
    "python": "measures for minutes: benchmarks/README.md, `make benchmarks`; its options are looked at below",
    "pytest chmod": "of the examples that tests/test_adding.py adds",
    "head sed": "given by tests/real/test_tutorial_real.py",
    "pip-audit git pins()": "asks for packages and flaws elsewhere: tests/deploy/test_audit.py looks at what it reads",
    "ray": "wants machines reached by ssh, or a cluster: tests/deploy/test_ray_up.py, tests/real/test_submit_real.py",
    "sbatch tail": "wants SLURM: tests/deploy/test_slurm.py",
    "docker deploy/docker/secrets.sh": "wants Docker: tests/deploy/test_files.py, tests/deploy/test_secure.py",
    "kubectl export": "wants Kubernetes: tests/deploy/test_kubernetes.py",
}
"""Further programs that blocks of commands begin with, each with why it is not given here, and where it is tried."""


def unknown_key(key: str) -> bool:
    """Whether a dotted key is none of the job file's; what has capitals stands for something."""
    sections: Sequence[type[Settings]] = [Job]
    for name in key.split("."):
        if name.isupper() or not sections:
            return False  # a placeholder, or a key of a mapping
        fields = [section.file_fields()[name] for section in sections if name in section.file_fields()]
        if not fields:
            return True
        sections = [below for field in fields for below in sections_in(field.annotation)]
    return False


@pytest.mark.parametrize("line", RATCHET)
def test_a_command_is_one_and_its_options_and_keys_are_there(line: str) -> None:
    _, name, *arguments = words_of(line)
    if name == "--version":
        return
    assert name in commands(), line
    if line in NAMED:
        options = {option for parameter in commands()[name].params for option in parameter.opts}
        assert {*arguments} <= options, line
        return
    context = commands()[name].make_context(name, arguments)  # raises where it knows no such option
    for override in context.params.get("overrides") or ():
        key, given, _ = override.partition("=")
        assert given and not unknown_key(key), f"{line}: {override}"


def test_a_key_and_what_is_none_are_told_apart() -> None:
    assert not unknown_key("loss.beta") and not unknown_key("grade.KEY") and not unknown_key("data.train.path")
    assert unknown_key("loss.bata") and unknown_key("lr") and unknown_key("data.train.file")
    assert words_of("ratchet run demo   # the run") == ["ratchet", "run", "demo"]
    assert words_of("ratchet docs > docs/job-file.md") == ["ratchet", "docs"]
    assert words_of("ratchet run a.yaml 'loss.beta=[0.1, 0.2]' | head -3")[3:] == ["loss.beta=[0.1, 0.2]"]


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("make")])
def test_a_target_of_make_is_there(line: str) -> None:
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.M)
    assert {word for word in words_of(line)[1:] if "=" not in word} <= {*targets}, line


@pytest.mark.parametrize("line", [line for line in SHOWN if line.startswith("python -m")])
def test_a_module_that_is_run_is_there_and_knows_its_options(line: str) -> None:
    _, _, module, *arguments = words_of(line)
    path = PROJECT / module.replace(".", "/")
    [source] = [file for file in (path.with_suffix(".py"), path / "__main__.py") if file.is_file()]
    if module != "orchestrator":
        options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert {option for option in options if f'"{option}"' not in source.read_text()} == set(), line


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as the documents have it: runs/irpo and runs/hot, each of three rounds, and files of one's own."""
    folder = tmp_path_factory.mktemp("project")
    for name, gain in (("irpo", 0.1), ("hot", 0.05)):
        job = make_project(folder, name=name, rounds=3, run_dir=str(folder / f"runs/{name}"))
        run_job(job, StandIns(gain=gain))
    problems = (PROJECT / "jobs/demo/train.jsonl").read_text().splitlines(keepends=True)[:90]
    (folder / "problems.jsonl").write_text("".join(problems))
    (folder / "train.jsonl").write_text('{"answer": "2 + 2\\n#### 4", "completion": "Final answer: 4"}\n')
    (folder / "answers.jsonl").write_text('{"gold": "4", "text": "Final answer: 4"}\n')
    pq.write_table(pa.table({"gold": ["4"], "text": ["Final answer: 4"]}), folder / "answers.parquet")
    shutil.copy(PROJECT / "jobs/demo/preferences-slip.jsonl", folder / "pairs.jsonl")
    quiz = ({"question": f"{n} and {n}?", "choices": [str(2 * n), "0"], "answer": 0} for n in range(10, 90))
    (folder / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in quiz))
    shutil.copytree(PROJECT / "jobs/demo/base", folder / "models/base")
    shutil.copytree(folder / "runs/irpo", folder / "runs/my-job")
    return folder


def given(line: str, folder: Path) -> list[str]:
    """The words of a command, with the project's own in place of what stands for them."""
    in_place = {"RUN": "runs/irpo", "NEW": "runs/new", "NEWRUN": "runs/new", "grade.KEY=VALUE": "grade.strict=false"}
    in_place["KEY=VALUE"] = "loss.beta=0.2"
    words = [in_place.get(word, word) for word in words_of(line)[1:]]
    words = [word.replace("--problem=ID", "--problem=test-0") for word in words]
    return [word.replace("--pair=ID", f"--pair={_some_pair(folder)}") for word in words]


def _some_pair(folder: Path) -> str:
    [file] = (folder / "runs/irpo/rounds/02/pairs").glob("*.parquet")
    return str(pq.read_table(file, columns=["pair_id"])["pair_id"][0])


@pytest.mark.parametrize("line", [line for line in GIVEN if not any(re.fullmatch(key, line) for key in NOT_GIVEN)])
def test_a_command_that_is_cheap_is_given(
    line: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "project"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RATCHET_HOME", str(folder))
    words = given(line, folder)
    if words[0] == "fork":
        shutil.rmtree(folder / words[2], ignore_errors=True)  # a fork makes a new run
    assert ratchet(*words) == 0, capsys.readouterr()
    said = capsys.readouterr()
    assert said.out.strip() and not said.err.strip(), said


def test_every_program_of_a_block_of_commands_is_looked_at_here_or_has_a_reason() -> None:
    texts = [document.read_text() for document in DOCUMENTS]
    begun = {program for text in texts for program in programs_in(text)}
    assert begun - {"ratchet"} <= {name for names in OTHERS for name in names.split()} <= begun | {"python"}


def test_every_reason_is_still_needed() -> None:
    assert [pattern for pattern in NOT_GIVEN if not any(re.fullmatch(pattern, line) for line in GIVEN)] == []
    for reason in (*NOT_GIVEN.values(), *OTHERS.values()):
        for path in re.findall(r"tests/[\w/.]+\w", reason):
            assert (PROJECT / path).exists(), path
