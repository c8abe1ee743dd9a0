"""The JSON Schema of a job file (draft 2020-12), for editors: they complete keys, show what each means, and mark what
no job may have. Pure. What depends on several keys, or on files, is found by `ratchet validate` alone."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from orchestrator.config.job import Job
from orchestrator.config.sources import KINDS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def job_schema() -> dict[str, Any]:
    """The schema, as a JSON value. A key that has no default is required."""
    properties: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    fields = Job.file_fields()
    for name, field in fields.items():
        described = Field(description=field.description)
        annotated: Any = Annotated[(field.annotation, described, *field.metadata)]
        made = TypeAdapter(annotated).json_schema()
        parts |= made.pop("$defs", {})
        properties[name] = made
    with_settings = {"type": "object", "required": ["type"], "properties": {"type": {"enum": list(KINDS)}}}
    own = properties["source"]
    properties["source"] = {"anyOf": [{"enum": own.pop("enum")}, with_settings], "description": own["description"]}
    for made in (*properties.values(), *parts.values()):
        made.get("properties", {}).pop("type", None)  # of a source's section, whose name says it
    return {
        "$schema": _DIALECT,
        "title": "A job of Ratchet",
        "type": "object",
        "properties": _standard(properties),
        "required": [name for name, field in fields.items() if field.is_required()],
        "additionalProperties": False,
        "$defs": _standard(parts),
    }


def _standard(made: Any) -> Any:
    """Bounds by their names in the standard: those of a number behind a validator of ours keep pydantic's own."""
    if isinstance(made, dict):
        return {_BOUNDS.get(key, key): _standard(value) for key, value in made.items()}
    return [_standard(each) for each in made] if isinstance(made, list) else made
