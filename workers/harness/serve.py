"""The process in which lm-evaluation-harness runs. Its first line of input is what to do; then it asks, and is
answered, by a line of JSON each, and says at last whether it is done. What the libraries print goes to its standard
error."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from orchestrator.errors import RatchetError, last_line
from orchestrator.records.harness import HARNESS, RESULTS, SAMPLES
from workers.supervision.parent import end_with_parent

_RESAMPLINGS = 1000
"""For the standard errors that the harness has no formula for."""
_KEPT = ("results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples")
"""What is written of the harness's results, as `lm_eval --output_path` does."""


class Talk:
    """The lines between this process and the driver."""

    def __init__(self, asked: IO[str], said: IO[str]) -> None:
        self._asked, self._said = asked, said

    def hear(self) -> dict[str, Any]:
        """The next line. An end of the input ends the process: nobody wants the answer any more."""
        if not (line := self._asked.readline()):
            raise SystemExit(1)
        heard: dict[str, Any] = json.loads(line)
        return heard

    def say(self, **line: Any) -> None:
        """Write a line."""
        self._said.write(json.dumps(line) + "\n")
        self._said.flush()

    def ask(self, file: str, requests: int, sampling: dict[str, Any] | None) -> list[str]:
        """Have requests answered; returns the files of the answers."""
        self.say(ask={"file": file, "requests": requests, "sampling": sampling})
        files: list[str] = self.hear()["files"]
        return files


def evaluate(request: Mapping[str, Any], talk: Talk) -> None:
    """Do what is asked for, and write what came of it into the folder `output`: the harness's results as JSON, and what
    was asked and answered (schema HARNESS).

    Raises:
        BadInput: a task cannot be done.
    """
    import lm_eval

    from workers.harness.model import EngineLM
    from workers.harness.names import refusals, task_manager

    manager = task_manager(request["tasks"], request["include_path"])
    if refused := "; ".join(refusals(manager, request["tasks"])):
        raise RatchetError(refused)
    model = EngineLM(request["model"], request["max_model_len"], Path(request["work"]), talk.ask)
    if request["chat"] and not model.tokenizer.chat_template:
        raise RatchetError("evaluate.harness.chat: the model has no chat template; set it to false")
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(request["tasks"]),
        num_fewshot=request["num_fewshot"],
        limit=request["limit"],
        apply_chat_template=request["chat"],
        task_manager=manager,
        bootstrap_iters=_RESAMPLINGS,
    )
    output = Path(request["output"])
    kept = {key: found[key] for key in _KEPT if key in found} | {"lm_eval_version": lm_eval.__version__}
    text = json.dumps(_plain(kept), indent=1, sort_keys=True)
    (output / RESULTS).write_text(text + "\n", encoding="ascii")
    _write_samples(found["samples"], output / SAMPLES)


def _write_samples(samples: Mapping[str, list[Mapping[str, Any]]], file: Path) -> None:
    from workers.files import write_table

    rows = [
        {
            "task": task,
            "doc_id": row["doc_id"],
            "filter": row["filter"],
            "prompt": _text(row["arguments"][0][0]) if row["arguments"] else "",
            "target": _text(row["target"]),
            "answers": _text(row["resps"]),
            "figures": _text({name: row[name] for name in row["metrics"]}),
        }
        for task, of_task in samples.items()
        for row in of_task
    ]
    write_table(pa.Table.from_pylist(rows, HARNESS), file, 1024)


def _text(value: Any) -> str:
    said = value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)
    return said.encode("utf-8", "replace").decode()


def _plain(value: Any) -> Any:
    """As JSON has it: what is no finite number is null, and what JSON does not know is text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):  # numpy's are among them
        return float(value) if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else str(value)


def main() -> None:
    """Be the process."""
    end_with_parent()
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    talk = Talk(os.fdopen(os.dup(0)), said)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    try:
        evaluate(talk.hear(), talk)
        talk.say(done=True)
    except RatchetError as error:
        talk.say(failed=str(error))
    except Exception as error:  # of a library or a task, in the words of which the driver ends
        traceback.print_exc()
        talk.say(failed=f"{type(error).__name__}: {last_line(error)}")


if __name__ == "__main__":
    main()
