"""The forms of the loss's preference term, as what they read: what follows from a form follows from its row here.

The functions, by the same names, are in workers/numerics/losses.py; docs/losses.md says what each is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.config.base import at_round

FormName = Literal[
    "sigmoid",
    "squared",
    "robust",
    "ipo",
    "ipo_mean",
    "dpop",
    "simpo",
    "orpo",
    "softmax",
    "odpo",
    "reward_aware",
    "scaled",
]


@dataclass(frozen=True)
class Form:
    """What a form of the loss declares."""

    paper: str
    """Where it is from, with the equation."""
    settings: frozenset[str]
    """Keys of `loss` that it reads, besides its weight `dpo`."""
    reads_reference: bool = True
    """Whether it compares with the reference's log-probabilities; without, no reference pass is made."""
    scope: Literal["sum", "mean"] = "sum"
    """Of a completion's tokens: whether their log-probabilities are summed or averaged."""
    rows: Literal["pair", "group"] = "pair"
    """What an update counts, and takes the mean over: a `pair` has a chosen and a rejected completion of one prompt, a
    `group` a chosen and several rejected ones (records/groups.py)."""
    reads_scores: bool = False
    """Whether it reads by how much the chosen one's score is above the rejected one's."""


_BETA = frozenset({"beta"})
_SCORED = _BETA | {"score_scale"}

FORMS: Mapping[str, Form] = {
    "sigmoid": Form(
        "DPO, arXiv 2305.18290, equation 7; with `smoothing` cDPO, ericmitchell.ai/cdpo.pdf, equation 3",
        _BETA | {"smoothing"},
    ),
    "squared": Form("SPPO with hard wins, arXiv 2405.00675, equation 4.5", _BETA),
    "robust": Form("robust DPO, arXiv 2403.00409, section 3", _BETA | {"smoothing"}),
    "ipo": Form("IPO, arXiv 2310.12036, equation 17", _BETA),
    "ipo_mean": Form("IPO over means of tokens, as TRL has it", _BETA, scope="mean"),
    "dpop": Form("DPO-Positive, arXiv 2402.13228, equation 3", _BETA | {"penalty"}),
    "simpo": Form("SimPO, arXiv 2405.14734, equation 6", _BETA | {"target_margin"}, False, "mean"),
    "orpo": Form("ORPO, arXiv 2403.07691, equation 7", frozenset(), False, "mean"),
    "softmax": Form("S-DPO, arXiv 2406.09215, the loss L_S-DPO", _BETA, rows="group"),
    "odpo": Form("ODPO, arXiv 2402.10571, the loss L_ODPO", _SCORED, reads_scores=True),
    "reward_aware": Form("RPO, arXiv 2406.11704, the loss L_rpo", _SCORED, reads_scores=True),
    "scaled": Form("scaled Bradley-Terry, arXiv 2410.01257, with DPO's reward", _SCORED, reads_scores=True),
}
"""By the name that `loss.form` has."""


def reads_reference(loss: Mapping[str, Any], round_number: int) -> bool:
    """Whether the loss of a round compares with a reference, by the job as it is recorded: imitation does not, nor do
    some forms. One that nobody knows here is taken to."""
    form = FORMS.get(loss.get("form", "sigmoid"))
    return bool(at_round(loss["dpo"], round_number)) and (form is None or form.reads_reference)
