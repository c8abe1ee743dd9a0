"""What holds of every file of every way in deploy/: whoever starts Ray asks for a token, nothing is shown to others,
MLflow has users, and secrets are named, not written. A file that is added is looked at as the others are."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.addresses import secret_in
from tests.deploy.tools import DEPLOY, PROJECT, said

KUBERAY = ("RayCluster", "RayJob", "RayService", "RayCronJob")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STARTS_RAY = re.compile(r"\bray[\s,\"']+(start|symmetric-run|up)\b|\bray\.init\(|RAY_AUTH_MODE[=: \"']+disabled")
SECRET_NAME = re.compile(r"(?i)(password|passwd|token|secret|_key|credentials?)$")
SHELL_VALUE = re.compile(r"(?m)(?:^|[\s;({])(?:export )?([A-Za-z_][A-Za-z0-9_]*)=([^\s;]*)")
REFERENCE = re.compile(r"""["']?(\$[({\w]|/run/secrets/|/shared/\.|~/\.)""")
RANDOM = re.compile(r"(?<![\w./])(?=[A-Za-z0-9+]*\d)(?=[A-Za-z0-9+]*[A-Za-z])[A-Za-z0-9+]{24,}")


@functools.cache
def files() -> dict[str, str]:
    """Every text file of deploy/, by its path there."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return {str(Path(p).relative_to("deploy")): (PROJECT / p).read_text() for p in listed if (PROJECT / p).is_file()}


def documents(text: str) -> Iterator[dict[str, Any]]:
    yield from (found for found in yaml.safe_load_all(text) if isinstance(found, dict))


def places(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a document, with the keys that lead to it."""
    yield path, found
    if isinstance(found, dict):
        for key, value in found.items():
            yield from places(value, (*path, str(key)))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from places(value, (*path, str(number)))


def problems(texts: Mapping[str, str]) -> list[str]:
    """What of these files, which lie beside the others, is open to others or holds a secret."""
    said: list[str] = []
    beside = files() | texts
    for name, text in texts.items():
        if Path(name).suffix in (".yaml", ".yml"):
            found = list(documents(text))
            said += [f"{name}: {what}" for document in found for what in of_document(document, name, beside)]
        elif not name.endswith(".md"):
            said += [f"{name}: {what}" for what in of_script(text)]
        said += [f"{name}: {what}" for what in of_text(text)]
    return said


def of_text(text: str) -> Iterator[str]:
    for word in text.split():
        if secret_in(word.strip("`'\"<>,")):
            yield "an address with a password"
    for found in RANDOM.findall(without_comments(text)):
        yield f"what looks like a secret: {found[:6]}..."


def without_comments(text: str) -> str:
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def of_script(text: str) -> Iterator[str]:
    """A shell script, a batch script, a Dockerfile, a program."""
    code = without_comments(text)
    first = STARTS_RAY.search(code)
    asked = re.search(r"export [^\n]*RAY_AUTH_MODE=token\b[^\n]*RAY_AUTH_TOKEN(_PATH)?=", code)
    if first and not (asked and asked.start() < first.start()):
        yield f"starts Ray without a token: {first[0]}"
    for host in re.findall(r"--dashboard-host[= ]+(\S+)", code):
        if host not in LOOPBACK:
            yield f"a dashboard on {host}"
    yield from of_mlflow(code)
    for name, value in SHELL_VALUE.findall(code):
        if SECRET_NAME.search(name) and value and not REFERENCE.match(value):
            yield f"the value of {name}"


def of_mlflow(code: str) -> Iterator[str]:
    for found in re.finditer(r"\bmlflow[\s,\"']+(server|ui)\b(?:[^\n\\]|\\.|\\\n)*", code):
        if "--app-name" not in found[0] or "basic-auth" not in found[0]:
            yield "MLflow without users"
        if "default_permission = NO_PERMISSIONS" not in code:
            yield "an MLflow whose users may see each other's work by default"


def of_document(document: dict[str, Any], name: str, texts: Mapping[str, str]) -> Iterator[str]:
    kind = document.get("kind")
    if kind == "Secret":
        yield "a Secret, which holds its values"
    if kind in ("Ingress", "Route", "Gateway", "HTTPRoute"):
        yield f"{kind} {document['metadata']['name']}: opened to the outside"
    if kind in KUBERAY:
        yield from of_kuberay(document)
    if "services" in document:
        yield from of_compose(document, name, texts)
    if kind in KUBERAY or "services" in document:
        pass  # where their dashboards are is in their own rules
    else:
        yield from of_commands(document, texts)
    for path, value in places(document):
        yield from of_value(path, value)


def of_value(path: tuple[str, ...], value: Any) -> Iterator[str]:
    key = path[-1] if path else ""
    where = ".".join(path)
    if (key, value) in (("type", "LoadBalancer"), ("type", "NodePort"), ("privileged", True), ("hostNetwork", True)):
        yield f"{where}: {value}"
    if key in ("hostPort", "nodePort", "externalIPs", "serviceType", "enableIngress", "hostPath", "network_mode"):
        yield f"{where}: opened beyond the cluster, or to its host"
    if isinstance(value, dict) and SECRET_NAME.search(str(value.get("name", ""))) and "value" in value:
        if not str(value["value"]).startswith("/run/secrets/"):
            yield f"{where}: the value of {value['name']}"
    elif SECRET_NAME.search(key) and isinstance(value, str) and "environment" in path:
        yield f"{where}: the value of {key}"


def of_kuberay(document: dict[str, Any]) -> Iterator[str]:
    """A cluster, or a job with one of its own; that of another file is looked at there."""
    spec = document.get("spec", {})
    cluster = spec.get("rayClusterSpec", spec if document["kind"] == "RayCluster" else None)
    if cluster is None or "headGroupSpec" not in cluster:
        return
    if cluster.get("authOptions") != {"mode": "token"}:
        yield f"{document['kind']}: Ray without a token"


def of_compose(document: dict[str, Any], name: str, texts: Mapping[str, str]) -> Iterator[str]:
    """Services as they are together with those of compose.yaml, which other compose files are laid over."""
    base = texts.get(str(Path(name).with_name("compose.yaml")), "{}")
    under = next(documents(base), {}).get("services", {})
    for service, own in document["services"].items():
        whole = {**under.get(service, {}), **own}
        command = " ".join(map(str, whole.get("command", [])))
        if STARTS_RAY.search(command):
            environment, secrets = whole.get("environment", {}), whole.get("secrets", [])
            path = str(environment.get("RAY_AUTH_TOKEN_PATH", ""))
            if environment.get("RAY_AUTH_MODE") != "token" or Path(path).name not in secrets:
                yield f"{service}: Ray without a token"
        yield from (f"{service}: {what}" for what in of_mlflow(command))
        for port in own.get("ports", []):
            host = str(port).rsplit(":", 2)[0] if str(port).count(":") >= 2 else ""
            if host not in LOOPBACK:
                yield f"{service}: port {port} is published beyond loopback"


def of_commands(document: dict[str, Any], texts: Mapping[str, str]) -> Iterator[str]:
    """Commands in a document of any other kind, such as the cluster launcher's: each by itself."""
    for path, value in places(document):
        if path and path[-1] == "dashboard-host" and str(value) not in LOOPBACK:
            yield f"{'.'.join(path)}: a dashboard on {value}"
        if not isinstance(value, str):
            continue
        sourced = re.match(r"source \S*?deploy/(\S+) && ", value)
        given = re.sub(r"(?m)^", "export ", value) if value.startswith("RAY_AUTH") else value
        script = (texts.get(sourced[1], "") + "\n" if sourced else "") + given
        yield from (f"{'.'.join(path)}: {what}" for what in of_script(script))


def test_no_file_of_any_way_is_open_or_holds_a_secret() -> None:
    found = files()
    ways = {name.partition("/")[0] for name in found if "/" in name}
    assert {"docker", "kubernetes", "slurm", "ray-up"} <= ways and len(found) > 25
    assert problems(found) == []
    starting = {name for name, text in found.items() if not name.endswith(".md") and starts_ray(text)}
    assert starting == {
        *("docker/compose.yaml", "docker/compose.gpu.yaml", "slurm/ratchet.sbatch", "ray-up/cluster.yaml"),
        *(
            "kubernetes/ray/cluster.yaml",
            "kubernetes/parts/job/job.yaml",
            "kubernetes/parts/redis/fault-tolerance.yaml",
        ),
    }, "each of these, and no other file, was looked at for its token"


def starts_ray(text: str) -> bool:
    code = without_comments(text)
    return bool(STARTS_RAY.search(code) or re.search(rf"(?m)^kind: ({'|'.join(KUBERAY)})$", code))


COMPOSE = "services: {head: {command: [ray, start, --head], environment: {RAY_AUTH_MODE: token, %s}, secrets: [%s]}}"
HEAD = "kind: RayCluster\nspec: {headGroupSpec: {rayStartParams: {}}}"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("new/start.sh", "ray start --head --block", "without a token"),
        ("new/start.sh", "ray start --head\nexport RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/run/secrets/t", "without"),
        ("new/start.sh", "export RAY_AUTH_MODE=token\nray start --head", "without a token"),
        ("new/start.sh", "# export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/x\nray symmetric-run -- x", "without"),
        ("new/start.py", "import ray\nray.init()", "without a token"),
        ("new/Dockerfile", 'CMD ["ray", "start", "--head"]', "without a token"),
        ("new/env.sh", "export RAY_AUTH_MODE=disabled", "without a token"),
        ("new/env.sh", "export HF_TOKEN=hf_abc", "the value of HF_TOKEN"),
        ("new/env.sh", "PGPASSWORD=hunter2 psql", "the value of PGPASSWORD"),
        ("new/mlflow.sh", "exec mlflow server --host 0.0.0.0", "MLflow without users"),
        ("new/mlflow.sh", "exec mlflow server --app-name basic-auth", "may see each other's work"),
        ("new/page.md", "`--backend-store-uri postgresql://me:hunter2@host/x`", "an address with a password"),
        ("new/env.sh", "x=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "looks like a secret"),
        ("new/compose.yaml", COMPOSE % ("X: 1", "ray_token"), "without a token"),
        ("new/compose.yaml", COMPOSE % ("RAY_AUTH_TOKEN_PATH: /run/secrets/ray_token", ""), "without a token"),
        ("docker/compose.more.yaml", "services: {third: {command: [ray, start]}}", "third: Ray without a token"),
        ("new/compose.yaml", "services: {a: {ports: ['8265:8265']}}", "beyond loopback"),
        ("new/compose.yaml", "services: {a: {ports: ['0.0.0.0:8265:8265']}}", "beyond loopback"),
        ("new/compose.yaml", "services: {a: {environment: {DB_PASSWORD: hunter2}}}", "the value of DB_PASSWORD"),
        ("new/compose.yaml", "services: {a: {network_mode: host}}", "opened beyond"),
        ("new/ray.yaml", HEAD, "Ray without a token"),
        ("new/ray.yaml", HEAD.replace("spec: {", "spec: {authOptions: {mode: disabled}, "), "Ray without a token"),
        ("new/job.yaml", "kind: RayJob\nspec: {rayClusterSpec: {headGroupSpec: {}}}", "Ray without a token"),
        ("new/pod.yaml", "kind: Pod\nspec: {containers: [{command: [ray start --head]}]}", "without a token"),
        ("new/service.yaml", "kind: Service\nspec: {type: LoadBalancer}", "LoadBalancer"),
        ("new/ingress.yaml", "kind: Ingress\nmetadata: {name: dashboard}", "opened to the outside"),
        ("new/secret.yaml", "kind: Secret\nstringData: {a: b}", "holds its values"),
        ("new/pod.yaml", "kind: Pod\nspec: {env: [{name: HF_TOKEN, value: hf_abc}]}", "the value of HF_TOKEN"),
        ("new/pod.yaml", "kind: Pod\nspec: {hostNetwork: true}", "hostNetwork"),
        ("new/up.yaml", "head_start_ray_commands: [ray start --head]", "without a token"),
        ("new/up.yaml", "a: [source ~/x/deploy/docker/secrets.sh && ray start --head]", "without a token"),
        (
            "new/up.yaml",
            "a: [source ~/x/deploy/ray-up/env.sh && ray start --head --dashboard-host=0.0.0.0]",
            "a dashboard on 0.0.0.0",
        ),
    ],
)
def test_a_file_that_is_open_or_holds_a_secret_is_found(name: str, text: str, told: str) -> None:
    assert any(what.startswith(f"{name}: ") and told in what for what in problems({name: text}))


def test_what_is_closed_is_let_be() -> None:
    closed = {
        "new/start.sh": "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$own/token\nray start --head",
        "new/compose.yaml": COMPOSE % ("RAY_AUTH_TOKEN_PATH: /run/secrets/ray_token", "ray_token"),
        "new/ray.yaml": HEAD.replace("spec: {", "spec: {authOptions: {mode: token}, "),
        "new/up.yaml": "a: [source ~/ratchet/deploy/ray-up/env.sh && ray start --head --dashboard-host=127.0.0.1]",
    }
    assert problems(closed) == []


# Certificates


def test_each_node_has_a_certificate_of_its_own_that_its_authority_has_signed(tmp_path: Path) -> None:
    script, ca = DEPLOY / "tls.sh", tmp_path / "ca"
    code, text = said(script, "node", ca, tmp_path / "a")
    assert code == 2 and "tls.sh ca" in text
    assert said(script)[0] == said(script, "ca")[0] == said(script, "node", ca)[0] == 2
    for _ in range(2):
        assert said(script, "ca", ca) == (0, "")
    for node, address in (("a", "10.0.0.1"), ("b", "10.0.0.2")):
        assert said(script, "node", ca, tmp_path / node, address) == (0, "")
        made = {file.name: file.read_bytes() for file in (tmp_path / node).iterdir()}
        assert made.keys() == {"ca.crt", "node.crt", "node.key"}
        assert {(tmp_path / node / name).stat().st_mode & 0o777 for name in made} == {0o600}
        purposes = ("-purpose", "sslserver", "-verify_ip", address)
        assert said("openssl", "verify", "-CAfile", ca / "tls.crt", *purposes, tmp_path / node / "node.crt")[0] == 0
        assert said(script, "node", ca, tmp_path / node, address) == (0, "")
        assert {file.name: file.read_bytes() for file in (tmp_path / node).iterdir()} == made, "it stays"
    assert (tmp_path / "a/node.key").read_bytes() != (tmp_path / "b/node.key").read_bytes()
    assert said(script, "ca", tmp_path / "other") == (0, "")
    before = (tmp_path / "a/node.crt").read_bytes()
    assert said(script, "node", tmp_path / "other", tmp_path / "a", "10.0.0.1") == (0, "")
    after = (tmp_path / "a/node.crt").read_bytes()
    assert after != before, "another authority's is made anew"
    assert said(script, "node", tmp_path / "other", tmp_path / "a", "10.0.0.1", "10.0.0.9") == (0, "")
    assert (tmp_path / "a/node.crt").read_bytes() != after, "and one that lacks an address"
