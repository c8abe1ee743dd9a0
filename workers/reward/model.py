"""A reward model with its weights. One row is computed at a time, without padding: so a row's reward is that of
transformers' own forward pass of it, to the last bit, whatever stands beside it in a shard. A decoder's sequence
classifier reads its number at the last token that is not the padding token, which with padding is easily another one.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from orchestrator.errors import first_line
from orchestrator.records.rewards import RewardPlan
from workers.reward.reading import Row
from workers.tokens.tokenizer import UnusableModel

LABELS = {"outcome": 1, "process": 2}
"""How many labels each kind has."""
_RIGHT = 1  # the label of a step that is right


class RewardModel:
    """The model of a plan, on a device ("cpu", "cuda"); its weights are safetensors, and code beside them is not run.

    Raises:
        UnusableModel: it cannot be loaded, has other labels, or lacks weights: a new head would give random numbers.
    """

    def __init__(self, plan: RewardPlan, device: str) -> None:
        self._plan, self._device = plan, device
        self._model = _loaded(plan).to(device)
        self.longest = _positions(self._model)
        """Most tokens that its table of positions has room for; None where it has none, or says no more than
        config.json."""

    def numbers(self, row: Row) -> list[float]:
        """The reward of a row; of a process model one for each of its places, a probability."""
        inputs = {name: torch.tensor([ids], device=self._device) for name, ids in row.inputs.items()}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = self._model(**inputs).logits[0].float()
            if self._plan.kind == "outcome":
                return [float(logits[0])]
            return [float(p) for p in logits[list(row.places)].softmax(-1)[:, _RIGHT]]


def _loaded(plan: RewardPlan) -> Any:
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    kinds = {"outcome": AutoModelForSequenceClassification, "process": AutoModelForTokenClassification}
    AutoModel: Any = kinds[plan.kind]
    try:
        model, info = AutoModel.from_pretrained(
            plan.model,
            dtype="auto" if plan.dtype == "own" else getattr(torch, plan.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise UnusableModel(f"{plan.model}: cannot be loaded as a reward model ({first_line(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise UnusableModel(
            f"{plan.model}: its weights lack {missing[0]} (and {len(missing) - 1} more), which would be random: it is "
            f"no {plan.kind} reward model, or not all of one"
        )
    if (labels := model.config.num_labels) != LABELS[plan.kind]:
        raise UnusableModel(
            f"{plan.model}: has {labels} labels, and a reward model of the kind {plan.kind} has {LABELS[plan.kind]}"
        )
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def _positions(model: torch.nn.Module) -> int | None:
    """Of a table of learned positions whose first rows are never used (RoBERTa's), how many are left."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding) and module.padding_idx:
            return int(module.num_embeddings - module.padding_idx - 1)
    return None
