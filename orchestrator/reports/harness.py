"""What a report says of tasks of lm-evaluation-harness (`evaluate.harness`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.reports.evidence import Evidence
from orchestrator.text.shown import markdown

_TEXT = (
    "By lm-evaluation-harness {version}, with its standard errors, asked of the run's own engines. Nothing is "
    "decided by it."
)


def figures(facts: Mapping[str, Any], parts: bool = False) -> dict[str, Mapping[str, float]]:
    """Of a step `harness` (rounds.harness.facts_of), by task and metric, such as `gsm8k exact_match,strict-match`:
    value and standard error. With the `parts` of groups, too."""
    return {
        f"{task} {metric}": figure
        for task, told in facts.get("tasks", {}).items()
        if parts or not told.get("within")
        for metric, figure in told["figures"].items()
    }


def shown(figure: Mapping[str, float]) -> str:
    """A figure with its standard error."""
    error = f" ± {figure['error']:.4f}" if "error" in figure else ""
    return f"{figure['value']:.4f}{error}"


def told(evidence: Evidence) -> Mapping[str, Any]:
    """What the harness said of a round's model; empty where it was not asked."""
    found: Mapping[str, Any] = evidence.round.facts.get("harness", {})
    return found


def rows(every: Sequence[Evidence]) -> list[tuple[str, list[str]]]:
    """By figure what it is of each model that was asked, in order; empty for one that has none."""
    by_model = [figures(told(evidence)) for evidence in every if told(evidence)]
    names = dict.fromkeys(name for of_model in by_model for name in of_model)
    return [(name, [shown(found[name]) if name in found else "" for found in by_model]) for name in names]


def models(every: Sequence[Evidence]) -> list[str]:
    """The models that were asked."""
    return [name_of(evidence) for evidence in every if told(evidence)]


def name_of(evidence: Evidence) -> str:
    """A round's model for people."""
    return f"round {evidence.round.number}" if evidence.round.number else "base"


def notes(every: Sequence[Evidence]) -> list[str]:
    """Tasks that were asked otherwise than of the first model, so that their figures cannot be compared."""
    asked = [evidence for evidence in every if told(evidence)]
    found = []
    for evidence in asked[1:]:
        first = told(asked[0])["tasks"]
        tasks = {name: one.get("asked") for name, one in told(evidence)["tasks"].items()}
        if other := [name for name, digest in tasks.items() if name in first and first[name].get("asked") != digest]:
            found.append(
                f"{name_of(evidence)}: other documents or prompts than of {name_of(asked[0])} in {', '.join(other)}: "
                "the data have changed, and the figures cannot be compared."
            )
    return found


def section(every: Sequence[Evidence]) -> list[str]:
    """The section of the report; none where no model was asked."""
    if not (names := models(every)):
        return []
    versions = ", ".join(dict.fromkeys(str(told(each)["lm_eval"]) for each in every if told(each)))
    lines = [
        "| " + " | ".join(["figure", *names]) + " |",
        "|---|" + "---:|" * len(names),
        *("| " + " | ".join(map(markdown, (name, *cells))) + " |" for name, cells in rows(every)),
    ]
    said = "\n".join(f"- {markdown(line)}" for line in notes(every))
    return ["## Tasks of lm-evaluation-harness", _TEXT.format(version=markdown(versions)), "\n".join(lines), said]
