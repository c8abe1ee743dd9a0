"""The cards of what is taken away, in Markdown with the Hub's front matter. Names and texts of a run may be anybody's:
they stand there as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.commands.export.names import Names, last_part
from orchestrator.config.methods import PRESETS
from orchestrator.config.sources import kind_of
from orchestrator.reports.inspection.checkpoints import checkpoint
from orchestrator.reports.inspection.reading import RunReader
from orchestrator.reports.inspection.views import Document
from orchestrator.reports.tables import round_step
from orchestrator.text.counts import bracketed, with_replayed
from orchestrator.text.shown import code, markdown, text

_LOAD = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
```

Inference engines take the folder as it is."""


_ADAPTER = """\
These are merged weights. `adapter/` has the low-rank adapter by which they differ from its base, for
`peft.PeftModel.from_pretrained(base, "FOLDER/adapter")`; `adapter/base.json` has the sha256 of each file of that
base."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What goes with a checkpoint."""

    text: str
    """README.md."""
    made_by: Document
    """ratchet.json: run, round, lineage, figures, the job, and how prompts are made and answers drawn."""


def model_card(reader: RunReader, number: int) -> ModelCard:
    """The card of a round's checkpoint.

    Raises:
        BadInput: the round has none.
    """
    config = reader.state.configs[-1]
    job: Mapping[str, Any] = config["job"]
    lineage = [checkpoint(reader, each) for each in _lineage(reader, number)]
    names = Names(reader.state)
    base = {"name": names.base, "digest": config.get("model_digest"), **names.origin}
    baseline = reader.state.commits.get("baseline/evaluation")
    made_by = {
        "run": job["name"],
        "run_id": config.get("run_id"),
        "round": number,
        "base_model": base,
        "lineage": [{key: each[key] for key in _KEPT} | _reference(each, names) for each in lineage],
        "baseline": names.alone(dict(baseline.facts)) if baseline else None,
        "prompt": {key: job["data"].get(key) for key in _PROMPT},
        "decoding": _decoding(job),
        "versions": config.get("versions"),
        "job": names.published(),
    }
    parts = [
        _front_matter({**_LIBRARY, **_base_on_hub(base), "tags": ["ratchet", job["method"]]}),
        f"# {markdown(job['name'])}, round {number}",
        f"{markdown(base['name'])}, improved in {len(lineage)} round{'s' if len(lineage) > 1 else ''} of "
        f"{code(job['method'])} ({markdown(_what(job))}) by Ratchet.",
        "## Accuracy",
        _accuracies(baseline.facts if baseline else {}, lineage),
        "Greedy answers, in per cent, with 95 % intervals over the problems. The gate problems decided whether a "
        "checkpoint was promoted; the test problems decided nothing.",
        "## How it was made",
        *_rounds(lineage),
        "## Data",
        *_data(job, config),
        "## Prompt and decoding",
        "Prompts were made by this template, and the model knows no other:",
        _block(str(job["data"].get("template"))),
        f"Training samples: {code(json.dumps(_decoding(job)['training']))}. Evaluation: greedy, at most "
        f"{_decoding(job)['evaluation']['max_tokens']} tokens.",
        "## Load it",
        _LOAD,
        *([_ADAPTER] if job.get("lora") else []),
        "## Limits",
        "It was trained and measured on the problems above alone; nothing is known of it elsewhere. What its base "
        "model does wrong otherwise, it may do as well. Licences of the base model and of the data apply.",
        "`ratchet.json` beside this file has every setting, and the sha256 of each file as the run committed it.",
    ]
    return ModelCard("\n\n".join(parts) + "\n", made_by)


_LIBRARY = {"library_name": "transformers", "pipeline_tag": "text-generation"}
_CAME_FROM = ("round", "started_from", "reference", "pairs", "replayed", "training", "chosen")
_KEPT = (*_CAME_FROM, "evaluation", "promoted", "reason", "files")
_DRAWN = ("temperature", "temperature_mix", "top_p", "top_k", "max_tokens", "stop")
_PROMPT = ("template", "chat", "system", "date", "examples", "example_separator")


def dataset_card(reader: RunReader, numbers: Sequence[int]) -> str:
    """The card of the pairs of some rounds."""
    config = reader.state.configs[-1]
    job: Mapping[str, Any] = config["job"]
    configs = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]}]
    counts = {number: reader.state.commits[round_step(number, "pairs")].facts["pairs"] for number in numbers}
    rows = [f"| {number} | {count:,} | `data/round-{number:02d}*` |" for number, count in counts.items()]
    parts = [
        _front_matter({"configs": configs, "tags": ["ratchet", "preference", job["method"]]}),
        f"# Pairs of {markdown(job['name'])}",
        f"Preference pairs that Ratchet made in a run of {code(job['method'])} ({markdown(_what(job))}).",
        "\n".join(["| round | pairs | files |", "|---:|---:|---|", *rows]),
        "`prompt`, `chosen` and `rejected` are what trainers such as TRL's take: texts, or lists of messages where a "
        "chat template was used. A `rejected` that is null says that `chosen` was imitated. `chosen_sample` and "
        "`rejected_sample` number the samples of a prompt in its round, and the columns of token ids are what was "
        "trained on. Pairs with the same `group`, where there is such a column, share what is chosen, and were learned "
        "from together.",
        '```python\nfrom datasets import load_dataset\n\npairs = load_dataset("FOLDER", split="train")\n```',
        "## Data",
        *_data(job, config),
        "## Limits",
        "What is chosen was right by an automatic grader, which sees the final answer alone; how it got there may be "
        "wrong. Licences of the data and of the model that wrote the samples apply.",
    ]
    return "\n\n".join(parts) + "\n"


def _lineage(reader: RunReader, number: int) -> list[int]:
    """The rounds that a checkpoint descends from, itself last."""
    found = [number]
    while (before := checkpoint(reader, found[0])["started_from"]) != 0:
        found.insert(0, before)
    return found


def _reference(each: Document, names: Names) -> Document:
    """The round of a checkpoint's reference; of a model of its own, the name."""
    return {"reference": names.reference if isinstance(each["reference"], str) else each["reference"]}


def _base_on_hub(base: Document) -> dict[str, Any]:
    return {"base_model": base["id"]} if "id" in base else {}


def _front_matter(values: Mapping[str, Any]) -> str:
    """In JSON, which is YAML, and has no text that would end it."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---"])


def _what(job: Mapping[str, Any]) -> str:
    preset = PRESETS.get(job["method"])
    return f"{preset.what}; {preset.paper}" if preset else kind_of(job).what


def _accuracies(baseline: Mapping[str, Any], lineage: Sequence[Document]) -> str:
    rows = [("base model", baseline), *((f"round {each['round']}", each["evaluation"]) for each in lineage)]
    lines = ["| | gate | test |", "|---|---:|---:|"]
    lines += [f"| {name} | {_share(figures.get('gate'))} | {_share(figures.get('test'))} |" for name, figures in rows]
    return "\n".join(lines)


def _share(figures: Mapping[str, Any] | None) -> str:
    if not figures or "accuracy" not in figures:
        return ""
    between = f" {bracketed(figures['low'], figures['high'])}" if "low" in figures else ""
    return f"{100 * figures['accuracy']:.1f}{between}"


def _rounds(lineage: Sequence[Document]) -> Iterator[str]:
    lines = ["| round | pairs | updates | tokens | the gate |", "|---:|---:|---:|---:|---|"]
    for each in lineage:
        pairs, replayed, trained = each["pairs"] or {}, each["replayed"] or {}, each["training"] or {}
        words = ["" if value is None else f"{value:,}" for value in (trained.get("steps"), trained.get("tokens"))]
        if each["chosen"]:
            words[0] = f"{each['chosen'].get('steps', 0):,} of {words[0]}"
        counts = " | ".join([with_replayed(pairs.get("pairs"), replayed.get("pairs")), *words])
        lines.append(f"| {each['round']} | {counts} | {markdown(each['reason'] or 'not decided')} |")
    yield "\n".join(lines)


def _data(job: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Where problems came from: by name alone, since a path says more of somebody's machine than of the data."""
    lines = []
    for split in ("train", "gate", "test"):
        if source := job["data"].get(split):
            named = source.get("hub") or last_part(str(source.get("path", "")))
            part = f", {source['split']}" if source.get("split") else ""
            digest = (config.get("problems") or {}).get(split)
            lines.append(f"- {split}: {code(f'{named}{part}')}" + (f", digest {code(digest)}" if digest else ""))
    for source in (job.get("stages") or {}).get("sources") or ():
        named = source.get("hub") or last_part(str(source.get("path", "")))
        lines.append(f"- preference data: {code(named)}")
    yield "\n".join(lines) or "Not recorded."


def _decoding(job: Mapping[str, Any]) -> Document:
    """How answers were drawn: those that were trained on, and those that were counted."""
    generate = job["generate"]
    drawn = {key: generate[key] for key in _DRAWN if generate.get(key)}
    longest = (job.get("evaluate") or {}).get("max_tokens") or generate.get("max_tokens")
    return {"training": drawn, "evaluation": {"temperature": 0.0, "max_tokens": longest}}


def _block(said: str) -> str:
    """As a block of code, whatever it contains."""
    lines = text(said).split("\n")
    return "\n".join(f"    {line}" for line in lines)
