"""Generation: the product's generator beside vLLM's `LLM.generate`, on the same prompts and seeds, in one run.

    python -m benchmarks.generation [--model jobs/demo/base] [--prompts 300] [--samples 8] [--repeats 5]
        [--beside llm | engine_seeds | two_engines] [--device cuda] [--json]

Each has a vLLM engine of the same settings in a process of its own, as engines have in a run, and they take turns.
`LLM.generate` is given all requests at once; the generator gets them as a round does, in shards of 32 prompts, as many
in flight as a pool gives one engine, and also writes its Parquet files. Without arguments it uses the demo's model and
prompts. What it is laid beside may also be the generator itself: with one seed an engine instead of one a sample
(`generate.seeding: engine`), or as two engines that have half the cores and half the prompts each.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from workers.generation.dispatch import AHEAD, LEAST_CALLS, SEQUENCES
from workers.generation.shard import sample_seed
from workers.generation.vllm import VLLM, VllmEngine, engine_arguments

os.environ |= {**VLLM.environment, "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as engines of a run have it; else CPU seconds count threads that wait

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measured import report
from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.files import write_table

ROOT = Path(__file__).parent.parent
SHARD = 32
MAX_MODEL_LEN = 256
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}


Work = Callable[[SamplingPlan], int]
"""Samples all prompts; returns the number of tokens."""


class Side(NamedTuple):
    """What takes its turn."""

    start: Callable[..., Work]
    engines: int = 1
    """Processes, which share cores and prompts."""
    seeding: Literal["sample", "engine"] = "sample"


class Pass(NamedTuple):
    """What one side did with all requests."""

    tokens: int
    seconds: float
    cpu_seconds: float
    """Of all the process's threads, those that wait for others by turning among them."""


def write_prompts(model: str, count: int, files: Sequence[Path]) -> None:
    """The demo's first prompts, as a run writes them, shared out among files."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in (ROOT / "jobs/demo/train.jsonl").read_text().splitlines()[:count]]
    for place, file in enumerate(files):
        part = rows[place :: len(files)]
        texts, answers, nothing = (
            [row["question"] + "\n" for row in part],
            [row["answer"] for row in part],
            [None] * len(part),
        )
        columns = [
            [row["id"] for row in part],
            texts,
            tokenizer(texts)["input_ids"],
            nothing,
            answers,
            nothing,
            nothing,
        ]
        write_table(pa.table(columns, schema=PROMPTS), file)


def llm(model: str, settings: Generate, accelerated: bool, prompts: Path, folder: Path) -> Work:
    """vLLM's own `LLM.generate`, which is given all requests at once."""
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(**engine_arguments(model, settings, 0, accelerated, settings.dtype))
    rows = pq.read_table(prompts, columns=["prompt_id", "token_ids"]).to_pylist()
    asked = [(row["prompt_id"], TokensPrompt(prompt_token_ids=row["token_ids"])) for row in rows]

    def work(plan: SamplingPlan) -> int:
        common = {"temperature": plan.temperature, "top_p": plan.top_p, "top_k": plan.top_k}
        requests = [
            (prompt, SamplingParams(**common, max_tokens=plan.max_tokens, seed=sample_seed(plan.seed, name, index)))
            for name, prompt in asked
            for index in range(plan.samples)
        ]
        outputs = engine.generate([prompt for prompt, _ in requests], [given for _, given in requests], use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return work


def ours(model: str, settings: Generate, accelerated: bool, prompts: Path, folder: Path) -> Work:
    """The generator, which gets its shards as a run's pool gives them."""
    generator = VllmEngine(model, settings, seed=0, accelerated=accelerated)
    count = pq.read_metadata(prompts).num_rows
    starts = range(0, count, SHARD)
    shards = [Shard(i, str(prompts), s, min(s + SHARD, count), str(folder / f"{i}")) for i, s in enumerate(starts)]

    def work(plan: SamplingPlan) -> int:
        with ThreadPoolExecutor(in_flight(SHARD * plan.samples)) as threads:
            return sum(facts["tokens"] for facts in threads.map(lambda s: generator.generate(s, plan), shards))

    return work


def in_flight(samples: int) -> int:
    """How many units of so many samples `dispatch.Sampling` gives an engine at once, before it tells how far it is."""
    return max(LEAST_CALLS, math.ceil(AHEAD * SEQUENCES / samples))


OURS = "ours"
SIDES = {
    OURS: Side(ours),
    "llm": Side(llm),
    "engine_seeds": Side(ours, seeding="engine"),
    "two_engines": Side(ours, engines=2),
}


def serve(side: str, line: Connection, *given: Any) -> None:
    """One engine of a side in its process: starts, says so, and answers each plan with what it took."""
    work = SIDES[side].start(*given)
    line.send("ready")
    while (plan := line.recv()) is not None:
        began, cpu = time.perf_counter(), time.process_time()
        tokens = work(plan)
        line.send(Pass(tokens, time.perf_counter() - began, time.process_time() - cpu))
    os._exit(0)  # the engine's own thread never ends


def hire(name: str, options: argparse.Namespace, settings: Generate, folder: Path) -> list[Connection]:
    """Start a side's engines, one after the other.

    Raises:
        EOFError: one cannot.
    """
    side, spawn = SIDES[name], multiprocessing.get_context("spawn")
    parts = [folder / f"{name}-{place}" for place in range(side.engines)]
    write_prompts(options.model, options.prompts, [part.with_suffix(".parquet") for part in parts])
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // side.engines))  # as a run shares them
    lines = []
    for part in parts:
        part.mkdir()
        line, theirs = spawn.Pipe()
        given = (options.model, settings, options.device == "cuda", part.with_suffix(".parquet"), part)
        spawn.Process(target=serve, args=(name, theirs, *given), daemon=True).start()
        theirs.close()
        line.recv()
        lines.append(line)
    return lines


def turn(lines: Sequence[Connection], plan: SamplingPlan) -> Pass:
    """What all engines of a side did together."""
    began = time.perf_counter()
    for line in lines:
        line.send(plan)
    done: list[Pass] = [line.recv() for line in lines]
    seconds = time.perf_counter() - began
    return Pass(sum(one.tokens for one in done), seconds, sum(one.cpu_seconds for one in done))


def measure(options: argparse.Namespace, settings: Generate, folder: Path) -> dict[str, list[Pass]]:
    """All passes of both sides; the first of each, which warms up, is left out."""
    lines = {name: hire(name, options, settings, folder) for name in (options.beside, OURS)}
    passes: dict[str, list[Pass]] = {name: [] for name in lines}
    for repeat in range(options.repeats + 1):
        for name, side in lines.items():
            plan = SamplingPlan(
                options.samples, 1.0, 1.0, 0, options.max_tokens, (), seed=repeat, seeding=SIDES[name].seeding
            )
            passes[name].append(turn(side, plan))
    for side in lines.values():
        for line in side:
            line.send(None)
    return {name: rows[1:] for name, rows in passes.items()}


def figures(passes: dict[str, list[Pass]]) -> dict[str, Any]:
    """Medians, and those of the ratios of each turn."""

    def rates(side: str, seconds: str) -> list[float]:
        return [one.tokens / getattr(one, seconds) for one in passes[side]]

    found: dict[str, Any] = {}
    (beside,) = passes.keys() - {OURS}
    for name, seconds in (("tokens_per_second", "seconds"), ("tokens_per_cpu_second", "cpu_seconds")):
        each = {side: rates(side, seconds) for side in passes}
        ratios = [o / t for o, t in zip(each[OURS], each[beside], strict=True)]
        found[name] = {side: round(statistics.median(values)) for side, values in each.items()}
        found[name][f"{OURS}/{beside}"] = round(statistics.median(ratios), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "jobs/demo/base"))
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--beside", choices=[name for name in SIDES if name != OURS], default="llm")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # The engine's own limit, and the job's, which must leave room for a prompt.
    settings = Generate(max_model_len=MAX_MODEL_LEN, max_tokens=options.max_tokens, dtype=DTYPES[options.device])
    with tempfile.TemporaryDirectory() as name:
        found = figures(measure(options, settings, Path(name)))
    if options.json:
        told = {name: value for name, value in vars(options).items() if name != "json"}
        print(json.dumps(report("generation", told | {"model": Path(options.model).name}, found)))
        return
    print(f"{options.prompts * options.samples} requests, {Path(options.model).name}, {os.cpu_count()} cores")
    for name, row in found.items():
        print(f"{name:24}" + "".join(f"{side:>10} {value:<8}" for side, value in row.items()))


if __name__ == "__main__":
    main()
