"""deploy/kubernetes: it builds, and Kubernetes and KubeRay would take what comes out."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.tools import DEPLOY, PROJECT, said, tool

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("job", "job-gpu", "cluster", "cluster-gpu")
VERSION = "1.34"
"""Of Kubernetes, whose schemas are checked against."""
Manifest = dict[str, Any]


def schema(kind: str) -> dict[str, Any]:
    """The schema of a kind's spec, KubeRay's or the Prometheus operator's: what it does not know is refused."""
    if kind == "PodMonitor":
        return dict(closed(json.loads((Path(__file__).parent / "schemas/podmonitor-v1.json").read_text())))
    cluster = closed(json.loads((Path(__file__).parent / "schemas/raycluster-v1.json").read_text()))
    if kind == "RayCluster":
        return resolved(cluster, cluster)
    return resolved(closed(json.loads((Path(__file__).parent / "schemas/rayjob-v1.json").read_text())), cluster)


def closed(schema: Any) -> Any:
    """The API server drops keys that a schema does not know, without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


def resolved(schema: Any, cluster: dict[str, Any]) -> Any:
    """With the cluster's schema in a job's; pod templates are taken as they are (see `pods`)."""
    if isinstance(schema, list):
        return [resolved(item, cluster) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("$ref") == "#/pod-template":
        return {"type": "object"}
    if schema.get("$ref") == "#/ray-cluster-spec":
        return resolved(cluster, cluster)
    return {key: resolved(value, cluster) for key, value in schema.items()}


def problems(manifest: Manifest) -> list[str]:
    """What its schema says against a manifest's spec."""
    errors = jsonschema.Draft202012Validator(schema(manifest["kind"])).iter_errors(manifest["spec"])
    return [f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors]


def pods(spec: Any) -> Iterator[Manifest]:
    """The pod templates in a spec of KubeRay, as manifests of their own."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if key in ("template", "submitterPodTemplate"):
                yield {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": value}
            else:
                yield from pods(value)
    elif isinstance(spec, list):
        for item in spec:
            yield from pods(item)


@pytest.fixture(scope="module")
def built() -> dict[str, list[Manifest]]:
    """What each overlay comes to."""
    program = tool("kustomize", "kubectl")
    command = [program, "build"] if program.endswith("kustomize") else [program, "kustomize"]
    found = {}
    for overlay in OVERLAYS:
        code, text = said(*command, FOLDER / overlay)
        assert code == 0, text
        found[overlay] = list(yaml.safe_load_all(text))
    return found


def the(kind: str, manifests: list[Manifest], name: str | None = None) -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"]))
    return found


def cluster_spec(manifests: list[Manifest]) -> Manifest:
    """The spec of the Ray cluster, be it a job's."""
    kinds = {manifest["kind"] for manifest in manifests}
    spec = (
        the("RayJob", manifests)["spec"]["rayClusterSpec"]
        if "RayJob" in kinds
        else the("RayCluster", manifests)["spec"]
    )
    assert isinstance(spec, dict)
    return spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kuberay_would_take_it(built: dict[str, list[Manifest]], overlay: str) -> None:
    kind = "RayJob" if overlay.startswith("job") else "RayCluster"
    assert problems(the(kind, built[overlay])) == []
    assert {m["kind"] for m in built[overlay] if m["apiVersion"].startswith("ray.io")} == {kind}


def test_the_cluster_as_it_is_written_would_be_taken() -> None:
    """Without kustomize, too."""
    assert problems(yaml.safe_load((FOLDER / "ray/cluster.yaml").read_text())) == []


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("headGroupSpec.tempalte", {}, "tempalte"),
        ("authOptions.mode", "tokens", "tokens"),
        ("workerGroupSpecs.0.maxReplicas", "many", "many"),
        ("gcsFaultToleranceOptions", {"redis": "x"}, "redis"),
    ],
)
def test_what_kuberay_would_not_take_is_found(path: str, value: Any, word: str) -> None:
    manifest = copy.deepcopy(yaml.safe_load((FOLDER / "ray/cluster.yaml").read_text()))
    *way, last = path.split(".")
    at = manifest["spec"]
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    assert any(word in problem for problem in problems(manifest))


def test_kubernetes_would_take_the_rest(built: dict[str, list[Manifest]], tmp_path: Path) -> None:
    program = tool("kubernetes-validate")
    rest = [m for manifests in built.values() for m in manifests if not m["apiVersion"].startswith("ray.io")]
    templates = [
        pod for manifests in built.values() for m in manifests if "ray.io" in m["apiVersion"] for pod in pods(m["spec"])
    ]
    assert len(rest) > 30 and len(templates) == 2 * 2 + 2 * 3
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all([*rest, *templates]))
    code, text = said(program, "--strict", "-k", VERSION, file)
    assert code == 0, text
    templates[0]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    file.write_text(yaml.safe_dump_all(templates))
    code, text = said(program, "--strict", "-k", VERSION, file)
    assert code != 0 and "imagePullPolice" in text


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_cluster_promises(built: dict[str, list[Manifest]], overlay: str) -> None:
    """Token, autoscaler, one Ray version, the volume on all nodes, a node kept up, GPUs where they are asked for."""
    spec = cluster_spec(built[overlay])
    assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
    pinned = re.search(r"^ray==(\S+)", (PROJECT / "requirements/cpu.txt").read_text(), re.M)
    assert pinned and spec["rayVersion"] == pinned[1]
    (workers,) = spec["workerGroupSpecs"]
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (spec["headGroupSpec"], workers):
        mounts = {m["name"]: m["mountPath"] for m in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert mounts == {"shared": "/shared", "memory": "/dev/shm"}
    gpus = workers["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
    assert (gpus is not None) == overlay.endswith("gpu")
    claim = the("PersistentVolumeClaim", built[overlay], "shared")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert ("gcsFaultToleranceOptions" in spec) == overlay.startswith("cluster")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_runs_as_root_and_no_secret_is_written(built: dict[str, list[Manifest]], overlay: str) -> None:
    assert "Secret" not in {m["kind"] for m in built[overlay]}
    own = [m["spec"]["template"] for m in built[overlay] if m["kind"] in ("Deployment", "StatefulSet")]
    rays = [pod["template"] for m in built[overlay] if "ray.io" in m["apiVersion"] for pod in pods(m["spec"])]
    assert len(own) >= 2 and len(rays) >= 2
    for pod in own + rays:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|TOKEN|KEY", variable["name"]) and not variable["name"].endswith("_FILE")
                assert not secret or "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_is_closed_but_to_those_who_use_it(built: dict[str, list[Manifest]], overlay: str) -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in built[overlay] if m["kind"] == "NetworkPolicy"}
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    services = {m["metadata"]["name"] for m in built[overlay] if m["kind"] == "Service"}
    assert services and services < policies.keys()
    for name in services:
        assert policies[name]["podSelector"] == {"matchLabels": {"app": name}}
        assert all(rule["from"] and rule["ports"] for rule in policies[name]["ingress"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_named_is_there(built: dict[str, list[Manifest]], overlay: str) -> None:
    """Claims, and the keys of the one secret, which secrets.sh makes."""
    text = yaml.safe_dump_all(built[overlay])
    claims = {m["metadata"]["name"] for m in built[overlay] if m["kind"] == "PersistentVolumeClaim"}
    assert set(re.findall(r"claimName: (\S+)", text)) == claims
    assert set(re.findall(r"secretName: (\S+)", text)) == {"ratchet-secrets"}
    made = set(re.findall(r"\w+", (DEPLOY / "docker/secrets.sh").read_text()))
    keys = set(re.findall(r"key: (\w+_(?:password|key))$", text, re.M))
    assert keys and keys <= made


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_prometheus_may_read_the_metrics_of_all_nodes(tmp_path: Path, overlay: str) -> None:
    """An overlay with the component that no overlay has by itself."""
    program = tool("kustomize", "kubectl")
    here, there = tmp_path.resolve(), FOLDER.resolve()
    made = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "ratchet",
        "resources": [os.path.relpath(there / overlay, here)],
        "components": [os.path.relpath(there / "parts/metrics", here)],
    }
    (here / "kustomization.yaml").write_text(yaml.safe_dump(made))
    code, text = said(program, "build" if program.endswith("kustomize") else "kustomize", here)
    assert code == 0, text
    manifests = list(yaml.safe_load_all(text))
    monitor, policy = the("PodMonitor", manifests), the("NetworkPolicy", manifests, "metrics")
    assert problems(monitor) == []
    assert problems(monitor | {"spec": monitor["spec"] | {"podMetricEndpoints": []}}) != []
    closed_to = the("NetworkPolicy", manifests, "ray")["spec"]["podSelector"]
    assert monitor["spec"]["selector"] == policy["spec"]["podSelector"] == closed_to
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": 8080}]
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    code, text = said(tool("kubernetes-validate"), "--strict", "-k", VERSION, file)
    assert code == 0, text


def test_the_jobs_command_is_one_that_may_be_given_again(built: dict[str, list[Manifest]]) -> None:
    """A try that fails is followed by the same command on a new cluster; a stop by the gate is no failure."""
    job = the("RayJob", built["job"])["spec"]
    assert job["entrypoint"].split()[:2] == ["ratchet", "run"] and "promotion.stop_succeeds=true" in job["entrypoint"]
    assert job["backoffLimit"] > 0 and job["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_with_the_part_for_it_ray_is_encrypted(overlay: str, tmp_path: Path) -> None:
    program = tool("kustomize", "kubectl")
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / overlay / "kustomization.yaml"
    file.write_text(file.read_text().replace("components: [", "components: [../parts/tls, "))
    code, text = said(*([program, "build"] if program.endswith("kustomize") else [program, "kustomize"]), file.parent)
    assert code == 0, text
    manifests = list(yaml.safe_load_all(text))
    assert cluster_spec(manifests)["tlsOptions"] == {"enabled": True}
    assert problems(the("RayJob" if overlay.startswith("job") else "RayCluster", manifests)) == []
