"""The worked examples of docs/adding.md are done in a copy of the project, and their commands run there: a block that
has become wrong fails here. The quick tests do all of them in one copy, the full ones each in its own."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.test_house import PROJECT, too_long

DOCUMENT = PROJECT / "docs/adding.md"
COPIED = ("orchestrator", "workers", "tests", "benchmarks", "jobs", "docs", "pyproject.toml")
SECTIONS = ("A grader", "A loss", "A metric of updates", "A setting", "An executing setting", "A method", "A source")


@dataclass(frozen=True)
class Block:
    """A fenced block. `python` and `yaml` are new files, a `diff` changes one, and `sh` are commands."""

    language: str
    text: str
    file: str = ""
    """The file that the line before the block names: `path`: ..."""


def blocks(section: str) -> Iterator[Block]:
    """The blocks of a section, in order."""
    fence = re.compile(r"(?:^`(?P<file>[^`\n]+)`:[^\n]*\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
    for found in fence.finditer(section):
        yield Block(found["language"], found["text"], found["file"] or "")


def sections() -> dict[str, list[Block]]:
    """The blocks of docs/adding.md by the heading that they stand under."""
    _, *parts = re.split(r"^## (.+)\n", DOCUMENT.read_text(), flags=re.M)
    found = {title: list(blocks(text)) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: those for title, those in found.items() if those}


def change(text: str, diff: str) -> str:
    """A text after a diff, whose hunks stand between lines of `@@` and have no line numbers.

    Raises:
        ValueError: what a hunk is to take the place of stands there more than once, or not at all.
    """
    for hunk in re.split(r"^@@\n", diff, flags=re.M):
        lines = [line if line.strip() else " \n" for line in hunk.splitlines(keepends=True)]
        before, after = ("".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        if text.count(before) != 1:
            raise ValueError(f"it stands there {text.count(before)} times, and should once:\n{before}")
        text = text.replace(before, after)
    return text


def do(block: Block, root: Path) -> None:
    """Do what a block says, in a copy of the project."""
    if block.language == "sh":
        run(block.text, root)
        return
    file = root / block.file
    if block.language == "diff":
        file.write_text(change(file.read_text(), block.text))
    else:
        assert block.language in ("python", "yaml") and block.file and not file.exists(), block
        file.write_text(block.text)


def run(commands: str, root: Path) -> None:
    """Run commands as in a shell; the first that fails fails the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RATCHET_HOME"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"PYTHONPATH": str(root), "PATH": path}
    done = subprocess.run(["bash", "-ex", "-c", commands], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    left = shutil.ignore_patterns("faults", "real", "runs", "*.svg")  # compiled files are as good there
    for name in COPIED:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, tmp_path / name, symlinks=True, ignore=left)
        else:
            shutil.copyfile(PROJECT / name, tmp_path / name)
    return tmp_path


def once(blocks: Iterable[Block]) -> str:
    """The commands of blocks, each line once; one pytest does what several do, whose test files and choices of tests
    (`-k`) are put together."""
    lines = [line for block in blocks for line in block.text.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if not line.startswith("pytest ")]
    chosen: dict[bool, list[argparse.Namespace]] = {}
    parser = argparse.ArgumentParser()
    parser.add_argument("-q", action="store_true", required=True)
    parser.add_argument("-k")
    parser.add_argument("files", nargs="+")
    for line in lines:
        if line.startswith("pytest "):
            said = parser.parse_args(shlex.split(line)[1:])
            chosen.setdefault(said.k is None, []).append(said)
    for whole, all_said in chosen.items():
        files = dict.fromkeys(file for said in all_said for file in said.files)
        choice = "" if whole else f"-k {shlex.quote(' or '.join(f'({said.k})' for said in all_said))}"
        commands.append(f"pytest -q {' '.join(files)} {choice}")
    return "\n".join(dict.fromkeys(commands))


def require_fine(blocks: Iterable[Block], root: Path) -> None:
    """Look at the style of files that blocks have made or changed."""
    changed = sorted({block.file for block in blocks if block.file.endswith(".py")})
    run(f"ruff check {' '.join(changed)}\nruff format --check {' '.join(changed)}", root)
    measured = [file for file in changed if file.startswith(("orchestrator/", "workers/"))]
    assert not [long for file in measured for long in too_long(file, (root / file).read_text())]


def test_all_examples_fit_the_code(copy: Path) -> None:
    """Together, and in good style. Their own commands take a minute: see below."""
    blocks = [block for example in sections().values() for block in example]
    for block in blocks:
        if block.language != "sh":
            do(block, copy)
    run("python -m orchestrator docs", copy)
    require_fine(blocks, copy)


@pytest.mark.full
def test_what_all_examples_add_works(copy: Path) -> None:
    blocks = [block for example in sections().values() for block in example]
    for block in blocks:
        if block.language != "sh":
            do(block, copy)
    run(once(block for block in blocks if block.language == "sh"), copy)


@pytest.mark.full
@pytest.mark.parametrize("title", SECTIONS)
def test_what_an_example_adds_works(title: str, copy: Path) -> None:
    example = sections()[title]
    for block in example:
        do(block, copy)
    require_fine(example, copy)


def test_commands_are_put_together_without_leaving_one_out() -> None:
    texts = ["ratchet docs\npytest -q a b \\\n    -k 'x or y'\n", "ratchet docs\npytest -q c\n", "pytest -q b d -k z\n"]
    put = once(Block("sh", text) for text in texts)
    assert put.splitlines() == ["ratchet docs", "pytest -q a b d -k '(x or y) or (z)'", "pytest -q c "]
    with pytest.raises(SystemExit):  # nothing is dropped that is not understood
        once([Block("sh", "pytest -q a --deselect b\n")])


@pytest.mark.full
def test_all_together_have_their_types_and_keep_the_contracts(copy: Path) -> None:
    for block in (block for example in sections().values() for block in example if block.language != "sh"):
        do(block, copy)
    run("ruff check .\nmypy\nlint-imports", copy)


def test_every_example_is_done() -> None:
    assert tuple(sections()) == SECTIONS
    for example in sections().values():
        assert any(block.language == "sh" and "pytest" in block.text for block in example)
    assert DOCUMENT.read_text().count("\n```") == 2 * sum(len(found) for found in sections().values())


def test_a_block_that_has_become_wrong_is_found(tmp_path: Path) -> None:
    assert change("a\nb\nc\n", " a\n-b\n+B\n@@\n c\n+d\n") == "a\nB\nc\nd\n"
    for diff in (" a\n-x\n+y\n", "-b\n+c\n@@\n c\n+d\n"):  # one place that is not there, one that is there twice
        with pytest.raises(ValueError, match="and should once"):
            change("a\nb\nc\n", diff)
    (tmp_path / "there.py").touch()
    for block in (Block("python", "", "there.py"), Block("python", ""), Block("text", "", "new"), Block("sh", "false")):
        with pytest.raises(AssertionError):
            do(block, tmp_path)
