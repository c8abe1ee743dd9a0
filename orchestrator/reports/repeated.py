"""What a report says of test problems that were answered several times (`evaluate.samples`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.reports.columns import Column, Section, number
from orchestrator.reports.evidence import Evidence
from orchestrator.text.counts import bracketed


def repeated(evidence: Evidence) -> Mapping[str, Any]:
    """A model's figures on the test problems (rounds.repeated.facts_of); empty where there are none."""
    return _sets(evidence).get("test", {})


def _sets(evidence: Evidence) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = evidence.round.facts.get("repeated", {}).get("sets", {})
    return found


def _further(evidence: Evidence) -> str:
    """The majority on further sets, by name."""
    sets = ((name.partition(".")[2], told) for name, told in _sets(evidence).items() if name != "test")
    return ", ".join(f"{name} {share(told['majority'])}" for name, told in sets)


def share(figures: Mapping[str, float] | None) -> str:
    """A share in per cent, with its interval."""
    if not figures:
        return ""
    return f"{100 * figures['share']:.1f} {bracketed(figures['low'], figures['high'])}"


def _at(evidence: Evidence, k: str) -> str:
    return share(repeated(evidence).get("pass_at", {}).get(k))


def _between(evidence: Evidence) -> str:
    """pass@k for the k between one sample and all."""
    told: Mapping[str, Any] = repeated(evidence).get("pass_at", {})
    between = sorted((int(k), figures) for k, figures in told.items() if k.isascii() and k.isdigit())[1:-1]
    return ", ".join(f"{k}: {100 * figures['share']:.1f}" for k, figures in between)


SECTION = Section(
    "Test problems answered several times",
    (
        Column("round", lambda e: str(e.round.number) if e.round.number else "base"),
        Column("samples", lambda e: number(repeated(e), "samples", ",")),
        Column("pass@1", lambda e: _at(e, "1")),
        Column("pass@k for k", _between),
        Column("pass@N", lambda e: _at(e, str(repeated(e).get("samples")))),
        Column("majority", lambda e: share(repeated(e).get("majority"))),
        Column("majority on further sets", _further),
        Column("tokens a sample", lambda e: number(repeated(e), "mean_tokens", ".1f")),
        Column("truncated", lambda e: number(repeated(e), "truncated", ",")),
    ),
    "In per cent, sampled by `evaluate.samples` and `evaluate.temperature`, with 95 % intervals (bootstrap over the "
    "problems). pass@k is estimated without bias (arXiv 2107.03374, equation 1); majority is the answer that most "
    "samples give, wrong ones being equal where the graders say so (arXiv 2203.11171). Nothing is decided by it.",
    lambda e: bool(repeated(e)),
)
