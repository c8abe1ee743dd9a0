"""The methods: named settings of the loop's axes, each citing its paper. Whatever a job file says goes before them.

A method is a row of choices, and nothing else: no code of the loop asks for its name. What a paper leaves open, or
what depends on the model and the data, stays at the loop's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Method
from orchestrator.config.sources import Sample, form, kind_named

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Preset:
    """A method's settings, by section and key, and where they are from."""

    paper: str
    what: str
    settings: Settings


_IMITATE = {"dpo": 0.0, "nll": 1.0}
_PREFER = {"dpo": 1.0, "nll": 0.0}

PRESETS: Mapping[Method, Preset] = {
    "irpo": Preset(
        "Iterative Reasoning Preference Optimization, arXiv 2404.19733",
        "right against wrong samples of the last model, DPO and NLL",
        {
            "source": "sample",
            "init": "previous",
            "reference": "previous",
            "pairs": {"rule": "zip"},
            "loss": {"beta": 0.1, "dpo": 1.0, "nll": 1.0},
            "train": {"learning_rate": 7e-7, "batch_pairs": 16},
        },
    ),
    "sdpo": Preset(
        "sDPO: Don't Use Your Data All at Once, arXiv 2403.19270",
        "preference data in chunks, easy ones first; each stage's reference is the model of the stage before",
        {
            "source": "dataset",
            "init": "previous",
            "reference": "previous",
            "loss": {"beta": 0.1} | _PREFER,
            "train": {"learning_rate": 5e-7, "schedule": "linear", "warmup_ratio": 0.1, "batch_pairs": 32},
            "promotion": {"rule": "always"},
        },
    ),
    "step_dpo": Preset(
        "Step-DPO: Step-wise Preference Optimization, arXiv 2406.18629",
        "the first wrong step against a right one in its place",
        {
            "source": "steps",
            "rounds": 1,
            "init": "previous",
            "reference": "previous",
            "generate": {"samples": 2, "temperature": 0.8, "top_p": 0.95},
            "loss": {"beta": 0.4} | _PREFER,
            "train": {
                "learning_rate": 5e-7,
                "schedule": "cosine",
                "warmup_ratio": 0.1,
                "batch_pairs": 128,
                "epochs": 8,
                "max_tokens": 1024,
            },
        },
    ),
    "dpo": Preset(
        "Direct Preference Optimization, arXiv 2305.18290, as the baseline of arXiv 2404.19733",
        "one round of IRPO without NLL",
        {
            "source": "sample",
            "rounds": 1,
            "init": "base",
            "reference": "base",
            "pairs": {"rule": "zip"},
            "loss": {"beta": 0.1} | _PREFER,
        },
    ),
    "sft": Preset(
        "supervised fine-tuning, as the baseline of arXiv 2404.19733",
        "imitate the gold solutions",
        {"source": "gold", "rounds": 1, "init": "base", "loss": _IMITATE},
    ),
    "star": Preset(
        "STaR: Bootstrapping Reasoning With Reasoning, arXiv 2203.14465",
        "imitate correct samples; what no sample solves is sampled once more with the answer as a hint",
        {
            "source": "sample",
            "init": "base",
            "generate": {"hint": True},
            "pairs": {"rule": "correct"},
            "loss": _IMITATE,
        },
    ),
    "rft": Preset(
        "Scaling Relationship on Learning Mathematical Reasoning, arXiv 2308.01825",
        "one round of imitating the correct ones of a hundred samples, one for each way of reckoning",
        {
            "source": "sample",
            "rounds": 1,
            "init": "base",
            "generate": {"samples": 100, "temperature": 0.7},
            "pairs": {"rule": "correct", "per_prompt": 100, "distinct": "equations"},
            "loss": _IMITATE,
        },
    ),
    "rest_em": Preset(
        "Beyond Human Data (ReST-EM), arXiv 2312.06585",
        "imitate at most ten correct samples a prompt, from the base model each round",
        {
            "source": "sample",
            "init": "base",
            "generate": {"samples": 32, "temperature": 0.7},
            "pairs": {"rule": "correct", "per_prompt": 10},
            "loss": _IMITATE,
        },
    ),
    "iterative_dpo": Preset(
        "RLHF Workflow: From Reward Modeling to Online RLHF, arXiv 2405.07863",
        "best against worst of eight samples, the reference fixed, all rounds' data, new prompts each round",
        {
            "source": "sample",
            "init": "previous",
            "reference": "base",
            "data": {"prompts": "new"},
            "generate": {"samples": 8, "temperature_mix": [1.0, 0.7]},
            "pairs": {"rule": "best_worst", "per_prompt": 1, "replay": 1.0},
            "loss": {"beta": 0.1} | _PREFER,
        },
    ),
    "self_rewarding": Preset(
        "Self-Rewarding Language Models, arXiv 2401.10020",
        "best against worst of four samples by the model's own judgement, new prompts each round",
        {
            "source": "judge",
            "init": "previous",
            "reference": "previous",
            "data": {"prompts": "new"},
            "generate": {"samples": 4, "temperature": 0.7, "top_p": 0.9},
            "pairs": {"rule": "best_worst", "per_prompt": 1},
            "self_judge": {"samples": 3},
            "loss": {"beta": 0.1} | _PREFER,
        },
    ),
}


def usual_source(document: Mapping[str, Any]) -> str:
    """The source of a job that names none: its method's."""
    preset = _preset(document)
    return str(preset.settings["source"]) if preset else Sample.name()


def _preset(document: Mapping[str, Any]) -> Preset | None:
    method = document.get("method", "irpo")
    return PRESETS.get(method) if isinstance(method, str) else None  # type: ignore[call-overload]


def filled_in(document: Mapping[str, Any]) -> dict[str, Any]:
    """A job as it stands in its file, with its method's settings where it says nothing itself. What is no mapping, or
    names no method, is left for the job's own checks to refuse."""
    preset = _preset(document)
    document = form.in_sections(document, usual_source(document))
    filled = merged(preset.settings, document) if preset else dict(document)
    kind = kind_named(filled.get("source"))
    if kind is not None and "rounds" not in filled and (rounds := kind.rounds(filled.get(kind.section))):
        filled["rounds"] = rounds
    return filled


def with_method(document: Mapping[str, Any], method: str, settings: Settings) -> dict[str, Any]:
    """A job as it stands in its file, for another method, which has these settings: what they name is taken out, so
    that it is not what the file says for its own method."""
    return _without(document, settings) | {"method": method}


_INSTEAD_OF = {"warmup_ratio": "warmup_steps", "temperature_mix": "temperature"}
"""A method's key that gives way where the file has the other one, of which only one can hold."""


def merged(defaults: Settings, said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are `said`, over the others, section by section."""
    found = dict(said)
    for key, value in defaults.items():
        if _INSTEAD_OF.get(key) in said:
            continue
        if key not in said:
            found[key] = dict(value) if isinstance(value, Mapping) else value
        elif isinstance(value, Mapping) and isinstance(said[key], Mapping):
            found[key] = merged(value, said[key])
    return found


def _without(said: Mapping[str, Any], row: Settings) -> dict[str, Any]:
    instead = {_INSTEAD_OF[key] for key in row if key in _INSTEAD_OF}
    left: dict[str, Any] = {}
    for key, value in said.items():
        if isinstance(value, Mapping) and isinstance(row.get(key), Mapping):
            left[key] = _without(value, row[key])
        elif key not in row and key not in instead:
            left[key] = value
    return left
