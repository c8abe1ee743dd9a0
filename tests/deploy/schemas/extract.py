"""Make the schemas beside this file again, from CRDs: python tests/deploy/schemas/extract.py FOLDER

FOLDER holds KubeRay's ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, and the Prometheus operator's
monitoring.coreos.com_podmonitors.yaml, of which descriptions are left out. What is taken: of each kind the schema of
version v1, without its status, and without pod templates, services and resources' copies of Kubernetes' own types,
which are checked against Kubernetes' own schemas.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
POD, CLUSTER = {"$ref": "#/pod-template"}, {"$ref": "#/ray-cluster-spec"}


def without_pods(schema: Any) -> Any:
    """A schema with a reference in the place of each pod template."""
    if isinstance(schema, list):
        return [without_pods(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: POD if is_pod(value) else without_pods(value) for key, value in schema.items()}


def without_descriptions(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: without_descriptions(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str))
    }


def is_pod(schema: Any) -> bool:
    spec = schema.get("properties", {}).get("spec", {}) if isinstance(schema, dict) else {}
    return "containers" in spec.get("properties", {})


def spec_of(file: Path) -> dict[str, Any]:
    """The schema of `spec` in version v1."""
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    (found,) = (version for version in versions if version["name"] == "v1")
    spec: dict[str, Any] = found["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return spec


def main(folder: Path) -> None:
    cluster = without_pods(spec_of(folder / "ray.io_rayclusters.yaml"))
    job = spec_of(folder / "ray.io_rayjobs.yaml")
    job["properties"]["rayClusterSpec"] = CLUSTER
    monitor = without_descriptions(spec_of(folder / "monitoring.coreos.com_podmonitors.yaml"))
    for name, schema in (("raycluster", cluster), ("rayjob", without_pods(job)), ("podmonitor", monitor)):
        (HERE / f"{name}-v1.json").write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
