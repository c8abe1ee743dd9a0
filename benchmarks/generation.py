"""Generation: the product's generator beside the raw engine, on the same prompts and seeds, in one run.

    python benchmarks/generation.py [--model jobs/demo/seed] [--prompts 300] [--samples 8] [--repeats 5] [--json]

Both use one vLLM engine of the same settings in this process. The raw engine is given all requests at
once; the generator gets them as a round does, in shards of 32 prompts, three in flight, and also writes
its Parquet files. Without arguments it uses the demo's model and prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workers.generation.vllm import VLLM, VllmEngine, _parameters, _prompt

os.environ |= {**VLLM.environment, "VLLM_LOGGING_LEVEL": "ERROR"}

import pyarrow as pa
from transformers import AutoTokenizer

from orchestrator.config import Generate
from orchestrator.records.rows import PROMPTS, SamplingPlan, Shard
from workers.files import write_table

ROOT = Path(__file__).parent.parent
SHARD = 32
IN_FLIGHT = 3


def write_prompts(model: str, count: int, file: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in (ROOT / "jobs/demo/train.jsonl").read_text().splitlines()[:count]]
    texts = [row["question"] + "\n" for row in rows]
    ids = tokenizer(texts)["input_ids"]
    nothing = [None] * len(rows)
    columns = [[r["id"] for r in rows], texts, ids, nothing, [r["answer"] for r in rows], nothing, nothing]
    write_table(pa.table(columns, schema=PROMPTS), file)
    return list(ids)


def raw(generator: VllmEngine, prompts: list[list[int]], ids: list[str], plan: SamplingPlan) -> tuple[int, float]:
    """Tokens and seconds of the bare engine: add everything, step until done."""
    engine = generator._stepper.engine
    assert engine is not None
    started = time.perf_counter()
    for number, token_ids in enumerate(prompts):
        for index in range(plan.samples):
            engine.add_request(f"{number}-{index}", _prompt(token_ids), _parameters(plan, ids[number], index))
    tokens = 0
    while engine.has_unfinished_requests():
        tokens += sum(len(o.outputs[0].token_ids) for o in engine.step() if o.finished)
    return tokens, time.perf_counter() - started


def ours(generator: VllmEngine, source: Path, count: int, plan: SamplingPlan, folder: Path) -> tuple[int, float]:
    starts = range(0, count, SHARD)
    shards = [Shard(i, str(source), s, min(s + SHARD, count), str(folder / f"{i}")) for i, s in enumerate(starts)]
    started = time.perf_counter()
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        tokens = sum(facts["tokens"] for facts in threads.map(lambda s: generator.generate(s, plan), shards))
    return tokens, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(ROOT / "jobs/demo/seed"))
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = Generate(max_model_len=256, engine={"dtype": "float32"})
    # The engine's own thread waits for requests while the raw loop steps the engine from this one.
    generator = VllmEngine(arguments.model, settings, seed=0, accelerated=False)
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = write_prompts(arguments.model, arguments.prompts, folder / "prompts.parquet")
        ids = [str(number) for number in range(len(prompts))]
        for repeat in range(arguments.repeats + 1):
            plan = SamplingPlan(arguments.samples, 1.0, 1.0, 0, arguments.max_tokens, (), seed=repeat)
            results = {
                "raw": raw(generator, prompts, ids, plan),
                "ours": ours(generator, folder / "prompts.parquet", len(prompts), plan, folder),
            }
            if repeat:  # the first one warms up
                for kind, (tokens, seconds) in results.items():
                    rates[kind].append(tokens / seconds)
    ratios = [o / r for o, r in zip(rates["ours"], rates["raw"], strict=True)]
    result = {
        "model": Path(arguments.model).name,
        "cores": os.cpu_count(),
        "requests": len(prompts) * arguments.samples,
        "raw_tokens_per_second": round(statistics.median(rates["raw"])),
        "ours_tokens_per_second": round(statistics.median(rates["ours"])),
        "ratio": round(statistics.median(ratios), 3),
    }
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:24} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
