"""The commands as a user types them: what they print, on which stream, and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator import __version__
from orchestrator.cli import main
from orchestrator.config import Data, Job, Source
from orchestrator.config.data import HeldOut
from orchestrator.config.job_docs import BELOW, ESSENTIAL, EXAMPLE, executing_keys, job_docs
from orchestrator.config.load import load_job, resolved_yaml
from orchestrator.config.methods import PRESETS
from orchestrator.config.own_methods import Row
from orchestrator.config.words import model_of
from orchestrator.driver.resume import command
from tests.support.sample_run import SampleRun, two_rounds
from tests.support.stand_ins import StandIns, make_project, run_job
from tests.support.typed_commands import commands

PROJECT = Path(__file__).parents[2]


def ratchet(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def test_python_without_docstrings_is_refused() -> None:
    """Ray ends in a traceback then, and transformers blames the model."""
    done = subprocess.run(
        [sys.executable, "-OO", "-m", "orchestrator", "version"], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ratchet: PYTHONOPTIMIZE=2 ") and done.stderr.count("\n") == 1


def test_the_committed_reference_of_the_job_file_is_what_the_models_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("docs") == 0
    assert capsys.readouterr().out == (PROJECT / "docs/job-file.md").read_text(), "run: ratchet docs > docs/job-file.md"


def _sets() -> list[str]:
    """Keys of a set of problems, and those that a further one has besides."""
    return [*Source.model_fields, *(key for key in HeldOut.model_fields if key not in Source.model_fields)]


def test_the_reference_describes_every_key_in_the_order_of_the_file() -> None:
    text = job_docs().partition("## Top level")[2]
    described = re.findall(r"^\| \[?`(\w+)`.* \| (.*) \|$", text, re.MULTILINE)
    expected = list(Job.file_fields())
    expected += [*PRESETS, *Row.model_fields]
    for field in Job.file_fields().values():
        if (section := model_of(field.annotation)) is not None:
            expected += list(section.file_fields())
            expected += _sets() if section is Data else []
            expected += list(BELOW[section][1].file_fields()) if section in BELOW else []
    assert [name for name, _ in described] == expected
    assert all(meaning for _, meaning in described), "a key without a docstring"
    assert all(f"`{key}`" in job_docs() for key in executing_keys(Job))


def test_the_reference_begins_with_two_dozen_keys_that_most_jobs_need() -> None:
    text, _, rest = job_docs().partition("## Starting it")
    assert re.findall(r"^\| \[`([\w.]+)`\]\(#[\w-]+\) \|", text, re.M) == [*ESSENTIAL] and len(ESSENTIAL) == 24
    assert "## Top level" in rest


def test_the_example_of_the_reference_is_a_job(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    assert resolved_yaml(load_job(path).job) in job_docs()


def test_every_command_teaches_by_examples_that_can_be_given() -> None:
    for name, command_ in commands().items():
        _, *examples = command_.epilog.split("\n\n")
        assert examples
        for example in examples:
            typed, _, _ = example.partition(" > ")
            ratchet_, given, *arguments = shlex.split(typed)
            assert (ratchet_, given) == ("ratchet", name)
            command_.make_context(name, arguments)  # raises where it knows no such option


def test_the_version_is_told_in_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("--version") == ratchet("version") == 0
    assert capsys.readouterr().out == f"ratchet {__version__}\n{__version__}\n"


def test_a_shell_completes_commands() -> None:
    asked = {"_RATCHET_COMPLETE": "complete_bash", "COMP_WORDS": "ratchet res", "COMP_CWORD": "1"}
    program = Path(sys.executable).with_name("ratchet")
    found = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["resume", "rescore"]


ON_THIS_MACHINE = (
    "generate.dtype own, generate.engines 1, generate.tensor_parallel 1, train.ranks 1, train.zero 1, "
    "train.tokens_per_microbatch 4096, train.activation_checkpointing false on this machine, with no GPU"
)


def test_validate_prints_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_job = make_project(tmp_path, data={"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl"})
    assert ratchet("validate", main_job) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines() == [
        f"valid     {main_job}",
        f"model     {tmp_path / 'seed'}",
        "problems  20 train, 16 gate, 16 test",
        f"settings  {ON_THIS_MACHINE}",
        f"prompt    not looked at: {tmp_path / 'seed'} has no tokenizer",
        f"run       {tmp_path / 'run'}",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_setting_that_nothing_reads_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    job = make_project(tmp_path, data={"train": "train.jsonl", "gate": "gate.jsonl", "test": "test.jsonl"})
    stop = ["model=nowhere"] if command == "run" else []  # it is told before anything is begun
    assert ratchet(command, job, "steps.rollouts=3", *stop) == (2 if stop else 0)
    assert "no effect `steps`: read only with `source: steps`" in capsys.readouterr().out.splitlines()


def test_validate_resolved_prints_nothing_but_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_project(tmp_path)
    assert ratchet("validate", job, "train.zero=2", "--resolved") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    assert resolved == load_job(job, ["train.zero=2"]).job.model_dump(mode="json")


@pytest.mark.parametrize(
    "arguments", [[], ["nosuch"], ["--nosuch"], ["run"], ["run", "{job}", "--nosuch"], ["status", "a", "b"]]
)
def test_unknown_commands_and_options_are_bad_input(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    job = str(make_project(tmp_path))
    assert ratchet(*(argument.format(job=job) for argument in arguments)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_mistake_in_a_job_is_told_on_stderr_without_a_traceback(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ratchet(command, make_project(tmp_path), "train.zero=7") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "ratchet: override 'train.zero=7': must be a whole number from 0 to 3, or null (it is 7)\n"


def test_names_that_no_file_system_takes_are_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()  # where there is none, no name in it is looked at
    job, long = make_project(tmp_path), "x" * 300
    assert ratchet("validate", job, 'run_dir="a\\0b"') == 2
    assert "run_dir: 'a\\x00b' is no path: it has a null character in it" in capsys.readouterr().err
    for key, *arguments in (
        ("run_dir: ", "validate", job, f"run_dir={long}"),
        ("data.train: ", "validate", job, f"data.train={long}"),
        ("data.gate: ", "validate", job, f"data.gate.path=below/{long}/gate.jsonl"),
        ("model: ", "validate", job, f"model={long}"),
        ("model: ", "validate", job, f"model=run:{long}"),
        ("reference: ", "validate", job, f"reference={long}"),
        ("archive: ", "validate", job, f"archive={tmp_path}/{long}"),
        ("override 'method=", "validate", job, f"method={long}.yaml#mine"),
        ("", "status", long),
        ("", "compare", f"{long}.yaml"),
    ):
        assert ratchet(*arguments) == 2
        said = capsys.readouterr().err
        assert key in said and "File name too long" in said and said.count("\n") == 1, said


@pytest.mark.parametrize("command", ["validate", "run"])
def test_an_address_is_no_folder_for_a_run_and_an_unknown_one_is_told_with_the_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    job = make_project(tmp_path)
    for folder in ("run:x", "s3://bucket/x"):
        assert ratchet(command, job, f"run_dir={folder}") == 2
        assert f"run_dir: '{folder}' is no folder" in capsys.readouterr().err
    assert ratchet(command, job, "archive=nosuch://x") == 2
    assert f"{job}: archive: nosuch://x: fsspec knows no addresses" in capsys.readouterr().err
    assert not list(tmp_path.glob("*:*"))


@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_place_where_no_folder_can_be_made_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    job = make_project(tmp_path)
    for place, said in (
        ("/dev/null", "/dev/null: a run needs a folder, and this is a pipe or device"),
        (job, f"{job}: a run needs a folder, and this is a file"),
        (job / "x/run", f"{job}/x/run: a run needs a folder, and {job} is none"),
    ):
        assert ratchet(command, job, f"run_dir={place}") == 2
        assert said in capsys.readouterr().err


def test_a_run_inside_rays_copy_of_the_project_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_1/runs/tiny"
    assert ratchet("validate", make_project(tmp_path), f"run_dir={copy}") == 2
    assert "would be lost with it. Set RATCHET_HOME" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["inner", "rounds/01/checkpoint/inner"])
def test_a_run_inside_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    job = make_project(tmp_path, rounds=1)
    run_job(job, StandIns())
    for given in (["validate", job], ["run", job], ["rescore", tmp_path / "run"]):
        place = tmp_path / "run" / where
        more = [place, "grade.strict=false"] if given[0] == "rescore" else ["name=other", f"run_dir={place}"]
        assert ratchet(*given, *more) == 2
        assert f"{place}: lies in the run " in capsys.readouterr().err
        assert not place.exists()


def test_a_run_beside_another_is_named_from_within_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    monkeypatch.chdir(tmp_path / "run")
    assert ratchet("fork", ".", "../other") == 0 and (tmp_path / "other/job.yaml").is_file()


def test_the_command_that_goes_on_takes_a_name_for_no_option() -> None:
    assert command(Path("-x")) == "ratchet resume ./-x" and command(Path("a b")) == "ratchet resume 'a b'"


FORGED = "x\nfinished; the report is /home/me/report.md"


@pytest.mark.parametrize(
    "arguments",
    [
        *([name, FORGED] for name in ("status", "verify", "gc", "resume", "run", "validate", "compare", "doctor")),
        ["fork", FORGED, "new"],
        ["rescore", FORGED, "new"],
        ["grade", FORGED, "--grader", "exact", "-o", "out.jsonl"],
        ["validate", "tiny.yaml", f"model={FORGED}"],
        ["validate", "tiny.yaml", f"name={FORGED}"],
        ["validate", "tiny.yaml", f"{FORGED}=1"],
        ["grade", "gate.jsonl", "--grader", "exact", "-o", f"{FORGED}/no.txt"],
        ["grade", f"folder/{'x' * 300}{FORGED}", "--grader", "exact", "-o", "out.jsonl"],
    ],
)
def test_no_text_of_a_name_begins_a_line_of_an_error(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert ratchet(*arguments) in (1, 2)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    begun = [line for line in (out + err).splitlines() if line.lstrip().startswith("finished")]
    assert all(line.startswith(" " * len("ratchet: ")) for line in begun), err
    assert err.startswith("ratchet: ") and not any(line.startswith("finished") for line in err.splitlines())


@pytest.mark.parametrize(("end", "goes_on"), [("failed", True), ("interrupted", True), ("finished", False)])
def test_a_run_that_can_go_on_says_how(
    tmp_path: Path, end: str, goes_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SampleRun(tmp_path / "run")
    run.claim()
    run.configure()
    run.end(end)
    assert ratchet("status", run.root) == 0
    assert (f"to go on: ratchet resume {run.root}" in capsys.readouterr().out) == goes_on


def test_a_line_feed_in_a_name_of_a_file_begins_no_line_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file that lies in a folder from somebody else, and was not named by the user."""
    run = tmp_path / "run"
    (run / "ledger").mkdir(parents=True)
    (run / "ledger/00000000.json").symlink_to(FORGED)
    assert ratchet("status", run) == 1
    assert all(line.startswith(("ratchet: ", " " * 9)) for line in capsys.readouterr().err.splitlines())


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """As another user, where the tests are root's, whom no folder is closed to."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(("closed", "mode"), [(".", 0), ("ledger", 0), ("ledger", 0o744)])  # of that, names are seen
def test_a_run_that_may_not_be_looked_into_has_one_message(
    closed: str, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (["status"], ["status", "--json"], ["verify"], ["gc"], ["gc", "--dry-run"], ["fork"], ["resume"])
    commands += (["report"], ["inspect"], ["archive"])
    with tempfile.TemporaryDirectory() as name:
        folder, run = Path(name), Path(name, "run")
        two_rounds(run)
        folder.chmod(0o755)
        new = {"fork": [folder / "new"], "archive": [folder / "archive"]}
        everything = [[command, run, *new.get(command, []), *more] for command, *more in commands]
        for words in everything:  # what a command imports is then there
            ratchet(*words)
        capsys.readouterr()
        (run / closed).chmod(mode)
        try:
            for words in everything:
                with without_rights():
                    code = ratchet(*words)
                said = capsys.readouterr().err
                assert (code, said.count("\n")) == (2, 1) and "Permission denied" in said, (words, said)
                assert f"{run if closed == '.' else run / closed} belongs to " in said.replace(
                    ": it ", f": {run / closed} "
                )
                assert "and is closed to you, " in said
        finally:
            (run / closed).chmod(0o755)


def test_a_run_that_may_not_be_looked_into_is_listed_as_closed(capsys: pytest.CaptureFixture[str]) -> None:
    """And not as damaged, which nobody can know."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        two_rounds(folder / "open")
        for closed in ("run", "ledger", "ledger/00000003.json"):
            two_rounds(folder / closed.replace("/", "-") / "run")
            ratchet("list", folder)
            (folder / closed.replace("/", "-") / "run" / closed.removeprefix("run")).chmod(0)
        capsys.readouterr()
        with without_rights():
            assert ratchet("list", folder, "--json") == 0
            listed = {run["name"]: run for run in json.loads(capsys.readouterr().out)["runs"]}
            assert ratchet("list", folder) == 0
        said = capsys.readouterr().out
        assert listed.pop("open")["state"] == "finished" and len(listed) == 3
        for run in listed.values():
            assert run["state"] == "closed" and run["damage"] is None
            assert " belongs to " in run["closed"] and run["closed"] in said.replace("\n", " ")
        for path in folder.rglob("run"):
            path.chmod(0o755)


def test_a_record_that_may_not_be_read_is_told_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is made of the others without it: its files are no strays, and what is counted by it is not wrong."""
    with tempfile.TemporaryDirectory() as name:
        (run := Path(name, "run")).parent.chmod(0o755)
        two_rounds(run)
        for command in ("verify", "status"):  # what they import is then there
            ratchet(command, run)
        capsys.readouterr()
        for record in (run / "ledger").glob("*.json"):
            record.chmod(0)
            for command in ("verify", "status"):
                with without_rights():
                    code = ratchet(command, run)
                said = capsys.readouterr()
                assert (code, said.out, said.err.count("\n")) == (2, "", 1)
                assert f"{record}: this ledger record cannot be read (Permission denied: it belongs to " in said.err
            record.chmod(0o644)


SHORT = """
import resource, sys
from pathlib import Path
import orchestrator.commands.grade.command
from orchestrator.cli import main

has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (has + (32 << 20), resource.getrlimit(resource.RLIMIT_DATA)[1]))
main(["grade", sys.argv[1], "-o", sys.argv[1] + ".jsonl", "--processes", "1"])
"""


THREADLESS = """
import resource, sys, threading
from pathlib import Path
from orchestrator.cli import main

has = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (has + (1 << 29), resource.getrlimit(resource.RLIMIT_DATA)[1]))
threading.stack_size(1 << 30)
main(["run", sys.argv[1]])
"""


def test_no_room_for_a_thread_is_told_in_a_line(tmp_path: Path) -> None:
    """As where a user may have no more of them, which root always may."""
    given = [sys.executable, "-c", THREADLESS, str(make_project(tmp_path))]
    done = subprocess.run(given, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("ratchet: no more threads may be started: end some processes, or let there be more")


def test_too_little_memory_is_told_in_a_line(tmp_path: Path) -> None:
    """A list of rows is read as a whole; here it is larger than what the process may have."""
    (tmp_path / "rows.json").write_text(json.dumps([{"gold": "1", "text": "x" * 2**26}]))
    given = [sys.executable, "-c", SHORT, str(tmp_path / "rows.json")]
    done = subprocess.run(given, capture_output=True, text=True, cwd=PROJECT)
    cure = "free some, or let it have more (`ulimit -v`)"
    assert (done.returncode, done.stderr) == (1, f"ratchet: too little memory for this command: {cure}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["rows.json"]


AT_THE_LIMIT = """
import resource, sys
from pathlib import Path
from orchestrator.cli import app, main

@app.command()
def fails() -> None:
    column, kind = (0, resource.RLIMIT_AS) if sys.argv[1] == "addresses" else (5, resource.RLIMIT_DATA)
    has = int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()
    if sys.argv[2] == "near":
        resource.setrlimit(kind, (has + (8 << 20), resource.getrlimit(kind)[1]))
    else:
        resource.setrlimit(kind, (has + (64 << 20), resource.getrlimit(kind)[1]))
    raise {
        "another": TypeError("Got unexpected argument type <class 'int'> for compute function"),
        "library": ImportError("libarrow.so.2500: failed to map segment from shared object"),
    }[sys.argv[3]]

main(["fails"])
"""


@pytest.mark.parametrize(
    ("limited", "left", "error", "told"),
    [
        ("addresses", "near", "another", True),
        ("data", "near", "another", True),
        ("addresses", "far", "another", False),
        ("addresses", "far", "library", True),
    ],
)
def test_what_libraries_make_of_too_little_memory_is_told_in_a_line(
    limited: str, left: str, error: str, told: bool
) -> None:
    """An error that says nothing of memory is one of it where next to none is left, and else a bug."""
    given = [sys.executable, "-c", AT_THE_LIMIT, limited, left, error]
    done = subprocess.run(given, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1
    assert done.stderr.startswith("ratchet: too little memory for this command: free some") == told, done.stderr
    assert ("Traceback" in done.stderr) != told


@pytest.mark.parametrize("home", ["file", "rest of a path", "not text"])
def test_completion_that_cannot_be_installed_is_told_in_a_line(tmp_path: Path, home: str) -> None:
    at = {"file": tmp_path / "file", "rest of a path": tmp_path / "file/home", "not text": tmp_path}[home]
    (tmp_path / "file").write_text("")
    (tmp_path / ".bashrc").write_bytes(b"\xff\xfe")
    given = [sys.executable, "-m", "orchestrator", "--install-completion"]
    setting = {"HOME": str(at), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([*given, "bash"], env=os.environ | setting, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("ratchet: --install-completion: ") and "HOME" in done.stderr
