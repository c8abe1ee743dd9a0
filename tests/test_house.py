"""The house's measures: a file has one purpose, a function is seen at once, and what is advised can be done."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.typed_commands import commands

PROJECT = Path(__file__).parent.parent
FILE, FUNCTION = 400, 60
"""Most lines of a file and of a function."""
LARGER: dict[str, str] = {}


def too_long(name: str, text: str) -> Iterator[str]:
    """What of a module has too many lines, by name."""
    if text.count("\n") > FILE:
        yield name
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    yield from (f"{name}: {f.name}" for f in functions if (f.end_lineno or f.lineno) - f.lineno >= FUNCTION)


def test_files_and_functions_are_short() -> None:
    files = sorted(file for part in ("orchestrator", "workers") for file in (PROJECT / part).rglob("*.py"))
    found = {long for file in files for long in too_long(str(file.relative_to(PROJECT)), file.read_text())}
    assert len(files) > 100 and found == LARGER.keys()


def test_what_is_too_long_is_found() -> None:
    def made(lines: int) -> str:
        return "def work() -> None:\n" + "    print()\n" * (lines - 1)

    assert list(too_long("a.py", made(FUNCTION))) == []
    assert list(too_long("a.py", made(FUNCTION + 1))) == ["a.py: work"]
    assert list(too_long("a.py", "\n" * FILE)) == []
    assert list(too_long("a.py", "\n" * (FILE + 1))) == ["a.py"]


PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unpickles(text: str) -> list[int]:
    """Lines of a module that can read a pickle: by a module for that, torch.load, or DeepSpeed's own states."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        given = {keyword.arg for keyword in node.keywords} if isinstance(node, ast.Call) else set()
        if (
            PICKLES & {name.partition(".")[0] for name in names}
            or called in ("torch.load", "load_checkpoint", "read_pickle")
            or called.endswith((".load_checkpoint", ".read_pickle"))
            or given & {"weights_only", "allow_pickle"}
        ):
            found.append(getattr(node, "lineno", 0))
    return found


def test_workers_read_no_pickles() -> None:
    files = [file for part in ("orchestrator", "workers") for file in (PROJECT / part).rglob("*.py")]
    assert {str(file): lines for file in files if (lines := unpickles(file.read_text()))} == {}
    for bad in (
        "import pickle",
        "from pickle import loads",
        "torch.load(f)",
        "e.load_checkpoint(f)",
        "f(weights_only=False)",
    ):
        assert unpickles(bad) == [1], bad


def test_every_command_that_is_named_exists() -> None:
    files = [*(PROJECT / "orchestrator").rglob("*.py"), *(PROJECT / "workers").rglob("*.py")]
    files += [*(PROJECT / "docs").rglob("*.md"), PROJECT / "README.md"]
    named = {(word, file.name) for file in files for word in re.findall(r"`ratchet ([a-z]+)", file.read_text())}
    assert len(named) > 20 and {(word, file) for word, file in named if word not in commands()} == set()


def without_docstring(modules: Mapping[str, str]) -> list[str]:
    """The public methods that need a docstring and have none, of modules by name.

    A protocol's need one: it says what every implementation keeps to. So do others that another module uses, unless
    they read themselves (one line) or do what a protocol, whose names are known here, has described.
    """
    trees = {name: ast.parse(text) for name, text in modules.items()}
    used = {
        name: {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} for name, tree in trees.items()
    }
    methods = [(name, class_, method) for name, tree in trees.items() for class_, method in public_methods(tree)]
    promised = {method.name for _, class_, method in methods if is_protocol(class_)}
    return [
        f"{name}: {class_.name}.{method.name}"
        for name, class_, method in methods
        if ast.get_docstring(method) is None
        and (is_protocol(class_) or (method.name not in promised and not reads_itself(method)))
        and (
            is_protocol(class_) or any(method.name in attributes for other, attributes in used.items() if other != name)
        )
    ]


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_methods(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, Function]]:
    """Methods of public classes, each with its class; a protocol's properties are attributes, and left out."""
    for class_ in (node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")):
        for method in (node for node in class_.body if isinstance(node, Function)):
            attribute = is_protocol(class_) and any(ast.unparse(d) == "property" for d in method.decorator_list)
            if not method.name.startswith("_") and not attribute:
                yield class_, method


def is_protocol(class_: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0] == "Protocol" for base in class_.bases)


def reads_itself(method: Function) -> bool:
    return len(method.body) == 1 and method.body[0].lineno == method.end_lineno


def test_public_methods_have_docstrings() -> None:
    files = sorted(file for part in ("orchestrator", "workers") for file in (PROJECT / part).rglob("*.py"))
    assert without_docstring({str(file.relative_to(PROJECT)): file.read_text() for file in files}) == []


def test_a_docstring_that_is_missing_is_found() -> None:
    lines = "        x = 1\n        return x\n"
    seam = "class Seam(Protocol):\n    def kept(self): ...\n    @property\n    def count(self): ...\n"
    room = f"class Room:\n    def kept(self):\n{lines}    def used(self):\n{lines}    def own(self):\n{lines}"
    room += "    def short(self):\n        return 1\n"
    user = "room.kept(), room.used(), room.short(), room.count"
    assert without_docstring({"a": seam, "b": room, "c": user}) == ["a: Seam.kept", "b: Room.used"]
    described = room.replace("used(self):\n", 'used(self):\n        """Said."""\n')
    assert without_docstring({"b": described, "c": user}) == ["b: Room.kept"]


def test_job_files_are_executable() -> None:
    files = sorted(file for file in (PROJECT / "jobs").rglob("*.y*ml") if file.name != "methods.yaml")
    assert len(files) > 10 and [file.name for file in files if not file.stat().st_mode & 0o100] == []


def test_hooks_before_a_commit_run_tools_of_the_environment_on_files_that_exist() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    tools = {*settings["project"]["optional-dependencies"]["dev"], "python", "lint-imports"}
    (repository,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local" and len(repository["hooks"]) >= 6
    for hook in repository["hooks"]:
        tool, *words = hook["entry"].split()
        assert hook["language"] == "system" and tool.startswith(".venv/bin/") and Path(tool).name in tools
        assert [word for word in words if "/" in word and not (PROJECT / word).exists()] == []


def test_the_hosted_workflow_calls_the_gate_with_few_rights_and_fixed_actions() -> None:
    text = (PROJECT / ".github/workflows/ci.yml").read_text()
    workflow = yaml.safe_load(text)
    steps: list[dict[str, Any]] = workflow["jobs"]["gate"]["steps"]
    assert workflow["permissions"] == {"contents": "read"} and "secrets." not in text
    actions = [step["uses"] for step in steps if "uses" in step]
    assert actions and [action for action in actions if not re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)] == []
    assert steps[-1]["run"] == ".ci/run" and (PROJECT / ".ci/run").stat().st_mode & 0o100


SAY_WHICH_ENGINE = {
    "orchestrator/config/engines.py": "which of its arguments only execute, and what the job has keys for",
    "orchestrator/config/sampling.py": "a user must know whose arguments `generate.engine` takes",
    "orchestrator/driver/wiring.py": "the one that runs use",
}


def test_nothing_outside_its_package_says_which_engine_generates() -> None:
    files = [file for part in ("orchestrator", "workers") for file in (PROJECT / part).rglob("*.py")]
    lines = [(str(f.relative_to(PROJECT)), line) for f in files for line in f.read_text().splitlines()]
    said = [name for name, line in lines if "vllm" in line.lower() and not name.startswith("workers/generation/")]
    assert set(said) == set(SAY_WHICH_ENGINE), "in these, and in no other"
