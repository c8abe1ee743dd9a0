"""How far a model is from the base model: KL(base || model), by samples that the base model has drawn itself.

Those are answers to the test problems, of `evaluate.samples`. Each model's engines score the same ones while they are
there for its evaluation: no model is loaded for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config import Job
from orchestrator.ledger.run import Facts
from orchestrator.ledger.uses import files_of
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import DRIFT
from orchestrator.rounds.context import Context, Model, engine, executed
from orchestrator.rounds.readiness import ready

MOST = 256
"""Problems whose first sample is scored."""
FILE = "base.parquet"
"""Of the base model's samples."""


def measure(context: Context, model: Model, folder: str) -> None:
    """The step `drift` of a folder, where the base model's samples say something of it; `baseline` comes first."""
    job, run, name = context.job, context.run, f"{folder}/drift"
    if not is_measured(job):
        return
    commits = run.ledger.state.commits
    drawn, prompts = (run.path(f"baseline/{step}/test.parquet") for step in ("repeated", "prompts"))
    inputs = {
        "model": model.files,
        "samples": files_of(commits["baseline/repeated"]),
        "prompts": files_of(commits["baseline/prompts"]),
        "base": files_of(commits["baseline/drift"]) if folder != "baseline" else [],
        "most": MOST,
        **engine(context.workers, job.generate),
        "executed": executed(generate=job.generate),
    }

    def work(output: Path) -> Facts:
        output.mkdir()
        facts: Facts = {"executed": {}}
        rows = list(_first_samples(drawn, prompts))
        engines, wait = ready(lambda: context.engines(model, facts["executed"]))
        said = engines.logprobs([row.pop("prompt") for row in rows], [row.pop("completion") for row in rows])[0]
        found = [row | {"logprob": logprob} for row, logprob in zip(rows, said, strict=True)]
        pq.write_table(pa.Table.from_pylist(found, DRIFT), file := output / FILE)
        base = file if folder == "baseline" else run.path(f"baseline/drift/{FILE}")
        return facts | wait.once() | facts_of(base, file)

    commit = run.step(name, inputs, work)
    if folder != "baseline":
        context.tell(folder, "drift", summary(commit.facts))


def is_measured(job: Job) -> bool:
    """Whether the base model's samples are drawn by its own probabilities, with no token left out."""
    evaluate, generate = job.evaluate, job.generate
    return bool(evaluate.samples) and (evaluate.temperature, generate.top_p, generate.top_k) == (1.0, 1.0, 0)


def _first_samples(drawn: Path, prompts: Path) -> Iterator[dict[str, Any]]:
    """The first sample of each problem, with its prompt's ids; a problem that was given up has none."""
    table = read_table(prompts, columns=["prompt_id", "token_ids"])
    ids = dict(zip(table["prompt_id"].to_pylist(), table["token_ids"].to_pylist(), strict=True))
    rows = read_table(drawn, columns=["prompt_id", "sample_index", "token_ids", "num_tokens"]).to_pylist()
    firsts = [row for row in rows if row["sample_index"] == 0 and row["num_tokens"]]
    for row in firsts[:MOST]:
        completion = row.pop("token_ids")
        yield row | {"prompt": ids[row["prompt_id"]], "completion": completion}


def facts_of(base: Path, file: Path) -> Facts:
    """From the log-probabilities that the base model and another give the same completions (schema DRIFT):
    `completions`, `completion_tokens`; `kl` and its standard error `kl_error` in nats a completion, and `kl_token`, in
    nats a token. A completion that does not fit either context is left out; of fewer than two nothing more is said.

    The mean of log p_base(y) - log p(y) over samples y of the base model is KL(base || model) without bias. By few
    samples it may be below 0.
    """
    one, two = (read_table(path).to_pylist() for path in (base, file))
    pairs = [(a["logprob"], b["logprob"], a["num_tokens"]) for a, b in zip(one, two, strict=True)]
    known = [(a - b, n) for a, b, n in pairs if a is not None and b is not None and math.isfinite(a - b)]
    tokens = sum(n for _, n in known)
    facts: Facts = {"completions": len(known), "completion_tokens": tokens}
    if len(known) < 2:
        return facts
    apart = [difference for difference, _ in known]
    error = math.sqrt(variance(apart) / len(apart))
    return facts | {"kl": fmean(apart), "kl_error": error, "kl_token": sum(apart) / tokens}


def summary(facts: Mapping[str, Any]) -> str:
    """One line for people."""
    if "kl" not in facts:
        return f"{facts['completions']} completions, too few to say how far it is from the base model"
    return (
        f"{facts['kl']:.2f} nats a completion from the base model (standard error {facts['kl_error']:.2f}), "
        f"{facts['kl_token']:.3f} a token, by {facts['completions']} of its samples"
    )
