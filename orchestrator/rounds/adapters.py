"""What a round's training starts from and is compared with, where it trains an adapter (`lora`).

`between_rounds: merge` starts a new adapter on the merged weights of `init`. `continue` goes on with the adapter of
`init` on the base model, and the reference is then that adapter as it was, or the base model without one, as
`reference` says: either is scored by the weights that are there for the training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import Lora
from orchestrator.ledger.recipes import Later, UsedFiles
from orchestrator.records.adapters import FOLDER, AdapterPlan
from orchestrator.records.rows import ScoringPlan
from orchestrator.rounds.context import Context, Model


@dataclass(frozen=True)
class Start:
    """Where a training starts."""

    folder: str
    """Of the weights that the policy starts from."""
    adapter: AdapterPlan | None
    """None where all weights are trained."""
    reference: str
    """Folder of the reference's weights."""
    adapted: bool
    """Whether the reference has the adapter that the policy starts with, where it is the same folder."""
    inputs: dict[str, Any]
    """What of it decides beside the files of the models that the round has, as inputs of a step."""
    scored: dict[str, Any]
    """The same of the reference pass."""

    @property
    def planned(self) -> dict[str, Any]:
        """What a plan of the training says of it."""
        return {"init": self.folder, "reference": self.reference, "adapter": self.adapter, "adapted": self.adapted}

    def scoring(self, pairs: tuple[str, ...]) -> ScoringPlan:
        """The reference pass of these files of pairs."""
        return ScoringPlan(self.reference, self.folder, pairs, adapter=self.adapter, adapted=self.adapted)


def start_of(context: Context, number: int, init: Model, reference: Model) -> Start:
    """Where the training of a round starts from `init`."""
    lora = context.job.lora
    if lora is None:
        return Start(init.path, None, reference.path, True, {}, {})
    goes_on = lora.between_rounds == "continue" and init.path != context.base_model
    base = context.base_files if goes_on else init.files
    adapter = AdapterPlan(
        lora=lora,
        seed=context.seed("adapter", number),
        start=str(Path(init.path, FOLDER)) if goes_on else None,
        base=_of_folder(base),
    )
    inputs: dict[str, Any] = {"lora": Later(lora)}
    if not goes_on:
        return Start(init.path, adapter, reference.path, True, inputs, {})
    inputs["base"] = base
    own = reference.path in (init.path, context.base_model)
    folder, adapted = context.base_model if own else reference.path, reference.path == init.path
    return Start(
        context.base_model, adapter, folder, adapted, inputs, {"base": base, "adapted": adapted} if own else {}
    )


def merge_said(lora: Lora | None, kept: float | None) -> str | None:
    """A warning, where merging has rounded away what a training has learnt."""
    if lora is None or kept is None or kept > _ENOUGH:
        return None
    return (
        f"warning: of what the adapter has learnt, the merged weights, which are served and evaluated, keep "
        f"{max(kept, 0.0):.0%}; the number format of the checkpoint rounds the rest away: set "
        "`train.export_dtype: float32` in a fork, or learn more a round (`train.learning_rate`)"
    )


_ENOUGH = 0.9


def _of_folder(files: UsedFiles) -> dict[str, str]:
    """sha256 by name of the files that stand in a model's own folder."""
    below = {name: sha for name, sha in files.files}
    parents = {str(Path(name).parent) for name in below}
    top = min(parents, key=len, default="")
    return {Path(name).name: sha for name, sha in sorted(below.items()) if str(Path(name).parent) == top}
