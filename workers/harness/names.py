"""Tasks by their names, before any of them is loaded: `python -m workers.harness.names` reads a request as JSON from
its input and writes what it found. Of a task's YAML no function is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from workers.supervision.parent import end_with_parent


def task_manager(tasks: Sequence[str], include_path: str | None) -> Any:
    """The tasks that there are: those of a folder, and those of the harness, of which there are so many that they are
    read only where some are asked for."""
    from lm_eval.tasks import TaskManager

    if include_path:
        own = TaskManager(include_path=include_path, include_defaults=False)
        if all((entry := own.task_index.get(name)) and entry.kind.name == "TASK" for name in tasks):
            return own
    return TaskManager(include_path=include_path)


def refusals(manager: Any, tasks: Sequence[str]) -> Iterator[str]:
    """What speaks against some tasks, a line each: that there is none of that name, or that it runs what a model has
    written."""
    for name in tasks:
        if name not in manager.task_index:
            near = get_close_matches(name, manager.all_tasks, 3)
            hint = f"near it are {', '.join(near)}; " if near else ""
            yield f"{name}: lm-evaluation-harness has no task of that name: {hint}`lm_eval ls tasks` lists all"
        elif unsafe := next(_unsafe(manager.task_index, name, set()), None):
            part = "it" if unsafe == name else f"its task {unsafe}"
            yield f"{name}: {part} executes code that the model has written (unsafe_code); leave it out"


def _unsafe(index: Mapping[str, Any], name: str, seen: set[str]) -> Iterator[str]:
    """The names of unsafe tasks in a task, group or tag."""
    if name in seen or (entry := index.get(name)) is None:
        return
    seen.add(name)
    config = entry.cfg or {}
    if config.get("unsafe_code"):
        yield name
    parts = config.get("task", []) if entry.kind.name == "GROUP" else []
    parts = sorted(entry.tags) if entry.kind.name == "TAG" else parts if isinstance(parts, list) else [parts]
    for child in parts:
        if isinstance(child, dict) and child.get("unsafe_code"):
            yield str(child.get("task"))
        yield from _unsafe(index, child.get("task", "") if isinstance(child, dict) else child, seen)


def main() -> None:
    """Be the process."""
    end_with_parent()
    request = json.loads(sys.stdin.read())
    found = list(refusals(task_manager(request["tasks"], request["include_path"]), request["tasks"]))
    sys.stdout.write(json.dumps({"refused": found}))


if __name__ == "__main__":
    main()
