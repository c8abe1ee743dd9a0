"""The pinned packages, looked at for licences and known flaws: make audit AUDIT="--database FOLDER ..."

Licences come from the metadata of what is installed; of what is not (the other set of requirements) from pip's report,
or as they are recorded in licences.yaml. Flaws come from databases that were copied here before, since nothing is asked
over the network:

    --database FOLDER    files of the OSV format, as those of github.com/pypa/advisory-database, or OSV's own export
    --insecure FILE      data/insecure.json of Safety DB: names and versions, without words
    --report FILE        of `pip install --dry-run --ignore-installed --no-deps --report FILE -r LIST`

What is found and not explained in licences.yaml or advisories.yaml beside this file makes the exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

HERE = Path(__file__).parent
SETS = tuple(HERE.parents[1] / f"requirements/{name}.txt" for name in ("cpu", "gpu"))
_PIN = re.compile(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")
# How the texts of licences begin, or say what they are.
_TEXTS = {
    "MIT": "permission is hereby granted, free of charge, to any person obtaining a copy",
    "Apache-2.0": "apache license version 2.0, january 2004",
    "BSD-3-Clause": "redistribution and use in source and binary forms, with or without modification, are permitted",
}


@dataclass(frozen=True)
class Flaw:
    """An advisory that names a pinned version."""

    package: str
    version: str
    name: str
    summary: str


def pinned(files: Iterable[Path] = SETS) -> dict[str, set[str]]:
    """The versions of each package that requirements pin."""
    found: dict[str, set[str]] = {}
    for file in files:
        for name, version in _PIN.findall(file.read_text()):
            found.setdefault(canonicalize_name(name), set()).add(version)
    return found


# Licences


def said_of_licence(metadata: Mapping[str, Any], texts: Iterable[str] = ()) -> str:
    """What a package says of its licence: an SPDX expression, else its classifiers, else its own words, else what the
    texts beside it are; empty where it says nothing."""
    if metadata.get("license_expression"):
        return str(metadata["license_expression"])
    classifiers = [c.rpartition(" :: ")[2] for c in metadata.get("classifier") or [] if c.startswith("License :: ")]
    if named := [c for c in classifiers if c not in ("OSI Approved", "Other/Proprietary License")]:
        return " AND ".join(named)
    own = str(metadata.get("license") or "").strip()
    if own and len(own) <= 80:
        return own
    for text in (own, *texts):
        plain = " ".join(re.sub(r"[^\w.,]+", " ", text).lower().split())
        for licence, words in _TEXTS.items():
            if words in plain:
                return licence
    return classifiers[0] if classifiers else ""


def installed_licence(name: str) -> str | None:
    """As above, of an installed package; None where it is not installed."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    metadata = {
        "license_expression": found.metadata.get("License-Expression"),
        "license": found.metadata.get("License"),
        "classifier": found.metadata.get_all("Classifier") or [],
    }
    said = said_of_licence(metadata)
    if said in ("", "OSI Approved", "Other/Proprietary License"):  # reading lists of files takes longer than all else
        files = (
            f for f in found.files or [] if re.match(r"(?i)(licen[cs]e|copying)", f.name) and "dist-info" in str(f)
        )
        said = said_of_licence(metadata, (Path(str(found.locate_file(f))).read_text(errors="replace") for f in files))
    return said


def is_allowed(said: str, rules: Mapping[str, Any]) -> bool:
    """Whether a licence is on the list: one side of an OR, all parts of an AND. What has parentheses is never allowed,
    since they are not looked into."""
    allowed, words = set(rules["allowed"]), {key.lower(): value for key, value in rules["words"].items()}

    def fits(part: str) -> bool:
        return words.get(part.lower(), part) in allowed

    whole = words.get(said.lower(), said)
    return any(all(fits(part) for part in side.split(" AND ")) for side in whole.split(" OR "))


def licences(packages: Iterable[str], rules: Mapping[str, Any], report: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each package with what is wrong with its licence; empty where nothing is."""
    for name in sorted(packages):
        said = installed_licence(name)
        said = report.get(name) or rules["elsewhere"].get(name) if said is None else said
        if said is None:
            yield name, "neither installed nor recorded under `elsewhere`"
        elif is_allowed(said, rules) or is_explained(name, said, rules["exceptions"]):
            yield name, ""
        else:
            yield name, f"{said!r} is neither allowed nor explained"


def is_explained(name: str, said: str, exceptions: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an exception names the package, by its name or a pattern, with this very licence."""
    return any(said in e["licences"] and any(fnmatch(name, p) for p in e["packages"]) for e in exceptions)


# Flaws


def osv(folder: Path) -> Iterator[dict[str, Any]]:
    """Advisories of a folder, those that were withdrawn left out."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".yaml", ".yml", ".json") and not file.name.startswith("."):
            text = file.read_text()
            found = json.loads(text) if file.suffix == ".json" else yaml.load(text, yaml.CSafeLoader)
            if isinstance(found, dict) and "affected" in found and not found.get("withdrawn"):
                yield found


def is_affected(affected: Mapping[str, Any], version: str) -> bool:
    """Whether a version is among those that an OSV entry names."""
    public = Version(version).public
    if public in affected.get("versions", []):
        return True
    return any(_within(r.get("events", []), public) for r in affected.get("ranges", []) if r.get("type") != "GIT")


def _within(events: Iterable[Mapping[str, str]], version: str) -> bool:
    """By the order of the events: introduced and fixed (not in it), or last_affected (in it)."""
    inside, at = False, Version(version)
    try:
        for event in sorted(events, key=lambda e: Version(next(iter(e.values())))):
            (kind, value), *_ = event.items()
            since = Version(value)
            if kind == "introduced" and at >= since:
                inside = True
            elif (kind == "fixed" and at >= since) or (kind == "last_affected" and at > since):
                inside = False
    except InvalidVersion:  # of another ecosystem's form: better told than left out
        return True
    return inside


def flaws(
    packages: Mapping[str, set[str]], advisories: Iterable[Mapping[str, Any]], also: Mapping[str, str]
) -> Iterator[Flaw]:
    """Advisories that name a pinned version. `also`: under which other name a package's code is known."""
    names: dict[str, list[str]] = {}
    for package in packages:
        for name in {package, also.get(package, package)}:
            names.setdefault(name, []).append(package)
    for advisory in advisories:
        for affected in advisory["affected"]:
            of = affected.get("package", {})
            if of.get("ecosystem") != "PyPI":
                continue
            for package in names.get(canonicalize_name(of.get("name", "")), []):
                for version in sorted(packages[package]):
                    if is_affected(affected, version):
                        said = " ".join(str(advisory.get("summary") or advisory.get("details", "")).split())[:160]
                        yield Flaw(package, version, _plain(str(advisory["id"])), _plain(said))


def _plain(text: str) -> str:
    """Somebody else's text, without what a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def insecure(packages: Mapping[str, set[str]], listed: Mapping[str, Any], also: Mapping[str, str]) -> Iterator[Flaw]:
    """As `flaws`, by Safety DB's list of specifiers."""
    by_name = {canonicalize_name(name): specifiers for name, specifiers in listed.items() if not name.startswith("$")}
    for package, versions in packages.items():
        for name in sorted({package, also.get(package, package)}):
            for specifier in by_name.get(name, []):
                for version in sorted(versions):
                    if SpecifierSet(specifier, prereleases=True).contains(Version(version).public):
                        yield Flaw(package, version, f"{name} {specifier}", "")


def main(arguments: list[str] | None = None) -> int:
    """Print what was looked at and what was found; the exit code is 1 where something is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, action="append", default=[])
    parser.add_argument("--insecure", type=Path, action="append", default=[])
    parser.add_argument("--report", type=Path)
    given = parser.parse_args(arguments)
    rules = yaml.safe_load((HERE / "licences.yaml").read_text())
    known = yaml.safe_load((HERE / "advisories.yaml").read_text())
    packages, unexplained = pinned(), 0

    report = {}
    if given.report:
        for each in json.loads(given.report.read_text())["install"]:
            report[canonicalize_name(each["metadata"]["name"])] = said_of_licence(each["metadata"])
    found = list(licences(packages, rules, report))
    for name, wrong in found:
        if wrong:
            print(f"licence   {name}: {wrong}")
            unexplained += 1
    print(f"licences  {len(found)} packages, {len(rules['exceptions'])} exceptions explained")

    for source in (*given.database, *given.insecure):
        if source in given.database:
            listed, of = list(osv(source)), "advisories"
            seen = list(flaws(packages, listed, known["also"]))
        else:
            listed, of = json.loads(source.read_text()), "packages"
            seen = list(insecure(packages, listed, known["also"]))
        if not listed:
            parser.error(f"{source}: nothing is listed there")
        print(f"database  {source.name}: {len(listed)} {of}, {len(seen)} that name a pinned version")
        for flaw in seen:
            why = known["explained"].get(flaw.name)
            word = "explained" if why else "flaw     "
            print(f"{word} {flaw.package} {flaw.version}: {flaw.name} {why or flaw.summary}")
            unexplained += not why
    if not (given.database or given.insecure):
        print("database  none was given, so that no flaw was looked for: --database FOLDER")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
